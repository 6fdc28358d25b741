"""Many runs of one job: the options that ask for them, what they mean, and what can be run where."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from random import SystemRandom

from himl_cli.core.errors import BadUsage
from himl_cli.core.redaction import MASK, mask_arguments
from himl_cli.core.sweeps import (
    GOALS,
    HYPERPARAMETER_NAME,
    PLACEHOLDER,
    REPEATED,
    SEARCH_SPACE,
    Draw,
    EarlyStop,
    Scalar,
    SearchRange,
    SweepSpec,
    value_text,
)
from himl_cli.core.text import did_you_mean
from himl_cli.services.submission.request import SubmitRequest, SweepRequest

CALL = re.compile(r"\s*(?P<word>[A-Za-z_]\w*)\s*\((?P<inside>.*)\)\s*", re.DOTALL)
INTEGER = re.compile(r"[+-]?(?:0|[1-9]\d*)")
DECIMAL = re.compile(r"[+-]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)")

LONGEST_NUMBER = 250


@dataclass(frozen=True)
class Call:
    """A word with what stands in parentheses behind it: plain values, and those with names."""

    word: str
    values: Sequence[str]
    named: Mapping[str, str]


def parse_call(text: str) -> Call | None:
    """*text* as a call; None where it is none. Values are split at commas, except within double quotes."""
    found = CALL.fullmatch(text)
    if found is None:
        return None
    values: list[str] = []
    named: dict[str, str] = {}
    for part in split_values(found["inside"]) if found["inside"].strip() else []:
        name, equals, value = part.partition("=")
        if equals and name.strip().isidentifier():
            named[name.strip()] = value.strip()
        else:
            values.append(part)
    return Call(found["word"], values, named)


def split_values(text: str) -> list[str]:
    """The parts between commas, without the spaces around them; in double quotes a comma is part of a value."""
    try:
        (parts,) = csv.reader([text.replace("\n", " ")], skipinitialspace=True, strict=True)
    except csv.Error:
        parts = text.split(",")
    return [part.strip() for part in parts]


def scalar(text: str) -> Scalar:
    """A whole number, a decimal number, or the word as it is: `007`, `true` and `nan` are words, which scripts read as
    they like.

    So is what has more digits than floating point can say.
    """
    if len(text) > LONGEST_NUMBER:
        return text
    if INTEGER.fullmatch(text):
        return int(text)
    if DECIMAL.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


def check_names(given: Mapping[str, str], known: Sequence[str], where: str) -> None:
    """Raises BadUsage, which begins with *where*, for a name that is not among the *known* ones."""
    for name in given:
        if name not in known:
            there = f"There are: {', '.join(known)}." if known else "It takes none."
            raise BadUsage(f"{where}: unknown '{name}'.", hint=did_you_mean(name, known) or there)


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


COMMON = ("evaluation_interval", "delay_evaluation")
POLICIES = {
    "bandit": ("slack_factor", "slack_amount", *COMMON),
    "median": COMMON,
    "truncation": ("truncation_percentage", *COMMON),
}
AZURE_WORDS = {"median_stopping": "median", "truncation_selection": "truncation"}
SAMPLINGS = ("grid", "random", "bayesian")
LARGEST_SEED = 2**31 - 1


def parse_early_stop(text: str) -> EarlyStop:
    """What `--early_stop` says. Raises BadUsage."""
    where = f"--early_stop {text}"
    call = parse_call(text) or Call(text.strip(), (), {})
    policy = AZURE_WORDS.get(call.word, call.word)
    if policy not in POLICIES:
        raise BadUsage(
            f"{where}: there is no policy '{call.word}'.",
            hint=_near(call.word, (*POLICIES, *AZURE_WORDS), tuple(POLICIES)),
        )
    check_names(call.named, POLICIES[policy], where)
    if call.values:
        raise BadUsage(
            f"{where}: '{call.values[0]}' has no name.",
            hint=f"Write --early_stop '{policy}({POLICIES[policy][0]}={call.values[0]})'",
        )
    numbers = {name: _number(where, name, value) for name, value in call.named.items()}
    return checked_stop(
        EarlyStop(
            policy,
            evaluation_interval=_whole(where, "evaluation_interval", numbers, 1),
            delay_evaluation=_whole(where, "delay_evaluation", numbers, 0),
            slack_factor=numbers.get("slack_factor"),
            slack_amount=numbers.get("slack_amount"),
            truncation_percentage=_whole(where, "truncation_percentage", numbers, 0)
            if "truncation_percentage" in numbers
            else None,
        ),
        where,
    )


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
    if stop.policy == "bandit" and len(slacks) != 1:
        raise BadUsage(
            f"{where}: bandit takes slack_factor or slack_amount, {'not both' if slacks else 'and neither is given'}.",
            hint="bandit(slack_factor=0.1) stops what is more than 10 % worse than the best trial.",
        )
    if any(slack <= 0 for slack in slacks):
        raise BadUsage(
            f"{where}: the slack is to be greater than 0.",
            hint="bandit(slack_factor=0.1) stops what is more than 10 % worse than the best trial.",
        )
    if stop.policy == "truncation" and not 1 <= (stop.truncation_percentage or 0) <= 99:
        raise BadUsage(
            f"{where}: truncation_percentage is to be 1 to 99.",
            hint="truncation(truncation_percentage=20) stops the worst fifth.",
        )
    return stop


def parse_sampling(text: str) -> tuple[str, int | None]:
    """The word, and the seed where one is given: `random(seed=7)`. Raises BadUsage."""
    where = f"--sampling {text}"
    call = parse_call(text) or Call(text.strip(), (), {})
    if call.word not in SAMPLINGS:
        raise BadUsage(f"{where}: there is no sampling '{call.word}'.", hint=_near(call.word, SAMPLINGS, SAMPLINGS))
    check_names(call.named, () if call.word == "grid" else ("seed",), where)
    if call.values:
        raise BadUsage(
            f"{where}: '{call.values[0]}' has no name.", hint=f"Write --sampling '{call.word}(seed={call.values[0]})'"
        )
    if "seed" not in call.named:
        return call.word, None
    seed = scalar(call.named["seed"])
    if not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise BadUsage(f"{where}: seed is to be a whole number from 0 to {LARGEST_SEED}.")
    return call.word, seed


def _near(word: str, known: tuple[str, ...], shown: tuple[str, ...]) -> str:
    near = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(shown)}."


def _number(where: str, name: str, text: str) -> float:
    value = scalar(text)
    if isinstance(value, str):
        raise BadUsage(f"{where}: {name} is to be a number, not '{text}'.")
    return value


def _whole(where: str, name: str, numbers: Mapping[str, float], default: int) -> int:
    value = numbers.get(name, default)
    if value != int(value):
        raise BadUsage(f"{where}: {name} is to be a whole number, not {value:g}.")
    return int(value)


MOST_TRIALS_ON_AZURE = 1000
MOST_AT_ONCE_ON_AZURE = 100
MOST_STEPS_ON_AZURE = 100_000
"""Of a Bayesian quniform."""
MOST_TRIALS_HERE = 100_000
BAYESIAN_ON_AZURE = (Draw.choice, Draw.uniform, Draw.quniform)
UNBOUNDED = (Draw.normal, Draw.lognormal, Draw.qnormal, Draw.qlognormal)


def check_sweep(spec: SweepSpec, *, on_cluster: bool) -> None:
    """Raises BadUsage where *spec* cannot be run: here, or with *on_cluster* on Azure ML."""
    if not spec.space:
        raise BadUsage("The search space is empty.", hint="Give at least one --sweep NAME=SPEC")
    check_count(spec.max_trials, on_cluster=on_cluster)
    for name, found in spec.space.items():
        checked_range(found, f"--sweep {name}")
        if spec.kind not in REPEATED:
            _check_no_secret(name, found)
    if spec.sampling not in SAMPLINGS:
        raise BadUsage(
            f"--sampling {spec.sampling}: there is no such sampling.", hint=f"There are: {', '.join(SAMPLINGS)}."
        )
    if spec.goal not in GOALS:
        raise BadUsage(f"--goal cannot be '{spec.goal}'.", hint=f"It is one of: {', '.join(GOALS)}.")
    if not spec.primary_metric.strip():
        raise BadUsage(
            "--primary_metric is empty.", hint="Name the metric that the script logs: --primary_metric val/loss"
        )
    _check_trials(spec)
    if spec.early_stop is not None:
        checked_stop(spec.early_stop)
    _check_sampling(spec, on_cluster=on_cluster)
    if on_cluster:
        _check_for_azure(spec)


def _check_no_secret(name: str, found: SearchRange) -> None:
    """Values are told, logged and kept: what is masked elsewhere cannot be one."""
    shown = (
        mask_arguments([f"--{name}={value_text(value)}"])[0] for value in found.values if found.draw is Draw.choice
    )
    if any(MASK in text for text in shown):
        raise BadUsage(
            f"The hyperparameter '{name}' looks like a secret, and the values of hyperparameters are shown and kept.",
            hint=f"Give a secret by --env_var. If it is none, use another name: --sweep x=A,B -- --{name} "
            f"'${{{{search_space.x}}}}'",
        )


def check_count(trials: int, *, on_cluster: bool, hint: str = "Give --max_trials {}.") -> None:
    """Raises BadUsage, whose *hint* names the number, for more trials than can be run."""
    most, who = (
        (MOST_TRIALS_ON_AZURE, "Azure ML takes {:,}.") if on_cluster else (MOST_TRIALS_HERE, "here {:,} are the most.")
    )
    if trials > most:
        raise BadUsage(f"These are {trials:,} trials; {who.format(most)}", hint=hint.format(most))


def points_of(space: Iterable[SearchRange]) -> int:
    """How many combinations there are of values that are all listed."""
    count = 1
    for found in space:
        count *= len(found.values)
    return count


def _check_trials(spec: SweepSpec) -> None:
    if spec.max_trials < 1:
        raise BadUsage(f"--max_trials {spec.max_trials}: at least 1 is needed.")
    if spec.max_concurrent is not None and spec.max_concurrent < 1:
        raise BadUsage(f"--max_concurrent {spec.max_concurrent}: at least 1 is needed.")


def _check_sampling(spec: SweepSpec, *, on_cluster: bool) -> None:
    drawn = {name: found.draw for name, found in spec.space.items() if found.draw is not Draw.choice}
    if spec.sampling == "grid" and drawn:
        name, draw = next(iter(drawn.items()))
        raise BadUsage(
            f"--sampling grid: '{name}' is drawn from {draw.value}, which has no grid.",
            hint="Give a list of values, or --sampling random",
        )
    if spec.sampling != "bayesian":
        return
    if spec.early_stop is not None:
        raise BadUsage(
            "--sampling bayesian and --early_stop exclude each other: it learns from trials that ran to their end.",
            hint="Leave one of them out.",
        )
    refused = {
        name: draw
        for name, draw in drawn.items()
        if draw in UNBOUNDED or (on_cluster and draw not in BAYESIAN_ON_AZURE)
    }
    for name, draw in refused.items():
        known = ", ".join(
            each.value
            for each in (BAYESIAN_ON_AZURE if on_cluster else [each for each in Draw if each not in UNBOUNDED])
        )
        there = " on Azure ML" if on_cluster and draw not in UNBOUNDED else ""
        raise BadUsage(
            f"--sampling bayesian{there} cannot draw '{name}' from {draw.value}.",
            hint=f"It takes {known}; or use --sampling random",
        )


def _check_for_azure(spec: SweepSpec) -> None:
    if spec.max_concurrent is not None and min(spec.max_concurrent, spec.max_trials) > MOST_AT_ONCE_ON_AZURE:
        raise BadUsage(
            f"--max_concurrent {spec.max_concurrent}: Azure ML takes {MOST_AT_ONCE_ON_AZURE} at most.",
            hint="Without --max_concurrent all trials start at once, as far as the cluster has nodes.",
        )
    for name, found in spec.space.items():
        _check_step_for_azure(name, found)
        if spec.sampling == "bayesian":
            _check_bayesian_for_azure(name, found)


def _check_step_for_azure(name: str, found: SearchRange) -> None:
    """Its documents and azureml have whole numbers only for q."""
    if found.draw.value.startswith("q") and float(found.values[2]) != int(float(found.values[2])):
        raise BadUsage(
            f"--sweep {name}: Azure ML takes a whole number for q of {found.draw.value}, not {found.values[2]}.",
            hint=f"List the values, --sweep {name}=A,B,C, or draw whole numbers and divide them in the script.",
        )


def _check_bayesian_for_azure(name: str, found: SearchRange) -> None:
    """What azureml's own client checks of a Bayesian search space."""
    if found.draw is Draw.quniform:
        if not all(isinstance(value, int) for value in found.values):
            raise BadUsage(
                f"--sweep {name}: with --sampling bayesian Azure ML takes whole numbers only for quniform.",
                hint="Use uniform(low,high).",
            )
        low, high, step = (int(value) for value in found.values)
        if (high - low) / step > MOST_STEPS_ON_AZURE:
            raise BadUsage(
                f"--sweep {name}: with --sampling bayesian quniform has {MOST_STEPS_ON_AZURE:,} steps at most on "
                "Azure ML.",
                hint="Give a larger q, or use uniform(low,high).",
            )
    texts = [isinstance(value, (str, bool)) for value in found.values]  # truth values are sent as texts
    if found.draw is Draw.choice and any(texts) and not all(texts):
        raise BadUsage(
            f"--sweep {name}: with --sampling bayesian Azure ML takes a list of numbers or a list of words, not both "
            "in one.",
            hint="Use --sampling random, or write all values in one way.",
        )


