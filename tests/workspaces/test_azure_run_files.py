"""Files and named outputs of runs of an Azure ML workspace: where they lie, and what is asked to find that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from himl_cli.core.errors import NotFound, RunNotFound
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.base import BlobStore
from tests.servers.azureml.faults import Page, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import opened, opened_in_job


def contents(store: BlobStore) -> dict[str, bytes]:
    return {blob.name: b"".join(store.read(blob.name)) for page in store.list() for blob in page}


def test_files_of_known_run_need_no_run_history_request(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.put_artifacts(azure.add_run("r1"), {"outputs/a": b"1", "user_logs/std_log.txt": b"hello"})
    workspace.run("r1")
    azure.stage.log.clear()
    assert contents(workspace.run_files("r1")) == {"outputs/a": b"1", "user_logs/std_log.txt": b"hello"}
    assert azure.requests("/history/") == []


@pytest.mark.parametrize(("key", "services"), [("default", ["/runs/r1"]), ("model", ["/runs/r1", "/rundata", "/batchGetResolvedUris"])])
def test_run_files_take_one_service_request_and_outputs_three(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, key: str, services: list[str]
) -> None:
    """Besides these, storage lists the files with one request."""
    run = azure.add_run("r1")
    azure.put_artifacts(run, {"a": b"1"})
    azure.add_output(run, "model", {"a": b"2"})
    list(workspace.output_files(workspace.run("r1").id, key).list())
    azure.stage.log.clear()
    with opened(azure, project) as later:
        assert [blob.name for page in later.output_files(later.run("r1").id, key).list() for blob in page] == ["a"]
    assert [seen.path[seen.path.rindex(end) :] for seen, end in zip(azure.stage.log.find(r"api\.azureml\.ms/"), services, strict=True)] == services
    assert len(azure.requests("comp=list")) == 1


def test_a_step_that_reused_anothers_results_has_that_ones_files(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.put_artifacts(azure.add_run("first"), {"outputs/model": b"weights"})
    azure.add_run("again", data_container_id="dcid.first", properties={"azureml.isreused": "true", "azureml.reusedrunid": "first"})
    assert contents(workspace.run_files("again")) == {"outputs/model": b"weights"}


def test_a_run_whose_id_begins_another_has_only_its_own_files(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.put_artifacts(azure.add_run("r1"), {"a": b"1"})
    azure.put_artifacts(azure.add_run("r10"), {"b": b"2"})
    assert contents(workspace.run_files("r1")) == {"a": b"1"}


def test_a_named_output_is_found_where_it_lies(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_datastore("elsewhere")
    run = azure.add_run("r1")
    azure.put_artifacts(run, {"outputs/a": b"artifact"})
    azure.add_output(run, "model", {"x/y": b"1", "z": b"2"}, datastore="elsewhere", path="some/place/")
    assert contents(workspace.output_files("r1", "model")) == {"x/y": b"1", "z": b"2"}
    assert contents(workspace.output_files("r1", "default")) == {"outputs/a": b"artifact"}


def test_an_output_that_is_one_file_is_that_file_alone(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    run = azure.add_run("r1")
    output = azure.add_output(run, "model", {"weights": b"1", "weights.md5": b"2"}, path="some/place/")
    output.uri += "weights"
    output.kind = "UriFile"
    assert contents(workspace.output_files("r1", "model")) == {"weights": b"1"}


def test_output_with_deleted_asset_is_found_by_run_definition(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_output(azure.add_run("r1"), "model", {"a": b"1"})
    azure.stage.faults.add(Status(404, code="UserError"), match="batchGetResolvedUris")
    assert contents(workspace.output_files("r1", "model")) == {"a": b"1"}


def test_output_with_deleted_asset_and_no_path_is_not_found(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_output(azure.add_run("root", run_type="azureml.PipelineRun"), "model", {"a": b""})
    azure.stage.faults.add(Status(404, code="UserError"), match="batchGetResolvedUris")
    with pytest.raises(NotFound, match="gone"):
        workspace.output_files("root", "model")


@pytest.mark.parametrize("run_type", ["azureml.scriptrun", "azureml.StepRun", "azureml.PipelineRun"])
def test_output_is_found_from_run_data_alone(workspace: AzureWorkspace, azure: StagedWorkspace, run_type: str) -> None:
    """In the record of the run it is null, and the definition shows where it was meant to go, or (that of a pipeline) nothing."""
    azure.add_output(azure.add_run("r1", run_type=run_type), "model", {"x/y": b"1"}, path="somewhere/else/")
    workspace.run("r1")
    azure.stage.log.clear()
    assert contents(workspace.output_files("r1", "model")) == {"x/y": b"1"}
    assert len(azure.requests("/history/")) == 1


def test_pipeline_output_without_known_path_is_still_named(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("root", status="Running", run_type="azureml.PipelineRun", definition={"JobType": "Pipeline", "Outputs": {"model": {"Uri": None}}})
    with pytest.raises(NotFound, match="does not tell where output 'model' of run 'root' lies"):
        workspace.output_files("root", "model")
    with pytest.raises(NotFound, match=r"has no output 'nope'; it has: default, model\."):
        workspace.output_files("root", "nope")


@pytest.mark.parametrize("kind", ["CustomModel", "MLFlowModel", "TritonModel"])
def test_model_output_is_found_in_model_registry(workspace: AzureWorkspace, azure: StagedWorkspace, kind: str) -> None:
    azure.add_output(azure.add_run("r1"), "model", {"MLmodel": b"1"}, path="somewhere/", kind=kind)
    assert contents(workspace.output_files("r1", "model")) == {"MLmodel": b"1"}
    assert len(azure.requests("/modelregistry/")) == 1


def test_a_model_that_is_one_file_is_that_file_alone(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    location = {"uri": {"path": "azureml://datastores/workspaceblobstore/paths/azureml/${{name}}/model.pt", "isFile": True}}
    run = azure.add_run("r1", definition={"outputData": {"model": {"outputLocation": location}}})
    azure.add_output(run, "model", {"model.pt": b"1", "model.pt.md5": b"2"}, path="there/", kind="CustomModel").uri += "model.pt"
    assert contents(workspace.output_files("r1", "model")) == {"model.pt": b"1"}


def test_output_asset_id_is_matched_regardless_of_case(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    """The service may spell the id in another case than the run does."""
    run = azure.add_run("r1", definition={})
    output = azure.add_output(run, "model", {"a": b"1"}, path="somewhere/")
    found = {"values": {output.asset_id.upper(): {"uri": output.uri, "type": "UriFolder"}}}
    azure.stage.faults.add(Page(json.dumps(found), content_type="application/json"), match="batchGetResolvedUris")
    assert contents(workspace.output_files("r1", "model")) == {"a": b"1"}


def test_reused_step_gives_outputs_of_the_original_step(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    first = azure.add_run("first", run_type="azureml.StepRun")
    azure.add_output(first, "model", {"a": b"1"})
    reused = {"azureml.isreused": "true", "azureml.reusedrunid": "first"}
    meant = {"uri": {"path": "azureml://datastores/workspaceblobstore/paths/azureml/{name}/model/"}}
    azure.add_run("again", run_type="azureml.StepRun", properties=reused, definition={"outputData": {"model": {"outputLocation": meant}}})
    assert contents(workspace.output_files("again", "model")) == {"a": b"1"}
    with pytest.raises(NotFound, match=r"Run 'again' has no output 'nope'; it has: default, model\."):
        workspace.output_files("again", "nope")


def test_reused_step_output_is_found_after_original_is_deleted(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.put_blobs("workspaceblobstore", {"azureml/first/model/a": b"1"})
    reused = {"azureml.isreused": "true", "azureml.reusedrunid": "first"}
    meant = {"uri": {"path": "azureml://datastores/workspaceblobstore/paths/azureml/{name}/model/"}}
    azure.add_run("again", run_type="azureml.StepRun", properties=reused, definition={"outputData": {"model": {"outputLocation": meant}}})
    assert contents(workspace.output_files("again", "model")) == {"a": b"1"}


def test_output_of_unknown_run_raises_run_not_found(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("train_1_aa", "train")
    for key in ("model", "default"):
        with pytest.raises(RunNotFound) as caught:
            workspace.output_files("train_1_ab", key)
        assert caught.value.similar == ("train_1_aa",)


def test_an_output_without_a_place_says_so(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("r1", definition={"outputData": {"model": {"outputLocation": None}}})
    with pytest.raises(NotFound, match="does not tell where output 'model' of run 'r1' lies"):
        workspace.output_files("r1", "model")


def test_an_unknown_output_names_those_there_are(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_output(azure.add_run("r1"), "model", {"a": b""})
    with pytest.raises(NotFound, match=r"Run 'r1' has no output 'modle'; it has: default, model\."):
        workspace.output_files("r1", "modle")


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ({"uri": {"path": "azureml://datastores/workspaceblobstore/paths/azureml/${{name}}/model/", "isFile": False}}, "azureml/r1/model/"),
        ({"uri": {"path": "azureml://datastores/workspaceblobstore/paths/azureml/{name}/{output_name}/", "isFile": False}}, "azureml/r1/model/"),
        ({"dataPath": {"datastoreName": "workspaceblobstore", "relativePath": "dataset/{run-id}/{output-name}"}}, "dataset/r1/model/"),
        ({"dataPath": {"datastoreName": "workspaceblobstore", "relativePath": None}}, "dataset/r1/model/"),
    ],
)
def test_output_without_asset_is_found_by_run_definition(workspace: AzureWorkspace, azure: StagedWorkspace, location: dict[str, object], place: str) -> None:
    azure.put_blobs("workspaceblobstore", {f"{place}a": b"1"})
    azure.add_run("r1", definition={"outputData": {"model": {"outputLocation": location, "mechanism": "Mount"}}})
    assert contents(workspace.output_files("r1", "model")) == {"a": b"1"}
    with pytest.raises(NotFound, match="it has: default, model"):
        workspace.output_files("r1", "other")


def test_batch_scoring_output_is_found_by_data_reference(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    """So are those of steps of azureml-core; `outputs` is null then."""
    azure.put_blobs("workspaceblobstore", {"azureml/r1/score/a": b"1"})
    store = {"dataStoreName": "workspaceblobstore", "pathOnCompute": None}
    score, read = {"pathOnDataStore": "azureml/r1/score", "mode": "Mount"}, {"pathOnDataStore": "images", "mode": "Download"}
    azure.add_run("r1", definition={"script": "score.py", "outputData": {}, "dataReferences": {"score": store | score, "read": store | read, "none": None}})
    assert contents(workspace.output_files("r1", "score")) == {"a": b"1"}
    with pytest.raises(NotFound, match="it has: default, score"):
        workspace.output_files("r1", "read")


@pytest.mark.parametrize(
    "bound",
    [
        {"Uri": "azureml://datastores/workspaceblobstore/paths/azureml/${{name}}/model/"},
        {"Uri": None, "DatastoreId": "/subscriptions/s/workspaces/w/datastores/workspaceblobstore", "PathOnDatastore": "azureml/{name}/model"},
    ],
)
def test_pipeline_output_without_asset_is_found_by_binding(workspace: AzureWorkspace, azure: StagedWorkspace, bound: dict[str, object]) -> None:
    azure.put_blobs("workspaceblobstore", {"azureml/root/model/a": b"1"})
    definition = {"JobType": "Pipeline", "Outputs": {"model": {"Uri": None}}, "OutputBindings": {"model": bound}}
    azure.add_run("root", run_type="azureml.PipelineRun", definition=definition)
    assert contents(workspace.output_files("root", "model")) == {"a": b"1"}


def test_in_a_job_its_own_token_reads_its_outputs(azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = azure.add_run("job_1", "train", status="Running")
    azure.put_artifacts(own, {"outputs/a": b"1"})
    azure.add_output(own, "model", {"b": b"2"})
    for name, value in azure.job_environment(own).items():
        monkeypatch.setenv(name, value)
    with opened_in_job(project) as workspace:
        assert contents(workspace.output_files("job_1", "default")) == {"outputs/a": b"1"}
        assert contents(workspace.output_files("job_1", "model")) == {"b": b"2"}
    assert azure.requests(r"management\.azure\.com|login\.microsoftonline") == []
