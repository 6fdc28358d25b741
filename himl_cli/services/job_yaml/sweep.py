"""A sweep job of Azure ML's YAML as trials that run on this machine."""

from __future__ import annotations

from dataclasses import replace

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import JobSpec
from himl_cli.core.sweeps import Draw, EarlyStop, Scalar, SearchRange, SweepSpec, argument_names
from himl_cli.services.job_yaml.command import AROUND, NAMING, RUNNING, Laid, note_idle, running
from himl_cli.services.job_yaml.components import component_at, with_defaults
from himl_cli.services.job_yaml.data import read_inputs
from himl_cli.services.job_yaml.document import Part
from himl_cli.services.sweeps import check_sweep, seeded
from himl_cli.services.sweeps.checks import points_of
from himl_cli.services.sweeps.spaces import checked_range
from himl_cli.services.sweeps.stops import AZURE_WORDS, SAMPLINGS, checked_stop

SWEEP_KEYS = (
    *NAMING,
    *AROUND,
    "trial",
    "search_space",
    "sampling_algorithm",
    "objective",
    "early_termination",
    "resources",
)
TRIAL_KEYS = (*NAMING, *RUNNING, "inputs", "outputs", "is_deterministic")
LIMITS = ("max_total_trials", "max_concurrent_trials", "timeout", "trial_timeout")
STOP_KEYS = ("type", "evaluation_interval", "delay_evaluation", "slack_factor", "slack_amount", "truncation_percentage")


def sweep_job(part: Part, common: JobSpec, laid: Laid) -> JobSpec:
    """The job with its sweep. Raises BadUsage naming the key."""
    part.check_keys(SWEEP_KEYS)
    trial = component_at(part, "trial") if isinstance(part.given("trial"), str) else part.part("trial")
    trial.check_keys(TRIAL_KEYS)
    sweep = _sweep(part)
    values = with_defaults(trial, read_inputs(part.part("inputs")))
    job = running(trial, replace(common, sweep=sweep), values, laid, outputs_of=part, space=sweep.space)
    limits = part.part("limits")
    if limits.given("timeout") is not None:
        laid.idle["limits.timeout"] = None
    note_idle(part, laid)
    seconds = limits.seconds("trial_timeout")
    return replace(job, max_seconds=common.max_seconds or seconds)


def _sweep(part: Part) -> SweepSpec:
    space = part.part("search_space")
    if not space.content:
        raise part.wrong("search_space", "is missing.")
    ranges = {name: _range(space.part(name), f"'{part.shown}': '{space.prefix}{name}'") for name in space.content}
    objective, limits = part.part("objective"), part.part("limits")
    limits.check_keys(LIMITS)
    sampling, seed = _sampling(part)
    most = limits.count("max_total_trials")
    if most is None and sampling != "grid":
        raise limits.wrong("max_total_trials", "is missing.", hint="Only a grid has an end of its own.")
    points = (
        points_of(ranges.values())
        if sampling == "grid" and all(found.draw is Draw.choice for found in ranges.values())
        else most
    )
    spec = SweepSpec(
        space=ranges,
        sampling=sampling,
        max_trials=min(filter(None, (most, points)), default=1),
        max_concurrent=limits.count("max_concurrent_trials"),
        primary_metric=objective.text("primary_metric"),
        goal=objective.text("goal").lower(),
        early_stop=_early_stop(part.part("early_termination")),
        seed=seed,
    )
    for key, value in (("primary_metric", spec.primary_metric), ("goal", spec.goal)):
        if not value:
            raise objective.wrong(key, "is missing.")
    _checked(part, spec)
    return seeded(spec, on_cluster=False)


def _checked(part: Part, spec: SweepSpec) -> None:
    """Raises BadUsage where the sweep cannot run here; in the words of the file, not of options."""
    words = {
        "--sampling": "sampling_algorithm",
        "--goal": "objective.goal",
        "--early_stop": "early_termination",
        "--max_trials": "limits.max_total_trials",
    }
    try:
        check_sweep(spec, on_cluster=False)
    except BadUsage as err:
        message, hint = str(err), err.hint
        for option, key in words.items():
            message, hint = message.replace(option, f"{key}:"), hint.replace(option, f"{key}:")
        raise BadUsage(f"'{part.shown}': {message}", hint=hint) from err


def _range(part: Part, where: str) -> SearchRange:
    word = part.text("type").lower()
    if word not in [draw.value for draw in Draw]:
        raise part.wrong(
            "type", f"cannot be '{word}'.", hint=f"It is one of: {', '.join(draw.value for draw in Draw)}."
        )
    draw = Draw(word)
    if draw is Draw.choice:
        values = part.given("values")
        if not isinstance(values, list) or not all(isinstance(value, (str, int, float)) for value in values):
            raise part.wrong("values", "must be a list of plain values.")
        return checked_range(SearchRange(draw, values), where)
    names = argument_names(draw)
    part.check_keys(("type", *names))
    numbers: list[Scalar] = []
    for name in names:
        number = part.number(name)
        if number is None:
            raise part.wrong(name, "is missing.")
        numbers.append(number)
    return checked_range(SearchRange(draw, numbers), where)


def _sampling(part: Part) -> tuple[str, int | None]:
    """The word and the seed of `sampling_algorithm`, which is a word or a mapping."""
    if isinstance(part.given("sampling_algorithm"), str):
        word, seed = part.text("sampling_algorithm"), None
    else:
        algorithm = part.part("sampling_algorithm")
        algorithm.check_keys(("type", "seed", "rule", "logbase"))
        word, seed = algorithm.text("type"), algorithm.number("seed")
        if algorithm.text("rule").lower() == "sobol":
            raise algorithm.wrong(
                "rule", "cannot be 'sobol' here.", hint="Leave it out, or name a cluster with --cluster."
            )
    if word.lower() not in SAMPLINGS:
        raise part.wrong(
            "sampling_algorithm",
            f"cannot be '{word}'." if word else "is missing.",
            hint=f"It is one of: {', '.join(SAMPLINGS)}.",
        )
    return word.lower(), int(seed) if seed is not None else None


def _early_stop(part: Part) -> EarlyStop | None:
    if not part.content:
        return None
    part.check_keys(STOP_KEYS)
    word = part.text("type").lower()
    percentage = part.number("truncation_percentage")
    interval, delay = part.number("evaluation_interval"), part.number("delay_evaluation")
    stop = EarlyStop(
        AZURE_WORDS.get(word, word),
        evaluation_interval=int(interval) if interval else 1,
        delay_evaluation=int(delay) if delay else 0,
        slack_factor=part.number("slack_factor"),
        slack_amount=part.number("slack_amount"),
        truncation_percentage=int(percentage) if percentage is not None else None,
    )
    return checked_stop(stop, f"'{part.shown}': 'early_termination'")
