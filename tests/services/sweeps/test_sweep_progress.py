"""What is told while a sweep is waited for, and how often its trials are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.events import Event, Notice
from himl_cli.core.runs import RunStatus
from himl_cli.services.runs.logs import sweep_progress
from tests.support.runs import RecordedRuns


class Told:
    """A sweep of which some trials ended, a clock to set, and what was said."""

    def __init__(self, folder: Path, trials: int) -> None:
        self.runs = RecordedRuns(folder)
        self.runs.add("sweep", status=RunStatus.running)
        self.ended = 0
        self.now = 1000.0
        self.texts: list[str] = []
        self.ask = sweep_progress(self.runs.workspace, "sweep", trials, self._take, clock=lambda: self.now)

    def _take(self, event: Event) -> None:
        assert isinstance(event, Notice)
        self.texts.append(event.text)

    def one_more_ends(self, status: RunStatus = RunStatus.completed) -> None:
        self.runs.add(f"sweep_{self.ended}", parent="sweep", status=status)
        self.ended += 1

    def look(self, at: float) -> None:
        self.now = 1000 + at
        self.ask()


@pytest.fixture
def large(project: Path) -> Told:
    return Told(project, 1000)


def test_many_trials_are_asked_for_seldom(large: Told) -> None:
    large.one_more_ends()
    large.look(at=0)
    large.one_more_ends(RunStatus.failed)
    large.look(at=5)
    large.look(at=19)
    assert large.texts == ["1 of 1000 trials ended."]
    large.look(at=20)
    assert large.texts[1:] == ["2 of 1000 trials ended, 1 failed."]


def test_few_trials_are_asked_for_at_every_look(project: Path) -> None:
    small = Told(project, 5)
    for second in range(3):
        small.one_more_ends()
        small.look(at=second)
    assert small.texts == ["1 of 5 trials ended.", "2 of 5 trials ended.", "3 of 5 trials ended."]


def test_nothing_is_said_twice(large: Told) -> None:
    large.one_more_ends()
    for second in (0, 30, 60):
        large.look(at=second)
    assert len(large.texts) == 1
