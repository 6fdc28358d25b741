"""Clusters and datastores that are made for a pipeline: what is sent, what is waited for, what is never shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, NotAllowed
from himl_cli.core.events import Event, Notice, ignore
from himl_cli.core.jobs import ClusterSpec, ContainerSpec
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.base import CloudWorkspace, JobRunner
from tests.servers.azureml.faults import Status
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.submitting import call


def words(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def test_a_cluster_is_made_and_can_take_jobs(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    events: list[Event] = []
    assert not workspace.has_cluster("team-gpus")
    workspace.create_cluster(ClusterSpec("team-gpus", "Standard_NC6", 1, 3, low_priority=True), notify=events.append)
    assert workspace.has_cluster("team-gpus")
    made = azure.state.computes["team-gpus"]
    assert (made["size"], made["min_nodes"], made["max_nodes"], made["priority"], made["state"]) == ("Standard_NC6", 1, 3, "LowPriority", "Succeeded")
    assert words(events) == ["Making cluster 'team-gpus': 1 to 3 nodes of Standard_NC6.", "Cluster 'team-gpus' is ready."]
    assert len(azure.requests("computeOperationsStatus.* -> 200")) == 2


def test_a_cluster_that_is_there_stays_as_it_is(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    events: list[Event] = []
    workspace.create_cluster(ClusterSpec("cpu-cluster", "Standard_NC6", 0, 1), notify=events.append)
    assert words(events) == ["Cluster 'cpu-cluster' is there already: not made again."]
    assert azure.requests("^PUT .*/computes") == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ClusterSpec("gpus", "Standard_NC6000"), "VM size 'Standard_NC6000' is not supported"),
        (ClusterSpec("gpus", "Standard_NC24s_v3", 0, 40), "exceeding quota limits of Core. Maximum allowed: 100, .* requested: 960"),
        (ClusterSpec("gpus", "Standard_NC6", 3, 2), "cannot have 3 to 2 nodes"),
        (ClusterSpec("1gpu", "Standard_NC6"), "No cluster can be called '1gpu'"),
        (ClusterSpec("gpus", "NC6; rm"), "'NC6; rm' is no size"),
    ],
)
def test_a_cluster_that_cannot_be_is_a_wrong_request(workspace: AzureWorkspace, spec: ClusterSpec, message: str) -> None:
    with pytest.raises(BadUsage, match=message) as caught:
        workspace.create_cluster(spec, notify=ignore)
    assert caught.value.hint


def test_who_may_not_make_clusters_is_told_so(azure: StagedWorkspace, azure_environment: StagedWorkspace, project: Path, workspace: AzureWorkspace) -> None:
    azure.state.principal.rights.discard(Right.WRITE)
    with pytest.raises(NotAllowed, match="computes/write"):
        workspace.create_cluster(ClusterSpec("gpus", "Standard_NC6"), notify=ignore)


def test_the_datastore_of_a_container_is_found(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_datastore("seismic", container="volumes")
    spec = ContainerSpec(azure.state.storage.account, "volumes")
    assert workspace.ensure_datastore(spec, notify=ignore) == "seismic"
    assert azure.requests("^PUT") == []


def test_container_is_registered_once_and_its_key_stays_hidden(workspace: AzureWorkspace, azure: StagedWorkspace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    storage = azure.state.second_storage
    storage.make_container("seismic-data")
    spec = ContainerSpec(storage.account, "seismic-data", storage.key, subscription="0f0e0d0c-0b0a-0908-0706-050403020100")
    events: list[Event] = []
    names = [workspace.ensure_datastore(spec, notify=events.append) for _ in range(2)]
    assert names == [f"{storage.account}_seismic_data"] * 2
    assert words(events) == [f"Registered container 'seismic-data' of account '{storage.account}' as datastore '{names[0]}'."]
    assert len(azure.requests("^PUT .*/datastores/")) == 1
    storage.put("seismic-data", "a/b.npy", b"x")
    assert [blob.name for page in workspace.datastore(names[0]).list("a/") for blob in page] == ["a/b.npy"]
    assert storage.key not in caplog.text
    assert storage.key not in repr(spec) + json.dumps([str(event) for event in events])


@pytest.mark.parametrize(
    ("key", "message"),
    [("", "there is no key to register it with"), ("no key!", "it is not base64"), ("d3Jvbmc=", "does not take container .* Unable to access data")],
)
def test_a_container_without_a_good_key_is_not_registered(workspace: AzureWorkspace, azure: StagedWorkspace, key: str, message: str) -> None:
    with pytest.raises(BadUsage, match=message) as caught:
        workspace.ensure_datastore(ContainerSpec(azure.state.second_storage.account, "seismic-data", key), notify=ignore)
    assert "BLOB_ACCOUNT_KEY" in caught.value.hint
    assert key not in str(caught.value) or not key


def test_refused_registration_shows_service_message_without_key(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    storage = azure.state.second_storage
    refusal = Status(400, code="ValidationError", message=f"Data stores of this kind are blocked by a policy. Key: {storage.key}")
    azure.stage.faults.add(refusal, "PUT .*/datastores/")
    with pytest.raises(BadUsage, match="blocked by a policy") as caught:
        workspace.ensure_datastore(ContainerSpec(storage.account, "seismic-data", storage.key), notify=ignore)
    assert storage.key not in f"{caught.value} {caught.value.hint}"


def test_a_registered_datastore_is_as_recorded(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    storage = azure.state.second_storage
    name = workspace.ensure_datastore(ContainerSpec(storage.account, "seismic-data", storage.key), notify=ignore)
    told = call(azure, "GET", f"/datastores/{name}").json["properties"]
    assert (told["serviceDataAccessAuthIdentity"], told["tags"], told["credentials"]) == ("None", {}, {"credentialsType": "AccountKey"})


def test_invalid_name_for_new_datastore_is_refused(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    """A container that is registered already is used under the name it has."""
    storage = azure.state.second_storage
    spec = ContainerSpec(storage.account, "seismic-data", storage.key, name="my-store")
    with pytest.raises(BadUsage, match="No datastore can be called 'my-store'"):
        workspace.ensure_datastore(spec, notify=ignore)
    assert azure.requests("^PUT .*/datastores/") == []
    azure.add_datastore("seismic", container="volumes")
    assert workspace.ensure_datastore(replace(spec, account=azure.state.storage.account, container="volumes"), notify=ignore) == "seismic"


@pytest.mark.parametrize("spec", [ContainerSpec("My_Account", "c-d"), ContainerSpec("account1", "Up")], ids=["account", "container"])
def test_names_that_cannot_be_are_refused_before_any_request(workspace: AzureWorkspace, azure: StagedWorkspace, spec: ContainerSpec) -> None:
    with pytest.raises(BadUsage):
        workspace.ensure_datastore(spec, notify=ignore)
    assert azure.requests("datastores") == []


def test_it_has_the_abilities_that_pipelines_need(workspace: AzureWorkspace) -> None:
    for ability in (JobRunner, CloudWorkspace, CloudWorkspace, CloudWorkspace):
        assert isinstance(workspace, ability)
