"""Reading the log of a run, also while it grows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from himl_cli.core.errors import Interrupted, NotFound
from himl_cli.core.runs import Run
from himl_cli.workspaces.base import AnswersSlowly, BlobStore, JoinsWorkspaces, Workspace

MAIN_LOGS = ("user_logs/std_log.txt", "user_logs/std_log_process_0.txt", "std_log_process_0.txt", "azureml-logs/70_driver_log.txt")
LOG_FOLDERS = ("user_logs/", "logs/", "azureml-logs/", "system_logs/")
LOOKS = (0.05, 0.05)
"""Seconds between two looks at a run that is kept here: its output is to appear as it comes."""
GROWTH = 1.5


def read_log(workspace: Workspace, run_id: str, name: str | None = None) -> Iterator[bytes]:
    """The log called *name*, else the run's main one, piece by piece as it is now. Raises NotFound naming the logs there are."""
    files = workspace.run_files(run_id)
    found = _find(files, name) or _called(files, name)
    if found is None:
        raise _no_log(files, workspace.run(run_id), name)
    return files.read(found)


def follow_log(workspace: Workspace, run_id: str, name: str | None = None) -> Iterator[bytes]:
    """As `read_log`, and then what is added, until the run has ended; a log that is not there yet is waited for.

    Only new bytes are asked for. A service is asked seldom, and more seldom while nothing new comes.
    """
    files = workspace.run_files(run_id)
    at_first, at_most = seconds_between_looks(workspace, run_id)
    found, done, pause, is_looked_for = None, 0, at_first, False
    while True:
        has_ended = workspace.run(run_id).status.is_final  # asked before reading, so that no last bytes are missed
        found = found or _find(files, name) or (_called(files, name) if has_ended or not is_looked_for else None)
        is_looked_for = True
        before = done
        if found is not None:
            for piece in files.read(found, done):
                done += len(piece)
                yield piece
        if has_ended:
            break
        pause = at_first if done > before else min(at_most, pause * GROWTH)
        time.sleep(pause)
    if found is None:
        raise _no_log(files, workspace.run(run_id), name)


def seconds_between_looks(workspace: Workspace, run_id: str) -> tuple[float, float]:
    """How long to wait between two looks at the run: at first, and at most while nothing happens. Raises RunNotFound."""
    home = workspace.home_of(run_id) if isinstance(workspace, JoinsWorkspaces) else workspace
    return home.seconds_between_looks if isinstance(home, AnswersSlowly) else LOOKS


@contextmanager
def watching(run_id: str) -> Iterator[None]:
    """Within it, Ctrl-C ends the watching and not the run. Raises Interrupted, which says so."""
    try:
        yield
    except KeyboardInterrupt as err:
        raise Interrupted(f"Stopped watching; run '{run_id}' goes on.", hint=f"To cancel it: himl runs cancel {run_id}") from err


def _find(files: BlobStore, name: str | None) -> str | None:
    candidates = MAIN_LOGS if name is None else (name, *(folder + name for folder in LOG_FOLDERS))
    return next((candidate for candidate in candidates if files.stat(candidate) is not None), None)


def _called(files: BlobStore, name: str | None) -> str | None:
    """The one log in whatever folder whose last part is *name*; None where there is none, or several."""
    if not name:
        return None
    alike = [log for log in _logs(files) if log.endswith(f"/{name}")]
    return alike[0] if len(alike) == 1 else None


def _logs(files: BlobStore) -> list[str]:
    return [blob.name for folder in LOG_FOLDERS for page in files.list(folder) for blob in page]


def _no_log(files: BlobStore, run: Run, name: str | None) -> NotFound:
    there = _logs(files)
    if name is None and not there:
        if run.status.is_final:
            return NotFound(f"Run '{run.id}' ended without a log.", hint=f"See himl runs show {run.id}")
        return NotFound(f"Run '{run.id}' has no log yet.", hint=f"To wait for it: himl runs logs {run.id} --follow")
    alike = [log for log in there if name and log.endswith(f"/{name}")]
    near = alike[:5] or get_close_matches(name or "", there, n=3, cutoff=0.4) or there[:5]
    what = f"log '{name}'" if name is not None else "main log"
    return NotFound(f"Run '{run.id}' has no {what}.", hint=f"There are: {', '.join(near)}." if near else "It has no logs.")
