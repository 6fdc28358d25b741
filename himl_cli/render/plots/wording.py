"""Names and numbers as pictures show them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from himl_cli.core.results import Child
from himl_cli.core.sweeps import Scalar, value_text
from himl_cli.core.text import shorten

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def plain(text: str) -> str:
    """*text* as matplotlib shows it unchanged: dollars begin no formula, line ends and control characters are
    spaces."""
    return _CONTROL.sub(" ", text).replace("$", r"\$")


def number(value: float) -> str:
    """A number with four digits; nothing that is not finite is made to look like one."""
    return f"{value:.4g}" if math.isfinite(value) else ("NaN" if math.isnan(value) else ("∞" if value > 0 else "-∞"))


def names_of(children: Sequence[Child]) -> list[str]:
    """What each run is called in legends: the hyperparameters in which the runs differ, else its label. Two that would
    be called alike get their ids."""
    varying = varying_hyperparameters(children)
    names = [
        _values_text({name: child.hyperparameters[name] for name in varying if name in child.hyperparameters})
        or child.label
        for child in children
    ]
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return [
        f"{name} ({child.run.id})" if counts[name] > 1 and name != child.run.id else name
        for name, child in zip(names, children, strict=True)
    ]


def varying_hyperparameters(children: Sequence[Child]) -> list[str]:
    """The hyperparameters in which the runs differ, in their order; all of them where there is one run."""
    names = dict.fromkeys(name for child in children for name in child.hyperparameters)
    if len(children) < 2:
        return [*names]
    return [name for name in names if len({_key(child.hyperparameters.get(name)) for child in children}) > 1]


def _key(value: Scalar | None) -> tuple[str, str]:
    return type(value).__name__, repr(value)


def _values_text(values: Mapping[str, Scalar]) -> str:
    return ", ".join(
        f"{name}={number(value) if isinstance(value, float) else value_text(value)}" for name, value in values.items()
    )


def listed(names: Sequence[str], most: int = 3) -> str:
    """Some of *names*, and how many more there are."""
    shown = "; ".join(shorten(name, 40) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
