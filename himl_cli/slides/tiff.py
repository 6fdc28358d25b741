"""Read plain TIFFs, in tiles or strips, with tifffile and imagecodecs, from top to bottom: select the pages that are
levels, decode segments, and convert samples to colours."""

from __future__ import annotations

import logging
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from tifffile import TIFF, TiffFile, TiffPage

from himl_cli.slides.readers import (
    MaskRule,
    check_sides,
    eight_bits,
    grey_to_rgb,
    laid_over,
    levels_among,
    library_errors,
    own_range,
    profile_remarks,
    range_remark,
)
from himl_cli.slides.slide_records import Colour, Size, SlideUnreadable

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # otherwise, warnings would go to the terminal

ROWS = 64  # strips with fewer rows are joined
STRIP_BYTES = 16 << 20  # size of a strip if its rows can be chosen
# A row of tiles that is larger, as RGB, is created in parts, and its tiles are decoded again for each part.
BAND_BYTES = 160 << 20
LARGEST = 512 << 20  # maximum bytes of a decoded tile or strip
AT_ONCE = 8 << 20  # bytes of a row of consecutive tiles to read in one request
# If a row has more tiles than this, several threads decode them. Such slides are few, so that other threads are idle.
MANY, THREADS = 64, 4
MOST_PAGES = 1000
REDUCED, MASK = 1, 4  # bits of the tag NewSubfileType

JPEG = frozenset({6, 7, 34892, 33007})  # compressions whose decoder converts YCbCr to RGB
JPEG_2000 = frozenset({33003, 33004, 33005, 34712})
APERIO_YCBCR = 33003
LZW = 5
COMMON = frozenset({1, LZW, 7, 8, 32946, 33003, 33005})  # none, LZW, JPEG, deflate, and JPEG 2000 of Aperio
ICC_PROFILE = 34675
SAMPLE_STEP = 7  # of every so many values, one is used, as neighbours are alike. Reaches all of three channels.
SAMPLED = 64  # number of tiles in which the range of values is found
SUBSAMPLING = 530
COLOUR_MAP, MAX_SAMPLE, S_MIN_SAMPLE, S_MAX_SAMPLE = 320, 281, 340, 341
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
GREYS, WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = (0, 1), 0, 1, 2, 3, 5, 6
SAMPLES_OF = {0: 1, 1: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
PREMULTIPLIED, STRAIGHT = 1, 2
# The description of a picture beside the levels, which in files of Aperio scanners has a line before it.
OTHER = re.compile(r"(Aperio[^\n]*\n)?\s*(label|macro|overview)\b", re.IGNORECASE)
MARKER = re.compile(rb"\xff+([^\x00\xff])")

Mapping = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]  # `map`, or the one of a pool of threads


