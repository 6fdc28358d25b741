from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.blobs import FetchRequest, StoreRequest
from himl_cli.core.errors import BlobChanged, DiskFailed
from himl_cli.core.files import walk_files
from himl_cli.workspaces.local.file_blobs import PAGE, DatastoreFolder, RunFiles
from himl_cli.workspaces.local.run_store import Database
from tests.support.stores import Received, Stored, listed, named

posix_names = pytest.mark.skipif(sys.platform == "win32", reason="NEEDS POSIX file names and links")


@pytest.fixture
def run(tmp_path: Path) -> tuple[RunFiles, Path, Path]:
    folder, code = tmp_path / "run", tmp_path / "run" / "code"
    for path in (folder / "user_logs", folder / "artifacts", code / "outputs", code / "logs"):
        path.mkdir(parents=True)
    return RunFiles(folder, code, "run 'demo_1'"), folder, code


@pytest.fixture
def datastore(tmp_path: Path) -> Iterator[DatastoreFolder]:
    (tmp_path / "data").mkdir()
    database = Database(tmp_path / "workspace.db", create=True)
    yield DatastoreFolder(tmp_path / "data", "local", database)
    database.close()


def store_body(store: DatastoreFolder, source: Path, name: str, body: bytes) -> Stored:
    source.write_bytes(body)
    sink = Stored()
    store.store([StoreRequest(source, name, len(body), hashlib.md5(body).digest())], sink, workers=1)
    return sink


def fetch(store: RunFiles | DatastoreFolder, *requests: FetchRequest) -> Received:
    sink = Received()
    store.fetch(requests, sink, workers=1)
    return sink


