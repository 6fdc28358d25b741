"""Which metrics are drawn in one figure, and what of each run there is to draw."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from himl_cli.core.results import Aggregation, Child
from himl_cli.core.runs import RunStatus
from himl_cli.render.plots.points import Curve, curve_of, single

MOST_PANELS = 12  # of one figure


@dataclass(frozen=True)
class Panel:
    """One metric and the points of the runs that have it."""

    metric: str
    curves: Sequence[Curve]

    @property
    def has_steps(self) -> bool:
        """Whether it is drawn over steps: some run has two of them."""
        return any(curve.steps.size > 1 for curve in self.curves)


@dataclass(frozen=True)
class Family:
    """Panels of one figure; `part` counts the figures of one family from 1, 0 where there is only one."""

    name: str
    panels: Sequence[Panel]
    part: int = 0

    @property
    def title(self) -> str:
        return f"{self.name} ({self.part})" if self.part else self.name


def is_shown(child: Child) -> bool:
    """Runs that failed are named and not drawn: where they stopped says nothing of their settings, and would bend the
    mean."""
    return child.run.status is not RunStatus.failed


def families_of(aggregation: Aggregation) -> list[Family]:
    """All figures, in the order of their metrics. Metrics without a number are left out."""
    by_name: dict[str, list[Panel]] = {}
    for metric in aggregation.metrics:
        curves = [
            curve
            for place, child in enumerate(aggregation.children)
            if is_shown(child) and (curve := _curve(place, child, metric)) is not None
        ]
        if curves:
            by_name.setdefault(family_name(metric), []).append(Panel(metric, curves))
    return [
        family
        for name, panels in by_name.items()
        for family in _parts(name, sorted(panels, key=lambda panel: _natural(panel.metric)))
    ]


def family_name(metric: str) -> str:
    """What stands after the last `/`, or the whole name where nothing does."""
    return metric.rsplit("/", 1)[-1].strip() or metric


def _natural(text: str) -> list[tuple[int, str]]:
    """So that `class_2` comes before `class_10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def curves_by_metric(families: Sequence[Family]) -> Mapping[str, Sequence[Curve]]:
    return {panel.metric: panel.curves for family in families for panel in family.panels}


def _curve(place: int, child: Child, metric: str) -> Curve | None:
    series = child.results.series.get(metric)
    if series is not None:
        return curve_of(place, series)
    return single(place, child.results.last.get(metric))


def _parts(name: str, panels: Sequence[Panel]) -> list[Family]:
    if len(panels) <= MOST_PANELS:
        return [Family(name, panels)]
    return [
        Family(name, panels[begin : begin + MOST_PANELS], begin // MOST_PANELS + 1)
        for begin in range(0, len(panels), MOST_PANELS)
    ]
