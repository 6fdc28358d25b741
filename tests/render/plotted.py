"""Runs with made-up metrics, and the figures that are drawn of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from himl_cli.core.jobs import Scalar
from himl_cli.core.logged import Aggregation, Child, RunResults, Series
from himl_cli.core.runs import Run, RunStatus
from himl_cli.render.plot_data import Scheme, families_of, names_of, scheme_of
from himl_cli.render.plots import figure_of

Points = Sequence[tuple[int, float]]
SVG = "{http://www.w3.org/2000/svg}"


def child(
    index: int,
    metrics: Mapping[str, Points],
    hyperparameters: Mapping[str, Scalar] | None = None,
    last: Mapping[str, Any] | None = None,
    status: RunStatus = RunStatus.completed,
) -> Child:
    run = Run(f"wine_1_{index}", "wine", status, datetime(2026, 1, 1, tzinfo=timezone.utc))
    series = {name: Series([step for step, _ in points], [value for _, value in points], [*range(len(points))]) for name, points in metrics.items()}
    return Child(run, f"run {index}", hyperparameters or {}, RunResults({**{name: one.values[-1] for name, one in series.items()}, **(last or {})}, series))


def together(*children: Child) -> Aggregation:
    return Aggregation(sorted({name for one in children for name in one.results.last}), children)


def decaying(speed: float, steps: int = 20) -> Points:
    return [(step, math.exp(-speed * step)) for step in range(steps)]


def sweep(count: int, **more: Any) -> Aggregation:
    return together(*(child(i, {"val/loss": decaying(0.01 * (i + 1))}, {"lr": 10.0 ** (-1 - i / 10), "depth": i % 3}, **more) for i in range(count)))


def figures(aggregation: Aggregation, primary: str | None = None, goal: str = "minimize") -> dict[str, Any]:
    """The figures as objects, by family."""
    found = families_of(aggregation)
    scheme = scheme_of(aggregation.children, found, primary, goal)
    return {family.title: figure_of(family, aggregation.children, scheme, names_of(aggregation.children)) for family in found}


def scheme(aggregation: Aggregation, primary: str | None = None, goal: str = "minimize") -> Scheme:
    return scheme_of(aggregation.children, families_of(aggregation), primary, goal)


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def texts(path: Path) -> str:
    return " ".join("".join(element.itertext()) for element in ElementTree.parse(path).iter(f"{SVG}text"))
