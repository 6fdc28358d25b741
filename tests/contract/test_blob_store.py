"""The contract of every BlobStore, and that a download returns the uploaded files. A new backend adds one seed
function and inherits all cases.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from himl_cli.core.blobs import BlobInfo, Bytes, FetchRequest, StoreRequest
from himl_cli.core.errors import BlobChanged, HimlError, NotFound
from himl_cli.core.files import is_bookkeeping
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest, Filters, UploadRequest
from himl_cli.services.transfer.upload import upload
from himl_cli.workspaces.base import BlobStore
from himl_cli.workspaces.local.file_blobs import DatastoreFolder, RunFiles
from himl_cli.workspaces.local.run_store import Database
from himl_cli.workspaces.resolve import open_runs
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.state import Right
from tests.support.azure import opened as opened_workspace
from tests.support.azure import set_all
from tests.support.folders import contents
from tests.support.running import write_files
from tests.support.spreading import STARTS_SSH
from tests.support.ssh import SshServer
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


@contextmanager
def run_files(request: pytest.FixtureRequest, folder: Path, bodies: Mapping[str, bytes]) -> Iterator[Opened]:
    def put(name: str, body: bytes) -> None:
        write_files(folder / ("run" if name.startswith("user_logs") else "run/code"), {name: body})

    for name, body in bodies.items():
        put(name, body)
    yield RunFiles(folder / "run", folder / "run" / "code", "run 'demo_1'"), put


@contextmanager
def datastore(request: pytest.FixtureRequest, folder: Path, bodies: Mapping[str, bytes]) -> Iterator[Opened]:
    write_files(folder / "data", bodies)
    with closing(Database(folder / "workspace.db", create=True)) as database:
        yield (
            DatastoreFolder(folder / "data", "local", database),
            lambda name, body: write_files(folder / "data", {name: body}),
        )


@contextmanager
def azure_datastore(request: pytest.FixtureRequest, folder: Path, bodies: Mapping[str, bytes]) -> Iterator[Opened]:
    """A container that is a datastore, accessed with its account's key."""
    azure: StagedWorkspace = request.getfixturevalue("azure_environment")
    azure.put_blobs("workspaceblobstore", bodies)
    with opened_workspace(azure, folder) as workspace:
        yield workspace.datastore(), lambda name, body: azure.put_blob("workspaceblobstore", name, body)


@contextmanager
def azure_run(azure: StagedWorkspace, folder: Path, bodies: Mapping[str, bytes]) -> Iterator[Opened]:
    run = azure.add_run("run_1", "demo")
    azure.put_artifacts(azure.add_run("run_10", "demo"), {"outputs/of_another_run": b""})
    azure.put_artifacts(run, bodies)
    with opened_workspace(azure, folder) as workspace:
        yield workspace.run_files("run_1"), lambda name, body: azure.put_artifact(run, name, body)


@contextmanager
def azure_artifacts(request: pytest.FixtureRequest, folder: Path, bodies: Mapping[str, bytes]) -> Iterator[Opened]:
    """A run's artifacts, listed in the storage account."""
    with azure_run(request.getfixturevalue("azure_environment"), folder, bodies) as opened:
        yield opened


@contextmanager
def azure_artifact_links(request: pytest.FixtureRequest, folder: Path, bodies: Mapping[str, bytes]) -> Iterator[Opened]:
    """A run's artifacts without access to the storage account, through the artifact service's links."""
    azure: StagedWorkspace = request.getfixturevalue("azure_environment")
    reader = azure.add_principal({Right.READ})
    environment: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    set_all(environment, azure.environment(reader))
    with azure_run(azure, folder, bodies) as opened:
        yield opened
    assert azure.requests("/prefix/contentinfo/") or not azure.requests("comp=list")


@contextmanager
def remote(request: pytest.FixtureRequest, folder: Path, bodies: Mapping[str, bytes]) -> Iterator[Opened]:
    """A datastore of a workspace on another machine, by SSH."""
    box: SshServer = request.getfixturevalue("box")
    there = box.home / ".himl" / "datastores" / "local"
    write_files(there, bodies)
    with closing(open_runs("ssh:box", None, start=request.getfixturevalue("project"))) as workspace:
        yield workspace.datastore(), lambda name, body: write_files(there, {name: body})


SEEDS: list[Seed] = [run_files, datastore, azure_datastore, azure_artifacts, azure_artifact_links, remote]


@pytest.fixture(
    params=[pytest.param(seed, marks=[pytest.mark.large(STARTS_SSH)] * (seed is remote)) for seed in SEEDS],
    ids=[seed.__name__ for seed in SEEDS],
)
def seeded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    seed: Seed = request.param
    with seed(request, tmp_path, BODIES) as opened:
        yield opened


@pytest.fixture
def store(seeded: Opened) -> BlobStore:
    return seeded[0]


