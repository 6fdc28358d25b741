"""From what the user asked for to a job that a workspace can run."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import Entry, EntryKind, JobSpec, Snapshot, SnapshotReport
from himl_cli.core.redaction import mask_arguments
from himl_cli.core.runs import Run
from himl_cli.services.data_specs import parse_inputs, parse_outputs
from himl_cli.services.git import git_facts
from himl_cli.services.interpreter import find_python
from himl_cli.services.latest_run_file import FILE_NAME, write_latest_run
from himl_cli.services.naming import automatic_tags, choose_experiment
from himl_cli.services.snapshot import find_snapshot_root, take_snapshot
from himl_cli.workspaces.base import SubmitsJobs

log = logging.getLogger(__name__)

DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
SECONDS_IN = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DISTRIBUTIONS = ("pytorch", "mpi")
KINDS = {".py": EntryKind.script, ".sh": EntryKind.shell}


@dataclass(frozen=True)
class SubmitRequest:
    """The options of `himl submit`, as typed; `cwd` is where the user is, `build` the `--build_*` options by tag name."""

    cwd: Path
    target: str | None = None
    module: str | None = None
    arguments: Sequence[str] = ()
    python: str | None = None
    in_place: bool = False
    num_nodes: int = 1
    processes_per_node: int | None = None
    distribution: str | None = None
    max_run_duration: str | None = None
    snapshot_root: str | None = None
    ignored_folders: Sequence[str] = ()
    env_vars: Mapping[str, str] = field(default_factory=dict)
    experiment: str | None = None
    experiment_from_branch: bool = False
    display_name: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    build: Mapping[str, str] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    default_datastore: str | None = None


@dataclass(frozen=True)
class PreparedJob:
    """The job, and what is sent with it (None in place: nothing is)."""

    spec: JobSpec
    report: SnapshotReport | None


def prepare_job(request: SubmitRequest, env: Mapping[str, str] | None = None) -> PreparedJob:
    """Check all that was asked for and list the snapshot. Nothing is written. Raises BadUsage or NotFound."""
    _check_machine(request)
    max_seconds = parse_duration(request.max_run_duration) if request.max_run_duration else None
    inputs, outputs = parse_inputs(request.inputs), parse_outputs(request.outputs)
    start, root = _find_root(request)
    entry = _find_entry(request, start, root)
    python = find_python(request.python, env if env is not None else os.environ, Path(sys.prefix))
    git = git_facts(root)
    log.debug("entry %s, snapshot root %s, interpreter %s, git %s", entry, root, python, git)
    experiment = choose_experiment(request.experiment, entry.target, from_branch=request.experiment_from_branch, git=git)
    report = None if request.in_place else take_snapshot(root, request.ignored_folders)
    if report is not None and entry.kind is not EntryKind.module and entry.target not in report.snapshot.files:
        raise BadUsage(f"'{entry.target}' is left out of the snapshot of '{root}'.", hint=f"Look in its {report.ignore_file}, or give another --snapshot_root.")
    spec = JobSpec(
        experiment=experiment,
        entry=entry,
        snapshot=report.snapshot if report else Snapshot(root, (), 0),
        arguments=request.arguments,
        python=python,
        in_place=request.in_place,
        processes=request.processes_per_node,
        distribution=request.distribution or "pytorch",
        max_seconds=max_seconds,
        env=request.env_vars,
        tags={**automatic_tags(git, request.build, command_line(request)), **request.tags},
        display_name=request.display_name,
        description=request.description,
        inputs=inputs,
        outputs=outputs,
        default_datastore=request.default_datastore,
    )
    return PreparedJob(spec, report)


def command_line(request: SubmitRequest) -> str:
    """What was run, as the user would type it, secrets masked."""
    return shlex.join([*(["-m", request.module] if request.module else [str(request.target)]), *mask_arguments(request.arguments)])


def parse_duration(text: str) -> float:
    """Seconds of `30s`, `30m`, `2h` or `1.5d`. Raises BadUsage."""
    found = DURATION.fullmatch(text.strip())
    if found is None or float(found[1]) == 0:
        raise BadUsage(f"'{text}' is no duration.", hint="Write a number and a unit: 30s, 30m, 2h or 1.5d.")
    return float(found[1]) * SECONDS_IN[found[2]]


def _check_machine(request: SubmitRequest) -> None:
    """What one machine cannot do is said before anything happens."""
    if (request.target is None) == (request.module is None):
        both = request.target is not None
        raise BadUsage("A script and -m MODULE were both given." if both else "Nothing to run.", hint="himl submit SCRIPT.py, or himl submit -m package.module")
    if request.distribution not in (None, *DISTRIBUTIONS):
        raise BadUsage(f"--distribution cannot be '{request.distribution}'.", hint=f"It is one of: {', '.join(DISTRIBUTIONS)}.")
    if request.num_nodes != 1:
        raise BadUsage(f"--num_nodes {request.num_nodes}: a job that runs here has one node.", hint="Use --processes_per_node for several processes.")
    if request.processes_per_node is not None and request.processes_per_node < 1:
        raise BadUsage(f"--processes_per_node {request.processes_per_node}: at least 1 is needed.")


def _find_root(request: SubmitRequest) -> tuple[Path, Path]:
    """The script's path (or the current folder, for a module) and the snapshot root."""
    start = request.cwd / request.target if request.target else request.cwd
    if request.target:
        _check_script(start, request.target)
        start = start.parent.resolve() / start.name
    if request.snapshot_root is None:
        return start, find_snapshot_root(start.parent if request.target else start)
    root = (request.cwd / request.snapshot_root).resolve()
    if not root.is_dir():
        raise BadUsage(f"--snapshot_root '{request.snapshot_root}' is no folder.")
    return start, root


