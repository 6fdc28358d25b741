"""What a job on Azure ML reads: registered data by name and version, and what trouble on the way comes to."""

from __future__ import annotations

import logging

import pytest

from himl_cli.core.errors import NotFound, ServiceFailed
from himl_cli.core.events import ignore
from himl_cli.core.jobs import DataSpec
from himl_cli.workspaces.azure.jobs.data_assets import JobData, resolve_inputs
from himl_cli.workspaces.azure.storage.datastores import Datastores
from tests.servers.azureml.faults import Page, Reset, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import DEFAULT
from tests.workspaces.resolved_data import Resolver, data_id, register
from tests.workspaces.resolved_data import resolve as resolve


def test_a_registered_name_is_its_latest_version_by_one_request(stage: Stage, azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "mnist", ["1", "2", "10"])
    assert resolve.inputs(DataSpec("train", "mnist")) == {"train": JobData(data_id(azure_environment, "mnist", "10"), "download")}
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


def test_the_mode_is_told(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "mnist")
    given = resolve.inputs(DataSpec("a", "mnist", mode="mount", target="/data/mnist"), DataSpec("b", "mnist", mode="download"))
    assert [one.mode for one in given.values()] == ["ro_mount", "download"]


def test_an_unknown_version_names_those_there_are(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "mnist", ["1", "2", "v3"])
    with pytest.raises(NotFound, match=r"Input 'k': The data asset 'mnist' of workspace .* has no version '7'; there are: v3, 2, 1"):
        resolve.inputs(DataSpec("k", "mnist", "7"))


def test_of_many_versions_the_newest_are_named(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "mnist", [str(number) for number in range(1, 41)])
    with pytest.raises(NotFound, match=r"there are: 40, 39, .*, 31, …\."):
        resolve.inputs(DataSpec("k", "mnist", "77"))


def test_unregistered_name_with_version_is_not_used_as_folder(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    azure_environment.put_blob(DEFAULT, "mnist/a", b"1")
    register(azure_environment, "mnist2")
    with pytest.raises(NotFound, match=r"no data asset 'mnist' in workspace .*, in any version") as caught:
        resolve.inputs(DataSpec("k", "mnist", "1"))
    assert "'mnist2'" in caught.value.hint


def test_a_near_name_is_suggested(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "lung-scans")
    with pytest.raises(NotFound) as caught:
        resolve.inputs(DataSpec("k", "lung-scan"))
    assert caught.value.hint == "Did you mean 'lung-scans'?"


def test_what_lies_where_it_was_said_is_not_talked_about(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "scans")
    resolve.inputs(DataSpec("k", "scans", datastore=DEFAULT))
    assert resolve.said == []


def test_notice_about_external_data_hides_its_signature(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    register(azure_environment, "web", uri="https://example.org/data.csv?sig=secret", kind="uri_file")
    resolve.inputs(DataSpec("k", "web", datastore="lake"))
    assert "https://example.org/data.csv'" in resolve.said[0]
    assert "secret" not in resolve.said[0]


def test_an_unknown_datastore_names_those_there_are(azure_environment: StagedWorkspace, resolve: Resolver) -> None:
    for resolved in (resolve.inputs, resolve.outputs):
        with pytest.raises(NotFound, match=f"No datastore 'lake' in .*{DEFAULT}"):
            resolved(DataSpec("k", "scans", datastore="lake"))


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


def test_no_signature_is_told(stage: Stage, azure_environment: StagedWorkspace, resolve: Resolver, caplog: pytest.LogCaptureFixture) -> None:
    azure_environment.put_blob(DEFAULT, "scans/a", b"1")
    with caplog.at_level(logging.DEBUG):
        resolve_inputs(resolve.connection, Datastores(resolve.connection), [DataSpec("k", "scans")], None, ignore)
    assert caplog.text
    assert "sig=" not in caplog.text.replace("sig=***", "")
