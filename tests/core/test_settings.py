"""Properties of a machine: settings files, the installation, locks that show whether a process is alive, and
signals.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.installation import (
    environment_hint,
    find_source,
    install_command,
    requirement_elsewhere,
    update_hint,
)
from himl_cli.core.locks import ProcessLock, is_held
from himl_cli.core.settings import lines_of, nearest_local, section_settings
from himl_cli.core.signals import terminations
from himl_cli.services.runs.lookup import nearest_latest_run_file
from himl_cli.workspaces.azure.config import find_config
from tests.support.clients import write_record
from tests.support.hostile_texts import SECONDS, within
from tests.support.running import Himl, write_files
from tests.support.users import ADA, BOB


def values(folder: Path, section: str = "submit") -> dict[str, object]:
    return {key: setting.value for key, setting in section_settings(folder, section).items()}


def test_nearest_and_private_settings_win(project: Path) -> None:
    assert section_settings(project, "submit") == {}
    write_files(project, {"pyproject.toml": "[project]\nname='x'\n\n[tool.himl.submit]\ncluster = 'gpu'\n"})
    assert values(project) == {"cluster": "gpu"}
    assert section_settings(project, "submit")["cluster"].line == 5
    write_files(
        project,
        {
            "himl.toml": "[submit]\ncluster='far'\nfollow=true\n",
            "a/himl.toml": "[submit]\ncluster='near'\n",
            "a/b/x": "",
        },
    )
    assert values(project / "a" / "b") == {"cluster": "near"}
    write_files(project, {"b/pyproject.toml": "[tool.ruff]\nline-length=160 # himl\n"})
    assert values(project / "b") == {"cluster": "far", "follow": True}
    write_files(project, {"himl.private.toml": "[submit]\ncluster='own'\n[azure]\ntenant_id='t'\n"})
    assert values(project) == {"cluster": "own", "follow": True}
    assert section_settings(project, "submit")["cluster"].place == f"{project / 'himl.private.toml'}:2"
    assert values(project, "azure") == {"tenant_id": "t"}


ALL = "all users can write to"
# The owner and the mode of the folder above, of its files, and of the folder of the command. Why the files are not used
WHOSE: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int], str]] = {
    "one's own": ((0, 0o755), (0, 0o644), (0, 0o755), ""),
    "another user's folder": ((BOB, 0o755), (BOB, 0o644), (0, 0o755), "lab' belongs to user 61002"),
    "a file in another user's folder": ((BOB, 0o755), (0, 0o644), (0, 0o755), "lab' belongs to user 61002"),
    "another user's files": ((0, 0o775), (BOB, 0o644), (0, 0o755), "{}' belongs to user 61002"),
    "a folder for all": ((0, 0o1777), (0, 0o644), (0, 0o755), f"{ALL} '"),
    "files for all": ((0, 0o755), (0, 0o666), (0, 0o755), f"{ALL} '"),
    "a project of another user, as in a container": ((BOB, 0o755), (BOB, 0o644), (BOB, 0o777), ""),
    "another user's folder above that project": (
        (ADA, 0o755),
        (BOB, 0o644),
        (BOB, 0o755),
        "lab' belongs to user 61001",
    ),
}


@pytest.mark.parametrize("case", WHOSE)
def test_files_that_other_users_could_write_are_named_and_not_used(
    shared: Path, case: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (owner, mode), (file_owner, file_mode), (start_owner, start_mode), why = WHOSE[case]
    lab, start = shared / "lab", shared / "lab" / "project"
    ids = json.dumps(dict.fromkeys(("subscription_id", "resource_group", "workspace_name"), "theirs"))
    write_files(
        lab,
        {
            "himl.toml": "[submit]\ncluster='theirs'\n",
            "config.json": ids,
            "most_recent_run.txt": "a:b\n",
            ".himl/x": "",
            "project/x": "",
        },
    )
    names = ("himl.toml", "most_recent_run.txt", "config.json", ".himl")
    for name in names:
        (lab / name).chmod(file_mode | 0o111 * (name == ".himl"))
        os.chown(lab / name, file_owner, 0)
    os.chown(lab, owner, 0)
    lab.chmod(mode)
    os.chown(start, start_owner, 0)
    start.chmod(start_mode)

    def found() -> list[Path | None]:
        settings = next((setting.file for setting in section_settings(start, "submit").values()), None)
        latest: Path | None = None
        with suppress(NotFound):
            latest = nearest_latest_run_file(start)
        return [settings, latest, find_config(start), nearest_local(start)]

    assert found() == [None if why else lab / name for name in names]
    warnings = [record.getMessage() for record in caplog.records]
    is_folder = why.startswith("lab'") or case == "a folder for all"
    assert len(warnings) == (0 if not why else 1 if is_folder else len(names)), warnings
    for name, warning in zip(names, warnings, strict=False):
        assert f"himl does not use '{lab / name}', because " in warning
        assert why.format(name) in warning
    write_files(shared, {"home/himl.toml": f"[trust]\nfolders = ['{lab}']\n"})
    monkeypatch.setenv("HOME", str(shared / "home"))
    assert found() == [lab / name for name in names]
    assert len(caplog.records) == len(warnings)


def test_links_and_lists_of_trusted_folders(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, start, theirs = shared / "lab", shared / "lab" / "project", shared / "theirs.toml"
    write_files(
        shared,
        {"theirs.toml": "[submit]\ncluster='theirs'\n", "lab/project/himl.private.toml": "[trust]\nfolders = ['..']\n"},
    )
    os.chown(theirs, BOB, 0)
    start.joinpath("himl.toml").symlink_to(theirs)
    assert values(start) == {"cluster": "theirs"}, "the owner of a link chose its target"
    os.chown(start / "himl.toml", BOB, 0, follow_symlinks=False)
    assert values(start) == {}
    (start / "himl.toml").unlink()
    theirs.rename(lab / "himl.toml")
    assert values(start) == {"cluster": "theirs"}, "a private file lists the folder"
    os.chown(start / "himl.private.toml", BOB, 0)
    assert values(start) == {}
    write_files(shared, {"home/himl.toml": "[trust]\nfolder = 'x'\n"})
    monkeypatch.setenv("HOME", str(shared / "home"))
    with pytest.raises(BadUsage, match="line 2: 'folder' is not a list of folders"):
        values(start)


WRONG: list[tuple[str | bytes, str]] = [
    ("[submit]\ncluster = gpu\n", r"himl\.toml'.*line 2 \(key 'cluster'\)"),
    ("[submit]\nfollow = true\ncluster = 'gpu\n", r"line 3 \(key 'cluster'\)"),
    ("[submit\n", "line 1"),
    ("[submit]\ncluster = 'a'\ncluster = 'b'\n", r"line 3 \(key 'cluster'\)"),
    (b"[submit]\ncluster = '\xff'\n", r"himl.toml' is not UTF-8 text \(byte 20\)"),
    ("submit = 3\n", "'submit' must be a section"),
    ("\n[submitt]\ncluster='gpu'\n", "line 2: 'submitt' is not known"),
    ("a = " + "[" * 3000 + "]" * 3000, "is nested too deeply"),
    ("a = " + "[" * 150 + "]" * 150, "is nested too deeply"),
    (".".join("a" * 100_000) + " = 1", "is nested too deeply"),
    ("[submit]\nnum_nodes = " + "9" * 5000, "line 2: the number is too long"),
    ("[submit]\nnum_nodes = 0x" + "f" * 5000, "line 2: the number is too long"),
    ("# " + "x" * 600_000, "is too large: 600,002 characters"),
]


@pytest.mark.parametrize(("content", "complaint"), WRONG, ids=range(13))
def test_wrong_file_is_named_with_line_and_key(project: Path, content: str | bytes, complaint: str) -> None:
    write_files(project, {"himl.toml": content})
    with within(SECONDS), pytest.raises(BadUsage, match=complaint) as caught:
        section_settings(project, "submit")
    assert "submitt" not in complaint or caught.value.hint == "Did you mean [submit]?"


def test_line_of_a_key_is_found() -> None:
    for text, key, line in (
        ("[submit]\n# cluster = 1\ncluster = 'x'\n", "cluster", 3),
        ("[other]\ncluster = 1\n[submit]\ncluster = 2\n", "cluster", 4),
        ("submit.cluster = 'x'\n", "cluster", 1),
        ("[submit]\n\n[submit.tag]\nteam='x'\n", "tag", 3),
        ('[submit]\n"cluster" = 1\n', "cluster", 2),
        ("[submit]\n", "cluster", 0),
    ):
        assert lines_of(text, ("submit",)).get(key, 0) == line


@pytest.mark.large("takes long, and other tests run its branches")
def test_settings_may_hold_long_texts_and_thousands_of_keys(project: Path) -> None:
    long = "a." * 300 + "0" * 400
    write_files(
        project, {"himl.toml": f'# {long}\n[submit]\na = \'{long}\'\nb = "{long} \\" {long}"\nc = """\n{long}\n"""\n'}
    )
    assert values(project) == {"a": long, "b": f'{long} " {long}', "c": f"{long}\n"}
    write_files(project, {"himl.toml": "[submit]\n" + "".join(f"key{number} = {number}\n" for number in range(10_000))})
    with within(SECONDS):
        found = section_settings(project, "submit")
    assert (found["key0"].line, found["key9999"].line) == (2, 10_001)


COMMIT = "0123456789abcdef0123456789abcdef01234567"
QUOTE = '"' if sys.platform == "win32" else "'"


def git(url: str, **more: Any) -> dict[str, Any]:
    return {"url": url, "vcs_info": {"vcs": "git", "requested_revision": "main", "commit_id": COMMIT}, **more}


def archive(url: str) -> dict[str, Any]:
    return {"url": url, "archive_info": {"hash": "sha256=0"}}


ADDRESSES: list[tuple[dict[str, Any], str]] = [
    (git("https://example.org/himl.git"), f"git+https://example.org/himl.git@{COMMIT}"),
    (git("https://me:pat@example.org:8443/himl"), f"git+https://example.org:8443/himl@{COMMIT}"),
    (git("ssh://git:pat@example.org/himl"), f"git+ssh://git@example.org/himl@{COMMIT}"),
    (git("file:///srv/himl.git"), f"git+file:///srv/himl.git@{COMMIT}"),
    (
        git("https://example.org/all", subdirectory="tools/himl"),
        f"git+https://example.org/all@{COMMIT}#subdirectory=tools/himl",
    ),
    (
        archive("https://me:pat@a.blob.example.org/w/himl.whl?sv=2024&sig=c2VjcmV0#sha256=0"),
        "https://a.blob.example.org/w/himl.whl",
    ),
    (archive("file:///srv/my%20wheels/himl.whl"), "file:///srv/my%20wheels/himl.whl"),
]


@pytest.mark.parametrize(("record", "address"), ADDRESSES, ids=range(7))
def test_install_from_address_is_repeated_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: dict[str, Any], address: str
) -> None:
    monkeypatch.syspath_prepend(write_record(tmp_path, json.dumps(record)))
    assert install_command("v1") == f"pip install {QUOTE}himl-cli[v1] @ {address}{QUOTE}"
    assert install_command(options="-U") == f"pip install -U {QUOTE}himl-cli @ {address}{QUOTE}"
    assert update_hint() == f"Update himl, which was installed from '{address}'."
    if "file:" not in address:
        assert environment_hint("v1") == f"add 'himl-cli[v1] @ {address}' to its pip packages"
        assert requirement_elsewhere("v1", "1.2") == f"himl-cli[v1] @ {address}"
        return
    assert environment_hint("v1") == "build a wheel of himl, and name it with --private_wheel"
    with pytest.raises(BadUsage, match="which no other machine can access") as caught:
        requirement_elsewhere("v1", "1.2")
    assert f"pip wheel --no-deps {address}" in caught.value.hint.replace(QUOTE, "")


@pytest.mark.parametrize(("info", "options"), [({}, ""), ({"editable": False}, ""), ({"editable": True}, "-e ")])
def test_install_from_folder_is_repeated_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: dict[str, bool], options: str
) -> None:
    clone = tmp_path / "my clöne"
    monkeypatch.syspath_prepend(write_record(tmp_path, json.dumps({"url": clone.as_uri(), "dir_info": info})))
    assert find_source().folder == str(clone)
    assert install_command("v1") == f"pip install {options}{QUOTE}{clone}[v1]{QUOTE}"
    assert update_hint() == f"Update himl, which was installed from '{clone}'."
    assert environment_hint("v1") == "build a wheel of himl, and name it with --private_wheel"
    with pytest.raises(BadUsage, match="which no other machine can access") as caught:
        requirement_elsewhere("v1", "1.2")
    assert f"pip wheel --no-deps {QUOTE}{clone}{QUOTE}) and add --private_wheel FILE" in caught.value.hint


OF_AN_ADDRESS = '{"url": "https://example.org/himl"'
BROKEN: list[str | bytes | None] = [
    *(
        None,
        "",
        '{"url": ',
        b'{"url": "\xff"}',
        '{"url": ' + "[" * 100_000,
        "[1]",
        '{"dir_info": {}}',
        '{"url": 7, "dir_info": {}}',
        f"{OF_AN_ADDRESS}}}",
    ),
    f'{OF_AN_ADDRESS}, "vcs_info": "git", "archive_info": "x"}}',
    f'{OF_AN_ADDRESS}, "vcs_info": {{"vcs": "git"}}}}',
    f'{OF_AN_ADDRESS}, "vcs_info": {{"vcs": "git", "commit_id": "a b"}}}}',
    f'{OF_AN_ADDRESS}, "dir_info": {{}}}}',
    '{"url": "s3://bucket/himl.whl", "archive_info": {}}',
    '{"url": "https://example.org:x/himl.whl", "archive_info": {}}',
]


@pytest.mark.parametrize("record", BROKEN, ids=range(15))
def test_broken_install_record_falls_back_to_package_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str | bytes | None
) -> None:
    monkeypatch.syspath_prepend(write_record(tmp_path, record))
    assert (install_command("v1"), install_command(options="-U")) == (
        f"pip install {QUOTE}himl-cli[v1]{QUOTE}",
        "pip install -U himl-cli",
    )
    assert update_hint() == "Update himl: pip install -U himl-cli"
    assert environment_hint("v1") == "add 'himl-cli[v1]' to its pip packages"


def test_doctor_names_the_install_command(himl: Himl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = (
        write_record(tmp_path, json.dumps(git("ssh://git:pat@example.org/himl"))) / "himl_cli-99.dist-info" / "METADATA"
    )
    place.write_text(f"{place.read_text()}Requires-Dist: no-such-package; extra == 'aaa'\n")
    monkeypatch.syspath_prepend(tmp_path)
    (remedy,) = [check["remedy"] for check in himl("doctor", "--json").json() if check["name"] == "extras"]
    assert remedy == f"Install one: pip install {QUOTE}himl-cli[aaa] @ git+ssh://git@example.org/himl@{COMMIT}{QUOTE}"


HOLD = """
import os, sys
from pathlib import Path
from himl_cli.core.locks import ProcessLock
lock = ProcessLock(Path(sys.argv[1]))
assert lock.take()
if hasattr(os, "fork"):  # a forked process does not give it back
    child = os.fork()
    if not child:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
