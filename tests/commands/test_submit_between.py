"""Ctrl-C between the moment at which a job is there and that at which its id is printed: the id is said all the same."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

import pytest

from himl_cli.commands.submit_job import naming_once_made
from himl_cli.core.errors import Interrupted
from himl_cli.core.runs import Run, RunStatus
from himl_cli.services.submission.prepare import start_and_note
from himl_cli.workspaces.azure.jobs.job_submission import created_job

RUN = Run(id="train_7", experiment="train", status=RunStatus.queued, created=datetime(2026, 1, 1, tzinfo=timezone.utc))


def interrupted(*runs: Run) -> None:
    """Ctrl-C once *runs* are made."""
    with naming_once_made() as made:
        made.extend(runs)
        raise KeyboardInterrupt


def test_what_is_interrupted_once_a_run_is_made_says_its_id() -> None:
    with pytest.raises(Interrupted, match="'train_7' goes on") as caught:
        interrupted(RUN)
    assert caught.value.hint == "To cancel it: himl runs cancel train_7"


def test_interrupt_before_run_is_made_passes_through_unchanged() -> None:
    """Callers that know what was under way handle it."""
    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_a_job_that_was_created_is_named_by_who_reads_the_answer() -> None:
    with pytest.raises(Interrupted, match="Job 'train_7' was created before the interruption") as caught, created_job("train_7"):
        raise KeyboardInterrupt
    assert caught.value.hint == "To stop it: himl runs cancel train_7"


def test_interrupt_while_run_is_noted_names_run_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for the file may interrupt at once: Python then raises it where the file has just got its name."""
    replace = os.replace

    def interrupted_just_behind(old: str, new: str) -> None:
        replace(old, new)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted_just_behind)
    with pytest.raises(Interrupted, match="'train_7' goes on"):
        start_and_note(lambda notify: RUN, tmp_path, lambda event: None)
    assert (tmp_path / "most_recent_run.txt").read_text() == "train:train_7\n"
