"""What a job on Azure ML reads where no data is registered: folders of datastores, which are registered then."""

from __future__ import annotations

import pytest

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.jobs import DataSpec
from himl_cli.workspaces.azure.jobs.data_assets import JobData
from tests.servers.azureml.faults import Page, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import DEFAULT
from tests.workspaces.resolved_data import Resolver, data_id, register
from tests.workspaces.resolved_data import resolve as resolve


def test_a_folder_of_the_default_datastore_is_registered(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.put_blob(DEFAULT, "scans/deep/a.png", b"1")
    given = resolve.inputs(DataSpec("k", "scans"))
    assert given == {"k": JobData(data_id(azure_environment, "scans", "1"), "download")}
    kept = azure_environment.state.assets["data"]["scans"]["1"]
    assert (kept["dataType"], kept["dataUri"].partition("/datastores/")[2]) == ("uri_folder", f"{DEFAULT}/paths/scans/")
    assert resolve.said == [f"Input 'k': registered the folder 'scans' of datastore '{DEFAULT}' as data asset 'scans'."]
    assert Resolver(resolve.connection).inputs(DataSpec("k", "scans")) == given


def test_folder_input_ignores_registered_data_of_same_name(stage: Stage, azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.put_blobs(DEFAULT, {"scans/a": b"1", "mixed/a": b"1", "new/a": b"1", "scans:3/a": b"1"})
    azure_environment.add_data("scans", f"azureml://datastores/{DEFAULT}/paths/mixed/")
    names = ("scans", "new", "scans:3")
    given = resolve.inputs(*(DataSpec(name, name, datastore=DEFAULT, mode="mount", is_folder=True) for name in names))
    assert given == {name: JobData(f"azureml://datastores/{DEFAULT}/paths/{name}/", "ro_mount") for name in names}
    assert (resolve.said, stage.log.find("/data/")) == ([], [])


def test_missing_folder_fails_despite_data_asset_of_same_name(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
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
    assert resolve.inputs(DataSpec("k", "team/scans/"))["k"] == JobData(f"azureml://datastores/{DEFAULT}/paths/team/scans/", "download")
    assert azure_environment.state.assets["data"] == {}


def test_a_name_that_goes_on_is_another_folder(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.put_blobs(DEFAULT, {"scans2/a": b"1", "scans": b"1"})
    with pytest.raises(NotFound, match=f"Input 'k': no data asset 'scans' in workspace .*, and no such folder in its datastore '{DEFAULT}'") as caught:
        resolve.inputs(DataSpec("k", "scans"))
    assert f"himl datastore upload FOLDER scans --datastore {DEFAULT}" in caught.value.hint


def test_folder_registered_concurrently_is_used_as_data_asset(stage: Stage, azure_environment: StagedWorkspace, resolve: Resolver) -> None:
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


def test_registered_data_wins_over_folder_with_notice(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.add_datastore("lake")
    azure_environment.put_blob("lake", "scans/a", b"1")
    register(azure_environment, "scans")
    assert resolve.inputs(DataSpec("k", "scans", datastore="lake"))["k"].path == data_id(azure_environment, "scans", "1")
    assert resolve.said == [f"Input 'k': the data asset 'scans' is registered and lies in datastore '{DEFAULT}'; 'datastore=lake' is passed over."]


@pytest.mark.parametrize(("name", "why"), [("", "names no dataset"), ("/", "names no dataset"), ("../up", "leaves the datastore"), ("a/../../b", "leaves")])
def test_what_is_no_folder_of_a_datastore_is_refused_unasked(stage: Stage, resolve: Resolver, name: str, why: str) -> None:
    for resolved in (resolve.inputs, resolve.outputs):
        with pytest.raises(BadUsage, match=why):
            resolved(DataSpec("k", name, local="/data"))
    assert not stage.log.find(r"management\.azure\.com")


def test_local_folder_of_input_is_ignored_on_cluster(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "mnist")
    assert resolve.inputs(DataSpec("k", "mnist", local="/nowhere"))["k"].path == data_id(azure_environment, "mnist", "1")