class TiffSlide:
    """A Slide whose decoding frees the interpreter lock. Raises SlideUnreadable if it is not a TIFF, or an unsupported
    one."""

    backend = "tifffile"

    def __init__(self, path: Path, *, mask: MaskRule | None = None) -> None:
        self.mask_rule = mask
        self._pool: ThreadPoolExecutor | None = None
        self._span: tuple[float, float] | None = None  # values of black and white, if not those of the file
        with library_errors("it is not a TIFF, or is damaged"):
            # Detect the format from the content, not from the extension.
            self._file = TiffFile(path, mode="r", _multifile=False, is_ndpi=False)
        try:
            with library_errors("its structure is damaged"):
                pages = _every_page(self._file)
                self._pages = _levels_of(pages)
                self.levels: Sequence[Size] = [(page.imagewidth, page.imagelength) for page in self._pages]
                Level(self._pages[0], 0, mask=mask)
                check_sides(self.levels[0])
                self._read_range()
                self.remarks: Sequence[str] = self._remarks(pages) if mask is None else []
        except BaseException:
            self._file.close()
            raise

    def _read_range(self) -> None:
        """Adapt the rule of a mask (JPEG, floats) to the values of the coarsest level, which is decoded whole."""
        page, number = self._pages[-1], len(self._pages) - 1
        is_jpeg = int(page.compression) in JPEG
        if self.mask_rule is not None and (is_jpeg or int(page.sampleformat) == FLOAT):
            parts = map(np.nan_to_num, Level(page, number, mask=self.mask_rule).segments())
            # The greatest value of each segment, and one that is no integer
            found = [[part.max(initial=0), *part[part % 1 != 0][:1]] for part in parts]
            self.mask_rule = self.mask_rule.of_file(np.array([0.0, *chain(*found)]), is_jpeg=is_jpeg)

    def _remarks(self, pages: Sequence[TiffPage]) -> list[str]:
        """What himl chose for the image, one of all *pages*, after choosing its range of values by a sample of the
        coarsest level."""
        page = self._pages[0]
        remarks = profile_remarks(page.tags.valueof(ICC_PROFILE))
        size, kinds = (page.imagewidth, page.imagelength), [int(kind) for kind in page.extrasamples]
        others = SAMPLES_OF.get(int(page.photometric), 0) + sum(kind in (PREMULTIPLIED, STRAIGHT) for kind in kinds)
        alike = [each for each in pages if (each.imagewidth, each.imagelength) == size]
        planes = [each for each in alike if not int(each.subfiletype) & (REDUCED | MASK)]
        if len(planes) > 1 or page.samplesperpixel > max(others, 1):
            remarks.append("only its first channels, focus and time point are shown")
        if page.index != 0:
            remarks.append("an earlier, smaller picture of the file is not shown")
        number = len(self._pages) - 1
        if needs_range(page):
            with suppress(SlideUnreadable):  # reported when that level is read
                sample = Level(self._pages[number], number).sample()
                self._span = own_range(sample, _sample_range(page, is_mask=False)[1])
                remarks += [range_remark(*self._span)] if self._span is not None else []
        return remarks

    @property
    def is_common(self) -> bool:
        """Whether it has only RGB of 8 bits, in tiles that are all stored, with a common compression, and with a
        predictor only beside LZW."""
        return all(
            page.is_tiled
            and page.subifds is None
            and (page.samplesperpixel, page.bitspersample, int(page.planarconfig)) == (3, 8, 1)
            and int(page.compression) in COMMON
            and (int(page.predictor) == 1 or int(page.compression) == LZW)
            and (int(page.photometric) == RGB or int(page.compression) in JPEG)
            and all(page.dataoffsets)
            and all(page.databytecounts)
            for page in self._pages
        )

    def check(self, level: int) -> None:
        """Raise SlideUnreadable for damage of a tile of the level that some libraries do not report."""
        Level(self._pages[level], level).check()

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        with library_errors(f"level {level} is damaged"):
            page = self._pages[level]
            source = Level(page, level, mask=self.mask_rule, background=background, span=self._span)
            mapping: Mapping = map
            threads = min(THREADS, os.cpu_count() or 1)
            if source.across > MANY and threads > 1:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(threads, thread_name_prefix="himl-tiles")
                mapping = self._pool.map
            yield from source.strips(mapping=mapping)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._file.close()


def level_pages(file: TiffFile) -> list[TiffPage]:
    """Pages of *file* that are levels of its slide, the finest first, with the same numbers as in OpenSlide.

    The first of the largest pages is level 0, because a preview or a macro image may precede it. Of the others, tiled
    pages that are marked as reductions count, or all tiled pages in a file of an Aperio scanner. If there are none, the
    reductions below level 0 (SubIFDs) count, which OpenSlide ignores. Pages in strips count if level 0 has strips and
    no reduction is tiled. Beside tiles, they are labels and thumbnails. A page with another shape than level 0, or that
    is described as a label or macro image, is no level. Raises SlideUnreadable if there is no page.
    """
    return _levels_of(_every_page(file))


