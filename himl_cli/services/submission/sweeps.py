"""Sweeps, cross-validation and repeated seeds: the meaning of their options, their limits on each compute target, and
their description in words."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches

from himl_cli.core.errors import BadUsage
from himl_cli.core.json_text import Spelled
from himl_cli.core.patterns import lazy_pattern
from himl_cli.core.redaction import MASK, mask_arguments
from himl_cli.core.sweeps import (
    GOAL,
    GOALS,
    HYPERPARAMETER_NAME,
    PLACEHOLDER,
    PRIMARY_METRIC,
    REPEATED,
    SEARCH_SPACE,
    SWITCH,
    SWITCH_WORDS,
    WORDS,
    Draw,
    EarlyStop,
    Scalar,
    SearchRange,
    SweepSpec,
    value_text,
    value_words,
)
from himl_cli.core.text import did_you_mean
from himl_cli.services.submission.request import SubmitRequest, refuse
from himl_cli.workspaces.engine_modules import engine_module

SWEEP_KINDS = ("sweep", "crossval", "different_seeds")
# The kinds that an option applies to. Early stopping does not apply to folds and seeds, because their mean would be
# useless without the stopped ones.
KINDS_OF_OPTION: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("crossval_arg", "crossval_count_arg"), ("crossval",)),
    "seed_arg": ("different_seeds",),
    **dict.fromkeys(("sampling", "max_trials", "early_stop"), ("sweep",)),
    **dict.fromkeys(("max_concurrent", "max_failures"), SWEEP_KINDS),
}
# Options that may be repeated for a resumed run, if they agree with its record
OF_RECORD = (*SWEEP_KINDS, *KINDS_OF_OPTION, "primary_metric", "goal")
ARGUMENTS = {
    **dict.fromkeys((Draw.uniform, Draw.loguniform), ("low", "high")),
    **dict.fromkeys((Draw.normal, Draw.lognormal), ("mu", "sigma")),
    Draw.randint: ("n",),
    **dict.fromkeys((Draw.quniform, Draw.qloguniform), ("low", "high", "q")),
    **dict.fromkeys((Draw.qnormal, Draw.qlognormal), ("mu", "sigma", "q")),
}
SAMPLINGS = ("grid", "random", "bayesian")
COMMON = ("evaluation_interval", "delay_evaluation")
POLICIES = {
    "bandit": ("slack_factor", "slack_amount", *COMMON),
    "median": COMMON,
    "truncation": ("truncation_percentage", *COMMON),
}
AZURE_WORDS = {"median_stopping": "median", "truncation_selection": "truncation"}
UNBOUNDED = (Draw.normal, Draw.lognormal, Draw.qnormal, Draw.qlognormal)

LARGEST_SEED = 2**31 - 1
LONGEST_LIST = 12
MOST_TRIALS_HERE = 100_000
MOST_TRIALS_ON_AZURE, MOST_AT_ONCE_ON_AZURE, MOST_STEPS_ON_AZURE = 1000, 100, 100_000

_NUMBER = r"-?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = lazy_pattern(rf"(?P<low>{_NUMBER})(?:\.\.+|:|-|\s+to\s+)(?P<high>{_NUMBER})(?::{_NUMBER})?")
"""A range as in Python, bash and Slurm: `1:5`, `1..5`, `1-5`."""
SEPARATOR = r"\s*[;|]\s*|\s+"
OTHER_LIST = lazy_pattern(rf"{_NUMBER}(?:(?:{SEPARATOR}){_NUMBER})+")
"""Numbers with other separators than commas."""
NEXT_NAME = lazy_pattern(r"(?<=[\s;])(?=-{0,2}[A-Za-z_][\w.-]*=)")
"""The beginning of another parameter in the same text."""
SPANS = ("range", "arange", "linspace", "logspace", "int", "float", "between", "discrete")
"""Names of ranges in other tools that himl does not have."""
DECIMAL = lazy_pattern(r"[+-]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)")


def single_sweep_option(request: SubmitRequest) -> SubmitRequest:
    """The request with at most one of the options for many runs, and without settings that do not apply to it. Raises
    BadUsage for typed options that do not apply."""
    typed = [name for name in SWEEP_KINDS if request.is_typed(name)]
    single = ["in_place"] if request.is_typed("in_place") else []
    single += ["record_in"] if request.is_typed("record_in") and request.is_mirrored else []
    chosen = typed or ([] if single else [name for name in SWEEP_KINDS if request.is_set(name)])
    shown = " and ".join(f"--{name}" for name in chosen) or "the sweep"
    if len(chosen) > 1:
        counts = {request.crossval_arg: request.crossval, request.seed_arg: request.different_seeds}
        lists = [
            f"{name}={','.join(map(str, range(min(count, LONGEST_LIST))))}" for name, count in counts.items() if count
        ]
        both = " ".join(f"--sweep {shlex.quote(each)}" for each in (*request.sweep, *lists))
        raise BadUsage(f"{shown} cannot be combined.", hint=f"To run every combination, list all values: {both}")
    request = request.without(*(name for name in SWEEP_KINDS if name not in chosen))
    for name, kinds in KINDS_OF_OPTION.items():
        if request.is_typed(name) and not {*kinds} & {*chosen} and request.ready_sweep is None:
            named = " or --".join(kinds)
            raise BadUsage(f"--{name} needs --{named}.", hint=f"Omit it, or add --{kinds[0]}.")
    if "sweep" not in chosen:
        request = request.without("early_stop")  # ignores the setting
    if not chosen and request.ready_sweep is None:
        return request
    conflicts = single or ["record_in"] * request.is_mirrored or ["in_place"] * (request.in_place and not typed)
    if conflicts:
        hint = "Add --record_in local" if conflicts == ["record_in"] else "Set only one of them."
        raise BadUsage(
            f"--{conflicts[0]} applies to a single run, but {shown} starts many.",
            hint="Omit one of them." if single else hint,
        )
    return request.without("in_place")


def primary_tags(request: SubmitRequest) -> dict[str, str]:
    """The tags of a single job with the primary metric and the goal that the user named. Raises BadUsage."""
    refuse("", *_metric_checks(request.primary_metric, request.goal))
    goal = {GOAL: request.goal} if _is_named(request, "goal") else {}
    return {PRIMARY_METRIC: request.primary_metric, **goal} if goal or _is_named(request, "primary_metric") else {}


def _is_named(request: SubmitRequest, name: str) -> bool:
    """Whether the user named the option, even with its default."""
    return request.is_set(name) or name in (request.typed or ())


def _metric_checks(metric: str, goal: str) -> list[tuple[bool, str, str]]:
    name = "Name the metric that the script logs: --primary_metric val/loss"
    return [
        (goal not in GOALS, f"--goal cannot be '{goal}'.", f"Use one of: {', '.join(GOALS)}."),
        (not metric.strip(), "--primary_metric is empty.", name),
    ]


def requested_sweep(request: SubmitRequest) -> SweepSpec | None:
    """The sweep of the options, or None for a single run. Its seed is None unless the options set one. Raises
    BadUsage."""
    on_azure = bool(request.on_azure)
    if request.ready_sweep is not None:
        check_sweep(request.ready_sweep, on_azure=on_azure)
        return request.ready_sweep
    if not any(map(request.is_set, SWEEP_KINDS)):
        return None
    early_stop = parse_early_stop(request.early_stop) if request.early_stop else None
    kind, sampling, seed = "sweep", "grid", None
    if request.crossval is not None:
        kind, trials = "crossval", request.crossval
        space = _numbered(on_azure, "--crossval", trials, 2, "--crossval_arg", request.crossval_arg)
    elif request.different_seeds is not None:
        kind, trials = "seeds", request.different_seeds
        space = _numbered(on_azure, "--different_seeds", trials, 1, "--seed_arg", request.seed_arg)
    else:
        space = parse_space(request.sweep)
        points = points_of(space.values())
        sampling = "grid" if points else "random"
        if request.sampling:
            sampling, seed = parse_sampling(request.sampling)
        if request.max_trials is None and sampling != "grid":
            raise BadUsage(f"--sampling {sampling} needs a number of trials.", hint="Add --max_trials N")
        trials = points or 1 if request.max_trials is None else request.max_trials
        if sampling == "grid" and points:
            trials = min(points, trials)
    most = request.max_concurrent
    spec = SweepSpec(
        space=space,
        sampling=sampling,
        max_trials=trials,
        max_concurrent=None if most is None else min(most, max(trials, 1)),
        primary_metric=request.primary_metric,
        goal=request.goal,
        early_stop=early_stop,
        seed=seed,
        kind=kind,
    )
    check_sweep(spec, on_azure=on_azure)
    return with_max_failures(spec, request)


def with_max_failures(spec: SweepSpec, request: SubmitRequest) -> SweepSpec:
    """*spec* with `--max_failures`. Raises BadUsage for an invalid number, and for an array in a queue, whose trials
    start without a process of himl."""
    most = request.max_failures
    if most is None:
        return spec
    has_controller = spec.sampling == "bayesian" or spec.early_stop is not None
    refuse(
        "--max_failures ",
        (most < 0, f"must be 0 or a positive integer, not {most}.", "With 0, failures do not stop the sweep."),
        (
            most > 0 and not has_controller and request.is_typed("max_failures") and _has_arrays(request),
            f"{most} does not apply to an array, which starts all its trials.",
            "Omit it.",
        ),
    )
    return replace(spec, max_failures=most)


def _has_arrays(request: SubmitRequest) -> bool:
    return request.queue is not None and engine_module(request.engine).largest_array() > 0


def _numbered(
    on_azure: bool, option: str, count: int, least: int, argument_option: str, argument: str
) -> dict[str, SearchRange]:
    # Checked first, so that no huge list of values is created
    _check_count(count, on_azure=on_azure, hint=f"Use {option} {{}} at most.")
    if count < least:
        raise BadUsage(f"{option} must be at least {least}, not {count}.")
    return {_argument_name(argument_option, argument): SearchRange(Draw.choice, tuple(range(count)))}


def _argument_name(option: str, argument: str) -> str:
    name = argument.strip().lstrip("-")
    if not HYPERPARAMETER_NAME.fullmatch(name):
        raise BadUsage(
            f"{option} '{argument}' is not a valid name of an argument.", hint="Use letters, digits, _, -, / and dots."
        )
    return name


def sweep_arguments(request: SubmitRequest) -> Sequence[str]:
    """The script's arguments, with the number of splits if `--crossval_count_arg` is set. Raises BadUsage."""
    if request.crossval is None or request.crossval_count_arg is None:
        return request.arguments
    name = _argument_name("--crossval_count_arg", request.crossval_count_arg)
    if name == _argument_name("--crossval_arg", request.crossval_arg):
        raise BadUsage(
            f"--crossval_arg and --crossval_count_arg are both '{name}'.",
            hint="Use different names for the index of the split and the number of splits.",
        )
    return (*request.arguments, f"--{name}", str(request.crossval))


