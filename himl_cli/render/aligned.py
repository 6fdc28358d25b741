"""Rows of words below each other, without a table's frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from himl_cli.render.style import styled


def aligned(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), indent: str = "  ") -> Iterator[str]:
    """Rows as lines with their cells below each other; the first row is a header."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [cell.rjust(size) if place in right else cell.ljust(size) for place, (cell, size) in enumerate(zip(row, widths, strict=True))]
        line = indent + "  ".join(cells).rstrip()
        yield styled(line, "dim") if number == 0 else line
