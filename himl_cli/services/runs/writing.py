"""Write to runs: check, collect and send logged values in a thread, and store files."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from types import GeneratorType
from typing import Any, TypeVar

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import (
    BadUsage,
    DiskFailed,
    HimlError,
    NotAllowed,
    NotAllowedNow,
    NotFound,
    ServiceFailed,
)
from himl_cli.core.logged import INT64, Logged, LoggedKind, LoggedRow, Value
from himl_cli.core.processes import register_after_fork
from himl_cli.core.text import shorten, storable
from himl_cli.workspaces.base import (
    BlobStore,
    RunRecorder,
    StoreOutcome,
)
from himl_cli.workspaces.retry import Pauses

log = logging.getLogger(__name__)

BATCH = 500  # entries per request, and the number at which they are sent at once
MOST_KEPT = 1_000_000
_NOT_NOW = (ServiceFailed, DiskFailed, NotAllowedNow, OSError)
_OF_THE_RUN = (NotFound, NotAllowed)
"""Errors that concern the whole run, not a single entry."""
Item = TypeVar("Item")

_busy: set[RunWriter] = set()
"""Writers with entries to send. The set keeps them alive."""


class RunWriter:
    """Buffer of the values that this process logs to one run of *workspace*. Safe for use in threads.

    A forked process sends each entry at once, because nothing would send a buffer when that process exits.
    """

    _is_working: bool

    def __init__(self, workspace: RunRecorder, run_id: str, *, pauses: Pauses | None = None) -> None:
        """Create a writer. *pauses* are those before a retry (default: 5 s to 60 s)."""
        self._workspace = workspace
        self._pauses = pauses or Pauses(5.0, 60.0, 2.0)
        self._run_id = run_id
        self._waiting: deque[Logged] = deque()
        self._dropped = 0
        self._told: set[str] = set()
        self._is_fork = False
        self._make_locks()
        register_after_fork(self)

    def add(self, entry: Logged) -> None:
        """Add *entry* to the buffer, which is sent soon. Raises in a forked process only, like `send`."""
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
                    except RuntimeError:  # the interpreter exits, and `end` sends the entry
                        self._is_working = False
        if self._is_fork or self._quit.is_set():
            self.send()
        elif len(self._waiting) >= BATCH:
            self._full.set()

    def flush(self) -> None:
        """As `send`, but raises the last error of rejected entries after sending the others."""
        if (refused := self.send()) is not None:
            raise refused

    def send(self) -> HimlError | None:
        """Send the buffer, and return once it is stored. Rejected entries are dropped with a warning. Return the last
        error of those.

        Raises ServiceFailed, DiskFailed or NotAllowedNow if it cannot be sent now and will be sent later.
        """
        refused: HimlError | None = None
        with self._sending:
            while True:
                with self._lock:
                    batch = [*islice(self._waiting, BATCH)]
                if not batch:
                    break
                try:
                    for entry, refused in send_apart(self._send, batch):
                        self._drop([entry])
                        if entry.name not in self._told:
                            self._told.add(entry.name)
                            said = f"himl did not store '{shorten(entry.name)}' of run '{self._run_id}': {refused}"
                            log.warning("%s", storable(said))
                except _OF_THE_RUN as err:
                    if isinstance(err, _NOT_NOW):
                        raise
                    log.warning("Lost %d entries that were logged to run '%s': %s", len(batch), self._run_id, err)
                    self._drop(batch)
                    refused = err
        dropped, self._dropped = self._dropped, 0
        if dropped:
            text = "Lost %d entries that were logged to run '%s', because it could not be reached for too long."
            log.warning(text, dropped, self._run_id)
        return refused

    def _send(self, batch: Sequence[Logged]) -> None:
        self._workspace.log(self._run_id, batch)
        self._drop(batch)

    def _drop(self, batch: Sequence[Logged]) -> None:
        with self._lock:
            for entry in batch:
                if self._waiting and self._waiting[0] is entry:  # otherwise, the full buffer dropped it
                    self._waiting.popleft()

    def settle(self, seconds: float) -> None:
        """As `send`, and wait up to *seconds* until all entries can be read back. Raises an error of the whole run."""
        refused = self.send()
        if isinstance(refused, _OF_THE_RUN):
            raise refused
        self._workspace.settle(self._run_id, seconds)

    @property
    def left(self) -> int:
        """Number of entries in the buffer."""
        return len(self._waiting)

    def end(self) -> None:
        """Send the buffer when the interpreter exits. Raises nothing, and logs what is lost."""
        self._quit.set()
        self._full.set()
        while self.left:
            try:
                self.send()
            except _NOT_NOW as err:
                log.warning("Lost %d entries that were logged to run '%s': %s", self.left, self._run_id, err)
                return

    def after_fork(self) -> None:
        """Clear the buffer, which the parent sends, and replace locks that the parent's threads may hold."""
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
        """Send entries until the buffer is empty."""
        failures = 0
        while True:
            if failures:  # new entries must not cause more requests to a service that is down
                self._quit.wait(self._pauses.next(has_changed=failures == 1))
            else:
                self._full.wait(1.0)  # collect entries for this long
            self._full.clear()
            if self._quit.is_set():
                return
            try:
                self.send()
            except _NOT_NOW as err:
                if failures == 0:
                    log.warning("Cannot send values to run '%s' now. himl keeps them: %s", self._run_id, err)
                failures += 1
                continue
            if failures:
                log.warning("Sent the values that were waiting for run '%s'.", self._run_id)
                failures = 0
            with self._lock:
                if not self._waiting:
                    self._is_working = False
                    _busy.discard(self)
                    return


