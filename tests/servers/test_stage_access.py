"""Who may do what at the double: sign-in, tokens, rights."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import time
from datetime import datetime, timedelta, timezone
from urllib.parse import urlencode

import pytest
from azure.storage.blob import generate_container_sas

from tests.servers.asking import ARM, VERSION, ask, sign_in, token_for
from tests.servers.azureml.hosts import CLOUDS
from tests.servers.azureml.principals import Right, make_token
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.servers.azureml.state import new_id

STORAGE = "https://storage.azure.com"
MANAGEMENT_RESOURCES = ["https://management.azure.com", "https://management.core.windows.net/", "https://ml.azure.com"]


def refused(stage: Stage, url: str, token: str) -> str:
    """The code of a 401, which has to come with a challenge."""
    answer = ask(stage, "GET", url, token=token)
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    return str(answer.json["error"]["code"])


def test_secret_gives_token_with_audience_tenant_and_expiry(azure: StagedWorkspace) -> None:
    begun = time.time()
    granted = sign_in(azure.stage, azure.state.principal).json
    ended = time.time()
    body = granted["access_token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert (claims["aud"], claims["tid"], claims["appid"]) == (ARM, azure.state.tenant, azure.state.principal.client_id)
    assert begun - 1 <= claims["exp"] - granted["expires_in"] <= ended + 1


def test_sign_in_is_refused_with_the_services_own_numbers(azure: StagedWorkspace) -> None:
    stage, principal, foreign = azure.stage, azure.state.principal, azure.stage.workspace().state.principal
    assert sign_in(stage, principal, client_secret="wrong").json["error_codes"] == [7000215]
    assert sign_in(stage, principal, client_id=new_id()).json["error_codes"] == [700016]
    assert sign_in(stage, principal, tenant=foreign.tenant).json["error_codes"] == [700016]
    assert sign_in(stage, principal, tenant=new_id()).json["error_codes"] == [90002]
    principal.secret_expired = True
    answer = sign_in(stage, principal)
    assert (answer.status, answer.json["error_codes"]) == (401, [7000222])


@pytest.mark.parametrize("resource", MANAGEMENT_RESOURCES)
def test_the_audiences_that_clients_use_are_accepted(azure: StagedWorkspace, resource: str) -> None:
    assert ask(azure.stage, "GET", ARM + azure.state.path + VERSION, token=token_for(azure.stage, azure.state.principal, resource)).status == 200


def test_tokens_are_really_checked(azure: StagedWorkspace) -> None:
    stage, principal, url = azure.stage, azure.state.principal, ARM + azure.state.path + VERSION
    good = token_for(stage, principal)
    head, body, seal = good.split(".")
    assert refused(stage, url, "") == "AuthenticationFailed"
    assert refused(stage, url, "nonsense") == "InvalidAuthenticationToken"
    assert refused(stage, url, f"{head}.{body}.AAAA") == "InvalidAuthenticationToken"
    assert refused(stage, url, f"{head}.{body[:-4]}AAAA.{seal}") == "InvalidAuthenticationToken"
    assert refused(stage, url, token_for(stage, principal, STORAGE)) == "InvalidAuthenticationTokenAudience"
    assert refused(stage, url, token_for(stage, stage.workspace().state.principal)) == "InvalidAuthenticationTokenTenant"
    principal.token_seconds = -1
    assert refused(stage, url, make_token(principal, ARM)[0]) == "ExpiredAuthenticationToken"
    principal.revoked_before = time.time()
    assert refused(stage, url, good) == "InvalidAuthenticationToken"


def test_a_principal_without_a_role_is_refused(azure: StagedWorkspace) -> None:
    stage = azure.stage
    nobody, reader = azure.add_principal([]), azure.add_principal([Right.READ])
    answer = ask(stage, "GET", ARM + azure.state.path + VERSION, token=token_for(stage, nobody))
    assert (answer.status, answer.json["error"]["code"]) == (403, "AuthorizationFailed")
    assert ask(stage, "GET", ARM + azure.state.path + VERSION, token=token_for(stage, reader)).status == 200
    secrets = f"{ARM}{azure.state.path}/datastores/workspaceblobstore/listSecrets{VERSION}"
    assert ask(stage, "POST", secrets, token=token_for(stage, reader)).status == 403
    assert ask(stage, "POST", secrets, token=token_for(stage, azure.state.principal)).json["key"] == azure.state.storage.key


def test_what_is_not_there_is_named_by_arm_itself(azure: StagedWorkspace) -> None:
    stage, state = azure.stage, azure.state
    token = token_for(stage, state.principal)
    changed = {
        "SubscriptionNotFound": state.path.replace(state.subscription, new_id()),
        "ResourceGroupNotFound": state.path.replace(state.group, "elsewhere"),
        "ResourceNotFound": f"{state.path}x",
    }
    for code, path in changed.items():
        answer = ask(stage, "GET", ARM + path + VERSION, token=token)
        assert (answer.status, answer.json["error"]["code"], answer.headers["x-ms-failure-cause"]) == (404, code, "gateway")
    answer = ask(stage, "GET", f"{ARM}{state.path}/datastores/none{VERSION}", token=token)
    causes = [one["info"]["value"]["code"] for one in answer.json["error"]["additionalInfo"] if one["type"] == "InnerError"]
    assert (answer.status, causes) == (404, ["NotFoundError"])


def test_the_data_plane_has_an_error_form_of_its_own(azure: StagedWorkspace) -> None:
    url = f"https://{azure.state.data_plane_host}/history/v1.0{azure.state.path}/runs/none"
    answer = ask(azure.stage, "GET", url, token=token_for(azure.stage, azure.state.principal))
    assert (answer.status, answer.json["error"]["innerError"]["code"]) == (404, "NotFoundError")


def test_job_token_is_valid_only_on_its_workspace_data_plane(azure: StagedWorkspace) -> None:
    stage, other = azure.stage, azure.stage.workspace()
    token = azure.job_environment(azure.add_run("job_1"))["AZUREML_RUN_TOKEN"]
    assert ask(stage, "GET", f"https://{azure.state.data_plane_host}/history/v1.0{azure.state.path}/runs/job_1", token=token).status == 200
    assert ask(stage, "GET", f"https://{azure.state.data_plane_host}/history/v1.0{other.state.path}/runs/job_1", token=token).status == 403
    assert refused(stage, ARM + azure.state.path + VERSION, token) == "InvalidAuthenticationToken"


def test_managed_identity_gets_token_from_job_endpoint(azure: StagedWorkspace) -> None:
    identity = azure.add_principal()
    environment = azure.identity_environment(identity)
    connection = http.client.HTTPConnection("127.0.0.1", azure.stage.port, timeout=60)
    try:
        connection.request("GET", f"/identity/token?api-version=2017-09-01&resource={ARM}", headers={"secret": environment["MSI_SECRET"]})
        token = json.loads(connection.getresponse().read())["access_token"]
        connection.request("GET", f"/identity/token?resource={ARM}", headers={"secret": "wrong"})
        assert connection.getresponse().status == 400
    finally:
        connection.close()
    assert ask(azure.stage, "GET", ARM + azure.state.path + VERSION, token=token).status == 200


def test_storage_checks_role_of_identity_and_refuses_anonymous(azure: StagedWorkspace) -> None:
    stage, state = azure.stage, azure.state
    azure.put_blob("workspaceblobstore", "a", b"content")
    url, version = state.storage.url(state.default_datastore.container, "a"), {"x-ms-version": "2021-12-02"}
    reader, stranger = azure.add_principal([Right.STORAGE_READ]), azure.add_principal([Right.READ])
    token = token_for(stage, reader, STORAGE)
    assert ask(stage, "GET", url, token=token, headers=version).body == b"content"
    write = ask(stage, "PUT", url, token=token, headers={**version, "x-ms-blob-type": "BlockBlob"}, body=b"new")
    assert (write.status, write.headers["x-ms-error-code"]) == (403, "AuthorizationPermissionMismatch")
    assert ask(stage, "GET", url, token=token_for(stage, stranger, STORAGE), headers=version).status == 403
    assert ask(stage, "GET", url, token=token_for(stage, reader), headers=version).headers["x-ms-error-code"] == "InvalidAuthenticationInfo"
    assert ask(stage, "GET", url).headers["x-ms-error-code"] == "NoAuthenticationInformation"
    assert ask(stage, "GET", url, token=token).status == 403  # identities need a version of the protocol that knows them
    assert azure.get_blob("workspaceblobstore", "a") == b"content"


@pytest.mark.parametrize("cloud", ["AzureUSGovernment", "AzureChinaCloud"])
def test_sovereign_clouds_answer_under_their_own_names(stage: Stage, cloud: str) -> None:
    workspace, hosts = stage.workspace(cloud=cloud), CLOUDS[cloud]
    workspace.put_blob("workspaceblobstore", "a", b"content")
    state = workspace.state
    form = urlencode(
        {
            "grant_type": "client_credentials",
            "client_id": state.principal.client_id,
            "client_secret": state.principal.secret,
            "scope": f"https://{hosts.resource_manager}/.default",
        }
    )
    granted = ask(stage, "POST", f"https://{hosts.logins[0]}/{state.tenant}/oauth2/v2.0/token", body=form.encode()).json
    datastores = f"https://{hosts.resource_manager}{state.path}/datastores/workspaceblobstore{VERSION}"
    assert ask(stage, "GET", datastores, token=granted["access_token"]).json["properties"]["endpoint"] == hosts.blob.removeprefix("blob.")
    link = state.storage.blob_link(state.default_datastore.container, "a")
    assert link.startswith(f"https://{state.storage.account}.{hosts.blob}/")
    assert ask(stage, "GET", link).body == b"content"


def test_long_answers_are_compressed_for_those_who_can_read_it(azure: StagedWorkspace) -> None:
    token, run = token_for(azure.stage, azure.state.principal), azure.add_run("run_1")
    history = f"https://{azure.state.data_plane_host}/history/v1.0{azure.state.path}/runs/{run.run_id}"
    for url, key, value in ((ARM + azure.state.path + VERSION, "name", azure.state.name), (history, "runId", "run_1")):
        answer = ask(azure.stage, "GET", url, token=token, headers={"Accept-Encoding": "gzip"})
        assert (answer.headers["content-encoding"], answer.headers["transfer-encoding"]) == ("gzip", "chunked")
        assert json.loads(gzip.decompress(answer.body))[key] == value
        assert ask(azure.stage, "GET", url, token=token).json[key] == value


def test_https_only_sas_is_accepted_and_changed_one_refused(azure: StagedWorkspace) -> None:
    azure.put_blob("workspaceblobstore", "a b/ü", b"content")
    storage, container = azure.state.storage, azure.state.default_datastore.container
    until = datetime.now(timezone.utc) + timedelta(minutes=5)
    sas = generate_container_sas(storage.account, container, account_key=storage.key, permission="r", expiry=until, protocol="https")
    assert "spr=https" in sas
    url = storage.url(container, "a b/ü")
    assert ask(azure.stage, "GET", f"{url}?{sas}").body == b"content"
    assert ask(azure.stage, "GET", f"{url}?{sas.replace('sp=r&', 'sp=rw&')}").status == 403
    assert ask(azure.stage, "PUT", f"{url}?{sas}", headers={"x-ms-blob-type": "BlockBlob"}, body=b"new").status == 403
