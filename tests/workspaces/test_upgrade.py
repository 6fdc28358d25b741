"""Tests of a workspace that himl 0.1.0 made, in which this himl goes on."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import is_sound
from tests.support.running import Himl
from tests.workspaces.earlier_workspaces.make import ARCHIVE, PROJECT, PYTHON, rename


@pytest.fixture
def said(project: Path) -> Mapping[str, Any]:
    """Make *project* that of 0.1.0. Returns what 0.1.0 said of its runs."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(project)  # our own archive
    rename(project, PROJECT, str(project))
    rename(project, PYTHON, sys.executable)
    found: Mapping[str, Any] = json.loads((project / "said.json").read_text())
    return found


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Fields of *old* that *new* lacks or has otherwise."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            each for key, value in old.items() for each in differences(value, new.get(key, "lacking"), f"{where}/{key}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            each
            for number, pair in enumerate(zip(old, new, strict=True))
            for each in differences(*pair, f"{where}/{number}")
        ]
    return [] if old == new else [f"{where}: {old!r}, now {new!r}"]


def test_runs_of_0_1_0_are_shown_as_before(himl: Himl, said: Mapping[str, Any]) -> None:
    assert said["version"] == "himl 0.1.0"
    assert differences(said["list"], himl.ok("runs", "list", "-n", "all", "--json").json()) == []
    for what, shown in said["runs"].items():
        assert differences(shown, himl.ok("runs", "show", shown["id"], "--json").json(), what) == []


@pytest.mark.large("starts himl of an older version")
def test_commands_go_on_with_runs_of_0_1_0(himl: Himl, said: Mapping[str, Any], project: Path) -> None:
    ids = {what: shown["id"] for what, shown in said["runs"].items()}
    assert himl.ok("runs", "logs", ids["a run"]).stdout == "lr 0.5\n"
    himl.ok("download", ids["a run"], "--prefix", "outputs", "-o", "here")
    assert [path.read_text() for path in (project / "here").rglob("model.txt")] == ["model of 0.5"]
    assert "0.1" in himl.ok("runs", "aggregate", ids["a sweep"]).stdout
    assert "train.py" in himl.ok("runs", "code", ids["a run"]).stdout
    himl.ok("submit", "--resume", ids["a failed run"], env={"IS_FIXED": "1"})
    resumed = himl.ok("runs", "show", ids["a failed run"], "--json").json()
    assert (resumed["status"], resumed["metrics"][0]["value"]) == ("Completed", 5.0)
    repeated = himl.ok("submit", "--from", ids["a run"], "-q").stdout.strip()
    assert himl.ok("runs", "show", repeated, "--json").json()["metrics"][0]["value"] == 0.5
    again = himl.ok("submit", "--from", ids["a pipeline"], "-q").stdout.strip()
    himl.ok("runs", "restore", ids["an archived run"])
    himl.ok("runs", "export", ids["a cross-validation"], "--to", "folds.zip")
    himl.ok("gc", "--yes")
    himl.ok("runs", "delete", ids["a sweep"], "--yes")
    left = {ids[what] for what in ids if what != "a sweep"} | {repeated, again}
    assert set(himl.ok("runs", "list", "-n", "all", "-q").stdout.split()) == left
    assert differences(said["runs"]["a run"], himl.ok("runs", "show", ids["a run"], "--json").json()) == []
    assert is_sound(project)
