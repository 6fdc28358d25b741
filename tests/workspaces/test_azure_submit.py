"""Submitting a job to the double of Azure ML: what is asked and sent, in which order, and what is not asked twice."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage, NotAllowed, NotFound
from himl_cli.core.events import Event, Notice, ignore
from himl_cli.core.jobs import DataSpec, EnvironmentSpec
from himl_cli.core.runs import RunStatus
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.answers import time_text
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.state import now
from tests.support.azure_jobs import CONDA, FILES, MADE, cluster_spec, snapshot_of

UNCHANGED_CODE = "Code unchanged since an earlier submit: not uploaded again."
UNCHANGED_ENVIRONMENT = "Environment unchanged since an earlier submit: not registered again."
LOADED = """
import sys
from himl_cli.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("loaded" if "azure.ai.ml" in sys.modules else "not loaded")
"""
CHANGES = r"^(PUT|POST|PATCH|DELETE) (?!login\.)"


def asked(azure: StagedWorkspace) -> list[str]:
    """Methods and paths below the workspace, or in storage, without ids that are made up; no sign-in."""
    lines = [line.rpartition(" -> ")[0] for line in azure.requests() if " login." not in line]
    short = [line.replace(f"management.azure.com{azure.state.path}", "").partition("?")[0] for line in lines]
    return [re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27,36}|[0-9a-f]{64}|himl[0-9a-z]+\.", "*", line) for line in short]


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def sent(azure: StagedWorkspace, run_id: str) -> dict[str, Any]:
    """The properties of the job, as they came."""
    job = azure.state.runs[run_id].job
    assert job is not None
    return job


def test_first_submit_checks_before_upload(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    """A second submit makes two requests: it checks the compute and creates the job."""
    first = workspace.submit(cluster_spec(project), notify=ignore)
    looked, made = asked(azure)[:3], asked(azure)[3:]
    azure.stage.log.clear()
    events: list[Event] = []
    second = workspace.submit(cluster_spec(project), notify=events.append)
    assert sorted(looked) == ["GET ", "GET /codes/*/versions", "GET /computes/cpu-cluster"]
    assert [re.sub(r"^PUT \*blob.*/project/.*", "PUT blob", line) for line in made] == [
        "POST /codes/*/versions/1/startPendingUpload",
        "PUT blob",
        "PUT blob",
        "PUT /codes/*/versions/1",
        "PUT /environments/CliV2AnonymousEnvironment/versions/*",
        f"PUT /jobs/{first.id}",
    ]
    assert asked(azure) == ["GET /computes/cpu-cluster", f"PUT /jobs/{second.id}"]
    assert notices(events) == [UNCHANGED_CODE, UNCHANGED_ENVIRONMENT]
    without_names = [{name: value for name, value in sent(azure, run.id).items() if name not in ("displayName", "tags")} for run in (first, second)]
    assert without_names[0] == without_names[1]


def test_the_run_that_comes_back_is_the_one_that_himl_shows(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    named = cluster_spec(project, display_name="Näme", description="why", tags={"k": "v"}, arguments=["--password", "hunter2"])
    run = workspace.submit(named, notify=ignore)
    assert run.command == "python train.py --password '***'"
    assert re.fullmatch(r"sent_\d+_[0-9a-f]{8}", run.id)
    assert (run.experiment, run.status, run.display_name, run.description) == ("sent", RunStatus.queued, "Näme", "why")
    assert run.tags == {"k": "v", "run_recovery_id": f"sent:{run.id}"}
    assert run.url == workspace.run(run.id).url
    assert run.recovery_id == workspace.run(run.id).recovery_id


def test_every_option_reaches_the_service(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    azure.put_blob("workspaceblobstore", "pictures/1.png", b"x")
    spec = cluster_spec(
        project,
        arguments=["--in=${{ inputs.pictures }}/a b", "it's"],
        cluster="gpu-cluster",
        nodes=2,
        processes=4,
        distribution="pytorch",
        shm_size="16g",
        docker_args=["--ipc=host", "--cap-add SYS_PTRACE"],
        max_seconds=5400.0,
        identity="managed",
        env={"EMPTY": "", "NUMBER": "01"},
        inputs=[DataSpec("pictures", "pictures", mode="mount", target="/data/pictures")],
        outputs=[DataSpec("model", "trained")],
    )
    run = workspace.submit(spec, notify=ignore)
    job = sent(azure, run.id)
    assert job["command"].startswith("[ -e /data/pictures ] || ")
    assert job["command"].endswith("; export AZURE_ML_INPUT_pictures=/data/pictures; python train.py --in=/data/pictures'/a b' 'it'\"'\"'s'")
    assert run.command == "python train.py --in=/data/pictures'/a b' 'it'\"'\"'s'"
    assert job["computeId"].endswith("/computes/gpu-cluster")
    assert job["distribution"] == {"distributionType": "PyTorch", "processCountPerInstance": 4}
    assert job["resources"] == {"instanceCount": 2, "shmSize": "16g", "dockerArgs": "--ipc=host --cap-add SYS_PTRACE", "properties": {}}
    assert job["limits"] == {"jobLimitsType": "Command", "timeout": "PT1H30M"}
    assert job["identity"] == {"identityType": "Managed"}
    assert job["environmentVariables"] == {"EMPTY": "", "NUMBER": "01"}
    asset = f"{azure.state.path}/data/pictures/versions/1"
    assert job["inputs"] == {"pictures": {"jobInputType": "uri_folder", "mode": "ReadOnlyMount", "uri": asset}}
    place = "azureml://datastores/workspaceblobstore/paths/trained/"
    assert job["outputs"] == {"model": {"jobOutputType": "uri_folder", "mode": "ReadWriteMount", "uri": place, "assetName": "trained"}}


def test_a_job_without_a_node_of_its_own_names_no_compute(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    run = workspace.submit(cluster_spec(project, cluster="serverless"), notify=ignore)
    assert "computeId" not in sent(azure, run.id)
    assert azure.requests("/computes") == []


def test_a_job_that_acts_as_the_user_gets_a_token_of_his(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    runs = [workspace.submit(cluster_spec(project, identity="user"), notify=ignore) for _ in range(2)]
    for run, seen in zip(runs, azure.stage.log.find(r"PUT .*/jobs/"), strict=True):
        headers = {name.lower(): value for name, value in seen.headers.items()}
        assert sent(azure, run.id)["identity"] == {"identityType": "UserIdentity"}
        assert headers["x-azureml-token"] not in ("", headers["authorization"].removeprefix("Bearer "))
        assert headers["x-azureml-token"] not in caplog.text


def test_unknown_cluster_lists_existing_ones_before_any_change(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    with pytest.raises(NotFound, match=r"No compute 'cpu-clutser'.*there are: cpu-cluster, gpu-cluster") as caught:
        workspace.submit(cluster_spec(project, cluster="cpu-clutser"), notify=ignore)
    assert "cpu-cluster" in caught.value.hint
    assert azure.requests(CHANGES) == []


def test_missing_input_data_fails_submit_before_any_change(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        workspace.submit(cluster_spec(project, inputs=[DataSpec("INPUT_0", "nowhere")]), notify=ignore)
    assert azure.requests(r"^PUT|startPendingUpload") == []


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [("troch", None, "No environment 'troch'"), ("troch", "2", "No environment 'troch'"), ("torch", "9", "no version '9'.*there are: 1, 2")],
)
def test_unknown_environment_suggests_near_one_before_any_change(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, name: str, version: str | None, words: str
) -> None:
    register(azure, "torch", "1", "2")
    with pytest.raises(NotFound, match=words) as caught:
        workspace.submit(cluster_spec(project, environment=EnvironmentSpec(name, version)), notify=ignore)
    assert name == "torch" or "'torch'" in caught.value.hint
    assert azure.requests(CHANGES) == []


@pytest.mark.parametrize(("version", "meant"), [(None, "2"), ("latest", "2"), ("1", "1")])
def test_a_registered_environment_is_referred_to_by_its_id(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, version: str | None, meant: str
) -> None:
    register(azure, "torch", "1", "2")
    run = workspace.submit(cluster_spec(project, environment=EnvironmentSpec("torch", version)), notify=ignore)
    assert sent(azure, run.id)["environmentId"] == f"{azure.state.path}/environments/torch/versions/{meant}"
    assert azure.requests("^PUT .*/environments/") == []


@pytest.mark.parametrize(
    ("name", "version", "id"),
    [
        ("azureml://registries/azureml/environments/sklearn-1.5/versions/30", None, "azureml://registries/azureml/environments/sklearn-1.5/versions/30"),
        ("AzureML-sklearn-1.0", None, "azureml:AzureML-sklearn-1.0@latest"),
        ("AzureML-sklearn-1.0", "3", "{workspace}/environments/AzureML-sklearn-1.0/versions/3"),
    ],
)
def test_environments_of_azure_ml_itself_are_left_to_the_service(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, name: str, version: str | None, id: str
) -> None:
    run = workspace.submit(cluster_spec(project, environment=EnvironmentSpec(name, version)), notify=ignore)
    assert sent(azure, run.id)["environmentId"] == id.format(workspace=azure.state.path)
    assert azure.requests("/environments") == []


def test_only_what_changed_is_sent_again(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    workspace.submit(cluster_spec(project), notify=ignore)
    azure.stage.log.clear()
    events: list[Event] = []
    workspace.submit(cluster_spec(project, {**FILES, "train.py": "print(2)\n"}), notify=events.append)
    assert (len(azure.requests("startPendingUpload")), len(azure.requests("^PUT .*/environments/"))) == (1, 0)
    assert notices(events) == [UNCHANGED_ENVIRONMENT]
    azure.stage.log.clear()
    events.clear()
    other = EnvironmentSpec(image=MADE.image, conda=CONDA + "  - torch\n")
    workspace.submit(cluster_spec(project, {**FILES, "train.py": "print(2)\n"}, environment=other), notify=events.append)
    assert (len(azure.requests("startPendingUpload")), len(azure.requests("^PUT .*/environments/"))) == (0, 1)
    assert notices(events) == [UNCHANGED_CODE]


@pytest.mark.parametrize(("made", "is_said"), [(timedelta(hours=-2), True), (timedelta(hours=1), False)])
def test_an_environment_that_somebody_else_registered_is_shared(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, made: timedelta, is_said: bool
) -> None:
    """The service answers 201 whether it is new or not: the time at which it was made tells."""
    first = workspace.submit(cluster_spec(project), notify=ignore)
    name, version = sent(azure, first.id)["environmentId"].rpartition("/environments/")[2].split("/versions/")
    azure.state.assets["environments"][name][version]["_created"] = time_text(now() + made)
    for path in (project.parent / "home").rglob("environments/*.json"):
        path.unlink()
    events: list[Event] = []
    second = workspace.submit(cluster_spec(project), notify=events.append)
    assert sent(azure, first.id)["environmentId"] == sent(azure, second.id)["environmentId"]
    assert len(azure.requests("PUT .*/environments/")) == 2
    assert (UNCHANGED_ENVIRONMENT in notices(events)) is is_said


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"arguments": ["--x", "${{inputs.y}}"]}, "names no input; there are: none"),
        ({"arguments": ["${{outputs.y}}"]}, "names no output"),
        ({"environment": None}, "needs an environment"),
        ({"environment": EnvironmentSpec(image="x:1", conda="a: [")}, "no YAML"),
    ],
)
def test_what_cannot_work_is_refused_before_any_change(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadUsage, match=words):
        workspace.submit(cluster_spec(project, **fields), notify=ignore)
    assert azure.requests(CHANGES) == []


def test_whoever_may_not_submit_is_told_so(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    azure.state.principal.rights.discard(Right.WRITE)
    with pytest.raises(NotAllowed):
        workspace.submit(cluster_spec(project), notify=ignore)
    assert not azure.state.runs


def test_azure_ai_ml_shows_the_job_that_was_sent(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    run = workspace.submit(cluster_spec(project, display_name="seen"), notify=ignore)
    job, client = workspace.sdk_view(run.id)
    assert (job.name, job.display_name, job.status) == (run.id, "seen", "Starting")
    assert client.jobs.get(run.id).experiment_name == "sent"
    assert logging.getLogger("azure.ai.ml").level == logging.NOTSET  # the script may want to hear it


@pytest.mark.parametrize("arguments", [[], ["--input", "pictures", "--output", "trained", "--identity", "user"]], ids=["plain", "with data"])
def test_a_submit_does_not_load_azure_ai_ml(azure_environment: StagedWorkspace, project: Path, arguments: list[str]) -> None:
    azure_environment.write_config(project)
    azure_environment.put_blob("workspaceblobstore", "pictures/1.png", b"x")
    snapshot_of(project, {**FILES, "environment.yml": CONDA})
    command = [sys.executable, "-c", LOADED, "submit", "train.py", "--cluster", "cpu-cluster", "--description", "d", *arguments]
    assert subprocess.run(command, cwd=project, check=True, capture_output=True, text=True).stdout.splitlines()[-1] == "not loaded"
    assert len(azure_environment.state.runs) == 1


def register(azure: StagedWorkspace, name: str, *versions: str) -> None:
    """Versions of an environment, as somebody registered them earlier."""
    for version in versions:
        kept = {"image": "docker.io/x:1", "isArchived": False, "isAnonymous": False, "properties": {}, "tags": {}, "_created": "2026-01-01T00:00:00Z"}
        azure.state.assets["environments"].setdefault(name, {})[version] = kept


def test_only_the_thread_that_submits_hears_of_it(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    heard: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Notice) and "is not registered" in event.text:
            heard.append(threading.current_thread().name)

    workspace.submit(cluster_spec(project, outputs=[DataSpec("model", "a b")]), notify=note)
    assert heard == [threading.current_thread().name]