def with_seed(spec: SweepSpec, *, on_azure: bool, sdk: str = "v2") -> SweepSpec:
    """*spec* with a random seed, if it has none and its sampling accepts one.

    On Azure ML, only random sampling with the newer API accepts a seed. Without a random seed, a second sweep would
    draw the same values as the first.
    """
    from random import SystemRandom  # which a job without a sweep does not need

    takes_one = spec.sampling in ("random", "bayesian") if not on_azure else spec.sampling == "random" and sdk != "v1"
    return replace(spec, seed=SystemRandom().randrange(1_000_000)) if takes_one and spec.seed is None else spec


# Parsers of options: values, calls, sampling, policies


def parse_call(text: str) -> tuple[str, Sequence[str], Mapping[str, str]] | None:
    """The name, positional values and named values of a call such as `uniform(0, 1)` or `bandit(slack_factor=0.1)`, or
    None if *text* is not a call. Values are separated by commas, except within quotes and brackets."""
    found = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*\((.*)\)\s*", text, re.DOTALL)
    if found is None:
        return None
    values: list[str] = []
    named: dict[str, str] = {}
    for part in _split_values(found[2]) if found[2].strip() else []:
        name, equals, value = part.partition("=")
        if equals and name.strip().isidentifier():
            named[name.strip()] = value.strip()
        else:
            values.append(part)
    return found[1], values, named


