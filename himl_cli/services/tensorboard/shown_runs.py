"""The runs that TensorBoard shows: the selected runs, those that join later, and their names.

Requests run in a few daemon threads, so that a stalled one blocks neither Ctrl-C nor the others.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import field, replace
from datetime import datetime
from pathlib import Path
from queue import Empty, Queue
from typing import Generic, TypeVar

from himl_cli.core.errors import BadUsage, HimlError, NotFound, RunNotFound
from himl_cli.core.events import Notify, ignore
from himl_cli.core.files import cache_of, expand_home
from himl_cli.core.records import dataclass
from himl_cli.core.runs import Run, RunQuery, RunSelection
from himl_cli.core.sweeps import MANY, hyperparameters_of, values_text
from himl_cli.services.runs.aggregate import PREPARATION
from himl_cli.services.runs.lookup import (
    LATEST_RUN,
    find_runs,
    nearest_latest_run_file,
    newest_run,
    no_children,
    read_latest_run_file,
    workspace_in_url,
)
from himl_cli.services.tensorboard.copies import CopiedSource, EventSource, LocalSource
from himl_cli.services.transfer.local_files import folded
from himl_cli.workspaces.base import FolderWorkspace, Workspace, with_links

Answer = TypeVar("Answer")
Item = TypeVar("Item")
log = logging.getLogger(__name__)

# Runs per response of the slowest service. himl reads at most this many runs of a list for each wanted run, and
# requests the remaining ones individually.
RUNS_PER_PAGE = 100
LONGEST_TITLE = 60
# Characters of a whole name, below the shortest limit of a file system even with several bytes per character
LONGEST_FOLDER_NAME = 150
UNPLAIN = re.compile(r"[^\w.+=-]+")
RUNS_AT_ONCE = 8
# Time between checks for Ctrl-C, which does not interrupt a waiting thread on Windows
WAIT_SECONDS = 0.5


class BackgroundCalls(Generic[Item, Answer]):
    """Calls *call* with each of *items* and of those added later, in their order, up to `AT_ONCE` at a time.

    `pending` is the number of calls whose outcome `next` has not returned yet.
    """

    def __init__(self, call: Callable[[Item], Answer], items: Iterable[Item] = ()) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._waiting: deque[Item] = deque()
        self._running: list[Item] = []
        self._threads = 0
        # SimpleQueue in Python 3.10 may wait forever if its timeout expires before its second check
        self._outcomes: Queue[tuple[Item, Answer | BaseException]] = Queue()
        self.pending = 0
        for item in items:
            self.add(item)

    @property
    def running(self) -> Sequence[Item]:
        with self._lock:
            return [*self._running]

    def add(self, item: Item) -> None:
        self.pending += 1
        with self._lock:
            self._waiting.append(item)
            if self._threads == RUNS_AT_ONCE:
                return
            self._threads += 1
        threading.Thread(target=self._work, name="himl-tb", daemon=True).start()

    def next(self, timeout: float) -> tuple[Item, Answer | HimlError] | None:
        """An item whose call has ended, with its result or HimlError, or None if no call ends within *timeout* seconds.
        Raises any other error of a call."""
        try:
            item, outcome = self._outcomes.get(timeout=timeout)
        except Empty:
            return None
        self.pending -= 1
        if isinstance(outcome, BaseException) and not isinstance(outcome, HimlError):
            raise outcome
        return item, outcome

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                item = self._waiting.popleft()
                self._running.append(item)
            outcome: Answer | BaseException
            try:
                outcome = self._call(item)
            except BaseException as err:  # noqa: BLE001  # `next` raises it
                outcome = err
            with self._lock:
                self._running.remove(item)
            self._outcomes.put((item, outcome))


def call_each(call: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """The results of *call* for each of *items*, in their order. Raises the first HimlError in that order."""
    calls = BackgroundCalls(lambda number: call(items[number]), range(len(items)))
    outcomes: dict[int, Answer | HimlError] = {}
    while calls.pending:
        ended = calls.next(WAIT_SECONDS)
        if ended is not None:
            outcomes[ended[0]] = ended[1]
    answers: list[Answer] = []
    for _, outcome in sorted(outcomes.items()):
        if isinstance(outcome, HimlError):
            raise outcome
        answers.append(outcome)
    return answers


@dataclass()
class Changes:
    """Changes since the last request: the current `runs` by id, including new ones, the errors for runs that no longer
    exist (`gone`), and the sources of new runs (`joined`)."""

    runs: dict[str, Run] = field(default_factory=dict)
    gone: dict[str, RunNotFound] = field(default_factory=dict)
    joined: list[EventSource] = field(default_factory=list)


class SelectedRuns:
    """The runs of *selection*, including all child runs of a sweep or a pipeline, each with the source of its event
    files.

    Later runs join, and none leaves. Local files are shown in place. Others are copied below *copies*, by readable
    names, or with None to himl's cache, by ids. Another thread than the one that updates the `sources` may call
    `fetch_changes`. The first thread then calls `apply`.
    """

    def __init__(
        self,
        workspace: Workspace,
        selection: RunSelection,
        cwd: Path,
        log_dir: str,
        copies: Path | None,
        notify: Notify = ignore,
        *,
        follows_links: bool = False,
    ) -> None:
        self.sources: list[EventSource] = []
        self._workspace = workspace
        self._selection = selection
        self._cwd = cwd
        self._log_dir = log_dir
        self._copies = copies
        self._notify = notify
        self._follows_links = follows_links
        # Whether the selection may match other runs later
        self._may_mean_others = not selection.runs or any(text.lower() == LATEST_RUN for text in selection.runs)
        self._known: dict[str, Run] = {}
        self._roots: list[str] = []
        self._parents: set[str] = set()  # runs that may get more child runs
        self._names: dict[str, str] = {}
        self._homes: dict[str, Workspace] = {}
        self._depths: dict[tuple[int, str], int] = {}  # number of runs read from each list
        self._unlisted: set[str] = set()

    @property
    def may_grow(self) -> bool:
        return bool(self._parents) or self._may_mean_others

    def start(self) -> None:
        """Select the runs. Raises the errors of `find_runs`, BadUsage for a user without a cache, DiskFailed."""
        found = find_runs(self._workspace, replace(self._selection, children=False), cwd=self._cwd, notify=self._notify)
        self._add_roots(found)
        self._read_below(found, Changes())
        self.sources = [self._source(run) for run in self._known.values() if self._is_shown(run)]
        if not self.sources:
            raise no_children(found)

    def fetch_changes(self, wanted: Collection[str]) -> Changes:
        """The new runs, and the statuses of those *wanted*. Raises HimlError, after which the next call continues."""
        changes = Changes()
        asked = {*wanted, *self._parents}
        new = self._new_roots(asked, changes)
        others = [self._known[run_id] for run_id in asked - changes.runs.keys()]
        groups: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
        for run in others:
            if run.parent not in self._parents:
                groups[run.workspace, run.parent or "", run.experiment].append(run)
        for (_, parent, experiment), alike in groups.items():
            query = RunQuery(parent=parent) if parent else RunQuery(experiment)
            self._read(alike[0], query, alike, changes, least=3, deepest=RUNS_PER_PAGE * len(alike))
        self._parents -= changes.gone.keys()
        self._known |= changes.runs
        self._add_roots(new)
        self._read_below([self._known[parent] for parent in self._parents], changes, asked)
        changes.runs |= {run.id: run for run in new}
        changes.runs = {run_id: run for run_id, run in changes.runs.items() if self._is_shown(run)}
        shown = {source.run.id for source in self.sources}
        changes.joined = [self._source(run) for run in changes.runs.values() if run.id not in shown]
        return changes

    def apply(self, changes: Changes) -> None:
        for source in self.sources:
            source.run = changes.runs.get(source.run.id, source.run)
        self.sources += changes.joined

    def _source(self, run: Run) -> EventSource:
        home, name = self._home(run), unique_name(run, self._names)
        if isinstance(home, FolderWorkspace):
            store = home.run_files(run.id)
            return LocalSource(with_links(store) if self._follows_links else store, home, run, name, self._log_dir)
        if self._copies is None:
            root = cache_of("tensorboard", "for event files", "Name a folder with --run_logs_dir DIR.")
            key = repr(workspace_in_url(run.url) or run.workspace)  # labels omit the subscription
            folder = root / hashlib.sha256(key.encode()).hexdigest()[:12] / permanent_name(run)
        else:
            folder = self._copies / name
        return CopiedSource(home, run, name, self._log_dir, folder.absolute())

    def _home(self, run: Run) -> Workspace:
        """The workspace that stores *run*, among several joined workspaces. Raises RunNotFound."""
        if run.workspace not in self._homes:
            self._homes[run.workspace] = self._workspace.home_of(run.id)
        return self._homes[run.workspace]

    def _is_shown(self, run: Run) -> bool:
        return not (self._selection.children and run.id in self._roots)

    def _add_roots(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self._known[run.id] = run
            self._roots.append(run.id)
            if self._selection.children or MANY in run.tags:
                self._parents.add(run.id)

    def _new_roots(self, asked: Collection[str], changes: Changes) -> list[Run]:
        """New runs that match the selection, oldest first."""
        selection = self._selection
        if selection.experiment is not None:
            roots = [self._known[run_id] for run_id in self._roots]
            oldest = min(run.created for run in roots)
            query = RunQuery(roots[0].experiment, selection.statuses, selection.tags)
            is_filtered = bool(selection.statuses or selection.tags)  # older runs may match later
            wanted = [run.id for run in roots if is_filtered or run.id in asked]
            found = self._list(self._workspace, query, wanted, down_to=oldest)
            changes.runs |= {run.id: run for run in found if run.id in self._known}
            return [run for run in reversed(found) if run.id not in self._known and run.created > oldest]
        if not self._may_mean_others:
            return []
        try:
            if selection.runs:
                run = newest_run(self._workspace)
            else:
                named = selection.latest_run_file
                path = nearest_latest_run_file(self._cwd) if named is None else self._cwd / expand_home(named)
                if read_latest_run_file(path).run_id in self._known:  # avoids a request
                    return []
                run = find_runs(self._workspace, RunSelection(latest_run_file=str(path)), cwd=self._cwd)[0]
        except (NotFound, BadUsage) as err:
            # The file is incomplete, or the runs of the workspace were deleted
            log.debug("nothing new: %s", err)
            return []
        return [run] if run.id not in self._known else []

    def _read_below(self, parents: Iterable[Run], changes: Changes, asked: Collection[str] = ()) -> None:
        """Add the new child runs of *parents*, at all levels, and the statuses of the child runs *asked* for, to
        *changes*."""
        parents = [parent for parent in parents if parent.id in self._parents]
        wanted: dict[str | None, list[Run]] = defaultdict(list)
        for run_id in asked:
            wanted[self._known[run_id].parent].append(self._known[run_id])
        answers = call_each(
            lambda parent: self._read(parent, RunQuery(parent=parent.id), wanted.get(parent.id, ()), changes), parents
        )
        found = [run for children in answers for run in reversed(children) if not run.id.endswith(PREPARATION)]
        new = {run.id: run for run in found if run.id not in self._known}
        # The status of a parent is older than the list of its child runs, so the list of a final one is complete
        self._parents -= {parent.id for parent in parents if parent.status.is_final}
        self._known |= new
        changes.runs |= new
        self._parents |= {run.id for run in new.values() if MANY in run.tags}
        if new:
            self._read_below(new.values(), changes)

    def _read(
        self,
        relative: Run,
        query: RunQuery,
        wanted: Collection[Run],
        changes: Changes,
        *,
        least: int = 0,
        deepest: int | None = None,
    ) -> Sequence[Run]:
        """A list of runs in the workspace of *relative*, and the statuses of those *wanted*, which go to *changes*.

        The list is requested only if it may contain at least *least* of those wanted. Runs that are not in the list are
        requested individually. Called in several threads.
        """
        found: Sequence[Run] = ()
        listed = {run.id for run in wanted if run.id not in self._unlisted}
        if len(listed) >= least:
            found = self._list(self._home(relative), query, listed, deepest=deepest)
            changes.runs |= {run.id: run for run in found if run.id in self._known}
            # In place, because other threads add to the same set
            self._unlisted |= {run_id for run_id in listed if run_id not in changes.runs}
        for run in wanted:
            if run.id not in changes.runs:
                try:
                    changes.runs[run.id] = self._home(run).run(run.id)
                except RunNotFound as err:
                    changes.gone[run.id] = err
        return found

    def _list(
        self,
        workspace: Workspace,
        query: RunQuery,
        wanted: Iterable[str],
        *,
        down_to: datetime | None = None,
        deepest: int | None = None,
    ) -> Sequence[Run]:
        """The newest runs of *query*, newest first, until the list includes all new runs and all of *wanted*. With
        *down_to*, it ends at runs that are older.

        Reads at most *deepest* runs. A run of *wanted* that is missing is no longer in the list, or deeper in it.
        """
        key = (id(workspace), repr(query))
        # A few more than the last time, so that new runs need no second request
        limit = self._depths[key] + 10 if key in self._depths else None
        while True:
            found: list[Run] = []
            missing, is_enough = set(wanted), False
            for run in workspace.runs(replace(query, limit=limit or deepest)):
                if down_to is not None and run.created < down_to:
                    is_enough = True
                    break
                found.append(run)
                missing.discard(run.id)
                if not missing and run.id in self._known:
                    is_enough = True
                    break
            if is_enough or limit is None or len(found) < limit:
                self._depths[key] = len(found)
                return found
            limit = None


def readable_name(run: Run) -> str:
    """The values of a trial or the display name, followed by the id, in characters that every file system accepts."""
    title = values_text(hyperparameters_of(run.tags)) or ("" if run.display_name == run.id else run.display_name)
    title = UNPLAIN.sub("_", title).strip("._")[:LONGEST_TITLE].rstrip("._")
    plain_id = _plain_id(run)
    name = f"{title}-{plain_id}" if title else plain_id
    return name if plain_id == run.id and len(name) <= LONGEST_FOLDER_NAME else _marked(name, run)


def unique_name(run: Run, taken: dict[str, str]) -> str:
    """A readable name that differs from those *taken* (ids by folded name) even on a file system that ignores case.
    Adds the name to *taken*."""
    name = readable_name(run)
    if taken.setdefault(folded(name), run.id) != run.id:
        name = _marked(name, run)
        taken[folded(name)] = run.id
    return name


def permanent_name(run: Run) -> str:
    """A folder name that depends only on the run's id and is unique, even if case is ignored."""
    plain_id = _plain_id(run)
    is_unique = plain_id == run.id == folded(run.id) and len(plain_id) <= LONGEST_FOLDER_NAME
    return plain_id if is_unique else _marked(plain_id, run)


def _plain_id(run: Run) -> str:
    return UNPLAIN.sub("_", run.id).strip(".") or "run"


def _marked(name: str, run: Run) -> str:
    return f"{name[:LONGEST_FOLDER_NAME]}-{hashlib.sha256(run.id.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
