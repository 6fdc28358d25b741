"""What a download makes of what lies in the folder already: partial files, files that an earlier one brought, and others."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.blobs import FetchRequest
from himl_cli.core.errors import TransferIncomplete
from himl_cli.services.transfer.download import LARGE, PIECE, SMALL, download
from himl_cli.services.transfer.plan import DownloadRequest
from tests.services.transfer.arrived import files_in, numbers, rewritten_unnoticeably
from tests.services.transfer.stores import MemoryStore, bodies, pattern
from tests.support.folders import state_of


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


def test_resume_fetches_only_missing_bytes_of_begun_pieces(tmp_path: Path) -> None:
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


def interrupted_half_way(store: MemoryStore, folder: Path) -> None:
    """A download of files of twice `SMALL` bytes that stops after the first piece; the next one is let through."""

    def interrupt(request: FetchRequest, offset: int) -> None:
        if offset >= SMALL:
            raise KeyboardInterrupt

    store.before_piece = interrupt
    with pytest.raises(KeyboardInterrupt):
        download(store, DownloadRequest(folder))
    store.before_piece = lambda request, offset: None


def test_a_partial_file_of_another_version_is_begun_anew(tmp_path: Path) -> None:
    store = MemoryStore({"big": pattern(2 * SMALL)})
    interrupted_half_way(store, tmp_path)
    store.put("big", pattern(3 * SMALL))
    store.moved = 0
    assert download(store, DownloadRequest(tmp_path)).problem() is None
    assert (files_in(tmp_path), store.moved) == (store.bodies, 3 * SMALL)


def test_a_damaged_partial_file_is_noticed_and_fetched_again(tmp_path: Path) -> None:
    store = MemoryStore({"big": pattern(2 * SMALL)})
    interrupted_half_way(store, tmp_path)
    (path,) = tmp_path.glob(".big.*.himl-part")
    with open(path, "r+b") as part:
        part.write(b"garbage")
    assert download(store, DownloadRequest(tmp_path)).problem() is None
    assert files_in(tmp_path) == store.bodies


def test_differing_file_is_kept_and_listed_unless_overwrite(tmp_path: Path) -> None:
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


def test_download_renews_grown_source_but_keeps_local_edit(tmp_path: Path) -> None:
    store = MemoryStore({"log": b"line 1\n", "notes": b"first"})
    download(store, DownloadRequest(tmp_path))
    (tmp_path / "notes").write_bytes(b"my own")
    store.put("log", b"line 1\nline 2\n")
    store.put("notes", b"second")
    result = download(store, DownloadRequest(tmp_path))
    assert files_in(tmp_path) == {"log": b"line 1\nline 2\n", "notes": b"my own"}
    assert (numbers(result), result.differing) == ((1, 0, 0), ("notes",))


def test_file_downloaded_from_other_origin_is_not_replaced(tmp_path: Path) -> None:
    download(MemoryStore({"metrics": b"of run 1"}, origin="run 1"), DownloadRequest(tmp_path))
    result = download(MemoryStore({"metrics": b"of run 2"}, origin="run 2"), DownloadRequest(tmp_path))
    assert (files_in(tmp_path), result.differing) == ({"metrics": b"of run 1"}, ("metrics",))


def test_local_file_is_compared_by_bytes_without_stored_md5(tmp_path: Path) -> None:
    store = MemoryStore({"same": b"1234", "other": b"5678"}, md5_in="")
    (tmp_path / "same").write_bytes(b"1234")
    (tmp_path / "other").write_bytes(b"....")
    result = download(store, DownloadRequest(tmp_path))
    assert (numbers(result), result.differing) == ((0, 1, 1), ("other",))
    assert files_in(tmp_path) == {"same": b"1234", "other": b"...."}


def test_a_lost_or_damaged_state_file_costs_no_file(tmp_path: Path) -> None:
    store = MemoryStore({**bodies(3)})
    download(store, DownloadRequest(tmp_path))
    state_of(tmp_path).write_bytes(b"no database at all" * 100)
    moved = store.moved
    assert numbers(download(store, DownloadRequest(tmp_path))) == (0, 3, 0)
    assert store.moved == moved


def test_repeated_download_trusts_size_and_modified_time(tmp_path: Path) -> None:
    store = MemoryStore({"a": b"content"})
    download(store, DownloadRequest(tmp_path))
    rewritten_unnoticeably(tmp_path / "a", b"c0ntent")
    assert numbers(download(store, DownloadRequest(tmp_path))) == (0, 1, 0)
