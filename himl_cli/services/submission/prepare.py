"""From a request to a job that a workspace can run, and handing it over."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import write_atomic
from himl_cli.core.jobs import (
    Entry,
    EntryKind,
    JobOptions,
    JobSpec,
    Snapshot,
    SnapshotReport,
    check_placeholders,
)
from himl_cli.core.redaction import mask_arguments, mask_line
from himl_cli.core.runs import Run
from himl_cli.core.sweeps import SWEPT, with_search_space
from himl_cli.services.naming import FILE_NAME, automatic_tags, choose_experiment, git_facts
from himl_cli.services.runs.logs import watching
from himl_cli.services.submission.data import parse_inputs, parse_outputs
from himl_cli.services.submission.entry import check_root, entry_file, find_entry, find_python, find_root, named_by
from himl_cli.services.submission.request import (
    PreparedJob,
    SubmitRequest,
    check_size,
    check_values,
    parse_duration,
    without_idle_options,
)
from himl_cli.services.submission.snapshot import ignored_remarks, take_snapshot
from himl_cli.services.submission.sweep_options import (
    copies_remarks,
    requested_sweep,
    single_sweep_option,
    sweep_arguments,
    sweep_remarks,
    sweep_text,
    with_seed,
)
from himl_cli.workspaces.base import JobRunner

LONGEST_TEXT = {"display_name": 256, "description": 5000}
MOST_TAGS = 50
LONGEST_TAG_KEY, LONGEST_TAG_VALUE = 100, 1000
OWN_TAGS = 1
"""The run's recovery id, which is added when the run has an id."""
_PUBLIC_KEYS = re.compile(r"((ssh|ecdsa|sk)-\S+[ \t]+[A-Za-z0-9+/]+=*([ \t][^\r\n]*)?[\r\n]*)+")
_PUBLIC_HINT = "Give the public one, whose file ends in .pub: --ssh_key ~/.ssh/id_ed25519.pub"

log = logging.getLogger(__name__)


def prepare_job(request: SubmitRequest, env: Mapping[str, str] | None = None) -> PreparedJob:
    """Check all that was asked for and list the snapshot; no network, and nothing is written. Raises BadUsage or
    NotFound."""
    check_values(request)
    request, remarks = without_idle_options(request)
    request = single_sweep_option(request)
    sweep = requested_sweep(request)
    if sweep is not None:
        sweep = with_seed(sweep, on_cluster=bool(request.on_cluster), sdk=request.sdk)
    arguments = sweep_arguments(request)
    if sweep and request.command:  # which may hold values itself
        arguments = with_search_space([request.command, *arguments], sweep.space)[1:]
    remarks += sweep_remarks(sweep, arguments) if sweep else []
    start, root = find_root(request)
    entry = find_entry(request, start, root)
    if request.snapshot_root is None and not request.in_place:
        check_root(root, entry_file(entry, root) if request.module else start)
    swept = {SWEPT: sweep_text(sweep)} if sweep else {}
    spec, naming_remarks = job_of_options(request, named_by(entry), root, os.environ if env is None else env, swept)
    distribution, processes = distribution_of(request)
    spec = replace(
        spec,
        entry=entry,
        arguments=arguments,
        sweep=sweep,
        distribution=distribution,
        processes=processes,
        inputs=parse_inputs(request.inputs),
        outputs=parse_outputs(request.outputs),
    )
    remarks += naming_remarks
    if request.on_cluster:
        spec, cluster_remarks = _for_cluster(spec, request, start)
        remarks += cluster_remarks
    check_placeholders(replace(spec, arguments=[*spec.arguments, request.command or ""]))
    if request.is_told_to_azure:
        check_names(spec, request.tags)
    if request.in_place:
        return PreparedJob(spec, None, remarks, request.checkpoint)
    report = _snapshot(request, entry, root)
    remarks += ignored_remarks([report])
    if sweep and not request.on_cluster:
        remarks += copies_remarks(sweep, report.snapshot.size)
    return PreparedJob(replace(spec, snapshot=report.snapshot), report, remarks, request.checkpoint)


