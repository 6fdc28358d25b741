"""From a request to a job that a workspace can run, and handing it over."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Event, Notice, Notify
from himl_cli.core.jobs import (
    DataSpec,
    Entry,
    EntryKind,
    EnvironmentSpec,
    JobSpec,
    Snapshot,
    SnapshotReport,
    check_placeholders,
)
from himl_cli.core.redaction import mask_arguments, mask_line
from himl_cli.core.runs import Run
from himl_cli.core.sweeps import SWEPT, with_search_space
from himl_cli.services.naming import FILE_NAME, automatic_tags, choose_experiment, git_facts, write_latest_run
from himl_cli.services.runs.logs import watching
from himl_cli.services.submission.data import parse_inputs, parse_outputs
from himl_cli.services.submission.entry import check_root, entry_file, find_entry, find_python, find_root, named_by
from himl_cli.services.submission.request import (
    PreparedJob,
    SubmitRequest,
    check_place,
    check_size,
    parse_duration,
    place_remarks,
    settled,
)
from himl_cli.services.submission.snapshot import ignored_remarks, take_snapshot
from himl_cli.services.submission.sweeps import (
    copies_remarks,
    many_arguments,
    settled_many,
    sweep_for,
    sweep_remarks,
    sweep_text,
)
from himl_cli.workspaces.base import JobRunner

LONGEST_DISPLAY_NAME = 256
LONGEST_DESCRIPTION = 5000
MOST_TAGS = 50
LONGEST_TAG_KEY = 100
LONGEST_TAG_VALUE = 1000
OWN_TAGS = 1
"""The run's recovery id, which is added when the run has an id."""
_PUBLIC_KEYS = re.compile(r"((ssh|ecdsa|sk)-\S+[ \t]+[A-Za-z0-9+/]+=*([ \t][^\r\n]*)?[\r\n]*)+")
_PUBLIC_HINT = "Give the public one, whose file ends in .pub: --ssh_key ~/.ssh/id_ed25519.pub"


def check_for_cluster(spec: JobSpec, given_tags: Mapping[str, str]) -> None:
    """Raises BadUsage where names, tags or data of *spec* are more than the service takes. *given_tags* are the user's
    own."""
    check_names(spec, given_tags)
    for item in spec.inputs:
        _check_named("input", item)
    for item in spec.outputs:
        _check_named("output", item)
    check_placeholders(spec)


def check_names(spec: JobSpec, given_tags: Mapping[str, str]) -> None:
    """Raises BadUsage where names and tags of *spec* are more than the service takes."""
    for option, text, most in (
        ("--display_name", spec.display_name, LONGEST_DISPLAY_NAME),
        ("--description", spec.description, LONGEST_DESCRIPTION),
    ):
        if len(text) > most:
            raise BadUsage(f"{option} has {len(text):,} characters; Azure ML takes {most:,}.", hint="Shorten it.")
    _check_tags(given_tags, len(spec.tags) + OWN_TAGS)


def services_of(request: SubmitRequest) -> dict[str, str]:
    """What is to be used in the job while it runs, as JobSpec has it. Raises BadUsage for a key that is no public
    one."""
    wanted = {
        "vscode": request.vscode,
        "jupyterlab": request.jupyter,
        "tensorboard": request.tensorboard_logs,
        "ssh": request.ssh_key,
    }
    values = {
        "tensorboard": request.tensorboard_logs or "",
        "ssh": _public_keys(request.cwd, request.ssh_key) if request.ssh_key else "",
    }
    return {name: values.get(name, "") for name, value in wanted.items() if value}


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


