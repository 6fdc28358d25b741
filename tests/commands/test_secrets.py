"""No secret appears in any output at --verbose, nor in any file but himl's own cache, whatever a command does and however it fails."""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.azureml.faults import Action, ExpireSas, Reset, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.folders import files_below
from tests.support.running import Himl, Outcome, write_files

JWT = re.compile(rb"eyJ[\w-]{8,}\.[\w-]{4,}")
SIGNATURE = re.compile(rb"[?&]sig=(?!\*\*\*)[^&\s\"']{8,}")

COMMANDS: list[tuple[list[str], int]] = [
    (["doctor"], 0),
    (["workspace", "show"], 0),
    (["runs", "list"], 0),
    (["runs", "show", "train_1_aa"], 0),
    (["runs", "logs", "train_1_aa"], 0),
    (["runs", "tag", "train_1_aa", "a=b"], 0),
    (["runs", "cancel", "train_1_aa"], 0),
    (["runs", "show", "nothing"], 3),
    (["download", "train_1_aa"], 0),
    (["download", "train_1_aa", "--output_key", "model", "--output_dir", "model"], 0),
    (["datastore", "list", "--datastore", "signed"], 0),
    (["datastore", "download", "data", "here", "--datastore", "signed"], 0),
    (["datastore", "upload", "up", "new"], 0),
    (["datastore", "list", "--datastore", "lake"], 0),
    (["datastore", "list", "--datastore", "own"], 0),
    (["datastore", "list", "--datastore", "nope"], 3),
]


