"""The parts of the stage that no client proves: unknown requests, valid tokens and signatures, secrets in the log,
names of blobs, and the effect of each fault.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import subprocess
import sys
import time
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import pytest
from azure.storage.blob import generate_container_sas

from tests.azureml_double import faults
from tests.azureml_double.seeding import DEFAULT, StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.azureml_double.state import Right, make_token, new_id
from tests.azureml_double.storage import Storage
from tests.azureml_double.tests.asking import ARM, VERSION, ask, call, data_plane, token_for
from tests.support.processes import MARK, processes_marked

ROOT = Path(__file__).resolve().parents[3]
STORAGE = "https://storage.azure.com"
BODY = bytes(range(256)) * 400
BLOCK_BLOB = {"x-ms-blob-type": "BlockBlob"}


def test_workspaces_are_apart_and_gone_after_the_test(stage: Stage) -> None:
    with stage.own_workspaces():
        one, other = stage.workspace(), stage.workspace()
        for workspace, content in ((one, b"first"), (other, b"second")):
            workspace.put_artifact(workspace.add_run("the_same_id"), "outputs/a", content)
        assert one.get_blob("workspaceartifactstore", "ExperimentRun/dcid.the_same_id/outputs/a") == b"first"
        token = token_for(stage, one.state.principal)
        assert ask(stage, "GET", f"{ARM}{one.state.path.upper()}{VERSION}", token=token).json["name"] == one.state.name
    assert ask(stage, "GET", ARM + one.state.path + VERSION, token=token).status == 401
    with pytest.raises(OSError, match="502"):
        ask(stage, "GET", f"https://{one.state.storage.host}/")
    assert stage.log.unknown() == [], "an interrupted client can be that late"
    emptied = Storage(one.state.storage.account, one.state.storage.key, stage.azurite)
    assert list(emptied.client.list_containers()) == []
    emptied.close()


def test_unknown_requests_methods_and_hosts_are_noticed(azure: StagedWorkspace) -> None:
    stage, token = azure.stage, token_for(azure.stage, azure.state.principal)
    for host in ("example.com", "nobody.blob.core.windows.net", "ml.azure.com"):
        with pytest.raises(OSError, match="502"):
            ask(stage, "GET", f"https://{host}/")
        stage.log.expect_unknown(f"^CONNECT {host}")
    assert stage.log.unknown() == []
    assert ask(stage, "GET", f"{ARM}{azure.state.path}/unheardOf{VERSION}", token=token).status == 404
    assert data_plane(azure, "GET", "history/v1.0", "/unheardOf").status == 404
    assert ask(stage, "DELETE", f"{ARM}{azure.state.path}{VERSION}", token=token).status == 405
    assert len(stage.log.unknown()) == 3
    stage.log.expect_unknown("unheardOf")
    stage.log.expect_unknown("^DELETE")


def test_unknown_request_fails_the_test_that_made_it(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_inner.py").write_text("""
from tests.azureml_double.tests.asking import ask

def test_asks_what_nobody_plays(stage):
    ask(stage, "GET", "https://management.azure.com/nothing")

def test_asks_nothing(stage):
    pass
