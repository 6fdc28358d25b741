"""The code of a job: uploaded once for each content, whole, and registered only when all of it is there."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, HimlError, NotAllowed, ServiceFailed
from himl_cli.core.events import Event, Finished, Moved, Planned, ignore
from himl_cli.core.jobs import Snapshot
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.assets import JobCode, fingerprint
from tests.servers.azureml.faults import Page, Reset, ResetUpload, Status
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import connected
from tests.support.azure_jobs import ensured
from tests.support.running import write_files

FILES: dict[str, str | bytes] = {"train.py": "print(1)\n", "lab/model.py": "x = 1\n", "lab/__init__.py": b"", "größe ü #1.txt": "ß"}
LARGE = 9 << 20  # more than goes in one request


def write_code(folder: Path, files: dict[str, str | bytes]) -> Snapshot:
    write_files(folder, files)
    return Snapshot(folder, sorted(files), sum((folder / name).stat().st_size for name in files))


@pytest.fixture
def code(tmp_path: Path) -> Snapshot:
    return write_code(tmp_path / "my-code", FILES)


@pytest.fixture
def connection(azure_environment: StagedWorkspace, project: Path) -> Iterator[Connection]:
    with connected(azure_environment, project) as opened:
        yield opened


def registered(azure: StagedWorkspace) -> list[dict[str, object]]:
    return [properties for versions in azure.state.assets["codes"].values() for properties in versions.values()]


def uploaded(azure: StagedWorkspace) -> dict[str, bytes]:
    """The files at the one registered code's place, by their names in the snapshot."""
    (properties,) = registered(azure)
    container, _, folder = str(properties["codeUri"]).split(":443/")[1].partition("/")
    storage = azure.state.storage
    return {blob.name.removeprefix(f"{folder}/"): storage.get(container, blob.name) for blob in storage.list(container, f"{folder}/")}


def contents(snapshot: Snapshot) -> dict[str, bytes]:
    return {name: (snapshot.root / name).read_bytes() for name in snapshot.files}


def found(connection: Connection, snapshot: Snapshot) -> str:
    """The id of the snapshot's code version; empty where there is none."""
    code = JobCode(connection, snapshot)
    code.find()
    return code.id


def test_new_code_is_uploaded_and_registered(stage: Stage, azure_environment: StagedWorkspace, connection: Connection, code: Snapshot) -> None:
    events: list[Event] = []
    asset = ensured(connection, code, events.append)
    (properties,) = registered(azure_environment)
    assert not asset.is_cached
    assert asset.id.lower().startswith(f"{azure_environment.state.path}/codes/".lower())
    assert asset.id.endswith("/versions/1")
    assert str(properties["codeUri"]).endswith("/my-code")
    assert properties["properties"] == {"hash_sha256": fingerprint(code)[0], "hash_version": "202208"}
    assert uploaded(azure_environment) == contents(code)
    assert Planned(len(FILES), code.size) in events
    assert Counter(event.name for event in events if isinstance(event, Finished)) == Counter(FILES.keys())
    assert sum(event.bytes for event in events if isinstance(event, Moved)) == code.size
    assert len(stage.log.find(r"management\.azure\.com")) == 3


def test_what_was_uploaded_from_here_is_not_asked_for_again(stage: Stage, connection: Connection, code: Snapshot) -> None:
    first = ensured(connection, code, ignore)
    stage.log.clear()
    second = ensured(connection, code, ignore)
    assert (second.id, second.is_cached) == (first.id, True)
    assert stage.log.all() == []


def test_what_somebody_else_uploaded_is_one_question(stage: Stage, azure_environment: StagedWorkspace, connection: Connection, code: Snapshot) -> None:
    first = ensured(connection, code, ignore)
    JobCode(connection, code).forget()
    stage.log.clear()
    assert found(connection, code) == ensured(connection, code, ignore).id == first.id
    assert [seen.method for seen in stage.log.find(r"management\.azure\.com")] == ["GET"]
    assert len(registered(azure_environment)) == 1


def test_find_uploads_nothing(stage: Stage, azure_environment: StagedWorkspace, connection: Connection, code: Snapshot) -> None:
    assert found(connection, code) == ""
    assert registered(azure_environment) == []
    assert not stage.log.find("startPendingUpload")


@pytest.mark.parametrize("change", ["content", "name", "more"])
def test_other_code_is_uploaded_anew(azure_environment: StagedWorkspace, connection: Connection, code: Snapshot, tmp_path: Path, change: str) -> None:
    ensured(connection, code, ignore)
    other = {**FILES}
    if change == "content":
        other["train.py"] = "print(2)\n"
    elif change == "name":
        other["Train.py"] = other.pop("train.py")
    else:
        other["more.py"] = ""
    assert not ensured(connection, write_code(tmp_path / "other", other), ignore).is_cached
    assert len(registered(azure_environment)) == 2