@pytest.fixture
def seeded(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure = azure_environment
    azure.write_config(project)
    run = azure.add_run("train_1_aa", "train", error="it failed", status="Failed")
    azure.put_artifacts(run, {"outputs/m.bin": b"m" * 10, "user_logs/std_log.txt": b"log\n"})
    azure.add_output(run, "model", {"m": b"m"})
    for name, credentials in (("signed", "Sas"), ("own", "None"), ("lake", "ServicePrincipal")):
        azure.add_datastore(name, credentials=credentials, kind="AzureDataLakeGen2" if name == "lake" else "AzureBlob")
        azure.put_blob(name, "data/a.txt", b"a")
    write_files(project, {"up/x.txt": b"x"})
    return azure


def secrets_of(azure: StagedWorkspace) -> dict[str, bytes]:
    """What must not be seen, by what it is."""
    lake = azure.state.datastores["lake"].service_principal
    assert lake is not None
    return {"password": azure.state.principal.secret.encode(), "account key": azure.state.storage.key.encode(), "datastore's password": lake.secret.encode()}


def leaks(what: str, content: bytes, azure: StagedWorkspace) -> Iterator[str]:
    """The secrets that *content* holds."""
    yield from (f"{kind} in {what}" for kind, secret in secrets_of(azure).items() if secret in content)
    yield from (f"{kind} in {what}" for kind, shape in (("token", JWT), ("signature", SIGNATURE)) if shape.search(content))


def said(outcome: Outcome) -> bytes:
    return outcome.raw_stdout + outcome.raw_stderr


def files_outside_the_cache(*roots: Path) -> Iterator[Path]:
    cache = cache_folder()
    for root in roots:
        yield from (path for path in files_below(root) if cache not in path.parents)


def cache_folder() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("himl")


def found_in_files(azure: StagedWorkspace, project: Path) -> list[str]:
    return [leak for path in files_outside_the_cache(Path.home(), project) for leak in leaks(str(path), path.read_bytes(), azure)]


def test_the_check_itself_finds_each_kind(seeded: StagedWorkspace) -> None:
    for secret in (*secrets_of(seeded).values(), b"eyJhbGciOiJub25lIn0.eyJhdWQiOiJ4In0.x", b"https://h/c?sv=1&sig=abcdefghijkl%3D"):
        assert list(leaks("x", b"before " + secret + b" after", seeded))
    assert not list(leaks("x", b"https://h/c?sv=1&sig=***", seeded))


def test_no_secret_is_said_or_written(himl: Himl, seeded: StagedWorkspace, project: Path) -> None:
    found: list[str] = []
    for command, code in COMMANDS:
        outcome = himl(*command, "--verbose")
        assert outcome.code == code, (command, outcome.stderr)
        assert outcome.stderr, "nothing was logged"
        found += leaks(" ".join(command), said(outcome), seeded)
    assert found + found_in_files(seeded, project) == []


FAULTS: dict[str, tuple[Action, str]] = {
    "refused": (Status(403, code="AuthorizationFailure"), ""),
    "rejected": (Status(401, code="InvalidAuthenticationToken"), "api.azureml.ms|management"),
    "busy": (Status(429, retry_after=0), ""),
    "broken": (Status(500), ""),
    "signature expired": (ExpireSas(), "comp=list|outputs"),
    "reset": (Reset(), "api.azureml.ms|blob"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("form", ["--verbose", "--json"])
def test_no_secret_is_said_or_written_when_things_fail(himl: Himl, seeded: StagedWorkspace, project: Path, fault: str, form: str) -> None:
    action, match = FAULTS[fault]
    seeded.stage.faults.add(action, match, times=None)
    outcome = himl("download", "train_1_aa", form)
    assert outcome.code != 0
    assert [*leaks(fault, said(outcome), seeded), *found_in_files(seeded, project)] == []


def test_a_wrong_password_is_not_repeated(himl: Himl, seeded: StagedWorkspace) -> None:
    marked = "wrong~MARKED0123456789abcdef"
    outcome = himl("runs", "list", "--verbose", env={"HIML_SERVICE_PRINCIPAL_PASSWORD": marked})
    assert outcome.code == 4
    assert marked.encode() not in said(outcome)
    assert [*leaks("a wrong password", said(outcome), seeded)] == []


@pytest.mark.skipif(sys.platform == "win32", reason="the access list of the user's profile protects it there")
def test_the_cache_is_the_users_alone_and_has_no_key_or_password(himl: Himl, seeded: StagedWorkspace) -> None:
    himl.ok("download", "train_1_aa")
    himl.ok("datastore", "list", "--datastore", "signed")
    himl.ok("datastore", "list", "--datastore", "lake")
    kept = files_below(cache_folder())
    assert kept
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    assert {stat.S_IMODE(folder.stat().st_mode) for path in kept for folder in path.parents if cache_folder() in folder.parents} == {0o700}
    content = b"".join(path.read_bytes() for path in kept)
    assert [kind for kind, secret in secrets_of(seeded).items() if secret in content] == []


@pytest.mark.parametrize("form", ["--verbose", "--json"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "train.py", "--api_key", "HIDDEN"),
        ("submit", "train.py", "--lr", "1", "--my_pass", "HIDDEN", "--epochs", "5"),
        ("submit", "train.py", "--env_var", "=HIDDEN"),
        ("submit", "train.py", "--env_var", "HIDDEN"),
    ],
)
def test_usage_error_does_not_repeat_secret_arguments(himl: Himl, project: Path, arguments: tuple[str, ...], form: str) -> None:
    write_files(project, {"train.py": ""})
    outcome = himl(*arguments, form)
    assert outcome.code == 2
    assert "HIDDEN" not in outcome.stdout + outcome.stderr
    assert "hint" in outcome.stderr


@pytest.mark.parametrize("form", ["--verbose", "--json"])
@pytest.mark.parametrize(
    "value", ["*HIDDEN", "!HIDDEN x", "!h!HIDDEN x", "&HIDDEN x\n  b: &HIDDEN y\n  c: [", "'HIDDEN", "[HIDDEN", "HIDDEN: x", "!x\n    HIDDEN", "@HIDDEN"]
)
def test_settings_file_error_does_not_repeat_secret_values(himl: Himl, project: Path, value: str, form: str) -> None:
    write_files(project, {"settings.yml": f"variables:\n  tenant_id: t\n  application_key: {value}\n"})
    outcome = himl("init", "--from", "settings.yml", form)
    assert outcome.code == 2
    assert "HIDDEN" not in outcome.stdout + outcome.stderr
    assert "settings.yml', line 3: " in outcome.stderr or "settings.yml', line 4: " in outcome.stderr or "settings.yml', line 5: " in outcome.stderr
