"""How far a montage is, in slides."""

from __future__ import annotations

from threading import Lock

from himl_cli.core.events import Counted, Counting, Notify


class Progress:
    """Half of a slide's work is that it is read, the other half that its rows are written: either can take nearly all
    of the time.

    Tells *notify* of *slides* that there are, and of each that is done. Any thread may call it.
    """

    def __init__(self, slides: int, height: int, notify: Notify) -> None:
        self._slides, self._height, self._notify = slides, height, notify
        self._read = self._rows = self._told = 0
        self._lock = Lock()
        notify(Counting("slides", slides))

    def slide_read(self) -> None:
        """One more is read, or cannot be."""
        with self._lock:
            self._read += 1
            self._tell()

    def rows_written(self, count: int) -> None:
        """So many more rows of the montage are written."""
        with self._lock:
            self._rows += count
            self._tell()

    def _tell(self) -> None:
        done = (self._read + self._slides * self._rows // self._height) // 2
        for _ in range(self._told, done):
            self._notify(Counted())
        self._told = done