def _every_page(file: TiffFile) -> list[TiffPage]:
    pages: list[TiffPage] = []
    seen: set[int] = set()
    for page in file.pages:
        if len(seen) >= MOST_PAGES or page.offset in seen:  # pages may form a cycle
            break
        seen.add(page.offset)
        if isinstance(page, TiffPage):
            pages.append(page)
    if not pages:
        raise SlideUnreadable("it contains no image")
    return pages


def _levels_of(pages: Sequence[TiffPage]) -> list[TiffPage]:
    first = max(pages, key=lambda page: page.imagewidth * page.imagelength)
    is_aperio = first.is_tiled and first.description.startswith("Aperio")
    coarser = _reductions([page for page in pages if page is not first], first, any_type=is_aperio)
    if not coarser and first.pages is not None:
        below = [page for page in first.pages if isinstance(page, TiffPage) and page.imagewidth < first.imagewidth]
        coarser = _reductions(below, first, any_type=True)
    levels = sorted([first, *coarser], key=lambda page: -page.imagewidth)
    tiles = [[(page.tilewidth, page.tilelength)] if page.is_tiled else [] for page in levels]
    sizes = [(page.imagewidth, page.imagelength) for page in levels]
    return [levels[number] for number in levels_among(sizes, tiles)]


def _reductions(pages: list[TiffPage], first: TiffPage, *, any_type: bool) -> list[TiffPage]:
    types = [int(page.subfiletype) for page in pages]
    found = [page for page, kind in zip(pages, types, strict=True) if not kind & MASK and (any_type or kind & REDUCED)]
    found = [page for page in found if not OTHER.match(page.description)]
    tiled = [page for page in found if page.is_tiled]
    return tiled if tiled or first.is_tiled else found


class PixelRule:
    """Conversion of the samples of a TIFF page to colours. The lowest and the highest become 0 and 255, and one may be
    alpha. Raises SlideUnreadable for unsupported pixels and compressions."""

    def __init__(self, page: TiffPage, *, mask: MaskRule | None, span: tuple[float, float] | None = None) -> None:
        compression, self._photometric = int(page.compression), int(page.photometric)
        if compression != 1 and compression not in TIFF.DECOMPRESSORS:
            raise SlideUnreadable(f"no decoder for its compression ({_name(page.compression)})")
        if compression == APERIO_YCBCR:
            self._photometric = YCBCR
        elif self._photometric == YCBCR and compression in JPEG | JPEG_2000:
            self._photometric = RGB  # from the decoder
        if self._photometric == YCBCR and (factors := page.tags.valueof(SUBSAMPLING, (1, 1))) != (1, 1):
            reduced = " x ".join(map(str, factors))
            raise SlideUnreadable(
                f"its pixels have an unsupported format (YCbCr with colours reduced by {reduced}, without JPEG)"
            )
        colours = SAMPLES_OF.get(self._photometric)
        if colours is None or page.samplesperpixel < colours or page.imagedepth != 1 or page.tiledepth > 1:
            kind = f"{_name(page.photometric)}, {page.samplesperpixel} samples, depth {page.imagedepth}"
            raise SlideUnreadable(f"its pixels have an unsupported format ({kind})")
        kinds = [int(kind) for kind in page.extrasamples[: page.samplesperpixel - colours]]
        extra = next((number for number, kind in enumerate(kinds) if kind in (PREMULTIPLIED, STRAIGHT)), None)
        self._alpha = None if extra is None else colours + extra
        self._is_premultiplied = extra is not None and kinds[extra] == PREMULTIPLIED
        self._lowest, self._highest = _sample_range(page, is_mask=mask is not None)
        self._span = span or (self._lowest, self._highest)
        self._mask = mask if self._photometric in (*GREYS, RGB, PALETTE) else None
        self._palette: NDArray[np.uint8] | None = None
        if self._photometric == PALETTE:  # values have 16 bits, but some writers store 8 bits
            table = np.asarray(page.tags.valueof(COLOUR_MAP, ()), np.uint16)
            if table.size == 0 or table.size % 3:
                raise SlideUnreadable("its colour table is missing")
            entries = table.reshape(3, -1).T
            scaled = eight_bits(entries, 0, 65535) if entries.max() > 255 else entries.astype(np.uint8)
            self._palette = np.ascontiguousarray(scaled)

    def rgb(self, samples: NDArray[np.generic], background: Colour | None) -> NDArray[np.uint8]:
        """Convert *samples*, shape (rows, columns, samples per pixel), to RGB."""
        if self._mask is not None:
            return self._mask.rgb(samples, self._alpha)
        if samples.dtype == np.bool_:
            samples = samples.view(np.uint8)
        made = self._colours(samples[..., : SAMPLES_OF[self._photometric]])
        if self._alpha is None or background is None:
            return made
        alpha = eight_bits(samples[..., self._alpha], self._lowest, self._highest)
        return laid_over(made, alpha, background, premultiplied=self._is_premultiplied)

    def _colours(self, colours: NDArray[np.generic]) -> NDArray[np.uint8]:
        if self._palette is not None:
            return self._palette[np.minimum(colours[..., 0], len(self._palette) - 1)]
        scaled = eight_bits(colours, *self._span)
        if self._photometric in GREYS:
            return grey_to_rgb(255 - scaled[..., 0] if self._photometric == WHITE_IS_ZERO else scaled[..., 0])
        if self._photometric == CMYK:  # the plain formula, without a colour profile
            light = 255 - scaled.astype(np.uint16)
            return ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)
        if self._photometric != YCBCR:
            return scaled
        # Full range, with the weights of ITU-R BT.601, as in JPEG.
        y, cb, cr = (scaled[..., number].astype(np.float32) for number in range(3))
        cb -= 128
        cr -= 128
        made = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
        return np.clip(np.rint(made), 0, 255).astype(np.uint8)


