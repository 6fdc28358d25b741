"""Records for people and for programs: tables fitted to the terminal or tab-separated, and the form of each kind of
record in strict JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timezone
from enum import Enum
from io import StringIO
from pathlib import PurePath
from typing import Any

from himl_cli.core.errors import HimlError
from himl_cli.core.runs import Metric, Run, RunDetails, Texts
from himl_cli.render.error_output import one_line
from himl_cli.render.terminal import has_colour, styled, width

GAP = 2
LEAST = 12  # characters that are left of a cell which is cut


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
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[one_line(column.text(row)) for column in columns] for row in rows]
    natural = [
        max([cell_len(column.title), *(cell_len(line[place]) for line in cells)])
        if column.rank == 0 or any(line[place] for line in cells)
        else 0
        for place, column in enumerate(columns)
    ]
    widths = fitted(natural, columns, width())
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    shown = [(place, column) for place, column in enumerate(columns) if widths[place]]
    for place, column in shown:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            max_width=widths[place] if column.rank or column.folds else None,
            no_wrap=column.rank > 0,
            overflow="ellipsis" if column.rank else "fold",
        )
    for row, line in zip(rows, cells, strict=True):
        table.add_row(*(Text(line[place], column.style(row) if column.style else "") for place, column in shown))
    coloured, written = has_colour(sys.stdout), StringIO()
    colours: Any = "standard" if coloured else None
    Console(file=written, width=width(), force_terminal=coloured, color_system=colours).print(table)
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


def aligned(
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    indent: str = "  ",
    ranks: Sequence[int] = (),
    cut: Sequence[int] = (),
) -> Iterator[str]:
    """Rows as lines with their cells below each other; the first row is a header.

    On a terminal without room for all of them columns make room by their *ranks*, as in `fitted`: the cells of those in
    *cut* are cut, to LEAST characters, and then whole columns are left out.
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
            (str.rjust if place in right else str.ljust)(_shortened(cell, size, place), size)
            for place, (cell, size) in enumerate(zip(row, widths, strict=True))
            if size
        ]
        line = indent + "  ".join(cells).rstrip()
        yield styled(line, "dim") if number == 0 else line


def _shortened(cell: str, size: int, place: int) -> str:
    """*cell* in *size* characters: the first of a row is a name, which loses its middle, since names differ at their
    ends."""
    if len(cell) <= size:
        return cell
    end = (size - 1) // 2 if place == 0 else 0
    return f"{cell[: size - 1 - end]}…{cell[len(cell) - end :]}"


def row_columns(rows: Sequence[Mapping[str, object]]) -> list[Column]:
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


def first_value(row: Mapping[str, object]) -> str:
    return plain_value(next(iter(row.values()), None))


def plain_value(value: object) -> str:
    """*value* for programs: text as it is, nothing for None, all else as JSON. Raises TypeError for what JSON has
    not."""
    form = json_form(value)
    return "" if form is None else form if isinstance(form, str) else json.dumps(form, ensure_ascii=False)


def _shown(value: object) -> str:
    form = json_form(value)
    return f"{form:.6g}" if isinstance(form, float) else plain_value(form)


def json_form(value: Any) -> Any:
    """*value* in types that strict JSON has: times in UTC (ISO 8601), NaN and infinities as strings, bytes as hex
    digits, records by field."""
    if value is None or type(value) in (str, int, bool):
        return value
    form = FORMS.get(type(value)) or next((form for kind, form in FORMS.items() if isinstance(value, kind)), None)
    if form is not None:
        return form(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_form(getattr(value, field.name)) for field in fields(value)}
    return value


def run_form(run: Run) -> dict[str, Any]:
    """A run: `id, experiment, display_name, status, started, duration (seconds), tags` first, then all else that is
    known."""
    duration = run.duration
    return {
        "id": run.id,
        "experiment": run.experiment,
        "display_name": run.display_name,
        "status": run.status.value,
        "started": json_form(run.started),
        "duration": None if duration is None else round(duration, 3),
        "tags": dict(run.tags),
        "created": json_form(run.created),
        "ended": json_form(run.ended),
        "parent": run.parent,
        "exit_code": run.exit_code,
        "reason": run.reason,
        "description": run.description,
        "command": run.command,
        "workspace": run.workspace.removeprefix("workspace "),
        "folder": run.folder,
        "url": run.url,
        "recovery_id": run.recovery_id,
    }


def details_form(details: RunDetails) -> dict[str, Any]:
    """A run with all that was logged; its trials with their values and the last value of the primary metric, its steps
    with what is below them."""
    logged = {name: json_form(getattr(details, name)) for name in ("parameters", "metrics", "texts")}
    form, sweep = run_form(details.run) | logged, details.sweep
    if sweep is None:
        return form | {"children": [_nested_form(child, details) for child in details.children]}
    trials = {
        trial.run.id: {"hyperparameters": dict(trial.hyperparameters), "primary_metric": json_form(trial.value)}
        for trial in sweep.trials
    }
    return form | {
        "primary_metric": {"name": sweep.metric, "goal": sweep.goal, "best": sweep.best or None},
        "children": [run_form(child) | trials.get(child.id, {}) for child in details.children],
    }


def _nested_form(run: Run, details: RunDetails) -> dict[str, Any]:
    if run.id not in details.below:
        return run_form(run)
    return run_form(run) | {"children": [_nested_form(each, details) for each in details.below[run.id]]}


def metric_form(metric: Metric | Texts) -> dict[str, Any]:
    """A metric or texts in short: the last value and its step, how many values there are, and the run that logged
    them."""
    last = metric.last
    count = len(metric.points)
    return {"name": metric.name, "value": json_form(last.value), "step": last.step, "count": count, "run": metric.run}


def float_form(value: float) -> float | str:
    """JSON has no word for NaN and the infinities."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def utc_text(time: datetime) -> str:
    """`2026-03-01T12:00:00.000Z`; always of this width, so that text sorts by time."""
    utc = time.astimezone(timezone.utc)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"


FORMS: Mapping[type, Callable[[Any], Any]] = {
    Run: run_form,
    Metric: metric_form,
    Texts: metric_form,
    RunDetails: details_form,
    Mapping: lambda value: {str(name): json_form(entry) for name, entry in value.items()},
    **dict.fromkeys((list, tuple, set, frozenset), lambda value: [json_form(entry) for entry in value]),
    Enum: lambda value: value.value,
    float: float_form,
    datetime: utc_text,
    bytes: bytes.hex,
    HimlError: lambda error: {"code": error.code, "message": str(error), "hint": error.hint},
    PurePath: str,
}
"""The form of each kind of record."""