def sweep_of(asked: SweepRequest, *, on_cluster: bool) -> SweepSpec:
    """The sweep that is meant, one of the three kinds being set. Raises BadUsage for what cannot be run where it would
    run."""
    early_stop = parse_early_stop(asked.early_stop) if asked.early_stop else None
    kind, space, sampling, seed, trials = _trials(asked, on_cluster=on_cluster)
    spec = SweepSpec(
        space=space,
        sampling=sampling,
        max_trials=trials,
        max_concurrent=asked.max_concurrent
        if asked.max_concurrent is None
        else min(asked.max_concurrent, max(trials, 1)),
        primary_metric=asked.primary_metric,
        goal=asked.goal,
        early_stop=early_stop,
        seed=seed,
        kind=kind,
    )
    check_sweep(spec, on_cluster=on_cluster)
    return spec


def _trials(asked: SweepRequest, *, on_cluster: bool) -> tuple[str, dict[str, SearchRange], str, int | None, int]:
    """The kind, the space, the sampling with its seed, and the number of trials."""
    if asked.crossval is not None:
        check_count(
            asked.crossval, on_cluster=on_cluster, hint="Give --crossval {} at most."
        )  # before that many values are made
        return (
            "crossval",
            _numbered("--crossval", asked.crossval, 2, "--crossval_arg", asked.crossval_arg),
            "grid",
            None,
            asked.crossval,
        )
    if asked.different_seeds is not None:
        check_count(asked.different_seeds, on_cluster=on_cluster, hint="Give --different_seeds {} at most.")
        return (
            "seeds",
            _numbered("--different_seeds", asked.different_seeds, 1, "--seed_arg", asked.seed_arg),
            "grid",
            None,
            asked.different_seeds,
        )
    space = parse_space(asked.sweep)
    is_listed = all(found.draw is Draw.choice for found in space.values())
    sampling, seed = parse_sampling(asked.sampling) if asked.sampling else ("grid" if is_listed else "random", None)
    if sampling == "grid" and is_listed:
        points = points_of(space.values())
        return "sweep", space, sampling, seed, points if asked.max_trials is None else min(points, asked.max_trials)
    if asked.max_trials is None and sampling != "grid":
        raise BadUsage(f"A {sampling} search needs the number of its trials.", hint="Add --max_trials N")
    return "sweep", space, sampling, seed, 1 if asked.max_trials is None else asked.max_trials