def may_pass(failure: Exception) -> bool:
    """Whether *failure* may disappear without intervention."""
    if isinstance(failure, ServiceFailed):
        return not failure.is_lasting
    return isinstance(failure, _NOT_NOW)


def is_refusal(failure: Exception) -> bool:
    """Whether *failure* concerns the whole run, not one item: no permission, no such run, no such workspace."""
    return isinstance(failure, _OF_THE_RUN) and not may_pass(failure)


def send_apart(send: Callable[[Sequence[Item]], object], items: Sequence[Item]) -> Iterator[tuple[Item, HimlError]]:
    """*send* all items. If that fails, send each half, so that one item does not affect others. Yield each rejected
    item with the error. Raises temporary errors, and refusals of the whole run."""
    try:
        send(items)
    except Exception as err:
        if may_pass(err) or is_refusal(err):
            raise
        if len(items) == 1:
            yield items[0], err if isinstance(err, HimlError) else HimlError(f"{type(err).__name__}: {err}")
            return
        half = len(items) // 2
        yield from send_apart(send, items[:half])
        yield from send_apart(send, items[half:])


# Exit handlers run in reverse order, and the first finalizer registers all of them. Create one now, so that `_end_all`
# runs before the finalizers that close connections to a database or a service, which it needs.
weakref.finalize(RunWriter, int)


@atexit.register
def _end_all() -> None:
    """Send all buffers before the interpreter exits."""
    for writer in list(_busy):
        writer.end()


def scalar(name: str, value: Any, step: int | None = None) -> Logged:
    """One value at one step. Raises BadUsage for a list, which needs `log_list`."""
    if isinstance(value, (list, tuple, range, set, dict, GeneratorType)):
        raise BadUsage(f"'{name}': log takes one value, not {type(value).__name__}.", hint="Use log_list or log_table.")
    if step is not None:
        found = _value(name, step)
        is_whole = isinstance(found, int) or (isinstance(found, float) and found.is_integer())
        if isinstance(found, bool) or not is_whole or int(found or 0) not in INT64:
            raise BadUsage(f"'{name}': a step must be a whole number, not {step!r}.")
        step = int(found or 0)
    return Logged(_name(name), LoggedKind.scalar, [LoggedRow({_name(name): _value(name, value)}, step)])


def values(name: str, items: Iterable[Any]) -> Logged:
    """A list of values. Raises BadUsage for other types."""
    if isinstance(items, (str, bytes, Mapping)) or not hasattr(items, "__iter__"):
        raise BadUsage(
            f"'{name}': log_list takes a list of values, not {type(items).__name__}.", hint="Use log for one value."
        )
    return Logged(_name(name), LoggedKind.list, [LoggedRow({_name(name): _value(name, item)}) for item in items])


def row(name: str, columns: Mapping[str, Any]) -> Logged:
    """One row of a table. Raises BadUsage without columns, or for a list in a column."""
    for column, value in columns.items():
        if isinstance(value, (list, tuple)):
            raise BadUsage(f"'{name}': column '{column}' takes one value, not a list.", hint="Use log_table.")
    return table(name, columns)


def table(name: str, columns: Mapping[str, Any]) -> Logged:
    """A table as a dictionary of columns. A single value is a column of one row. Raises BadUsage if the columns differ
    in length."""
    if not columns or not hasattr(columns, "items"):
        raise BadUsage(
            f"'{name}': log_table takes a dictionary of columns.",
            hint="For example: log_table('losses', {'epoch': [1, 2], 'loss': [0.5, 0.4]})",
        )
    whole: dict[str, Sequence[Value]] = {}
    for column, content in columns.items():
        if not isinstance(content, (str, bytes)) and hasattr(content, "tolist") and getattr(content, "ndim", 0) == 1:
            content = content.tolist()  # numpy arrays, pandas series, tensors
        items = content if isinstance(content, (list, tuple, range)) else [content]
        whole[storable(str(column))] = [_value(f"{name}/{column}", item) for item in items]
    lengths = {column: len(content) for column, content in whole.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"'{column}' has {length}" for column, length in lengths.items())
        raise BadUsage(f"'{name}': the columns of a table must have the same length, but {told}.")
    count = next(iter(lengths.values()))
    return Logged(
        _name(name),
        LoggedKind.table,
        [LoggedRow({column: content[place] for column, content in whole.items()}) for place in range(count)],
    )


def image(name: str, file: str) -> Logged:
    """An image in the run's *file*."""
    return Logged(_name(name), LoggedKind.image, [LoggedRow({_name(name): storable(file)})])


def _name(name: str) -> str:
    if not str(name).strip():
        raise BadUsage("A metric needs a name.")
    return storable(str(name))


def _value(name: str, value: Any) -> Value:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return storable(value)
    if not isinstance(value, (int, float)) and callable(getattr(value, "item", None)):
        try:
            value = value.item()  # numpy scalars, tensors with one element
        except (TypeError, ValueError, RuntimeError):  # arrays with several elements
            pass
    if isinstance(value, (bool, str)):
        return _value(name, value)
    try:
        if isinstance(value, Integral):
            return int(value) if int(value) in INT64 else float(value)
        if isinstance(value, Real):
            return float(value)
    except OverflowError as err:
        raise BadUsage(
            f"'{name}': {type(value).__name__} is too large to log.", hint="The largest number is 1.8e308."
        ) from err
    log.warning("'%s': logging a value of type %s as text.", name, type(value).__name__)
    return storable(repr(value))


# Files of a run; canceling, tagging and deleting runs.


def store_files(store: BlobStore, files: Mapping[str, Path]) -> None:
    """Store *files* under their names, and replace existing ones.

    Raises BadUsage for a missing file before storing any. After trying all, raises the first error with the number of
    failures.
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
