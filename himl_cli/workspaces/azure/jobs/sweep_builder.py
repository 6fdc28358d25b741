"""A sweep as azure-ai-ml has it. Import it after `sdk.load_sdk`."""

from __future__ import annotations

from typing import Any

from azure.ai.ml import sweep as sdk

from himl_cli.core.sweeps import Draw, SearchRange, SweepSpec, argument_names
from himl_cli.workspaces.azure.jobs.sweeps import at_once, early_stop_fields, wire_values
from himl_cli.workspaces.azure.runs.limits import limit_of

_POLICIES = {
    "bandit": sdk.BanditPolicy,
    "median": sdk.MedianStoppingPolicy,
    "truncation": sdk.TruncationSelectionPolicy,
}
_DISTRIBUTIONS: dict[Draw, Any] = {
    Draw.uniform: sdk.Uniform,
    Draw.loguniform: sdk.LogUniform,
    Draw.normal: sdk.Normal,
    Draw.lognormal: sdk.LogNormal,
    Draw.randint: sdk.Randint,
    Draw.quniform: sdk.QUniform,
    Draw.qloguniform: sdk.QLogUniform,
    Draw.qnormal: sdk.QNormal,
    Draw.qlognormal: sdk.QLogNormal,
}


def sweep_job(trial: Any, sweep: SweepSpec, *, trial_seconds: int | None) -> Any:
    """The sweep whose trials are *trial*, a command job of azure-ai-ml: what they have in common, names and data too,
    is the sweep's."""
    return sdk.SweepJob(
        name=trial.name,
        display_name=trial.display_name,
        description=trial.description,
        experiment_name=trial.experiment_name,
        tags=trial.tags,
        properties=trial.properties,
        compute=trial.compute,
        inputs=trial.inputs,
        outputs=trial.outputs,
        identity=trial.identity,
        trial=trial,
        search_space={name: _space(one) for name, one in sweep.space.items()},
        sampling_algorithm=_sampling(sweep),
        objective=sdk.Objective(goal=sweep.goal, primary_metric=sweep.primary_metric),
        limits=sdk.SweepJobLimits(
            max_total_trials=sweep.max_trials,
            max_concurrent_trials=at_once(sweep),
            timeout=None if sweep.max_seconds is None else limit_of(sweep.max_seconds),
            trial_timeout=trial_seconds,
        ),
        early_termination=_POLICIES[sweep.early_stop.policy](**early_stop_fields(sweep)) if sweep.early_stop else None,
    )


def _space(space: SearchRange) -> Any:
    values = wire_values(space)
    if space.draw is Draw.choice:
        return sdk.Choice([*values])
    return _DISTRIBUTIONS[space.draw](**dict(zip(argument_names(space.draw), values, strict=True)))


def _sampling(sweep: SweepSpec) -> Any:
    if sweep.sampling == "random":
        return sdk.RandomSamplingAlgorithm(seed=sweep.seed)
    return sdk.GridSamplingAlgorithm() if sweep.sampling == "grid" else sdk.BayesianSamplingAlgorithm()
