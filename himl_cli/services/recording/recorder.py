"""From a run that goes on here to the same run elsewhere, until both have ended alike."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from himl_cli.core.errors import DiskFailed, HimlError, RunNotFound
from himl_cli.core.redaction import redact
from himl_cli.core.results import NewRun, RunEnd
from himl_cli.core.runs import OF_RECORDING, STOPPED, Run, RunQuery, RunStatus
from himl_cli.services.recording.ends import is_refusal, may_be_allowed, passes
from himl_cli.services.recording.files import FileTelling
from himl_cli.services.recording.note import Note, NoteFile
from himl_cli.services.recording.values import tell_values
from himl_cli.workspaces.base import FolderWorkspace, RunRecorder, Workspace

log = logging.getLogger(__name__)

NEVER_STARTED = "himl submit ended before the job began"
DELETED = "its record was deleted on the machine where it ran, before all of it was told"


@dataclass(frozen=True)
class Timing:
    """In seconds: between two looks; until a run that has a folder and no record counts as never started; between two
    tries while nothing arrives, at most; until the rest of a run that has ended is left to the next himl command; and
    between two tries while a right is missing.
    """

    look: float = 1.0
    start: float = 10.0
    longest_pause: float = 60.0
    patience: float = 3600.0
    refused: float = 600.0


REFUSALS = 3
"""So many in a row count: a single one may be a right that has just been given, or a glitch."""


class Recorder:
    """One recording; this process holds its lock."""

    def __init__(
        self, here: FolderWorkspace, there: RunRecorder, file: NoteFile, note: Note, timing: Timing | None = None
    ) -> None:
        self._here = here
        self._there = there
        self._file = file
        self._note = note
        self._timing = timing or Timing()
        self._files: dict[str, FileTelling] = {}
        self._sending: Future[None] | None = None
        self._is_over_here = False
        self._written = ""
        self._file_refusals = 0

    def run(self) -> None:
        """Tell the run until its end, which is noted there too; or until the other workspace will not have it, which
        the run here says then.

        Where it is a right that is missing, it is tried seldom as long as the run goes on, and after that left to himl
        commands some time later.
        """
        begun = failing_since = time.monotonic()
        failures = refusals = 0
        with ThreadPoolExecutor(1, thread_name_prefix="himl-files") as threads:
            while True:
                try:
                    is_done = self._round(threads, begun)
                except HimlError as err:
                    failing_since = failing_since if failures else time.monotonic()
                    failures, refusals = failures + 1, 0 if passes(err) else refusals + 1
                    self._say_away(err)
                    is_refused = refusals >= REFUSALS
                    if is_refused and not (may_be_allowed(err) and self._put_off(err)):
                        return self._stop(err)
                    if self._is_over_here and (is_refused or time.monotonic() - failing_since > self._timing.patience):
                        log.warning(
                            "The rest waits for the next himl command in this workspace%s.",
                            " that comes some time later" if is_refused else "",
                        )
                        return self._file.release()
                    self._pause(
                        self._timing.refused
                        if is_refused
                        else min(self._timing.longest_pause, self._timing.look * 2.0 ** min(failures - 1, 10))
                    )
                else:
                    failures = refusals = 0
                    self._say_back()
                    if is_done:
                        return self._file.remove()
                    time.sleep(self._timing.look)

    def _pause(self, seconds: float) -> None:
        """Wait so long; a run that ends here meanwhile is told at once."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, self._timing.look))
            if not self._is_over_here and self._has_ended_here():
                return

    def _has_ended_here(self) -> bool:
        try:
            return self._here.run(self._note.run_id).status.is_final
        except HimlError:
            return False

    def _round(self, threads: ThreadPoolExecutor, begun: float) -> bool:
        """Tell what there is now; whether that was all. The run's state is read first, so that what it leaves at its
        end is seen."""
        try:
            run = self._here.run(self._note.run_id)
        except RunNotFound:
            return self._without_a_run(begun)
        self._note.told(run.id).is_started = True
        self._is_over_here = run.status.is_final
        try:
            family = [*self._family(run)]
            for member in family:
                self._tell_values(member)
            is_all = self._tell_files(threads, family)
            if run.status.is_final and is_all:
                self._end_all(run, family)
        finally:
            self._write()
        return run.status.is_final and is_all

    def _without_a_run(self, begun: float) -> bool:
        """There is no run here: it did not start, or is gone."""
        was_there = self._note.told(self._note.run_id).is_started
        if (
            not was_there
            and not self._note.failure
            and self._file.has_run_folder()
            and time.monotonic() - begun < self._timing.start
        ):
            return False
        self._is_over_here = True
        reason = self._note.failure or (DELETED if was_there else NEVER_STARTED)
        try:
            self._there.end_run(self._note.run_id, RunEnd(RunStatus.failed, reason))
        except RunNotFound:
            log.warning("There is no run there either.")
        return True

    def _family(self, run: Run) -> Iterator[Run]:
        """The run and those that its script nested in it, parents first."""
        yield run
        for child in self._here.runs(RunQuery(parent=run.id)):
            yield from self._family(child)

    def _tell_values(self, run: Run) -> None:
        """What the run logged, also after its end. A nested one begins with it, and ends after it where it has ended
        here."""
        told = self._note.told(run.id)
        is_nested = run.id != self._note.run_id
        if is_nested and not told.is_started:
            tags = {name: value for name, value in run.tags.items() if name not in OF_RECORDING}
            self._there.start_run(
                NewRun(run.id, run.experiment, run.display_name, run.description, tags, run.parent, run.command)
            )
            told.is_started, told.tags = True, tags
        tell_values(self._here, self._there, run, told)
        if is_nested and run.status.is_final:
            self._end(run.id, RunEnd(run.status, run.reason))

    def _tell_files(self, threads: ThreadPoolExecutor, family: list[Run]) -> bool:
        """In a thread of their own, so that a large file keeps no metrics waiting; at the end of the run here and now.
        Whether that was all.

        Where files are refused again and again, the run here says so, and the rest of it is told without them.
        """
        if self._file_refusals == REFUSALS:
            return True
        tellings = [self._telling(run) for run in family]
        try:
            if self._sending is not None and (self._is_over_here or self._sending.done()):
                sending, self._sending = self._sending, None
                sending.result()  # waits for the round before, and raises what ended it
                self._file_refusals = 0
            if self._is_over_here:
                _tell_all(tellings, is_last=True)
            elif self._sending is None:
                self._sending = threads.submit(_tell_all, tellings, is_last=False)
        except HimlError as err:
            if not is_refusal(err):
                raise
            self._file_refusals += 1
            if self._file_refusals < REFUSALS:
                return False
            log.warning("Files are told no more: %s", err)
            stop_with(self._here, self._note.run_id, f"its files: {err}")
            return True
        return True

    def _telling(self, run: Run) -> FileTelling:
        if run.id not in self._files:
            self._files[run.id] = FileTelling(self._here, self._there, run.id, self._note.told(run.id))
        return self._files[run.id]

    def _end_all(self, run: Run, family: list[Run]) -> None:
        """Children before their parents; also those that were deleted here after they had begun there."""
        there_only = [
            run_id
            for run_id, told in self._note.runs.items()
            if told.is_started and run_id not in {member.id for member in family}
        ]
        for run_id in there_only:
            self._end(run_id, RunEnd(RunStatus.canceled, DELETED))
        for member in reversed(family):
            self._end(member.id, RunEnd(member.status if member.status.is_final else run.status, member.reason))

    def _end(self, run_id: str, end: RunEnd) -> None:
        told = self._note.told(run_id)
        if not told.is_ended:
            self._there.end_run(run_id, end)
            told.is_ended = True

    def _write(self) -> None:
        """Keep how far it went, where that can be: what is told twice is known again, and a full disk is no reason to
        tell nothing."""
        text = self._note.to_json()
        if text != self._written:
            try:
                self._file.write(self._note)
                self._written = text
            except DiskFailed as err:
                log.debug("the note is not renewed: %s", err)

    def _stop(self, why: HimlError) -> None:
        log.warning("The recording ends: %s", why)
        stop_with(self._here, self._note.run_id, str(why))
        self._file.remove()

    def _put_off(self, why: HimlError) -> bool:
        """Let the run here say what is missing, and himl commands leave it alone for a while; False where it has been
        missing for too long."""
        if not self._note.refused_since:
            stop_with(self._here, self._note.run_id, put_off_text(why))
        goes_on = self._note.put_off()
        self._write()
        return goes_on

    def _say_away(self, why: HimlError) -> None:
        if not self._note.away:
            log.warning("Nothing can be told at present; it is kept, and told later: %s", why)
            self._note.away = redact(str(why))
            self._write()

    def _say_back(self) -> None:
        if not self._note.away:
            return
        log.warning("It is reached again; what came meanwhile is told now.")
        if self._note.refused_since and self._file_refusals < REFUSALS:
            stop_with(self._here, self._note.run_id, "")
        self._note.away, self._note.refused_since, self._note.not_before = "", 0.0, 0.0
        self._write()


def _tell_all(tellings: list[FileTelling], *, is_last: bool) -> None:
    for telling in tellings:
        telling.tell(is_last=is_last)


def put_off_text(why: object) -> str:
    return f"{why} It is kept, and tried again later."


def stop_with(here: Workspace, run_id: str, why: str) -> None:
    """Let the run here say why its recording has ended, or (nothing) that it goes on."""
    try:
        here.tag(run_id, {STOPPED: redact(why)})
    except HimlError as err:
        log.warning("That cannot be noted: %s", err)
