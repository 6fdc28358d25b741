from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from himl_cli.core.blobs import BlobInfo, FetchRequest
from himl_cli.core.errors import BadUsage, IntegrityFailed, NotAllowed, NotFound, ServiceFailed, TransferIncomplete
from himl_cli.core.events import Event, Finished, Moved, Planned
from himl_cli.core.transfers import TransferResult
from himl_cli.services.transfer.arrival import LARGE, LONGEST_PIECE, MOST_PIECES, PIECE, SMALL, Arrival
from himl_cli.services.transfer.collector import SELDOM
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.filters import Filters
from himl_cli.services.transfer.plan import Wanted
from himl_cli.services.transfer.requests import DownloadRequest
from himl_cli.services.transfer.state import TransferState
from tests.running import write_files
from tests.services.transfer.stores import MemoryStore, bodies, pattern


def files_in(folder: Path) -> dict[str, bytes]:
    """What a user sees: everything but himl's state file."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".himl-transfer")
    }


def numbers(result: TransferResult) -> tuple[int, int, int]:
    return result.files, result.skipped, result.unverified


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
        pieces = Arrival(Wanted(blob, "big", str(tmp_path / "big")), "source", state, None).requests
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


def test_the_bytes_of_the_result_are_those_of_the_files_that_arrived(tmp_path: Path) -> None:
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


def test_folders_made_for_files_that_did_not_arrive_do_not_stay(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (folder / "mine").mkdir(parents=True)
    store = MemoryStore({"a/b/c": b"1", "a/d": b"2", "e/f/g": b"3", "mine/x": b"4"}, broken={"a/b/c", "e/f/g", "mine/x"})
    download(store, DownloadRequest(folder))
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_dir()) == ["a", "mine"]


def test_a_blob_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    store = MemoryStore({**bodies(5), "outputs/bad": b"bad", "outputs/large": pattern(LARGE + 5)}, broken={"outputs/bad", "outputs/large"})
    result = download(store, DownloadRequest(tmp_path, workers=3))
    assert files_in(tmp_path).keys() == bodies(5).keys()
    assert [failure.name for failure in result.failed] == ["outputs/bad", "outputs/large"]
    assert isinstance(result.problem(), ServiceFailed)


@pytest.mark.parametrize("size", [SMALL + PIECE, LARGE + 2 * PIECE])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_file_is_resumed(tmp_path: Path, size: int, error: type[BaseException]) -> None:
    store = MemoryStore({"big": pattern(size), "small": b"s"})

    def interrupt(request: FetchRequest, offset: int) -> None:
        if offset >= size - PIECE:
            raise error

    store.before_piece = interrupt
    with pytest.raises(error):
        download(store, DownloadRequest(tmp_path))
    assert "big" not in files_in(tmp_path)
    store.before_piece = lambda request, offset: None
    moved, store.moved = store.moved, 0
    result = download(store, DownloadRequest(tmp_path))

    assert (files_in(tmp_path), result.problem()) == (store.bodies, None)
    assert moved >= size - 2 * PIECE
    assert store.moved <= 2 * PIECE + 1


def test_of_pieces_that_were_under_way_only_what_is_missing_comes_again(tmp_path: Path) -> None:
    """On a slow line many pieces are begun and none is through."""
    store = MemoryStore({"big": pattern(LARGE + 2 * PIECE)}, shuffle=True)
    begun: set[int] = set()

    def interrupt(request: FetchRequest, offset: int) -> None:
        begun.add(request.offset)
        if store.moved > LARGE // 2:
            raise KeyboardInterrupt

    store.before_piece = interrupt
    with pytest.raises(KeyboardInterrupt):
        download(store, DownloadRequest(tmp_path, workers=16))
    assert len(begun) >= 12
    store.before_piece = lambda request, offset: None
    moved, store.moved = store.moved, 0
    assert download(store, DownloadRequest(tmp_path, workers=16)).problem() is None
    assert (files_in(tmp_path), store.moved) == (store.bodies, LARGE + 2 * PIECE - moved)


def test_a_partial_file_of_another_version_is_begun_anew(tmp_path: Path) -> None:
    store = MemoryStore({"big": pattern(2 * SMALL)})

    def interrupt(request: FetchRequest, offset: int) -> None:
        if offset >= SMALL:
            raise KeyboardInterrupt

    store.before_piece = interrupt
    with pytest.raises(KeyboardInterrupt):
        download(store, DownloadRequest(tmp_path))
    store.before_piece = lambda request, offset: None
    store.put("big", pattern(3 * SMALL))
    store.moved = 0
    assert download(store, DownloadRequest(tmp_path)).problem() is None
    assert (files_in(tmp_path), store.moved) == (store.bodies, 3 * SMALL)


def test_a_damaged_partial_file_is_noticed_and_fetched_again(tmp_path: Path) -> None:
    store = MemoryStore({"big": pattern(2 * SMALL)})

    def interrupt(request: FetchRequest, offset: int) -> None:
        if offset >= SMALL:
            raise KeyboardInterrupt

    store.before_piece = interrupt
    with pytest.raises(KeyboardInterrupt):
        download(store, DownloadRequest(tmp_path))
    with open(tmp_path / ".big.himl-part", "r+b") as part:
        part.write(b"garbage")
    store.before_piece = lambda request, offset: None
    assert download(store, DownloadRequest(tmp_path)).problem() is None
    assert files_in(tmp_path) == store.bodies


def test_what_differs_here_stays_and_is_listed_unless_it_may_be_replaced(tmp_path: Path) -> None:
    store = MemoryStore({"same": b"one", "edited": b"two", "longer": b"three", "new": b"4"})
    for name, body in {"same": b"one", "edited": b"TWO", "longer": b"three and more"}.items():
        (tmp_path / name).write_bytes(body)
    left = download(store, DownloadRequest(tmp_path))
    kept = files_in(tmp_path)
    replaced = download(store, DownloadRequest(tmp_path, overwrite=True))

    assert (numbers(left), left.differing) == ((1, 1, 0), ("edited", "longer"))
    assert isinstance(left.problem(), TransferIncomplete)
    assert (kept["edited"], kept["longer"]) == (b"TWO", b"three and more")
    assert (numbers(replaced), replaced.problem(), files_in(tmp_path)) == ((2, 2, 0), None, store.bodies)


def test_a_file_fetched_earlier_is_renewed_when_its_source_grew_but_not_when_it_was_edited_here(tmp_path: Path) -> None:
    store = MemoryStore({"log": b"line 1\n", "notes": b"first"})
    download(store, DownloadRequest(tmp_path))
    (tmp_path / "notes").write_bytes(b"my own")
    store.put("log", b"line 1\nline 2\n")
    store.put("notes", b"second")
    result = download(store, DownloadRequest(tmp_path))
    assert files_in(tmp_path) == {"log": b"line 1\nline 2\n", "notes": b"my own"}
    assert (numbers(result), result.differing) == ((1, 0, 0), ("notes",))


def test_the_file_of_another_place_is_not_taken_for_an_older_version(tmp_path: Path) -> None:
    download(MemoryStore({"metrics": b"of run 1"}, origin="run 1"), DownloadRequest(tmp_path))
    result = download(MemoryStore({"metrics": b"of run 2"}, origin="run 2"), DownloadRequest(tmp_path))
    assert (files_in(tmp_path), result.differing) == ({"metrics": b"of run 1"}, ("metrics",))


def test_a_file_here_is_compared_by_its_bytes_when_the_service_knows_no_md5(tmp_path: Path) -> None:
    store = MemoryStore({"same": b"1234", "other": b"5678"}, md5_in="")
    (tmp_path / "same").write_bytes(b"1234")
    (tmp_path / "other").write_bytes(b"....")
    result = download(store, DownloadRequest(tmp_path))
    assert (numbers(result), result.differing) == ((0, 1, 1), ("other",))
    assert files_in(tmp_path) == {"same": b"1234", "other": b"...."}


def test_a_lost_or_damaged_state_file_costs_no_file(tmp_path: Path) -> None:
    store = MemoryStore({**bodies(3)})
    download(store, DownloadRequest(tmp_path))
    (tmp_path / ".himl-transfer.db").write_bytes(b"no database at all" * 100)
    moved = store.moved
    assert numbers(download(store, DownloadRequest(tmp_path))) == (0, 3, 0)
    assert store.moved == moved


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


def test_a_prefix_that_matches_nothing_names_what_there_is_and_makes_nothing(tmp_path: Path) -> None:
    store = MemoryStore({"outputs/a": b"", "logs/b": b""})
    with pytest.raises(NotFound, match="No file in the store starts with 'output/'") as caught:
        download(store, DownloadRequest(tmp_path / "out", Filters("output/")))
    assert "Did you mean 'outputs'?" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_filters_that_let_nothing_through_are_an_error_and_an_empty_store_is_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="passes --include and --exclude"):
        download(MemoryStore({"a": b""}), DownloadRequest(tmp_path / "out", Filters(include=("*.ckpt",))))
    assert numbers(download(MemoryStore(), DownloadRequest(tmp_path / "out"))) == (0, 0, 0)
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_a_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(BadUsage, match="is a file"):
        download(MemoryStore({"a": b""}), DownloadRequest(tmp_path / "out"))
    with pytest.raises(BadUsage, match="lies below a file"):
        download(MemoryStore({"a": b""}), DownloadRequest(tmp_path / "out" / "sub"))
    assert (tmp_path / "out").read_text() == "mine"


def test_names_that_climb_or_cannot_be_are_refused_and_the_others_kept(tmp_path: Path) -> None:
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
        (target / ".file.himl-part").symlink_to(outside / "victim")
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
def test_a_link_in_the_place_of_what_himl_remembers_is_taken_away(tmp_path: Path, name: str) -> None:
    outside, target = tmp_path / "outside", tmp_path / "out"
    write_files(tmp_path, {"outside/empty": b"", "out/x": b""})
    try:
        (target / name).symlink_to(outside / "empty")
    except OSError:
        pytest.skip("NEEDS the right to make symlinks")
    assert download(MemoryStore({"a": b"1"}), DownloadRequest(target)).files == 1
    assert files_in(outside) == {"empty": b""}
    assert not (target / name).is_symlink()


def test_a_name_that_is_both_file_and_folder_is_named_and_its_folder_kept(tmp_path: Path) -> None:
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


def rewritten_unnoticeably(path: Path, body: bytes) -> None:
    """Other bytes of the same size and time."""
    before = path.stat()
    path.write_bytes(body)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_after_a_clean_end_size_and_time_vouch_for_a_file_which_is_not_read_again(tmp_path: Path) -> None:
    store = MemoryStore({"a": b"content"})
    download(store, DownloadRequest(tmp_path))
    rewritten_unnoticeably(tmp_path / "a", b"c0ntent")
    assert numbers(download(store, DownloadRequest(tmp_path))) == (0, 1, 0)


def test_no_partial_file_is_left_behind(tmp_path: Path) -> None:
    store = MemoryStore({**bodies(3), "outputs/big": pattern(LARGE + 1), "outputs/bad": b"x"}, damage={"outputs/bad": 99}, shuffle=True)
    download(store, DownloadRequest(tmp_path))
    assert [path.name for path in tmp_path.rglob("*.himl-part")] == []


def test_twenty_thousand_files(tmp_path: Path) -> None:
    store = MemoryStore({f"outputs/{number % 50}/{number}": b"%d" % number for number in range(20_000)}, md5_in="finish")
    assert numbers(download(store, DownloadRequest(tmp_path))) == (20_000, 0, 0)
    assert numbers(download(store, DownloadRequest(tmp_path))) == (0, 20_000, 0)
    assert (tmp_path / "outputs/49/19999").read_bytes() == b"19999"


@pytest.mark.parametrize(("threshold", "meanwhile"), [(700, SELDOM), (SELDOM + 1, SELDOM + 1), (0, 0)])
def test_the_collector_looks_seldom_while_files_move_and_is_as_before_then(tmp_path: Path, threshold: int, meanwhile: int) -> None:
    seen: list[int] = []
    store = MemoryStore({"a": b"1", "b": b"2"}, before_piece=lambda request, offset: seen.append(gc.get_threshold()[0]), broken={"b"})
    before = gc.get_threshold()
    try:
        gc.set_threshold(threshold, 10, 10)
        download(store, DownloadRequest(tmp_path))
        after = gc.get_threshold()
    finally:
        gc.set_threshold(*before)
    assert (set(seen), after) == ({meanwhile}, (threshold, 10, 10))
