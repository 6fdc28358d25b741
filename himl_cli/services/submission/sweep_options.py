"""Many runs of one job: the options that ask for them, what they mean, and what can be run where."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    SearchRange,
    SweepSpec,
    value_text,
)
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.services.submission.search_space import (
    POLICIES,
    SAMPLINGS,
    checked_range,
    checked_stop,
    parse_early_stop,
    parse_sampling,
    parse_space,
    points_of,
)

KINDS = ("sweep", "crossval", "different_seeds")
KINDS_OF_OPTION: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("crossval_arg", "crossval_count_arg"), ("crossval",)),
    "seed_arg": ("different_seeds",),
    **dict.fromkeys(("sampling", "max_trials", "early_stop"), ("sweep",)),
    **dict.fromkeys(("max_concurrent", "primary_metric", "goal"), KINDS),
}
"""Which kinds an option goes with. Folds and seeds are for their mean, which is worth nothing where the poor ones were
stopped."""
SINGLE_RUN_OPTIONS = ("in_place", "record_in")

LARGEST_OWN_SEED = 1_000_000

MOST_TRIALS_ON_AZURE = 1000
MOST_AT_ONCE_ON_AZURE = 100
MOST_STEPS_ON_AZURE = 100_000
"""Of a Bayesian quniform."""
MOST_TRIALS_HERE = 100_000
BAYESIAN_ON_AZURE = (Draw.choice, Draw.uniform, Draw.quniform)
UNBOUNDED = (Draw.normal, Draw.lognormal, Draw.qnormal, Draw.qlognormal)

LONGEST_LIST = 12
LARGE_COPIES = 1_000_000_000
"""Bytes of disk that a sweep may take without a word."""


def single_sweep_option(request: SubmitRequest) -> SubmitRequest:
    """The request with one way to many runs at most, and without what does not go with it. Raises BadUsage for what was
    typed and does not fit."""
    typed = [name for name in KINDS if request.is_typed(name)]
    single = [
        name
        for name in SINGLE_RUN_OPTIONS
        if request.is_typed(name) and (name != "record_in" or request.is_told_to_azure)
    ]
    chosen = typed or ([] if single else [name for name in KINDS if request.is_set(name)])
    if len(chosen) > 1:
        raise BadUsage(f"{_options(chosen)} were given at once.", hint=_as_grid(request, chosen))
    request = request.without(*(name for name in KINDS if name not in chosen))
    for name, kinds in KINDS_OF_OPTION.items():
        if request.is_typed(name) and not {*kinds} & {*chosen} and request.ready_sweep is None:
            raise BadUsage(f"--{name} belongs to --{kinds[0]}.", hint=f"Leave it out, or add --{kinds[0]}.")
    if "sweep" not in chosen:
        request = request.without("early_stop")  # of the settings
    if not chosen and request.ready_sweep is None:
        return request
    conflicts = single or ["record_in"] * request.is_told_to_azure or ["in_place"] * (request.in_place and not typed)
    if conflicts:
        hint = "Add --record_in local" if conflicts == ["record_in"] else "Set one of them only."
        raise BadUsage(
            f"--{conflicts[0]} is for a single run, and {_options(chosen)} makes many.",
            hint="Leave one of them out." if single else hint,
        )
    return request.without("in_place")


def requested_sweep(request: SubmitRequest) -> SweepSpec | None:
    """The sweep that the options mean, its seed the one that they name, or none; None where the job is a single run.
    Raises BadUsage."""
    on_cluster = bool(request.on_cluster)
    if request.ready_sweep is not None:
        check_sweep(request.ready_sweep, on_cluster=on_cluster)
        return request.ready_sweep
    if not any(map(request.is_set, KINDS)):
        return None
    early_stop = parse_early_stop(request.early_stop) if request.early_stop else None
    seed: int | None = None
    if request.crossval is not None:
        kind, sampling, trials = "crossval", "grid", request.crossval
        space = _numbered(on_cluster, "--crossval", trials, 2, "--crossval_arg", request.crossval_arg)
    elif request.different_seeds is not None:
        kind, sampling, trials = "seeds", "grid", request.different_seeds
        space = _numbered(on_cluster, "--different_seeds", trials, 1, "--seed_arg", request.seed_arg)
    else:
        kind, space = "sweep", parse_space(request.sweep)
        is_listed = all(found.draw is Draw.choice for found in space.values())
        sampling = "grid" if is_listed else "random"
        if request.sampling:
            sampling, seed = parse_sampling(request.sampling)
        if request.max_trials is None and sampling != "grid":
            raise BadUsage(f"A {sampling} search needs the number of its trials.", hint="Add --max_trials N")
        trials = 1 if request.max_trials is None else request.max_trials
        if sampling == "grid" and is_listed:
            points = points_of(space.values())
            trials = points if request.max_trials is None else min(points, trials)
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
    check_sweep(spec, on_cluster=on_cluster)
    return spec


def sweep_arguments(request: SubmitRequest) -> Sequence[str]:
    """The script's arguments, with the number of splits where that is wanted. Raises BadUsage."""
    if request.crossval is None or request.crossval_count_arg is None:
        return request.arguments
    name = _argument_name("--crossval_count_arg", request.crossval_count_arg)
    if name == _argument_name("--crossval_arg", request.crossval_arg):
        raise BadUsage(
            f"--crossval_arg and --crossval_count_arg are both '{name}'.",
            hint="The split's number and the number of splits need a name each.",
        )
    return (*request.arguments, f"--{name}", str(request.crossval))


