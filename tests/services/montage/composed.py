"""A few slides of several shapes, what a montage shows of them, and the request for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from himl_cli.core.montage import Box, CellOutcome, ImageFormat, MontageRequest, MontageResult, SlideEntry
from himl_cli.services.montage.query import LocalFolder
from tests.support.slides import slide_picture, write_tiff

Pixels: TypeAlias = NDArray[np.uint8]
SIZES = [(600, 430), (430, 600), (900, 300), (500, 500), (300, 200)]


def lossless(path: Path, seed: int, size: tuple[int, int], *, levels: int = 2) -> Pixels:
    """A slide; what its level 1 shows is returned."""
    picture = slide_picture(seed, size)
    return np.asarray(write_tiff(path, picture, levels=levels, compression="deflate", tile=128)[-1])


@dataclass
class Slides:
    """Slides in a folder, and what their level 1 shows."""

    folder: Path
    entries: list[SlideEntry] = field(default_factory=list)
    pictures: list[Pixels] = field(default_factory=list)

    @property
    def place(self) -> LocalFolder:
        return LocalFolder(self.folder)


@pytest.fixture
def slides(tmp_path: Path) -> Slides:
    folder = tmp_path / "slides"
    folder.mkdir()
    made = Slides(folder)
    for number, size in enumerate(SIZES):
        made.pictures.append(lossless(folder / f"{number}.tiff", number, size))
        made.entries.append(SlideEntry(f"slide {number}", f"{number}.tiff", label=str(number % 2)))
    return made


def request(tmp_path: Path, width: int | None = 1000, **others: object) -> MontageRequest:
    made = MontageRequest(tmp_path / "out", width, formats=(ImageFormat.png,), workers=2)
    return replace(made, **others)  # type: ignore[arg-type]


def pixels(result: MontageResult, name: str = "montage.png") -> Pixels:
    path = next(path for path in result.files if path.name == name)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def cut(picture: Pixels, box: Box) -> Pixels:
    return picture[box.y : box.y + box.height, box.x : box.x + box.width]


def box_of(cell: CellOutcome) -> Box:
    assert cell.picture is not None
    return cell.picture