def _numbered(option: str, count: int, least: int, argument_option: str, argument: str) -> dict[str, SearchRange]:
    """The numbers 0 to count - 1 as values of one argument."""
    if count < least:
        raise BadUsage(f"{option} {count}: at least {least} {'is' if least == 1 else 'are'} needed.")
    return {argument_name(argument_option, argument): SearchRange(Draw.choice, tuple(range(count)))}


def argument_name(option: str, argument: str) -> str:
    """*argument* without leading dashes. Raises BadUsage, naming *option*, for what can be no argument's name."""
    name = argument.strip().lstrip("-")
    if not HYPERPARAMETER_NAME.fullmatch(name):
        raise BadUsage(
            f"{option} '{argument}' cannot be an argument's name.", hint="Letters, digits, _, - and dots make one."
        )
    return name


MOST = 1_000_000
_TOLD = re.compile(r"\b(random|bayesian)\(seed=\d+\)")


def seeded(spec: SweepSpec, *, on_cluster: bool, sdk: str = "v2") -> SweepSpec:
    """*spec*, with a seed drawn where its values are drawn, none is given and whoever draws takes one: on Azure ML
    random sampling by its newer API."""
    takes_one = spec.sampling in ("random", "bayesian") if not on_cluster else spec.sampling == "random" and sdk != "v1"
    return replace(spec, seed=SystemRandom().randrange(MOST)) if takes_one and spec.seed is None else spec


