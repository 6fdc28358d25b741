"""`himl runs` that follows a run to its end, cancels, tags or deletes it: what it prints and changes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.running import Himl
from tests.support.runs import RecordedRuns, posix
from tests.support.runs import recorded as recorded
from tests.support.terminals import Terminal

SCRIPT = """
import sys, time
print("started", flush=True)
time.sleep(float(sys.argv[1]))
print("done", flush=True)
"""


def started(himl: Himl, project: Path, seconds: float) -> str:
    """The id of a run that goes on for *seconds*."""
    (project / "slow.py").write_text(SCRIPT)
    return himl.ok("submit", "slow.py", "--no_wait", "-q", "--", str(seconds)).stdout.strip()


def test_follow_goes_on_until_the_run_has_ended(himl: Himl, project: Path) -> None:
    run_id = started(himl, project, 1.0)
    assert himl.ok("runs", "logs", run_id, "--follow").stdout == "started\ndone\n"
    assert himl.ok("runs", "show", run_id, "--json").json()["status"] == "Completed"


@posix
def test_ctrl_c_ends_following_and_not_the_run(himl: Himl, project: Path) -> None:
    run_id = started(himl, project, 600)
    watcher = himl.start("runs", "logs", run_id, "--follow")
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == b"started\n"
    os.kill(watcher.pid, signal.SIGINT)
    _, said = watcher.communicate(timeout=100)
    assert watcher.returncode == 130
    assert f"himl runs cancel {run_id}" in said.decode()
    assert himl.ok("runs", "show", run_id, "--json").json()["status"] == "Running"
    assert himl.ok("runs", "cancel", run_id).stdout == f"Asked run '{run_id}' to stop.\n"
    himl("runs", "logs", run_id, "--follow")
    assert himl.ok("runs", "show", run_id, "--json").json()["status"] == "Canceled"


@pytest.mark.usefixtures("recorded")
def test_cancel_of_a_run_that_has_ended_says_so(himl: Himl) -> None:
    assert himl.ok("runs", "cancel", "train_2_bb").stdout == "Run 'train_2_bb' had ended already: Failed.\n"
    assert himl.ok("runs", "cancel", "train_2_bb", "--json").json() == [{"id": "train_2_bb", "asked": False, "status": "Failed", "kind": "", "parent": None}]


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("way", [["train_2_bb", "stage=final", "note=a=b c"], ["--run", "train_2_bb", "stage=final", "note=a=b c"]])
def test_tag_sets_tags_and_keeps_others(himl: Himl, way: list[str]) -> None:
    assert himl.ok("runs", "tag", *way).stdout == "Tagged run 'train_2_bb': stage=final, note=a=b c\n"
    tags = himl.ok("runs", "show", "train_2_bb", "--json").json()["tags"]
    assert tags == {"team": "red", "build_branch": "main", "stage": "final", "note": "a=b c"}


@pytest.mark.usefixtures("recorded")
def test_tag_takes_a_studio_url_for_the_run_it_is(himl: Himl) -> None:
    url = "https://ml.azure.com/runs/train_2_bb?wsid=/subscriptions/s&tid=t"
    assert himl.ok("runs", "tag", url, "a=b", "--json").json()[0]["tags"]["a"] == "b"


@pytest.mark.usefixtures("recorded")
def test_delete_removes_the_run_its_children_and_their_files(himl: Himl, project: Path) -> None:
    assert himl.ok("runs", "delete", "train_3_cc", "--yes").stdout == "Deleted run 'train_3_cc' and its 2 nested runs.\n"
    assert himl("runs", "show", "fold_0").code == 3
    assert sorted(path.name for path in (project / ".himl" / "runs").iterdir()) == ["base_1_aa", "train_2_bb"]


@posix
@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(("answer", "code", "is_left"), [("y\n", 0, False), ("n\n", 1, True), ("\n", 1, True)])
def test_delete_asks_on_a_terminal(himl: Himl, project: Path, answer: str, code: int, is_left: bool) -> None:
    terminal = Terminal([str(himl.program), "runs", "delete", "train_2_bb"], cwd=project)
    terminal.wait_for("Delete run 'train_2_bb' with all its files? [y/N]")
    terminal.type(answer)
    assert terminal.finish() == code
    assert (project / ".himl" / "runs" / "train_2_bb").exists() is is_left


@posix
@pytest.mark.usefixtures("recorded")
def test_ctrl_c_at_a_question_changes_nothing(himl: Himl, project: Path) -> None:
    terminal = Terminal([str(himl.program), "runs", "delete", "train_2_bb"], cwd=project, env={"NO_COLOR": "1"})
    terminal.wait_for("[y/N]")
    terminal.interrupt()
    assert terminal.finish() == 130
    assert "error: Interrupted." in terminal.screen
    assert (project / ".himl" / "runs" / "train_2_bb").exists()


def test_a_run_that_goes_on_cannot_be_deleted(himl: Himl, project: Path) -> None:
    run_id = started(himl, project, 600)
    outcome = himl("runs", "delete", run_id, "--yes")
    assert outcome.code == 2
    assert f"himl runs cancel {run_id}" in outcome.stderr
    himl.ok("runs", "cancel", run_id)
    himl("runs", "logs", run_id, "--follow")


@pytest.mark.usefixtures("recorded")
def test_a_tag_that_is_not_written_as_one_is_explained(himl: Himl) -> None:
    alone = himl("runs", "tag", "base_1_aa", "noequals")
    beside = himl("runs", "tag", "base_1_aa", "team=red", "noequals")
    assert (alone.code, beside.code) == (2, 3)
    assert all("A tag is KEY=VALUE" in each.stderr for each in (alone, beside))
    assert "No run 'noequals'" in beside.stderr


def test_deleting_says_what_goes_with_a_run(himl: Himl, project: Path) -> None:
    runs = RecordedRuns(project)
    for name, kind, children in (("sweep", "sweep", 2), ("pipe", "pipeline", 1)):
        runs.add(name, tags={"himl.many": kind})
        for number in range(children):
            runs.add(f"{name}_{number}", parent=name)
    refused = himl("runs", "delete", "sweep")
    assert "Delete run 'sweep' with its 2 trials and all their files?" in refused.stderr
    assert "Delete 2 runs with all their files: sweep (with its 2 trials), pipe (with its 1 step)?" in himl("runs", "delete", "sweep", "pipe").stderr
    assert himl.ok("runs", "delete", "sweep", "pipe", "--yes").stdout == "Deleted run 'sweep' and its 2 trials.\nDeleted run 'pipe' and its 1 step.\n"
