"""Pieces that are encoded side by side: their order, and how many there are at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.services.montage.encoding import MOST_AHEAD, PiecedFile
from himl_cli.services.montage.threads import Pool
from tests.services.montage.banded import busy_pool


@pytest.mark.parametrize(("workers", "most"), [(1, 4), (3, 8), (40, MOST_AHEAD)])
def test_as_many_pieces_wait_as_the_pools_threads_are_good_for(workers: int, most: int, tmp_path: Path) -> None:
    """However many cores there are: memory is that of the workers that were asked for."""
    taken: list[int] = []

    class Numbers(PiecedFile[int]):
        def take(self, piece: int) -> None:
            taken.append(piece)

    with busy_pool(workers) as pool:
        pieces = Numbers(tmp_path / "x", pool)
        waiting = []
        for number in range(50):
            pieces.put(lambda number=number: number)  # type: ignore[misc]
            waiting.append(number + 1 - len(taken))
        pieces.drain()
        pieces.end(b"")
    assert max(waiting) == most
    assert taken == list(range(50))


def test_a_pool_tells_how_many_threads_it_has() -> None:
    with Pool(3) as pool:
        assert pool.workers == 3
