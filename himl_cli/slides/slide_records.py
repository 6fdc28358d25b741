"""Records of montages and tiles: requests, layouts, outcomes of slides, and sources of slides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import field
from enum import Enum
from pathlib import Path
from typing import NamedTuple, Protocol

from himl_cli.core.errors import HimlError
from himl_cli.core.records import dataclass
from himl_cli.core.text import named

Size = tuple[int, int]  # width and height, in pixels

Colour = tuple[int, int, int]  # red, green and blue, each from 0 to 255

HEAD_BYTES = 1 << 16  # minimum number of bytes of `SlideFolder.head`, if the file has them

# The width of hi-ml's montages, and the default limit of others
DEFAULT_WIDTH = 60_000
NOT_THERE = "it does not exist"


class SlideUnreadable(HimlError):
    """A slide, or a level of it, cannot be read. The message is the reason, without the file's name."""

    code = "slide_unreadable"


class SlidesFailed(HimlError):
    """A montage is complete except for unreadable slides or masks, although --strict allows none, or no slide at all
    was readable."""

    code = "slides_failed"


class Backend(str, Enum):
    """The library that reads slides. `auto` chooses for each slide."""

    auto = "auto"
    tifffile = "tifffile"
    openslide = "openslide"
    cucim = "cucim"


class LayoutStyle(str, Enum):
    """The layout of slides. `himl` is the predecessor's."""

    fit = "fit"
    himl = "hi-ml"


class ImageFormat(str, Enum):
    """The format of the output: pictures, or a Deep Zoom pyramid with a page that shows it."""

    png = "png"
    jpg = "jpg"
    dzi = "dzi"


@dataclass(frozen=True)
class SlideEntry:
    """A slide to show. `image` and `mask` are names in the folder of slides, or absolute paths on this machine.

    Ids need not be unique. `label` and `mask` are None if unknown. `more` has the other columns of the slide's row in
    the CSV.
    """

    slide_id: str
    image: str
    label: str | None = None
    mask: str | None = None
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Box:
    """A rectangle in a picture, in pixels: the upper left corner and the size."""

    x: int
    y: int
    width: int
    height: int

    @property
    def size(self) -> Size:
        return self.width, self.height


@dataclass(frozen=True)
class Cell:
    """A cell of the montage. All boxes are in pixels of the montage.

    `entry` is the number of the slide in the list. `image` and `mask` are the areas of these pictures (None: no cell
    has a mask). `caption` is the area of the caption, which may overlap the image, or None.
    """

    entry: int
    column: int
    row: int
    box: Box
    image: Box
    mask: Box | None = None
    caption: Box | None = None


@dataclass(frozen=True)
class Layout:
    """The positions of all cells. `cells` go from left to right, row by row. Those of one row have the same `box.y` and
    `box.height`.

    `remark` is a sentence for the user about what did not fit.
    """

    style: LayoutStyle
    size: Size
    columns: int
    rows: int
    background: Colour
    cells: Sequence[Cell]
    remark: str = ""


@dataclass(frozen=True)
class MontageRequest:
    """The requested picture.

    `width` None is the width that fits all slides without enlarging one, or DEFAULT_WIDTH for hi-ml's layout. `level`
    None is the coarsest level that fills the cell, for each slide. With `mpp`, micrometres per pixel of the montage,
    all slides have this scale, and `width` and `level` are None. `assume_mpp` is the scale of level 0 of slides without
    one.
    """

    output: Path
    width: int | None = None
    level: int | None = 1
    layout: LayoutStyle = LayoutStyle.fit
    formats: tuple[ImageFormat, ...] = (ImageFormat.png, ImageFormat.jpg)
    backend: Backend = Backend.auto
    workers: int = 1
    mpp: float | None = None
    assume_mpp: float | None = None


@dataclass(frozen=True, kw_only=True)
class CellOutcome(SlideEntry):
    """A slide and the outcome of its cell: a line of montage.csv.

    `picture` is the area of the slide's own pixels (None: nothing was readable). `level` and `backend` are those that
    were used. `reason` says why the slide or its mask failed. `remark` reports a level other than the requested one,
    and how pixels are shown if the file leaves a choice.
    """

    column: int
    row: int
    box: Box
    picture: Box | None
    level: int | None
    backend: str
    is_ok: bool
    reason: str = ""
    remark: str = ""


