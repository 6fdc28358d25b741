"""A comparison of many runs: a table that fits the terminal, tab-separated lines, and a JSON document."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.installation import install_command
from himl_cli.core.logged import STATISTICS, Aggregation, Child, Value, float_form
from himl_cli.core.runs import RunStatus, run_form
from himl_cli.render.forms import json_form, number_text
from himl_cli.render.output import GAP, STATUS_STYLES, cut_end, one_line, styled, width

LONGEST_CELL, LEAST_LABEL = 24, 12
STATUS = "status"
Row = Sequence[str]


def table_lines(aggregation: Aggregation, statistics: Mapping[str, Any] | None) -> Iterator[str]:
    """The table, at most as wide as the terminal: one row per metric if that fits, else one row per run, else as many
    runs as fit.

    *statistics* are records by metric with a field for each of `STATISTICS`. None omits them.
    """
    children = _with_short_labels(aggregation.children)
    best = aggregation.search.best if aggregation.search else ""
    children = [replace(one, label=f"*{one.label}") if one.run.id == best else one for one in children]
    aggregation, count = replace(aggregation, children=children), len(children)
    upright = _by_metric(aggregation, statistics, _short)
    if _width_of(upright) <= width():
        return _drawn(upright)
    turned = _by_run(aggregation, statistics)
    room = width() - _width_of([["", *row[1:]] for row in turned])
    short = [cut_end(row[0], room) for row in turned]
    if room >= LEAST_LABEL and len({*short[1 : count + 1]}) == count:  # labels stay different
        turned = [[label, *row[1:]] for label, row in zip(short, turned, strict=True)]
    if _width_of(turned) <= width():
        return _drawn(turned)
    fixed = 1 + (len(STATISTICS) if statistics is not None else 0)
    labels = [cut_end(label, LONGEST_CELL) for label in upright[0][fixed:]]
    if len(set(labels)) == len(labels):
        upright[0] = [*upright[0][:fixed], *labels]
    room = width() - _width_of([["", *row[1:fixed]] for row in upright])
    most = max(LEAST_LABEL, min(width() // 3, room))
    # Cut the beginnings of names, since the end of a metric's name says more
    cut = [[name if len(name) <= most else f"…{name[len(name) - most + 1 :]}", *row] for name, *row in upright]
    columns = max(1, bisect_right([*accumulate(size + GAP for size in _widths(cut))], width() + GAP))
    fitting = max(0, columns - fixed)
    shown = [row[:columns] for row in cut]
    lines = _drawn([row for row in shown if fitting or row[0] != STATUS or any(row[1:])])
    if fitting == count:
        return lines
    rest = f"{count - fitting} of {count} runs do not fit. For all of them, use --output_csv FILE or --json."
    return chain(lines, ["", styled(rest, "dim")])


def cells(aggregation: Aggregation, statistics: Mapping[str, Any] | None) -> Sequence[Row]:
    """The rows for programs: a header, the statuses of the runs, one row per metric. Numbers are in full."""
    return _by_metric(aggregation, statistics, lambda value: "" if value is None else str(json_form(value)), tabs=True)


def document(aggregation: Aggregation, statistics: Mapping[str, Any] | None) -> dict[str, Any]:
    """The JSON document: `metrics`, `statistics` by metric, and `children`, with the label, hyperparameters and all
    logged values of each run, and `primary_metric` for a sweep."""
    sweep = aggregation.sweep
    primary = {"name": sweep.metric, "goal": sweep.goal, "best": sweep.best or None} if sweep else None
    return {
        "metrics": list(aggregation.metrics),
        "statistics": None if statistics is None else json_form(dict(statistics)),
        "children": [_child_form(child) for child in aggregation.children],
    } | ({"primary_metric": primary} if primary else {})


def _child_form(child: Child) -> dict[str, Any]:
    """A run as JSON. Series are columns with times in seconds since 1970, UTC. Tables have an object per row."""
    results = child.results
    series = {
        name: {
            "steps": list(each.steps),
            "values": list(each.values) if all(map(math.isfinite, each.values)) else list(map(float_form, each.values)),
            "times": list(each.times),
        }
        for name, each in results.series.items()
    }
    texts = {
        name: json_form([{"step": one.step, "time": one.time, "value": one.value} for one in each])
        for name, each in results.texts.items()
    }
    tables = {
        name: [
            dict(zip(columns, row, strict=True))
            for row in zip(*(json_form(list(values)) for values in columns.values()), strict=True)
        ]
        for name, columns in results.tables.items()
    }
    return {
        "label": child.label,
        **run_form(child.run),
        "hyperparameters": json_form(dict(child.hyperparameters)),
        "parameters": dict(results.parameters),
        "last": json_form(dict(results.last)),
        "series": series,
        "texts": texts,
        "tables": tables,
        "lists": json_form(dict(results.lists)),
        "images": json_form(dict(results.images)),
    }


def _short(value: Value) -> str:
    """A value with at most five digits."""
    if value is None or isinstance(value, (bool, str)):
        return "" if value is None else cut_end(one_line(str(value)), LONGEST_CELL)
    return number_text(float(value), 5)


def _by_metric(
    aggregation: Aggregation, statistics: Mapping[str, Any] | None, text: Any, *, tabs: bool = False
) -> list[Row]:
    """A header, the statuses, and one row per metric. A terminal shows statuses only if some run did not complete."""
    children = aggregation.children
    told = STATISTICS if statistics is not None else ()
    titles = ["metric", *told] if tabs else ["METRIC", *map(str.upper, told)]
    rows: list[Row] = [[*titles, *(one_line(child.label) for child in children)]]
    if tabs or not _all_completed(children):
        rows.append([STATUS, *("" for _ in told), *(child.run.status.value for child in children)])
    if tabs and (search := aggregation.search) and search.best:
        rows.append(["best", *("" for _ in told), *("best" * (child.run.id == search.best) for child in children)])
    for name in aggregation.metrics:
        numbers = [text(getattr(statistics[name], each)) for each in told] if statistics is not None else []
        rows.append([one_line(name), *numbers, *(text(child.results.last.get(name)) for child in children)])
    return rows


def _by_run(aggregation: Aggregation, statistics: Mapping[str, Any] | None) -> list[Row]:
    metrics, shows_status = aggregation.metrics, not _all_completed(aggregation.children)
    rows: list[Row] = [["RUN", *["STATUS"] * shows_status, *map(one_line, metrics)]]
    for child in aggregation.children:
        values = (_short(child.results.last.get(name)) for name in metrics)
        rows.append([one_line(child.label), *[child.run.status.value] * shows_status, *values])
    if statistics is not None:
        rows.append([""] * len(rows[0]))
        for each in STATISTICS:
            values = (_short(getattr(statistics[name], each)) for name in metrics)
            rows.append([each, *[""] * shows_status, *values])
    return rows


def _with_short_labels(children: Sequence[Child]) -> Sequence[Child]:
    """The runs with six digits for numbers in labels, where labels stay different."""
    long = re.compile(r"(?<![\w.])-?\d+\.\d{6,}(?:e[-+]?\d+)?(?![\w.])")
    labels = [long.sub(lambda found: f"{float(found[0]):.6g}", child.label) for child in children]
    counts = Counter(labels)
    return [
        replace(child, label=label) if counts[label] == 1 else child
        for child, label in zip(children, labels, strict=True)
    ]


def _all_completed(children: Iterable[Child]) -> bool:
    return all(child.run.status is RunStatus.completed for child in children)


def _width_of(rows: Sequence[Row]) -> int:
    return sum(_widths(rows)) + GAP * (len(rows[0]) - 1)


def _widths(rows: Sequence[Row]) -> list[int]:
    from rich.cells import cell_len

    return [max(cell_len(row[place]) for row in rows) for place in range(len(rows[0]))]


def _drawn(rows: Sequence[Row]) -> Iterator[str]:
    """Aligned cells, the first column to the left, the others to the right. The first row is a header."""
    from rich.cells import cell_len

    sizes = _widths(rows)
    for number, row in enumerate(rows):
        cells = []
        for place, (text, size) in enumerate(zip(row, sizes, strict=True)):
            pad, style = " " * (size - cell_len(text)), STATUS_STYLES.get(text, "") if number else "bold"
            shown = styled(text, style) if style else text
            cells.append(shown + pad if place == 0 else pad + shown)
        yield (" " * GAP).join(cells).rstrip()


def check_plots(path: Path) -> None:
    """Raise BadUsage if no picture can be written to *path*, because it does not end in .png or .svg, or matplotlib is
    missing. Does not import matplotlib."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise BadUsage(
            f"The picture of --plot must be a .png or .svg file, not '{path.suffix or path.name}'.",
            hint=f"For example, add --plot {path.stem or 'metrics'}.png.",
        )
    if find_spec("matplotlib") is None:
        raise BadUsage(
            "--plot needs matplotlib, which is not installed.", hint=f"Install it: {install_command('plot')}"
        )


def save_plots(aggregation: Aggregation, path: Path) -> Sequence[Path]:
    """Draw the metrics of the runs, and return the written files. Without numbers there are none.

    A family is all metrics with the same last part: `train/loss` and `val/loss` are two panels of one figure. A single
    figure is *path*. Several are `NAME-<family>.png` beside it. The primary metric of the sweep, else `val/loss`,
    determines the best runs. Raises BadUsage like `check_plots`, DiskFailed.
    """
    check_plots(path)
    from himl_cli.render.plots import save_figures

    return save_figures(aggregation, path)
