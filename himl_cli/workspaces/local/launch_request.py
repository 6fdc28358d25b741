"""The request for the process that supervises a run: one JSON document for a job, a sweep or a pipeline. It is sent
through a pipe, so that no file holds its environment variables. The form that is stored with the run has no secrets.

Also the view of a job's script, as on Azure ML as far as that makes sense: the folders of its inputs and outputs, its
command line, its environment variables.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from himl_cli import __version__
from himl_cli.core.documents import Document, from_document, to_document
from himl_cli.core.errors import BadUsage, JobFailed, NotFound
from himl_cli.core.files import is_same_place
from himl_cli.core.jobs import (
    DataSpec,
    EntryKind,
    JobSpec,
    check_placeholders,
    input_targets,
)
from himl_cli.core.ports import free_port
from himl_cli.core.processes import JOB_FOLDER
from himl_cli.core.ranks import RANK_NAMES
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import mask_arguments, mask_document, mask_line, redact, with_given
from himl_cli.core.runs import Run
from himl_cli.core.sweeps import (
    MANY,
    PLACEHOLDER,
    SweepSpec,
    fill_command,
    sweep_tags,
    variable_name,
)
from himl_cli.core.webhook import DUE, NOTIFICATION

if TYPE_CHECKING:
    from himl_cli.core.events import Notify

Made = TypeVar("Made")

PROGRAMS = {EntryKind.script: ["python"], EntryKind.module: ["python", "-m"], EntryKind.shell: ["bash"]}
PIPELINE = "pipeline"
LONGEST_TITLE = 60
LONGEST_KEY = 30  # in the id of a step's run, since file names are limited to 255 bytes
RUN_NAME = "${{name}}"  # placeholder of the run's id in the name of an output, as on Azure ML
RANK = "{rank}"
TRY_VARIABLE = "HIML_TRY"  # the number of the attempt, from 1
WITHOUT_GPUS = {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "none"}
OF_OTHER_JOBS = ("AZURE_ML_INPUT_", "AZURE_ML_OUTPUT_", "AZUREML_SWEEP_", "HIML_SUBMIT_")
# Patterns for command lines only. They are compiled on use, since most jobs are scripts.
_PYTHON = r"^\s*python3?(?=\s)"
_SPECIAL = r"[\\'\"`$&|;<>(){}*?\[\]~#!\n]"


@dataclass(frozen=True)
class LaunchRequest:
    """A job with the folders of its inputs and outputs (absolute, by key), and its command as recorded.

    `stdin` is the stdin of the job's first rank: the name of a terminal, the number of a file handle that the
    supervisor inherits, or '' for none. `again`: the run is resumed. `values` are a trial's hyperparameters, which himl
    logs as parameters unless the script does.
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
        return json.dumps(to_document(self) | {"himl": __version__})

    @property
    def nodes(self) -> int:
        """The number of nodes of the job, which is 1 except in the queue of an engine."""
        return self.spec.nodes if self.spec.engine else 1

    @property
    def rank_count(self) -> int | None:
        """The number of ranks of the job on all nodes, None for a job without ranks."""
        return None if self.spec.processes is None else self.spec.processes * self.nodes

    @property
    def specs(self) -> Sequence[JobSpec]:
        return [self.spec]

    def with_specs(self, specs: Sequence[JobSpec]) -> LaunchRequest:
        return replace(self, spec=specs[0])

    @property
    def run(self) -> Run:
        """The record of the job's run."""
        spec = self.spec
        return Run(
            Path(self.run_folder).name,
            spec.experiment,
            display_name=spec.display_name,
            description=spec.description,
            tags={**spec.tags, **_notification(spec)},
            parent=spec.parent or None,
            command=self.command,
        )


def request_from_json(text: str) -> LaunchRequest:
    """The request of `to_json`. Raises HimlError for one of another version that this one cannot read."""
    return _read(text, LaunchRequest)


