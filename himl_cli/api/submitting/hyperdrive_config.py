"""hi-ml's `hyperdrive_config`: azureml's HyperDriveConfig, or himl's own, as a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from himl_cli.api.submitting.hyperparam_args import (
    GOAL_ARG,
    MAX_TOTAL_TRIALS_ARG,
    PARAM_SAMPLING_ARG,
    PRIMARY_METRIC_ARG,
    SAMPLING_ALGORITHM_ARG,
)
from himl_cli.api.submitting.search_spaces import space_of
from himl_cli.api.submitting.words import WrongArgument
from himl_cli.core.errors import BadUsage
from himl_cli.core.sweeps import Draw, EarlyStop, Scalar, SearchRange, SweepSpec

LONGEST_MINUTES = 10080
"""HyperDrive's own limit, which a HyperDriveConfig has where nobody sets one. A sweep job without one would have 60
days."""
SAMPLINGS = {"random": "random", "grid": "grid", "bayesianoptimization": "bayesian"}
POLICIES = {"bandit": "bandit", "medianstopping": "median", "truncationselection": "truncation"}
NO_POLICY = "default"


@dataclass(frozen=True)
class Grid:
    """What `create_grid_hyperdrive_config` and its kin give: one run for each of *values*, which it finds in its
    argument `--{argument}`."""

    values: Sequence[Scalar]
    argument: str
    metric: str
    kind: str = "sweep"

    @property
    def sweep(self) -> SweepSpec:
        """The sweep of one run for each value."""
        space = {self.argument: SearchRange(Draw.choice, tuple(self.values))}
        return SweepSpec(space, max_trials=len(self.values), primary_metric=self.metric, kind=self.kind)


def create_crossval_hyperdrive_config(
    num_splits: int, cross_val_index_arg_name: str = "crossval_index", metric_name: str = "val/loss"
) -> Grid:
    """What `submit_to_azure_if_needed` takes as *hyperdrive_config* to run a cross-validation: *num_splits* runs of the
    script.

    Each gets `--{cross_val_index_arg_name} i`, from 0 on, and should log *metric_name*, by which Azure ML shows the
    best. Unlike hi-ml's it needs no azureml package, and works with both SDKs. Raises BadUsage (also a ValueError) for
    fewer than one split.
    """
    return Grid(_splits(num_splits), cross_val_index_arg_name.lstrip("-"), metric_name, "crossval")


def create_grid_hyperdrive_config(values: Sequence[Scalar], argument_name: str, metric_name: str) -> Grid:
    """What `submit_to_azure_if_needed` takes as *hyperdrive_config* to run the script once for each of *values*, with
    `--{argument_name} VALUE`.

    Otherwise as `create_crossval_hyperdrive_config`. Raises BadUsage (also a ValueError) where there are no values.
    """
    return Grid(_some(values), argument_name.lstrip("-"), metric_name)


def create_crossval_hyperparam_args_v2(
    num_splits: int, cross_val_index_arg_name: str = "crossval_index", metric_name: str = "val/loss"
) -> dict[str, Any]:
    """A cross-validation as `create_crossval_hyperdrive_config`, for *hyperparam_args* of `submit_to_azure_if_needed`.

    Raises BadUsage (also a ValueError) where *num_splits* is no whole number, or less than 1.
    """
    return create_grid_hyperparam_args_v2(_splits(num_splits), cross_val_index_arg_name, metric_name)


def create_grid_hyperparam_args_v2(values: Sequence[Scalar], argument_name: str, metric_name: str) -> dict[str, Any]:
    """A grid as `create_grid_hyperdrive_config`, for *hyperparam_args* of `submit_to_azure_if_needed`; the values are a
    list, not azure-ai-ml's Choice.

    Raises BadUsage (also a ValueError) where there are no values, or *values* is a text.
    """
    return {
        MAX_TOTAL_TRIALS_ARG: len(values),
        PARAM_SAMPLING_ARG: {argument_name: _some(values)},
        SAMPLING_ALGORITHM_ARG: "grid",
        PRIMARY_METRIC_ARG: metric_name,
        GOAL_ARG: "Minimize",
    }


def _splits(number: Any) -> list[str]:
    """The numbers of the splits, as texts: so they stand in the tags of hi-ml's runs."""
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise WrongArgument(f"num_splits is a whole number, not {number!r}.")
    if number < 1:
        raise WrongArgument(f"num_splits is at least 1, not {number}.")
    return [str(index) for index in range(number)]


def _some(values: Sequence[Scalar]) -> list[Scalar]:
    if isinstance(values, str) or not values:
        raise WrongArgument(f"values is a list with one value at least, not {values!r}.")
    return list(values)


def sweep_of_config(config: Any) -> SweepSpec:
    """The sweep that *config* describes, a Grid or a HyperDriveConfig of azureml. Raises BadUsage for what cannot be
    sent."""
    if isinstance(config, Grid):
        return config.sweep
    if not hasattr(config, "_generator_config") or not hasattr(config, "_primary_metric_config"):
        raise BadUsage(
            f"hyperdrive_config is no HyperDriveConfig, but of type {type(config).__qualname__}.",
            hint="azureml.train.hyperdrive has that class; create_crossval_hyperdrive_config gives one too.",
        )
    _check_supported(config)
    generator, metric = config._generator_config, config._primary_metric_config
    minutes = config._max_duration_minutes
    return SweepSpec(
        space=space_of(generator["parameter_space"]),
        sampling=_known(SAMPLINGS, generator["name"], "sampling"),
        max_trials=config._max_total_runs,
        max_concurrent=None
        if config._max_concurrent_runs == config._max_total_runs
        else config._max_concurrent_runs,  # the SDK's word for all
        primary_metric=metric["name"],
        goal=metric["goal"].lower(),
        early_stop=_early_stop(config._policy_config),
        max_seconds=(minutes or LONGEST_MINUTES) * 60,
    )


def _check_supported(config: Any) -> None:
    for name in ("estimator", "pipeline", "resume_from", "resume_child_runs"):
        if getattr(config, f"_{name}", None):
            raise BadUsage(
                f"hyperdrive_config has the argument {name}, which himl cannot send.",
                hint="Give it run_config=ScriptRunConfig(source_directory='') alone.",
            )


def _early_stop(policy: Mapping[str, Any]) -> EarlyStop | None:
    name, said = str(policy.get("name") or NO_POLICY), policy.get("properties") or {}
    if name.lower() == NO_POLICY:
        return None
    return EarlyStop(
        _known(POLICIES, name, "policy"),
        evaluation_interval=said.get("evaluation_interval") or 1,
        delay_evaluation=said.get("delay_evaluation") or 0,
        slack_factor=said.get("slack_factor"),
        slack_amount=said.get("slack_amount"),
        truncation_percentage=said.get("truncation_percentage"),
    )


def _known(words: Mapping[str, str], name: str, what: str) -> str:
    if name.lower() not in words:
        raise BadUsage(f"hyperdrive_config: himl does not know the {what} '{name}'.")
    return words[name.lower()]
