"""A job as the user asked for it, and as it is ready to be sent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import DISTRIBUTIONS, HERE, DataSpec, JobSpec, SnapshotReport
from himl_cli.core.sweeps import SweepSpec
from himl_cli.core.text import non_blank, shorten
from himl_cli.services.secret_files import YAML_ENDINGS

AZURE = "azure"
"""The place to record a job in, beside the local workspace, that is an Azure ML workspace."""


SPLIT, COUNT, SEED = "crossval_index", "crossval_count", "random_seed"
"""The usual names of the arguments: hi-ml's."""


@dataclass(frozen=True)
class SweepRequest:
    """The options as typed. Of `sweep`, `crossval` and `different_seeds` one at most is set, else the job is a single
    run."""

    sweep: Sequence[str] = ()
    sampling: str | None = None
    max_trials: int | None = None
    max_concurrent: int | None = None
    primary_metric: str = "val/loss"
    goal: str = "minimize"
    early_stop: str | None = None
    crossval: int | None = None
    crossval_arg: str = SPLIT
    different_seeds: int | None = None
    seed_arg: str = SEED


@dataclass(frozen=True, kw_only=True)
class SubmitRequest(SweepRequest):
    """The options of `himl submit`, as typed; `cwd` is where the user is, `build` the `--build_*` options by tag name.

    `typed` names the options that stood on the command line: what a settings file says for all jobs is passed over
    where it does not fit one, what was typed is an error there. None: all that differs from the default counts as
    typed. `ready_sweep` is a sweep that no options have to be read for. `python_executable` (the words before the
    script on a cluster), `resource_properties` and `tensorboard_logs` are arguments of `submit_to_azure_if_needed`
    only.
    """

    cwd: Path
    target: str | None = None
    module: str | None = None
    command: str | None = None
    arguments: Sequence[str] = ()
    cluster: str | None = None
    record_in: str | None = None
    python: str | None = None
    python_executable: str = "python"
    in_place: bool = False
    num_nodes: int = 1
    processes_per_node: int | None = None
    distribution: str | None = None
    no_mpi_single_node: bool = False
    instance_type: str | None = None
    resource_properties: Mapping[str, Any] | None = None
    shm_size: str = "100g"
    docker_args: Sequence[str] = ()
    identity: str | None = None
    max_run_duration: str | None = None
    vscode: bool = False
    jupyter: bool = False
    ssh_key: str | None = None
    tensorboard_logs: str | None = None
    snapshot_root: str | None = None
    ignored_folders: Sequence[str] = ()
    include_secret: Sequence[str] = ()
    conda_env: Sequence[str] = ()
    requirements: str | None = None
    environment: str | None = None
    docker_image: str | None = None
    build_context: str | None = None
    dockerfile: str | None = None
    pip_extra_index_url: str | None = None
    private_wheel: str | None = None
    env_vars: Mapping[str, str] = field(default_factory=dict)
    experiment: str | None = None
    experiment_from_branch: bool = False
    display_name: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    build: Mapping[str, str] = field(default_factory=dict)
    inputs: Sequence[str | DataSpec] = ()
    outputs: Sequence[str | DataSpec] = ()
    default_datastore: str | None = None
    checkpoint: str | None = None
    sdk: str = "v2"
    crossval_count_arg: str | None = None
    ready_sweep: SweepSpec | None = None
    typed: frozenset[str] | None = None

    @property
    def on_cluster(self) -> str:
        """The cluster that the job runs on; empty where it runs here."""
        return "" if self.cluster in (None, HERE) else str(self.cluster)

    @property
    def is_told_to_azure(self) -> bool:
        """Whether the job runs here and is recorded in an Azure ML workspace too."""
        return self.record_in == AZURE and not self.on_cluster

    def is_set(self, name: str) -> bool:
        """Whether the option says something else than its default."""
        default = next(each.default for each in fields(self) if each.name == name)
        value = getattr(self, name)
        return (
            bool(value)
            if isinstance(value, Sequence) and not isinstance(value, str)
            else value is not None and value != default
        )

    def is_typed(self, name: str) -> bool:
        """Whether the user said so for this very job."""
        return self.is_set(name) and (self.typed is None or name in self.typed)


@dataclass(frozen=True)
class PreparedJob:
    """The job, what is sent with it (None in place: nothing is), and what the user should know beforehand, a sentence
    each.

    `checkpoint` is the SOURCE that it starts from, which is yet to be looked for.
    """

    spec: JobSpec
    report: SnapshotReport | None
    remarks: Sequence[str] = ()
    checkpoint: str | None = None


DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
SECONDS_IN = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MOST_SECONDS = 10 * 366 * 86400.0
"""Ten years, as good as for ever."""
SIZE = re.compile(r"0*[1-9]\d*[bkmg]", re.IGNORECASE)
MOST_NODES = 65_000
"""As many as a cluster of Azure ML can have."""
MOST_PROCESSES = 1024
"""Of one node: more than its processors and GPUs could serve. Each is started here, so a digit too many would fill the
memory."""
MOST = {"num_nodes": MOST_NODES, "node_count": MOST_NODES, "processes_per_node": MOST_PROCESSES}
"""What counts may be at most, by the names of options and of fields."""
LONGEST_SHOWN = 24


