"""Image files that are written band by band, in pieces that are encoded in parallel.

A PNG contains one deflate stream, which is assembled from independent pieces. Each ends at a whole byte (a sync flush),
and the checksum of the whole is computed from theirs. Any decoder reads it. ISA-L at level 1 with the filter `up` is
ten times as fast as zlib at its fastest, with the same size.

Each strip of a JPEG is encoded as a separate JPEG, whose data are one restart interval of the whole. With markers
between them, they are one baseline JPEG with the same pixels as if it had been encoded in one call. imagecodecs and
Pillow produce the same bytes. imagecodecs takes two thirds of the time.
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

from himl_cli.services.transfer import local_files
from himl_cli.slides.output_folder import write_error
from himl_cli.slides.resampling import Resampler, quick
from himl_cli.slides.slide_records import Size
from himl_cli.slides.threads import Pool

Piece = TypeVar("Piece")

MOST_AHEAD = 32  # maximum number of pieces in progress, for any number of threads, to limit memory
PIECE_BYTES = 2 << 20
LONGEST_SIDE = 65_500  # pixels, the limit of libjpeg
BLOCK = 16  # side of the blocks that are encoded together, with colours at half the resolution (4:2:0), in pixels
# Or one row of blocks, if that is larger: at most 8,192 blocks of the 65,535 that a restart interval may have.
STRIP_PIXELS = 2 << 20
FRAME, SCAN = 0xC0, 0xDA


class PiecedFile(ABC, Generic[Piece]):
    """A new file at *path*. The using thread adds work, and `take` receives its results in the same order and thread.

    If the pool has not begun the oldest piece, because it is busy, this thread does it, so that nothing waits for a
    place in the queue. One thread uses a subclass, and passes an image from the top: `write` takes bands, and `finish`
    follows the last one. `abort` may follow anything. All methods but `abort` raise DiskFailed.
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
        """Queue *work*, take finished results, and wait if too much is queued. Raises what work and `take` raise."""
        self._ahead.append((self._pool.submit(work), work))
        self.drain(self._most_ahead)

    def append(self, data: bytes) -> None:
        """Write *data* at the end of the file."""
        try:
            self._file.write(data)
        except OSError as err:
            raise write_error(err, self._path) from err

    def drain(self, most: int = 0) -> None:
        """Take finished results, and wait until at most *most* pieces are queued. Raises what work and `take` raise."""
        while self._ahead and (len(self._ahead) > most or self._ahead[0][0].done()):
            future, work = self._ahead.popleft()
            self.take(work() if future.cancel() else future.result())

    def end(self, data: bytes) -> None:
        """Append *data* and close the file, because network file systems may report a full disk only then."""
        try:
            self._file.write(data)
            self._file.close()
        except OSError as err:
            raise write_error(err, self._path) from err

    def abort(self) -> None:
        """Cancel queued work, wait for work in progress, and close the file. Raises nothing."""
        begun = [future for future, _ in self._ahead if not future.cancel()]
        self._ahead.clear()
        wait(begun)
        with suppress(OSError):
            self._file.close()


