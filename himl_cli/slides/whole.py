"""Tell slides that are incomplete, as after a partial download, before anything is read from them.

Libraries omit pages and files that they cannot read, so that a slide would have fewer levels, and they miss the end of
a page that is not read, such as that of a label. Each format has a function of its own.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
import struct
from collections.abc import Iterator
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from himl_cli.slides.query import series_of
from himl_cli.slides.slide_records import HEAD_BYTES, SlideUnreadable

Whole: TypeAlias = NDArray[np.int64]
NONE: Whole = np.empty(0, np.int64)
MOST_PAGES, MOST_TAGS = 1000, 1000
# Bytes of a value of a TIFF, by the number of its type
BYTES = dict(zip(range(1, 19), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8), strict=True))
# Tags with the positions of tiles or strips, those with their lengths, and one with the positions of other pages
OFFSETS, COUNTS, SUB_IFDS = (273, 324), (279, 325), 330
LISTS = (*OFFSETS, *COUNTS, SUB_IFDS)
ICC_PROFILE, PRIVATE = 34675, 32768
TAIL = 1 << 16
MIRAX_VERSION = "01.02"  # of an index
# Explicit VR: the transfer syntax, the pixels with their length, and the end of compressed frames
EXPLICIT = re.compile(rb"\x02\0\x10\0UI..1\.2\.840\.10008\.1\.2\.(1|4\.\d+)\0?[^\d.]", re.DOTALL)
PIXELS, UNDEFINED, DELIMITER = (
    re.compile(rb"\xe0\x7f\x10\0O[BW]\0\0(.{4})", re.DOTALL),
    0xFFFFFFFF,
    b"\xfe\xff\xdd\xe0\0\0\0\0",
)


def check_tiff(path: Path, *, is_ndpi: bool) -> None:
    """Raise SlideUnreadable if the TIFF *path* ends before the tags or the pixels of one of its pages. Files of
    Hamamatsu (*is_ndpi*) have positions of pages with 64 bits."""
    with path.open("rb") as file:
        size, header = os.fstat(file.fileno()).st_size, file.read(4)
        # Damage of another kind is reported by the reader
        with suppress(struct.error, OverflowError, OSError, ValueError, LookupError):
            for number, end in _ends_of_pages(file, header, is_ndpi=is_ndpi):
                if end > size:
                    where = f"page {number} ends at {end:,}"
                    raise SlideUnreadable(f"the file is truncated: it ends at byte {size:,}, but {where}")


def _ends_of_pages(file: BinaryIO, header: bytes, *, is_ndpi: bool) -> Iterator[tuple[int, int]]:
    """Numbers of the pages of a TIFF, and positions where parts of them end, at least."""
    order, is_big = "<" if header.startswith(b"II") else ">", b"+" in header
    place = 8 if is_big else 4
    pointer, count = (struct.Struct(order + each) for each in ("QQ" if is_big else ("Q" if is_ndpi else "I", "H")))
    entry = struct.Struct(order + ("HHQQ" if is_big else "HHII"))
    file.seek(place)
    todo, seen = [*pointer.unpack(file.read(pointer.size))], {0}
    while todo and len(seen) <= MOST_PAGES:
        offset = todo.pop()
        if offset in seen:
            continue
        number = len(seen)
        seen.add(offset)
        yield number, offset + count.size
        file.seek(offset)
        (tags,) = count.unpack(file.read(count.size))
        if tags > MOST_TAGS:
            return
        length = tags * entry.size
        yield number, offset + count.size + length + pointer.size
        data = file.read(length + pointer.size)
        todo += pointer.unpack_from(data, length)
        found: dict[int, Whole] = {}
        is_far = is_ndpi and offset >> 32
        for index, (tag, kind, amount, begin) in enumerate(entry.iter_unpack(data[:length])):
            size = BYTES.get(kind, 0) * amount
            if size > place and (tag < PRIVATE or tag == ICC_PROFILE):
                begin = int(_placed(np.array([begin]), offset)[0]) if is_far else begin
                yield number, begin + size
            if tag in LISTS:
                stored = data[(index + 1) * entry.size - place :][:size]
                if size > place:
                    file.seek(begin)
                    stored = file.read(size)
                found[tag] = np.frombuffer(stored, f"{order}u{BYTES[kind]}").astype(np.int64)
        todo += found.get(SUB_IFDS, NONE).tolist()
        for positions, counts in zip(OFFSETS, COUNTS, strict=True):
            if positions in found and counts in found:
                begins, sizes = found[positions], found[counts]
                begins, sizes = begins[: len(sizes)], sizes[: len(begins)]
                ends = (_placed(begins, offset) if is_far else begins) + sizes
                yield number, int(ends[(begins != 0) & (sizes != 0)].max(initial=0))


def _placed(positions: Whole, page: int) -> Whole:
    """Large files of Hamamatsu have the lower 32 bits of *positions*, which are before that of their *page*."""
    far = positions + (page >> 32 << 32)
    return far - ((far >= page).astype(np.int64) << 32)


def check_dicom(path: Path) -> None:
    """Raise SlideUnreadable if the DICOM file *path*, or another one of its series beside it, ends before its last
    pixel. Each may contain a level."""
    series = _series(path)
    for each in sorted(path.parent.iterdir()) if series is not None else ():
        with suppress(OSError):
            if each == path or _series(each) == series:
                size = _size_if_cut(each)
                if size is not None:
                    what = "the file" if each == path else f"'{each.name}' of its series"
                    raise SlideUnreadable(f"{what} is truncated: it ends at byte {size:,}, before its last pixel")


def _series(path: Path) -> bytes | None:
    """The SeriesInstanceUID of a DICOM file. None for other files."""
    found = path.stat()
    return _series_of_version(path, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


@lru_cache(1 << 16)
def _series_of_version(path: Path, size: int, changed: int) -> bytes | None:
    with path.open("rb") as file:
        return series_of(file.read(HEAD_BYTES))


def _size_if_cut(path: Path) -> int | None:
    """The size of a DICOM file that ends before its last pixel. None: it is complete, or has a rare form."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if not EXPLICIT.search(data[:HEAD_BYTES]):
            return None
        end = 0
        while pixels := PIXELS.search(data, end):  # an icon may precede those of the slide
            (length,) = struct.unpack("<I", pixels[1])
            if length == UNDEFINED:
                return len(data) if data.rfind(DELIMITER, max(0, len(data) - TAIL)) < 0 else None
            end = pixels.end() + length
        return len(data) if end == 0 or end > len(data) else None