def _read(text: str, record: type[Made]) -> Made:
    """The *record* of the JSON object *text*. Raises JobFailed for fields that are missing or have another form."""
    form: Document = json.loads(text)
    try:
        return from_document(record, form)
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        writer = form.get("himl", "of another version")
        raise JobFailed(
            f"himl {__version__} cannot read the request of himl {writer} ({type(err).__name__}: {err})",
            hint="Submit the job again.",
        ) from err


@dataclass(frozen=True)
class PlannedJob:
    """The job of a sweep's trials (with an empty `key`), or a step. Its snapshot is staged at `place` in the folder of
    the parent run.

    `inputs` are the folders of its inputs by key, without those in `takes`, which are outputs of other steps: key of
    the step, key of the output. `datastore` is the default folder of its outputs.
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
        """The name of the step in messages."""
        name = " ".join("".join(each if each.isprintable() else " " for each in self.name).split())
        name = name if len(name) <= LONGEST_TITLE else f"{name[: LONGEST_TITLE - 1]}…"
        return f"step '{self.key}'" if name in ("", self.key) else f"step '{name}' ({self.key})"


@dataclass(frozen=True)
class Plan:
    """A run with separate jobs as children. `kind` is `pipeline` or the kind of sweep. `again`: it is resumed.

    `outputs` are the outputs of a pipeline by name: key of the step, key of its output. The files of a pipeline that is
    a trial are in the folder of its sweep, `staged_in`.
    """

    run_folder: str
    kind: str
    run: Run
    jobs: Sequence[PlannedJob]
    again: bool = False
    outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    staged_in: str = ""

    @property
    def spec(self) -> JobSpec:
        """The first job. All have the same engine, webhook and sweep."""
        return self.jobs[0].spec

    @property
    def specs(self) -> Sequence[JobSpec]:
        return [job.spec for job in self.jobs]

    def with_specs(self, specs: Sequence[JobSpec]) -> Plan:
        return replace(self, jobs=[replace(job, spec=spec) for job, spec in zip(self.jobs, specs, strict=True)])

    @property
    def places(self) -> Sequence[Path]:
        """The folder of each job's staged files."""
        return [Path(self.staged_in or self.run_folder, job.place) for job in self.jobs]

    @property
    def new_run(self) -> Run:
        """The record of the parent run."""
        facts = {MANY: self.kind, **_notification(self.spec)}
        if self.kind != PIPELINE:
            facts |= sweep_tags(self.sweep)
        return replace(self.run, tags={**self.run.tags, **facts})

    @property
    def has_steps(self) -> bool:
        """Whether it is a pipeline, or a sweep of pipelines."""
        return bool(self.jobs[0].key)

    @property
    def sweep(self) -> SweepSpec:
        """The sweep of a plan that is not a pipeline."""
        assert self.spec.sweep is not None
        return self.spec.sweep

    def child_id(self, child: int | PlannedJob) -> str:
        """The id of the run of a trial, given its number, or of a step."""
        if isinstance(child, int):
            return f"{self.run.id}_{child}"
        key = child.key if len(child.key) <= LONGEST_KEY else f"{child.key[:LONGEST_KEY]}_{self.jobs.index(child)}"
        return f"{self.run.id}_{key}"

    def to_json(self) -> str:
        return json.dumps(to_document(self) | {"himl": __version__})

    def stored(self) -> Document:
        """The plan without secrets, to be stored in a file."""
        jobs = [to_document(job) | {"spec": stored_form(job.spec, job.spec.snapshot.files)} for job in self.jobs]
        return to_document(self) | {"jobs": jobs}

    def staged(self) -> Plan:
        """The plan after the jobs' files were staged in the run's folder, the source for the files of the children."""
        specs = []
        for spec, place in zip(self.specs, self.places, strict=True):
            old, files = spec.snapshot, [*dict.fromkeys((*spec.snapshot.files, *spec.brought))]
            snapshot = replace(old, root=place, files=files, project=old.source)
            specs.append(replace(spec, snapshot=snapshot, brought={}))
        return self.with_specs(specs)


def plan_from_json(text: str) -> Plan:
    """As `request_from_json`."""
    return _read(text, Plan)


