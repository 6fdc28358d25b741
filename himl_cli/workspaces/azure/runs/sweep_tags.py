"""What the tags and properties of a sweep and of its trials say, in the words that both workspaces have for it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from himl_cli.core.sweeps import BEST_TRIAL, GOAL, HYPERPARAMETERS, MANY, PRIMARY_METRIC, TRIAL

SYSTEM_TAG = "_aml_system_"
"""How the names of tags begin that the service writes for itself; Studio does not show them either."""
METRIC_CONFIG, BEST_CHILD = "primary_metric_config", "best_child_run_id"
"""Properties of a sweep."""
PIPELINE_TYPE = "azureml.pipelinerun"
_NUMBER = re.compile(r"_(\d+)")


def own_names(raw: Mapping[str, Any]) -> set[str]:
    """The names of the tags of *raw* that the service wrote for itself.

    Of a sweep these are thousands of characters: its settings, written twice (with the prefix, and for older SDKs without), and the values of every trial.
    """
    tags, run_id = raw.get("tags") or {}, str(raw.get("runId") or "")
    return {name for name in tags if name.startswith(SYSTEM_TAG) or _is_twin(name, tags) or _is_of_trial(name, run_id)}


def _is_twin(name: str, tags: Mapping[str, Any]) -> bool:
    return f"{SYSTEM_TAG}{name}" in tags and name != HYPERPARAMETERS


def _is_of_trial(name: str, run_id: str) -> bool:
    return bool(run_id) and name.startswith(run_id) and _NUMBER.fullmatch(name, len(run_id)) is not None


def sweep_tags(raw: Mapping[str, Any]) -> dict[str, str]:
    """himl's tags for what *raw* says of itself as a sweep, a trial or a pipeline in words of its own; empty for other runs."""
    if str(raw.get("runType") or "").lower() == PIPELINE_TYPE:
        return {MANY: "pipeline"}
    return _of_sweep(raw.get("properties") or {}) | _of_trial(raw)


def _of_sweep(properties: Mapping[str, Any]) -> dict[str, str]:
    try:
        config = json.loads(properties.get(METRIC_CONFIG) or "{}")
    except (TypeError, ValueError):
        return {}
    if not isinstance(config, dict) or not config.get("name"):
        return {}
    said = {MANY: "sweep", PRIMARY_METRIC: config["name"], GOAL: config.get("goal"), BEST_TRIAL: properties.get(BEST_CHILD)}
    return {name: str(value).lower() if name == GOAL else str(value) for name, value in said.items() if value}


def _of_trial(raw: Mapping[str, Any]) -> dict[str, str]:
    """A trial's number is in its id: `{sweep}_{number}`."""
    run_id, parent = str(raw.get("runId") or ""), str(raw.get("parentRunId") or "")
    if not parent or HYPERPARAMETERS not in (raw.get("tags") or {}) or not run_id.startswith(parent):
        return {}
    found = _NUMBER.fullmatch(run_id, len(parent))
    return {TRIAL: found[1]} if found else {}
