"""Follow runs that are in progress: their logs as they grow, their statuses, and the rule for Ctrl-C."""

from __future__ import annotations

import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from himl_cli.core.errors import HimlError, Interrupted, JobFailed, NotFound, ServiceFailed, StoppedWatching
from himl_cli.core.events import Event, Notice, Notify, Starting, ignore
from himl_cli.core.mounts import is_local_folder
from himl_cli.core.records import dataclass
from himl_cli.core.runs import Run, RunQuery, RunStatus
from himl_cli.core.text import named
from himl_cli.services.runs.logs import (
    USER_LOGS,
    AttemptLogs,
    Log,
    find_log,
    log_called,
    log_of_attempt,
    logs_by_attempt,
    no_log,
    said_of_build,
)
from himl_cli.services.runs.lookup import sweep_view
from himl_cli.workspaces.base import BlobStore, FolderWorkspace, LocalStore, Workspace
from himl_cli.workspaces.retry import Pauses

# Seconds between checks of the folder of a local run, while its log grows and at most, and between reads of its record
# while the folder does not change, on a file system of this machine, and on one that many jobs may share
OWN_PAUSES, SHARED_PAUSES = (0.2, 0.4, 2.0), (5.0, 5.0, 90.0)
FRESH_SECONDS = 1.0  # after a change in the folder, in which the record may change
# himl polls a run this much less often when only its end matters.
SELDOM = 3


@dataclass()
class OutageTolerance:
    """For polling: report the first failure, and raise only after `seconds` without a success."""

    notify: Notify
    seconds: float = 600.0
    clock: Callable[[], float] = time.monotonic
    failing_since: float | None = None

    def succeeded(self) -> None:
        """Record a success."""
        if self.failing_since is not None:
            self.failing_since = None
            self.notify(Notice("The service responds again."))

    def failed(self, error: ServiceFailed) -> None:
        """Record a failure. Raises *error* if failures have lasted too long."""
        if self.failing_since is None:
            self.failing_since = self.clock()
            self.notify(Notice(f"{error} himl keeps trying. The run continues."))
        elif self.clock() - self.failing_since > self.seconds:
            raise error


class FolderWatch:
    """Waits for changes of a local run, without reading its record each time."""

    def __init__(self, workspace: FolderWorkspace, run_id: str) -> None:
        self._workspace, self._run_id = workspace, run_id
        pauses = OWN_PAUSES if is_local_folder(workspace.folder) else SHARED_PAUSES
        self._while_growing, self._longest, self._seldom = pauses
        self._changed, self._begin, self._grown = 0, 0.0, 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether the folder has just changed."""
        return time.monotonic() - self._begin < FRESH_SECONDS

    def note_growth(self) -> None:
        """Make the next pauses shorter, since the run's log has grown."""
        self._grown = time.monotonic()

    def pauses(self) -> Iterator[None]:
        """Yields after each pause without a change in the run's folder. Ends when the record should be read: soon after
        a change, else after a while. A run may end at once, so each pause is a tenth of the time since the last change,
        up to the longest one."""
        begin = time.monotonic()
        while True:
            changed = self._workspace.folder_changed(self._run_id)
            if changed != self._changed:
                self._changed, self._begin = changed, time.monotonic()
            changed_ago, grown_ago = (time.monotonic() - each for each in (self._begin, self._grown))
            time.sleep(min(self._longest, max(0.0025, changed_ago / 10), max(self._while_growing, grown_ago / 10)))
            if self.is_fresh or time.monotonic() - begin >= self._seldom:
                return
            yield


def follow_log(
    workspace: Workspace,
    run_id: str,
    name: str | None = None,
    notify: Notify = ignore,
    *,
    start: int = 0,
    attempt: int | None = None,
) -> Iterator[bytes]:
    """Read a log like `read_log`, from byte *start*, and then new bytes until the run has ended. Wait for a log that
    does not exist yet.

    While a job on Azure ML waits for its image, the log of the image build comes first. When another attempt begins,
    its log follows, unless *attempt* selects one.

    himl requests new bytes only. It polls a service at intervals, which grow while nothing new arrives, and tolerates
    an outage of ten minutes. *notify* receives notices of outages, of attempts, and of the run's status while a
    service has no log of it.
    """
    return _GrowingLog(workspace, run_id, name, notify, start, attempt).pieces()