def without_seed(text: str) -> str:
    """What `sweep_text` says, without the seed."""
    return _TOLD.sub(r"\1", text)


LONGEST_LIST = 12


def sweep_text(spec: SweepSpec) -> str:
    """What is searched and how, as it could be typed: `lr=0.1,0.01 depth=randint(5), random(seed=7), 20 trials,
    minimize val/loss`.

    Of folds and seeds, nothing is searched: `random_seed=0,1,2, 3 runs, mean of val/loss`.
    """
    parts = [" ".join(f"{name}={range_text(found)}" for name, found in spec.space.items())]
    if spec.kind in REPEATED:
        return ", ".join(
            (*parts, f"{spec.max_trials} run{'s' * (spec.max_trials != 1)}, mean of {spec.primary_metric}")
        )
    parts.append(spec.sampling if spec.seed is None else f"{spec.sampling}(seed={spec.seed})")
    parts.append(f"{spec.max_trials} trial{'s' * (spec.max_trials != 1)}")
    parts.append(f"{spec.goal} {spec.primary_metric}")
    parts += [stop_text(spec.early_stop)] if spec.early_stop else []
    return ", ".join(parts)


def range_text(found: SearchRange) -> str:
    """A list with commas between, or the distribution with its arguments."""
    values = [f'"{text}"' if "," in text else text for text in map(value_text, found.values)]
    if found.draw is Draw.choice:
        left_out = len(values) - LONGEST_LIST
        return ",".join(values) if left_out <= 0 else f"{','.join(values[:LONGEST_LIST])},… ({len(values)} values)"
    return f"{found.draw.value}({','.join(values)})"


