"""Tests of `himl runs` on an Azure ML workspace, including failures, and of local jobs that are recorded in Azure ML,
including without network or permission.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.locks import is_held
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.azureml_double.faults import Page, Status
from tests.azureml_double.seeding import DEFAULT, StagedWorkspace, add_sweep
from tests.azureml_double.state import Right, Run
from tests.support.azure import opened
from tests.support.processes import processes_below
from tests.support.running import Himl, until, write_files
from tests.support.runs import RecordedRuns, posix

proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes by /proc")
# A date in an earlier year, because all such dates have the same width whenever the tests run.
NOON = datetime(2025, 2, 1, 12, 0, 0, tzinfo=timezone.utc)
CASES: list[tuple[list[str], int, str, str]] = [
    (["runs", "show", "train_1_ab"], 3, "No run 'train_1_ab' in workspace", "train_1_aa"),
    (["runs", "show", "other:train_1_aa"], 3, "belongs to experiment 'train', not 'other'", "train:train_1_aa"),
    (["datastore", "list", "--datastore", "workspaceblob"], 3, "No datastore 'workspaceblob'", "workspaceblobstore"),
    (["datastore", "list", "--datastore", "workspacefilestore"], 2, "file share", "azcopy"),
    (["datastore", "list", "--datastore", "gone"], 3, "gone-container", ""),
    (["runs", "list", "--config_file", "nope.json"], 3, "'nope.json' does not exist", "config.json"),
    (["submit", "x.py", "--config_file", "config.json"], 2, "this job runs locally", ".himl"),
]


@pytest.fixture
def seeded(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure = azure_environment
    azure.write_config(project)
    azure.add_run("base_1_aa", "base", display_name="baseline", created=NOON, tags={"team": "blue"})
    azure.add_run(
        "train_2_bb",
        "train",
        status="Failed",
        created=NOON + timedelta(minutes=1),
        error="CUDA out of memory",
        tags={"team": "red"},
    )
    best = azure.add_run(
        "train_3_cc", "train", created=NOON + timedelta(minutes=2), tags={"team": "blue"}, parameters={"lr": "0.1"}
    )
    azure.add_run("train_4_dd", "train", status="Running", created=NOON + timedelta(minutes=3))
    for number, loss in ((0, 0.5), (1, 0.25)):
        child = azure.add_run(
            f"fold_{number}",
            "train",
            parent="train_3_cc",
            display_name=f"fold {number}",
            created=NOON + timedelta(minutes=4 + number),
        )
        azure.add_metric(child, "loss", [loss])
    azure.add_metric(best, "loss", [1.0, 0.75], steps=[1, 2])
    azure.put_artifacts(
        best,
        {
            "user_logs/std_log.txt": b"epoch 1\n\xff raw\n",
            "user_logs/std_log_process_1.txt": b"rank 1\n",
            "outputs/m.bin": b"m",
        },
    )
    return azure


def ids(outcome: Any) -> list[str]:
    return [run["id"] for run in outcome.json()]


@pytest.mark.large("takes long, and other tests run its branches")
def test_runs_of_both_workspaces_are_listed_and_kept_apart(himl: Himl, both: StagedWorkspace) -> None:
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
    before = both.requests()
    for command in ("show here_2_bb", "logs here_2_bb", "tag here_2_bb a=b", "delete here_1_aa --yes"):
        himl.ok("runs", *command.split())
    assert both.requests() == before
    outcome = himl("runs", "show", "here_2_bc", "--json")
    assert (outcome.code, outcome.error_json()["code"], "here_2_bb" in outcome.error_json()["hint"]) == (
        3,
        "run_not_found",
        True,
    )
    assert "train_3_cc" in himl("runs", "show", "train_3_cd").stderr


def test_a_failure_is_one_line_a_hint_and_an_exit_code(himl: Himl, failing: StagedWorkspace, project: Path) -> None:
    for arguments, code, message, hint in CASES:
        outcome = himl(*arguments)
        lines = outcome.stderr.splitlines()
        assert (outcome.code, outcome.stdout) == (code, ""), outcome.stderr
        assert lines[0].startswith("error: ")
        assert message in lines[0]
        assert hint in " ".join(lines)
        assert all(line.startswith("hint: ") for line in lines[1:])
    nobody, reader = (failing.environment(failing.add_principal(rights)) for rights in (set(), {Right.READ}))
    outcome = himl("runs", "list", env=nobody)
    assert (outcome.code, outcome.stdout, "AzureML Data Scientist" in outcome.stderr) == (4, "", True)
    assert himl.ok("runs", "show", "train_1_aa", "-q", env=reader).stdout == "train_1_aa\n"
    assert himl("runs", "tag", "train_1_aa", "a=b", env=reader).code == 4
    failing.state.reaches_storage = False
    for arguments in (["--list"], []):
        outcome = himl("download", "train_1_aa", *arguments, env=reader)
        assert (outcome.code, outcome.stdout, "No access to the files of run 'train_1_aa'" in outcome.stderr) == (
            4,
            "",
            True,
        ), "not 'has no files'"
    content = json.loads((project / "config.json").read_text()) | {"workspace_name": "nothing"}
    (project / "config.json").write_text(json.dumps(content))
    outcome = himl("runs", "list")
    assert (outcome.code, outcome.stdout, "Workspace 'nothing' does not exist" in outcome.stderr) == (3, "", True)


@pytest.mark.large("waits for jobs of several seconds")
def test_follow_goes_on_with_the_log_of_the_next_try(himl: Himl, seeded: StagedWorkspace) -> None:
    """Each attempt's log has its own folder, or replaces the previous log, which may be shorter."""
    places = {"train_4_dd": "user_logs/retry_001/std_log.txt", "train_5_ee": "user_logs/std_log.txt"}
    seeded.add_run("train_5_ee", "train", status="Running")
    runs = [seeded.state.runs[name] for name in places]

    def see(status: str) -> None:
        before = {}
        for run in runs:
            run.status = status
            before[run.run_id] = len(seeded.requests(rf"GET .*/history/.*/runs/{run.run_id}"))
        until(
            lambda: all(
                len(seeded.requests(rf"GET .*/history/.*/runs/{name}")) >= count + 2 for name, count in before.items()
            )
        )

    for run in runs:
        seeded.append_log(run, "first try\n")
    watchers = [himl.start("runs", "logs", name, "--follow") for name in places]
    for watcher in watchers:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == b"first try\n"
    see("Queued")
    for run in runs:
        seeded.put_artifact(run, places[run.run_id], b"second try begins\n")
    see("Running")
    for run in runs:
        seeded.put_artifact(run, places[run.run_id], b"second try begins\nand ends\n")
        run.status = "Completed"
    for watcher, (name, place) in zip(watchers, places.items(), strict=True):
        printed, said = watcher.communicate(timeout=100)
        assert (watcher.returncode, printed) == (0, b"second try begins\nand ends\n")
        assert f"Another attempt of run '{name}' has begun. Its log: {place}" in said.decode()


