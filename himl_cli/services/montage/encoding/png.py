"""PNG files of any size, compressed in pieces.

The one deflate stream that a PNG holds is put together from pieces that know nothing of each other: each ends at a
whole byte (a sync flush), and the checksum of the whole is reckoned from theirs. Any decoder reads it. ISA-L at level 1
with the filter `up` is ten times as fast as zlib at its fastest, and as small.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from isal import isal_zlib

from himl_cli.core.montage import Size
from himl_cli.services.montage.encoding.pieces import PiecedFile
from himl_cli.services.montage.threads import Threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGB_8_BITS = (8, 2, 0, 0, 0)
"""Depth, colour type, compression, kinds of filters, no interlacing."""

STREAM_HEADER = b"\x78\x01"
LAST_BLOCK = b"\x03\x00"
"""Deflate's empty block that says: the end."""

UP = 2
"""The filter: each row less the row above."""

LEVEL = 1
RAW = -isal_zlib.MAX_WBITS
PIECE_BYTES = 2 << 20
ADLER = 65521


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of the deflate stream as a chunk of the file; `adler` and `length` are those of the bytes that it
    holds."""

    chunk: bytes
    adler: int
    length: int


class PngFile:
    """The BandSink of a PNG: RGB, 8 bits. Beside the band that it is given it holds a few pieces of 2 MiB."""

    def __init__(self, path: Path, size: Size, pool: Threads) -> None:
        """Raises DiskFailed."""
        self._width, self._missing = size
        self._above: NDArray[np.uint8] = np.zeros(self._width * 3, np.uint8)
        self._adler = 1
        self._rows = max(1, PIECE_BYTES // (self._width * 3))
        self._pieces: PiecedFile[_Piece] = PiecedFile(path, pool, self._append)
        try:
            self._pieces.write(
                SIGNATURE + _chunk(b"IHDR", struct.pack(">II5B", *size, *RGB_8_BITS)) + _chunk(b"IDAT", STREAM_HEADER)
            )
        except BaseException:
            self.abort()
            raise

    def write(self, band: NDArray[np.uint8]) -> None:
        """See BandSink. Raises ValueError for another width or kind of pixels, and for more rows than are missing."""
        if band.ndim != 3 or band.shape[1:] != (self._width, 3) or band.dtype != np.uint8 or len(band) > self._missing:
            raise ValueError(
                f"A band of shape {band.shape} and type {band.dtype} where {self._missing} rows of {self._width} are "
                "missing."
            )
        self._missing -= len(band)
        flat = band.reshape(len(band), -1)
        for top in range(0, len(flat), self._rows):
            rows = flat[top : top + self._rows]
            self._pieces.put(partial(_compressed, rows, self._above))
            self._above = rows[-1]
        self._above = self._above.copy()  # and not the band that it is a part of

    def finish(self) -> None:
        """See BandSink. Raises ValueError where rows are missing."""
        if self._missing:
            raise ValueError(f"{self._missing} rows are missing.")
        self._pieces.drain()
        self._pieces.write(_chunk(b"IDAT", LAST_BLOCK + struct.pack(">I", self._adler)) + _chunk(b"IEND", b""))
        self._pieces.close()

    def abort(self) -> None:
        """See BandSink."""
        self._pieces.abort()

    def _append(self, piece: _Piece) -> None:
        self._adler = adler32_of_both(self._adler, piece.adler, piece.length)
        self._pieces.write(piece.chunk)


def adler32_of_both(first: int, second: int, length: int) -> int:
    """The Adler-32 of some bytes followed by *length* others, of which the checksums are known."""
    low = (first & 0xFFFF) + (second & 0xFFFF) - 1
    high = (first >> 16) + (second >> 16) + length * ((first & 0xFFFF) - 1)
    return low % ADLER | high % ADLER << 16


def _compressed(rows: NDArray[np.uint8], above: NDArray[np.uint8]) -> _Piece:
    """*rows*, shape (any number, bytes of a row), below the row *above*."""
    filtered: NDArray[np.uint8] = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = UP
    np.subtract(rows[0], above, out=filtered[0, 1:])
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    deflate = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, RAW)
    parts = deflate.compress(filtered), deflate.flush(isal_zlib.Z_SYNC_FLUSH)
    return _Piece(_chunk(b"IDAT", *parts), isal_zlib.adler32(filtered), filtered.nbytes)


def _chunk(kind: bytes, *parts: bytes) -> bytes:
    checksum = isal_zlib.crc32(kind)
    for part in parts:
        checksum = isal_zlib.crc32(part, checksum)
    return b"".join((struct.pack(">I", sum(map(len, parts))), kind, *parts, struct.pack(">I", checksum)))
