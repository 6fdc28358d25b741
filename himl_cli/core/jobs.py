"""A job as it was asked for: what to run, with which files, variables, clusters and names; sweeps and pipelines of
jobs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.redaction import parts_of
from himl_cli.core.text import named, read_json

SEARCH_SPACE = "search_space"
# Group 1 is `inputs`, `outputs` or `search_space`, group 2 the key, whatever characters it is of: one that names
# nothing is better refused than sent
PLACEHOLDER = re.compile(r"\$\{\{\s*(inputs|outputs|search_space)\.([^\s{}]+)\s*\}\}")
Scalar = str | int | float | bool  # one value of a hyperparameter

# The tag of a trial that holds its values, a JSON object: HyperDrive's name, which both workspaces use
HYPERPARAMETERS = "hyperparameters"
TRIAL = "himl.trial"  # the tag of a trial that holds its number (0…)
# The tag of a sweep that is no more than a record, since no engine looks after it: how many trials it has. It ends when
# the last of them does.
TRIALS = "himl.trials"
# The tag of a trial that a policy stopped: the policy's word. It counts only where the trial is canceled, for it may
# have ended by itself first.
STOPPED_EARLY = "himl.stopped_early"
MANY = "himl.many"  # the tag of a run whose children are jobs of their own: `sweep`, `crossval`, `seeds` or `pipeline`
REPEATED = ("crossval", "seeds")  # kinds of which no trial is the best: their mean and spread are what counts
SWEPT = "himl.sweep"  # the tag of a sweep that says in a line what is searched and how
# Tags of a sweep: the metric that trials are compared by, `minimize` or `maximize`, and at the end the id of the best
# trial's run
PRIMARY_METRIC = "himl.primary_metric"
GOAL = "himl.goal"
BEST_TRIAL = "himl.best_trial"

GOALS = ("minimize", "maximize")
HYPERPARAMETER_NAME = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)


class Draw(str, Enum):
    """What a value is drawn from. The words and the order of arguments are Azure ML's; of the `log…` ones the arguments
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
    """What Azure ML calls the arguments of a distribution, in their order; none for `choice`."""
    if draw in (Draw.choice, Draw.randint):
        return ("upper",) if draw is Draw.randint else ()
    ends = ("mu", "sigma") if draw.value.endswith("normal") else ("min_value", "max_value")
    return (*ends, "q") if draw.value.startswith("q") else ends


@dataclass(frozen=True)
class SearchRange:
    """`values` are the choices of `choice`; else the arguments of the distribution.

    These are (low, high) or (mu, sigma), with a step behind them for `q…`, and (upper,) for `randint`, which gives 0 to
    upper - 1.
    """

    draw: Draw
    values: Sequence[Scalar]


@dataclass(frozen=True)
class EarlyStop:
    """When a trial is stopped: `policy` is `bandit` (one of the slacks is set), `median` or `truncation`.

    The policy looks at each *evaluation_interval*th value of the primary metric, and passes over the first
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
    """Trials of one job. `kind` is what the user asked for: `sweep`, `crossval` or `seeds`.

    `sampling` is `grid`, `random` or `bayesian`; `seed` None: the workspace's choice. `max_trials` is the number of
    trials in all (of a grid at most its points); `max_concurrent` None: the workspace's choice. `goal` is `minimize` or
    `maximize`. `max_seconds` limits the sweep as a whole (on a cluster only), None: the workspace's own limit.
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


def best_of(goal: str, values: Iterable[float]) -> float | None:
    """The best of the values that are finite numbers; None where there is none."""
    finite = (value for value in values if math.isfinite(value))
    return min(finite, default=None) if goal == "minimize" else max(finite, default=None)


def hyperparameters_of(tags: Mapping[str, str]) -> dict[str, Scalar]:
    """The values of a trial by name, as its tags tell them; empty for a run that is no trial. Dashes before a name, as
    of azureml's `--lr`, are left out."""
    try:
        found = read_json(tags.get(HYPERPARAMETERS, "{}"))
    except ValueError:
        return {}
    return {name.lstrip("-"): value for name, value in found.items()} if isinstance(found, dict) else {}


def with_search_space(arguments: Sequence[str], names: Iterable[str]) -> list[str]:
    """*arguments* with `--NAME ${{search_space.NAME}}` behind them for each of *names* that none of them names."""
    named = {found[2] for argument in arguments for found in PLACEHOLDER.finditer(argument) if found[1] == SEARCH_SPACE}
    missing = [name for name in names if name not in named]
    return [*arguments, *(text for name in missing for text in (f"--{name}", f"${{{{{SEARCH_SPACE}.{name}}}}}"))]


