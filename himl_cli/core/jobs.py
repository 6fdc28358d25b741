"""Jobs as the user specified them: the program, its files, environment variables, clusters and names, and sweeps and
pipelines of jobs."""

from __future__ import annotations

import json
import math
import posixpath
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from enum import Enum
from itertools import combinations
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import parts_of
from himl_cli.core.text import YAML_ENDINGS, Spelled, named, read_json, spelled

SEARCH_SPACE = "search_space"
# Group 1 is `inputs`, `outputs` or `search_space`, group 2 the key. It accepts any characters, so that himl can reject
# an unknown key instead of sending it
PLACEHOLDER = re.compile(r"\$\{\{\s*(inputs|outputs|search_space)\.([^\s{}]+)\s*\}\}")
Scalar = str | int | float | bool  # one value of a hyperparameter

# The tag of a trial with its values as a JSON object: HyperDrive's name, which both workspaces use
HYPERPARAMETERS = "hyperparameters"
TRIAL = "himl.trial"  # the tag of a trial with its number (0…)
# The tag with the number of trials of a sweep that is only a record, since no engine runs it. It ends when its last
# trial does.
TRIALS = "himl.trials"
# The tag of a trial that an early-stopping policy stopped, with the policy's name. It counts only for a canceled trial,
# since the trial may have ended first.
STOPPED_EARLY = "himl.stopped_early"
# The tag of a run whose children are separate jobs: `sweep`, `crossval`, `seeds` or `pipeline`
MANY = "himl.many"
# Kinds without a best trial, reported as mean and standard deviation
REPEATED = ("crossval", "seeds")
SWEPT = "himl.sweep"  # the tag of a sweep with a summary of its search in one line
# Tags of a sweep: the primary metric, `minimize` or `maximize`, and at the end the run id of the best trial
PRIMARY_METRIC = "himl.primary_metric"
GOAL = "himl.goal"
BEST_TRIAL = "himl.best_trial"

GOALS = ("minimize", "maximize")
# Forms of a SearchRange, and the values of switches
SWITCH, NEGATABLE, WORDS = "switch", "negatable", "words"
SWITCHES = (SWITCH, NEGATABLE)
SWITCH_WORDS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
HYPERPARAMETER_NAME = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)


class Draw(str, Enum):
    """The distribution of a hyperparameter. Names and order of arguments are Azure ML's. The arguments of `log…` ones
    are exponents of e."""

    choice = "choice"
    uniform = "uniform"
    loguniform = "loguniform"
    normal = "normal"
    lognormal = "lognormal"
    randint = "randint"
    quniform = "quniform"
    qloguniform = "qloguniform"
    qnormal = "qnormal"
    qlognormal = "qlognormal"


def argument_names(draw: Draw) -> tuple[str, ...]:
    """Azure ML's names for the arguments of a distribution, in order. Empty for `choice`."""
    if draw in (Draw.choice, Draw.randint):
        return ("upper",) if draw is Draw.randint else ()
    ends = ("mu", "sigma") if draw.value.endswith("normal") else ("min_value", "max_value")
    return (*ends, "q") if draw.value.startswith("q") else ends


@dataclass(frozen=True)
class SearchRange:
    """The choices of `choice`, or the arguments of a distribution, in `values`.

    The arguments are (low, high) or (mu, sigma), followed by a step for `q…`, and (upper,) for `randint`, which draws
    from 0 to upper - 1. A script gets each choice as `--NAME VALUE`, unless `form` is `switch` (`--NAME` for true, no
    argument for false), `negatable` (`--no-NAME` for false) or `words` (`--NAME` and all words of the value).
    """

    draw: Draw
    values: Sequence[Scalar]
    form: str = ""