def test_list_stat_read_and_md5_agree(store: BlobStore) -> None:
    found = listed(store)
    assert [(blob.name, blob.size) for blob in found] == [(name, len(BODIES[name])) for name in sorted(BODIES)]
    assert [store.stat(blob.name) for blob in found] == found
    for blob in found:
        assert b"".join(store.read(blob.name)) == BODIES[blob.name]
        assert store.md5(blob) in (None, hashlib.md5(BODIES[blob.name]).digest())
    assert b"".join(store.read("outputs/large", 3_000_000)) == BODIES["outputs/large"][3_000_000:]
    assert b"".join(store.read("outputs/a", 1)) == b""
    for prefix in (
        "outputs/a",
        "outputs/a.d",
        "outputs/c",
        "outputs/c/",
        "outputs/c/x/deep",
        "user",
        "nothing",
        "outputs/a/",
        "../",
    ):
        assert [blob.name for blob in listed(store, prefix)] == sorted(
            name for name in BODIES if name.startswith(prefix)
        ), prefix


def test_what_is_no_blob_is_not_found(store: BlobStore) -> None:
    """Fetching a missing blob fails only that request, and so does a blob that is shorter than requested."""
    for name in (
        "nothing",
        "outputs",
        "outputs/",
        "outputs/../outputs/a",
        "../workspace.db",
        "/etc/passwd",
        "",
        "outputs/a\0",
    ):
        assert store.stat(name) is None
        with pytest.raises(NotFound, match="No file") as caught:
            store.read(name)
        assert store.label in str(caught.value)
    for wrong in (
        *(BlobInfo(name, 5, "x") for name in ("nothing", "../workspace.db", "/etc/passwd")),
        replace(named(store, "outputs/a"), size=50),
    ):
        sink = Received()
        store.fetch(
            [FetchRequest(wrong, 0, wrong.size), FetchRequest(named(store, "outputs/c0"), 0, 5)], sink, workers=4
        )
        assert ({*sink.errors}, sink.bodies["outputs/c0", 0], len(sink.md5s)) == ({wrong.name}, b"55555", 1)


def test_fetch_brings_blobs_and_ranges_and_tells_no_wrong_md5(store: BlobStore) -> None:
    sink = Received()
    store.fetch((FetchRequest(blob, 0, blob.size) for blob in listed(store)), sink, workers=4)
    assert {name: sink.bodies.get((name, 0), b"") for name in BODIES} == BODIES
    assert all(md5 in (None, hashlib.md5(BODIES[name]).digest()) for (name, _), md5 in sink.md5s.items())
    assert (len(sink.md5s), sink.errors) == (len(BODIES), {})
    blob, body = named(store, "outputs/large"), BODIES["outputs/large"]
    ranges, some = [(0, 1_000_000), (1_000_000, 10), (2_000_000, len(body) - 2_000_000)], Received()
    store.fetch([FetchRequest(blob, offset, length) for offset, length in ranges], some, workers=4)
    assert some.bodies == {(blob.name, offset): body[offset : offset + length] for offset, length in ranges}
    assert {md5 for md5 in some.md5s.values() if md5 is not None} <= {hashlib.md5(body).digest()}

    class Full(Received):
        def write(self, request: FetchRequest, offset: int, data: Bytes) -> None:
            raise HimlError("no space")

    with pytest.raises(HimlError, match="no space"):
        store.fetch((FetchRequest(blob, 0, blob.size) for blob in listed(store)), Full(), workers=1)


@pytest.mark.large("takes long, and other tests run its branches")
def test_what_changed_since_or_while_it_is_fetched_is_no_mixture(seeded: Opened) -> None:
    """A folder cannot keep the old content. A service that keeps a version for current readers may still deliver it."""
    store, put = seeded
    before = named(store, "outputs/c0")
    put("outputs/c0", b"another")
    late = Received()
    store.fetch([FetchRequest(before, 0, before.size)], late, workers=1)
    assert isinstance(late.errors["outputs/c0"], BlobChanged)
    assert named(store, "outputs/c0").etag != before.etag

    class Disturbing(Received):
        def write(self, request: FetchRequest, offset: int, data: Bytes) -> None:
            super().write(request, offset, data)
            put("outputs/large", BODIES["outputs/large"][:-1] + b"!")

    sink, blob = Disturbing(), named(store, "outputs/large")
    store.fetch([FetchRequest(blob, 0, blob.size)], sink, workers=1)
    if sink.md5s:
        assert not isinstance(store, DatastoreFolder | RunFiles)
        assert (sink.bodies, sink.errors) == ({("outputs/large", 0): BODIES["outputs/large"]}, {})
    else:
        assert isinstance(sink.errors["outputs/large"], BlobChanged)


@pytest.fixture(params=[datastore, azure_datastore], ids=["datastore", "azure_datastore"])
def writable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    seed: Seed = request.param
    with seed(request, tmp_path, BODIES) as (store, _):
        yield store


