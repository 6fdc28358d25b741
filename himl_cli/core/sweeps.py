"""Sweeps: search spaces, the values and tags of trials, and placeholders of hyperparameters in arguments.
The last functions read and write the tags of sweeps, whose names are above."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

from himl_cli.core.errors import BadUsage
from himl_cli.core.json_text import Spelled, read_json, spelled
from himl_cli.core.patterns import lazy_pattern
from himl_cli.core.records import dataclass

SEARCH_SPACE = "search_space"
# Group 1 is `inputs`, `outputs` or `search_space`, group 2 the key. It accepts any characters, so that himl can reject
# an unknown key instead of sending it
PLACEHOLDER = lazy_pattern(r"\$\{\{\s*(inputs|outputs|search_space)\.([^\s{}]+)\s*\}\}")
Scalar = str | int | float | bool  # one value of a hyperparameter

# The tag of a trial with its values as a JSON object: HyperDrive's name, which both workspaces use
HYPERPARAMETERS = "hyperparameters"
TRIAL = "himl.trial"  # the tag of a trial with its number (0…)
# The tag with the number of trials of a sweep that is only a record, since no engine runs it. It ends when its last
# trial does.
TRIALS = "himl.trials"
# The tag of a trial that an early-stopping policy stopped, with the policy's name. It counts only for a canceled trial,
# since the trial may have ended first.
STOPPED_EARLY = "himl.stopped_early"
# The tag of a run whose children are separate jobs: `sweep`, `crossval`, `seeds` or `pipeline`
MANY = "himl.many"
# Kinds without a best trial, reported as mean and standard deviation
REPEATED = ("crossval", "seeds")
SWEPT = "himl.sweep"  # the tag of a sweep with a summary of its search in one line
# Tags of a sweep: the primary metric, `minimize` or `maximize`, and at the end the run id of the best trial
PRIMARY_METRIC = "himl.primary_metric"
GOAL = "himl.goal"
BEST_TRIAL = "himl.best_trial"

GOALS = ("minimize", "maximize")
# Forms of a SearchRange, and the values of switches
SWITCH, NEGATABLE, WORDS = "switch", "negatable", "words"
SWITCHES = (SWITCH, NEGATABLE)
SWITCH_WORDS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
HYPERPARAMETER_NAME = lazy_pattern(r"[A-Za-z_][\w./-]*", re.ASCII)


class Draw(str, Enum):
    """The distribution of a hyperparameter. Names and order of arguments are Azure ML's. The arguments of `log…` ones
    are exponents of e."""

    choice = "choice"
    uniform = "uniform"
    loguniform = "loguniform"
    normal = "normal"
    lognormal = "lognormal"
    randint = "randint"
    quniform = "quniform"
    qloguniform = "qloguniform"
    qnormal = "qnormal"
    qlognormal = "qlognormal"


def argument_names(draw: Draw) -> tuple[str, ...]:
    """Azure ML's names for the arguments of a distribution, in order. Empty for `choice`."""
    if draw in (Draw.choice, Draw.randint):
        return ("upper",) if draw is Draw.randint else ()
    ends = ("mu", "sigma") if draw.value.endswith("normal") else ("min_value", "max_value")
    return (*ends, "q") if draw.value.startswith("q") else ends


@dataclass(frozen=True)
class SearchRange:
    """The choices of `choice`, or the arguments of a distribution, in `values`.

    The arguments are (low, high) or (mu, sigma), followed by a step for `q…`, and (upper,) for `randint`, which draws
    from 0 to upper - 1. A script gets each choice as `--NAME VALUE`, unless `form` is `switch` (`--NAME` for true, no
    argument for false), `negatable` (`--no-NAME` for false) or `words` (`--NAME` and all words of the value).
    """

    draw: Draw
    values: Sequence[Scalar]
    form: str = ""


