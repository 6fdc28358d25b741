"""The search space of a sweep as the service has it (wire document 2.8): what a value is drawn from, and the points of a grid."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tests.servers.azureml.state import Json

Value = str | int | float | bool
Values = Mapping[str, Value]
CHOICE = "choice"
RANGES = ("uniform", "loguniform", "quniform", "qloguniform")
_DRAWS: Mapping[str, Callable[[random.Random, Sequence[Any]], float]] = {
    "uniform": lambda rng, given: rng.uniform(given[0], given[1]),
    "loguniform": lambda rng, given: math.exp(rng.uniform(given[0], given[1])),
    "normal": lambda rng, given: rng.gauss(given[0], given[1]),
    "lognormal": lambda rng, given: math.exp(rng.gauss(given[0], given[1])),
    "randint": lambda rng, given: rng.randrange(given[0]),
}
_ARGUMENTS = {CHOICE: 1, "randint": 1, **{f"{q}{name}": 2 + bool(q) for q in ("", "q") for name in ("uniform", "loguniform", "normal", "lognormal")}}


class BadSpace(ValueError):
    """What is wrong with a search space, by the name of the parameter."""


def check_space(space: Json, *, only: Sequence[str] = ()) -> None:
    """Raises BadSpace for one that the service cannot draw from; *only*: the distributions that the sampling knows (empty: all)."""
    if not space:
        raise BadSpace("The search space is empty.")
    for name, spec in space.items():
        if not isinstance(spec, list) or len(spec) != 2 or spec[0] not in _ARGUMENTS or not isinstance(spec[1], list):
            raise BadSpace(f"Parameter '{name}' has no known distribution: {spec}.")
        kind, given = spec
        if only and kind not in only:
            raise BadSpace(f"Parameter '{name}': the distribution '{kind}' is not supported by the sampling algorithm, which takes {', '.join(only)}.")
        if len(given) != _ARGUMENTS[kind]:
            raise BadSpace(f"Parameter '{name}': '{kind}' takes {_ARGUMENTS[kind]} arguments, not {len(given)}.")
        _check_arguments(name, kind, given)


def _check_arguments(name: str, kind: str, given: Sequence[Any]) -> None:
    if kind == CHOICE:
        if not isinstance(given[0], list) or not given[0]:
            raise BadSpace(f"Parameter '{name}': 'choice' needs a list of values.")
        return
    if any(isinstance(one, bool) or not isinstance(one, (int, float)) for one in given):
        raise BadSpace(f"Parameter '{name}': '{kind}' takes numbers, not {given}.")
    if kind == "randint" and (not isinstance(given[0], int) or given[0] < 1):
        raise BadSpace(f"Parameter '{name}': the upper bound of 'randint' has to be a whole number of 1 or more.")
    if kind in RANGES and given[0] >= given[1]:
        raise BadSpace(f"Parameter '{name}': the lower bound of '{kind}' has to be less than the upper one.")
    if kind.startswith("q") and (given[2] <= 0 or given[2] != int(given[2])):
        raise BadSpace(f"Parameter '{name}': the step of '{kind}' has to be a whole number of 1 or more.")


def size_of(space: Json) -> int | None:
    """How many points there are; None: without end."""
    sizes = [len(given[0]) if kind == CHOICE else given[0] if kind == "randint" else None for kind, given in space.values()]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def grid(space: Json) -> Iterator[Values]:
    """Every point, the last parameter changing fastest."""
    for values in itertools.product(*(given[0] for _, given in space.values())):
        yield dict(zip(space, values, strict=True))


def drawn(space: Json, seed: int | None) -> Iterator[Values]:
    """Points at random, none twice; it ends where a space with an end has no other one. The same *seed* gives the same points."""
    rng, seen, size = random.Random(seed), set[str](), size_of(space)
    while size is None or len(seen) < size:
        values = {name: _value(rng, kind, given) for name, (kind, given) in space.items()}
        if repr(values) not in seen:
            seen.add(repr(values))
            yield values


def _value(rng: random.Random, kind: str, given: Sequence[Any]) -> Value:
    if kind == CHOICE:
        choice: Value = rng.choice(given[0])
        return choice
    if kind.startswith("q"):
        step = given[2]
        return float(round(_DRAWS[kind[1:]](rng, given) / step) * step)
    return _DRAWS[kind](rng, given)
