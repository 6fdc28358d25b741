"""Keeps event files up to date: once for `--sync_only`, or again and again while TensorBoard runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.errors import HimlError, IntegrityFailed, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.events import Finished, Moved, Notice, Notify, Planned
from himl_cli.core.sweeps import MANY
from himl_cli.services.tensorboard.background import BackgroundCalls
from himl_cli.services.tensorboard.copies import EventSource, ShownFolder
from himl_cli.services.tensorboard.shown_runs import Changes, SelectedRuns

log = logging.getLogger(__name__)

SYNC_SECONDS = 0.2  # between two looks at what came
PROGRESS_BYTES = 4 << 20  # fewer are here before anybody looks
NAMED = 3  # runs or files named one by one
RUN_LIST = ""
"""Stands for the list of runs, beside the ids of runs, among what fails."""


@dataclass(frozen=True)
class SyncedRun:
    """A run whose event files are here: their folder, how many there are, and how many bytes came just now."""

    run: str
    display_name: str
    folder: Path
    files: int
    new_bytes: int


def sync_once(sources: Sequence[EventSource], notify: Notify) -> tuple[Sequence[SyncedRun], HimlError | None]:
    """Update each run once: those whose event files are here, in the order of *sources*, and the first error.

    Runs without event files are named; that none has any is a NotFound. Files that changed each time they were read are
    a ServiceFailed.
    """
    first: HimlError | None = None
    progress = Progress(sources, notify)
    updates = BackgroundCalls(EventSource.update, sources)
    while updates.pending:
        ended = updates.next(SYNC_SECONDS)
        first = first or (ended[1] if ended else None)
        progress.report()
    synced = [
        SyncedRun(source.run.id, source.run.display_name, source.folder, len(source.files), source.stats.received)
        for source in sources
        if source.folder is not None
    ]
    report_excluded(sources, notify)
    behind = next((source.run.id for source in sources if source.is_behind), None)
    if first is None and behind is not None:
        first = ServiceFailed(
            f"Event files of run '{behind}' changed each time they were read.",
            hint="Run the command again when nothing replaces them.",
        )
    if synced and first is None:
        report_without_files([source for source in sources if source.folder is None], notify)
    return synced, first or (None if synced else nothing_to_show(sources))


class Poller:
    """Updates each of the *runs* *refresh* seconds after its last update, asks as often which runs there are, and shows
    what is here.

    A slow one holds up no other. Runs that have ended and are here are left alone; once none else can join, nothing is
    asked for any more.
    """

    def __init__(self, runs: SelectedRuns, shown: ShownFolder, refresh: float, notify: Notify) -> None:
        self._runs = runs
        self._shown = shown
        self._refresh = refresh
        self._notify = notify
        self._open = [*runs.sources]
        self._not_updated = {*self._open}
        self._failing: set[str] = set()
        self._reported_failures: set[int] = set()  # by exit code
        self._reported_empty: set[tuple[str, bool]] = set()
        self._list_at = self._report_at = time.monotonic() + refresh
        self._due: dict[EventSource, float] = {}  # those that are not being updated
        self.progress = Progress(runs.sources, notify)
        for source in runs.sources:
            shown.show(source.name, source.files)
        self._updates = BackgroundCalls(EventSource.update, self._open)
        self._listings = BackgroundCalls(runs.fetch_changes)

    @property
    def has_updated_all(self) -> bool:
        """Whether the first update of each run that was there at the start is over."""
        return not self._not_updated

    def step(self, seconds: float) -> None:
        """Take what comes within so many seconds, and begin what is due. Raises HimlError."""
        updated = self._updates.next(seconds)
        if updated is not None:
            self._take_update(*updated)
        for source in self._updates.running:
            self._shown.show(source.name, source.current_files())
        listed = self._listings.next(0)
        if listed is not None:
            self._list_at = time.monotonic() + self._refresh
            self._take_listing(listed[1])
        now = time.monotonic()
        if not self._updates.pending or now >= self._report_at:
            self._report_at = now + self._refresh
            self._report()
        if not self._listings.pending and now >= self._list_at and (self._open or self._runs.may_grow):
            self._listings.add([source.run.id for source in self._open if not source.run.status.is_final])
        for source in [source for source, due in self._due.items() if due <= now]:
            del self._due[source]
            self._updates.add(source)

    def _take_listing(self, answer: Changes | HimlError) -> None:
        if isinstance(answer, HimlError):
            self._report_failure(RUN_LIST, answer)
            return
        self._report_success(RUN_LIST)
        running = [source for source in self._due if not source.run.status.is_final]
        self._runs.apply(answer)
        self._due |= {source: 0.0 for source in running if source.run.status.is_final}
        for source in self._runs.sources:
            error = answer.gone.get(source.run.id)
            if error is not None and source in self._open:
                self._drop(source, error)
            elif source.is_done and not source.run.status.is_final:  # a run that was resumed
                source.is_done = False
                self._follow(source)
        for source in answer.joined:
            self._shown.show(source.name, source.files)
            self._follow(source)
        ids = [source.run.id for source in answer.joined]
        if len(ids) > NAMED:
            self._notify(Notice(f"{len(ids):,} more runs: {_named(ids)}."))
        elif ids:
            self._notify(Notice(f"{'One more run' if len(ids) == 1 else f'{len(ids)} more runs'}: {_named(ids)}."))

    def _take_update(self, source: EventSource, error: HimlError | None) -> None:
        self._not_updated.discard(source)
        if error is None:
            self._report_success(source.run.id)
            if source.is_done and source in self._open:
                log.debug("run %s has ended: its files are not asked for any more", source.run.id)
                self._open.remove(source)
        elif isinstance(error, NotFound):
            self._drop(source, error)
        elif source in self._open or not _may_pass(error):
            self._report_failure(source.run.id, error)
        if source in self._open:
            self._due[source] = time.monotonic() + self._refresh
        self._shown.show(source.name, source.files)

    def _follow(self, source: EventSource) -> None:
        if source not in self._open:
            self._open.append(source)
            self._due[source] = 0.0

    def _drop(self, source: EventSource, error: NotFound) -> None:
        self._due.pop(source, None)
        self._report_success(source.run.id)
        if source in self._open:
            self._open.remove(source)
            self._notify(Notice(f"{error} It is not looked at any more."))

    def _report_failure(self, subject: str, error: HimlError) -> None:
        """Say once of each kind of failure that it is tried again. Raises *error* where that is hopeless."""
        if not _may_pass(error):
            raise error
        self._failing.add(subject)
        if error.exit_code not in self._reported_failures:
            self._reported_failures.add(error.exit_code)
            sentences = (str(error), error.hint, "Still trying; TensorBoard shows what is here.")
            self._notify(Notice(" ".join(filter(None, sentences))))

    def _report_success(self, subject: str) -> None:
        self._failing.discard(subject)
        if self._reported_failures and not self._failing:
            self._reported_failures.clear()
            self._notify(Notice("The service answers again."))

    def _report(self) -> None:
        """Name the runs that have nothing to show. Raises NotFound where that is all of them, and neither they nor
        others may get something."""
        sources = self._runs.sources
        report_excluded(sources, self._notify)
        if not self._open and not self._runs.may_grow and not any(source.files for source in sources):
            raise nothing_to_show(sources)
        empty = [source for source in sources if not source.files and source.is_checked]
        new = [source for source in empty if (source.run.id, source.run.status.is_final) not in self._reported_empty]
        self._reported_empty |= {(source.run.id, source.run.status.is_final) for source in new}
        report_without_files(new, self._notify)


class Progress:
    """Reports the bytes that the first update of each of *sources*, which has not begun yet, is to bring."""

    def __init__(self, sources: Sequence[EventSource], notify: Notify) -> None:
        self._stats = [source.stats for source in sources]
        self._notify = notify
        self._planned = self._moved = self._files = 0

    def report(self) -> None:
        """What came since this was called last."""
        expected, received = sum(one.expected for one in self._stats), sum(one.received for one in self._stats)
        if expected < PROGRESS_BYTES:
            return
        if expected > self._planned:
            self._notify(Planned(0, expected - self._planned))
        if received > self._moved:
            self._notify(Moved("", received - self._moved))
        files = sum(one.files for one in self._stats)
        for _ in range(self._files, files):
            self._notify(Finished(""))
        self._planned, self._moved, self._files = expected, received, files


def report_without_files(sources: Sequence[EventSource], notify: Notify) -> None:
    """Name runs that have nothing to show, or nothing yet; not sweeps and pipelines, whose files lie with the runs
    below them."""
    for is_final, yet in ((True, ""), (False, " yet")):
        runs = [source.run for source in sources]
        ids = [run.id for run in runs if MANY not in run.tags and run.status.is_final == is_final]
        if len(ids) > NAMED:
            notify(Notice(f"{len(ids):,} runs have no event files{yet}: {_named(ids)}."))
        else:
            for run_id in ids:
                notify(Notice(f"Run '{run_id}' has no event files{yet}."))


def report_excluded(sources: Sequence[EventSource], notify: Notify) -> None:
    """Name, once each, files that are not shown because nothing here can have their names."""
    for source in sources:
        names, source.excluded = sorted(source.excluded), set()
        if names:
            text = _named([f"'{name}'" for name in names])
            reason = "not shown, since no file here can have that name, or a link is in its place"
            notify(Notice(f"Run '{source.run.id}': {reason}: {text}."))


def nothing_to_show(sources: Sequence[EventSource]) -> NotFound:
    """None of the runs has event files."""
    many = f"None of these {len(sources):,} runs has event files."
    return NotFound(
        f"Run '{sources[0].run.id}' has no event files." if len(sources) == 1 else many,
        hint="Files with 'tfevents' in their names are looked for, in --log_dir first and then among all files of the "
        "run. A run has what its script wrote to outputs/ and logs/.",
    )


def _may_pass(error: HimlError) -> bool:
    """Whether to go on asking: the network may come back or carry bytes as they are, somebody may sign in again."""
    return isinstance(error, (ServiceFailed, NotAllowed, IntegrityFailed))


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"