@pytest.fixture
def both(seeded: StagedWorkspace, project: Path) -> StagedWorkspace:
    local = RecordedRuns(project)
    local.add("here_1_aa")
    local.add("here_2_bb", experiment="base", files={"user_logs/std_log.txt": "local\n"})
    return seeded


def test_runs_are_listed_and_shown_with_page_in_studio(himl: Himl, seeded: StagedWorkspace, project: Path) -> None:
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
    lines = himl.ok("runs", "list", "--experiment", "base").stdout.splitlines()
    assert lines[0] == "id\texperiment\tdisplay_name\tstatus\tstarted\tduration\ttags"
    assert lines[1] == "base_1_aa\tbase\tbaseline\tCompleted\t2025-02-01T12:00:05.000Z\t60.000\tteam=blue"
    for options, expected in (
        ("--experiment nothing", []),
        ("--status failed,running", ["train_4_dd", "train_2_bb"]),
        ("--experiment train --tags team=blue --num_runs 2", ["train_3_cc"]),
    ):
        assert ids(himl.ok("runs", "list", "--json", *options.split())) == expected
    (project / "most_recent_run.txt").write_text("train:train_2_bb\n")
    state = seeded.state
    for words, found in (
        ("train:train_3_cc", "train_3_cc"),
        (f"https://ml.azure.com/runs/train_3_cc?wsid={state.path}&tid={state.tenant}", "train_3_cc"),
        (f"{state.path}/jobs/train_3_cc", "train_3_cc"),
        ("azureml://jobs/train_3_cc", "train_3_cc"),
        ("latest", "train_4_dd"),
        ("--experiment train --status completed,failed --num_runs 5", "train_3_cc\ntrain_2_bb"),
        ("train_3_cc --children", "fold_0\nfold_1"),
        ("", "train_2_bb"),
    ):
        assert himl.ok("runs", "show", *words.split(), "-q").stdout == f"{found}\n"
    elsewhere = "/subscriptions/s/resourcegroups/else/workspaces/where"
    for address in (f"https://ml.azure.com/runs/train_3_cc?wsid={elsewhere}", f"{elsewhere}/jobs/train_3_cc"):
        outcome = himl("runs", "show", address)
        assert (outcome.code, outcome.stdout) == (3, "")
        assert outcome.stderr.startswith(
            f"error: The address belongs to workspace else/where, but {seeded.label} is open.\n"
        )


