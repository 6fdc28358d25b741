"""Pictures of many runs: one figure for each family of metrics, as PNG or SVG, complete or not at all, with the same
bytes for the same results, and independent of the user's settings of matplotlib."""

from __future__ import annotations

import math
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from itertools import count as count_from
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from himl_cli.core.errors import DiskFailed
from himl_cli.core.files import atomic_replacement
from himl_cli.core.logged import Aggregation, Child
from himl_cli.core.runs import RunStatus
from himl_cli.core.text import shorten
from himl_cli.render.plot_data import (
    FEW_POINTS,
    MOST_POINTS,
    AxisLimits,
    Curve,
    Family,
    Look,
    Scheme,
    band_of,
    families_of,
    have_steps,
    is_shown,
    limits_of,
    listed,
    names_of,
    number,
    plain,
    scheme_of,
    spread_of,
    thinned,
)

INK = "#111111"
MEAN = "mean of the runs"
MOST_ROWS = 40  # values with a named row each
LEGEND_LENGTH = 70


def draw_panel(
    axes: Any, metric: str, curves: Sequence[Curve], scheme: Scheme, names: Sequence[str], runs: int
) -> dict[str, Any]:
    """Draw the panel, and return the legend's handles by their texts. *runs* is the number of all runs."""
    handles = _draw_curves(axes, curves, scheme) if have_steps(curves) else {}
    if not have_steps(curves):
        _draw_values(axes, curves, scheme, names)
    axes.set_title(plain(shorten(metric, 44)), loc="left", fontsize=10, fontweight="bold")
    lacking, broken = runs - len(curves), sum(not np.isfinite(curve.values).all() for curve in curves)
    beyond = limits_of(np.concatenate([curve.values for curve in curves])).beyond
    remarks = {
        f"{lacking} of {runs} runs without it": lacking,
        f"NaN or infinite values in {broken} run{'s' if broken > 1 else ''}": broken,
        f"{beyond} value{'s' if beyond > 1 else ''} beyond the axis": beyond,
    }
    if any(remarks.values()):
        axes.annotate(
            plain("; ".join(remark for remark, count in remarks.items() if count)),
            (1, 0),
            xytext=(-4, 4),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=7,
            color="#555555",
            zorder=9,
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
        )
    return handles