""")
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--rootdir",
        str(tmp_path),
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "2 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "requests that the double does not play: ['GET management.azure.com/nothing -> 404" in done.stdout


def test_requests_are_logged_with_sizes_and_without_secrets(azure: StagedWorkspace) -> None:
    stage = azure.stage
    azure.put_blob(DEFAULT, "a b.bin", b"x" * 1000)
    link = azure.state.storage.blob_link(azure.state.default_datastore.container, "a b.bin", permissions="rw")
    assert ask(stage, "GET", link).body == b"x" * 1000
    ask(stage, "PUT", link, headers=BLOCK_BLOB, body=b"y" * 300)
    down, up = stage.log.find(r"/a b\.bin")
    assert (down.method, down.status, down.received, down.sent) == ("GET", 200, 1000, 0)
    assert (up.method, up.status, up.sent) == ("PUT", 201, 300)
    token = token_for(stage, azure.state.principal)
    ask(stage, "GET", ARM + azure.state.path + VERSION, token=token)
    text = repr([vars(seen) for seen in stage.log.all()])
    assert all(secret not in text for secret in (link.partition("sig=")[2], token, azure.state.principal.secret))


@pytest.mark.skipif(sys.platform == "win32", reason="finds processes by /proc")
@pytest.mark.parametrize("is_killed", [False, True])
def test_program_prints_variables_and_leaves_no_emulator(tmp_path: Path, is_killed: bool) -> None:
    command = [sys.executable, "-m", "tests.azureml_double", "--runs", "5", "--env_file", str(tmp_path / "env")]
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, MARK: mark}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = list(iter(process.stdout.readline, "# The double of Azure ML is running; Ctrl-C ends it.\n"))
        names = {line.removeprefix("export ").partition("=")[0] for line in lines}
        assert len(processes_marked(mark, patience=0)) >= 2
        if is_killed:
            process.kill()
        else:
            process.terminate()
            _, errors = process.communicate(timeout=100)
            assert (process.returncode, errors) == (0, "")
    assert {"HTTPS_PROXY", "REQUESTS_CA_BUNDLE", "HIML_WORKSPACE_NAME", "HIML_SERVICE_PRINCIPAL_PASSWORD"} <= names
    assert (tmp_path / "env").read_text() == "".join(lines)
    assert processes_marked(mark, patience=60) == []


def test_tokens_are_really_checked(azure: StagedWorkspace) -> None:
    stage, principal, url = azure.stage, azure.state.principal, ARM + azure.state.path + VERSION

    def refused(token: str) -> str:
        answer = ask(stage, "GET", url, token=token)
        assert (answer.status, answer.headers["www-authenticate"][:7]) == (401, "Bearer ")
        return str(answer.json["error"]["code"])

    good = token_for(stage, principal)
    head, body, seal = good.split(".")
    assert [refused(token) for token in ("nonsense", f"{head}.{body}.AAAA", f"{head}.{body[:-4]}AAAA.{seal}")] == [
        "InvalidAuthenticationToken"
    ] * 3
    assert refused("") == "AuthenticationFailed"
    assert refused(token_for(stage, principal, STORAGE)) == "InvalidAuthenticationTokenAudience"
    assert refused(token_for(stage, stage.workspace().state.principal)) == "InvalidAuthenticationTokenTenant"
    for resource in ("https://management.core.windows.net/", "https://ml.azure.com"):
        assert ask(stage, "GET", url, token=token_for(stage, principal, resource)).status == 200
    run_token = azure.job_environment(azure.add_run("job_1"))["AZUREML_RUN_TOKEN"]
    other = f"https://{azure.state.data_plane_host}/history/v1.0{stage.workspace().state.path}/runs/job_1"
    assert ask(stage, "GET", other, token=run_token).status == 403
    assert refused(run_token) == "InvalidAuthenticationToken"
    principal.token_seconds = -1
    assert refused(make_token(principal, ARM)[0]) == "ExpiredAuthenticationToken"
    principal.revoked_before = time.time()
    assert refused(good) == "InvalidAuthenticationToken"


def test_what_is_not_there_or_was_never_published_is_refused(azure: StagedWorkspace) -> None:
    state, token = azure.state, token_for(azure.stage, azure.state.principal)
    for path, version, status, code in (
        (state.path.replace(state.subscription, new_id()), VERSION, 404, "SubscriptionNotFound"),
        (state.path.replace(state.group, "elsewhere"), VERSION, 404, "ResourceGroupNotFound"),
        (f"{state.path}x", VERSION, 404, "ResourceNotFound"),
        (f"{state.path}/data", "?api-version=2020-06-01", 400, "NoRegisteredProviderFound"),
        (f"{state.path}/jobs", "?api-version=", 400, "MissingApiVersionParameter"),
        (f"{state.path}/computes/cpu-cluster", "?api-version=2020-06-01", 200, None),
    ):
        answer = ask(azure.stage, "GET", ARM + path + version, token=token)
        assert (answer.status, answer.json.get("error", {}).get("code")) == (status, code)


def test_secrets_have_the_rights_that_were_recorded(azure: StagedWorkspace) -> None:
    azure.put_blob(DEFAULT, "a", b"content")
    secret = f"/datastores/{DEFAULT}/listSecrets{VERSION}"
    assert call(azure, "POST", secret, {"expirableSecret": False}).json == {
        "secretsType": "AccountKey",
        "key": azure.state.storage.key,
    }
    sas = call(azure, "POST", secret, {"expirableSecret": True, "expireAfterHours": 1}).json["sasToken"]
    terms = parse_qs(sas[1:])
    assert (sas[0], terms["srt"], terms["ss"], terms["sp"], "st" in terms) == ("?", ["co"], ["bf"], ["rcuwdl"], False)
    assert (
        ask(azure.stage, "GET", azure.state.storage.url(azure.state.default_datastore.container, "a") + sas).body
        == b"content"
    )
    place = call(azure, "POST", f"/codes/{uuid.uuid4()}/versions/1/startPendingUpload{VERSION}", {}).json[
        "blobReferenceForConsumption"
    ]
    container, _, sas = place["credential"]["sasUri"].partition("?")
    assert {name: parse_qs(sas)[name] for name in ("sr", "sp")} == {"sr": ["c"], "sp": ["rcwl"]}
    azure.state.storage.takes_keys = False
    assert ask(azure.stage, "PUT", f"{container}/a?{sas}", headers=BLOCK_BLOB, body=b"new").status == 201, (
        "it is no signature by the key"
    )


def test_jobs_have_the_members_of_their_version_and_limits(azure: StagedWorkspace) -> None:
    azure.state.register("environments", "e", "1", {"image": "x", "isAnonymous": False, "isArchived": False})
    form = {"jobType": "Command", "command": "true", "environmentId": f"{azure.state.path}/environments/e/versions/1"}
    output = {"jobOutputType": "uri_folder", "assetName": "a"}
    told = "Could not find member 'assetVersion' on object of type 'UriFolderJobOutput'."
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"outputs": {"o": output}}, "2025-01-01-preview", ""),
        ({"outputs": {"o": output | {"assetVersion": "1"}}}, "2025-01-01-preview", told),
        ({"outputs": {"o": output | {"assetVersion": "1"}}}, "2024-10-01", told),
        ({"outputs": {"o": output | {"assetVersion": "1"}}}, "2024-01-01-preview", ""),
        ({"none": 1}, "2024-10-01", "Could not find member 'none' on object of type 'CommandJob'."),
        (
            {"resources": {"none": 1}},
            "2024-10-01",
            "Could not find member 'none' on object of type 'JobResourceConfiguration'.",
        ),
        ({"tags": {f"t{number}": "" for number in range(51)}}, "2024-10-01", "at most 50 tags"),
        ({"tags": {"t": "x" * 1001}}, "2024-10-01", "too long"),
        ({"tags": {"x" * 101: "t"}}, "2024-10-01", "too long"),
        ({"displayName": "x" * 257}, "2024-10-01", "too long"),
        ({"experimentName": "my runs"}, "2024-10-01", "Experiment name must be"),
        ({"tags": {"x" * 100: "t" * 1000}, "displayName": "x" * 256}, "2024-10-01", ""),
    ]
    for number, (more, version, reason) in enumerate(cases):
        answer = call(azure, "PUT", f"/jobs/job_{number}?api-version={version}", {"properties": form | more})
        assert (answer.status, reason in answer.body.decode()) == (400 if reason else 201, True), more
        assert not reason.startswith("Could") or reason not in answer.json["error"]["message"], (
            "only the details name it"
        )
    pipeline = {"jobType": "Pipeline", "experimentName": "my runs", "jobs": {}}
    assert (
        "Experiment name" not in call(azure, "PUT", f"/jobs/pipeline{VERSION}", {"properties": pipeline}).body.decode()
    )
    folder = f"https://{azure.state.storage.host}/{azure.state.default_datastore.container}/context/"
    for number, size in enumerate((1 << 20, 1)):
        azure.put_blob(DEFAULT, f"context/{number}", bytes(size))
        body = {
            "properties": {
                "build": {"contextUri": folder, "dockerfilePath": "Dockerfile"},
                "isAnonymous": False,
                "isArchived": False,
            }
        }
        assert call(azure, "PUT", f"/environments/e/versions/{number + 2}{VERSION}", body).status == (201, 400)[number]


def test_searches_and_metrics_have_reported_and_documented_limits(azure: StagedWorkspace) -> None:
    run = azure.add_run("run_1", "demo")
    given = {"experiment_ids": [run.experiment.experiment_id]}
    for is_short, more, status in (
        (False, {"filter": "tags.a = '1' OR tags.b = '2'"}, 400),
        (False, {"max_results": 1000}, 200),
        (True, {"max_results": 1000}, 400),
        (True, {"max_results": 999}, 200),
    ):
        azure.state.short_searches = is_short
        found = data_plane(azure, "POST", "mlflow/v2.0", "/api/2.0/mlflow/runs/search", {**given, **more})
        assert found.status == status, more
    for rows, text, status, errors in (
        (251, "x", 400, None),
        (250, "x", 200, 0),
        (1, "x" * 256, 200, 1),
        (1, "x" * 255, 200, 0),
    ):
        form = {"name": "note", "columns": {"note": "string"}, "value": [{"data": {"note": text}}] * rows}
        answer = data_plane(azure, "POST", "metric/v2.0", "/runs/run_1/batch", {"values": [form], "reportErrors": True})
        assert (answer.status, len(answer.json["errors"]) if errors is not None else None) == (status, errors)


def test_searches_that_need_no_mlflow_find_what_its_library_finds(azure: StagedWorkspace) -> None:
    """MLflow's library evaluates the second spelling of each pair."""
    for number, experiment in enumerate(("demo", "demo", "other", "demo", "last")):
        azure.add_run(f"run_{number}", experiment)

    everywhere = {"experiment_ids": [each.experiment_id for each in azure.state.experiments.values()]}

    def found(what: str, text: str) -> Any:
        return data_plane(
            azure, "POST", "mlflow/v2.0", f"/api/2.0/mlflow/{what}/search", {"filter": text, **everywhere}
        ).json[what]

    for what, count, own, theirs in (
        ("runs", 2, "attributes.run_id IN ('run_3','run_2')", "attributes.run_id IN ('run_3',  'run_2')"),
        ("runs", 1, "attributes.run_id IN ('run_0')", "attributes.run_id = 'run_0'"),
        ("experiments", 3, "", "name LIKE '%'"),
    ):
        assert (len(found(what, own)), found(what, own)) == (count, found(what, theirs))


