"""Sweeps as scripts describe them: HyperDriveConfig, himl's own class, or a dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from himl_cli.api.exceptions import WrongArgument
from himl_cli.core.errors import BadUsage
from himl_cli.core.records import dataclass
from himl_cli.core.sweeps import Draw, EarlyStop, Scalar, SearchRange, SweepSpec, argument_names
from himl_cli.core.text import did_you_mean
from himl_cli.services.submission.sweeps import AZURE_WORDS, parse_early_stop, parse_sampling, points_of, search_range


def space_of(given: Mapping[str, Any]) -> dict[str, SearchRange]:
    """The ranges by name, without leading dashes. Raises BadUsage for an invalid range, and for a short option."""
    if not isinstance(given, Mapping):
        raise BadUsage(f"Hyperparameters must be a dictionary, not {type(given).__qualname__}.")
    space: dict[str, SearchRange] = {}
    for key, value in given.items():
        name = str(key).removeprefix("--")
        if name.startswith("-") or not name:
            raise BadUsage(
                f"Hyperparameter '{key}' must be a long option, with two dashes.",
                hint="Add a long name to the script's argument.",
            )
        space[name] = range_of(name, value)
    return space


def range_of(name: str, value: Any) -> SearchRange:
    """The range of hyperparameter *name*: himl's text (`uniform(0,1)`), a list of choices, azure-ai-ml's object, or
    azureml's `["uniform", [0, 1]]`."""
    words = {draw.value for draw in Draw}
    if isinstance(value, str):
        return search_range(name, value)
    if isinstance(value, Sequence):
        draw, arguments = Draw.choice, value
        # azureml's form of `uniform(0, 1)`.
        if len(value) == 2 and value[0] in words and isinstance(value[1], list):
            draw, arguments = Draw(value[0]), value[1]
            if draw is Draw.choice and len(arguments) == 1 and isinstance(arguments[0], list):
                arguments = arguments[0]
        return SearchRange(draw, _scalars(name, arguments))
    kind = str(getattr(value, "type", "")).lower()
    if kind not in words:
        raise BadUsage(
            f"Hyperparameter '{name}' must be a list or a distribution, not {type(value).__qualname__}.",
            hint="Use a list, or Choice, Uniform, …",
        )
    draw = Draw(kind)
    names = argument_names(draw)
    values = value.values if draw is Draw.choice else [getattr(value, argument, None) for argument in names]
    return SearchRange(draw, _scalars(name, values or ()))


def _scalars(name: str, values: Sequence[Any]) -> tuple[Scalar, ...]:
    """*values* as numbers and text, with numpy's scalars converted to Python's."""
    plain = [
        value.item() if hasattr(value, "item") and not isinstance(value, (str, int, float)) else value
        for value in values
    ]
    for value in plain:
        if not isinstance(value, (str, int, float)):
            raise BadUsage(
                f"Hyperparameter '{name}' must have numbers or text, not {value!r}.",
                hint="himl does not support nested search spaces.",
            )
    return tuple(plain)


PARAM_SAMPLING_ARG = "parameter_sampling"
MAX_TOTAL_TRIALS_ARG = "max_total_trials"
PRIMARY_METRIC_ARG = "primary_metric"
SAMPLING_ALGORITHM_ARG = "sampling_algorithm"
GOAL_ARG = "goal"
MAX_CONCURRENT_TRIALS_ARG = "max_concurrent_trials"
EARLY_TERMINATION_ARG = "early_termination_policy"
OTHER_EARLY_TERMINATION = "early_termination"
TIMEOUT, TRIAL_TIMEOUT = "timeout", "trial_timeout"
SWEEP_ARGUMENTS = (
    *(PARAM_SAMPLING_ARG, MAX_TOTAL_TRIALS_ARG, PRIMARY_METRIC_ARG, SAMPLING_ALGORITHM_ARG, GOAL_ARG),
    *(MAX_CONCURRENT_TRIALS_ARG, EARLY_TERMINATION_ARG, OTHER_EARLY_TERMINATION, TIMEOUT, TRIAL_TIMEOUT),
)
"""Supported keys. hi-ml passes all of them except for the space to azure-ai-ml's `command.sweep`."""
NOT_TAKEN = {
    "search_space": f"Use '{PARAM_SAMPLING_ARG}'.",
    "compute": "Use compute_cluster_name.",
    "identity": "Use identity_based_auth=True.",
    "queue_settings": "Omit it.",
    "job_tier": "Omit it.",
    "priority": "Omit it.",
}
"""Unsupported arguments of `command.sweep`, and their hints."""


