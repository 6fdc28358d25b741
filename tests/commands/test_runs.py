"""What `himl runs` prints of runs: lists, a run in full, logs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns, posix
from tests.support.runs import recorded as recorded
from tests.support.terminals import Terminal

JSON_KEYS = ["id", "experiment", "display_name", "status", "started", "duration", "tags"]


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
def test_list_on_a_terminal_of_80_columns(himl: Himl, recorded: RecordedRuns) -> None:
    recorded.add("a_longer_name_4_dd")  # so that the tags have no room, also where the day of another year takes less
    terminal = Terminal([str(himl.program), "runs", "list"], cwd=himl.folder, env={"NO_COLOR": "1"})
    assert terminal.finish() == 0
    day = "Mar 01 12:00" if time.gmtime().tm_year == 2026 else "2026-03-01"
    started = "STARTED".ljust(len(day))
    assert terminal.screen.splitlines() == [
        f"ID                  EXPERIMENT  DISPLAY NAME  STATUS     {started}  DURATION",
        f"a_longer_name_4_dd  train                     Completed  {day}    1m 05s",
        f"train_3_cc          train                     Completed  {day}    1m 05s",
        f"train_2_bb          train                     Failed     {day}      3.2s",
        f"base_1_aa           base        baseline      Completed  {day}    1m 05s",
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