def parse_duration(text: str, option: str = "") -> float:
    """Seconds of `30s`, `30m`, `2h` or `1.5d`. Raises BadUsage, which begins with the *option* that it was given
    for."""
    found = DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * SECONDS_IN[found[2]] if found else 0
    if seconds == 0:
        raise BadUsage(
            f"{option} '{text}' is no duration.".strip(), hint="Write a number and a unit: 30s, 30m, 2h or 1.5d."
        )
    if seconds > MOST_SECONDS:
        raise BadUsage(f"{option} '{text}' is longer than ten years.".strip(), hint="Leave it out for no limit.")
    return seconds


def check_size(option: str, text: str) -> str:
    """*text*, which is to be a size as Docker takes it: a whole number and b, k, m or g. Raises BadUsage naming
    *option*."""
    if not SIZE.fullmatch(text.strip()) or len(text) > LONGEST_SHOWN:
        raise BadUsage(f"{option} '{text}' is no size.", hint="Write a whole number and a unit: 512m or 100g.")
    return text.strip().lower()


def whole_number(value: object, most: int) -> int | None:
    """*value* where it is a whole number from 1 to *most*, else None."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        return None
    return value


def count_wanted(value: object, most: int) -> str:
    """What is wrong with a count that `whole_number` did not take, to complete the sentence `'node_count' …`."""
    if isinstance(value, int) and value > most:
        return f"can be {most:,} at most{f', not {value:,}' if value < 10**LONGEST_SHOWN else ''}."
    text = json.dumps(value, default=repr)
    return f"must be a whole number from 1 on, not {shorten(text, LONGEST_SHOWN)}."


CHOICES = {
    "distribution": DISTRIBUTIONS,
    "identity": ("user", "managed"),
    "record_in": (HERE, AZURE),
    "sdk": ("v2", "v1"),
}
HERE_ONLY = ("in_place", "python", "record_in")
CLUSTER_ONLY = (
    *(
        "shm_size",
        "docker_args",
        "identity",
        "no_mpi_single_node",
        "conda_env",
        "requirements",
        "environment",
        "docker_image",
    ),
    *(
        "pip_extra_index_url",
        "private_wheel",
        "build_context",
        "dockerfile",
        "instance_type",
        "vscode",
        "jupyter",
        "ssh_key",
        "sdk",
    ),
)
MADE_FROM_FILES = ("conda_env", "requirements", "docker_image", "pip_extra_index_url", "private_wheel")
WAYS_TO_ENVIRONMENTS = (("environment",), MADE_FROM_FILES, ("build_context", "dockerfile"))


def check_place(request: SubmitRequest) -> None:
    """Raises BadUsage for values that no job can have, and for what was typed and cannot be done where the job runs."""
    for name in ("command", "cluster", "checkpoint"):
        non_blank(f"--{name}", getattr(request, name))
    given = [
        what
        for value, what in ((request.target, "A script"), (request.module, "-m MODULE"), (request.command, "--command"))
        if value
    ]
    if len(given) != 1:
        hint = 'himl submit SCRIPT.py, or himl submit -m package.module, or himl submit --command "PROGRAM ..."'
        raise BadUsage(f"{given[0]} and {given[1]} were both given." if given else "Nothing to run.", hint=hint)
    for name, choices in CHOICES.items():
        value = getattr(request, name)
        if value is not None and value not in choices:
            raise BadUsage(f"--{name} cannot be '{value}'.", hint=f"It is one of: {', '.join(choices)}.")
    for name in ("num_nodes", "processes_per_node"):
        value = getattr(request, name)
        if isinstance(value, int) and value < 1:
            raise BadUsage(f"--{name} {value}: at least 1 is needed.")
        if value is not None and whole_number(value, MOST[name]) is None:
            raise BadUsage(f"--{name} {count_wanted(value, MOST[name])}")
    if request.on_cluster:
        _check_cluster(request)
    else:
        _check_here(request)


def _check_cluster(request: SubmitRequest) -> None:
    for name in HERE_ONLY:
        if request.is_typed(name):
            value = getattr(request, name)
            shown = f"--{name}" if value is True else f"--{name} {value}"
            raise BadUsage(
                f"{shown}: that is for jobs that run here, and this one goes to cluster '{request.on_cluster}'.",
                hint="To run it here, add --cluster local",
            )


def _check_here(request: SubmitRequest) -> None:
    if request.is_typed("num_nodes"):
        raise BadUsage(
            f"--num_nodes {request.num_nodes}: a job that runs here has one node.",
            hint="Use --processes_per_node for several processes.",
        )


def settled(request: SubmitRequest) -> SubmitRequest:
    """The request without what does not count for it: settings of the other place, and of another environment than the
    one that was typed."""
    dropped = [*HERE_ONLY] if request.on_cluster else [*CLUSTER_ONLY, "num_nodes"]
    if request.on_cluster:
        dropped += _overridden(request)
    defaults = SubmitRequest(cwd=request.cwd)
    return replace(request, **{name: getattr(defaults, name) for name in dropped})


def _overridden(request: SubmitRequest) -> Sequence[str]:
    """Ways to an environment that stand in settings, where another one that excludes them was typed."""
    typed = [way for way in WAYS_TO_ENVIRONMENTS if any(map(request.is_typed, way))]
    dropped = [name for way in WAYS_TO_ENVIRONMENTS if typed and way not in typed for name in way]
    if request.is_typed("requirements") and not request.is_typed("conda_env"):
        dropped.append("conda_env")
    if request.is_typed("conda_env") and not request.is_typed("requirements"):
        dropped.append("requirements")
    return dropped


def place_remarks(request: SubmitRequest) -> list[str]:
    """What was asked for and has no meaning where the job runs, a sentence."""
    if request.on_cluster:
        return []
    idle = [f"--{name}" for name in CLUSTER_ONLY if request.is_typed(name)]
    idle += [f"num_nodes = {request.num_nodes}"] if request.num_nodes != 1 else []
    remarks = [f"Passed over, since the job runs here and not on a cluster: {', '.join(idle)}."] if idle else []
    uncopied = [f"--{name}" for name in ("ignored_folders", "include_secret") if request.is_typed(name)]
    if request.in_place and uncopied:
        remarks.append(f"Passed over, since the job runs in place and nothing is copied: {', '.join(uncopied)}.")
    if request.is_typed("distribution") and request.processes_per_node is None:
        remarks.append(
            "Passed over, since the job is one plain process: --distribution. Add --processes_per_node N to have ranks."
        )
    return remarks


PIPELINE_ENDING = ".json"
OPTIONS = {"env_vars": "env_var", "tags": "tag", "inputs": "input", "outputs": "output"}
"""Fields of a request that are called otherwise than their options."""
NO_OPTIONS = ("cwd", "target", "typed")
IN_PIPELINES = ("inputs", "outputs", "num_nodes", "processes_per_node", "distribution", "snapshot_root")
NOT_IN_YAML = (
    *("crossval", "crossval_arg", "crossval_count_arg", "different_seeds", "seed_arg", "checkpoint"),
    *("in_place", "record_in", "sdk", "no_mpi_single_node", "python", "default_datastore", "ignored_folders"),
)
"""What files of the one kind can say, and those of the other cannot."""


def is_file(target: str | None) -> bool:
    """Whether *target* names a file that tells of a whole job, by its ending."""
    return target is not None and target.lower().endswith((PIPELINE_ENDING, *YAML_ENDINGS))


def is_pipeline(target: str) -> bool:
    """Whether *target* names a pipeline's JSON file."""
    return target.lower().endswith(PIPELINE_ENDING)


