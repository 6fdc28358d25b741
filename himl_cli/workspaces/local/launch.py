"""Starting the process that looks after a run: hand it its request, hear how far it came."""

from __future__ import annotations

import json
import logging
import os
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, Interrupted, JobFailed, NotFound
from himl_cli.core.jobs import EntryKind, JobSpec
from himl_cli.core.processes import ProcessLock, detached, interruptions, is_held
from himl_cli.core.redaction import mask_arguments, mask_line
from himl_cli.workspaces.local.job_environment import find_shell, needs_shell
from himl_cli.workspaces.local.launch_request import LaunchRequest
from himl_cli.workspaces.local.run_folder import RunFolder, explain_disk_error
from himl_cli.workspaces.local.run_process import BUSY, DONE

log = logging.getLogger(__name__)

SUPERVISOR = "himl_cli.workspaces.local.supervisor"
CONTROLLER = "himl_cli.workspaces.local.controller"
STARTING = "starting"
POLL_SECONDS = 0.05
PROGRAMS = {EntryKind.script: ["python"], EntryKind.module: ["python", "-m"], EntryKind.shell: ["bash"]}


def launch(workspace: Path, spec: JobSpec, inputs: Mapping[str, str], outputs: Mapping[str, str], run_id: str) -> None:
    """Start the job in the workspace folder *workspace*; returns once it is recorded and its files are staged.

    Raises DiskFailed when the run cannot be recorded, Interrupted after Ctrl-C (the run is canceled then), NotFound
    without bash for a line of it.
    """
    check_shell(spec)
    folder = RunFolder(workspace / "runs" / run_id)
    log.debug("run %s: inputs %s, outputs %s", run_id, inputs, outputs)
    with own_stdin(spec) as (stdin, handles):
        tagged, shown = with_recovery_id(spec, run_id), shown_command(spec)
        request = LaunchRequest(str(folder.path), str(workspace), tagged, shown, inputs, outputs, stdin)
        begin(SUPERVISOR, request.to_json(), folder, handles)


def with_recovery_id(spec: JobSpec, run_id: str) -> JobSpec:
    """The job with the tag by which hi-ml finds its run."""
    return replace(spec, tags={**spec.tags, "run_recovery_id": f"{spec.experiment}:{run_id}"})


def shown_command(spec: JobSpec) -> str:
    """The command line of the job as people read it, secrets masked."""
    if spec.entry.kind is EntryKind.command:
        return " ".join([mask_line(spec.entry.target), *map(shlex.quote, mask_arguments(spec.arguments))])
    return shlex.join([*PROGRAMS[spec.entry.kind], spec.entry.target, *mask_arguments(spec.arguments)])


def check_shell(spec: JobSpec) -> None:
    """Raises NotFound where the job is a line that needs bash, and there is none."""
    if spec.entry.kind is EntryKind.command and find_shell() is None and needs_shell(spec.entry.target):
        raise NotFound(
            "The job is a command line for bash, which is not installed here.",
            hint="Install bash, or run it on a cluster: --cluster NAME",
        )