def filled_in(arguments: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """*arguments* with the values of hyperparameters in place of `${{search_space.NAME}}`."""

    def fill(argument: str) -> str:
        return PLACEHOLDER.sub(lambda found: values[found[2]] if found[1] == SEARCH_SPACE else found[0], argument)

    return list(map(fill, arguments))


def sweep_tags(sweep: SweepSpec) -> dict[str, str]:
    """The tags of a sweep, which say how its trials are compared."""
    return {MANY: sweep.kind, PRIMARY_METRIC: sweep.primary_metric, GOAL: sweep.goal}


def trial_tags(tags: Mapping[str, str], index: int, values: Mapping[str, Scalar]) -> dict[str, str]:
    """The tags of a trial whose sweep has *tags*."""
    own = {name: value for name, value in tags.items() if name != SWEPT}
    return {**own, HYPERPARAMETERS: json.dumps(dict(values)), TRIAL: str(index)}


def values_text(values: Mapping[str, Scalar]) -> str:
    """Values as people read them: `lr=0.01, depth=3`."""
    return ", ".join(f"{name}={value_text(value)}" for name, value in values.items())


def value_text(value: Scalar) -> str:
    """One value as a script's argument: numbers in full, truth values as Python writes them."""
    return repr(value) if isinstance(value, float) else str(value)


# Azure ML's word for nodes that it finds itself: a job for them names no compute, and there is none of that name to
# look for
SERVERLESS = "serverless"


@dataclass(frozen=True)
class ClusterSpec:
    """A cluster called *name* of nodes of the kind *size* (`Standard_NC6s_v3`), that grows and shrinks between so many
    nodes.

    `low_priority`: cheaper nodes that may be taken away at any time.
    """

    name: str
    size: str
    min_nodes: int = 0
    max_nodes: int = 1
    low_priority: bool = False


DATASTORE_NAME = re.compile(r"[A-Za-z0-9_]{1,255}")


@dataclass(frozen=True)
class ContainerSpec:
    """Container *container* of account *account*; `key` is the account's, empty where the workspace knows the container
    already.

    `subscription` is that of the account, where it is another than the workspace's. `name` is what a new datastore is
    called; empty: made of the account's and the container's names.
    """

    account: str
    container: str
    key: str = field(default="", repr=False)
    subscription: str = ""
    name: str = ""


@dataclass(frozen=True)
class DocumentChanges:
    """What counts instead of what a file says; empty: what it says. `tags` and `env` are added to its own.

    `cluster` is where the job runs, and every part of it that names no compute of its own. `command` is what the user
    typed, for the record. `code` has folders of code as this machine finds them, by their keys in the file
    (`jobs.train.code`). `is_secret` says of a folder of code and a file below it whether that is left out.
    """

    experiment: str = ""
    display_name: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    cluster: str = ""
    command: str = ""
    code: Mapping[str, str] = field(default_factory=dict)
    is_secret: Callable[[str, str], bool] = field(default=lambda folder, path: False, compare=False)


HERE = "local"  # the cluster's name that means this machine, whatever the settings say
# What Azure ML calls the datastore that is the default one of every workspace; in a job's YAML that runs here it is the
# default one too
USUAL_DATASTORE = "workspaceblobstore"
DISTRIBUTIONS = ("pytorch", "mpi")
DOCKERFILE = "Dockerfile"  # the recipe of an image, where no other name is given
SERVICES = ("vscode", "jupyterlab", "tensorboard", "ssh")  # what a person may use in a job while it runs on a cluster
LARGE_SNAPSHOT_BYTES = 300 * 1024 * 1024
PLACEHOLDERS = {
    "inputs": ("input", "Add --input {}=NAME"),
    "outputs": ("output", "Add --output {}=NAME"),
    SEARCH_SPACE: ("hyperparameter", "Add --sweep {}=SPEC"),
}


class EntryKind(str, Enum):
    """What is started; the target of `command` is a line for bash, arguments and placeholders in it."""

    script = "script"
    module = "module"
    shell = "shell"
    command = "command"


@dataclass(frozen=True)
class Entry:
    """What is started: a path relative to the snapshot root (`/` separators), or a dotted module name."""

    kind: EntryKind
    target: str


@dataclass(frozen=True)
class DataSpec:
    """One `--input` or `--output`: KEY names its variable, NAME a dataset or a folder of the datastore.

    With `is_folder` an input is that folder, whatever dataset is registered under the name.
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


@dataclass(frozen=True)
class Snapshot:
    """The files a job starts from: paths relative to `root` (`/` separators) and their total size in bytes."""

    root: Path
    files: Sequence[str]
    size: int


def secrets_text(names: Sequence[str]) -> str:
    """Which files are left out since they may hold secrets, and how to send one all the same."""
    count = f"{len(names)} files that may hold secrets are" if len(names) > 1 else "One file that may hold secrets is"
    return f"{count} left out: {named(names)}. 'himl submit --include_secret GLOB' sends one on purpose."


@dataclass(frozen=True)
class SnapshotReport:
    """A snapshot, its bytes by top-level folder or file, and the name of the ignore file that was honoured.

    `downloads` are the folders that were left out because himl downloads to them, `missed` the ignored folders, as they
    were given, that are not there, `secrets` the files that were left out since they may hold secrets.
    """

    snapshot: Snapshot
    by_top: Mapping[str, int]
    ignore_file: str
    downloads: Sequence[str] = ()
    missed: Sequence[str] = ()
    secrets: Sequence[str] = ()

    @property
    def is_large(self) -> bool:
        return self.snapshot.size > LARGE_SNAPSHOT_BYTES

    def largest(self) -> list[tuple[str, int]]:
        return sorted(self.by_top.items(), key=lambda item: -item[1])[:3]


@dataclass(frozen=True)
class EnvironmentSpec:
    """The Python environment of a job on a cluster: a registered one by `name` (`version` None: the latest), else one
    made from files.

    Made from files: `image` is the Docker image, `conda` the text of a conda file (empty: the image's own Python
    counts), `wheels` are private wheels that the conda file installs by their file names. Or the image is built by
    `dockerfile`, a path in the folder `context`, which may also be an address.
    """

    name: str = ""
    version: str | None = None
    image: str = ""
    conda: str = ""
    wheels: Sequence[Path] = ()
    context: Snapshot | str | None = None
    dockerfile: str = ""


@dataclass(frozen=True)
class SlurmSpec:
    """How a site's Slurm is to run a job, by the table `[slurm.NAME]` of the settings and what was typed.

    `options` are sbatch's, by their long names without dashes; None for one without a value. `setup` are lines of the
    batch script before the job, `run_with` words before its command.
    """

    options: Mapping[str, str | None] = field(default_factory=dict)
    setup: Sequence[str] = ()
    run_with: str = ""


WEBHOOK_FORMATS = ("json", "slack", "teams")


@dataclass(frozen=True)
class Webhook:
    """Where the end of a run is posted to, and in which of WEBHOOK_FORMATS. The address is a secret: Slack's and Teams'
    hold a key."""

    url: str = field(repr=False)
    format: str

    @property
    def host(self) -> str:
        """What messages and records may say of the address."""
        return parts_of(self.url).hostname or ""


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Options of `himl submit` that a job takes over as they are; requests and jobs have them both.

    `in_place` runs in the snapshot's root itself instead of a copy. A job that failed is started again `retries` times,
    by whoever runs it here or on Slurm. `keep` are globs of files outside `outputs/` and
    `logs/` that are kept as outputs. `identity` is `user`, `managed` or None for the run's own token, `sdk` is `v2`, or
    `v1` for the deprecated azureml-core. `services.submission.request.option` says what the metadata mean.
    """

    in_place: bool = field(default=False, metadata={"only": "local"})
    retries: int = field(default=0, metadata={"only": "local", "files": "pipeline yaml"})
    keep: Sequence[str] = field(default=(), metadata={"files": ""})
    display_name: str = field(default="", metadata={"files": "pipeline yaml"})
    description: str = field(default="", metadata={"files": "pipeline yaml"})
    default_datastore: str | None = field(default=None, metadata={"files": "pipeline yaml_local"})
    no_system_metrics: bool = field(default=False, metadata={"only": "local", "files": "pipeline yaml_local"})
    instance_type: str = field(default="", metadata={"only": "cluster"})
    job_tier: str | None = field(
        default=None, metadata={"only": "cluster", "choices": ("spot", "basic", "standard", "premium")}
    )
    resource_properties: Mapping[str, Any] = field(default_factory=dict)
    shm_size: str = field(default="", metadata={"only": "cluster", "files": "pipeline"})
    docker_args: Sequence[str] = field(default=(), metadata={"only": "cluster", "files": "pipeline"})
    identity: str | None = field(
        default=None, metadata={"only": "cluster", "files": "pipeline", "choices": ("user", "managed")}
    )
    sdk: str = field(default="v2", metadata={"only": "cluster", "choices": ("v2", "v1")})


@dataclass(frozen=True)
class JobSpec(JobOptions):
    """Everything a workspace needs to run a job.

    `processes` (a node) is None when ranks were not asked for; `max_seconds` None means no limit. `distribution` is
    `pytorch`, `mpi`, or empty for a plain process. `run_id` is empty where the workspace chooses it.

    What counts on a cluster only, beside options that say so: `cluster` (its name; empty: the job runs here), `nodes`,
    `environment`, `services`: names of SERVICES, each with what it needs (`ssh` the public keys, `tensorboard` the
    folder of its logs).

    `python` is the interpreter here; on a cluster the words that stand before the script (empty: `python`).

    `sweep` makes it many runs: the job's run is their parent, and each trial gets `--NAME VALUE` for every
    hyperparameter that no argument names as `${{search_space.NAME}}`. `parent` is the run that the job belongs to.
    The steps of a pipeline have all the same one: then each trial is a pipeline, of whose steps those get a value that
    name it.
    With `slurm` a site's Slurm runs it, from this workspace: `nodes` counts there too. `webhook` is told of the end of
    the run, or of `parent`'s where it has one.

    `brought` are files that lie in the working folder when the script starts, by their names there (`/` separators):
    paths here, on a cluster paths in an input (`${{inputs.KEY}}/…`). What an earlier try left under the name stays.
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
    slurm: SlurmSpec | None = None
    webhook: Webhook | None = None
    brought: Mapping[str, str] = field(default_factory=dict)


def check_placeholders(spec: JobSpec) -> None:
    """Raises BadUsage where a placeholder in the arguments names no input, output or hyperparameter of *spec*."""
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


STEP = "himl.step"  # the tag of a step's run that holds the step's key
STEP_AFTER = "himl.after"  # the tag of a step's run that holds the keys of the steps it waited for, with commas between


@dataclass(frozen=True)
class StepOutput:
    """The output called *output* of the step called *step* (its key)."""

    step: str
    output: str


@dataclass(frozen=True)
class StepSpec:
    """One step. `key` names it in the pipeline (`step1`), `name` is for people.

    `job` is all that it needs to run; its `experiment` and `tags` are the pipeline's. Inputs of `job` whose key is in
    `takes` come from the outputs of other steps, whatever their DataSpec says; the others are datasets or folders as of
    any job. Beside the steps that it takes from, it `waits_for` those of these keys.
    """

    key: str
    name: str
    job: JobSpec
    takes: Mapping[str, StepOutput] = field(default_factory=dict)
    waits_for: Sequence[str] = ()

    @property
    def after(self) -> Sequence[str]:
        """The keys of the steps that have to be completed before this one starts."""
        return [*dict.fromkeys((*(output.step for output in self.takes.values()), *self.waits_for))]


@dataclass(frozen=True)
class PipelineSpec:
    """Steps in an order in which they can run one after the other. `cluster` empty: they run here.

    `run_id` is empty where the workspace chooses it. `new_cluster` is the one to make, where there is none of its name,
    once all else is found to be in order. `outputs` are those of steps that are the pipeline's own too, by the name
    that they have there.
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
        """What makes it many pipelines."""
        return self.steps[0].job.sweep

    def trial(self, index: int, values: Mapping[str, Scalar]) -> PipelineSpec:
        """The pipeline that is trial *index* of this one's sweep."""
        steps = [replace(step, job=step_of_trial(step.job, values)) for step in self.steps]
        tags, name = trial_tags(self.tags, index, values), values_text(values)
        return replace(self, steps=steps, tags=tags, display_name=name, description="", run_id="", new_cluster=None)


def step_of_trial(job: JobSpec, values: Mapping[str, Scalar]) -> JobSpec:
    """The job of a step with the values of a trial, as variables too."""
    texts = {name: value_text(value) for name, value in values.items()}
    return replace(
        job,
        arguments=filled_in(job.arguments, texts),
        env={**job.env, **{f"AZUREML_SWEEP_{name}": text for name, text in texts.items()}},
        tags={name: value for name, value in job.tags.items() if name != SWEPT},
        sweep=None,
        webhook=None,
    )