def stop_text(stop: EarlyStop) -> str:
    """The policy with what is not as usual."""
    given = {
        "slack_factor": stop.slack_factor,
        "slack_amount": stop.slack_amount,
        "truncation_percentage": stop.truncation_percentage,
        "evaluation_interval": stop.evaluation_interval if stop.evaluation_interval != 1 else None,
        "delay_evaluation": stop.delay_evaluation or None,
    }
    inside = ",".join(f"{name}={value:g}" for name, value in given.items() if value is not None)
    return f"{stop.policy}({inside})" if inside else stop.policy


LARGE_COPIES = 1_000_000_000
"""Bytes of disk that a sweep may take without a word."""


def sweep_remarks(spec: SweepSpec, arguments: Sequence[str]) -> list[str]:
    """A sentence each: what will be run, which values `loguniform` gives, and which arguments the script gets twice."""
    what = {"sweep": "Sweep", "crossval": "Cross-validation", "seeds": "Different seeds"}.get(spec.kind, "Sweep")
    remarks = [f"{what}: {sweep_text(spec)}."]
    listed = all(found.draw is Draw.choice for found in spec.space.values())
    points = math.prod(len(found.values) for found in spec.space.values()) if listed else 0
    if spec.sampling == "grid" and points > spec.max_trials:
        remarks.append(
            f"{points - spec.max_trials} of {points} combinations are left out (--max_trials {spec.max_trials})."
        )
    if spec.sampling == "random" and 0 < points < spec.max_trials:
        remarks.append(
            f"warning: there are {points} combinations, so that some of the {spec.max_trials} trials are the same; "
            "--sampling grid runs each once."
        )
    remarks += [
        _exponents(name, found)
        for name, found in spec.space.items()
        if found.draw in (Draw.loguniform, Draw.qloguniform)
    ]
    named = {found[2] for argument in arguments for found in PLACEHOLDER.finditer(argument) if found[1] == SEARCH_SPACE}
    for name in spec.space:
        if name not in named and any(
            argument == f"--{name}" or argument.startswith(f"--{name}=") for argument in arguments
        ):
            remarks.append(
                f"warning: --{name} stands among the script's arguments as well; each trial's value is added "
                "behind them."
            )
    return remarks


