"""What every BlobStore promises. A new backend adds one seed function and inherits all cases."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from himl_cli.core.blobs import BlobInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import BlobChanged, HimlError, NotFound
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.base import BlobStore
from himl_cli.workspaces.local.file_blobs import DatastoreFolder, RunFiles
from himl_cli.workspaces.local.run_store import Database
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import opened as opened_workspace
from tests.support.stores import Received, Stored, listed, named, sending

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
Opened = tuple[BlobStore, Put]
Seed = Callable[[pytest.FixtureRequest, Path, Mapping[str, bytes]], AbstractContextManager[Opened]]


def put_in(folder: Path) -> Put:
    def put(name: str, body: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)

    return put


@contextmanager
def run_files(request: pytest.FixtureRequest, folder: Path, bodies: Mapping[str, bytes]) -> Iterator[Opened]:
    def put(name: str, body: bytes) -> None:
        put_in(folder / ("run" if name.startswith("user_logs") else "run/code"))(name, body)

    for name, body in bodies.items():
        put(name, body)
    yield RunFiles(folder / "run", folder / "run" / "code", "run 'demo_1'"), put


@contextmanager
def datastore(request: pytest.FixtureRequest, folder: Path, bodies: Mapping[str, bytes]) -> Iterator[Opened]:
    for name, body in bodies.items():
        put_in(folder / "data")(name, body)
    database = Database(folder / "workspace.db", create=True)
    yield DatastoreFolder(folder / "data", "local", database), put_in(folder / "data")
    database.close()


@contextmanager
def azure_datastore(request: pytest.FixtureRequest, folder: Path, bodies: Mapping[str, bytes]) -> Iterator[Opened]:
    """A container that is a datastore, by its account's key."""
    azure: StagedWorkspace = request.getfixturevalue("azure_environment")
    azure.put_blobs("workspaceblobstore", bodies)
    with opened_workspace(azure, folder) as workspace:
        yield workspace.datastore(), lambda name, body: azure.put_blob("workspaceblobstore", name, body)


@contextmanager
def azure_run(azure: StagedWorkspace, folder: Path, bodies: Mapping[str, bytes]) -> Iterator[tuple[AzureWorkspace, BlobStore, Put]]:
    run = azure.add_run("run_1", "demo")
    azure.put_artifacts(azure.add_run("run_10", "demo"), {"outputs/of_another_run": b""})
    azure.put_artifacts(run, bodies)
    with opened_workspace(azure, folder) as workspace:
        yield workspace, workspace.run_files("run_1"), lambda name, body: azure.put_artifact(run, name, body)


@contextmanager
def azure_artifacts(request: pytest.FixtureRequest, folder: Path, bodies: Mapping[str, bytes]) -> Iterator[Opened]:
    """A run's artifacts, listed in the storage account."""
    with azure_run(request.getfixturevalue("azure_environment"), folder, bodies) as (_, store, put):
        yield store, put


@contextmanager
def azure_artifact_links(request: pytest.FixtureRequest, folder: Path, bodies: Mapping[str, bytes]) -> Iterator[Opened]:
    """A run's artifacts for somebody who may not read the storage account: by the artifact service's links."""
    azure: StagedWorkspace = request.getfixturevalue("azure_environment")
    reader = azure.add_principal({Right.READ})
    environment: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    for name, value in azure.environment(reader).items():
        environment.setenv(name, value)
    with azure_run(azure, folder, bodies) as (_, store, put):
        yield store, put
    assert azure.requests("/prefix/contentinfo/") or not azure.requests("comp=list")


IN_FOLDERS = {"run files": run_files, "datastore": datastore}
IN_AZURE = {"azure datastore": azure_datastore, "azure artifacts": azure_artifacts, "azure artifact links": azure_artifact_links}
SEEDS: dict[str, Seed] = {**IN_FOLDERS, **IN_AZURE}
WRITABLE: dict[str, Seed] = {"datastore": datastore, "azure datastore": azure_datastore}


@pytest.fixture(params=[*SEEDS.values()], ids=[*SEEDS])
def seeded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    seed: Seed = request.param
    with seed(request, tmp_path, BODIES) as opened:
        yield opened


@pytest.fixture
def store(seeded: Opened) -> BlobStore:
    return seeded[0]


def test_list_returns_sorted_blob_names_with_sizes(store: BlobStore) -> None:
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


def test_what_changed_since_it_was_listed_is_not_delivered(seeded: Opened) -> None:
    store, put = seeded
    before = named(store, "outputs/c0")
    put("outputs/c0", b"another")
    sink = Received()
    store.fetch([FetchRequest(before, 0, before.size)], sink, workers=1)
    assert isinstance(sink.errors["outputs/c0"], BlobChanged)
    assert named(store, "outputs/c0").etag != before.etag


