"""Jobs at the double: submitted, listed, canceled, deleted; and what the vendor's client makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers.asking import ARM, Answer, ask
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.submitting import call

COMMAND = {"jobType": "Command", "command": "python train.py", "environmentId": "azureml:training:1", "experimentName": "e"}


def pages(azure: StagedWorkspace, path: str) -> Iterator[list[str]]:
    """The names on each page of a list."""
    while path:
        answer = call(azure, "GET", path).json
        yield [one["name"] for one in answer["value"]]
        path = answer.get("nextLink", "")


def test_a_submitted_job_is_a_run(azure: StagedWorkspace) -> None:
    azure.add_environment("training")
    properties = {**COMMAND, "computeId": f"{azure.state.path}/computes/cpu-cluster", "tags": {"a": "b"}}
    answer = call(azure, "PUT", "/jobs/new_1?api-version=2025-01-01-preview", {"properties": properties})
    assert (answer.status, answer.json["properties"]["status"]) == (201, "Starting")
    assert answer.headers["location"] == f"{ARM}{azure.state.path}/jobs/new_1?api-version=2025-01-01-preview"
    history = f"https://{azure.state.data_plane_host}/history/v1.0{azure.state.path}/runs/new_1"
    run = call(azure, "GET", history).json
    assert (run["runId"], run["status"], run["tags"], run["target"]) == ("new_1", "Starting", {"a": "b"}, "cpu-cluster")
    again = {**call(azure, "GET", "/jobs/new_1").json["properties"], "tags": {"c": "d"}}
    assert call(azure, "PUT", "/jobs/new_1", {"properties": again}).status == 200
    assert call(azure, "GET", history).json["tags"] == {"c": "d"}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"jobType": "Dance"}, 400),
        ({"command": None}, 400),
        ({"command": "cat ${{inputs.nothing}}"}, 400),
        ({"computeId": "{W}/computes/none"}, 400),
        ({"codeId": "{W}/codes/none/versions/1"}, 404),
        ({"environmentId": "azureml:training:2"}, 404),
        ({"environmentId": "azureml:other@latest"}, 404),
        ({"experimentName": "two words"}, 400),
        ({"inputs": {"x": {"jobInputType": "uri_folder", "uri": "{W}/data/none/versions/1"}}}, 404),
        ({"resources": {"shmSize": "100 GB"}}, 400),
        ({"limits": {"jobLimitsType": "Command", "timeout": "an hour"}}, 400),
        ({"limits": {"jobLimitsType": "Command", "timeout": "PT1.5S"}}, 400),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else str(value),
)
def test_a_job_that_names_what_is_not_there_is_refused(azure: StagedWorkspace, change: dict[str, Any], status: int) -> None:
    azure.add_environment("training")
    filled = json.loads(json.dumps(change).replace("{W}", azure.state.path))
    assert call(azure, "PUT", "/jobs/new_1", {"properties": {**COMMAND, **filled}}).status == status
    assert azure.state.runs == {}


@pytest.mark.parametrize(
    "environment", ["azureml:training:1", "azureml:training@latest", "{W}/environments/training/versions/1", "azureml:AzureML-torch@latest"]
)
def test_an_environment_is_named_in_several_ways(azure: StagedWorkspace, environment: str) -> None:
    azure.add_environment("training")
    properties = {**COMMAND, "environmentId": environment.replace("{W}", azure.state.path)}
    assert call(azure, "PUT", "/jobs/new_1", {"properties": properties}).status == 201


def test_a_job_that_is_sent_twice_is_refused_the_second_time(azure: StagedWorkspace) -> None:
    azure.add_environment("training")
    assert call(azure, "PUT", "/jobs/new_1", {"properties": COMMAND}).status == 201
    again = call(azure, "PUT", "/jobs/new_1", {"properties": COMMAND})
    causes = [one["info"]["value"]["code"] for one in again.json["error"]["additionalInfo"] if one["type"] == "InnerError"]
    assert (again.status, causes) == (400, ["JobPropertyImmutable"])


def test_a_name_that_no_job_can_have_is_refused(azure: StagedWorkspace) -> None:
    azure.add_environment("training")
    assert [call(azure, "PUT", f"/jobs/{name}", {"properties": COMMAND}).status for name in ("-a", "a.b", "a" * 256)] == [400] * 3


def test_job_list_pages_active_root_jobs_newest_first(azure: StagedWorkspace) -> None:
    for number in range(5):
        azure.add_run(f"run_{number}", hidden=number == 2)
    azure.add_run("child", parent="run_0")
    azure.state.page_size = 2
    assert list(pages(azure, "/jobs?api-version=2024-01-01-preview&listViewType=ActiveOnly")) == [["run_4", "run_3"], ["run_1", "run_0"]]
    assert list(pages(azure, "/jobs?listViewType=ArchivedOnly")) == [["run_2"]]


def test_a_cancelation_is_accepted_and_comes_to_pass(azure: StagedWorkspace) -> None:
    azure.add_run("going", status="Running")
    accepted = call(azure, "POST", "/jobs/going/cancel")
    assert (accepted.status, azure.state.runs["going"].status) == (202, "CancelRequested")
    answers = [call(azure, "GET", accepted.headers["location"]).status for _ in range(2)]
    assert (answers, azure.state.runs["going"].status) == ([202, 200], "Canceled")
    assert call(azure, "POST", "/jobs/going/cancel").status == 200


def test_a_job_is_deleted_once_it_has_ended(azure: StagedWorkspace) -> None:
    azure.add_run("going", status="Running")
    assert call(azure, "DELETE", "/jobs/going").status == 409
    azure.state.runs["going"].cancel()
    assert call(azure, "DELETE", "/jobs/going").status == 202
    assert call(azure, "GET", "/jobs/going").status == 404
    assert call(azure, "DELETE", "/jobs/going").status == 204


def test_a_step_of_a_pipeline_comes_without_properties(azure: StagedWorkspace) -> None:
    azure.add_run("step", run_type="azureml.StepRun")
    assert "properties" not in call(azure, "GET", "/jobs/step").json


def test_code_is_found_by_its_hash_whatever_its_name(azure: StagedWorkspace) -> None:
    upload = call(azure, "POST", "/codes/one/versions/1/startPendingUpload", {"pendingUploadType": "TemporaryBlobReference"}).json
    reference = upload["blobReferenceForConsumption"]
    place, _, sas = reference["credential"]["sasUri"].partition("?")
    assert ask(azure.stage, "PUT", f"{place}/code/train.py?{sas}", headers={"x-ms-blob-type": "BlockBlob"}, body=b"pass").status == 201
    properties = {"codeUri": f"{reference['blobUri']}/code", "properties": {"hash_sha256": "abc", "hash_version": 202208}}
    assert call(azure, "PUT", "/codes/one/versions/1", {"properties": properties}).status == 201
    found = call(azure, "GET", "/codes/another/versions?hash=abc&hashVersion=202208").json["value"]
    assert [one["id"] for one in found] == [f"{azure.state.path}/codes/one/versions/1"]
    assert call(azure, "GET", "/codes/another/versions?hash=abd&hashVersion=202208").json["value"] == []


def test_versions_of_assets_are_kept_as_they_were_registered(azure: StagedWorkspace) -> None:
    for version, uri in (("1", "azureml://datastores/workspaceblobstore/paths/x/"), ("2", "https://example.org/y")):
        assert call(azure, "PUT", f"/data/images/versions/{version}", {"properties": {"dataType": "uri_folder", "dataUri": uri}}).status == 201
    assert call(azure, "PUT", "/data/images/versions/1", {"properties": {"dataType": "uri_folder", "dataUri": "z"}}).status == 200
    first = call(azure, "GET", "/data/images/versions/1").json
    assert (first["name"], first["properties"]["dataType"]) == ("1", "uri_folder")
    assert first["properties"]["dataUri"].endswith(f"/workspaces/{azure.state.name}/datastores/workspaceblobstore/paths/x/")
    container = call(azure, "GET", "/data/images").json["properties"]
    assert (container["latestVersion"], container["nextVersion"]) == ("2", "3")
    assert [one["name"] for one in call(azure, "GET", "/data/images/versions?$orderBy=createdtime desc&$top=1".replace(" ", "%20")).json["value"]] == ["2"]
    assert call(azure, "GET", "/data/none").status == 404


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/jobs?api-version=2025-01-02-preview", "NoRegisteredProviderFound"),
        ("/data?api-version=2020-06-01", "NoRegisteredProviderFound"),
        ("?api-version=2025-01-01-previw", "NoRegisteredProviderFound"),
        ("/jobs?api-version=", "MissingApiVersionParameter"),
    ],
)
def test_a_version_that_was_never_published_is_refused(azure: StagedWorkspace, path: str, code: str) -> None:
    answer = call(azure, "GET", path)
    assert (answer.status, answer.json["error"]["code"]) == (400, code)


def test_workspaces_and_computes_have_older_versions(azure: StagedWorkspace) -> None:
    assert [call(azure, "GET", f"{path}?api-version=2020-06-01").status for path in ("", "/computes/cpu-cluster")] == [200, 200]


def test_an_anonymous_environment_is_answered_as_new_each_time(azure: StagedWorkspace) -> None:
    def registered() -> Answer:
        path, properties = "/environments/CliV2AnonymousEnvironment/versions/abc", {"image": "docker.io/python:3.11", "isAnonymous": True}
        return call(azure, "PUT", path, {"properties": properties})

    first, second = registered(), registered()
    assert (first.status, second.status) == (201, 201)
    assert first.json["systemData"]["createdAt"] == second.json["systemData"]["createdAt"]
