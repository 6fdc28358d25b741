"""The tiles and strips of a TIFF page, decoded one by one, and what is wrong with them.

Decoders are lenient: libjpeg fills what is missing with grey, others return black. So the compressed bytes are looked
at too. They also take memory for the size that a tile gives itself, whatever the tags say.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from tifffile import TIFF, TiffPage

from himl_cli.core.montage import SlideUnreadable
from himl_cli.services.montage.slides import jpeg_streams, webp_streams
from himl_cli.services.montage.slides.damage import told
from himl_cli.services.montage.slides.stored_sizes import stored_size
from himl_cli.services.montage.slides.tiff_pixels import JPEG, JPEG_2000

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 512 << 20
"""Bytes of a tile or strip, decoded, beyond which it is refused."""

AT_ONCE = 8 << 20
"""Bytes of a row of tiles that are read in one go, where they lie one behind the other."""

_END = b"\xff\xd9"
_WEBP = frozenset({34927, 50001})


class Segments:
    """Those of one page; `rows` and `columns` are the pixels of each, `down` and `across` how many there are. For
    several threads at once."""

    def __init__(self, page: TiffPage, level: int) -> None:
        """Raises SlideUnreadable where the page does not say where they are, too few, or none."""
        self._lock = Lock()  # the file has one place where it is read
        self._page, self._level = page, level
        self._at_hand = (0, b"")  # bytes of the file, and where they begin
        self.kind = "tile" if page.is_tiled else "strip"
        self.rows = page.tilelength if page.is_tiled else page.rowsperstrip
        self.columns = page.tilewidth if page.is_tiled else page.imagewidth
        if min(page.imagewidth, page.imagelength, self.rows, self.columns) < 1:
            raise SlideUnreadable(
                f"level {level} says it is {page.imagewidth} x {page.imagelength} pixels in {self.kind}s of "
                f"{self.columns} x {self.rows}"
            )
        self.across = -(-page.imagewidth // self.columns)
        self.down = -(-page.imagelength // self.rows)
        self.planes = page.samplesperpixel if int(page.planarconfig) == 2 else 1
        self.tables = page.jpegtables if int(page.compression) in JPEG else None
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
        return (int(page.compression), int(page.predictor), int(page.fillorder)) == (
            1,
            1,
            1,
        ) and page.bitspersample in {8, 16, 32, 64}

    def check_size(self) -> None:
        """Raises SlideUnreadable where one of them is too large to be decoded."""
        size = self.rows * self.columns * self.sample_bytes
        if size > LARGEST:
            what = f"the {self.kind}s of level {self._level} are {self.columns} x {self.rows} pixels"
            raise SlideUnreadable(
                f"{what}, {size >> 20:,} MB each; they cannot be decoded in parts, and more than {LARGEST >> 20} MB "
                "are refused"
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
        if end <= self._page.parent.filehandle.size and end - begin <= min(
            AT_ONCE, 2 * sum(count for _, count in stored)
        ):
            self._at_hand = begin, self._read(begin, end - begin, row[0])

    def decoded(self, number: int) -> NDArray[np.generic] | None:
        """Samples of the segment, shape (rows, columns, samples of a pixel); None where nothing is stored of it. Raises
        SlideUnreadable."""
        planes = [self._decoded(number + plane * self.across * self.down) for plane in range(self.planes)]
        if any(plane is None for plane in planes):
            return None
        return (
            planes[0] if self.planes == 1 else np.concatenate([plane for plane in planes if plane is not None], axis=2)
        )

    def plain_rows(self, number: int, first: int, count: int) -> NDArray[np.generic] | None:
        """Rows *first* and following of a strip of a page that `is_plain`, shape (count, columns, samples of a pixel);
        None where none are stored.

        Raises SlideUnreadable where the strip is too short, or cannot be read.
        """
        page = self._page
        assert page.dtype is not None
        samples = 1 if self.planes > 1 else page.samplesperpixel
        length = self.columns * samples * page.dtype.itemsize
        planes = []
        for plane in range(self.planes):
            index = number + plane * self.across * self.down
            if self._is_left_out(index):
                return None
            if page.databytecounts[index] < (first + count) * length:
                raise SlideUnreadable(f"{self._name(index)} is too short")
            data = self._read(page.dataoffsets[index] + first * length, count * length, index)
            stored = np.frombuffer(data, page.dtype.newbyteorder(page.parent.byteorder)).reshape(
                count, self.columns, samples
            )
            planes.append(stored.astype(page.dtype, copy=False))
        return planes[0] if self.planes == 1 else np.concatenate(planes, axis=2)

    def check(self, first: int, last: int) -> None:
        """Look at the compressed bytes of those that rows *first* to *last* of the picture lie in, without decoding.
        Raises SlideUnreadable."""
        for plane in range(self.planes):
            start = plane * self.across * self.down
            for index in range(start + first // self.rows * self.across, start + (last // self.rows + 1) * self.across):
                if not self._is_left_out(index):
                    self._stored(index)

    def _is_left_out(self, index: int) -> bool:
        return not self._page.databytecounts[index] or not self._page.dataoffsets[index]

    def _name(self, index: int) -> str:
        return f"{self.kind} {index + 1} of {self.across * self.down * self.planes} of level {self._level}"

    def _read(self, offset: int, count: int, index: int) -> bytes:
        begin, held = self._at_hand
        if begin <= offset and offset + count <= begin + len(held):
            return held[offset - begin : offset - begin + count]
        file = self._page.parent.filehandle
        if offset + count > file.size:
            raise SlideUnreadable(
                f"the file is cut short: it ends at byte {file.size:,}, and {self._name(index)} at {offset + count:,}"
            )
        with self._lock, told(f"{self._name(index)} cannot be read"):
            file.seek(offset)
            return bytes(file.read(count))

    def _stored(self, index: int) -> bytes:
        """Compressed bytes, which are not those of a hole; without what stands behind the picture in them."""
        page = self._page
        data = self._read(page.dataoffsets[index], page.databytecounts[index], index)
        compression = int(page.compression)
        if compression == 1:
            return data
        if not data.strip(b"\0"):
            raise SlideUnreadable(f"{self._name(index)} is damaged: {len(data):,} bytes of zeros")
        if compression in JPEG or compression in JPEG_2000:
            end = _end_of(data, is_first=compression in JPEG_2000)
            if end is None:
                raise SlideUnreadable(
                    f"{self._name(index)} is damaged: the {'JPEG' if compression in JPEG else 'JPEG 2000'} in it has "
                    "no end"
                )
            data = data[:end]
        self._check_stored(data, index)
        return data

    def _check_stored(self, data: bytes, index: int) -> None:
        """Raises SlideUnreadable where it is of another size, or damaged."""
        compression = int(self._page.compression)
        if compression in TIFF.IMAGE_COMPRESSIONS or compression in _WEBP:
            size = stored_size(data)
            if size is not None and (size[0] > self.columns or size[1] > self.rows):
                raise SlideUnreadable(
                    f"{self._name(index)} is damaged: it is {size[0]} x {size[1]} pixels, in a place of {self.columns} "
                    f"x {self.rows}"
                )
        trouble = ""
        if compression in JPEG:
            trouble = jpeg_streams.trouble_in(data, self.tables)
        elif compression in _WEBP:
            trouble = webp_streams.trouble_in(data)
        elif compression in JPEG_2000 and bytes(self._longest_zeros) in data:
            trouble = "zeros in the midst of it"
        if trouble:
            raise SlideUnreadable(f"{self._name(index)} is damaged: {trouble}")

    @property
    def _longest_zeros(self) -> int:
        """More zero bytes than a JPEG 2000 holds in a row."""
        return self.rows * self.columns * self._page.samplesperpixel // 256 + 256

    def _decoded(self, index: int) -> NDArray[np.generic] | None:
        if self._is_left_out(index):
            return None
        data = self._stored(index)
        page = self._page
        with told(f"{self._name(index)} cannot be decoded ({getattr(page.compression, 'name', page.compression)})"):
            tables = {"jpegtables": self.tables} if self.tables is not None else {}
            made = page.decode(data, index, **tables)[0]
        if made is None:
            return None
        if int(page.compression) != 1 and 16 * len(data) > made.nbytes and not made.flat[0] and not made.any():
            raise SlideUnreadable(
                f"{self._name(index)} cannot be decoded: all black, which its {len(data):,} bytes cannot mean"
            )
        return made[0]


def _end_of(data: bytes, *, is_first: bool) -> int | None:
    """Where the picture ends: at its last mark of an end, or at the first one, where such bytes cannot stand in the
    midst of it (JPEG 2000)."""
    if data.endswith(_END):
        return len(data)
    found = data.find(_END) if is_first else data.rfind(_END)
    return None if found < 0 else found + len(_END)
