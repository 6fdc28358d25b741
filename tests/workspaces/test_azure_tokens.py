"""Tests of tokens and of himl's cache: lifetimes, separation by account, stronger tokens, and that no secret appears
anywhere.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import platform
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import azure.identity
import pytest
from azure.core.exceptions import ClientAuthenticationError

from himl_cli.core.errors import HimlError, NotAllowed
from himl_cli.workspaces.azure.connection import Connection, DiskCache
from himl_cli.workspaces.azure.credentials import Token, managed_identity
from himl_cli.workspaces.azure.run_history import experiment_name
from himl_cli.workspaces.azure.service_errors import STRONGER, claims_of, reason_of
from tests.azureml_double.faults import Page, Reset, Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.azureml_double.state import Principal, Right
from tests.support.azure import DEFAULT, Az, connected, opened, set_all, sign_ins
from tests.support.folders import files_below
from tests.support.running import Himl
from tests.support.stores import listed


@pytest.mark.large("takes long, and other tests run its branches")
def test_token_is_kept_for_the_next_call_but_not_for_others(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        with connected(azure_environment, project) as connection:
            connection.record(fresh=True)
    assert sign_ins(stage) == 1
    other = azure_environment.add_principal()
    monkeypatch.setenv("HIML_SERVICE_PRINCIPAL_ID", other.client_id)
    monkeypatch.setenv("HIML_SERVICE_PRINCIPAL_PASSWORD", "wrong")
    with connected(azure_environment, project) as connection, pytest.raises(NotAllowed, match="secret is wrong"):
        connection.record(fresh=True)
    monkeypatch.setenv("HIML_SERVICE_PRINCIPAL_PASSWORD", other.secret)
    with connected(azure_environment, project) as connection:
        connection.record(fresh=True)
        assert connection.sign_in().principal == other.client_id


def test_threads_share_one_sign_in_and_one_renewal(
    azure_environment: StagedWorkspace, stage: Stage, project: Path
) -> None:
    with connected(azure_environment, project) as connection, ThreadPoolExecutor(8) as pool:
        scope = connection.address.cloud.management_scope
        tokens = set(pool.map(lambda _: connection.tokens.get(scope), range(40)))
    assert (len(tokens), sign_ins(stage)) == (1, 1)
    azure_environment.state.principal.revoked_before = time.time()
    with connected(azure_environment, project) as connection, ThreadPoolExecutor(8) as pool:
        records = list(pool.map(lambda _: connection.get(connection.arm(), params=API).body, range(16)))
    assert (len(records), sign_ins(stage)) == (16, 2)
    azure_environment.state.principal.revoked_before = time.time() + 3600
    with (
        connected(azure_environment, project) as connection,
        pytest.raises(NotAllowed, match=r"rejected the sign-in by service principal") as caught,
    ):
        connection.record(fresh=True)
    assert (sign_ins(stage), caught.value.exit_code) == (3, 4)


@pytest.mark.large("takes long, and other tests run its branches")
def test_token_is_renewed_before_it_ends_or_taken_from_a_sibling(
    azure_environment: StagedWorkspace, stage: Stage, project: Path
) -> None:
    azure_environment.state.principal.token_seconds = 2
    with connected(azure_environment, project) as connection, connected(azure_environment, project) as other:
        scope, begun = connection.address.cloud.management_scope, time.time()
        first, azure_environment.state.principal.token_seconds = connection.tokens.get(scope), 3600
        assert connection.tokens.get(scope) == first or time.time() > begun + 1, "the same for half of its life"
        time.sleep(1.1)
        assert other.tokens.get(scope) == connection.tokens.get(scope) != first
    assert sign_ins(stage) == 2


def test_token_renews_five_minutes_before_end_or_at_half_life() -> None:
    for life, left in ((86_400, 300), (600, 300), (400, 200)):
        token = Token("s3cr3t", expires=1000 + life, credential="c", obtained=1000)
        assert token.renew_at == 1000 + life - left
        assert "s3cr3t" not in repr(token)
    assert platform.node() in managed_identity("a").identity
    assert managed_identity("a").identity != managed_identity("b").identity


NOBODY = """
import os
from pathlib import Path
import platformdirs
from himl_cli.workspaces.azure.config import PUBLIC
from himl_cli.workspaces.azure.connection import DiskCache
from himl_cli.workspaces.azure.config import azure_settings
from himl_cli.workspaces.azure.credentials import user_sources