def _split_values(text: str) -> list[str]:
    """The parts of *text* between commas that are not within quotes or brackets. All parts if these are unclosed."""
    parts, depth, quote = [""], 0, ""
    for sign in text.replace("\n", " "):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'" and (depth or not parts[-1].strip() or parts[-1].endswith(sign)):
            quote = sign
        elif sign in "([{)]}":
            depth += 1 if sign in "([{" else -1
        if sign == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in (text.split(",") if quote or depth else parts)]


def _unquoted(text: str) -> str | None:
    """The text within quotes, or None if *text* has none."""
    found = re.fullmatch(r"""(["'])((?:(?!\1).|\1\1)*)\1""", text, re.DOTALL)
    return found and found[2].replace(found[1] * 2, found[1])


def _choice(text: str) -> Scalar:
    """One value of a list: a text if it is in quotes, else as `_scalar`, but a number keeps its spelling."""
    if (quoted := _unquoted(text)) is not None:
        return quoted
    value = _scalar(text)
    return value if isinstance(value, str) or value_text(value) == text else Spelled(text)


def typed_value(value: Scalar) -> str:
    """*value* as the user types it in a list."""
    text = value_text(value)
    is_plain = not isinstance(value, str) or (_split_values(text) == [text] and isinstance(_choice(text), str))
    return text if is_plain and _unquoted(text) is None else '"' + text.replace('"', '""') + '"'


