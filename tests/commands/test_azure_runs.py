"""`himl runs` on an Azure ML workspace, through the installed program."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.servers.azureml.log import Seen
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.running import Himl, until
from tests.support.runs import RecordedRuns
from tests.support.terminals import Terminal

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal or signals")
NOON = datetime(2025, 2, 1, 12, 0, 0, tzinfo=timezone.utc)  # of an earlier year: such days take the same room whenever the tests run


@pytest.fixture
def seeded(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    """Four runs, the newest last, and a config.json in the project's folder."""
    azure = azure_environment
    azure.write_config(project)
    azure.add_run("base_1_aa", "base", display_name="baseline", created=NOON, tags={"team": "blue"})
    azure.add_run("train_2_bb", "train", status="Failed", created=NOON + timedelta(minutes=1), error="CUDA out of memory", tags={"team": "red"})
    best = azure.add_run("train_3_cc", "train", created=NOON + timedelta(minutes=2), tags={"team": "blue"}, parameters={"lr": "0.1"})
    azure.add_run("train_4_dd", "train", status="Running", created=NOON + timedelta(minutes=3))
    for number, loss in ((0, 0.5), (1, 0.25)):
        child = azure.add_run(f"fold_{number}", "train", parent="train_3_cc", display_name=f"fold {number}", created=NOON + timedelta(minutes=4 + number))
        azure.add_metric(child, "loss", [loss])
    azure.add_metric(best, "loss", [1.0, 0.75], steps=[1, 2])
    azure.put_artifacts(best, {"user_logs/std_log.txt": b"epoch 1\n\xff raw\n", "user_logs/std_log_process_1.txt": b"rank 1\n", "outputs/m.bin": b"m"})
    return azure


def ids(outcome: Any) -> list[str]:
    return [run["id"] for run in outcome.json()]


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["train_4_dd", "train_3_cc", "train_2_bb", "base_1_aa"]),
        (["--num_runs", "2"], ["train_4_dd", "train_3_cc"]),
        (["--experiment", "train"], ["train_4_dd", "train_3_cc", "train_2_bb"]),
        (["--experiment", "nothing"], []),
        (["--status", "failed,running"], ["train_4_dd", "train_2_bb"]),
        (["--tags", "team=blue"], ["train_3_cc", "base_1_aa"]),
        (["--experiment", "train", "--tags", "team=blue"], ["train_3_cc"]),
    ],
)
def test_list_filters(himl: Himl, options: list[str], expected: list[str]) -> None:
    assert ids(himl.ok("runs", "list", "--json", *options)) == expected


def test_list_in_a_pipe_has_the_same_columns_as_a_local_one(himl: Himl, seeded: StagedWorkspace) -> None:
    lines = himl.ok("runs", "list", "--experiment", "base").stdout.splitlines()
    assert lines[0] == "id\texperiment\tdisplay_name\tstatus\tstarted\tduration\ttags"
    assert lines[1] == "base_1_aa\tbase\tbaseline\tCompleted\t2025-02-01T12:00:05.000Z\t60.000\tteam=blue"
    assert himl.ok("runs", "list", "-q", "--num_runs", "1").stdout == "train_4_dd\n"


@posix
@pytest.mark.usefixtures("seeded")
def test_list_on_a_terminal_of_80_columns(himl: Himl) -> None:
    terminal = Terminal([str(himl.program), "runs", "list"], cwd=himl.folder, env={"NO_COLOR": "1"})
    assert terminal.finish() == 0
    lines = terminal.screen.splitlines()
    assert lines[0].split() == ["ID", "EXPERIMENT", "DISPLAY", "NAME", "STATUS", "STARTED", "DURATION", "TAGS"]
    assert [line.split()[0] for line in lines[1:]] == ["train_4_dd", "train_3_cc", "train_2_bb", "base_1_aa"]
    assert max(map(len, lines)) <= 80


