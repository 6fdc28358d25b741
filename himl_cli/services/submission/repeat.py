"""Another submission of a run's job, in any workspace: its snapshot, program, arguments, options, inputs and
environment, with changes that the user gives."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from himl_cli.core.editables import with_editables
from himl_cli.core.errors import BadUsage, ServiceFailed
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import make_folder
from himl_cli.core.installed import NOT_LISTED, RunEnvironment, environment_of
from himl_cli.core.jobs import HERE, EntryKind, JobOptions, JobSpec, Snapshot, StoredJob, is_job_file
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import MASK, mask_arguments, masked_names
from himl_cli.core.runs import BROUGHT, FROM_RUN, REPEATS, SUBMITTED_TAGS, Run, RunSelection, own_tags
from himl_cli.core.sweeps import GOAL, MANY, NEGATABLE, PRIMARY_METRIC, SWITCHES, TRIALS
from himl_cli.services.runs.lookup import code_changes, find_runs
from himl_cli.services.submission.request import (
    AZURE,
    ENVIRONMENT_SOURCES,
    THIS_MACHINE,
    PreparedJob,
    SubmitRequest,
    untaken_options,
)
from himl_cli.services.submission.script_options import script_options
from himl_cli.services.submission.snapshot import find_snapshot_root
from himl_cli.services.submission.sweeps import KINDS_OF_OPTION, SWEEP_KINDS
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest
from himl_cli.workspaces.base import BlobStore, LocalStore, Workspace

# Options that a repeated run cannot change
OF_SNAPSHOT = ("target", "module", "snapshot_root", "ignored_folders", "include_secret", "in_place", "set_values")
OF_SWEEP = ("max_trials", "max_concurrent", "max_failures", "primary_metric", "goal")
MOST_NAMED = 20  # packages in an error
OPTIONS_BEFORE = ("-m", "--command")  # the target of a submission
_OPTION = re.compile(r"-+[^\W\d]")
_OVERRIDE = re.compile(r"([+~]*[\w./@]+=)")


class _Group(NamedTuple):
    """An option with its values, an override such as `lr=0.1`, or with an empty name one other word."""

    name: str
    words: Sequence[str]
    values: int = 0


@dataclass(frozen=True)
class Repeat:
    """The submission of *run* again: the `request`, its stored job, the folder with its code, and the diff of that
    against its commit."""

    run: Run
    request: SubmitRequest
    stored: JobSpec
    folder: Path
    changes: bytes

    def applied(self, job: PreparedJob) -> PreparedJob:
        """The prepared *job* with those parts of the stored one that no option sets."""
        spec, stored, typed = job.spec, self.stored, self.request.is_typed
        names = [] if self.request.checkpoint else [FROM_RUN, BROUGHT]
        names += [] if spec.sweep or PRIMARY_METRIC in spec.tags else [PRIMARY_METRIC, GOAL]
        kept = {name: self.run.tags[name] for name in names if name in self.run.tags}
        project = Path(stored.snapshot.source)
        if stored.cluster or not project.is_dir():
            project = find_snapshot_root(self.request.cwd)
        tags = {**kept, **spec.tags, REPEATS: self.run.id}
        spec = replace(spec, tags=tags, snapshot=replace(spec.snapshot, project=str(project)))
        if spec.engine and stored.engine and not typed("cluster"):
            given = spec.engine.options if typed("sbatch") or typed("grace") else {}
            spec = replace(spec, engine=replace(stored.engine, options={**stored.engine.options, **given}))
        if not spec.cluster:  # its Python may find the project's present code
            here = replace(spec, snapshot=replace(spec.snapshot, root=project))
            spec = replace(spec, editables=with_editables(here, os.environ)[0].editables)
            if not self.request.checkpoint:
                spec = replace(spec, brought=stored.brought)
        remarks = [text.replace(f"{self.folder}{os.sep}", "") for text in job.remarks]
        return replace(job, spec=spec, report=None, remarks=remarks, changes=self.changes, temporary=self.folder)


def repeated_run(workspace: Workspace, reference: str, request: SubmitRequest, notify: Notify) -> Run:
    """The run *reference*, to be submitted again with the typed options of *request*. Raises RunNotFound, and BadUsage
    for options that do not apply to any run."""
    (run,) = find_runs(workspace, RunSelection(runs=(reference,)), cwd=request.cwd, notify=notify)
    for name in filter(request.is_typed, OF_SNAPSHOT[2:]):
        raise BadUsage(f"--{name} cannot be used with --from, which takes the code of the run.", hint="Omit it.")
    if request.module or (request.target and not (MANY in run.tags and is_job_file(request.target))):
        hint = f"For other arguments: himl submit --from {run.id} -- --NAME VALUE"
        raise BadUsage("--from takes the script of the run, and no other one.", hint=hint)
    return run


def read_repeat(
    workspace: Workspace, run: Run, request: SubmitRequest, folder: Path, notify: Notify, *, only_args: bool
) -> Repeat:
    """The submission of *run* again, with the typed options of *request*. Its arguments replace those of the same name,
    or with *only_args* all. The code is copied to *folder*.

    Raises BadUsage for a run that cannot be repeated, for missing secrets, and for options and arguments that do not
    apply.
    """
    found = workspace.stored_job(run.id)
    code = None if found is None else workspace.code_files(run.id)
    if found is None or code is None:
        raise BadUsage(f"Run '{run.id}' cannot be repeated: {_reason(workspace, run, found)}.", hint=_other_way(run))
    store, names = code
    snapshot = copy_code(store, names, folder, run, notify)
    stored = found.spec
    forms = script_options(folder / stored.entry.target) if stored.entry.kind is EntryKind.script else {}
    arguments = request.arguments
    if not only_args:
        arguments = merged_arguments(stored.arguments, arguments, forms)
    if request.arguments:
        notify(Notice(f"Arguments of the script: {_shown(arguments)}"))
    merged = merged_options(request, run, stored, replace(stored.snapshot, root=folder))
    merged = replace(merged, arguments=arguments, ready_snapshot=snapshot)
    _check_secrets(run, found, merged)
    build = {**merged.build, "command_line": _command_line(merged, stored), **request.build}
    merged = replace(merged, build=build)
    return Repeat(run, merged, stored, folder, code_changes(workspace, run))


def copy_code(store: BlobStore, names: Container[str] | None, folder: Path, run: Run, notify: Notify) -> Snapshot:
    """The files *names* (None: all) of *store*, with code of *run*, in *folder*. Raises ServiceFailed."""
    blobs = [blob for page in store.list() for blob in page if names is None or blob.name in names]
    snapshot = Snapshot(folder, [blob.name for blob in blobs], sum(blob.size for blob in blobs))
    if isinstance(store, LocalStore):
        for name in snapshot.files:
            make_folder((folder / name).parent)
            try:
                copy = shutil.copy2(store.path_of(name) or "", folder / name)
            except FileNotFoundError:  # the run has just ended, and its code moves to the store
                copy = shutil.copy2(store.path_of(name) or "", folder / name)
            os.chmod(copy, os.stat(copy).st_mode | 0o200)  # stored files are read-only
    elif problem := download(store, DownloadRequest(folder), notify, blobs=blobs).problem():
        raise ServiceFailed(f"Cannot read the code of run '{run.id}': {problem}", hint=problem.hint)
    return snapshot


def _reason(workspace: Workspace, run: Run, found: StoredJob | None) -> str:
    if found is not None:
        return "it has no copy of its code"
    if run.tags.get(MANY):
        label = workspace.home_of(run.id).label
        if TRIALS in run.tags:
            return f"it is a sweep of pipelines in {label}, which stores them with their values filled in"
        return f"it is a pipeline in {label}, which does not return its steps"
    return "himl did not start it as a job"


def _other_way(run: Run) -> str:
    words = shlex.split(run.tags.get("command_line", "")) or ["SCRIPT"]
    one = "pipeline" if TRIALS in run.tags else "step"
    step = f"To repeat one {one}, name its run. " if run.tags.get(MANY) else ""
    return f"{step}To submit the present code: himl submit {shlex.join(words[: 1 + (words[0] in OPTIONS_BEFORE)])}"


def merged_options(request: SubmitRequest, run: Run, stored: JobSpec, snapshot: Snapshot) -> SubmitRequest:
    """The options of *stored*, without those that *request* sets on the command line."""
    origin = AZURE if stored.cluster else stored.engine.name if stored.engine else THIS_MACHINE
    ignored = {*untaken_options(origin), "keep" if stored.cluster else ""}
    options: dict[str, Any] = {each.name: getattr(stored, each.name) for each in fields(JobOptions)}
    is_many = stored.nodes * (stored.processes or 1) > 1
    options |= {
        "num_nodes": stored.nodes,
        "processes_per_node": stored.processes if is_many or not stored.cluster else None,
        "distribution": (stored.distribution or None) if is_many else None,
        "no_mpi_single_node": not stored.distribution,
        "max_run_duration": f"{stored.max_seconds:g}s" if stored.max_seconds else None,
        "experiment": stored.experiment,
        "inputs": stored.inputs,
        "outputs": stored.outputs,
        "takes_slot": bool(stored.slots),
        "ready_sweep": stored.sweep,
        "checkpoint": None,
    }
    place = (
        "" if stored.engine is None else stored.engine.options.get("place") or stored.engine.options.get("partition")
    )
    options["cluster"] = stored.cluster or (f"{origin}:{place or ''}" if stored.engine else HERE)
    options = {name: value for name, value in options.items() if name not in ignored and not request.is_typed(name)}
    if any(map(request.is_typed, SWEEP_KINDS)):
        options["ready_sweep"] = None
    elif stored.sweep is not None:
        changes = {name: getattr(request, name) for name in OF_SWEEP if request.is_typed(name)}
        wrong = next((name for name in KINDS_OF_OPTION if request.is_typed(name) and name not in changes), "")
        if wrong:
            raise BadUsage(f"--{wrong} needs --{KINDS_OF_OPTION[wrong][0]}.", hint="Add it, or omit both.")
        options["ready_sweep"] = replace(stored.sweep, **changes)
    targets = {EntryKind.module: "module", EntryKind.command: "command"}
    kind, target = targets.get(stored.entry.kind, "target"), stored.entry.target
    options[kind] = request.command or str(snapshot.root / target if kind == "target" else target)
    if request.command and kind != "command":
        raise BadUsage("--command cannot be used with --from, as the run has a script.", hint="Omit it.")
    merged = replace(request, **options, snapshot_root=str(snapshot.root))
    submitted = {name: value for name, value in run.tags.items() if name.startswith(SUBMITTED_TAGS[0])}
    merged = replace(
        merged,
        tags={**own_tags(replace(run, tags=stored.tags)), **request.tags},
        env_vars={**stored.env, **request.env_vars},
        build={**submitted, **request.build},
    )
    return _with_environment(merged, stored)


def _with_environment(request: SubmitRequest, stored: JobSpec) -> SubmitRequest:
    """*request* with the interpreter or the environment of *stored*, unless options choose another one. Raises BadUsage
    for an environment with a masked secret."""
    sources = [name for group in ENVIRONMENT_SOURCES for name in group]
    if request.on_azure and (found := stored.environment) and not any(map(request.is_typed, sources)):
        if MASK in f"{found.conda}{found.image}":
            what = "himl does not store secrets in addresses of the environment."
            raise BadUsage(what, hint="Name its file again: --requirements FILE, or --conda_env FILE")
        request = request.without(*sources)
        if not found.name:
            return replace(request, ready_environment=found)
        return replace(request, environment=f"{found.name}:{found.version}" if found.version else found.name)
    if not request.on_azure and not request.is_typed("python") and os.path.isfile(stored.python):
        return replace(request, python=stored.python)
    return request


def _command_line(request: SubmitRequest, stored: JobSpec) -> str:
    """The command line of the job, as the user would have typed it, with secrets masked."""
    kinds = {EntryKind.module: ["-m"], EntryKind.command: ["--command"]}
    target = mask_arguments([request.command]) if request.command else [stored.entry.target]
    return shlex.join([*kinds.get(stored.entry.kind, []), *target, *mask_arguments(request.arguments)])


def _check_secrets(run: Run, found: StoredJob, request: SubmitRequest) -> None:
    """Raise BadUsage for secrets that himl does not store and that the user did not give again."""
    masked = [*masked_names(request.arguments), *(["the command line"] if MASK in (request.command or "") else [])]
    if masked:
        values = [word for name in masked if name.startswith("-") for word in (name, "VALUE")]
        line = [] if not (request.command and MASK in request.command) else ["--command", request.command]
        words = ["himl", "submit", "--from", run.id, *line, *(["--", *values] if values else [])]
        raise BadUsage(
            f"himl does not store values of run '{run.id}' that look like secrets: {', '.join(masked)}.",
            hint=f"Give them again: {shlex.join(words).replace(MASK, 'VALUE')}",
        )
    if missing := sorted({*found.missing} - {*request.env_vars}):
        raise missing_variables(run, missing)


def missing_variables(run: Run, names: Sequence[str]) -> BadUsage:
    return BadUsage(
        f"himl does not store the values of the environment variables of run '{run.id}': {', '.join(names)}.",
        hint=f"Set them again: {' '.join(f'--env_var {name}=…' for name in names)}",
    )


def merged_arguments(old: Sequence[str], new: Sequence[str], forms: Mapping[str, str]) -> list[str]:
    """The arguments *old* of a script, with those *new* in place of the ones of the same name, or at the end. *forms*
    are the script's options, as of `script_options`. Raises BadUsage for words without a name, and for an option with
    an unknown number of values."""
    given, found, placed = [*_groups(new, forms)], list[str](), set[str]()
    by_name: dict[str, list[_Group]] = {}
    for group in given:
        by_name.setdefault(group.name, []).append(group)
    if "" in by_name:
        word = by_name[""][0].words[0]
        raise BadUsage(
            f"The argument '{word}' has no name, so himl cannot replace one by it.",
            hint="Give all arguments, with --only_args before the --.",
        )
    for group in _groups(old, forms):
        if group.name not in by_name or not group.name:
            found += group.words
            continue
        others = by_name[group.name]
        if group.name.lstrip("-") not in forms and any(group.values != each.values for each in others):
            raise BadUsage(
                f"himl cannot determine how many values {group.name} has in '{_shown(group.words)}'.",
                hint="Give all arguments, with --only_args before the --.",
            )
        if group.name not in placed:
            found += [word for each in others for word in each.words]
        placed.add(group.name)
    return [*found, *(word for group in given if group.name not in placed for word in group.words)]


def _shown(words: Sequence[str]) -> str:
    return shlex.join(mask_arguments(words))


def _groups(words: Sequence[str], forms: Mapping[str, str]) -> Iterator[_Group]:
    place = 0
    while place < len(words):
        word, begin = words[place], place
        place += 1
        if word == "--":
            yield from (_Group("", [each]) for each in words[begin:])
            return
        if not _OPTION.match(word):
            override = _OVERRIDE.match(word)
            yield _Group(override[1] if override else "", [word], 1)
            continue
        name, equals, _ = word.partition("=")
        if forms.get(name.removeprefix("--no-")) == NEGATABLE:
            name = f"--{name.removeprefix('--no-')}"
        form = forms.get(name.lstrip("-"))
        most = 0 if equals or form in SWITCHES else 1 if form == "" else len(words)
        while place < len(words) and place - begin <= most and words[place] != "--" and not _OPTION.match(words[place]):
            place += 1
        yield _Group(name, words[begin:place], place - begin - 1 + bool(equals))


def check_same_environment(workspace: Workspace, run: Run, spec: JobSpec) -> None:
    """Raise BadUsage, naming the packages, if those of the job *spec* differ from those of *run*, or if either are
    unknown. The same registered environment on Azure ML has the same packages."""
    old, chosen = workspace.environment(run.id), spec.environment
    if spec.cluster and old and chosen and chosen.name.endswith("/versions/".join(old.name.split(":"))):
        return
    path = spec.env.get("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    new = RunEnvironment(problem=NOT_LISTED) if spec.cluster else environment_of(spec.python, path)
    for each in (old or RunEnvironment(problem="they are not on record"), new):
        if each.packages is None:
            raise BadUsage(f"--same_environment: the packages are unknown: {each.problem}.", hint="Omit it.")
    first, second = ({"python": each.version, **(each.packages or {})} for each in (old or new, new))
    names = [name for name in {*first, *second} if first.get(name) != second.get(name)]
    names.sort(key=lambda name: (name != "python", name))
    if names:
        changes = [f"{name} {first.get(name, 'missing')} -> {second.get(name, 'missing')}" for name in names]
        more = f" and {len(changes) - MOST_NAMED} more" if len(changes) > MOST_NAMED else ""
        named = f"{', '.join(changes[:MOST_NAMED])}{more}"
        raise BadUsage(
            f"--same_environment: packages differ from those of run '{run.id}': {named}.",
            hint=f"Install its packages: himl runs show {run.id} --environment, or omit --same_environment.",
        )
