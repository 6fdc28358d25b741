"""A PNG that is compressed in pieces is an ordinary PNG."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from himl_cli.core.montage import Size
from himl_cli.services.montage.encoding import PngFile, combined_adler32
from himl_cli.services.montage.threads import Pool
from tests.services.montage.banded import busy_pool, by_vips, put, shades
from tests.support.processes import peak_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(3) as threads:
        yield threads


def by_pillow(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and data of each chunk, whose checksum holds."""
    found, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        assert struct.unpack(">I", content[at + 8 + length : at + 12 + length]) == (zlib.crc32(kind + data),)
        found.append((kind, data))
        at += 12 + length
    return found


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (257, 131), (1, 4000), (2000, 1500), (200_000, 24)], ids=str)
@pytest.mark.parametrize("heights", [(5000,), (1, 17, 64)], ids=str)
def test_it_holds_what_was_written(size: Size, heights: tuple[int, ...], tmp_path: Path, pool: Pool) -> None:
    pixels, path = shades(size), tmp_path / "x.png"
    put(PngFile(path, size, pool), pixels, heights)
    assert np.array_equal(by_pillow(path), pixels)
    assert np.array_equal(by_vips(path), pixels)


def test_its_parts_are_those_of_the_format(tmp_path: Path, pool: Pool) -> None:
    """Read without a library of pictures: chunks, one zlib stream with its checksum, rows that are less the row above."""
    pixels, path = shades((2000, 1500)), tmp_path / "x.png"
    put(PngFile(path, (2000, 1500), pool), pixels, (128,))
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    found = chunks(content)
    assert found[0] == (b"IHDR", struct.pack(">II5B", 2000, 1500, 8, 2, 0, 0, 0))
    assert found[-1] == (b"IEND", b"")
    assert {kind for kind, _ in found[1:-1]} == {b"IDAT"}
    assert len(found) > 10
    stream = zlib.decompressobj()
    rows = np.frombuffer(stream.decompress(b"".join(data for _, data in found[1:-1])), np.uint8).reshape(1500, 6001)
    assert stream.eof
    assert not stream.unused_data
    assert (rows[:, 0] == 2).all()
    assert np.array_equal(rows[:, 1:].cumsum(axis=0, dtype=np.uint8), pixels.reshape(1500, 6000))


def test_what_shows_little_is_small(tmp_path: Path, pool: Pool) -> None:
    white: NDArray[np.uint8] = np.full((2000, 3000, 3), 255, np.uint8)
    put(PngFile(tmp_path / "x.png", (3000, 2000), pool), white, (256,))
    assert (tmp_path / "x.png").stat().st_size < white.nbytes / 200


@pytest.mark.parametrize(
    ("first", "second"), [(b"", b""), (b"", b"abc"), (b"abc", b""), (b"\xff" * 70_000, b"\xff" * 200_003), (b"\x00" * 65_521, b"a" * 65_521)]
)
def test_checksums_are_put_together(first: bytes, second: bytes) -> None:
    assert combined_adler32(zlib.adler32(first), zlib.adler32(second), len(second)) == zlib.adler32(first + second)


def test_a_pool_that_is_busy_holds_nothing_up(tmp_path: Path) -> None:
    pixels = shades((2000, 1500))
    with busy_pool() as pool:
        put(PngFile(tmp_path / "x.png", (2000, 1500), pool), pixels, (100,))
    assert np.array_equal(by_pillow(tmp_path / "x.png"), pixels)


SETUP = """
from pathlib import Path
import numpy as np
from himl_cli.services.montage.encoding import JpegFile
from himl_cli.services.montage.encoding import PngFile
from himl_cli.services.montage.threads import Pool
kind = {"png": PngFile, "jpg": JpegFile}[sys.argv[1]]
band = np.tile(np.random.default_rng(0).integers(0, 256, (64, 1000, 3), dtype=np.uint8), (1, 60, 1))
"""
WORK = """
with Pool(2) as pool:
    sink = kind(Path(sys.argv[2]), (60_000, 64 * 12), pool)
    for _ in range(12):
        sink.write(band.copy())
    sink.finish()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measured as Linux does")
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_memory_is_that_of_a_few_bands(kind: str, tmp_path: Path) -> None:
    """60,000 wide: the picture has 138 MB, a band 11.5."""
    assert peak_of(SETUP, WORK, kind, str(tmp_path / "x")) < 100
