"""Starting the process that looks after a run, and hearing how far it came."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, Interrupted, JobFailed
from himl_cli.core.processes import ProcessLock, detached, interruptions, is_held
from himl_cli.workspaces.local.disk_errors import explain_disk_error
from himl_cli.workspaces.local.keeping import BUSY, DONE
from himl_cli.workspaces.local.run_folder import RunFolder

log = logging.getLogger(__name__)

SUPERVISOR = "himl_cli.workspaces.local.supervisor"
STARTING = "starting"
KEEPER_OF_MANY = "himl_cli.workspaces.local.many.keeper"
SECONDS_BETWEEN_LOOKS = 0.05


def begin(module: str, order: str, folder: RunFolder, handles: Sequence[int] = ()) -> None:
    """Make the run's folder, and start the process of *module* for it, which inherits *handles*.

    Returns once the run is recorded and its files are laid.
    Raises DiskFailed when the run cannot be recorded, Interrupted after Ctrl-C (the run is canceled then).
    """
    with _marked(folder):
        try:
            folder.path.mkdir(parents=True)
        except OSError as err:
            raise explain_disk_error(err, "Cannot start the job", folder.path) from err
        try:
            folder.let_it_run()
            events = _start(module, order, folder, handles)
        except OSError as err:
            folder.remove()
            raise explain_disk_error(err, "Cannot start the job", folder.path) from err
        if (trouble := trouble_in(events, folder)) is not None:
            folder.remove()
            raise trouble


@contextmanager
def _marked(folder: RunFolder) -> Iterator[None]:
    """Within it the run is being started: `remove_leftovers` is told by a file that is locked meanwhile."""
    mark = folder.path.parents[1] / STARTING / folder.run_id
    lock = ProcessLock(mark)
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        lock.take()
    except OSError as err:
        raise explain_disk_error(err, "Cannot start the job", mark) from err
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            mark.unlink()


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


def begin_again(module: str, order: str, folder: RunFolder, handles: Sequence[int] = ()) -> None:
    """As `begin`, for a run that is there and goes on. Raises BadUsage where it is at work or completed; the run stays
    what it was."""
    try:
        events = _start(module, order, folder, handles)
    except OSError as err:
        raise explain_disk_error(err, "Cannot resume the run", folder.path) from err
    if (trouble := trouble_in(events, folder)) is not None:
        raise trouble


def spawn(module: str, order: str, folder: RunFolder, handles: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start the process, which inherits *handles*, and hand it *order*. It tells on its stdout. Raises OSError."""
    with (folder.path / "supervisor.log").open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            cwd=folder.path,
            pass_fds=handles,
            **detached(),
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it died at once; that it says nothing is noticed next
        process.stdin.write(order.encode())
        process.stdin.close()
    return process


def events_of(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """What the process tells, to the end of its life. What else is printed there (by a sitecustomize) is passed
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


def trouble_in(events: list[dict[str, Any]], folder: RunFolder) -> HimlError | None:
    """Why there is no run, as far as *events* tell; None where there is one."""
    last = events[-1] if events else {"event": "nothing"}
    if last["event"] in ("started", "recorded"):
        return None  # after 'recorded' alone the supervisor died; the run's free lock tells every reader so
    if last["event"] == "refused":
        kind = BadUsage if last["why"] in (BUSY, DONE) else DiskFailed
        return kind(last["message"], hint=last["hint"])
    why = (folder.path / "supervisor.log").read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    return JobFailed(
        f"The job's supervisor did not start: {why[0]}", hint="Is himl installed whole? Try: himl --version"
    )


def _start(module: str, order: str, folder: RunFolder, handles: Sequence[int]) -> list[dict[str, Any]]:
    """What the process told until the run was started, or was not."""
    log.debug("starting a supervisor for %s", folder.path)
    events: list[dict[str, Any]] = []
    with interruptions(lambda: _try_to_cancel(folder)) as interrupted:
        process = spawn(module, order, folder, handles)
        for event in events_of(process):
            events.append(event)
            if event["event"] in ("started", "refused"):
                break
    assert process.stdout is not None
    process.stdout.close()
    process.returncode = 0  # it outlives this process, which Popen would warn of
    if interrupted and trouble_in(events, folder) is None:
        folder.ask_to_cancel()
        while folder.is_supervised():
            time.sleep(SECONDS_BETWEEN_LOOKS)
        raise Interrupted(
            f"Run '{folder.run_id}' was canceled.", hint=f"What it wrote is kept: himl runs show {folder.run_id}"
        )
    return events


def _try_to_cancel(folder: RunFolder) -> None:
    """From a signal's handler nothing may be raised; what fails here fails again, and is said, right after the
    start."""
    with suppress(DiskFailed):
        folder.ask_to_cancel()