def test_show_prints_a_run_in_full_with_its_page_in_studio(himl: Himl, seeded: StagedWorkspace) -> None:
    lines = himl.ok("runs", "show", "train_3_cc").stdout.splitlines()
    assert lines[0] == "train_3_cc  Completed"
    assert f"Workspace     {seeded.label}" in lines
    (studio,) = [line for line in lines if line.startswith("Studio")]
    state = seeded.state
    wsid = f"/subscriptions/{state.subscription}/resourcegroups/{state.group}/workspaces/{state.name}"
    assert studio.split() == ["Studio", f"https://ml.azure.com/runs/train_3_cc?wsid={wsid}&tid={state.tenant}"]
    assert "  lr  0.1" in lines
    assert ["loss", "0.75", "2", "2"] in [line.split() for line in lines]
    assert [line.split()[0] for line in lines if line.split()[:1] in (["fold_0"], ["fold_1"])] == ["fold_0", "fold_1"]


@pytest.mark.usefixtures("seeded")
def test_show_says_why_a_run_failed(himl: Himl) -> None:
    assert "Outcome       CUDA out of memory" in himl.ok("runs", "show", "train_2_bb").stdout


@pytest.mark.parametrize("form", ["train_3_cc", "train:train_3_cc", "URL"])
def test_a_run_is_found_by_each_way_to_name_it(himl: Himl, seeded: StagedWorkspace, form: str) -> None:
    name = f"https://ml.azure.com/runs/train_3_cc?wsid={seeded.state.path}&tid={seeded.state.tenant}" if form == "URL" else form
    assert himl.ok("runs", "show", name, "-q").stdout == "train_3_cc\n"


@pytest.mark.usefixtures("seeded")
def test_a_run_is_found_by_experiment_latest_file_and_children(himl: Himl, project: Path) -> None:
    assert himl.ok("runs", "show", "latest", "-q").stdout == "train_4_dd\n"
    assert himl.ok("runs", "show", "--experiment", "train", "--status", "completed,failed", "--num_runs", "5", "-q").stdout == "train_3_cc\ntrain_2_bb\n"
    assert himl.ok("runs", "show", "train_3_cc", "--children", "-q").stdout == "fold_0\nfold_1\n"
    (project / "most_recent_run.txt").write_text("train:train_2_bb\n")
    assert himl.ok("runs", "show", "-q").stdout == "train_2_bb\n"


def test_an_address_of_another_workspace_is_refused(himl: Himl, seeded: StagedWorkspace) -> None:
    url = "https://ml.azure.com/runs/train_3_cc?wsid=/subscriptions/s/resourcegroups/else/workspaces/where"
    outcome = himl("runs", "show", url)
    assert (outcome.code, outcome.stdout) == (3, "")
    assert outcome.stderr.startswith(f"error: The address names a run of workspace else/where, and {seeded.label} is open.\n")


def test_logs_are_printed_byte_for_byte(himl: Himl, seeded: StagedWorkspace) -> None:
    assert himl.ok("runs", "logs", "train_3_cc").raw_stdout == b"epoch 1\n\xff raw\n"
    assert himl.ok("runs", "logs", "train_3_cc", "--file", "std_log_process_1.txt").raw_stdout == b"rank 1\n"
    outcome = himl("runs", "logs", "train_4_dd")
    assert (outcome.code, "has no log yet" in outcome.stderr) == (3, True)


def test_follow_brings_what_is_added_and_ends_with_the_run(himl: Himl, seeded: StagedWorkspace) -> None:
    """Each look costs few requests, and no byte is asked for twice."""
    run = seeded.state.runs["train_4_dd"]
    seeded.append_log(run, "first line\n")

    def reads() -> list[Seen]:
        return [seen for seen in seeded.stage.log.find(r"GET .*/std_log\.txt") if seen.status in (200, 206)]

    def grow() -> None:
        while not reads():
            time.sleep(0.05)
        seeded.append_log(run, "second line\n")
        run.status = "Completed"

    growing = threading.Thread(target=grow)
    growing.start()
    outcome = himl.ok("runs", "logs", "train_4_dd", "--follow")
    growing.join()
    assert outcome.stdout == "first line\nsecond line\n"
    until(lambda: sum(seen.received for seen in reads()) == len("first line\nsecond line\n"))
    looks = len(seeded.requests(r"GET .*/history/.*/runs/"))
    assert len(seeded.requests()) <= 8 + 3 * looks


KEPT_LOGS = {"kept": "user_logs/retry_001/std_log.txt", "replaced": "user_logs/std_log.txt"}