def _scalars(named: Mapping[str, str], names: Sequence[str], where: str) -> dict[str, Scalar]:
    """The *named* values. Raises BadUsage, with *where* first, for a name that is not in *names*."""
    for name in named:
        if name not in names:
            known = f"Use one of: {', '.join(names)}." if names else "Omit the arguments."
            raise BadUsage(f"{where}: unknown '{name}'.", hint=did_you_mean(name, names) or known)
    return {name: _number(value) for name, value in named.items()}


def _scalar(text: str) -> Scalar:
    """*text* as an integer, a decimal number, or unchanged. `007`, `true` and `nan` stay text, which scripts interpret.
    So do numbers that exceed floating point."""
    if len(text) > 250:
        return text
    if re.fullmatch(r"[+-]?(?:0|[1-9]\d*)", text):
        return int(text)
    return float(text) if DECIMAL.fullmatch(text) and math.isfinite(float(text)) else text


def _number(text: str) -> Scalar:
    """An argument of a call, with or without quotes."""
    return _scalar(_unquoted(text) or text)


def _near(word: str, known: Sequence[str], shown: Sequence[str] = ()) -> str:
    near = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean '{near[0]}'?" if near else f"Use one of: {', '.join(shown or known)}."


def parse_space(texts: Sequence[str]) -> dict[str, SearchRange]:
    """All `--sweep` values by name. Raises BadUsage."""
    space: dict[str, SearchRange] = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        name = name.strip().lstrip("-")
        refuse(
            "--sweep",
            (
                not equals or not name,
                f" '{text}' has no {'name' if equals else 'values'}.",
                "Write --sweep NAME=SPEC, as in --sweep lr=0.1,0.01",
            ),
            (
                HYPERPARAMETER_NAME.fullmatch(name) is None,
                f" '{text}': '{name}' is not a valid name of a hyperparameter.",
                "Use letters, digits, _, -, / and dots.",
            ),
            (name in space, f": '{name}' occurs twice.", f"List all its values in one option: --sweep {name}=A,B,C"),
        )
        space[name] = search_range(name, spec)
    return space


def search_range(name: str, spec: str) -> SearchRange:
    """The range of *spec*, a list of values or a call. Raises BadUsage."""
    where, text = f"--sweep {name}={spec}", spec.strip()
    call = parse_call(spec)
    if call is None:
        parts = _split_values(text) if text else []
        bracketed = [part for part in parts if re.fullmatch(r"[(\[{].*[)\]}]", part)]
        bare = [part for part in parts if part not in bracketed and _unquoted(part) is None]
        usual = f"Write --sweep {name}=0.1,0.01 or --sweep '{name}=uniform(0,1)'"
        call_of = re.fullmatch(rf"(\w+)(?:\s+{_NUMBER})*", text)
        first = call_of[1] if call_of else ""
        numbers = ",".join(text.split()[1:])
        form = f"Write --sweep '{name}={first}({numbers})'" if numbers else ""
        form = form or f"Write --sweep '{name}={_form(Draw(first))}'" if first in ARGUMENTS else ""
        span = RANGE.fullmatch(text)
        several = [] if {'"', "'"} & {*text} else NEXT_NAME.split(f"{name}={text}")
        written = " ".join(f"--sweep {shlex.quote(each.lstrip('-').rstrip(' ,;'))}" for each in several)
        refuse(
            f"{where}: ",
            (bool(set("()") & set("".join(bare))), "this is neither a list nor a distribution.", usual),
            (bool(form), f"{first} needs arguments.", form),
            (
                len(several) > 1,
                "this text names several parameters.",
                f"Write {written}. For one value: --sweep '{name}=\"{text}\"'",
            ),
            (
                span is not None,
                "this is one value, not a range.",
                f"List the values, or write --sweep '{name}=uniform({span['low']},{span['high']})' --max_trials 10. "
                f"For the text '{text}': --sweep '{name}=\"{text}\"'"
                if span
                else "",
            ),
            (
                OTHER_LIST.fullmatch(text) is not None,
                "commas separate values.",
                f"Write --sweep {name}={','.join(re.split(SEPARATOR, text))}, "
                f"or for a single value --sweep '{name}=\"{text}\"'",
            ),
            (
                bracketed == parts and len(parts) == 1,
                "a list must not have brackets.",
                f"Write --sweep {name}={text[1:-1]}, or for a single value --sweep '{name}=\"{text}\"'",
            ),
        )
        return checked_range(SearchRange(Draw.choice, tuple(map(_choice, parts))), where)
    word, values, named = call
    if word in (SWITCH, WORDS):
        return _with_form(name, word, [_unquoted(value) or value for value in values], where)
    try:
        draw = Draw(word)
    except ValueError:
        hint = _near(word, [*(draw.value for draw in Draw), SWITCH, WORDS])
        if word in SPANS:
            low, high = (["0", *values] if len(values) == 1 else [*values, "low", "high"])[:2]
            hint = f"List the values, or write --sweep '{name}=uniform({low},{high})' --max_trials 10"
        raise BadUsage(f"{where}: there is no distribution '{word}'.", hint=hint) from None
    names = ARGUMENTS.get(draw, ())
    given = {**dict(zip(names, map(_number, values), strict=False)), **_scalars(named, names, where)}
    if draw is Draw.choice:
        return checked_range(SearchRange(draw, tuple(map(_choice, values))), where)
    if len(values) + len(named) != len(names) or len(given) != len(names):
        raise _wrong_count(draw, where)
    return checked_range(SearchRange(draw, tuple(given[each] for each in names)), where)