def with_seed(spec: SweepSpec, *, on_cluster: bool, sdk: str = "v2") -> SweepSpec:
    """*spec*, with a seed drawn where its values are drawn, none is given and whoever draws takes one: on Azure ML
    random sampling by its newer API. Without one, a second sweep would draw what the first one did."""
    takes_one = spec.sampling in ("random", "bayesian") if not on_cluster else spec.sampling == "random" and sdk != "v1"
    return replace(spec, seed=SystemRandom().randrange(LARGEST_OWN_SEED)) if takes_one and spec.seed is None else spec


def without_seed(text: str) -> str:
    """What `sweep_text` says, without the seed."""
    return re.sub(r"\b(random|bayesian)\(seed=\d+\)", r"\1", text)


def _options(names: Sequence[str]) -> str:
    return " and ".join(f"--{name}" for name in names) or "the sweep"


def _as_grid(request: SubmitRequest, chosen: Sequence[str]) -> str:
    """How to write all combinations of what the options name."""
    parts = [f"--sweep {text}" for text in request.sweep if "sweep" in chosen]
    for kind, argument in (("crossval", request.crossval_arg), ("different_seeds", request.seed_arg)):
        count = getattr(request, kind)
        if kind in chosen and count is not None:
            numbers = ",".join(map(str, range(count))) if count <= 10 else f"0,1,…,{count - 1}"
            parts.append(f"--sweep {argument}={numbers}")
    return f"To run every combination: {' '.join(parts)}"


def _numbered(
    on_cluster: bool, option: str, count: int, least: int, argument_option: str, argument: str
) -> dict[str, SearchRange]:
    """The numbers 0 to count - 1 as values of one argument."""
    check_count(count, on_cluster=on_cluster, hint=f"Give {option} {{}} at most.")  # before so many values are made
    if count < least:
        raise BadUsage(f"{option} {count}: at least {least} {'is' if least == 1 else 'are'} needed.")
    return {_argument_name(argument_option, argument): SearchRange(Draw.choice, tuple(range(count)))}


def _argument_name(option: str, argument: str) -> str:
    """*argument* without leading dashes. Raises BadUsage, naming *option*, for what can be no argument's name."""
    name = argument.strip().lstrip("-")
    if not HYPERPARAMETER_NAME.fullmatch(name):
        raise BadUsage(
            f"{option} '{argument}' cannot be an argument's name.", hint="Letters, digits, _, - and dots make one."
        )
    return name


# What no workspace can run, and what Azure ML would refuse