def test_store_keeps_the_file_and_its_md5_and_replaces(writable: BlobStore, tmp_path: Path) -> None:
    large = bytes(range(256)) * 36_000
    files = {"outputs/new/x": large[: 9 << 20], "outputs/a": b"replaced", "outputs/unknown": large}
    requests = [sending(tmp_path / str(number), name, body) for number, (name, body) in enumerate(files.items())]
    requests[2] = replace(requests[2], md5=None)
    sink = Stored()
    writable.store(requests, sink, workers=4)
    assert {name: b"".join(writable.read(name)) for name in files} == files
    assert (sink.errors, sink.sent) == ({}, sum(map(len, files.values())))
    assert {name: named(writable, name) for name in sink.blobs} == sink.blobs
    assert {name: named(writable, name).md5 for name in files} == {
        name: hashlib.md5(body).digest() for name, body in files.items()
    }
    same = Stored()
    writable.store(
        [replace(sending(tmp_path / "same", "outputs/c0", BODIES["outputs/c0"]), replaces="")], same, workers=1
    )
    assert ({*same.blobs}, same.errors) == ({"outputs/c0"}, {})


def test_store_keeps_nothing_of_a_file_that_is_not_as_promised(writable: BlobStore, tmp_path: Path) -> None:
    promised = sending(tmp_path / "1", "outputs/a", b"promised")
    (tmp_path / "1").write_bytes(b"switched")
    longer = sending(tmp_path / "2", "outputs/c0", b"short")
    (tmp_path / "2").write_bytes(b"short and more")
    gone = sending(tmp_path / "3", "outputs/new", b"gone")
    (tmp_path / "3").unlink()
    cut = [
        sending(tmp_path / "4", "outputs/a b", bytes(20 << 20)),
        replace(sending(tmp_path / "5", "outputs/c", bytes(20 << 20)), md5=None),
    ]
    for request in cut:
        os.truncate(request.path, 19 << 20)
    sink = Stored()
    writable.store([promised, longer, gone, *cut, sending(tmp_path / "6", "fine", b"fine")], sink, workers=1)
    assert ({*sink.errors}, {*sink.blobs}) == (
        {"outputs/a", "outputs/c0", "outputs/new", "outputs/a b", "outputs/c"},
        {"fine"},
    )
    assert [blob.name for blob in listed(writable)] == sorted([*BODIES, "fine"])
    assert b"".join(writable.read("outputs/a")) == b"1"


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
    requests = [
        replace(sending(tmp_path / str(number), name, body), replaces=etag)
        for number, (name, etag) in enumerate(told.items())
    ]
    writable.store(requests, sink, workers=2)
    assert ({*sink.blobs}, {type(error) for error in sink.errors.values()}) == (
        {"outputs/a", "outputs/new"},
        {BlobChanged},
    )
    assert [b"".join(writable.read(name)) for name in ("outputs/a", "outputs/new", "outputs/c0", "outputs/a b")] == [
        body,
        body,
        b"55555",
        b"22",
    ]
    assert writable.stat("outputs/gone") is None


def test_store_refuses_names_that_cannot_be_there(writable: BlobStore, tmp_path: Path) -> None:
    for name in ("../evil", "/evil", "a//b", "", "a/../b", "a/./b", "a\0b", "x" * 1025):
        sink = Stored()
        writable.store([sending(tmp_path / "1", name, b"x")], sink, workers=1)
        assert ({*sink.errors}, len(sink.blobs)) == ({name}, 0)
    assert [blob.name for blob in listed(writable)] == sorted(BODIES)
    # A container has no folders, so a file and a folder may have the same name.
    both, sink = ("outputs/a/below_a_file", "outputs/c"), Stored()
    writable.store([sending(tmp_path / str(number), name, b"x") for number, name in enumerate(both)], sink, workers=1)
    failed = {*both} if isinstance(writable, DatastoreFolder) else set()
    assert ({*sink.errors}, {*sink.blobs}) == (failed, {*both} - failed)
    assert [blob.name for blob in listed(writable)] == sorted([*BODIES, *({*both} - failed)])


ODD = [
    *(
        "C:\\x",
        "C:",
        "..\\up",
        "\\\\host\\x",
        "two\nlines",
        "end.",
        "end ",
        "...",
        "aux.txt",
        "x.himl-part",
        ".himl-transfer.db",
        "%2e%2e",
        "e\u0301",
        "é",
    ),
    *(
        "~",
        "a\t\r\x1b\x7f\x85\u2028\u202e",
        "%?*#&+~'\"<>|\U0001f600",
        " / .b/ä",
        "-rf/\\",
        "deep/er/%2f",
        "x" * 250,
        "ﬀ",
    ),
]


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS a file system that takes any name")
def test_what_upload_takes_download_gives_back(writable: BlobStore, tmp_path: Path) -> None:
    """`stress/names` covers more names."""
    write_files(tmp_path / "here", {name: name for name in ODD})
    up = upload(writable, UploadRequest(tmp_path / "here", "odd"))
    kept_out = {
        name.removeprefix("odd/") for name in [*(one.name for one in up.refused), *(one.name for one in up.failed)]
    }
    taken = {name for name in ODD if name not in kept_out and not is_bookkeeping(name)}
    assert (up.files, len(taken) > 10) == (len(taken), True)
    assert download(writable, DownloadRequest(tmp_path / "back", Filters("odd/"), strip_prefix=True)).problem() is None
    assert contents(tmp_path / "back") == {name: name.encode() for name in taken}
