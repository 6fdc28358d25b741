"""Waiting for a run that was just submitted here: its output as it grows, and Ctrl-C's rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress

from himl_cli.core.errors import Interrupted, JobFailed, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.runs import Run, RunStatus
from himl_cli.services.run_logs import follow_log
from himl_cli.workspaces.base import Workspace

TAIL_BYTES = 64 * 1024
FAILED_RANK = re.compile(r"rank (\d+): ")  # how a run's reason begins when one of several ranks failed


def wait_for_run(workspace: Workspace, run_id: str, write: Callable[[bytes], None], notify: Notify, interrupted: Sequence[int]) -> Run:
    """Hand the run's output to *write* until the run has ended; return it as it ended.

    Once *interrupted* holds a signal, the run is canceled, and Interrupted is raised when it has ended. The list is that of
    `core.interruptions`, which is to hold from before the job starts: no signal may be lost in between.
    """
    cancel = _Cancel(workspace, run_id, interrupted, notify)
    try:
        with suppress(NotFound):  # a job that ended before its log was opened
            for piece in follow_log(workspace, run_id, at_each_look=cancel):
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


class _Cancel:
    """Asks the run to stop, once, when an interruption was noted."""

    def __init__(self, workspace: Workspace, run_id: str, interrupted: Sequence[int], notify: Notify) -> None:
        self._workspace = workspace
        self._run_id = run_id
        self._interrupted = interrupted
        self._notify = notify
        self._asked = False

    def __call__(self) -> None:
        if self._interrupted and not self._asked:
            self._asked = True
            self._notify(Notice(f"Canceling run '{self._run_id}': it has 10 seconds to end by itself."))
            self._workspace.cancel(self._run_id)
