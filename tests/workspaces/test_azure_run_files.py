"""Tests of files of runs in an Azure ML workspace: artifacts, outputs, links, and downloads of blobs without a recorded
MD5.
"""

from __future__ import annotations

import json
import random
import time
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.storage.blob import BlobClient, BlobServiceClient, generate_blob_sas

from himl_cli.core.blobs import FetchRequest
from himl_cli.core.errors import IntegrityFailed, NotAllowed, NotFound, RunNotFound, ServiceFailed
from himl_cli.core.runs import SignedLink
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.base import BlobStore
from tests.azureml_double.faults import ExpireSas, FlipByte, Page, Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.azureml_double.state import Right
from tests.support.azure import DEFAULT, hasty_store, opened, use
from tests.support.folders import contents
from tests.support.running import until
from tests.support.stores import Received, listed, named

pytestmark = pytest.mark.usefixtures("azure_environment")


def contents_of(store: BlobStore) -> dict[str, bytes]:
    return {blob.name: b"".join(store.read(blob.name)) for page in store.list() for blob in page}


@pytest.mark.large("takes long, and other tests run its branches")
def test_run_files_take_one_service_request_and_outputs_three(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path
) -> None:
    run = azure.add_run("r1")
    azure.put_artifacts(run, {"a": b"1"})
    azure.add_output(run, "model", {"a": b"2"})
    for key, services in {"default": ["/runs/r1"], "model": ["/runs/r1", "/rundata", "/batchGetResolvedUris"]}.items():
        list(workspace.output_files(workspace.run("r1").id, key).list())
        azure.stage.log.clear()
        with opened(azure, project) as later:
            assert [blob.name for page in later.output_files(later.run("r1").id, key).list() for blob in page] == ["a"]
        assert [
            seen.path[seen.path.rindex(end) :]
            for seen, end in zip(azure.stage.log.find(r"api\.azureml\.ms/"), services, strict=True)
        ] == services
        assert len(azure.requests("comp=list")) == 1


