"""What a job on Azure ML reads and writes: registered data, else folders of datastores, which are registered then."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage, NotFound, ServiceFailed
from himl_cli.core.events import Event, Notice, ignore
from himl_cli.core.jobs import DataSpec
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.data import resolve_inputs, resolve_outputs
from himl_cli.workspaces.azure.jobs.forms import JobInput, JobOutput
from himl_cli.workspaces.azure.storage.datastores import Datastores
from tests.azure_blobs import DEFAULT
from tests.azure_connections import connected
from tests.servers.azureml.faults import Page, Reset, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage


class Resolver:
    """The two functions on one workspace, keeping what is said."""

    def __init__(self, connection: Connection, default: str | None = None) -> None:
        self.connection = connection
        self.default = default
        self.events: list[Event] = []

    def inputs(self, *items: DataSpec) -> dict[str, JobInput]:
        return resolve_inputs(self.connection, Datastores(self.connection), items, self.default, self.events.append)

    def outputs(self, *items: DataSpec) -> dict[str, JobOutput]:
        return resolve_outputs(self.connection, Datastores(self.connection), items, self.default, self.events.append)

    @property
    def said(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]


@pytest.fixture
def resolve(azure_environment: StagedWorkspace, project: Path) -> Iterator[Resolver]:
    with connected(azure_environment, project) as opened:
        yield Resolver(opened)


def register(azure: StagedWorkspace, name: str, versions: Sequence[str] = ("1",), *, kind: str = "uri_folder", uri: str = "") -> None:
    """Data assets as somebody registered them, the last one being the latest."""
    state = azure.state
    place = uri or f"azureml://subscriptions/{state.subscription}/resourcegroups/{state.group}/workspaces/{state.name}/datastores/{DEFAULT}/paths/{name}/"
    for version in versions:
        given: dict[str, Any] = {"description": None, "tags": {}, "properties": {}, "isArchived": False, "dataType": kind, "dataUri": place}
        state.assets["data"].setdefault(name, {})[version] = {**given, "_created": "2026-01-01T00:00:00.0000000+00:00"}


def data_id(azure: StagedWorkspace, name: str, version: str) -> str:
    return f"{azure.state.path}/data/{name}/versions/{version}"


def test_a_registered_name_is_its_latest_version_by_one_request(stage: Stage, azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "mnist", ["1", "2", "10"])
    assert resolve.inputs(DataSpec("train", "mnist")) == {"train": JobInput("uri_folder", data_id(azure_environment, "mnist", "10"), "download")}
    assert len(stage.log.find(r"management\.azure\.com")) == 1
    assert resolve.said == []


def test_a_version_is_that_one_by_one_request(stage: Stage, azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "mnist", ["1", "2"])
    assert resolve.inputs(DataSpec("train", "mnist", "1"))["train"].path == data_id(azure_environment, "mnist", "1")
    assert len(stage.log.find(r"management\.azure\.com")) == 1


def test_latest_can_be_said(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "mnist", ["1", "2"])
    assert resolve.inputs(DataSpec("train", "mnist", "latest"))["train"].path == data_id(azure_environment, "mnist", "2")


@pytest.mark.parametrize("kind", ["uri_folder", "uri_file", "mltable"])
@pytest.mark.parametrize("version", [None, "1"])
def test_the_kind_of_the_data_is_kept(azure_environment: StagedWorkspace, resolve: Resolver, kind: str, version: str | None) -> None:
    register(azure_environment, "labels", kind=kind)
    assert resolve.inputs(DataSpec("k", "labels", version))["k"].type == kind


def test_mode_and_target_are_told(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "mnist")
    given = resolve.inputs(DataSpec("a", "mnist", mode="mount", target="/data/mnist"), DataSpec("b", "mnist", mode="download"))
    assert [(one.mode, one.target) for one in given.values()] == [("ro_mount", "/data/mnist"), ("download", None)]


def test_an_unknown_version_names_those_there_are(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "mnist", ["1", "2", "v3"])
    with pytest.raises(NotFound, match=r"Input 'k': The data asset 'mnist' of workspace .* has no version '7'; there are: v3, 2, 1"):
        resolve.inputs(DataSpec("k", "mnist", "7"))


def test_of_many_versions_the_newest_are_named(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "mnist", [str(number) for number in range(1, 41)])
    with pytest.raises(NotFound, match=r"there are: 40, 39, .*, 31, …\."):
        resolve.inputs(DataSpec("k", "mnist", "77"))


def test_a_version_of_a_name_that_nobody_registered_is_not_looked_for_as_a_folder(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.put_blob(DEFAULT, "mnist/a", b"1")
    register(azure_environment, "mnist2")
    with pytest.raises(NotFound, match=r"no data asset 'mnist' in workspace .*, in any version") as caught:
        resolve.inputs(DataSpec("k", "mnist", "1"))
    assert "'mnist2'" in caught.value.hint


def test_a_folder_of_the_default_datastore_is_registered(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.put_blob(DEFAULT, "scans/deep/a.png", b"1")
    given = resolve.inputs(DataSpec("k", "scans"))
    assert given == {"k": JobInput("uri_folder", data_id(azure_environment, "scans", "1"), "download")}
    kept = azure_environment.state.assets["data"]["scans"]["1"]
    assert (kept["dataType"], kept["dataUri"].partition("/datastores/")[2]) == ("uri_folder", f"{DEFAULT}/paths/scans/")
    assert resolve.said == [f"Input 'k': registered the folder 'scans' of datastore '{DEFAULT}' as data asset 'scans'."]
    assert Resolver(resolve.connection).inputs(DataSpec("k", "scans")) == given


def test_what_is_said_to_be_a_folder_is_one_whatever_is_registered(stage: Stage, azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.put_blobs(DEFAULT, {"scans/a": b"1", "mixed/a": b"1", "new/a": b"1", "scans:3/a": b"1"})
    azure_environment.add_data("scans", f"azureml://datastores/{DEFAULT}/paths/mixed/")
    names = ("scans", "new", "scans:3")
    given = resolve.inputs(*(DataSpec(name, name, datastore=DEFAULT, mode="mount", is_folder=True) for name in names))
    assert given == {name: JobInput("uri_folder", f"azureml://datastores/{DEFAULT}/paths/{name}/", "ro_mount") for name in names}
    assert (resolve.said, stage.log.find("/data/")) == ([], [])


def test_a_folder_that_is_not_there_is_told_though_a_dataset_is_called_so(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.add_data("scans", f"azureml://datastores/{DEFAULT}/paths/mixed/")
    with pytest.raises(NotFound, match=f"no folder 'scans' in datastore '{DEFAULT}'"):
        resolve.inputs(DataSpec("k", "scans", datastore=DEFAULT, is_folder=True))
    with pytest.raises(NotFound) as caught:
        resolve.inputs(DataSpec("k", "scans", datastore="nowhere", is_folder=True))
    assert DEFAULT in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("named_by", ["the input", "the job"])
def test_a_folder_of_another_datastore_is_found_there(azure_environment: StagedWorkspace, resolve: Resolver, named_by: str) -> None:
    azure_environment.add_datastore("lake", kind="AzureDataLakeGen2", account=azure_environment.state.second_storage)
    azure_environment.put_blob("lake", "scans/a.png", b"1")
    if named_by == "the job":
        resolve.default = "lake"
    resolve.inputs(DataSpec("k", "scans", datastore="lake" if named_by == "the input" else None))
    assert azure_environment.state.assets["data"]["scans"]["1"]["dataUri"].endswith("/datastores/lake/paths/scans/")


def test_one_folder_of_several_inputs_is_registered_once(stage: Stage, azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.put_blob(DEFAULT, "scans/a", b"1")
    given = resolve.inputs(DataSpec("a", "scans"), DataSpec("b", "scans", mode="mount"))
    assert len({one.path for one in given.values()}) == 1
    assert len(stage.log.find("PUT .*/data/")) == 1


def test_a_folder_whose_name_no_asset_can_have_is_used_as_it_is(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.put_blob(DEFAULT, "team/scans/a.png", b"1")
    assert resolve.inputs(DataSpec("k", "team/scans/"))["k"] == JobInput("uri_folder", f"azureml://datastores/{DEFAULT}/paths/team/scans/", "download")
    assert azure_environment.state.assets["data"] == {}


def test_a_name_that_goes_on_is_another_folder(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.put_blobs(DEFAULT, {"scans2/a": b"1", "scans": b"1"})
    with pytest.raises(NotFound, match=f"Input 'k': no data asset 'scans' in workspace .*, and no such folder in its datastore '{DEFAULT}'") as caught:
        resolve.inputs(DataSpec("k", "scans"))
    assert f"himl datastore upload FOLDER scans --datastore {DEFAULT}" in caught.value.hint


def test_a_near_name_is_suggested(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "lung-scans")
    with pytest.raises(NotFound) as caught:
        resolve.inputs(DataSpec("k", "lung-scan"))
    assert caught.value.hint == "Did you mean 'lung-scans'?"


def test_a_folder_that_another_one_registered_meanwhile_is_that_asset(stage: Stage, azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.put_blob(DEFAULT, "scans/a", b"1")
    register(azure_environment, "scans", ["1", "2"])
    stage.faults.add(Status(404, code="UserError", message="It is not there yet."), "GET .*/data/scans")
    stage.faults.add(Status(409, code="UserError", message="It exists."), "PUT .*/data/scans/")
    assert resolve.inputs(DataSpec("k", "scans"))["k"].path == data_id(azure_environment, "scans", "2")


def test_an_empty_page_is_not_an_empty_folder(stage: Stage, azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    """Storage may give one at any time, with a mark where it goes on."""
    azure_environment.put_blob(DEFAULT, "scans/a", b"1")
    empty = '<?xml version="1.0"?><EnumerationResults><Blobs></Blobs><NextMarker>scanr</NextMarker></EnumerationResults>'
    stage.faults.add(Page(empty, content_type="application/xml"), "comp=list")
    assert resolve.inputs(DataSpec("k", "scans"))["k"].path == data_id(azure_environment, "scans", "1")
    assert len(stage.log.find("comp=list")) == 2


def test_a_large_folder_is_looked_at_not_listed(stage: Stage, azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.put_blobs(DEFAULT, {f"scans/{number}": b"" for number in range(30)})
    resolve.inputs(DataSpec("k", "scans"))
    (asked,) = stage.log.find("comp=list")
    assert "maxresults=1" in asked.query


def test_what_is_registered_counts_before_a_folder_and_that_is_said(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.add_datastore("lake")
    azure_environment.put_blob("lake", "scans/a", b"1")
    register(azure_environment, "scans")
    assert resolve.inputs(DataSpec("k", "scans", datastore="lake"))["k"].path == data_id(azure_environment, "scans", "1")
    assert resolve.said == [f"Input 'k': the data asset 'scans' is registered and lies in datastore '{DEFAULT}'; 'datastore=lake' is passed over."]


def test_what_lies_where_it_was_said_is_not_talked_about(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "scans")
    resolve.inputs(DataSpec("k", "scans", datastore=DEFAULT))
    assert resolve.said == []


def test_data_outside_of_datastores_is_told_without_its_signature(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "web", uri="https://example.org/data.csv?sig=secret", kind="uri_file")
    resolve.inputs(DataSpec("k", "web", datastore="lake"))
    assert "https://example.org/data.csv'" in resolve.said[0]
    assert "secret" not in resolve.said[0]


def test_an_unknown_datastore_names_those_there_are(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    for resolved in (resolve.inputs, resolve.outputs):
        with pytest.raises(NotFound, match=f"No datastore 'lake' in .*{DEFAULT}"):
            resolved(DataSpec("k", "scans", datastore="lake"))


@pytest.mark.parametrize(("name", "why"), [("", "names no dataset"), ("/", "names no dataset"), ("../up", "leaves the datastore"), ("a/../../b", "leaves")])
def test_what_is_no_folder_of_a_datastore_is_refused_unasked(stage: Stage, resolve: Resolver, name: str, why: str) -> None:
    for resolved in (resolve.inputs, resolve.outputs):
        with pytest.raises(BadUsage, match=why):
            resolved(DataSpec("k", name, local="/data"))
    assert not stage.log.find(r"management\.azure\.com")


def test_a_folder_of_this_machine_counts_for_nothing_on_a_cluster(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "mnist")
    assert resolve.inputs(DataSpec("k", "mnist", local="/nowhere"))["k"].path == data_id(azure_environment, "mnist", "1")


def test_many_inputs_are_asked_for_at_once_and_stay_in_order(stage: Stage, azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    names = [f"data-{number}" for number in range(12)]
    for name in names:
        register(azure_environment, name)
    given = resolve.inputs(*(DataSpec(f"K{index}", name) for index, name in enumerate(names)))
    assert [one.path for one in given.values()] == [data_id(azure_environment, name, "1") for name in names]
    assert list(given) == [f"K{index}" for index in range(12)]
    assert len(stage.log.find(r"management\.azure\.com")) == 12


def test_no_inputs_and_outputs_are_no_requests(stage: Stage, resolve: Resolver) -> None:
    assert (resolve.inputs(), resolve.outputs()) == ({}, {})
    assert stage.log.all() == []


@pytest.mark.parametrize("fault", [Status(429, retry_after=0.1), Status(503), Reset()], ids=["429", "503", "reset"])
@pytest.mark.parametrize("step", ["GET .*/data/scans", "GET .*/datastores", "PUT .*/data/scans/"])
def test_a_moment_of_trouble_is_survived(stage: Stage, azure_environment: StagedWorkspace, resolve: Resolver, step: str, fault: Status | Reset) -> None:
    azure_environment.put_blob(DEFAULT, "scans/a", b"1")
    stage.faults.add(fault, step)
    assert resolve.inputs(DataSpec("k", "scans"))["k"].path == data_id(azure_environment, "scans", "1")


def test_an_answer_that_is_none_is_one_error(stage: Stage, azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "mnist")
    stage.faults.add(Page('{"id": 1}', content_type="application/json"), "/data/", times=None)
    for version in (None, "1"):
        with pytest.raises(ServiceFailed, match="another form"):
            resolve.inputs(DataSpec("k", "mnist", version))


def test_an_output_is_a_folder_that_is_registered_at_the_end(stage: Stage, resolve: Resolver) -> None:
    given = resolve.outputs(DataSpec("OUTPUT_0", "predictions"), DataSpec("up", "maps", mode="upload"))
    assert given == {
        "OUTPUT_0": JobOutput(f"azureml://datastores/{DEFAULT}/paths/predictions/", "rw_mount", "predictions"),
        "up": JobOutput(f"azureml://datastores/{DEFAULT}/paths/maps/", "upload", "maps"),
    }
    assert len(stage.log.find(r"management\.azure\.com.*/data/(predictions|maps)\?")) == 2
    assert len(stage.log.find(r"management\.azure\.com")) == 3
    assert resolve.said == []


@pytest.mark.parametrize("named_by", ["the output", "the job"])
def test_an_output_goes_to_the_datastore_that_is_named(azure_environment: StagedWorkspace, resolve: Resolver, named_by: str) -> None:
    """A file share too: the job writes to it, himl does not."""
    if named_by == "the job":
        resolve.default = "workspacefilestore"
    item = DataSpec("k", "maps", datastore="workspacefilestore" if named_by == "the output" else None)
    assert resolve.outputs(item)["k"].path == "azureml://datastores/workspacefilestore/paths/maps/"


def test_an_output_below_folders_is_not_registered_and_that_is_said(resolve: Resolver) -> None:
    assert resolve.outputs(DataSpec("k", "team/maps"))["k"] == JobOutput(f"azureml://datastores/{DEFAULT}/paths/team/maps/", "rw_mount", None)
    assert resolve.said == ["Output 'k': no data asset can be called 'team/maps', so the folder is not registered."]


@pytest.mark.parametrize("kind", ["uri_file", "mltable"])
def test_an_output_named_as_data_of_another_type_is_not_registered_and_that_is_said(azure_environment: StagedWorkspace, resolve: Resolver, kind: str) -> None:
    register(azure_environment, "mnist", kind=kind)
    register(azure_environment, "preds")
    given = resolve.outputs(DataSpec("a", "mnist"), DataSpec("b", "preds"), DataSpec("c", "new"))
    assert {key: one.asset_name for key, one in given.items()} == {"a": None, "b": "preds", "c": "new"}
    assert resolve.said == [f"Output 'a': the data asset 'mnist' is of type {kind}, not uri_folder, so the folder is not registered."]


def test_an_output_that_must_be_new_is(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.put_blob(DEFAULT, "maps2/a", b"1")
    assert resolve.outputs(DataSpec("k", "maps", overwrite=False))["k"].asset_name == "maps"


@pytest.mark.parametrize("there", ["asset", "folder"])
def test_an_output_that_must_be_new_and_is_not_is_refused(azure_environment: StagedWorkspace, resolve: Resolver, there: str) -> None:
    if there == "asset":
        register(azure_environment, "maps", ["3"])
    else:
        azure_environment.put_blob(DEFAULT, "maps/deep/a", b"1")
    what = r"the data asset 'maps' exists \(version 3\)" if there == "asset" else f"the folder 'maps' of datastore '{DEFAULT}' exists"
    with pytest.raises(BadUsage, match=f"Output 'k': {what}, and overwrite=false was given"):
        resolve.outputs(DataSpec("k", "maps", overwrite=False))
    assert resolve.outputs(DataSpec("k", "maps"))["k"].asset_name == "maps"


def test_no_signature_is_told(stage: Stage, azure_environment: StagedWorkspace, resolve: Resolver, caplog: pytest.LogCaptureFixture) -> None:
    azure_environment.put_blob(DEFAULT, "scans/a", b"1")
    with caplog.at_level(logging.DEBUG):
        resolve_inputs(resolve.connection, Datastores(resolve.connection), [DataSpec("k", "scans")], None, ignore)
    assert caplog.text
    assert "sig=" not in caplog.text.replace("sig=***", "")