def _sample_range(page: TiffPage, *, is_mask: bool) -> tuple[float, float]:
    """Values for black and white.

    These are the limits of the bits, or 0 to 1 for floats, unless tags define others. MaxSampleValue = 2^n - 1 means
    that wider samples use n bits. Samples of 32 bits or more hardly ever use all values, so that the file must define
    the limits, unless the values are labels. Raises SlideUnreadable.
    """
    bits, kind = page.bitspersample, int(page.sampleformat)
    if page.dtype is None or not isinstance(bits, int):
        raise SlideUnreadable(f"its samples have an unsupported format ({bits} bits)")
    if kind not in (UNSIGNED, FLOAT) and not (is_mask and kind == SIGNED):
        raise SlideUnreadable(f"its samples have an unsupported format ({_name(page.sampleformat)})")
    lowest, highest = _number(page, S_MIN_SAMPLE), _number(page, S_MAX_SAMPLE)
    if kind == FLOAT:
        return (lowest, highest) if lowest is not None and highest is not None and lowest < highest else (0, 1)
    declared = _number(page, MAX_SAMPLE) or 0
    if bits >= 32 and not is_mask:
        used = declared or highest or 0.0
        if used <= 0:
            raise SlideUnreadable(f"its samples have {bits} bits, but no MaxSampleValue defines the range of values")
        return 0, used
    return 0, declared if declared in {float((1 << width) - 1) for width in range(9, bits)} else float((1 << bits) - 1)


def needs_range(page: TiffPage) -> bool:
    """Whether samples may use any part of their range: they are wide, and no tag defines the values of white."""
    is_wide = int(page.sampleformat) == FLOAT or max(np.atleast_1d(page.bitspersample)) > 8
    is_plain = int(page.photometric) in (BLACK_IS_ZERO, RGB)
    return is_wide and is_plain and not any(page.tags.valueof(tag) for tag in (MAX_SAMPLE, S_MAX_SAMPLE))


def _number(page: TiffPage, tag: int) -> float | None:
    value = page.tags.valueof(tag)
    if isinstance(value, tuple):
        value = min(value) if tag == S_MIN_SAMPLE else max(value)
    return float(value) if isinstance(value, (int, float)) else None