class PngFile(PiecedFile[tuple[bytes, int, int]]):
    """An 8-bit RGB PNG. Besides the current band, it holds a few pieces of 2 MiB."""

    def __init__(self, path: Path, size: Size, pool: Pool) -> None:
        super().__init__(path, pool)
        self._above: NDArray[np.uint8] = np.zeros(size[0] * 3, np.uint8)
        self._adler = 1
        self._rows = max(1, PIECE_BYTES // (size[0] * 3))
        self.append(_png_start(size))  # stays in the file's buffer

    def write(self, band: NDArray[np.uint8]) -> None:
        """Write the next rows from the top: shape (any number of rows, width, 3), RGB, C-contiguous, which must not
        change later. Waits if too much is queued, so that memory holds a few bands at most."""
        flat = band.reshape(len(band), -1)
        for top in range(0, len(flat), self._rows):
            rows = flat[top : top + self._rows]
            self.put(partial(_compressed, rows, self._above))
            self._above = rows[-1]
        self._above = self._above.copy()  # frees the band that contains it

    def take(self, piece: tuple[bytes, int, int]) -> None:
        chunk, adler, length = piece
        self._adler = combined_adler32(self._adler, adler, length)
        self.append(chunk)

    def finish(self) -> None:
        self.drain()
        self.end(_png_end(self._adler))


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of *pixels*, shape (rows, columns, 3), RGB."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    chunk, adler, length = _compressed(rows, np.zeros(rows.shape[1], np.uint8))
    return _png_start((pixels.shape[1], len(pixels))) + chunk + _png_end(combined_adler32(1, adler, length))


def _png_start(size: Size) -> bytes:
    """Header of an 8-bit RGB image, and the start of a zlib stream."""
    # Depth, colour type, compression, filter method, no interlacing.
    header = _chunk(b"IHDR", struct.pack(">II5B", *size, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", b"\x78\x01")


def _png_end(adler: int) -> bytes:
    last_block = b"\x03\x00"
    return _chunk(b"IDAT", last_block + struct.pack(">I", adler)) + _chunk(b"IEND", b"")


def combined_adler32(first: int, second: int, length: int) -> int:
    """Adler-32 of some bytes followed by *length* others, from both checksums."""
    low = (first & 0xFFFF) + (second & 0xFFFF) - 1
    high = (first >> 16) + (second >> 16) + length * ((first & 0xFFFF) - 1)
    return low % 65521 | high % 65521 << 16


def _compressed(rows: NDArray[np.uint8], above: NDArray[np.uint8]) -> tuple[bytes, int, int]:
    """Compress *rows*, shape (any number, bytes per row), below the row *above*. Return a chunk of the file, and the
    Adler-32 and length of its uncompressed bytes."""
    filtered: NDArray[np.uint8] = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2  # the filter `up`: each row minus the row above
    np.subtract(rows[0], above, out=filtered[0, 1:])
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    deflate = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
    # If a stream starts with a long input, ISA-L hashes a memory address instead of the third byte (`write_first_byte`
    # in igzip_icf_body_h1_gr_bt.asm), so equal pixels may have different files. Eight bytes are not a long input.
    flat = filtered.reshape(-1)
    parts: list[bytes] = []
    for data in (flat[:8], flat[8:]):
        parts += deflate.compress(data), deflate.flush(isal_zlib.Z_SYNC_FLUSH)
    return _chunk(b"IDAT", *parts), isal_zlib.adler32(filtered), filtered.nbytes


def _chunk(kind: bytes, *parts: bytes) -> bytes:
    checksum = isal_zlib.crc32(kind)
    for part in parts:
        checksum = isal_zlib.crc32(part, checksum)
    return b"".join((struct.pack(">I", sum(map(len, parts))), kind, *parts, struct.pack(">I", checksum)))


class JpegFile(PiecedFile[bytes]):
    """A baseline JPEG. An image with a side over 65,500 pixels is scaled to fit. Besides the band, it holds a few
    strips of 6 MiB."""

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
        """Size of the JPEG for an image of *size*."""
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
        self._waiting = [rows.copy() for rows in self._waiting]  # frees the band that contains them

    def take(self, piece: bytes) -> None:
        scan = _segment(piece, SCAN)
        data = scan + 2 + _length(piece, scan)
        if self._strips:
            joint = bytes((0xFF, 0xD0 + (self._strips - 1) % 8))
        else:  # headers of the first strip, with the total height and the restart interval
            height = _segment(piece, FRAME) + 5
            joint = piece[:height] + self.size[1].to_bytes(2, "big") + piece[height + 2 : scan]
            joint += b"\xff\xdd\x00\x04" + self._interval.to_bytes(2, "big") + piece[scan:data]
        self.append(joint + piece[data:-2])  # without the end marker
        self._strips += 1

    def finish(self) -> None:
        self._resampler.finish()
        if self._waiting:
            self.put(partial(encode_jpeg, self._waiting))
        self.drain()
        self.end(b"\xff\xd9")


def encode_jpeg(parts: Sequence[NDArray[np.uint8]]) -> bytes:
    """JPEG of the rows of all *parts*."""
    pixels = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return bytes(jpeg8_encode(np.ascontiguousarray(pixels), level=90, subsampling="420"))


def _segment(jpeg: bytes, kind: int) -> int:
    place = 2
    while jpeg[place + 1] != kind:
        place += 2 + _length(jpeg, place)
    return place


def _length(jpeg: bytes, place: int) -> int:
    """Length of the segment that begins at *place*, without the two bytes of its kind."""
    return int.from_bytes(jpeg[place + 2 : place + 4], "big")
