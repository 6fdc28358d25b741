"""Real MLflow clients, old and new, full and skinny, log to a job's server; what they logged is looked up in the database."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from himl_cli.core.runs import RunStatus
from tests.workspaces.tracking.tracked_job import JOB, SCRIPTS, TrackedJob

pytestmark = pytest.mark.timeout(1800)  # the first use of a client builds its environment


def test_values_and_files_are_kept_and_read_back(job: TrackedJob, client: Path) -> None:
    job.ok(client, "log_values.py", env={"EXPECTED_RUN": JOB})
    loss = job.values("loss")
    assert (loss[0], loss[2:]) == (0.5, [math.inf, -math.inf, 0.25])
    assert math.isnan(loss[1])
    assert (job.values("val/accuracy"), job.values("f1")) == ([0.75], [1.0])
    assert job.parameters() == {"rate": "0.1", "layers": "[3, 2]", "note": "größer"}
    run = job.run()
    assert {"git": "abc", "kind": "first", "owner": "ada"}.items() <= run.tags.items()
    assert "gone" not in run.tags
    assert job.files() == {"notes/read me.txt", "notes/#1.txt", "config.json", "with space.txt", "folder/sub folder/with space.txt"}


def test_the_end_that_a_client_reports_does_not_end_the_job(job: TrackedJob, client: Path) -> None:
    for arguments in ((), ("hard",)):
        done = job.script(client, "exit_with_three.py", *arguments)
        assert done.returncode == 3, done.stderr
    run = job.run()
    assert (run.status, run.ended) == (RunStatus.running, None)
    assert job.values("loss") == [1.0, 1.0]


def test_nested_and_later_runs_become_children_of_the_job(job: TrackedJob, client: Path) -> None:
    job.ok(client, "nest_runs.py")
    assert job.run().display_name == "renamed"
    children = job.children()
    states = {name: run.status for name, run in children.items() if name in ("fold 0", "fold 1", "fold 2", "inner", "crashed", "second", "killed")}
    done, failed, canceled = RunStatus.completed, RunStatus.failed, RunStatus.canceled
    assert states == {"fold 0": done, "fold 1": done, "fold 2": done, "inner": done, "crashed": failed, "second": done, "killed": canceled}
    parents = {name: run.parent for name, run in children.items()}
    assert parents["inner"] == children["fold 2"].id
    assert {parents[name] for name in ("fold 0", "fold 1", "fold 2", "crashed", "second", "killed")} == {JOB}
    assert job.values("score", children["fold 1"].id) == [0.1]
    assert job.values("after", children["second"].id) == [1.0, 2.0]
    assert job.files(children["second"].id) == {"second.txt"}
    assert [run.id for run in children.values() if job.values("implicit", run.id) == [3.0]] != []
    job.server.close()
    assert "mistake" not in job.children()
    assert job.run().status is RunStatus.running


@pytest.mark.parametrize(
    ("how", "env"), [("set", {}), ("leave", {"MLFLOW_EXPERIMENT_NAME": "from the shell"})], ids=["set_experiment", "MLFLOW_EXPERIMENT_NAME"]
)
def test_another_experiment_name_changes_nothing(job: TrackedJob, client: Path, how: str, env: dict[str, str]) -> None:
    job.ok(client, "name_experiments.py", how, env={"EXPECTED_RUN": JOB, **env})
    assert job.values("loss") == [1.0]
    assert job.children() == {}


def test_search_filters_orders_and_pages(job: TrackedJob, client: Path) -> None:
    job.ok(client, "search_runs.py")
    assert set(job.children()) == {f"trial {number}" for number in range(4)}


def test_asynchronous_logging_loses_nothing(job: TrackedJob, client: Path) -> None:
    job.ok(client, "log_async.py")
    assert job.values("loss") == [step / 250 for step in range(250)]
    assert job.parameters() == {"rate": "0.1"}
    assert job.run().tags["kind"] == "async"


def test_a_logger_with_its_own_client_gets_a_child_run(job: TrackedJob, client: Path) -> None:
    job.ok(client, "own_client.py")
    child = job.children()["lightning"]
    assert (child.parent, child.status, len(job.parameters(child.id))) == (JOB, RunStatus.failed, 150)
    assert len(job.values("loss", child.id)) == 1501


def test_a_parameter_cannot_change(job: TrackedJob, client: Path) -> None:
    job.ok(client, "change_param.py")
    assert job.parameters() == {"rate": "0.1"}


def test_what_is_not_offered_fails_at_once(job: TrackedJob, client: Path) -> None:
    job.ok(client, "ask_for_more.py")
    assert job.values("after") == [1.0]


def test_models_are_registered(job: TrackedJob, client: Path) -> None:
    job.ok(client, "register_model.py")
    assert job.values("after") == [1.0]


def test_traces_are_files_of_the_run(job: TrackedJob, client: Path) -> None:
    said = job.ok(client, "trace_calls.py")
    assert [line for line in said.splitlines() if "WARNING" in line or "Traceback" in line] == []
    traces = [name for name in job.files() if name.startswith("traces/")]
    assert len(traces) == 3
    assert {Path(name).name for name in traces} == {"traces.json"}


def test_autologging_a_grid_search(job: TrackedJob, full_client: Path) -> None:
    complaints = [line for line in job.ok(full_client, "autolog_grid.py").splitlines() if "encountered unexpected error" in line]
    assert complaints == []
    assert job.parameters()["best_C"] in ("0.1", "1.0", "10.0")
    assert len(job.values("best_cv_score")) == 1
    assert job.run().tags["estimator_name"] == "GridSearchCV"
    candidates = {job.parameters(run_id)["C"]: job.run(run_id).status for run_id in job.store.descendants(JOB) if run_id != JOB}
    assert candidates == {"0.1": RunStatus.completed, "1.0": RunStatus.completed, "10.0": RunStatus.completed}
    assert {"model/MLmodel", "best_estimator/MLmodel", "cv_results.csv"} <= job.files()


def test_models_are_files_of_the_run_and_can_be_loaded(job: TrackedJob, full_client: Path) -> None:
    job.ok(full_client, "log_model.py")
    assert {"model/MLmodel", "black.png", "table.json"} <= job.files()
    if "mlflow3" in str(full_client):
        assert "model-2/MLmodel" in job.files()
    assert job.values("loss") == [0.5]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".netrc", "default login someone password something\n"),
        (".netrc", "machine 127.0.0.1 login someone password something\n"),
        (".mlflow/credentials", "[mlflow]\nmlflow_tracking_username = someone\nmlflow_tracking_password = something\n"),
    ],
    ids=["netrc default", "netrc host", "credentials"],
)
def test_credentials_for_other_servers_do_no_harm(job: TrackedJob, client: Path, tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / "home" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(0o600)
    job.ok(client, "change_param.py")
    assert job.parameters() == {"rate": "0.1"}


def test_a_proxy_and_foreign_settings_do_no_harm(job: TrackedJob, client: Path) -> None:
    dead = "http://127.0.0.1:9"
    foreign = {
        "MLFLOW_TRACKING_USERNAME": "someone",
        "MLFLOW_TRACKING_PASSWORD": "something",
        "MLFLOW_TRACKING_URI": "http://example.invalid",
        "MLFLOW_RUN_ID": "x",
    }
    job.ok(client, "change_param.py", env={"HTTP_PROXY": dead, "http_proxy": dead, "ALL_PROXY": dead, "NO_PROXY": "example.org", **foreign})
    assert job.parameters() == {"rate": "0.1"}


def test_ranks_log_at_the_same_time(job: TrackedJob, skinny_client: Path) -> None:
    ranks, count = 4, 40
    work = job.folder / "work"
    work.mkdir()
    command = [str(skinny_client), str(SCRIPTS / "log_from_rank.py"), str(count)]
    started = [subprocess.Popen(command, cwd=work, env=job.environment({"RANK": str(rank)}), stderr=subprocess.PIPE, text=True) for rank in range(ranks)]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    for rank in range(ranks):
        assert job.values(f"rank{rank}") == list(range(count))
    assert sorted(job.values("all")) == sorted(list(range(ranks)) * count)
    assert job.parameters() == {"shared": "same"}


def test_the_interpreters_are_those_of_the_clients(client: Path) -> None:
    """A client environment that lost its MLflow would make every other test here mean less."""
    seen = subprocess.run([str(client), "-c", "import mlflow; print(mlflow.__version__)"], capture_output=True, text=True, check=True).stdout
    expected = "2." if "mlflow2" in str(client) else "3."
    assert seen.startswith(expected), (seen, sys.version)
