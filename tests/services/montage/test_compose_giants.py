"""Slides of more pixels than are ever held: read in one thread and resized in another, closed however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from himl_cli.core.errors import DiskFailed
from himl_cli.core.events import ignore
from himl_cli.core.montage import ImageFormat, MontageRequest, SlideEntry
from himl_cli.services.montage.compose import HELD_BYTES, make_montage
from himl_cli.services.montage.query import LocalFolder
from himl_cli.services.montage.resampling import quick
from himl_cli.services.montage.slides import LARGE
from tests.support.montages import resized
from tests.support.slides import slide_picture, write_giant

TILE = 512


def test_a_slide_that_is_read_ahead_is_shown_right(tmp_path: Path) -> None:
    size = (5_600, 4_000)
    assert 3 * size[0] * size[1] > LARGE
    write_giant(tmp_path / "giant.tiff", size, tile=TILE, compression="deflate")
    whole = np.tile(slide_picture(0, (TILE, TILE)), (8, 11, 1))[: size[1], : size[0]]
    for workers in (1, 2):
        request = MontageRequest(tmp_path / str(workers), 500, level=0, formats=(ImageFormat.png,), workers=workers)
        (cell,) = make_montage(request, [SlideEntry("giant", "giant.tiff")], LocalFolder(tmp_path), ignore).cells
        assert (cell.is_ok, cell.level) == (True, 0)
        assert cell.picture is not None
        with Image.open(request.output / "montage.png") as image:
            shown = np.asarray(image)[cell.picture.y :, cell.picture.x :][: cell.picture.height, : cell.picture.width]
        assert np.abs(shown.astype(int) - resized(whole, cell.picture.size, quick())).max() <= 1


class Counting(LocalFolder):
    """A place whose files come at a cost, and that knows which of them are in use; it cannot bring `gone.tiff`, nor anything after that."""

    is_rereadable = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.in_use: list[str] = []
        self.used: list[str] = []

    @contextmanager
    def local_path(self, name: str) -> Iterator[Path]:
        if name == "gone.tiff":
            raise DiskFailed("The cache is full.")
        self.in_use.append(name)
        self.used.append(name)
        try:
            yield self.folder / name
        finally:
            self.in_use.remove(name)


def test_after_an_error_no_slide_is_in_use(tmp_path: Path) -> None:
    """One that is read while it is painted is open as the next one fails; who looks at the error keeps all of its frames alive."""
    size = (8_000, 6_000)
    assert 3 * size[0] * size[1] > HELD_BYTES // 2
    write_giant(tmp_path / "giant.tiff", size, tile=TILE, compression="deflate")
    place = Counting(tmp_path)
    request = MontageRequest(tmp_path / "out", 2 * size[0], level=0, formats=(ImageFormat.png,))
    with pytest.raises(DiskFailed, match="The cache is full") as caught:
        make_montage(request, [SlideEntry("giant", "giant.tiff"), SlideEntry("gone", "gone.tiff")], place, ignore)
    assert caught.tb is not None
    assert (place.used, place.in_use) == (["giant.tiff"], [])
