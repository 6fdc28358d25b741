"""`--sweep NAME=SPEC`: what a hyperparameter's values are drawn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches

from himl_cli.core.errors import BadUsage
from himl_cli.core.sweeps import HYPERPARAMETER_NAME, Draw, Scalar, SearchRange
from himl_cli.services.sweeps.calls import Call, check_names, parse_call, scalar, split_values

ARGUMENTS = {
    Draw.uniform: ("low", "high"),
    Draw.loguniform: ("low", "high"),
    Draw.normal: ("mu", "sigma"),
    Draw.lognormal: ("mu", "sigma"),
    Draw.randint: ("n",),
    Draw.quniform: ("low", "high", "q"),
    Draw.qloguniform: ("low", "high", "q"),
    Draw.qnormal: ("mu", "sigma", "q"),
    Draw.qlognormal: ("mu", "sigma", "q"),
}
LARGEST_EXPONENT = 700.0
"""The exponential function of more than that is no number any more."""


def parse_space(texts: Sequence[str]) -> dict[str, SearchRange]:
    """All `--sweep` values by name. Raises BadUsage."""
    space: dict[str, SearchRange] = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        name = name.strip().lstrip("-")
        if not equals or not name:
            raise BadUsage(f"--sweep '{text}': no name.", hint="Write --sweep NAME=SPEC, as in --sweep lr=0.1,0.01")
        if not HYPERPARAMETER_NAME.fullmatch(name):
            raise BadUsage(
                f"--sweep '{text}': '{name}' cannot be a hyperparameter.",
                hint="Letters, digits, _, - and dots make a name.",
            )
        if name in space:
            raise BadUsage(
                f"--sweep: '{name}' is given twice.", hint=f"Give all its values at once: --sweep {name}=A,B,C"
            )
        space[name] = search_range(name, spec)
    return space


def search_range(name: str, spec: str) -> SearchRange:
    """What *spec* means: a list of values, or a call. Raises BadUsage."""
    where = f"--sweep {name}={spec}"
    call = parse_call(spec)
    if call is None:
        return _listed(name, spec, where)
    try:
        draw = Draw(call.word)
    except ValueError:
        near = get_close_matches(call.word, [draw.value for draw in Draw], n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(draw.value for draw in Draw)}."
        raise BadUsage(f"{where}: there is no distribution '{call.word}'.", hint=hint) from None
    if draw is Draw.choice:
        check_names(call.named, (), where)
        return checked_range(SearchRange(draw, tuple(map(scalar, call.values))), where)
    return checked_range(SearchRange(draw, _arguments(call, ARGUMENTS[draw], where)), where)


def _listed(name: str, spec: str, where: str) -> SearchRange:
    if "(" in spec or ")" in spec:
        raise BadUsage(
            f"{where}: this is neither a list nor one distribution.",
            hint=f"Write --sweep {name}=0.1,0.01 or --sweep '{name}=uniform(0,1)'",
        )
    if spec.strip() in ARGUMENTS:
        draw = Draw(spec.strip())
        raise BadUsage(f"{where}: {draw.value} needs arguments.", hint=f"Write --sweep '{name}={_form(draw)}'")
    if spec.strip().startswith("[") and spec.strip().endswith("]"):
        raise BadUsage(
            f"{where}: a list is written without brackets.", hint=f"Write --sweep {name}={spec.strip()[1:-1]}"
        )
    return checked_range(
        SearchRange(Draw.choice, tuple(map(scalar, split_values(spec))) if spec.strip() else ()), where
    )


def _arguments(call: Call, names: Sequence[str], where: str) -> tuple[Scalar, ...]:
    """The arguments in their order, whether they are named or not."""
    check_names(call.named, names, where)
    given = dict(zip(names, call.values, strict=False))
    twice = next((name for name in call.named if name in given), None)
    if twice or len(call.values) > len(names) or len(given) + len(call.named) < len(names):
        raise _wrong_count(Draw(call.word), where)
    return tuple(scalar((given | dict(call.named))[name]) for name in names)


def checked_range(found: SearchRange, where: str) -> SearchRange:
    """*found*, once it can be drawn from. Raises BadUsage, which begins with *where*."""
    if found.draw is Draw.choice:
        _check_choices(found.values, where)
        return found
    names = ARGUMENTS[found.draw]
    if len(found.values) != len(names):
        raise _wrong_count(found.draw, where)
    for name, value in zip(names, found.values, strict=True):
        if isinstance(value, (str, bool)) or not math.isfinite(value):
            raise BadUsage(f"{where}: {name} is to be a number, not '{value}'.", hint=f"Write {_form(found.draw)}")
    _check_numbers(found.draw, dict(zip(names, (float(value) for value in found.values), strict=True)), where)
    return SearchRange(Draw.randint, (int(found.values[0]),)) if found.draw is Draw.randint else found


def _check_choices(values: Sequence[Scalar], where: str) -> None:
    if not values:
        raise BadUsage(f"{where}: the list is empty.", hint="Give at least one value: --sweep lr=0.1,0.01")
    if "" in values:
        raise BadUsage(f"{where}: a value is empty.", hint="Is there a comma too many?")
    seen: set[tuple[type, Scalar]] = set()
    for value in values:
        if (type(value), value) in seen:
            raise BadUsage(
                f"{where}: the value {value} is given twice.",
                hint="To run the same values several times: --different_seeds N",
            )
        seen.add((type(value), value))


def _check_numbers(draw: Draw, number: dict[str, float], where: str) -> None:
    if "low" in number and number["low"] >= number["high"]:
        raise BadUsage(f"{where}: low is to be less than high.", hint=f"Write {_form(draw)}")
    if "sigma" in number and number["sigma"] <= 0:
        raise BadUsage(f"{where}: sigma is to be greater than 0.", hint=f"Write {_form(draw)}")
    if "q" in number and number["q"] <= 0:
        raise BadUsage(f"{where}: q, the step, is to be greater than 0.", hint=f"Write {_form(draw)}")
    if "n" in number and (number["n"] < 1 or number["n"] != int(number["n"])):
        raise BadUsage(
            f"{where}: n is to be a whole number of at least 1; values are 0 to n - 1.",
            hint="Write randint(10) for 0 to 9.",
        )
    if "log" in draw.value and max(map(abs, list(number.values())[:2])) > LARGEST_EXPONENT:
        raise BadUsage(
            f"{where}: the arguments are exponents of e, and no number is that large.",
            hint=f"{draw.value}(-9,-2) gives 0.0001 to 0.1.",
        )


def _wrong_count(draw: Draw, where: str) -> BadUsage:
    names = ARGUMENTS[draw]
    return BadUsage(
        f"{where}: {draw.value} takes {len(names)} argument{'s' * (len(names) > 1)}: {', '.join(names)}.",
        hint=f"Write {_form(draw)}",
    )


def _form(draw: Draw) -> str:
    return f"{draw.value}({','.join(ARGUMENTS[draw])})"
