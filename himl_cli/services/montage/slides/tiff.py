"""Plain TIFFs, in tiles or strips, read with tifffile and imagecodecs, from the top down."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from tifffile import TIFF, TiffFile, TiffPage

from himl_cli.core.montage import Size, SlideUnreadable
from himl_cli.services.montage.slides.headers import stored_size
from himl_cli.services.montage.slides.pixels import BLACK, JPEG, JPEG_2000, PixelRule, pixel_rule
from himl_cli.services.montage.slides.slide import Colour, library_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # its remarks on odd files would go to the terminal

ROWS = 64
"""Strips of fewer rows are joined."""
STRIP_BYTES = 16 << 20
"""How large a strip becomes where its rows can be chosen."""
BAND_BYTES = 160 << 20
"""A row of tiles that is larger, as RGB, is made in parts, for each of which its tiles are decoded again."""
LARGEST = 512 << 20
"""Bytes of a tile or strip, decoded, beyond which it is refused."""
AT_ONCE = 8 << 20
"""Bytes of a row of tiles that are read in one go, where they lie one behind the other."""

_MANY, _THREADS = 64, 4
"""Where a row has more tiles than this, so many threads decode them: such slides are few, and nobody else has work
then."""
_REDUCED, _MASK = 1, 4
_MOST_PAGES = 1000
_END = b"\xff\xd9"
_OTHER_WEBP = 34927

Mapping = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]
"""`map`, or that of a pool of threads."""


class TiffSlide:
    """A Slide. Decoding frees the interpreter's lock."""

    backend = "tifffile"

    def __init__(self, path: Path, *, as_labels: bool = False) -> None:
        """Raises SlideUnreadable where it is no TIFF, or of a kind that is not read."""
        self._as_labels = as_labels
        self._pool: ThreadPoolExecutor | None = None
        with library_errors("it is no TIFF, or a damaged one"):
            self._file = TiffFile(path, mode="r", _multifile=False, is_ndpi=False)  # the content counts, not the ending
        try:
            with library_errors("its structure is damaged"):
                self._pages = level_pages(self._file)
                self.levels: Sequence[Size] = [(page.imagewidth, page.imagelength) for page in self._pages]
                pixel_rule(self._pages[0], as_labels=as_labels)
                Segments(self._pages[0], 0)
        except BaseException:
            self._file.close()
            raise

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        page = self._pages[level]
        with library_errors(f"level {level} is damaged"):
            segments, rule = Segments(page, level), pixel_rule(page, as_labels=self._as_labels)
            yield from strips_of(segments, rule, background, mapping=self._mapping(segments))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._file.close()

    def _mapping(self, segments: Segments) -> Mapping:
        threads = min(_THREADS, os.cpu_count() or 1)
        if segments.across <= _MANY or threads == 1:
            return map
        if self._pool is None:
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="himl-tiles")
        return self._pool.map


def level_pages(file: TiffFile) -> list[TiffPage]:
    """The pages of *file* that are levels of its slide, the finest first: numbered as OpenSlide numbers them.

    The first page is level 0. Of the others those count that are tiled, and say of themselves that they are reductions;
    in a file of an Aperio scanner all that are tiled. Where there is none, the reductions below the first page
    (SubIFDs) count, which OpenSlide does not see. Strips count where the first page has strips too, and no reduction is
    tiled: beside tiles they are labels and thumbnails. Raises SlideUnreadable where there is no page.
    """
    pages: list[TiffPage] = []
    seen: set[int] = set()
    for page in file.pages:
        if len(seen) >= _MOST_PAGES or page.offset in seen:  # pages may form a ring
            break
        seen.add(page.offset)
        if isinstance(page, TiffPage):
            pages.append(page)
    if not pages:
        raise SlideUnreadable("there is no picture in it")
    first = pages[0]
    is_aperio = first.is_tiled and first.description.startswith("Aperio")
    coarser = _reductions(pages[1:], first, any_type=is_aperio)
    if not coarser and first.pages is not None:
        below = [page for page in first.pages if isinstance(page, TiffPage) and page.imagewidth < first.imagewidth]
        coarser = _reductions(below, first, any_type=True)
    return sorted([first, *coarser], key=lambda page: -page.imagewidth)