def test_cached_code_upload_is_not_reused_for_another_account(
    azure_environment: StagedWorkspace, project: Path, connection: Connection, code: Snapshot, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ensured(connection, code, ignore)
    for name, value in azure_environment.environment(azure_environment.add_principal()).items():
        monkeypatch.setenv(name, value)
    stage.log.clear()
    with connected(azure_environment, project) as other:
        assert ensured(other, code, ignore).id == first.id
    assert len(stage.log.find("GET .*hash=")) == 1


def test_a_large_file_goes_in_blocks(azure_environment: StagedWorkspace, connection: Connection, tmp_path: Path) -> None:
    large = hashlib.shake_128(b"seed").digest(LARGE)
    snapshot = write_code(tmp_path / "code", {"weights.bin": large, "train.py": "print(1)\n"})
    ensured(connection, snapshot, ignore)
    assert uploaded(azure_environment) == contents(snapshot)


@pytest.mark.parametrize("step", ["GET [^ ]*/codes/", "POST [^ ]*/startPendingUpload", "PUT [^ ]*blob[^ ]*train.py", "PUT [^ ]*/codes/"])
@pytest.mark.parametrize(
    "fault",
    [Status(429, retry_after=0.1), Status(500), Status(503), Reset(), ResetUpload()],
    ids=["429", "500", "503", "answer lost", "reset"],
)
def test_a_moment_of_trouble_is_survived(
    stage: Stage, azure_environment: StagedWorkspace, connection: Connection, code: Snapshot, step: str, fault: Status | Reset | ResetUpload
) -> None:
    stage.faults.add(fault, step)
    assert not ensured(connection, code, ignore).is_cached
    assert uploaded(azure_environment) == contents(code)
    assert len(stage.log.find(step)) == 2


@pytest.mark.parametrize("status", [400, 409])
def test_a_registration_that_was_carried_out_unheard_counts(
    stage: Stage, azure_environment: StagedWorkspace, connection: Connection, code: Snapshot, status: int
) -> None:
    """A service may refuse the second try, since what it wants is there."""
    stage.faults.add(Reset(), "PUT [^ ]*/codes/")
    stage.faults.add(Status(status, code="UserError", message="It exists."), "PUT [^ ]*/codes/", skip=1)
    asset = ensured(connection, code, ignore)
    assert not asset.is_cached
    assert len(registered(azure_environment)) == 1


@pytest.mark.parametrize("step", ["POST [^ ]*/startPendingUpload", "PUT [^ ]*blob[^ ]*model.py", "PUT [^ ]*/codes/"])
def test_a_refusal_registers_nothing(stage: Stage, azure_environment: StagedWorkspace, connection: Connection, code: Snapshot, step: str) -> None:
    stage.faults.add(Status(400, code="Nope", message="Not so."), step, times=None)
    with pytest.raises(ServiceFailed):
        ensured(connection, code, ignore)
    stage.faults.clear()
    assert registered(azure_environment) == []
    assert not ensured(connection, code, ignore).is_cached


def test_without_the_right_to_write_it_is_said(azure_environment: StagedWorkspace, project: Path, code: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in azure_environment.environment(azure_environment.add_principal({Right.READ})).items():
        monkeypatch.setenv(name, value)
    with connected(azure_environment, project) as other, pytest.raises(NotAllowed, match="startPendingUpload"):
        ensured(other, code, ignore)


def test_an_answer_that_is_none_is_one_error(stage: Stage, connection: Connection, code: Snapshot) -> None:
    stage.faults.add(Page("<html>sign in</html>"), "POST [^ ]*/startPendingUpload", times=None)
    with pytest.raises(ServiceFailed, match="no JSON"):
        ensured(connection, code, ignore)


def test_a_file_that_changes_while_it_is_sent_is_not_registered(azure_environment: StagedWorkspace, connection: Connection, tmp_path: Path) -> None:
    large = bytes(LARGE)
    snapshot = write_code(tmp_path / "code", {"weights.bin": large, **FILES})

    def write(event: Event) -> None:
        if event == Finished("train.py"):
            (snapshot.root / "train.py").write_text("print(2)\n")
            os.utime(snapshot.root / "train.py", (1, 1))

    with pytest.raises(HimlError, match=r"'train\.py' changed while the code was being sent"):
        ensured(connection, snapshot, write)
    assert registered(azure_environment) == []


def test_file_changed_during_code_upload_is_named_in_error(azure_environment: StagedWorkspace, connection: Connection, tmp_path: Path) -> None:
    snapshot = write_code(tmp_path / "code", {f"lab/{number:03}.py": "x" for number in range(200)})

    def write(event: Event) -> None:
        (snapshot.root / "lab/199.py").write_text("longer")

    with pytest.raises(HimlError, match=r"^'lab/199\.py' changed while the code was being sent"):
        ensured(connection, snapshot, lambda event: write(event) if isinstance(event, Finished) else None)
    assert registered(azure_environment) == []


@pytest.mark.parametrize("how", ["longer", "gone"])
def test_a_file_that_changes_before_it_is_sent_is_not_registered(azure_environment: StagedWorkspace, connection: Connection, code: Snapshot, how: str) -> None:
    job_code = JobCode(connection, code)
    job_code.find()
    assert job_code.id == ""
    if how == "gone":
        (code.root / "train.py").unlink()
    else:
        (code.root / "train.py").write_text("print('other')\n")
    with pytest.raises(HimlError, match=r"'train\.py' changed while the code was being sent") as caught:
        job_code.make(ignore)
    assert "no job was started" in str(caught.value)
    assert registered(azure_environment) == []


def test_ctrl_c_registers_nothing(azure_environment: StagedWorkspace, connection: Connection, code: Snapshot) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Finished):
            signal.raise_signal(signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(KeyboardInterrupt):
        ensured(connection, code, interrupt)
    assert registered(azure_environment) == []
    assert not ensured(connection, code, ignore).is_cached


def test_nothing_to_send_is_said(connection: Connection, tmp_path: Path, stage: Stage) -> None:
    with pytest.raises(BadUsage, match="nothing to send"):
        ensured(connection, Snapshot(tmp_path, (), 0), ignore)
    assert stage.log.all() == []


@pytest.mark.skipif(sys.platform == "win32", reason="such names cannot be on Windows")
@pytest.mark.parametrize(("name", "why"), [("notes.", "drops the dot"), ("a\\b.py", "backslash"), ("a\nb", "control character")])
def test_code_with_invalid_file_name_is_refused_before_upload(
    stage: Stage, azure_environment: StagedWorkspace, connection: Connection, tmp_path: Path, name: str, why: str
) -> None:
    snapshot = write_code(tmp_path / "code", {name: "x", "train.py": ""})
    with pytest.raises(BadUsage, match=why):
        ensured(connection, snapshot, ignore)
    assert not stage.log.find("startPendingUpload")


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_a_name_that_is_no_text_is_refused(connection: Connection, tmp_path: Path) -> None:
    name = os.fsdecode(b"bad\xff.py")
    snapshot = write_code(tmp_path / "code", {name: "x"})
    with pytest.raises(BadUsage, match="no Unicode text"):
        ensured(connection, snapshot, ignore)


@pytest.mark.parametrize("name", ["my code", "größe", "a%b"])
def test_code_folder_with_special_characters_is_renamed_to_code(azure_environment: StagedWorkspace, connection: Connection, tmp_path: Path, name: str) -> None:
    ensured(connection, write_code(tmp_path / name, FILES), ignore)
    (properties,) = registered(azure_environment)
    assert str(properties["codeUri"]).endswith("/code")


def test_the_signature_is_never_told(
    stage: Stage, azure_environment: StagedWorkspace, connection: Connection, code: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    stage.faults.add(Status(403, code="AuthorizationFailure", message="No."), "PUT [^ ]*blob[^ ]*train.py", times=None)
    with caplog.at_level(logging.DEBUG), pytest.raises(HimlError) as caught:
        ensured(connection, code, ignore)
    assert caplog.text
    assert "sig=" not in f"{caplog.text} {caught.value} {caught.value.hint}".replace("sig=***", "")


def test_code_that_is_not_complete_is_not_used(azure_environment: StagedWorkspace, connection: Connection, code: Snapshot) -> None:
    ensured(connection, code, ignore)
    JobCode(connection, code).forget()
    registered(azure_environment)[0]["provisioningState"] = "Failed"
    assert found(connection, code) == ""


def test_code_hash_covers_names_sizes_and_contents(tmp_path: Path) -> None:
    """Names are sorted without regard to case."""
    snapshot = write_code(tmp_path, {"b.py": "22", "A.py": "1", "a/é": ""})
    told = "3" + "#A.py#1" + "#a/é#0" + "#b.py#2" + "1" + "22"
    assert fingerprint(snapshot)[0] == hashlib.sha256(told.encode()).hexdigest()
