"""How himl was installed, as the installer wrote it down beside the package's metadata, and what errors make of that."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.installation import environment_hint, find_source, install_command, requirement_elsewhere, update_hint
from tests.support.clients import write_record
from tests.support.running import Himl

COMMIT = "0123456789abcdef0123456789abcdef01234567"
QUOTE = '"' if sys.platform == "win32" else "'"
NAMED = f"pip install {QUOTE}himl-cli[v1]{QUOTE}"


def git(url: str, **more: Any) -> dict[str, Any]:
    return {"url": url, "vcs_info": {"vcs": "git", "requested_revision": "main", "commit_id": COMMIT}, **more}


def archive(url: str) -> dict[str, Any]:
    return {"url": url, "archive_info": {"hash": "sha256=0"}}


ADDRESSES: dict[str, tuple[dict[str, Any], str]] = {
    "a repository": (git("https://example.org/himl.git"), f"git+https://example.org/himl.git@{COMMIT}"),
    "one with a token": (git("https://me:pat@example.org:8443/himl"), f"git+https://example.org:8443/himl@{COMMIT}"),
    "one by ssh": (git("ssh://git:pat@example.org/himl"), f"git+ssh://git@example.org/himl@{COMMIT}"),
    "one on this machine": (git("file:///srv/himl.git"), f"git+file:///srv/himl.git@{COMMIT}"),
    "a folder of one": (git("https://example.org/all", subdirectory="tools/himl"), f"git+https://example.org/all@{COMMIT}#subdirectory=tools/himl"),
    "a wheel": (archive("https://example.org/himl_cli-1-py3-none-any.whl"), "https://example.org/himl_cli-1-py3-none-any.whl"),
    "a signed one": (archive("https://me:pat@a.blob.example.org/w/himl.whl?sv=2024&sig=c2VjcmV0#sha256=0"), "https://a.blob.example.org/w/himl.whl"),
    "one on this disk": (archive("file:///srv/my%20wheels/himl.whl"), "file:///srv/my%20wheels/himl.whl"),
}


@pytest.mark.parametrize("case", ADDRESSES)
def test_install_from_address_is_repeated_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    record, address = ADDRESSES[case]
    monkeypatch.syspath_prepend(write_record(tmp_path, json.dumps(record)))
    assert install_command("v1") == f"pip install {QUOTE}himl-cli[v1] @ {address}{QUOTE}"
    assert install_command(options="-U") == f"pip install -U {QUOTE}himl-cli @ {address}{QUOTE}"
    assert update_hint() == f"Update himl, which was installed from '{address}'."
    added = "build a wheel of himl, and name it with --private_wheel" if "file:" in address else f"add 'himl-cli[v1] @ {address}' to its pip packages"
    assert environment_hint("v1") == added
    if "file:" in address:
        with pytest.raises(BadUsage, match="from where no other machine can install it") as caught:
            requirement_elsewhere("v1", "1.2")
        assert f"pip wheel --no-deps {address}" in caught.value.hint.replace(QUOTE, "")
    else:
        assert requirement_elsewhere("v1", "1.2") == f"himl-cli[v1] @ {address}"


@pytest.mark.parametrize(("info", "options"), [({}, ""), ({"editable": False}, ""), ({"editable": True}, "-e ")])
def test_what_came_from_a_folder_comes_from_there_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: dict[str, bool], options: str) -> None:
    clone = tmp_path / "my clöne"
    monkeypatch.syspath_prepend(write_record(tmp_path, json.dumps({"url": clone.as_uri(), "dir_info": info})))
    assert find_source().folder == str(clone)
    assert install_command("v1") == f"pip install {options}{QUOTE}{clone}[v1]{QUOTE}"
    assert update_hint() == f"Update himl, which was installed from '{clone}'."
    assert environment_hint("v1") == "build a wheel of himl, and name it with --private_wheel"
    with pytest.raises(BadUsage, match="from where no other machine can install it") as caught:
        requirement_elsewhere("v1", "1.2")
    assert f"pip wheel --no-deps {QUOTE}{clone}{QUOTE}; then --private_wheel FILE" in caught.value.hint


BROKEN: dict[str, str | bytes | None] = {
    "none, as from an index": None,
    "empty": "",
    "no JSON": '{"url": ',
    "no UTF-8": b'{"url": "\xff"}',
    "nested without end": '{"url": ' + "[" * 100_000,
    "a list": "[1]",
    "no address": '{"dir_info": {}}',
    "an address that is none": '{"url": 7, "dir_info": {}}',
    "nothing about it": '{"url": "https://example.org/himl"}',
    "text about it": '{"url": "https://example.org/himl", "vcs_info": "git", "archive_info": "x"}',
    "a repository without a commit": '{"url": "https://example.org/himl", "vcs_info": {"vcs": "git"}}',
    "a commit that is none": '{"url": "https://example.org/himl", "vcs_info": {"vcs": "git", "commit_id": "a b"}}',
    "a folder elsewhere": '{"url": "https://example.org/himl", "dir_info": {}}',
    "an archive in a store": '{"url": "s3://bucket/himl.whl", "archive_info": {}}',
    "a port that is none": '{"url": "https://example.org:x/himl.whl", "archive_info": {}}',
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_install_record_falls_back_to_package_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.syspath_prepend(write_record(tmp_path, BROKEN[case]))
    assert (install_command("v1"), install_command(options="-U")) == (NAMED, "pip install -U himl-cli")
    assert update_hint() == "Update himl: pip install -U himl-cli"
    assert environment_hint("v1") == "add 'himl-cli[v1]' to its pip packages"


def test_the_program_says_it_as_it_was_installed(started_himl: Himl, tmp_path: Path) -> None:
    """`himl doctor` names what is missing of the extras."""
    place = write_record(tmp_path, json.dumps(git("ssh://git:pat@example.org/himl"))) / "himl_cli-99.dist-info" / "METADATA"
    place.write_text(f"{place.read_text()}Requires-Dist: no-such-package; extra == 'aaa'\n")
    done = started_himl("doctor", "--json", env={"PYTHONPATH": str(tmp_path)})
    (remedy,) = [check["remedy"] for check in done.json() if check["name"] == "extras"]
    assert remedy == f"To install one: pip install {QUOTE}himl-cli[aaa] @ git+ssh://git@example.org/himl@{COMMIT}{QUOTE}"
