"""The search space of a sweep as it is typed: what values are drawn from, how they are sampled, and when a trial is
stopped early."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from himl_cli.core.errors import BadUsage
from himl_cli.core.sweeps import HYPERPARAMETER_NAME, Draw, EarlyStop, Scalar, SearchRange
from himl_cli.core.text import did_you_mean

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
COMMON = ("evaluation_interval", "delay_evaluation")
POLICIES = {
    "bandit": ("slack_factor", "slack_amount", *COMMON),
    "median": COMMON,
    "truncation": ("truncation_percentage", *COMMON),
}
AZURE_WORDS = {"median_stopping": "median", "truncation_selection": "truncation"}
SAMPLINGS = ("grid", "random", "bayesian")
LARGEST_SEED = 2**31 - 1

CALL = re.compile(r"\s*(?P<word>[A-Za-z_]\w*)\s*\((?P<inside>.*)\)\s*", re.DOTALL)
INTEGER = re.compile(r"[+-]?(?:0|[1-9]\d*)")
DECIMAL = re.compile(r"[+-]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)")
LONGEST_NUMBER = 250


@dataclass(frozen=True)
class Call:
    """A word with what stands in parentheses behind it, plain values and those with names: `uniform(0, 1)`,
    `bandit(slack_factor=0.1)`."""

    word: str
    values: Sequence[str] = ()
    named: Mapping[str, str] | None = None

    def numbers(self, names: Sequence[str], where: str) -> dict[str, Scalar]:
        """The named values. Raises BadUsage, which begins with *where*, for another name than these *names*, and for a
        value without a name."""
        named = self.named or {}
        for name in named:
            if name not in names:
                known = f"There are: {', '.join(names)}." if names else "It takes none."
                raise BadUsage(f"{where}: unknown '{name}'.", hint=did_you_mean(name, names) or known)
        return {name: scalar(value) for name, value in named.items()}


def parse_call(text: str) -> Call | None:
    """*text* as a call; None where it is none. Values are split at commas, except within double quotes."""
    found = CALL.fullmatch(text)
    if found is None:
        return None
    values: list[str] = []
    named: dict[str, str] = {}
    for part in _split_values(found["inside"]) if found["inside"].strip() else []:
        name, equals, value = part.partition("=")
        if equals and name.strip().isidentifier():
            named[name.strip()] = value.strip()
        else:
            values.append(part)
    return Call(found["word"], values, named)


def _split_values(text: str) -> list[str]:
    """The parts between commas, without the spaces around them; in double quotes a comma is part of a value."""
    try:
        (parts,) = csv.reader([text.replace("\n", " ")], skipinitialspace=True, strict=True)
    except csv.Error:
        parts = text.split(",")
    return [part.strip() for part in parts]


def scalar(text: str) -> Scalar:
    """A whole number, a decimal number, or the word as it is: `007`, `true` and `nan` are words, which scripts read as
    they like. So is what has more digits than floating point can say."""
    if len(text) > LONGEST_NUMBER:
        return text
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if DECIMAL.fullmatch(text) and math.isfinite(float(text)) else text


def _near(word: str, known: Sequence[str], shown: Sequence[str] = ()) -> str:
    near = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(shown or known)}."


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
        return checked_range(SearchRange(Draw.choice, _listed(name, spec.strip(), where)), where)
    try:
        draw = Draw(call.word)
    except ValueError:
        hint = _near(call.word, [draw.value for draw in Draw])
        raise BadUsage(f"{where}: there is no distribution '{call.word}'.", hint=hint) from None
    names = ARGUMENTS.get(draw, ())
    named = call.numbers(names, where)
    if draw is Draw.choice:
        return checked_range(SearchRange(draw, tuple(map(scalar, call.values))), where)
    given = {**dict(zip(names, map(scalar, call.values), strict=False)), **named}
    if len(call.values) + len(named) != len(names) or len(given) != len(names):
        raise _wrong_count(draw, where)
    return checked_range(SearchRange(draw, tuple(given[each] for each in names)), where)


def _listed(name: str, spec: str, where: str) -> tuple[Scalar, ...]:
    if "(" in spec or ")" in spec:
        raise BadUsage(
            f"{where}: this is neither a list nor one distribution.",
            hint=f"Write --sweep {name}=0.1,0.01 or --sweep '{name}=uniform(0,1)'",
        )
    if spec in ARGUMENTS:
        raise BadUsage(f"{where}: {spec} needs arguments.", hint=f"Write --sweep '{name}={_form(Draw(spec))}'")
    if spec.startswith("[") and spec.endswith("]"):
        raise BadUsage(f"{where}: a list is written without brackets.", hint=f"Write --sweep {name}={spec[1:-1]}")
    return tuple(map(scalar, _split_values(spec))) if spec else ()


def checked_range(found: SearchRange, where: str) -> SearchRange:
    """*found*, once it can be drawn from. Raises BadUsage, which begins with *where*."""
    if found.draw is Draw.choice:
        _check_choices(found.values, where)
        return found
    names, form = ARGUMENTS[found.draw], f"Write {_form(found.draw)}"
    if len(found.values) != len(names):
        raise _wrong_count(found.draw, where)
    number: dict[str, float] = {}
    for name, value in zip(names, found.values, strict=True):
        if isinstance(value, (str, bool)) or not math.isfinite(value):
            raise BadUsage(f"{where}: {name} is to be a number, not '{value}'.", hint=form)
        number[name] = float(value)
    if "low" in number and number["low"] >= number["high"]:
        raise BadUsage(f"{where}: low is to be less than high.", hint=form)
    for name, shown in (("sigma", "sigma"), ("q", "q, the step,")):
        if number.get(name, 1) <= 0:
            raise BadUsage(f"{where}: {shown} is to be greater than 0.", hint=form)
    if "n" in number and (number["n"] < 1 or number["n"] != int(number["n"])):
        raise BadUsage(
            f"{where}: n is to be a whole number of at least 1; values are 0 to n - 1.",
            hint="Write randint(10) for 0 to 9.",
        )
    if "log" in found.draw.value and max(map(abs, list(number.values())[:2])) > LARGEST_EXPONENT:
        raise BadUsage(
            f"{where}: the arguments are exponents of e, and no number is that large.",
            hint=f"{found.draw.value}(-9,-2) gives 0.0001 to 0.1.",
        )
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


def _wrong_count(draw: Draw, where: str) -> BadUsage:
    names = ARGUMENTS[draw]
    return BadUsage(
        f"{where}: {draw.value} takes {len(names)} argument{'s' * (len(names) > 1)}: {', '.join(names)}.",
        hint=f"Write {_form(draw)}",
    )


def _form(draw: Draw) -> str:
    return f"{draw.value}({','.join(ARGUMENTS[draw])})"


def points_of(space: Iterable[SearchRange]) -> int:
    """How many combinations there are of values that are all listed."""
    return math.prod(len(found.values) for found in space)


def parse_sampling(text: str) -> tuple[str, int | None]:
    """The word, and the seed where one is given: `random(seed=7)`. Raises BadUsage."""
    where = f"--sampling {text}"
    call = parse_call(text) or Call(text.strip())
    if call.word not in SAMPLINGS:
        raise BadUsage(f"{where}: there is no sampling '{call.word}'.", hint=_near(call.word, SAMPLINGS))
    named = call.numbers(() if call.word == "grid" else ("seed",), where)
    if call.values:
        raise BadUsage(
            f"{where}: '{call.values[0]}' has no name.", hint=f"Write --sampling '{call.word}(seed={call.values[0]})'"
        )
    seed = named.get("seed")
    if "seed" in named and (not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED):
        raise BadUsage(f"{where}: seed is to be a whole number from 0 to {LARGEST_SEED}.")
    return call.word, seed if isinstance(seed, int) else None


def parse_early_stop(text: str) -> EarlyStop:
    """What `--early_stop` says. Raises BadUsage."""
    where = f"--early_stop {text}"
    call = parse_call(text) or Call(text.strip())
    policy = AZURE_WORDS.get(call.word, call.word)
    if policy not in POLICIES:
        raise BadUsage(
            f"{where}: there is no policy '{call.word}'.",
            hint=_near(call.word, (*POLICIES, *AZURE_WORDS), tuple(POLICIES)),
        )
    named = call.numbers(POLICIES[policy], where)
    if call.values:
        raise BadUsage(
            f"{where}: '{call.values[0]}' has no name.",
            hint=f"Write --early_stop '{policy}({POLICIES[policy][0]}={call.values[0]})'",
        )
    numbers: dict[str, float] = {}
    for name, value in named.items():
        if isinstance(value, str):
            raise BadUsage(f"{where}: {name} is to be a number, not '{value}'.")
        if not name.startswith("slack") and value != int(value):
            raise BadUsage(f"{where}: {name} is to be a whole number, not {value:g}.")
        numbers[name] = value if name.startswith("slack") else int(value)
    return checked_stop(EarlyStop(policy, **numbers), where)  # type: ignore[arg-type]  # whole ones are integers


def checked_stop(stop: EarlyStop, where: str = "--early_stop") -> EarlyStop:
    """*stop*, once it says all that its policy needs. Raises BadUsage, which begins with *where*."""
    if stop.policy not in POLICIES:
        raise BadUsage(f"{where}: there is no policy '{stop.policy}'.", hint=f"There are: {', '.join(POLICIES)}.")
    if stop.evaluation_interval < 1:
        raise BadUsage(
            f"{where}: evaluation_interval is to be at least 1.",
            hint="1 looks at each value that the primary metric gets.",
        )
    if stop.delay_evaluation < 0:
        raise BadUsage(f"{where}: delay_evaluation cannot be less than 0.")
    slacks = [slack for slack in (stop.slack_factor, stop.slack_amount) if slack is not None]
    wrong = ""
    if stop.policy == "bandit" and len(slacks) != 1:
        wrong = f"bandit takes slack_factor or slack_amount, {'not both' if slacks else 'and neither is given'}."
    elif any(slack <= 0 for slack in slacks):
        wrong = "the slack is to be greater than 0."
    if wrong:
        hint = "bandit(slack_factor=0.1) stops what is more than 10 % worse than the best trial."
        raise BadUsage(f"{where}: {wrong}", hint=hint)
    if stop.policy == "truncation" and not 1 <= (stop.truncation_percentage or 0) <= 99:
        raise BadUsage(
            f"{where}: truncation_percentage is to be 1 to 99.",
            hint="truncation(truncation_percentage=20) stops the worst fifth.",
        )
    return stop