def _with_form(name: str, form: str, texts: Sequence[str], where: str) -> SearchRange:
    """The values of `switch(true,false)` or `words(64 32,128)`."""
    texts = texts or (["true", "false"] if form == SWITCH else [])
    for text in texts:
        is_switch = text.lower() in SWITCH_WORDS or text.startswith("-")
        if form == SWITCH and not is_switch:
            hint = f"Use true (--{name}), false (no argument), or an option such as --no-{name}."
            raise BadUsage(f"{where}: '{text}' is no value of a switch.", hint=hint)
        try:
            value_words(name, text, form)
        except ValueError:
            raise BadUsage(
                f"{where}: a quote in '{text}' is not closed.", hint="Close it, or write \\' for it."
            ) from None
    return checked_range(SearchRange(Draw.choice, tuple(texts), form), where)


def _wrong_count(draw: Draw, where: str) -> BadUsage:
    names = ARGUMENTS[draw]
    return BadUsage(
        f"{where}: {draw.value} takes {len(names)} argument{'s' * (len(names) > 1)}: {', '.join(names)}.",
        hint=f"Write {_form(draw)}",
    )


def _form(draw: Draw) -> str:
    return f"{draw.value}({','.join(ARGUMENTS[draw])})"


def points_of(space: Iterable[SearchRange]) -> int:
    """The number of combinations of values, or 0 if a hyperparameter has a distribution instead of a list."""
    return math.prod(len(found.values) if found.draw is Draw.choice else 0 for found in space)


def parse_sampling(text: str) -> tuple[str, int | None]:
    """The algorithm and the seed, if any, of a text such as `random(seed=7)`. Raises BadUsage."""
    where = f"--sampling {text}"
    word, values, named = parse_call(text) or (text.strip(), (), {})
    if word not in SAMPLINGS:
        raise BadUsage(f"{where}: there is no sampling '{word}'.", hint=_near(word, SAMPLINGS))
    seed = _scalars(named, () if word == "grid" else ("seed",), where).get("seed")
    if values:
        raise BadUsage(f"{where}: '{values[0]}' has no name.", hint=f"Write --sampling '{word}(seed={values[0]})'")
    if seed is None or (isinstance(seed, int) and 0 <= seed <= LARGEST_SEED):
        return word, seed
    raise BadUsage(f"{where}: seed must be an integer from 0 to {LARGEST_SEED}.")


def parse_early_stop(text: str) -> EarlyStop:
    """The policy of `--early_stop`. Raises BadUsage."""
    where = f"--early_stop {text}"
    word, values, named = parse_call(text) or (text.strip(), (), {})
    policy = AZURE_WORDS.get(word, word)
    if policy not in POLICIES:
        hint = _near(word, (*POLICIES, *AZURE_WORDS), tuple(POLICIES))
        raise BadUsage(f"{where}: there is no policy '{word}'.", hint=hint)
    numbers: dict[str, float] = {}
    for name, value in _scalars(named, POLICIES[policy], where).items():
        is_slack = name.startswith("slack")
        if isinstance(value, str) or not (is_slack or value == int(value)):
            wanted, shown = ("a number", f"'{value}'") if isinstance(value, str) else ("an integer", f"{value:g}")
            raise BadUsage(f"{where}: {name} must be {wanted}, not {shown}.")
        numbers[name] = value if is_slack else int(value)
    if values:
        form = f"{policy}({POLICIES[policy][0]}={values[0]})"
        raise BadUsage(f"{where}: '{values[0]}' has no name.", hint=f"Write --early_stop '{form}'")
    # `numbers` has integers for all arguments but the slacks
    return checked_stop(EarlyStop(policy, **numbers), where)  # type: ignore[arg-type]