def copies_remarks(spec: SweepSpec, size: int) -> list[str]:
    """What the copies of a snapshot of *size* bytes take, which each trial that runs here gets, where that is much."""
    total = size * (spec.max_trials + 1)  # one is kept for later trials
    if total <= LARGE_COPIES:
        return []
    return [
        f"warning: each trial gets its own copy of the snapshot: {spec.max_trials} x {size / 1e6:,.1f} MB, about "
        f"{total / 1e9:,.1f} GB of disk."
        " An .amlignore file leaves out what the script does not need."
    ]


def _exponents(name: str, found: SearchRange) -> str:
    """Which values come, and, where the arguments look like values themselves, what would give these."""
    low, high = (float(value) for value in found.values[:2])
    text = (
        f"{name}: {math.exp(low):.3g} to {math.exp(high):.3g}, since the arguments of {found.draw.value} are "
        "exponents of e, as Azure ML has them."
    )
    if low > 0 and high <= 1:
        step = f",{range_text(found).rpartition(',')[2][:-1]}" if found.draw is Draw.qloguniform else ""
        text = (
            f"warning: {text} For values from {low:g} to {high:g}: --sweep "
            f"'{name}={found.draw.value}({math.log(low):.4g},{math.log(high):.4g}{step})'"
        )
    return text


KINDS = ("sweep", "crossval", "different_seeds")
OF_SEARCHES = ("sampling", "max_trials", "early_stop")
"""Folds and seeds are for their mean, which is worth nothing where the poor ones were stopped."""
OF_ALL = ("max_concurrent", "primary_metric", "goal")
OF_ONE = {"crossval": ("crossval_arg", "crossval_count_arg"), "different_seeds": ("seed_arg",)}
ONE_RUN = ("in_place", "record_in")
"""Options of jobs that are one run."""


