"""One panel: curves over steps, or the last values side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator

from himl_cli.core.text import shorten
from himl_cli.render.plots.families import Panel
from himl_cli.render.plots.limits import Limits, limits_of
from himl_cli.render.plots.looks import FEW as NAMED
from himl_cli.render.plots.looks import Look, Scheme
from himl_cli.render.plots.points import Curve, band_of, points_each, spread_of, thinned
from himl_cli.render.plots.wording import plain

INK = "#111111"
MEAN = "mean of the runs"
MEAN_OF_REST = "mean where runs are missing (ended, or NaN)"
MOST_ROWS = 40  # of values that stand in a row of their own, named
NAME_LENGTH = 34


def draw_panel(axes: Any, panel: Panel, scheme: Scheme, names: Sequence[str], runs: int) -> dict[str, Any]:
    """Draw the panel and give the handles of what the legend has to explain, by its words. *runs* is how many could be
    there."""
    handles = _draw_curves(axes, panel, scheme) if panel.has_steps else _draw_values(axes, panel, scheme, names)
    axes.set_title(plain(shorten(panel.metric, 44)), loc="left", fontsize=10, fontweight="bold")
    remarks = _remarks(panel, runs)
    if remarks:
        axes.annotate(
            plain("; ".join(remarks)),
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


def _remarks(panel: Panel, runs: int) -> list[str]:
    lacking, broken = runs - len(panel.curves), sum(curve.is_broken for curve in panel.curves)
    beyond = limits_of(np.concatenate([curve.values for curve in panel.curves])).beyond
    remarks = [f"{lacking} of {runs} runs without it"] if lacking else []
    remarks += [f"NaN or infinite values in {broken} run{'s' if broken > 1 else ''}"] if broken else []
    return remarks + ([f"{beyond} value{'s' if beyond > 1 else ''} beyond the axis"] if beyond else [])


def _draw_curves(axes: Any, panel: Panel, scheme: Scheme) -> dict[str, Any]:
    limits = limits_of(np.concatenate([curve.values for curve in panel.curves]))
    _set_limits(axes.set_yscale, axes.set_ylim, limits)
    curves = [thinned(curve, points_each(len(panel.curves))) for curve in panel.curves]
    is_many = any(scheme.looks[curve.child].name == "" for curve in curves)
    if is_many:
        lines = [
            (line, look)
            for curve in curves
            if not (look := scheme.looks[curve.child]).is_best
            for line in _lines(curve, limits)
        ]
        alpha = lines[0][1].alpha if lines else 1.0
        axes.add_collection(
            LineCollection(
                [line for line, _ in lines],
                colors=[look.colour for _, look in lines],
                linewidths=0.9,
                alpha=alpha,
                zorder=2,
            )
        )
    for curve in curves:
        look = scheme.looks[curve.child]
        if not is_many or look.is_best:
            _draw_curve(axes, curve, look, limits)
        elif curve.steps.size == 1:
            axes.plot(
                curve.steps,
                limits.clamped(curve.values),
                "o",
                color=look.colour,
                markersize=2.5,
                alpha=look.alpha,
                zorder=2,
            )
    steps = np.concatenate([curve.steps for curve in curves])
    room = 0.02 * max(float(steps.max() - steps.min()), 1.0)
    axes.set_xlim(float(steps.min()) - room, float(steps.max()) + room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("step")
    return _draw_spread(axes, panel.curves, limits)


def _lines(curve: Curve, limits: Limits) -> list[Any]:
    """Stretches of a curve between its gaps, as the points of lines."""
    known = np.isfinite(curve.values)
    pieces = np.split(np.arange(known.size), np.flatnonzero(np.diff(known)) + 1)
    return [
        np.column_stack([curve.steps[piece], limits.clamped(curve.values[piece])])
        for piece in pieces
        if known[piece[0]]
    ]


def _draw_curve(axes: Any, curve: Curve, look: Look, limits: Limits) -> None:
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


def _draw_spread(axes: Any, curves: Sequence[Curve], limits: Limits) -> dict[str, Any]:
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
    return {MEAN: line} | ({MEAN_OF_REST: dashed} if not is_whole.all() else {}) | {spread.band: band}


def _draw_values(axes: Any, panel: Panel, scheme: Scheme, names: Sequence[str]) -> dict[str, Any]:
    values = np.array([curve.last for curve in panel.curves])
    known = values[np.isfinite(values)]
    band = np.array(band_of(known[:, None])[1:3]).ravel() if known.size > 1 else []
    limits = limits_of(np.concatenate([values, band]))
    _set_limits(axes.set_xscale, axes.set_xlim, limits)
    axes.set_xlabel("last value")
    curves = [curve for curve in panel.curves if np.isfinite(curve.last)]
    if not curves:
        axes.set_yticks([])
        return {}
    if len(panel.curves) <= MOST_ROWS:
        _draw_rows(axes, panel.curves, scheme, names, limits)
    else:
        _draw_cloud(axes, curves, scheme, limits)
    return {}


def _draw_rows(axes: Any, curves: Sequence[Curve], scheme: Scheme, names: Sequence[str], limits: Limits) -> None:
    if len(curves) > NAMED:
        curves = sorted(curves, key=lambda curve: (not np.isfinite(curve.last), -curve.last))
    for row, curve in enumerate(curves):
        look = scheme.looks[curve.child]
        axes.axhline(row, color="#dddddd", linewidth=0.6, zorder=1)
        if np.isfinite(curve.last):
            axes.plot(
                [_inside(curve.last, limits)],
                [row],
                _marker(curve.last, limits),
                color=look.colour,
                markersize=8 if look.is_best else 6,
                zorder=4,
            )
    words = [plain(shorten(names[curve.child], NAME_LENGTH)) for curve in curves]
    words += _draw_mean(
        axes, np.array([curve.last for curve in curves if np.isfinite(curve.last)]), len(curves), limits
    )
    axes.set_yticks(range(len(words)), words, fontsize=8 if len(words) <= 15 else 7)
    axes.set_ylim(len(words) - 0.4, -0.6)


def _draw_cloud(axes: Any, curves: Sequence[Curve], scheme: Scheme, limits: Limits) -> None:
    """A point a run, moved up and down so that they do not hide each other, and below them their quartiles."""
    values = np.array([_inside(curve.last, limits) for curve in curves])
    heights = np.array([((curve.child * 0.6180339887) % 1.0 - 0.5) * 0.8 for curve in curves])
    axes.scatter(
        values,
        heights,
        s=16,
        c=[scheme.looks[curve.child].colour for curve in curves],
        alpha=0.8,
        linewidths=0,
        zorder=3,
    )
    for curve, value, height in zip(curves, values, heights, strict=True):
        if scheme.looks[curve.child].is_best:
            axes.plot(
                [value],
                [height],
                "o",
                color=scheme.looks[curve.child].colour,
                markeredgecolor=INK,
                markersize=9,
                zorder=5,
            )
    words = _draw_mean(axes, np.array([curve.last for curve in curves]), 0.7, limits)
    axes.set_yticks([0.7] if words else [], words, fontsize=8)
    axes.set_ylim(0.95, -0.5)


def _draw_mean(axes: Any, values: Any, row: float, limits: Limits) -> list[str]:
    """Mean and band as a row of their own; gives what it is called, nothing where there is one value only."""
    if values.size < 2:
        return []
    mean, low, high, words = band_of(values[:, None])
    axes.plot(
        np.clip([low[0], high[0]], limits.low, limits.high),
        [row, row],
        color="#666666",
        linewidth=5,
        alpha=0.55,
        solid_capstyle="butt",
        zorder=3,
    )
    axes.plot(
        [_inside(float(mean[0]), limits)],
        [row],
        _marker(float(mean[0]), limits, "D"),
        color=INK,
        markersize=6,
        zorder=4,
    )
    return [f"mean {words}" if words.startswith("±") else f"mean, {words}"]


def _inside(value: float, limits: Limits) -> float:
    return min(max(value, limits.low), limits.high)


def _marker(value: float, limits: Limits, usual: str = "o") -> str:
    """A point, or an arrow at the end of the axis for what lies beyond it."""
    return ">" if value > limits.high else "<" if value < limits.low else usual


def _set_limits(set_scale: Any, set_ends: Any, limits: Limits) -> None:
    if limits.is_log:
        set_scale("log")
    set_ends(limits.low, limits.high)


def rows_of(panel: Panel) -> int:
    """How many named rows the panel needs; 0 for one over steps, or a cloud."""
    return 0 if panel.has_steps or len(panel.curves) > MOST_ROWS else len(panel.curves)


def looks_named(panels: Sequence[Panel], scheme: Scheme) -> Mapping[int, Look]:
    """The looks that the legend has to name: of runs that are in the figure, and not named at their rows already."""
    present = {curve.child for panel in panels for curve in panel.curves}
    are_named = all(rows_of(panel) for panel in panels)
    return {
        place: look
        for place, look in scheme.looks.items()
        if look.name and place in present and (look.is_best or not are_named)
    }
