"""A service that does not answer for a while."""

from __future__ import annotations

import pytest

from himl_cli.core.errors import ServiceFailed
from himl_cli.core.events import Event, Notice
from himl_cli.services.runs.logs import OutageTolerance


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_failure_is_said_once_and_counts_after_its_time() -> None:
    said: list[Event] = []
    clock = Clock()
    outage = OutageTolerance(said.append, seconds=600, clock=clock)
    outage.failed(ServiceFailed("No answer."))
    clock.now = 600
    outage.failed(ServiceFailed("No answer."))
    assert said == [Notice("No answer. Still trying; the run goes on meanwhile.")]
    clock.now = 601
    with pytest.raises(ServiceFailed, match="No answer"):
        outage.failed(ServiceFailed("No answer."))


def test_an_answer_begins_the_time_anew() -> None:
    said: list[Event] = []
    clock = Clock()
    outage = OutageTolerance(said.append, seconds=600, clock=clock)
    outage.succeeded()
    outage.failed(ServiceFailed("Away."))
    outage.succeeded()
    clock.now = 900
    outage.failed(ServiceFailed("Away again."))
    clock.now = 1000
    outage.failed(ServiceFailed("Away again."))
    assert [event.text for event in said if isinstance(event, Notice)] == [
        "Away. Still trying; the run goes on meanwhile.",
        "The service answers again.",
        "Away again. Still trying; the run goes on meanwhile.",
    ]