print("held", flush=True)
sys.stdin.read()
"""
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent")


def test_lock_is_held_until_released_or_its_process_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = ProcessLock(path)
    assert not is_held(path)
    assert (lock.take(), lock.take(), is_held(path)) == (True, True, True)
    lock.release()
    lock.release()
    assert not is_held(path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"held"
        assert (is_held(path), lock.take()) == (True, False)
        threading.Timer(0.3, holder.kill).start()
        with lock:  # waits for it
            assert holder.wait() != 0
            assert is_held(path)
    assert (is_held(path), lock.take()) == (False, True)
    lock.release()
    with ProcessLock(tmp_path / "private", mode=0o600) as private:
        assert private.take()
        assert not (tmp_path / "private").stat().st_mode & 0o077 or sys.platform == "win32"
    if sys.platform != "win32":
        import resource

        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            assert is_held(path), "which is unknown without a handle"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def two_hangups(survived: list[bool]) -> None:
    try:
        os.kill(os.getpid(), signal.SIGHUP)
    finally:
        os.kill(os.getpid(), signal.SIGHUP)
        survived.append(True)


@posix
def test_repeated_hangup_interrupts_only_once() -> None:
    """himl ignores later SIGHUPs during cleanup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    survived: list[bool] = []
    try:
        with pytest.raises(KeyboardInterrupt), terminations(), terminations(and_hangups=True):
            two_hangups(survived)
        assert survived == [True]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@posix
def test_hangup_that_is_ignored_or_not_wanted_stays_alone() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminations(and_hangups=True):
            os.kill(os.getpid(), signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with terminations():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
