"""Runs and what they logged, made by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone

from himl_cli.core.jobs import HYPERPARAMETERS
from himl_cli.core.logged import Aggregation, Child, RunResults, Value
from himl_cli.core.runs import Run, RunStatus

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def run(run_id: str, *, values: Mapping[str, object] | None = None, tags: Mapping[str, str] | None = None, command: str = "", **fields: str) -> Run:
    """A completed run; *values* are its hyperparameters."""
    own = {HYPERPARAMETERS: json.dumps(values)} if values is not None else {}
    return Run(run_id, "train", RunStatus.completed, NOON, tags={**own, **(tags or {})}, command=command, **fields)  # type: ignore[arg-type]


def aggregation(all_last: Mapping[str, Mapping[str, Value]]) -> Aggregation:
    """Last values by label."""
    children = [Child(run(label), label, {}, RunResults(last)) for label, last in all_last.items()]
    return Aggregation(sorted({name for last in all_last.values() for name in last}), children)