def check_sweep(spec: SweepSpec, *, on_cluster: bool) -> None:
    """Raises BadUsage where *spec* cannot be run: here, or with *on_cluster* on Azure ML."""
    if not spec.space:
        raise BadUsage("The search space is empty.", hint="Give at least one --sweep NAME=SPEC")
    check_count(spec.max_trials, on_cluster=on_cluster)
    for name, found in spec.space.items():
        checked_range(found, f"--sweep {name}")
        if spec.kind not in REPEATED:
            _check_no_secret(name, found)
    for option, value, known in (("sampling", spec.sampling, SAMPLINGS), ("goal", spec.goal, GOALS)):
        if value not in known:
            raise BadUsage(f"--{option} cannot be '{value}'.", hint=f"It is one of: {', '.join(known)}.")
    if not spec.primary_metric.strip():
        raise BadUsage(
            "--primary_metric is empty.", hint="Name the metric that the script logs: --primary_metric val/loss"
        )
    for option, count in (("max_trials", spec.max_trials), ("max_concurrent", spec.max_concurrent)):
        if count is not None and count < 1:
            raise BadUsage(f"--{option} {count}: at least 1 is needed.")
    if spec.early_stop is not None:
        checked_stop(spec.early_stop)
    _check_sampling(spec, on_cluster=on_cluster)
    if on_cluster:
        _check_for_azure(spec)


def check_count(trials: int, *, on_cluster: bool, hint: str = "Give --max_trials {}.") -> None:
    """Raises BadUsage, whose *hint* names the number, for more trials than can be run."""
    most, limit = (
        (MOST_TRIALS_ON_AZURE, "Azure ML takes {:,}.") if on_cluster else (MOST_TRIALS_HERE, "here {:,} are the most.")
    )
    if trials > most:
        raise BadUsage(f"These are {trials:,} trials; {limit.format(most)}", hint=hint.format(most))


def _check_no_secret(name: str, found: SearchRange) -> None:
    """Values are shown, logged and stored: what is masked elsewhere cannot be one."""
    values = found.values if found.draw is Draw.choice else ()
    if any(MASK in mask_arguments([f"--{name}={value_text(value)}"])[0] for value in values):
        raise BadUsage(
            f"The hyperparameter '{name}' looks like a secret, and the values of hyperparameters are shown and kept.",
            hint=f"Give a secret by --env_var. If it is none, use another name: --sweep x=A,B -- --{name} "
            f"'${{{{search_space.x}}}}'",
        )


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
    known = BAYESIAN_ON_AZURE if on_cluster else [draw for draw in Draw if draw not in UNBOUNDED]
    for name, draw in drawn.items():
        if draw not in known:
            where = " on Azure ML" if on_cluster and draw not in UNBOUNDED else ""
            raise BadUsage(
                f"--sampling bayesian{where} cannot draw '{name}' from {draw.value}.",
                hint=f"It takes {', '.join(draw.value for draw in known)}; or use --sampling random",
            )


def _check_for_azure(spec: SweepSpec) -> None:
    if spec.max_concurrent is not None and min(spec.max_concurrent, spec.max_trials) > MOST_AT_ONCE_ON_AZURE:
        raise BadUsage(
            f"--max_concurrent {spec.max_concurrent}: Azure ML takes {MOST_AT_ONCE_ON_AZURE} at most.",
            hint="Without --max_concurrent all trials start at once, as far as the cluster has nodes.",
        )
    for name, found in spec.space.items():
        if found.draw.value.startswith("q") and float(found.values[2]) != int(float(found.values[2])):
            raise BadUsage(  # its documents and azureml have whole numbers only for q
                f"--sweep {name}: Azure ML takes a whole number for q of {found.draw.value}, not {found.values[2]}.",
                hint=f"List the values, --sweep {name}=A,B,C, or draw whole numbers and divide them in the script.",
            )
        if spec.sampling == "bayesian":
            _check_bayesian(f"--sweep {name}: with --sampling bayesian", found)


