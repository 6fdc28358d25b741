"""Tables: fitted to the terminal for people, tab-separated for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

from himl_cli.render.errors import one_line
from himl_cli.render.style import has_colour, width

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

GAP = 2


@dataclass(frozen=True)
class Column:
    """A column: `text` for people and `plain` for programs (the same unless given).

    Where the table is too wide, columns shrink to `least` characters (their title at least), the highest `rank` first,
    and are then left out in the same order; rank 0 is never left out, and never cut. It folds where nothing else helps,
    with `folds` to that many characters before a column of rank 1 is left out.
    """

    title: str
    text: Callable[[Any], str]
    plain: Callable[[Any], str] | None = None
    rank: int = 0
    least: int = 6
    folds: int = 0
    right: bool = False
    style: Callable[[Any], str] | None = None


def as_tabs(rows: Sequence[Any], columns: Sequence[Column]) -> Iterator[str]:
    """A header and a line a row; a tab, line end or other control character in a cell becomes a space."""
    yield "\t".join(column.title.lower().replace(" ", "_") for column in columns)
    for row in rows:
        yield "\t".join(one_line((column.plain or column.text)(row)) for column in columns)


def as_table(rows: Sequence[Any], columns: Sequence[Column]) -> str:
    """The table in the width and colours of the terminal that stdout is; a column without any content is left out."""
    from rich.console import Console

    coloured = has_colour(sys.stdout)
    console = Console(
        file=StringIO(), width=width(), force_terminal=coloured, color_system="standard" if coloured else None
    )
    cells = [[one_line(column.text(row)) for column in columns] for row in rows]
    console.print(_rich_table(rows, cells, columns, console))
    written = console.file
    assert isinstance(written, StringIO)
    return "\n".join(line.rstrip() for line in written.getvalue().rstrip("\n").split("\n"))


def fitted(natural: Sequence[int], columns: Sequence[Column], width: int) -> list[int]:
    """The width of each column so that all fit into *width*; 0 for a column that is left out."""
    widths = list(natural)
    for place, least in _ways_to_make_room(columns):
        excess = sum(widths) + GAP * (sum(1 for size in widths if size) - 1) - width
        if excess > 0:
            widths[place] = max(min(least, widths[place]), widths[place] - excess) if least else 0
    return _given_back(widths, natural, columns, width)


def _ways_to_make_room(columns: Sequence[Column]) -> Iterator[tuple[int, int]]:
    """Columns and to how many characters each goes (0: it is left out), in the order in which that is tried."""
    by_rank = sorted(
        (place for place, column in enumerate(columns) if column.rank > 0), key=lambda place: -columns[place].rank
    )
    yield from ((place, max(columns[place].least, len(columns[place].title))) for place in by_rank)
    yield from ((place, 0) for place in by_rank if columns[place].rank > 1)
    yield from ((place, max(column.folds, len(column.title))) for place, column in enumerate(columns) if column.folds)
    yield from ((place, 0) for place in by_rank if columns[place].rank == 1)


def _given_back(widths: list[int], natural: Sequence[int], columns: Sequence[Column], width: int) -> list[int]:
    """Room that a left-out column made goes to the columns that had shrunk, the most important first."""
    room = width - sum(widths) - GAP * (sum(1 for size in widths if size) - 1)
    for place in sorted(range(len(columns)), key=lambda place: columns[place].rank):
        if widths[place] and room > 0:
            more = min(room, natural[place] - widths[place])
            widths[place] += more
            room -= more
    return widths


def _rich_table(rows: Sequence[Any], cells: list[list[str]], columns: Sequence[Column], console: Console) -> Table:
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    natural = [
        max([cell_len(column.title), *(cell_len(line[place]) for line in cells)])
        for place, column in enumerate(columns)
    ]
    natural = [
        size if column.rank == 0 or any(line[place] for line in cells) else 0
        for place, (size, column) in enumerate(zip(natural, columns, strict=True))
    ]
    widths = fitted(natural, columns, console.width)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    shown = [place for place, size in enumerate(widths) if size]
    for place in shown:
        column = columns[place]
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            max_width=widths[place] if column.rank or column.folds else None,
            no_wrap=column.rank > 0,
            overflow="ellipsis" if column.rank else "fold",
        )
    for row, line in zip(rows, cells, strict=True):
        styles = {place: (style(row) if (style := columns[place].style) else "") for place in shown}
        table.add_row(*(Text(line[place], style=styles[place]) for place in shown))
    return table
