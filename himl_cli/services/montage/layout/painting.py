"""What is drawn into a cell beside its slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Overlay(Protocol):
    """Something drawn over the pixels of a cell."""

    def paint(self, rows: NDArray[np.uint8], top: int) -> None:
        """Draw, in place, what falls on *rows* (shape (any number, width of the cell's box, 3)), whose first is row
        *top* of the cell's box.

        The picture is the same however the cell is cut into rows.
        """