def sweep_of_args(given: Mapping[str, Any]) -> SweepSpec:
    """The sweep of *given*, with keys from SWEEP_ARGUMENTS. Raises BadUsage for missing and invalid values."""
    if not isinstance(given, Mapping):
        raise BadUsage(
            f"hyperparam_args must be a dictionary, not {type(given).__qualname__}.",
            hint=f"{{'{PARAM_SAMPLING_ARG}': {{'lr': [0.1, 0.01]}}}}",
        )
    for name in given:
        if name in NOT_TAKEN:
            raise BadUsage(f"hyperparam_args: himl does not support '{name}'.", hint=NOT_TAKEN[name])
        if name not in SWEEP_ARGUMENTS:
            raise BadUsage(
                f"hyperparam_args: unknown key '{name}'.",
                hint=did_you_mean(str(name), SWEEP_ARGUMENTS) or f"Keys: {', '.join(SWEEP_ARGUMENTS)}.",
            )
    if not given.get(PARAM_SAMPLING_ARG):
        raise BadUsage(
            f"hyperparam_args: '{PARAM_SAMPLING_ARG}' is missing.",
            hint="Add the values of each hyperparameter: {'lr': [0.1, 0.01]}.",
        )
    policies = [name for name in (EARLY_TERMINATION_ARG, OTHER_EARLY_TERMINATION) if given.get(name) is not None]
    if len(policies) > 1:
        raise BadUsage(f"hyperparam_args: {policies[0]} and {policies[1]} are equivalent.", hint="Omit one of them.")
    space = space_of(given[PARAM_SAMPLING_ARG])
    is_listed = all(one.draw is Draw.choice for one in space.values())
    algorithm = given.get(SAMPLING_ALGORITHM_ARG) or ("grid" if is_listed else "random")
    sampling, seed = parse_sampling(str(getattr(algorithm, "type", algorithm)).lower())
    seed = seed if isinstance(algorithm, str) else getattr(algorithm, "seed", None)
    early_stop = next((given[name] for name in policies), None)
    policy = None
    if isinstance(early_stop, str):
        policy = parse_early_stop(early_stop) if early_stop else None
    elif early_stop is not None:  # azure-ai-ml's object
        kind = str(getattr(early_stop, "type", "")).lower()
        policy = _policy(AZURE_WORDS.get(kind, kind), {name: getattr(early_stop, name, None) for name in POLICY_FIELDS})
    points = points_of(space.values()) if sampling == "grid" and is_listed else None
    most = _whole(given, MAX_TOTAL_TRIALS_ARG)
    trials = points if most is None else most
    if trials is None:
        raise BadUsage(f"hyperparam_args: the number of trials '{MAX_TOTAL_TRIALS_ARG}' is missing.")
    return SweepSpec(
        space=space,
        sampling=sampling,
        max_trials=trials if points is None else min(trials, points),
        max_concurrent=_whole(given, MAX_CONCURRENT_TRIALS_ARG),
        primary_metric=str(given.get(PRIMARY_METRIC_ARG) or SweepSpec.primary_metric),
        goal=str(given.get(GOAL_ARG) or SweepSpec.goal).lower(),
        early_stop=policy,
        seed=seed,
        max_seconds=_seconds(given, TIMEOUT),
    )


def trial_seconds_of(given: Mapping[str, Any]) -> float | None:
    """The maximum duration of each trial in the sweep *given*, in seconds, or None. Raises BadUsage unless it is a
    number of seconds."""
    return _seconds(given, TRIAL_TIMEOUT)


POLICY_FIELDS = ("evaluation_interval", "delay_evaluation", "slack_factor", "slack_amount", "truncation_percentage")


def _policy(name: str, fields: Mapping[str, Any]) -> EarlyStop:
    return EarlyStop(name, **{each: fields[each] for each in POLICY_FIELDS if fields.get(each)})


def _whole(given: Mapping[str, Any], name: str) -> int | None:
    value = given.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise BadUsage(f"hyperparam_args: '{name}' must be an integer, not {value!r}.")


def _seconds(given: Mapping[str, Any], name: str) -> float | None:
    value = given.get(name)
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0):
        return value
    raise BadUsage(f"hyperparam_args: '{name}' must be a number of seconds, not {value!r}.")


@dataclass(slots=True)
class Grid:
    """The result of `create_grid_hyperdrive_config` and related functions: one run for each of *values*, as its
    argument `--{argument}`. As with azureml's class, a script may set `_run_config`, which `submit_run` reads. No other
    attributes can be set."""

    values: Sequence[Scalar]
    argument: str
    metric: str
    kind: str = "sweep"
    _run_config: Any = None


def create_crossval_hyperdrive_config(
    num_splits: int, cross_val_index_arg_name: str = "crossval_index", metric_name: str = "val/loss"
) -> Grid:
    """A cross-validation of *num_splits* runs, for *hyperdrive_config* of `submit_to_azure_if_needed`.

    Each run gets `--{cross_val_index_arg_name} i`, from 0, and should log *metric_name*, by which Azure ML shows the
    best run. Unlike in hi-ml, it needs no azureml package, and works with both SDKs. Raises BadUsage (also a
    ValueError) for less than one split.
    """
    return Grid(_splits(num_splits), cross_val_index_arg_name.lstrip("-"), metric_name, "crossval")


