"""Picture files that are written band by band, in pieces that are encoded side by side.

A PNG holds one deflate stream. It is put together from pieces that know nothing of each other: each ends at a whole
byte (a sync flush), and the checksum of the whole is computed from theirs. Any decoder reads it. ISA-L at level 1 with
the filter `up` is ten times as fast as zlib at its fastest, and as small.

Of a JPEG each strip is encoded as a JPEG of its own, whose data are one restart interval of the whole. With markers
between them they are one baseline JPEG that has the same pixels as if it had been encoded in one go. imagecodecs and
Pillow encode alike, to the byte; imagecodecs takes two thirds of the time.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from imagecodecs import jpeg8_encode
from isal import isal_zlib
from numpy.typing import NDArray

from himl_cli.core.montage import Size
from himl_cli.services.montage.files import write_error
from himl_cli.services.montage.resampling import Resampler, quick
from himl_cli.services.montage.threads import Pool
from himl_cli.services.transfer import local_files

Piece = TypeVar("Piece")

MOST_AHEAD = 32  # pieces that may be on their way, for memory's sake, however many threads there are
PIECE_BYTES = 2 << 20
LONGEST_SIDE = 65_500  # pixels: what libjpeg writes and reads
BLOCK = 16  # pixels of a side of the blocks that are encoded together, with colours at half the resolution (4:2:0)
# Or one row of blocks, if that has more: 8,192 blocks at most, of the 65,535 that a restart interval may have.
STRIP_PIXELS = 2 << 20
FRAME, SCAN = 0xC0, 0xDA


class PiecedFile(ABC, Generic[Piece]):
    """A new file at *path*. Work is put in, and `take` gets its results, in the order of the work, in the thread that
    puts it in.

    Where the pool has not begun the oldest piece, because it is busy with other things, this thread does it: nothing
    waits for a place in the queue. Subclasses are used by one thread, and take a picture from the top: `write` gets
    bands of it, `finish` is due after the last; `abort` may follow anything. All but that raise DiskFailed.
    """

    def __init__(self, path: Path, pool: Pool) -> None:
        self._path, self._pool = path, pool
        self._most_ahead = min(MOST_AHEAD, 2 * pool.workers + 2)
        self._ahead: deque[tuple[Future[Piece], Callable[[], Piece]]] = deque()
        try:
            self._file = open(local_files.open_new(str(path)), "wb")  # noqa: SIM115
        except OSError as err:
            raise write_error(err, path) from err

    @abstractmethod
    def take(self, piece: Piece) -> None: ...

    def put(self, work: Callable[[], Piece]) -> None:
        """Have *work* done; take what is done, and wait where too much is ahead. Raises what work and `take` raise."""
        self._ahead.append((self._pool.submit(work), work))
        self.drain(self._most_ahead)

    def append(self, data: bytes) -> None:
        """Write *data* at the end of the file."""
        try:
            self._file.write(data)
        except OSError as err:
            raise write_error(err, self._path) from err

    def drain(self, most: int = 0) -> None:
        """Take what is done, and wait until no more than *most* pieces are ahead. Raises what work and `take` raise."""
        while self._ahead and (len(self._ahead) > most or self._ahead[0][0].done()):
            future, work = self._ahead.popleft()
            self.take(work() if future.cancel() else future.result())

    def end(self, data: bytes) -> None:
        """Append *data*, and close the file: file systems of networks may tell only then of a full disk."""
        try:
            self._file.write(data)
            self._file.close()
        except OSError as err:
            raise write_error(err, self._path) from err

    def abort(self) -> None:
        """Drop what has not begun, wait for what has, close the file. Raises nothing."""
        begun = [future for future, _ in self._ahead if not future.cancel()]
        self._ahead.clear()
        wait(begun)
        with suppress(OSError):
            self._file.close()


class PngFile(PiecedFile[tuple[bytes, int, int]]):
    """A PNG: RGB, 8 bits. Beside the band that it is given it holds a few pieces of 2 MiB."""

    def __init__(self, path: Path, size: Size, pool: Pool) -> None:
        super().__init__(path, pool)
        self._above: NDArray[np.uint8] = np.zeros(size[0] * 3, np.uint8)
        self._adler = 1
        self._rows = max(1, PIECE_BYTES // (size[0] * 3))
        self.append(_png_start(size))  # which stays in the file's buffer

    def write(self, band: NDArray[np.uint8]) -> None:
        """The next rows from the top: shape (any number of rows, width, 3), RGB, C-contiguous; nobody changes it
        afterwards. Waits where too much is on its way: memory holds a few bands at most."""
        flat = band.reshape(len(band), -1)
        for top in range(0, len(flat), self._rows):
            rows = flat[top : top + self._rows]
            self.put(partial(_compressed, rows, self._above))
            self._above = rows[-1]
        self._above = self._above.copy()  # and not the band that it is a part of

    def take(self, piece: tuple[bytes, int, int]) -> None:
        chunk, adler, length = piece
        self._adler = combined_adler32(self._adler, adler, length)
        self.append(chunk)

    def finish(self) -> None:
        self.drain()
        self.end(_png_end(self._adler))


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of *pixels*, shape (rows, columns, 3), RGB."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    chunk, adler, length = _compressed(rows, np.zeros(rows.shape[1], np.uint8))
    return _png_start((pixels.shape[1], len(pixels))) + chunk + _png_end(combined_adler32(1, adler, length))


def _png_start(size: Size) -> bytes:
    """The header of an RGB picture of 8 bits, and what a zlib stream begins with."""
    # Depth, colour type, compression, kinds of filters, no interlacing
    header = _chunk(b"IHDR", struct.pack(">II5B", *size, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", b"\x78\x01")


def _png_end(adler: int) -> bytes:
    last_block = b"\x03\x00"
    return _chunk(b"IDAT", last_block + struct.pack(">I", adler)) + _chunk(b"IEND", b"")


def combined_adler32(first: int, second: int, length: int) -> int:
    """The Adler-32 of some bytes followed by *length* others, of which the checksums are known."""
    low = (first & 0xFFFF) + (second & 0xFFFF) - 1
    high = (first >> 16) + (second >> 16) + length * ((first & 0xFFFF) - 1)
    return low % 65521 | high % 65521 << 16


def _compressed(rows: NDArray[np.uint8], above: NDArray[np.uint8]) -> tuple[bytes, int, int]:
    """*rows*, shape (any number, bytes of a row), below the row *above*: a chunk of the file, and the Adler-32 and the
    length of the bytes that it holds."""
    filtered: NDArray[np.uint8] = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2  # the filter `up`: each row less the row above
    np.subtract(rows[0], above, out=filtered[0, 1:])
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    deflate = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
    parts = deflate.compress(filtered), deflate.flush(isal_zlib.Z_SYNC_FLUSH)
    return _chunk(b"IDAT", *parts), isal_zlib.adler32(filtered), filtered.nbytes


def _chunk(kind: bytes, *parts: bytes) -> bytes:
    checksum = isal_zlib.crc32(kind)
    for part in parts:
        checksum = isal_zlib.crc32(part, checksum)
    return b"".join((struct.pack(">I", sum(map(len, parts))), kind, *parts, struct.pack(">I", checksum)))


class JpegFile(PiecedFile[bytes]):
    """A baseline JPEG. What is longer than 65,500 pixels is scaled to fit. Beside the band it holds a few strips of 6
    MiB."""

    def __init__(self, path: Path, size: Size, pool: Pool) -> None:
        super().__init__(path, pool)
        self.size = self.size_for(size)
        self._resampler = Resampler(size, self.size, quick(), pool=pool)
        blocks_across = -(-self.size[0] // BLOCK)
        blocks_down = max(1, STRIP_PIXELS // (blocks_across * BLOCK * BLOCK))
        self._interval, self._rows = blocks_across * blocks_down, blocks_down * BLOCK
        self._waiting: list[NDArray[np.uint8]] = []
        self._strips = 0

    @staticmethod
    def size_for(size: Size) -> Size:
        """The size of the JPEG of a picture of that size."""
        longest = max(size)
        if longest <= LONGEST_SIDE:
            return size
        width, height = (max(1, round(side * LONGEST_SIDE / longest)) for side in size)
        return width, height

    def write(self, band: NDArray[np.uint8]) -> None:
        for rows in self._resampler.stream(band):
            while len(rows):
                taken = rows[: self._rows - sum(map(len, self._waiting))]
                self._waiting.append(taken)
                rows = rows[len(taken) :]
                if sum(map(len, self._waiting)) == self._rows:
                    self.put(partial(encode_jpeg, self._waiting))
                    self._waiting = []
        self._waiting = [rows.copy() for rows in self._waiting]  # and not the band that they are a part of

    def take(self, piece: bytes) -> None:
        scan = _segment(piece, SCAN)
        data = scan + 2 + _length(piece, scan)
        if self._strips:
            joint = bytes((0xFF, 0xD0 + (self._strips - 1) % 8))
        else:  # the headers of the first strip, with the height of all, and with the restart interval
            height = _segment(piece, FRAME) + 5
            joint = piece[:height] + self.size[1].to_bytes(2, "big") + piece[height + 2 : scan]
            joint += b"\xff\xdd\x00\x04" + self._interval.to_bytes(2, "big") + piece[scan:data]
        self.append(joint + piece[data:-2])  # without the mark of its end
        self._strips += 1

    def finish(self) -> None:
        self._resampler.finish()
        if self._waiting:
            self.put(partial(encode_jpeg, self._waiting))
        self.drain()
        self.end(b"\xff\xd9")


def encode_jpeg(parts: Sequence[NDArray[np.uint8]]) -> bytes:
    """A JPEG of the rows of all *parts*."""
    pixels = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return bytes(jpeg8_encode(np.ascontiguousarray(pixels), level=90, subsampling="420"))


def _segment(jpeg: bytes, kind: int) -> int:
    place = 2
    while jpeg[place + 1] != kind:
        place += 2 + _length(jpeg, place)
    return place


def _length(jpeg: bytes, place: int) -> int:
    """Of the segment that begins there, less the two bytes that tell its kind."""
    return int.from_bytes(jpeg[place + 2 : place + 4], "big")
