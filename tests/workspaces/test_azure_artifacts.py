"""A run's artifacts in Azure: which route they come by, and logs that grow while they are fetched."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from himl_cli.core.blobs import FetchRequest
from himl_cli.core.errors import BlobChanged, NotAllowed, ServiceFailed
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest
from tests.servers.azureml.faults import ExpireSas, Page, Status
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import opened, use
from tests.support.stores import Received, listed, named

LOG = "user_logs/std_log.txt"


def test_a_warm_download_lists_with_its_second_request(stage: Stage, azure_environment: StagedWorkspace, project: Path) -> None:
    azure = azure_environment
    azure.put_artifacts(azure.add_run("run_1", "demo"), {"outputs/a": b"1"})
    for _ in range(2):
        stage.log.clear()
        with opened(azure, project) as workspace:
            assert [blob.name for blob in listed(workspace.run_files(workspace.run("run_1").id))] == ["outputs/a"]
    assert len(stage.log.find("comp=list")) == 1
    assert len(stage.log.all()) <= 2


def test_without_storage_rights_signed_links_are_used(stage: Stage, azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second download uses the service's links at once, without trying storage first."""
    azure = azure_environment
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
    stage: Stage, azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure = azure_environment
    files = {f"outputs/{number}": bytes([number]) * number for number in range(3)}
    azure.put_artifacts(azure.add_run("run_1", "demo"), files)
    azure.add_run("run_2", "demo")
    use(azure, monkeypatch, {Right.READ})
    stage.faults.add(Status(404, code="UserError"), r"/prefix/contentinfo/ExperimentRun/dcid\.run_\d/?(\?|$)", times=None)
    with opened(azure, project) as workspace:
        assert download(workspace.run_files("run_1"), DownloadRequest(project / "out")).files == 3
        assert listed(workspace.run_files("run_2")) == []
    assert sorted(path.name for path in (project / "out" / "outputs").iterdir()) == ["0", "1", "2"]