def test_run_files_merge_output_folders_and_artifacts_sorted(run: tuple[RunFiles, Path, Path]) -> None:
    store, folder, code = run
    for path in (
        "code/outputs/m.ckpt",
        "code/logs/events",
        "user_logs/std_log.txt",
        "artifacts/plot.png",
        "artifacts/model/a",
        "artifacts/outputs/m.ckpt",
        "artifacts/outputs/n",
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    (code / "train.py").write_text("not an artifact")
    expected = ["logs/events", "model/a", "outputs/m.ckpt", "outputs/n", "plot.png", "user_logs/std_log.txt"]
    assert [blob.name for blob in listed(store)] == expected
    assert [blob.name for blob in listed(store, "outputs/m")] == ["outputs/m.ckpt"]
    assert b"".join(store.read("outputs/m.ckpt")) == b"code/outputs/m.ckpt"
    assert b"".join(store.read("outputs/n")) == b"artifacts/outputs/n"
    assert store.stat("train.py") is None


def test_a_run_without_any_folder_has_no_files(tmp_path: Path) -> None:
    store = RunFiles(tmp_path / "gone", tmp_path / "gone" / "code", "run 'gone'")
    assert listed(store) == []


def test_a_file_that_is_stored_replaces_the_one_that_is_shown(run: tuple[RunFiles, Path, Path], tmp_path: Path) -> None:
    """Also where the script itself wrote that."""
    files, _, code = run
    (code / "outputs").mkdir(parents=True, exist_ok=True)
    (code / "outputs" / "mine").write_bytes(b"old")
    (tmp_path / "x").write_bytes(b"new")
    sink = Stored()
    files.store([StoreRequest(tmp_path / "x", name, 3) for name in ("outputs/mine", "outputs/other", "note")], sink, workers=1)
    assert sink.errors == {}
    assert [b"".join(files.read(name)) for name in ("outputs/mine", "outputs/other", "note")] == [b"new"] * 3
    assert {path.name for path in (code / "outputs").iterdir()} >= {"mine"}
    assert not (code / "outputs" / "other").exists()


@pytest.mark.parametrize(("name", "may_grow"), [("user_logs/std_log.txt", True), ("logs/events", True), ("outputs/log", False)])
def test_only_logs_may_grow_while_they_are_fetched(run: tuple[RunFiles, Path, Path], name: str, may_grow: bool) -> None:
    store, folder, code = run
    path = (folder if name.startswith("user") else code) / name
    path.write_bytes(b"line 1\n")
    blob = named(store, name)
    with open(path, "ab") as log:
        log.write(b"line 2\n")
    sink = fetch(store, FetchRequest(blob, 0, blob.size))
    if may_grow:
        assert sink.bodies == {(name, 0): b"line 1\n"}
        assert sink.md5s == {(name, 0): hashlib.md5(b"line 1\n").digest()}
        assert store.md5(blob) == hashlib.md5(b"line 1\n").digest()
    else:
        assert isinstance(sink.errors[name], BlobChanged)
        assert store.md5(blob) is None


def test_a_log_that_was_replaced_or_cut_has_changed(run: tuple[RunFiles, Path, Path]) -> None:
    store, _, code = run
    for name in ("cut", "replaced"):
        (code / "logs" / name).write_bytes(b"line 1\n")
    blobs = [named(store, "logs/cut"), named(store, "logs/replaced")]
    (code / "logs" / "cut").write_bytes(b"l")
    (code / "logs" / "new").write_bytes(b"line 1\nline 2\n")
    os.replace(code / "logs" / "new", code / "logs" / "replaced")
    sink = fetch(store, *(FetchRequest(blob, 0, blob.size) for blob in blobs))
    assert {name: type(error) for name, error in sink.errors.items()} == {"logs/cut": BlobChanged, "logs/replaced": BlobChanged}


@posix_names
def test_a_file_that_is_replaced_while_it_is_fetched_has_changed(run: tuple[RunFiles, Path, Path]) -> None:
    store, _, code = run
    path = code / "outputs/big"
    path.write_bytes(b"old" * 1_000_000)

    class Replacing(Received):
        def write(self, request: FetchRequest, offset: int, data: bytes) -> None:
            if offset == 0:
                path.with_name("new").write_bytes(b"new" * 1_000_000)
                os.replace(path.with_name("new"), path)

    sink = Replacing()
    store.fetch([FetchRequest(named(store, "outputs/big"), 0, 3_000_000)], sink, workers=1)
    assert isinstance(sink.errors["outputs/big"], BlobChanged)
    assert sink.md5s == {}


def test_resumed_and_ranged_fetches_report_md5_of_whole_file(run: tuple[RunFiles, Path, Path]) -> None:
    store, _, code = run
    body = bytes(range(256)) * 20_000
    (code / "outputs" / "big").write_bytes(body)
    blob = named(store, "outputs/big")
    resumed = fetch(store, FetchRequest(blob, 3_000_001, blob.size - 3_000_001))
    ranged = fetch(store, FetchRequest(blob, 0, 100), FetchRequest(blob, 100, 1_000_000), FetchRequest(blob, 2_000_000, blob.size - 2_000_000))
    assert resumed.md5s == {("outputs/big", 3_000_001): hashlib.md5(body).digest()}
    assert [*ranged.md5s.values()] == [None, None, hashlib.md5(body).digest()]


def test_a_recorded_md5_holds_until_the_file_changes(datastore: DatastoreFolder, tmp_path: Path) -> None:
    sink = store_body(datastore, tmp_path / "x", "models/x", b"content")
    digest = hashlib.md5(b"content").digest()
    assert (sink.blobs["models/x"].md5, named(datastore, "models/x").md5, listed(datastore)[0].md5) == (digest, digest, digest)
    (tmp_path / "data/models/x").write_bytes(b"changed, longer")
    assert named(datastore, "models/x").md5 is None
    assert datastore.md5(named(datastore, "models/x")) == hashlib.md5(b"changed, longer").digest()


def test_corrupted_stored_file_is_fetched_with_its_original_md5(datastore: DatastoreFolder, tmp_path: Path) -> None:
    store_body(datastore, tmp_path / "x", "x", b"content")
    before = (tmp_path / "data/x").stat()
    (tmp_path / "data/x").write_bytes(b"c0ntent")
    os.utime(tmp_path / "data/x", ns=(before.st_atime_ns, before.st_mtime_ns))
    blob = named(datastore, "x")
    sink = fetch(datastore, FetchRequest(blob, 0, 7))
    assert (sink.bodies[("x", 0)], sink.md5s[("x", 0)]) == (b"c0ntent", hashlib.md5(b"content").digest())


def test_many_stored_files_are_all_recorded_and_listed_in_pages(datastore: DatastoreFolder, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"x")
    md5 = hashlib.md5(b"x").digest()
    sink = Stored()
    datastore.store((StoreRequest(body, f"d{number % 7}/{number:04d}", 1, md5) for number in range(PAGE + 250)), sink, workers=1)
    pages = [*datastore.list()]
    assert ([len(page) for page in pages], {blob.md5 for page in pages for blob in page}) == ([PAGE, 250], {md5})
    assert [path.name for path in (tmp_path / "data").rglob("*.himl-part")] == []


@posix_names
def test_links_are_followed_once_and_what_is_no_file_is_left_out(datastore: DatastoreFolder, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "folder").mkdir()
    (data / "folder/file").write_text("x")
    (data / "loop").symlink_to(data, target_is_directory=True)
    (data / "again").symlink_to(data / "folder", target_is_directory=True)
    (data / "linked").symlink_to(data / "folder/file")
    (data / "broken").symlink_to(data / "nowhere")
    (data / "circle").symlink_to(data / "circle")
    os.mkfifo(data / "pipe")
    (data / ".x.himl-part").write_text("partial")
    (data / ".himl-transfer.db").write_text("state")
    assert [blob.name for blob in listed(datastore)] == ["again/file", "folder/file", "linked"]
    assert datastore.stat("pipe") is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="NEEDS file names that are not Unicode")
