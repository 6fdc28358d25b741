"""Jobs as the user specified them: the program, its files, environment variables, clusters and names, and pipelines of
jobs."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from enum import Enum
from itertools import combinations
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.patterns import lazy_pattern
from himl_cli.core.records import dataclass
from himl_cli.core.sweeps import (
    PLACEHOLDER,
    SEARCH_SPACE,
    SWEPT,
    Scalar,
    SweepSpec,
    filled_in,
    trial_tags,
    value_text,
    values_text,
    variable_name,
)
from himl_cli.core.text import YAML_ENDINGS, named
from himl_cli.core.webhook import Webhook

# Azure ML's word for nodes that it chooses. Such a job names no compute target, so there is none to look up
SERVERLESS = "serverless"


@dataclass(frozen=True)
class ClusterSpec:
    """A cluster called *name* with nodes of the kind *size* (`Standard_NC6s_v3`), and limits of their number.

    `low_priority`: cheaper nodes that Azure may preempt at any time.
    """

    name: str
    size: str
    min_nodes: int = 0
    max_nodes: int = 1
    low_priority: bool = False


DATASTORE_NAME = lazy_pattern(r"[A-Za-z0-9_]{1,255}")


@dataclass(frozen=True)
class ContainerSpec:
    """Container *container* of account *account*. `key` is the account's, empty if the workspace has a datastore for
    the container.

    `subscription` is that of the account, if it differs from the workspace's. `name` is the name of a new datastore. If
    empty, himl derives it from the names of the account and the container.
    """

    account: str
    container: str
    key: str = field(default="", repr=False)
    subscription: str = ""
    name: str = ""


@dataclass(frozen=True)
class DocumentSpec:
    """A job in Azure ML's YAML. `text` is the content of the file at `path` with the user's changes.

    `experiment` is the first part of the run's id. `command` is the user's command line, for the record. `list_files`
    decides which files leave this machine.
    """

    path: Path
    text: str
    experiment: str
    list_files: ListFiles
    command: str = ""


def is_compute_name(cluster: str) -> bool:
    """Whether the workspace knows a compute target of this name. Others go to the service as they are: ids
    (`/subscriptions/.../virtualclusters/NAME`), inputs of a pipeline (`${{parent.inputs.KEY}}`) and `serverless`."""
    return cluster.lower() != SERVERLESS and not cluster.startswith("/") and "${{" not in cluster


HERE = "local"  # the cluster name for this machine, regardless of the settings
# Azure ML's name for the default datastore of every workspace. In the YAML of a local job it is also the default one
USUAL_DATASTORE = "workspaceblobstore"
DISTRIBUTIONS = ("pytorch", "mpi")
DOCKERFILE = "Dockerfile"  # the default name of an image's recipe
LIMITS_FILE = "constraints.txt"
# Interactive services of a running job on a cluster
SERVICES = ("vscode", "jupyterlab", "tensorboard", "ssh")
LARGE_SNAPSHOT_BYTES = 300_000_000
PLACEHOLDERS = {
    "inputs": ("input", "Add --input {}=NAME"),
    "outputs": ("output", "Add --output {}=NAME"),
    SEARCH_SPACE: ("hyperparameter", "Add --sweep {}=SPEC"),
}


class EntryKind(str, Enum):
    """The kind of program. The target of `command` is a line for bash, with arguments and placeholders."""

    script = "script"
    module = "module"
    shell = "shell"
    command = "command"


@dataclass(frozen=True)
class Entry:
    """The program: a path relative to the snapshot root (`/` separators), or a dotted module name."""

    kind: EntryKind
    target: str


@dataclass(frozen=True)
class DataSpec:
    """One `--input` or `--output`: KEY names its environment variable, NAME a dataset or a folder of the datastore, or
    for an input an address.

    With `is_folder`, an input is that folder, even if a dataset of this name is registered.
    """

    key: str
    name: str
    version: str | None = None
    datastore: str | None = None
    mode: str | None = None
    target: str | None = None
    local: str | None = None
    overwrite: bool = True
    is_folder: bool = False

    @property
    def is_address(self) -> bool:
        """Whether NAME is an address: `azureml://…` of Azure ML, or `https://…` and others of storage."""
        return re.match(r"[a-z]+://", self.name, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Snapshot:
    """The files of a job's code: paths relative to `root` (`/` separators) and their total size in bytes.

    `ignored_folders` and `include_secret` are the options of the listing. `project` is the root of the listing if
    `root` is a copy of it.
    """

    root: Path
    files: Sequence[str]
    size: int
    ignored_folders: Sequence[str] = ()
    include_secret: Sequence[str] = ()
    project: str = ""

    @property
    def source(self) -> str:
        """The root of the listing."""
        return self.project or str(self.root)


@dataclass(frozen=True)
class StoredJob:
    """A job as its workspace stores it, to be submitted again. Its snapshot has no files, which `Workspace.code_files`
    has. Secrets in its command line and arguments may be masked. `missing` are variables whose values are not stored.
    """

    spec: JobSpec
    missing: Sequence[str] = ()


@dataclass(frozen=True)
class NewCode:
    """New snapshots for a run that is resumed, by their roots, and a `note` for its record."""

    snapshots: Mapping[str, Snapshot]
    note: str


@dataclass(frozen=True)
class Resumption:
    """What applies to a resumed run. `limits` are new values of `SweepSpec.max_concurrent` and `max_failures`, or None.

    `env` are the job's own variables. No file stores them, the `webhook` to notify of the end, or secrets in command
    lines and arguments: those `given` again, by the keys of steps ("" for a script), replace the masked ones. New
    attempts run `code`.
    """

    env: Mapping[str, str] = field(repr=False)
    given: Mapping[str, tuple[str, Sequence[str]]] = field(repr=False)
    limits: Mapping[str, int | None]
    webhook: Webhook | None = None
    code: NewCode | None = None


def is_job_file(target: str | None = None) -> bool:
    """Whether *target* has the extension of a job file."""
    return target is not None and target.lower().endswith((".json", *YAML_ENDINGS))


def secrets_text(names: Sequence[str], how: str = "To include one, use 'himl submit --include_secret GLOB'.") -> str:
    """A remark on files that himl left out because they may contain secrets, and *how* to include one."""
    count = f"{len(names)} files" if len(names) > 1 else "one file"
    return f"himl left out {count} that may contain secrets: {named(names)}. {how}"


@dataclass(frozen=True)
class SnapshotReport:
    """A snapshot, its bytes by top-level folder or file, and the name of its ignore file.

    `downloads` are files and folders that were left out because himl downloaded them, `missed` the ignored folders, as
    the user named them, that do not exist, `secrets` the files that were left out because they may contain secrets.
    `untracked` are the files of the snapshot that git does not track. None if himl cannot determine that. Then, if an
    ignore file excluded anything, `git_problem` is the reason. `others` are files and folders of the root that no
    snapshot contains, such as `.git`.
    """

    snapshot: Snapshot
    by_top: Mapping[str, int]
    ignore_file: str
    downloads: Sequence[str] = ()
    missed: Sequence[str] = ()
    secrets: Sequence[str] = ()
    untracked: Sequence[str] | None = None
    git_problem: str = ""
    others: Sequence[str] = ()

    @property
    def has_untracked(self) -> bool | None:
        return None if self.untracked is None else bool(self.untracked)

    @property
    def is_large(self) -> bool:
        return self.snapshot.size > LARGE_SNAPSHOT_BYTES

    def largest(self) -> list[tuple[str, int]]:
        return sorted(self.by_top.items(), key=lambda item: -item[1])[:3]


# Lists what leaves this machine of a folder of code, or of a folder or file of data (True)
ListFiles = Callable[[Path, bool], SnapshotReport]


@dataclass(frozen=True)
class EnvironmentSpec:
    """The Python environment of a job on a cluster: a registered one by `name` (`version` None: the latest), or one
    built from files.

    `image` is the Docker image, `conda` the text of a conda file (empty: use the Python of the image), `wheels` are
    private wheels that the conda file installs by their file names, `limits` the text of its constraints file
    LIMITS_FILE. Alternatively, `dockerfile` builds the image. It is a path in the folder `context`, which may also be a
    URL.
    """

    name: str = ""
    version: str | None = None
    image: str = ""
    conda: str = ""
    wheels: Sequence[Path] = ()
    context: Snapshot | str | None = None
    dockerfile: str = ""
    limits: str = ""

    @property
    def beside(self) -> list[str]:
        """The names of the files that the conda file needs beside it."""
        return [*(wheel.name for wheel in self.wheels), *([LIMITS_FILE] if self.limits else ())]


@dataclass(frozen=True)
class EngineSpec:
    """How the engine *name* runs a job, from the settings in `[NAME.PLACE]` and the command line.

    `options` are the engine's, on Slurm those of sbatch by their long names without dashes, with None for one without
    a value. `setup` are lines of the batch script before the job, `run_with` words before its command. The engine sends
    SIGTERM `grace` seconds before it ends the job. `python` is the job's Python if it was named, which the lines of
    `setup` do not change then. This machine may not have it. `controller` are options for the controller of a sweep,
    which inherits few of the others. himl queries the engine at least every `poll` seconds while it waits for the job.
    """

    name: str
    options: Mapping[str, str | None] = field(default_factory=dict)
    setup: Sequence[str] = ()
    run_with: str = ""
    grace: float = 60.0
    python: str = ""
    controller: Mapping[str, str | None] = field(default_factory=dict)
    poll: float = 60.0


@dataclass(frozen=True)
class Editables:
    """Code below *root* that a local job imports from its snapshot, although the job's Python would find it in the
    project: `folders` of the snapshot that precede others on Python's path, and `hooks`, the files of modules that
    `site-packages` imports at each start, with paths below *root*."""

    root: str
    folders: Sequence[str] = ()
    hooks: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Options of `himl submit` that a job receives unchanged. Both requests and jobs have them.

    `in_place` runs the job in the snapshot's root instead of a copy. With `tty`, it runs in a pseudo terminal. A failed
    local job restarts up to `retries` times. `keep` are globs of files outside `outputs/` and `logs/` that are
    saved as outputs. `identity` is `user`, `managed` or None for the run's own token, `sdk` is `v2`, or `v1` for the
    deprecated azureml-core.
    A job with `gpus`, which may be a fraction, gets as many GPUs per node, and None sees all.
    `services.submission.request.option` explains the metadata.
    """

    in_place: bool = field(default=False, metadata={"engines": "here queue"})
    tty: bool = field(default=False, metadata={"engines": "here"})
    retries: int = field(default=0, metadata={"engines": "here queue", "files": "pipeline yaml"})
    keep: Sequence[str] = field(default=(), metadata={"files": ""})
    display_name: str = field(default="", metadata={"files": "pipeline yaml"})
    description: str = field(default="", metadata={"files": "pipeline yaml"})
    default_datastore: str | None = field(default=None, metadata={"files": "pipeline yaml_local"})
    no_system_metrics: bool = field(default=False, metadata={"engines": "here queue", "files": "pipeline yaml_local"})
    instance_type: str = field(default="", metadata={"engines": "azure"})
    job_tier: str | None = field(
        default=None, metadata={"engines": "azure", "choices": ("spot", "basic", "standard", "premium")}
    )
    resource_properties: Mapping[str, Any] = field(default_factory=dict)
    shm_size: str = field(default="", metadata={"engines": "azure", "files": "pipeline"})
    docker_args: Sequence[str] = field(default=(), metadata={"engines": "azure", "files": "pipeline"})
    identity: str | None = field(
        default=None, metadata={"engines": "azure", "files": "pipeline", "choices": ("user", "managed")}
    )
    sdk: str = field(default="v2", metadata={"engines": "azure", "choices": ("v2", "v1")})
    gpus: float | None = field(default=None, metadata={"engines": "here slurm", "files": "pipeline yaml"})