class _GrowingLog:
    """The log of a run that is in progress: how far it was read, and the attempt that writes it."""

    def __init__(
        self, workspace: Workspace, run_id: str, name: str | None, notify: Notify, start: int, attempt: int | None
    ) -> None:
        self._workspace, self._run_id, self._name, self._notify = workspace, run_id, name, notify
        self._start, self._attempt = start, attempt
        home = workspace.home_of(run_id)
        self._pauses = Pauses(*home.poll_interval)
        self._watch = FolderWatch(home, run_id) if isinstance(home, FolderWorkspace) else None
        self._attempts = AttemptLogs(home)
        self._files: BlobStore | None = None
        self._log: Log | None = None
        self._status: RunStatus | None = None
        self._is_known, self._has_grown = True, False
        self._path: Path | None = None  # of a local log
        self._seen: tuple[int, int, int] | None = None  # of it and its folder, before it was last read
        self._begin(start)

    def _begin(self, done: int) -> None:
        """Read on at byte *done* of a log."""
        self._done, self._was_running, self._is_requeued = done, False, False
        self._is_due = True  # whether the logs may have changed
        self._attempts.inode = 0

    def pieces(self) -> Iterator[bytes]:
        outage = OutageTolerance(self._notify)
        while True:
            self._has_grown = False
            try:
                yield from self._poll()
                outage.succeeded()
            except ServiceFailed as err:
                outage.failed(err)
            if self._status is not None and self._status.is_final:
                break
            if self._watch is not None:
                yield from self._until_change(self._watch)
            else:
                time.sleep(self._pauses.next(has_changed=self._has_grown))
        if self._log is None:
            run = self._workspace.run(self._run_id)
            raise no_log(self._workspace.run_files(self._run_id), run, self._name, self._attempt)

    def _until_change(self, watch: FolderWatch) -> Iterator[bytes]:
        """New bytes of the log of a local run, until its record should be read."""
        files, log, path = self._files, self._log, self._path
        if self._is_due:
            path = files.path_of(log.name) if files and log and isinstance(files, LocalStore) else None
            self._path = path
        self._is_due = self._is_requeued
        for _ in watch.pauses():
            if files is None or log is None or path is None or self._is_requeued:
                continue
            try:
                facts = os.stat(path)
            except OSError:
                facts = None
            if facts is None or facts.st_size < self._done or facts.st_ino != (self._attempts.inode or facts.st_ino):
                self._is_due = True  # another attempt has replaced it
                return
            if facts.st_size > self._done:
                watch.note_growth()
                yield from self._new_pieces(files, log)
            if self._is_due:
                return
        if watch.is_fresh:
            seen = None if path is None else _look_at(path)
            self._is_due |= seen is None or seen != self._seen
            self._seen = seen

    def _poll(self) -> Iterator[bytes]:
        # Read the status before the log, so that the last bytes are not missed.
        run = self._workspace.run(self._run_id)
        if self._is_known and run.is_unknown:
            self._notify(Notice(run.doubt))
        self._is_known = not run.is_unknown
        files = self._files = self._files or self._workspace.run_files(self._run_id)
        if self._log is None or self._log.is_build:
            yield from self._find(files, run.status)
        if self._log is not None and (self._is_due or run.status is not self._status):
            yield from self._read_on(files, self._log, run.status)
        elif run.status is not self._status and not run.status.is_final and self._watch is None:
            self._notify(Notice(f"Run '{self._run_id}' is {run.status.value.lower()}, and has no log yet."))
        self._status = run.status

    def _find(self, files: BlobStore, status: RunStatus) -> Iterator[bytes]:
        """Find the log. One of the image build is read to its end when there is a log of the job."""
        build, found = self._log, find_log(files, self._name, self._attempt)
        if build is None and found is not None and found.is_build:
            self._done = 0
            self._notify(said_of_build(self._run_id, found))
        elif build is not None and found is not None and not found.is_build:
            yield from self._new_pieces(files, build)
            self._begin(self._start)
            self._notify(Notice(f"The image is ready. The log of run '{self._run_id}': {found.name}"))
        self._log = found or build
        self._is_due |= found is not None
        if self._log is None and self._attempt is None and (self._status is None or status.is_final):
            self._log = log_called(files, self._name)

    def _read_on(self, files: BlobStore, log: Log, status: RunStatus) -> Iterator[bytes]:
        """New bytes of the log, and then the logs of later attempts."""
        ran_before = self._was_running
        self._was_running = ran_before or status is RunStatus.running
        if not self._is_requeued:
            yield from self._new_pieces(files, log)
        if log.attempt and (status.is_final or not self._has_grown):
            for later, begin in _later_attempts(files, log, self._name, self._done, is_requeued=self._is_requeued):
                if self._attempt is None or (later.attempt == self._attempt and later.name != log.name):
                    yield from self._later_pieces(files, later, begin)
        if ran_before and self._was_running and not self._has_grown and status is RunStatus.queued:
            # The log is complete. Later changes belong to another attempt.
            self._is_requeued = True

    def _later_pieces(self, files: BlobStore, log: Log, begin: int) -> Iterator[bytes]:
        known, self._log = self._log, log
        is_rest = known is not None and log.attempt == known.attempt and log.name != known.name
        self._begin(begin)
        if not is_rest:
            text = f"Another attempt of run '{self._run_id}' has begun. Its log: {log.name}"
            lacking = code_that_lacks(self._workspace, self._run_id)
            self._notify(Notice(f"{text}. It runs {lacking}" if lacking else text))
        yield from self._new_pieces(files, log)

    def _new_pieces(self, files: BlobStore, log: Log) -> Iterator[bytes]:
        with suppress(NotFound):  # another attempt is about to replace the log
            pieces = files.read(log.name, self._done)
            first = next(pieces, b"")
            if first and self._attempts.is_replaced(files, log, self._name):
                self._is_due = True
                return
            for piece in chain([first] if first else [], pieces):
                self._done += len(piece)
                self._has_grown = True
                yield piece