def test_names_that_are_not_utf_8_are_stored_listed_and_fetched(datastore: DatastoreFolder, tmp_path: Path) -> None:
    name = os.fsdecode(b"gr\xfc\xdfe")
    sink = store_body(datastore, tmp_path / "x", name, b"hello")
    blob = named(datastore, name)
    assert (sink.errors, listed(datastore), blob.md5) == ({}, [blob], hashlib.md5(b"hello").digest())
    assert fetch(datastore, FetchRequest(blob, 0, 5)).bodies == {(name, 0): b"hello"}


@posix_names
def test_listing_unreadable_folder_raises_disk_failed(datastore: DatastoreFolder, tmp_path: Path) -> None:
    locked = tmp_path / "data/locked"
    locked.mkdir()
    locked.chmod(0)
    is_root = os.geteuid() == 0
    if is_root:  # whom no mode stops
        os.seteuid(65534)
    try:
        with pytest.raises(DiskFailed, match="Cannot read"):
            listed(datastore)
    finally:
        if is_root:
            os.seteuid(0)
        locked.chmod(0o755)


SEGMENT = st.text(alphabet="a0.- /é", min_size=1, max_size=4)


@given(st.sets(st.lists(SEGMENT.filter(lambda text: "/" not in text and text not in (".", "..")), min_size=1, max_size=3).map("/".join), max_size=12), SEGMENT)
def test_walking_sorts_names_as_plain_strings(temporary: Callable[[], Path], names: set[str], prefix: str) -> None:
    folder = temporary()
    made: set[str] = set()
    for name in sorted(names):
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"")
            made.add(name)
        except OSError:  # a name that is a file and a folder
            continue
    assert [found.name for found in walk_files(str(folder))] == sorted(made)
    assert [found.name for found in walk_files(str(folder), prefix)] == sorted(name for name in made if name.startswith(prefix))


@pytest.fixture(scope="session")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    return lambda: tmp_path_factory.mktemp("walk")
