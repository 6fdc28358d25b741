"""Waiting for a run that was just submitted here: its output as it grows, and Ctrl-C's rule."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from himl_cli.core.errors import HimlError, Interrupted, JobFailed, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.runs import Run, RunStatus
from himl_cli.services.run_logs import follow_log
from himl_cli.workspaces.base import Workspace

SECONDS_BETWEEN_LOOKS = 0.05
TAIL_BYTES = 64 * 1024
FAILED_RANK = re.compile(r"rank (\d+): ")  # how a run's reason begins when one of several ranks failed


def wait_for_run(workspace: Workspace, run_id: str, write: Callable[[bytes], None], notify: Notify, interrupted: Sequence[int]) -> Run:
    """Hand the run's output to *write* until the run has ended; return it as it ended.

    Once *interrupted* holds a signal, the run is canceled, and Interrupted is raised when it has ended. The list is that of
    `core.interruptions`, which is to hold from before the job starts: no signal may be lost in between.
    """
    try:
        with _canceling(workspace, run_id, notify, interrupted), suppress(NotFound):  # a job may end before its log was opened
            for piece in follow_log(workspace, run_id):
                write(piece)
    except KeyboardInterrupt as err:
        raise Interrupted(f"Stopped waiting; run '{run_id}' is still being stopped.", hint=f"See how it ends: himl runs show {run_id}") from err
    run = workspace.run(run_id)
    if interrupted and run.status is RunStatus.canceled:
        raise Interrupted(f"Run '{run_id}' was canceled.", hint=f"What it wrote is kept: himl runs show {run_id}")
    return run


def raise_unless_completed(run: Run) -> None:
    """Raises JobFailed, naming the run and why it did not complete."""
    if run.status is RunStatus.canceled:
        raise JobFailed(f"Run '{run.id}' was canceled.", hint=f"See himl runs show {run.id}")
    if run.status is not RunStatus.completed:
        look = f"Its output: himl runs logs {run.id}" if run.started else f"See himl runs show {run.id}"
        name = _log_of_failed_rank(run)
        raise JobFailed(f"Run '{run.id}' failed: {(run.reason or 'no reason is known').rstrip('.')}.", hint=look + (f" --file {name}" if name else ""))


def last_lines_of_failed_rank(workspace: Workspace, run: Run, count: int = 20) -> tuple[str, bytes] | None:
    """The log's name and its last *count* lines when a rank failed whose output was not shown; else None."""
    name = _log_of_failed_rank(run)
    files = workspace.run_files(run.id)
    blob = files.stat(name) if name else None
    if name is None or blob is None:
        return None
    tail = b"".join(files.read(name, max(0, blob.size - TAIL_BYTES)))
    return name, b"".join(tail.splitlines(keepends=True)[-count:])


def _log_of_failed_rank(run: Run) -> str | None:
    found = FAILED_RANK.match(run.reason)
    return f"user_logs/std_log_process_{found[1]}.txt" if found and found[1] != "0" else None


@contextmanager
def _canceling(workspace: Workspace, run_id: str, notify: Notify, interrupted: Sequence[int]) -> Iterator[None]:
    """Cancels the run once *interrupted* holds a signal; in a thread, since the main one may be held up by whoever reads the output."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(SECONDS_BETWEEN_LOOKS):
            if interrupted:
                notify(Notice(f"Canceling run '{run_id}': it has 10 seconds to end by itself."))
                try:
                    workspace.cancel(run_id)
                except HimlError as err:
                    notify(Notice(f"{err} {err.hint}".strip()))
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
