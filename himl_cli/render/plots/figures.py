"""One figure: its panels in a grid, the legend below them, a colour bar beside them, and what is not shown in a line at
the foot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from himl_cli.core.results import Child
from himl_cli.core.runs import RunStatus
from himl_cli.core.text import shorten
from himl_cli.render.plots.families import Family, is_shown
from himl_cli.render.plots.looks import Scale, Scheme
from himl_cli.render.plots.panels import MEAN, draw_panel, looks_named, rows_of
from himl_cli.render.plots.wording import listed, number, plain

LEGEND_LENGTH = 70
COLUMNS = 3


def figure_of(family: Family, children: Sequence[Child], scheme: Scheme, names: Sequence[str]) -> Figure:
    """The whole figure of one family."""
    columns = min(COLUMNS, len(family.panels))
    rows = math.ceil(len(family.panels) / columns)
    named = looks_named(family.panels, scheme)
    numberless = {
        place
        for place in named
        if not any(np.isfinite(c.values).any() for panel in family.panels for c in panel.curves if c.child == place)
    }
    words = [
        shorten(look.name, LEGEND_LENGTH) + (": no number" if place in numberless else "")
        for place, look in named.items()
    ]
    words += [shorten(name, LEGEND_LENGTH) for name in scheme.categories]
    width = {1: 8.0, 2: 11.5}.get(columns, 15.0)
    legend_columns = max(1, min(6, int(width // (0.067 * max(map(len, [*words, MEAN])) + 0.6))))
    legend_rows = math.ceil((len(words) + 2) / legend_columns)
    height = rows * _panel_height(family, rows) + 0.9 + 0.2 * legend_rows
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    explained: dict[str, Any] = {}
    runs = sum(map(is_shown, children))
    for place, axes in enumerate(grid.flat):
        if place >= len(family.panels):
            axes.remove()
            continue
        _dress(axes)
        explained |= draw_panel(axes, family.panels[place], scheme, names, runs)
    figure.suptitle(plain(_title(family, children)), x=0.01, ha="left", fontsize=13)
    if scheme.scale:
        _add_colour_bar(figure, grid.flat[: len(family.panels)], scheme.scale)
    handles = [
        Line2D([], [], color=look.colour, linestyle=look.style, linewidth=max(look.width, 1.5))
        for look in named.values()
    ]
    handles += [Line2D([], [], color=colour, linewidth=2) for colour in scheme.categories.values()]
    labels = [plain(word) for word in words] + [*explained]
    foot = _foot(children, names)
    if foot:
        labels, handles = labels or [""], handles if labels else [Line2D([], [], linestyle="none")]
    if labels:
        figure.legend(
            [*handles, *explained.values()],
            labels,
            loc="outside lower left",
            ncols=legend_columns,
            fontsize=8,
            frameon=False,
            handlelength=2.8,
            title=plain(foot) or None,
            title_fontsize=8,
            alignment="left",
        )
    return figure


def _panel_height(family: Family, rows: int) -> float:
    """Inches."""
    if all(map(rows_of, family.panels)):
        return 1.0 + 0.21 * (max(map(rows_of, family.panels)) + 1)
    return max(3.4 if rows > 1 else 4.0, 1.0 + 0.21 * (max(map(rows_of, family.panels)) + 1))


def _dress(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def _title(family: Family, children: Sequence[Child]) -> str:
    experiments = {child.run.experiment for child in children}
    of = f" — {experiments.pop()}" if len(experiments) == 1 else ""
    shown, runs = sum(map(is_shown, children)), len(children)
    return (
        f"{shorten(family.title, 50)}{shorten(of, 40)} ({f'{shown} of ' if shown < runs else ''}{runs} "
        f"run{'s' if runs != 1 else ''})"
    )


def _foot(children: Sequence[Child], names: Sequence[str]) -> str:
    """What is not shown, or not whole."""
    by_status = {
        status: [name for name, child in zip(names, children, strict=True) if child.run.status is status]
        for status in RunStatus
    }
    failed, going = by_status[RunStatus.failed], [*by_status[RunStatus.running], *by_status[RunStatus.queued]]
    said = []
    if failed:
        said.append(f"{len(failed)} of {len(children)} failed, not shown: {listed(failed)}.")
    if canceled := by_status[RunStatus.canceled]:
        said.append(f"{len(canceled)} stopped before the end.")
    if going:
        said.append(f"{len(going)} not at the end yet.")
    return " ".join(said)


def _add_colour_bar(figure: Figure, panels: Any, scale: Scale) -> None:
    bar = figure.colorbar(ScalarMappable(scale.norm, scale.colours), ax=panels, shrink=0.9, aspect=30, pad=0.01)
    bar.set_label(plain(shorten(scale.name, 40)) + (" (log scale)" if isinstance(scale.norm, LogNorm) else ""))
    bar.ax.tick_params(labelsize=8)
    if isinstance(scale.norm, LogNorm):
        bar.ax.yaxis.set_major_locator(LogLocator(numticks=8))
    else:
        bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=6))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
