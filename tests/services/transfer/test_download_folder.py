"""The folder that a download writes: no name and no link leads out of it, and what is in the way is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest
from himl_cli.services.transfer.state import TransferState
from tests.services.transfer.arrived import files_in, numbers
from tests.services.transfer.stores import MemoryStore
from tests.support.running import write_files


def test_an_output_folder_that_is_a_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(BadUsage, match="is a file"):
        download(MemoryStore({"a": b""}), DownloadRequest(tmp_path / "out"))
    with pytest.raises(BadUsage, match="lies below a file"):
        download(MemoryStore({"a": b""}), DownloadRequest(tmp_path / "out" / "sub"))
    assert (tmp_path / "out").read_text() == "mine"


def test_unsafe_names_are_refused_and_others_downloaded(tmp_path: Path) -> None:
    bad = ["../evil", "a/../../evil", "/etc/evil", "a//b", "C:/evil", "..\\evil", "a\nb", "n" * 256, "x/.himl-transfer.db", "a/.b.himl-part", "a\0b"]
    store = MemoryStore({**dict.fromkeys(bad, b"evil"), "good": b"good", "b" * 255: b"long"})
    result = download(store, DownloadRequest(tmp_path / "out" / "here"))
    assert files_in(tmp_path / "out" / "here") == {"good": b"good", "b" * 255: b"long"}
    assert sorted(one.name for one in result.refused) == sorted(bad)
    assert [*(tmp_path / "out").iterdir()] == [tmp_path / "out" / "here"]


def test_a_planted_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "out"
    target.mkdir()
    try:
        (target / "linked").symlink_to(outside, target_is_directory=True)
        with TransferState(target, print) as state:
            part = Path(state.part_of(str(target / "file")))
        part.symlink_to(outside / "victim")
        (target / "file").symlink_to(outside / "victim")
    except OSError:
        pytest.skip("NEEDS the right to make symlinks")
    store = MemoryStore({"linked/a": b"evil", "linked/deep/b": b"evil", "file": b"evil"})
    result = download(store, DownloadRequest(target))
    assert [*outside.iterdir()] == []
    assert ([one.name for one in result.refused], result.differing) == (["linked/a", "linked/deep/b"], ("file",))
    assert download(store, DownloadRequest(target, overwrite=True)).files == 1
    assert ((target / "file").read_bytes(), (target / "file").is_symlink(), [*outside.iterdir()]) == (b"evil", False, [])


@pytest.mark.parametrize("name", [".himl-transfer.db", ".himl-transfer.db-wal", ".himl-transfer.db-journal", ".himl-transfer.lock"])
def test_planted_link_named_like_state_file_is_not_followed(tmp_path: Path, name: str) -> None:
    outside, target = tmp_path / "outside", tmp_path / "out"
    write_files(tmp_path, {"outside/empty": b"", "out/x": b""})
    try:
        (target / name).symlink_to(outside / "empty")
    except OSError:
        pytest.skip("NEEDS the right to make symlinks")
    assert download(MemoryStore({"a": b"1"}), DownloadRequest(target)).files == 1
    assert files_in(outside) == {"empty": b""}


def test_name_of_both_file_and_folder_keeps_folder(tmp_path: Path) -> None:
    store = MemoryStore({"a": b"file", "a-b": b"1", "a/b": b"2", "a/b/c": b"3", "marker": b"", "marker/x": b"4", "dir/": b"", "dir/y": b"5"})
    result = download(store, DownloadRequest(tmp_path))
    assert files_in(tmp_path) == {"a-b": b"1", "a/b/c": b"3", "marker/x": b"4", "dir/y": b"5"}
    assert sorted(one.name for one in result.refused) == ["a", "a/b"]


def test_files_and_folders_that_are_in_the_way_here_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    result = download(MemoryStore({"folder": b"1", "file/x": b"2", "ok": b"3"}), DownloadRequest(tmp_path, overwrite=True))
    assert {one.name: one.reason for one in result.refused} == {"folder": "a folder of this name is here", "file/x": "'file' is a file here"}
    assert ((tmp_path / "file").read_text(), (tmp_path / "ok").read_bytes()) == ("mine", b"3")


@pytest.mark.skipif(os.name == "nt", reason="NEEDS file names that are not Unicode")
def test_names_that_are_not_utf_8_arrive_as_they_are(tmp_path: Path) -> None:
    name = os.fsdecode(b"outputs/gr\xfc\xdfe.txt")
    store = MemoryStore({name: b"hello"})
    assert numbers(download(store, DownloadRequest(tmp_path))) == (1, 0, 0)
    assert numbers(download(store, DownloadRequest(tmp_path))) == (0, 1, 0)
    assert os.listdir(os.fsencode(tmp_path / "outputs")) == [b"gr\xfc\xdfe.txt"]
