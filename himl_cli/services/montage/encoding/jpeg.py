"""JPEG files as large as the format allows, encoded in strips.

Each strip is encoded as a JPEG of its own, whose data are one restart interval of the whole. With markers between them
they are one baseline JPEG that has the same pixels as if it had been encoded in one go. imagecodecs and Pillow encode
alike, to the byte; imagecodecs takes two thirds of the time.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from imagecodecs import jpeg8_encode

from himl_cli.core.montage import Size
from himl_cli.services.montage.bicubic import quick
from himl_cli.services.montage.encoding.pieces import PiecedFile
from himl_cli.services.montage.resampling import Resampler
from himl_cli.services.montage.threads import Threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST_SIDE = 65_500
"""Pixels: what libjpeg writes and reads."""

QUALITY = 90
BLOCK = 16
"""Pixels of a side of the blocks that are encoded together, with colours at half the resolution (4:2:0)."""

STRIP_PIXELS = 2 << 20
"""Or one row of blocks, if that has more: 8,192 blocks at most, of the 65,535 that a restart interval may have."""

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
RESTARTS, FRAME, SCAN = 0xD0, 0xC0, 0xDA
INTERVAL = b"\xff\xdd\x00\x04"


class JpegFile:
    """The BandSink of a baseline JPEG. What is longer than 65,500 pixels is scaled to fit. Beside the band it holds a
    few strips of 6 MiB."""

    def __init__(self, path: Path, size: Size, pool: Threads, quality: int = QUALITY) -> None:
        """Raises DiskFailed."""
        self.size = self.size_for(size)
        self._resampler = Resampler(size, self.size, quick(), pool=pool)
        self._quality = quality
        self._blocks, self._rows = _interval(self.size)
        self._waiting: list[NDArray[np.uint8]] = []
        self._strips = 0
        self._pieces: PiecedFile[bytes] = PiecedFile(path, pool, self._append)

    @staticmethod
    def size_for(size: Size) -> Size:
        """The size of the JPEG of a picture of that size."""
        longest = max(size)
        if longest <= LONGEST_SIDE:
            return size
        width, height = (max(1, round(side * LONGEST_SIDE / longest)) for side in size)
        return width, height

    def write(self, band: NDArray[np.uint8]) -> None:
        """See BandSink. Raises ValueError for another width or kind of pixels, and for more rows than are missing."""
        for rows in self._resampler.stream(band):
            self._add(rows)
        self._waiting = [rows.copy() for rows in self._waiting]  # and not the band that they are a part of

    def finish(self) -> None:
        """See BandSink. Raises ValueError where rows are missing."""
        self._resampler.finish()
        if self._waiting:
            self._encode()
        self._pieces.drain()
        self._pieces.write(EOI)
        self._pieces.close()

    def abort(self) -> None:
        """See BandSink."""
        self._pieces.abort()
        self._waiting.clear()

    def _add(self, rows: NDArray[np.uint8]) -> None:
        while len(rows):
            taken = rows[: self._rows - sum(map(len, self._waiting))]
            self._waiting.append(taken)
            rows = rows[len(taken) :]
            if sum(map(len, self._waiting)) == self._rows:
                self._encode()

    def _encode(self) -> None:
        self._pieces.put(partial(_encoded, self._waiting, self._quality))
        self._waiting = []

    def _append(self, strip: bytes) -> None:
        scan = _segment(strip, SCAN)
        data = scan + 2 + _length(strip, scan)
        if self._strips:
            joint = bytes((0xFF, RESTARTS + (self._strips - 1) % 8))
        else:
            joint = (
                _with_height(strip[:scan], self.size[1]) + INTERVAL + self._blocks.to_bytes(2, "big") + strip[scan:data]
            )
        self._pieces.write(joint + strip[data : -len(EOI)])
        self._strips += 1


def _interval(size: Size) -> tuple[int, int]:
    """Blocks and rows of a restart interval: whole rows of blocks."""
    across = -(-size[0] // BLOCK)
    down = max(1, STRIP_PIXELS // (across * BLOCK * BLOCK))
    return across * down, down * BLOCK


def _encoded(parts: list[NDArray[np.uint8]], quality: int) -> bytes:
    rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return bytes(jpeg8_encode(rows, level=quality, subsampling="420"))


def _segment(jpeg: bytes, kind: int) -> int:
    """Where the first segment of that kind begins."""
    at = len(SOI)
    while jpeg[at + 1] != kind:
        at += 2 + _length(jpeg, at)
    return at


def _length(jpeg: bytes, at: int) -> int:
    """Of the segment that begins there, less the two bytes that tell its kind."""
    return int.from_bytes(jpeg[at + 2 : at + 4], "big")


def _with_height(headers: bytes, height: int) -> bytes:
    at = _segment(headers, FRAME) + 5
    return headers[:at] + height.to_bytes(2, "big") + headers[at + 2 :]