def plan_from_stored(form: Document, run_folder: Path, env: Mapping[str, str]) -> Plan:
    """The stored plan, to resume it. Each job gets those variables of *env* that it had, and those that are new."""
    new = set(env) - {name for job in form["jobs"] for name in job["spec"]["env_names"]}
    jobs = []
    for job in form["jobs"]:
        own = {name: value for name, value in env.items() if name in new or name in job["spec"]["env_names"]}
        jobs.append({**job, "spec": {**job["spec"], "env": own}})
    plan = from_document(Plan, {**form, "jobs": jobs})
    return replace(plan, run_folder=str(run_folder), again=True).staged()


def shown_command(spec: JobSpec) -> str:
    """The command line of the job for display, with secrets masked."""
    if spec.entry.kind is EntryKind.command:
        return " ".join([mask_line(spec.entry.target), *map(shlex.quote, mask_arguments(spec.arguments))])
    return shlex.join([*PROGRAMS[spec.entry.kind], spec.entry.target, *mask_arguments(spec.arguments)])


def stored_form(spec: JobSpec, files: Sequence[str]) -> Document:
    """The job to be stored in a file: variables by name only, and arguments with masked secrets (`has_secrets` if there
    are any). *files* are the files of its snapshot."""
    shown = mask_arguments(spec.arguments)
    target = mask_line(spec.entry.target) if spec.entry.kind is EntryKind.command else spec.entry.target
    has_secrets = shown != list(spec.arguments) or target != spec.entry.target
    snapshot, entry = replace(spec.snapshot, files=files), replace(spec.entry, target=target)
    masked = replace(spec, arguments=shown, entry=entry, env={}, snapshot=snapshot, webhook=None, docker_args=())
    stated = mask_document(to_document(spec.environment)) if spec.environment is not None else None
    return {**to_document(masked), "environment": stated, "env_names": sorted(spec.env), "has_secrets": has_secrets}


def with_secrets(form: Document, given: tuple[str, Sequence[str]] | None) -> Document:
    """The stored form of a job, with the command line and the arguments *given* in place of those in which secrets are
    masked."""
    entry = form["entry"]
    command, arguments = with_given(entry["target"], form["arguments"], given or ("", ()))
    return {**form, "arguments": arguments, "entry": {**entry, "target": command}}


def job_from_stored_form(form: Document, env: Mapping[str, str]) -> JobSpec:
    """The job of a stored form, with the variables of *env*."""
    return from_document(JobSpec, {**form, "env": env})


def _notification(spec: JobSpec) -> dict[str, str]:
    """The tag of a run with a webhook in *spec*. A child run has none, since its parent run has it."""
    return {NOTIFICATION: f"{DUE}: {spec.webhook.host}"} if spec.webhook and not spec.parent else {}


def resolve_folders(spec: JobSpec, default: Path, run_id: str, notify: Notify) -> tuple[dict[str, str], dict[str, str]]:
    """The folders of the job's inputs, and of its outputs for the run *run_id*, by key. Creates nothing. *default* is
    the folder of the default datastore.

    Raises NotFound for a missing input, BadUsage for an output that must not exist, and for a placeholder that is
    unknown or cannot be filled in.
    """
    from himl_cli.core.events import Notice  # the supervisor starts faster without this import

    inputs, linked = {}, linked_inputs(spec)
    for item in spec.inputs:
        inputs[item.key] = folder = str(_input_folder(item, default))
        if item.local is None and item.version is not None:
            notify(Notice(f"Input '{item.key}': local folders have no versions, so himl ignores ':{item.version}'."))
        is_ignored = item.target is not None and item.key not in linked
        if is_ignored and not is_same_place(spec.snapshot.root / str(item.target), folder):
            where = "for a job in place" if spec.in_place else "outside of the folder of a local job"
            text = f"himl makes no link {where}, and ignores 'target={item.target}'"
            notify(Notice(f"Input '{item.key}': {text}. The local folder is '{folder}'."))
    outputs = {item.key: str(output_folder(item, default, run_id)) for item in spec.outputs}
    check_placeholders(spec)
    if spec.entry.kind is EntryKind.command:
        fill_command(spec.entry.target, {"inputs": inputs, "outputs": outputs})
    return inputs, outputs


