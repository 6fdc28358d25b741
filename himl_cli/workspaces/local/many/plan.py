"""Many runs as their keeper gets them: through a pipe with the jobs' variables, and as a file without them, to go on
from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from himl_cli.core.jobs import JobSpec
from himl_cli.core.sweeps import SweepSpec
from himl_cli.workspaces.local.job_form import Form, job_form, job_from_form, job_from_kept_form, kept_form

PIPELINE = "pipeline"
LONGEST_TITLE = 60


@dataclass(frozen=True)
class PlannedJob:
    """The job of a sweep's trials (its `key` is empty), or a step. Its snapshot is laid at `place` in the parent's
    folder.

    `inputs` are the folders of its inputs by key, less those in `takes`, which are outputs of other steps: key of the
    step, key of the output. `datastore` is the folder in which its outputs lie unless they say otherwise.
    """

    spec: JobSpec
    command: str
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


@dataclass(frozen=True)
class Plan:
    """A run whose children are jobs of their own. `kind` is `pipeline`, else what sort of sweep it is. `again`: go on
    with what is there.

    `outputs` are those of a pipeline by name: key of the step, key of its output.
    """

    run_folder: str
    workspace: str
    kind: str
    experiment: str
    display_name: str
    description: str
    tags: Mapping[str, str]
    command: str
    jobs: Sequence[PlannedJob]
    again: bool = False
    outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        return Path(self.run_folder).name

    @property
    def sweep(self) -> SweepSpec:
        """Of a plan that is no pipeline."""
        found = self.jobs[0].spec.sweep
        assert found is not None
        return found

    def to_json(self) -> str:
        return json.dumps(self._form(job_form))

    def kept(self) -> Form:
        """The plan as a file may hold it."""
        return self._form(lambda spec: {**kept_form(spec), "files": list(spec.snapshot.files)})

    def _form(self, form_of: Any) -> Form:
        jobs = [{**_shallow(job), "spec": form_of(job.spec)} for job in self.jobs]
        return {**_shallow(self), "jobs": jobs}

    def laid(self) -> Plan:
        """The plan once its snapshots and what was brought lie in the run's folder: children's files are laid from
        there."""
        folder = Path(self.run_folder)

        def moved(job: PlannedJob) -> PlannedJob:
            spec = job.spec
            snapshot = replace(
                spec.snapshot, root=folder / job.place, files=[*dict.fromkeys((*spec.snapshot.files, *spec.brought))]
            )
            return replace(job, spec=replace(spec, snapshot=snapshot, brought={}))

        return replace(self, jobs=[moved(job) for job in self.jobs])


def plan_from_json(text: str) -> Plan:
    form = json.loads(text)
    return Plan(**{**form, "jobs": [PlannedJob(**{**job, "spec": job_from_form(job["spec"])}) for job in form["jobs"]]})


def plan_from_kept(form: Mapping[str, Any], run_folder: Path, workspace: Path, env: Mapping[str, str]) -> Plan:
    """The plan of a file, to go on with: its jobs have the variables of *env* that they had, and those that none of
    them had."""
    new = set(env) - {name for job in form["jobs"] for name in job["spec"]["env_names"]}

    def planned(job: Form) -> PlannedJob:
        spec = dict(job["spec"])
        spec["snapshot"] = {**spec["snapshot"], "files": spec.pop("files")}
        own = {name: value for name, value in env.items() if name in new or name in spec["env_names"]}
        return PlannedJob(**{**job, "spec": job_from_kept_form(spec, own)})

    jobs = [planned(job) for job in form["jobs"]]
    return Plan(
        **{**form, "run_folder": str(run_folder), "workspace": str(workspace), "jobs": jobs, "again": True}
    ).laid()


def _shallow(record: Plan | PlannedJob) -> Form:
    return {each.name: getattr(record, each.name) for each in fields(record)}