@dataclass(frozen=True)
class EarlyStop:
    """When to stop a trial: `policy` is `bandit` (with one of the slacks), `median` or `truncation`.

    The policy evaluates each *evaluation_interval*th value of the primary metric, except for the first
    *delay_evaluation* of them.
    """

    policy: str
    evaluation_interval: int = 1
    delay_evaluation: int = 0
    slack_factor: float | None = None
    slack_amount: float | None = None
    truncation_percentage: int | None = None


@dataclass(frozen=True)
class SweepSpec:
    """Trials of one job. `kind` is `sweep`, `crossval` or `seeds`, as the user requested.

    `sampling` is `grid`, `random` or `bayesian`. The workspace chooses a `seed` of None. `max_trials` is the total
    number of trials (of a grid at most its points). The workspace chooses a `max_concurrent` of None. `goal` is
    `minimize` or `maximize`. `max_seconds` limits the whole sweep (on a cluster only). None is the workspace's limit.
    himl starts no more trials once the first `max_failures` to end all failed, or with 0 regardless of failures.
    """

    space: Mapping[str, SearchRange]
    sampling: str = "grid"
    max_trials: int = 1
    max_concurrent: int | None = None
    primary_metric: str = "val/loss"
    goal: str = "minimize"
    early_stop: EarlyStop | None = None
    seed: int | None = None
    kind: str = "sweep"
    max_seconds: float | None = None
    max_failures: int = 3


def best_of(goal: str, values: Iterable[float]) -> float | None:
    """The best finite value, or None if there is none."""
    finite = (value for value in values if math.isfinite(value))
    return min(finite, default=None) if goal == "minimize" else max(finite, default=None)


def hyperparameters_of(tags: Mapping[str, str]) -> dict[str, Scalar]:
    """The values of a trial by name, from its tags. Empty for other runs. Leading dashes of a name, as in azureml's
    `--lr`, are removed."""
    try:
        found = read_json(tags.get(HYPERPARAMETERS, "{}"), number=spelled)
    except ValueError:
        return {}
    return {name.lstrip("-"): value for name, value in found.items()} if isinstance(found, dict) else {}