def test_metrics_of_machines_are_those_of_azure_monitor(
    himl: Himl, azure_environment: StagedWorkspace, project: Path
) -> None:
    azure = azure_environment
    azure.write_config(project)
    for name in ("trained", "logged", "old", "bare"):
        azure.add_run(name, "train", seconds=180, created=NOON if name == "old" else None)
    azure.add_metric(azure.state.runs["logged"], "system/cpu_utilization_percentage", [10.0, 30.0])
    gpus: dict[str, list[float | None]] = {"10": [50.0, 60.0], "2": [100.0]}
    cpu: dict[str, list[float | None]] = {"": [20.0, None, 50.0]}
    azure.state.resource_metrics["trained"] = {
        "CpuUtilizationPercentage": cpu,
        "CpuMemoryUtilizationMegabytes": {"": [2999.0]},
        "GpuUtilizationPercentage": gpus,
        "GpuMemoryUtilizationMegabytes": {"2": [15999.0]},
    }
    machine = (
        "Machine       CPU 40% (peak 50%), peak memory 3.0 GB; GPU 0 100% (peak 100%), peak memory 16.0 GB; "
        "GPU 1 55% (peak 60%)"
    )
    assert machine in himl.ok("runs", "show", "trained").stdout.splitlines()
    assert "Machine       CPU 20% (peak 30%)" in himl.ok("runs", "show", "logged").stdout.splitlines()
    assert "Machine" not in himl.ok("runs", "show", "old").stdout + himl.ok("runs", "show", "bare").stdout
    himl.ok("runs", "list")
    asked = "Microsoft.Insights/metrics"
    assert [name for name in azure.state.runs if azure.requests(f"{asked}.*'{name}'|{asked}.*%27{name}%27")] == [
        "trained",
        "bare",
    ]
    names = [
        "cpu_utilization_percentage",
        "gpu_0_memory_usage_megabytes",
        "gpu_0_utilization_percentage",
        "gpu_1_utilization_percentage",
    ]
    found = himl.ok("runs", "aggregate", "trained", "logged", "bare", "--system", "--json").json()
    assert found["metrics"] == [f"system/{name}" for name in (*names, "system_memory_usage_megabytes")]
    assert found["children"][0]["last"]["system/cpu_utilization_percentage"] == 40
    series = {child["id"]: child["series"] for child in found["children"]}
    assert series["trained"]["system/cpu_utilization_percentage"]["values"] == [20, 50]
    assert (series["logged"]["system/cpu_utilization_percentage"]["values"], series["bare"]) == ([10, 30], {})
    table = himl.ok("runs", "show", "trained", "logged", "bare", "--machine")
    rows = [line.split() for line in table.stdout.splitlines() if line.startswith("  ")]
    assert rows[:3] == [
        ["NAME", "MEAN", "PEAK", "LAST", "VALUES"],
        ["cpu_utilization_percentage", "40", "50", "50", "2"],
        ["gpu_0_memory_usage_megabytes", "16000", "16000", "16000", "1"],
    ]
    assert ["cpu_utilization_percentage", "20", "30", "30", "2"] in rows
    assert table.stderr == "Run 'bare' has no metrics of its machine.\n"
    azure.state.resource_metrics["bare"] = {
        "CpuUtilizationPercentage": {"node-b/": [90.0, 70.0], "node-a/": [10.0, 30.0]},
        "GpuUtilizationPercentage": {"node-b/7": [5.0, 5.0], "node-a/9": [1.0, 3.0]},
    }
    assert (
        "Machine       CPU 50% (peak 50%); GPU 0 5% (peak 5%); GPU 1 2% (peak 3%)"
        in himl.ok("runs", "show", "bare").stdout.splitlines()
    )
    found = himl.ok("runs", "show", "bare", "--machine", "--json").json()["machine"]
    by_node = [tuple(use[key] for key in ("node", "metric", "mean", "peak", "last", "count", "run")) for use in found]
    assert by_node == [
        ("0", "cpu_utilization_percentage", 20, 30, 30, 2, "bare"),
        ("0", "gpu_0_utilization_percentage", 2, 3, 3, 2, "bare"),
        ("1", "cpu_utilization_percentage", 80, 90, 70, 2, "bare"),
        ("1", "gpu_0_utilization_percentage", 5, 5, 5, 2, "bare"),
    ]
    azure.stage.log.clear()
    assert himl.ok("runs", "aggregate", "trained", "logged", "--json").json()["metrics"] == []
    assert not azure.requests(asked)
    for fault in (Status(403, code="AuthorizationFailed"), Page("<html>", 200)):
        azure.stage.faults.add(fault, asked, times=None)
        assert "Machine" not in himl.ok("runs", "show", "trained").stdout
        azure.stage.faults.clear()


