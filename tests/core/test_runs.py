"""Tests of the record of a run."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from himl_cli.core.runs import Run, RunStatus

STARTED = datetime(2026, 11, 25, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (3.21, " after 3.2 s"), (100.4, " after 1 min 40 s"), (7499.6, " after 2 h 5 min")],
)
def test_end_is_described_with_its_duration_and_reason(seconds: float | None, text: str) -> None:
    ended = None if seconds is None else STARTED + timedelta(seconds=seconds)
    run = Run("run_1", "train", RunStatus.failed, started=STARTED, ended=ended, reason="exit code 3")
    assert run.end_text == f"failed{text}: exit code 3"