@dataclass(frozen=True)
class JobSpec(JobOptions):
    """All data that a workspace needs to run a job.

    `processes` (per node) is None if the user did not request ranks. `max_seconds` None means no limit. `distribution`
    is `pytorch`, `mpi`, or empty for a plain process. `run_id` is empty if the workspace chooses it.

    Besides options that say so, these apply to a cluster only: `cluster` (its name, empty for a local job), `nodes`,
    `environment`, `services`: names of SERVICES, each with its argument (`ssh` the public keys, `tensorboard` the
    folder of its logs).

    `python` is the local interpreter. On a cluster it is the words before the script (empty: `python`).

    `sweep` makes it many runs: the job's run is their parent, and each trial gets `--NAME VALUE` for every
    hyperparameter that no argument uses as `${{search_space.NAME}}`. `parent` is the run that the job belongs to.
    The steps of a pipeline share one `sweep`. Each trial is then a pipeline, whose steps get the values that they name.
    With `engine`, a local job waits in the queue of that engine, and `nodes` applies. `webhook` is notified of the end
    of the run, or of the end of its `parent`.

    `brought` are files in the working folder when the script starts, by their names in it (`/` separators), with local
    paths, or on a cluster paths in an input (`${{inputs.KEY}}/…`). A file of an earlier attempt stays. With `slots`, a
    local job waits for one of as many slots of its user. `setup` and `run_with` are those of `EngineSpec` for a job
    without an engine.
    """

    experiment: str
    entry: Entry
    snapshot: Snapshot
    arguments: Sequence[str] = ()
    python: str = ""
    processes: int | None = None
    distribution: str = "pytorch"
    max_seconds: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    inputs: Sequence[DataSpec] = ()
    outputs: Sequence[DataSpec] = ()
    cluster: str = ""
    nodes: int = 1
    environment: EnvironmentSpec | None = None
    services: Mapping[str, str] = field(default_factory=dict)
    run_id: str = ""
    parent: str = ""
    sweep: SweepSpec | None = None
    engine: EngineSpec | None = None
    webhook: Webhook | None = None
    editables: Editables | None = None
    brought: Mapping[str, str] = field(default_factory=dict)
    slots: int = 0
    setup: Sequence[str] = ()
    run_with: str = ""

    @property
    def words_before(self) -> str:
        """The words before the job's command, such as those that start it in a container."""
        return self.engine.run_with if self.engine else self.run_with

    @property
    def waits(self) -> bool:
        """Whether the job waits for GPUs or a slot of this machine."""
        return self.engine is None and bool(self.gpus or self.slots)