def test_resource_manager_counts_requests_of_each_principal(azure: StagedWorkspace) -> None:
    reads = [call(azure, "GET", f"/computes{VERSION}") for _ in range(2)]
    left = [int(answer.headers["x-ms-ratelimit-remaining-subscription-reads"]) for answer in reads]
    assert left[0] == 249
    client = azure.state.principal.client_id
    azure.stage.azure.buckets[client, "reads"] = -1e9, time.monotonic()
    answer = call(azure, "GET", f"/computes{VERSION}")
    assert (answer.status, answer.headers["retry-after"], answer.json["error"]["code"]) == (
        429,
        "1",
        "SubscriptionRequestsThrottled",
    )
    assert (
        call(azure, "POST", f"/datastores/{DEFAULT}/listSecrets{VERSION}", {}).headers[
            "x-ms-ratelimit-remaining-subscription-writes"
        ]
        == "199"
    )


def test_storage_checks_role_of_identity_and_refuses_anonymous(azure: StagedWorkspace) -> None:
    stage, state = azure.stage, azure.state
    azure.put_blob(DEFAULT, "a", b"content")
    url, version = state.storage.url(state.default_datastore.container, "a"), {"x-ms-version": "2021-12-02"}
    reader, stranger = azure.add_principal([Right.STORAGE_READ]), azure.add_principal([Right.READ])
    token = token_for(stage, reader, STORAGE)
    assert ask(stage, "GET", url, token=token, headers=version).body == b"content"
    write = ask(stage, "PUT", url, token=token, headers={**version, **BLOCK_BLOB}, body=b"new")
    assert (write.status, write.headers["x-ms-error-code"]) == (403, "AuthorizationPermissionMismatch")
    assert ask(stage, "GET", url, token=token_for(stage, stranger, STORAGE), headers=version).status == 403
    assert (
        ask(stage, "GET", url, token=token_for(stage, reader), headers=version).headers["x-ms-error-code"]
        == "InvalidAuthenticationInfo"
    )
    assert ask(stage, "GET", url).headers["x-ms-error-code"] == "NoAuthenticationInformation"
    # Identities need a newer version of the protocol.
    assert ask(stage, "GET", url, token=token).status == 403
    assert azure.get_blob(DEFAULT, "a") == b"content"


