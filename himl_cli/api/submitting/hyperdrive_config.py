"""hi-ml's `hyperdrive_config`: azureml's HyperDriveConfig, or himl's own, as a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from himl_cli.api.submitting.search_spaces import space_of
from himl_cli.api.submitting.words import WrongArgument
from himl_cli.core.errors import BadUsage
from himl_cli.core.sweeps import Draw, EarlyStop, SearchRange, SweepSpec

LONGEST_MINUTES = 10080
"""HyperDrive's own limit, which a HyperDriveConfig has where nobody sets one."""
SAMPLINGS = {"random": "random", "grid": "grid", "bayesianoptimization": "bayesian"}
POLICIES = {"bandit": "bandit", "medianstopping": "median", "truncationselection": "truncation"}
NO_POLICY = "default"


@dataclass(frozen=True)
class CrossValidation:
    """What `create_crossval_hyperdrive_config` gives: one run for each of `num_splits` splits, which it finds in its argument `--{argument}`."""

    num_splits: int
    argument: str
    metric: str

    @property
    def sweep(self) -> SweepSpec:
        space = {self.argument: SearchRange(Draw.choice, tuple(range(self.num_splits)))}
        return SweepSpec(space, max_trials=self.num_splits, primary_metric=self.metric, kind="crossval")


def create_crossval_hyperdrive_config(num_splits: int, cross_val_index_arg_name: str = "crossval_index", metric_name: str = "val/loss") -> CrossValidation:
    """What `submit_to_azure_if_needed` takes as *hyperdrive_config* to run a cross-validation: *num_splits* runs of the script.

    Each gets `--{cross_val_index_arg_name} i`, from 0 on, and should log *metric_name*, by which Azure ML shows the best. Unlike hi-ml's it needs no
    azureml package, and works with both SDKs. Raises BadUsage (also a ValueError) for fewer than one split.
    """
    if num_splits < 1:
        raise WrongArgument(f"num_splits is at least 1, not {num_splits}.")
    return CrossValidation(num_splits, cross_val_index_arg_name.lstrip("-"), metric_name)


def sweep_of_config(config: Any) -> SweepSpec:
    """The sweep that *config* describes, a CrossValidation or a HyperDriveConfig of azureml. Raises BadUsage for what cannot be sent."""
    if isinstance(config, CrossValidation):
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
        max_concurrent=config._max_concurrent_runs,
        primary_metric=metric["name"],
        goal=metric["goal"].lower(),
        early_stop=_early_stop(config._policy_config),
        max_seconds=minutes * 60 if minutes and minutes < LONGEST_MINUTES else None,
    )


def _check_supported(config: Any) -> None:
    for name in ("estimator", "pipeline", "resume_from", "resume_child_runs"):
        if getattr(config, f"_{name}", None):
            raise BadUsage(
                f"hyperdrive_config has the argument {name}, which himl cannot send.", hint="Give it run_config=ScriptRunConfig(source_directory='') alone."
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
