"""The strict JSON form of each kind of record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import PurePath
from typing import Any

from himl_cli.core.errors import HimlError
from himl_cli.core.logged import Metric, RunDetails, Texts, float_form, machine_use
from himl_cli.core.runs import Run, attempts_of, run_form
from himl_cli.core.text import utc_text


def json_form(value: Any) -> Any:
    """Convert *value* to types of strict JSON: times in UTC (ISO 8601), NaN and infinities as strings, bytes as hex
    digits, records by field."""
    if value is None or type(value) in (str, int, bool):
        return value
    form = FORMS.get(type(value)) or next((form for kind, form in FORMS.items() if isinstance(value, kind)), None)
    if form is not None:
        return form(value)
    assert is_dataclass(value) and not isinstance(value, type), type(value)
    return {field.name: json_form(getattr(value, field.name)) for field in fields(value)}


def extended_form(details: RunDetails, *, machine: bool) -> dict[str, Any]:
    """Extend `details_form` by the use of the machine, and by the environment if it was read."""
    form = details_form(details) | ({"machine": json_form(machine_use(details.metrics))} if machine else {})
    return form | ({"environment": json_form(details.environment)} if details.environment else {})


def details_form(details: RunDetails) -> dict[str, Any]:
    """A run with all logged values. Trials have their hyperparameters and the last value of the primary metric, steps
    have their child runs."""
    logged = {name: json_form(getattr(details, name)) for name in ("parameters", "metrics", "texts")}
    form, sweep = run_form(details.run) | logged, details.sweep
    if attempts := attempts_of(details.run):
        form |= {"attempts": json_form(attempts)}
    if sweep is None:
        return form | {"children": [_nested_form(child, details) for child in details.children]}
    trials = {
        trial.run.id: {"hyperparameters": dict(trial.hyperparameters), "primary_metric": json_form(trial.value)}
        for trial in sweep.trials
    }
    return form | {
        "primary_metric": {"name": sweep.metric, "goal": sweep.goal, "best": sweep.best or None},
        "children": [run_form(child) | trials.get(child.id, {}) for child in details.children],
    }


def _nested_form(run: Run, details: RunDetails) -> dict[str, Any]:
    if run.id not in details.below:
        return run_form(run)
    return run_form(run) | {"children": [_nested_form(each, details) for each in details.below[run.id]]}


def metric_form(metric: Metric | Texts) -> dict[str, Any]:
    """A summary of a metric or of texts: the last value and its step, the number of values, if it is known, and the run
    that logged them."""
    last = metric.last
    return {
        "name": metric.name,
        "value": json_form(last.value),
        "step": last.step,
        "count": metric.count,
        "run": metric.run,
    }


def number_text(value: float | None, digits: int = 6) -> str:
    """A metric's value with *digits* digits. Empty for None."""
    form = "" if value is None else float_form(value)
    return form if isinstance(form, str) else f"{form:.{digits}g}"


FORMS: Mapping[type, Callable[[Any], Any]] = {
    Run: run_form,
    Metric: metric_form,
    Texts: metric_form,
    RunDetails: details_form,
    Mapping: lambda value: {str(name): json_form(entry) for name, entry in value.items()},
    **dict.fromkeys((list, tuple, set, frozenset), lambda value: [json_form(entry) for entry in value]),
    Enum: lambda value: value.value,
    float: float_form,
    datetime: utc_text,
    bytes: bytes.hex,
    HimlError: lambda error: {"code": error.code, "message": str(error), "hint": error.hint},
    PurePath: str,
}
"""The form of each kind of record."""