settings = azure_settings(Path.cwd())
DiskCache.of_user()  # imports what it needs before the user changes
os.setuid(54321)
kept = DiskCache.of_user()
kept.put("tokens", "k", 1, seconds=60)
print([source.name for source in user_sources(settings, PUBLIC, "s")], kept.get("tokens", "k"), Path("~").exists())
"""


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become a user that nobody knows"
)
@pytest.mark.usefixtures("unsigned")
def test_user_without_home_folder_runs_without_cache() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    outcome = subprocess.run(
        [sys.executable, "-c", NOBODY], env=environment, capture_output=True, text=True, check=False
    )
    assert outcome.stdout == "['environment variables', 'Azure CLI', 'browser and device code'] None False\n", (
        outcome.stderr
    )


@pytest.mark.large("takes long, and other tests run its branches")
def test_valid_token_is_used_with_warning_if_renewal_fails(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for seconds in (2, 30):  # 30 seconds for a machine that is too slow for 2
        ends = time.time() + seconds
        azure_environment.state.principal.token_seconds = seconds
        with connected(azure_environment, project) as connection:
            connection.record(fresh=True)
            time.sleep(seconds / 2 + 0.1)
            stage.faults.add(Status(400, code="no"), "login", times=None)
            with suppress(HimlError):
                connection.record(fresh=True)
                break
        stage.faults.clear()
        assert time.time() > ends - 1  # tokens give their end in whole seconds
        caplog.clear()
    assert any("cannot renew the sign-in" in record.message for record in caplog.records)


SECOND_FACTOR = '{"access_token":{"acrs":{"essential":true,"value":"p1"}}}'
ENCODED = base64.b64encode(SECOND_FACTOR.encode()).decode()
WRITES = frozenset({"PATCH", "PUT", "POST", "DELETE"})


def read(connection: Connection) -> str:
    return str(connection.get(connection.service("history", "/runs/run_1")).body["runId"])


def write(connection: Connection) -> str:
    return str(
        connection.patch(
            connection.service("history", "/experiments/exp/runs/run_1"), json={"displayName": "new"}
        ).body["displayName"]
    )


@pytest.fixture
def workspace(azure_environment: StagedWorkspace) -> StagedWorkspace:
    azure_environment.add_run("run_1", "exp")
    return azure_environment


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_challenge_gets_a_token_with_its_claims_which_is_kept(
    workspace: StagedWorkspace, stage: Stage, project: Path
) -> None:
    with connected(workspace, project) as connection:
        assert read(connection) == "run_1"
    workspace.state.principal.claims_wanted = SECOND_FACTOR
    for _ in range(2):
        with connected(workspace, project) as connection:
            assert read(connection) == "run_1"
            assert write(connection) == "new"
    assert sign_ins(stage) == 2
    assert [seen.status for seen in stage.log.find("runs/run_1")] == [200, 401, 200, 200, 200, 200]


def test_what_the_place_of_sign_in_says_to_the_claims_is_told(workspace: StagedWorkspace, project: Path) -> None:
    principal = workspace.state.principal
    principal.claims_wanted, principal.meets_claims = SECOND_FACTOR, False
    with (
        connected(workspace, project) as connection,
        pytest.raises(NotAllowed, match=r"conditional access rule") as caught,
    ):
        read(connection)
    assert str(caught.value).startswith("Sign-in as service principal ")


def test_a_claim_that_stays_unmet_is_told_as_one(workspace: StagedWorkspace, stage: Stage, project: Path) -> None:
    workspace.state.principal.claims_wanted = SECOND_FACTOR
    with connected(workspace, project) as connection:
        connection.record()
    workspace.state.principal.claims_wanted = '{"access_token":{"nbf":{"value":"1"}},"id_token":{}}'
    challenge = f'Bearer error="insufficient_claims", claims="{ENCODED}"'
    stage.faults.add(
        Status(401, code="InvalidAuthenticationToken", message="x", headers=(("WWW-Authenticate", challenge),)),
        "runs/run_1",
        times=None,
    )
    with (
        connected(workspace, project) as connection,
        pytest.raises(NotAllowed, match=r"requires a stronger sign-in than that by service principal") as caught,
    ):
        read(connection)
    assert "conditional access" in caught.value.hint
    assert len(stage.log.find("runs/run_1")) == 2


def test_claims_challenge_names_the_azure_cli_command(az: Az, workspace: StagedWorkspace, project: Path) -> None:
    principal = workspace.state.principal
    principal.claims_wanted, principal.claims_wanted_by = SECOND_FACTOR, WRITES
    for _ in range(2):
        with connected(workspace, project) as connection:
            assert read(connection) == "run_1"
            with pytest.raises(NotAllowed, match=r"requires a stronger sign-in than that by Azure CLI") as caught:
                write(connection)
            assert f"az login --claims-challenge {ENCODED}" in caught.value.hint
            assert "--scope https://management.azure.com/.default" in caught.value.hint
            assert caught.value.exit_code == 4
            assert read(connection) == "run_1"
    assert len(az.asked) == 1  # the cached token still allows reading


def challenge(claims: str, error: str = "insufficient_claims") -> Mapping[str, str]:
    return {
        "WWW-Authenticate": f'Bearer realm="", authorization_uri="https://login/x", error="{error}", claims="{claims}"'
    }


def test_claims_of_challenges_and_tools_are_read() -> None:
    unusual = base64.urlsafe_b64encode(b'{"access_token":{"x":"\xc3\xbf\xc3\xbf\xc3\xbf>>>???"}}').decode()
    assert claims_of(challenge(ENCODED)) == claims_of(challenge(ENCODED.rstrip("="))) == SECOND_FACTOR
    assert claims_of({"www-authenticate": challenge(ENCODED)["WWW-Authenticate"]}) == SECOND_FACTOR
    assert claims_of(challenge(unusual)) == '{"access_token":{"x":"ÿÿÿ>>>???"}}'
    for headers in (
        challenge(ENCODED, "invalid_token"),
        *(challenge(base64.b64encode(odd).decode()) for odd in (b"\xff\xfe", b"[1")),
    ):
        assert claims_of(headers) == ""
    assert claims_of({"WWW-Authenticate": 'Bearer error="insufficient_claims"'}) == ""
    for credential, command in (
        ("AzureCliCredential", "az login --claims-challenge"),
        ("AzurePowerShellCredential", "Connect-AzAccount -ClaimsChallenge"),
    ):
        with pytest.raises(ClientAuthenticationError) as caught:
            getattr(azure.identity, credential)().get_token(
                "https://management.azure.com/.default", claims=SECOND_FACTOR
            )
        reason = reason_of(caught.value)
        assert reason.text == STRONGER
        assert reason.hint.startswith(f"Run: {command} {ENCODED}")
        assert reason.hint.endswith("or later)")


API = {"api-version": "2024-10-01"}


def tokens_of(connection: Connection) -> list[str]:
    cloud = connection.address.cloud
    found = []
    for scope in (cloud.management_scope, cloud.storage_scope):
        with suppress(HimlError):
            found.append(connection.tokens.get(scope))
    return found


@pytest.mark.large("takes long, and other tests run its branches")
def test_neither_logs_nor_errors_tell_a_secret(
    azure_environment: StagedWorkspace,
    stage: Stage,
    project: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    principal = azure_environment.state.principal
    secrets, told = [principal.secret], []
    boom = Status(500, retry_after=0, code="Boom", message=f"client_secret={principal.secret} was seen")
    for fault in (Reset(), boom, None):
        stage.faults.clear()
        with connected(azure_environment, project) as connection:
            connection.record()
            secrets += tokens_of(connection)
            if fault is None:
                principal.revoked_before = time.time() + 3600
            else:
                stage.faults.add(fault, "management", times=None)
            with pytest.raises(HimlError) as caught:
                connection.get(connection.arm(), params=API)
            told.append(f"{caught.value} {caught.value.hint}")
            secrets += tokens_of(connection)
    monkeypatch.setenv("HIML_SERVICE_PRINCIPAL_PASSWORD", "s3cr3t-and-wrong")
    with connected(azure_environment, project) as connection, pytest.raises(NotAllowed) as refused:
        connection.record(fresh=True)
    told.append(f"{refused.value} {refused.value.hint}")
    everything = "\n".join([*told, caplog.text])
    assert not [secret for secret in [*secrets, "s3cr3t-and-wrong"] if secret in everything]
    heard = {record.name.partition(".")[0] for record in caplog.records}
    assert (heard & {"himl_cli", "azure", "msal", "urllib3"}) == {"himl_cli"}


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("arguments", [("runs", "show", "run_1"), ("doctor",)])
def test_verbose_program_tells_no_password_of_the_proxy(
    azure: StagedWorkspace, himl: Himl, project: Path, arguments: tuple[str, ...]
) -> None:
    azure.write_config(project)
    azure.add_run("run_1", "exp")
    env = azure.environment() | {"HTTPS_PROXY": azure.environment()["HTTPS_PROXY"].replace("://", "://ada:pr0xy-w0rd@")}
    outcome = himl(*arguments, "--verbose", env=env)
    assert "DEBUG himl_cli" in outcome.stderr
    assert "pr0xy-w0rd" not in outcome.stdout + outcome.stderr


POSIX = pytest.mark.skipif(
    sys.platform == "win32", reason="modes are POSIX's; on Windows the profile's access list counts"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "azure"


def test_cached_value_is_shared_until_forgotten_or_expired(folder: Path) -> None:
    DiskCache(folder).put("tokens", "key", {"a": [1, "é"]}, seconds=60)
    kept = DiskCache(folder)
    assert [kept.get("tokens", "key"), kept.get("tokens", "other"), kept.get("records", "key")] == [
        {"a": [1, "é"]},
        None,
        None,
    ]
    [one] = files_below(folder)
    kept.put("tokens", "two", 2, seconds=60)
    two = next(path for path in files_below(folder) if path != one)
    two.write_bytes(one.read_bytes())
    assert kept.get("tokens", "two") is None, "a file of another key is not taken"
    DiskCache(folder).forget("tokens", "key")
    DiskCache(folder).forget("tokens", "key")
    assert kept.get("tokens", "key") is None
    kept.forget("tokens", "two")
    kept.put("tokens", "short", 1, seconds=0.01)
    kept.put("tokens", "never", 1, seconds=-5)
    assert [kept.get("tokens", "never"), len(files_below(folder))] == [None, 1]
    while (left := kept.get("tokens", "short")) is not None:
        assert left == 1
    before = files_below(folder)
    kept.put("tokens", "old", 1, seconds=1e9)
    [old] = set(files_below(folder)) - set(before)
    three_days_ago = time.time() - 3 * 24 * 3600
    os.utime(old, (three_days_ago, three_days_ago))
    DiskCache(folder).put("tokens", "new", 2, seconds=60)
    assert old not in files_below(folder)
    assert kept.get("tokens", "new") == 2


@POSIX
@pytest.mark.parametrize("was_open", [True, False])
def test_nobody_else_may_enter_or_read(folder: Path, was_open: bool) -> None:
    if was_open:
        folder.mkdir(parents=True)
        folder.chmod(0o755)
    DiskCache(folder).put("tokens", "key", "secret", seconds=60)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*")) if path.is_dir()}
    assert modes == {0o700}
    assert [stat.S_IMODE(path.stat().st_mode) for path in files_below(folder)] == [0o600]


@POSIX
def test_a_link_in_place_of_the_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    DiskCache(elsewhere).put("tokens", "key", "planted", seconds=60)
    folder.parent.mkdir(parents=True)
    folder.symlink_to(elsewhere)
    assert DiskCache(folder).get("tokens", "key") is None
    before = [path.read_bytes() for path in files_below(elsewhere)]
    DiskCache(folder).put("tokens", "key", "mine", seconds=60)
    assert [path.read_bytes() for path in files_below(elsewhere)] == before


def test_a_corrupt_file_counts_as_empty_and_is_replaced(folder: Path) -> None:
    kept = DiskCache(folder)
    nested = b"[" * 5000 + b"]" * 5000
    odd = (
        b"",
        b"[]",
        b'{"value": 1}',
        b'{"key": "key", "value": 1, "expires": "soon"}',
        b"\xff\xfe",
        b'{"key": "key", "expires": 9e9, "value": %s}' % nested,
    )
    for content in odd:
        kept.put("tokens", "key", 1, seconds=60)
        [path] = files_below(folder)
        path.write_bytes(content)
        assert kept.get("tokens", "key") is None
    kept.put("tokens", "key", 2, seconds=60)
    assert kept.get("tokens", "key") == 2


def test_a_folder_that_cannot_be_written_is_no_failure(
    folder: Path, tmp_path: Path, read_only: Callable[[Path], Path]
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("in the way")
    folder.parent.mkdir(parents=True)
    read_only(folder.parent)
    for kept in (DiskCache(folder), DiskCache(in_the_way)):
        kept.put("tokens", "key", 1, seconds=60)
        kept.forget("tokens", "key")
        assert kept.get("tokens", "key") is None
    assert in_the_way.read_text() == "in the way"


def test_cache_folder_is_the_users_unless_himl_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, is_kept in {"1": False, "yes": False, "0": True, "": True}.items():
        monkeypatch.setenv("HIML_NO_CACHE", value)
        DiskCache.of_user().put("tokens", f"key {value}", 1, seconds=60)
        assert (DiskCache.of_user().get("tokens", f"key {value}") == 1) is is_kept
    assert ["azure" in path.parts for path in (tmp_path / "home").rglob("*.json") if "himl" in path.parts] == [True] * 2


@pytest.mark.large("starts many writers")
def test_many_writers_and_readers_never_see_half_a_value(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from himl_cli.workspaces.azure.connection import DiskCache;"
        "kept = DiskCache(Path(sys.argv[1])); letter = sys.argv[2];"
        "[kept.put('tokens', 'key', letter * 20000, seconds=60) or kept.get('tokens', 'key') for _ in range(60)]"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(folder), letter]) for letter in "abc"]
    seen = set()
    with ThreadPoolExecutor(2) as pool:
        while any(writer.poll() is None for writer in writers):
            seen |= {
                value
                for value in pool.map(lambda _: DiskCache(folder).get("tokens", "key"), range(20))
                if value is not None
            }
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen <= {letter * 20000 for letter in "abc"}
    assert DiskCache(folder).get("tokens", "key") in {letter * 20000 for letter in "abc"}
    assert len(files_below(folder)) == 1


def names(azure: StagedWorkspace, folder: Path, run: str = "") -> list[str]:
    """Return the names of files of a datastore, or of *run*'s artifacts."""
    with opened(azure, folder) as workspace:
        return [blob.name for blob in listed(workspace.run_files(run) if run else workspace.datastore(DEFAULT))]


