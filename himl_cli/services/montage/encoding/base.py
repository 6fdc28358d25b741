"""What takes a montage, band by band."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class BandSink(Protocol):
    """A file (or a folder of tiles) in the making. Used by one thread; it spreads its own work over the pool that it
    was made with.

    Made with the path to write to, the picture's size, and a pool of threads.
    """

    def write(self, band: NDArray[np.uint8]) -> None:
        """The next rows from the top: shape (any number of rows, width, 3), RGB, C-contiguous; nobody changes it
        afterwards.

        Waits where too much is on its way: memory holds a few bands at most. Raises DiskFailed.
        """

    def finish(self) -> None:
        """All rows were written: the file is complete and closed. Raises DiskFailed."""

    def abort(self) -> None:
        """Stop, close what is open, wait for what was begun. May follow anything, also `finish`; raises nothing."""