def test_the_services_links_count_where_the_accounts_keys_do_not(
    stage: Stage, azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are user-delegation signatures of the service's own identity."""
    azure = azure_environment
    azure.put_artifacts(azure.add_run("run_1", "demo"), {"outputs/a": b"1"})
    azure.state.storage.takes_keys = False
    use(azure, monkeypatch, {Right.READ, Right.SECRETS})
    with opened(azure, project) as workspace:
        assert b"".join(workspace.run_files("run_1").read("outputs/a")) == b"1"
    statuses = [seen.status for seen in stage.log.find(azure.state.storage.host)]
    assert 403 in statuses
    assert statuses[-1] in (200, 206)


def test_in_job_artifacts_need_only_the_run_token(stage: Stage, azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resource Manager gets no request."""
    from himl_cli.workspaces.azure.config import address_of_job, azure_settings
    from himl_cli.workspaces.azure.connection import Connection
    from himl_cli.workspaces.azure.workspace import AzureWorkspace

    azure = azure_environment
    run = azure.add_run("run_1", "demo", status="Running")
    azure.put_artifacts(run, {"outputs/a": b"1"})
    for name in azure.environment():
        if name.startswith(("HIML_", "AZURE_")):
            monkeypatch.delenv(name)
    for name, value in azure.job_environment(run).items():
        monkeypatch.setenv(name, value)
    address = address_of_job()
    assert address is not None
    with Connection.open(address, settings=azure_settings(project)) as connection:
        store = AzureWorkspace(connection).run_files("run_1")
        assert [(blob.name, blob.size) for blob in listed(store)] == [("outputs/a", 1)]
        assert b"".join(store.read("outputs/a")) == b"1"
    assert not stage.log.find("management.azure.com")


def test_a_link_that_is_refused_is_asked_for_again(stage: Stage, azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    azure = azure_environment
    azure.put_artifacts(azure.add_run("run_1", "demo"), {"outputs/a": b"1"})
    use(azure, monkeypatch, {Right.READ})
    sink = Received()
    with opened(azure, project) as workspace:
        store = workspace.run_files("run_1")
        blobs = listed(store)
        stage.faults.add(ExpireSas(), "GET .*/outputs/a")
        store.fetch([FetchRequest(blob, 0, blob.size) for blob in blobs], sink, workers=1)
    assert (sink.bodies, sink.errors) == ({("outputs/a", 0): b"1"}, {})
    assert len(stage.log.find("/prefix/contentinfo/")) == 2  # the list, and the new links of its folder


def test_a_pause_is_said_once_however_many_links_are_asked(
    stage: Stage, azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    azure = azure_environment
    azure.put_artifacts(azure.add_run("run_1", "demo"), {f"outputs/{number}": b"1" for number in range(4)})
    use(azure, monkeypatch, {Right.READ})
    stage.faults.add(Status(503, retry_after=2), "HEAD .*/outputs/", times=4)
    with opened(azure, project) as workspace:
        assert len(listed(workspace.run_files("run_1"))) == 4
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING" and record.name.startswith("himl_cli")]
    assert said == [f"Storage account '{azure.state.storage.account}' answered 503; trying again in 2 s"]


def test_a_firewall_is_said_where_neither_way_works(azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.put_artifacts(azure_environment.add_run("run_1", "demo"), {"outputs/a": b"1"})
    azure_environment.state.storage.is_open = False
    with opened(azure_environment, project) as workspace, pytest.raises(NotAllowed, match="firewall"):
        listed(workspace.run_files("run_1"))


def test_growing_log_is_fetched_at_its_listed_size(azure_environment: StagedWorkspace, project: Path) -> None:
    """Reading it gives everything up to its current end."""
    azure = azure_environment
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


def test_shortened_log_and_changed_file_are_reported_as_changed(azure_environment: StagedWorkspace, project: Path) -> None:
    azure = azure_environment
    run = azure.add_run("run_1", "demo")
    azure.put_artifacts(run, {"outputs/a": b"1", LOG: b"epoch 1\n"})
    sink = Received()
    with opened(azure, project) as workspace:
        store = workspace.run_files("run_1")
        blobs = listed(store)
        azure.put_artifacts(run, {"outputs/a": b"12", LOG: b""})
        store.fetch([FetchRequest(blob, 0, blob.size) for blob in blobs], sink, workers=1)
    assert {name: type(error) for name, error in sink.errors.items()} == {"outputs/a": BlobChanged, LOG: BlobChanged}


def test_expired_links_are_renewed_per_folder_in_one_request(
    stage: Stage, azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure = azure_environment
    azure.put_artifacts(azure.add_run("run_1", "demo"), {f"outputs/{number}": b"1" for number in range(5)})
    azure.state.storage.sas_seconds = 2
    use(azure, monkeypatch, {Right.READ})
    sink = Received()
    with opened(azure, project) as workspace:
        store = workspace.run_files("run_1")
        blobs = listed(store)
        time.sleep(2.1)
        azure.state.storage.sas_seconds = 3600
        stage.log.clear()
        store.fetch([FetchRequest(blob, 0, blob.size) for blob in blobs], sink, workers=2)
    assert (len(sink.md5s), sink.errors) == (5, {})
    assert len(stage.log.find("/contentinfo/")) == 1
    assert all(seen.status == 200 for seen in stage.log.all())


def test_a_list_of_artifacts_that_does_not_end_is_an_error(
    stage: Stage, azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure_environment.add_run("run_1", "demo")
    use(azure_environment, monkeypatch, {Right.READ})
    stage.faults.add(Page('{"value": [], "continuationToken": "again"}', content_type="application/json"), "/prefix/contentinfo/", times=None)
    with opened(azure_environment, project) as workspace, pytest.raises(ServiceFailed, match="does not end"):
        listed(workspace.run_files("run_1"))


@pytest.mark.parametrize(
    "answer",
    [
        "[]",
        '""',
        "{}",
        '{"value": [{}]}',
        '{"value": 1}',
        *(f'{{"value": [{{"path": "a", "contentUri": "{uri}"}}]}}' for uri in ("", "https://[x", "https://host")),
    ],
)
def test_links_of_another_form_are_the_services_failure(
    stage: Stage, azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    azure_environment.add_run("run_1", "demo")
    use(azure_environment, monkeypatch, {Right.READ})
    stage.faults.add(Page(answer, content_type="application/json"), "/prefix/contentinfo/", times=None)
    with opened(azure_environment, project) as workspace, pytest.raises(ServiceFailed):
        listed(workspace.run_files("run_1"))


@pytest.mark.parametrize("name", ["outputs/a.", "outputs/a\\b"])
def test_file_name_without_valid_link_fails_and_leaves_no_file(
    stage: Stage, azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    azure = azure_environment
    run = azure.add_run("run_1", "demo")
    azure.put_artifact(run, "outputs/plain", b"1")
    link = azure.state.storage.blob_link("azureml", f"{run.artifact_prefix}outputs/plain")
    items = [{"path": one, "container": run.data_container_id, "contentUri": link} for one in ("outputs/plain", name)]
    stage.faults.add(Page(json.dumps({"value": items}), content_type="application/json"), "/prefix/contentinfo/", times=None)
    use(azure, monkeypatch, {Right.READ})
    with opened(azure, project) as workspace:
        result = download(workspace.run_files("run_1"), DownloadRequest(project / "out"))
    assert [path.name for path in (project / "out" / "outputs").iterdir()] == ["plain"]
    assert [one.name for one in result.failed] == [name]
    assert str(result.problem()).startswith(f"'{name}' cannot be asked for: Azure Storage ")


def test_fetch_with_wrong_listed_size_raises_blob_changed(azure_environment: StagedWorkspace, project: Path) -> None:
    azure = azure_environment
    azure.put_blob("workspaceblobstore", "a", b"0123456789", md5=False)
    with opened(azure, project) as workspace:
        store = workspace.datastore(None)
        (true,) = listed(store)
        sink = Received()
        store.fetch(iter([FetchRequest(replace(true, size=4), 0, 4, checked_each=4)]), sink, workers=1)
        (error,) = sink.errors.values()
        assert isinstance(error, BlobChanged)