@pytest.mark.large("takes long, and other tests run its branches")
def test_cached_storage_is_separate_per_workspace_and_account(
    stage: Stage, azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sign_in(staged: StagedWorkspace, principal: Principal | None = None) -> None:
        set_all(monkeypatch, staged.environment(principal))

    other = stage.workspace()
    for staged, name in ((azure, "ours"), (other, "theirs")):
        staged.put_blob(DEFAULT, name, b"1")
        staged.put_artifacts(staged.add_run("run_1", "demo"), {f"outputs/{name}": b"1"})
    for _ in range(2):
        for staged, name in ((azure, "ours"), (other, "theirs")):
            sign_in(staged)
            assert (names(staged, project), names(staged, project, "run_1")) == ([name], [f"outputs/{name}"])
    assert not stage.log.find("/prefix/contentinfo/")
    sign_in(azure, azure.add_principal({Right.READ}))
    with pytest.raises(NotAllowed, match="your own sign-in"):
        names(azure, project)
    assert names(azure, project, "run_1") == ["outputs/ours"]
    assert stage.log.find("/prefix/contentinfo/")
    stage.log.clear()
    sign_in(azure)
    assert names(azure, project, "run_1") == ["outputs/ours"]
    assert not stage.log.find("/prefix/contentinfo/"), "that another account was refused is not held against this one"


EXPERIMENT = "44444444-5555-6666-7777-888888888888"
KINDS: dict[str, Callable[[Connection], str]] = {
    "tokens": lambda connection: connection.tokens.get(connection.address.cloud.storage_scope),
    "records": lambda connection: connection.record().location,
    "experiments": lambda connection: experiment_name(connection, EXPERIMENT),
}


def answer_with(stage: Stage, word: str) -> None:
    """Make workspaces report the location *word*, and experiments the name *word*."""
    record = {
        "location": word,
        "properties": {"workspaceId": "w", "mlFlowTrackingUri": "azureml://eastus.api.azureml.ms/mlflow"},
    }
    stage.faults.only(Page(json.dumps(record), content_type="application/json"), r"GET management\.", times=None)
    stage.faults.add(
        Page(json.dumps({"name": word}), content_type="application/json"), f"/experimentids/{EXPERIMENT}", times=None
    )


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("kind", list(KINDS))
def test_cache_is_separate_per_account_workspace_and_cloud(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def value_for(variables: Mapping[str, str], **place: str) -> str:
        set_all(monkeypatch, variables)
        with connected(azure_environment, project, **place) as connection:
            return KINDS[kind](connection)

    first = azure_environment.environment()
    tenant = azure_environment.add_principal(tenant="11111111-2222-3333-4444-555555555555")
    accounts = [
        first,
        azure_environment.environment(azure_environment.add_principal()),
        azure_environment.environment(tenant),
    ]
    askers = [
        partial(value_for, variables)
        for variables in [*accounts, {**first, "AZUREML_CURRENT_CLOUD": "AzureUSGovernment"}]
    ]
    if kind != "tokens":  # tokens belong to an account, not to a workspace
        places = {"name": "other", "resource_group": "other", "subscription_id": "99999999-2222-3333-4444-555555555555"}
        askers += [partial(value_for, first, **{name: value}) for name, value in places.items()]
    given = []
    for number, ask in enumerate(askers):
        answer_with(stage, f"what asker {number} is told")
        given.append(ask())
    assert len(set(given)) == len(askers)
    answer_with(stage, "what nobody asks for again")
    assert [ask() for ask in askers] == given, "each is kept"
