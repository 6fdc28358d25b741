"""A file whose pieces are encoded side by side and written in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Generic, TypeVar

from himl_cli.core.errors import DiskFailed
from himl_cli.services.montage.encoding.file import PictureFile
from himl_cli.services.montage.threads import Threads

Piece = TypeVar("Piece")

MOST_AHEAD = 32
"""Pieces that may be on their way, for memory's sake, however many threads there are."""


class PiecedFile(Generic[Piece]):
    """Work is put in, its results are handed to *take*, in the order of the work, by the thread that puts it in.

    Where the pool has not begun the oldest piece, because it is busy with other things, this thread does it: nothing
    waits for a place in the queue.
    """

    def __init__(self, path: Path, pool: Threads, take: Callable[[Piece], None]) -> None:
        """Raises DiskFailed."""
        self._file = PictureFile(path)
        self._pool, self._take = pool, take
        self._most_ahead = min(MOST_AHEAD, 2 * pool.workers + 2)
        self._ahead: deque[tuple[Future[Piece], Callable[[], Piece]]] = deque()

    def put(self, work: Callable[[], Piece]) -> None:
        """Have *work* done; take what is done, and wait where too much is ahead. Raises what work and *take* raise."""
        self._ahead.append((self._pool.submit(work), work))
        while self._ahead and (len(self._ahead) > self._most_ahead or self._ahead[0][0].done()):
            self._take_oldest()

    def write(self, data: bytes) -> None:
        """Append to the file. Raises DiskFailed."""
        self._file.write(data)

    def drain(self) -> None:
        """Take all that is ahead. Raises what work and *take* raise."""
        while self._ahead:
            self._take_oldest()

    def close(self) -> None:
        """Close the file. Raises DiskFailed."""
        self._file.close()

    def abort(self) -> None:
        """Drop what has not begun, wait for what has, close the file. Raises nothing."""
        begun = [future for future, _ in self._ahead if not future.cancel()]
        self._ahead.clear()
        wait(begun)
        try:
            self._file.close()
        except DiskFailed:
            pass

    def _take_oldest(self) -> None:
        future, work = self._ahead.popleft()
        self._take(work() if future.cancel() else future.result())
