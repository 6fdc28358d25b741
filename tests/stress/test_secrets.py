"""What the search for secrets finds, and what it lets pass."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from stress.records import Outcome
from stress.secrets.cases import DOCUMENTED, FAULTS, FORMS, secret_cases, verdict
from stress.secrets.channels import CHANNELS
from stress.secrets.commands import COMMANDS
from stress.secrets.marks import Marks
from stress.secrets.plugin import without_log
from stress.secrets.searching import CACHE, Search
from stress.secrets.suite import CASES, TESTS, shares
from stress.secrets.watching import watching
from tests.support.running import Outcome as Left
from tests.support.running import until

SECRET = "p/w+d=ä?secret"
TOKEN = "eyJhbGciOiAibm9uZSIsICJ0eXAiOiAiSldUIn0.eyJhdWQiOiAiYSIsICJzdWIiOiAiYiJ9.c2lnbmF0dXJl"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stress runs on Linux")


def marked() -> Marks:
    marks = Marks()
    marks.add("password", SECRET)
    return marks


@pytest.mark.parametrize(
    "form",
    [
        SECRET.encode(),
        quote(SECRET, safe="").encode(),
        quote(SECRET, safe="").lower().encode(),
        json.dumps({"a": SECRET}).encode(),
        json.dumps({"a": SECRET}).replace("/", "\\/").encode(),
        *(base64.b64encode(before + SECRET.encode() + b"after") for before in (b"", b"u", b"us", b"user:")),
        *(base64.urlsafe_b64encode(before + SECRET.encode()) for before in (b"", b"u", b"us")),
    ],
)
def test_a_secret_is_found_in_each_of_its_forms(form: bytes) -> None:
    assert marked().found(b"before " + form + b" after") == ["password"]


def test_other_text_is_none() -> None:
    assert marked().found(b"https://h/c?sig=***&pw=*** p/w+d=?secre eyJ.eyJ.x") == []
    assert marked().found(SECRET.encode(), but=["password"]) == []
    with pytest.raises(ValueError, match="is no mark"):
        marked().add("password", "short")


def test_a_token_is_known_by_its_form() -> None:
    assert Marks().found(b"Bearer " + TOKEN.encode()) == ["token"]


def test_secret_search_allows_user_files_and_sas_in_cache(tmp_path: Path) -> None:
    marks = marked()
    marks.add("signature", "abcdefghijklmnop")
    home = tmp_path / "home"
    cache = home / CACHE
    cache.mkdir(parents=True, mode=0o700)
    cache.chmod(0o700)
    (cache / "link").write_text("sig=abcdefghijklmnop")
    (cache / "link").chmod(0o600)
    own = tmp_path / "himl.private.toml"
    own.write_text(SECRET)
    search = Search()
    search.look_at_files(tmp_path, home, marks, {own})
    assert (search.leaks, search.files) == ([], 1)
    (cache / "link").chmod(0o640)
    (cache / "key").write_text(SECRET)
    (cache / "key").chmod(0o600)
    (tmp_path / "workspace.db").write_bytes(b"\0" + SECRET.encode() + b"\0")
    search.look_at_files(tmp_path, home, marks, {own})
    assert sorted(search.leaks) == [
        "mode 640 of link",
        f"password in the file {Path('home', *CACHE.parts[:2])}/…/key",
        "password in the file workspace.db",
    ]


@pytest.mark.parametrize(
    ("code", "stderr", "leaks", "is_met", "expected", "why"),
    [
        (0, "", [], True, Outcome.survived, ""),
        (5, "error: no\n", [], True, Outcome.reported, ""),
        (0, "", [], False, Outcome.not_met, ""),
        (0, "", ["password in stderr"], False, Outcome.lost, "password in stderr"),
        (1, "error: This is a bug in himl: KeyError", [], True, Outcome.lost, "a failure that himl does not know"),
        (-9, "", [], True, Outcome.lost, "exit code -9, documented: 0, 1"),
    ],
)
def test_verdict_is_lost_on_leak_or_undocumented_end(code: int, stderr: str, leaks: list[str], *, is_met: bool, expected: Outcome, why: str) -> None:
    outcome, said = verdict(Left(code, b"", stderr.encode()), Search(leaks), DOCUMENTED, is_met=is_met)
    assert (outcome, said.startswith(why)) == (expected, True)


def test_cases_cover_all_channels_forms_and_faults() -> None:
    ids = {case.id for case in secret_cases()}
    assert len(ids) == len(secret_cases())
    assert {channel for command in COMMANDS for channel in command.channels} == set(CHANNELS)
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)
    assert {f"secrets/datastore_list/sas/{number:02d}" for number in range((1 + len(FAULTS)) * len(FORMS))} <= ids


def test_each_file_of_tests_is_in_one_group() -> None:
    files = sorted(TESTS.glob("test_*.py"))
    groups = shares(files, CASES)
    assert sorted(path for group in groups for path in group) == files
    assert len(groups) == CASES
    assert all(groups)


def test_arguments_and_variables_of_a_process_are_seen() -> None:
    with watching("SEARCHED=own") as watcher, ExitStack() as stack:
        for value in ("other", "own"):
            command = [sys.executable, "-c", "import sys; sys.stdin.read()", f"--key={value}"]
            process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, env={"SEARCHED": value, "MORE": "x"}))
        until(watcher.processes)
        assert process.poll() is None
    (shown,) = watcher.processes()
    assert any(b"--key=own" in arguments for arguments in shown.arguments)
    assert (shown.variables["MORE"], shown.is_job) == (b"x", False)
    assert "key" not in shown.program


def test_without_the_log_stderr_is_what_it_is_without_verbose() -> None:
    said = (
        b"2026-01-01 00:00:00,123 DEBUG himl_cli.x: a\n2026-01-01 00:00:00,123 WARNING himl_cli.x: it is late\nRun a\n"
        b"Traceback (most recent call last):\n  File 'x', line 1\n    x\nKeyError: 'x'\n\nThe above exception was the direct cause:\n\n"
        b"Traceback (most recent call last):\n  File 'y'\nHimlError: no\nerror: no\n"
    )
    assert without_log(said) == b"himl: it is late\nRun a\nerror: no\n"
