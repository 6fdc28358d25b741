"""Sweeps that are over, put into a workspace at once: many trials with curves, without running any."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from tests.servers.azureml.job_records import new_job
from tests.servers.azureml.jobs.manner import Manner
from tests.servers.azureml.jobs.sweeps.best import Best
from tests.servers.azureml.jobs.sweeps.space import Values
from tests.servers.azureml.jobs.sweeps.trials import AS_IT_IS, add_trial
from tests.servers.azureml.seeding import Number, StagedWorkspace
from tests.servers.azureml.state import Metric, Point, Run

Curves = Callable[[int, Values], Mapping[str, Sequence[Number]]]
"""The metrics of the trial with this number and these values: each a curve whose steps count from 0."""


def add_sweep(
    azure: StagedWorkspace,
    name: str,
    values: Sequence[Values],
    curves: Curves | None = None,
    *,
    experiment: str = "tuning",
    primary_metric: str = "accuracy",
    goal: str = "maximize",
    statuses: Mapping[int, str] | None = None,
    seconds: float = 60.0,
    manner: Manner = AS_IT_IS,
    **fields: Any,
) -> Run:
    """A sweep *name* with a trial `{name}_{i}` for each of *values*, all Completed but those that *statuses* name by number.

    Trials began a second apart and took *seconds*; a sweep any of whose trials is still running is Running itself. *fields*: the sweep's (tags, ...).
    Of *manner* `values_in` counts.
    """
    properties = {
        "jobType": "Sweep",
        "experimentName": experiment,
        "computeId": f"{azure.state.path}/computes/cpu-cluster",
        "searchSpace": {key: ["choice", [sorted({one[key] for one in values}, key=str)]] for key in (values[0] if values else {"lr": 0.1})},
        "samplingAlgorithm": {"samplingAlgorithmType": "Grid"},
        "objective": {"goal": goal, "primaryMetric": primary_metric},
        "limits": {"jobLimitsType": "Sweep", "maxTotalTrials": max(1, len(values)), "maxConcurrentTrials": max(1, len(values)), "timeout": "PT24H"},
        "trial": {"command": "python train.py", "environmentId": "azureml:training:1"},
        **fields,
    }
    sweep = new_job(azure.state, name, properties)
    begun = sweep.created - timedelta(seconds=seconds + len(values))
    sweep.created = sweep.started = begun
    best = Best(sweep, primary_metric, maximize=goal == "maximize")
    for index, one in enumerate(values):
        trial = add_trial(azure.state, sweep, index, one, manner)
        _over(trial, (statuses or {}).get(index, "Completed"), begun + timedelta(seconds=index), seconds)
        for metric, curve in (curves(index, one) if curves else {}).items():
            _log(trial, metric, curve)
        best.see(trial)
    ended = not any(status == "Running" for status in (statuses or {}).values())
    _over(sweep, "Completed" if ended else "Running", begun, seconds + len(values))
    sweep.tags["_aml_system_all_jobs_generated"] = json.dumps(ended)
    if ended:
        best.close()
    return sweep


def _over(run: Run, status: str, begun: datetime, seconds: float) -> None:
    run.created = run.started = begun
    run.status, run.ended = status, None if status == "Running" else begun + timedelta(seconds=seconds)


def _log(run: Run, name: str, curve: Sequence[Number]) -> None:
    metric = run.metrics.setdefault(name, Metric(name, columns={name: "String" if curve and isinstance(curve[0], str) else "Double"}))
    begun = run.started or run.created
    metric.points += [Point({name: value}, step, begun + timedelta(milliseconds=step), f"{run.run_id}_{name}_{step}") for step, value in enumerate(curve)]
