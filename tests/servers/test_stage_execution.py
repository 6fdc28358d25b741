"""Command jobs that the double really runs: their course, their logs, what they see, and how they end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.servers.submitting import call, ended, printed, submit
from tests.support.processes import MARK, processes_marked
from tests.support.running import until

SLEEP = "trap 'echo asked to end; exit 3' TERM; echo begun; while true; do sleep 0.05; done"


def sleeping() -> list[str]:
    """Processes of these tests that sleep for ten minutes."""
    return [line for line in processes_marked(os.environ[MARK], patience=0) if "sleep 600" in line]


def appears(azure: StagedWorkspace, text: str) -> None:
    """Wait until the log of the job says *text*."""
    until(lambda: text in azure.logs("job_1"), lambda: azure.logs("job_1"))


def test_a_job_runs_to_its_end_and_leaves_its_logs_and_outputs(running: StagedWorkspace) -> None:
    run = ended(running, "echo hello; echo oops >&2; mkdir outputs; echo 1 > outputs/a.txt; mkdir -p logs/deep; echo 2 > logs/deep/b; echo 3 > other")
    assert running.artifacts(run.run_id) == {"user_logs/std_log.txt": b"hello\noops\n", "outputs/a.txt": b"1\n", "logs/deep/b": b"2\n"}
    assert run.started is not None
    assert run.ended is not None
    assert run.created <= run.started <= run.ended


def test_without_a_runner_a_job_stays_as_it_is(azure: StagedWorkspace) -> None:
    submit(azure, "echo hello")
    assert azure.state.runs["job_1"].status == "Starting"


def test_a_job_is_held_until_it_is_released(azure: StagedWorkspace) -> None:
    with azure.run_jobs(hold=True) as jobs:
        submit(azure, "echo hello")
        azure.wait_for("job_1", "Queued")
        assert azure.artifacts("job_1") == {}
        jobs.release("job_1")
        azure.wait_for("job_1", "Completed")


@pytest.mark.parametrize(("whole", "kind"), [(False, "AppendBlob"), (True, "BlockBlob")])
def test_a_log_grows_while_the_job_runs(azure: StagedWorkspace, whole: bool, kind: str) -> None:
    with azure.run_jobs(whole_logs=whole):
        submit(azure, "echo one; while [ ! -e $HOME/go ]; do sleep 0.02; done; echo two", environmentVariables={"A": "1"})
        appears(azure, "one")
        assert "two" not in azure.logs("job_1")
        log = azure.state.storage.properties("azureml", "ExperimentRun/dcid.job_1/user_logs/std_log.txt")
        assert log is not None
        assert log.blob_type == kind
        call(azure, "POST", "/jobs/job_1/cancel")
        azure.wait_for("job_1", "Canceled")


def test_a_failing_command_is_told_as_the_service_tells_it(running: StagedWorkspace) -> None:
    run = ended(running, "mkdir outputs; echo 1 > outputs/part; python -c 'raise SystemExit(\"no data\")'", "Failed")
    details = call(running, "GET", f"https://{running.state.data_plane_host}/history/v1.0{running.state.path}/runs/job_1/details").json
    assert (details["status"], details["error"]["error"]["code"]) == ("Failed", "UserError")
    assert "exited with status code 1. Please check log file 'user_logs/std_log.txt'" in details["error"]["error"]["message"]
    assert details["error"]["error"]["message"].endswith("Error: no data")
    assert set(details["logFiles"]) == {"user_logs/std_log.txt"}
    assert running.artifacts(run.run_id)["outputs/part"] == b"1\n"


def test_job_sees_only_its_own_environment(running: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIML_TENANT_ID", "leaks")
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "leaks")
    ended(running, "env; python -c 'import sys; print(sys.executable)'", environmentVariables={"EPOCHS": "3", "AZUREML_RUN_ID": "another"})
    text = printed(running)
    assert "leaks" not in text
    assert "AZURE_CLIENT" not in text
    for line in ("EPOCHS=3", "AZUREML_RUN_ID=job_1", "MLFLOW_RUN_ID=job_1", f"AZUREML_ARM_WORKSPACE_NAME={running.state.name}", "AZUREML_CR_NODE_RANK=0"):
        assert line in text.splitlines()
    assert text.splitlines()[-1] == sys.executable


def test_ranks_run_together_and_know_their_places(running: StagedWorkspace) -> None:
    meet = "mkdir -p outputs; touch outputs/$RANK; while [ ! -e outputs/$((NODE_RANK * 2)) ]; do sleep 0.01; done"
    command = f"{meet}; echo $RANK $LOCAL_RANK $NODE_RANK $WORLD_SIZE $MASTER_ADDR"
    ended(running, command, distribution={"distributionType": "PyTorch", "processCountPerInstance": 2}, resources={"instanceCount": 2})
    files = running.artifacts("job_1")
    logs = {name: content.decode().split() for name, content in files.items() if name.startswith("user_logs/")}
    places = {"0": "0 0 0 4", "1": "1 1 0 4", "2": "2 0 1 4", "3": "3 1 1 4"}
    assert logs == {f"user_logs/std_log_process_{rank}.txt": [*place.split(), "127.0.0.1"] for rank, place in places.items()}
    assert {name for name in files if name.startswith("outputs/")} == {f"outputs/{rank}" for rank in range(4)}


def test_mpi_ranks_are_told_as_mpi_does(running: StagedWorkspace) -> None:
    command = "echo $OMPI_COMM_WORLD_RANK/$OMPI_COMM_WORLD_SIZE $AZ_BATCH_MASTER_NODE ${RANK:-none}"
    ended(running, command, distribution={"distributionType": "Mpi", "processCountPerInstance": 1}, resources={"instanceCount": 2})
    lines = [printed(running, f"user_logs/std_log_process_{rank}.txt").split() for rank in range(2)]
    assert [(line[0], line[2]) for line in lines] == [("0/2", "none"), ("1/2", "none")]
    assert lines[0][1] == lines[1][1]
    assert lines[0][1].startswith("127.0.0.1:")


def test_processes_of_tensorflow_are_told_of_their_cluster(running: StagedWorkspace) -> None:
    kinds = {"distributionType": "TensorFlow", "workerCount": 2, "parameterServerCount": 1}
    ended(running, "echo $TF_CONFIG", distribution=kinds, resources={"instanceCount": 3})
    for name, task in (("00_worker", ("worker", 0)), ("01_worker", ("worker", 1)), ("00_ps", ("ps", 0))):
        told = json.loads(printed(running, f"user_logs/std_log_node_{name}.txt"))
        assert (told["task"]["type"], told["task"]["index"], len(told["cluster"]["worker"]), len(told["cluster"]["ps"])) == (*task, 2, 1)


def test_one_rank_that_fails_ends_all(running: StagedWorkspace) -> None:
    run = ended(running, "[ $RANK = 1 ] && exit 7; sleep 600", "Failed", distribution={"distributionType": "PyTorch", "processCountPerInstance": 2})
    assert run.error is not None
    assert "exited with status code 7" in run.error["error"]["message"]
    assert "std_log_process_1.txt" in run.error["error"]["message"]


def arm_cancel(azure: StagedWorkspace) -> None:
    assert call(azure, "POST", "/jobs/job_1/cancel").status == 202


def history_cancel(azure: StagedWorkspace) -> None:
    path = f"/history/v1.0{azure.state.path}/experiments/e/runs/job_1/cancel"
    assert call(azure, "POST", f"https://{azure.state.data_plane_host}{path}").status == 200


@pytest.mark.parametrize("cancel", [arm_cancel, history_cancel])
def test_a_cancelation_ends_the_processes(running: StagedWorkspace, cancel: Callable[[StagedWorkspace], None]) -> None:
    submit(running, SLEEP)
    appears(running, "begun")
    cancel(running)
    running.wait_for("job_1", "Canceled")
    assert printed(running).endswith("asked to end\n")


def test_the_answer_to_a_cancelation_waits_for_its_end(running: StagedWorkspace) -> None:
    submit(running, SLEEP)
    appears(running, "begun")
    where = call(running, "POST", "/jobs/job_1/cancel").headers["location"]
    statuses = set()
    while (status := call(running, "GET", where).status) != 200:
        statuses.add(status)
        time.sleep(0.05)
    assert statuses == {202}
    assert running.state.runs["job_1"].status == "Canceled"


def test_a_job_that_is_held_can_be_canceled(azure: StagedWorkspace) -> None:
    with azure.run_jobs(hold=True):
        submit(azure, "echo hello")
        azure.wait_for("job_1", "Queued")
        arm_cancel(azure)
        assert azure.wait_for("job_1", "Canceled").started is None


def test_a_job_whose_processes_have_ended_cannot_be_canceled(azure: StagedWorkspace) -> None:
    with azure.run_jobs(hold="Finalizing") as jobs:
        submit(azure, "echo hello")
        azure.wait_for("job_1", "Finalizing")
        assert call(azure, "POST", "/jobs/job_1/cancel").status == 400
        jobs.release()
        azure.wait_for("job_1", "Completed")


def test_a_job_whose_time_is_over_is_canceled(azure: StagedWorkspace) -> None:
    with azure.run_jobs(minute=1.0):
        run = ended(azure, SLEEP, "Canceled", limits={"jobLimitsType": "Command", "timeout": "PT1M"})
    assert run.started
    assert run.ended
    assert (run.ended - run.started).total_seconds() >= 60


def test_a_limit_of_less_than_a_minute_is_60_days(azure: StagedWorkspace) -> None:
    with azure.run_jobs(minute=0.01):
        ended(azure, "sleep 0.5", "Completed", limits={"jobLimitsType": "Command", "timeout": "PT59S"})


def test_nothing_of_a_job_outlives_its_workspace(stage: Stage) -> None:
    with stage.own_workspaces():
        azure = stage.workspace()
        azure.run_jobs()
        submit(azure, "setsid sleep 600 & (trap '' TERM; sleep 600) & echo begun; sleep 600")
        appears(azure, "begun")
        assert sleeping()
    assert azure.state.runs["job_1"].status == "Canceled"
    until(lambda: not sleeping(), lambda: azure.logs("job_1"))
