"""Logs of runs: read them, follow them until the run ends or the user presses Ctrl-C, and explain failures."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from himl_cli.core.errors import HimlError, Interrupted, JobFailed, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.jobs import MANY, SWEPT
from himl_cli.core.logged import SweepView
from himl_cli.core.records import dataclass
from himl_cli.core.runs import FAILED_RANK, TRY, Run, RunQuery, RunStatus
from himl_cli.core.text import named
from himl_cli.services.runs.log_names import (
    USER_LOGS,
    Log,
    find_log,
    log_called,
    log_of_try,
    no_log,
    tries_of,
)
from himl_cli.services.runs.lookup import children_of, sweep_view, with_steps
from himl_cli.workspaces.base import BlobStore, FolderWorkspace, Workspace

logger = logging.getLogger(__name__)

GROWTH = 1.5
TAIL_BYTES = 64 * 1024
# himl polls a run this much less often when only its end matters.
SELDOM = 3
# The end of Azure ML's reason for a failure. The end of the log follows it.
NAMED_LOG = re.compile(r"\s*Please check log file '(?P<name>[^']+)'.*", re.DOTALL)


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


def read_log(
    workspace: Workspace, run_id: str, name: str | None = None, notify: Notify = ignore, *, attempt: int | None = None
) -> Iterator[bytes]:
    """Read the log *name* (default: the main log) as it is now, in pieces.

    *attempt* counts from 1. The default is the last attempt that has this log. While a job on Azure ML has no log,
    this is the log of its image build. *notify* receives a notice of this, and of earlier attempts. Raises NotFound,
    which lists the available logs.
    """
    files = workspace.run_files(run_id)
    found = find_log(files, name, attempt) or (log_called(files, name) if attempt is None else None)
    if found is None:
        raise no_log(files, workspace.run(run_id), name, attempt)
    if found.is_build:
        notify(_said_of_build(run_id, found))
    if attempt is None and found.before:
        notify(
            Notice(
                f"This log is from attempt {found.attempt}. For the previous one: himl runs logs {run_id} --try "
                f"{found.before}"
            )
        )
    return files.read(found.name)


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
    first_pause, longest_pause = workspace.home_of(run_id).poll_interval
    is_here = (first_pause, longest_pause) == Workspace.poll_interval
    # A local job may end at once. Each pause is a tenth of the time so far, up to the longest one.
    pause, growth = (first_pause / 8, 1.1) if is_here else (first_pause, GROWTH)
    outage = OutageTolerance(notify)
    files: BlobStore | None = None
    found: Log | None = None
    status: RunStatus | None = None
    done, has_grown, was_running, is_requeued = start, False, False, False
    was_known = True

    def new_pieces(files: BlobStore, log: Log, begin: int | None = None) -> Iterator[bytes]:
        nonlocal found, done, has_grown, was_running, is_requeued
        if begin is not None:
            is_rest = found is not None and log.attempt == found.attempt and log.name != found.name
            found, done, was_running, is_requeued = log, begin, False, False
            if not is_rest:
                text = f"Another attempt of run '{run_id}' has begun. Its log: {log.name}"
                lacking = _lacking(workspace, run_id)
                notify(Notice(f"{text}. It runs {lacking}" if lacking else text))
        with suppress(NotFound):  # another attempt is about to replace the log
            for piece in files.read(log.name, done):
                done += len(piece)
                has_grown = True
                yield piece

    while status is None or not status.is_final:
        has_grown = False
        try:
            # Read the status before the log, so that the last bytes are not missed.
            run = workspace.run(run_id)
            now, is_known = run.status, not run.is_unknown
            if was_known and not is_known:
                notify(Notice(run.doubt))
            was_known = is_known
            files = workspace.run_files(run_id) if files is None else files
            if found is None or found.is_build:
                build, main = found, find_log(files, name, attempt)
                if build is None and main is not None and main.is_build:
                    done = 0
                    notify(_said_of_build(run_id, main))
                elif build is not None and main is not None and not main.is_build:
                    yield from new_pieces(files, build)
                    done, was_running, is_requeued = start, False, False
                    notify(Notice(f"The image is ready. The log of run '{run_id}': {main.name}"))
                found = main or build
                if found is None and attempt is None and (status is None or now.is_final):
                    found = log_called(files, name)
            if found is not None:
                ran_before, was_running = was_running, was_running or now is RunStatus.running
                if not is_requeued:
                    yield from new_pieces(files, found)
                if attempt is None and found.attempt and (now.is_final or not has_grown):
                    for later, begin in _later_tries(files, found, name, done, is_requeued=is_requeued):
                        yield from new_pieces(files, later, begin)
                if ran_before and was_running and not has_grown and now is RunStatus.queued:
                    # The log is complete. Later changes belong to another attempt.
                    is_requeued = True
            elif now is not status and not now.is_final and not is_here:
                notify(Notice(f"Run '{run_id}' is {now.value.lower()}, and has no log yet."))
            status = now
            outage.succeeded()
        except ServiceFailed as err:
            outage.failed(err)
        pause = min(first_pause if has_grown else longest_pause, pause * growth)
        if status is None or not status.is_final:
            time.sleep(pause)
    if found is None:
        raise no_log(workspace.run_files(run_id), workspace.run(run_id), name, attempt)


def _lacking(workspace: Workspace, run_id: str) -> str:
    """The code of a local run, described by the changes in the project that it lacks. Empty if it lacks none."""
    home = workspace.home_of(run_id)
    with suppress(HimlError, OSError):
        if isinstance(home, FolderWorkspace) and (names := [each for _, some in home.code_of(run_id) for each in some]):
            return f"the code of the submission, which lacks changes of {named(names)}"
    return ""


def _said_of_build(run_id: str, log: Log) -> Notice:
    return Notice(f"Run '{run_id}' has no log yet. This is the log of its image build: {log.name}")


def _later_tries(
    files: BlobStore, log: Log, name: str | None, done: int, *, is_requeued: bool
) -> list[tuple[Log, int]]:
    """Logs of attempts that began since *log* was read up to *done*, each with the byte to start at.

    A log is in its attempt's folder, or has replaced the previous one. If *log* was moved, its rest comes first.
    """
    sizes = {blob.name: blob.size for page in files.list(USER_LOGS) for blob in page}
    tries = tries_of(sizes)
    size, moved = sizes.get(log.name, done), log_of_try(tries.get(log.attempt, {}), name)
    later = [(log, 0)] if size < done or (is_requeued and size != done) else []
    if moved is not None and moved != log.name:
        later = [(Log(moved, log.attempt), done)]
    for number, logs in sorted(tries.items()):
        found = log_of_try(logs, name)
        if found and number > log.attempt and "/" not in (name or ""):
            later.append((Log(found, number), 0))
    return later


def last_lines(workspace: Workspace, run_id: str, name: str | None = None) -> tuple[str, bytes] | None:
    """Name and last 20 lines of the main log, or of the log *name*. None if there is no such log."""
    files = workspace.run_files(run_id)
    found = find_log(files, name)
    blob = files.stat(found.name) if found else None
    if found is None or blob is None:
        return None
    tail = b"".join(files.read(found.name, max(0, blob.size - TAIL_BYTES)))
    return found.name, b"".join(tail.splitlines(keepends=True)[-20:])


@contextmanager
def watching(run_id: str) -> Iterator[None]:
    """Context in which Ctrl-C stops following the run, not the run. Raises Interrupted, which says so. Every other
    failure says so in its hint."""
    with naming(run_id):
        try:
            yield
        except KeyboardInterrupt as err:
            raise Interrupted(
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


# The end of a run.


def wait_for_run(
    workspace: Workspace,
    run_id: str,
    write: Callable[[bytes], None],
    notify: Notify,
    interrupted: Sequence[int],
    *,
    start: int = 0,
) -> Run:
    """Pass the run's output from byte *start* to *write* until the run has ended. Return the ended run.

    A signal in *interrupted* cancels the run, and Interrupted is raised after its end. The list comes from
    `core.processes.interruptions`, which must begin before the job starts, so that no signal is lost.
    """
    is_over = threading.Event()

    def cancel_once_interrupted() -> None:
        """Run in a thread, because the reader of the output may block the main one."""
        while not is_over.wait(0.05):
            if interrupted:
                notify(Notice(f"Canceling run '{run_id}'. It has 10 seconds to exit."))
                try:
                    workspace.cancel(run_id)
                except HimlError as err:
                    notify(Notice(f"{err} {err.hint}".strip()))
                return

    watcher = threading.Thread(target=cancel_once_interrupted, daemon=True)
    try:
        watcher.start()
        try:
            run = follow_to_end(workspace, run_id, write, notify, start=start)
        finally:
            is_over.set()
            watcher.join()
    except KeyboardInterrupt as err:
        raise Interrupted(
            f"Stopped waiting. Run '{run_id}' is still being canceled.", hint=f"Its status: himl runs show {run_id}"
        ) from err
    if interrupted and run.status is RunStatus.canceled:
        raise Interrupted(f"Run '{run_id}' was canceled.", hint=f"List its files: himl download {run_id} --list")
    if not start and MANY in run.tags:  # a user who resumes a run learns it at the start
        again = [each.id for each in with_steps(workspace, children_of(workspace, run)) if TRY in each.tags]
        if again and (lacking := _lacking(workspace, run_id)):
            notify(Notice(f"Further attempts of {named(again)} ran {lacking}"))
    return run


def raise_unless_completed(
    run: Run, failed_child: str = "", sweep: SweepView | None = None, *, failure_hint: str = ""
) -> None:
    """Raise JobFailed with the run and its reason if *run* did not complete.

    *failed_child* is a child run whose log shows the cause. Failed trials of *sweep* count as a failure, because
    Azure ML may report such a sweep as completed. *failure_hint* is a remedy, if one is known.
    """
    if run.status is RunStatus.canceled:
        because = f": {run.reason.rstrip('.')}" if run.reason else ""
        raise JobFailed(f"Run '{run.id}' was canceled{because}.", hint=f"See himl runs show {run.id}")
    if run.status is not RunStatus.completed:
        hint = f"Show the log: himl runs logs {run.id}" if run.started else f"See himl runs show {run.id}"
        if failed_child:
            hint = f"Show the cause: himl runs logs {failed_child}"
        elif name := _log_of_failed_rank(run):
            hint += f" --file {name}"
        hint += f"; {failure_hint}" if failure_hint else ""
        resume = f"himl submit --resume {run.id}"
        if MANY in run.tags and run.folder and resume not in run.reason:
            hint += f"; run the missing parts: {resume}"
        reason = NAMED_LOG.sub("", run.reason) or "the reason is unknown"
        raise JobFailed(f"Run '{run.id}' failed: {reason.rstrip('.')}.", hint=hint)
    trials = sweep.trials if sweep is not None else ()
    failed = [trial.run.id for trial in trials if trial.run.status is RunStatus.failed]
    if failed:
        raise JobFailed(
            f"Run '{run.id}': {len(failed)} of {len(trials)} trials failed.",
            hint=f"Show the cause: himl runs logs {failed[0]}",
        )


def wait_for_end(workspace: Workspace, run_id: str, notify: Notify, trials: int = 0) -> Run:
    """Wait for the end of a run and return it. *notify* receives its status, and how many of a sweep's *trials* ended.

    An outage of the service is tolerated for ten minutes.
    """
    pause, at_most = workspace.home_of(run_id).poll_interval
    outage, status = OutageTolerance(notify), None
    look = sweep_progress(workspace, run_id, trials, notify)
    while True:
        try:
            run = workspace.run(run_id)
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
        time.sleep(pause)
        pause = min(at_most * SELDOM, pause * GROWTH)


def sweep_progress(
    workspace: Workspace, run_id: str, trials: int, notify: Notify, clock: Callable[[], float] = time.monotonic
) -> Callable[[], None]:
    """Return a function that reports to *notify* how many of *trials* have ended, if the count has changed.

    Each call costs more with more trials, so a call soon after another one does nothing. Without trials, no call does
    anything. The function raises what the workspace raises.
    """
    told, next_look = "", -math.inf

    def look() -> None:
        nonlocal told, next_look
        now = clock()
        if not trials or now < next_look:
            return
        next_look = now + trials / 50  # 50 trials a second
        states = Counter(run.status for run in workspace.runs(RunQuery(parent=run_id)))
        ended = sum(count for status, count in states.items() if status.is_final)
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


def last_lines_of_failure(workspace: Workspace, run: Run, *, is_shown: bool = False) -> tuple[str, bytes] | None:
    """Name and last lines of the log that shows why the run failed. None if the run did not fail, left no log, or
    *is_shown* says that the first rank's log, which was printed, is the one."""
    name = _log_of_failed_rank(run)
    is_wanted = bool(name) if is_shown else run.status is RunStatus.failed
    return last_lines(workspace, run.id, name) if is_wanted else None


