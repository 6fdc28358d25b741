"""A download brings every file whole and checked, and says which ones it could not."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.blobs import BlobInfo, FetchRequest
from himl_cli.core.errors import IntegrityFailed, NotAllowed, ServiceFailed
from himl_cli.core.events import Event, Finished, Moved, Planned
from himl_cli.services.transfer.download import LARGE, LONGEST_PIECE, MOST_PIECES, PIECE, SMALL, PartialFile, download
from himl_cli.services.transfer.plan import DownloadRequest, PlannedFile
from himl_cli.services.transfer.state import TransferState
from tests.services.transfer.arrived import files_in, numbers
from tests.services.transfer.stores import MemoryStore, bodies, pattern


@pytest.mark.parametrize("md5_in", ["list", "finish", "ask"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_all_files_arrive_checked_and_are_not_fetched_again(tmp_path: Path, md5_in: str, shuffle: bool) -> None:
    store = MemoryStore({**bodies(30), "outputs/empty": b"", "outputs/middle": pattern(SMALL + 5), "outputs/large": pattern(LARGE + PIECE + 3)}, md5_in=md5_in)
    store.shuffle = shuffle
    seen: list[Event] = []
    first = download(store, DownloadRequest(tmp_path / "out", under="run_1", workers=5), seen.append)
    moved = store.moved
    again = download(store, DownloadRequest(tmp_path / "out", under="run_1"))

    assert files_in(tmp_path / "out") == {f"run_1/{name}": body for name, body in store.bodies.items()}
    assert (numbers(first), first.problem()) == ((33, 0, 0), None)
    assert first.bytes == moved == sum(map(len, store.bodies.values()))
    assert (numbers(again), again.bytes, store.moved) == ((0, 33, 0), 0, moved)
    assert sum(e.bytes for e in seen if isinstance(e, Moved)) == sum(e.bytes for e in seen if isinstance(e, Planned)) == moved
    assert {e.name for e in seen if isinstance(e, Finished)} == set(store.bodies)


def test_large_blobs_come_in_pieces_that_may_overtake_each_other(tmp_path: Path) -> None:
    store = MemoryStore({"large": pattern(LARGE + 2 * PIECE)}, shuffle=True)
    result = download(store, DownloadRequest(tmp_path, workers=4))
    assert sorted(offset for _, offset in store.fetched) == [*range(0, LARGE + 2 * PIECE, PIECE)]
    assert (files_in(tmp_path), result.problem()) == (store.bodies, None)


@pytest.mark.parametrize(("size", "most"), [(LARGE + 1, 32), (1 << 30, 200), (200 << 30, MOST_PIECES + 100)])
def test_pieces_are_short_at_both_ends_and_longer_between(tmp_path: Path, size: int, most: int) -> None:
    blob = BlobInfo("big", size, "e1", b"x" * 16)
    with TransferState(tmp_path, print) as state:
        pieces = PartialFile(PlannedFile(blob, "big", str(tmp_path / "big")), "source", state, None).requests
    lengths = [piece.length for piece in pieces]
    ends = [piece.offset + piece.length for piece in pieces]

    assert ([piece.offset for piece in pieces], ends[-1]) == ([0, *ends[:-1]], size)
    assert len(pieces) <= most
    assert lengths[0] == min(lengths[:-1]) == lengths[-2] <= max(lengths)
    if size < 100 << 30:
        assert (lengths[0], max(lengths)) == (PIECE, LONGEST_PIECE if size > 1 << 28 else PIECE)


def test_a_wrong_md5_is_tried_again_and_then_leaves_nothing(tmp_path: Path) -> None:
    store = MemoryStore(
        {"healed": b"abc" * 9, "hopeless": b"def" * 9, "large": pattern(LARGE + 9), "fine": b"x"}, damage={"healed": 2, "hopeless": 99, "large": 1}
    )
    result = download(store, DownloadRequest(tmp_path))
    problem = result.problem()

    assert set(files_in(tmp_path)) == {"healed", "large", "fine"}
    assert files_in(tmp_path)["large"] == store.bodies["large"]
    assert [failure.name for failure in result.failed] == ["hopeless"]
    assert isinstance(problem, IntegrityFailed)
    assert problem.exit_code == 6
    assert [name for name, _ in store.fetched].count("hopeless") == 3


@pytest.mark.parametrize("size", [1000, SMALL + 1, LARGE + 1])
def test_a_blob_that_comes_without_its_end_is_not_kept(tmp_path: Path, size: int) -> None:
    store = MemoryStore({"short": pattern(size), "healed": pattern(size)}, md5_in="", cut={"short": 99, "healed": 1})
    result = download(store, DownloadRequest(tmp_path))
    assert files_in(tmp_path) == {"healed": store.bodies["healed"]}
    assert result.failed[0].code == "integrity_failed"


def test_without_any_md5_size_and_etag_count_and_it_is_said(tmp_path: Path) -> None:
    store = MemoryStore({"a": b"1", "b": b"2"}, md5_in="")
    assert numbers(download(store, DownloadRequest(tmp_path))) == (2, 0, 2)
    assert numbers(download(store, DownloadRequest(tmp_path))) == (0, 2, 0)


def test_without_validation_nothing_is_digested(tmp_path: Path) -> None:
    store = MemoryStore({"a": b"12", "large": pattern(LARGE + 1)}, damage={"a": 1, "large": 1})
    assert numbers(download(store, DownloadRequest(tmp_path, validate=False))) == (2, 0, 2)
    assert files_in(tmp_path)["a"] != store.bodies["a"]
    checked = download(store, DownloadRequest(tmp_path))
    assert checked.differing == ("a", "large"), "a later call that validates looks at what was not validated"


def test_a_blob_that_changes_midway_is_fetched_as_it_is_then(tmp_path: Path) -> None:
    store = MemoryStore({"log": pattern(2 * SMALL), "gone": b"x" * 10, "restless": b"y"})

    def change(request: FetchRequest, offset: int) -> None:
        if request.blob.name == "log" and offset > SMALL and store.versions.get("log", 0) == 0:
            store.put("log", pattern(3 * SMALL))
        if request.blob.name == "gone":
            del store.bodies["gone"]
        if request.blob.name == "restless":
            store.put("restless", b"z" * (1 + store.versions.get("restless", 0)))

    store.before_piece = change
    result = download(store, DownloadRequest(tmp_path))
    assert files_in(tmp_path) == {"log": store.bodies["log"]}
    assert {failure.name: failure.code for failure in result.failed} == {"gone": "not_found", "restless": "service_failed"}
    assert "3 times" in {failure.name: failure.message for failure in result.failed}["restless"]
    assert isinstance(result.problem(), ServiceFailed)


def test_result_counts_bytes_of_complete_files_only(tmp_path: Path) -> None:
    """Bytes of repeated attempts and of failed files are not counted."""
    sizes = {"small": 100, "middle": SMALL + 5, "large": LARGE + 5}
    store = MemoryStore({name: pattern(size) for name, size in sizes.items()} | {"never": b"x" * 50}, damage=dict.fromkeys(sizes, 1) | {"never": 99})
    result = download(store, DownloadRequest(tmp_path))
    assert (result.files, result.bytes, [one.name for one in result.failed]) == (3, sum(sizes.values()), ["never"])
    assert store.moved == 2 * sum(sizes.values()) + 3 * 50


def test_a_refusal_of_file_after_file_ends_the_transfer(tmp_path: Path) -> None:
    files = bodies(200)
    store = MemoryStore(dict(files), broken={*files}, refusal="You may not read here.")
    with pytest.raises(NotAllowed, match=r"^You may not read here\. So it was for the first 64 files; the others were not tried\.$") as caught:
        download(store, DownloadRequest(tmp_path / "all"))
    assert (caught.value.hint, len(store.fetched)) == ("ask", 64)
    one_arrives = MemoryStore(dict(files), broken={*files} - {"outputs/00003.bin"}, refusal="You may not read here.")
    assert len(download(one_arrives, DownloadRequest(tmp_path / "one")).failed) == 199
    each_by_itself = MemoryStore(dict(files), broken={*files}, refusal="'{name}' is locked.")
    assert len(download(each_by_itself, DownloadRequest(tmp_path / "locked")).failed) == 200


def test_a_blob_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    store = MemoryStore({**bodies(5), "outputs/bad": b"bad", "outputs/large": pattern(LARGE + 5)}, broken={"outputs/bad", "outputs/large"})
    result = download(store, DownloadRequest(tmp_path, workers=3))
    assert files_in(tmp_path).keys() == bodies(5).keys()
    assert [failure.name for failure in result.failed] == ["outputs/bad", "outputs/large"]
    assert isinstance(result.problem(), ServiceFailed)


def test_no_partial_file_is_left_behind(tmp_path: Path) -> None:
    store = MemoryStore({**bodies(3), "outputs/big": pattern(LARGE + 1), "outputs/bad": b"x"}, damage={"outputs/bad": 99}, shuffle=True)
    download(store, DownloadRequest(tmp_path))
    assert [path.name for path in tmp_path.rglob("*.himl-part")] == []


def test_twenty_thousand_files(tmp_path: Path) -> None:
    store = MemoryStore({f"outputs/{number % 50}/{number}": b"%d" % number for number in range(20_000)}, md5_in="finish")
    assert numbers(download(store, DownloadRequest(tmp_path))) == (20_000, 0, 0)
    assert numbers(download(store, DownloadRequest(tmp_path))) == (0, 20_000, 0)
    assert (tmp_path / "outputs/49/19999").read_bytes() == b"19999"