def _check_bayesian(where: str, found: SearchRange) -> None:
    """What azureml's own client checks of a Bayesian search space."""
    if found.draw is Draw.quniform:
        if not all(isinstance(value, int) for value in found.values):
            raise BadUsage(f"{where} Azure ML takes whole numbers only for quniform.", hint="Use uniform(low,high).")
        low, high, step = (int(value) for value in found.values)
        if (high - low) / step > MOST_STEPS_ON_AZURE:
            raise BadUsage(
                f"{where} quniform has {MOST_STEPS_ON_AZURE:,} steps at most on Azure ML.",
                hint="Give a larger q, or use uniform(low,high).",
            )
    texts = [isinstance(value, (str, bool)) for value in found.values]  # truth values are sent as texts
    if found.draw is Draw.choice and any(texts) and not all(texts):
        raise BadUsage(
            f"{where} Azure ML takes a list of numbers or a list of words, not both in one.",
            hint="Use --sampling random, or write all values in one way.",
        )


# Sweeps as people read them


def sweep_text(spec: SweepSpec) -> str:
    """What is searched and how, as it could be typed: `lr=0.1,0.01 depth=randint(5), random(seed=7), 20 trials,
    minimize val/loss`. Of folds and seeds, nothing is searched: `random_seed=0,1,2, 3 runs, mean of val/loss`."""
    ranges: list[str] = []
    for name, found in spec.space.items():
        values = [f'"{text}"' if "," in text else text for text in map(value_text, found.values)]
        listed = ",".join(values[:LONGEST_LIST]) + (f",… ({len(values)} values)" if len(values) > LONGEST_LIST else "")
        drawn = f"{found.draw.value}({','.join(values)})"
        ranges.append(f"{name}={listed if found.draw is Draw.choice else drawn}")
    parts = [" ".join(ranges)]
    plural = "s" * (spec.max_trials != 1)
    if spec.kind in REPEATED:
        parts += [f"{spec.max_trials} run{plural}", f"mean of {spec.primary_metric}"]
        return ", ".join(parts)
    parts.append(spec.sampling if spec.seed is None else f"{spec.sampling}(seed={spec.seed})")
    parts += [f"{spec.max_trials} trial{plural}", f"{spec.goal} {spec.primary_metric}"]
    if stop := spec.early_stop:
        given = {name: getattr(stop, name) for name in POLICIES[stop.policy]}
        unusual = {name: value for name, value in given.items() if value != getattr(EarlyStop, name)}
        inside = ",".join(f"{name}={value:g}" for name, value in unusual.items())
        parts.append(f"{stop.policy}({inside})" if inside else stop.policy)
    return ", ".join(parts)


def sweep_remarks(spec: SweepSpec, arguments: Sequence[str]) -> list[str]:
    """A sentence each: what will be run, which values `loguniform` gives, and which arguments the script gets twice."""
    title = {"crossval": "Cross-validation", "seeds": "Different seeds"}.get(spec.kind, "Sweep")
    remarks = [f"{title}: {sweep_text(spec)}."]
    listed = all(found.draw is Draw.choice for found in spec.space.values())
    points = points_of(spec.space.values()) if listed else 0
    if spec.sampling == "grid" and points > spec.max_trials:
        remarks.append(
            f"{points - spec.max_trials} of {points} combinations are left out (--max_trials {spec.max_trials})."
        )
    if spec.sampling == "random" and 0 < points < spec.max_trials:
        remarks.append(
            f"warning: there are {points} combinations, so that some of the {spec.max_trials} trials are the same; "
            "--sampling grid runs each once."
        )
    exponential = (Draw.loguniform, Draw.qloguniform)
    remarks += [_exponents(name, found) for name, found in spec.space.items() if found.draw in exponential]
    named = {found[2] for argument in arguments for found in PLACEHOLDER.finditer(argument) if found[1] == SEARCH_SPACE}
    given = {argument.partition("=")[0] for argument in arguments}
    remarks += [
        f"warning: --{name} stands among the script's arguments as well; each trial's value is added behind them."
        for name in spec.space
        if name not in named and f"--{name}" in given
    ]
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
        step = f",{value_text(found.values[2])}" if found.draw is Draw.qloguniform else ""
        text = (
            f"warning: {text} For values from {low:g} to {high:g}: --sweep "
            f"'{name}={found.draw.value}({math.log(low):.4g},{math.log(high):.4g}{step})'"
        )
    return text
