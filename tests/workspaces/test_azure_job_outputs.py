"""What a job on Azure ML writes: folders of datastores, which are registered when it ends."""

from __future__ import annotations

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import DataSpec
from himl_cli.workspaces.azure.jobs.data_assets import JobData
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import DEFAULT
from tests.workspaces.resolved_data import Resolver, register
from tests.workspaces.resolved_data import resolve as resolve


def test_an_output_is_a_folder_that_is_registered_at_the_end(stage: Stage, resolve: Resolver) -> None:
    given = resolve.outputs(DataSpec("OUTPUT_0", "predictions"), DataSpec("up", "maps", mode="upload"))
    assert given == {
        "OUTPUT_0": JobData(f"azureml://datastores/{DEFAULT}/paths/predictions/", "rw_mount", asset_name="predictions"),
        "up": JobData(f"azureml://datastores/{DEFAULT}/paths/maps/", "upload", asset_name="maps"),
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


def test_output_with_nested_path_is_not_registered_with_notice(resolve: Resolver) -> None:
    assert resolve.outputs(DataSpec("k", "team/maps"))["k"] == JobData(f"azureml://datastores/{DEFAULT}/paths/team/maps/", "rw_mount", asset_name=None)
    assert resolve.said == ["Output 'k': no data asset can be called 'team/maps', so the folder is not registered."]


@pytest.mark.parametrize("kind", ["uri_file", "mltable"])
def test_output_named_like_data_of_other_type_is_not_registered(azure_environment: StagedWorkspace, resolve: Resolver, kind: str) -> None:
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
