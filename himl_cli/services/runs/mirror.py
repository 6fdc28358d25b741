"""Mirror a local run to the same run in another workspace until both have ended."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import DiskFailed, HimlError, NotAllowed, RunNotFound
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import redact
from himl_cli.core.runs import RECORDED_FROM, RECORDED_IN, STOPPED, STUDIO, Run, RunEnd, RunQuery, RunStatus
from himl_cli.core.webhook import NOTIFICATION
from himl_cli.services.runs.mirror_state import RETRY_SECONDS, MirrorFile, MirrorState, SentRun
from himl_cli.services.runs.writing import is_refusal, may_pass, send_apart
from himl_cli.workspaces.base import FolderWorkspace, LocalStore, RunRecorder, Workspace
from himl_cli.workspaces.retry import Pauses

log = logging.getLogger(__name__)

DELETED = "its record was deleted on the machine where it ran, before all of it was sent"
# Refusals in a row that end a mirror. A single one may be a glitch, or a permission that was granted just now.
REFUSALS = 3
WORKERS = 8
# Tags that describe the mirror or the machine of one of the two runs
OF_MIRROR = (RECORDED_IN, STUDIO, STOPPED, RECORDED_FROM, NOTIFICATION)
LOGS = ("user_logs/", "logs/")
# Age in seconds at which an unchanged file counts as complete.
SETTLED_SECONDS = 2.0
# Interval for a file that keeps changing.
UNSETTLED_SECONDS = 60.0
BYTES_A_SECOND = 1 << 18
"""Average limit for logs. A log is sent whole each time it grew, and a larger one less often."""


@dataclass(frozen=True)
class Timing:
    """Intervals in seconds.

    `look`: between two rounds. `start`: until a run with a folder but no record counts as never started.
    `longest_pause`: between two retries. `patience`: until the rest of an ended run is left to the next himl command.
    `refused`: between two retries without permission.
    """

    look: float = 1.0
    start: float = 10.0
    longest_pause: float = 60.0
    patience: float = 3600.0
    refused: float = 600.0


class Mirror:
    """One mirror. This process holds its lock."""

    def __init__(
        self,
        source: FolderWorkspace,
        target: RunRecorder,
        file: MirrorFile,
        state: MirrorState,
        timing: Timing | None = None,
    ) -> None:
        self._source, self._target, self._file, self._state = source, target, file, state
        self._timing = timing or Timing()
        self._files: dict[str, FileMirror] = {}
        self._rejected: set[str] = set()  # nested runs, with those nested in them
        self._sending: Future[None] | None = None
        self._has_ended, self._file_refusals, self._written = False, 0, ""

    def run(self) -> None:
        """Mirror the run until it ends and its end is recorded, or until the other workspace refuses it, which the
        local run then records.

        Without permission, retry at long intervals until the run ends. After that, a later himl command retries.
        """
        begun = failing_since = time.monotonic()
        failures = refusals = 0
        pauses = Pauses(self._timing.look, self._timing.longest_pause, 2.0)
        with ThreadPoolExecutor(1, thread_name_prefix="himl-files") as threads:
            while True:
                try:
                    is_done = self._round(threads, begun)
                except Exception as err:  # noqa: BLE001 - logged, and recorded in the local run
                    failing_since = failing_since if failures else time.monotonic()
                    failures, refusals = failures + 1, 0 if may_pass(err) else refusals + 1
                    if not self._state.away:
                        log.warning("Cannot send the run now. It is stored, and himl will send it later: %s", err)
                        self._state.away = redact(str(err))
                        self._write()
                    is_refused = refusals >= REFUSALS
                    if is_refused and isinstance(err, NotAllowed):
                        put_off(self._source, self._state, str(err))
                        self._write()
                    elif is_refused:
                        log.warning("The recording has stopped: %s", err)
                        note_stopped(self._source, self._state.run_id, str(err))
                        return self._file.remove()
                    is_late = time.monotonic() - failing_since > self._timing.patience
                    if self._has_ended and (is_refused or is_late):
                        later = " after a pause" if is_refused else ""
                        log.warning("The next himl command in this workspace sends the rest%s.", later)
                        return self._file.release()
                    pause = pauses.next(has_changed=failures == 1)
                    self._pause(self._timing.refused if is_refused else pause)
                else:
                    failures = refusals = 0
                    if self._state.away:
                        log.warning("The workspace responds again. Sending the stored data.")
                        if self._state.not_before and self._file_refusals < REFUSALS:
                            note_stopped(self._source, self._state.run_id, "")
                        self._state.away, self._state.not_before = "", 0.0
                        self._write()
                    if is_done:
                        return self._file.remove()
                    time.sleep(self._timing.look)

    def _pause(self, seconds: float) -> None:
        """Wait *seconds*, or until the local run ends."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, self._timing.look))
            try:
                if not self._has_ended and self._source.run(self._state.run_id).status.is_final:
                    return
            except HimlError:
                continue

    def _round(self, threads: ThreadPoolExecutor, begun: float) -> bool:
        """Send everything new. Return whether the mirror is complete. The run's status is read first, so that data
        from the run's end is included."""
        try:
            run = self._source.run(self._state.run_id)
        except RunNotFound:
            return self._end_without_run(begun)
        self._state.sent(run.id).is_started = True
        self._has_ended = run.status.is_final
        try:
            tree = [run]  # parents precede the runs nested in them
            for parent in tree:
                nested = self._source.runs(RunQuery(parent=parent.id, archived=None))
                tree += (each for each in nested if each.id not in self._rejected)
            for member in tree:  # includes data logged after the end of a run
                sent, is_nested = self._state.sent(member.id), member is not run
                if is_nested and not sent.is_started:
                    tags = {name: value for name, value in member.tags.items() if name not in OF_MIRROR}
                    new = replace(member, tags=tags)
                    for _, why in send_apart(lambda some: self._target.start_run(some[0]), [new]):
                        log.warning("Nested run '%s' was rejected: %s", member.id, why)
                        note_stopped(self._source, run.id, f"nested run '{member.id}': {why}")
                        self._rejected.add(member.id)
                        return False
                    sent.is_started, sent.tags = True, tags
                send_values(self._source, self._target, member, sent)
                if is_nested and member.status.is_final:
                    self._end(member.id, RunEnd(member.status, member.reason))
            is_all = self._send_files(threads, tree)
            if run.status.is_final and is_all:
                # Children before parents, including runs that began there and were deleted locally.
                ids = {member.id for member in tree}
                for run_id, sent in self._state.runs.items():
                    if sent.is_started and run_id not in ids:
                        self._end(run_id, RunEnd(RunStatus.canceled, DELETED))
                for member in reversed(tree):
                    status = member.status if member.status.is_final else run.status
                    self._end(member.id, RunEnd(status, member.reason))
        finally:
            self._write()
        return run.status.is_final and is_all

    def _end_without_run(self, begun: float) -> bool:
        """Handle a missing local run: it did not start, or was deleted. Return False while it may still start."""
        was_there = self._state.sent(self._state.run_id).is_started
        is_early = time.monotonic() - begun < self._timing.start
        if not was_there and not self._state.failure and self._file.has_run_folder() and is_early:
            return False
        self._has_ended = True
        reason = self._state.failure or (DELETED if was_there else "himl submit ended before the job began")
        try:
            self._target.end_run(self._state.run_id, RunEnd(RunStatus.failed, reason))
        except RunNotFound:
            log.warning("The other workspace has no such run either.")
        return True

    def _send_files(self, threads: ThreadPoolExecutor, tree: list[Run]) -> bool:
        """Send files in another thread, so that a large file does not delay metrics. At the run's end, use this one.
        Return whether all are sent.

        After repeated refusals, record that in the local run, and send the rest of the run without files.
        """
        if self._file_refusals == REFUSALS:
            return True
        for run in tree:
            if run.id not in self._files:
                self._files[run.id] = FileMirror(self._source, self._target, run.id, self._state.sent(run.id))
        mirrors, is_last = [self._files[run.id] for run in tree], self._has_ended

        def update() -> None:
            for mirror in mirrors:
                mirror.update(is_last=is_last)

        try:
            if self._sending is not None and (self._has_ended or self._sending.done()):
                sending, self._sending = self._sending, None
                sending.result()  # waits for the previous round, and raises its error
                self._file_refusals = 0
            if self._has_ended:
                update()
            elif self._sending is None:
                self._sending = threads.submit(update)
        except HimlError as err:
            if not is_refusal(err):
                raise
            self._file_refusals += 1
            if self._file_refusals < REFUSALS:
                return False
            log.warning("Stopped sending files: %s", err)
            note_stopped(self._source, self._state.run_id, f"its files: {err}")
        return True

    def _end(self, run_id: str, end: RunEnd) -> None:
        sent = self._state.sent(run_id)
        if not sent.is_ended:
            self._target.end_run(run_id, end)
            sent.is_ended = True

    def _write(self) -> None:
        """Store the progress if possible. A full disk must not stop the mirror, and data sent twice is recognized."""
        text = self._state.to_json()
        if text != self._written:
            try:
                self._file.write(self._state)
                self._written = text
            except DiskFailed as err:
                log.debug("Cannot store the progress: %s", err)


