"""Environments with private wheels: an image that Azure ML builds from a folder in the workspace's storage."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.events import Event, Notice, ignore
from himl_cli.core.jobs import EnvironmentSpec
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.faults import Status
from tests.servers.azureml.seeding import DEFAULT, StagedWorkspace
from tests.support.azure_jobs import cluster_spec

WHEEL = "lab_own-1.0-py3-none-any.whl"


def with_wheel(folder: Path, content: bytes = b"PK wheel", conda: bool = True) -> EnvironmentSpec:
    wheel = folder.parent / "wheels" / WHEEL
    wheel.parent.mkdir(exist_ok=True)
    wheel.write_bytes(content)
    text = f"dependencies:\n- python=3.11\n- pip:\n  - ./{WHEEL}\n" if conda else ""
    return EnvironmentSpec(image="docker.io/base:1", conda=text, wheels=[wheel])


def registered(azure: StagedWorkspace, run_id: str) -> dict[str, Any]:
    """The environment of the run, as it is registered."""
    job = azure.state.runs[run_id].job
    assert job is not None
    name, version = job["environmentId"].rpartition("/environments/")[2].split("/versions/")
    return dict(azure.state.assets["environments"][name][version])


def context_files(azure: StagedWorkspace, environment: dict[str, Any]) -> dict[str, bytes]:
    """What lies in the folder that the image is built from, by name."""
    container = azure.state.datastores[DEFAULT].container
    place, _, prefix = environment["build"]["contextUri"].partition(f"/{container}/")
    assert place == f"https://{azure.state.storage.host}"
    return {name.removeprefix(prefix): azure.get_blob(DEFAULT, name) for name in azure.blob_names(DEFAULT, prefix)}


def test_the_image_is_built_from_a_folder_that_has_the_wheel(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    run = workspace.submit(cluster_spec(project, environment=with_wheel(project)), notify=ignore)
    environment = registered(azure, run.id)
    files = context_files(azure, environment)
    assert environment["build"]["dockerfilePath"] == "Dockerfile"
    assert sorted(files) == ["Dockerfile", "conda.yml", WHEEL]
    assert files[WHEEL] == b"PK wheel"
    recipe = [shlex.split(line) for line in files["Dockerfile"].decode().splitlines()]
    assert recipe[0] == ["FROM", "docker.io/base:1"]
    (copied_to,) = [line[2] for line in recipe if line[0] == "COPY"]
    (created,) = [line for line in recipe if line[:2] == ["RUN", "conda"]]
    assert created[created.index("--file") + 1] == f"{copied_to.rstrip('/')}/conda.yml"
    assert yaml.safe_load(files["conda.yml"])["dependencies"][1] == {"pip": [f"./{WHEEL}"]}


def test_wheel_without_conda_file_is_installed_in_image_python(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    run = workspace.submit(cluster_spec(project, environment=with_wheel(project, conda=False)), notify=ignore)
    files = context_files(azure, registered(azure, run.id))
    assert sorted(files) == ["Dockerfile", WHEEL]
    assert "RUN python -m pip install --no-cache-dir /himl-environment/*.whl" in files["Dockerfile"].decode().splitlines()


def test_the_same_wheel_is_sent_once_and_another_one_again(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    first = workspace.submit(cluster_spec(project, environment=with_wheel(project)), notify=ignore)
    azure.stage.log.clear()
    events: list[Event] = []
    second = workspace.submit(cluster_spec(project, environment=with_wheel(project)), notify=events.append)
    assert azure.requests("^PUT (?!.*/jobs/)") == []
    assert any("Environment unchanged" in event.text for event in events if isinstance(event, Notice))
    third = workspace.submit(cluster_spec(project, environment=with_wheel(project, b"PK another")), notify=ignore)
    ids = [(azure.state.runs[run.id].job or {})["environmentId"] for run in (first, second, third)]
    assert ids[0] == ids[1] != ids[2]
    assert context_files(azure, registered(azure, third.id))[WHEEL] == b"PK another"


def test_the_default_datastore_does_not_matter(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    azure.state.datastores[DEFAULT].is_default = False
    azure.add_datastore("shares", kind="AzureFile", is_default=True)
    run = workspace.submit(cluster_spec(project, environment=with_wheel(project)), notify=ignore)
    assert context_files(azure, registered(azure, run.id))[WHEEL] == b"PK wheel"


@pytest.mark.parametrize("kind", ["", "AzureFile"])
def test_a_workspace_without_a_place_for_wheels_is_told_so(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, kind: str) -> None:
    blobs = azure.state.datastores.pop("workspaceblobstore")
    if kind:
        azure.add_datastore("workspaceblobstore", kind=kind)
    azure.add_datastore("other", is_default=True, container=blobs.container)
    with pytest.raises(BadUsage, match="Files for an image go into the datastore 'workspaceblobstore'") as caught:
        workspace.submit(cluster_spec(project, environment=with_wheel(project)), notify=ignore)
    assert "--environment" in caught.value.hint
    assert not azure.state.runs


def test_a_wheel_that_is_gone_is_said_before_any_change(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    environment = with_wheel(project)
    environment.wheels[0].unlink()
    with pytest.raises(BadUsage, match=WHEEL):
        workspace.submit(cluster_spec(project, environment=environment), notify=ignore)
    assert azure.requests(r"^(PUT|POST) (?!login\.)") == []


def test_a_wheel_that_cannot_be_stored_ends_the_submit(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    azure.stage.faults.add(Status(409, code="AccountIsDisabled", message="The account is disabled."), r"PUT .*\.whl", times=None)
    with pytest.raises(HimlError, match="AccountIsDisabled"):
        workspace.submit(cluster_spec(project, environment=with_wheel(project)), notify=ignore)
    assert not azure.state.runs