@dataclass(frozen=True)
class MontageResult:
    """The finished montage: `files` by their final paths, in order of importance, `size` of the full picture,
    `jpg_size` of montage.jpg (None if there is none)."""

    files: Sequence[Path]
    size: Size
    jpg_size: Size | None
    columns: int
    rows: int
    cells: Sequence[CellOutcome]
    seconds: float
    mpp: float | None = None

    @property
    def failed(self) -> list[CellOutcome]:
        return [cell for cell in self.cells if not cell.is_ok]

    @property
    def troubled(self) -> list[CellOutcome]:
        """Cells with a failed slide, or with a failed mask only."""
        return [cell for cell in self.cells if cell.reason or not cell.is_ok]

    @property
    def problem(self) -> SlidesFailed | None:
        """The error of an incomplete montage with --strict."""
        count = len(self.troubled)
        if not count:
            return None
        what = "One slide or its mask was" if count == 1 else f"{count:,} slides or their masks were"
        return SlidesFailed(
            f"{what} not read, and --strict allows no failure.",
            hint="montage.csv lists them with the reasons. The others are in the picture.",
        )


@dataclass(frozen=True)
class WrittenFile:
    """A file and its size in bytes, including the tiles of a pyramid, and the size of its picture in pixels, if any."""

    path: Path
    bytes: int
    size: Size | None


class TileFormat(str, Enum):
    """The file format of tiles."""

    png = "png"
    jpg = "jpg"


class TileStore(str, Enum):
    """The form of the tiles of a slide: a file per tile, or one tar in the layout of WebDataset."""

    files = "files"
    tar = "tar"


class Region(NamedTuple):
    """An area of a slide with the `label` of its class, which may be empty. `rings` are its outline and its holes, as
    points in pixels of level 0. `is_cut_out` removes the area from all regions."""

    label: str
    rings: Sequence[Sequence[tuple[float, float]]]
    is_cut_out: bool = False


@dataclass(frozen=True)
class TilesRequest:
    """The requested tiles.

    `tile_size` and `overlap` are in pixels of `level`, or of the scale of `mpp` (micrometres per pixel) or
    `magnification` unless that is None. `assume_mpp` is the scale of level 0 of slides without one. `occupancy` is the
    minimal fraction of a tile that is `foreground`: a rule of `tissue.foreground_of`, or `mask`, where the mask of the
    slide is above `mask_threshold` (None: 0, and half of the range of a JPEG). `mask_tiles` adds the same area of the
    mask to each tile. `regions`, by slide id, are the only areas with tiles. `max_tiles` is the number of tiles per
    slide that are kept, chosen at random by `seed`.
    `quality` adds the values of `tissue.quality_of`. With `is_dry_run`, himl encodes tiles, but writes none.
    """

    output: Path
    tile_size: int = 224
    overlap: int = 0
    level: int = 0
    mpp: float | None = None
    magnification: float | None = None
    assume_mpp: float | None = None
    occupancy: float = 0.05
    foreground: str = "saturation"
    mask_threshold: float | None = None
    mask_tiles: bool = False
    quality: bool = False
    regions: Mapping[str, Sequence[Region]] | None = None
    max_tiles: int | None = None
    seed: int = 0
    format: TileFormat = TileFormat.png
    store: TileStore = TileStore.files
    overview: bool = False
    backend: Backend = Backend.auto
    workers: int = 1
    is_dry_run: bool = False

    @property
    def masks(self) -> bool:
        """Whether himl reads the masks of the slides."""
        return self.foreground == "mask" or self.mask_tiles


