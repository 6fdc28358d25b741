"""The runs that TensorBoard shows: those that the selection means, those that join later, and their names.

Services are asked in daemon threads, a few at a time: one that stalls holds up neither Ctrl-C nor the other calls.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from queue import Empty, Queue
from typing import Generic, TypeVar

from himl_cli.core.errors import BadUsage, HimlError, NotFound, RunNotFound
from himl_cli.core.events import Notify, ignore
from himl_cli.core.files import cache_of, expand_home
from himl_cli.core.jobs import MANY, hyperparameters_of, values_text
from himl_cli.core.runs import Run, RunQuery, RunSelection
from himl_cli.services.runs.aggregate import PREPARATION
from himl_cli.services.runs.lookup import (
    LATEST,
    find_runs,
    nearest_latest_run_file,
    newest_run,
    no_children,
    read_latest_run_file,
    workspace_in_url,
)
from himl_cli.services.tensorboard.copies import CopiedSource, EventSource, LocalSource
from himl_cli.services.transfer.local_files import folded
from himl_cli.workspaces.base import FolderWorkspace, Workspace

Answer = TypeVar("Answer")
Item = TypeVar("Item")
log = logging.getLogger(__name__)

# Runs in one answer of the slowest service: a list is read no further than so many for each run wanted; what is below
# is asked for one by one.
PAGE = 100
LONGEST_TITLE = 60
# Characters of a whole name: below the shortest limit of a file system even where each takes several bytes.
LONGEST_NAME = 150
UNPLAIN = re.compile(r"[^\w.+=-]+")
AT_ONCE = 8
WAIT_SECONDS = 0.5  # between two chances for Ctrl-C, which Windows does not let through to a thread that waits


class BackgroundCalls(Generic[Item, Answer]):
    """Calls *call* with each of *items* and those added later, in their order, `AT_ONCE` at a time.

    `pending` counts the calls whose outcome `next` has not given yet.
    """

    def __init__(self, call: Callable[[Item], Answer], items: Iterable[Item] = ()) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._waiting: deque[Item] = deque()
        self._running: list[Item] = []
        self._threads = 0
        # A SimpleQueue of Python 3.10 may wait for ever if its time is over when it looks a second time
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
            if self._threads == AT_ONCE:
                return
            self._threads += 1
        threading.Thread(target=self._work, name="himl-tb", daemon=True).start()

    def next(self, timeout: float) -> tuple[Item, Answer | HimlError] | None:
        """An item whose call has ended, with what it gave or the HimlError that it raised; None if none ends within
        *timeout* seconds. Raises any other error."""
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
            except BaseException as err:  # noqa: BLE001  # raised by whoever waits for it
                outcome = err
            with self._lock:
                self._running.remove(item)
            self._outcomes.put((item, outcome))


def call_each(call: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """What *call* gives for each of *items*, in their order. Raises the first HimlError in that order."""
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


@dataclass
class Changes:
    """`runs` as they are now, new ones too, by id; `gone`: the errors of those that are no longer there; `joined`: the
    sources of new runs."""

    runs: dict[str, Run] = field(default_factory=dict)
    gone: dict[str, RunNotFound] = field(default_factory=dict)
    joined: list[EventSource] = field(default_factory=list)


class SelectedRuns:
    """The runs of *selection*, of a sweep or a pipeline with all below it, each with the source of its event files.

    What comes later joins them; none leaves. Files on this machine are shown where they lie, others are copied below
    *copies*, by readable names, or to himl's cache (None), by ids. `fetch_changes` may be called in another thread than
    the one that updates the `sources`, which then calls `apply`.
    """

    def __init__(
        self,
        workspace: Workspace,
        selection: RunSelection,
        cwd: Path,
        log_dir: str,
        copies: Path | None,
        notify: Notify = ignore,
    ) -> None:
        self.sources: list[EventSource] = []
        self._workspace = workspace
        self._selection = selection
        self._cwd = cwd
        self._log_dir = log_dir
        self._copies = copies
        self._notify = notify
        # What the user gave may mean another run later
        self._may_mean_others = not selection.runs or any(text.lower() == LATEST for text in selection.runs)
        self._known: dict[str, Run] = {}
        self._roots: list[str] = []
        self._parents: set[str] = set()  # whose children may become more
        self._names: dict[str, str] = {}
        self._homes: dict[str, Workspace] = {}
        self._depths: dict[tuple[int, str], int] = {}  # up to where lists were read
        self._unlisted: set[str] = set()

    @property
    def may_grow(self) -> bool:
        return bool(self._parents) or self._may_mean_others

    def start(self) -> None:
        """Choose the runs. Raises what `find_runs` does, BadUsage for a user without a cache, DiskFailed."""
        found = find_runs(self._workspace, replace(self._selection, children=False), cwd=self._cwd, notify=self._notify)
        self._add_roots(found)
        self._read_below(found, Changes())
        self.sources = [self._source(run) for run in self._known.values() if self._is_shown(run)]
        if not self.sources:
            raise no_children(found)

    def fetch_changes(self, wanted: Collection[str]) -> Changes:
        """Which runs are new, and the states of those *wanted*. Raises HimlError; the next time goes on."""
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
            self._read(alike[0], query, alike, changes, least=3, deepest=PAGE * len(alike))
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
            return LocalSource(home.run_files(run.id), home, run, name, self._log_dir)
        if self._copies is None:
            root = cache_of("tensorboard", "to copy event files to", "Say where with --run_logs_dir DIR.")
            key = repr(workspace_in_url(run.url) or run.workspace)  # labels leave the subscription out
            folder = root / hashlib.sha256(key.encode()).hexdigest()[:12] / permanent_name(run)
        else:
            folder = self._copies / name
        return CopiedSource(home, run, name, self._log_dir, folder.absolute())

    def _home(self, run: Run) -> Workspace:
        """The workspace that keeps *run*, where several are joined. Raises RunNotFound."""
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
        """Runs that the selection means by now beside those it meant before, oldest first."""
        selection = self._selection
        if selection.experiment is not None:
            roots = [self._known[run_id] for run_id in self._roots]
            oldest = min(run.created for run in roots)
            query = RunQuery(roots[0].experiment, selection.statuses, selection.tags)
            is_filtered = bool(selection.statuses or selection.tags)  # an older run may come to meet the conditions
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
                if read_latest_run_file(path).run_id in self._known:  # that costs no request
                    return []
                run = find_runs(self._workspace, RunSelection(latest_run_file=str(path)), cwd=self._cwd)[0]
        except (NotFound, BadUsage) as err:  # a file that is just being written, a workspace whose runs were deleted
            log.debug("nothing new: %s", err)
            return []
        return [run] if run.id not in self._known else []

    def _read_below(self, parents: Iterable[Run], changes: Changes, asked: Collection[str] = ()) -> None:
        """New children of those of *parents* that may have some, theirs too, and the states of the children *asked*
        for."""
        parents = [parent for parent in parents if parent.id in self._parents]
        wanted: dict[str | None, list[Run]] = defaultdict(list)
        for run_id in asked:
            wanted[self._known[run_id].parent].append(self._known[run_id])
        answers = call_each(
            lambda parent: self._read(parent, RunQuery(parent=parent.id), wanted.get(parent.id, ()), changes), parents
        )
        found = [run for children in answers for run in reversed(children) if not run.id.endswith(PREPARATION)]
        new = {run.id: run for run in found if run.id not in self._known}
        self._parents -= {parent.id for parent in parents if parent.status.is_final}  # asked for before its children
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
        """A list of the workspace that keeps *relative*, where it may have so many (*least*) of those *wanted*, and the
        states of these, one by one of those that it does not have. Called in threads."""
        found: Sequence[Run] = ()
        listed = {run.id for run in wanted if run.id not in self._unlisted}
        if len(listed) >= least:
            found = self._list(self._home(relative), query, listed, deepest=deepest)
            changes.runs |= {run.id: run for run in found if run.id in self._known}
            self._unlisted |= {run_id for run_id in listed if run_id not in changes.runs}  # other threads add to them
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
        """The runs of *query*, newest first, as far down as it matters: those that are new since those known, and on to
        the last of *wanted*; with *down_to* none that was made before that.

        Not more than *deepest* are read. A run of *wanted* that does not come is not in the list (any more), or deeper
        in it.
        """
        key = (id(workspace), repr(query))
        # Some beyond those that mattered the last time: new ones then cost no second request
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
    """A trial's values, else the display name, and the id, in characters that every file system takes."""
    title = values_text(hyperparameters_of(run.tags)) or ("" if run.display_name == run.id else run.display_name)
    title = UNPLAIN.sub("_", title).strip("._")[:LONGEST_TITLE].rstrip("._")
    plain_id = _plain_id(run)
    name = f"{title}-{plain_id}" if title else plain_id
    return name if plain_id == run.id and len(name) <= LONGEST_NAME else _marked(name, run)


def unique_name(run: Run, taken: dict[str, str]) -> str:
    """A readable name unlike those *taken* (ids by folded name), also to a file system that takes capital and small
    letters for the same. Adds itself to *taken*."""
    name = readable_name(run)
    if taken.setdefault(folded(name), run.id) != run.id:
        name = _marked(name, run)
        taken[folded(name)] = run.id
    return name


def permanent_name(run: Run) -> str:
    """A folder's name that depends on the run's id alone, and that no other run's is, also where capital and small
    letters are the same."""
    plain_id = _plain_id(run)
    is_unique = plain_id == run.id == folded(run.id) and len(plain_id) <= LONGEST_NAME
    return plain_id if is_unique else _marked(plain_id, run)


def _plain_id(run: Run) -> str:
    return UNPLAIN.sub("_", run.id).strip(".") or "run"


def _marked(name: str, run: Run) -> str:
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(run.id.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
