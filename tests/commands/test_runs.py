"""Tests of `himl runs` in the local workspace: lists, details, logs, metrics of many child runs, following, canceling,
tagging and deleting.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from himl_cli.core.jobs import STEP, STEP_AFTER
from himl_cli.core.logged import Logged
from himl_cli.core.runs import Run, RunEnd, RunStatus
from himl_cli.core.sweeps import (
    BEST_TRIAL,
    GOAL,
    HYPERPARAMETERS,
    MANY,
    PRIMARY_METRIC,
    STOPPED_EARLY,
    SWEPT,
    TRIAL,
    Scalar,
    values_text,
)
from himl_cli.services.runs import writing
from himl_cli.workspaces.local.code_store import CodeStore
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.azureml_double.faults import Status
from tests.azureml_double.seeding import StagedWorkspace, add_sweep
from tests.support.folders import contents
from tests.support.running import Himl, Outcome, until, write_files
from tests.support.runs import RecordedRuns, posix
from tests.support.runs import recorded as recorded
from tests.support.terminals import Terminal

SCRIPT = (
    "import os, sys, time\nprint('started', flush=True)\nwhile not os.path.exists(sys.argv[1]):\n"
    "    time.sleep(0.02)\nprint('done', flush=True)\n"
)
SHOWN = "train_1772366400_0a1b2c3d"
COMPLETED = RunEnd(RunStatus.completed)
FAILED = RunEnd(RunStatus.failed, "out of memory")
SWEEP = "sweep_1_aa"


def ids(outcome: Any) -> list[str]:
    return [run["id"] for run in outcome.json()]


def test_what_was_submitted_is_listed_apart_from_later_tags(himl: Himl, project: Path) -> None:
    later = {
        "mlflow.autologging": "pytorch",
        "mlflow.loggedArtifacts": "[]",
        "himl.recorded_from": "lab",
        "team": "red",
    }
    RecordedRuns(project).add(
        "train_1_aa",
        tags={"build_branch": "main", "command_line": "train.py", "run_recovery_id": "train:train_1_aa", **later},
    )
    sections = [part.split() for part in himl.ok("runs", "show", "train_1_aa").stdout.split("\n\n")[1:]]
    assert sections[0] == ["Tags", "team", "red"]
    assert sections[1][:2] == ["System", "tags"]
    assert {*sections[1][2::2]} == {"mlflow.autologging", "mlflow.loggedArtifacts", "himl.recorded_from"}
    assert sections[2] == [
        "Submitted",
        "with",
        "build_branch",
        "main",
        "command_line",
        "train.py",
        "run_recovery_id",
        "train:train_1_aa",
    ]


@pytest.mark.large("takes long, and other tests run its branches")
def test_deleting_says_what_goes_and_list_counts(himl: Himl, project: Path) -> None:
    runs = RecordedRuns(project)
    for name, kind, children in (("sweep", "sweep", 2), ("pipe", "pipeline", 1)):
        runs.add(name, tags={"himl.many": kind})
        for number in range(children):
            runs.add(f"{name}_{number}", parent=name)
    refused = himl("runs", "delete", "sweep")
    assert "Delete run 'sweep' with its 2 trials and all their files?" in refused.stderr
    assert (
        "Delete 2 runs with all their files: sweep (with its 2 trials), pipe (with its 1 step)?"
        in himl("runs", "delete", "sweep", "pipe").stderr
    )
    assert (
        himl.ok("runs", "delete", "sweep", "pipe", "--yes").stdout
        == "Deleted run 'sweep' and its 2 trials.\nDeleted run 'pipe' and its 1 step.\n"
    )
    outcome = himl.ok("runs", "list")
    assert outcome.stdout.splitlines() == ["id\texperiment\tdisplay_name\tstatus\tstarted\tduration\ttags"]
    assert "No runs in local workspace" in outcome.stderr
    assert himl.ok("runs", "list", "--json").json() == []
    runs.add_many(2000)
    for options, count in (((), 20), (("--num_runs", "30"), 30), (("--num_runs", "all"), 2000)):
        assert len(himl.ok("runs", "list", "-q", *options).stdout.splitlines()) == count


def test_logs_are_printed_byte_for_byte(himl: Himl, recorded: RecordedRuns) -> None:
    assert himl.ok("runs", "logs", "train_3_cc").raw_stdout == b"epoch 1\n\xff\xfe raw\n"
    for name in ("std_log_process_1.txt", "user_logs/std_log_process_1.txt"):
        assert himl.ok("runs", "logs", "latest", "--file", name).raw_stdout == b"rank 1\n"
    assert himl.ok("runs", "logs", "train_3_cc", "--tail", "1").raw_stdout == b"\xff\xfe raw\n"
    lines = [f"{number} {'x' * 99}\n" for number in range(3000)]
    recorded.add("long_9_aa", files={"user_logs/std_log.txt": "".join(lines)})
    for count in (2, 700, 3000, 5000):  # within and beyond the part that himl reads first
        for options in ((), ("--follow",)):
            assert himl.ok("runs", "logs", "long_9_aa", "--tail", str(count), *options).stdout == "".join(
                lines[-count:]
            )
    assert himl("runs", "logs", "long_9_aa", "--tail", "0").code == 2
    himl.ok("runs", "delete", "long_9_aa", "--yes")
    assert himl.ok("runs", "logs", "train_3_cc", "--json").json() == [
        {"run": "train_3_cc", "log": "epoch 1\n\udcff\udcfe raw\n"}
    ]
    recorded.add("train_4_dd", files={"user_logs/std_log.txt": "other\n"})
    outcome = himl.ok("runs", "logs", "train_3_cc", "train_4_dd", "--file", "std_log.txt")
    assert outcome.raw_stdout == b"epoch 1\n\xff\xfe raw\nother\n"
    assert outcome.stderr == "==> train_3_cc <==\n==> train_4_dd <==\n"


def test_logs_since_a_time(himl: Himl, recorded: RecordedRuns) -> None:
    """Lines that begin with a time show it. A line without one belongs to the line before it."""
    forms = {
        "zones": ("2026-03-02T09:00:00Z a\n  b\n[2026-03-02T12:00:00.5+02:00] c\n2026-03-02 11:00:00,123 UTC d\ne", ""),
        "no zone": (
            "INFO start\n2026-03-02 09:00:00 a\n  b\n2026-03-02 10:00:00,500 INFO c\n2026-03-02 11:00:00.123 d\ne",
            "have no zone",
        ),
    }
    for number, (text, told) in enumerate(forms.values()):
        recorded.add(run := f"train_{number}_ee", files={"user_logs/std_log.txt": text})
        lines = text.splitlines(keepends=True)
        by_time = {
            "08:00": text[text.index("2026") :].replace("INFO start\n", ""),
            "09:30": "".join(lines[-3:]),
            "10:00:00.6": "".join(lines[-2:]),
        }
        for since, expected in by_time.items():
            outcome = himl.ok("runs", "logs", run, "--since", f"2026-03-02T{since}+00:00")
            assert outcome.stdout == expected
            assert told in outcome.stderr if told else not outcome.stderr
        assert himl.ok("runs", "logs", run, "--since", "2026-03-03T00:00+00:00", "--follow").stdout == ""
        assert himl.ok("runs", "logs", run, "--since", "2026-03-02T09:30+00:00", "--tail", "1").stdout == "e"
        assert himl.ok("runs", "logs", run, "--since", "2026-03-01T00:00+00:00", "--json").json()[0]["log"] == text
    unknown = himl("runs", "logs", "train_3_cc", "--since", "2026-03-02")
    assert (unknown.code, unknown.stdout) == (3, "")
    assert (
        "himl does not know when the lines of 'user_logs/std_log.txt' of run 'train_3_cc' were written"
        in unknown.stderr
    )
    assert "himl runs logs train_3_cc --tail 100" in unknown.stderr
    assert himl("runs", "logs", "train_3_cc", "--since", "soon").stderr.splitlines() == [
        "error: --since 'soon' is neither a duration (up to ten years) nor a date.",
        "hint: For example: 30m, 2h, 7d or 2026-03-01.",
    ]


@pytest.mark.large("waits for a note of the size of a log, which takes a second")
def test_the_supervisor_notes_when_a_log_was_written(himl: Himl, project: Path) -> None:
    go = project.parent / "go"
    script = (
        "import os, sys, time\nprint('first', flush=True)\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.02)\nprint('second')\n"
    )
    (project / "train.py").write_text(script)
    run = himl.ok("submit", "train.py", "--no_wait", "-q", "--", str(go)).stdout.strip()
    notes = project / ".himl" / "runs" / run / "log_times"
    until(lambda: notes.exists() and notes.read_text().endswith(" 6\n"))
    time.sleep(0.01)  # notes have whole milliseconds, rounded up
    moment = datetime.now(timezone.utc).isoformat()
    go.touch()
    assert himl.ok("runs", "logs", run, "--since", moment, "--follow").stdout == "second\n"
    log = project / ".himl" / "runs" / run / "user_logs" / "std_log.txt"
    for late in (0, 0.02, 1):  # seconds by which a kernel, a file system or a store rounds the time of a file down
        written = datetime.fromisoformat(moment).timestamp() - late
        os.utime(log, (written, written))
        assert himl.ok("runs", "logs", run, "--since", moment).stdout == "second\n"
    assert himl.ok("runs", "logs", run, "--since", "1h").stdout == "first\nsecond\n"


def test_failure_names_the_users_own_line(himl: Himl, project: Path) -> None:
    """Of the files of a traceback, the last one of the user's code, below the folder of a copy or in the current
    folder.
    """
    runs = RecordedRuns(project)
    for number, (path, line) in enumerate(
        {
            "/lab/.himl/runs/other_1/code/src/train.py": "src/train.py, line 12 in your project",
            "C:\\lab\\.himl\\runs\\other_1\\code\\train.py": "train.py, line 12 in your project",
            "/mnt/azureml/cr/j/0123/exe/wd/train.py": "train.py, line 12 in your project",
            f"{project}/train.py": "train.py, line 12 in your project",
            "/usr/lib/python3/site-packages/pack/train.py": "",
        }.items()
    ):
        run_id = f"train_{number}"
        frames = f'  File "{path}", line 12, in f\n  File "/usr/lib/site-packages/torch/a.py", line 3\n'
        log = f"epoch 1\nTraceback (most recent call last):\n{frames}ValueError: bad\n"
        runs.add(
            run_id, status=RunStatus.failed, exit_code=1, reason="exit code 1", files={"user_logs/std_log.txt": log}
        )
        place = f" ({line})" if line else ""
        shown = himl.ok("runs", "show", run_id).stdout
        assert f"The last lines of user_logs/std_log.txt{place}\n  epoch 1\n" in shown
        assert shown.endswith("  ValueError: bad\n")
        failed = himl("runs", "show", run_id, "--watch")
        assert failed.stderr.startswith(f"error: Run '{run_id}' failed: exit code 1{place}.\n"), failed.stderr


def test_second_deletion_finds_what_the_first_could_not_delete(himl: Himl, project: Path) -> None:
    runs = RecordedRuns(project)
    for name in ("first", "second", "third"):
        runs.add(name, files={"outputs/a.txt": "a"})
    runs.add("child", parent="first", files={"outputs/b.txt": "b"})
    folder = project / ".himl" / "runs"
    (folder / "first").rename(project / "moved")
    (folder / "first").symlink_to(project / "moved")  # himl deletes no folder through a link
    for names in (["first", "second"], ["first"]):  # the failure does not stop the deletion of the second one
        failed = himl("runs", "delete", *names, "--yes")
        assert (failed.code, "Cannot delete the run's files" in failed.stderr) == (1, True)
        assert "To continue: himl runs delete first\n" in failed.stderr or names == ["first"]
    (folder / "first").unlink()
    (project / "moved").rename(folder / "first")
    assert {*folder.iterdir()} == {folder / "first", folder / "third"}
    done = himl.ok("runs", "delete", "first", "--yes", "--json")
    assert (done.json(), [*folder.iterdir()]) == ({"deleted": ["first"]}, [folder / "third"])
    assert himl("runs", "delete", "first", "--yes").code == 3
    assert himl.ok("runs", "list", "-q").stdout == "third\n"


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.usefixtures("recorded")
def test_archived_runs_are_passed_over_until_they_are_restored(himl: Himl, project: Path) -> None:
    assert (
        himl.ok("runs", "archive", "--experiment", "train", "--num_runs", "all").stdout
        == "Archived run 'train_3_cc'.\nArchived run 'train_2_bb'.\n"
    )
    assert ids(himl.ok("runs", "list", "--json")) == ["base_1_aa"]
    assert himl.ok("runs", "show", "latest", "-q").stdout == "base_1_aa\n"
    shown = himl("runs", "show", "--experiment", "train").stderr.splitlines()
    assert shown == [
        "error: All runs of experiment 'train' are archived.",
        "hint: See himl runs list --experiment train --archived",
    ]
    listed = himl.ok("runs", "list", "--archived", "--json").json()
    assert [(run["id"], run["archived"]) for run in listed] == [("train_3_cc", True), ("train_2_bb", True)]
    assert ids(himl.ok("runs", "list", "--archived", "--status", "Failed", "--json")) == ["train_2_bb"]
    assert (
        "Archived      yes; to restore it: himl runs restore train_2_bb"
        in himl.ok("runs", "show", "train_2_bb").stdout.splitlines()
    )
    assert himl.ok("runs", "logs", "train_3_cc", "-q").raw_stdout == b"epoch 1\n\xff\xfe raw\n"
    assert himl.ok("runs", "restore", "--experiment", "train").stdout == "Restored run 'train_3_cc'.\n"
    assert ids(himl.ok("runs", "list", "--json")) == ["train_3_cc", "base_1_aa"]
    assert himl.ok("runs", "restore", "latest", "-q").stdout == "train_2_bb\n"
    outcome = himl("runs", "restore", "--experiment", "train")
    assert (
        outcome.code,
        "No run of experiment 'train' is archived." in outcome.stderr,
        "--archived" in outcome.stderr,
    ) == (3, True, True)
    assert himl("runs", "archive").code == 2
    assert (
        himl.ok("runs", "delete", "train_3_cc", "--yes").stdout == "Deleted run 'train_3_cc' and its 2 nested runs.\n"
    )
    himl.ok("runs", "archive", "train_2_bb", "base_1_aa")
    assert himl("runs", "show", "latest").stderr.splitlines() == [
        "error: All runs in local workspace '.himl' are archived.",
        "hint: List them: himl runs list --archived",
    ]


def test_changes_take_exact_names_of_experiments_and_reading_takes_old_spellings(himl: Himl, project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add("my_exp_1_aa", experiment="my_exp")
    runs.add("my-exp_2_bb", experiment="my-exp")
    everything = ("--experiment", "my-exp", "--num_runs", "all")
    assert himl.ok("runs", "delete", *everything, "--yes").stdout == "Deleted run 'my-exp_2_bb'.\n"
    told = [
        "error: Experiment 'my-exp' has no runs in local workspace '.himl'.",
        "hint: There is an experiment 'my_exp'. Name it exactly: --experiment my_exp",
    ]
    command: tuple[str, ...]
    for command in (("delete", "--yes"), ("cancel",), ("tag", "a=b"), ("archive",), ("restore",)):
        outcome = himl("runs", *command, *everything)
        assert (outcome.code, outcome.stderr.splitlines()) == (3, told), command
        by_id = himl("runs", *command, "my-exp:my_exp_1_aa")
        assert (by_id.code, "belongs to experiment 'my_exp', not 'my-exp'" in by_id.stderr) == (3, True), command
    for command in (("submit", "--resume"), ("checkpoint", "push", "a.ckpt", "--from")):
        assert "belongs to experiment 'my_exp', not 'my-exp'" in himl(*command, "my-exp:my_exp_1_aa").stderr, command
    assert (
        himl.ok("runs", "show", *everything).stderr == "Experiment 'my-exp' has no runs. Using experiment 'my_exp'.\n"
    )
    runs.add("my-exp_3_cc", experiment="my-exp")
    himl.ok("runs", "archive", *everything)
    for command in (
        ("runs", "cancel"),
        ("runs", "tag", "a=b"),
        ("runs", "show"),
        ("runs", "logs"),
        ("checkpoint", "fetch"),
    ):
        outcome = himl(*command, *everything[:2])
        assert (outcome.code, outcome.stderr.splitlines()[0]) == (
            3,
            "error: All runs of experiment 'my-exp' are archived.",
        ), command
    assert himl.ok("runs", "show", "my_exp_1_aa", "--json").json()["tags"] == {}
    runs.add_many(250)
    failed = himl("runs", "show", "--experiment", "my_exp", "--status", "Failed")
    assert failed.stderr.splitlines()[0] == "error: No run of experiment 'my_exp' is Failed.", (
        "there are 200 newer runs of others"
    )


@pytest.mark.usefixtures("recorded")
def test_runs_are_listed_shown_tagged_and_deleted(himl: Himl, project: Path) -> None:
    assert himl.ok("runs", "list").stdout == (
        "id\texperiment\tdisplay_name\tstatus\tstarted\tduration\tval/loss\ttags\n"
        "train_3_cc\ttrain\t\tCompleted\t2026-03-01T12:00:03.000Z\t65.000\t0.5\tteam=blue\n"
        "train_2_bb\ttrain\t\tFailed\t2026-03-01T12:00:02.000Z\t3.250\t\tteam=red\n"
        "base_1_aa\tbase\tbaseline\tCompleted\t2026-03-01T12:00:01.000Z\t65.000\t\tteam=blue\n"
    )
    text = himl.ok("runs", "show", "train_3_cc").stdout
    assert text.splitlines()[0] == "train_3_cc  Completed"
    assert f"Folder        {project / '.himl' / 'runs' / 'train_3_cc' / 'code'}" in text
    assert f"Folder        {Path('.himl', 'runs', 'train_3_cc', 'code')}" in screen(himl, "runs", "show", "train_3_cc")
    for line in (
        "Outcome       exit code 0",
        "Started       2026-03-01T12:00:03.000Z, took 1m 05s",
        "Command       python train.py",
        "  team  blue",
        "  lr  0.1",
    ):
        assert line in text.splitlines()
    metrics = [line.split() for line in text.splitlines() if line.split()[:1] in (["val/loss"], ["grad"], ["big"])]
    assert metrics == [
        ["big", "-Infinity", "2", "1"],
        ["grad", "NaN", "2", "1"],
        ["val/loss", "0.5", "2", "2"],
        ["val/loss", "0.25", "1", "1", "fold", "0"],
    ]
    children = [line.split() for line in text.splitlines() if line.split()[:1] in (["fold_0"], ["fold_1"])]
    assert children == [
        ["fold_0", "fold", "0", "Completed", "1m", "05s"],
        ["fold_1", "fold", "1", "Failed", "1m", "05s"],
    ]
    write_files(project, {"most_recent_run.txt": "train:train_2_bb\n", "deep/er/x": ""})
    assert himl.ok("runs", "show", "-q", cwd=project / "deep" / "er").stdout == "train_2_bb\n"
    assert "Outcome       exit code 3\n" in himl.ok("runs", "show").stdout
    assert ids(himl.ok("runs", "show", "--experiment", "base", "--num_runs", "5", "--json")) == ["base_1_aa"]
    assert ids(himl.ok("runs", "show", "train_3_cc", "--children", "--json")) == ["fold_0", "fold_1"], (
        "in the order that show lists them"
    )
    alone = himl("runs", "tag", "base_1_aa", "noequals")
    beside = himl("runs", "tag", "base_1_aa", "team=red", "noequals")
    assert (alone.code, beside.code) == (2, 3)
    assert all("A tag is KEY=VALUE" in each.stderr for each in (alone, beside))
    assert "No run 'noequals'" in beside.stderr
    assert himl.ok("runs", "cancel", "train_2_bb").stdout == "Run 'train_2_bb' had already ended: Failed.\n"
    assert (
        himl.ok("runs", "tag", "--run", "train_2_bb", "stage=final", "note=a=b c").stdout
        == "Tagged run 'train_2_bb': stage=final, note=a=b c\n"
    )
    url = "https://ml.azure.com/runs/train_2_bb?wsid=/subscriptions/s&tid=t"
    tags = himl.ok("runs", "tag", url, "a=b", "--json").json()[0]["tags"]
    assert tags == {"team": "red", "build_branch": "main", "stage": "final", "note": "a=b c", "a": "b"}
    mixed = himl.ok("runs", "tag", "train_2_bb", "base_1_aa", "stage=", "a=c", "note=")
    assert mixed.stdout.splitlines()[0] == "Tagged run 'train_2_bb': stage removed, a=c, note removed"
    shown = himl.ok("runs", "show", "train_2_bb", "base_1_aa", "--json").json()
    assert [run["tags"] for run in shown] == [
        {"team": "red", "build_branch": "main", "a": "c"},
        {"team": "blue", "a": "c"},
    ]
    assert (
        himl.ok("runs", "delete", "train_3_cc", "--yes").stdout == "Deleted run 'train_3_cc' and its 2 nested runs.\n"
    )
    assert himl("runs", "show", "fold_0").code == 3
    assert sorted(path.name for path in (project / ".himl" / "runs").iterdir()) == ["base_1_aa", "train_2_bb"]


def test_list_shows_what_tells_runs_apart(himl: Himl, empty: RecordedRuns) -> None:
    """The arguments that differ and the primary metric, and on request metrics and parameters, with the best value
    marked.
    """
    for number, lr in enumerate(("0.1", "0.01"), 1):
        empty.add(f"train_{number}", command=f"python train.py --lr {lr} --depth 3")
        empty.log(f"train_{number}", [("val/loss", 1.5 / number, 1, 1), ("val/AUC", 0.5, 1, 1)], {"seed": str(number)})
    lines = [line.split("\t") for line in himl.ok("runs", "list").stdout.splitlines()]
    assert [line[6:8] for line in lines] == [["arguments", "val/loss"], ["lr=0.01", "0.75"], ["lr=0.1", "1.5"]]
    asked = ("runs", "list", "--sort", "-val/loss", "--metrics", "val/*", "--params")
    lines = [line.split("\t") for line in himl.ok(*asked).stdout.splitlines()]
    assert [line[:1] + line[6:10] for line in lines] == [
        ["id", "lr", "seed", "val/AUC", "val/loss"],
        ["train_1", "0.1", "1", "0.5", "1.5"],
        ["train_2", "0.01", "2", "0.5", "0.75"],
    ]
    document = himl.ok(*asked, "--json").json()
    assert [(run["metrics"], run["parameters"]) for run in document] == [
        ({"val/AUC": 0.5, "val/loss": 1.5 / number}, {"lr": lr, "depth": "3", "seed": str(number)})
        for number, lr in ((1, "0.1"), (2, "0.01"))
    ]
    assert himl.ok("runs", "list", "--where", "lr < 0.1 and status = completed", "-q").stdout == "train_2\n"
    assert "train_2" in (shown := screen(himl, "runs", "list", "--sort", "val/loss", "--goal", "minimize"))
    assert ("*0.75" in shown, "*1.5" in shown, max(map(len, shown.splitlines())) <= 80) == (True, False, True)
    assert screen(himl, "runs", "list", "--metrics", "val/AUC").count("*0.5") == 2, (
        "of equal runs, none is the best one"
    )
    both = "'depth' is a parameter here, and also a metric. For the metric, write metrics.depth\n"
    empty.log("train_2", [("depth", 5.0, 1, 1)])
    for option in ("--where=depth < 4", "--sort=depth"):
        assert himl.ok("runs", "list", option).stderr.startswith(both)
    for option in ("--where=metrics.depth > 4", "--where=params.depth < 4", "--where=seed < 4"):
        assert "also a metric" not in himl.ok("runs", "list", option).stderr
    guess = (
        "The names of metrics decide which values are best: the lowest val/loss and the highest val/AUC. To "
        "decide it yourself: --goal"
    )
    assert himl.ok(*asked, "--best").stderr.count(guess) == 1
    assert "decide" not in himl.ok(*asked, "--goal", "minimize").stderr
    assert "the lowest val/loss." in himl.ok("runs", "list", "--where", "val/loss < 1", "--best").stderr
    assert (
        "No metric matches 'acc'. Metrics: depth, val/AUC, val/loss."
        in himl.ok("runs", "list", "--metrics", "acc").stderr
    )
    for wrong, code in (
        ("--sort=loss", 3),
        ("--where=lr <", 2),
        ("--since=soon", 2),
        ("--best", 2),
        ("--watch --params", 2),
        ("--goal=low", 2),
    ):
        assert (
            himl("runs", "list", *wrong.split(" --")[:1], *[f"--{more}" for more in wrong.split(" --")[1:]]).code
            == code
        ), wrong
    empty.add(
        "sweep_3",
        command="python train.py",
        tags={MANY: "sweep", PRIMARY_METRIC: "val/loss", GOAL: "minimize", BEST_TRIAL: "trial_a"},
    )
    empty.add("trial_a", parent="sweep_3")
    empty.log("trial_a", [("val/loss", 0.25, 1, 1)])
    header, sweep, *_ = [line.split("\t") for line in himl.ok("runs", "list").stdout.splitlines()]
    assert (header[7:9], sweep[7:9]) == (["val/loss", "trial"], ["0.25", "trial_a"])
    empty.log("train_2", [("my loss", 2.0, 1, 1)], {"my loss": "1"})
    himl.ok("runs", "tag", "train_2", "seed=2")
    for key, other in (("my loss", "metrics.`my loss`"), ("seed", "tags.seed")):
        found = himl.ok("runs", "list", "--where", f"`{key}` < 5")
        assert found.stderr.endswith(f" write {other}\n")
        himl.ok("runs", "list", "--where", f"{other} != '7'" if other.startswith("tags") else f"{other} < 5")


def test_diff_on_a_screen_has_the_digits_that_differ(himl: Himl, empty: RecordedRuns) -> None:
    values = {"train_1": (0.1 + 0.2, 0.5), "train_2": (0.1 + 0.7, 0.5000000001)}
    for name, (loss, other) in values.items():
        empty.add(name)
        empty.log(name, [("loss", loss, 0, 1), ("other", other, 0, 1)])
    lines = [line.split() for line in screen(himl, "runs", "diff", "train_1", "train_2").splitlines()]
    assert ["loss", "0.3", "0.8"] in lines
    assert ["other", "0.5", "0.5000000001"] in lines
    different = himl.ok("runs", "diff", "train_1", "train_2").stdout
    assert ("0.30000000000000004" in different, "No differences" in different) == (True, False)
    assert himl.ok("runs", "diff", "train_1", "train_1").stdout.endswith(
        "\nNo differences except perhaps in the code.\n"
    )


def test_values_of_a_sweep_are_those_of_its_best_trial(himl: Himl, empty: RecordedRuns) -> None:
    """Sorted, filtered and shown like those of other runs, and named. Folds have no best one."""
    for name, value in (("train_1", 0.5), ("train_2", 2.0)):
        empty.add(name)
        empty.log(name, [("val/loss", value, 0, 1), ("val/acc", value / 10, 0, 1)], {"lr": "7"})
    search = {PRIMARY_METRIC: "val/loss", GOAL: "minimize"}
    for number, (kind, trials) in enumerate((("sweep", (4.0, 1.0)), ("crossval", (0.1, 0.2)), ("sweep", ())), 3):
        best = {BEST_TRIAL: f"{kind}_{number}_1"} if trials else {}
        empty.add(f"{kind}_{number}", tags={MANY: kind, **search, **best})
        for index, value in enumerate(trials):
            trial = f"{kind}_{number}_{index}"
            empty.add(trial, parent=f"{kind}_{number}", tags={TRIAL: str(index), HYPERPARAMETERS: '{"lr": 3}'})
            empty.log(
                trial, [("val/loss", 0.25, 0, 1), ("val/loss", value, 1, 1), ("val/acc", value / 10, 1, 1)], {"lr": "3"}
            )
    assert himl.ok("runs", "list", "--where", "val/loss <= 1", "--sort", "val/loss", "-q").stdout.split() == [
        "train_1",
        "sweep_3",
    ]
    for options, shown_loss in (((), "1.0"), (("--best",), "0.25")):
        asked = ("runs", "list", "--sort", "-val/acc", "--metrics", "val/*", "--params", *options)
        rows = [line.split("\t") for line in himl.ok(*asked).stdout.splitlines()]
        found = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows}
        assert [*found][:4] == ["id", "train_2", "sweep_3", "train_1"]
        picked = {run: (row["val/acc"], row["val/loss"], row["trial"]) for run, row in found.items() if run != "id"}
        assert picked == {
            "train_1": ("0.05", "0.5", ""),
            "train_2": ("0.2", "2.0", ""),
            "sweep_3": ("0.1", shown_loss, "sweep_3_1"),
            "crossval_4": ("", "", ""),
            "sweep_5": ("", "", ""),
        }
        forms = {run["id"]: run for run in himl.ok(*asked, "--json").json()}
        assert {run: form["best_trial"] for run, form in forms.items() if "best_trial" in form} == {
            "sweep_3": "sweep_3_1"
        }
        assert [forms[run]["parameters"] for run in ("sweep_3", "crossval_4")] == [{"lr": "3"}, {}]
        assert [found[run]["lr"] for run in ("sweep_3", "crossval_4")] == ["3", ""]
    assert himl.ok("runs", "list", "--where", "lr < 5", "-q").stdout == "sweep_3\n"
    diff = himl.ok("runs", "diff", "sweep_3", "train_2", "--json").json()
    assert (diff["metrics"]["val/loss"], diff["parameters"]) == ([1.0, 2.0], {"lr": ["3", "7"]})
    shown = screen(himl, "runs", "list", "--sort", "val/loss").splitlines()
    assert [shown[0].split()[-2:], shown[2].split()[-2:], max(map(len, shown)) <= 80] == [
        ["val/loss", "TRIAL"],
        ["1", "1"],
        True,
    ]
    himl.ok("runs", "delete", "sweep_3_1", "--yes")
    diff = himl.ok("runs", "diff", "sweep_3", "train_2", "--json").json()
    assert (diff["metrics"]["val/loss"], diff["parameters"]) == ([None, 2.0], {"lr": [None, "7"]})


@pytest.mark.large("waits for a job")
@posix
def test_ctrl_c_ends_following_and_not_the_run(himl: Himl, project: Path, tmp_path: Path) -> None:
    (project / "slow.py").write_text(SCRIPT)
    ended, canceled = (
        himl.ok("submit", "slow.py", "--no_wait", "-q", "--", str(tmp_path / name)).stdout.strip()
        for name in ("go", "never")
    )
    watchers = [himl.start("runs", "logs", run_id, "--follow") for run_id in (ended, canceled)]
    for watcher in watchers:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == b"started\n"
    (tmp_path / "go").touch()
    assert (watchers[0].communicate(timeout=100)[0], watchers[0].returncode) == (b"done\n", 0)
    assert himl.ok("runs", "show", ended, "--json").json()["status"] == "Completed"
    os.kill(watchers[1].pid, signal.SIGINT)
    _, said = watchers[1].communicate(timeout=100)
    assert (watchers[1].returncode, f"himl runs cancel {canceled}" in said.decode()) == (130, True)
    assert himl.ok("runs", "show", canceled, "--json").json()["status"] == "Running"
    refused = himl("runs", "delete", canceled, "--yes")
    assert (refused.code, f"himl runs cancel {canceled}" in refused.stderr) == (2, True)
    assert himl.ok("runs", "cancel", canceled).stdout == f"Requested cancellation of run '{canceled}'.\n"
    himl("runs", "logs", canceled, "--follow")
    assert himl.ok("runs", "show", canceled, "--json").json()["status"] == "Canceled"


@posix
@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 1), (None, 130)])
def test_delete_asks_on_a_terminal(himl: Himl, project: Path, answer: str | None, code: int) -> None:
    terminal = Terminal([str(himl.program), "runs", "delete", "train_2_bb"], cwd=project, env={"NO_COLOR": "1"})
    terminal.wait_for("Delete run 'train_2_bb' with all its files? [y/N]")
    if answer is None:
        terminal.interrupt()
    else:
        terminal.type(answer)
    assert terminal.finish() == code
    assert ("error: Interrupted." in terminal.screen) is (answer is None)
    assert (project / ".himl" / "runs" / "train_2_bb").exists() is (code != 0)


def screen(himl: Himl, *arguments: str) -> str:
    terminal = Terminal([str(himl.program), *arguments], cwd=himl.folder, env={"NO_COLOR": "1"})
    assert terminal.finish() == 0, terminal.screen
    return re.sub(r"\x1b\[[0-9;]*m", "", terminal.screen)


def test_cells_for_programs_are_exact(himl: Himl, empty: RecordedRuns) -> None:
    """Numbers that can be read back, in their shortest form, and in CSV the whole text."""
    empty.add("train_0", tags={"note": 'a,"b"\nc  d\te\x1b[31m'})
    empty.add("train_1")
    empty.log(
        "train_0",
        [("loss", 0.1, 0, 0), ("steps", 3, 0, 0), ("huge", 1e300, 0, 0), ("none", math.nan, 0, 0)],
        {"lr": "1\n2"},
    )
    options = (
        "runs",
        "list",
        "--metrics",
        "loss,steps,huge,none",
        "--params",
        "--sort",
        "loss",
        "--goal",
        "minimize",
        "--format",
    )
    head, row, other = csv.reader(himl.ok(*options, "csv").stdout.splitlines(keepends=True))
    found = dict(zip(head, row, strict=True))
    assert found["lr"] == "1\n2"
    assert {name: found[name] for name in ("loss", "steps", "huge", "none")} == {
        "loss": "0.1",
        "steps": "3.0",
        "huge": "1e+300",
        "none": "NaN",
    }
    assert found["tags"] == 'note=a,"b"\nc  d\te [31m'
    assert dict(zip(head, other, strict=True))["loss"] == ""
    assert himl.ok(*options, "tsv").stdout.splitlines()[1].split("\t")[-1] == 'note=a,"b" c d e [31m'


def test_options_that_would_have_no_effect_are_errors(himl: Himl, recorded: RecordedRuns) -> None:
    for name in ("--goal minimize", "--best"):
        refused = himl("runs", "list", *name.split())
        assert (refused.code, f"error: {name.split()[0]} needs metrics." in refused.stderr) == (2, True)
    refused = himl("submit", "--resume", "latest", "--from", "latest")
    assert refused.stderr.startswith("error: --from cannot be used with --resume")


def test_filters_that_are_not_what_they_seem(himl: Himl, empty: RecordedRuns) -> None:
    empty.add("train_0", display_name="first", tags={"team": "a or b"})
    empty.add("train_1", experiment="other", status=RunStatus.failed)
    empty.log("train_0", [("my loss", 0.5, 0, 0)], {"name": "we"})
    empty.log("train_1", [("my loss", 1.5, 0, 0)], {"name": "you"})
    for where, expected in {
        "name = we": "train_0",  # a parameter, and not the display name
        "display_name = first": "train_0",
        "`my loss` < 1": "train_0",
        "metrics.`my loss` < 1 and tags.team = 'a or b'": "train_0",
        'metrics."my loss" >= 1.5': "train_1",
        "attributes.experiment = other": "train_1",
        "attributes.duration > 1 AND attributes.status = 'FAILED'": "train_1",
        "tags.team ILIKE 'A %'": "train_0",
        "name NOT IN ('we', 'they')": "train_1",
    }.items():
        assert himl.ok("runs", "list", "-q", "--where", where).stdout.split() == [expected], where
    for where in ("name = we or name = you", "my loss < 1", "(name = we)", "not name = we"):
        refused = himl("runs", "list", "--where", where)
        assert (
            refused.code,
            "hint: Join comparisons by AND only, and write names with spaces in backticks" in refused.stderr,
        ) == (2, True), where


def test_lists_have_formats_colours_and_a_pager(himl: Himl, empty: RecordedRuns) -> None:
    """Formats are the same on a terminal and in a pipe. Colour can be required, and $PAGER gets what a terminal
    cannot show at once.
    """
    for number in range(30):
        empty.add(f"train_{number}", tags={"note": "a,b" if number else "=1+1", "build_branch": "main"})
    head = "id experiment display_name status started duration tags"
    row = ["train_29", "train", "", "Completed", "2026-03-01T12:00:30.000Z", "65.000"]
    for is_piped in (True, False):

        def listed(form: str, *options: str, is_piped: bool = is_piped) -> list[str]:
            words = ("runs", "list", "--format", form, *options)
            return (himl.ok(*words).stdout if is_piped else screen(himl, *words)).splitlines()

        assert [*csv.reader(listed("csv", "-n", "all"))][:2] == [head.split(), [*row, "note=a,b"]]
        assert listed("tsv", "-n", "2")[:2] == [head.replace(" ", "\t"), "\t".join([*row, "note=a,b"])]
        table = [line.split()[:3] for line in listed("table", "-n", "2")]
        assert table == [
            ["ID", "EXPERIMENT", "STATUS"],
            *([f"train_{number}", "train", "Completed"] for number in (29, 28)),
        ]
    assert himl("runs", "list", "--format", "csv", "--json").code == 2
    assert himl.ok("runs", "aggregate", "train_1", "--format", "csv").stdout == "metric,train_1\nstatus,Completed\n"
    green = "\x1b[32mCompleted"
    for variables, is_green in (
        ({"NO_COLOR": ""}, False),
        ({"NO_COLOR": "", "FORCE_COLOR": "1"}, True),
        ({"NO_COLOR": "", "CLICOLOR_FORCE": "1"}, True),
        ({"NO_COLOR": "", "CLICOLOR_FORCE": "0"}, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    ):
        assert (green in himl("runs", "list", "--format", "table", env=variables).stdout) is is_green, variables
        assert "\x1b" not in himl("runs", "list", env=variables).stdout
        assert ("\x1b" in himl("runs", "show", "nothing", env=variables).stderr) is is_green, variables
    pager = {"PAGER": "sed 's/^/| /'", "NO_COLOR": "1"}
    for options, is_paged in (((), False), (("-n", "all"), True), (("-n", "all", "--no_pager"), False)):
        terminal = Terminal([str(himl.program), "runs", "list", *options], cwd=himl.folder, env=pager)
        assert (terminal.finish(), "| ID" in terminal.screen, "Completed" in terminal.screen) == (0, is_paged, True)


def test_short_ids_of_tables_name_runs(himl: Himl, empty: RecordedRuns) -> None:
    """A terminal shows the shortest form that is unique, other formats the whole ids. A run represents its trials."""
    first, second, third = (
        f"train_177236640{number}_{digits}" for number, digits in enumerate(("0a1b2c3d", "0a1b2d00", "2a74bb10"))
    )
    for run_id in (first, second, third):
        empty.add(run_id)
    empty.add(f"{first}_1", parent=first)
    rows = screen(himl, "runs", "list").splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["2a74b", "0a1b2d", "0a1b2c"]
    assert himl.ok("runs", "list", "-q").stdout.split() == [third, second, first]
    assert himl.ok("runs", "list").stdout.splitlines()[1].startswith(f"{third}\t")
    for text, run_id in {"0a1b2c": first, "0a1b2c3d": first, "0a1b2c3d_1": f"{first}_1", "2a74": third}.items():
        assert himl.ok("runs", "tag", text, "seen=yes", "-q").stdout.split() == [run_id]
    missing = himl("runs", "delete", f"{third[:-1]}", "--yes")
    assert (missing.code, missing.stderr.splitlines()[-1]) == (3, f"hint: Did you mean {third}?")
    gone = himl.ok("runs", "delete", "2a74b", "--yes")
    assert gone.stderr == f"Using run '{third}', the only one like '2a74b'.\n"
    assert himl("runs", "delete", f"{first}_", "--yes").code == 3, "the id of a child run that is gone"
    several = himl("runs", "logs", "0a1b2")
    assert (several.code, f"Name one of them: {second}, {first}" in several.stderr) == (2, True)
    assert isinstance(himl.ok("runs", "show", "0a1b2c", "--json").json(), dict)
    assert [run["id"] for run in himl.ok("runs", "show", "0a1b2c", "--children", "--json").json()] == [f"{first}_1"]


def test_archived_trials_are_told_and_found(himl: Himl, empty: RecordedRuns) -> None:
    add_sweep_here(empty, 3)
    himl.ok("runs", "archive", f"{SHOWN}_0")
    told = "Omitted 1 archived run. To list archived runs: himl runs list --archived --experiment"
    assert told in himl.ok("runs", "aggregate", SHOWN).stderr
    empty.add("other_1_cc")
    assert told in himl.ok("runs", "aggregate", SHOWN, "other_1_cc").stderr
    assert ids(himl.ok("runs", "list", "--archived", "--json")) == [f"{SHOWN}_0"]
    assert himl.ok("runs", "restore", "latest", "-q").stdout == f"{SHOWN}_0\n"
    assert told not in himl.ok("runs", "aggregate", SHOWN).stderr


def test_what_is_not_written_is_no_success(himl: Himl, project: Path) -> None:
    RecordedRuns(project).add("bare_1_aa")
    outcome = himl("runs", "aggregate", "bare_1_aa", "--plot", "curves.png")
    assert (outcome.code, outcome.stderr.splitlines()[-1]) == (
        3,
        "error: The runs have no values to draw, so there is no 'curves.png'.",
    )
    assert "\x1b" not in himl.ok("runs", "tag", "bare_1_aa", "seen=\x1b[2J").stdout
    shutil.rmtree(project / ".himl")
    (project / ".himl").write_text("")
    assert himl("runs", "list").stderr.splitlines() == [
        f"error: The workspace '{project / '.himl'}' is not a folder.",
        "hint: Move it away.",
    ]


def test_trials_are_rows_in_the_order_of_their_values(himl: Himl, empty: RecordedRuns) -> None:
    add_sweep_here(empty, 4, failed=(1,))
    text = himl.ok("runs", "show", SHOWN).stdout
    assert "Trials: 3 Completed, 1 Failed\n" in text
    assert table(text) == [
        ["TRIAL", "lr", "opt", "val/loss", "STATUS", "DURATION"],
        [f"{SHOWN}_2", "0.003", "sgd", "0.25", "best", "Completed", "3.0s"],
        [f"{SHOWN}_3", "0.004", "adam", "0.75", "Completed", "4.0s"],
        [f"{SHOWN}_0", "0.001", "sgd", "2.25", "Completed", "1.0s"],
        [f"{SHOWN}_1", "0.002", "adam", "Failed", "2.0s"],
    ]
    assert "Sweep         lr=uniform(0,1) opt=adam,sgd, random\n" in text
    assert "himl." not in text
    document = himl.ok("runs", "show", SHOWN, "--json").json()
    assert document["primary_metric"] == {"name": "val/loss", "goal": "minimize", "best": f"{SHOWN}_2"}
    assert [child["id"] for child in document["children"]] == [f"{SHOWN}_{index}" for index in range(4)]
    assert document["children"][2]["hyperparameters"] == {"lr": 0.003, "opt": "sgd"}
    assert [child["primary_metric"] for child in document["children"]] == [2.25, None, 0.25, 0.75]
    page = himl.ok("runs", "show", f"{SHOWN}_1").stdout
    assert page.count("lr=0.002, opt=adam") == 1
    assert f"Parent        {SHOWN}\n" in page
    assert "hyperparameters" not in page
    himl.ok("runs", "tag", SHOWN, f"{BEST_TRIAL}={SHOWN}_0")
    shown = himl.ok("runs", "show", SHOWN).stdout
    assert f"The best trial, by its best value at any step, is {SHOWN}_0. The table shows last values.\n" in shown
    assert table(shown)[1][0] == f"{SHOWN}_0"
    for change in (("archive", f"{SHOWN}_0"), ("delete", f"{SHOWN}_0", "--yes")):
        himl.ok("runs", *change)
        shown = himl.ok("runs", "show", SHOWN).stdout
        assert (f"Best trial    {SHOWN}_2\n" in shown, table(shown)[1][:5:4]) == (True, [f"{SHOWN}_2", "best"])
        assert shown.endswith(f"The recorded best trial, {SHOWN}_0, is archived or deleted.\n")
        assert himl.ok("runs", "show", SHOWN, "--json").json()["primary_metric"]["best"] == f"{SHOWN}_2"
    himl.ok("runs", "archive", *(f"{SHOWN}_{index}" for index in range(1, 4)))
    assert f"Best trial    {SHOWN}_0, which is archived or deleted\n" in himl.ok("runs", "show", SHOWN).stdout


@posix
def test_trials_are_ranked_again_and_aggregated_in_their_order(himl: Himl, empty: RecordedRuns) -> None:
    """A sweep whose primary metric no trial logged is ranked by another one. Searches have no mean, unless it is
    requested.
    """
    add_sweep_here(empty, 4, tags={PRIMARY_METRIC: "val/lss"})
    complaint = "No trial logged the primary metric 'val/lss'. Logged: other, val/loss."
    assert complaint in himl.ok("runs", "show", SHOWN).stdout
    more = f"For values of child runs: himl runs aggregate {SHOWN}\n"
    unsorted = himl("runs", "list", "--sort", "other")
    assert (unsorted.code, unsorted.stderr.endswith(more)) == (3, True), unsorted.stderr
    assert himl.ok("runs", "list", "--metrics", "other").stderr.endswith(more)
    ranking = ("runs", "show", SHOWN, "--primary_metric", "val/loss")
    found = himl.ok(*ranking, "--json")
    assert found.json()["primary_metric"] == {"name": "val/loss", "goal": "minimize", "best": f"{SHOWN}_2"}
    assert (
        "By the name of the metric, the lowest val/loss is best. To decide it yourself: --goal minimize" in found.stderr
    )
    rows = table(himl.ok(*ranking, "--goal", "maximize").stdout)
    assert [row[0] for row in rows[1:5]] == [f"{SHOWN}_{number}" for number in (0, 1, 3, 2)], (
        "9.0 was the best value of all"
    )
    assert rows[1][4] == "best"
    for wrong, code, words in (
        ((SHOWN, "--primary_metric", "val"), 3, "Logged: other, val/loss."),
        ((f"{SHOWN}_0", "--primary_metric", "val/loss"), 2, "has no trials to rank."),
        ((SHOWN, "--primary_metric", "other"), 2, "--goal minimize"),
        ((SHOWN, "--goal", "minimize", "--watch"), 2, "cannot be combined"),
    ):
        refused = himl("runs", "show", *wrong)
        assert (refused.code, words in refused.stderr) == (code, True), refused.stderr
    himl.ok("runs", "tag", SHOWN, f"{PRIMARY_METRIC}=val/loss", f"{BEST_TRIAL}={SHOWN}_2")
    done = himl.ok("runs", "aggregate", SHOWN, "--metrics", "other")
    order = [
        f"lr={lr}, opt={opt}" for lr, opt in (("0.003", "sgd"), ("0.004", "adam"), ("0.002", "adam"), ("0.001", "sgd"))
    ]
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["metric", *order],
        ["status", *["Completed"] * 4],
        ["best", "best", "", "", ""],
        ["other", *["1.0"] * 4],
    ]
    assert himl.ok("runs", "aggregate", SHOWN, "--stats").stdout.split("\t")[:2] == ["metric", "mean"]
    document = himl.ok("runs", "aggregate", SHOWN, "--json").json()
    assert (document["primary_metric"]["best"], document["children"][0]["id"]) == (f"{SHOWN}_2", f"{SHOWN}_0")
    shown = screen(himl, "runs", "aggregate", SHOWN)
    assert ("*lr=0.003, opt=sgd" in shown, "MEAN" in shown) == (True, False)


def test_tables_fit_80_columns_and_count_what_is_omitted(himl: Himl, empty: RecordedRuns) -> None:
    add_sweep_here(empty, 300, failed=(1,))
    shown = screen(himl, "runs", "show", SHOWN)
    part = shown[shown.index("\nTrials: ") :].strip().splitlines()
    assert max(map(len, part)) <= 80
    trials = [line for line in part[2:] if line.split()[0].isdigit()]
    assert (len(trials), trials[-1].split()[0]) == (35, "1"), "the one that failed comes last"
    assert trials[0].split() == ["2", "0.003", "sgd", "0.25", "*", "Completed", "3.0s"]
    assert part[-1] == f"Trial 2 is run {SHOWN}_2."
    assert "… 265 more (265 Completed). A pipe gets all of them …" in part
    turned = screen(himl, "runs", "aggregate", SHOWN, "--metrics", "val/*", "--stats").splitlines()
    assert (turned[0].split(), turned[1].split()) == (
        ["RUN", "STATUS", "val/loss"],
        ["*lr=0.003,", "opt=sgd", "Completed", "0.25"],
    )
    assert {"mean", "std", "min", "max", "median"} <= {line.partition(" ")[0] for line in turned}
    for number in range(9):
        empty.log(f"{SHOWN}_0", [(f"metric number {number}", 1.0, 1, 2)])
    cut = screen(himl, "runs", "aggregate", SHOWN)
    assert ("of 300 runs do not fit" in cut, "--output_csv" in cut) == (True, True)


@pytest.fixture
def empty(project: Path) -> RecordedRuns:
    return RecordedRuns(project)


def add_sweep_here(
    runs: RecordedRuns,
    count: int,
    *,
    goal: str = "minimize",
    failed: tuple[int, ...] = (),
    tags: Mapping[str, str] | None = None,
) -> None:
    own = {
        MANY: "sweep",
        PRIMARY_METRIC: "val/loss",
        GOAL: goal,
        SWEPT: "lr=uniform(0,1) opt=adam,sgd, random",
        **(tags or {}),
    }
    runs.add(SHOWN, tags=own, exit_code=0)
    for index in range(count):
        values: dict[str, Scalar] = {"lr": (index + 1) / 1000, "opt": "adam" if index % 2 else "sgd"}
        status = RunStatus.failed if index in failed else RunStatus.completed
        trial_tags = {HYPERPARAMETERS: json.dumps(values), TRIAL: str(index)}
        runs.add(
            f"{SHOWN}_{index}",
            parent=SHOWN,
            status=status,
            tags=trial_tags,
            display_name=values_text(values),
            seconds=index + 1,
        )
        if index not in failed:
            sign = 1 if goal == "minimize" else -1
            runs.log(
                f"{SHOWN}_{index}",
                [("val/loss", 9.0, 0, 1), ("val/loss", sign * abs(index - 2.25), 1, 2), ("other", 1.0, 1, 2)],
            )


def table(text: str, header: str = "TRIAL") -> list[list[str]]:
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    begin = next(place for place, line in enumerate(lines) if line.strip().startswith(header))
    return [line.split() for line in lines[begin:]]


def add_pipeline(runs: RecordedRuns) -> None:
    runs.add("pipe", tags={MANY: "pipeline"}, status=RunStatus.failed)

    def step(key: str, after: str = "", status: RunStatus = RunStatus.completed, many: str = "") -> None:
        runs.add(
            f"pipe_{key}",
            parent="pipe",
            display_name=f"{key} it",
            status=status,
            tags={STEP: key, STEP_AFTER: after} | ({MANY: many} if many else {}),
            seconds=2,
        )

    step("fetch")
    step("left", "fetch")
    step("right", "fetch", many="sweep")
    step("join", "left,right", RunStatus.failed)
    step("inner", "left", many="pipeline")
    step("alone")
    for index in range(3):
        runs.add(
            f"pipe_right_{index}",
            parent="pipe_right",
            tags={HYPERPARAMETERS: '{"lr": 1}', TRIAL: str(index)},
            status=RunStatus.failed if index else RunStatus.completed,
        )
    runs.add("pipe_inner_a", parent="pipe_inner", display_name="deep", tags={STEP: "a", STEP_AFTER: ""})


def test_pipeline_is_a_tree_of_its_steps(himl: Himl, empty: RecordedRuns) -> None:
    add_pipeline(empty)
    shown = himl.ok("runs", "show", "pipe").stdout
    names = [line[2:].rstrip() for line in shown[shown.index("Steps\n") :].splitlines()[2:]]
    assert [(len(name) - len(name.lstrip())) // 2 for name in names] == [0, 1, 2, 2, 3, 1, 2, 0]
    said = ["fetch it", "left it", "join it", "inner it", "deep Completed", "right it", "3 trials", "alone it"]
    assert [" ".join(name.split()[:2]) for name in names] == said
    assert [line.split()[-4:] for line in shown.splitlines() if "join it" in line] == [["left", "it,", "right", "it"]]
    assert "2 Failed, 1 Completed" in shown
    assert "himl." not in shown
    assert "himl submit --resume pipe" in shown
    children = {child["id"]: child for child in himl.ok("runs", "show", "pipe", "--json").json()["children"]}
    assert [child["id"] for child in children["pipe_right"]["children"]] == [
        "pipe_right_0",
        "pipe_right_1",
        "pipe_right_2",
    ]
    assert [child["id"] for child in children["pipe_inner"]["children"]] == ["pipe_inner_a"]
    assert "children" not in children["pipe_left"]
    assert children["pipe_join"]["tags"][STEP_AFTER] == "left,right"


def curve(name: str, *values: float) -> list[Logged]:
    return [writing.scalar(name, value, step) for step, value in enumerate(values)]


def record(
    workspace: LocalWorkspace, run_id: str, entries: Iterable[Logged], end: RunEnd = COMPLETED, **fields: object
) -> None:
    workspace.start_run(Run(run_id, **{"experiment": "sweep", **fields}))  # type: ignore[arg-type]
    workspace.log(run_id, list(entries))
    workspace.end_run(run_id, end)


def record_trial(
    workspace: LocalWorkspace,
    number: int,
    values: Mapping[str, object],
    entries: Iterable[Logged],
    end: RunEnd = COMPLETED,
) -> None:
    record(workspace, f"{SWEEP}_{number}", entries, end, parent=SWEEP, tags={HYPERPARAMETERS: json.dumps(values)})


@pytest.fixture
def workspace(project: Path) -> LocalWorkspace:
    found = RecordedRuns(project).workspace
    found.start_run(Run(SWEEP, "sweep"))
    machine = curve("system/gpu_0_utilization_percentage", 40.0, 60.0)
    record_trial(
        found,
        0,
        {"lr": 0.1},
        [*curve("val/loss", 3.0, 1.0), *curve("acc", 0.5), *machine, writing.scalar("word", "tab\there")],
    )
    record_trial(found, 1, {"lr": 0.01}, curve("val/loss", 2.0), FAILED)
    record_trial(found, 2, {"lr": 0.001}, [*curve("val/loss", 9.0, 3.0), *curve("acc", 0.25)])
    found.end_run(SWEEP, COMPLETED)
    return found


def test_runs_of_both_workspaces_at_once(
    himl: Himl, workspace: LocalWorkspace, azure_environment: StagedWorkspace, project: Path
) -> None:
    azure_environment.write_config(project)
    add_sweep(azure_environment, "there", [{"lr": 0.5}, {"lr": 0.25}], lambda number, _: {"val/loss": [1.0, number]})
    record(workspace, "here", curve("val/loss", 7.0))
    assert himl.ok("runs", "aggregate", "there", "--no_stats").stdout.splitlines() == [
        "metric\t0.5\t0.25",
        "status\tCompleted\tCompleted",
        "val/loss\t0.0\t1.0",
    ]
    assert himl.ok("runs", "aggregate", "here", "there_1", "--no_stats").stdout.splitlines()[2] == "val/loss\t7.0\t1.0"
    azure_environment.stage.faults.add(Status(403, code="AuthorizationFailed", message="no"), "/mlflow/", times=None)
    done = himl("runs", "aggregate", "there", "--output_csv", "m.csv")
    assert (done.code, done.stdout, (project / "m.csv").exists()) == (4, "", False)


def said(done: Outcome) -> list[str]:
    """Return himl's messages, without matplotlib's notice that it is building its font cache."""
    return [line for line in done.stderr.splitlines() if "font cache" not in line]


def test_machine_is_a_table_beside_the_metrics(himl: Himl, workspace: LocalWorkspace) -> None:
    (trial, *_) = (run["id"] for run in himl.ok("runs", "show", SWEEP, "--children", "--json").json())
    shown = himl.ok("runs", "show", trial, "--machine").stdout
    machine, metrics = shown.partition("\nMachine\n")[2].split("\nMetrics\n")
    assert [line.split() for line in machine.splitlines() if line] == [
        ["NAME", "MEAN", "PEAK", "LAST", "VALUES"],
        ["gpu_0_utilization_percentage", "50", "60", "60", "2"],
    ]
    assert ("system/" in metrics, "val/loss" in metrics) == (False, True)
    assert "machine" not in himl.ok("runs", "show", trial, "--json").json()
    both = himl("runs", "show", trial, "--machine", "--watch")
    assert (both.code, "--machine and --watch cannot be combined" in both.stderr) == (2, True)


def test_aggregate_has_all_metrics_for_programs(himl: Himl, project: Path, workspace: LocalWorkspace) -> None:
    for options, words in (
        (("--output_csv", "nowhere/m.csv"), "there is no folder"),
        (("--output_parquet", "."), "is a folder"),
        (("--plot", "m.pdf"), "must be a .png or .svg file"),
        (("--output_csv", "o.csv", "--output_parquet", "./o.csv"), "Two results cannot have the same file"),
    ):
        done = himl("runs", "aggregate", "nope", *options)
        assert (done.code, words in done.stderr) == (2, True), done.stderr
    assert [path.name for path in project.iterdir()] == [".himl"]
    for words, names in (
        ("--metrics *", ["acc", "val/loss", "word"]),
        ("--system", ["system/gpu_0_utilization_percentage"]),
        ("--system --metrics *loss", ["system/gpu_0_utilization_percentage", "val/loss"]),
        ("--metrics system/gpu*", ["system/gpu_0_utilization_percentage"]),
    ):
        assert himl.ok("runs", "aggregate", SWEEP, *words.split(), "--json").json()["metrics"] == names
    rows = [
        line.split("\t") for line in himl.ok("runs", "aggregate", SWEEP, "--system", "--no_stats").stdout.splitlines()
    ]
    assert rows[2] == ["system/gpu_0_utilization_percentage", "50.0", "", ""], "the mean of what was logged"
    done = himl.ok("runs", "aggregate", SWEEP)
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["metric", "mean", "std", "min", "max", "median", "0.1", "0.01", "0.001"],
        ["status", "", "", "", "", "", "Completed", "Failed", "Completed"],
        ["acc", "0.375", repr(math.sqrt(2) / 8), "0.25", "0.5", "0.375", "0.5", "", "0.25"],
        ["val/loss", "2.0", "1.0", "1.0", "3.0", "2.0", "1.0", "2.0", "3.0"],
        ["word", "", "", "", "", "", "tab here", "", ""],
    ]
    assert said(done) == ["1 of 3 runs did not complete: 0.01 (Failed). Their metrics count."]
    done = himl.ok(
        "runs",
        "aggregate",
        SWEEP,
        "--output_csv",
        "m.csv",
        "--output_parquet",
        "m.parquet",
        "--plot",
        "m.svg",
        "--no_stats",
        "--metrics",
        "val/*",
    )
    assert done.stdout.splitlines()[0] == "metric\t0.1\t0.01\t0.001"
    assert list(csv.reader((project / "m.csv").read_text().splitlines())) == [
        ["metric", "0.1", "0.01", "0.001"],
        ["val/loss", "1.0", "2.0", "3.0"],
    ]
    assert (project / "m.parquet").read_bytes()[:4] == b"PAR1"
    assert (project / "m.svg").read_text().startswith("<?xml")
    assert said(done)[:3] == ["Wrote m.csv.", "Wrote m.parquet.", "Wrote m.svg."]
    done = himl("runs", "aggregate", "nope", "--json")
    assert (done.code, done.stdout, done.error_json()["code"]) == (3, "", "run_not_found")
    done = himl("runs", "aggregate", SWEEP, "--metrics", "dice,f*")
    assert done.stderr.splitlines() == [
        "error: No metric matches 'dice' or 'f*'.",
        "hint: Metrics: acc, val/loss, word.",
    ]
    assert (done.code, done.stdout) == (3, "")
    done = himl("runs", "aggregate", SWEEP, "--child_arg", "depth")
    assert done.code == 2
    assert "None of the runs has a hyperparameter, tag, parameter or argument 'depth'" in done.stderr
    assert "Available: lr." in done.stderr
    found = himl.ok("runs", "aggregate", "--run", SWEEP, "--json").json()
    assert found["metrics"] == ["acc", "val/loss", "word"]
    assert found["statistics"]["val/loss"] == {
        "mean": 2.0,
        "std": 1.0,
        "min": 1.0,
        "max": 3.0,
        "median": 2.0,
        "count": 3,
    }
    first, second, _ = found["children"]
    assert (first["id"], first["label"], first["status"], first["hyperparameters"]) == (
        f"{SWEEP}_0",
        "0.1",
        "Completed",
        {"lr": 0.1},
    )
    assert first["last"] == {"acc": 0.5, "val/loss": 1.0, "word": "tab\there"}
    assert (first["series"]["val/loss"]["steps"], first["series"]["val/loss"]["values"]) == ([0, 1], [3.0, 1.0])
    assert first["texts"]["word"][0]["value"] == "tab\there"
    assert (second["status"], second["reason"], second["last"]) == ("Failed", "out of memory", {"val/loss": 2.0})
    done = himl.ok("runs", "aggregate", SWEEP, "-q")
    assert (done.stdout.split(), done.stderr) == ([f"{SWEEP}_{number}" for number in range(3)], "")
    record(workspace, "odd", [*curve("a", math.nan, math.inf), *curve("b", math.nan)])
    found = himl.ok("runs", "aggregate", "odd", "--json").json()
    assert found["children"][0]["last"] == {"a": "Infinity", "b": "NaN"}
    assert found["children"][0]["series"]["a"]["values"] == ["NaN", "Infinity"]
    assert found["statistics"]["b"]["count"] == 0


def test_aggregate_tells_which_nested_runs_of_earlier_attempts_count(himl: Himl, empty: RecordedRuns) -> None:
    run = empty.add("train_1_aa")
    for name in ("fold 0", "fold 1", "08:15"):
        empty.add(f"train_1_{name[-1]}", parent=run, display_name=name)
    assert "attempt" not in himl.ok("runs", "aggregate", run).stderr
    empty.workspace.tag(run, {"himl.try": "2"})
    for name in ("fold 1", "09:30"):
        empty.add(f"train_2_{name[-1]}", parent=run, display_name=name)
    told = himl.ok("runs", "aggregate", run, "--json")
    assert [each["display_name"] for each in told.json()["children"]] == ["fold 0", "08:15", "fold 1", "09:30"]
    for words in (
        "Omitted 1 nested run of earlier attempts, because later ones used their names again. ",
        "Included 2 nested runs of earlier attempts, because later ones did not use their names. ",
    ):
        assert words + "To see the attempts: himl runs show train_1_aa" in told.stderr


def test_aggregate_takes_any_selection_and_counts_trials(himl: Himl, workspace: LocalWorkspace) -> None:
    for number in range(3):
        record(
            workspace,
            f"train_{number}",
            curve("loss", number),
            experiment="train",
            tags={"seed": str(10 - number)},
            command=f"train.py --fold {number}",
        )
    for words, head in (
        ("train_0 train_2", "10\t8"),
        ("--experiment train --num_runs 2", "8\t9"),
        ("--experiment train --num_runs all --child_arg fold", "0\t1\t2"),
        (f"--run {SWEEP} --children", "0.1\t0.01\t0.001"),
    ):
        assert himl.ok("runs", "aggregate", *words.split(), "--no_stats").stdout.splitlines()[0] == f"metric\t{head}"
    done = himl.ok("runs", "aggregate", "train_1")
    assert (done.stdout, done.stderr) == (
        "metric\ttrain_1\nstatus\tCompleted\nloss\t1.0\n",
        "Run 'train_1' has no child runs.\n",
    )
    for number, tags in enumerate(({"seed": "0"}, {"seed": "1", STOPPED_EARLY: "bandit"}, {"seed": "2"})):
        record(
            workspace,
            f"run_{number}",
            curve("loss", number),
            RunEnd(RunStatus.canceled, "stopped") if number else COMPLETED,
            tags=tags,
        )
    done = himl.ok("runs", "aggregate", "run_0", "run_1", "run_2", "--no_stats")
    assert done.stdout.splitlines()[1:] == ["status\tCompleted\tCanceled\tCanceled", "loss\t0.0\t1.0\t2.0"]
    assert done.stderr.splitlines() == [
        "1 of 3 runs were stopped early. Their metrics count.",
        "1 of 3 runs did not complete: 2 (Canceled). Their metrics count.",
    ]
    workspace.start_run(Run("young_1_bb", "sweep"))
    workspace.start_run(Run("young_1_bb_0", "sweep", parent="young_1_bb", tags={HYPERPARAMETERS: '{"lr": 1}'}))
    done = himl.ok("runs", "aggregate", "young_1_bb")
    assert done.stdout.splitlines() == ["metric\tlr=1", "status\tRunning"]
    assert done.stderr.splitlines() == ["No metrics yet.", "1 of 1 runs are still in progress."]
    for name in ("young_1_bb_0", "young_1_bb"):
        workspace.end_run(name, COMPLETED)


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc. Windows renames no folder with open files.")
def test_job_outlives_what_its_supervisor_cannot_see(himl: Himl, project: Path, tmp_path: Path) -> None:
    begun, end, away = tmp_path / "begun", tmp_path / "end", tmp_path / "away"
    script = (
        f"import os, time\nopen({str(begun)!r}, 'w').write(str(os.getpid()))\n"
        f"while not os.path.exists({str(end)!r}): time.sleep(0.05)\n"
        "open('outputs/x', 'w').write('all')"
    )
    write_files(project, {"train.py": script})
    run = himl.ok("submit", "train.py", "--no_wait", "-q").stdout.strip()
    until(begun.exists)
    project.rename(away)
    time.sleep(0.5)  # the supervisor looks several times
    away.rename(project)
    assert himl.ok("runs", "show", run, "--json").json()["status"] == "Running"
    project.rename(away)
    end.touch()
    until(lambda: himl.ok("runs", "show", run, "--json", cwd=away).json()["status"] != "Running")
    ended = himl.ok("runs", "show", run, "--json", cwd=away).json()
    assert (ended["status"], ended["exit_code"]) == ("Completed", 0)
    assert (away / ".himl" / "runs" / run / "code" / "outputs" / "x").read_text() == "all"
    for path in (begun, end):
        path.unlink()
    himl.ok("submit", "train.py", "--no_wait", "-q", cwd=away)
    until(lambda: begun.exists() and begun.read_text() != "")
    shutil.rmtree(away / ".himl")
    until(lambda: not Path(f"/proc/{begun.read_text()}").exists())


@pytest.mark.usefixtures("known_disk")
def test_code_is_stored_once_listed_saved_and_freed(himl: Himl, project: Path, tmp_path: Path) -> None:
    script = "from pathlib import Path\nPath('outputs/model').write_text('weights')\nprint('trained')\n"
    write_files(project, {"train.py": script, "lib/part.py": "VALUE = 7\n", "pyproject.toml": ""})
    (project / "lib" / "part.py").chmod(0o755)
    runs = [himl.ok("submit", "train.py", "-q").stdout.splitlines()[0] for _ in range(2)]
    folder = project / ".himl"
    codes = [folder / "runs" / run / "code" for run in runs]
    until(lambda: [sorted(contents(code)) for code in codes] == [["outputs/model"], ["outputs/model"]])
    assert len(list((folder / "store").glob("??/*"))) == 3
    assert himl.ok("runs", "code", runs[0], "-q").stdout.split() == ["lib/part.py", "pyproject.toml", "train.py"]
    saved = tmp_path / "saved"
    assert himl.ok("runs", "code", "--output_dir", saved, "--json").json() == {"folder": str(saved), "files": 3}
    assert contents(saved) == {"lib/part.py": b"VALUE = 7\n", "pyproject.toml": b"", "train.py": script.encode()}
    assert os.access(saved / "lib" / "part.py", os.X_OK)
    again, two = himl("runs", "code", "-o", saved), himl("runs", "code", *runs)
    assert (again.code, "is not empty" in again.stderr, two.code, two.stderr) == (
        2,
        True,
        2,
        "error: code takes one run, not 2.\n",
    )

    def garbage(*words: str) -> dict[str, tuple[int, int]]:
        return {each["kind"]: (each["files"], each["size"]) for each in himl.ok("gc", "--json", *words).json()}

    assert garbage("--older_than", "1d") == {"copies": (0, 0), "code": (0, 0), "artifacts": (0, 0), "downloads": (0, 0)}
    cache = platformdirs.user_cache_path("himl", appauthor=False)
    write_files(
        cache,
        {
            "datasets/old-1/files/a/b.csv": "12345",
            "datasets/new-1/files/b.csv": "123",
            "tensorboard/x/old/events": "1",
            "azure/facts": "1",
        },
    )
    for path in (cache / "datasets" / "old-1", cache / "tensorboard" / "x" / "old"):
        for each in (*path.rglob("*"), path):
            os.utime(each, (1e9, 1e9))
    assert "himl's cache has 2 files that nothing used for 30 days (0.0 MB)" in himl("doctor").stdout
    assert [garbage(*words)["downloads"] for words in ((), ("--yes",), ())] == [(2, 6), (2, 6), (0, 0)]
    assert {*contents(cache)} == {"datasets/new-1/files/b.csv", "azure/facts"}
    CodeStore(folder).restore(codes[0], None, runs[0])  # as if its supervisor had been killed
    assert garbage() == {"copies": (3, len(script) + 10), "code": (0, 0), "downloads": (0, 0)}
    assert "No run needs 3 files" in himl("doctor").stdout
    assert garbage("--yes")["copies"] == (3, len(script) + 10)
    assert sorted(contents(codes[0])) == ["outputs/model"]
    himl.ok("runs", "delete", runs[0], "--yes")
    assert garbage()["code"] == (0, 0)
    assert garbage("--older_than", "2999-01-01", "--yes")["artifacts"] == (1, 7)
    assert (contents(codes[1]), himl.ok("runs", "logs", runs[1]).stdout) == ({}, "trained\n")
    himl.ok("runs", "delete", runs[1], "--yes")
    human = himl.ok("gc")
    assert human.stderr == f"himl can delete {len(script) + 10} B. To delete the files, add --yes.\n"
    assert garbage("--yes")["code"] == (3, len(script) + 10)
    assert not list((folder / "store").glob("??/*"))
