"""Rows of words below each other, without a table's frame."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from himl_cli.render.style import styled, width
from himl_cli.render.tables import Column, fitted

LEAST = 12
"""Characters that are left of a cell which is cut."""


def aligned(
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    indent: str = "  ",
    ranks: Sequence[int] = (),
    cut: Sequence[int] = (),
) -> Iterator[str]:
    """Rows as lines with their cells below each other; the first row is a header.

    On a terminal without room for all of them columns make room by their *ranks*, as in `tables.fitted`: the cells of
    those in *cut* are cut, and then whole columns are left out.
    """
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    if ranks and sys.stdout.isatty():
        columns = [
            Column(title, str, rank=rank, least=LEAST if place in cut else size)
            for place, (title, rank, size) in enumerate(zip(rows[0], ranks, widths, strict=True))
        ]
        widths = fitted(widths, columns, width() - len(indent))
    for number, row in enumerate(rows):
        cells = [
            (_shortened(cell, size, place), size, place in right)
            for place, (cell, size) in enumerate(zip(row, widths, strict=True))
            if size
        ]
        line = (
            indent
            + "  ".join(cell.rjust(size) if is_right else cell.ljust(size) for cell, size, is_right in cells).rstrip()
        )
        yield styled(line, "dim") if number == 0 else line


def _shortened(cell: str, size: int, place: int) -> str:
    """*cell* in *size* characters: the first of a row is a name, which loses its middle, since names differ at their
    ends."""
    if len(cell) <= size:
        return cell
    end = (size - 1) // 2 if place == 0 else 0
    return f"{cell[: size - 1 - end]}…{cell[len(cell) - end :]}"