@pytest.mark.large("takes long, and other tests run its branches")
def test_cancel_asks_once_tags_are_kept_and_runs_of_both_are_deleted(himl: Himl, both: StagedWorkspace) -> None:
    assert himl.ok("runs", "cancel", "train_4_dd").stdout == "Requested cancellation of run 'train_4_dd'.\n"
    assert himl.ok("runs", "cancel", "train_2_bb").stdout == "Run 'train_2_bb' had already ended: Failed.\n"
    assert len(both.requests("POST .*/cancel")) == 1
    assert (
        himl.ok("runs", "tag", "train_2_bb", "stage=final", "note=a=b ü").stdout
        == "Tagged run 'train_2_bb': stage=final, note=a=b ü\n"
    )
    assert (
        himl.ok("runs", "tag", "train_2_bb", "stage=", "team=red", "more=").stdout
        == "Tagged run 'train_2_bb': stage removed, team=red, more removed\n"
    )
    assert himl.ok("runs", "show", "train_2_bb", "--json").json()["tags"] == {"team": "red", "note": "a=b ü"}
    assert "Outcome       CUDA out of memory" in himl.ok("runs", "show", "train_2_bb").stdout
    outcome = himl("runs", "delete", "here_1_aa", "train_4_dd", "--yes")
    assert (outcome.code, outcome.stdout, "Run 'train_4_dd' is running. Nothing was deleted." in outcome.stderr) == (
        2,
        "",
        True,
    )
    gone = "Deleted run 'here_1_aa'.\nDeleted run 'train_2_bb': 0 files, 0 B.\n"
    assert himl.ok("runs", "delete", "here_1_aa", "train_2_bb", "--yes").stdout == gone
    assert [himl("runs", "show", name).code for name in ("here_1_aa", "train_2_bb")] == [3, 3]


def test_details_of_a_large_sweep_take_few_requests(
    himl: Himl, azure_environment: StagedWorkspace, project: Path
) -> None:
    """Trials with child runs, or that MLflow lacks, are shown in full."""
    azure = azure_environment
    azure.write_config(project)
    add_sweep(
        azure, "sweep_1_aa", [{"lr": number} for number in range(505)], lambda number, _: {"loss": [1.0, float(number)]}
    )
    azure.add_metric(azure.add_run("nested", "tuning", parent="sweep_1_aa_7"), "own", [1.0])
    himl.ok("runs", "show", "sweep_1_aa_0")
    azure.stage.log.clear()
    shown = himl.ok("runs", "show", "sweep_1_aa", "--children", "--json")
    assert len(azure.stage.log.all()) < 60
    assert (
        shown.stderr
        == "Of more than 500 runs, himl shows only the last values that MLflow has. To see all values, show "
        "fewer runs.\n"
    )
    by_id = {run["id"]: run for run in shown.json()}
    assert by_id["sweep_1_aa_504"]["metrics"] == [
        {"name": "loss", "value": 504.0, "step": 1, "count": None, "run": "sweep_1_aa_504"}
    ]
    assert [(each["name"], each["count"], each["run"]) for each in by_id["sweep_1_aa_7"]["metrics"]] == [
        ("loss", 2, "sweep_1_aa_7"),
        ("own", 1, "nested"),
    ]
    assert [child["id"] for child in by_id["sweep_1_aa_7"]["children"]] == ["nested"]
    assert (len(by_id), by_id["sweep_1_aa_3"]["children"]) == (505, [])


def test_one_failure_stops_no_other_run_and_busy_services_get_time(
    himl: Himl, azure_environment: StagedWorkspace, project: Path
) -> None:
    azure = azure_environment
    azure.write_config(project)
    ids = [azure.add_run(f"train_{number}_aa", "train").run_id for number in range(8)]
    azure.stage.faults.add(Status(403, code="AuthorizationFailed"), f"PATCH .*{ids[2]}", times=None)
    azure.stage.faults.add(Status(403, code="AuthorizationFailed"), f"PATCH .*{ids[5]}", times=None)
    failed = himl("runs", "tag", *ids, "stage=final")
    assert (failed.code, failed.stdout, "is not allowed to do this" in failed.stderr) == (4, "", True), failed.stderr
    assert [run_id for run_id in ids if "stage" not in azure.state.runs[run_id].tags] == [ids[2], ids[5]]
    unknown = himl("runs", "tag", *ids, "train_97_aa", "train_98_aa", "stage=none")
    assert (unknown.code, "No run 'train_97_aa' in workspace" in unknown.stderr) == (3, True)
    assert azure.state.runs[ids[0]].tags["stage"] == "final", "nothing changes before all runs are known"

    azure.stage.faults.only(Status(429, retry_after=1), "PATCH ", times=2)
    azure.stage.log.clear()
    tagged = himl.ok("runs", "tag", *ids, "stage=done", "-q")
    assert tagged.stdout.split() == ids
    seen = azure.stage.log.find("PATCH ")
    first = min(one.started + one.seconds for one in seen if one.status == 429)
    early = [one for one in seen if one.status == 200 and first + 0.5 < one.started < first + 1]
    assert (len(seen), early) == (len(ids) + 2, []), "a request waits for the Retry-After of another one"


