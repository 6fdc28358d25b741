"""What counts as wrong with answers of a job's server, and with what is left on its record."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from stress.endpoint.cases import GROWTH, THREADS, endpoint_cases, wrong_figures, wrong_record
from stress.endpoint.requests import Door, draw
from stress.endpoint.talking import exchange, is_told_in_json, status_of
from stress.endpoint.targets import Kept, Target
from stress.endpoint.watch import Watch
from stress.gauges import Gauge
from tests.workspaces.tracking.tracked_job import JOB, tracked_job

KEPT = Kept([0, 1], frozenset({"kept"}), {"right_7": "x", "git": "abc"}, 1, "Running")


def door(port: int, token: str) -> Door:
    return Door(port, token, JOB)


def test_there_are_thirty_thousand_random_requests() -> None:
    assert sum(case.cell == "endpoint/requests/tracked" for case in endpoint_cases()) == 30


def test_drawn_requests_are_reproducible_and_few_are_valid() -> None:
    drawn = [draw(door(5000, "0a" * 24), random.Random(number), number) for number in range(400)]
    assert drawn[:20] == [draw(door(5000, "0a" * 24), random.Random(number), number) for number in range(20)]
    assert 20 < sum(200 in one.answers for one in drawn) < 120
    assert all((200 in one.answers) == (one.text == "right") == bool(one.tag) for one in drawn)


def test_each_request_gets_the_answer_that_is_expected(tmp_path: Path) -> None:
    with tracked_job(tmp_path / "j") as job:
        for number in range(150):
            one = draw(door(job.server.port, job.secret), random.Random(number), number)
            reply = exchange(job.server.port, one.content)
            assert status_of(reply) in one.answers, one.text
            assert status_of(reply) == 200 or is_told_in_json(reply), one.text


def test_a_record_that_strangers_changed_is_told() -> None:
    assert wrong_record(KEPT, 2, frozenset({"right_7"}), is_submitted=False) == []
    worse = {
        "steps": Kept([0], KEPT.metrics, KEPT.tags, 1, "Running"),
        "metrics": Kept([0, 1], frozenset({"kept", "intruder_1"}), KEPT.tags, 1, "Running"),
        "tags": Kept([0, 1], KEPT.metrics, {**KEPT.tags, "intruder_1": "x"}, 1, "Running"),
        "lacking": Kept([0, 1], KEPT.metrics, {"git": "abc"}, 1, "Running"),
        "more": Kept([0, 1], KEPT.metrics, {**KEPT.tags, "right_8": "x"}, 1, "Running"),
        "runs": Kept([0, 1], KEPT.metrics, KEPT.tags, 2, "Running"),
        "status": Kept([0, 1], KEPT.metrics, KEPT.tags, 1, "Failed"),
    }
    assert {name: len(wrong_record(kept, 2, frozenset({"right_7"}), is_submitted=False)) for name, kept in worse.items()} == dict.fromkeys(worse, 1)
    assert wrong_record(Kept([0, 1], frozenset({"kept"}), KEPT.tags, 1, "Completed"), 2, frozenset({"right_7"}), is_submitted=True) == [
        "the last value of the job is lacking"
    ]


def test_figures_have_bounds() -> None:
    watch = Watch(Target(1, "x", JOB, Gauge(1), Path(), Path()))
    watch.waits = [0.1]
    assert wrong_figures(watch, 0) == []
    watch.threads, watch.handles, watch.growth, watch.waits = THREADS + 1, THREADS + 1, GROWTH + 1, [61.0]
    assert len(wrong_figures(watch, 1 << 20)) == 5


@pytest.mark.parametrize(
    ("reply", "status", "is_told"), [(b"", 0, True), (b"HTTP/1.1 401 x\r\n\r\n<html>", 401, False), (b"HTTP/1.1 501 x\r\n\r\n", 501, True)]
)
def test_replies_are_read(reply: bytes, status: int, is_told: bool) -> None:
    assert (status_of(reply), is_told_in_json(reply)) == (status, is_told)
