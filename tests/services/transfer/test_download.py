"""Tests of downloads and uploads: every selected file arrives complete and checked, transfers resume, failures name
their files, and names and globs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.blobs import BlobInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import (
    BadUsage,
    BlobChanged,
    IntegrityFailed,
    NotAllowed,
    NotFound,
    ServiceFailed,
    TransferIncomplete,
)
from himl_cli.core.events import Event, Finished, Moved, Planned
from himl_cli.services.transfer.download import LARGE, PIECE, SMALL, download
from himl_cli.services.transfer.local_files import UnsafeName, folded, part_name, safe_relative
from himl_cli.services.transfer.plan import DownloadRequest, Filters, TargetFolder, UploadRequest
from himl_cli.services.transfer.state import TransferState
from himl_cli.services.transfer.upload import upload
from himl_cli.workspaces.base import StoreSink
from tests.services.transfer.stores import (
    MemoryStore,
    bodies,
    files_in,
    let_through,
    numbers,
    pattern,
    rewrite_unnoticeably,
    stop_at,
)
from tests.support.folders import state_of
from tests.support.hostile_texts import SECONDS, within
from tests.support.running import write_files
from tests.support.runs import posix


@pytest.mark.large("downloads large files")
@pytest.mark.parametrize(("md5_in", "shuffle"), [("list", False), ("finish", True), ("ask", True)])
def test_files_arrive_checked_and_are_not_fetched_again(tmp_path: Path, md5_in: str, shuffle: bool) -> None:
    files = {
        **bodies(30),
        "outputs/empty": b"",
        "outputs/middle": pattern(SMALL + 5),
        "outputs/large": pattern(LARGE + PIECE + 3),
    }
    store = MemoryStore(files, md5_in=md5_in, shuffle=shuffle)
    events: list[Event] = []
    first = download(store, DownloadRequest(tmp_path / "out", under="run_1", workers=5), events.append)
    moved = store.moved
    again = download(store, DownloadRequest(tmp_path / "out", under="run_1"))

    assert files_in(tmp_path / "out") == {f"run_1/{name}": body for name, body in store.bodies.items()}
    assert (numbers(first), first.problem()) == ((33, 0, 0), None)
    assert first.bytes == moved == sum(map(len, store.bodies.values()))
    assert (numbers(again), again.bytes, store.moved) == ((0, 33, 0), 0, moved)
    assert (
        sum(e.bytes for e in events if isinstance(e, Moved))
        == sum(e.bytes for e in events if isinstance(e, Planned))
        == moved
    )
    assert {e.name for e in events if isinstance(e, Finished)} == set(store.bodies)


@pytest.mark.large("takes long, and other tests run its branches")
def test_file_with_a_wrong_md5_is_fetched_three_times_at_most(tmp_path: Path) -> None:
    fine = MemoryStore({"once": b"x"})
    sizes_and_damaged_downloads = {
        "twice": (LARGE + 9, 1),
        "also twice": (SMALL + 5, 1),
        "three times": (100, 2),
        "in vain": (50, 99),
    }
    bodies_of = {name: pattern(size) for name, (size, _) in sizes_and_damaged_downloads.items()}
    store = MemoryStore(
        fine.bodies | bodies_of, damage={name: damaged for name, (_, damaged) in sizes_and_damaged_downloads.items()}
    )
    result = download(store, DownloadRequest(tmp_path / "checked"))
    problem = result.problem()
    assert files_in(tmp_path / "checked") == {name: body for name, body in store.bodies.items() if name != "in vain"}
    assert [failure.name for failure in result.failed] == ["in vain"]
    assert (result.files, result.bytes) == (4, 1 + (LARGE + 9) + (SMALL + 5) + 100)
    assert store.moved == 1 + 2 * (LARGE + 9) + 2 * (SMALL + 5) + 3 * 100 + 3 * 50
    assert isinstance(problem, IntegrityFailed)
    assert problem.exit_code == 6
    assert ("--no_validate" in problem.hint, "again" in problem.hint) == (True, False)
    assert download(store, DownloadRequest(tmp_path / "unchecked", validate=False)).files == 5


@pytest.mark.large("takes long, and other tests run its branches")
def test_file_whose_end_is_missing_is_fetched_again_without_md5(tmp_path: Path) -> None:
    short, healed = (
        {f"{name}{size}": pattern(size) for size in (1000, SMALL + 1, LARGE + 1)} for name in ("short", "healed")
    )
    store = MemoryStore({**short, **healed}, md5_in="", cut={**dict.fromkeys(short, 99), **dict.fromkeys(healed, 1)})
    result = download(store, DownloadRequest(tmp_path))
    assert files_in(tmp_path) == healed
    assert [failure.code for failure in result.failed] == ["integrity_failed"] * 3


def test_without_md5_or_validation_size_and_etag_count(tmp_path: Path) -> None:
    store = MemoryStore({"same": b"1234", "other": b"5678", "new": b"2"}, md5_in="")
    write_files(tmp_path, {"same": b"1234", "other": b"...."})
    result = download(store, DownloadRequest(tmp_path))
    assert (numbers(result), result.differing) == ((1, 1, 2), ("other",))
    assert files_in(tmp_path) == {"same": b"1234", "other": b"....", "new": b"2"}
    store = MemoryStore({"a": b"12", "large": pattern(LARGE + 1)}, damage={"a": 1, "large": 1})
    target = tmp_path / "unchecked"
    assert numbers(download(store, DownloadRequest(target, validate=False))) == (2, 0, 2)
    assert files_in(target)["a"] != store.bodies["a"]
    checked = download(store, DownloadRequest(target))
    assert checked.differing == ("a", "large"), "a later call that validates looks at what was not validated"


def test_changed_blob_is_fetched_anew_failed_ones_stop_nothing(tmp_path: Path) -> None:
    others = {"bad": b"bad", "large": pattern(LARGE + 5)}
    store = MemoryStore({"log": pattern(2 * SMALL), "gone": b"x" * 10, "restless": b"y", **others}, broken={*others})

    def change(request: FetchRequest, offset: int) -> None:
        if request.blob.name == "log" and offset > SMALL and store.versions.get("log", 0) == 0:
            store.put("log", pattern(3 * SMALL))
        if request.blob.name == "gone":
            del store.bodies["gone"]
        if request.blob.name == "restless":
            store.put("restless", b"z" * (1 + store.versions.get("restless", 0)))

    store.before_piece = change
    result = download(store, DownloadRequest(tmp_path, workers=3))
    assert files_in(tmp_path) == {"log": store.bodies["log"]}
    failed = {"bad": "service_failed", "gone": "not_found", "large": "service_failed", "restless": "service_failed"}
    assert {failure.name: failure.code for failure in result.failed} == failed
    assert "each of 3 downloads" in {failure.name: failure.message for failure in result.failed}["restless"]
    assert isinstance(result.problem(), ServiceFailed)


def test_transfer_ends_after_64_equal_refusals_and_no_file(tmp_path: Path) -> None:
    files = bodies(200)
    store = MemoryStore(dict(files), broken={*files}, refusal="You may not read here.")
    with pytest.raises(
        NotAllowed, match=r"^You may not read here\. The first 64 files failed like this\. The others were not tried\.$"
    ) as caught:
        download(store, DownloadRequest(tmp_path / "all"))
    assert (caught.value.hint, len(store.fetched)) == ("ask", 64)

    one_arrives = MemoryStore(dict(files), broken={*files} - {"outputs/00003.bin"}, refusal="You may not read here.")
    assert len(download(one_arrives, DownloadRequest(tmp_path / "one")).failed) == 199
    texts_differ = MemoryStore(dict(files), broken={*files}, refusal="'{name}' is locked.")
    assert len(download(texts_differ, DownloadRequest(tmp_path / "locked")).failed) == 200

    write_files(tmp_path / "here", {f"{number:03d}": "x" for number in range(100)})
    with pytest.raises(NotAllowed, match=r"The first 64 files failed like this\. The others were not tried"):
        upload(MemoryStore(refusal="You may not write here."), UploadRequest(tmp_path / "here", "p"))


@pytest.mark.large("takes long, and other tests run its branches")
@posix
def test_file_that_cannot_be_written_fails_alone(tmp_path: Path) -> None:
    """The system refuses to write more than 100 kB to one file (`man 2 setrlimit`), like a broken disk."""
    script = """