def _reductions(pages: list[TiffPage], first: TiffPage, *, any_type: bool) -> list[TiffPage]:
    types = [int(page.subfiletype) for page in pages]
    found = [
        page for page, kind in zip(pages, types, strict=True) if not kind & _MASK and (any_type or kind & _REDUCED)
    ]
    tiled = [page for page in found if page.is_tiled]
    return tiled if tiled or first.is_tiled else found


class Segments:
    """The tiles or strips of one page, decoded one by one; `rows` and `columns` are the pixels of each, `down` and
    `across` how many there are, `size` the page's. For several threads at once.

    Decoders take memory for the size that a tile gives itself, and libjpeg fills what is missing with grey: both are
    looked at before.
    """

    def __init__(self, page: TiffPage, level: int) -> None:
        """Raises SlideUnreadable where the page does not say where they are, too few, or none."""
        self._lock = Lock()  # the file has one place where it is read
        self._page, self._level = page, level
        self._buffered = (0, b"")  # bytes of the file, and where they begin
        self.size: Size = page.imagewidth, page.imagelength
        self.kind = "tile" if page.is_tiled else "strip"
        self.rows = page.tilelength if page.is_tiled else page.rowsperstrip
        self.columns = page.tilewidth if page.is_tiled else page.imagewidth
        if min(*self.size, self.rows, self.columns) < 1:
            raise SlideUnreadable(f"level {level} has no pixels, or {self.kind}s without any")
        self.across = -(-page.imagewidth // self.columns)
        self.down = -(-page.imagelength // self.rows)
        self.planes = page.samplesperpixel if int(page.planarconfig) == 2 else 1
        self._tables = {"jpegtables": page.jpegtables} if int(page.compression) in JPEG and page.jpegtables else {}
        needed, listed = self.across * self.down * self.planes, min(len(page.dataoffsets), len(page.databytecounts))
        if listed < needed:
            size = f"{page.imagewidth} x {page.imagelength} pixels"
            raise SlideUnreadable(
                f"level {level} says it is {size}, for which {needed} {self.kind}s are needed; it has {listed}"
            )
        if not any(page.databytecounts) or not any(page.dataoffsets):
            raise SlideUnreadable(f"none of the {self.kind}s of level {level} is stored")

    @property
    def sample_bytes(self) -> int:
        """Of one pixel, decoded."""
        assert self._page.dtype is not None
        return self._page.dtype.itemsize * self._page.samplesperpixel

    @property
    def is_plain(self) -> bool:
        """Whether rows lie in the file as they are, so that they can be read without the rest."""
        page = self._page
        as_is = (int(page.compression), int(page.predictor), int(page.fillorder)) == (1, 1, 1)
        return as_is and self.kind == "strip" and page.bitspersample in {8, 16, 32, 64}

    def check_size(self) -> None:
        """Raises SlideUnreadable where one of them is too large to be decoded."""
        size = self.rows * self.columns * self.sample_bytes
        if size > LARGEST:
            raise SlideUnreadable(
                f"the {self.kind}s of level {self._level} are {self.columns} x {self.rows} pixels, {size >> 20:,} MB "
                f"each; they cannot be decoded in parts, and more than {LARGEST >> 20} MB are refused"
            )

    def fetch_row(self, down: int) -> None:
        """Read row *down* of the tiles in one go, where that is worth it: each read would cost a wait for the other
        threads. Raises SlideUnreadable."""
        row = range(down * self.across, (down + 1) * self.across)
        stored = [
            (self._page.dataoffsets[index], self._page.databytecounts[index])
            for index in row
            if not self._is_left_out(index)
        ]
        if self.planes > 1 or not stored:
            return
        begin, end = min(offset for offset, _ in stored), max(offset + count for offset, count in stored)
        most = min(AT_ONCE, 2 * sum(count for _, count in stored))
        if end <= self._page.parent.filehandle.size and end - begin <= most:
            self._buffered = begin, self._read(begin, end - begin, row[0])

    def decoded(self, number: int) -> NDArray[np.generic] | None:
        """Samples of the segment, shape (rows, columns, samples of a pixel); None where nothing is stored of it. Raises
        SlideUnreadable."""
        return self._joined_planes(number, self._decoded)

    def plain_rows(self, number: int, first: int, count: int) -> NDArray[np.generic] | None:
        """Rows *first* and following of a strip of a page that `is_plain`, shape (count, columns, samples of a pixel);
        None where none are stored. Raises SlideUnreadable where the strip is too short, or cannot be read."""
        page = self._page
        assert page.dtype is not None
        dtype, stored_type = page.dtype, page.dtype.newbyteorder(page.parent.byteorder)
        shape = count, self.columns, 1 if self.planes > 1 else page.samplesperpixel
        length = shape[1] * shape[2] * dtype.itemsize

        def rows(index: int) -> NDArray[np.generic]:
            if page.databytecounts[index] < (first + count) * length:
                raise SlideUnreadable(f"{self._name(index)} is too short")
            data = self._read(page.dataoffsets[index] + first * length, count * length, index)
            return np.frombuffer(data, stored_type).reshape(shape).astype(dtype, copy=False)

        return self._joined_planes(number, rows)

    def _joined_planes(self, number: int, read: Callable[[int], NDArray[np.generic]]) -> NDArray[np.generic] | None:
        indices = [number + plane * self.across * self.down for plane in range(self.planes)]
        if any(self._is_left_out(index) for index in indices):
            return None
        planes = [read(index) for index in indices]
        return planes[0] if self.planes == 1 else np.concatenate(planes, axis=2)

    def _is_left_out(self, index: int) -> bool:
        return not self._page.databytecounts[index] or not self._page.dataoffsets[index]

    def _name(self, index: int) -> str:
        return f"{self.kind} {index + 1} of {self.across * self.down * self.planes} of level {self._level}"

    def _read(self, offset: int, count: int, index: int) -> bytes:
        begin, buffer = self._buffered
        if begin <= offset and offset + count <= begin + len(buffer):
            return buffer[offset - begin : offset - begin + count]
        file = self._page.parent.filehandle
        if offset + count > file.size:
            raise SlideUnreadable(
                f"the file is cut short: it ends at byte {file.size:,}, and {self._name(index)} at {offset + count:,}"
            )
        with self._lock, library_errors(f"{self._name(index)} cannot be read"):
            file.seek(offset)
            return bytes(file.read(count))

    def _decoded(self, index: int) -> NDArray[np.generic]:
        page, compression = self._page, int(self._page.compression)
        data = self._read(page.dataoffsets[index], page.databytecounts[index], index)
        if compression != 1:
            self._check_compressed(data, compression, index)
        with library_errors(
            f"{self._name(index)} cannot be decoded ({getattr(page.compression, 'name', compression)})"
        ):
            made = page.decode(data, index, **self._tables)[0]
            assert made is not None
            return made[0]

    def _check_compressed(self, data: bytes, compression: int, index: int) -> None:
        """Raises SlideUnreadable for a hole, for JPEG data without an end, and for what would be larger than its
        place."""
        if not data.strip(b"\0"):
            raise SlideUnreadable(f"{self._name(index)} is damaged: {len(data):,} bytes of zeros")
        if compression in JPEG | JPEG_2000 and _END not in data:
            raise SlideUnreadable(f"{self._name(index)} is damaged: the picture in it has no end")
        size = stored_size(data) if compression in {*TIFF.IMAGE_COMPRESSIONS, _OTHER_WEBP} else None
        if size is not None and (size[0] > self.columns or size[1] > self.rows):
            place = f"{self.columns} x {self.rows}"
            raise SlideUnreadable(
                f"{self._name(index)} is damaged: it is {size[0]} x {size[1]} pixels, in a place of {place}"
            )


def strips_of(
    segments: Segments,
    rule: PixelRule,
    background: Colour | None,
    *,
    band_bytes: int = BAND_BYTES,
    mapping: Mapping = map,
) -> Iterator[NDArray[np.uint8]]:
    """As `Slide.strips`; none has more than *band_bytes*, but for one row. The tiles of a row are decoded by *mapping*.
    Raises SlideUnreadable, also in the middle."""
    if segments.across > 1:
        return _from_tiles(segments, rule, background, band_bytes, mapping)
    return _joined(_from_whole_rows(segments, rule, background))


def _from_tiles(
    segments: Segments, rule: PixelRule, background: Colour | None, band_bytes: int, mapping: Mapping
) -> Iterator[NDArray[np.uint8]]:
    width, height = segments.size
    segments.check_size()
    for down in range(segments.down):
        segments.fetch_row(down)
        rows = min(segments.rows, height - down * segments.rows)
        most = max(1, min(rows, band_bytes // (3 * width)))
        for first in range(0, rows, most):
            band: NDArray[np.uint8] = np.empty((min(most, rows - first), width, 3), np.uint8)
            for _ in mapping(_tile_filler(band, segments, down, first, rule, background), range(segments.across)):
                pass
            yield band
            del band  # or it would be kept while the next one is made


def _tile_filler(
    band: NDArray[np.uint8], segments: Segments, down: int, first: int, rule: PixelRule, background: Colour | None
) -> Callable[[int], None]:
    """Fills *band* with rows *first* and following of row *down* of tiles, a tile at a time."""

    def fill(across: int) -> None:
        part = band[:, across * segments.columns : (across + 1) * segments.columns]
        samples = segments.decoded(down * segments.across + across)
        _fill(part, None if samples is None else samples[first : first + len(part)], rule, background)

    return fill


def _from_whole_rows(segments: Segments, rule: PixelRule, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
    """From segments that are as wide as the picture: each is decoded once, or read in parts where it is plain."""
    width, height = segments.size
    is_plain = segments.is_plain
    if not is_plain:
        segments.check_size()
    most = max(ROWS, STRIP_BYTES // ((segments.sample_bytes if is_plain else 3) * width))
    for down in range(segments.down):
        rows = min(segments.rows, height - down * segments.rows)
        samples = None if is_plain else segments.decoded(down)
        for first in range(0, rows, most):
            part: NDArray[np.uint8] = np.empty((min(most, rows - first), width, 3), np.uint8)
            if is_plain:
                _fill(part, segments.plain_rows(down, first, len(part)), rule, background)
            else:
                _fill(part, None if samples is None else samples[first : first + most], rule, background)
            yield part


def _fill(
    part: NDArray[np.uint8], samples: NDArray[np.generic] | None, rule: PixelRule, background: Colour | None
) -> None:
    """Write the left upper corner of *samples* into *part*; where nothing is stored, the background."""
    rows, columns = part.shape[:2]
    if samples is None:
        part[...] = background or BLACK
    elif samples.shape[0] < rows or samples.shape[1] < columns:
        raise SlideUnreadable(
            f"a tile of {samples.shape[1]} x {samples.shape[0]} pixels is too small for its place of {columns} x {rows}"
        )
    else:
        part[...] = rule.rgb(samples[:rows, :columns], background)


def _joined(strips: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    waiting: list[NDArray[np.uint8]] = []
    for strip in strips:
        waiting.append(strip)
        if sum(map(len, waiting)) >= ROWS:
            yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            waiting = []
    if waiting:
        yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
