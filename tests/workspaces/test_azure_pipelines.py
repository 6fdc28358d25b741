"""Submitting a pipeline to the double of Azure ML: what is asked and sent, what is not asked twice, and that its steps run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage, HimlError, Interrupted, NotFound
from himl_cli.core.events import Event, Notice, ignore
from himl_cli.core.jobs import DataSpec, EnvironmentSpec, StepSpec
from himl_cli.core.runs import RunQuery, RunStatus
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.faults import Reset, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure_jobs import FAILING, pipeline_of, prepare, sent, step_job, steps_of, train
from tests.support.running import until


def test_a_pipeline_runs_and_data_goes_from_step_to_step(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    with azure.run_jobs():
        run = workspace.submit_pipeline(pipeline_of(prepare(tmp_path), train(tmp_path)), notify=ignore)
        azure.wait_for(run.id)
    ended = workspace.run(run.id)
    assert (ended.status, ended.experiment) == (RunStatus.completed, "piped")
    steps = {step.display_name: step for step in workspace.runs(RunQuery(parent=run.id))}
    assert sorted(steps) == ["step1 makes", "step2 reads"]
    assert {step.status for step in steps.values()} == {RunStatus.completed}
    assert [steps[name].tags["himl.step"] for name in sorted(steps)] == ["step1", "step2"]
    assert [steps[name].tags.get("himl.after") for name in sorted(steps)] == [None, "step1"]
    assert azure.artifacts(steps["step2 reads"].id)["user_logs/std_log.txt"] == b"sum 6\n"


def wait_for_steps(azure: StagedWorkspace, run_id: str, count: int) -> None:
    """Until so many steps of the pipeline run."""
    until(lambda: [azure.state.runs[child].status for child in azure.state.runs[run_id].children].count("Running") >= count, "the steps do not run")


def asked(azure: StagedWorkspace) -> list[str]:
    """Methods and paths below the workspace, or in storage, without ids that are made up; no sign-in."""
    lines = [line.rpartition(" -> ")[0] for line in azure.requests() if " login." not in line]
    short = [line.replace(f"management.azure.com{azure.state.path}", "").partition("?")[0] for line in lines]
    return [re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27,36}|[0-9a-f]{64}|himl[0-9a-z]+\.", "*", line) for line in short]


def test_a_second_submit_asks_for_the_compute_and_sends_the_job(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    spec = pipeline_of(prepare(tmp_path), train(tmp_path))
    first = workspace.submit_pipeline(spec, notify=ignore)
    assert sorted(asked(azure)[:4]) == ["GET ", "GET /codes/*/versions", "GET /codes/*/versions", "GET /computes/cpu-cluster"]
    assert len(azure.requests("GET .*/codes/")) == 2
    assert len(azure.requests("^PUT .*/components/")) == 2
    assert len(azure.requests("^PUT .*/environments/")) == 1
    azure.stage.log.clear()
    events: list[Event] = []
    second = workspace.submit_pipeline(spec, notify=events.append)
    assert asked(azure) == ["GET /computes/cpu-cluster", f"PUT /jobs/{second.id}"]
    assert [event.text for event in events if isinstance(event, Notice)] == [
        "Code unchanged since an earlier submit: not uploaded again.",
        "Environment unchanged since an earlier submit: not registered again.",
    ]
    without_names = [{name: value for name, value in sent(azure, run.id).items() if name not in ("displayName", "tags")} for run in (first, second)]
    assert without_names[0] == without_names[1]


def test_the_run_that_comes_back_is_the_one_that_himl_shows(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    spec = pipeline_of(
        prepare(tmp_path), display_name="Näme", description="why", tags={"k": "v", "build_branch": "main"}, command="himl submit --token=hunter2"
    )
    run = workspace.submit_pipeline(spec, notify=ignore)
    assert re.fullmatch(r"piped_\d+_[0-9a-f]{8}", run.id)
    assert (run.experiment, run.status, run.display_name, run.description) == ("piped", RunStatus.queued, "Näme", "why")
    assert run.tags == {"k": "v", "build_branch": "main", "run_recovery_id": f"piped:{run.id}"}
    assert sent(azure, run.id)["properties"] == {"mlflow.source.git.branch": "main"}
    assert (run.url, run.recovery_id) == (workspace.run(run.id).url, workspace.run(run.id).recovery_id)


def test_every_field_of_a_step_reaches_the_service(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    azure.put_blob("workspaceblobstore", "volumes/1.npy", b"x")
    azure.add_datastore("results")
    job = step_job(
        tmp_path / "all",
        "print(1)",
        arguments=["--in=${{ inputs.volumes }}/a b", "it's", "--out", "${{outputs.model}}"],
        cluster="gpu-cluster",
        nodes=2,
        processes=4,
        distribution="mpi",
        shm_size="16g",
        docker_args=["--ipc=host", "--cap-add=SYS_PTRACE"],
        max_seconds=5400.0,
        identity="user",
        env={"EMPTY": "", "NUMBER": "01"},
        inputs=[DataSpec("volumes", "volumes", mode="mount")],
        outputs=[DataSpec("model", "", datastore="results", mode="upload")],
    )
    run = workspace.submit_pipeline(pipeline_of(StepSpec("train", "train it", job), default_datastore="workspaceblobstore"), notify=ignore)
    node = sent(azure, run.id)["jobs"]["train"]
    version = node["componentId"].rpartition("/")[2]
    component = azure.state.assets["components"]["azureml_anonymous"][version]["componentSpec"]
    assert component["command"] == """python train.py --in=${{inputs.volumes}}'/a b' 'it'"'"'s' --out ${{outputs.model}}"""
    assert (component["inputs"], component["outputs"]) == ({"volumes": {"type": "uri_folder"}}, {"model": {"type": "uri_folder"}})
    assert node["computeId"].endswith("/computes/gpu-cluster")
    assert node["distribution"] == {"distribution_type": "Mpi", "process_count_per_instance": 4}
    assert node["resources"] == {"instance_count": 2, "shm_size": "16g", "docker_args": "--ipc=host --cap-add=SYS_PTRACE"}
    assert node["limits"] == {"timeout": "PT1H30M", "job_limits_type": "Command"}
    assert node["identity"] == {"identity_type": "UserIdentity"}
    assert node["environment_variables"] == {"EMPTY": "", "NUMBER": "01"}
    assert (node["display_name"], node["tags"]) == ("train it", {"himl.step": "train"})
    asset = f"{azure.state.path}/data/volumes/versions/1"
    assert node["inputs"] == {"volumes": {"job_input_type": "uri_folder", "mode": "ReadOnlyMount", "uri": asset}}
    place = "azureml://datastores/results/paths/azureml/${{name}}/model/"
    assert node["outputs"] == {"model": {"job_output_type": "uri_folder", "mode": "Upload", "uri": place}}
    settings = sent(azure, run.id)["settings"]
    assert settings["default_datastore"].endswith("/datastores/workspaceblobstore")
    assert settings["continue_on_step_failure"] is False
    assert all(seen.headers.get("x-azureml-token") for seen in azure.stage.log.find(r"PUT .*/jobs/"))


def test_steps_of_same_folder_share_code_environment_and_inputs(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    azure.put_blob("workspaceblobstore", "volumes/1.npy", b"x")
    inputs = [DataSpec("data", "volumes")]
    steps = [StepSpec(f"step{n}", "the same", step_job(tmp_path / "all", "print(1)", arguments=[str(n)], inputs=inputs)) for n in range(3)]
    run = workspace.submit_pipeline(pipeline_of(*steps), notify=ignore)
    assert len(azure.requests("startPendingUpload")) == 1
    assert len(azure.requests("^PUT .*/environments/")) == 1
    assert len(azure.requests("^PUT .*/data/")) == 1
    assert len(azure.requests("GET .*/data/volumes")) == 1
    assert [node["display_name"] for node in sent(azure, run.id)["jobs"].values()] == [f"the same (step{n})" for n in range(3)]


def test_folders_of_equal_contents_are_uploaded_once(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    steps = [StepSpec(f"step{n}", "", step_job(tmp_path / str(n), "print(1)")) for n in range(2)]
    workspace.submit_pipeline(pipeline_of(*steps), notify=ignore)
    assert len(azure.requests("startPendingUpload")) == 1
    assert len(azure.requests("^PUT .*/components/")) == 1


def test_an_input_without_a_folder_is_the_whole_datastore(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    azure.add_datastore("seismic", container="volumes")
    azure.put_blob("seismic", "a.npy", b"x")
    job = step_job(
        tmp_path / "a", "import os, sys\nprint(os.listdir(sys.argv[1]))\n", arguments=["${{inputs.d}}"], inputs=[DataSpec("d", "", datastore="seismic")]
    )
    with azure.run_jobs():
        run = workspace.submit_pipeline(pipeline_of(StepSpec("one", "", job)), notify=ignore)
        azure.wait_for(run.id)
    assert azure.artifacts(steps_of(workspace, run.id)["one"].id)["user_logs/std_log.txt"] == b"['a.npy']\n"


def test_step_input_in_named_datastore_ignores_registered_data(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    azure.add_datastore("seismic")
    azure.put_blob("seismic", "volumes/1.npy", b"x")
    azure.add_data("volumes", "azureml://datastores/workspaceblobstore/paths/elsewhere/")
    job = step_job(tmp_path / "a", "print(1)", inputs=[DataSpec("d", "volumes", datastore="seismic", mode="mount")])
    run = workspace.submit_pipeline(pipeline_of(StepSpec("one", "", job)), notify=ignore)
    place = "azureml://datastores/seismic/paths/volumes/"
    assert sent(azure, run.id)["jobs"]["one"]["inputs"]["d"] == {"job_input_type": "uri_folder", "mode": "ReadOnlyMount", "uri": place}
    assert azure.requests("^PUT .*/data/") == []


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"cluster": "cpu-clutser"}, NotFound, "No compute 'cpu-clutser'"),
        ({"nodes": 9}, BadUsage, "has 4 nodes at most"),
        ({"environment": EnvironmentSpec("nowhere")}, NotFound, "^step2: No environment 'nowhere'"),
        ({"environment": None}, BadUsage, "needs an environment"),
        ({"inputs": [DataSpec("d", "nowhere")]}, NotFound, "^step2: Input 'd': no data asset 'nowhere'"),
        ({"inputs": [DataSpec("d", "x", datastore="nowhere")]}, NotFound, "^step2: No datastore 'nowhere'"),
        ({"outputs": [DataSpec("o", "", datastore="nowhere")]}, NotFound, "No datastore 'nowhere'"),
        ({"arguments": ["${{inputs.none}}"]}, BadUsage, "^step2: '.*inputs.none.*' names no input"),
    ],
)
def test_invalid_step_fails_pipeline_before_any_change(
    workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    wrong = StepSpec("step2", "", step_job(tmp_path / "wrong", "print(1)", **fields))
    with pytest.raises(error, match=message):
        workspace.submit_pipeline(pipeline_of(prepare(tmp_path), wrong), notify=ignore)
    assert azure.requests("^PUT|startPendingUpload") == []
    assert azure.state.runs == {}


def test_a_missing_cluster_says_how_it_can_be_made(workspace: AzureWorkspace, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        workspace.submit_pipeline(pipeline_of(prepare(tmp_path, cluster="gpus")), notify=ignore)
    assert caught.value.hint.endswith("--create_cluster makes it.")


@pytest.mark.parametrize("lost", ["codes", "environments", "components"])
def test_what_the_workspace_has_lost_is_made_anew(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path, lost: str) -> None:
    spec = pipeline_of(prepare(tmp_path))
    workspace.submit_pipeline(spec, notify=ignore)
    azure.state.assets[lost].clear()
    azure.state.assets["components"].clear()
    with azure.run_jobs():
        run = workspace.submit_pipeline(spec, notify=ignore)
        azure.wait_for(run.id)
    assert workspace.run(run.id).status is RunStatus.completed


def test_the_pipeline_is_created_once_whatever_the_network_does(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    azure.stage.faults.add(Reset(), "PUT .*/(jobs|components)/", times=2)
    run = workspace.submit_pipeline(pipeline_of(prepare(tmp_path)), notify=ignore)
    assert list(azure.state.runs) == [run.id]


def test_a_refused_pipeline_says_that_nothing_runs(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    azure.stage.faults.add(Status(400, code="UserError", message="The pipeline is too large."), "PUT .*/jobs/", times=None)
    with pytest.raises(HimlError, match="too large") as caught:
        workspace.submit_pipeline(pipeline_of(prepare(tmp_path)), notify=ignore)
    assert "No job was created" in caught.value.hint


def test_ctrl_c_before_the_job_leaves_nothing_that_runs(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="nothing runs"):
        workspace.submit_pipeline(pipeline_of(prepare(tmp_path)), notify=interrupt)
    assert azure.state.runs == {}


def test_a_failing_step_stops_the_rest(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    with azure.run_jobs():
        run = workspace.submit_pipeline(pipeline_of(prepare(tmp_path, FAILING), train(tmp_path)), notify=ignore)
        azure.wait_for(run.id, "Failed")
    assert workspace.run(run.id).status is RunStatus.failed
    assert {key: step.status for key, step in steps_of(workspace, run.id).items()} == {"step1": RunStatus.failed}


def test_canceling_stops_all_steps_or_one(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    waiting = "import time\ntime.sleep(600)\n"
    with azure.run_jobs():
        both = workspace.submit_pipeline(pipeline_of(prepare(tmp_path, waiting), prepare(tmp_path, waiting, key="step2", env={"N": "2"})), notify=ignore)
        wait_for_steps(azure, both.id, 2)
        one = steps_of(workspace, both.id)["step1"]
        assert workspace.cancel(one.id)
        azure.wait_for(one.id, "Canceled")
        azure.wait_for(both.id, "Failed")
        other = workspace.submit_pipeline(pipeline_of(prepare(tmp_path, waiting), train(tmp_path)), notify=ignore)
        wait_for_steps(azure, other.id, 1)
        assert workspace.cancel(other.id)
        azure.wait_for(other.id, "Canceled")
    assert {step.status for step in steps_of(workspace, other.id).values()} == {RunStatus.canceled}


def test_reused_step_is_not_rerun_and_its_files_are_readable(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    spec = pipeline_of(prepare(tmp_path), train(tmp_path))
    with azure.run_jobs():
        runs = [workspace.submit_pipeline(spec, notify=ignore) for _ in range(1)]
        azure.wait_for(runs[0].id)
        runs.append(workspace.submit_pipeline(spec, notify=ignore))
        azure.wait_for(runs[1].id)
    again = steps_of(workspace, runs[1].id)["step2"]
    assert azure.state.runs[again.id].properties["azureml.isreused"] == "true"
    assert b"".join(workspace.run_files(again.id).read("user_logs/std_log.txt")) == b"sum 6\n"


def test_outputs_of_a_step_are_found_by_their_key(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    with azure.run_jobs():
        run = workspace.submit_pipeline(pipeline_of(prepare(tmp_path)), notify=ignore)
        azure.wait_for(run.id)
    step = steps_of(workspace, run.id)["step1"]
    assert b"".join(workspace.output_files(step.id, "numbers").read("numbers.txt")) == b"1 2 3"
    assert azure.blob_names("workspaceblobstore", f"azureml/{step.id}/") == [f"azureml/{step.id}/numbers/numbers.txt"]


def test_nodes_of_azure_ml_s_own_choice(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    with azure.run_jobs():
        run = workspace.submit_pipeline(pipeline_of(prepare(tmp_path, cluster="serverless"), cluster="serverless"), notify=ignore)
        azure.wait_for(run.id)
    job = sent(azure, run.id)
    assert job["settings"]["default_compute"] == "serverless"
    assert "computeId" not in job["jobs"]["step1"]
    assert azure.requests("/computes") == []
