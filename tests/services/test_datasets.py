"""Datasets of jobs that run here: the folders there are, else downloads from an Azure ML workspace."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, HimlError, NotFound, ServiceFailed, TransferIncomplete
from himl_cli.core.events import Event, Finished, Moved, Notice, Planned, ignore
from himl_cli.core.jobs import DataSpec, Entry, EntryKind, JobSpec, Snapshot
from himl_cli.services.submission.data import bring_dataset, bring_inputs
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.api.ranks import local_ranks, run_ranks
from tests.servers.azureml.faults import Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import DEFAULT, opened
from tests.support.folders import contents
from tests.support.running import write_files

FILES = {"a.png": b"1", "deep/b.png": b"22", "größe ü.txt": "ß".encode()}


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    with opened(azure_environment, project) as opened_workspace:
        yield opened_workspace


@pytest.fixture
def here(project: Path) -> LocalWorkspace:
    return LocalWorkspace(project / ".himl")


def put(azure: StagedWorkspace, name: str, files: dict[str, bytes] | None = None, *, datastore: str = DEFAULT) -> None:
    azure.put_blobs(datastore, {f"{name}/{file}": content for file, content in (files or FILES).items()})


def register(azure: StagedWorkspace, name: str, path: str, version: str = "1", *, kind: str = "uri_folder") -> None:
    uri = f"azureml://datastores/{DEFAULT}/paths/{path}"
    asset = {"dataType": kind, "dataUri": uri, "isArchived": False, "properties": {}, "_created": "2026-01-01T00:00:00.0000000+00:00"}
    azure.state.assets["data"].setdefault(name, {})[version] = asset


def job(*inputs: DataSpec, default: str | None = None) -> JobSpec:
    return JobSpec("lab", Entry(EntryKind.script, "train.py"), Snapshot(Path(), (), 0), inputs=inputs, default_datastore=default)


def not_to_be_asked() -> None:
    raise AssertionError("Azure is not asked for what is here")


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def test_a_folder_that_is_named_or_in_a_datastore_here_stays(here: LocalWorkspace, project: Path) -> None:
    write_files(project, {".himl/datastores/local/mnist/a": "1", ".himl/datastores/disk/cifar/a": "1"})
    spec = job(DataSpec("a", "mnist"), DataSpec("b", "cifar", datastore="disk"), DataSpec("c", "x", local="somewhere"), DataSpec("d", "mnist", "3"))
    assert bring_inputs(spec, here, not_to_be_asked, ignore) == spec


def test_missing_dataset_is_unchanged_without_azure(here: LocalWorkspace) -> None:
    spec = job(DataSpec("a", "mnist"), default="lake")
    assert bring_inputs(spec, here, lambda: None, ignore) == spec


def test_what_is_not_here_comes_from_azure(here: LocalWorkspace, azure_environment: StagedWorkspace, workspace: AzureWorkspace, project: Path) -> None:
    write_files(project, {".himl/datastores/local/mnist/a": "1"})
    put(azure_environment, "scans")
    spec = job(DataSpec("a", "mnist"), DataSpec("b", "scans", datastore=DEFAULT))
    brought = bring_inputs(spec, here, lambda: workspace, ignore)
    assert brought.inputs[0] == spec.inputs[0]
    assert (brought.inputs[1].key, brought.inputs[1].name) == ("b", "scans")
    assert contents(Path(str(brought.inputs[1].local))) == FILES
    assert azure_environment.state.assets["data"] == {}  # nothing is registered by reading


def test_a_default_datastore_of_azure_is_none_here(here: LocalWorkspace, azure_environment: StagedWorkspace, workspace: AzureWorkspace, project: Path) -> None:
    """As where the settings of a project name it for all its jobs."""
    azure_environment.add_datastore("lake")
    put(azure_environment, "scans", datastore="lake")
    write_files(project, {".himl/datastores/local/mnist/a": "1"})
    brought = bring_inputs(job(DataSpec("a", "scans"), DataSpec("b", "mnist"), default="lake"), here, lambda: workspace, ignore)
    assert contents(Path(str(brought.inputs[0].local))) == FILES
    assert (brought.inputs[1].local, brought.default_datastore) == (None, None)


def test_complete_files_are_not_brought_again(stage: Stage, azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    put(azure_environment, "scans")
    first = bring_dataset(workspace, DataSpec("k", "scans"), None, ignore)
    stage.log.clear()
    events: list[Event] = []
    assert bring_dataset(workspace, DataSpec("k", "scans"), None, events.append) == first
    assert not stage.log.find(r"GET [^ ]*/scans/")
    assert not [event for event in events if isinstance(event, Moved)]
    assert contents(first) == FILES


def test_progress_is_told(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    put(azure_environment, "scans")
    events: list[Event] = []
    folder = bring_dataset(workspace, DataSpec("k", "scans"), None, events.append)
    assert sum(event.files for event in events if isinstance(event, Planned)) == len(FILES)
    assert len([event for event in events if isinstance(event, Finished)]) == len(FILES)
    assert notices(events) == [f"Input 'k': dataset 'scans' of {azure_environment.label} comes to '{folder}'."]


def test_the_cache_follows_the_dataset(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    """Files that were changed or removed there are so here: a job must not train on what is gone."""
    put(azure_environment, "scans")
    folder = bring_dataset(workspace, DataSpec("k", "scans"), None, ignore)
    where = azure_environment.state.datastores[DEFAULT]
    where.storage.client.get_blob_client(where.container, "scans/deep/b.png").delete_blob()
    azure_environment.put_blob(DEFAULT, "scans/a.png", b"other")
    assert bring_dataset(workspace, DataSpec("k", "scans"), None, ignore) == folder
    assert contents(folder) == {"a.png": b"other", "größe ü.txt": "ß".encode()}
    assert not (folder / "deep").exists()


def test_versions_and_workspaces_do_not_share_a_folder(stage: Stage, azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    put(azure_environment, "v1", {"a": b"1"})
    put(azure_environment, "v2", {"a": b"2"})
    register(azure_environment, "scans", "v1/", "1")
    register(azure_environment, "scans", "v2/", "2")
    first, second, latest = (bring_dataset(workspace, DataSpec("k", "scans", version), None, ignore) for version in ("1", "2", None))
    assert (contents(first), contents(second), latest) == ({"a": b"1"}, {"a": b"2"}, second)


@pytest.mark.parametrize("kind", ["uri_folder", "mltable"])
def test_a_registered_dataset_comes_from_where_it_lies(azure_environment: StagedWorkspace, workspace: AzureWorkspace, kind: str) -> None:
    put(azure_environment, "else/where")
    register(azure_environment, "scans", "else/where/", kind=kind)
    events: list[Event] = []
    assert contents(bring_dataset(workspace, DataSpec("k", "scans"), None, events.append)) == FILES
    assert ", version 1, of" in notices(events)[0]


def test_a_dataset_of_one_file_is_that_file(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    put(azure_environment, "tables", {"labels.csv": b"a,b\n", "other.csv": b""})
    register(azure_environment, "labels", "tables/labels.csv", kind="uri_file")
    path = bring_dataset(workspace, DataSpec("k", "labels"), None, ignore)
    assert (path.name, path.read_bytes()) == ("labels.csv", b"a,b\n")
    assert [one.name for one in path.parent.iterdir()] == ["labels.csv"]


def test_target_says_where(azure_environment: StagedWorkspace, workspace: AzureWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    put(azure_environment, "scans")
    write_files(project, {"data/scans/mine.txt": "mine"})
    folder = bring_dataset(workspace, DataSpec("k", "scans", target="data/scans"), None, ignore)
    assert folder == project / "data" / "scans"
    assert {name: body for name, body in contents(folder).items() if not name.startswith(".himl")} == {**FILES, "mine.txt": b"mine"}


def test_files_of_the_users_are_not_replaced(azure_environment: StagedWorkspace, workspace: AzureWorkspace, project: Path) -> None:
    put(azure_environment, "scans")
    write_files(project, {"data/a.png": "mine"})
    with pytest.raises(TransferIncomplete, match=r"'.*data' holds other content under names of dataset 'scans': 'a\.png'") as caught:
        bring_dataset(workspace, DataSpec("k", "scans", target=str(project / "data")), None, ignore)
    assert "target=" in caught.value.hint
    assert (project / "data" / "a.png").read_bytes() == b"mine"


def test_mounting_becomes_a_download_and_that_is_said(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    put(azure_environment, "scans")
    events: list[Event] = []
    bring_dataset(workspace, DataSpec("k", "scans", mode="mount"), None, events.append)
    assert notices(events)[0] == "Input 'k': nothing is mounted here; the dataset is downloaded instead."


def test_what_is_nowhere_is_named(here: LocalWorkspace, workspace: AzureWorkspace) -> None:
    with pytest.raises(NotFound, match=f"Input 'k': no data asset 'scans' in workspace .*, and no such folder in its datastore '{DEFAULT}'"):
        bring_inputs(job(DataSpec("k", "scans")), here, lambda: workspace, ignore)


def test_a_version_that_is_not_there_names_the_others(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    register(azure_environment, "scans", "scans/", "1")
    with pytest.raises(NotFound, match=r"Input 'k': .* has no version '7'; there are: 1"):
        bring_dataset(workspace, DataSpec("k", "scans", "7"), None, ignore)


def test_a_dataset_without_files_is_said(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    register(azure_environment, "scans", "nothing/")
    with pytest.raises(NotFound, match="dataset 'scans' has no files"):
        bring_dataset(workspace, DataSpec("k", "scans"), None, ignore)


@pytest.mark.parametrize("name", ["../up", "/etc"])
def test_a_name_that_leaves_the_datastore_is_refused(here: LocalWorkspace, name: str) -> None:
    with pytest.raises(BadUsage, match="leaves the datastore"):
        bring_inputs(job(DataSpec("k", name)), here, not_to_be_asked, ignore)


def test_trouble_on_the_way_is_survived_or_told(stage: Stage, azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    put(azure_environment, "scans")
    stage.faults.add(Status(503), "GET [^ ]*/scans/", times=2)
    folder = bring_dataset(workspace, DataSpec("k", "scans"), None, ignore)
    assert contents(folder) == FILES
    azure_environment.put_blob(DEFAULT, "scans/new.png", b"n")
    stage.faults.add(Status(400, code="Nope", message="Not so."), "GET [^ ]*/scans/new", times=None)
    with pytest.raises(ServiceFailed, match=r"new\.png"):
        bring_dataset(workspace, DataSpec("k", "scans"), None, ignore)
    assert contents(folder) == FILES


def test_on_a_node_with_several_ranks_one_brings_it(stage: Stage, azure_environment: StagedWorkspace, project: Path) -> None:
    put(azure_environment, "scans")
    azure_environment.write_config(project)
    program = """