def _name(tag_value: object) -> str:
    return str(getattr(tag_value, "name", tag_value))


class Level:
    """A page that is *level* of its slide. Its tiles or strips, called segments, are decoded one by one. `_rows` and
    `_columns` are the pixels of each, `down` and `across` are their numbers.

    Decoders allocate memory for the size in a tile's header, and libjpeg fills missing parts with grey, so that both
    are checked first. Raises SlideUnreadable for unsupported pixels, and if the page has no positions of segments, or
    too few.
    """

    def __init__(
        self,
        page: TiffPage,
        level: int,
        *,
        mask: MaskRule | None = None,
        background: Colour | None = None,
        span: tuple[float, float] | None = None,
    ) -> None:
        self._rule = PixelRule(page, mask=mask, span=span)
        self._lock = Lock()  # the file has one read position
        self._page, self._level, self._background = page, level, background
        self._buffered = (0, b"")  # offset and bytes from the file
        self._size: Size = page.imagewidth, page.imagelength
        self._kind = "tile" if page.is_tiled else "strip"
        self._rows = page.tilelength if page.is_tiled else page.rowsperstrip
        self._columns = page.tilewidth if page.is_tiled else page.imagewidth
        if min(*self._size, self._rows, self._columns) < 1:
            raise SlideUnreadable(f"level {level} has no pixels, or its {self._kind}s have none")
        self.across = -(-page.imagewidth // self._columns)
        self.down = -(-page.imagelength // self._rows)
        self._planes = page.samplesperpixel if int(page.planarconfig) == 2 else 1
        self._tables = {"jpegtables": page.jpegtables} if int(page.compression) in JPEG and page.jpegtables else {}
        needed, listed = self.across * self.down * self._planes, min(len(page.dataoffsets), len(page.databytecounts))
        if listed < needed:
            size = f"{page.imagewidth} x {page.imagelength} pixels"
            raise SlideUnreadable(
                f"level {level} has {size}, for which {needed} {self._kind}s are needed, but only {listed}"
            )
        if not any(page.databytecounts) or not any(page.dataoffsets):
            raise SlideUnreadable(f"none of the {self._kind}s of level {level} is stored")
        assert page.dtype is not None
        self._dtype = page.dtype

    def strips(self, *, band_bytes: int = BAND_BYTES, mapping: Mapping = map) -> Iterator[NDArray[np.uint8]]:
        """Yield strips as in `Slide.strips`, each of at most *band_bytes* or one row. *mapping* decodes the tiles of a
        row. Raises SlideUnreadable, possibly in the middle."""
        return self._of_tiles(band_bytes, mapping) if self.across > 1 else _joined(self._of_whole_rows())

    def sample(self) -> NDArray[np.generic]:
        """Some values of SAMPLED segments, spread evenly, or of all, without alpha. Raises SlideUnreadable."""
        found = self.segments(-(-self.across * self.down // SAMPLED))
        return np.concatenate([each.ravel()[::SAMPLE_STEP] for each in found])

    def segments(self, step: int = 1) -> Iterator[NDArray[np.generic]]:
        """Yield the values of every *step*-th segment that is stored, without alpha. Raises SlideUnreadable."""
        self._check_size()
        colours = SAMPLES_OF[int(self._page.photometric)]
        for number in range(0, self.across * self.down, step):
            samples = self._samples(number, self._decoded)
            if samples is not None:
                yield samples[..., :colours]

    def _of_tiles(self, band_bytes: int, mapping: Mapping) -> Iterator[NDArray[np.uint8]]:
        width, height = self._size
        self._check_size()
        for down in range(self.down):
            self._fetch_row(down)
            rows = min(self._rows, height - down * self._rows)
            most = max(1, min(rows, band_bytes // (3 * width)))
            for first in range(0, rows, most):
                band: NDArray[np.uint8] = np.empty((min(most, rows - first), width, 3), np.uint8)
                for _ in mapping(partial(self._fill_tile, band, down, first), range(self.across)):
                    pass
                yield band
                del band  # free it before the next one is created

    def _fill_tile(self, band: NDArray[np.uint8], down: int, first: int, across: int) -> None:
        part = band[:, across * self._columns : (across + 1) * self._columns]
        samples = self._samples(down * self.across + across, self._decoded)
        self._fill(part, None if samples is None else samples[first : first + len(part)])

    def _of_whole_rows(self) -> Iterator[NDArray[np.uint8]]:
        """Yield rows from segments as wide as the image. Each is decoded once, or read in parts if it is stored
        uncompressed."""
        page, (width, height) = self._page, self._size
        as_is = (int(page.compression), int(page.predictor), int(page.fillorder)) == (1, 1, 1)
        is_plain = as_is and self._kind == "strip" and page.bitspersample in {8, 16, 32, 64}
        if not is_plain:
            self._check_size()
        most = max(ROWS, STRIP_BYTES // ((self._dtype.itemsize * page.samplesperpixel if is_plain else 3) * width))
        for down in range(self.down):
            rows = min(self._rows, height - down * self._rows)
            samples = None if is_plain else self._samples(down, self._decoded)
            for first in range(0, rows, most):
                part: NDArray[np.uint8] = np.empty((min(most, rows - first), width, 3), np.uint8)
                if is_plain:
                    self._fill(part, self._samples(down, partial(self._plain_rows, first, len(part))))
                else:
                    self._fill(part, None if samples is None else samples[first : first + most])
                yield part

    def _fill(self, part: NDArray[np.uint8], samples: NDArray[np.generic] | None) -> None:
        """Copy the upper left corner of *samples* to *part*, or fill it with the background if nothing is stored."""
        rows, columns = part.shape[:2]
        if samples is None:
            part[...] = self._background or (0, 0, 0)
        elif samples.shape[0] < rows or samples.shape[1] < columns:
            size = f"{samples.shape[1]} x {samples.shape[0]}"
            raise SlideUnreadable(f"a tile of {size} pixels is too small for its area of {columns} x {rows}")
        else:
            part[...] = self._rule.rgb(samples[:rows, :columns], self._background)

    def _check_size(self) -> None:
        size = self._rows * self._columns * self._dtype.itemsize * self._page.samplesperpixel
        if size > LARGEST:
            raise SlideUnreadable(
                f"the {self._kind}s of level {self._level} have {self._columns} x {self._rows} pixels, {size >> 20:,} "
                f"MB each. They cannot be decoded in parts, and the maximum is {LARGEST >> 20} MB"
            )

    def _samples(self, number: int, read: Callable[[int], NDArray[np.generic]]) -> NDArray[np.generic] | None:
        """Samples of a segment from *read*, shape (rows, columns, samples per pixel). None if nothing is stored. Raises
        SlideUnreadable."""
        indices = [number + plane * self.across * self.down for plane in range(self._planes)]
        if not all(self._page.databytecounts[index] and self._page.dataoffsets[index] for index in indices):
            return None
        planes = [read(index) for index in indices]
        return planes[0] if self._planes == 1 else np.concatenate(planes, axis=2)

    def _segment(self, index: int) -> str:
        return f"{self._kind} {index + 1} of {self.across * self.down * self._planes} of level {self._level}"

    def _fetch_row(self, down: int) -> None:
        """Read row *down* of the tiles in one request if that is efficient, because other threads wait during each
        read. Raises SlideUnreadable."""
        offsets, counts = self._page.dataoffsets, self._page.databytecounts
        row = range(down * self.across, (down + 1) * self.across)
        stored = [(offsets[index], counts[index]) for index in row if offsets[index] and counts[index]]
        if self._planes > 1 or not stored:
            return
        begin, end = min(offset for offset, _ in stored), max(offset + count for offset, count in stored)
        most = min(AT_ONCE, 2 * sum(count for _, count in stored))
        if end <= self._page.parent.filehandle.size and end - begin <= most:
            self._buffered = begin, self._read(begin, end - begin, row[0])

    def _read(self, offset: int, count: int, index: int) -> bytes:
        begin, buffer = self._buffered
        if begin <= offset and offset + count <= begin + len(buffer):
            return buffer[offset - begin : offset - begin + count]
        file = self._page.parent.filehandle
        with self._lock, library_errors(f"{self._segment(index)} cannot be read"):
            file.seek(offset)
            return bytes(file.read(count))

    def _plain_rows(self, first: int, count: int, index: int) -> NDArray[np.generic]:
        page, dtype = self._page, self._dtype
        shape = count, self._columns, 1 if self._planes > 1 else page.samplesperpixel
        length = shape[1] * shape[2] * dtype.itemsize
        if page.databytecounts[index] < (first + count) * length:
            raise SlideUnreadable(f"{self._segment(index)} is too short")
        data = self._read(page.dataoffsets[index] + first * length, count * length, index)
        stored = np.frombuffer(data, dtype.newbyteorder(page.parent.byteorder))
        return stored.reshape(shape).astype(dtype, copy=False)

    def _decoded(self, index: int) -> NDArray[np.generic]:
        """Decode a segment. Raises SlideUnreadable for damage."""
        page, data = self._page, self._stored(index)
        with library_errors(f"{self._segment(index)} cannot be decoded ({_name(page.compression)})"):
            made = page.decode(data, index, **self._tables)[0]
            assert made is not None
            return made[0]

    def check(self) -> None:
        """Raise SlideUnreadable for a segment that `_decoded` would refuse, or that has no header of its format."""
        for index in range(self.across * self.down * self._planes):
            data = self._stored(index)
            if int(self._page.compression) in JPEG | JPEG_2000 and stored_size(data) is None:
                raise SlideUnreadable(f"{self._segment(index)} is damaged: its image has no header")

    def _stored(self, index: int) -> bytes:
        """Bytes of a segment. Raises SlideUnreadable for zeros, JPEG data without an end, and data larger than its
        area."""
        page, compression = self._page, int(self._page.compression)
        data = self._read(page.dataoffsets[index], page.databytecounts[index], index)
        if compression != 1:
            size = stored_size(data) if compression in JPEG | JPEG_2000 else None
            damage = ""
            if not data.strip(b"\0"):
                damage = f"{len(data):,} bytes of zeros"
            elif compression in JPEG | JPEG_2000 and b"\xff\xd9" not in data:
                damage = "its image has no end"
            elif size is not None and (size[0] > self._columns or size[1] > self._rows):
                damage = f"it has {size[0]} x {size[1]} pixels in an area of {self._columns} x {self._rows}"
            if damage:
                raise SlideUnreadable(f"{self._segment(index)} is damaged: {damage}")
        return data


def _joined(strips: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    waiting: list[NDArray[np.uint8]] = []
    for strip in strips:
        waiting.append(strip)
        if sum(map(len, waiting)) >= ROWS:
            yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            waiting = []
    if waiting:
        yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)


def stored_size(data: bytes) -> Size | None:
    """Width and height in the header of a compressed tile, JPEG or JPEG 2000. None for other formats and damaged
    headers."""
    try:
        if not data.startswith(b"\xff\xd8"):
            right, bottom, left, top = struct.unpack_from(">IIII", data, data.index(b"\xff\x4f\xff\x51") + 8)
            return right - left, bottom - top
        place = 2
        while found := MARKER.search(data, place):
            marker, place = found[1][0], found.end()
            if 0xC0 <= marker < 0xD0 and marker not in (0xC4, 0xC8, 0xCC):
                height, width = struct.unpack_from(">HH", data, place + 3)
                return width, height
            if marker in (0xD9, 0xDA):  # the end, or the image data
                return None
            if marker != 0x01 and not 0xD0 <= marker < 0xD9:
                place += max(2, int.from_bytes(data[place : place + 2], "big"))
    except (struct.error, ValueError):
        pass
    return None
