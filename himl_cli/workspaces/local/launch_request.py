"""What the process that looks after a run is told: of a job, a sweep or a pipeline one JSON document through a pipe, so
that no file holds its variables; and the same as it is stored beside the run, where it must not hold secrets."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from himl_cli.core.jobs import DataSpec, Entry, EntryKind, JobSpec, Snapshot
from himl_cli.core.redaction import mask_arguments, mask_line
from himl_cli.core.runs import Run
from himl_cli.core.sweeps import Draw, EarlyStop, SearchRange, SweepSpec

Form = dict[str, Any]

PROGRAMS = {EntryKind.script: ["python"], EntryKind.module: ["python", "-m"], EntryKind.shell: ["bash"]}
PIPELINE = "pipeline"
LONGEST_TITLE = 60
LONGEST_KEY = 30  # in the id of a step's run: names of files end at 255 bytes


@dataclass(frozen=True)
class LaunchRequest:
    """A job with the folders that its inputs and outputs resolve to (absolute, by key), and its command as the record
    shows it.

    `stdin` is what the job reads: a terminal by its name, or by its number a file handle that the supervisor inherits,
    for the first rank alone; '' means that there is nothing to read. `again`: the run is resumed. `values` are those of
    a trial's hyperparameters: logged as parameters unless its script logs them itself.
    """

    run_folder: str
    spec: JobSpec
    command: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    stdin: str = ""
    again: bool = False
    values: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(_shallow(self) | {"spec": _job_form(self.spec)})


def request_from_json(text: str) -> LaunchRequest:
    form: Form = json.loads(text)
    return LaunchRequest(**{**form, "spec": _job_from_form(form["spec"])})


@dataclass(frozen=True)
class PlannedJob:
    """The job of a sweep's trials (its `key` is empty), or a step. Its snapshot is staged at `place` in the parent's
    folder.

    `inputs` are the folders of its inputs by key, less those in `takes`, which are outputs of other steps: key of the
    step, key of the output. `datastore` is the folder in which its outputs lie unless they say otherwise.
    """

    spec: JobSpec
    datastore: str
    inputs: Mapping[str, str]
    place: str
    key: str = ""
    name: str = ""
    takes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    after: Sequence[str] = ()

    @property
    def title(self) -> str:
        """The step as messages name it."""
        name = " ".join("".join(each if each.isprintable() else " " for each in self.name).split())
        name = name if len(name) <= LONGEST_TITLE else f"{name[: LONGEST_TITLE - 1]}…"
        return f"step '{self.key}'" if name in ("", self.key) else f"step '{name}' ({self.key})"


# What counts of a run that is to begin
NEW_RUN = ("id", "experiment", "display_name", "description", "tags", "parent", "command")


@dataclass(frozen=True)
class Plan:
    """A run whose children are jobs of their own. `kind` is `pipeline`, else what sort of sweep it is. `again`: it is
    resumed.

    `outputs` are those of a pipeline by name: key of the step, key of its output.
    """

    run_folder: str
    kind: str
    run: Run
    jobs: Sequence[PlannedJob]
    again: bool = False
    outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def sweep(self) -> SweepSpec:
        """Of a plan that is no pipeline."""
        found = self.jobs[0].spec.sweep
        assert found is not None
        return found

    def child_id(self, child: int | PlannedJob) -> str:
        """The run of a trial, by its number, or of a step."""
        if isinstance(child, int):
            return f"{self.run.id}_{child}"
        key = child.key if len(child.key) <= LONGEST_KEY else f"{child.key[:LONGEST_KEY]}_{self.jobs.index(child)}"
        return f"{self.run.id}_{key}"

    def to_json(self) -> str:
        return json.dumps(self._form(_job_form))

    def stored(self) -> Form:
        """The plan as a file may hold it."""
        return self._form(lambda spec: stored_form(spec, spec.snapshot.files))

    def _form(self, form_of: Callable[[JobSpec], Form]) -> Form:
        jobs = [_shallow(job) | {"spec": form_of(job.spec)} for job in self.jobs]
        return _shallow(self) | {"run": {name: getattr(self.run, name) for name in NEW_RUN}, "jobs": jobs}

    def staged(self) -> Plan:
        """The plan once the jobs' files lie in the run's folder: children's files are staged from there."""
        jobs = []
        for job in self.jobs:
            files = [*dict.fromkeys((*job.spec.snapshot.files, *job.spec.brought))]
            snapshot = replace(job.spec.snapshot, root=Path(self.run_folder) / job.place, files=files)
            jobs.append(replace(job, spec=replace(job.spec, snapshot=snapshot, brought={})))
        return replace(self, jobs=jobs)