# Checks of ranges and sweeps, including the limits of Azure ML


def checked_range(found: SearchRange, where: str) -> SearchRange:
    """*found*, after a check that himl can draw from it. Raises BadUsage, with *where* first."""
    values = found.values
    if found.draw is Draw.choice:
        counts = Counter(map(value_text, values))
        twice = next((f"the value {text} occurs twice." for text, count in counts.items() if count > 1), "")
        refuse(
            f"{where}: ",
            (not values, "the list is empty.", "List at least one value: --sweep lr=0.1,0.01"),
            ("" in values, "a value is empty.", "Remove the extra comma."),
            (bool(twice), twice, "To run the same values several times: --different_seeds N"),
        )
        return found
    names, form = ARGUMENTS[found.draw], f"Write {_form(found.draw)}"
    if len(values) != len(names):
        raise _wrong_count(found.draw, where)
    number: dict[str, float] = {}
    for name, value in zip(names, values, strict=True):
        if isinstance(value, (str, bool)) or not math.isfinite(value):
            raise BadUsage(f"{where}: {name} must be a number, not '{value}'.", hint=form)
        number[name] = float(value)
    n, word = number.get("n", 1), found.draw.value
    exponents = list(number.values())[:2]
    too_large = "log" in word and max(map(abs, exponents)) > 700.0  # a larger exponent overflows
    refuse(
        f"{where}: ",
        (number.get("low", 0) >= number.get("high", 1), "low must be less than high.", form),
        (number.get("sigma", 1) <= 0, "sigma must be greater than 0.", form),
        (number.get("q", 1) <= 0, "q, the step, must be greater than 0.", form),
        (n < 1 or n != int(n), "n must be a positive integer.", "For values from 0 to 9, write randint(10)."),
        (
            too_large,
            "the arguments are exponents of e, and these are too large.",
            f"{word}(-9,-2) gives 0.0001 to 0.1.",
        ),
    )
    return SearchRange(Draw.randint, (int(values[0]),)) if found.draw is Draw.randint else found


def checked_stop(stop: EarlyStop, where: str = "--early_stop") -> EarlyStop:
    """*stop*, after a check of its arguments. Raises BadUsage, with *where* first."""
    slacks = [slack for slack in (stop.slack_factor, stop.slack_amount) if slack is not None]
    bandit = "bandit(slack_factor=0.1) stops trials that are more than 10 % worse than the best."
    percentage = stop.truncation_percentage or 0
    refuse(
        f"{where}: ",
        (stop.policy not in POLICIES, f"there is no policy '{stop.policy}'.", f"Use one of: {', '.join(POLICIES)}."),
        (
            stop.evaluation_interval < 1,
            "evaluation_interval must be at least 1.",
            "With 1, himl evaluates each value of the primary metric.",
        ),
        (stop.delay_evaluation < 0, "delay_evaluation must not be negative.", ""),
        (
            stop.policy == "bandit" and len(slacks) != 1,
            f"bandit needs slack_factor or slack_amount, {'not both' if slacks else 'but has neither'}.",
            bandit,
        ),
        (any(slack <= 0 for slack in slacks), "the slack must be greater than 0.", bandit),
        (
            stop.policy == "truncation" and not 1 <= percentage <= 99,
            "truncation_percentage must be from 1 to 99.",
            "truncation(truncation_percentage=20) stops the worst fifth.",
        ),
    )
    return stop


def _check_count(trials: int, *, on_azure: bool, hint: str = "Use --max_trials {}.") -> None:
    most = MOST_TRIALS_ON_AZURE if on_azure else MOST_TRIALS_HERE
    limit = f"on Azure ML is {most:,}." if on_azure else f"on this machine is {most:,}."
    refuse("", (trials > most, f"The sweep has {trials:,} trials. The limit {limit}", hint.format(most)))