from pathlib import Path
from himl_cli.core.events import ignore
from himl_cli.core.jobs import DataSpec
from himl_cli.services.submission.data import bring_dataset
from himl_cli.workspaces.resolve import open_workspace
folder = bring_dataset(open_workspace(None, None, start=Path.cwd()), DataSpec("k", "scans"), None, ignore)
say([str(folder), sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())])
"""
    (first,), (second,) = run_ranks(program, project, local_ranks(2), cwd=project)
    assert isinstance(first, list)
    assert first == second
    assert first[1] == sorted(FILES)
    assert len(stage.log.find(r"GET [^ ]*/scans/")) == len(FILES)


@pytest.mark.skipif(sys.platform == "win32", reason="modes are those of POSIX")
def test_the_cache_is_the_users_alone(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    put(azure_environment, "scans")
    folder = bring_dataset(workspace, DataSpec("k", "scans"), None, ignore)
    assert (folder.parent.parent.name, folder.parent.parent.stat().st_mode & 0o777) == ("datasets", 0o700)


def test_no_error_is_but_ours(workspace: AzureWorkspace, stage: Stage) -> None:
    ask: Callable[[], Path] = lambda: bring_dataset(workspace, DataSpec("k", "scans"), "no such store", ignore)  # noqa: E731
    with pytest.raises(HimlError, match="No datastore 'no such store'"):
        ask()
