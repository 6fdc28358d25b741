"""TensorBoard as a child process that shows event files while they grow, and a single copy of these files."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from http import HTTPStatus
from pathlib import Path

from himl_cli.core.errors import (
    HimlError,
    IntegrityFailed,
    NotAllowed,
    NotFound,
    ServiceFailed,
)
from himl_cli.core.events import Finished, Moved, Notice, Notify, Planned, ignore
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import LOCAL_HOSTS
from himl_cli.core.signals import take_time_to_end
from himl_cli.core.sweeps import MANY
from himl_cli.core.text import listed, named
from himl_cli.services.child_server import SECONDS_TO_END, ChildServer, free_port, get
from himl_cli.services.server_access import Access
from himl_cli.services.tensorboard.copies import EventSource, ShownFolder
from himl_cli.services.tensorboard.shown_runs import BackgroundCalls, Changes, SelectedRuns
from himl_cli.services.transfer.local_files import disk_error

log = logging.getLogger(__name__)

# The key of the list of runs, beside the ids of runs, among failed requests
RUN_LIST = ""
# gRPC reads the first of these variables that is set
PROXY_EXCEPTIONS = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
CHECK_SECONDS, FAILED_CHECKS, RESTARTS = 2.0, 2, 3
DATA_ANSWER_SECONDS = 20.0


@dataclass(frozen=True)
class SyncedRun:
    """A run with local event files: their folder, their number, and the bytes of the last update."""

    run: str
    display_name: str
    folder: Path
    files: int
    new_bytes: int


def sync_once(sources: Sequence[EventSource], notify: Notify) -> tuple[Sequence[SyncedRun], HimlError | None]:
    """Update each run once. Returns the runs that have event files, in the order of *sources*, and the first error.

    Runs without event files are reported in a notice. If no run has any, the error is NotFound. It is ServiceFailed for
    files that changed during each attempt to read them.
    """
    first: HimlError | None = None
    progress = UpdateProgress(sources, notify)
    updates = BackgroundCalls(EventSource.update, sources)
    while updates.pending:
        ended = updates.next(0.2)
        first = first or (ended[1] if ended else None)
        progress.report()
    synced = [
        SyncedRun(source.run.id, source.run.display_name, source.folder, len(source.files), source.stats.received)
        for source in sources
        if source.folder is not None
    ]
    _report_excluded(sources, notify)
    behind = next((source.run.id for source in sources if source.is_behind), None)
    if first is None and behind is not None:
        first = ServiceFailed(
            f"Event files of run '{behind}' changed during each attempt to read them.",
            hint="Try again when no program replaces them.",
        )
    if synced and first is None:
        _report_without_files([source for source in sources if source.folder is None], notify)
    return synced, first or (None if synced else _nothing_to_show(sources))


class UpdateProgress:
    """Reports the progress, in bytes, of the first update of *sources*. Create it before the update begins."""

    def __init__(self, sources: Sequence[EventSource], notify: Notify) -> None:
        self._stats = [source.stats for source in sources]
        self._notify = notify
        self._planned = self._moved = self._files = 0

    def report(self) -> None:
        expected, received = sum(one.expected for one in self._stats), sum(one.received for one in self._stats)
        if expected < 4 << 20:  # smaller transfers are too fast for a progress line
            return
        if expected > self._planned:
            self._notify(Planned(0, expected - self._planned))
        if received > self._moved:
            self._notify(Moved("", received - self._moved))
        files = sum(one.files for one in self._stats)
        for _ in range(self._files, files):
            self._notify(Finished(""))
        self._planned, self._moved, self._files = expected, received, files


def _report_without_files(sources: Sequence[EventSource], notify: Notify) -> None:
    """Report runs that have no event files, or none yet, except sweeps and pipelines, whose files belong to their child
    runs."""
    for is_final, yet in ((True, ""), (False, " yet")):
        runs = [source.run for source in sources]
        ids = [run.id for run in runs if MANY not in run.tags and run.status.is_final == is_final]
        if ids:
            which = f"Run '{ids[0]}' has" if len(ids) == 1 else f"{len(ids):,} runs have"
            notify(Notice(f"{which} no event files{yet}{f': {listed(ids)}' if len(ids) > 1 else ''}."))


def _report_excluded(sources: Sequence[EventSource], notify: Notify) -> None:
    """Report, once each, files that himl cannot copy because their names are not possible on this machine."""
    for source in sources:
        excluded = {*source.excluded}
        names, source.reported = sorted(excluded - source.reported), excluded
        if names:
            reason = "not shown, because the name is not possible on this machine, or a link is in its place"
            notify(Notice(f"Run '{source.run.id}': {reason}: {named(names)}."))


def _nothing_to_show(sources: Sequence[EventSource]) -> NotFound:
    many = f"None of these {len(sources):,} runs has event files."
    return NotFound(
        f"Run '{sources[0].run.id}' has no event files." if len(sources) == 1 else many,
        hint="himl searches for names with 'tfevents' in --log_dir, then in all files of the run. Write event files to "
        "outputs/ or logs/.",
    )


class Poller:
    """Updates each of the *runs* and the list of runs *refresh* seconds after the last update, and shows the files that
    are complete or in progress.

    A slow run does not delay the others. Runs that have ended and are complete are not updated, and once no other run
    can join, himl sends no more requests. `not_updated` are the initial runs whose first update is not complete.
    """

    def __init__(self, runs: SelectedRuns, shown: ShownFolder, refresh: float, notify: Notify) -> None:
        self._runs = runs
        self._shown = shown
        self._refresh = refresh
        self._notify = notify
        self._open = [*runs.sources]
        self.not_updated = {*self._open}
        self._failing: set[str] = set()
        self._reported_failures: set[int] = set()  # by exit code
        self._reported_empty: set[tuple[str, bool]] = set()
        self._list_at = self._report_at = time.monotonic() + refresh
        self._due: dict[EventSource, float] = {}  # runs that are waiting for their next update
        self.progress = UpdateProgress(runs.sources, notify)
        for source in runs.sources:
            shown.show(source.name, source.by_attempt(source.files))
        self._updates = BackgroundCalls(EventSource.update, self._open)
        self._listings = BackgroundCalls(runs.fetch_changes)

    def step(self, seconds: float) -> None:
        """Process the results of the next *seconds*, and start the updates that are due. Raises HimlError."""
        updated = self._updates.next(seconds)
        if updated is not None:
            self._take_update(*updated)
        for source in self._updates.running:
            self._shown.show(source.name, source.by_attempt(source.current_files()))
        answer = self._listings.next(0)
        if answer is not None:
            self._list_at = time.monotonic() + self._refresh
            if isinstance(answer[1], HimlError):
                self._report_failure(RUN_LIST, answer[1])
            else:
                self._take_changes(answer[1])
        now = time.monotonic()
        if not self._updates.pending or now >= self._report_at:
            self._report_at = now + self._refresh
            self._report()
        if not self._listings.pending and now >= self._list_at and (self._open or self._runs.may_grow):
            self._listings.add([source.run.id for source in self._open if not source.run.status.is_final])
        for source in [source for source, due in self._due.items() if due <= now]:
            del self._due[source]
            self._updates.add(source)

    def _take_changes(self, changes: Changes) -> None:
        self._report_success(RUN_LIST)
        running = [source for source in self._due if not source.run.status.is_final]
        self._runs.apply(changes)
        self._due |= {source: 0.0 for source in running if source.run.status.is_final}
        for source in self._runs.sources:
            error = changes.gone.get(source.run.id)
            if error is not None and source in self._open:
                self._drop(source, error)
            elif source.is_done and not source.run.status.is_final:  # a run that was resumed
                source.is_done = False
                self._follow(source)
        for source in changes.joined:
            self._shown.show(source.name, source.by_attempt(source.files))
            self._follow(source)
        ids = [source.run.id for source in changes.joined]
        if ids:
            count = "New run" if len(ids) == 1 else f"{len(ids):,} new runs"
            self._notify(Notice(f"{count}: {listed(ids)}."))

    def _take_update(self, source: EventSource, error: HimlError | None) -> None:
        self.not_updated.discard(source)
        if error is None:
            self._report_success(source.run.id)
            if source.is_done and source in self._open:
                log.debug("run %s has ended: its files are complete", source.run.id)
                self._open.remove(source)
        elif isinstance(error, NotFound):
            self._drop(source, error)
        else:
            self._report_failure(source.run.id, error, is_known=source not in self._open)
        if source in self._open:
            self._due[source] = time.monotonic() + self._refresh
        self._shown.show(source.name, source.by_attempt(source.files))

    def _follow(self, source: EventSource) -> None:
        if source not in self._open:
            self._open.append(source)
            self._due[source] = 0.0

    def _drop(self, source: EventSource, error: NotFound) -> None:
        self._due.pop(source, None)
        self._report_success(source.run.id)
        if source in self._open:
            self._open.remove(source)
            self._notify(Notice(f"{error} himl stops updating it."))

    def _report_failure(self, subject: str, error: HimlError, *, is_known: bool = False) -> None:
        """Report each kind of failure once, if a retry may succeed: after network failures, damaged transfers, and
        expired credentials. Raises any other *error*."""
        if not isinstance(error, (ServiceFailed, NotAllowed, IntegrityFailed)):
            raise error
        if is_known:
            return
        self._failing.add(subject)
        if error.exit_code not in self._reported_failures:
            self._reported_failures.add(error.exit_code)
            sentences = (str(error), error.hint, "himl keeps trying. TensorBoard shows the local files.")
            self._notify(Notice(" ".join(filter(None, sentences))))

    def _report_success(self, subject: str) -> None:
        self._failing.discard(subject)
        if self._reported_failures and not self._failing:
            self._reported_failures.clear()
            self._notify(Notice("The service responds again."))

    def _report(self) -> None:
        """Report the runs without event files. Raises NotFound if no run has any, and neither these nor new runs can
        get any."""
        sources = self._runs.sources
        _report_excluded(sources, self._notify)
        if not self._open and not self._runs.may_grow and not any(source.files for source in sources):
            raise _nothing_to_show(sources)
        empty = [source for source in sources if not source.files and source.is_checked]
        new = [source for source in empty if (source.run.id, source.run.status.is_final) not in self._reported_empty]
        self._reported_empty |= {(source.run.id, source.run.status.is_final) for source in new}
        _report_without_files(new, self._notify)


def serve(
    runs: SelectedRuns,
    host: str,
    port: int,
    refresh: int,
    access: Access,
    notify: Notify,
    on_start: Callable[[ChildServer], None],
    on_first_update: Callable[[], None],
) -> None:
    """Show the runs in TensorBoard, and fetch new runs and event files every *refresh* seconds, until an interrupt.

    Runs are selected while TensorBoard starts. *on_start* is called once TensorBoard answers, before all files are
    complete, and *on_first_update* once all runs are updated. Raises the errors of `SelectedRuns.start`, HimlError if
    TensorBoard ends, NotFound if no run has event files, DiskFailed.
    """
    free = free_port(host, port)
    try:
        temporary = tempfile.TemporaryDirectory(prefix="himl_tb_", ignore_cleanup_errors=True)
    except OSError as err:
        raise disk_error(err, "Cannot create a temporary folder") from err
    with temporary as name:
        shown = ShownFolder(Path(name).resolve() / "runs")
        shown.root.mkdir()
        with closing(TensorBoard(shown.root, host, free, refresh, access, notify)) as server:
            runs.start()
            server.tell_address(port)
            poller = Poller(runs, shown, refresh, notify)
            is_up, is_first = False, True
            try:
                while True:
                    poller.step(0.5 if is_up else 0.1)
                    if is_first and is_up:
                        poller.progress.report()
                    if is_first and not poller.not_updated:
                        is_first = False
                        on_first_update()
                    server.check()
                    if not is_up and server.is_up():
                        is_up = True
                        on_start(server)
            except KeyboardInterrupt:
                take_time_to_end(SECONDS_TO_END)  # a second Ctrl-C would leave TensorBoard behind
                raise


class TensorBoard(ChildServer):
    """TensorBoard for the runs in *folder*. The parent folder belongs to the server."""

    name = "TensorBoard"
    version_check = "python -m tensorboard.main --version"

    def __init__(
        self, folder: Path, host: str, port: int, refresh: int, access: Access, notify: Notify = ignore
    ) -> None:
        self._folder = folder
        self._refresh = refresh
        self._checks: BackgroundCalls[int, int] = BackgroundCalls(
            lambda port: get(self._address, port, f"/{access.mark}/data/runs", DATA_ANSWER_SECONDS)[0]
        )
        self._check_at = 0.0
        self._failed_checks = 0
        self._restarts = 0
        super().__init__(folder.parent, host, port, access, notify)

    @property
    def arguments(self) -> Sequence[str]:
        return [
            "tensorboard",
            f"--logdir={self._folder}",
            f"--host={self._host}",
            f"--port={self._port}",
            f"--reload_interval={min(5, self._refresh)}",  # seconds
            "--reload_multifile=true",
            "--reload_multifile_inactive_secs=-1",
        ]

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of this process, without a proxy for TensorBoard's data server."""
        exceptions = next((os.environ[name] for name in PROXY_EXCEPTIONS if os.environ.get(name)), "")
        return {**os.environ, PROXY_EXCEPTIONS[0]: ",".join(filter(None, (exceptions, *LOCAL_HOSTS)))}

    def check(self) -> None:
        """Check the process as `ChildServer` does, and restart TensorBoard if its data server, which holds all data in
        memory, has ended. Then TensorBoard answers several requests with a server error. Raises HimlError after too
        many restarts."""
        super().check()
        if not self._was_up:
            return
        checked = self._checks.next(0)
        if checked is not None:
            self._check_at = time.monotonic() + CHECK_SECONDS
            has_failed = isinstance(checked[1], int) and checked[1] >= HTTPStatus.INTERNAL_SERVER_ERROR
            self._failed_checks = self._failed_checks + 1 if has_failed else 0
        elif not self._checks.pending and time.monotonic() >= self._check_at:
            self._checks.add(self._port)
        if self._failed_checks < FAILED_CHECKS:
            return
        if self._restarts == RESTARTS:
            raise HimlError(
                f"TensorBoard's data server ended {RESTARTS + 1} times.",
                hint="The memory may be full. Show fewer runs.",
            )
        self._restarts += 1
        self._failed_checks = 0
        self._notify(Notice("TensorBoard's data server ended. himl restarts TensorBoard."))
        # Ended before its pipe closes, because the process would then remove the folder with all shown files
        self.end_at_once()
        self.restart()