def test_https_only_sas_is_accepted_and_changed_one_refused(azure: StagedWorkspace) -> None:
    azure.put_blob(DEFAULT, "a b/ü", b"content")
    storage, container = azure.state.storage, azure.state.default_datastore.container
    end = datetime.now(timezone.utc) + timedelta(minutes=5)
    sas = generate_container_sas(
        storage.account, container, account_key=storage.key, permission="r", expiry=end, protocol="https"
    )
    url = storage.url(container, "a b/ü")
    assert ask(azure.stage, "GET", f"{url}?{sas}").body == b"content"
    assert ask(azure.stage, "GET", f"{url}?{sas.replace('sp=r&', 'sp=rw&')}").status == 403
    assert ask(azure.stage, "PUT", f"{url}?{sas}", headers=BLOCK_BLOB, body=b"new").status == 403


def test_names_of_blobs_are_as_azure_storage_has_them(azure: StagedWorkspace) -> None:
    storage, container = azure.state.storage, azure.state.default_datastore.container
    sas, expected = (
        storage.container_sas(container, permissions="rcwl"),
        {"file...": "file", "dir./x.y": "dir/x.y", "a%5Cb": "a/b", "a%25/b%3F.": "a%/b?"},
    )
    for sent in (*expected, "a%01b", "a/b%7F", "/".join("a" * 255)):
        url = f"https://{storage.host}/{container}/{quote(sent, safe='/%')}?{sas}"
        assert ask(azure.stage, "PUT", url, headers=BLOCK_BLOB, body=b"new").status == (
            201 if sent in expected else 400
        )
    assert azure.blob_names(DEFAULT) == sorted(expected.values())