@dataclass(frozen=True)
class EarlyStop:
    """When to stop a trial: `policy` is `bandit` (with one of the slacks), `median` or `truncation`.

    The policy evaluates each *evaluation_interval*th value of the primary metric, except for the first
    *delay_evaluation* of them.
    """

    policy: str
    evaluation_interval: int = 1
    delay_evaluation: int = 0
    slack_factor: float | None = None
    slack_amount: float | None = None
    truncation_percentage: int | None = None


@dataclass(frozen=True)
class SweepSpec:
    """Trials of one job. `kind` is `sweep`, `crossval` or `seeds`, as the user requested.

    `sampling` is `grid`, `random` or `bayesian`. The workspace chooses a `seed` of None. `max_trials` is the total
    number of trials (of a grid at most its points). The workspace chooses a `max_concurrent` of None. `goal` is
    `minimize` or `maximize`. `max_seconds` limits the whole sweep (on a cluster only). None is the workspace's limit.
    himl starts no more trials once the first `max_failures` to end all failed, or with 0 regardless of failures.
    """

    space: Mapping[str, SearchRange]
    sampling: str = "grid"
    max_trials: int = 1
    max_concurrent: int | None = None
    primary_metric: str = "val/loss"
    goal: str = "minimize"
    early_stop: EarlyStop | None = None
    seed: int | None = None
    kind: str = "sweep"
    max_seconds: float | None = None
    max_failures: int = 3


def best_of(goal: str, values: Iterable[float]) -> float | None:
    """The best finite value, or None if there is none."""
    finite = (value for value in values if math.isfinite(value))
    return min(finite, default=None) if goal == "minimize" else max(finite, default=None)


def best_trial_of(tags: Mapping[str, str]) -> str:
    """The run id of the recorded best trial of a search, from its tags. Empty for other runs, and folds and seeds."""
    return "" if tags.get(MANY) in REPEATED else tags.get(BEST_TRIAL, "")


def hyperparameters_of(tags: Mapping[str, str]) -> dict[str, Scalar]:
    """The values of a trial by name, from its tags. Empty for other runs. Leading dashes of a name, as in azureml's
    `--lr`, are removed."""
    if HYPERPARAMETERS not in tags:
        return {}
    try:
        found = read_json(tags[HYPERPARAMETERS], number=spelled)
    except ValueError:
        return {}
    return {name.lstrip("-"): value for name, value in found.items()} if isinstance(found, dict) else {}