def put_off(source: Workspace, state: MirrorState, why: str) -> None:
    """Record in the local run why it is not sent, and let himl commands wait before they retry."""
    if not state.not_before:
        log.warning("Cannot send the run now. It is stored, and himl will retry later: %s", why)
        note_stopped(source, state.run_id, f"{why} The run is stored, and himl will retry later.")
    state.away, state.not_before = redact(why), time.time() + RETRY_SECONDS


def note_stopped(source: Workspace, run_id: str, why: str) -> None:
    """Record in the local run why its mirror stopped. An empty *why* means that it continues."""
    try:
        source.tag(run_id, {STOPPED: redact(why)})
    except HimlError as err:
        log.warning("Cannot store why the recording stopped: %s", err)


def send_values(source: FolderWorkspace, target: RunRecorder, run: Run, sent: SentRun) -> None:
    """Send new metrics, parameters and tags. Items that *target* rejects are logged and skipped. Raises temporary
    errors, and refusals of the whole run."""
    while True:
        entries, last = source.logged(run.id, sent.last_point)
        if not entries:
            sent.last_point = last
            break
        for metric, why in send_apart(partial(target.log, run.id), entries):
            step, count = metric.rows[0].step, len(metric.rows)
            points = f"step {step}" if count == 1 else f"{count} points, the first at step {step}"
            log.warning("Metric '%s' was rejected (%s): %s", metric.name, points, why)
        sent.last_point = last
    tags = {name: value for name, value in run.tags.items() if name not in OF_MIRROR}
    for what, send, values, known in (
        ("Parameter", target.log_parameters, source.parameters(run.id), sent.parameters),
        ("Tag", target.tag, tags, sent.tags),
    ):
        new = [(name, value) for name, value in values.items() if known.get(name) != value]
        if new:
            for (name, _), why in send_apart(lambda some: send(run.id, dict(some)), new):  # noqa: B023 - called at once
                log.warning("%s '%s' was rejected: %s", what, name, why)
                if what == "Parameter" and name in known:
                    text = f"parameter '{name}' has the value of an earlier attempt there, '{known[name]}'"
                    note_stopped(source, run.id, text)
        known.update(new)
    if gone := [name for name in sent.tags if name not in tags]:
        for name, why in send_apart(lambda names: target.tag(run.id, dict.fromkeys(names)), gone):
            log.warning("Tag '%s' could not be removed: %s", name, why)
        sent.tags = {name: value for name, value in sent.tags.items() if name in tags}


