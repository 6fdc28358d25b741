"""A sweep as YAML for Azure ML's own command line, made of the YAML of its trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from himl_cli.core.sweeps import Draw, SearchRange, SweepSpec, argument_names
from himl_cli.workspaces.azure.jobs.sweeps import at_once, early_stop_fields, wire_values
from himl_cli.workspaces.azure.runs.limits import limit_of

SCHEMA = "https://azuremlschemas.azureedge.net/latest/sweepJob.schema.json"
OF_TRIAL = ("code", "command", "environment", "environment_variables", "distribution", "resources")
_POLICIES = {"bandit": "bandit", "median": "median_stopping", "truncation": "truncation_selection"}


def sweep_document(trial: Mapping[str, Any], sweep: SweepSpec) -> dict[str, Any]:
    """The document of a sweep, of that of the command job *trial*: what the trials share moves below `trial`."""
    limits: dict[str, Any] = {"max_total_trials": sweep.max_trials}
    if sweep.max_concurrent is not None:
        limits["max_concurrent_trials"] = at_once(sweep)
    if sweep.max_seconds is not None:
        limits["timeout"] = limit_of(sweep.max_seconds)
    timeout = (trial.get("limits") or {}).get("timeout")
    return {
        **{name: value for name, value in trial.items() if name not in OF_TRIAL},
        "$schema": SCHEMA,
        "type": "sweep",
        "trial": {name: trial[name] for name in OF_TRIAL if name in trial},
        "search_space": {name: _space(one) for name, one in sweep.space.items()},
        "sampling_algorithm": {"type": "random", "seed": sweep.seed}
        if sweep.sampling == "random" and sweep.seed is not None
        else sweep.sampling,
        "objective": {"goal": sweep.goal, "primary_metric": sweep.primary_metric},
        "limits": limits | ({"trial_timeout": timeout} if timeout else {}),
        **(
            {"early_termination": {"type": _POLICIES[sweep.early_stop.policy], **early_stop_fields(sweep)}}
            if sweep.early_stop
            else {}
        ),
    }


def _space(space: SearchRange) -> dict[str, Any]:
    values = wire_values(space)
    if space.draw is Draw.choice:
        return {"type": space.draw.value, "values": values}
    return {"type": space.draw.value, **dict(zip(argument_names(space.draw), values, strict=True))}
