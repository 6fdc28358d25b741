"""Runs that kept checkpoints, and which of them himl takes: for tests of the choice."""

from __future__ import annotations

import os
from collections.abc import Mapping

from himl_cli.services.checkpoints.select import Checkpoint, choice_of
from himl_cli.services.checkpoints.source import find_checkpoint
from tests.recorded_runs import RecordedRuns

RUN = "train_1_aa"
HERE, RETRY = "outputs/checkpoints", "outputs/retry_001/checkpoints"
CREATED = 1_772_366_401  # when the first of RecordedRuns is made


def add(runs: RecordedRuns, *names: str, content: Mapping[str, str] | None = None, tags: Mapping[str, str] | None = None) -> None:
    """A run that kept *names*, below `outputs/checkpoints` unless they say otherwise, each a second later than the one before."""
    full = [name if name.startswith("outputs/") else f"{HERE}/{name}" for name in names]
    runs.add(RUN, files={place: (content or {}).get(name, name) for place, name in zip(full, names, strict=True)}, tags=tags)
    for number, place in enumerate(full):
        os.utime(runs.folder / ".himl" / "runs" / RUN / "code" / place, (CREATED + number, CREATED + number))


def found(runs: RecordedRuns, select: str | None = None, metric: str | None = None, goal: str | None = None, source: str = RUN) -> Checkpoint:
    return find_checkpoint(source, runs.workspace, runs.folder, choice_of(select, metric, goal))


def name(runs: RecordedRuns, select: str | None = None, metric: str | None = None, goal: str | None = None) -> str:
    return found(runs, select, metric, goal).inside.removeprefix(f"{HERE}/")


def log(runs: RecordedRuns, metric: str, values: Mapping[int, float]) -> None:
    runs.log(RUN, [(metric, value, step, step) for step, value in values.items()])