class FileMirror:
    """Files of one run, and the sink of their uploads. Logs are sent as they grow, other files once they stay
    unchanged, and all files at the end."""

    def __init__(
        self,
        source: FolderWorkspace,
        target: RunRecorder,
        run_id: str,
        sent: SentRun,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._target, self._run_id, self._sent, self._clock = source, target, run_id, sent, clock
        # By name: the last ETag, the time since when it is unchanged, and when the file was last sent (or first seen).
        self._seen: dict[str, tuple[str, float, float]] = {}
        self._etags: dict[str, str] = {}  # of files in transfer
        self._failed: list[tuple[str, HimlError]] = []

    def update(self, *, is_last: bool = False) -> bool:
        """Send the files that are due, or with *is_last* all of them. Return whether there were any.

        Rejected files are logged and skipped. Raises temporary errors, and refusals of the whole run. Files that
        arrived before an error count as sent.
        """
        files = self._source.run_files(self._run_id)
        for _ in range(3 if is_last else 1):
            blobs = (blob for page in files.list() for blob in page if self._sent.files.get(blob.name) != blob.etag)
            due = [blob for blob in blobs if is_last or self._is_ready(blob)]
            if not due:
                return False
            self._etags, self._failed, changed = {blob.name: blob.etag for blob in due}, [], list[str]()
            with tempfile.TemporaryDirectory(prefix="himl-") as folder:
                self._target.run_files(self._run_id).store(self._requests(due, Path(folder)), self, workers=WORKERS)
            for name, error in self._failed:
                if (may_pass(error) and not isinstance(error, DiskFailed)) or is_refusal(error):
                    raise error
                now = files.stat(name)
                if now is not None and now.etag == self._etags[name]:
                    log.warning("'%s' of run '%s' was rejected: %s", name, self._run_id, error)
                    self._note(name)
                elif now is not None:
                    changed.append(name)
            if not changed:
                return True
        if is_last:
            for name in changed:
                log.warning("Cannot send '%s' of run '%s', because it keeps changing.", name, self._run_id)
        return True

    def _is_ready(self, blob: BlobInfo) -> bool:
        now, pause = self._clock(), blob.size / BYTES_A_SECOND
        etag, since, sent = self._seen.get(blob.name, ("", now, now))
        if blob.name.startswith(LOGS):
            return not etag or now - sent >= max(SETTLED_SECONDS, pause)
        if etag != blob.etag:
            since = now
        self._seen[blob.name] = blob.etag, since, sent
        return now - since >= SETTLED_SECONDS or now - sent >= max(UNSETTLED_SECONDS, pause)

    def _requests(self, due: list[BlobInfo], folder: Path) -> Iterator[StoreRequest]:
        """Yield requests for the files that are due. A log is sent as a copy in *folder*, with the length that it had
        in the listing. Skip files that have been deleted or shortened."""
        files = cast(LocalStore, self._source.run_files(self._run_id))
        for number, blob in enumerate(due):
            path = files.path_of(blob.name)
            if path is not None and blob.name.startswith(LOGS):
                copy = folder / str(number)
                try:
                    shutil.copyfile(path, copy)
                except FileNotFoundError:
                    continue
                except OSError as err:
                    message = f"Cannot copy '{path}': {err.strerror}."
                    raise DiskFailed(message, hint="Free some space in the folder for temporary files.") from err
                if copy.stat().st_size < blob.size:
                    continue
                os.truncate(copy, blob.size)
                path = copy
            if path is not None:
                yield StoreRequest(path, blob.name, blob.size)

    def _note(self, name: str) -> None:
        self._sent.files[name] = self._etags[name]
        self._seen[name] = self._etags[name], self._clock(), self._clock()

    def advance(self, request: StoreRequest, amount: int) -> None:
        """Ignore the progress, which no one sees."""

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        self._note(request.name)

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        self._failed.append((request.name, error))