def _draw_curves(axes: Any, all_curves: Sequence[Curve], scheme: Scheme) -> dict[str, Any]:
    limits = limits_of(np.concatenate([curve.values for curve in all_curves]))
    axes.set(yscale="log" if limits.is_log else "linear", ylim=(limits.low, limits.high), xlabel="step")
    # A panel has some hundred pixels, so very many curves need few points each
    points = min(MOST_POINTS, max(200, 200_000 // len(all_curves)))
    curves = [(thinned(curve, points), scheme.looks[curve.child]) for curve in all_curves]
    is_many = any(look.name == "" for _, look in curves)
    if is_many:
        lines = [(line, look) for curve, look in curves if not look.is_best for line in _lines(curve, limits)]
        style: Any = {"colors": [look.colour for _, look in lines], "alpha": lines[0][1].alpha if lines else 1.0}
        axes.add_collection(LineCollection([line for line, _ in lines], linewidths=0.9, zorder=2, **style))
    for curve, look in curves:
        if not is_many or look.is_best:
            _draw_curve(axes, curve, look, limits)
        elif curve.steps.size == 1:
            style = {"color": look.colour, "markersize": 2.5, "alpha": look.alpha, "zorder": 2}
            axes.plot(curve.steps, limits.clamped(curve.values), "o", **style)
    steps = np.concatenate([curve.steps for curve, _ in curves])
    room = 0.02 * max(float(np.ptp(steps)), 1.0)
    axes.set_xlim(float(steps.min()) - room, float(steps.max()) + room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    return _draw_spread(axes, all_curves, limits)


def _lines(curve: Curve, limits: AxisLimits) -> list[Any]:
    """Stretches of a curve between its gaps, as the points of lines."""
    known = np.isfinite(curve.values)
    pieces = np.split(np.arange(known.size), np.flatnonzero(np.diff(known)) + 1)
    return [
        np.column_stack([curve.steps[piece], limits.clamped(curve.values[piece])])
        for piece in pieces
        if known[piece[0]]
    ]


def _draw_curve(axes: Any, curve: Curve, look: Look, limits: AxisLimits) -> None:
    known = np.isfinite(curve.values)
    values = np.where(known, limits.clamped(np.where(known, curve.values, limits.high)), np.nan)
    axes.plot(
        curve.steps,
        values,
        linestyle=look.style,
        color=look.colour,
        linewidth=look.width,
        alpha=look.alpha,
        zorder=4 if look.is_best else 3,
    )
    before_gap = known & ~np.append(known[1:], True)
    if before_gap.any():
        axes.plot(curve.steps[before_gap], values[before_gap], "x", color=look.colour, markersize=6, zorder=4)
    neighbours = np.convolve(np.pad(known, 1), [1, 0, 1], "valid") > 0
    alone = known & ~neighbours
    if alone.any():
        axes.plot(curve.steps[alone], values[alone], "o", color=look.colour, markersize=4, alpha=look.alpha, zorder=4)


def _draw_spread(axes: Any, curves: Sequence[Curve], limits: AxisLimits) -> dict[str, Any]:
    spread = spread_of([curve for curve in curves if curve.steps.size > 1])
    if spread is None or spread.steps.size < 2:
        return {}
    low, high = limits.clamped(spread.low), limits.clamped(spread.high)
    band = axes.fill_between(
        spread.steps, low, high, color="#000000", alpha=0.13, linewidth=0, zorder=5 if len(curves) >= 10 else 1
    )
    mean, is_whole = limits.clamped(spread.mean), spread.count == len(curves)
    axes.plot(spread.steps, mean, color="white", linewidth=3.2, alpha=0.8, zorder=6)
    (dashed,) = axes.plot(spread.steps, mean, color=INK, linewidth=1.4, linestyle=(0, (4, 2)), zorder=7)
    (line,) = axes.plot(spread.steps, np.where(is_whole, mean, np.nan), color=INK, linewidth=1.8, zorder=7)
    rest = {} if is_whole.all() else {"mean where runs are missing (ended, or NaN)": dashed}
    return {MEAN: line, **rest, spread.band: band}


def _draw_values(axes: Any, curves: Sequence[Curve], scheme: Scheme, names: Sequence[str]) -> None:
    values = np.array([curve.last for curve in curves])
    known = values[np.isfinite(values)]
    band = np.array(band_of(known[:, None])[1:3]).ravel() if known.size > 1 else []
    limits = limits_of(np.concatenate([values, band]))
    axes.set(xscale="log" if limits.is_log else "linear", xlim=(limits.low, limits.high), xlabel="last value")
    if not known.size:
        axes.set_yticks([])
    elif rows_of(curves):
        _draw_rows(axes, curves, scheme, names, limits)
    else:
        _draw_cloud(axes, [curve for curve in curves if np.isfinite(curve.last)], scheme, limits)


def _draw_rows(axes: Any, curves: Sequence[Curve], scheme: Scheme, names: Sequence[str], limits: AxisLimits) -> None:
    if len(curves) > FEW_POINTS:
        curves = sorted(curves, key=lambda curve: (not np.isfinite(curve.last), -curve.last))
    for row, curve in enumerate(curves):
        look = scheme.looks[curve.child]
        axes.axhline(row, color="#dddddd", linewidth=0.6, zorder=1)
        if np.isfinite(curve.last):
            _draw_point(axes, curve.last, row, limits, color=look.colour, markersize=8 if look.is_best else 6)
    words = [plain(shorten(names[curve.child], 34)) for curve in curves]
    known = np.array([curve.last for curve in curves if np.isfinite(curve.last)])
    words += _draw_mean(axes, known, len(curves), limits)
    axes.set_yticks(range(len(words)), words, fontsize=8 if len(words) <= 15 else 7)
    axes.set_ylim(len(words) - 0.4, -0.6)


def _draw_cloud(axes: Any, curves: Sequence[Curve], scheme: Scheme, limits: AxisLimits) -> None:
    """Draw a point per run, shifted up and down so that none hides another, and their quartiles below."""
    values = np.clip([curve.last for curve in curves], limits.low, limits.high)
    heights = np.array([((curve.child * 0.6180339887) % 1.0 - 0.5) * 0.8 for curve in curves])
    looks = [scheme.looks[curve.child] for curve in curves]
    axes.scatter(values, heights, s=16, c=[look.colour for look in looks], alpha=0.8, linewidths=0, zorder=3)
    for look, value, height in zip(looks, values, heights, strict=True):
        if look.is_best:
            axes.plot([value], [height], "o", color=look.colour, markeredgecolor=INK, markersize=9, zorder=5)
    words = _draw_mean(axes, np.array([curve.last for curve in curves]), 0.7, limits)
    axes.set_yticks([0.7] if words else [], words, fontsize=8)
    axes.set_ylim(0.95, -0.5)


def _draw_mean(axes: Any, values: Any, row: float, limits: AxisLimits) -> list[str]:
    """Draw mean and band as a separate row. Return its name, or nothing for a single value."""
    if values.size < 2:
        return []
    mean, low, high, words = band_of(values[:, None])
    ends = np.clip([low[0], high[0]], limits.low, limits.high)
    axes.plot(ends, [row, row], color="#666666", linewidth=5, alpha=0.55, solid_capstyle="butt", zorder=3)
    _draw_point(axes, float(mean[0]), row, limits, "D", color=INK, markersize=6)
    return [f"mean {words}" if words.startswith("±") else f"mean, {words}"]


def _draw_point(axes: Any, value: float, row: float, limits: AxisLimits, marker: str = "o", **style: Any) -> None:
    """Draw a point, or an arrow at the end of the axis for a value beyond it."""
    marker = ">" if value > limits.high else "<" if value < limits.low else marker
    axes.plot([min(max(value, limits.low), limits.high)], [row], marker, zorder=4, **style)


def rows_of(curves: Sequence[Curve]) -> int:
    """The number of named rows of a panel. 0 for one over steps, or a cloud of points."""
    return 0 if have_steps(curves) or len(curves) > MOST_ROWS else len(curves)


def figure_of(family: Family, children: Sequence[Child], scheme: Scheme, names: Sequence[str]) -> Figure:
    panels = [*family.panels.values()]
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    present = {curve.child for curves in panels for curve in curves}
    has_number = {curve.child for curves in panels for curve in curves if np.isfinite(curve.values).any()}
    named_rows = [*map(rows_of, panels)]
    named = {
        place: look
        for place, look in scheme.looks.items()
        if look.name and place in present and (look.is_best or not all(named_rows))
    }
    words = [
        shorten(look.name, LEGEND_LENGTH) + ("" if place in has_number else ": no number")
        for place, look in named.items()
    ]
    words += [shorten(name, LEGEND_LENGTH) for name in scheme.categories]
    width = {1: 8.0, 2: 11.5}.get(columns, 15.0)
    legend_columns = max(1, min(6, int(width // (0.067 * max(map(len, [*words, MEAN])) + 0.6))))
    legend_rows = math.ceil((len(words) + 2) / legend_columns)
    least = 0.0 if all(named_rows) else 3.4 if rows > 1 else 4.0
    # In inches
    height = rows * max(least, 1.0 + 0.21 * (max(named_rows) + 1)) + 0.9 + 0.2 * legend_rows
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    explained: dict[str, Any] = {}
    runs = sum(map(is_shown, children))
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, (metric, curves) in zip(grid.flat, family.panels.items(), strict=False):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, color="#e6e6e6", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        explained |= draw_panel(axes, metric, curves, scheme, names, runs)
    experiments = {child.run.experiment for child in children}
    of = f" — {experiments.pop()}" if len(experiments) == 1 else ""
    total = f"{f'{runs} of ' if runs < len(children) else ''}{len(children)} run{'s' * (len(children) != 1)}"
    title = f"{shorten(family.title, 50)}{shorten(of, 40)} ({total})"
    figure.suptitle(plain(title), x=0.01, ha="left", fontsize=13)
    if scheme.scale:
        _add_colour_bar(figure, grid.flat[: len(panels)], *scheme.scale)
    handles = [
        Line2D([], [], color=look.colour, linestyle=look.style, linewidth=max(look.width, 1.5))
        for look in named.values()
    ]
    handles += [Line2D([], [], color=colour, linewidth=2) for colour in scheme.categories.values()]
    labels, foot = [plain(word) for word in words] + [*explained], _foot(children, names)
    if foot and not labels:
        labels, handles = [""], [Line2D([], [], linestyle="none")]
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


def _foot(children: Sequence[Child], names: Sequence[str]) -> str:
    """Remarks on curves and values that are missing or cut."""
    statuses = [child.run.status for child in children]
    failed = [name for name, status in zip(names, statuses, strict=True) if status is RunStatus.failed]
    canceled, running = statuses.count(RunStatus.canceled), sum(not status.is_final for status in statuses)
    texts = {
        f"{len(failed)} of {len(children)} failed, not shown: {listed(failed)}.": len(failed),
        f"{canceled} canceled.": canceled,
        f"{running} still in progress.": running,
    }
    return " ".join(text for text, count in texts.items() if count)


def _add_colour_bar(figure: Figure, panels: Any, name: str, norm: Any, colours: Any) -> None:
    is_log = isinstance(norm, LogNorm)
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=panels, shrink=0.9, aspect=30, pad=0.01)
    bar.set_label(plain(shorten(name, 40)) + (" (log scale)" if is_log else ""))
    bar.ax.tick_params(labelsize=8)
    bar.ax.yaxis.set_major_locator(LogLocator(numticks=8) if is_log else MaxNLocator(nbins=6))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    bar.ax.yaxis.set_minor_formatter(NullFormatter())


def save_figures(aggregation: Aggregation, path: Path) -> Sequence[Path]:
    """Implementation of `save_plots`, once matplotlib is available."""
    families, children = families_of(aggregation), aggregation.children
    names, paths = names_of(children), file_names(path, families)
    with _own_settings(), np.errstate(all="ignore"):
        search = aggregation.search
        facts = (search.metric, search.goal, search.best) if search else (None, "minimize", "")
        scheme = scheme_of(children, families, *facts)
        for family, target in zip(families, paths, strict=True):
            _save(figure_of(family, children, scheme, names), target)
    return paths


def file_names(path: Path, families: Sequence[Family]) -> list[Path]:
    """*path*, or one path per family beside it. They differ even on a file system that ignores case."""
    if len(families) == 1:
        return [path]
    names: dict[str, str] = {}
    for family in families:
        stem = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", family.name)).strip("._")[:80] or "metric"
        others = (f"{stem}_{count}" for count in count_from(2))
        first = f"{stem}-{family.part}" if family.part else stem
        name = next(each for each in chain([first], others) if each.casefold() not in names)
        names[name.casefold()] = name
    return [path.with_name(f"{path.stem}-{name}{path.suffix}") for name in names.values()]


@contextmanager
def _own_settings() -> Iterator[None]:
    """Apply matplotlib's defaults and himl's own, and restore the settings of the user's file or program afterwards."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams
        other_scripts = (
            "Noto Sans CJK JP",
            "Noto Sans CJK SC",
            "Source Han Sans SC",
            "PingFang SC",
            "Hiragino Sans",
            "Microsoft YaHei",
            "Yu Gothic",
            "Arial Unicode MS",
        )
        installed = set(fontManager.get_font_names())  # matplotlib warns of a missing font
        settings.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "himl",
                "font.size": 9.0,
                "figure.dpi": 100.0,
                "axes.unicode_minus": True,
                "font.family": ["DejaVu Sans", *(name for name in other_scripts if name in installed)],
            }
        )
        # A box replaces the character in PNG. SVG viewers have other fonts
        warnings.filterwarnings("ignore", message="Glyph .* missing from (current )?font")
        yield


def _save(figure: Any, path: Path) -> None:
    is_svg = path.suffix.lower() == ".svg"
    canvas = FigureCanvasSVG(figure) if is_svg else FigureCanvasAgg(figure)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_replacement(path) as temporary, open(temporary, "wb") as stream:
            canvas.print_figure(
                stream,
                format="svg" if is_svg else "png",
                dpi=150,
                metadata={"Date": None} if is_svg else {"Software": None},
            )
    except OSError as err:
        raise DiskFailed(
            f"Cannot write '{path}': {err.strerror or err}.", hint="Choose another file for --plot."
        ) from err
