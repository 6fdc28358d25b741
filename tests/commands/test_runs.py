"""`himl runs`: what each command prints and changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.runs import RunStatus
from tests.recorded_runs import RecordedRuns
from tests.running import Himl, write_files
from tests.terminal import Terminal

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal or signals")
JSON_KEYS = ["id", "experiment", "display_name", "status", "started", "duration", "tags"]


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    """Three runs, the newest with metrics, parameters and children."""
    runs = RecordedRuns(project)
    runs.add("base_1_aa", experiment="base", display_name="baseline", exit_code=0, tags={"team": "blue"})
    runs.add("train_2_bb", status=RunStatus.failed, exit_code=3, reason="exit code 3", seconds=3.25, tags={"team": "red", "build_branch": "main"})
    runs.add(
        "train_3_cc",
        exit_code=0,
        tags={"team": "blue"},
        files={"user_logs/std_log.txt": b"epoch 1\n\xff\xfe raw\n", "user_logs/std_log_process_1.txt": "rank 1\n"},
    )
    runs.add("fold_0", parent="train_3_cc", display_name="fold 0")
    runs.add("fold_1", parent="train_3_cc", display_name="fold 1", status=RunStatus.failed, exit_code=1)
    runs.log("train_3_cc", [("val/loss", 1.0, 1, 1), ("val/loss", 0.5, 2, 2), ("grad", float("nan"), 2, 2), ("big", float("-inf"), 2, 2)], {"lr": "0.1"})
    runs.log("fold_0", [("val/loss", 0.25, 1, 1)])
    return runs


def ids(outcome: Any) -> list[str]:
    return [run["id"] for run in outcome.json()]


@pytest.mark.usefixtures("recorded")
def test_list_in_a_pipe_is_tab_separated_with_a_header(himl: Himl) -> None:
    assert himl.ok("runs", "list").stdout == (
        "id\texperiment\tdisplay_name\tstatus\tstarted\tduration\ttags\n"
        "train_3_cc\ttrain\t\tCompleted\t2026-03-01T12:00:03.000Z\t65.000\tteam=blue\n"
        "train_2_bb\ttrain\t\tFailed\t2026-03-01T12:00:02.000Z\t3.250\tbuild_branch=main team=red\n"
        "base_1_aa\tbase\tbaseline\tCompleted\t2026-03-01T12:00:01.000Z\t65.000\tteam=blue\n"
    )


@pytest.mark.usefixtures("recorded")
def test_list_as_json_has_the_promised_keys_first(himl: Himl) -> None:
    first = himl.ok("runs", "list", "--json").json()[0]
    assert list(first)[: len(JSON_KEYS)] == JSON_KEYS
    assert (first["started"], first["duration"], first["tags"]) == ("2026-03-01T12:00:03.000Z", 65.0, {"team": "blue"})


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--experiment", "base"], ["base_1_aa"]),
        (["--status", "failed"], ["train_2_bb"]),
        (["--status", "FAILED,completed"], ["train_3_cc", "train_2_bb", "base_1_aa"]),
        (["--tags", "team=blue"], ["train_3_cc", "base_1_aa"]),
        (["--tags", "team=blue", "--num_runs", "1"], ["train_3_cc"]),
        (["--tags", "team=red,build_branch=main"], ["train_2_bb"]),
        (["--experiment", "nothing"], []),
    ],
)
def test_list_filters(himl: Himl, options: list[str], expected: list[str]) -> None:
    assert ids(himl.ok("runs", "list", "--json", *options)) == expected


def test_list_shows_20_runs_unless_told_otherwise(himl: Himl, recorded: RecordedRuns) -> None:
    recorded.add_many(2000)
    assert len(himl.ok("runs", "list", "-q").stdout.splitlines()) == 20
    assert len(himl.ok("runs", "list", "-q", "--num_runs", "30").stdout.splitlines()) == 30
    assert len(himl.ok("runs", "list", "-q", "--num_runs", "all").stdout.splitlines()) == 2003


def test_list_of_an_empty_workspace(himl: Himl, project: Path) -> None:
    RecordedRuns(project)
    outcome = himl.ok("runs", "list")
    assert outcome.stdout.splitlines() == ["id\texperiment\tdisplay_name\tstatus\tstarted\tduration\ttags"]
    assert "No runs in local workspace" in outcome.stderr
    assert himl.ok("runs", "list", "--json").json() == []


@posix
@pytest.mark.usefixtures("recorded")
def test_list_on_a_terminal_of_80_columns(himl: Himl) -> None:
    terminal = Terminal([str(himl.program), "runs", "list"], cwd=himl.folder, env={"NO_COLOR": "1"})
    assert terminal.finish() == 0
    day = "Mar 01 12:00" if time.gmtime().tm_year == 2026 else "2026-03-01".ljust(12)
    started = "STARTED".ljust(len(day.rstrip()))
    assert terminal.screen.splitlines() == [
        f"ID          EXPERIMENT  DISPLAY NAME  STATUS     {started}  DURATION",
        f"train_3_cc  train                     Completed  {day.rstrip()}    1m 05s",
        f"train_2_bb  train                     Failed     {day.rstrip()}      3.2s",
        f"base_1_aa   base        baseline      Completed  {day.rstrip()}    1m 05s",
    ]


@posix
@pytest.mark.usefixtures("recorded")
def test_colour_comes_on_a_terminal_only(himl: Himl) -> None:
    terminal = Terminal([str(himl.program), "runs", "list"], cwd=himl.folder)
    assert terminal.finish() == 0
    assert "\x1b[31mFailed" in terminal.screen
    assert "\x1b" not in himl.ok("runs", "list").stdout


@pytest.mark.usefixtures("recorded")
def test_show_prints_a_run_in_full(himl: Himl, project: Path) -> None:
    text = himl.ok("runs", "show", "train_3_cc").stdout
    assert text.splitlines()[0] == "train_3_cc  Completed"
    assert f"Folder        {project / '.himl' / 'runs' / 'train_3_cc' / 'code'}" in text
    for line in (
        "Outcome       exit code 0",
        "Started       2026-03-01T12:00:03.000Z, took 1m 05s",
        "Command       python train.py",
        "  team  blue",
        "  lr  0.1",
    ):
        assert line in text.splitlines()
    metrics = [line.split() for line in text.splitlines() if line.split()[:1] in (["val/loss"], ["grad"], ["big"])]
    assert metrics == [["big", "-Infinity", "2", "1"], ["grad", "NaN", "2", "1"], ["val/loss", "0.5", "2", "2"], ["val/loss", "0.25", "1", "1", "fold_0"]]
    children = [line.split() for line in text.splitlines() if line.split()[:1] in (["fold_0"], ["fold_1"])]
    assert children == [["fold_0", "fold", "0", "Completed", "1m", "05s"], ["fold_1", "fold", "1", "Failed", "1m", "05s"]]


@pytest.mark.usefixtures("recorded")
def test_show_says_why_a_run_failed(himl: Himl) -> None:
    assert "Outcome       exit code 3\n" in himl.ok("runs", "show", "train_2_bb").stdout


@pytest.mark.usefixtures("recorded")
def test_show_as_json_is_strict_and_complete(himl: Himl) -> None:
    shown = himl.ok("runs", "show", "train_3_cc", "--json").json()
    assert shown["parameters"] == {"lr": "0.1"}
    assert {(metric["name"], metric["run"]): (metric["value"], metric["step"], metric["count"]) for metric in shown["metrics"]} == {
        ("val/loss", "train_3_cc"): (0.5, 2, 2),
        ("grad", "train_3_cc"): ("NaN", 2, 1),
        ("big", "train_3_cc"): ("-Infinity", 2, 1),
        ("val/loss", "fold_0"): (0.25, 1, 1),
    }
    assert [(child["id"], child["parent"]) for child in shown["children"]] == [("fold_0", "train_3_cc"), ("fold_1", "train_3_cc")]


@pytest.mark.usefixtures("recorded")
def test_show_gives_an_array_where_several_runs_may_be_meant(himl: Himl) -> None:
    assert ids(himl.ok("runs", "show", "train_3_cc", "base_1_aa", "--json")) == ["train_3_cc", "base_1_aa"]
    assert ids(himl.ok("runs", "show", "--experiment", "base", "--num_runs", "5", "--json")) == ["base_1_aa"]
    assert ids(himl.ok("runs", "show", "train_3_cc", "--children", "--json")) == ["fold_0", "fold_1"], "in the order that show lists them"


@pytest.mark.usefixtures("recorded")
def test_show_without_a_run_takes_the_latest_run_file_upward(himl: Himl, project: Path) -> None:
    write_files(project, {"most_recent_run.txt": "train:train_2_bb\n", "deep/er/x": ""})
    assert himl.ok("runs", "show", "-q", cwd=project / "deep" / "er").stdout == "train_2_bb\n"


@pytest.mark.usefixtures("recorded")
def test_logs_are_printed_byte_for_byte(himl: Himl) -> None:
    assert himl.ok("runs", "logs", "train_3_cc").raw_stdout == b"epoch 1\n\xff\xfe raw\n"
    assert himl.ok("runs", "logs", "latest", "--file", "std_log_process_1.txt").raw_stdout == b"rank 1\n"
    assert himl.ok("runs", "logs", "latest", "--file", "user_logs/std_log_process_1.txt").raw_stdout == b"rank 1\n"


@pytest.mark.usefixtures("recorded")
def test_logs_as_json(himl: Himl) -> None:
    assert himl.ok("runs", "logs", "train_3_cc", "--json").json() == [{"run": "train_3_cc", "log": "epoch 1\n\udcff\udcfe raw\n"}]
    assert himl("runs", "logs", "train_3_cc", "--json", "--follow").code == 2


def test_logs_of_several_runs_are_told_apart_on_stderr(himl: Himl, recorded: RecordedRuns) -> None:
    recorded.add("train_4_dd", files={"user_logs/std_log.txt": "other\n"})
    outcome = himl.ok("runs", "logs", "train_3_cc", "train_4_dd", "--file", "std_log.txt")
    assert outcome.raw_stdout == b"epoch 1\n\xff\xfe raw\nother\n"
    assert outcome.stderr == "==> train_3_cc <==\n==> train_4_dd <==\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on a process's memory")
def test_a_large_log_is_streamed_in_constant_memory(himl: Himl, recorded: RecordedRuns, project: Path) -> None:
    """200 MiB of log pass through a process that may hold 180 MiB in all."""
    recorded.add("big_5_ee", files={"user_logs/std_log.txt": b"0123456789abcde\n" * (200 * 65536)})
    with (project / "copy").open("wb") as copy:
        done = subprocess.run(["sh", "-c", 'ulimit -v 184320; exec "$0" runs logs big_5_ee', str(himl.program)], cwd=project, stdout=copy, timeout=60)
    assert done.returncode == 0
    assert (project / "copy").stat().st_size == 200 << 20
    (project / "copy").unlink()


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
    himl("runs", "logs", run_id, "--follow", timeout=40)
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
    himl("runs", "logs", run_id, "--follow", timeout=40)


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
