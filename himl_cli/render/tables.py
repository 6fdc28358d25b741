"""Tables: fitted to the terminal for people, tab-separated for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

from himl_cli.render.error_output import one_line
from himl_cli.render.json import json_form
from himl_cli.render.terminal import has_colour, styled, width

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
    by_rank = sorted(range(len(columns)), key=lambda place: -columns[place].rank)
    ranked = [place for place in by_rank if columns[place].rank > 0]
    titles = [len(column.title) for column in columns]
    # Columns and to how many characters each goes (0: it is left out), in the order in which that is tried
    ways = [(place, max(columns[place].least, titles[place])) for place in ranked]
    ways += [(place, 0) for place in ranked if columns[place].rank > 1]
    ways += [(place, max(column.folds, titles[place])) for place, column in enumerate(columns) if column.folds]
    ways += [(place, 0) for place in ranked if columns[place].rank == 1]
    widths = list(natural)

    def room() -> int:
        return width - sum(widths) - GAP * (sum(1 for size in widths if size) - 1)

    for place, least in ways:
        if room() < 0:
            widths[place] = max(min(least, widths[place]), widths[place] + room()) if least else 0
    # Room that a left-out column made goes to the columns that had shrunk, the most important first
    for place in sorted(range(len(columns)), key=lambda place: columns[place].rank):
        if widths[place] and room() > 0:
            widths[place] += min(room(), natural[place] - widths[place])
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


Row = Mapping[str, object]


def row_columns(rows: Sequence[Row]) -> list[Column]:
    """A column a key, in the order in which they first come; later ones make room first where the terminal is
    narrow."""

    def column(rank: int, name: str) -> Column:
        return Column(
            name.replace("_", " ").upper(),
            lambda row: _shown(row.get(name)),
            lambda row: plain_value(row.get(name)),
            rank=rank,
            right=all(isinstance(row.get(name), (int, float, type(None))) for row in rows),
        )

    return [column(rank, name) for rank, name in enumerate(dict.fromkeys(name for row in rows for name in row))]


def first_value(row: Row) -> str:
    """The value that stands first in *row*."""
    return plain_value(next(iter(row.values()), None))


def plain_value(value: object) -> str:
    """*value* for programs: text as it is, nothing for None, all else as JSON. Raises TypeError for what JSON has
    not."""
    form = json_form(value)
    return "" if form is None else form if isinstance(form, str) else json.dumps(form, ensure_ascii=False)


def _shown(value: object) -> str:
    """*value* for people: numbers with six digits at most."""
    form = json_form(value)
    return f"{form:.6g}" if isinstance(form, float) else plain_value(value)