def shortened(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags that himl makes by itself, cut to what the service keeps."""
    return {
        key: value if len(value) <= LONGEST_TAG_VALUE else f"{value[: LONGEST_TAG_VALUE - 1]}…"
        for key, value in tags.items()
    }


def _check_tags(given: Mapping[str, str], count: int) -> None:
    for key, value in given.items():
        if len(key) > LONGEST_TAG_KEY:
            raise BadUsage(
                f"--tag: the key '{key[:30]}…' has {len(key)} characters; Azure ML takes {LONGEST_TAG_KEY}.",
                hint="Shorten it.",
            )
        if len(value) > LONGEST_TAG_VALUE:
            raise BadUsage(
                f"--tag {key}: the value has {len(value):,} characters; Azure ML takes {LONGEST_TAG_VALUE:,}.",
                hint="Shorten it.",
            )
    if count > MOST_TAGS:
        raise BadUsage(
            f"The run would have {count} tags; Azure ML takes {MOST_TAGS}.",
            hint=f"Give fewer; {count - len(given)} come by themselves.",
        )


def _check_named(kind: str, item: DataSpec) -> None:
    if not item.name:
        raise BadUsage(
            f"--{kind} {item.key}: local= is a folder of this machine, which a cluster cannot see.",
            hint=f"Name the data: --{kind} {item.key}=NAME",
        )


def ranks_of(request: SubmitRequest) -> tuple[str, int | None]:
    """The distribution (`pytorch`, `mpi`, or empty for a plain process) and the processes a node (None: no ranks).

    Here PyTorch's variables are set whenever ranks are asked for. On a cluster, unless `--distribution` says so:
    PyTorch for several processes whose number a node is given, MPI for several nodes without it, and for one process,
    as hi-ml does.
    """
    processes = request.processes_per_node
    if not request.on_cluster:
        return request.distribution or "pytorch", processes
    chosen = request.distribution or _usual(request.num_nodes, processes, mpi_for_one=not request.no_mpi_single_node)
    return chosen, (processes or 1) if chosen else None


def _usual(nodes: int, processes: int | None, *, mpi_for_one: bool) -> str:
    if nodes * (processes or 1) == 1:
        return "mpi" if mpi_for_one else ""
    return "mpi" if processes is None else "pytorch"


log = logging.getLogger(__name__)


def prepare_job(request: SubmitRequest, env: Mapping[str, str] | None = None) -> PreparedJob:
    """Check all that was asked for and list the snapshot; no network, and nothing is written. Raises BadUsage or
    NotFound."""
    check_place(request)
    remarks = place_remarks(request)
    request = settled_many(settled(request))
    sweep = sweep_for(request)
    arguments = many_arguments(request)
    if sweep and request.command:  # which may hold values itself
        arguments = with_search_space([request.command, *arguments], sweep.space)[1:]
    remarks += sweep_remarks(sweep, arguments) if sweep else []
    spec = replace(_of_options(request), arguments=arguments, sweep=sweep)
    start, root = find_root(request)
    entry = find_entry(request, start, root)
    if request.snapshot_root is None and not request.in_place:
        check_root(root, entry_file(entry, root) if request.module else start)
    spec = _with_entry(spec, request, entry, root, env if env is not None else os.environ, remarks)
    if request.on_cluster:
        spec = _for_cluster(spec, request, start, remarks)
    check_placeholders(replace(spec, arguments=[*spec.arguments, request.command or ""]))
    if request.is_told_to_azure:
        check_names(spec, request.tags)
    report = None if request.in_place else _snapshot(request, entry, root)
    remarks += ignored_remarks([report]) if report else []
    if report and spec.sweep and not request.on_cluster:
        remarks += copies_remarks(spec.sweep, report.snapshot.size)
    return PreparedJob(replace(spec, snapshot=report.snapshot) if report else spec, report, remarks, request.checkpoint)


def _of_options(request: SubmitRequest) -> JobSpec:
    """What the options alone say of the job; what is run, and from which files, is yet to be found."""
    max_seconds = parse_duration(request.max_run_duration, "--max_run_duration") if request.max_run_duration else None
    distribution, processes = ranks_of(request)
    return JobSpec(
        experiment="",
        entry=Entry(EntryKind.script, ""),
        snapshot=Snapshot(request.cwd, (), 0),
        in_place=request.in_place,
        processes=processes,
        distribution=distribution,
        max_seconds=max_seconds,
        env=request.env_vars,
        display_name=request.display_name,
        description=request.description,
        inputs=parse_inputs(request.inputs),
        outputs=parse_outputs(request.outputs),
        default_datastore=request.default_datastore,
    )


def _with_entry(
    spec: JobSpec, request: SubmitRequest, entry: Entry, root: Path, env: Mapping[str, str], remarks: list[str]
) -> JobSpec:
    """The job with what follows from its script and its project; what was decided on the way is added to *remarks*."""
    if request.on_cluster:
        python = "" if request.python_executable == "python" else request.python_executable
    else:
        python = find_python(request.python, env, Path(sys.prefix))
    git = git_facts(root)
    log.debug("entry %s, snapshot root %s, interpreter %s, git %s", entry, root, python, git)
    experiment, said_of_it = choose_experiment(
        request.experiment, named_by(entry), from_branch=request.experiment_from_branch, git=git
    )
    remarks += said_of_it
    said = {SWEPT: sweep_text(spec.sweep)} if spec.sweep else {}
    tags = {**automatic_tags(git, request.build, command_line(request)), **said, **request.tags}
    return replace(spec, experiment=experiment, entry=entry, snapshot=Snapshot(root, (), 0), python=python, tags=tags)


def command_line(request: SubmitRequest) -> str:
    """What was run, as the user would type it, secrets masked."""
    what = (
        ["-m", request.module]
        if request.module
        else ["--command", mask_line(request.command)]
        if request.command
        else [str(request.target)]
    )
    return shlex.join([*what, *mask_arguments(request.arguments)])


def _for_cluster(spec: JobSpec, request: SubmitRequest, start: Path, remarks: list[str]) -> JobSpec:
    """The job with what counts on a cluster only; what was decided on the way is added to *remarks*."""
    there = replace(
        spec,
        tags={**shortened(spec.tags), **request.tags},
        cluster=request.on_cluster,
        nodes=request.num_nodes,
        instance_type=request.instance_type or "",
        resource_properties=request.resource_properties or {},
        shm_size=check_size("--shm_size", request.shm_size),
        docker_args=request.docker_args,
        identity=request.identity,
        services={} if spec.sweep else services_of(request),
        sdk=request.sdk,
    )
    idle = [
        f"--{name}"
        for name in ("vscode", "jupyter", "ssh_key", "tensorboard_logs")
        if spec.sweep and request.is_typed(name)
    ]
    remarks += (
        [f"Passed over, since Azure ML offers it in single jobs only, and this is many: {', '.join(idle)}."]
        if idle
        else []
    )
    check_for_cluster(there, request.tags)
    environment = _environment(request, start, spec.snapshot.root, remarks)
    from himl_cli.services.submission.environment import MODULE, environment_remarks

    file = entry_file(spec.entry, spec.snapshot.root)
    remarks += environment_remarks(environment, file)
    if (
        spec.entry.kind is EntryKind.module and file is None and spec.entry.target != MODULE
    ):  # else the environment is spoken of
        remarks.append(
            f"Module '{spec.entry.target}' is not in '{spec.snapshot.root}': the job needs it in its environment."
        )
    return replace(there, environment=environment)


def _environment(request: SubmitRequest, start: Path, root: Path, remarks: list[str]) -> EnvironmentSpec:
    from himl_cli.services.submission.environment import EnvironmentRequest, environment_spec

    def note(event: Event) -> None:
        if isinstance(event, Notice):
            remarks.append(event.text)

    wanted = EnvironmentRequest(
        request.cwd,
        request.conda_env,
        request.requirements,
        request.environment,
        request.docker_image,
        request.pip_extra_index_url,
        request.private_wheel,
        build_context=request.build_context,
        dockerfile=request.dockerfile,
        include_secret=request.include_secret,
    )
    return environment_spec(wanted, start.parent if request.target else start, root, note)


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
    run = workspace.submit(job.spec, notify=notify)
    with watching(run.id):
        note_latest(run, cwd, notify)
    return run


def note_latest(run: Run, cwd: Path, notify: Notify) -> None:
    """Make *run* the latest one of *cwd*; *notify* hears of a folder that cannot be written to."""
    try:
        write_latest_run(cwd, run)
    except OSError as err:
        notify(Notice(f"Could not write {FILE_NAME} in '{cwd}': {err.strerror}."))
