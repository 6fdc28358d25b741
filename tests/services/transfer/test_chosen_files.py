"""Which files of the store a download takes, and by which names."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.errors import NotFound, TransferIncomplete
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest, Filters
from tests.services.transfer.arrived import files_in, numbers
from tests.services.transfer.stores import MemoryStore


def test_prefix_include_and_exclude_choose_the_files(tmp_path: Path) -> None:
    names = ["logs/a.txt", "outputs/model", "outputs/model.ckpt", "outputs/model/x.txt", "outputs2/y.txt"]
    store = MemoryStore({name: name.encode() for name in names if name != "outputs/model"})

    def fetched(folder: str, prefix: str = "", **globs: tuple[str, ...]) -> set[str]:
        download(store, DownloadRequest(tmp_path / folder, Filters(prefix, **globs)))
        return {*files_in(tmp_path / folder)}

    assert fetched("1", "outputs") == {"outputs/model.ckpt", "outputs/model/x.txt", "outputs2/y.txt"}
    assert fetched("2", "outputs/model.ckpt") == {"outputs/model.ckpt"}
    assert fetched("3", include=("*.txt",)) == {"logs/a.txt", "outputs/model/x.txt", "outputs2/y.txt"}
    assert fetched("4", include=("*.txt",), exclude=("outputs*/**",)) == {"logs/a.txt"}
    assert fetched("5", "outputs/", exclude=("model/",)) == {"outputs/model.ckpt"}


def test_the_name_of_one_file_means_that_file_and_no_longer_name(tmp_path: Path) -> None:
    store = MemoryStore({"outputs/model": b"1", "outputs/model.txt": b"2"})
    download(store, DownloadRequest(tmp_path, Filters("outputs/model")))
    assert {*files_in(tmp_path)} == {"outputs/model"}


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("outputs", {"a", "sub/b"}), ("outputs/", {"a", "sub/b"}), ("outputs/sub/b", {"b"}), ("outputs/su", {"sub/b"})],
)
def test_strip_prefix_drops_the_folders_of_the_prefix(tmp_path: Path, prefix: str, expected: set[str]) -> None:
    store = MemoryStore({"outputs/a": b"a", "outputs/sub/b": b"b"})
    download(store, DownloadRequest(tmp_path, Filters(prefix), strip_prefix=True))
    assert {*files_in(tmp_path)} == expected


def test_names_that_fall_together_after_stripping_are_named(tmp_path: Path) -> None:
    store = MemoryStore({"outputs/outputs2/a": b"1", "outputs2/a": b"2"})
    result = download(store, DownloadRequest(tmp_path, Filters("outputs"), strip_prefix=True))
    assert (files_in(tmp_path), [one.name for one in result.refused]) == ({"outputs2/a": b"1"}, ["outputs2/a"])
    assert isinstance(result.problem(), TransferIncomplete)


def test_unmatched_prefix_suggests_near_one_creates_no_folder(tmp_path: Path) -> None:
    store = MemoryStore({"outputs/a": b"", "logs/b": b""})
    with pytest.raises(NotFound, match="No file in the store starts with 'output/'") as caught:
        download(store, DownloadRequest(tmp_path / "out", Filters("output/")))
    assert "Did you mean 'outputs'?" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_filters_without_match_fail_but_empty_store_passes(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="passes --include and --exclude"):
        download(MemoryStore({"a": b""}), DownloadRequest(tmp_path / "out", Filters(include=("*.ckpt",))))
    assert numbers(download(MemoryStore(), DownloadRequest(tmp_path / "out"))) == (0, 0, 0)
    assert not (tmp_path / "out").exists()