def create_grid_hyperdrive_config(values: Sequence[Scalar], argument_name: str, metric_name: str) -> Grid:
    """A sweep with one run for each of *values*, as `--{argument_name} VALUE`, for *hyperdrive_config* of
    `submit_to_azure_if_needed`.

    Otherwise like `create_crossval_hyperdrive_config`. Raises BadUsage (also a ValueError) without values.
    """
    return Grid(_some(values), argument_name.lstrip("-"), metric_name)


def create_crossval_hyperparam_args_v2(
    num_splits: int, cross_val_index_arg_name: str = "crossval_index", metric_name: str = "val/loss"
) -> dict[str, Any]:
    """A cross-validation like `create_crossval_hyperdrive_config`, for *hyperparam_args* of
    `submit_to_azure_if_needed`.

    Raises BadUsage (also a ValueError) unless *num_splits* is a positive integer.
    """
    return create_grid_hyperparam_args_v2(_splits(num_splits), cross_val_index_arg_name, metric_name)


def create_grid_hyperparam_args_v2(values: Sequence[Scalar], argument_name: str, metric_name: str) -> dict[str, Any]:
    """A grid like `create_grid_hyperdrive_config`, for *hyperparam_args* of `submit_to_azure_if_needed`. The values are
    a list, not azure-ai-ml's Choice.

    Raises BadUsage (also a ValueError) without values, or if *values* is a string.
    """
    return {
        MAX_TOTAL_TRIALS_ARG: len(values),
        PARAM_SAMPLING_ARG: {argument_name: _some(values)},
        SAMPLING_ALGORITHM_ARG: "grid",
        PRIMARY_METRIC_ARG: metric_name,
        GOAL_ARG: "Minimize",
    }


def _splits(number: Any) -> list[str]:
    """The numbers of the splits as text, as in the tags of hi-ml's runs."""
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise WrongArgument(f"num_splits must be an integer, not {number!r}.")
    if number < 1:
        raise WrongArgument(f"num_splits must be at least 1, not {number}.")
    return [str(index) for index in range(number)]


def _some(values: Sequence[Scalar]) -> list[Scalar]:
    if isinstance(values, str) or not values:
        raise WrongArgument(f"values must be a list with at least one value, not {values!r}.")
    return list(values)


def sweep_of_config(config: Any) -> SweepSpec:
    """The sweep of *config*, a Grid or azureml's HyperDriveConfig. Raises BadUsage for unsupported settings."""
    if isinstance(config, Grid):
        values = tuple(config.values)
        space = {config.argument: SearchRange(Draw.choice, values)}
        return SweepSpec(space, max_trials=len(values), primary_metric=config.metric, kind=config.kind)
    if not hasattr(config, "_generator_config") or not hasattr(config, "_primary_metric_config"):
        raise BadUsage(
            f"hyperdrive_config must be a HyperDriveConfig, not {type(config).__qualname__}.",
            hint="Use azureml.train.hyperdrive, or create_crossval_hyperdrive_config.",
        )
    for name in ("estimator", "pipeline", "resume_from", "resume_child_runs"):
        if getattr(config, f"_{name}", None):
            raise BadUsage(
                f"hyperdrive_config has the argument {name}, which himl does not support.",
                hint="Only pass run_config=ScriptRunConfig(source_directory='') to it.",
            )
    generator, metric = config._generator_config, config._primary_metric_config
    concurrent, policy = config._max_concurrent_runs, config._policy_config
    samplings = {"random": "random", "grid": "grid", "bayesianoptimization": "bayesian"}
    policies = {"bandit": "bandit", "medianstopping": "median", "truncationselection": "truncation"}
    policy_name = str(policy.get("name") or "default")
    early_stop = None
    if policy_name.lower() != "default":
        early_stop = _policy(_known(policies, policy_name, "policy"), policy.get("properties") or {})
    # The default limit of a HyperDriveConfig is a week. That of a sweep job is 60 days.
    minutes = config._max_duration_minutes or 10080
    return SweepSpec(
        space=space_of(generator["parameter_space"]),
        sampling=_known(samplings, generator["name"], "sampling"),
        max_trials=config._max_total_runs,
        # The SDK's form of all trials is their total number.
        max_concurrent=None if concurrent == config._max_total_runs else concurrent,
        primary_metric=metric["name"],
        goal=metric["goal"].lower(),
        early_stop=early_stop,
        max_seconds=minutes * 60,
    )


def _known(words: Mapping[str, str], name: str, what: str) -> str:
    if name.lower() not in words:
        raise BadUsage(f"hyperdrive_config: unknown {what} '{name}'.")
    return words[name.lower()]