def variable_name(name: str) -> str:
    """The hyperparameter *name* as part of the name of a variable, and as Azure ML accepts it: hi-ml also replaced `.`
    and `/` by `_`."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def with_search_space(arguments: Sequence[str], space: Mapping[str, SearchRange]) -> list[str]:
    """Append `--NAME ${{search_space.NAME}}` to *arguments* for each hyperparameter that they do not use. A switch is
    the placeholder alone."""
    named = {found[2] for argument in arguments for found in PLACEHOLDER.finditer(argument) if found[1] == SEARCH_SPACE}
    missing = {name: found.form for name, found in space.items() if name not in named}
    added = [
        [*([] if form in SWITCHES else [f"--{name}"]), f"${{{{{SEARCH_SPACE}.{name}}}}}"]
        for name, form in missing.items()
    ]
    return [*arguments, *(word for words in added for word in words)]


def filled_in(
    arguments: Sequence[str], values: Mapping[str, str], space: Mapping[str, SearchRange] | None = None
) -> list[str]:
    """Replace `${{search_space.NAME}}` in *arguments* by the values of hyperparameters. A whole argument becomes the
    words of a value with a form in *space*."""

    def fill(argument: str) -> list[str]:
        whole = PLACEHOLDER.fullmatch(argument)
        if whole and whole[1] == SEARCH_SPACE and space and (form := space[whole[2]].form):
            return value_words(whole[2], values[whole[2]], form)
        return [PLACEHOLDER.sub(lambda found: values[found[2]] if found[1] == SEARCH_SPACE else found[0], argument)]

    return [word for argument in arguments for word in fill(argument)]


_UNQUOTABLE = r"[`#]|<<|\$['\"({]|\\\Z"  # after one of these, only a shell can determine which quotes are open
_QUOTED = r"""(?:[^'"\\]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")*"""


def fill_command(line: str, known: Mapping[str, Mapping[str, str]]) -> str:
    """The line for bash with `${{KIND.KEY}}` replaced by `known[KIND][KEY]`, which stays one word inside and outside of
    quotes. Other placeholders stay.

    Raises BadUsage for a value that needs quotes after a character that makes it unclear which quotes are open: a
    comment, backquotes, `$(`, `${`, `$'`, a here-document.
    """

    def fill(found: re.Match[str]) -> str:
        value = known.get(found[1], {}).get(found[2])
        if value is None:
            return found[0]
        if shlex.quote(value) == value:
            return value
        before = PLACEHOLDER.sub("x", line[: found.start()])
        if trouble := re.search(_UNQUOTABLE, before):
            raise BadUsage(
                f"himl cannot quote '{value}' for '{found[0]}' after '{trouble[0]}'.",
                hint=f"Set a variable before it, and use the variable: VALUE={found[0]}",
            )
        quoted = re.match(_QUOTED, before, re.DOTALL)
        open_quote = before[quoted.end() : quoted.end() + 1] if quoted else ""
        if open_quote == "'":
            return value.replace("'", "'\\''")
        return re.sub(r'([\\"$`])', r"\\\1", value) if open_quote == '"' else shlex.quote(value)

    return PLACEHOLDER.sub(fill, line)


def value_words(name: str, text: str, form: str) -> list[str]:
    """The words in place of the value *text* of the hyperparameter *name*, by the *form* of its SearchRange. Raises
    ValueError for an unclosed quote."""
    if form == WORDS:
        return shlex.split(text)
    state = SWITCH_WORDS.get(text.lower())
    if form not in SWITCHES or state is None:
        return [text]
    return [f"--{name}"] if state else [f"--no-{name}"] * (form == NEGATABLE)


def sweep_tags(sweep: SweepSpec) -> dict[str, str]:
    """The tags of a sweep, which say how himl compares its trials."""
    return {MANY: sweep.kind, PRIMARY_METRIC: sweep.primary_metric, GOAL: sweep.goal}


def trial_tags(tags: Mapping[str, str], index: int, values: Mapping[str, Scalar]) -> dict[str, str]:
    """The tags of a trial of a sweep with *tags*."""
    own = {name: value for name, value in tags.items() if name != SWEPT}
    pairs = [f"{json.dumps(name)}: {_json_text(value)}" for name, value in values.items()]
    return {**own, HYPERPARAMETERS: f"{{{', '.join(pairs)}}}", TRIAL: str(index)}


def _json_text(value: Scalar) -> str:
    """*value* in JSON, with the spelling of a number. One that is not valid in JSON (`.5`) becomes a text."""
    if not isinstance(value, Spelled):
        return json.dumps(value)
    is_valid = re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", value.text)
    return value.text if is_valid else json.dumps(value.text)


def values_text(values: Mapping[str, Scalar]) -> str:
    """Values as text for users: `lr=0.01, depth=3`."""
    return ", ".join(f"{name}={value_text(value)}" for name, value in values.items())


def value_text(value: Scalar) -> str:
    """A value as a script's argument: numbers as the user spelled them, or in full, Booleans as in Python. Negative
    numbers have no exponent, since argparse would take `-1e-05` for an option."""
    if not isinstance(value, float):
        return str(value)
    text = repr(value)
    if value < 0 and "e" in text.lower():
        from decimal import Decimal  # imported late, since all commands import this module

        return format(Decimal(text), "f")
    return text


def short_text(value: Scalar) -> str:
    """A value for users, a number whose text is long with six digits."""
    text = value_text(value)
    return f"{value:.6g}" if isinstance(value, float) and len(text) > 10 else text