def job_of_options(
    request: SubmitRequest, name: str, folder: Path, env: Mapping[str, str], tags: Mapping[str, str] | None = None
) -> tuple[JobSpec, list[str]]:
    """What the options say of a job, whatever it runs, and remarks: names, tags, limits, and what counts on a cluster.

    The experiment is called after *name* where no option says so. *tags* are added to the automatic ones, which the
    user's own replace. Raises BadUsage.
    """
    git = git_facts(folder)
    experiment, remarks = choose_experiment(
        request.experiment, name, from_branch=request.experiment_from_branch, git=git
    )
    automatic = {**automatic_tags(git, request.build, command_line(request)), **(tags or {})}
    if request.on_cluster:
        python = "" if request.python_executable == "python" else request.python_executable
    else:
        python = find_python(request.python, env, Path(sys.prefix))
    log.debug("experiment %s, snapshot root %s, interpreter %s, git %s", experiment, folder, python, git)
    options = {each.name: getattr(request, each.name) for each in fields(JobOptions)}
    options["instance_type"] = request.instance_type or ""  # None where the command line has none
    options["shm_size"] = check_size("--shm_size", request.shm_size) if request.on_cluster else ""
    limit = request.max_run_duration
    spec = JobSpec(
        experiment,
        Entry(EntryKind.script, ""),
        Snapshot(folder, (), 0),
        python=python,
        max_seconds=parse_duration(limit, "--max_run_duration") if limit else None,
        env=request.env_vars,
        tags={**(shorten_tags(automatic) if request.on_cluster else automatic), **request.tags},
        cluster=request.on_cluster,
        nodes=request.num_nodes,
        **options,
    )
    return spec, remarks


def command_line(request: SubmitRequest) -> str:
    """What was run, as the user would type it, secrets masked."""
    if request.module:
        words = ["-m", request.module]
    else:
        words = ["--command", mask_line(request.command)] if request.command else [str(request.target)]
    return shlex.join([*words, *mask_arguments(request.arguments)])


def distribution_of(request: SubmitRequest) -> tuple[str, int | None]:
    """The distribution (`pytorch`, `mpi`, or empty for a plain process) and the processes a node (None: no ranks).

    Here PyTorch's variables are set whenever ranks are asked for. On a cluster, unless `--distribution` says so:
    PyTorch for several processes whose number a node is given, MPI for several nodes without it, and for one process,
    as hi-ml does.
    """
    processes = request.processes_per_node
    if not request.on_cluster:
        return request.distribution or "pytorch", processes
    if request.num_nodes * (processes or 1) == 1:
        usual = "" if request.no_mpi_single_node else "mpi"
    else:
        usual = "mpi" if processes is None else "pytorch"
    chosen = request.distribution or usual
    return chosen, (processes or 1) if chosen else None


def _for_cluster(spec: JobSpec, request: SubmitRequest, start: Path) -> tuple[JobSpec, list[str]]:
    """The job with its environment and its services, and remarks. Raises BadUsage for what Azure ML would refuse."""
    idle = [name for name in ("vscode", "jupyter", "ssh_key", "tensorboard_logs") if request.is_typed(name)]
    remarks = []
    if spec.sweep and idle:
        options = ", ".join(f"--{name}" for name in idle)
        remarks.append(f"Passed over, since Azure ML offers it in single jobs only, and this is many: {options}.")
    services = {} if spec.sweep else _services(request)
    check_names(spec, request.tags)
    for kind, item in [*(("input", item) for item in spec.inputs), *(("output", item) for item in spec.outputs)]:
        if not item.name:
            raise BadUsage(
                f"--{kind} {item.key}: local= is a folder of this machine, which a cluster cannot see.",
                hint=f"Name the data: --{kind} {item.key}=NAME",
            )
    check_placeholders(spec)
    from himl_cli.services.submission.environment import MODULE, choose_environment, environment_remarks

    root = spec.snapshot.root
    environment, found_remarks = choose_environment(request, start.parent if request.target else start, root)
    file = entry_file(spec.entry, root)
    remarks += [*found_remarks, *environment_remarks(environment, file)]
    if spec.entry.kind is EntryKind.module and file is None and spec.entry.target != MODULE:
        remarks.append(f"Module '{spec.entry.target}' is not in '{root}': the job needs it in its environment.")
    return replace(spec, services=services, environment=environment), remarks


