from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import BadUsage, NotAllowed, NotFound, ServiceFailed, TransferIncomplete
from himl_cli.core.events import Event, Finished, Moved
from himl_cli.services.transfer.plan import Filters, UploadRequest
from himl_cli.services.transfer.upload import DIGESTED_BEFORE, upload
from himl_cli.workspaces.base import StoreSink
from tests.services.transfer.stores import MemoryStore, md5_bytes, pattern


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name, body in {"a": b"1", "a-b": b"22", "sub/c.txt": b"333", "sub/d": b""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    return folder


def test_the_contents_of_a_folder_go_below_the_prefix_once(local: Path) -> None:
    store = MemoryStore({"dataset/z": b"other", "dataset": b"a file"})
    seen: list[Event] = []
    first = upload(store, UploadRequest(local, "/dataset/"), seen.append)
    again = upload(store, UploadRequest(local, "dataset"))
    assert store.bodies == {
        "dataset": b"a file",
        "dataset/z": b"other",
        "dataset/a": b"1",
        "dataset/a-b": b"22",
        "dataset/sub/c.txt": b"333",
        "dataset/sub/d": b"",
    }
    assert (first.files, first.bytes, first.skipped, first.problem()) == (4, 6, 0, None)
    assert (again.files, again.bytes, again.skipped, store.moved) == (0, 0, 4, 6)
    assert sum(event.bytes for event in seen if isinstance(event, Moved)) == 6
    assert [event.name for event in seen if isinstance(event, Finished)] == ["dataset/a", "dataset/a-b", "dataset/sub/c.txt", "dataset/sub/d"]


@pytest.mark.parametrize("prefix", ["", ".", "/", "./"])
def test_the_top_is_a_prefix_too(local: Path, prefix: str) -> None:
    store = MemoryStore()
    upload(store, UploadRequest(local, prefix))
    assert {*store.bodies} == {"a", "a-b", "sub/c.txt", "sub/d"}


def test_one_file_goes_below_the_prefix_under_its_name(local: Path) -> None:
    store = MemoryStore({"models/c.txt": b"old"})
    left = upload(store, UploadRequest(local / "sub/c.txt", "models"))
    replaced = upload(store, UploadRequest(local / "sub/c.txt", "models", overwrite=True))
    assert (left.differing, replaced.files, store.bodies) == (("models/c.txt",), 1, {"models/c.txt": b"333"})


def test_differing_blob_is_kept_and_listed_unless_overwrite(local: Path) -> None:
    store = MemoryStore({"p/a": b"X", "p/a-0": b"", "p/a-1": b"", "p/a-b": b"longer", "p/b": b"", "p/sub/b": b"", "p/sub/c.txt": b"333"})
    left = upload(store, UploadRequest(local, "p"))
    kept = dict(store.bodies)
    replaced = upload(store, UploadRequest(local, "p", overwrite=True))
    assert (left.files, left.skipped, left.differing) == (1, 1, ("p/a", "p/a-b"))
    assert isinstance(left.problem(), TransferIncomplete)
    assert (kept["p/a"], kept["p/a-b"]) == (b"X", b"longer")
    assert (replaced.files, replaced.skipped, replaced.problem(), store.bodies["p/a"]) == (2, 2, None, b"1")


def test_blob_without_md5_differs_unless_validation_is_off(local: Path) -> None:
    """Without validation its size is compared."""
    store = MemoryStore({"p/a": b"1"}, md5_in="")
    assert upload(store, UploadRequest(local, "p")).differing == ("p/a",)
    by_size = upload(store, UploadRequest(local, "p", validate=False))
    assert (by_size.skipped, by_size.unverified, by_size.differing) == (4, 4, ())


def test_include_and_exclude_choose_the_files(local: Path) -> None:
    store = MemoryStore()
    upload(store, UploadRequest(local, "p", Filters(include=("sub/*", "a"), exclude=("*.txt",))))
    assert {*store.bodies} == {"p/a", "p/sub/d"}
    with pytest.raises(NotFound, match="nothing to upload"):
        upload(store, UploadRequest(local, "p", Filters(include=("*.png",))))


def test_what_is_not_there_or_climbs_is_an_error(local: Path) -> None:
    with pytest.raises(NotFound, match="no file or folder"):
        upload(MemoryStore(), UploadRequest(local / "gone", "p"))
    with pytest.raises(BadUsage, match="leads out"):
        upload(MemoryStore(), UploadRequest(local, "../p"))
    (local / "empty").mkdir()
    with pytest.raises(NotFound, match="nothing to upload"):
        upload(MemoryStore(), UploadRequest(local / "empty", "p"))


class ChangingStore(MemoryStore):
    """Appends to a file while it is being sent, before or after its bytes are read, a number of times."""

    def disturb(self, path: Path, times: int, *, before: bool) -> None:
        self.path, self.times, self.is_before = path, times, before

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        for request in requests:
            self._append(self.is_before)
            super().store([request], _Between(sink, lambda: self._append(not self.is_before)), workers=workers)

    def _append(self, now: bool) -> None:
        if now and self.times:
            self.times -= 1
            with open(self.path, "ab") as file:
                file.write(b"+")


class _Between:
    """A sink that acts between the last byte and the end of a file."""

    def __init__(self, sink: StoreSink, act: Callable[[], None]) -> None:
        self.sink, self.act = sink, act
        self.advance, self.fail = sink.advance, sink.fail

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        self.act()
        self.sink.finish(request, stored)


@pytest.mark.parametrize("before", [True, False])
def test_a_file_that_changes_while_it_is_sent_is_sent_again(local: Path, before: bool) -> None:
    store = ChangingStore()
    store.disturb(local / "a", 2, before=before)
    result = upload(store, UploadRequest(local / "a", "p"))
    assert (result.problem(), result.files, store.bodies) == (None, 1, {"p/a": b"1++"})
    assert result.bytes == len(b"1++"), "what was sent before counts only as sent, not as stored"


def test_what_was_sent_of_a_file_that_then_failed_does_not_count(local: Path) -> None:
    class Halfway(MemoryStore):
        """Breaks off once, after some of the bytes, because the file changed."""

        def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
            for request in requests:
                if not self.moved:
                    self.moved = 1
                    sink.advance(request, 1)
                    request.path.write_bytes(b"later")
                    sink.fail(request, ServiceFailed("broken off"))
                else:
                    super().store([request], sink, workers=workers)

    result = upload(Halfway(), UploadRequest(local / "a", "p"))
    assert (result.files, result.bytes) == (1, len(b"later"))


def test_a_refusal_of_file_after_file_ends_the_transfer(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number:03d}").write_text("x")
    with pytest.raises(NotAllowed, match="So it was for the first 64 files; the others were not tried"):
        upload(MemoryStore(refusal="You may not write here."), UploadRequest(tmp_path, "p"))


@pytest.mark.parametrize("before", [True, False])
def test_a_file_that_never_stops_changing_is_named(local: Path, before: bool) -> None:
    store = ChangingStore()
    store.disturb(local / "a", 99, before=before)
    result = upload(store, UploadRequest(local / "a", "p"))
    assert ([failure.name for failure in result.failed], result.files) == (["p/a"], 0)
    assert isinstance(result.problem(), ServiceFailed)


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS POSIX links and pipes")
def test_links_pipes_workspaces_and_state_files_do_no_harm(local: Path) -> None:
    (local / "loop").symlink_to(local, target_is_directory=True)
    os.mkfifo(local / "pipe")
    for name in (".himl/datastores/local/x", ".himl-transfer.db", "sub/.c.himl-part"):
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_text("x")
    store = MemoryStore()
    upload(store, UploadRequest(local, "p"))
    assert {*store.bodies} == {"p/a", "p/a-b", "p/sub/c.txt", "p/sub/d"}


def test_large_upload_is_digested_by_store_and_read_once(tmp_path: Path) -> None:
    class Noting(MemoryStore):
        def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
            self.asked = [*requests]
            super().store(self.asked, sink, workers=workers)

    (tmp_path / "large").write_bytes(pattern(DIGESTED_BEFORE + 1))
    (tmp_path / "small").write_bytes(b"small")
    store = Noting()
    result = upload(store, UploadRequest(tmp_path, "p"))
    assert [(request.name, request.md5) for request in store.asked] == [("p/large", None), ("p/small", md5_bytes(b"small"))]
    assert (result.files, result.problem(), {*store.bodies}) == (2, None, {"p/large", "p/small"})
