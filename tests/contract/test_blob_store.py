"""What every BlobStore promises. A new backend adds one seed function and inherits all cases."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from himl_cli.core.blobs import BlobInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import BlobChanged, HimlError, NotFound
from himl_cli.workspaces.base import BlobStore
from himl_cli.workspaces.local.blobs import DatastoreFolder, RunFiles
from himl_cli.workspaces.local.database import Database

BODIES = {
    "outputs/a": b"1",
    "outputs/a b": b"22",
    "outputs/a-b": b"",
    "outputs/a.d/x": b"333",
    "outputs/c/x/deep": b"4444",
    "outputs/c0": b"55555",
    "outputs/größe.txt": b"666666",
    "outputs/large": bytes(range(256)) * 12_000,
    "user_logs/std_log.txt": b"epoch 1\n",
}
Put = Callable[[str, bytes], None]
Seed = Callable[[Path, Mapping[str, bytes]], AbstractContextManager[tuple[BlobStore, Put]]]


def put_in(folder: Path) -> Put:
    def put(name: str, body: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)

    return put


@contextmanager
def run_files(folder: Path, bodies: Mapping[str, bytes]) -> Iterator[tuple[BlobStore, Put]]:
    def put(name: str, body: bytes) -> None:
        put_in(folder / ("run" if name.startswith("user_logs") else "run/code"))(name, body)

    for name, body in bodies.items():
        put(name, body)
    yield RunFiles(folder / "run", folder / "run" / "code", "run 'demo_1'"), put


@contextmanager
def datastore(folder: Path, bodies: Mapping[str, bytes]) -> Iterator[tuple[BlobStore, Put]]:
    for name, body in bodies.items():
        put_in(folder / "data")(name, body)
    database = Database(folder / "workspace.db", create=True)
    yield DatastoreFolder(folder / "data", "local", database), put_in(folder / "data")
    database.close()


@pytest.fixture(params=[run_files, datastore], ids=["run files", "datastore"])
def seeded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[BlobStore, Put]]:
    seed: Seed = request.param
    with seed(tmp_path, BODIES) as opened:
        yield opened


@pytest.fixture
def store(seeded: tuple[BlobStore, Put]) -> BlobStore:
    return seeded[0]


@dataclass
class Received:
    """A FetchSink that keeps what it gets and insists on the promises."""

    bodies: dict[tuple[str, int], bytes] = field(default_factory=dict)
    md5s: dict[tuple[str, int], bytes | None] = field(default_factory=dict)
    errors: dict[str, HimlError] = field(default_factory=dict)

    def write(self, request: FetchRequest, offset: int, data: bytes) -> None:
        key = (request.blob.name, request.offset)
        assert key not in self.md5s, "nothing comes after the end"
        assert offset == request.offset + len(self.bodies.get(key, b"")), "pieces of one request come in order"
        self.bodies[key] = self.bodies.get(key, b"") + data

    def finish(self, request: FetchRequest, md5: bytes | None) -> None:
        assert (request.blob.name, request.offset) not in self.md5s, "a request ends once"
        self.md5s[(request.blob.name, request.offset)] = md5

    def fail(self, request: FetchRequest, error: HimlError) -> None:
        assert request.blob.name not in self.errors, "a request ends once"
        self.errors[request.blob.name] = error


def listed(store: BlobStore, prefix: str = "") -> list[BlobInfo]:
    return [blob for page in store.list(prefix) for blob in page]


def named(store: BlobStore, name: str) -> BlobInfo:
    blob = store.stat(name)
    assert blob is not None
    return blob


def test_list_gives_all_blobs_sorted_as_plain_strings_with_their_sizes(store: BlobStore) -> None:
    assert [(blob.name, blob.size) for blob in listed(store)] == [(name, len(BODIES[name])) for name in sorted(BODIES)]


@pytest.mark.parametrize("prefix", ["outputs/a", "outputs/a.d", "outputs/c", "outputs/c/", "outputs/c/x/deep", "user", "nothing", "outputs/a/", "../"])
def test_a_prefix_is_a_string_prefix(store: BlobStore, prefix: str) -> None:
    assert [blob.name for blob in listed(store, prefix)] == sorted(name for name in BODIES if name.startswith(prefix))


def test_stat_agrees_with_list(store: BlobStore) -> None:
    assert [store.stat(blob.name) for blob in listed(store)] == listed(store)


def test_read_and_md5_agree_with_the_content(store: BlobStore) -> None:
    for blob in listed(store):
        assert b"".join(store.read(blob.name)) == BODIES[blob.name]
        assert store.md5(blob) in (None, hashlib.md5(BODIES[blob.name]).digest())


def test_read_begins_at_the_offset(store: BlobStore) -> None:
    assert b"".join(store.read("outputs/large", 3_000_000)) == BODIES["outputs/large"][3_000_000:]
    assert b"".join(store.read("outputs/a", 1)) == b""


@pytest.mark.parametrize("name", ["nothing", "outputs", "outputs/", "outputs/../outputs/a", "../workspace.db", "/etc/passwd", "", "outputs/a\0"])
def test_what_is_no_blob_is_not_found(store: BlobStore, name: str) -> None:
    assert store.stat(name) is None
    with pytest.raises(NotFound, match="No file") as caught:
        store.read(name)
    assert store.label in str(caught.value)


@pytest.mark.parametrize("name", ["nothing", "../workspace.db", "/etc/passwd"])
def test_fetching_what_is_no_blob_fails_that_request_only(store: BlobStore, name: str) -> None:
    sink = Received()
    good = named(store, "outputs/c0")
    store.fetch([FetchRequest(BlobInfo(name, 5, "x"), 0, 5), FetchRequest(good, 0, 5)], sink, workers=4)
    assert ({*sink.errors}, sink.bodies) == ({name}, {("outputs/c0", 0): b"55555"})


def test_fetch_brings_whole_blobs_and_tells_no_wrong_md5(store: BlobStore) -> None:
    sink = Received()
    store.fetch((FetchRequest(blob, 0, blob.size) for blob in listed(store)), sink, workers=4)
    assert {name: sink.bodies.get((name, 0), b"") for name in BODIES} == BODIES
    assert all(md5 in (None, hashlib.md5(BODIES[name]).digest()) for (name, _), md5 in sink.md5s.items())
    assert (len(sink.md5s), sink.errors) == (len(BODIES), {})


def test_fetch_brings_ranges_and_any_md5_is_that_of_the_whole(store: BlobStore) -> None:
    blob, body = named(store, "outputs/large"), BODIES["outputs/large"]
    ranges = [(0, 1_000_000), (1_000_000, 10), (2_000_000, len(body) - 2_000_000)]
    sink = Received()
    store.fetch([FetchRequest(blob, offset, length) for offset, length in ranges], sink, workers=4)
    assert sink.bodies == {(blob.name, offset): body[offset : offset + length] for offset, length in ranges}
    assert {md5 for md5 in sink.md5s.values() if md5 is not None} <= {hashlib.md5(body).digest()}


def test_what_changed_since_it_was_listed_is_not_delivered(seeded: tuple[BlobStore, Put]) -> None:
    store, put = seeded
    before = named(store, "outputs/c0")
    put("outputs/c0", b"another")
    sink = Received()
    store.fetch([FetchRequest(before, 0, before.size)], sink, workers=1)
    assert isinstance(sink.errors["outputs/c0"], BlobChanged)
    assert named(store, "outputs/c0").etag != before.etag


def test_what_changes_while_it_is_fetched_is_not_delivered(seeded: tuple[BlobStore, Put]) -> None:
    store, put = seeded

    class Disturbing(Received):
        def write(self, request: FetchRequest, offset: int, data: bytes) -> None:
            put("outputs/large", BODIES["outputs/large"][:-1] + b"!")

    sink = Disturbing()
    blob = named(store, "outputs/large")
    store.fetch([FetchRequest(blob, 0, blob.size)], sink, workers=1)
    assert isinstance(sink.errors["outputs/large"], BlobChanged)
    assert sink.md5s == {}


def test_a_blob_shorter_than_asked_for_is_not_finished(store: BlobStore) -> None:
    blob = replace(named(store, "outputs/c0"), size=50)
    sink = Received()
    store.fetch([FetchRequest(blob, 0, 50)], sink, workers=1)
    assert ({*sink.errors}, len(sink.md5s)) == ({"outputs/c0"}, 0)


def test_what_the_sink_raises_ends_the_fetch(store: BlobStore) -> None:
    class Full(Received):
        def write(self, request: FetchRequest, offset: int, data: bytes) -> None:
            raise HimlError("no space")

    with pytest.raises(HimlError, match="no space"):
        store.fetch((FetchRequest(blob, 0, blob.size) for blob in listed(store)), Full(), workers=1)


@dataclass
class Stored:
    """A StoreSink that keeps what it hears."""

    blobs: dict[str, BlobInfo] = field(default_factory=dict)
    errors: dict[str, HimlError] = field(default_factory=dict)
    sent: int = 0

    def advance(self, request: StoreRequest, amount: int) -> None:
        self.sent += amount

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        self.blobs[request.name] = stored

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        self.errors[request.name] = error


@pytest.fixture(params=[datastore], ids=["datastore"])
def writable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    seed: Seed = request.param
    with seed(tmp_path, BODIES) as (store, _):
        yield store


def sending(path: Path, name: str, body: bytes) -> StoreRequest:
    path.write_bytes(body)
    return StoreRequest(path, name, len(body), hashlib.md5(body).digest())


def test_store_keeps_the_file_and_its_md5_and_replaces(writable: BlobStore, tmp_path: Path) -> None:
    body = bytes(range(256)) * 10_000
    sink = Stored()
    writable.store([sending(tmp_path / "1", "outputs/new/x", body), sending(tmp_path / "2", "outputs/a", b"replaced")], sink, workers=4)
    assert b"".join(writable.read("outputs/new/x")) == body
    assert b"".join(writable.read("outputs/a")) == b"replaced"
    assert (sink.errors, sink.sent) == ({}, len(body) + 8)
    assert {name: named(writable, name) for name in sink.blobs} == sink.blobs
    assert named(writable, "outputs/new/x").md5 == hashlib.md5(body).digest()


def test_store_keeps_nothing_of_a_file_that_is_not_as_promised(writable: BlobStore, tmp_path: Path) -> None:
    promised = sending(tmp_path / "1", "outputs/a", b"promised")
    (tmp_path / "1").write_bytes(b"switched")
    longer = sending(tmp_path / "2", "outputs/c0", b"short")
    (tmp_path / "2").write_bytes(b"short and more")
    gone = sending(tmp_path / "3", "outputs/new", b"gone")
    (tmp_path / "3").unlink()
    sink = Stored()
    writable.store([promised, longer, gone, sending(tmp_path / "4", "fine", b"fine")], sink, workers=1)
    assert ({*sink.errors}, {*sink.blobs}) == ({"outputs/a", "outputs/c0", "outputs/new"}, {"fine"})
    assert [blob.name for blob in listed(writable)] == sorted([*BODIES, "fine"])
    assert b"".join(writable.read("outputs/a")) == b"1"


@pytest.mark.parametrize("name", ["../evil", "/evil", "a//b", "", "outputs/a/below_a_file", "outputs/c"])
def test_store_refuses_names_that_cannot_be(writable: BlobStore, tmp_path: Path, name: str) -> None:
    sink = Stored()
    writable.store([sending(tmp_path / "1", name, b"x")], sink, workers=1)
    assert ({*sink.errors}, len(sink.blobs)) == ({name}, 0)
    assert [blob.name for blob in listed(writable)] == sorted(BODIES)