@pytest.mark.parametrize("place", KEPT_LOGS)
def test_follow_goes_on_with_the_log_of_the_next_try(himl: Himl, seeded: StagedWorkspace, place: str) -> None:
    """Each try's log in a folder of its own, or in the place of the one before, also where it is longer than that one was."""
    run = seeded.state.runs["train_4_dd"]
    seeded.append_log(run, "first try\n")

    def looks() -> int:
        return len(seeded.requests(r"GET .*/history/.*/runs/train_4_dd"))

    def see(status: str) -> None:
        run.status, before = status, looks()
        until(lambda: looks() >= before + 2)

    def retry() -> None:
        until(lambda: [seen for seen in seeded.stage.log.find(r"GET .*/std_log\.txt") if seen.status in (200, 206)])
        see("Running")
        see("Queued")
        seeded.put_artifact(run, KEPT_LOGS[place], b"second try begins\n")
        see("Running")
        seeded.put_artifact(run, KEPT_LOGS[place], b"second try begins\nand ends\n")
        run.status = "Completed"

    retrying = threading.Thread(target=retry)
    retrying.start()
    outcome = himl.ok("runs", "logs", "train_4_dd", "--follow")
    retrying.join()
    assert outcome.stdout == "first try\nsecond try begins\nand ends\n"
    assert f"Another try of run 'train_4_dd' has begun; its log: {KEPT_LOGS[place]}" in outcome.stderr


@posix
def test_ctrl_c_ends_following_and_not_the_run(himl: Himl, seeded: StagedWorkspace) -> None:
    seeded.append_log(seeded.state.runs["train_4_dd"], "first line\n")
    with himl.start("runs", "logs", "train_4_dd", "--follow") as watcher:
        assert watcher.stdout is not None
        first = watcher.stdout.readline()
        os.kill(watcher.pid, signal.SIGINT)
        _, said = watcher.communicate(timeout=100)
    assert (first, watcher.returncode) == (b"first line\n", 130)
    assert "himl runs cancel train_4_dd" in said.decode()
    assert not seeded.requests("/cancel")


@posix
def test_impatient_ctrl_c_ends_following_with_the_same_words(himl: Himl, seeded: StagedWorkspace) -> None:
    seeded.append_log(seeded.state.runs["train_4_dd"], "first line\n")
    with himl.start("runs", "logs", "train_4_dd", "--follow") as watcher:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        while watcher.poll() is None:
            os.kill(watcher.pid, signal.SIGINT)
            time.sleep(0.002)
        said = watcher.communicate(timeout=100)[1].decode()
    assert watcher.returncode in (130, -signal.SIGINT)  # the latter where one came after the last words, when Python itself was gone
    assert ("Traceback" in said, "Exception ignored" in said) == (False, False)
    assert "error: Stopped watching; run 'train_4_dd' goes on." in said


def test_cancel_asks_the_service_once(himl: Himl, seeded: StagedWorkspace) -> None:
    assert himl.ok("runs", "cancel", "train_4_dd").stdout == "Asked run 'train_4_dd' to stop.\n"
    assert len(seeded.requests("POST .*/cancel")) == 1
    assert himl.ok("runs", "cancel", "train_2_bb").stdout == "Run 'train_2_bb' had ended already: Failed.\n"
    assert len(seeded.requests("POST .*/cancel")) == 1


@pytest.mark.usefixtures("seeded")
def test_tag_sets_tags_and_keeps_others(himl: Himl) -> None:
    assert himl.ok("runs", "tag", "train_2_bb", "stage=final", "note=a=b ü").stdout == "Tagged run 'train_2_bb': stage=final, note=a=b ü\n"
    assert himl.ok("runs", "show", "train_2_bb", "--json").json()["tags"] == {"team": "red", "stage": "final", "note": "a=b ü"}


@pytest.mark.usefixtures("seeded")
def test_runs_of_azure_are_not_deleted(himl: Himl) -> None:
    outcome = himl("runs", "delete", "train_2_bb", "--yes")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "Run 'train_2_bb' is in workspace" in outcome.stderr
    assert himl.ok("runs", "show", "train_2_bb", "-q").stdout == "train_2_bb\n"


@pytest.fixture
def both(seeded: StagedWorkspace, project: Path) -> StagedWorkspace:
    """Two local runs as well, newer than those in Azure (2026-03-01)."""
    local = RecordedRuns(project)
    local.add("here_1_aa")
    local.add("here_2_bb", experiment="base", files={"user_logs/std_log.txt": "local\n"})
    return seeded