def target_path(request: SubmitRequest) -> Path:
    """The file that is the target. Raises BadUsage where there is none, with one that may have been meant."""
    shown = str(request.target)
    path = request.cwd / shown
    if path.is_file():
        return path.absolute()
    if path.is_dir():
        raise BadUsage(f"'{shown}' is a folder, not a file.")
    names = [each.name for each in path.parent.iterdir() if is_file(each.name)] if path.parent.is_dir() else []
    near = get_close_matches(path.name, names, n=1)
    raise BadUsage(
        f"There is no file '{shown}'.",
        hint=f"Did you mean '{near[0]}'?" if near else "Check the path; it is relative to the current folder.",
    )


def check_options(request: SubmitRequest, counting: frozenset[str], what: str) -> None:
    """Raises BadUsage for an option that was typed and does not count for *what* (`a pipeline file`): those in
    *counting* do."""
    if request.module:
        raise BadUsage(
            "A file and -m MODULE were both given.", hint="himl submit FILE, or himl submit -m package.module"
        )
    if request.arguments:
        raise BadUsage(
            f"Arguments stand behind --, and {what} holds its own.", hint=f"Write them into '{request.target}'."
        )
    for each in fields(SubmitRequest):
        if each.name not in counting and each.name not in NO_OPTIONS and request.is_typed(each.name):
            option = f"--{OPTIONS.get(each.name, each.name)}"
            can_say = each.name in IN_PIPELINES if is_pipeline(str(request.target)) else each.name not in NOT_IN_YAML
            if not can_say:
                raise BadUsage(f"{option} does not count for {what}.", hint="Leave it out.")
            raise BadUsage(
                f"{option} does not count for {what}, which says that itself.",
                hint=f"Write it into '{request.target}'.",
            )


def file_remarks(request: SubmitRequest, what: str) -> list[str]:
    """What settings say for all jobs and has no meaning for *what*, a sentence."""
    if not request.is_told_to_azure:
        return []
    return [f"Passed over: record_in = azure. {what[0].upper()}{what[1:]} that runs here is recorded here alone."]
