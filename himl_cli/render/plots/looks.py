"""How each run looks, in all figures alike, and what the legend says of that.

Few runs: a colour and a line style each, all named. Many: coloured by the hyperparameter that tells most, or grey where
there is none; the best few are named. Colours are told apart with each kind of colour blindness: those of Okabe and
Ito, and viridis without its lightest end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, LogNorm, Normalize

from himl_cli.core.results import Child
from himl_cli.core.sweeps import Scalar, value_text
from himl_cli.render.plots.families import is_shown
from himl_cli.render.plots.points import Curve
from himl_cli.render.plots.wording import names_of, number, varying_hyperparameters

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES: tuple[Any, ...] = ("-", (0, (5, 2)))
FEW = len(COLOURS) * len(STYLES)
GREY = "#8a8a8a"
DEFAULT_PRIMARY = "val/loss"
BEST_COLOURS = ("#D55E00", "#CC79A7", "#E69F00")


@dataclass(frozen=True)
class Look:
    """One run's line or point; `name` is empty where the legend does not name it."""

    colour: Any
    style: Any = "-"
    width: float = 1.5
    alpha: float = 1.0
    name: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class Scale:
    """A colour bar: the hyperparameter, and how its values become colours."""

    name: str
    norm: Any
    colours: Any


@dataclass(frozen=True)
class Scheme:
    """The looks of all runs by their place, and what goes with them: a colour bar, or colours of categories by name."""

    looks: Mapping[int, Look]
    scale: Scale | None = None
    categories: Mapping[str, Any] = field(default_factory=dict)


def scheme_of(
    children: Sequence[Child], curves: Mapping[str, Sequence[Curve]], primary: str | None, goal: str
) -> Scheme:
    """The looks of the runs that are shown. *curves* are those of all metrics."""
    shown = [place for place, child in enumerate(children) if is_shown(child)]
    names = names_of(children)
    if len(shown) <= FEW:
        return Scheme({place: _few(count, names[place]) for count, place in enumerate(shown)})
    primary = primary or DEFAULT_PRIMARY
    finals = {curve.child: curve.last for curve in curves.get(primary, ()) if np.isfinite(curve.last)}
    best = sorted(finals, key=lambda place: (finals[place] if goal == "minimize" else -finals[place], place))[
        : len(BEST_COLOURS)
    ]
    telling = _most_telling(children, shown, finals)
    if telling is None:
        grey = Scheme({place: Look(GREY, "-", 0.9, _alpha(len(shown))) for place in shown})
        are_numbered = bool(
            varying_hyperparameters([children[place] for place in shown])
        )  # folds or seeds, of which none is the best
        return grey if are_numbered else _with_best(grey, best, names, primary, finals)
    values = {
        place: children[place].hyperparameters[telling] for place in shown if telling in children[place].hyperparameters
    }
    coloured = (
        _by_number(telling, values, shown) if _are_numbers(values.values()) else _by_category(telling, values, shown)
    )
    return _with_best(coloured, best, names, primary, finals)


def _few(count: int, name: str) -> Look:
    return Look(COLOURS[count % len(COLOURS)], STYLES[count // len(COLOURS) % len(STYLES)], 1.5, 0.95, name)


def _alpha(count: int) -> float:
    return 0.75 if count <= 40 else 0.5 if count <= 120 else 0.35


def _with_best(
    scheme: Scheme, best: Sequence[int], names: Sequence[str], primary: str, finals: Mapping[int, float]
) -> Scheme:
    """The best few thick, in colours that no colour bar has, and named; they come first."""
    looks = dict(scheme.looks)
    for rank, place in enumerate(best):
        colour = looks[place].colour if scheme.categories else BEST_COLOURS[rank]
        words = f"{'best' if rank == 0 else f'no. {rank + 1}'}: {names[place]} ({primary} {number(finals[place])})"
        looks[place] = Look(colour, ("-", (0, (5, 2)), (0, (1, 1.3)))[rank], 1.9, 1.0, words, True)
    return Scheme(
        {place: looks[place] for place in [*best, *(place for place in looks if place not in best)]},
        scheme.scale,
        scheme.categories,
    )


def _most_telling(children: Sequence[Child], shown: Sequence[int], finals: Mapping[int, float]) -> str | None:
    """The hyperparameter that goes along most with the primary metric, else the one with the most values; None where
    runs are only numbered."""
    candidates = []
    for name in varying_hyperparameters([children[place] for place in shown]):
        values = {
            place: children[place].hyperparameters[name] for place in shown if name in children[place].hyperparameters
        }
        if not _are_numbers(values.values()) and len({*map(str, values.values())}) > len(COLOURS):
            continue
        if _is_numbering([*values.values()], len(shown)):
            continue
        candidates.append((_goes_along(values, finals), len({*map(str, values.values())}), name))
    return max(candidates, key=lambda found: found[:2])[2] if candidates else None


def _is_numbering(values: Sequence[Scalar], count: int) -> bool:
    """Whether the values are 0, 1, 2, …: folds or seeds, which tell nothing."""
    return (
        len(values) == count
        and all(isinstance(value, int) and not isinstance(value, bool) for value in values)
        and {*values} == {*range(count)}
    )


def _goes_along(values: Mapping[int, Scalar], finals: Mapping[int, float]) -> float:
    """How far the ranks of the values go along with those of the primary metric, 0 to 1; of categories, what share of
    the ranks' variance is between them."""
    places = [place for place in values if place in finals]
    if len(places) < 3:
        return 0.0
    results = _ranks(np.array([finals[place] for place in places]))
    if results.std() == 0:
        return 0.0
    if _are_numbers(values.values()):
        given = _ranks(np.array([float(values[place]) for place in places]))
        return 0.0 if given.std() == 0 else round(abs(float(np.corrcoef(given, results)[0, 1])), 2)
    groups: dict[str, list[float]] = {}
    for place, rank in zip(places, results, strict=True):
        groups.setdefault(str(values[place]), []).append(float(rank))
    between = sum(len(group) * (np.mean(group) - results.mean()) ** 2 for group in groups.values()) / (
        len(places) * results.var()
    )
    return round(float(np.sqrt(between)), 2)


def _ranks(values: Any) -> Any:
    """Ranks, those of equal values being the mean of them."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def _are_numbers(values: Any) -> bool:
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value) for value in values
    )


def _by_number(name: str, values: Mapping[int, Scalar], shown: Sequence[int]) -> Scheme:
    numbers = {place: float(value) for place, value in values.items()}
    low, high = min(numbers.values()), max(numbers.values())
    norm = LogNorm(low, high) if low > 0 and high / low >= 100 else Normalize(low, high)
    colours = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.9, 256)))
    alpha = _alpha(len(shown))
    looks = {
        place: Look(colours(norm(numbers[place])) if place in numbers else GREY, "-", 0.9, alpha) for place in shown
    }
    return Scheme(looks, Scale(name, norm, colours))


def _by_category(name: str, values: Mapping[int, Scalar], shown: Sequence[int]) -> Scheme:
    words = [*dict.fromkeys(_word(values[place]) for place in shown if place in values)]
    colours = dict(zip(sorted(words), COLOURS, strict=False))
    alpha = _alpha(len(shown))
    looks = {
        place: Look(colours[_word(values[place])] if place in values else GREY, "-", 0.9, alpha) for place in shown
    }
    return Scheme(looks, None, {f"{name}={word}": colour for word, colour in colours.items()})


def _word(value: Scalar) -> str:
    return value_text(value)
