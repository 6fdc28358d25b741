"""Tests of submitting a job: its requests, refusals before any change, the effects of faults, and the clusters and
containers that himl creates.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage, Interrupted, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.events import Event, Moved, Notice, ignore
from himl_cli.core.jobs import ClusterSpec, ContainerSpec, DataSpec, EnvironmentSpec
from himl_cli.core.runs import RunStatus
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.computes import check_compute
from himl_cli.workspaces.azure.service_errors import ServiceRefused
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.azureml_double.faults import Meanwhile, Page, Reset, Stall, Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.azureml_double.state import Right, now, time_text
from tests.support.azure import HASTY, connected, opened
from tests.support.azure_jobs import CONDA, FILES, MADE, cluster_spec, sent, snapshot_of
from tests.support.folders import files_below, files_with
from tests.support.running import Himl, until

UNCHANGED_CODE = "The code is unchanged. himl uses the earlier upload."
UNCHANGED_ENVIRONMENT = "The environment is unchanged. himl uses the earlier registration."
CHANGES = r"^(PUT|POST|PATCH|DELETE) (?!login\.)"


def short_requests(azure: StagedWorkspace) -> list[str]:
    """Return methods and paths relative to the workspace or in storage, without generated ids and without sign-in."""
    lines = [line.rpartition(" -> ")[0] for line in azure.requests() if " login." not in line]
    short = [line.replace(f"management.azure.com{azure.state.path}", "").partition("?")[0] for line in lines]
    return [re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27,36}|[0-9a-f]{64}|himl[0-9a-z]+\.", "*", line) for line in short]


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


@pytest.mark.large("takes long, and other tests run its branches")
def test_first_submit_checks_before_upload(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    first = workspace.submit(cluster_spec(project), notify=ignore)
    looked, made = short_requests(azure)[:3], short_requests(azure)[3:]
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
    assert short_requests(azure) == ["GET /computes/cpu-cluster", f"PUT /jobs/{second.id}"]
    assert notices(events) == [UNCHANGED_CODE, UNCHANGED_ENVIRONMENT]
    without_names = [
        {name: value for name, value in sent(azure, run.id).items() if name not in ("displayName", "tags")}
        for run in (first, second)
    ]
    assert without_names[0] == without_names[1]


@pytest.mark.large("takes long, and other tests run its branches")
def test_the_run_that_comes_back_is_shown_without_its_secrets(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path
) -> None:
    secrets: dict[str, Any] = {
        "docker_args": ["-e SOME_KEY=hunter2"],
        "env": {"OTHER_KEY": "hunter2"},
        "arguments": ["--password", "hunter2"],
    }
    run = workspace.submit(
        cluster_spec(project, display_name="Näme", description="why", tags={"k": "v"}, **secrets), notify=ignore
    )
    assert run.command == "python train.py --password '***'"
    assert re.fullmatch(r"sent_\d+_[0-9a-f]{8}", run.id)
    assert (run.experiment, run.status, run.display_name, run.description) == ("sent", RunStatus.queued, "Näme", "why")
    assert run.tags == {"k": "v", "run_recovery_id": f"sent:{run.id}"}
    assert (run.url, run.recovery_id) == (workspace.run(run.id).url, workspace.run(run.id).recovery_id)
    assert sent(azure, run.id)["resources"]["dockerArgs"] == "-e SOME_KEY=hunter2"
    assert files_below(project.parent / "home")
    assert files_with(project.parent / "home", "hunter2") == []


@pytest.mark.large("takes long, and other tests run its branches")
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


@pytest.mark.large("takes long, and other tests run its branches")
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
    workspace.submit(
        cluster_spec(project, {**FILES, "train.py": "print(2)\n"}, environment=other), notify=events.append
    )
    assert (len(azure.requests("startPendingUpload")), len(azure.requests("^PUT .*/environments/"))) == (0, 1)
    assert notices(events) == [UNCHANGED_CODE]


@pytest.mark.parametrize(("made", "is_said"), [(timedelta(hours=-2), True), (timedelta(hours=1), False)])
def test_an_environment_that_somebody_else_registered_is_shared(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, made: timedelta, is_said: bool
) -> None:
    """The service answers 201 for new and existing environments. Only the creation time differs."""
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


def test_what_cannot_work_is_refused_before_any_change(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path
) -> None:
    kept = {
        "image": "docker.io/x:1",
        "isArchived": False,
        "isAnonymous": False,
        "properties": {},
        "tags": {},
        "_created": "2026-01-01T00:00:00Z",
    }
    azure.state.assets["environments"]["torch"] = {"1": dict(kept), "2": kept}
    refused: list[tuple[dict[str, Any], str]] = [
        ({"arguments": ["--x", "${{inputs.y}}"]}, "names no input; there are: none"),
        ({"environment": None}, "needs an environment"),
        ({"environment": EnvironmentSpec(image="x:1", conda="a: [")}, "not valid YAML"),
        ({"environment": EnvironmentSpec("troch")}, "Unknown environment 'troch'(?s:.*)'torch'"),
        ({"environment": EnvironmentSpec("torch", "9")}, "no version '9'.*It has: 1, 2"),
        ({"cluster": "cpu-clutser"}, r"Unknown compute target 'cpu-clutser'.*It has cpu-cluster, gpu-cluster"),
        ({"inputs": [DataSpec("INPUT_0", "nowhere")]}, "nowhere"),
    ]
    for fields, words in refused:
        with pytest.raises((BadUsage, NotFound)) as caught:
            workspace.submit(cluster_spec(project, **fields), notify=ignore)
        assert re.search(words, f"{caught.value}\n{caught.value.hint}")
        assert "No job" not in caught.value.hint
        assert azure.requests("^PUT|startPendingUpload" if "inputs" in fields else CHANGES) == []


@pytest.mark.large("imports azure-ai-ml")
def test_azure_ai_ml_shows_the_job_that_was_sent(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path
) -> None:
    run = workspace.submit(cluster_spec(project, display_name="seen"), notify=ignore)
    job, client = workspace.sdk_objects(run.id, "v2")
    assert (job.name, job.display_name, job.status) == (run.id, "seen", "Starting")
    assert client.jobs.get(run.id).experiment_name == "sent"
    # The script may need the messages of azure-ai-ml.
    assert logging.getLogger("azure.ai.ml").level == logging.NOTSET


LOADED = """
import sys
from himl_cli.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = ("azure", "msal", "azureml", "mlflow", "cryptography", "aiohttp", "opentelemetry")
print("loaded:", [name for name in heavy if name in sys.modules])
"""


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_submit_loads_no_heavy_module(azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.write_config(project)
    with connected(azure_environment, project) as connection:
        connection.record()
    snapshot_of(project, {**FILES, "environment.yml": CONDA})
    command = [sys.executable, "-c", LOADED, "submit", "train.py", "--cluster", "cpu-cluster", "--output", "trained"]
    said = subprocess.run(command, cwd=project, check=True, capture_output=True, text=True).stdout
    assert (said.splitlines()[-1], len(azure_environment.state.runs)) == ("loaded: []", 1)


JOB = r"PUT .*/jobs/"
LOOK = r"GET .*/jobs/"


@pytest.fixture
def hasty(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    """The workspace `azure`, opened with short waits between attempts."""
    with opened(azure_environment, project, HASTY) as workspace:
        yield workspace


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_request_that_is_repeated_makes_no_second_job(
    hasty: AzureWorkspace, azure: StagedWorkspace, project: Path
) -> None:
    azure.stage.faults.add(Reset(), JOB)
    azure.stage.faults.add(Status(429, retry_after=0), JOB, skip=1)
    run = hasty.submit(cluster_spec(project), notify=ignore)
    assert (list(azure.state.runs), len(azure.requests(JOB))) == ([run.id], 3)
    azure.stage.log.clear()
    azure.stage.faults.add(Reset(), JOB, times=None)
    found = hasty.submit(cluster_spec(project), notify=ignore)
    assert (list(azure.state.runs), len(azure.requests(LOOK))) == ([run.id, found.id], 1), "all its answers were lost"


def test_submit_with_unknown_outcome_reports_the_job_id(
    hasty: AzureWorkspace, azure: StagedWorkspace, project: Path
) -> None:
    azure.stage.faults.add(Reset(), rf"{JOB}|{LOOK}", times=None)
    with pytest.raises(ServiceFailed, match="It is unknown whether job '") as caught:
        hasty.submit(cluster_spec(project), notify=ignore)
    (run_id,) = azure.state.runs
    assert f"'{run_id}'" in str(caught.value)
    assert f"himl runs show {run_id}" in caught.value.hint


def test_what_the_service_lost_meanwhile_is_made_anew(
    hasty: AzureWorkspace, azure: StagedWorkspace, project: Path
) -> None:
    hasty.submit(cluster_spec(project), notify=ignore)
    azure.state.assets["codes"].clear()
    azure.state.assets["environments"].clear()
    azure.stage.log.clear()
    run = hasty.submit(cluster_spec(project), notify=ignore)
    assert run.id in azure.state.runs
    assert [len(azure.requests(one)) for one in ("startPendingUpload", "PUT .*/environments/", JOB)] == [1, 1, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_before_job_creation_leaves_no_job_or_code(
    hasty: AzureWorkspace, azure: StagedWorkspace, project: Path, number: signal.Signals
) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Moved):
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="Nothing runs"):
        hasty.submit(cluster_spec(project), notify=interrupt)
    assert azure.requests(JOB) == []
    assert not azure.state.assets["codes"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_the_job_is_created_says_its_id(
    hasty: AzureWorkspace, azure: StagedWorkspace, project: Path, number: signal.Signals
) -> None:
    azure.stage.faults.add(Meanwhile(lambda: os.kill(os.getpid(), number)), JOB)
    with pytest.raises(Interrupted, match="Interrupted after the creation of job") as caught:
        hasty.submit(cluster_spec(project), notify=ignore)
    (run_id,) = azure.state.runs
    assert caught.value.hint == f"To stop it: himl runs cancel {run_id}"


@pytest.mark.large("takes long, and other tests run its branches")
def test_an_interruption_does_not_wait_for_a_service_that_stalls(
    himl: Himl, azure_environment: StagedWorkspace, project: Path
) -> None:
    azure = azure_environment
    azure.write_config(project)
    snapshot_of(project, {"train.py": "print(1)\n", "environment.yml": CONDA})
    azure.stage.faults.add(Stall(240), "GET .*/(computes|codes)/", times=None)
    process = himl.start("submit", "train.py", "--cluster", "cpu-cluster")
    until(lambda: azure.requests("GET .*/computes/") or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130
    assert b"Nothing runs" in said


def test_a_failure_before_there_is_a_job_says_that_there_is_none(
    hasty: AzureWorkspace, azure: StagedWorkspace, project: Path
) -> None:
    refused = Status(400, code="UserError", message="A tag is too long.")
    faults = [("GET .*/computes/", Status(503), "503"), ("PUT .*/environments/", Status(503), "503")]
    for place, fault, words in [*faults, (JOB, refused, "A tag is too long"), (JOB, Status(500), "failed at PUT")]:
        azure.stage.log.clear()
        azure.stage.faults.only(fault, place, times=None)
        with pytest.raises(ServiceRefused, match=words) as caught:
            hasty.submit(cluster_spec(project), notify=ignore)
        assert caught.value.hint.startswith("No job was created. ")
        assert not azure.state.runs
        assert fault is not refused or len(azure.requests(JOB)) == 1, "sent once"
    assert len(azure.requests(LOOK)) == 1


def test_an_answer_that_is_no_job_is_followed_by_a_look(
    hasty: AzureWorkspace, azure: StagedWorkspace, project: Path
) -> None:
    azure.stage.faults.add(Page('{"properties": 1}', content_type="application/json"), JOB, times=None)
    with pytest.raises(ServiceFailed, match=r"Job 'sent_\w+' was created, but: ") as caught:
        hasty.submit(cluster_spec(project), notify=ignore)
    assert "himl runs show sent_" in caught.value.hint
    azure.stage.faults.clear()
    azure.stage.log.clear()
    azure.state.runs.clear()
    azure.stage.faults.add(Reset(), JOB)
    azure.stage.faults.add(Page("[]", content_type="application/json"), JOB, times=None, skip=1)
    run = hasty.submit(cluster_spec(project), notify=ignore)
    assert list(azure.state.runs) == [run.id]
    assert len(azure.requests(LOOK)) == 1


def test_compute_is_checked_by_one_request_and_may_have_failed(
    stage: Stage, connection: Connection, azure_environment: StagedWorkspace
) -> None:
    check_compute(connection, "serverless", nodes=8)
    assert stage.log.all() == []
    check_compute(connection, "gpu-cluster", nodes=2)
    assert [seen.path.rpartition("/")[2] for seen in stage.log.find(r"management\.azure\.com")] == ["gpu-cluster"]
    stage.faults.add(Page('{"name": "gpu-cluster"}', content_type="application/json"), "/computes/", times=None)
    with pytest.raises(ServiceFailed, match="is invalid: himl cannot read"):
        check_compute(connection, "gpu-cluster")
    stage.faults.clear()
    errors = [{"code": "ClusterResizeFailed", "message": "Quota of this family\nis used up."}]
    for told, words in ((errors, ": Quota of this family is used up"), (None, "")):
        azure_environment.state.computes["gpu-cluster"] |= {"state": "Failed", "errors": told}
        heard: list[Event] = []
        check_compute(connection, "gpu-cluster", notify=heard.append)
        assert notices(heard) == [
            f"The compute target 'gpu-cluster' is in state Failed{words}. himl submits the job, which may "
            "wait in the queue."
        ]


def test_compute_that_cannot_run_the_job_is_refused(azure_environment: StagedWorkspace, connection: Connection) -> None:
    azure_environment.add_compute("desk", kind="ComputeInstance")
    azure_environment.add_compute("bricks", kind="Databricks")
    check_compute(connection, "desk")
    azure_environment.state.computes["cpu-cluster"]["state"] = "Deleting"
    refused = [
        ("gpu-cluster", 3, "--num_nodes 3: the compute target 'gpu-cluster' has at most 2 nodes"),
        ("desk", 2, "has at most 1 node"),
    ]
    refused += [
        ("bricks", 1, "'bricks' is Databricks, which cannot run himl's jobs"),
        ("cpu-cluster", 1, "'cpu-cluster' is unusable: its state is Deleting"),
    ]
    for name, nodes, complaint in refused:
        with pytest.raises(BadUsage, match=complaint):
            check_compute(connection, name, nodes=nodes)


def test_an_unknown_compute_names_those_there_are(azure_environment: StagedWorkspace, connection: Connection) -> None:
    azure_environment.state.page_size = 1
    azure_environment.add_compute("a100")
    with pytest.raises(
        NotFound, match=r"Unknown compute target 'gpu-clutser' in workspace .*It has a100, cpu-cluster, gpu-cluster"
    ) as caught:
        check_compute(connection, "gpu-clutser")
    assert "'gpu-cluster'" in caught.value.hint
    azure_environment.state.computes.clear()
    with pytest.raises(NotFound, match="It has none"):
        check_compute(connection, "gpu")


def test_what_cannot_be_a_computes_name_is_not_asked_for(stage: Stage, connection: Connection) -> None:
    for name in ("..", "a/b", "x?y"):
        with pytest.raises(NotFound, match="Unknown compute target"):
            check_compute(connection, name)
    assert all(seen.path.endswith("/computes") for seen in stage.log.find(r"management\.azure\.com"))


def test_a_cluster_is_made_once_and_can_take_jobs(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    events: list[Event] = []
    assert not workspace.has_cluster("team-gpus")
    for _ in range(2):
        workspace.create_cluster(
            ClusterSpec("team-gpus", "Standard_NC6", 1, 3, low_priority=True), notify=events.append
        )
    assert workspace.has_cluster("team-gpus")
    made = azure.state.computes["team-gpus"]
    assert (made["size"], made["min_nodes"], made["max_nodes"], made["priority"], made["state"]) == (
        "Standard_NC6",
        1,
        3,
        "LowPriority",
        "Succeeded",
    )
    assert notices(events) == [
        "Creating cluster 'team-gpus': 1 to 3 nodes of Standard_NC6.",
        "Cluster 'team-gpus' is ready.",
        "Cluster 'team-gpus' already exists.",
    ]
    assert len(azure.requests("^PUT .*/computes")) == 1
    assert len(azure.requests("computeOperationsStatus.* -> 200")) == 2


def test_a_cluster_that_cannot_be_is_a_wrong_request(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    wrong = {
        ClusterSpec("gpus", "Standard_NC6000"): "VM size 'Standard_NC6000' is not supported",
        ClusterSpec(
            "gpus", "Standard_NC24s_v3", 0, 40
        ): "exceeding quota limits of Core. Maximum allowed: 100, .* requested: 960",
        ClusterSpec("gpus", "Standard_NC6", 3, 2): "cannot have 3 to 2 nodes",
        ClusterSpec("1gpu", "Standard_NC6"): "The cluster name '1gpu' is invalid",
        ClusterSpec("gpus", "NC6; rm"): "'NC6; rm' is not a virtual machine size",
    }
    for spec, message in wrong.items():
        with pytest.raises(BadUsage, match=message) as caught:
            workspace.create_cluster(spec, notify=ignore)
        assert caught.value.hint
    azure.state.principal.rights.discard(Right.WRITE)
    with pytest.raises(NotAllowed, match="computes/write"):
        workspace.create_cluster(ClusterSpec("others", "Standard_NC6"), notify=ignore)


def test_container_is_registered_once_and_its_key_stays_hidden(
    workspace: AzureWorkspace, azure: StagedWorkspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    storage = azure.state.second_storage
    storage.make_container("seismic-data")
    spec = ContainerSpec(
        storage.account, "seismic-data", storage.key, subscription="0f0e0d0c-0b0a-0908-0706-050403020100"
    )
    events: list[Event] = []
    names = [workspace.ensure_datastore(spec, notify=events.append) for _ in range(2)]
    assert names == [f"{storage.account}_seismic_data"] * 2
    assert notices(events) == [
        f"Registered container 'seismic-data' of account '{storage.account}' as datastore '{names[0]}'."
    ]
    assert len(azure.requests("^PUT .*/datastores/")) == 1
    storage.put("seismic-data", "a/b.npy", b"x")
    assert [blob.name for page in workspace.datastore(names[0]).list("a/") for blob in page] == ["a/b.npy"]
    assert storage.key not in caplog.text
    assert storage.key not in repr(spec) + json.dumps([str(event) for event in events])


def test_a_container_without_good_name_or_key_is_not_registered(
    workspace: AzureWorkspace, azure: StagedWorkspace
) -> None:
    storage = azure.state.second_storage
    spec = ContainerSpec(storage.account, "seismic-data", storage.key, name="my-store")
    with pytest.raises(BadUsage, match="The datastore name 'my-store' is invalid"):
        workspace.ensure_datastore(spec, notify=ignore)
    assert azure.requests("^PUT .*/datastores/") == []
    for wrong in (ContainerSpec("My_Account", "c-d"), ContainerSpec("account1", "Up")):
        with pytest.raises(BadUsage):
            workspace.ensure_datastore(wrong, notify=ignore)
    azure.add_datastore("seismic", container="volumes")
    assert (
        workspace.ensure_datastore(
            replace(spec, account=azure.state.storage.account, container="volumes"), notify=ignore
        )
        == "seismic"
    )
    keys = {
        "": "has no key to register one",
        "no key!": "is not base64",
        "d3Jvbmc=": "refused container .* Unable to access data",
    }
    for key, message in keys.items():
        with pytest.raises(BadUsage, match=message) as caught:
            workspace.ensure_datastore(ContainerSpec(storage.account, "seismic-data", key), notify=ignore)
        assert "BLOB_ACCOUNT_KEY" in caught.value.hint
        assert key not in str(caught.value) or not key
    refusal = Status(
        400, code="ValidationError", message=f"Data stores of this kind are blocked by a policy. Key: {storage.key}"
    )
    azure.stage.faults.add(refusal, "PUT .*/datastores/")
    with pytest.raises(BadUsage, match="blocked by a policy") as caught:
        workspace.ensure_datastore(ContainerSpec(storage.account, "seismic-data", storage.key), notify=ignore)
    assert storage.key not in f"{caught.value} {caught.value.hint}"