def settled_many(request: SubmitRequest) -> SubmitRequest:
    """The request with one way to many runs at most, and without what does not go with it. Raises BadUsage for what was
    typed and does not fit."""
    typed = [name for name in KINDS if request.is_typed(name)]
    one_run = [name for name in ONE_RUN if request.is_typed(name) and (name != "record_in" or request.is_told_to_azure)]
    chosen = typed or ([] if one_run else [name for name in KINDS if request.is_set(name)])
    if len(chosen) > 1:
        raise BadUsage(f"{_options(chosen)} were given at once.", hint=_as_grid(request, chosen))
    request = _without(request, [name for name in KINDS if name not in chosen])
    _check_stray(request, chosen)
    if "sweep" not in chosen:
        request = _without(request, ["early_stop"])  # of the settings
    if not chosen and request.ready_sweep is None:
        return request
    conflicts = one_run or ["record_in"] * request.is_told_to_azure or ["in_place"] * (request.in_place and not typed)
    if conflicts:
        hint = (
            "Leave one of them out."
            if one_run
            else "Add --record_in local"
            if conflicts == ["record_in"]
            else "Set one of them only."
        )
        raise BadUsage(f"--{conflicts[0]} is for a single run, and {_options(chosen)} makes many.", hint=hint)
    return _without(request, ["in_place"])


def sweep_for(request: SubmitRequest) -> SweepSpec | None:
    """The sweep that the options mean, with a seed wherever values are drawn; None where the job is a single run.
    Raises BadUsage."""
    asked = asked_sweep(request)
    return seeded(asked, on_cluster=bool(request.on_cluster), sdk=request.sdk) if asked else None


def asked_sweep(request: SubmitRequest) -> SweepSpec | None:
    """As `sweep_for`; the seed is that which was asked for, or none."""
    on_cluster = bool(request.on_cluster)
    if request.ready_sweep is not None:
        check_sweep(request.ready_sweep, on_cluster=on_cluster)
        return request.ready_sweep
    if not any(map(request.is_set, KINDS)):
        return None
    return sweep_of(request, on_cluster=on_cluster)


def many_arguments(request: SubmitRequest) -> Sequence[str]:
    """The script's arguments, with the number of splits where it is asked for. Raises BadUsage."""
    if request.crossval is None or request.crossval_count_arg is None:
        return request.arguments
    name = argument_name("--crossval_count_arg", request.crossval_count_arg)
    if name == argument_name("--crossval_arg", request.crossval_arg):
        raise BadUsage(
            f"--crossval_arg and --crossval_count_arg are both '{name}'.",
            hint="The split's number and the number of splits need a name each.",
        )
    return (*request.arguments, f"--{name}", str(request.crossval))


def _check_stray(request: SubmitRequest, chosen: Sequence[str]) -> None:
    """Raises BadUsage for an option that was typed and says something about another way to many runs than the one
    chosen."""
    strays = [name for kind, names in OF_ONE.items() if kind not in chosen for name in names if request.is_typed(name)]
    strays += [name for name in OF_SEARCHES if "sweep" not in chosen and request.is_typed(name)]
    strays += [name for name in OF_ALL if not chosen and request.is_typed(name)]
    if strays and request.ready_sweep is None:
        kind = next((kind for kind, names in OF_ONE.items() if strays[0] in names), "sweep")
        raise BadUsage(f"--{strays[0]} belongs to --{kind}.", hint=f"Leave it out, or add --{kind}.")


def _without(request: SubmitRequest, names: Sequence[str]) -> SubmitRequest:
    defaults = SubmitRequest(cwd=request.cwd)
    return replace(request, **{name: getattr(defaults, name) for name in names})


def _options(names: Sequence[str]) -> str:
    return " and ".join(f"--{name}" for name in names) or "the sweep"


def _as_grid(request: SubmitRequest, chosen: Sequence[str]) -> str:
    """How to write all combinations of what was asked for."""
    parts = [f"--sweep {text}" for text in request.sweep if "sweep" in chosen]
    if "crossval" in chosen and request.crossval is not None:
        parts.append(f"--sweep {request.crossval_arg}={_numbers(request.crossval)}")
    if "different_seeds" in chosen and request.different_seeds is not None:
        parts.append(f"--sweep {request.seed_arg}={_numbers(request.different_seeds)}")
    return f"To run every combination: {' '.join(parts)}"


def _numbers(count: int) -> str:
    return ",".join(map(str, range(count))) if count <= 10 else f"0,1,…,{count - 1}"
