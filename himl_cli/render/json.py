"""Records as JSON: the form of each kind of record, in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timezone
from enum import Enum
from pathlib import PurePath
from typing import Any

from himl_cli.core.errors import HimlError
from himl_cli.core.runs import Metric, Run, RunDetails, Texts


def json_form(value: Any) -> Any:
    """*value* in types that strict JSON has: times in UTC (ISO 8601), NaN and infinities as strings, bytes as hex
    digits, records by field."""
    if isinstance(value, Run):
        return run_form(value)
    if isinstance(value, (Metric, Texts)):
        return metric_form(value)
    if isinstance(value, RunDetails):
        return details_form(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_form(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): json_form(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_form(entry) for entry in value]
    return _plain_form(value)


def _plain_form(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return float_form(value)
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, HimlError):
        return {"code": value.code, "message": str(value), "hint": value.hint}
    if isinstance(value, PurePath):
        return str(value)
    return value


def run_form(run: Run) -> dict[str, Any]:
    """A run: `id, experiment, display_name, status, started, duration (seconds), tags` first, then all else that is
    known."""
    duration = run.duration
    return {
        "id": run.id,
        "experiment": run.experiment,
        "display_name": run.display_name,
        "status": run.status.value,
        "started": json_form(run.started),
        "duration": None if duration is None else round(duration, 3),
        "tags": dict(run.tags),
        "created": json_form(run.created),
        "ended": json_form(run.ended),
        "parent": run.parent,
        "exit_code": run.exit_code,
        "reason": run.reason,
        "description": run.description,
        "command": run.command,
        "workspace": run.workspace.removeprefix("workspace "),
        "folder": run.folder,
        "url": run.url,
        "recovery_id": run.recovery_id,
    }


def details_form(details: RunDetails) -> dict[str, Any]:
    """A run with all that was logged; its trials with their values and the last value of the primary metric, its steps
    with what is below them."""
    form = run_form(details.run) | {
        name: json_form(getattr(details, name)) for name in ("parameters", "metrics", "texts")
    }
    if details.sweep is None:
        return form | {"children": [_nested_form(child, details) for child in details.children]}
    sweep = details.sweep
    trials = {
        trial.run.id: {"hyperparameters": dict(trial.hyperparameters), "primary_metric": json_form(trial.value)}
        for trial in sweep.trials
    }
    children = [run_form(child) | trials.get(child.id, {}) for child in details.children]
    return form | {
        "primary_metric": {"name": sweep.metric, "goal": sweep.goal, "best": sweep.best or None},
        "children": children,
    }


def _nested_form(run: Run, details: RunDetails) -> dict[str, Any]:
    below = details.below.get(run.id)
    return (
        run_form(run)
        if below is None
        else run_form(run) | {"children": [_nested_form(each, details) for each in below]}
    )


def metric_form(metric: Metric | Texts) -> dict[str, Any]:
    """A metric or texts in short: the last value and its step, how many values there are, and the run that logged
    them."""
    return {
        "name": metric.name,
        "value": _plain_form(metric.last.value),
        "step": metric.last.step,
        "count": len(metric.points),
        "run": metric.run,
    }


def float_form(value: float) -> float | str:
    """JSON has no word for these three."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def utc_text(time: datetime) -> str:
    """`2026-03-01T12:00:00.000Z`; always of this width, so that text sorts by time."""
    utc = time.astimezone(timezone.utc)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"