def check_mirax(path: Path) -> None:
    """Raise SlideUnreadable if a file in the folder of the MIRAX slide *path* is missing, or ends before the last tile
    of it that the index lists."""
    folder = path.with_suffix("")
    settings = ConfigParser(interpolation=None, strict=False)
    with suppress(OSError, ConfigError, struct.error, ValueError, LookupError):  # damage that OpenSlide reports
        settings.read_string((folder / "Slidedat.ini").read_text("utf-8-sig"))
        levels, data = settings["HIERARCHICAL"], settings["DATAFILE"]
        number = next(key for key, value in levels.items() if value == "Slide zoom level").split("_")[1]
        index = (folder / levels["INDEXFILE"]).read_bytes()
        root = len(MIRAX_VERSION) + len(settings["GENERAL"]["SLIDE_ID"])
        ends: dict[int, int] = {}
        for level in range(int(levels[f"HIER_{number}_COUNT"])):
            for file, end in _ends_in_files(index, root, level):
                ends[file] = max(end, ends.get(file, 0))
        for file, end in sorted(ends.items()):
            name = data[f"FILE_{file}"]
            size = (folder / name).stat().st_size if (folder / name).exists() else None
            if size is None:
                raise SlideUnreadable(f"its file '{name}' is missing")
            if size < end:
                where = f"a tile ends at {end:,}"
                raise SlideUnreadable(f"its file '{name}' is truncated: it ends at byte {size:,}, but {where}")


def _ends_in_files(index: bytes, root: int, level: int) -> Iterator[tuple[int, int]]:
    """Numbers of the files with tiles of a *level*, and where the last tile of a page of the *index* ends in each."""

    def numbers(place: int, count: int) -> NDArray[np.int32]:
        return np.frombuffer(index, "<i4", count, place)

    (table,) = numbers(root, 1)
    (record,) = numbers(table + 4 * level, 1)
    (page,) = numbers(record + 4, 1)
    seen = {0}
    while page not in seen:
        seen.add(int(page))
        count, following = numbers(page, 2)
        tiles = numbers(page + 8, 4 * count).reshape(-1, 4).astype(np.int64)  # place, offset, bytes, file
        for file in np.unique(tiles[:, 3]).tolist():
            yield file, int(tiles[tiles[:, 3] == file, 1:3].sum(axis=1).max())
        page = following
