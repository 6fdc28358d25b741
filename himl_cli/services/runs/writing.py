"""Write to runs: what a program logs is checked, gathered and sent by a thread; files are stored, runs are stopped,
tagged and deleted."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from types import GeneratorType
from typing import Any

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import (
    BadUsage,
    DiskFailed,
    HimlError,
    Interrupted,
    NotAllowed,
    NotAllowedNow,
    NotFound,
    RunNotFound,
    ServiceFailed,
)
from himl_cli.core.events import Notify, ignore
from himl_cli.core.jobs import HYPERPARAMETERS, MANY, STEP
from himl_cli.core.logged import INT64, Logged, LoggedKind, LoggedRow, Value
from himl_cli.core.processes import register_after_fork
from himl_cli.core.runs import Run, RunFootprint, RunQuery
from himl_cli.workspaces.base import (
    BlobStore,
    CloudWorkspace,
    FolderWorkspace,
    RunRecorder,
    StoreOutcome,
    Workspace,
)

log = logging.getLogger(__name__)

BATCH = 500  # entries at which they are sent at once, and of one batch
MOST_KEPT = 1_000_000
_NOT_NOW = (ServiceFailed, DiskFailed, NotAllowedNow)
_OF_THE_RUN = (NotFound, NotAllowed)
"""What concerns all that is written, and not one entry of it."""

_busy: set[RunWriter] = set()
"""Those that have something to send: nobody else may hold them any more."""


class RunWriter:
    """What this process logs to one run, on its way to *workspace*. Any thread may call it.

    In a forked process nothing is gathered (nobody would send it at that process's end): each entry is sent when it
    comes.
    """

    _is_working: bool

    def __init__(self, workspace: RunRecorder, run_id: str, *, pauses: tuple[float, float] = (5.0, 60.0)) -> None:
        """*pauses*: seconds until what could not be sent is tried again, at first and at most."""
        self._workspace = workspace
        self._pauses = pauses
        self._run_id = run_id
        self._waiting: deque[Logged] = deque()
        self._dropped = 0
        self._is_fork = False
        self._make_locks()
        register_after_fork(self)

    def add(self, entry: Logged) -> None:
        """Take *entry*; it is sent soon. Raises only in a forked process, as `flush` does."""
        if not entry.rows:
            return
        with self._lock:
            self._waiting.append(entry)
            if len(self._waiting) > MOST_KEPT:
                self._waiting.popleft()
                self._dropped += 1
            if not self._is_fork:
                _busy.add(self)
                if not self._is_working and not self._quit.is_set():
                    self._is_working = True
                    try:
                        threading.Thread(target=self._work, name="himl-writer", daemon=True).start()
                    except RuntimeError:  # the interpreter is ending: `end` sends it
                        self._is_working = False
        if self._is_fork or self._quit.is_set():
            self.flush()
        elif len(self._waiting) >= BATCH:
            self._full.set()

    def flush(self) -> None:
        """Send what there is, and come back once it is kept.

        Raises ServiceFailed, DiskFailed or NotAllowedNow where it cannot be sent now (it stays, and is sent later), and
        what else the workspace raises for entries that it does not take (those are dropped, once the others are sent).
        """
        refused: HimlError | None = None
        with self._sending:
            while True:
                with self._lock:
                    batch = [*islice(self._waiting, BATCH)]
                if not batch:
                    break
                refused = self._send(batch) or refused
        dropped, self._dropped = self._dropped, 0
        if dropped:
            text = "%d entries that were logged to run '%s' are lost: it could not be reached for too long."
            log.warning(text, dropped, self._run_id)
        if refused is not None:
            raise refused

    def _send(self, batch: Sequence[Logged]) -> HimlError | None:
        """Send *batch*; where it is not taken, its halves, so that one entry does not take others with it. What was
        refused, if anything was."""
        refused: HimlError | None = None
        try:
            self._workspace.log(self._run_id, batch)
        except _NOT_NOW:
            raise
        except HimlError as err:
            if len(batch) > 1 and not isinstance(err, _OF_THE_RUN):
                half = len(batch) // 2
                first = self._send(batch[:half])
                return self._send(batch[half:]) or first
            refused = err
        with self._lock:
            for entry in batch:
                if self._waiting and self._waiting[0] is entry:  # else there was no room for it meanwhile
                    self._waiting.popleft()
        return refused

    def settle(self, seconds: float) -> None:
        """As `flush`, and wait, as many seconds at most, until all of it can be read back."""
        self.flush()
        self._workspace.settle(self._run_id, seconds)

    @property
    def left(self) -> int:
        """How many entries wait."""
        return len(self._waiting)

    def end(self) -> None:
        """At the end of the interpreter: send what is left. Raises nothing; what is lost is said."""
        self._quit.set()
        self._full.set()
        while self.left:
            try:
                self.flush()
            except _NOT_NOW as err:
                log.warning("%d entries that were logged to run '%s' are lost: %s", self.left, self._run_id, err)
                return
            except HimlError as err:
                log.warning("Some of what was logged to run '%s' was not taken: %s", self._run_id, err)

    def after_fork(self) -> None:
        """What waits is the parent's to send, and its locks may be held by threads that are not here."""
        _busy.discard(self)
        self._waiting.clear()
        self._is_fork = True
        self._make_locks()

    def _make_locks(self) -> None:
        self._lock = threading.Lock()
        self._sending = threading.RLock()
        self._full = threading.Event()
        self._quit = threading.Event()
        self._is_working = False

    def _work(self) -> None:
        """Send what comes until nothing more waits."""
        failures = 0
        while True:
            if failures:  # however much comes meanwhile, a service that is down is not asked more often
                first, longest = self._pauses
                self._quit.wait(min(longest, first * 2.0 ** min(failures - 1, 20)))
            else:
                self._full.wait(1.0)  # so long entries are gathered
            self._full.clear()
            if self._quit.is_set():
                return
            try:
                self.flush()
            except _NOT_NOW as err:
                if failures == 0:
                    log.warning("What is logged to run '%s' cannot be sent now and is kept: %s", self._run_id, err)
                failures += 1
                continue
            except HimlError as err:
                log.warning("Some of what was logged to run '%s' was not taken: %s", self._run_id, err)
            if failures:
                log.warning("What was logged to run '%s' meanwhile has been sent.", self._run_id)
                failures = 0
            with self._lock:
                if not self._waiting:
                    self._is_working = False
                    _busy.discard(self)
                    return


# What is registered last is called first. Finalizers are registered all at once, with the first of them: this one is
# made so that `_end_all` comes before those that close connections, to a database or to a service, which it still
# needs.
weakref.finalize(RunWriter, int)


@atexit.register
def _end_all() -> None:
    """Send what is there before the interpreter ends."""
    for writer in list(_busy):
        writer.end()


def scalar(name: str, value: Any, step: int | None = None) -> Logged:
    """One value at one step. Raises BadUsage for a list, which `log_list` is for."""
    if isinstance(value, (list, tuple, range, set, dict, GeneratorType)):
        raise BadUsage(
            f"'{name}': log takes one value, not {type(value).__name__}.", hint="Use log_list, or log_table."
        )
    if step is not None:
        found = _value(name, step)
        is_whole = isinstance(found, int) or (isinstance(found, float) and found.is_integer())
        if isinstance(found, bool) or not is_whole or int(found or 0) not in INT64:
            raise BadUsage(f"'{name}': a step is a whole number, not {step!r}.")
        step = int(found or 0)
    return Logged(_name(name), LoggedKind.scalar, [LoggedRow({_name(name): _value(name, value)}, step)])


def values(name: str, items: Iterable[Any]) -> Logged:
    """A list logged at once. Raises BadUsage for what is none."""
    if isinstance(items, (str, bytes, Mapping)) or not hasattr(items, "__iter__"):
        raise BadUsage(
            f"'{name}': log_list takes a list of values, not {type(items).__name__}.", hint="Use log for one value."
        )
    return Logged(_name(name), LoggedKind.list, [LoggedRow({_name(name): _value(name, item)}) for item in items])


def row(name: str, columns: Mapping[str, Any]) -> Logged:
    """One row of a table. Raises BadUsage where a column has a list, or there is no column."""
    for column, value in columns.items():
        if isinstance(value, (list, tuple)):
            raise BadUsage(f"'{name}': column '{column}' of a row holds one value, not a list.", hint="Use log_table.")
    return table(name, columns)


def table(name: str, columns: Mapping[str, Any]) -> Logged:
    """A table by columns; one value stands for a column of one row. Raises BadUsage where the columns differ in
    length."""
    if not columns or not hasattr(columns, "items"):
        raise BadUsage(
            f"'{name}': log_table takes a dictionary of columns.",
            hint="For example log_table('losses', {'epoch': [1, 2], 'loss': [0.5, 0.4]})",
        )
    whole: dict[str, Sequence[Value]] = {}
    for column, content in columns.items():
        if not isinstance(content, (str, bytes)) and hasattr(content, "tolist") and getattr(content, "ndim", 0) == 1:
            content = content.tolist()  # an array of numpy, a series of pandas, a tensor
        items = content if isinstance(content, (list, tuple, range)) else [content]
        whole[str(column)] = [_value(f"{name}/{column}", item) for item in items]
    lengths = {column: len(content) for column, content in whole.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"'{column}' has {length}" for column, length in lengths.items())
        raise BadUsage(f"'{name}': the columns of a table are of one length, but {told}.")
    count = next(iter(lengths.values()))
    return Logged(
        _name(name),
        LoggedKind.table,
        [LoggedRow({column: content[place] for column, content in whole.items()}) for place in range(count)],
    )


def image(name: str, file: str) -> Logged:
    """An image that lies among the run's files as *file*."""
    return Logged(_name(name), LoggedKind.image, [LoggedRow({_name(name): file})])


def _name(name: str) -> str:
    if not str(name).strip():
        raise BadUsage("A metric needs a name.")
    return str(name)


def _value(name: str, value: Any) -> Value:
    if value is None or isinstance(value, (bool, str)):
        return value
    if not isinstance(value, (int, float)) and callable(getattr(value, "item", None)):
        try:
            value = value.item()  # a scalar of numpy, a tensor with one element
        except (TypeError, ValueError, RuntimeError):  # an array of several
            pass
    if isinstance(value, (bool, str)):
        return value
    try:
        if isinstance(value, Integral):
            return int(value) if int(value) in INT64 else float(value)
        if isinstance(value, Real):
            return float(value)
    except OverflowError as err:
        raise BadUsage(
            f"'{name}': {type(value).__name__} is too large to be logged.", hint="Numbers go up to 1.8e308."
        ) from err
    log.warning("'%s': a value of type %s is logged as text.", name, type(value).__name__)
    return repr(value)


# Files of a run; stopping, tagging and deleting runs


def store_files(store: BlobStore, files: Mapping[str, Path]) -> None:
    """Store *files* by the names that they get, replacing what has these names.

    Raises BadUsage for one that is not there before any is stored; once all were tried, the first error, naming how
    many failed.
    """
    requests = []
    for name, path in files.items():
        if not path.is_file():
            raise BadUsage(f"There is no file '{path}' to upload.")
        requests.append(StoreRequest(path, name, os.path.getsize(path)))
    sink = StoreOutcome()
    store.store(iter(requests), sink, workers=8)
    if len(sink.errors) > 1:
        text = f"{sink.errors[0]} ({len(sink.errors)} of {len(requests)} files could not be stored)"
        sink.errors[0].args = (text,)
    if sink.errors:
        raise sink.errors[0]


CHILDREN = {"sweep": "trial", "pipeline": "step", "trial": "nested run", "step": "nested run", "": "nested run"}
"""What the children of a run are called, by what it is itself."""


@dataclass(frozen=True)
class CancelOutcome:
    """Whether the run was asked to stop; where not, it had ended with `status` before.

    `kind` is what the run is among many: `sweep` or `pipeline`, whose children stop with it, or `trial` or `step` of
    its `parent`; empty for a run by itself.
    """

    id: str
    asked: bool
    status: str
    kind: str = ""
    parent: str | None = None


def cancel_runs(workspace: Workspace, runs: Sequence[Run]) -> list[CancelOutcome]:
    """Ask every one of *runs* to stop. Raises DiskFailed where one cannot be asked."""
    asked = [(run, workspace.cancel(run.id)) for run in {run.id: run for run in runs}.values()]
    return [
        CancelOutcome(run.id, was_asked, workspace.run(run.id).status.value, kind_of(run), run.parent)
        for run, was_asked in asked
    ]


def kind_of(run: Run) -> str:
    """`sweep`, `pipeline`, `trial`, `step`; empty for a run by itself."""
    if MANY in run.tags:
        return "pipeline" if run.tags[MANY] == "pipeline" else "sweep"
    return "step" if STEP in run.tags else "trial" if HYPERPARAMETERS in run.tags and run.parent else ""


def check_tags(tags: Mapping[str, str]) -> None:
    """Raises BadUsage where there are none."""
    if not tags:
        raise BadUsage("No tag was given.", hint="A tag is KEY=VALUE, for example: himl runs tag RUN team=blue")


@contextmanager
def tags_explained() -> Iterator[None]:
    """Within it, the error about an unknown run says how a tag is written: what was taken for a run may have been meant
    as one."""
    try:
        yield
    except RunNotFound as err:
        err.hint = f"{err.hint} A tag is KEY=VALUE."
        raise


def footprints_of(workspace: Workspace, runs: Sequence[Run], *, outputs: bool) -> list[RunFootprint]:
    """What goes with each of *runs* when it is deleted, with *outputs* also the data that runs on Azure ML registered.

    Raises BadUsage while one of them, or one below it, is at work, NotAllowed where their files may not be listed.
    """
    _check_ended(runs)
    found = []
    for run in runs:
        home = workspace.home_of(run.id)
        if isinstance(home, CloudWorkspace):
            found.append(home.footprint(run, outputs=outputs))
        else:
            found.append(RunFootprint(run, [*workspace.runs(RunQuery(parent=run.id, archived=None))]))
        _check_ended(found[-1].below)
    return found


def _check_ended(runs: Iterable[Run]) -> None:
    for run in runs:
        if not run.status.is_final:
            raise BadUsage(
                f"Run '{run.id}' is {run.status.value.lower()}; nothing was deleted.",
                hint=f"Stop it first: himl runs cancel {run.id}",
            )


def children_text(footprint: RunFootprint) -> str:
    """How many children go with the run, in words (`4 trials`); empty where it has none."""
    count = sum(1 for each in footprint.below if each.parent == footprint.run.id)
    return f"{count} {CHILDREN[kind_of(footprint.run)]}{'s' * (count != 1)}" if count else ""


def delete_runs(workspace: Workspace, footprints: Sequence[RunFootprint], notify: Notify = ignore) -> list[str]:
    """Delete every one of them; one that went already, as a child goes with its parent, is passed over.

    Gives the ids of those that are only archived, since their service deletes none of them. Raises Interrupted.
    """
    archived = []
    for each in footprints:
        with suppress(RunNotFound):
            home = workspace.home_of(each.run.id)
            if isinstance(home, FolderWorkspace):
                home.delete(each.run.id)
            elif isinstance(home, CloudWorkspace):
                try:
                    is_gone = home.erase(each, notify=notify)
                except KeyboardInterrupt as err:
                    text = f"Stopped: some files of run '{each.run.id}' may be gone, and the run is still there."
                    raise Interrupted(text, hint=f"To go on: himl runs delete {each.run.id}") from err
                archived += [] if is_gone else [each.run.id]
    return archived