def input_targets(spec: JobSpec) -> dict[str, str]:
    """The locations of the inputs with a `target=`, by key: an absolute path, or one in the script's working folder,
    never one that looks like an option.

    Raises BadUsage for targets that cannot be separate links: one inside another, or one where the snapshot or the
    results of the job have files.
    """
    paths = {item.key: posixpath.normpath(item.target) for item in spec.inputs if item.target}
    targets = {key: f"./{path}" if path.startswith("-") else path for key, path in paths.items()}
    for (one, path), (other, other_path) in combinations(targets.items(), 2):
        if _is_within(path, other_path) or _is_within(other_path, path):
            raise BadUsage(
                f"The targets '{path}' of input '{one}' and '{other_path}' of input '{other}' conflict: one is inside "
                "the other."
            )
    for key, target in targets.items():
        reason = ""
        if target == ".":
            reason = "target=. is invalid, because the data would replace the script's own folder."
        elif target.split("/")[0] in ("outputs", "logs"):
            reason = f"target={target} is invalid, because the files would be results of the job."
        elif not target.startswith("/") and any(_is_within(name, target) for name in spec.snapshot.files):
            reason = f"target={target} is invalid, because the snapshot has files there."
        if reason:
            raise BadUsage(f"Input '{key}': {reason}", hint="Name another folder.")
    return targets


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def check_placeholders(spec: JobSpec) -> None:
    """Raise BadUsage for a placeholder in the arguments that names no input, output or hyperparameter of *spec*."""
    known = {
        "inputs": [item.key for item in spec.inputs],
        "outputs": [item.key for item in spec.outputs],
        SEARCH_SPACE: list(spec.sweep.space) if spec.sweep else [],
    }
    for argument in spec.arguments:
        for found in PLACEHOLDER.finditer(argument):
            keys, (kind, hint) = known[found[1]], PLACEHOLDERS[found[1]]
            if found[2] not in keys:
                raise BadUsage(
                    f"'{found[0]}' names no {kind}; there are: {', '.join(keys) or 'none'}.", hint=hint.format(found[2])
                )