def test_list_merges_both_workspaces_newest_first(himl: Himl, both: StagedWorkspace) -> None:
    rows = [line.split("\t") for line in himl.ok("runs", "list").stdout.splitlines()]
    assert rows[0][-1] == "workspace"
    assert [(row[0], row[-1]) for row in rows[1:4]] == [
        ("here_2_bb", "local workspace '.himl'"),
        ("here_1_aa", "local workspace '.himl'"),
        ("train_4_dd", both.label.removeprefix("workspace ")),
    ]
    assert ids(himl.ok("runs", "list", "--experiment", "base", "--json")) == ["here_2_bb", "base_1_aa"]
    assert himl.ok("runs", "show", "latest", "-q").stdout == "here_2_bb\n"
    assert ids(himl.ok("runs", "list", "--json", "--workspace", "local")) == ["here_2_bb", "here_1_aa"]
    assert ids(himl.ok("runs", "list", "--json", "--config_file", "config.json"))[0] == "train_4_dd"


@posix
@pytest.mark.usefixtures("both")
def test_the_workspace_is_seen_on_80_columns(himl: Himl) -> None:
    terminal = Terminal([str(himl.program), "runs", "list"], cwd=himl.folder, env={"NO_COLOR": "1"})
    assert terminal.finish() == 0
    lines = terminal.screen.splitlines()
    assert lines[0].split()[-1] == "WORKSPACE"
    assert lines[1].split()[-1] == "local"
    assert max(map(len, lines)) <= 80


def test_a_run_that_is_kept_here_is_shown_without_a_request(himl: Himl, both: StagedWorkspace) -> None:
    himl.ok("runs", "show", "here_2_bb")
    himl.ok("runs", "logs", "here_2_bb")
    himl.ok("runs", "tag", "here_2_bb", "a=b")
    himl.ok("runs", "delete", "here_1_aa", "--yes")
    assert both.requests() == []


def test_deleting_a_run_of_each_deletes_neither(himl: Himl, both: StagedWorkspace) -> None:
    outcome = himl("runs", "delete", "here_1_aa", "train_2_bb", "--yes")
    assert outcome.code == 1
    assert "Run 'train_2_bb' is in workspace" in outcome.stderr
    assert himl.ok("runs", "show", "here_1_aa", "-q").stdout == "here_1_aa\n"


def test_an_unknown_run_names_near_ones_of_both(himl: Himl, both: StagedWorkspace) -> None:
    outcome = himl("runs", "show", "here_1_ab", "--json")
    assert (outcome.code, outcome.error_json()["code"]) == (3, "run_not_found")
    assert "here_1_aa" in outcome.error_json()["hint"]
    assert "train_3_cc" in himl("runs", "show", "train_3_cd").stderr


def test_a_submitted_job_runs_here_although_azure_is_configured(himl: Himl, seeded: StagedWorkspace, project: Path) -> None:
    (project / "hello.py").write_text("print('hello')")
    run_id = himl.ok("submit", "hello.py", "-q").stdout.strip()
    assert (project / ".himl" / "runs" / run_id).is_dir()
    assert seeded.requests() == []


def test_inside_a_job_its_own_workspace_and_token_are_enough(
    himl: Himl, azure: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No service principal, and a config.json of another workspace in the snapshot."""
    stage.workspace().write_config(project)
    run = azure.add_run("job_1_aa", "train", status="Running", tags={"team": "blue"})
    azure.put_artifact(run, "outputs/last.ckpt", b"weights")
    azure.append_log(run, "epoch 1\n")
    for name, value in azure.job_environment(run).items():
        monkeypatch.setenv(name, value)
    assert himl.ok("runs", "show", "job_1_aa", "--json").json()["workspace"] == azure.label.removeprefix("workspace ")
    assert himl.ok("runs", "logs", "job_1_aa").stdout == "epoch 1\n"
    himl.ok("runs", "tag", "job_1_aa", "stage=final")
    himl.ok("download", "job_1_aa", "--prefix", "outputs/")
    assert (project / "outputs" / "job_1_aa" / "outputs" / "last.ckpt").read_bytes() == b"weights"
    assert not stage.log.find("management.azure.com")
