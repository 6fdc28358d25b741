"""TIFFs that say odd things of themselves: refused with a reason, or shown all the same."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from himl_cli.core.montage import Backend, SlideUnreadable
from himl_cli.services.montage.slides import open_slide
from himl_cli.services.montage.tiff import stored_size
from tests.services.montage.test_slides_kinds import difference, read
from tests.support.slides import leave_out_tiles, overwrite_tags, segments, slide_picture, write_tiff, zero_tiles


def write_grey(path: Path, samples: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, samples, photometric="minisblack", tile=(64, 64), metadata=None, **options)
    return path


def next_page_at(path: Path, page: int) -> int:
    """Where a page of a TIFF says where the next one begins."""
    with tifffile.TiffFile(path) as file:
        begin = int(file.pages[page].offset)
    count = struct.unpack_from("<H", path.read_bytes(), begin)[0]
    return begin + 2 + 12 * int(count)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_pages_that_form_a_ring_end(tmp_path: Path, levels: int) -> None:
    """In a process of its own, for a ring that is not seen is for ever."""
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0), levels=levels)
    content = bytearray(path.read_bytes())
    first = struct.unpack_from("<I", content, 4)[0]
    place = next_page_at(path, levels - 1)
    struct.pack_into("<I", content, place, first)
    path.write_bytes(content)
    script = (
        "import sys; from pathlib import Path; from himl_cli.core.montage import Backend\n"
        "from himl_cli.services.montage.slides import open_slide\n"
        "print(len(open_slide(Path(sys.argv[1]), Backend.auto).levels))"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False, timeout=100)
    assert (ran.stdout.strip(), ran.stderr) == (str(levels), "")


def _jpeg_that_says_60000() -> bytes:
    stored = bytearray(imagecodecs.jpeg8_encode(slide_picture(0, (128, 128))))
    struct.pack_into(">HH", stored, stored.find(b"\xff\xc0") + 5, 60_000, 60_000)
    return bytes(stored)


def _jpeg_2000_that_says_60000() -> bytes:
    stored = bytearray(imagecodecs.jpeg2k_encode(slide_picture(0, (128, 128)), codecformat="j2k"))
    struct.pack_into(">II", stored, stored.find(b"\xff\x51") + 6, 60_000, 60_000)
    return bytes(stored)


@pytest.mark.parametrize(("compression", "make"), [("jpeg", _jpeg_that_says_60000), ("jpeg2000", _jpeg_2000_that_says_60000)])
@pytest.mark.parametrize("backend", [Backend.auto, Backend.tifffile])
def test_tile_with_oversized_header_is_not_decoded(tmp_path: Path, compression: str, make: Callable[[], bytes], backend: Backend) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0), compression=compression, tile=128)
    content, stored = path.read_bytes(), make()
    path.write_bytes(content + stored)
    offsets, counts = segments(path)
    overwrite_tags(path, {"TileOffsets": (len(content), *offsets[1:]), "TileByteCounts": (len(stored), *counts[1:])})
    with pytest.raises(SlideUnreadable, match="tile 1 of 20 of level 0 is damaged: it is 60000 x 60000 pixels, in a place of 128 x 128"):
        read(path, 0, backend)


@pytest.mark.parametrize("size", [(70, 430), (256, 24), (33, 47)])
def test_sizes_are_read_from_headers_of_jpeg_and_jpeg_2000(size: tuple[int, int]) -> None:
    picture = slide_picture(0, size)
    stored = [
        imagecodecs.jpeg8_encode(picture),
        imagecodecs.ljpeg_encode(np.ascontiguousarray(picture[..., 0])),
        imagecodecs.jpeg2k_encode(picture, codecformat="j2k"),
        imagecodecs.jpeg2k_encode(picture, codecformat="jp2"),
    ]
    assert [stored_size(bytes(each)) for each in stored] == [size] * len(stored)


def test_a_slide_of_which_nothing_is_stored_is_no_slide(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0))
    leave_out_tiles(path, range(6))
    with pytest.raises(SlideUnreadable, match="none of the tiles of level 0 is stored"):
        read(path)


def test_the_content_counts_also_where_the_name_is_a_scanners(tmp_path: Path) -> None:
    path = tmp_path / "slide.ndpi"
    write_tiff(path, slide_picture(0), compression="deflate")
    assert difference(read(path), slide_picture(0)) == 0


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("backend", [Backend.auto, Backend.tifffile])
def test_signed_samples_are_refused(tmp_path: Path, dtype: type, backend: Backend) -> None:
    path = tmp_path / "slide.tiff"
    tifffile.imwrite(path, slide_picture(0).astype(dtype), photometric="rgb", tile=(128, 128), metadata=None)
    with pytest.raises(SlideUnreadable, match=r"its samples are of a kind that is not read \(INT\)"):
        read(path, 0, backend)


@pytest.mark.parametrize("backend", [Backend.auto, Backend.tifffile])
def test_cielab_is_refused(tmp_path: Path, backend: Backend) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0), photometric="cielab", compression="lzw")
    with pytest.raises(SlideUnreadable, match="CIELAB"):
        read(path, 0, backend)


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_of_wide_integers_the_file_says_what_is_used(tmp_path: Path, dtype: type) -> None:
    samples = np.repeat(np.linspace(0, 250, 64).astype(dtype)[None], 64, axis=0)
    with pytest.raises(SlideUnreadable, match=r"its samples have \d\d bits, and no MaxSampleValue says which numbers are used"):
        read(write_grey(tmp_path / "silent.tiff", samples))
    told = write_grey(tmp_path / "told.tiff", samples, extratags=[(281, "H", 1, 255, True)])
    assert (read(told)[..., 0] == samples).all()


@pytest.mark.parametrize("gap", [0, 1 << 20])
def test_tiles_may_lie_anywhere(tmp_path: Path, gap: int) -> None:
    """Backwards, also with so much between them that a row of them is not read in one go."""
    path, pixels = tmp_path / "slide.tiff", slide_picture(1, (600, 400))
    write_tiff(path, pixels, levels=1, compression="deflate")
    offsets, counts = segments(path)
    tiles = [path.read_bytes()[offset : offset + count] for offset, count in zip(offsets, counts, strict=True)]
    zero_tiles(path)
    places = []
    with path.open("r+b") as file:
        for tile in reversed(tiles):
            file.seek(gap, os.SEEK_END)
            places.append(file.tell())
            file.write(tile)
    overwrite_tags(path, {"TileOffsets": places[::-1]})
    assert np.array_equal(read(path), pixels)


def test_rows_of_many_tiles_are_decoded_by_several_threads(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    picture = np.tile(slide_picture(0, (550, 40)), (1, 2, 1))
    write_tiff(path, picture, compression="deflate", tile=16)
    assert difference(read(path), picture) == 0
    zero_tiles(path, [100])
    slide = open_slide(path, Backend.auto)
    strips = slide.strips(0, None)
    assert difference(next(strips), picture[:16]) == 0
    assert _tile_threads() == ((os.cpu_count() or 1) > 1)
    with pytest.raises(SlideUnreadable, match="tile 101 of 207 of level 0 is damaged"):
        next(strips)
    slide.close()
    assert not _tile_threads()


def _tile_threads() -> bool:
    return any(thread.name.startswith("himl-tiles") for thread in threading.enumerate())
