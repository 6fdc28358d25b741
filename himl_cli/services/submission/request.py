"""The options of `himl submit` as one request.

This module decides which options apply to a job, checks their values, and derives the names, tags, limits and Python
interpreter that every kind of job has.
"""

from __future__ import annotations

import getpass
import glob
import json
import logging
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field, fields, replace
from pathlib import Path, PurePath
from typing import Any

from himl_cli.core.engines import engine_address
from himl_cli.core.errors import BadUsage
from himl_cli.core.files import Globs, expand_user, with_slashes
from himl_cli.core.jobs import (
    DISTRIBUTIONS,
    HERE,
    DataSpec,
    Entry,
    EntryKind,
    EnvironmentSpec,
    JobOptions,
    JobSpec,
    Snapshot,
    SnapshotReport,
    is_job_file,
)
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import is_address, mask_arguments, mask_document, mask_line, redact
from himl_cli.core.runs import experiment_remarks, friendly_experiment
from himl_cli.core.settings import section_settings
from himl_cli.core.sweeps import SweepSpec
from himl_cli.core.text import non_blank, parse_duration, shorten
from himl_cli.core.webhook import WEBHOOK_FORMATS, Webhook
from himl_cli.services.submission.git import git_facts
from himl_cli.workspaces.engine_modules import label_of

log = logging.getLogger(__name__)

AZURE, THIS_MACHINE, QUEUE = "azure", "here", "queue"  # what takes an option (see `option`)
LOCAL = f"{THIS_MACHINE} {QUEUE}"
NO_RETRIES = "Azure ML does not restart failed jobs."
NO_GPUS = "On Azure ML, the instance decides how many GPUs a job has."
LEAST_PART = 0.01  # of a GPU
CLUSTER = {"engines": AZURE, "files": "pipeline"}
MANY_RUNS = {"files": "pipeline"}
PACKAGE_FILES = ("conda_env", "requirements", "lock")
MADE_FROM_FILES = (*PACKAGE_FILES, "docker_image", "pip_extra_index_url", "private_wheel")
# Options of one group exclude those of another
ENVIRONMENT_SOURCES = (("environment",), MADE_FROM_FILES, ("build_context", "dockerfile"))

MOST_NODES = 65_000  # the limit of Azure ML for one cluster
# Per node. Local ranks all start on this machine, so a typo could exhaust its memory.
MOST_PROCESSES = 1024
MOST = {"num_nodes": MOST_NODES, "node_count": MOST_NODES, "processes_per_node": MOST_PROCESSES}
MOST_RETRIES = 1000
LONGEST_SHOWN = 24  # characters of an invalid count in a message
LONGEST_TAG_VALUE = 1000
# Files that pipx and `uv tool` write into the environments that they create
TOOL_MARKS = ("pipx_metadata.json", "uv-receipt.toml")


