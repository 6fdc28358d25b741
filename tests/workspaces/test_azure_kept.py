"""What himl remembers between calls: for this user alone, for a time, and never in the way."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from himl_cli.workspaces.azure.connection import DiskCache
from tests.support.folders import files_below

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's; on Windows the profile's access list counts")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "azure"


def files_in(folder: Path) -> list[Path]:
    return files_below(folder)


def test_cached_value_is_shared_until_forgotten(folder: Path) -> None:
    """Other keys and kinds do not see it, and forgetting twice is no error."""
    DiskCache(folder).put("tokens", "key", {"a": [1, "é"]}, seconds=60)
    assert DiskCache(folder).get("tokens", "key") == {"a": [1, "é"]}
    assert DiskCache(folder).get("tokens", "other") is None
    assert DiskCache(folder).get("records", "key") is None
    DiskCache(folder).forget("tokens", "key")
    DiskCache(folder).forget("tokens", "key")
    assert DiskCache(folder).get("tokens", "key") is None


def test_what_has_expired_is_gone(folder: Path) -> None:
    kept = DiskCache(folder)
    kept.put("tokens", "short", 1, seconds=0.01)
    kept.put("tokens", "never", 1, seconds=-5)
    assert [kept.get("tokens", "never"), len(files_in(folder))] == [None, 1]
    while (left := kept.get("tokens", "short")) is not None:
        assert left == 1


def test_what_nobody_asks_for_any_more_is_removed(folder: Path) -> None:
    kept = DiskCache(folder)
    kept.put("tokens", "old", 1, seconds=1e9)
    [old] = files_in(folder)
    three_days_ago = time.time() - 3 * 24 * 3600
    os.utime(old, (three_days_ago, three_days_ago))
    DiskCache(folder).put("tokens", "new", 2, seconds=60)
    assert old not in files_in(folder)
    assert kept.get("tokens", "new") == 2


@POSIX
def test_nobody_else_may_enter_or_read(folder: Path) -> None:
    DiskCache(folder).put("tokens", "key", "secret", seconds=60)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*")) if path.is_dir()}
    assert modes == {0o700}
    assert [stat.S_IMODE(path.stat().st_mode) for path in files_in(folder)] == [0o600]


@POSIX
def test_a_folder_that_was_open_is_closed_before_it_is_used(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o755)
    folder.chmod(0o755)
    DiskCache(folder).put("tokens", "key", "secret", seconds=60)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@POSIX
def test_a_link_in_place_of_the_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    DiskCache(elsewhere).put("tokens", "key", "planted", seconds=60)
    folder.parent.mkdir(parents=True)
    folder.symlink_to(elsewhere)
    assert DiskCache(folder).get("tokens", "key") is None
    before = [path.read_bytes() for path in files_in(elsewhere)]
    DiskCache(folder).put("tokens", "key", "mine", seconds=60)
    assert [path.read_bytes() for path in files_in(elsewhere)] == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"value": 1}', b'{"key": "key", "value": 1, "expires": "soon"}', b"\xff\xfe"])
def test_a_corrupt_file_counts_as_empty_and_is_replaced(folder: Path, content: bytes) -> None:
    kept = DiskCache(folder)
    kept.put("tokens", "key", 1, seconds=60)
    [path] = files_in(folder)
    path.write_bytes(content)
    assert kept.get("tokens", "key") is None
    kept.put("tokens", "key", 2, seconds=60)
    assert kept.get("tokens", "key") == 2


def test_a_file_of_another_key_is_not_taken(folder: Path) -> None:
    kept = DiskCache(folder)
    kept.put("tokens", "one", 1, seconds=60)
    [one] = files_in(folder)
    kept.put("tokens", "two", 2, seconds=60)
    two = next(path for path in files_in(folder) if path != one)
    two.write_bytes(one.read_bytes())
    assert [kept.get("tokens", "one"), kept.get("tokens", "two")] == [1, None]


def test_a_folder_that_cannot_be_written_is_no_failure(folder: Path, read_only: Callable[[Path], Path]) -> None:
    folder.parent.mkdir(parents=True)
    read_only(folder.parent)
    kept = DiskCache(folder)
    kept.put("tokens", "key", 1, seconds=60)
    kept.forget("tokens", "key")
    assert kept.get("tokens", "key") is None


def test_a_file_in_place_of_the_folder_is_no_failure(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    DiskCache(folder).put("tokens", "key", 1, seconds=60)
    assert DiskCache(folder).get("tokens", "key") is None
    assert folder.read_text() == "in the way"


@pytest.mark.parametrize(("value", "kept"), [("1", False), ("yes", False), ("0", True), ("", True)])
def test_himl_no_cache_turns_it_off(monkeypatch: pytest.MonkeyPatch, value: str, kept: bool) -> None:
    monkeypatch.setenv("HIML_NO_CACHE", value)
    DiskCache.of_user().put("tokens", "key", 1, seconds=60)
    assert (DiskCache.of_user().get("tokens", "key") == 1) is kept


def test_it_lies_in_the_users_cache_folder(tmp_path: Path) -> None:
    DiskCache.of_user().put("tokens", "key", 1, seconds=60)
    home = tmp_path / "home"
    [found] = [path for path in home.rglob("*.json") if "himl" in path.parts]
    assert "azure" in found.parts


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
            seen |= {value for value in pool.map(lambda _: DiskCache(folder).get("tokens", "key"), range(20)) if value is not None}
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen <= {letter * 20000 for letter in "abc"}
    assert DiskCache(folder).get("tokens", "key") in {letter * 20000 for letter in "abc"}
    assert len(files_in(folder)) == 1
