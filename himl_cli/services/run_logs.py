"""Reading the log of a run, also while it grows."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from himl_cli.core.errors import HimlError, Interrupted, JobFailed, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.runs import Run, RunStatus
from himl_cli.services.patience import Patience
from himl_cli.workspaces.abilities import AnswersSlowly, JoinsWorkspaces
from himl_cli.workspaces.base import BlobStore, Workspace

SWEEP_LOG = "azureml-logs/hyperdrive.txt"
PIPELINE_LOG = "logs/azureml/executionlogs.txt"
MAIN_LOGS = ("user_logs/std_log.txt", "user_logs/std_log_process_0.txt", "std_log_process_0.txt", "azureml-logs/70_driver_log.txt", SWEEP_LOG, PIPELINE_LOG)
RANK_LOGS = "user_logs/std_log_process_"
RANK_LOG = re.compile(r"(?:user_logs/)?std_log_process_(\d+)\.txt")
LOG_FOLDERS = ("user_logs/", "logs/", "azureml-logs/", "system_logs/")
LOOKS = (0.05, 0.05)
"""Seconds between two looks at a run that is kept here: its output is to appear as it comes."""
GROWTH = 1.5
TAIL_BYTES = 64 * 1024


def read_log(workspace: Workspace, run_id: str, name: str | None = None) -> Iterator[bytes]:
    """The log called *name*, else the run's main one, piece by piece as it is now. Raises NotFound naming the logs there are."""
    files = workspace.run_files(run_id)
    found = _find(files, name) or _called(files, name)
    if found is None:
        raise _no_log(files, workspace.run(run_id), name)
    return files.read(found)


def follow_log(workspace: Workspace, run_id: str, name: str | None = None, notify: Notify = ignore, *, start: int = 0) -> Iterator[bytes]:
    """As `read_log`, from the byte *start* on, and then what is added, until the run has ended; a log that is not there yet is waited for.

    Only new bytes are asked for. A service is asked seldom, and more seldom while nothing new comes; one that does not answer
    is borne with for ten minutes. *notify* hears of that, and of a run's state as long as a service has no log of it.
    """
    at_first, at_most = seconds_between_looks(workspace, run_id)
    log = _GrowingLog(workspace, run_id, name, notify if (at_first, at_most) != LOOKS else ignore, start)
    patience, pause = Patience(notify), at_first
    while not log.is_over:
        before = log.done
        try:
            yield from log.look()
            patience.answered()
        except ServiceFailed as err:
            patience.bear(err)
        pause = at_first if log.done > before else min(at_most, pause * GROWTH)
        if not log.is_over:
            time.sleep(pause)
    log.check_found()


class _GrowingLog:
    """A log that is read piece by piece: how far that went, and whether more can come."""

    def __init__(self, workspace: Workspace, run_id: str, name: str | None, say: Notify, start: int) -> None:
        self.workspace = workspace
        self.run_id = run_id
        self.name = name
        self.done = start
        self.is_over = False
        self._say = say
        self._files: BlobStore | None = None
        self._found: str | None = None
        self._is_looked_for = False
        self._status: RunStatus | None = None

    def look(self) -> Iterator[bytes]:
        """What is new. May be called again after a failure, and goes on where that came."""
        status = self.workspace.run(self.run_id).status  # asked before reading, so that no last bytes are missed
        if self._files is None:
            self._files = self.workspace.run_files(self.run_id)
        if self._found is None:
            self._found = _find(self._files, self.name) or (_called(self._files, self.name) if status.is_final or not self._is_looked_for else None)
            self._is_looked_for = True
        if self._found is not None:
            for piece in self._files.read(self._found, self.done):
                self.done += len(piece)
                yield piece
        elif status is not self._status and not status.is_final:
            self._say(Notice(f"Run '{self.run_id}' is {status.value.lower()}; it has no log yet."))
        self._status = status
        self.is_over = status.is_final

    def check_found(self) -> None:
        """Raises NotFound, naming the logs there are, where this one never came."""
        if self._found is None:
            raise _no_log(self.workspace.run_files(self.run_id), self.workspace.run(self.run_id), self.name)


def last_lines(workspace: Workspace, run_id: str, name: str | None = None, *, count: int = 20) -> tuple[str, bytes] | None:
    """The log's name (the main one's, unless *name* says which) and its last *count* lines; None where there is none."""
    files = workspace.run_files(run_id)
    found = _find(files, name)
    blob = files.stat(found) if found else None
    if found is None or blob is None:
        return None
    tail = b"".join(files.read(found, max(0, blob.size - TAIL_BYTES)))
    return found, b"".join(tail.splitlines(keepends=True)[-count:])


def seconds_between_looks(workspace: Workspace, run_id: str) -> tuple[float, float]:
    """How long to wait between two looks at the run: at first, and at most while nothing happens. Raises RunNotFound."""
    home = workspace.home_of(run_id) if isinstance(workspace, JoinsWorkspaces) else workspace
    return home.seconds_between_looks if isinstance(home, AnswersSlowly) else LOOKS


@contextmanager
def watching(run_id: str) -> Iterator[None]:
    """Within it, Ctrl-C ends the watching and not the run. Raises Interrupted, which says so; failures of every kind say it too."""
    with naming(run_id):
        try:
            yield
        except KeyboardInterrupt as err:
            raise Interrupted(f"Stopped watching; run '{run_id}' goes on.", hint=f"To cancel it: himl runs cancel {run_id}") from err


@contextmanager
def naming(run_id: str) -> Iterator[None]:
    """Within it, what goes wrong with looking at the run says that the run does not end by that; what is said of the run itself stays as it is."""
    way_on = f"Run '{run_id}' goes on, unless it has ended; to see it: himl runs show {run_id}, to cancel it: himl runs cancel {run_id}"
    try:
        yield
    except (JobFailed, NotFound, Interrupted):
        raise
    except HimlError as err:
        err.hint = f"{err.hint} {way_on}".strip()
        raise
    except Exception as err:
        err.__notes__ = [*getattr(err, "__notes__", ()), way_on]  # type: ignore[attr-defined]  # `add_note` comes with Python 3.11
        raise


def _find(files: BlobStore, name: str | None) -> str | None:
    candidates = MAIN_LOGS if name is None else (name, *(folder + name for folder in LOG_FOLDERS))
    found = next((candidate for candidate in candidates if files.stat(candidate) is not None), None)
    rank = RANK_LOG.fullmatch(name or MAIN_LOGS[1])
    return _log_of_rank(files, int(rank[1])) if found is None and rank else found


def _log_of_rank(files: BlobStore, number: int) -> str | None:
    """The log of a rank whose number is padded with zeros, as the service writes them where ranks are many (`std_log_process_00.txt`)."""
    named = ((blob.name, RANK_LOG.fullmatch(blob.name)) for page in files.list(RANK_LOGS) for blob in page)
    return next((name for name, rank in named if rank and int(rank[1]) == number), None)


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
