"""Several questions at once: answers in order, one error, nothing left under way."""

from __future__ import annotations

import threading

import pytest

from himl_cli.core.errors import ServiceFailed
from himl_cli.workspaces.azure.http import AT_ONCE, MANY_AT_ONCE, ask_all


def test_answers_come_in_the_order_of_the_questions() -> None:
    assert ask_all(lambda number: number * number, range(100)) == [number * number for number in range(100)]


@pytest.mark.parametrize("at_once", [AT_ONCE, MANY_AT_ONCE])
def test_questions_are_asked_at_once(at_once: int) -> None:
    """Each waits until all of them are asked: one after the other, they would wait for ever."""
    together = threading.Barrier(at_once, timeout=60)
    assert sorted(ask_all(lambda _: together.wait(), range(at_once), at_once=at_once)) == list(range(at_once))


def test_first_error_is_raised_and_pending_calls_are_dropped() -> None:
    asked: list[int] = []
    slow = threading.Event()

    def ask(number: int) -> int:
        asked.append(number)
        if number == 0:
            raise ServiceFailed("no 0")
        slow.wait(0.1)
        return number

    with pytest.raises(ServiceFailed, match="no 0"):
        ask_all(ask, range(10_000))
    assert len(asked) < 10_000
    assert not [thread for thread in threading.enumerate() if thread.name == "himl-ask"]


def test_errors_of_every_kind_reach_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        ask_all(lambda number: 1 // number, [1, 0])