def _look_at(log: Path) -> tuple[int, int, int] | None:
    """What differs after *log* has grown or another one has come into its folder. None if there is no such file."""
    try:
        facts = os.stat(log)
        return facts.st_ino, facts.st_size, os.stat(log.parent).st_mtime_ns
    except OSError:
        return None


def code_that_lacks(workspace: Workspace, run_id: str) -> str:
    """The code of a local run, described by the changes in the project that it lacks. Empty if it lacks none."""
    home = workspace.home_of(run_id)
    with suppress(HimlError, OSError):
        if isinstance(home, FolderWorkspace) and (names := [each for _, some in home.code_of(run_id) for each in some]):
            return f"the code of the submission, which lacks changes of {named(names)}"
    return ""


def _later_attempts(
    files: BlobStore, log: Log, name: str | None, done: int, *, is_requeued: bool
) -> list[tuple[Log, int]]:
    """Logs of attempts that began since *log* was read up to *done*, each with the byte to start at.

    A log is in its attempt's folder, or has replaced the previous one. If *log* was moved, its rest comes first.
    """
    sizes = {blob.name: blob.size for page in files.list(USER_LOGS) for blob in page}
    attempts = logs_by_attempt(sizes)
    size, moved = sizes.get(log.name, done), log_of_attempt(attempts.get(log.attempt, {}), name)
    later = [(log, 0)] if size < done or (is_requeued and size != done) else []
    if moved is not None and moved != log.name:
        later = [(Log(moved, log.attempt), done)]
    for number, logs in sorted(attempts.items()):
        found = log_of_attempt(logs, name)
        if found and number > log.attempt and "/" not in (name or ""):
            later.append((Log(found, number), 0))
    return later


def wait_for_end(workspace: Workspace, run_id: str, notify: Notify, trials: int = 0) -> Run:
    """Wait for the end of a run and return it. *notify* receives its status, and how many of a sweep's *trials* ended.

    An outage of the service is tolerated for ten minutes.
    """
    home = workspace.home_of(run_id)
    first, longest = home.poll_interval
    pauses = Pauses(first, longest * SELDOM)
    watch = FolderWatch(home, run_id) if isinstance(home, FolderWorkspace) else None
    outage, status = OutageTolerance(notify), None
    look = _sweep_progress(workspace, run_id, trials, notify) if trials else None
    while True:
        try:
            run = workspace.run(run_id)
            if look is not None:
                look()
        except ServiceFailed as err:
            outage.failed(err)
        else:
            outage.succeeded()
            if run.status.is_final:
                return run
            if run.status is not status:
                notify(Notice(f"Run '{run_id}' is {run.status.value.lower()}."))
            status = run.status
        if watch is not None:
            deque(watch.pauses(), 0)
        else:
            time.sleep(pauses.next())


