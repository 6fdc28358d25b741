"""Reading a large slide in one thread while another one resizes it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Executor, Future, wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read_ahead(strips: Iterator[NDArray[np.uint8]], pool: Executor) -> Generator[NDArray[np.uint8], None, None]:
    """*strips*, of which the next one is read by *pool* meanwhile. A task of the pool may ask for them: what no thread
    has begun it reads itself.

    Closed, it waits for what is being read. Raises what *strips* raise.
    """
    coming = pool.submit(next, strips, None)
    try:
        while (strip := next(strips, None) if coming.cancel() else coming.result()) is not None:
            coming = pool.submit(next, strips, None)
            yield strip
            del strip
    finally:
        _settle(coming)


def _settle(future: Future[NDArray[np.uint8] | None]) -> None:
    if not future.cancel():
        wait((future,))
