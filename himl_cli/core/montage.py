"""A montage as it was asked for, where each slide lies in it, what became of each, and where slides come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from himl_cli.core.errors import HimlError

Size = tuple[int, int]  # width and height, in pixels

Colour = tuple[int, int, int]  # red, green and blue, each from 0 to 255

# How wide hi-ml's montages are, and how wide any other becomes at most, unless another width is asked for
DEFAULT_WIDTH = 60_000


class SlideUnreadable(HimlError):
    """A slide, or a level of it, that cannot be read; the message is the reason, without the file's name."""

    code = "slide_unreadable"


class SlidesFailed(HimlError):
    """A montage that is made, and lacks slides or masks that could not be read, where none may be missing."""

    code = "slides_failed"


class Backend(str, Enum):
    """What reads slides; `auto` chooses for each."""

    auto = "auto"
    tifffile = "tifffile"
    openslide = "openslide"
    cucim = "cucim"


class LayoutStyle(str, Enum):
    """How slides are laid out; `himl` is the predecessor's way."""

    fit = "fit"
    himl = "hi-ml"


class ImageFormat(str, Enum):
    """What is written: pictures, or a Deep Zoom pyramid with a page that shows it."""

    png = "png"
    jpg = "jpg"
    dzi = "dzi"


@dataclass(frozen=True, slots=True)
class SlideEntry:
    """A slide that is to be shown: `image` and `mask` are names in the place that the slides lie in, or absolute paths
    of this machine.

    Ids need not be unique. `label` and `mask` are None where none is known.
    """

    slide_id: str
    image: str
    label: str | None = None
    mask: str | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """Pixels of a picture: the left upper corner and the extent."""

    x: int
    y: int
    width: int
    height: int

    @property
    def size(self) -> Size:
        return self.width, self.height


@dataclass(frozen=True, slots=True)
class Cell:
    """A place in the montage. All boxes are in pixels of the montage.

    `entry` is the number of the slide in the list that was laid out; `image` and `mask` are the room for those pictures
    (None: no mask in any cell); `caption` is the room for the caption, which may lie over the image; None where there
    is none.
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
    """Where everything lies. `cells` go from left to right, row by row; those of one row have the same `box.y` and
    `box.height`.

    `remark` is a sentence for the user about what could not be laid out.
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
    """What the picture is to be.

    `width` None: as the slides need it, none of which is enlarged; DEFAULT_WIDTH for hi-ml's layout. `level` None: the
    coarsest that still fills the cell, slide by slide.
    """

    output: Path
    width: int | None = None
    level: int | None = 1
    layout: LayoutStyle = LayoutStyle.fit
    formats: tuple[ImageFormat, ...] = (ImageFormat.png, ImageFormat.jpg)
    backend: Backend = Backend.auto
    workers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOutcome(SlideEntry):
    """A slide, and what became of its cell: a line of montage.csv.

    `picture` is what the slide's own pixels fill (None: nothing of it could be read); `level` and `backend` are what it
    was read with. `reason` says why it failed, or why its mask did; `remark` tells of another level than the one asked
    for.
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
    """What was made: `files` by their final paths, in order of importance; `size` of the full picture, `jpg_size` of
    montage.jpg (None: none was made)."""

    files: Sequence[Path]
    size: Size
    jpg_size: Size | None
    columns: int
    rows: int
    cells: Sequence[CellOutcome]
    seconds: float

    @property
    def failed(self) -> list[CellOutcome]:
        return [cell for cell in self.cells if not cell.is_ok]

    @property
    def troubled(self) -> list[CellOutcome]:
        """Cells whose slide failed, or the mask of it alone."""
        return [cell for cell in self.cells if cell.reason or not cell.is_ok]

    @property
    def problem(self) -> SlidesFailed | None:
        """The error that the montage is where nothing may be missing in it."""
        count = len(self.troubled)
        if not count:
            return None
        what = "One slide or its mask was" if count == 1 else f"{count:,} slides or their masks were"
        return SlidesFailed(
            f"{what} not read, and --strict was given.",
            hint="montage.csv tells which, and why; the rest is in the picture.",
        )


@dataclass(frozen=True)
class WrittenFile:
    """A file and its bytes, those of the tiles included where it stands for a pyramid; the pixels of the picture it
    shows, None where it shows none."""

    path: Path
    bytes: int
    size: Size | None


class SlideFolder(Protocol):
    """Where slides lie: files by name (`/` separators, relative to the folder).

    `label` is what messages call it: `folder '/data'`, `folder 'slides' of datastore 'lab'`.
    """

    label: str

    @property
    def is_rereadable(self) -> bool:
        """Whether a file may be asked for again at no cost, now that all are expected. If not, the layout is made
        without looking into slides before."""

    def names(self) -> Iterator[str]:
        """Every file in it and in its subfolders, sorted. Raises HimlError where it cannot be listed."""

    def has(self, name: str) -> bool:
        """Whether there is a file of that name. Raises HimlError."""

    def text(self, name: str) -> str:
        """The whole of a small UTF-8 file (a byte order mark is dropped). Raises NotFound, BadUsage where it is no
        UTF-8, DiskFailed."""

    def version(self, name: str) -> str:
        """What is another once the file changes; empty where there is no such file. Reads nothing of it."""

    def expect(self, names: Sequence[str]) -> None:
        """These files, and no others, will be asked for, roughly in this order: they may be downloaded ahead."""

    def local_path(self, name: str) -> AbstractContextManager[Path]:
        """The file's path on this machine, good until the context ends; may be called by several threads at once.

        A path may be given also for a file that is not there: whoever reads it says so. No call waits until another
        one's context ends, so that one thread may have several files open. Raises SlideUnreadable where this file
        cannot be given, with the reason; DiskFailed and others where no file can be.
        """

    def stop(self) -> None:
        """No file is wanted any more: calls of `local_path` that wait for one raise Interrupted at once. May be called
        by any thread."""
