"""Poll runs until they have ended, for their status, metrics, trials and last log lines, with few requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from himl_cli.core.errors import JobFailed, NotFound, ServiceFailed
from himl_cli.core.events import Notify
from himl_cli.core.logged import SYSTEM, RunResults, Series, WatchedRuns, is_pipeline_trial, sweep_of
from himl_cli.core.mounts import is_local_folder
from himl_cli.core.patterns import lazy_pattern
from himl_cli.core.runs import Run, RunStatus
from himl_cli.core.sweeps import MANY, hyperparameters_of
from himl_cli.services.runs.follow import OutageTolerance
from himl_cli.services.runs.logs import TAIL_BYTES, AttemptLogs, Log, find_log
from himl_cli.services.runs.lookup import BEST_SO_FAR, children_of, results_of
from himl_cli.workspaces.base import FolderWorkspace, Workspace
from himl_cli.workspaces.retry import Pauses

SECOND = 1.0
"""Interval between polls of local runs, in seconds."""
QUIET_SECONDS = 8
"""The same while nothing changes, unless the folder of a run does."""
FOLDERS_PER_SECOND = 20
"""Number of runs whose folders himl checks each second meanwhile."""
SHARED_SECONDS, SHARED_QUIET = 5.0, 24
"""For a list of local runs on a network file system: the interval between checks of the folder of the newest run in
progress, and the number of checks before a poll."""
SELDOM = 10
"""Rounds between polls of data that changes seldom: the list of runs, and the service's system metrics."""
MANY_POINTS = 20_000
"""Up to this number of points, himl reads every point of local runs again and again. For other runs, it reads the
last."""
POINTS_PER_POLL = 500
"""Points that himl reads again in each poll, on average. So it reads 20,000 points in every 40th poll."""
MOST_KEPT = 500
"""Up to twice this number of points of a metric are kept to draw it, however long its run goes on."""
SILENT = 5
"""Polls of a log without new bytes before himl searches for it again, because another attempt may have begun."""
ESCAPES = lazy_pattern(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\))")


def watch_runs(
    workspace: Workspace, watched: WatchedRuns, notify: Notify, *, newest: Callable[[], Sequence[Run]] | None = None
) -> Iterator[float]:
    """Update *watched* until all its runs have ended. Yield the seconds until the next poll, and 0 at the end.

    With *newest*, which lists the runs, this includes runs that begin later. Without it, the first run is watched in
    detail. Each poll sends one request to a service, in turn: the status and last metrics of all runs, the children of
    one, their values, new bytes of the log. Only the first one, for earlier points, takes more. Failures are tolerated
    as in `follow_log`. Raises what the workspace raises.
    """
    of_open = {run.workspace: run.id for run in watched.runs if not run.status.is_final}
    homes = [workspace.home_of(run_id) for run_id in of_open.values()]
    first, longest = max((home.poll_interval for home in homes), default=Workspace.poll_interval)
    is_here, outage = (first, longest) == Workspace.poll_interval, OutageTolerance(notify)
    pauses = Pauses(first, longest)
    is_shared = any(isinstance(home, FolderWorkspace) and not is_local_folder(home.folder) for home in homes)
    looks = _Looks(workspace, watched, newest, is_here=is_here, is_shared=is_shared and newest is not None)
    for number in _rounds(looks):
        version = watched.version
        for look in looks.of_round(number):
            has_changed = False
            try:
                has_changed = look()
                watched.version += has_changed
                outage.succeeded()
            except ServiceFailed as err:
                outage.failed(err)
            if not is_here and not looks.is_over:
                yield max(SECOND, pauses.next(has_changed=has_changed))
        for _ in range((SHARED_QUIET if looks.is_shared else QUIET_SECONDS) if is_here and not looks.is_over else 0):
            yield SHARED_SECONDS if looks.is_shared else SECOND
            if looks.has_folder_changed() or (watched.version != version and not looks.is_shared):
                break
    yield 0.0


def raise_for_failed(watched: WatchedRuns) -> None:
    """Raise JobFailed if a followed run did not complete."""
    failed = [run for run in watched.runs if run.id in watched.followed and run.status is not RunStatus.completed]
    if failed:
        names = ", ".join(run.id for run in failed[:5]) + (", …" if len(failed) > 5 else "")
        raise JobFailed(
            f"{len(failed)} of {len(watched.followed)} runs did not complete: {names}.",
            hint=f"See himl runs show {failed[0].id}",
        )


def _rounds(looks: _Looks) -> Iterator[int]:
    number = 0
    while not number or not looks.is_over:
        yield number
        number += 1