def _sweep_progress(workspace: Workspace, run_id: str, trials: int, notify: Notify) -> Callable[[], None]:
    """Return a function that reports to *notify* how many of *trials* have ended, if the count has changed, and whether
    the first ones that logged lack the primary metric.

    Each call costs more with more trials, so a call soon after another one does nothing. The function raises what the
    workspace raises.
    """
    told, next_look, is_judged = "", -math.inf, False

    def look() -> None:
        nonlocal told, next_look, is_judged
        now = time.monotonic()
        if now < next_look:
            return
        next_look = now + trials / 50  # 50 trials a second
        children = [*workspace.runs(RunQuery(parent=run_id))]
        states = Counter(run.status for run in children)
        ended = sum(count for status, count in states.items() if status.is_final)
        if ended and not is_judged:
            sweep = sweep_view(workspace, workspace.run(run_id), [run for run in children if run.status.is_final])
            is_judged = sweep is None or bool(sweep.logged) or any(trial.value is not None for trial in sweep.trials)
            if sweep is not None and sweep.complaint:
                notify(Notice(sweep.complaint))
        text = f"{ended} of {trials} trial{'s' * (trials != 1)} ended"
        for status in (RunStatus.failed, RunStatus.canceled):
            text += f", {states[status]} {status.value.lower()}" if states[status] else ""
        if ended and text != told:
            notify(Notice(f"{text}."))
            told = text

    return look


def follow_to_end(
    workspace: Workspace, run_id: str, write: Callable[[bytes], None], notify: Notify, *, start: int = 0
) -> Run:
    """Pass the run's log from byte *start* to *write* as it grows. Return the ended run."""
    with suppress(NotFound):  # a run may end without a log, and another attempt may have just replaced it
        for piece in follow_log(workspace, run_id, notify=notify, start=start):
            write(piece)
    return wait_for_end(workspace, run_id, ignore)


@contextmanager
def naming_started(notify: Notify) -> Iterator[Notify]:
    """Yield an observer for the start of a run, which passes other events to *notify*. After `Starting`, Ctrl-C raises
    Interrupted, which names the run."""
    starting: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, Starting):
            starting.append(event.run_id)
        else:
            notify(event)

    try:
        yield observe
    except KeyboardInterrupt as err:
        if not starting:
            raise
        run_id = starting[0]
        raise Interrupted(
            f"Interrupted during the start of run '{run_id}', which may exist.",
            hint=f"'himl runs show {run_id}' shows whether it exists, and 'himl runs cancel {run_id}' stops it.",
        ) from err


@contextmanager
def watching(run_id: str) -> Iterator[None]:
    """Context in which Ctrl-C stops following the run, not the run. Raises StoppedWatching, which says so. Every other
    failure says so in its hint."""
    with naming(run_id):
        try:
            yield
        except KeyboardInterrupt as err:
            raise StoppedWatching(
                f"Stopped following run '{run_id}'. The run continues.",
                hint=f"To cancel it: himl runs cancel {run_id}",
            ) from err


@contextmanager
def naming(run_id: str) -> Iterator[None]:
    """Context in which failures to follow the run say that they do not end it. Failures of the run itself stay
    unchanged."""
    way_on = (
        f"Unless it has ended, run '{run_id}' continues. Show it: himl runs show {run_id}, or cancel it: himl "
        f"runs cancel {run_id}"
    )
    try:
        yield
    except (JobFailed, NotFound, Interrupted):
        raise
    except HimlError as err:
        err.hint = f"{err.hint} {way_on}".strip()
        raise
    except Exception as err:
        err.__notes__ = [*getattr(err, "__notes__", ()), way_on]  # type: ignore[attr-defined]
        raise