def _check_script(path: Path, shown: str) -> None:
    if path.is_dir():
        raise BadUsage(f"'{shown}' is a folder, not a script.", hint=f"Name the script in it: himl submit {shown.rstrip('/')}/train.py")
    if not path.exists():
        scripts = [name.name for kind in KINDS for name in path.parent.glob(f"*{kind}")] if path.parent.is_dir() else []
        near = get_close_matches(path.name, scripts, n=1)
        raise BadUsage(f"There is no script '{shown}'.", hint=f"Did you mean '{near[0]}'?" if near else "Check the path; it is relative to the current folder.")
    if path.suffix not in KINDS:
        raise BadUsage(f"'{shown}' is neither a .py nor a .sh script.", hint="Name such a script, or a module: himl submit -m package.module")


def _find_entry(request: SubmitRequest, script: Path, root: Path) -> Entry:
    if request.module:
        if not all(part.isidentifier() for part in request.module.split(".")):
            raise BadUsage(f"-m '{request.module}' is no module name.", hint="Write it with dots, without .py: -m package.module")
        return Entry(EntryKind.module, request.module)
    if not script.is_relative_to(root):
        raise BadUsage(f"'{request.target}' lies outside the snapshot root '{root}'.", hint="Give a --snapshot_root that holds the script.")
    return Entry(KINDS[script.suffix], script.relative_to(root).as_posix())


def check_place(cluster: str | None, record_in: str | None, azure_config: Path | None) -> None:
    """Refuse what needs an Azure ML workspace, before anything is made. Raises BadUsage."""
    asked = f"--cluster {cluster}" if cluster and cluster != "local" else f"--record_in {record_in}" if record_in and record_in != "local" else None
    if asked is None:
        return
    if azure_config is not None:
        raise BadUsage(
            f"{asked}: this version of himl runs and records jobs here only, not in the workspace of '{azure_config}'.", hint="Leave it out to run here."
        )
    raise BadUsage(
        f"{asked}: no Azure ML workspace is configured.",
        hint="To configure one, put its config.json (Azure portal) in the project's folder. Without the option jobs run here, all that this version can do.",
    )


def submit_job(workspace: SubmitsJobs, job: PreparedJob, cwd: Path, notify: Notify) -> Run:
    """Start the job and note it in *cwd* as the latest run. Raises what the workspace raises; nothing then runs."""
    run = workspace.submit(job.spec, notify=notify)
    try:
        write_latest_run(cwd, run)
    except OSError as err:
        notify(Notice(f"Could not write {FILE_NAME} in '{cwd}': {err.strerror}."))
    return run
