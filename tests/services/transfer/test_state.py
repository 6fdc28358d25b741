"""Where the state of downloads lies, and what happens where it is lost, moved or cannot be kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.blobs import FetchRequest
from himl_cli.core.errors import ServiceFailed
from himl_cli.core.events import Event, Notice
from himl_cli.services.submission.snapshot import take_snapshot
from himl_cli.services.transfer.download import LARGE, SMALL, download
from himl_cli.services.transfer.plan import DownloadRequest
from himl_cli.services.transfer.ranks import rank_zero_only
from himl_cli.services.transfer.state import KEPT_DAYS
from tests.services.transfer.arrived import files_in, numbers, rewritten_unnoticeably
from tests.services.transfer.stores import MemoryStore, bodies, pattern
from tests.support.folders import meetings, state_of, transfers
from tests.support.running import write_files


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def downloaded(store: MemoryStore, folder: Path, **options: Any) -> tuple[int, int, int]:
    return numbers(download(store, DownloadRequest(folder, **options)))


def stopping_after(size: int, error: BaseException) -> Any:
    def stop(request: FetchRequest, offset: int) -> None:
        if offset >= size:
            raise error

    return stop


def without_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {"no folder": ""})
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "no folder"))


@pytest.mark.parametrize("damage", [{}, {"outputs/00001.bin": 99}])
def test_target_folder_holds_only_downloaded_files_at_end(tmp_path: Path, damage: dict[str, int]) -> None:
    store = MemoryStore({**bodies(5), "outputs/big": pattern(LARGE + 1)}, damage=damage)
    result = rank_zero_only(
        tmp_path / "out", "k", lambda: download(store, DownloadRequest(tmp_path / "out")), environment={"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    )
    assert names_in(tmp_path / "out") == store.bodies.keys() - {failure.name for failure in result.failed}
    assert len(result.failed) == len(damage)
    assert [*transfers().glob("*/state.db")] != []
    assert [*meetings().rglob("outcome-1")] != []


def test_all_ways_to_a_folder_share_its_state(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    try:
        (tmp_path / "link").symlink_to(tmp_path / "out", target_is_directory=True)
    except OSError:
        pytest.skip("NEEDS the right to make symlinks")
    store = MemoryStore({"a": b"content"})
    downloaded(store, tmp_path / "link")
    rewritten_unnoticeably(tmp_path / "out" / "a", b"c0ntent")
    assert downloaded(store, tmp_path / "out") == (0, 1, 0), "size and time are known to vouch for it"
    assert len([*transfers().glob("*/state.db")]) == 1


@pytest.mark.parametrize("what", ["moved", "cleared"])
def test_moved_target_or_cleared_cache_is_resumed_by_md5(tmp_path: Path, what: str) -> None:
    store = MemoryStore({"a": b"content", "b": b"1", "big": pattern(2 * SMALL)})
    downloaded(MemoryStore({"a": b"content", "b": b"1"}), tmp_path / "old")
    store.before_piece = stopping_after(SMALL, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        downloaded(store, tmp_path / "old")
    store.before_piece = lambda request, offset: None
    rewritten_unnoticeably(tmp_path / "old" / "a", b"c0ntent")
    if what == "moved":
        (tmp_path / "old").rename(tmp_path / "new")
    else:
        shutil.rmtree(transfers())
    folder = tmp_path / ("new" if what == "moved" else "old")
    store.moved = 0
    again = download(store, DownloadRequest(folder))
    assert (numbers(again), again.differing, store.moved) == ((1, 1, 0), ("a",), 2 * SMALL)
    assert names_in(folder) == store.bodies.keys()


def test_download_without_usable_cache_works_and_warns_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_cache(tmp_path, monkeypatch)
    store = MemoryStore({**bodies(3), "big": pattern(2 * SMALL)})
    store.before_piece = stopping_after(SMALL, ServiceFailed("no more"))
    said: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Notice):
            said.append(event.text)

    with pytest.raises(ServiceFailed):
        download(store, DownloadRequest(tmp_path / "out"), hear)
    left = names_in(tmp_path / "out")
    store.before_piece = lambda request, offset: None
    again = download(store, DownloadRequest(tmp_path / "out"), hear)
    assert left <= bodies(3).keys(), "nobody could go on with a part"
    assert (again.problem(), files_in(tmp_path / "out")) == (None, store.bodies)
    assert [text.partition(":")[0] for text in said] == ["What is fetched is not remembered, since himl's cache cannot be used"]


def test_unrelated_downloads_do_not_share_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, others = MemoryStore({"big": pattern(2 * SMALL)}), MemoryStore({"big": b"x" * 2 * SMALL})
    met: list[set[str]] = []

    def meanwhile(request: FetchRequest, offset: int) -> None:
        if offset >= SMALL and not met:
            with monkeypatch.context() as patch:
                for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
                    patch.setenv(name, str(tmp_path / "another"))
                met.append(names_in(tmp_path / "out"))
                others.before_piece = stopping_after(SMALL, KeyboardInterrupt())
                with pytest.raises(KeyboardInterrupt):
                    downloaded(others, tmp_path / "out")
                met.append(names_in(tmp_path / "out"))

    mine.before_piece = meanwhile
    assert downloaded(mine, tmp_path / "out") == (1, 0, 0)
    assert (tmp_path / "out" / "big").read_bytes() == mine.bodies["big"]
    assert (len(met[0]), len(met[1])) == (1, 2)


FETCH = """
import sys
from pathlib import Path
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest
from tests.services.transfer.stores import MemoryStore
print(download(MemoryStore({"a": b"1"}), DownloadRequest(Path(sys.argv[1]))).files)
"""


def test_the_state_of_folders_that_are_gone_for_long_is_removed(tmp_path: Path) -> None:
    def fetch(name: str) -> None:
        root = Path(__file__).parents[3]
        subprocess.run([sys.executable, "-c", FETCH, str(tmp_path / name)], cwd=root, check=True, stdout=subprocess.DEVNULL)

    names = ("stays", "gone", "elsewhere", "gone long ago", "elsewhere long ago")
    for name in names:
        fetch(name)
    entries = {name: state_of(tmp_path / name).parent for name in names}
    for name, entry in entries.items():
        if name.startswith("elsewhere"):
            (entry / "target").write_bytes(b"another-machine\n" + os.fsencode(tmp_path / name))
        if name.endswith("long ago") or name == "stays":
            old = (entry / "target").stat().st_mtime - (KEPT_DAYS + 1) * 24 * 3600
            os.utime(entry / "target", (old, old))
        if name.startswith("gone"):
            shutil.rmtree(tmp_path / name)
    fetch("new")
    assert {name for name, entry in entries.items() if entry.exists()} == {"stays", "gone", "elsewhere"}


def test_snapshot_skips_downloaded_folder_unless_recreated(tmp_path: Path) -> None:
    project = tmp_path / "project"
    write_files(project, {"train.py": "", "data/mine.py": ""})
    downloaded(MemoryStore({"a/b": b"1"}), project / "data")
    with_download = take_snapshot(project)
    shutil.rmtree(project / "data")
    write_files(project, {"data/new.py": ""})
    made_anew = take_snapshot(project)
    assert ([*with_download.snapshot.files], with_download.downloads) == (["train.py"], ["data"])
    assert ([*made_anew.snapshot.files], made_anew.downloads) == (["data/new.py", "train.py"], [])
