"""A sweep as azureml-train-core has it, a HyperDriveConfig round the ScriptRunConfig of its trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.installing import install_command
from himl_cli.core.jobs import EntryKind, JobSpec
from himl_cli.core.sweeps import PLACEHOLDER, SEARCH_SPACE, Draw, EarlyStop, SearchRange, SweepSpec
from himl_cli.workspaces.azure.jobs.sweeps import at_once, wire_values
from himl_cli.workspaces.azure.jobs_v1.sdk import EXTRA

MOST_AT_ONCE = 100
"""Trials at a time that the service takes; without a number the SDK sends that of all trials."""
_OTHER_WAY = "Leave --sdk v1 out."


def check_sweep(spec: JobSpec) -> None:
    """Raises BadUsage where azureml-train-core is missing, and for trials that HyperDrive cannot start: it adds `--NAME
    VALUE` to a script's arguments."""
    if not _is_there():
        raise BadUsage(
            "A sweep with --sdk v1 needs azureml-train-core, which is not installed.",
            hint=f"Install it: {install_command(EXTRA)}",
        )
    if spec.entry.kind is not EntryKind.script:
        raise BadUsage("With --sdk v1 a sweep runs a Python script, and no module or shell script.", hint=_OTHER_WAY)
    for text in without_values(spec.arguments):
        if PLACEHOLDER.search(text) and not PLACEHOLDER.fullmatch(text):
            raise BadUsage(
                f"'{text}': with --sdk v1 the arguments of a sweep hold folders of data as whole words only.",
                hint=_OTHER_WAY,
            )
        if f"{SEARCH_SPACE}." in text:
            raise BadUsage(
                f"'{text}': with --sdk v1 a hyperparameter is given to the script as --NAME, and in no other way.",
                hint=_OTHER_WAY,
            )


def _is_there() -> bool:
    try:
        return find_spec("azureml.train.hyperdrive") is not None
    except ModuleNotFoundError:
        return False


def without_values(arguments: Sequence[str]) -> list[str]:
    """*arguments* without those that say what HyperDrive adds by itself: `--NAME ${{search_space.NAME}}`, as two words
    or with `=`."""
    left: list[str] = []
    for text in arguments:
        option, equals, value = text.partition("=")
        if equals and _names(value) == option.removeprefix("--") and option.startswith("--"):
            continue
        name = _names(text)
        if name and left and left[-1] == f"--{name}":
            left.pop()
            continue
        left.append(text)
    return left


def _names(text: str) -> str:
    """The hyperparameter whose value *text* is; empty for other texts."""
    found = PLACEHOLDER.fullmatch(text)
    return found[2] if found and found[1] == SEARCH_SPACE else ""


def hyperdrive_config(sweep: SweepSpec, trial: Any, run_id: str) -> Any:
    """The `azureml.train.hyperdrive.HyperDriveConfig` that runs *trial*, a ScriptRunConfig, as *sweep* says."""
    from azureml.train import hyperdrive as sdk

    samplings = {
        "grid": sdk.GridParameterSampling,
        "random": sdk.RandomParameterSampling,
        "bayesian": sdk.BayesianParameterSampling,
    }
    limit = {} if sweep.max_seconds is None else {"max_duration_minutes": max(1, math.ceil(sweep.max_seconds / 60))}
    return sdk.HyperDriveConfig(
        run_config=trial,
        hyperparameter_sampling=samplings[sweep.sampling](
            {name: _expression(one) for name, one in sweep.space.items()}
        ),
        policy=_policy(sdk, sweep.early_stop),
        primary_metric_name=sweep.primary_metric,
        primary_metric_goal=sdk.PrimaryMetricGoal.from_str(sweep.goal),
        max_total_runs=sweep.max_trials,
        max_concurrent_runs=at_once(sweep) or min(sweep.max_trials, MOST_AT_ONCE),
        custom_run_id=run_id,
        **limit,
    )


def _expression(space: SearchRange) -> list[Any]:
    """What azureml's `choice`, `uniform`, … give."""
    values = wire_values(space)
    return [space.draw.value, [values] if space.draw is Draw.choice else values]


def _policy(sdk: Any, stop: EarlyStop | None) -> Any:
    if stop is None:
        return None
    when = {"evaluation_interval": stop.evaluation_interval, "delay_evaluation": stop.delay_evaluation}
    if stop.policy == "bandit":
        return sdk.BanditPolicy(slack_factor=stop.slack_factor, slack_amount=stop.slack_amount, **when)
    if stop.policy == "truncation":
        return sdk.TruncationSelectionPolicy(truncation_percentage=stop.truncation_percentage, **when)
    return sdk.MedianStoppingPolicy(**when)