import resource, sys
from pathlib import Path
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest
from tests.services.transfer.stores import MemoryStore, numbers
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
result = download(MemoryStore({"bad": bytes(200_000), "good": b"g"}), DownloadRequest(Path(sys.argv[1])))
print(*numbers(result), *[failure.name for failure in result.failed])
problem = result.problem()
print(type(problem).__name__, problem)
"""
    found = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    counts, problem = found.stdout.splitlines()
    assert (counts, problem.startswith("DiskFailed ")) == ("1 0 0 bad", True), problem
    assert f"Cannot write '{tmp_path / 'bad'}': File too large" in problem
    assert files_in(tmp_path) == {"good": b"g"}


STORED = ("logs/a.txt", "outputs/model.ckpt", "outputs/model.ckpt.md5", "outputs/model/x.txt", "outputs2/y.txt")
CHOICES: dict[str, tuple[Filters, set[str]]] = {
    "beginning of names": (Filters("outputs"), {*STORED[1:]}),
    "name of a file, which also begins another": (Filters("outputs/model.ckpt"), {"outputs/model.ckpt"}),
    "glob": (Filters(include=("*.txt",)), {"logs/a.txt", "outputs/model/x.txt", "outputs2/y.txt"}),
    "glob with an exception": (Filters(include=("*.txt",), exclude=("outputs*/**",)), {"logs/a.txt"}),
    "folder without a folder of it": (
        Filters("outputs/", exclude=("model/",)),
        {"outputs/model.ckpt", "outputs/model.ckpt.md5"},
    ),
}


@pytest.mark.parametrize(("filters", "names"), CHOICES.values(), ids=CHOICES)
def test_prefix_include_and_exclude_choose_files(tmp_path: Path, filters: Filters, names: set[str]) -> None:
    download(MemoryStore(dict.fromkeys(STORED, b"x")), DownloadRequest(tmp_path, filters))
    assert {*files_in(tmp_path)} == names


STRIPPED = {
    "outputs": "a sub/b sub/b.txt",
    "outputs/": "a sub/b sub/b.txt",
    "outputs/sub/b": "b",
    "outputs/su": "sub/b sub/b.txt",
}


@pytest.mark.parametrize(("prefix", "names"), STRIPPED.items())
def test_stripped_names_are_below_the_folder_of_the_prefix(tmp_path: Path, prefix: str, names: str) -> None:
    store = MemoryStore({"outputs/a": b"a", "outputs/sub/b": b"b", "outputs/sub/b.txt": b"c"})
    download(store, DownloadRequest(tmp_path, Filters(prefix), strip_prefix=True))
    assert {*files_in(tmp_path)} == {*names.split()}


def test_two_files_that_are_one_when_stripped(tmp_path: Path) -> None:
    store = MemoryStore({"outputs/outputs2/a": b"1", "outputs2/a": b"2"})
    result = download(store, DownloadRequest(tmp_path, Filters("outputs"), strip_prefix=True))
    assert files_in(tmp_path) == {"outputs2/a": b"1"}
    assert [one.name for one in result.refused] == ["outputs2/a"]
    assert isinstance(result.problem(), TransferIncomplete)


def test_choice_of_no_file_or_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    store = MemoryStore({"outputs/a": b"", "logs/b": b""})
    with pytest.raises(NotFound, match="No file in the store starts with 'output/'") as caught:
        download(store, DownloadRequest(tmp_path / "out", Filters("output/")))
    assert "Did you mean 'outputs'?" in caught.value.hint
    with pytest.raises(NotFound, match="matches --include and --exclude"):
        download(store, DownloadRequest(tmp_path / "out", Filters(include=("*.ckpt",))))
    assert numbers(download(MemoryStore(), DownloadRequest(tmp_path / "out"))) == (0, 0, 0)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("mine")
    for folder, message in ((tmp_path / "out", "is a file"), (tmp_path / "out" / "sub", "is below a file")):
        with pytest.raises(BadUsage, match=message):
            download(MemoryStore({"a": b""}), DownloadRequest(folder))
    assert (tmp_path / "out").read_text() == "mine"


def test_unsafe_names_are_refused_and_others_downloaded(tmp_path: Path) -> None:
    bad = [
        "../evil",
        "a/../../evil",
        "/../evil",
        "a//b",
        "C:/evil",
        "..\\evil",
        "a\nb",
        "n" * 256,
        "x/.himl-transfer.db",
        "a/.b.himl-part",
        "a\0b",
    ]
    store = MemoryStore({**dict.fromkeys(bad, b"evil"), "good": b"good", "/etc/good": b"below", "b" * 255: b"long"})
    result = download(store, DownloadRequest(tmp_path / "out" / "here"))
    assert files_in(tmp_path / "out" / "here") == {"good": b"good", "etc/good": b"below", "b" * 255: b"long"}
    assert sorted(one.name for one in result.refused) == sorted(bad)
    assert [*(tmp_path / "out").iterdir()] == [tmp_path / "out" / "here"]
    result = download(MemoryStore({"/same": b"a", "same": b"b"}), DownloadRequest(tmp_path / "two", overwrite=True))
    assert (files_in(tmp_path / "two"), [one.name for one in result.refused]) == ({"same": b"a"}, ["same"])


def test_planted_link_does_not_lead_out_of_folder(tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "out"
    write_files(tmp_path, {"outside/empty": b"", "out/x": b""})
    try:
        (target / "linked").symlink_to(outside, target_is_directory=True)
        with TransferState(target, print) as state:
            part = Path(state.part_of(str(target / "file")))
        part.symlink_to(outside / "victim")
        (target / "file").symlink_to(outside / "victim")
        for name in (".himl-transfer.db", ".himl-transfer.db-wal", ".himl-transfer.lock"):
            (target / name).symlink_to(outside / "empty")
    except OSError:
        pytest.skip("NEEDS the right to make symlinks")
    store = MemoryStore({"linked/a": b"evil", "linked/deep/b": b"evil", "file": b"evil"})
    result = download(store, DownloadRequest(target))
    assert ([one.name for one in result.refused], result.differing) == (["linked/a", "linked/deep/b"], ("file",))
    assert download(store, DownloadRequest(target, overwrite=True)).files == 1
    assert ((target / "file").read_bytes(), (target / "file").is_symlink(), files_in(outside)) == (
        b"evil",
        False,
        {"empty": b""},
    )


def test_name_of_file_and_folder_or_of_local_files_is_refused(tmp_path: Path) -> None:
    store = MemoryStore(
        {
            "a": b"file",
            "a-b": b"1",
            "a/b": b"2",
            "a/b/c": b"3",
            "marker": b"",
            "marker/x": b"4",
            "dir/": b"",
            "dir/y": b"5",
        }
    )
    result = download(store, DownloadRequest(tmp_path))
    assert files_in(tmp_path) == {"a-b": b"1", "a/b/c": b"3", "marker/x": b"4", "dir/y": b"5"}
    assert sorted(one.name for one in result.refused) == ["a", "a/b"]
    (tmp_path / "a-b").write_text("mine")
    result = download(MemoryStore({"dir": b"1", "a-b/x": b"2", "ok": b"3"}), DownloadRequest(tmp_path, overwrite=True))
    assert {one.name: one.reason for one in result.refused} == {
        "dir": "a local folder has this name",
        "a-b/x": "'a-b' is a local file",
    }
    assert ((tmp_path / "a-b").read_text(), (tmp_path / "ok").read_bytes()) == ("mine", b"3")


@pytest.mark.parametrize(
    ("change", "moved"), [("another version", 3 * SMALL), ("damage", 3 * SMALL), ("damage, but all bytes", 2 * SMALL)]
)
def test_unusable_partial_file_is_fetched_anew(tmp_path: Path, change: str, moved: int) -> None:
    store = MemoryStore({"big": pattern(2 * SMALL)}, before_piece=stop_at(SMALL, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        download(store, DownloadRequest(tmp_path))
    store.before_piece = let_through
    store.moved = 0
    if change == "another version":
        store.put("big", pattern(3 * SMALL))
    else:
        (path,) = tmp_path.glob(".big.*.himl-part")
        body = path.read_bytes() if change == "damage" else store.bodies["big"]
        path.write_bytes(b"garbage" + body[7:])
    assert download(store, DownloadRequest(tmp_path)).problem() is None
    assert files_in(tmp_path) == store.bodies
    # A damaged file costs what is missing of it, then the whole file.
    assert store.moved == moved


def test_download_renews_grown_source_but_keeps_other_files(tmp_path: Path) -> None:
    store = MemoryStore({"log": b"line 1\n", "notes": b"first"})
    download(store, DownloadRequest(tmp_path))
    (tmp_path / "notes").write_bytes(b"my own")
    store.put("log", b"line 1\nline 2\n")
    store.put("notes", b"second")
    result = download(store, DownloadRequest(tmp_path))
    assert files_in(tmp_path) == {"log": b"line 1\nline 2\n", "notes": b"my own"}
    assert (numbers(result), result.differing) == ((1, 0, 0), ("notes",))
    store.put("log", b"line 1\nline 2\nline 3\n")
    other = download(MemoryStore(store.bodies, origin="run 2"), DownloadRequest(tmp_path))
    assert ((tmp_path / "log").read_bytes(), other.differing) == (b"line 1\nline 2\n", ("log", "notes"))
    assert isinstance(other.problem(), TransferIncomplete)
    replaced = download(store, DownloadRequest(tmp_path, overwrite=True))
    assert (numbers(replaced), replaced.problem(), files_in(tmp_path)) == ((2, 0, 0), None, store.bodies)


def test_size_and_time_vouch_until_state_is_lost(tmp_path: Path) -> None:
    store = MemoryStore({**bodies(3), "a": b"content"})
    download(store, DownloadRequest(tmp_path))
    rewrite_unnoticeably(tmp_path / "a", b"c0ntent")
    assert numbers(download(store, DownloadRequest(tmp_path))) == (0, 4, 0)
    state_of(tmp_path).write_bytes(b"no database at all" * 100)
    moved = store.moved
    result = download(store, DownloadRequest(tmp_path))
    assert (numbers(result), result.differing, store.moved) == ((0, 3, 0), ("a",), moved)
    known = tmp_path / "outputs/00000.bin"
    rewrite_unnoticeably(known, b"?" * known.stat().st_size)
    assert download(store, DownloadRequest(tmp_path)).differing == ("a",), "there is a new state"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    write_files(tmp_path / "data", {"a": b"1", "a-b": b"22", "sub/c.txt": b"333", "sub/d": b""})
    return tmp_path / "data"


def test_folder_or_file_is_uploaded_below_prefix_once(local: Path) -> None:
    before = {"dataset/z": b"other", "dataset": b"a file"}
    store = MemoryStore(dict(before))
    events: list[Event] = []
    first = upload(store, UploadRequest(local, "/dataset/"), events.append)
    again = upload(store, UploadRequest(local, "dataset"))
    assert store.bodies == {
        **before,
        "dataset/a": b"1",
        "dataset/a-b": b"22",
        "dataset/sub/c.txt": b"333",
        "dataset/sub/d": b"",
    }
    assert (first.files, first.bytes, first.skipped, first.problem()) == (4, 6, 0, None)
    assert (again.files, again.bytes, again.skipped, store.moved) == (0, 0, 4, 6)
    assert sum(event.bytes for event in events if isinstance(event, Moved)) == 6
    assert [event.name for event in events if isinstance(event, Finished)] == [
        "dataset/a",
        "dataset/a-b",
        "dataset/sub/c.txt",
        "dataset/sub/d",
    ]
    for prefix in ("", ".", "/", "./"):
        store = MemoryStore()
        upload(store, UploadRequest(local, prefix))
        assert {*store.bodies} == {"a", "a-b", "sub/c.txt", "sub/d"}
    store = MemoryStore({"models/c.txt": b"old"})
    left = upload(store, UploadRequest(local / "sub/c.txt", "models"))
    replaced = upload(store, UploadRequest(local / "sub/c.txt", "models", overwrite=True))
    assert (left.differing, replaced.files, store.bodies) == (("models/c.txt",), 1, {"models/c.txt": b"333"})


def test_differing_blob_is_kept_and_listed_unless_overwrite(local: Path) -> None:
    store = MemoryStore(
        {"p/a": b"X", "p/a-0": b"", "p/a-1": b"", "p/a-b": b"longer", "p/b": b"", "p/sub/b": b"", "p/sub/c.txt": b"333"}
    )
    left = upload(store, UploadRequest(local, "p"))
    kept = dict(store.bodies)
    replaced = upload(store, UploadRequest(local, "p", overwrite=True))
    assert (left.files, left.skipped, left.differing) == (1, 1, ("p/a", "p/a-b"))
    assert isinstance(left.problem(), TransferIncomplete)
    assert (kept["p/a"], kept["p/a-b"]) == (b"X", b"longer")
    assert (replaced.files, replaced.skipped, replaced.problem(), store.bodies["p/a"]) == (2, 2, None, b"1")
    store = MemoryStore({"p/a": b"1"}, md5_in="")
    assert upload(store, UploadRequest(local, "p")).differing == ("p/a",)
    by_size = upload(store, UploadRequest(local, "p", validate=False))
    assert (by_size.skipped, by_size.unverified, by_size.differing) == (4, 4, ())


class SharedStore(MemoryStore):
    """A store in which another client always stores the same file first."""

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        for request in requests:
            sink.fail(request, BlobChanged(f"{request.name} was stored meanwhile"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_blob_that_another_client_stores_meanwhile_differs(local: Path, overwrite: bool) -> None:
    found = upload(SharedStore(), UploadRequest(local / "sub/c.txt", "p", overwrite=overwrite))
    names = (found.differing, tuple(one.name for one in found.failed))
    assert names == (((), ("p/c.txt",)) if overwrite else (("p/c.txt",), ()))


def test_files_are_chosen_and_other_requests_refused(local: Path) -> None:
    store = MemoryStore()
    upload(store, UploadRequest(local, "p", Filters(include=("sub/*", "a"), exclude=("*.txt",))))
    assert {*store.bodies} == {"p/a", "p/sub/d"}
    with pytest.raises(NotFound, match="no files to upload"):
        upload(store, UploadRequest(local, "p", Filters(include=("*.png",))))
    (local / "empty").mkdir()
    for source, prefix, kind, message in (
        (local / "gone", "p", NotFound, "no file or folder"),
        (local, "../p", BadUsage, "leads out"),
        (local / "empty", "p", NotFound, "no files to upload"),
    ):
        with pytest.raises(kind, match=message):
            upload(MemoryStore(), UploadRequest(source, prefix))


class ChangingStore(MemoryStore):
    """A store in which a file grows while it is uploaded, before or after its bytes are read, a number of times."""

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
def test_file_changing_during_upload_is_sent_again(local: Path, before: bool) -> None:
    store = ChangingStore()
    store.disturb(local / "a", 2, before=before)
    result = upload(store, UploadRequest(local / "a", "p"))
    assert (result.problem(), result.files, store.bodies) == (None, 1, {"p/a": b"1++"})
    assert result.bytes == len(b"1++"), "what was sent before counts only as sent, not as stored"
    store.disturb(local / "a", 99, before=before)
    failed = upload(store, UploadRequest(local / "a", "q"))
    assert ([failure.name for failure in failed.failed], failed.files) == (["q/a"], 0)
    assert isinstance(failed.problem(), ServiceFailed)


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS POSIX links and pipes")
def test_links_pipes_workspaces_and_state_files_are_left_out(local: Path) -> None:
    (local / "loop").symlink_to(local, target_is_directory=True)
    os.mkfifo(local / "pipe")
    write_files(local, dict.fromkeys((".himl/datastores/local/x", ".himl-transfer.db", "sub/.c.himl-part"), "x"))
    store = MemoryStore()
    upload(store, UploadRequest(local, "p"))
    assert {*store.bodies} == {"p/a", "p/a-b", "p/sub/c.txt", "p/sub/d"}


OUTSIDE = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/..",
    "./a",
    "../../a",
    "C:",
    "c:/x",
    "C:\\x",
    "\\\\server\\share",
    "\\x",
    "a\\..\\b",
    "..\\x",
]
UNPRINTABLE = ["a\0", "a\tb", "\x9b0m", "é" * 128, "a/" * 2100 + "b", "\ud800"]
OWN = [".himl-transfer.db", "x/.HIML-TRANSFER.db-wal", ".himl-ranks/x", "a/.b.himl-part"]
ONLY_POSIX = ["con", "a/NUL.txt", "com1", "LPT¹.log", "aux .x", "a:b", "a\\b", "what?", "end.", "end ", "a/b./c"]
SAFE = [
    "outputs/epoch=3.ckpt",
    "a b/ü",
    "...",
    "..a",
    "a..",
    ".hidden",
    "x/" * 50 + "y",
    "n" * 255,
    "console.txt",
    "lock.himl-part",
]


def test_unsafe_names_are_refused_and_names_fold(tmp_path: Path) -> None:
    for name in (*OUTSIDE, *UNPRINTABLE, *OWN):
        for windows in (False, True):
            with pytest.raises(UnsafeName, match=r"it|part"):
                safe_relative(name, windows=windows)
    for name in ONLY_POSIX:
        with pytest.raises(UnsafeName, match="Windows"):
            safe_relative(name, windows=True)
    for name in (*ONLY_POSIX, *SAFE):
        assert "/".join(safe_relative(name, windows=False)) == name
    assert folded("Große/\u00c9") == folded("grosse/e\u0301") != folded("grosse/e")
    (tmp_path / "Probe").touch()
    assert TargetFolder(tmp_path).folds_names() == (tmp_path / "pROBE").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["Probe"]


@pytest.mark.large("takes long, and other tests run its branches")
@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=300))
def test_partial_file_name_fits_limit_and_is_unique(base: str) -> None:
    for name in (base, base + "x" * 300):
        assert len(part_name(name, "0a1b2c3d").encode()) <= 255
    assert part_name("x" * 200, "m") == f".{'x' * 200}.m.himl-part"
    assert (part_name(base, "m").startswith("."), part_name(base, "m").endswith(".himl-part")) == (True, True)
    assert part_name(base + "x" * 300, "m") != part_name(base + "y" * 300, "m")
    assert part_name(base, "m") != part_name(base, "n")


def test_names_that_glob_admits_quickly() -> None:
    for glob, admitted, others in (
        (
            "checkpoints/*",
            ["outputs/checkpoints/last.ckpt"],
            ["outputs/my_checkpoints/last.ckpt", "outputs/checkpoints/sub/last.ckpt"],
        ),
        ("checkpoints/**", ["outputs/checkpoints/sub/last.ckpt"], []),
        ("checkpoints/", ["outputs/checkpoints/sub/last.ckpt"], []),
        ("checkpoints", ["outputs/checkpoints/sub/last.ckpt", "checkpoints/a", "a/checkpoints"], ["my_checkpoints/a"]),
        ("a/b", ["a/b/c", "x/a/b"], ["a/bc"]),
        ("/a/b", ["a/b"], ["a/b/c", "x/a/b"]),
        ("/a*", ["ab"], ["outputs/a"]),
        ("outputs/**/a", ["outputs/a", "outputs/x/y/a"], []),
        ("a?c", [], ["a/c"]),
        ("a[!b]c", [], ["a/c"]),
        ("a**b", [], ["a/b"]),
        ("*", ["line\nbreak"], []),
        ("epoch=[1-3].ckpt", ["epoch=2.ckpt"], []),
        ("epoch=[!1-3].ckpt", [], ["epoch=2.ckpt"]),
        ("a[b", ["a[b"], []),
        ("[[]x", ["[x"], []),
        ("[a&&b]", ["&"], []),
        ("[+--]", [","], []),
        ("[a-]", ["-"], []),
        ("[!]", ["[!]"], []),
        ("[^a]", ["b"], []),
        ("a.c", [], ["abc"]),
    ):
        names = [*admitted, *others]
        assert [name for name in names if Filters(include=(glob,)).admit(name)] == admitted
        assert [name for name in names if Filters(exclude=(glob,)).admit(name)] == others
    filters = Filters(include=("*.a", "*.b"), exclude=("x.*",))
    assert [name for name in ("1.a", "1.b", "1.c", "x.a") if filters.admit(name)] == ["1.a", "1.b"]
    for glob, message in (("[z-a]", r"\[z-a\]"), ("*" * 1001, "1,001 characters")):
        with pytest.raises(BadUsage, match=message):
            Filters(include=(glob,)).admit("x")
    for glob in ("*a" * 25 + "b", "**/a" * 25 + "b", "*" * 900 + "b", "**a**/" * 20 + "b", "?*" * 400 + "b"):
        with within(SECONDS):
            assert not Filters(include=(glob,)).admit("a" * 60)
            assert not Filters(include=(glob,)).admit("a/" * 500 + "c")
