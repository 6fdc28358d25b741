"""Bearing with a service that does not answer."""

from __future__ import annotations

import pytest

from himl_cli.core.errors import ServiceFailed
from himl_cli.core.events import Event, Notice
from himl_cli.services.patience import Patience


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_failure_is_said_once_and_counts_after_its_time() -> None:
    said: list[Event] = []
    clock = Clock()
    patience = Patience(said.append, seconds=600, clock=clock)
    patience.bear(ServiceFailed("No answer."))
    clock.now = 600
    patience.bear(ServiceFailed("No answer."))
    assert said == [Notice("No answer. Still trying; the run goes on meanwhile.")]
    clock.now = 601
    with pytest.raises(ServiceFailed, match="No answer"):
        patience.bear(ServiceFailed("No answer."))


def test_an_answer_begins_the_time_anew() -> None:
    said: list[Event] = []
    clock = Clock()
    patience = Patience(said.append, seconds=600, clock=clock)
    patience.answered()
    patience.bear(ServiceFailed("Away."))
    patience.answered()
    clock.now = 900
    patience.bear(ServiceFailed("Away again."))
    clock.now = 1000
    patience.bear(ServiceFailed("Away again."))
    assert [event.text for event in said if isinstance(event, Notice)] == [
        "Away. Still trying; the run goes on meanwhile.",
        "The service answers again.",
        "Away again. Still trying; the run goes on meanwhile.",
    ]