def plan_from_json(text: str) -> Plan:
    return _plan_from_form(json.loads(text), _job_from_form)


def plan_from_stored(form: Form, run_folder: Path, env: Mapping[str, str]) -> Plan:
    """The plan of a file, to resume: its jobs have the variables of *env* that they had, and those that none of them
    had."""
    new = set(env) - {name for job in form["jobs"] for name in job["spec"]["env_names"]}

    def job_of(spec: Form) -> JobSpec:
        own = {name: value for name, value in env.items() if name in new or name in spec["env_names"]}
        return job_from_stored_form(spec, own)

    return replace(_plan_from_form(form, job_of), run_folder=str(run_folder), again=True).staged()


def _plan_from_form(form: Form, job_of: Callable[[Form], JobSpec]) -> Plan:
    jobs = [PlannedJob(**{**job, "spec": job_of(job["spec"])}) for job in form["jobs"]]
    return Plan(**{**form, "run": Run(**form["run"]), "jobs": jobs})


def shown_command(spec: JobSpec) -> str:
    """The command line of the job as people read it, secrets masked."""
    if spec.entry.kind is EntryKind.command:
        return " ".join([mask_line(spec.entry.target), *map(shlex.quote, mask_arguments(spec.arguments))])
    return shlex.join([*PROGRAMS[spec.entry.kind], spec.entry.target, *mask_arguments(spec.arguments)])


def stored_form(spec: JobSpec, files: Sequence[str] = ()) -> Form:
    """The job as a file may hold it: variables by name only, secrets among the arguments masked (`has_secrets` where
    there are any). *files* are those of its snapshot; by default none, since they are staged once."""
    shown = mask_arguments(spec.arguments)
    target = mask_line(spec.entry.target) if spec.entry.kind is EntryKind.command else spec.entry.target
    has_secrets = shown != list(spec.arguments) or target != spec.entry.target
    snapshot, entry = replace(spec.snapshot, files=files), replace(spec.entry, target=target)
    masked = replace(spec, arguments=shown, entry=entry, env={}, snapshot=snapshot)
    return {**_job_form(masked), "env_names": sorted(spec.env), "has_secrets": has_secrets}


def job_from_stored_form(form: Form, env: Mapping[str, str]) -> JobSpec:
    """The job of a form that was stored, with the variables of *env*."""
    known = {name: value for name, value in form.items() if name not in ("env_names", "has_secrets")}
    return _job_from_form({**known, "env": dict(env)})


def _shallow(record: Any) -> Form:
    return {each.name: getattr(record, each.name) for each in fields(record)}


def _job_form(spec: JobSpec) -> Form:
    """All of the job that counts on this machine; what is for clusters only is left out."""
    snapshot = {"root": str(spec.snapshot.root), "files": list(spec.snapshot.files), "size": spec.snapshot.size}
    return {
        **_shallow(spec),
        "entry": {"kind": spec.entry.kind.value, "target": spec.entry.target},
        "snapshot": snapshot,
        "arguments": list(spec.arguments),
        "sweep": asdict(spec.sweep) if spec.sweep else None,
        **{name: [asdict(item) for item in getattr(spec, name)] for name in ("inputs", "outputs")},
        **{name: dict(getattr(spec, name)) for name in ("env", "tags", "brought")},
        "docker_args": [],
        "environment": None,
    }


def _job_from_form(form: Form) -> JobSpec:
    snapshot, sweep = form["snapshot"], form["sweep"]
    if sweep:
        space = {name: SearchRange(Draw(found["draw"]), found["values"]) for name, found in sweep["space"].items()}
        early_stop = EarlyStop(**sweep["early_stop"]) if sweep["early_stop"] else None
        sweep = SweepSpec(**{**sweep, "space": space, "early_stop": early_stop})
    parts: Form = {
        "entry": Entry(EntryKind(form["entry"]["kind"]), form["entry"]["target"]),
        "snapshot": Snapshot(Path(snapshot["root"]), snapshot["files"], snapshot["size"]),
        "inputs": [DataSpec(**item) for item in form["inputs"]],
        "outputs": [DataSpec(**item) for item in form["outputs"]],
        "sweep": sweep or None,
    }
    return JobSpec(**{**form, **parts})