def test_blob_changed_during_fetch_is_old_content_or_error(seeded: Opened) -> None:
    """A folder cannot keep what it held; a service that keeps a version for whoever is reading it may still deliver that."""
    store, put = seeded

    class Disturbing(Received):
        def write(self, request: FetchRequest, offset: int, data: bytes) -> None:
            super().write(request, offset, data)
            put("outputs/large", BODIES["outputs/large"][:-1] + b"!")

    sink = Disturbing()
    blob = named(store, "outputs/large")
    store.fetch([FetchRequest(blob, 0, blob.size)], sink, workers=1)
    if sink.md5s:
        assert not isinstance(store, DatastoreFolder | RunFiles)
        assert (sink.bodies, sink.errors) == ({("outputs/large", 0): BODIES["outputs/large"]}, {})
    else:
        assert isinstance(sink.errors["outputs/large"], BlobChanged)


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


@pytest.fixture(params=[*WRITABLE.values()], ids=[*WRITABLE])
def writable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    seed: Seed = request.param
    with seed(request, tmp_path, BODIES) as (store, _):
        yield store


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


def test_store_keeps_the_md5_of_a_file_that_came_without_one(writable: BlobStore, tmp_path: Path) -> None:
    body = bytes(range(256)) * 36_000
    sink = Stored()
    writable.store([replace(sending(tmp_path / "1", "outputs/new/x", body), md5=None)], sink, workers=4)
    assert (sink.errors, sink.sent) == ({}, len(body))
    assert sink.blobs["outputs/new/x"] == named(writable, "outputs/new/x")
    assert named(writable, "outputs/new/x").md5 == hashlib.md5(body).digest()
    assert b"".join(writable.read("outputs/new/x")) == body


@pytest.mark.parametrize("when", [0, 20 << 20], ids=["while it is read", "when all of it was sent"])
def test_store_drops_file_without_md5_that_changes_meanwhile(writable: BlobStore, tmp_path: Path, when: int) -> None:
    class Disturbing(Stored):
        def advance(self, request: StoreRequest, amount: int) -> None:
            super().advance(request, amount)
            if self.sent >= when:
                os.utime(request.path, ns=(1, 1 + self.sent))

    sink = Disturbing()
    writable.store([replace(sending(tmp_path / "1", "outputs/a", bytes(20 << 20)), md5=None)], sink, workers=4)
    assert ({*sink.errors}, sink.blobs) == ({"outputs/a"}, {})
    assert b"".join(writable.read("outputs/a")) == b"1"


@pytest.mark.parametrize("size", [9, 9 << 20], ids=["small", "large"])
def test_store_replaces_what_it_was_told_to_and_nothing_else(writable: BlobStore, tmp_path: Path, size: int) -> None:
    body, sink = b"x" * size, Stored()
    now = named(writable, "outputs/a").etag
    told = {"outputs/a": now, "outputs/new": "", "outputs/c0": "", "outputs/a b": "0x1", "outputs/gone": "0x1"}
    requests = [replace(sending(tmp_path / str(number), name, body), replaces=etag) for number, (name, etag) in enumerate(told.items())]
    writable.store(requests, sink, workers=2)
    assert ({*sink.blobs}, {type(error) for error in sink.errors.values()}) == ({"outputs/a", "outputs/new"}, {BlobChanged})
    assert [b"".join(writable.read(name)) for name in ("outputs/a", "outputs/new", "outputs/c0", "outputs/a b")] == [body, body, b"55555", b"22"]
    assert writable.stat("outputs/gone") is None


def test_store_counts_identical_existing_content_as_done(writable: BlobStore, tmp_path: Path) -> None:
    sink = Stored()
    writable.store([replace(sending(tmp_path / "1", "outputs/c0", BODIES["outputs/c0"]), replaces="")], sink, workers=1)
    assert ({*sink.blobs}, sink.errors) == ({"outputs/c0"}, {})


@pytest.mark.parametrize("name", ["../evil", "/evil", "a//b", "", "a/../b", "a/./b", "a\0b", "x" * 1025])
def test_store_refuses_names_that_cannot_be(writable: BlobStore, tmp_path: Path, name: str) -> None:
    sink = Stored()
    writable.store([sending(tmp_path / "1", name, b"x")], sink, workers=1)
    assert ({*sink.errors}, len(sink.blobs)) == ({name}, 0)
    assert [blob.name for blob in listed(writable)] == sorted(BODIES)


@pytest.mark.parametrize("name", ["outputs/a/below_a_file", "outputs/c"])
def test_folder_and_file_name_conflict_fails_only_in_folders(writable: BlobStore, tmp_path: Path, name: str) -> None:
    """A container has no folders: there, both names can be."""
    sink = Stored()
    writable.store([sending(tmp_path / "1", name, b"x")], sink, workers=1)
    if isinstance(writable, DatastoreFolder):
        assert ({*sink.errors}, len(sink.blobs)) == ({name}, 0)
        assert [blob.name for blob in listed(writable)] == sorted(BODIES)
    else:
        assert ({*sink.blobs}, sink.errors) == ({name}, {})
        assert [blob.name for blob in listed(writable)] == sorted([*BODIES, name])