def test_an_output_that_is_one_file_is_that_file_alone(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    output = azure.add_output(azure.add_run("r1"), "model", {"weights": b"1", "weights.md5": b"2"}, path="some/place/")
    output.uri += "weights"
    output.kind = "UriFile"
    assert contents_of(workspace.output_files("r1", "model")) == {"weights": b"1"}
    location = {
        "uri": {"path": "azureml://datastores/workspaceblobstore/paths/azureml/${{name}}/model.pt", "isFile": True}
    }
    run = azure.add_run("r2", definition={"outputData": {"model": {"outputLocation": location}}})
    azure.add_output(
        run, "model", {"model.pt": b"1", "model.pt.md5": b"2"}, path="there/", kind="CustomModel"
    ).uri += "model.pt"
    assert contents_of(workspace.output_files("r2", "model")) == {"model.pt": b"1"}


def test_output_with_deleted_asset_is_found_by_run_definition(
    workspace: AzureWorkspace, azure: StagedWorkspace
) -> None:
    azure.add_output(azure.add_run("r1"), "model", {"a": b"1"})
    azure.add_output(azure.add_run("root", run_type="azureml.PipelineRun"), "model", {"a": b""})
    azure.stage.faults.add(Status(404, code="UserError"), match="batchGetResolvedUris", times=None)
    assert contents_of(workspace.output_files("r1", "model")) == {"a": b"1"}
    with pytest.raises(NotFound, match="was deleted"):
        workspace.output_files("root", "model")


def test_pipeline_output_without_known_path_is_still_named(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run(
        "root",
        status="Running",
        run_type="azureml.PipelineRun",
        definition={"JobType": "Pipeline", "Outputs": {"model": {"Uri": None}}},
    )
    with pytest.raises(NotFound, match="returned no location of output 'model' of run 'root'"):
        workspace.output_files("root", "model")
    with pytest.raises(NotFound, match=r"has no output 'nope'; it has: default, model\."):
        workspace.output_files("root", "nope")


def test_model_output_is_found_in_model_registry(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    for number, kind in enumerate(["CustomModel", "MLFlowModel"], 1):
        azure.add_output(azure.add_run(kind), "model", {"MLmodel": b"1"}, path=f"somewhere{number}/", kind=kind)
        assert contents_of(workspace.output_files(kind, "model")) == {"MLmodel": b"1"}
        assert len(azure.requests("/modelregistry/")) == number


def test_output_asset_id_is_matched_regardless_of_case(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    run = azure.add_run("r1", definition={})
    output = azure.add_output(run, "model", {"a": b"1"}, path="somewhere/")
    found = {"values": {output.asset_id.upper(): {"uri": output.uri, "type": "UriFolder"}}}
    azure.stage.faults.add(Page(json.dumps(found), content_type="application/json"), match="batchGetResolvedUris")
    assert contents_of(workspace.output_files("r1", "model")) == {"a": b"1"}


@pytest.mark.parametrize("is_kept", [True, False])
def test_reused_step_gives_outputs_of_the_original_step(
    workspace: AzureWorkspace, azure: StagedWorkspace, is_kept: bool
) -> None:
    if is_kept:
        first = azure.add_run("first", run_type="azureml.StepRun")
        azure.add_output(first, "model", {"a": b"1"})
        azure.put_artifacts(first, {"outputs/model": b"weights"})
    else:
        azure.put_blobs("workspaceblobstore", {"azureml/first/model/a": b"1"})
    fields: dict[str, Any] = {
        "data_container_id": "dcid.first",
        "properties": {"azureml.isreused": "true", "azureml.reusedrunid": "first"},
    }
    meant = {"uri": {"path": "azureml://datastores/workspaceblobstore/paths/azureml/{name}/model/"}}
    azure.add_run(
        "again", run_type="azureml.StepRun", definition={"outputData": {"model": {"outputLocation": meant}}}, **fields
    )
    assert contents_of(workspace.output_files("again", "model")) == {"a": b"1"}
    assert not is_kept or contents_of(workspace.run_files("again")) == {"outputs/model": b"weights"}
    with pytest.raises(NotFound, match=r"Run 'again' has no output 'nope'; it has: default, model\."):
        workspace.output_files("again", "nope")


def test_output_of_unknown_run_raises_run_not_found(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("train_1_aa", "train")
    for key in ("model", "default"):
        with pytest.raises(RunNotFound) as caught:
            workspace.output_files("train_1_ab", key)
        assert caught.value.similar == ("train_1_aa",)


def test_output_without_asset_is_found_by_run_definition(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    store = "azureml://datastores/workspaceblobstore/paths/azureml/"
    locations: list[dict[str, Any]] = [
        {"uri": {"path": store + "${{name}}/model/", "isFile": False}},
        {"uri": {"path": store + "{name}/{output_name}/", "isFile": False}},
        {"dataPath": {"datastoreName": "workspaceblobstore", "relativePath": "azureml/{run-id}/{output-name}"}},
        {"dataPath": {"datastoreName": "workspaceblobstore", "relativePath": None}},
    ]
    for number, location in enumerate(locations):
        azure.put_blobs("workspaceblobstore", {f"{'dataset' if number == 3 else 'azureml'}/r{number}/model/a": b"1"})
        azure.add_run(
            f"r{number}", definition={"outputData": {"model": {"outputLocation": location, "mechanism": "Mount"}}}
        )
        assert contents_of(workspace.output_files(f"r{number}", "model")) == {"a": b"1"}
    azure.add_run("lost", definition={"outputData": {"model": {"outputLocation": None}}})
    with pytest.raises(NotFound, match="returned no location of output 'model' of run 'lost'"):
        workspace.output_files("lost", "model")
    bindings = [
        {"Uri": store + "${{name}}/model/"},
        {
            "Uri": None,
            "DatastoreId": "/subscriptions/s/workspaces/w/datastores/workspaceblobstore",
            "PathOnDatastore": "azureml/{name}/model",
        },
    ]
    for number, bound in enumerate(bindings):
        azure.put_blobs("workspaceblobstore", {f"azureml/root{number}/model/a": b"1"})
        definition = {"JobType": "Pipeline", "Outputs": {"model": {"Uri": None}}, "OutputBindings": {"model": bound}}
        azure.add_run(f"root{number}", run_type="azureml.PipelineRun", definition=definition)
        assert contents_of(workspace.output_files(f"root{number}", "model")) == {"a": b"1"}


def test_batch_scoring_output_is_found_by_data_reference(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.put_blobs("workspaceblobstore", {"azureml/r1/score/a": b"1"})
    store = {"dataStoreName": "workspaceblobstore", "pathOnCompute": None}
    score, read = (
        {"pathOnDataStore": "azureml/r1/score", "mode": "Mount"},
        {"pathOnDataStore": "images", "mode": "Download"},
    )
    azure.add_run(
        "r1",
        definition={
            "script": "score.py",
            "outputData": {},
            "dataReferences": {"score": store | score, "read": store | read, "none": None},
        },
    )
    assert contents_of(workspace.output_files("r1", "score")) == {"a": b"1"}
    with pytest.raises(NotFound, match="it has: default, score"):
        workspace.output_files("r1", "read")


def test_an_artifact_with_an_absolute_name_is_downloaded_below_the_folder(
    azure: StagedWorkspace, project: Path
) -> None:
    azure.put_artifacts(azure.add_run("run_1", "demo"), {"/etc/a.txt": b"1", "outputs/b": b"2"})
    with opened(azure, project) as workspace:
        result = download(workspace.run_files("run_1"), DownloadRequest(project / "out", under="run_1"))
    assert (result.files, result.problem()) == (2, None)
    assert {name: (project / "out" / "run_1" / name).read_bytes() for name in ("etc/a.txt", "outputs/b")} == {
        "etc/a.txt": b"1",
        "outputs/b": b"2",
    }


LOG = "user_logs/std_log.txt"


@pytest.mark.large("takes long, and other tests run its branches")
def test_without_storage_rights_signed_links_are_used(
    stage: Stage, azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"outputs/{number}": bytes([number]) * number for number in range(7)}
    azure.put_artifacts(azure.add_run("run_1", "demo"), files)
    azure.state.page_size = 3
    use(azure, monkeypatch, {Right.READ})
    for is_first in (True, False):
        stage.log.clear()
        with opened(azure, project) as workspace:
            result = download(workspace.run_files("run_1"), DownloadRequest(project / f"out{is_first}"))
        assert (result.files, result.problem(), result.unverified) == (7, None, 0)
        assert bool(stage.log.find("comp=list")) is is_first
        assert len(stage.log.find("/prefix/contentinfo/")) == 3


def test_artifacts_are_listed_if_empty_prefix_is_rejected(
    stage: Stage, azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"outputs/{number}": bytes([number]) * number for number in range(3)}
    azure.put_artifacts(azure.add_run("run_1", "demo"), files)
    azure.add_run("run_2", "demo")
    use(azure, monkeypatch, {Right.READ})
    stage.faults.add(
        Status(404, code="UserError"), r"/prefix/contentinfo/ExperimentRun/dcid\.run_\d/?(\?|$)", times=None
    )
    with opened(azure, project) as workspace:
        assert download(workspace.run_files("run_1"), DownloadRequest(project / "out")).files == 3
        with pytest.raises(NotAllowed, match="No access to the files of run 'run_2'"):
            listed(workspace.run_files("run_2"))
    assert sorted(path.name for path in (project / "out" / "outputs").iterdir()) == ["0", "1", "2"]


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("status", ["Queued", "Running", "Completed"])
def test_after_a_refusal_by_storage_an_empty_list_is_no_evidence(
    azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    azure.add_run("bare", "demo", status=status)
    azure.put_artifacts(azure.add_run("run_1", "demo", status=status), {LOG: b"epoch 1\n", "outputs/a": b"1"})
    azure.state.reaches_storage = False
    use(azure, monkeypatch, {Right.READ})
    with opened(azure, project) as workspace:
        files, bare = workspace.run_files("run_1"), workspace.run_files("bare")
        assert [(blob.name, b"".join(files.read(blob.name))) for page in files.list("user_logs/") for blob in page] == [
            (LOG, b"epoch 1\n")
        ]
        for store, prefix in [
            (files, ""),
            (files, "outputs/"),
            *[(bare, one) for one in ("", "outputs/", "user_logs/") if status == "Completed"],
        ]:
            with pytest.raises(
                NotAllowed,
                match=r"No access to the files of run '(run_1|bare)': the storage account refuses your sign-in",
            ):
                listed(store, prefix)
        assert status == "Completed" or [listed(bare, prefix) for prefix in ("", "outputs/", "user_logs/")] == [
            [],
            [],
            [],
        ]
    azure.state.reaches_storage = True
    with opened(azure, project) as workspace:
        assert listed(workspace.run_files("run_1"), "outputs/none/") == []


def test_the_services_links_count_where_the_accounts_keys_do_not(
    stage: Stage, azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.put_artifacts(azure.add_run("run_1", "demo"), {"outputs/a": b"1"})
    azure.state.storage.takes_keys = False
    use(azure, monkeypatch, {Right.READ, Right.SECRETS})
    with opened(azure, project) as workspace:
        assert b"".join(workspace.run_files("run_1").read("outputs/a")) == b"1"
    statuses = [seen.status for seen in stage.log.find(azure.state.storage.host)]
    assert 403 in statuses
    assert statuses[-1] in (200, 206)


def test_growing_log_is_fetched_at_its_listed_size(azure: StagedWorkspace, project: Path) -> None:
    run = azure.add_run("run_1", "demo", status="Running")
    azure.append_log(run, "epoch 1\n")
    sink = Received()
    with opened(azure, project) as workspace:
        store = workspace.run_files("run_1")
        blob = named(store, LOG)
        azure.append_log(run, "epoch 2\n")
        store.fetch([FetchRequest(blob, 0, blob.size)], sink, workers=1)
        assert b"".join(store.read(LOG)) == b"epoch 1\nepoch 2\n"
        assert b"".join(store.read(LOG, 8)) == b"epoch 2\n"
        assert b"".join(store.read(LOG, 16)) == b""
    assert (sink.bodies, sink.errors) == ({(LOG, 0): b"epoch 1\n"}, {})


@pytest.mark.large("takes long, and other tests run its branches")
def test_expired_or_refused_links_are_renewed_in_one_request(
    stage: Stage, azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.put_artifacts(azure.add_run("run_1", "demo"), {f"outputs/{number}": b"1" for number in range(5)})
    use(azure, monkeypatch, {Right.READ})
    for is_expired in (True, False):
        azure.state.storage.sas_seconds = 1 if is_expired else 3600
        sink = Received()
        with opened(azure, project) as workspace:
            store = workspace.run_files("run_1")
            blobs = listed(store)
            time.sleep(1.1 if is_expired else 0)
            azure.state.storage.sas_seconds = 3600
            stage.log.clear()
            if not is_expired:
                stage.faults.add(ExpireSas(), "GET .*/outputs/2")
            store.fetch([FetchRequest(blob, 0, blob.size) for blob in blobs], sink, workers=1)
        assert (len(sink.md5s), sink.errors) == (5, {})
        assert len(stage.log.find("/contentinfo/")) == 1
        assert not is_expired or all(seen.status == 200 for seen in stage.log.all())


def test_links_of_another_form_are_the_services_failure(
    stage: Stage, azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.add_run("run_1", "demo")
    use(azure, monkeypatch, {Right.READ})
    forms = {'{"value": [], "continuationToken": "again"}': "does not end"} | dict.fromkeys(
        ["[]", "{}", '{"value": [{}]}', '{"value": 1}'], "."
    )
    forms |= {
        f'{{"value": [{{"path": "a", "contentUri": "{uri}"}}]}}': "." for uri in ("", "https://[x", "https://host")
    }
    for answer, complaint in forms.items():
        stage.faults.only(Page(answer, content_type="application/json"), "/prefix/contentinfo/", times=None)
        with opened(azure, project) as workspace, pytest.raises(ServiceFailed, match=complaint):
            listed(workspace.run_files("run_1"))


def test_file_name_without_valid_link_fails_and_leaves_no_file(
    stage: Stage, azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure, odd = azure, ["outputs/a.", "outputs/a\\b"]
    run = azure.add_run("run_1", "demo")
    azure.put_artifact(run, "outputs/plain", b"1")
    link = azure.state.storage.blob_link("azureml", f"{run.artifact_prefix}outputs/plain")
    items = [{"path": one, "container": run.data_container_id, "contentUri": link} for one in ("outputs/plain", *odd)]
    stage.faults.add(
        Page(json.dumps({"value": items}), content_type="application/json"), "/prefix/contentinfo/", times=None
    )
    use(azure, monkeypatch, {Right.READ})
    with opened(azure, project) as workspace:
        result = download(workspace.run_files("run_1"), DownloadRequest(project / "out"))
    assert [path.name for path in (project / "out" / "outputs").iterdir()] == ["plain"]
    assert [one.name for one in result.failed] == odd
    assert [one.message.startswith(f"himl cannot request '{one.name}': Azure Storage ") for one in result.failed] == [
        True,
        True,
    ]


BEST, LAST = "outputs/checkpoints/best epoch=3+.ckpt", "outputs/checkpoints/last.ckpt"


@pytest.fixture
def run(azure: StagedWorkspace) -> str:
    run = azure.add_run("train_1_aa", "train")
    azure.put_artifacts(run, {BEST: b"best", LAST: b"last"})
    return run.run_id


def link(azure: StagedWorkspace, folder: Path, run: str, name: str = BEST, days: float = 10) -> SignedLink:
    with opened(azure, folder) as workspace:
        return workspace.link(run, name, days=days)


def open_url(url: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    """Return the status and the body that a client with only the link gets."""
    request = urllib.request.Request(url, body, {"x-ms-blob-type": "BlockBlob"} if body else {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except HTTPError as err:
        with err:
            return err.code, b""


def terms(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query)


def is_about(moment: datetime, days: float) -> bool:
    return abs(moment - datetime.now(timezone.utc) - timedelta(days=days)) < timedelta(minutes=2)


@pytest.mark.large("takes long, and other tests run its branches")
def test_link_opens_one_file_for_reading_and_nothing_else(
    azure: StagedWorkspace, project: Path, run: str, tmp_path: Path
) -> None:
    found = link(azure, project, run)
    assert open_url(found.url) == (200, b"best")
    assert {name: terms(found.url)[name] for name in ("sr", "sp", "spr")} == {
        "sr": ["b"],
        "sp": ["r"],
        "spr": ["https"],
    }
    assert is_about(found.expires, 10 - 15 / 1440), "ten days in all: it began a quarter of an hour ago"
    assert terms(found.url)["st"][0] < (datetime.now(timezone.utc) - timedelta(minutes=4)).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )
    for other in (
        found.url.replace("best%20epoch%3D3%2B", "last"),
        found.url.replace(urlsplit(found.url).path, "/azureml") + "&restype=container&comp=list",
    ):
        assert other != found.url
        assert open_url(other)[0] == 403
    assert (open_url(found.url, "PUT", b"other")[0], open_url(found.url, "DELETE")[0]) == (403, 403)
    assert azure.artifacts(run)[BEST] == b"best"
    written = [*contents(tmp_path).values()]
    assert written
    assert not any(
        secret.encode() in content
        for content in written
        for secret in (azure.state.storage.key, terms(found.url)["sig"][0])
    )


@pytest.mark.large("takes long, and other tests run its branches")
def test_link_opens_nothing_when_its_time_is_over(azure: StagedWorkspace, project: Path, run: str) -> None:
    links = []
    for takes_keys in (True, False):
        azure.state.storage.takes_keys = takes_keys
        links.append(link(azure, project, run, days=6.0 / 86400))
        assert is_about(links[-1].expires, 6.0 / 86400)
    until(lambda: datetime.now(timezone.utc) > links[-1].expires)
    assert [open_url(found.url)[0] for found in links] == [403, 403]


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize(
    "why", ["the account takes no keys", "its secret may not be read", "it is registered with a SAS"]
)
def test_link_without_account_key_is_signed_by_user_for_a_week(
    azure: StagedWorkspace, project: Path, run: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "the account takes no keys":
        azure.state.storage.takes_keys = False
    elif why == "its secret may not be read":
        use(azure, monkeypatch, {Right.READ, Right.STORAGE_READ})
    else:
        azure.state.datastores["workspaceartifactstore"].credentials = "Sas"
    found = link(azure, project, run)
    assert open_url(found.url) == (200, b"best")
    assert (terms(found.url)["sr"], terms(found.url)["sp"], "skoid" in terms(found.url)) == (["b"], ["r"], True)
    assert is_about(found.expires, 7 - 15 / 1440)
    assert open_url(found.url.replace("best%20epoch%3D3%2B", "last"))[0] == 403
    assert open_url(found.url, "PUT", b"other")[0] == 403


def test_user_who_may_not_sign_gets_the_services_link(
    azure: StagedWorkspace, project: Path, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(azure, monkeypatch, {Right.READ})
    for credentials in ("AccountKey", "Sas"):
        azure.state.datastores["workspaceartifactstore"].credentials = credentials
        found = link(azure, project, run)
        assert open_url(found.url) == (200, b"best")
        assert is_about(found.expires, 8 / 24)
        # The link would be valid for longer than requested.
        with opened(azure, project) as workspace, pytest.raises(NotAllowed, match="own sign-in") as caught:
            workspace.link(run, BEST, days=0.1)
        assert (
            "on the storage account. If you have it on only the container, ask for 'Storage Blob Delegator'"
            in caught.value.hint
        )


def test_a_sas_of_the_datastore_is_never_given_away(
    azure: StagedWorkspace, project: Path, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.state.datastores["workspaceartifactstore"].credentials = "Sas"
    use(azure, monkeypatch, {Right.READ, Right.SECRETS})
    with (
        opened(azure, project) as workspace,
        pytest.raises(NotAllowed, match=r"himl does not share the SAS of .* which covers its whole container"),
    ):
        workspace.link(run, BEST, days=0.1)


def test_link_to_what_is_no_file_is_refused(azure: StagedWorkspace, project: Path, run: str) -> None:
    for name, takes_keys in {
        "outputs/checkpoints/none.ckpt": False,
        "outputs/../outputs": True,
        "outputs/checkpoints": True,
    }.items():
        azure.state.storage.takes_keys = takes_keys
        with opened(azure, project) as workspace:
            with pytest.raises(NotFound, match="No file"):
                workspace.link(run, name, days=1)
            with pytest.raises(RunNotFound):
                workspace.link("nothing", name, days=1)


def test_fake_storage_user_delegation_key_signs_valid_sas(azure: StagedWorkspace, run: str) -> None:
    from azure.identity import ClientSecretCredential

    principal, storage = azure.state.principal, azure.state.storage
    now = datetime.now(timezone.utc)
    blob = f"ExperimentRun/dcid.{run}/{LAST}"
    with (
        ClientSecretCredential(principal.tenant, principal.client_id, principal.secret) as credential,
        BlobServiceClient(f"https://{storage.host}", credential=credential) as client,
    ):
        key = client.get_user_delegation_key(now - timedelta(minutes=5), now + timedelta(hours=1))
    sas = generate_blob_sas(
        storage.account, "azureml", blob, user_delegation_key=key, permission="r", expiry=now + timedelta(minutes=30)
    )
    with BlobClient(f"https://{storage.host}", "azureml", blob, credential=sas) as there:
        assert there.download_blob().readall() == b"last"
    principal.rights.discard(Right.STORAGE_READ)
    assert open_url(f"{storage.url('azureml', blob)}?{sas}")[0] == 403


@pytest.mark.large("downloads large files again")
def test_damaged_bytes_without_md5_come_again_or_get_no_name(
    stage: Stage, azure: StagedWorkspace, tmp_path: Path
) -> None:
    sizes = {"small": 3_000, "in_one": 6_000_000, "in_pieces": 34_000_000}
    bodies = {name: random.Random(11).randbytes(size) for name, size in sizes.items()}
    for name, body in bodies.items():
        azure.put_blob(DEFAULT, name, body, md5=False)
    for name in bodies:
        stage.faults.add(FlipByte(at=1_000), f"GET .*/{name}", times=2)
    result = download(hasty_store(azure), DownloadRequest(tmp_path / "mended"))
    assert contents(tmp_path / "mended") == bodies
    assert (result.problem(), result.unverified) == (None, 3)
    stage.faults.add(FlipByte(at=1_000), r"GET .*/(small|in_one|in_pieces)", times=None)
    result = download(hasty_store(azure), DownloadRequest(tmp_path / "out"))
    assert isinstance(result.problem(), IntegrityFailed)
    assert len(result.failed) == 3
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".himl")] == []