STEP = "himl.step"  # the tag of a step's run with the step's key
# The tag of a step's run with the keys of the steps that it waited for, separated by commas
STEP_AFTER = "himl.after"


@dataclass(frozen=True)
class StepOutput:
    """The output called *output* of the step with the key *step*."""

    step: str
    output: str


@dataclass(frozen=True)
class StepSpec:
    """One step. `key` is its name in the pipeline (`step1`), `name` its display name.

    `job` is the step's job, with the `experiment` and `tags` of the pipeline. Inputs of `job` with a key in `takes`
    come from the outputs of other steps, and their DataSpec is ignored. The others are datasets or folders. The step
    also waits for the steps with the keys `waits_for`.
    """

    key: str
    name: str
    job: JobSpec
    takes: Mapping[str, StepOutput] = field(default_factory=dict)
    waits_for: Sequence[str] = ()

    @property
    def after(self) -> Sequence[str]:
        """The keys of the steps that must complete before this one starts."""
        return [*dict.fromkeys((*(output.step for output in self.takes.values()), *self.waits_for))]


@dataclass(frozen=True)
class PipelineSpec:
    """Steps in a possible order of execution. An empty `cluster` runs them locally.

    `run_id` is empty if the workspace chooses it. `new_cluster` is a cluster to create after all checks, if there is
    none of its name. `outputs` are outputs of steps that are also outputs of the pipeline, by their names in it.
    """

    experiment: str
    steps: Sequence[StepSpec]
    display_name: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    cluster: str = ""
    default_datastore: str | None = None
    command: str = ""
    run_id: str = ""
    new_cluster: ClusterSpec | None = None
    outputs: Mapping[str, StepOutput] = field(default_factory=dict)

    @property
    def sweep(self) -> SweepSpec | None:
        """The search that makes it many pipelines."""
        return self.steps[0].job.sweep

    def with_tags(self, tags: Mapping[str, str]) -> PipelineSpec:
        """The pipeline and its steps with *tags* in place of theirs."""
        steps = [replace(step, job=replace(step.job, tags=tags)) for step in self.steps]
        return replace(self, steps=steps, tags=tags)

    def trial(self, index: int, values: Mapping[str, Scalar]) -> PipelineSpec:
        """The pipeline of trial *index* of this sweep."""
        steps = [replace(step, job=step_of_trial(step.job, values)) for step in self.steps]
        tags, name = trial_tags(self.tags, index, values), values_text(values)
        return replace(self, steps=steps, tags=tags, display_name=name, description="", run_id="", new_cluster=None)


def step_of_trial(job: JobSpec, values: Mapping[str, Scalar]) -> JobSpec:
    """The job of a step with the values of a trial, also as environment variables."""
    texts = {name: value_text(value) for name, value in values.items()}
    return replace(
        job,
        arguments=filled_in(job.arguments, texts, job.sweep.space if job.sweep else None),
        env={**job.env, **{f"AZUREML_SWEEP_{variable_name(name)}": text for name, text in texts.items()}},
        tags={name: value for name, value in job.tags.items() if name != SWEPT},
        sweep=None,
        webhook=None,
    )