def _input_folder(item: DataSpec, default: Path) -> Path:
    if item.local is not None:
        folder = Path(item.local).absolute()
        if not folder.exists():
            raise NotFound(f"Input '{item.key}': '{item.local}' does not exist.")
    else:
        folder = datastore_folder(item, default)
        if not folder.exists():
            if item.is_address:
                raise NotFound(
                    f"Input '{item.key}': '{redact(item.name)}' is not available without the Azure ML workspace.",
                    hint=f"Configure the workspace, or name a local folder: --input {item.key}=NAME,local=FOLDER",
                )
            local = item.name if Path(item.name).exists() else "FOLDER"
            named = item.name if re.fullmatch(r"INPUT_\d+", item.key) else f"{item.key}={item.name}"
            raise NotFound(
                f"--input {named}: no dataset or folder '{item.name}' in the local datastore '{folder.parent}'.",
                hint=f"Upload the data ('himl datastore upload {local} {item.name}'), or name a local folder: --input "
                f"{named},local={local}",
            )
    return folder


def linked_inputs(spec: JobSpec) -> dict[str, str]:
    """The inputs that are links in the folder of a local job: paths in it, by key. Raises BadUsage as
    `input_targets`."""
    targets = {} if spec.in_place else input_targets(spec)
    return {key: target for key, target in targets.items() if not target.startswith(("/", "../"))}


def output_folder(item: DataSpec, default: Path, run_id: str) -> Path:
    """The folder of an output of the run *run_id*, which need not exist. `${{name}}` in its name is the run's id. The
    default name is that of Azure ML, which is unique per run. Raises BadUsage for a file, and for a folder that must
    not exist."""
    if item.local is not None:
        folder = Path(item.local.replace(RUN_NAME, run_id)).absolute()
    else:
        name = item.name or f"azureml/{RUN_NAME}/{item.key}"
        folder = datastore_folder(replace(item, name=name.replace(RUN_NAME, run_id)), default)
    if folder.is_file():
        raise BadUsage(f"Output '{item.key}': '{folder}' is a file.", hint="Name a folder.")
    if not item.overwrite and folder.exists():
        raise BadUsage(
            f"Output '{item.key}': '{folder}' exists, and the output has overwrite=false.",
            hint="Choose another name, or omit overwrite=false.",
        )
    return folder


def datastore_folder(item: DataSpec, default: Path) -> Path:
    """The folder NAME in the named datastore, or in the default one if the local workspace lacks it. Raises BadUsage
    for names of other places."""
    if item.datastore and (item.datastore in (".", "..") or set(item.datastore) & set("/\\:")):
        hint = "Local datastores are the folders in '.himl/datastores'. To use a path: local=PATH"
        raise BadUsage(f"Invalid name of a datastore: '{item.datastore}'.", hint=hint)
    if ".." in Path(item.name).parts or Path(item.name).is_absolute():
        hint = "Name a folder inside the datastore, or use a path: local=PATH"
        raise BadUsage(f"'{item.name}' is outside the datastore.", hint=hint)
    named = default.parent / item.datastore if item.datastore else default
    return (named if named.is_dir() else default) / item.name