def check_names(spec: JobSpec, given: Mapping[str, str]) -> None:
    """Raises BadUsage where names and tags of *spec*, of which the user *given* some, are more than Azure ML takes."""
    texts = [(f"--tag: the key '{key[:30]}…'", key, LONGEST_TAG_KEY) for key in given]
    texts += [(f"--tag {key}: the value", value, LONGEST_TAG_VALUE) for key, value in given.items()]
    texts += [(f"--{name}", getattr(spec, name), most) for name, most in LONGEST_TEXT.items()]
    for shown, text, most in texts:
        if len(text) > most:
            raise BadUsage(f"{shown} has {len(text):,} characters; Azure ML takes {most:,}.", hint="Shorten it.")
    count = len(spec.tags) + OWN_TAGS
    if count > MOST_TAGS:
        raise BadUsage(
            f"The run would have {count} tags; Azure ML takes {MOST_TAGS}.",
            hint=f"Give fewer; {count - len(given)} come by themselves.",
        )


def shorten_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags that himl makes by itself, cut to what the service keeps."""
    most = LONGEST_TAG_VALUE
    return {key: value if len(value) <= most else f"{value[: most - 1]}…" for key, value in tags.items()}


def _services(request: SubmitRequest) -> dict[str, str]:
    """What is to be used in the job while it runs, as JobSpec has it. Raises BadUsage for a key that is no public
    one."""
    services = {"vscode": ""} if request.vscode else {}
    services |= {"jupyterlab": ""} if request.jupyter else {}
    services |= {"tensorboard": request.tensorboard_logs} if request.tensorboard_logs else {}
    return services | ({"ssh": _public_keys(request.cwd, request.ssh_key)} if request.ssh_key else {})


def _public_keys(cwd: Path, given: str) -> str:
    """The public keys of SSH that *given* is, or that the file *given* holds."""
    text = given
    if not _PUBLIC_KEYS.fullmatch(given.strip()):
        try:
            text = (cwd / Path(given).expanduser()).read_text(encoding="utf-8")
        except (OSError, ValueError, RuntimeError) as err:
            shown = "..." if "PRIVATE KEY" in given else given
            raise BadUsage(
                f"--ssh_key '{shown}' is neither a public key nor a file that can be read.", hint=_PUBLIC_HINT
            ) from err
    if "PRIVATE KEY" in text:
        raise BadUsage(
            f"--ssh_key '{given}' holds a private key, which has to stay on this machine.", hint=_PUBLIC_HINT
        )
    if not _PUBLIC_KEYS.fullmatch(text.strip()):
        raise BadUsage(f"--ssh_key '{given}' holds no public key of SSH.", hint=_PUBLIC_HINT)
    return text.strip()


def _snapshot(request: SubmitRequest, entry: Entry, root: Path) -> SnapshotReport:
    report = take_snapshot(root, request.ignored_folders, request.include_secret)
    if entry.kind in (EntryKind.script, EntryKind.shell) and entry.target not in report.snapshot.files:
        downloaded = next((folder for folder in report.downloads if entry.target.startswith(f"{folder}/")), None)
        why = (
            f"himl downloaded files to '{downloaded}'; move the script"
            if downloaded
            else f"Look in its {report.ignore_file}"
        )
        raise BadUsage(
            f"'{entry.target}' is left out of the snapshot of '{root}'.",
            hint=f"{why}, or give another --snapshot_root.",
        )
    return report


def submit_job(workspace: JobRunner, job: PreparedJob, cwd: Path, notify: Notify) -> Run:
    """Start the job and note it in *cwd* as the latest run. Raises what the workspace raises; nothing then runs.

    Raises Interrupted, naming the run, once there is one.
    """
    return start_and_note(lambda: workspace.submit(job.spec, notify=notify), cwd, notify)


def start_and_note(start: Callable[[], Run], cwd: Path, notify: Notify) -> Run:
    """What *start* started, noted in *cwd* as the latest run. Raises Interrupted, naming the run, once there is one."""
    run = start()
    with watching(run.id):
        note_latest(run, cwd, notify)
    return run


def note_latest(run: Run, cwd: Path, notify: Notify) -> None:
    """Make *run* the latest one of *cwd*; *notify* hears of a folder that cannot be written to."""
    try:
        write_atomic(cwd / FILE_NAME, f"{run.recovery_id}\n")  # also when the machine goes down
    except OSError as err:
        notify(Notice(f"Could not write {FILE_NAME} in '{cwd}': {err.strerror}."))