class _Looks:
    """Polls with one request each. Each returns whether it found something new."""

    def __init__(
        self,
        workspace: Workspace,
        watched: WatchedRuns,
        newest: Callable[[], Sequence[Run]] | None,
        *,
        is_here: bool,
        is_shared: bool,
    ) -> None:
        self._workspace = workspace
        self._is_here, self.is_shared = is_here, is_shared
        self._watched = watched
        self._newest = newest
        self._counts: dict[str, int] = {}  # of the points that were read
        self._values: dict[str, RunResults] = {}  # of trials
        # Trials that had already ended when their values were read.
        self._settled: set[str] = set()
        self._log: _LogTail | None = None
        self._homes: dict[str, FolderWorkspace | None] = {}
        self._folders: list[int] = []
        self._take(watched.runs)

    @property
    def is_over(self) -> bool:
        return all(run.status.is_final for run in self._watched.runs)

    def has_folder_changed(self) -> bool:
        """Whether the folder of a local run in progress, one of the newest, has changed since the last call."""
        most = 1 if self.is_shared else FOLDERS_PER_SECOND
        waiting = [run.id for run in self._watched.runs if not run.status.is_final][:most]
        for run_id in waiting:
            if run_id not in self._homes:
                home = self._workspace.home_of(run_id)
                self._homes[run_id] = home if isinstance(home, FolderWorkspace) else None
        homes = ((run_id, self._homes[run_id]) for run_id in waiting)
        before = self._folders
        self._folders = [each.folder_changed(run_id) for run_id, each in homes if each is not None]
        return before != self._folders

    def of_round(self, number: int) -> Iterator[Callable[[], bool]]:
        watched, run = self._watched, self._watched.runs[0] if self._watched.runs else None
        open_before = {run.id for run in watched.runs if not run.status.is_final}
        if number and number % SELDOM == 0 and self._newest is not None:
            yield partial(self._list, self._newest)
        yield self._refresh
        count = sum(self._counts.values())
        is_due = number % (1 + count // POINTS_PER_POLL) == 0
        again = {each.id for each in watched.runs if each.id in open_before and (is_due or each.status.is_final)}
        if number == 0 or (self._is_here and again and count <= MANY_POINTS):
            yield partial(self._look_back, again if number else {each.id for each in watched.runs})
        for parent in watched.runs:
            is_shown = self._newest is None or parent.id in watched.followed
            if MANY in parent.tags and is_shown and (parent.id in open_before or parent.id not in watched.children):
                yield partial(self._look_at_children, parent)
        if self._newest is not None or run is None:
            return
        if run.id in watched.children:
            if any(hyperparameters_of(child.tags) for child in watched.children[run.id]):
                yield self._look_at_trials
            return
        if watched.runs[0].started is not None:
            self._log = self._log or _LogTail(self._workspace, watched)
            yield self._log.look
        if number % SELDOM == 0 and not any(name.startswith(SYSTEM) for name in watched.points.get(run.id, {})):
            yield self._look_at_machine

    def _take(self, runs: Sequence[Run]) -> None:
        self._watched.runs = runs
        self._watched.followed |= {run.id for run in runs if not run.status.is_final}

    def _list(self, newest: Callable[[], Sequence[Run]]) -> bool:
        before = {run.id for run in self._watched.runs}
        runs = newest()
        gone = [run for run in self._watched.runs if run.id in self._watched.followed - {each.id for each in runs}]
        self._take([*runs, *gone])
        return not before.issuperset(run.id for run in runs)

    def _look_back(self, open_before: set[str]) -> bool:
        """Read all earlier points. In a list, after the first poll only of the runs that had not ended."""
        runs = [run for run in self._watched.runs if self._newest is None or run.id in open_before]
        found = self._workspace.results(runs, wanted=self._is_wanted, whole=True) if runs else {}
        points = {
            run_id: {name: self._to_keep(name, each) for name, each in results.series.items()}
            for run_id, results in found.items()
        }
        self._counts |= {run: sum(len(each.steps) for each in its.series.values()) for run, its in found.items()}
        has_changed = any(self._watched.points.get(run_id) != its for run_id, its in points.items())
        self._watched.points |= points
        return has_changed

    def _is_wanted(self, name: str) -> bool:
        return not name.startswith(BEST_SO_FAR) and (self._newest is None or not name.startswith(SYSTEM))

    def _to_keep(self, name: str, series: Series) -> list[tuple[int, float]]:
        """The points of a system metric, whose peak is shown, or some of those of another metric, with the last one."""
        points = list(zip(series.steps, series.values, strict=True))
        every = 1 if name.startswith(SYSTEM) else 1 + len(points) // MOST_KEPT
        return [*points[:-1:every], points[-1]]

    def _refresh(self) -> bool:
        waiting = [run for run in self._watched.runs if not run.status.is_final]
        found = self._workspace.refresh(waiting) if waiting else {}
        if len(found) < len(waiting) and self._newest is None:
            self._workspace.run(waiting[0].id)  # raises RunNotFound, because it was deleted
        gone = {run.id for run in waiting} - found.keys()
        before = self._watched.runs
        self._watched.runs = [found[run.id][0] if run.id in found else run for run in before if run.id not in gone]
        grown = [self._add(run_id, results) for run_id, (_, results) in found.items()]
        return any(grown) or [run.status for run in before] != [run.status for run in self._watched.runs]

    def _add(self, run_id: str, results: RunResults) -> bool:
        """Add the last logged values to the points. Return whether any is new."""
        points, has_grown = self._watched.points.setdefault(run_id, {}), False
        for name, value in results.last.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not self._is_wanted(name):
                continue
            known = points.setdefault(name, [])
            step = results.steps.get(name, known[-1][0] if known else 0)
            is_other = bool(known) and not math.isnan(value) and value != known[-1][1]
            if not known or step > known[-1][0] or is_other:
                known.append((step, float(value)))
                has_grown = True
                self._counts[run_id] = self._counts.get(run_id, 0) + 1
                if len(known) > 2 * MOST_KEPT and not name.startswith(SYSTEM):
                    known[:-1] = known[:-1:2]
        return has_grown

    def _look_at_children(self, run: Run) -> bool:
        children, before = children_of(self._workspace, run), self._watched.children.get(run.id, ())
        self._watched.children[run.id] = children
        return [(child.id, child.status) for child in children] != [(child.id, child.status) for child in before]

    def _look_at_trials(self) -> bool:
        run = self._watched.runs[0]
        children = self._watched.children[run.id]
        waiting = [child for child in children if child.id not in self._settled]
        settled = {child.id for child in waiting if child.status.is_final}
        if any(map(is_pipeline_trial, children)):
            values = {**results_of(self._workspace, waiting, wanted=self._is_wanted, whole=False)} if waiting else {}
        else:
            found = self._workspace.refresh(waiting) if waiting else {}
            values = {run_id: last for run_id, (_, last) in found.items()}
        self._settled |= settled
        before, self._values = self._values, self._values | values
        self._watched.sweep = sweep_of(run, children, lambda *_, **__: self._values)
        return before != self._values

    def _look_at_machine(self) -> bool:
        run = self._watched.runs[0]
        self._watched.machine = self._workspace.system_metrics([run]).get(run.id, ())
        return False


class _LogTail:
    """The last lines of the main log of a run's last attempt, with one request per poll once the log is found."""

    def __init__(self, workspace: Workspace, watched: WatchedRuns) -> None:
        run_id = watched.runs[0].id
        self._files = workspace.run_files(run_id)
        self._attempts = AttemptLogs(workspace.home_of(run_id))
        self._watched = watched
        self._log: Log | None = None
        self._end = 0
        self._tail = b""
        self._silent = 0

    def look(self) -> bool:
        """Read new bytes. Search again for a log that has not grown for a while."""
        if self._log is None or self._silent >= SILENT:
            self._silent = 0
            found = find_log(self._files, None)
            blob = self._files.stat(found.name) if found else None
            if found is None or blob is None:
                return False
            if found == self._log and blob.size >= self._end:
                return False
            self._log, self._end, self._tail = found, max(0, blob.size - TAIL_BYTES), b""
            self._attempts.inode = 0
        try:
            piece = b"".join(self._files.read(self._log.name, self._end))
        except NotFound:  # another attempt is about to replace the log
            piece = b""
        if piece and self._attempts.is_replaced(self._files, self._log, None):
            self._log = None
            return False
        self._end += len(piece)
        self._silent = 0 if piece else self._silent + 1
        if piece:
            self._tail = (self._tail + piece)[-TAIL_BYTES:]
            self._watched.log = [plain_line(line) for line in self._tail.decode("utf-8", "replace").split("\n")[-200:]]
        return bool(piece)


def plain_line(line: str) -> str:
    """*line* as a terminal finally shows it if it handles carriage returns only, since progress bars overwrite
    themselves. Other control characters become spaces."""
    shown = ESCAPES.sub("", line).rstrip("\r").rpartition("\r")[2].expandtabs()
    return "".join(sign if sign.isprintable() else " " for sign in shown)
