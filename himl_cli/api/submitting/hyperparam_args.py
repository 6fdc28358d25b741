"""hi-ml's `hyperparam_args`: a search for hyperparameters as a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from himl_cli.api.submitting.search_spaces import space_of
from himl_cli.core.errors import BadUsage
from himl_cli.core.sweeps import Draw, EarlyStop, SweepSpec
from himl_cli.core.text import did_you_mean
from himl_cli.services.submission.search_space import AZURE_WORDS, parse_early_stop, parse_sampling, points_of

PARAM_SAMPLING_ARG = "parameter_sampling"
MAX_TOTAL_TRIALS_ARG = "max_total_trials"
PRIMARY_METRIC_ARG = "primary_metric"
SAMPLING_ALGORITHM_ARG = "sampling_algorithm"
GOAL_ARG = "goal"
MAX_CONCURRENT_TRIALS_ARG = "max_concurrent_trials"
EARLY_TERMINATION_ARG = "early_termination_policy"
OTHER_EARLY_TERMINATION = "early_termination"
TIMEOUT, TRIAL_TIMEOUT = "timeout", "trial_timeout"
NAMES = (
    *(PARAM_SAMPLING_ARG, MAX_TOTAL_TRIALS_ARG, PRIMARY_METRIC_ARG, SAMPLING_ALGORITHM_ARG, GOAL_ARG),
    *(MAX_CONCURRENT_TRIALS_ARG, EARLY_TERMINATION_ARG, OTHER_EARLY_TERMINATION, TIMEOUT, TRIAL_TIMEOUT),
)
"""What may be given: hi-ml hands all of it but the space to azure-ai-ml's `command.sweep`, so these are its
arguments."""
NOT_TAKEN = {
    "search_space": f"The hyperparameters are '{PARAM_SAMPLING_ARG}'.",
    "compute": "The cluster is compute_cluster_name.",
    "identity": "identity_based_auth=True runs the job as you.",
    "queue_settings": "Leave it out.",
    "job_tier": "Leave it out.",
    "priority": "Leave it out.",
}
"""Arguments of `command.sweep` that are none here, and what to do instead."""


def sweep_of_args(given: Mapping[str, Any]) -> SweepSpec:
    """The sweep that *given* describes, by the names in NAMES. Raises BadUsage for what it does not say or says
    wrongly."""
    check_args(given)
    for name in given:
        if name in NOT_TAKEN:
            raise BadUsage(f"hyperparam_args: '{name}' cannot be given here.", hint=NOT_TAKEN[name])
        if name not in NAMES:
            raise BadUsage(
                f"hyperparam_args: unknown '{name}'.",
                hint=did_you_mean(str(name), NAMES) or f"There are: {', '.join(NAMES)}.",
            )
    if not given.get(PARAM_SAMPLING_ARG):
        raise BadUsage(
            f"hyperparam_args: '{PARAM_SAMPLING_ARG}' is missing.",
            hint="It has what each hyperparameter is drawn from: {'lr': [0.1, 0.01]}.",
        )
    space = space_of(given[PARAM_SAMPLING_ARG])
    is_listed = all(one.draw is Draw.choice for one in space.values())
    sampling, seed = _sampling(given.get(SAMPLING_ALGORITHM_ARG) or ("grid" if is_listed else "random"))
    points = points_of(space.values()) if sampling == "grid" and is_listed else None
    asked = _whole(given, MAX_TOTAL_TRIALS_ARG)
    trials = points if asked is None else asked
    if trials is None:
        raise BadUsage(f"hyperparam_args: '{MAX_TOTAL_TRIALS_ARG}' is missing, the number of trials.")
    return SweepSpec(
        space=space,
        sampling=sampling,
        max_trials=trials if points is None else min(trials, points),
        max_concurrent=_whole(given, MAX_CONCURRENT_TRIALS_ARG),
        primary_metric=str(given.get(PRIMARY_METRIC_ARG) or SweepSpec.primary_metric),
        goal=str(given.get(GOAL_ARG) or SweepSpec.goal).lower(),
        early_stop=_early_stop(_policy(given)),
        seed=seed,
        max_seconds=_seconds(given, TIMEOUT),
    )


def trial_seconds_of(given: Mapping[str, Any]) -> float | None:
    """How long each trial may take, in seconds; None where *given* does not say. Raises BadUsage for what is no number
    of seconds."""
    check_args(given)
    return _seconds(given, TRIAL_TIMEOUT)


def check_args(given: object) -> None:
    """Raises BadUsage for what is no dictionary."""
    if not isinstance(given, Mapping):
        raise BadUsage(
            f"hyperparam_args is a dictionary, not {type(given).__qualname__}.",
            hint=f"{{'{PARAM_SAMPLING_ARG}': {{'lr': [0.1, 0.01]}}}}",
        )


def _policy(given: Mapping[str, Any]) -> Any:
    both = [name for name in (EARLY_TERMINATION_ARG, OTHER_EARLY_TERMINATION) if given.get(name) is not None]
    if len(both) > 1:
        raise BadUsage(f"hyperparam_args: {both[0]} and {both[1]} are the same.", hint="Leave one of them out.")
    return given[both[0]] if both else None


def _sampling(given: Any) -> tuple[str, int | None]:
    """The word and the seed; *given* is a text, or azure-ai-ml's object."""
    if isinstance(given, str):
        return parse_sampling(given.lower())
    return parse_sampling(str(getattr(given, "type", given)).lower())[0], getattr(given, "seed", None)


def _early_stop(given: Any) -> EarlyStop | None:
    if given is None or isinstance(given, str):
        return parse_early_stop(given) if given else None
    kind = str(getattr(given, "type", "")).lower()
    return EarlyStop(
        AZURE_WORDS.get(kind, kind),
        evaluation_interval=getattr(given, "evaluation_interval", None) or 1,
        delay_evaluation=getattr(given, "delay_evaluation", None) or 0,
        slack_factor=getattr(given, "slack_factor", None) or None,
        slack_amount=getattr(given, "slack_amount", None) or None,
        truncation_percentage=getattr(given, "truncation_percentage", None),
    )


def _whole(given: Mapping[str, Any], name: str) -> int | None:
    value = given.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise BadUsage(f"hyperparam_args: '{name}' is a whole number, not {value!r}.")


def _seconds(given: Mapping[str, Any], name: str) -> float | None:
    value = given.get(name)
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0):
        return value
    raise BadUsage(f"hyperparam_args: '{name}' is a number of seconds, not {value!r}.")