def job_environment(request: LaunchRequest, base: Mapping[str, str], cwd: Path) -> dict[str, str]:
    """The variables that all ranks share: *base* (the user's, without those of a job that himl itself may run in), the
    names of the run, its data folders, and *cwd*, where the script starts."""
    spec, run_id = request.spec, Path(request.run_folder).name
    env = {name: value for name, value in base.items() if name not in RANK_NAMES and not name.startswith(OF_OTHER_JOBS)}
    folder = os.path.dirname(spec.python)
    if folder and folder not in env.get("PATH", "").split(os.pathsep)[:1]:
        env["PATH"] = os.pathsep.join([folder, env["PATH"]]) if env.get("PATH") else folder
    return {
        **env,
        **{f"AZURE_ML_INPUT_{key}": path for key, path in request.inputs.items()},
        **{f"AZURE_ML_OUTPUT_{key}": path for key, path in request.outputs.items()},
        **{f"AZUREML_SWEEP_{variable_name(name)}": value for name, value in request.values.items()},
        "AZUREML_RUN_ID": run_id,
        "AZUREML_ROOT_RUN_ID": spec.parent or run_id,
        "AZUREML_ARM_PROJECT_NAME": spec.experiment,
        "HIML_RUN_FOLDER": request.run_folder,  # the functions that log values find the workspace by it
        JOB_FOLDER: str(cwd),
        "PWD": str(cwd),  # that of the user's shell is the project
        "PYTHONUNBUFFERED": "1",  # a followed log must show lines as they are printed
    }


def rank_environments(request: LaunchRequest) -> list[dict[str, str]]:
    """The variables of each rank, by the rules of PyTorch's or MPI's launchers. None for a job without ranks."""
    count = request.spec.processes
    if count is None:
        return [{}]
    shared = rank_variables(request, "127.0.0.1", "0")
    return [{name: text.replace(RANK, str(number)) for name, text in shared.items()} for number in range(count)]


def rank_variables(request: LaunchRequest, address: str, node: str, rank: str = RANK, local: str = RANK) -> Document:
    port = free_port(address if address[0].isdigit() else "")
    size, of_node = str(request.rank_count), str(request.spec.processes)
    found = {"WORLD_SIZE": size, "MASTER_ADDR": address, "MASTER_PORT": str(port), "RANK": rank, "LOCAL_RANK": local}
    if request.spec.distribution == "mpi":
        found |= {"OMPI_COMM_WORLD_RANK": rank, "OMPI_COMM_WORLD_LOCAL_RANK": local}
        return {**found, "OMPI_COMM_WORLD_SIZE": size, "OMPI_COMM_WORLD_LOCAL_SIZE": of_node}
    return {**found, "NODE_RANK": node, "LOCAL_WORLD_SIZE": of_node}


def job_command(request: LaunchRequest) -> list[str]:
    """The program and its arguments, with placeholders filled in. Raises BadUsage as `fill_command`."""
    entry, python = request.spec.entry, request.spec.python
    run_with = shlex.split(request.spec.words_before)
    shell = "bash" if run_with else find_shell()  # a container may have another one
    folders = {"inputs": request.inputs, "outputs": request.outputs}
    arguments = [
        PLACEHOLDER.sub(lambda found: folders[found[1]].get(found[2], found[0]), text)
        for text in request.spec.arguments
    ]
    if entry.kind is EntryKind.command:
        line = fill_command(entry.target, folders)
        if python:
            line = re.sub(_PYTHON, lambda _: shlex.quote(python), line)
        if shell is None:
            return [*shlex.split(line), *arguments]
        return [*run_with, shell, "-c", " ".join([line, *map(shlex.quote, arguments)])]
    # The interpreter must not parse the script's name as an option
    target = f"./{entry.target}" if entry.target.startswith("-") else entry.target
    if entry.kind is EntryKind.module:
        return [*run_with, python, "-m", target, *arguments]
    return [*run_with, shell or "bash" if entry.kind is EntryKind.shell else python, target, *arguments]


def check_shell(spec: JobSpec) -> None:
    """Raise NotFound if bash is missing and the job is a command line that needs it, since it has more than words and
    quotes."""
    if spec.entry.kind is not EntryKind.command or find_shell() is not None:
        return
    line = spec.entry.target
    if "=" in line.split()[0] or re.search(_SPECIAL, re.sub(r"'[^']*'|\"[^\"$`\\]*\"", "", line)):
        raise NotFound(
            "The job is a command line for bash, which is not installed on this machine.",
            hint="Install bash, or run the job on a cluster: --cluster NAME",
        )


def find_shell() -> str | None:
    """The program that runs `.sh` scripts: bash as on Azure ML, or sh if bash is missing."""
    return shutil.which("bash") or (None if sys.platform == "win32" else shutil.which("sh"))