@pytest.fixture
def link(azure: StagedWorkspace) -> str:
    """A signed link to a blob that contains BODY."""
    azure.put_blob(DEFAULT, "blob", BODY)
    return azure.state.storage.blob_link(azure.state.default_datastore.container, "blob", permissions="rcw")


@pytest.mark.parametrize(("fault", "is_orderly"), [(faults.Truncate(1234), True), (faults.Reset(1234), False)])
def test_an_answer_breaks_off_within_its_body(
    azure: StagedWorkspace, link: str, fault: faults.Action, is_orderly: bool
) -> None:
    azure.stage.faults.add(fault, "/blob")
    host, path = azure.state.storage.host, link.removeprefix(f"https://{azure.state.storage.host}")
    context, broken = ssl.create_default_context(cafile=str(azure.stage.ca_file)), False
    with socket.create_connection(("127.0.0.1", azure.stage.port), timeout=60) as plain:
        plain.sendall(f"CONNECT {host}:443 HTTP/1.1\r\n\r\n".encode())
        assert plain.recv(1000).startswith(b"HTTP/1.1 200")
        with context.wrap_socket(plain, server_hostname=host, suppress_ragged_eofs=False) as secure:
            secure.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            try:
                while secure.recv(65536):
                    pass
            except (ssl.SSLEOFError, ConnectionResetError):
                broken = True
    assert (broken, azure.stage.log.find("/blob")[0].received) == (not is_orderly, 1234)


def test_uploads_break_before_or_after_they_are_carried_out(azure: StagedWorkspace, link: str) -> None:
    for fault, content, found in (
        (faults.ResetUpload(1_000_000), bytes(8_000_000), BODY),
        (faults.Reset(), b"new", b"new"),
    ):
        azure.stage.faults.add(fault, "^PUT")
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(azure.stage, "PUT", link, headers=BLOCK_BLOB, body=content)
        assert azure.get_blob(DEFAULT, "blob") == found


@pytest.mark.parametrize(
    "fault", [faults.Stall(0.2), faults.Stall(0.2, after=100), faults.Latency(0.2), faults.Drip(len(BODY) * 5)]
)
def test_a_slow_answer_is_whole_all_the_same(azure: StagedWorkspace, link: str, fault: faults.Action) -> None:
    azure.stage.faults.add(fault, "/blob")
    begun = time.monotonic()
    assert ask(azure.stage, "GET", link).body == BODY
    assert time.monotonic() - begun >= 0.14
