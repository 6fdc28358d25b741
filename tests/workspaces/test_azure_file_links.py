"""Links to one file of a run: what they open and what not, by which key they are signed, and what is done where there is none."""

from __future__ import annotations

import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.storage.blob import BlobClient, BlobServiceClient, generate_blob_sas

from himl_cli.core.errors import NotAllowed, NotFound, RunNotFound
from himl_cli.core.runs import SignedLink
from tests.servers.azureml.faults import WrongDate
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import opened, opened_in_job, use
from tests.support.folders import contents

BEST, LAST = "outputs/checkpoints/best epoch=3+.ckpt", "outputs/checkpoints/last.ckpt"
SOON = 1.5 / 86400


@pytest.fixture
def run(azure_environment: StagedWorkspace) -> str:
    run = azure_environment.add_run("train_1_aa", "train")
    azure_environment.put_artifacts(run, {BEST: b"best", LAST: b"last"})
    return run.run_id


def link(azure: StagedWorkspace, folder: Path, run: str, name: str = BEST, days: float = 10) -> SignedLink:
    with opened(azure, folder) as workspace:
        return workspace.link(run, name, days=days)


def asked(url: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body, as anybody gets them who only has the link."""
    request = urllib.request.Request(url, body, {"x-ms-blob-type": "BlockBlob"} if body else {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except HTTPError as err:
        with err:
            return err.code, b""


def terms(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query)


def is_about(moment: datetime, days: float) -> bool:
    return abs(moment - datetime.now(timezone.utc) - timedelta(days=days)) < timedelta(minutes=2)


def test_it_opens_that_one_file_for_reading_and_nothing_else(azure: StagedWorkspace, project: Path, run: str) -> None:
    found = link(azure, project, run)
    assert asked(found.url) == (200, b"best")
    assert {name: terms(found.url)[name] for name in ("sr", "sp", "spr")} == {"sr": ["b"], "sp": ["r"], "spr": ["https"]}
    assert is_about(found.expires, 10 - 15 / 1440), "ten days in all: it began a quarter of an hour ago"
    assert terms(found.url)["st"][0] < (datetime.now(timezone.utc) - timedelta(minutes=4)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for other in (found.url.replace("best%20epoch%3D3%2B", "last"), found.url.replace(urlsplit(found.url).path, "/azureml") + "&restype=container&comp=list"):
        assert other != found.url
        assert asked(other)[0] == 403
    assert asked(found.url, "PUT", b"other")[0] == 403
    assert asked(found.url, "DELETE")[0] == 403
    assert azure.artifacts(run)[BEST] == b"best"


def test_what_may_be_read_of_it_is_kept_nowhere(azure: StagedWorkspace, project: Path, run: str, tmp_path: Path) -> None:
    signature = terms(link(azure, project, run).url)["sig"][0]
    written = [*contents(tmp_path).values()]
    assert written
    assert not any(secret.encode() in content for content in written for secret in (azure.state.storage.key, signature))


@pytest.mark.parametrize("takes_keys", [True, False])
def test_when_its_time_is_over_it_opens_nothing(azure: StagedWorkspace, project: Path, run: str, takes_keys: bool) -> None:
    azure.state.storage.takes_keys = takes_keys
    found = link(azure, project, run, days=SOON)
    assert is_about(found.expires, 0)
    while datetime.now(timezone.utc) <= found.expires:
        assert asked(found.url)[0] in (200, 403)
    assert asked(found.url)[0] == 403


@pytest.mark.parametrize("why", ["the account takes no keys", "its secret may not be read", "it is registered without one", "it is registered with a SAS"])
def test_link_without_account_key_is_signed_by_user_for_a_week(
    azure: StagedWorkspace, project: Path, run: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "the account takes no keys":
        azure.state.storage.takes_keys = False
    elif why == "its secret may not be read":
        use(azure, monkeypatch, {Right.READ, Right.STORAGE_READ})
    else:
        azure.state.datastores["workspaceartifactstore"].credentials = "None" if "without" in why else "Sas"
    found = link(azure, project, run)
    assert asked(found.url) == (200, b"best")
    assert (terms(found.url)["sr"], terms(found.url)["sp"], "skoid" in terms(found.url)) == (["b"], ["r"], True)
    assert is_about(found.expires, 7 - 15 / 1440)
    assert asked(found.url.replace("best%20epoch%3D3%2B", "last"))[0] == 403
    assert asked(found.url, "PUT", b"other")[0] == 403


def test_in_a_job_the_run_token_is_enough(azure: StagedWorkspace, project: Path, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in azure.environment():
        if name.startswith(("HIML_", "AZURE_")):
            monkeypatch.delenv(name)
    for name, value in azure.job_environment(azure.add_run("job_1_aa", "train", status="Running")).items():
        monkeypatch.setenv(name, value)
    with opened_in_job(project) as workspace:
        assert asked(workspace.link(run, BEST, days=1).url) == (200, b"best")


@pytest.mark.parametrize("credentials", ["AccountKey", "Sas"])
def test_who_may_sign_nothing_gets_the_services_own_link(
    azure: StagedWorkspace, project: Path, run: str, credentials: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.state.datastores["workspaceartifactstore"].credentials = credentials
    use(azure, monkeypatch, {Right.READ})
    found = link(azure, project, run)
    assert asked(found.url) == (200, b"best")
    assert is_about(found.expires, 8 / 24)
    with opened(azure, project) as workspace, pytest.raises(NotAllowed, match="own sign-in") as caught:  # it would be good for longer than was asked for
        workspace.link(run, BEST, days=0.1)
    assert "on the storage account; if you have it on the container alone, for 'Storage Blob Delegator'" in caught.value.hint


def test_a_sas_of_the_datastore_is_never_given_away(azure: StagedWorkspace, project: Path, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    azure.state.datastores["workspaceartifactstore"].credentials = "Sas"
    use(azure, monkeypatch, {Right.READ, Right.SECRETS})
    with opened(azure, project) as workspace, pytest.raises(NotAllowed, match="is not given away: it opens all of its container"):
        workspace.link(run, BEST, days=0.1)


@pytest.mark.parametrize("takes_keys", [True, False])
@pytest.mark.parametrize("name", ["outputs/checkpoints/none.ckpt", "outputs/../outputs", "outputs/checkpoints"])
def test_there_is_none_to_what_is_no_file(azure: StagedWorkspace, project: Path, run: str, name: str, takes_keys: bool) -> None:
    azure.state.storage.takes_keys = takes_keys
    with opened(azure, project) as workspace:
        with pytest.raises(NotFound, match="No file"):
            workspace.link(run, name, days=1)
        with pytest.raises(RunNotFound):
            workspace.link("nothing", name, days=1)


def test_a_clock_that_is_far_off_is_said(azure: StagedWorkspace, project: Path, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(azure, monkeypatch, {Right.READ, Right.SECRETS})
    azure.state.storage.is_open = False
    azure.stage.faults.add(WrongDate(-7200), "HEAD ", times=None)
    azure.state.storage.sas_seconds = 30 * 86400
    with opened(azure, project) as workspace, pytest.raises(NotAllowed, match="clock is 2 hours ahead of"):
        workspace.link(run, BEST, days=1)


def test_fake_storage_user_delegation_key_signs_valid_sas(azure: StagedWorkspace, run: str) -> None:
    """The vendor's own client asks for one, and what it signs with it opens a file."""
    from azure.identity import ClientSecretCredential

    principal, storage = azure.state.principal, azure.state.storage
    now = datetime.now(timezone.utc)
    blob = f"ExperimentRun/dcid.{run}/{LAST}"
    with (
        ClientSecretCredential(principal.tenant, principal.client_id, principal.secret) as credential,
        BlobServiceClient(f"https://{storage.host}", credential=credential) as client,
    ):
        key = client.get_user_delegation_key(now - timedelta(minutes=5), now + timedelta(hours=1))
    sas = generate_blob_sas(storage.account, "azureml", blob, user_delegation_key=key, permission="r", expiry=now + timedelta(minutes=30))
    with BlobClient(f"https://{storage.host}", "azureml", blob, credential=sas) as there:
        assert there.download_blob().readall() == b"last"
    principal.rights.discard(Right.STORAGE_READ)
    assert asked(f"{storage.url('azureml', blob)}?{sas}")[0] == 403
