"""What the tags and properties of a sweep and of its trials say, in the words that both workspaces have for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from himl_cli.core.sweeps import BEST_TRIAL, GOAL, HYPERPARAMETERS, MANY, PRIMARY_METRIC, TRIAL
from himl_cli.core.text import read_json

SYSTEM_TAG = "_aml_system_"
"""How the names of tags begin that the service writes for itself; Studio does not show them either."""
METRIC_CONFIG, BEST_CHILD = "primary_metric_config", "best_child_run_id"
"""Properties of a sweep."""
STEP_TAGS = ("azureml.nodeid", "azureml.pipeline")
"""Tags that the service gives to each step of a pipeline."""
PIPELINE_TYPE = "azureml.pipelinerun"
SWEEP_TYPES = ("hyperdrive", "sweep")
_NUMBER = re.compile(r"_(\d+)")


def own_names(raw: Mapping[str, Any]) -> set[str]:
    """The names of the tags of *raw* that the service wrote for itself.

    Of a sweep these are thousands of characters: its settings, written twice (with the prefix, and for older SDKs
    without), and the values of every trial.
    """
    tags, run_id = raw.get("tags") or {}, str(raw.get("runId") or "")
    return {
        name
        for name in tags
        if name.startswith(SYSTEM_TAG) or name in STEP_TAGS or _is_twin(name, tags) or _is_of_trial(name, run_id)
    }


def _is_twin(name: str, tags: Mapping[str, Any]) -> bool:
    return f"{SYSTEM_TAG}{name}" in tags and name != HYPERPARAMETERS


def _is_of_trial(name: str, run_id: str) -> bool:
    return bool(run_id) and name.startswith(run_id) and _NUMBER.fullmatch(name, len(run_id)) is not None


def sweep_tags(raw: Mapping[str, Any]) -> dict[str, str]:
    """himl's tags for what *raw* says of itself as a sweep, a trial or a pipeline in words of its own; empty for other
    runs."""
    if str(raw.get("runType") or "").lower() == PIPELINE_TYPE:
        return {MANY: "pipeline"}
    return _of_sweep(raw.get("properties") or {}) | _of_trial(raw)


def _of_sweep(properties: Mapping[str, Any]) -> dict[str, str]:
    try:
        config = read_json(properties.get(METRIC_CONFIG) or "{}")
    except (TypeError, ValueError):
        return {}
    if not isinstance(config, dict) or not config.get("name"):
        return {}
    said = {
        MANY: "sweep",
        PRIMARY_METRIC: config["name"],
        GOAL: config.get("goal"),
        BEST_TRIAL: properties.get(BEST_CHILD),
    }
    return {name: str(value).lower() if name == GOAL else str(value) for name, value in said.items() if value}


def is_sweep(raw: Mapping[str, Any]) -> bool:
    """Whether the run is a sweep, of whichever client."""
    return str(raw.get("runType") or "").lower() in SWEEP_TYPES or bool(_of_sweep(raw.get("properties") or {}))


def number_of(raw: Mapping[str, Any]) -> str:
    """The number of a trial, which is in its id, `{sweep}_{number}`; empty for other ids."""
    run_id, parent = str(raw.get("runId") or ""), str(raw.get("parentRunId") or "")
    found = _NUMBER.fullmatch(run_id, len(parent)) if parent and run_id.startswith(parent) else None
    return found[1] if found else ""


def _of_trial(raw: Mapping[str, Any]) -> dict[str, str]:
    """The values of a trial, under whichever name the service keeps them, and its number."""
    tags = raw.get("tags") or {}
    values = tags.get(HYPERPARAMETERS) or tags.get(SYSTEM_TAG + HYPERPARAMETERS)
    number = number_of(raw)
    return ({HYPERPARAMETERS: str(values)} | ({TRIAL: number} if number else {})) if values else {}
