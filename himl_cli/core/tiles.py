"""Records of tiles: requests, and the outcome for each slide."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from himl_cli.core.montage import Backend, Size, SlideEntry, SlidesFailed
from himl_cli.core.records import dataclass


class TileFormat(str, Enum):
    """The file format of tiles."""

    png = "png"
    jpg = "jpg"


@dataclass(frozen=True)
class TilesRequest:
    """The requested tiles.

    `tile_size` and `overlap` are in pixels of the level to cut: `level`, or the one of `magnification` unless that is
    None. `occupancy` is the minimal fraction of a tile that is foreground, by the mask of the slide (`masks`) or by
    Otsu's threshold.
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


@dataclass(frozen=True, kw_only=True)
class TiledSlide(SlideEntry):
    """A slide and its outcome: a line of slides.csv.

    `folder` is the name of its folder of tiles. `level` is the level that was cut, `size` its size in pixels, `backend`
    the library that read it, `tiles` the number of tiles. `is_resumed` marks tiles of an earlier call. `reason` says
    why the slide failed.
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
    """The lists of tiles (`dataset`) and of slides (`record`), and the slides in the order of the query."""

    dataset: Path
    record: Path
    slides: Sequence[TiledSlide]
    seconds: float

    @property
    def failed(self) -> list[TiledSlide]:
        return [slide for slide in self.slides if not slide.is_ok]

    @property
    def problem(self) -> SlidesFailed | None:
        """The error of an incomplete result with --strict."""
        count = len(self.failed)
        if not count:
            return None
        what = "One slide was" if count == 1 else f"{count:,} slides were"
        return SlidesFailed(
            f"{what} not cut into tiles, and --strict allows no failure.",
            hint=f"{self.record.name} lists them with the reasons. The tiles of the others are complete.",
        )