def option(default: Any = None, *, engines: str = "", files: str = "", choices: Sequence[str] = ()) -> Any:
    """A field for an option of `himl submit`.

    *engines* names what takes the option, separated by spaces, empty for everything: `azure`, `here` (this machine),
    the name of an engine of the local workspace, or `queue` for all of these that have a queue. *files* lists the kinds
    of job files that accept it, separated by spaces: `pipeline`, `yaml`, or `yaml_local` for a job's YAML that runs on
    this machine. *choices* are the permitted values.
    """
    default_factory = {"default_factory": default} if callable(default) else {"default": default}
    return field(**default_factory, metadata={"engines": engines, "files": files, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class SubmitRequest(JobOptions):
    """The options of `himl submit`, as typed.

    `cwd` is the user's current folder, and `build` the `--build_*` options by tag name. `typed` names the options
    from the command line. An option that does not apply to a job is ignored if it comes from a settings file, and
    an error if it was typed. With None, every option that differs from its default counts as typed. At most one of
    `sweep`, `crossval` and `different_seeds` is set. Without them, the job is a single run. `ready_sweep` and
    `ready_snapshot` are a sweep and a snapshot that do not come from options, and so is `ready_environment`.
    `python_executable` (the words before the script on a cluster), `resource_properties` and `tensorboard_logs` are
    arguments of `submit_to_azure_if_needed` only.
    """

    cwd: Path
    target: str | None = None
    module: str | None = None
    arguments: Sequence[str] = ()
    python_executable: str = "python"
    tensorboard_logs: str | None = None
    ready_sweep: SweepSpec | None = None
    ready_snapshot: Snapshot | None = None
    ready_environment: EnvironmentSpec | None = None
    typed: frozenset[str] | None = None

    command: str | None = option()
    set_values: Mapping[str, str] = option(dict, files="yaml")
    cluster: str | None = option(files="pipeline yaml")
    after: Sequence[str] = option((), engines="slurm", files="pipeline yaml_local")
    grace: str | None = option(engines="slurm", files="pipeline yaml_local")
    sbatch: Sequence[str] = option((), engines="slurm", files="pipeline yaml_local")
    record_in: str | None = option(engines=THIS_MACHINE, choices=(HERE, "azure"))
    python: str | None = option(engines=LOCAL, files="pipeline yaml_local")
    takes_slot: bool = option(False, engines=THIS_MACHINE, files="pipeline yaml_local")
    num_nodes: int = option(1, engines=f"{AZURE} {QUEUE}")
    processes_per_node: int | None = option()
    distribution: str | None = option(choices=DISTRIBUTIONS)
    no_mpi_single_node: bool = option(False, engines=AZURE)
    shm_size: str = option("100g", **CLUSTER)
    max_run_duration: str | None = option(files="pipeline yaml_local")
    snapshot_root: str | None = option()
    ignored_folders: Sequence[str] = option((), files="pipeline yaml_local")
    include_secret: Sequence[str] = option((), files="pipeline yaml")
    conda_env: Sequence[str] = option((), **CLUSTER)
    requirements: str | None = option(**CLUSTER)
    lock: str | None = option(**CLUSTER)
    environment: str | None = option(**CLUSTER)
    docker_image: str | None = option(**CLUSTER)
    pip_extra_index_url: str | None = option(**CLUSTER)
    private_wheel: str | None = option(**CLUSTER)
    build_context: str | None = option(engines=AZURE)
    dockerfile: str | None = option(engines=AZURE)
    vscode: bool = option(False, engines=AZURE)
    jupyter: bool = option(False, engines=AZURE)
    ssh_key: str | None = option(engines=AZURE)
    env_vars: Mapping[str, str] = option(dict, files="pipeline yaml")
    experiment: str | None = option(files="pipeline yaml")
    experiment_from_branch: bool = option(False, files="pipeline yaml")
    tags: Mapping[str, str] = option(dict, files="pipeline yaml")
    build: Mapping[str, str] = option(dict, files="pipeline yaml")
    inputs: Sequence[str | DataSpec] = option(())
    outputs: Sequence[str | DataSpec] = option(())
    checkpoint: str | None = option()

    sweep: Sequence[str] = option((), **MANY_RUNS)
    sampling: str | None = option(**MANY_RUNS)
    max_trials: int | None = option(**MANY_RUNS)
    max_concurrent: int | None = option(**MANY_RUNS)
    max_failures: int | None = option(engines=LOCAL, files="pipeline yaml_local")
    primary_metric: str = option("val/loss", **MANY_RUNS)
    goal: str = option("minimize", **MANY_RUNS)
    early_stop: str | None = option(**MANY_RUNS)
    crossval: int | None = option(**MANY_RUNS)
    crossval_arg: str = option("crossval_index", **MANY_RUNS)
    crossval_count_arg: str | None = option(**MANY_RUNS)
    different_seeds: int | None = option(**MANY_RUNS)
    seed_arg: str = option("random_seed", **MANY_RUNS)
    notify: str | None = option(files="pipeline yaml")
    notify_format: str | None = option(files="pipeline yaml", choices=WEBHOOK_FORMATS)

    @property
    def on_azure(self) -> str:
        """The Azure ML cluster of the job, or an empty string for a local job."""
        name = str(self.cluster or HERE).strip().removeprefix("azureml:")
        return "" if name.lower() == HERE or self.queue is not None else name

    @property
    def queue(self) -> tuple[str, str] | None:
        """NAME and PLACE of `--cluster NAME:PLACE`, an engine of the local workspace. None for another job."""
        return engine_address(self.cluster)

    @property
    def engine(self) -> str:
        """What runs the job: `azure`, `here`, or the name of an engine of the local workspace."""
        if self.queue is not None:
            return self.queue[0]
        return AZURE if self.on_azure else THIS_MACHINE

    @property
    def is_mirrored(self) -> bool:
        """Whether the job runs on this machine and is also recorded in an Azure ML workspace."""
        return self.record_in == "azure" and self.engine == THIS_MACHINE

    def is_set(self, name: str) -> bool:
        """Whether the option differs from its default."""
        value = getattr(self, name)
        return bool(value) if isinstance(value, (list, tuple, dict)) else value not in (None, getattr(_DEFAULTS, name))

    def is_typed(self, name: str) -> bool:
        """Whether the user set the option for this job, not in a settings file."""
        return self.is_set(name) and (self.typed is None or name in self.typed)

    def without(self, *names: str) -> SubmitRequest:
        """The request with these options reset to their defaults."""
        changes: dict[str, Any] = {name: getattr(_DEFAULTS, name) for name in names}
        return replace(self, **changes)


_DEFAULTS = SubmitRequest(cwd=Path())
_OPTIONS = {each.name: each.metadata for each in fields(SubmitRequest) if each.metadata}
CHOICES = {name: metadata["choices"] for name, metadata in _OPTIONS.items() if metadata.get("choices")}
# Options whose field in a request has a different name
REQUEST_FIELDS = {
    "set": "set_values",
    "env_var": "env_vars",
    "tag": "tags",
    "input": "inputs",
    "output": "outputs",
    "queue": "takes_slot",
}


@dataclass(frozen=True)
class PreparedJob:
    """A job, the report on its snapshot (None for a job that runs in place), and remarks to show before it starts.

    `checkpoint` is the SOURCE that the job starts from. It has not been resolved yet. `changes` is the diff of the
    snapshot against its commit. `temporary` is a folder with the snapshot, which is deleted once the job has started.
    """

    spec: JobSpec
    report: SnapshotReport | None
    remarks: Sequence[str] = ()
    checkpoint: str | None = None
    changes: bytes = b""
    temporary: Path | None = None


def refuse(where: str, *checks: tuple[bool, str, str]) -> None:
    """Raise BadUsage for the first of *checks* that is true, with *where* before its message, and with its hint."""
    for is_wrong, message, hint in checks:
        if is_wrong:
            raise BadUsage(f"{where}{message}", hint=hint)


def check_values(request: SubmitRequest) -> None:
    """Raise BadUsage for invalid values, and for typed options that do not apply to the job's compute target."""
    for name in ("command", "cluster", "checkpoint"):
        non_blank(f"--{name}", getattr(request, name))
    sources = {"A script": request.target, "-m MODULE": request.module, "--command": request.command}
    given = [name for name, value in sources.items() if value]
    if len(given) != 1:
        hint = 'himl submit SCRIPT.py, or himl submit -m package.module, or himl submit --command "PROGRAM ..."'
        raise BadUsage(f"{' and '.join(given[:2])} cannot be combined." if given else "Nothing to run.", hint=hint)
    is_idle = request.is_typed("set_values") and not is_job_file(request.target)
    refuse("--set ", (is_idle, "applies to jobs in YAML only.", "Write the arguments of a script after --"))
    check_choices(request)
    for name in ("num_nodes", "processes_per_node"):
        value = getattr(request, name)
        if value is not None and (problem := count_problem(value, MOST[name])):
            too_few = isinstance(value, int) and value < 1
            raise BadUsage(f"--{name} must be at least 1, not {value}." if too_few else f"--{name} {problem}")
    if request.keep:
        Globs(request.keep)  # raises BadUsage for an invalid pattern
    refuse(
        "",
        (
            not 0 <= request.retries <= MOST_RETRIES,
            f"--retries must be from 0 to {MOST_RETRIES:,}, not {request.retries}.",
            "",
        ),
        (
            bool(request.on_azure) and request.is_typed("retries"),
            f"--retries {request.retries}: {NO_RETRIES}",
            "Omit --retries. Azure ML restarts a job that loses its low-priority node.",
        ),
        (
            bool(request.on_azure) and request.is_typed("gpus"),
            f"--gpus {request.gpus or 0:g}: {NO_GPUS}",
            "Omit --gpus, and use a --cluster or an --instance_type with as many GPUs.",
        ),
        (
            not _is_gpu_count(request.gpus, is_local=request.engine == THIS_MACHINE),
            f"--gpus must be a whole number, or on this machine a part of one such as 0.5, not {request.gpus or 0:g}.",
            "",
        ),
    )
    if request.keep and request.on_azure and request.sdk == "v1":
        raise BadUsage("--keep and --sdk v1 cannot be combined.", hint="Omit one of them.")
    if request.queue is not None and not re.fullmatch(r"\S*", request.queue[1]):
        name = request.queue[0]
        raise BadUsage(f"--cluster '{request.cluster}' has no valid place.", hint=f"Example: --cluster {name}:gpu")
    for name in filter(request.is_typed, untaken_options(request.engine)):
        _refuse_untaken(request, name, getattr(request, name))


def _is_gpu_count(value: float | None, *, is_local: bool) -> bool:
    if value is None or value in range(MOST_PROCESSES + 1):
        return True
    return is_local and LEAST_PART <= value < 1


def _refuse_untaken(request: SubmitRequest, name: str, value: Any) -> None:
    """Raise BadUsage for a typed option that the job's engine does not take. A local job ignores those of Azure ML."""
    takers = str(_OPTIONS[name]["engines"]).split()
    name = next((option for option, field in REQUEST_FIELDS.items() if field == name), name)
    typed = f"--{name}{'' if value is True else f' {value}'}"
    others = [] if THIS_MACHINE in takers else [word for word in takers if word not in (AZURE, QUEUE)]
    if name == "num_nodes":
        hint = "For several processes, use --processes_per_node."
        raise BadUsage(f"--num_nodes {value}: a local job has one node.", hint=hint)
    if others:
        hint = f"Add --cluster {others[0]}:NAME"
        raise BadUsage(f"--{name} applies to {label_of(others[0])} jobs only.", hint=hint)
    if request.queue is not None and name == "record_in" and value != HERE:
        what = f"--record_in {value} does not apply to {label_of(request.engine)} jobs, which himl records locally."
        raise BadUsage(what, hint="Omit --record_in.")
    if request.on_azure or name in ("gpus", "queue"):
        where = f"cluster '{request.on_azure}'" if request.on_azure else label_of(request.engine)
        raise BadUsage(
            f"{typed} applies to local jobs only, and this job runs on {where}.",
            hint="To run it on this machine, add --cluster local",
        )


def check_choices(request: SubmitRequest) -> None:
    """Raise BadUsage for an option whose value is not one of its choices."""
    for name, choices in CHOICES.items():
        value = getattr(request, name)
        if value not in (None, *choices):
            raise BadUsage(f"--{name} cannot be '{value}'.", hint=f"Use one of: {', '.join(choices)}.")


def without_idle_options(request: SubmitRequest) -> tuple[SubmitRequest, list[str]]:
    """The request without the options that do not apply to it, and a remark on those of them that were typed.

    Such options belong to another compute target, or to another environment than the one that was typed.
    """
    if request.on_azure:
        typed = [group for group in ENVIRONMENT_SOURCES if any(map(request.is_typed, group))]
        dropped = [name for group in ENVIRONMENT_SOURCES if typed and group not in typed for name in group]
        if any(map(request.is_typed, PACKAGE_FILES)):
            dropped += [name for name in PACKAGE_FILES if not request.is_typed(name)]
        return request.without(*untaken_options(AZURE), *dropped), remarks_of_azure(request)
    untaken = untaken_options(request.engine)
    of_azure = [name for name in untaken if _OPTIONS[name]["engines"] == AZURE]
    idle = [f"--{name}" for name in of_azure if request.is_typed(name)]
    idle += [f"num_nodes = {request.num_nodes}"] if request.num_nodes != 1 and "num_nodes" in untaken else []
    where = "on this machine" if request.queue is None else f"on {label_of(request.engine)}"
    remarks = [f"Ignored, because the job runs {where}: {', '.join(idle)}."] if idle else []
    if request.queue is not None and request.record_in == "azure":
        name = label_of(request.engine)
        remarks.append(f"Ignored: record_in = azure. himl records {name} jobs in the local workspace only.")
    uncopied = [f"--{name}" for name in ("ignored_folders", "include_secret", "keep") if request.is_typed(name)]
    if request.in_place and uncopied:
        remarks.append(f"Ignored, because a job that runs in place has no snapshot: {', '.join(uncopied)}.")
    if request.is_typed("distribution") and request.processes_per_node is None:
        remarks.append(
            "Ignored, because the job is a single process: --distribution. To start ranks, add --processes_per_node N."
        )
    return request.without(*untaken), remarks


def with_terminal(request: SubmitRequest, *, waits: bool) -> SubmitRequest:
    """The request, without `tty` if the job cannot have a terminal. Raises BadUsage if it was typed then."""
    several = ("sweep", "crossval", "different_seeds", "processes_per_node")
    reasons = {
        f"--cluster {request.cluster}": request.engine != THIS_MACHINE,
        **{f"--{name}": request.is_set(name) for name in several},
        "--no_wait": not waits,
        "Windows, which has no pseudo terminals for it": sys.platform == "win32",
    }
    reason = next((text for text, is_true in reasons.items() if is_true), "")
    if reason and request.is_typed("tty"):
        raise BadUsage(f"--tty cannot be used with {reason}.", hint="Omit one of them.")
    return request.without("tty") if reason else request


def remarks_of_azure(request: SubmitRequest) -> list[str]:
    """Remarks that Azure ML neither retries jobs nor limits their GPUs, if the settings ask for it."""
    remarks = [f"Ignored: retries = {request.retries}. {NO_RETRIES}"] if request.retries else []
    return [*remarks, *([f"Ignored: gpus = {request.gpus:g}. {NO_GPUS}"] if request.gpus is not None else [])]


def untaken_options(engine: str) -> list[str]:
    """The options that jobs of *engine* (see `SubmitRequest.engine`) do not take."""
    words = {engine} if engine in (AZURE, THIS_MACHINE) else {engine, QUEUE}
    takers = {name: str(metadata.get("engines", "")).split() for name, metadata in _OPTIONS.items()}
    return [name for name, known in takers.items() if known and not words & {*known}]


def target_path(request: SubmitRequest) -> Path:
    """The path of the target file. Raises BadUsage if it does not exist, with a suggestion of a similar name."""
    shown = str(request.target)
    path = request.cwd / shown
    if path.is_file():
        return path.absolute()
    names = [each.name for each in path.parent.iterdir() if is_job_file(each.name)] if path.parent.is_dir() else []
    if path.is_dir():
        raise BadUsage(f"'{shown}' is a folder, not a file.")
    raise BadUsage(f"There is no file '{shown}'.", hint=near_path(shown, names))


def near_path(shown: str, names: Iterable[str]) -> str:
    """A hint for a path that does not exist: similar ones among *names* in its folder."""
    from difflib import get_close_matches

    if is_address(shown):
        return "A job runs a file of this machine. Download it, or clone its repository, first."
    if set("*?") & set(shown):
        return "One job runs one script. For values of its arguments, use --sweep."
    if Path(f"{shown.replace('.', '/')}.py").is_file():
        return f"Did you mean -m {shown}?"
    others = [text for text in (expand_user(shown), with_slashes(shown)) if text != shown and Path(text).is_file()]
    in_lower, wanted = {name.lower(): name for name in names}, Path(shown).name.lower()
    alike = [wanted] if wanted in in_lower else get_close_matches(wanted, [*in_lower], n=2)
    if wanted not in in_lower:
        others = others or _same_name_elsewhere(Path(shown).name)
    near = [in_lower[name] for name in alike]
    found = " or ".join(f"'{text}'" for text in others or [Path(shown).with_name(name).as_posix() for name in near])
    return f"Did you mean {found}?" if found else "Check the path. It is relative to the current folder."


def _same_name_elsewhere(name: str) -> list[str]:
    """The nearest file *name* in a folder above the current one, up to the project's, or in folders of the current
    one."""
    from himl_cli.services.submission.snapshot import find_snapshot_root

    cwd = Path.cwd()
    root = find_snapshot_root(cwd)
    above = [each for each in cwd.parents if each.is_relative_to(root) and (each / name).is_file()][:1]
    below = sorted(each.as_posix() for each in Path().glob(f"*/{glob.escape(name)}") if each.is_file())
    return [os.path.relpath(each / name).replace(os.sep, "/") for each in above] or below[:2]


def options_outside(kinds: Sequence[str]) -> list[str]:
    """The options that do not apply to job files of these *kinds*."""
    return [key for key, metadata in _OPTIONS.items() if not set(kinds) & set(metadata.get("files", "").split())]


def beside_file(request: SubmitRequest, kinds: Sequence[str], name: str) -> tuple[SubmitRequest, list[str]]:
    """The request without settings that do not apply to a job file of these *kinds*, which messages call *name* (`a
    pipeline file`), and a remark on `record_in`. Raises BadUsage for a typed option that does not apply."""
    idle = options_outside(kinds)
    typed = next(filter(request.is_typed, idle), "")
    shown = next((option for option, name_here in REQUEST_FIELDS.items() if name_here == typed), typed)
    refuse(
        "",
        (
            bool(request.module),
            "A file and -m MODULE cannot be combined.",
            "himl submit FILE, or himl submit -m package.module",
        ),
        (
            bool(request.arguments),
            f"Arguments after '--' do not apply to {name}.",
            f"Write them into '{request.target}'.",
        ),
        (
            bool(typed),
            f"--{shown} does not apply to {name}.",
            f"Omit it, or use a key of '{request.target}', if there is one for it.",
        ),
    )
    remark = f"Ignored: record_in = azure. himl records local runs of {name} in the local workspace only."
    return request.without(*idle), [remark] if request.is_mirrored else []


def check_size(option_name: str, text: str) -> str:
    """*text* as a size for Docker: a whole number and b, k, m or g. Raises BadUsage."""
    if not re.fullmatch(r"0*[1-9]\d*[bkmg]", text.strip(), re.IGNORECASE) or len(text) > LONGEST_SHOWN:
        raise BadUsage(f"{option_name} '{text}' is not a size.", hint="Write a whole number and a unit: 512m or 100g.")
    return text.strip().lower()


def count_problem(value: object, most: int) -> str:
    """The problem with a count, to complete the sentence `'node_count' …`. Empty for an integer from 1 to *most*."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        too_many = f"must be at most {most:,}{f', not {value:,}' if value < 10**LONGEST_SHOWN else ''}."
        return too_many if value > most else ""
    return f"must be a positive integer, not {shorten(json.dumps(value, default=repr), LONGEST_SHOWN)}."


# Names, tags and limits of every kind of job


def job_of_options(
    request: SubmitRequest,
    name: str,
    folder: Path,
    env: Mapping[str, str],
    tags: Mapping[str, str] | None = None,
    *,
    has_snapshot: bool = True,
) -> tuple[JobSpec, list[str]]:
    """The names, tags, limits and cluster options of a job of any kind, and remarks.

    *name* is the default name of the experiment. *tags* are added to the automatic tags, and the user's tags replace
    both. *has_snapshot*: himl lists the files of the job. Raises BadUsage.
    """
    git = git_facts(folder, has_snapshot=has_snapshot) if request.ready_snapshot is None else {}
    experiment, remarks = choose_experiment(
        request.experiment, name, from_branch=request.experiment_from_branch, git=git
    )
    automatic = {**automatic_tags(git, request.build, command_line(request)), **(tags or {})}
    limit, engine, exported = request.max_run_duration, None, dict[str, str]()
    seconds = parse_duration(limit, "--max_run_duration") if limit else None
    if request.queue is not None:
        from himl_cli.services.submission.engine_options import engine_spec, with_names_only

        grace = parse_duration(request.grace, "--grace") if request.grace else None
        given = engine_spec(*request.queue, request.cwd, request.sbatch, seconds or 0, grace)
        engine, exported = with_names_only(given)
    if request.on_azure:
        automatic = shorten_tags(automatic)
        python = "" if request.python_executable == "python" else request.python_executable
    else:
        python = engine.python if engine else ""
        if not python or request.is_typed("python"):
            python = find_python(request.python, env, Path(sys.prefix))
        if engine and request.is_typed("python"):
            engine = replace(engine, python=python)
    log.debug("experiment %s, snapshot root %s, interpreter %s, git %s", experiment, folder, python, git)
    options = {each.name: getattr(request, each.name) for each in fields(JobOptions)}
    if request.takes_slot and not request.gpus:
        options["slots"] = slots_of(request.cwd)
    if request.gpus is not None and 0 < request.gpus < 1:
        remarks.append(f"--gpus {request.gpus:g}: jobs that share a GPU must divide its memory themselves.")
    options["instance_type"] = request.instance_type or ""  # None if it is not on the command line
    options["shm_size"] = check_size("--shm_size", request.shm_size) if request.on_azure else ""
    spec = JobSpec(
        experiment,
        Entry(EntryKind.script, ""),
        Snapshot(folder, (), 0),
        python=python,
        max_seconds=seconds,
        env={**exported, **request.env_vars},
        tags={**automatic, **mask_document(request.tags)},
        cluster=request.on_azure,
        nodes=request.num_nodes,
        engine=engine,
        webhook=webhook_of(request),
        **options,
    )
    return spec, remarks


def slots_of(cwd: Path) -> int:
    """The number of jobs with `--queue` that may run at the same time, from the settings. Raises BadUsage."""
    slots = 1
    for key, setting in section_settings(cwd, "local").items():
        slots = setting.value
        if key != "slots":
            raise setting.wrong("is unknown.", hint="The section [local] has the key 'slots'.")
        if problem := count_problem(slots, MOST_PROCESSES):
            raise setting.wrong(problem)
    return slots


def webhook_of(request: SubmitRequest) -> Webhook | None:
    """The webhook of `--notify`. Raises BadUsage."""
    if request.notify is not None:
        return Webhook.of(request.notify, request.notify_format)
    if request.is_typed("notify_format"):
        raise BadUsage(f"--notify_format {request.notify_format} needs --notify.", hint="Add --notify URL")
    return None


def job_words(request: SubmitRequest) -> tuple[list[str], Sequence[str]]:
    """The job and its arguments, as the user would type them."""
    target = ["--command", request.command] if request.command else [str(request.target)]
    return ["-m", request.module] if request.module else target, request.arguments


def command_line(request: SubmitRequest) -> str:
    """The command line of the job, as the user would type it, with secrets masked."""
    target, arguments = job_words(request)
    return shlex.join([*(map(mask_line, target) if request.command else target), *mask_arguments(arguments)])


def choose_experiment(
    asked: str | None, target: str, *, from_branch: bool, git: Mapping[str, str]
) -> tuple[str, list[str]]:
    """The name of the experiment, and remarks on it.

    The name is *asked*, else the git branch with *from_branch*, else the stem of the script, else the module with `_`
    for `.`. Raises BadUsage if *from_branch* is set and no branch is checked out, and for an empty name.
    """
    if asked is None and from_branch:
        asked = git.get("build_branch")
        if not asked:
            raise BadUsage(
                "--experiment_from_branch: no git branch is checked out.",
                hint="Name the experiment: --experiment NAME",
            )
    if asked is not None:
        chosen = friendly_experiment(asked)
        return chosen, experiment_remarks(asked, chosen)
    path = PurePath(target)
    if path.suffix not in (".py", ".sh"):
        return friendly_experiment(target), []
    chosen = friendly_experiment(path.stem)
    return chosen, experiment_remarks(path.stem, chosen)


def automatic_tags(git: Mapping[str, str], build: Mapping[str, str], command_line: str) -> dict[str, str]:
    """Tags that himl adds to a run: those of git, the user name and the command line, overridden by *build*. Tags
    without a value are omitted."""
    user = ""
    with suppress(OSError, KeyError, ImportError):  # in some containers, the user id has no name
        user = getpass.getuser()
    tags = {**git, "build_user": user, "command_line": command_line, **build}
    return {name: redact(value) for name, value in tags.items() if value}


def find_python(asked: str | None, env: Mapping[str, str], own_prefix: Path) -> str:
    """The interpreter: *asked*, else that of the active environment, else that of *own_prefix* unless pipx or uv made
    it for himl alone, else `python3` on PATH.

    Raises BadUsage if *asked* is not an executable program, or if there is no interpreter at all.
    """
    prefixes = [Path(env[name]) for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if env.get(name)]
    if not any((own_prefix / mark).exists() for mark in TOOL_MARKS):
        prefixes.append(own_prefix)
    names = ("python.exe", "Scripts/python.exe") if sys.platform == "win32" else ("bin/python", "bin/python3")
    commands = [*(str(prefix / name) for prefix in prefixes for name in names), "python3", "python"]
    commands = [expand_user(asked)] if asked else commands
    found = next(filter(None, (shutil.which(each, path=env.get("PATH")) for each in commands)), None)
    if found is None:
        if asked and Path(commands[0]).is_dir():
            hint = f"Name the program: --python {shlex.quote(f'{asked}/bin/python')}"
            raise BadUsage(f"'{asked}' is a folder, not a Python.", hint=hint)
        raise BadUsage(
            f"There is no Python interpreter '{asked or 'python3'}'.", hint="Name one: --python /path/to/python"
        )
    # Links are not resolved, because the python of a virtual environment is a link
    return os.path.abspath(found)


def check_names(spec: JobSpec, given: Mapping[str, str]) -> None:
    """Raise BadUsage if names or tags of *spec* exceed the limits of Azure ML. *given* are the user's tags."""
    keys = [(f"--tag: the key '{key[:30]}…'", key, 100) for key in given]
    values = [(f"--tag {key}: the value", value, LONGEST_TAG_VALUE) for key, value in given.items()]
    texts = [("--display_name", spec.display_name, 256), ("--description", spec.description, 5000)]
    for shown, text, most in (*keys, *values, *texts):
        if len(text) > most:
            raise BadUsage(f"{shown} has {len(text):,} characters. Azure ML allows {most:,}.", hint="Shorten it.")
    count = len(spec.tags) + 1  # the recovery id, which himl adds once the run has an id
    if count > 50:
        raise BadUsage(
            f"The run would have {count} tags. Azure ML allows 50.",
            hint=f"Use fewer tags. himl adds {count - len(given)}.",
        )


def shorten_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Automatic tags, cut to the maximum length that Azure ML stores."""
    most = LONGEST_TAG_VALUE
    return {key: value if len(value) <= most else f"{value[: most - 1]}…" for key, value in tags.items()}
