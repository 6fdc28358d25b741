"""Durations, times, sizes and JSON."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from pathlib import PurePosixPath

import pytest

from himl_cli.core.errors import RunNotFound
from himl_cli.core.runs import Run, RunStatus
from himl_cli.render.forms import json_form
from himl_cli.render.output import duration_text, local_time, size_text

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0, "0.0s"),
        (0.349, "0.3s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (65, "1m 05s"),
        (3599.9, "1h 00m"),
        (7500, "2h 05m"),
        (86400, "1d 00h"),
        (400_000, "4d 15h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (4096, "4.1 KB"), (999_960, "1.0 MB"), (1_500_000, "1.5 MB"), (7 * 10**15, "7000.0 TB")]
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


def test_local_times_say_as_much_as_is_needed() -> None:
    here = NOON.astimezone()
    assert local_time(None) == ""
    assert local_time(NOON, here) == f"{here:%H:%M}"
    assert local_time(NOON, here + timedelta(days=3)) == f"{here:%b %d %H:%M}"
    assert local_time(NOON, here + timedelta(days=400)) == f"{here:%Y-%m-%d}"


def test_json_is_strict() -> None:
    form = json_form(
        {"nan": math.nan, "up": math.inf, "down": -math.inf, "time": NOON, "path": PurePosixPath("a/b"), "md5": b"\x01\xff", "set": {1}, "none": None}
    )
    assert json.loads(json.dumps(form, allow_nan=False)) == {
        "nan": "NaN",
        "up": "Infinity",
        "down": "-Infinity",
        "time": "2026-03-01T12:00:00.123Z",
        "path": "a/b",
        "md5": "01ff",
        "set": [1],
        "none": None,
    }


def test_times_of_other_zones_are_shown_in_utc() -> None:
    assert json_form(NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))) == "2026-03-01T12:00:00.123Z"


def test_a_run_that_has_not_started() -> None:
    form = json_form(Run("r", "e", RunStatus.queued, NOON))
    assert (form["started"], form["duration"], form["ended"], form["status"]) == (None, None, None, "Queued")


def test_errors_have_code_message_and_hint() -> None:
    assert json_form(RunNotFound("x", "here", similar=["y"])) == {"code": "run_not_found", "message": "No run 'x' in here.", "hint": "Did you mean y?"}