def variable_name(name: str) -> str:
    """The hyperparameter *name* as part of the name of a variable, and as Azure ML accepts it: hi-ml also replaced `.`
    and `/` by `_`."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def with_search_space(arguments: Sequence[str], space: Mapping[str, SearchRange]) -> list[str]:
    """Append `--NAME ${{search_space.NAME}}` to *arguments* for each hyperparameter that they do not use. A switch is
    the placeholder alone."""
    named = {found[2] for argument in arguments for found in PLACEHOLDER.finditer(argument) if found[1] == SEARCH_SPACE}
    missing = {name: found.form for name, found in space.items() if name not in named}
    added = [
        [*([] if form in SWITCHES else [f"--{name}"]), f"${{{{{SEARCH_SPACE}.{name}}}}}"]
        for name, form in missing.items()
    ]
    return [*arguments, *(word for words in added for word in words)]


def filled_in(
    arguments: Sequence[str], values: Mapping[str, str], space: Mapping[str, SearchRange] | None = None
) -> list[str]:
    """Replace `${{search_space.NAME}}` in *arguments* by the values of hyperparameters. A whole argument becomes the
    words of a value with a form in *space*."""

    def fill(argument: str) -> list[str]:
        whole = PLACEHOLDER.fullmatch(argument)
        if whole and whole[1] == SEARCH_SPACE and space and (form := space[whole[2]].form):
            return value_words(whole[2], values[whole[2]], form)
        return [PLACEHOLDER.sub(lambda found: values[found[2]] if found[1] == SEARCH_SPACE else found[0], argument)]

    return [word for argument in arguments for word in fill(argument)]


def value_words(name: str, text: str, form: str) -> list[str]:
    """The words in place of the value *text* of the hyperparameter *name*, by the *form* of its SearchRange. Raises
    ValueError for an unclosed quote."""
    if form == WORDS:
        return shlex.split(text)
    state = SWITCH_WORDS.get(text.lower())
    if form not in SWITCHES or state is None:
        return [text]
    return [f"--{name}"] if state else [f"--no-{name}"] * (form == NEGATABLE)


def sweep_tags(sweep: SweepSpec) -> dict[str, str]:
    """The tags of a sweep, which say how himl compares its trials."""
    return {MANY: sweep.kind, PRIMARY_METRIC: sweep.primary_metric, GOAL: sweep.goal}


def trial_tags(tags: Mapping[str, str], index: int, values: Mapping[str, Scalar]) -> dict[str, str]:
    """The tags of a trial of a sweep with *tags*."""
    own = {name: value for name, value in tags.items() if name != SWEPT}
    pairs = [f"{json.dumps(name)}: {_json_text(value)}" for name, value in values.items()]
    return {**own, HYPERPARAMETERS: f"{{{', '.join(pairs)}}}", TRIAL: str(index)}


def _json_text(value: Scalar) -> str:
    """*value* in JSON, with the spelling of a number. One that is not valid in JSON (`.5`) becomes a text."""
    if not isinstance(value, Spelled):
        return json.dumps(value)
    is_valid = re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", value.text)
    return value.text if is_valid else json.dumps(value.text)


def values_text(values: Mapping[str, Scalar]) -> str:
    """Values as text for users: `lr=0.01, depth=3`."""
    return ", ".join(f"{name}={value_text(value)}" for name, value in values.items())


def value_text(value: Scalar) -> str:
    """A value as a script's argument: numbers as the user spelled them, or in full, Booleans as in Python. Negative
    numbers have no exponent, since argparse would take `-1e-05` for an option."""
    if not isinstance(value, float):
        return str(value)
    text = repr(value)
    if value < 0 and "e" in text.lower():
        from decimal import Decimal  # imported late, since all commands import this module

        return format(Decimal(text), "f")
    return text


def short_text(value: Scalar) -> str:
    """A value for users, a number whose text is long with six digits."""
    text = value_text(value)
    return f"{value:.6g}" if isinstance(value, float) and len(text) > 10 else text


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


DATASTORE_NAME = re.compile(r"[A-Za-z0-9_]{1,255}")


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
LARGE_SNAPSHOT_BYTES = 300 * 1024 * 1024
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
class NewCode:
    """New snapshots for a run that is resumed, by their roots, and a `note` for its record."""

    snapshots: Mapping[str, Snapshot]
    note: str


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
    `has_untracked`: the snapshot contains files that git does not track. None if himl cannot determine that. Then, if
    an ignore file excluded anything, `git_problem` is the reason. `others` are files and folders of the root that no
    snapshot contains, such as `.git`.
    """

    snapshot: Snapshot
    by_top: Mapping[str, int]
    ignore_file: str
    downloads: Sequence[str] = ()
    missed: Sequence[str] = ()
    secrets: Sequence[str] = ()
    has_untracked: bool | None = None
    git_problem: str = ""
    others: Sequence[str] = ()

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


WEBHOOK_FORMATS = ("json", "slack", "teams")


@dataclass(frozen=True)
class Webhook:
    """The address to notify of the end of a run, and one of WEBHOOK_FORMATS. The address is a secret, since those of
    Slack and Teams contain a key."""

    url: str = field(repr=False)
    format: str

    @property
    def host(self) -> str:
        """The part of the address that messages and records may contain."""
        return parts_of(self.url).hostname or ""


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Options of `himl submit` that a job receives unchanged. Both requests and jobs have them.

    `in_place` runs the job in the snapshot's root instead of a copy. With `tty`, it runs in a pseudo terminal. A failed
    local job restarts up to `retries` times. `keep` are globs of files outside `outputs/` and `logs/` that are
    saved as outputs. `identity` is `user`, `managed` or None for the run's own token, `sdk` is `v2`, or `v1` for the
    deprecated azureml-core.
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
    paths, or on a cluster paths in an input (`${{inputs.KEY}}/…`). A file of an earlier attempt stays.
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