def check_sweep(spec: SweepSpec, *, on_azure: bool) -> None:
    """Raise BadUsage if *spec* cannot run on this machine or, with *on_azure*, on Azure ML."""
    refuse("", (not spec.space, "The search space is empty.", "Add at least one --sweep NAME=SPEC"))
    _check_count(spec.max_trials, on_azure=on_azure)
    for name, found in spec.space.items():
        checked_range(found, f"--sweep {name}")
        # himl shows, logs and stores hyperparameters, so a value that it masks elsewhere cannot be one
        values = found.values if found.draw is Draw.choice and spec.kind not in REPEATED else ()
        if any(MASK in mask_arguments([f"--{name}={value_text(value)}"])[0] for value in values):
            raise BadUsage(
                f"The hyperparameter '{name}' looks like a secret, but himl shows and stores hyperparameters.",
                hint=f"Pass a secret with --env_var. Otherwise, use another name: --sweep x=A,B -- --{name} "
                f"'${{{{search_space.x}}}}'",
            )
    if spec.early_stop is not None:
        checked_stop(spec.early_stop)
    drawn = {name: found.draw for name, found in spec.space.items() if found.draw is not Draw.choice}
    first, draw = next(iter(drawn.items()), ("", Draw.choice))
    is_bayesian, at_once = spec.sampling == "bayesian", spec.max_concurrent
    refuse(
        "",
        (
            spec.sampling not in SAMPLINGS,
            f"--sampling cannot be '{spec.sampling}'.",
            f"Use one of: {', '.join(SAMPLINGS)}.",
        ),
        *_metric_checks(spec.primary_metric, spec.goal),
        (spec.max_trials < 1, f"--max_trials must be at least 1, not {spec.max_trials}.", ""),
        (at_once is not None and at_once < 1, f"--max_concurrent must be at least 1, not {at_once}.", ""),
        (
            spec.sampling == "grid" and bool(drawn),
            f"--sampling grid needs lists of values, but '{first}' is drawn from {draw.value}.",
            "List its values, or use --sampling random",
        ),
        (
            is_bayesian and spec.early_stop is not None,
            "--sampling bayesian and --early_stop cannot be combined, because it learns from complete trials.",
            "Omit one of them.",
        ),
        (
            on_azure and min(at_once or 0, spec.max_trials) > MOST_AT_ONCE_ON_AZURE,
            f"--max_concurrent {at_once}: the limit on Azure ML is {MOST_AT_ONCE_ON_AZURE}.",
            "Without --max_concurrent, all trials start at once if the cluster has enough nodes.",
        ),
    )
    known = [draw for draw in Draw if draw not in UNBOUNDED]
    known = [Draw.choice, Draw.uniform, Draw.quniform] if on_azure else known
    for name, draw in drawn.items():
        if is_bayesian and draw not in known:
            where = " on Azure ML" if on_azure and draw not in UNBOUNDED else ""
            raise BadUsage(
                f"--sampling bayesian{where} cannot draw '{name}' from {draw.value}.",
                hint=f"Use {', '.join(draw.value for draw in known)}, or --sampling random",
            )
    for name, found in spec.space.items() if on_azure else ():
        _check_for_azure(name, found, is_bayesian)


def _check_for_azure(name: str, found: SearchRange, is_bayesian: bool) -> None:
    """Check a range by the rules of the azureml client and by the documentation of Azure ML."""
    values, word = found.values, found.draw.value
    is_quniform = is_bayesian and found.draw is Draw.quniform
    is_whole = all(isinstance(value, int) for value in values)
    steps = (float(values[1]) - float(values[0])) / float(values[2]) if is_quniform else 0
    # The client sends booleans as texts, and all values if one is spelled unusually
    texts = {isinstance(value, (str, bool)) for value in values}
    is_spelled = any(isinstance(value, Spelled) for value in values)
    refuse(
        f"--sweep {name}: ",
        (
            word.startswith("q") and not float(values[-1]).is_integer(),
            f"on Azure ML, q of {word} must be an integer, not {values[-1]}.",
            f"List the values, --sweep {name}=A,B,C, or draw integers and divide them in the script.",
        ),
        (
            is_quniform and not is_whole,
            "with --sampling bayesian on Azure ML, quniform needs integers.",
            "Use uniform(low,high).",
        ),
        (
            steps > MOST_STEPS_ON_AZURE,
            f"with --sampling bayesian on Azure ML, quniform has at most {MOST_STEPS_ON_AZURE:,} steps.",
            "Use a larger q, or uniform(low,high).",
        ),
        (
            is_bayesian and found.draw is Draw.choice and len(texts) > 1 and not is_spelled,
            "with --sampling bayesian on Azure ML, a list must not mix numbers and words.",
            "Use --sampling random, or only numbers or words.",
        ),
    )


# Descriptions of sweeps


