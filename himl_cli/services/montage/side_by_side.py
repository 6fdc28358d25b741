"""Work that is done by several threads, with results in the order of the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(pool: Executor | None, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """What *function* makes of each item, by the threads of *pool*, and by this one for what they have not begun; None:
    by this one alone.

    All results may be held at once. Raises what *function* raises.
    """
    if pool is None or len(items) < 2:
        yield from map(function, items)
        return
    futures = [pool.submit(function, item) for item in items]
    try:
        for number, item in enumerate(items):
            yield function(item) if futures[number].cancel() else futures[number].result()
    finally:
        for future in futures:
            future.cancel()