@dataclass(frozen=True, kw_only=True)
class TiledSlide(SlideEntry):
    """A slide and its outcome: a line of slides.csv.

    `folder` is the name of its folder of tiles. `level` is the level that was cut, `size` the size in pixels of what
    was cut, and `mpp` its micrometres per pixel, which `scale_source` recorded (None and empty if no scale was
    requested). `backend` is the library that read it, `tiles` the number of tiles, and `bytes` the size of their
    images. `is_resumed` marks tiles of an earlier call. `reason` says why the slide failed (then `level` is None), or
    why it has few tiles or none. `mask_threshold` is the greatest value of its mask that counted as background, None
    without a mask. `remark` says how its pixels are shown if the file leaves a choice. `columns` are the additional
    columns of its tiles. `has_large_labels` says that labels of its mask are above 255, so that their shares are
    unknown.
    """

    folder: str
    level: int | None = None
    size: Size | None = None
    backend: str = ""
    tiles: int = 0
    bytes: int = 0
    is_resumed: bool = False
    mpp: float | None = None
    scale_source: str = ""
    mask_threshold: float | None = None
    columns: Sequence[str] = ()
    has_large_labels: bool = False
    reason: str = ""
    remark: str = ""

    @property
    def is_ok(self) -> bool:
        return self.level is not None


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
    def troubled(self) -> list[TiledSlide]:
        """Slides that failed, or have few tiles or none."""
        return [slide for slide in self.slides if slide.reason]

    @property
    def problem(self) -> SlidesFailed | None:
        """The error of an incomplete result with --strict."""
        count = len(self.troubled)
        if not count:
            return None
        what = "One slide failed or has" if count == 1 else f"{count:,} slides failed or have"
        return SlidesFailed(
            f"{what} few tiles, and --strict allows no failure.",
            hint=f"{self.record.name} lists them with the reasons. The tiles of the others are complete.",
        )


def none_read(slides: Sequence[CellOutcome | TiledSlide]) -> SlidesFailed:
    """The error if all *slides* failed. What an earlier call wrote stays."""
    what = f"slide '{slides[0].slide_id}'"
    if len(slides) > 1:
        what = f"any of the {len(slides):,} slides, such as '{slides[0].slide_id}'"
    hint = "Paths in a CSV are relative to its folder." if slides[0].reason == NOT_THERE else ""
    return SlidesFailed(f"himl could not read {what}: {slides[0].reason}.", hint=hint)


RANGE_REMARK = "its own range of values is shown"


def grouped_remarks(slides: Iterable[CellOutcome | TiledSlide]) -> Iterator[str]:
    """Each remark on pixels of slides, once, with their ids, and without details in brackets."""
    alike: dict[str, list[str]] = {}
    for slide in slides:
        for remark in filter(None, slide.remark.split("; ")):
            head = remark.partition(" (")[0]
            if not head.removeprefix("mask: ").startswith("level "):
                alike.setdefault(head, []).append(slide.slide_id)
    for head, ids in alike.items():
        yield f"{named(ids)}: {head}."


class SlideFolder(Protocol):
    """A folder of slides: files by name (`/` separators, relative to the folder).

    `label` is its name in messages: `folder '/data'`, `folder 'slides' of datastore 'lab'`.
    """

    label: str

    @property
    def is_rereadable(self) -> bool:
        """Whether files can be requested again at no cost. If not, the layout is made without opening slides before."""

    def names(self) -> Iterator[str]:
        """All files in it and in its subfolders, sorted. Raises HimlError if it cannot be listed."""

    def has(self, name: str) -> bool:
        """Whether there is a file of that name. Raises HimlError."""

    def text(self, name: str) -> str:
        """The text of a small UTF-8 file (without a byte order mark). Raises NotFound, BadUsage if it is not UTF-8,
        DiskFailed."""

    def head(self, name: str) -> bytes:
        """At least the first HEAD_BYTES of a file, before any file is expected. Empty if it cannot be read."""

    def version(self, name: str) -> str:
        """A text that changes whenever the file does, or empty if there is no such file. Does not read the file."""

    def expect(self, names: Sequence[str]) -> None:
        """Announce the only files that will be requested, in this approximate order, so that downloads can begin."""

    def local_path(self, name: str) -> AbstractContextManager[Path]:
        """The file's path on this machine, valid until the context ends. Several threads may call this at once.

        The path may be that of a missing file, which its reader reports. No call waits until another one's context
        ends, so that one thread may have several files open. Raises SlideUnreadable, with the reason, if this file is
        not available, and DiskFailed and others if no file is.
        """

    def stop(self) -> None:
        """Cancel requests: calls of `local_path` that wait for a file raise Interrupted at once. Any thread may call
        this."""