def sweep_text(spec: SweepSpec) -> str:
    """The sweep in the syntax of the options: `lr=0.1,0.01 depth=randint(5), random(seed=7), 20 trials, minimize
    val/loss`. For folds and seeds, which search nothing: `random_seed=0,1,2, 3 runs, mean of val/loss`."""
    ranges: list[str] = []
    for name, found in spec.space.items():
        values = [*map(typed_value, found.values)]
        listed = ",".join(values[:LONGEST_LIST]) + (f",… ({len(values)} values)" if len(values) > LONGEST_LIST else "")
        listed = f"{found.form}({listed})" if found.form else listed
        drawn = f"{found.draw.value}({','.join(values)})"
        ranges.append(f"{name}={listed if found.draw is Draw.choice else drawn}")
    parts, plural = [" ".join(ranges)], "s" * (spec.max_trials != 1)
    if spec.kind in REPEATED:
        return ", ".join([*parts, f"{spec.max_trials} run{plural}", f"mean of {spec.primary_metric}"])
    parts.append(spec.sampling if spec.seed is None else f"{spec.sampling}(seed={spec.seed})")
    parts += [f"{spec.max_trials} trial{plural}", f"{spec.goal} {spec.primary_metric}"]
    if stop := spec.early_stop:
        given = {name: getattr(stop, name) for name in POLICIES[stop.policy]}
        unusual = {name: value for name, value in given.items() if value != getattr(EarlyStop, name)}
        inside = ",".join(f"{name}={value:g}" for name, value in unusual.items())
        parts.append(f"{stop.policy}({inside})" if inside else stop.policy)
    return ", ".join(parts)


def without_seed(text: str) -> str:
    """The result of `sweep_text` without the seed."""
    return re.sub(r"\b(random|bayesian)\(seed=\d+\)", r"\1", text)


def goal_remarks(spec: SweepSpec, request: SubmitRequest) -> list[str]:
    """A warning if *request* names no goal, and the metric's name suggests the other one."""
    from himl_cli.core.logged import goal_of  # imported late, since other jobs do not need it

    if spec.kind in REPEATED or request.ready_sweep is not None or _is_named(request, "goal"):
        return []
    with suppress(BadUsage):  # the name suggests none
        if goal_of(spec.primary_metric, None) != spec.goal:
            text = f"warning: the sweep minimizes '{spec.primary_metric}'. By its name, the highest value is best."
            return [f"{text} For that, add --goal maximize."]
    return []


def sweep_remarks(spec: SweepSpec, arguments: Sequence[str] = ()) -> list[str]:
    """Remarks, one sentence each, on the runs, on the values of `loguniform`, and on arguments that the script receives
    twice."""
    title = {"crossval": "Cross-validation", "seeds": "Different seeds"}.get(spec.kind, "Sweep")
    remarks = [f"{title}: {sweep_text(spec)}."]
    points = points_of(spec.space.values())
    if spec.sampling == "grid" and points > spec.max_trials:
        remarks.append(
            f"himl skips {points - spec.max_trials} of {points} combinations (--max_trials {spec.max_trials})."
        )
    if spec.sampling == "random" and 0 < points < spec.max_trials:
        remarks.append(
            f"warning: there are {points} combinations, so some of the {spec.max_trials} trials are identical. To run "
            "each once, use --sampling grid."
        )
    for name, found in spec.space.items():
        if found.draw in (Draw.loguniform, Draw.qloguniform):
            low, high = (float(value) for value in found.values[:2])
            word, step = found.draw.value, "".join(f",{value_text(value)}" for value in found.values[2:])
            text = f"{name}: {math.exp(low):.3g} to {math.exp(high):.3g}, because the arguments of {word} are "
            text += "exponents of e, as in Azure ML."
            if low > 0 and high <= 1:  # the user probably meant values, not exponents
                meant = f"'{name}={word}({math.log(low):.4g},{math.log(high):.4g}{step})'"
                text = f"warning: {text} For values from {low:g} to {high:g}: --sweep {meant}"
            remarks.append(text)
    named = {found[2] for argument in arguments for found in PLACEHOLDER.finditer(argument) if found[1] == SEARCH_SPACE}
    given = {argument.partition("=")[0] for argument in arguments}
    remarks += [
        f"warning: --{name} is already among the script's arguments. himl adds each trial's value after them."
        for name in spec.space
        if name not in named and f"--{name}" in given
    ]
    return remarks


def copies_remarks(spec: SweepSpec, size: int, request: SubmitRequest) -> list[str]:
    """A warning if the local copies of a snapshot of *size* bytes, one for each trial while it runs, exceed 1 GB."""
    is_one = request.queue is None and not request.gpus
    at_once = min(spec.max_trials, spec.max_concurrent or (1 if is_one else spec.max_trials))
    total = size * (at_once + 1)  # one more copy is the source for later trials
    text = (
        f"warning: each trial has its own copy of the snapshot while it runs: up to {at_once} x {size / 1e6:,.1f} MB, "
        f"about {total / 1e9:,.1f} GB of disk. Exclude files that the script does not need in an .amlignore file."
    )
    return [text] if total > 1e9 else []