def _log_of_failed_rank(run: Run) -> str | None:
    """Log of the failed rank, unless that is the first rank. The name has no folder, so that it matches the last
    attempt."""
    if found := FAILED_RANK.match(run.reason):
        return f"std_log_process_{found[1]}.txt" if found[1] != "0" else None
    named = NAMED_LOG.search(run.reason)
    is_first = named and re.fullmatch(r".*/(std_log|std_log_process_0+)\.txt", named["name"])
    return named["name"].removeprefix(USER_LOGS) if named and not is_first else None


def unkept_files(workspace: Workspace, run: Run) -> Sequence[tuple[str, Path]]:
    """Files that *run* and its children wrote on this machine outside of their saved outputs, with their names."""
    home = workspace.home_of(run.id)
    with suppress(HimlError):  # the run's outcome matters more
        if isinstance(home, FolderWorkspace):
            jobs = [run, *(with_steps(home, children_of(home, run)) if MANY in run.tags else ())]
            return [found for job in jobs for found in home.unkept_files(job.id).items()]
    return ()


def sweep_outcome(workspace: Workspace, run: Run) -> SweepView | None:
    """Trials of a sweep that has ended. None for another run, or if they cannot be fetched: the run's own outcome is
    known without them."""
    if MANY not in run.tags and SWEPT not in run.tags:
        return None
    try:
        return sweep_view(workspace, run, children_of(workspace, run))
    except HimlError as err:
        logger.debug("Cannot list the trials: %s", err)
        return None


def failed_child(workspace: Workspace, run: Run) -> str:
    """Id of the first failed child of a failed sweep or pipeline, whose log shows the cause. Empty for other runs, or
    if the children cannot be listed."""
    if run.status is not RunStatus.failed or MANY not in run.tags:
        return ""
    try:
        children = children_of(workspace, run)
    except HimlError as err:
        logger.debug("Cannot list the children: %s", err)
        return ""
    return next((child.id for child in children if child.status is RunStatus.failed), "")