@contextmanager
def own_stdin(spec: JobSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What this process reads, for the job to read (`LaunchRequest.stdin`), and the handles that its supervisor
    inherits.

    A pipe, file or socket is handed on itself, so that what the script leaves unread stays there for others, as in a
    shell's loop. Of a terminal only an in-place job gets the name, for a debugger. On Windows nothing is handed on.
    """
    try:
        number = sys.stdin.fileno()
        mode = os.fstat(number).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or an object of the program that calls
        yield "", ()
        return
    if sys.platform == "win32" or stat.S_ISCHR(mode):
        yield os.ttyname(number) if spec.in_place and sys.platform != "win32" and os.isatty(number) else "", ()
        return
    handle = os.dup(number)
    try:
        yield str(handle), (handle,)
    finally:
        os.close(handle)


def begin(module: str, request: str, folder: RunFolder, handles: Sequence[int] = ()) -> None:
    """Make the run's folder, and start the process of *module* for it, which inherits *handles*.

    Returns once the run is recorded and its files are staged. While it is being started, a file in `starting/` is
    locked: by one that is not, `remove_leftovers` knows starts that were killed.
    Raises DiskFailed when the run cannot be recorded, Interrupted after Ctrl-C (the run is canceled then).
    """
    mark = folder.path.parents[1] / STARTING / folder.run_id
    lock, what = ProcessLock(mark), "Cannot start the job"
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        lock.take()
    except OSError as err:
        raise explain_disk_error(err, what, mark) from err
    try:
        try:
            folder.path.mkdir(parents=True)
        except OSError as err:
            raise explain_disk_error(err, what, folder.path) from err
        try:
            folder.allow_to_run()
            error = _start(module, request, folder, handles)
        except OSError as err:
            error = explain_disk_error(err, what, folder.path)
        if error is not None:
            folder.remove()
            raise error
    finally:
        lock.release()
        with suppress(OSError):
            mark.unlink()


def begin_again(module: str, request: str, folder: RunFolder, handles: Sequence[int] = ()) -> None:
    """As `begin`, for a run that is resumed. Raises BadUsage where it is at work or completed; the run stays what it
    was."""
    try:
        error = _start(module, request, folder, handles)
    except OSError as err:
        raise explain_disk_error(err, "Cannot resume the run", folder.path) from err
    if error is not None:
        raise error


def remove_leftovers(workspace: Path, is_recorded: Callable[[str], bool]) -> None:
    """Remove the folders of runs whose start was killed before they were on record."""
    for mark in (workspace / STARTING).glob("*"):
        lock, folder = ProcessLock(mark), RunFolder(workspace / "runs" / mark.name)
        if is_held(mark) or folder.is_supervised() or not lock.take():
            continue
        with suppress(OSError, DiskFailed):
            if not is_recorded(mark.name) and not folder.user_logs.exists():
                folder.remove()
            mark.unlink()
        lock.release()


def spawn(module: str, request: str, folder: RunFolder, handles: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start the process, which inherits *handles*, and hand it *request*. It reports on its stdout. Raises OSError."""
    with (folder.path / "supervisor.log").open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=folder.path,
            pass_fds=handles,
            **detached(),
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it died at once; that it says nothing is noticed next
        process.stdin.write(request.encode())
        process.stdin.close()
    return process


def events_of(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """What the process reports, to the end of its life. What else is printed there (by a sitecustomize) is passed
    over."""
    assert process.stdout is not None
    for line in process.stdout:
        text = line.decode(errors="replace").strip()
        if text:
            log.debug("the supervisor says %s", text)
        with suppress(ValueError):
            event = json.loads(text)
            if isinstance(event, dict) and "event" in event:
                yield event


def start_error(events: list[dict[str, Any]], folder: RunFolder) -> HimlError | None:
    """Why there is no run, as far as *events* say; None where there is one."""
    last = events[-1] if events else {"event": "nothing"}
    if last["event"] in ("started", "recorded"):
        return None  # after 'recorded' alone the supervisor died; the run's free lock tells every reader so
    if last["event"] == "refused":
        kind = BadUsage if last["why"] in (BUSY, DONE) else DiskFailed
        return kind(last["message"], hint=last["hint"])
    why = (folder.path / "supervisor.log").read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    hint = "Is himl installed whole? Try: himl --version"
    return JobFailed(f"The job's supervisor did not start: {why[0]}", hint=hint)


def _start(module: str, request: str, folder: RunFolder, handles: Sequence[int]) -> HimlError | None:
    """Start the process, and wait until it reports that the run is started, or is not: then why. Raises OSError."""
    log.debug("starting a supervisor for %s", folder.path)
    events: list[dict[str, Any]] = []

    def cancel() -> None:
        with suppress(DiskFailed):  # in a signal's handler; what fails here fails again, and is said, right after
            folder.ask_to_cancel()

    with interruptions(cancel) as interrupted:
        process = spawn(module, request, folder, handles)
        for event in events_of(process):
            events.append(event)
            if event["event"] in ("started", "refused"):
                break
    assert process.stdout is not None
    process.stdout.close()
    process.returncode = 0  # it outlives this process, which Popen would warn of
    error = start_error(events, folder)
    if interrupted and error is None:
        folder.ask_to_cancel()
        while folder.is_supervised():
            time.sleep(POLL_SECONDS)
        raise Interrupted(
            f"Run '{folder.run_id}' was canceled.", hint=f"What it wrote is kept: himl runs show {folder.run_id}"
        )
    return error
