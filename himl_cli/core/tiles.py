"""Tiles of slides as they were asked for, and what became of each slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from himl_cli.core.montage import Backend, Size, SlideEntry, SlidesFailed


class TileFormat(str, Enum):
    """How tiles are stored."""

    png = "png"
    jpg = "jpg"


@dataclass(frozen=True)
class TilesRequest:
    """What tiles are cut.

    `tile_size` and `overlap` are in pixels of the level that is cut: `level`, or the one of `magnification` where that
    is not None. `occupancy` is the least fraction of a tile that has to be foreground, by the mask of the slide
    (`masks`) or by Otsu's threshold.
    """

    output: Path
    tile_size: int = 224
    overlap: int = 0
    level: int = 0
    magnification: float | None = None
    occupancy: float = 0.05
    masks: bool = False
    format: TileFormat = TileFormat.png
    overview: bool = False
    backend: Backend = Backend.auto
    workers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TiledSlide(SlideEntry):
    """A slide, and what became of it: a line of slides.csv.

    `folder` is the name of its folder of tiles. `level` is the one that was cut, `size` its pixels, `backend` what read
    it, `tiles` how many were kept; `is_resumed` says that an earlier call cut them. `reason` says why it failed.
    """

    folder: str
    level: int | None = None
    size: Size | None = None
    backend: str = ""
    tiles: int = 0
    is_resumed: bool = False
    reason: str = ""

    @property
    def is_ok(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class TilesResult:
    """The list of the tiles (`dataset`) and that of the slides (`record`), each slide in the order of the query."""

    dataset: Path
    record: Path
    slides: Sequence[TiledSlide]
    seconds: float

    @property
    def failed(self) -> list[TiledSlide]:
        return [slide for slide in self.slides if not slide.is_ok]

    @property
    def problem(self) -> SlidesFailed | None:
        """The error that the result is where no slide may fail."""
        count = len(self.failed)
        if not count:
            return None
        what = "One slide was" if count == 1 else f"{count:,} slides were"
        return SlidesFailed(
            f"{what} not cut into tiles, and --strict was given.",
            hint=f"{self.record.name} tells which, and why; the tiles of the others are there.",
        )