@pytest.fixture
def failing(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure = azure_environment
    azure.write_config(project)
    run = azure.add_run("train_1_aa", "train")
    azure.put_artifacts(run, {"outputs/m.bin": b"m", "user_logs/std_log.txt": b"log\n"})
    azure.add_output(run, "model", {"m": b"m"})
    azure.put_blob(DEFAULT, "data/a.txt", b"a")
    gone = azure.add_datastore("gone", container="container-that-goes")
    gone.container = "gone-container"
    (project / "x.py").write_text("")
    return azure


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_service_that_goes_on_failing_is_exit_5(himl: Himl, failing: StagedWorkspace, project: Path) -> None:
    failing.stage.faults.add(Status(503, retry_after=0), "management|api.azureml.ms", times=None)
    (project / ".himl").mkdir()
    outcome = himl("runs", "list", "--json")
    assert (outcome.code, outcome.stdout) == (5, "")
    assert ("retrying in" in outcome.stderr, "WARNING" in outcome.stderr) == (True, False)
    # The error follows a notice about the retry.
    error = json.loads(outcome.stderr.splitlines()[-1])["error"]
    assert (error["code"], "--workspace local" in error["hint"]) == ("service_failed", True)
    himl.ok("runs", "list", "-w", "local")


TRAIN = """
import pathlib
import himl_cli
run = himl_cli.Run.get_context()
for step in range(3):
    run.log("loss", 1 / (step + 1), step=step)
run.log_row("fruit", kind="fig", size=2)
pathlib.Path("outputs/deep").mkdir(parents=True)
pathlib.Path("outputs/deep/best.txt").write_text("0.9")
pathlib.Path("outputs/empty").touch()
print("trained")
"""
WAITING = """
import pathlib, sys, time
import himl_cli
run = himl_cli.Run.get_context()
run.log("loss", 1.0, step=0); run.flush()
print("up", flush=True)
while not pathlib.Path({go!r}).exists():
    time.sleep(0.05)
run.log("loss", 0.5, step=1); run.flush()
pathlib.Path("outputs").mkdir(exist_ok=True)
pathlib.Path("outputs/late.txt").write_text("late")
print("done", flush=True)
"""
SUBMIT = ("submit", "train.py", "--record_in", "azure")


@pytest.fixture
def azure_project(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure_environment.write_config(project)
    write_files(project, {"train.py": TRAIN})
    return azure_environment


@pytest.fixture
def go(azure_project: StagedWorkspace, project: Path, tmp_path: Path) -> Iterator[Path]:
    """train.py logs, prints `up`, and continues once this file exists."""
    path = tmp_path / "go"
    write_files(project, {"train.py": WAITING.format(go=str(path))})
    yield path
    path.touch()
    azure_project.stage.faults.clear()
    wait_until_told(project)


def the_run(azure: StagedWorkspace) -> Run:
    (run,) = (run for run in azure.state.runs.values() if run.parent_id is None)
    return run


def points(azure: StagedWorkspace, name: str) -> list[tuple[int | None, Any]]:
    metric = the_run(azure).metrics.get(name)
    return [(point.step, point.data[name]) for point in metric.points] if metric else []


def log_there(azure: StagedWorkspace) -> bytes:
    return azure.artifacts(the_run(azure).run_id).get("user_logs/std_log.txt", b"")


def note_of(project: Path) -> Path | None:
    return next(iter((project / ".himl" / "recordings").glob("*.json")), None)


def wait_until_told(project: Path) -> None:
    until(
        lambda: note_of(project) is None,
        lambda: [path.read_text() for path in (project / ".himl" / "recordings").iterdir()],
    )


def kill(project: Path, module: str) -> None:
    """Kill the process of *module* that serves a run of *project*."""
    os.kill(processes_below(project, module)[0], signal.SIGKILL)


def kill_mirror(project: Path) -> None:
    path = note_of(project)
    assert path is not None
    kill(project, "himl_cli.commands.mirror_process")
    until(lambda: not is_held(path.with_suffix(".lock")))


@pytest.mark.large("takes long, and other tests run its branches")
@posix
def test_ctrl_c_cancels_it_in_both_places(himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path) -> None:
    with himl.start(*SUBMIT) as waiting:
        until(lambda: bool(azure_project.state.runs) and points(azure_project, "loss") == [(0, 1.0)])
        os.kill(waiting.pid, signal.SIGINT)
        _, said = waiting.communicate(timeout=100)
    assert waiting.returncode == 130, said
    azure_project.wait_for(the_run(azure_project).run_id, "Canceled")
    wait_until_told(project)


@pytest.mark.large("takes long, and other tests run its branches")
@posix
def test_ctrl_c_while_it_is_submitted_cancels_it(
    himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path
) -> None:
    with ExitStack() as held:
        held.enter_context(azure_project.stage.holding("POST .*/history/.*/events"))
        with himl.start(*SUBMIT, "--no_wait", "-q") as submitting:
            until(lambda: azure_project.state.runs)
            os.kill(submitting.pid, signal.SIGINT)
            held.close()
            printed, said = submitting.communicate(timeout=100)
    run_id = the_run(azure_project).run_id
    assert (submitting.returncode, printed.decode().strip()) == (130, run_id), said
    assert f"Canceled run '{run_id}'." in said.decode()
    azure_project.wait_for(run_id, "Canceled")
    wait_until_told(project)


@pytest.mark.large("kills a job that is recorded")
@posix
@proc
@pytest.mark.parametrize("module", ["train.py", "himl_cli.workspaces.local.supervisor"])
def test_what_is_killed_has_failed_there(
    himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path, module: str
) -> None:
    run_id = himl.ok(*SUBMIT, "--no_wait", "-q").stdout.strip()
    until(lambda: points(azure_project, "loss") == [(0, 1.0)])
    himl.ok("runs", "tag", run_id, "stage=mid")
    until(lambda: the_run(azure_project).tags.get("stage") == "mid")
    kill(project, module)
    azure_project.wait_for(run_id, "Failed")
    with opened(azure_project, project) as there:
        assert there.run(run_id).reason == himl.ok("runs", "show", "--json").json()["reason"]
    assert log_there(azure_project) == b"up\n"
    wait_until_told(project)


@posix
def test_ctrl_c_after_job_end_leaves_upload_to_background(
    himl: Himl, azure_project: StagedWorkspace, project: Path
) -> None:
    with azure_project.stage.holding("PUT .*best.txt"), himl.start(*SUBMIT) as waiting:
        until(
            lambda: (
                bool(azure_project.state.runs)
                and himl("runs", "show", "--workspace", "local", "--json").stdout.count("Completed") == 1
            )
        )
        os.kill(waiting.pid, signal.SIGINT)
        printed, said = waiting.communicate(timeout=100)
    assert (waiting.returncode, printed) == (130, b"trained\n"), said
    assert b"himl sends the rest in the background" in said
    wait_until_told(project)
    run = the_run(azure_project)
    assert (run.status, azure_project.artifacts(run.run_id)["outputs/deep/best.txt"]) == ("Completed", b"0.9")


def test_what_cannot_be_is_said_before_anything_is_made(
    himl: Himl, project: Path, azure: StagedWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(project, {"train.py": TRAIN})
    for name, value in azure.environment().items():
        monkeypatch.setenv(name, value)
    outcome = himl(*SUBMIT)
    assert (outcome.code, outcome.stderr.splitlines()[0]) == (
        2,
        "error: --record_in azure needs an Azure ML workspace, and none is configured.",
    )
    azure.write_config(project)
    for options, message in {
        ("--display_name", "n" * 300): "Azure ML allows 256",
        ("--cluster", "cpu-cluster"): "applies to local jobs only",
        ("--workspace", "other.json"): "other.json",
    }.items():
        outcome = himl(*SUBMIT, *options)
        assert (outcome.code in (2, 3), message in outcome.stderr) == (True, True), outcome.stderr
    assert azure.requests() == []
    assert sorted(path.name for path in project.iterdir()) == ["config.json", "train.py"]


def test_job_here_is_seen_there(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    outcome = himl.ok(*SUBMIT, "--tag", "team=blue", "--display_name", "First try", "--description", "by hand")
    assert outcome.stdout == "trained\n"
    run = the_run(azure_project)
    assert (run.status, run.experiment.name, run.display_name, run.description) == (
        "Completed",
        "train",
        "First try",
        "by hand",
    )
    assert (run.tags["team"], run.tags["run_recovery_id"], bool(run.tags["himl.recorded_from"])) == (
        "blue",
        f"train:{run.run_id}",
        True,
    )
    assert "command_line" in run.tags
    assert (
        f"Run {run.run_id} (experiment train) in local workspace '.himl', recorded in "
        f"{azure_project.label}. Studio: https://ml.azure.com/" in outcome.stderr
    )
    assert points(azure_project, "loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert [point.data for point in run.metrics["fruit/size"].points] == [{"fruit/size": 2.0}]
    files = azure_project.artifacts(run.run_id)
    assert (files["user_logs/std_log.txt"], files["outputs/deep/best.txt"], files["outputs/empty"]) == (
        b"trained\n",
        b"0.9",
        b"",
    )
    assert b"fig" in files["logged/fruit.jsonl"]
    assert (project / "most_recent_run.txt").read_text() == f"train:{run.run_id}\n"
    assert [*(project / ".himl" / "recordings").iterdir()] == []
    assert himl.ok("runs", "list", "-q").stdout == f"{run.run_id}\n"
    shown = himl.ok("runs", "show").stdout
    assert f"Recorded in   {azure_project.label}\n" in shown
    assert "Studio        https://ml.azure.com/runs/" in shown


@pytest.mark.large("waits for samples")
def test_metrics_of_the_machine_here_are_told_there(
    himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path
) -> None:
    name = "system/cpu_utilization_percentage"
    with himl.start(*SUBMIT, "--env_var", "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL=0.2") as waiting:
        until(lambda: azure_project.state.runs and name in the_run(azure_project).metrics)
        go.touch()
        assert waiting.communicate(timeout=100)[0] == b"up\ndone\n"
    (here,) = [
        metric
        for metric in LocalWorkspace(project / ".himl").metrics(the_run(azure_project).run_id)
        if metric.name == name
    ]
    assert points(azure_project, name) == [(point.step, point.value) for point in here.points]
    (elsewhere := project.parent / "elsewhere").mkdir()
    azure_project.write_config(elsewhere)
    assert "\nMachine       CPU " in himl.ok("runs", "show", the_run(azure_project).run_id, cwd=elsewhere).stdout
    assert not azure_project.requests("Microsoft.Insights/metrics")


@pytest.mark.large("takes long, and other tests run its branches")
def test_job_that_fails_failed_there_for_the_same_reason(
    himl: Himl, azure_project: StagedWorkspace, project: Path
) -> None:
    write_files(
        project,
        {"train.py": "import os\nprint('rank', os.environ['RANK'])\nraise SystemExit(7 * int(os.environ['RANK']))\n"},
    )
    assert himl(*SUBMIT, "--processes_per_node", "2").code == 1
    run_id = the_run(azure_project).run_id
    with opened(azure_project, project) as there:
        run = there.run(run_id)
    assert (run.status.value, run.reason) == ("Failed", himl.ok("runs", "show", "--json").json()["reason"])
    assert azure_project.artifacts(run_id)["user_logs/std_log_process_1.txt"] == b"rank 1\n"


@pytest.mark.large("takes long, and other tests run its branches")
def test_job_that_does_not_start_has_failed_there(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    write_files(project, {"taken": "a file"})
    assert himl(*SUBMIT, "--output", "model=model,local=taken").code == 2
    run = azure_project.wait_for(the_run(azure_project).run_id, "Failed")
    assert "the job did not start: Output 'model': " in str(run.error)
    wait_until_told(project)


@pytest.mark.large("kills a job that is recorded")
@posix
@proc
def test_killed_recording_is_taken_up_by_the_next_command(
    himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path
) -> None:
    with himl.start(*SUBMIT) as waiting:
        until(lambda: bool(azure_project.state.runs) and points(azure_project, "loss") == [(0, 1.0)])
        waiting.kill()
        waiting.communicate(timeout=100)
    kill_mirror(project)
    go.touch()
    run_id = the_run(azure_project).run_id
    until(lambda: status_here(himl, run_id) == "Completed")
    azure_project.wait_for(run_id, "Completed")
    assert (points(azure_project, "loss"), log_there(azure_project)) == ([(0, 1.0), (1, 0.5)], b"up\ndone\n")
    wait_until_told(project)


def status_here(himl: Himl, run_id: str) -> str:
    return str(himl.ok("runs", "show", run_id, "--json", "--workspace", "local").json()["status"])


@posix
def test_who_will_not_wait_for_the_run_there_leaves_a_failed_one(
    himl: Himl, azure_project: StagedWorkspace, project: Path
) -> None:
    with azure_project.stage.holding("POST .*/history/.*/events"), himl.start(*SUBMIT) as submitting:
        until(lambda: azure_project.state.runs)
        os.kill(submitting.pid, signal.SIGINT)
        # A second SIGINT could merge with the first.
        os.kill(submitting.pid, signal.SIGTERM)
        printed, said = submitting.communicate(timeout=100)
    run_id = the_run(azure_project).run_id
    assert (submitting.returncode, printed) == (130, b"")
    assert f"Interrupted before the job began. Run '{run_id}' may exist in {azure_project.label}".encode() in said
    run = azure_project.wait_for(run_id, "Failed")
    assert "himl submit was interrupted before the job began" in str(run.error)
    wait_until_told(project)
    assert run.status == "Failed"
    assert himl.ok("runs", "list", "--workspace", "local", "-q").stdout == ""


@pytest.mark.large("waits for a service that refuses")
def test_refused_files_and_metrics_are_told_and_sent_later(
    himl: Himl, azure_project: StagedWorkspace, project: Path
) -> None:
    """Everything else is sent. The next attempt is only due after a while."""
    azure_project.stage.faults.add(
        Status(403, code="AuthorizationFailed", message="You shall not write."), "/metric/|/artifact/", times=None
    )
    outcome = himl.ok(*SUBMIT)
    assert (outcome.stdout, "ot all of the run is in" in outcome.stderr) == ("trained\n", True)
    run = the_run(azure_project)
    assert (points(azure_project, "loss"), azure_project.artifacts(run.run_id)) == ([], {})
    path = note_of(project)
    assert path is not None
    until(lambda: not is_held(path.with_suffix(".lock")))
    shown = himl.ok("runs", "show").stdout
    assert ("Not recorded" in shown, "answered 403" in shown) == (True, True)
    azure_project.stage.faults.clear()
    note = json.loads(path.read_text())
    path.write_text(json.dumps(note | {"not_before": note["not_before"] - 3600}))
    himl.ok("runs", "list")
    wait_until_told(project)
    assert (run.status, len(points(azure_project, "loss")), log_there(azure_project)) == ("Completed", 3, b"trained\n")
    assert "Not recorded" not in himl.ok("runs", "show").stdout


def test_files_that_are_refused_do_not_keep_back_the_rest(himl: Himl, azure_project: StagedWorkspace) -> None:
    azure_project.stage.faults.add(
        Status(403, code="AuthorizationFailed", message="You shall not write."), "/artifact/", times=None
    )
    outcome = himl.ok(*SUBMIT)
    run = the_run(azure_project)
    assert f"warning: not all of the run is in {azure_project.label}: its files: " in " ".join(outcome.stderr.split())
    assert (run.status, len(points(azure_project, "loss")), azure_project.artifacts(run.run_id)) == ("Completed", 3, {})
    assert "Not recorded" in himl.ok("runs", "show").stdout


def test_who_may_not_write_there_starts_nothing(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    for status, match in ((403, "/history/"), (401, "/history/"), (403, "PATCH .*/history/")):
        azure_project.stage.faults.add(Status(status, code="AuthorizationFailed"), match, times=None)
        refused = himl(*SUBMIT)
        assert (refused.code, refused.stdout, "Nothing was started." in refused.stderr) == (
            4,
            "",
            match == "/history/",
        ), refused.stderr
        azure_project.stage.faults.clear()
        assert note_of(project) is None
    assert himl("runs", "list", "--workspace", "local", "-q").stdout == ""


@proc
def test_damaged_note_or_setting_puts_the_recording_off(
    himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path
) -> None:
    run_id = himl.ok(*SUBMIT, "--no_wait", "-q").stdout.strip()
    until(lambda: points(azure_project, "loss") == [(0, 1.0)])
    path = note_of(project)
    assert path is not None
    kill_mirror(project)
    write_files(project, {"himl.toml": '[azure]\ncloud = "moon"\n'})
    elsewhere = project.parent / "elsewhere"
    elsewhere.mkdir()
    himl.ok("runs", "list", "-q", "--workspace", str(project / ".himl"), cwd=elsewhere)
    until(lambda: json.loads(path.read_text())["not_before"], path.read_text)
    until(lambda: not is_held(path.with_suffix(".lock")))
    (project / "himl.toml").unlink()
    assert "moon" in himl.ok("runs", "show", run_id, "--json").json()["tags"]["himl.recording_stopped"]
    log = project / ".himl" / "runs" / run_id / "recording.log"
    for damaged in ("{", json.dumps({"run_id": run_id, "place": {"name": "x"}, "runs": {}})):
        log.write_text("")
        path.write_text(damaged)
        himl.ok("runs", "list", "-q")
        wait_until_told(project)
        until(lambda: "Not recorded" in himl.ok("runs", "show", run_id).stdout)
        until(lambda: not is_held(path.with_suffix(".lock")))
        assert (log.read_text().count("is damaged"), "Traceback" in log.read_text()) == (1, False)
    # A hidden file may remain, which the killed process was about to write.
    kept = [f"{run_id}.broken"]
    until(lambda: [file.name for file in path.parent.glob("[!.]*")] == kept, lambda: [*path.parent.iterdir()])
