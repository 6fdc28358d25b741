"""TIFFs that say odd things of themselves: refused with a reason, or shown with a remark."""

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

from himl_cli.core.events import ignore
from himl_cli.core.montage import Backend, ImageFormat, MontageRequest, SlideEntry, SlideUnreadable
from himl_cli.services.montage.compose.making import make_montage
from himl_cli.services.montage.local_place import LocalPlace
from himl_cli.services.montage.slides.opening import open_slide
from himl_cli.services.montage.slides.stored_sizes import stored_size
from tests.services.montage.test_slides_kinds import WHITE, difference, facts, read
from tests.slides import leave_out_tiles, overwrite_tags, segments, slide_picture, with_alpha, write_tiff, zero_tiles


def remark_of(path: Path, backend: Backend = Backend.auto, *, as_labels: bool = False) -> str:
    slide = open_slide(path, backend, as_labels=as_labels)
    try:
        for _ in slide.strips(0, WHITE):
            pass
        return slide.remark
    finally:
        slide.close()


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
        "from himl_cli.services.montage.slides.opening import open_slide\n"
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


def _png_that_says_60000() -> bytes:
    stored = bytearray(imagecodecs.png_encode(slide_picture(0, (128, 128))))
    struct.pack_into(">II", stored, 16, 60_000, 60_000)
    return bytes(stored)


@pytest.mark.parametrize(("compression", "make"), [("jpeg", _jpeg_that_says_60000), ("jpeg2000", _jpeg_2000_that_says_60000), ("png", _png_that_says_60000)])
@pytest.mark.parametrize("backend", [Backend.auto, Backend.tifffile])
def test_a_tile_that_says_it_is_larger_is_refused_before_it_is_decoded(tmp_path: Path, compression: str, make: Callable[[], bytes], backend: Backend) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0), compression=compression, tile=128)
    content, stored = path.read_bytes(), make()
    path.write_bytes(content + stored)
    offsets, counts = segments(path)
    overwrite_tags(path, {"TileOffsets": (len(content), *offsets[1:]), "TileByteCounts": (len(stored), *counts[1:])})
    with pytest.raises(SlideUnreadable, match="tile 1 of 20 of level 0 is damaged: it is 60000 x 60000 pixels, in a place of 128 x 128"):
        read(path, 0, backend)


@pytest.mark.parametrize("size", [(70, 430), (256, 24), (33, 47)])
def test_sizes_are_read_from_all_headers(size: tuple[int, int]) -> None:
    picture = slide_picture(0, size)
    alpha = np.ascontiguousarray(np.dstack([picture, picture[..., 0]]))
    stored = [
        imagecodecs.jpeg8_encode(picture),
        imagecodecs.ljpeg_encode(np.ascontiguousarray(picture[..., 0])),
        imagecodecs.png_encode(picture),
        imagecodecs.webp_encode(picture, level=80, lossless=False),
        imagecodecs.webp_encode(picture, lossless=True),
        imagecodecs.webp_encode(alpha, level=80, lossless=False),
        imagecodecs.jpegxr_encode(picture),
        imagecodecs.jpegxl_encode(picture),
        imagecodecs.jpegxl_encode(picture, usecontainer=True),
        imagecodecs.jpeg2k_encode(picture, codecformat="j2k"),
        imagecodecs.jpeg2k_encode(picture, codecformat="jp2"),
    ]
    assert [stored_size(bytes(each)) for each in stored] == [size] * len(stored)


@pytest.mark.parametrize("backend", [Backend.tifffile, Backend.openslide])
def test_a_slide_of_which_nothing_is_stored_is_no_slide(tmp_path: Path, backend: Backend) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0))
    leave_out_tiles(path, range(6))
    with pytest.raises(SlideUnreadable, match="none of the tiles of level 0 is stored"):
        read(path, 0, backend)


def test_the_content_counts_also_where_the_name_is_a_scanners(tmp_path: Path) -> None:
    path = tmp_path / "slide.ndpi"
    write_tiff(path, slide_picture(0), compression="deflate")
    assert difference(read(path), slide_picture(0)) == 0


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("backend", [Backend.auto, Backend.tifffile, Backend.openslide])
def test_signed_samples_are_refused_by_all(tmp_path: Path, dtype: type, backend: Backend) -> None:
    path = tmp_path / "slide.tiff"
    tifffile.imwrite(path, slide_picture(0).astype(dtype), photometric="rgb", tile=(128, 128), metadata=None)
    with pytest.raises(SlideUnreadable, match=r"its samples are of a kind that is not read \(INT\)|^OpenSlide misreads samples that are not unsigned$"):
        read(path, 0, backend)


@pytest.mark.parametrize("backend", [Backend.auto, Backend.tifffile, Backend.openslide])
def test_cielab_is_refused_by_all(tmp_path: Path, backend: Backend) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0), photometric="cielab", compression="lzw")
    with pytest.raises(SlideUnreadable, match="CIELAB"):
        read(path, 0, backend)


def _write_misread(path: Path, kind: str) -> None:
    rgba = with_alpha(slide_picture(0))
    if kind.startswith("orientation"):
        write_tiff(path, slide_picture(0), compression="lzw", extratags=[(274, "H", 1, int(kind[-1]), True)])
    elif kind == "unspecified":
        write_tiff(path, rgba, compression="lzw", extrasamples=["unspecified"])
    elif kind == "grey-alpha":
        tifffile.imwrite(path, rgba[..., 2:], photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"], tile=(128, 128), metadata=None)
    elif kind == "12-bits":
        wide = slide_picture(0).astype(np.uint16) * 16
        tifffile.imwrite(path, wide, photometric="rgb", tile=(128, 128), metadata=None, extratags=[(281, "H", 3, (4095,) * 3, True)])


@pytest.mark.parametrize("kind", ["orientation-2", "orientation-6", "unspecified", "grey-alpha", "12-bits"])
def test_what_openslide_misreads_is_refused_and_read_by_auto(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "slide.tiff"
    _write_misread(path, kind)
    with pytest.raises(SlideUnreadable, match=r"^OpenSlide misreads .*; --backend auto reads it$"):
        open_slide(path, Backend.openslide)
    assert facts(path)[0] == "tifffile"
    assert len(read(path)) == 430


@pytest.mark.parametrize("turned", range(1, 9))
def test_an_orientation_tag_is_told(tmp_path: Path, turned: int) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0), compression="lzw", extratags=[(274, "H", 1, turned, True)])
    assert remark_of(path) == ("" if turned == 1 else f"its orientation tag ({turned}) is not heeded")


@pytest.mark.parametrize("backend", [Backend.tifffile, Backend.openslide])
def test_pages_that_are_not_shown_are_told(tmp_path: Path, backend: Backend) -> None:
    stack, small_first = tmp_path / "stack.tiff", tmp_path / "small.tiff"
    for seed in range(3):
        tifffile.imwrite(stack, slide_picture(seed, (100, 80)), append=True, photometric="rgb", tile=(64, 64), metadata=None)
    for size in ((100, 80), (200, 160)):
        tifffile.imwrite(small_first, slide_picture(0, size), append=True, photometric="rgb", tile=(64, 64), metadata=None)
    assert remark_of(stack, backend) == "page 1 of 3 is shown"
    assert remark_of(small_first, backend) == "page 2 is larger (200 x 160) and not shown"


def test_pictures_of_imagej_that_have_no_page_count(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros((5, 40, 30), np.uint8), imagej=True)
    with tifffile.TiffFile(path) as file:
        place = next_page_at(path, 0)
        assert len(file.pages) == 5
    content = bytearray(path.read_bytes())
    content[place : place + 4] = bytes(4)
    path.write_bytes(content)
    assert remark_of(path) == "page 1 of 5 is shown"


def test_levels_and_masks_are_no_pages_to_tell_of(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0), levels=3)
    tifffile.imwrite(path, slide_picture(1)[..., 0] > 99, append=True, photometric="minisblack", subfiletype=4, tile=(64, 64), metadata=None)
    assert remark_of(path) == remark_of(path, Backend.openslide) == ""


def test_floats_are_told_of_unless_the_file_names_their_range(tmp_path: Path) -> None:
    samples = np.repeat(np.linspace(0, 255, 64, dtype=np.float32)[None], 64, axis=0)
    samples[0, 0] = np.nan
    assert remark_of(write_grey(tmp_path / "wide.tiff", samples)) == "its samples are floats up to 255, taken as 0 to 1"
    assert remark_of(write_grey(tmp_path / "one.tiff", samples / 255)) == "its samples are floats, taken as 0 to 1"
    told = [(340, "f", 1, 0.0, True), (341, "f", 1, 255.0, True)]
    assert remark_of(write_grey(tmp_path / "told.tiff", samples, extratags=told)) == ""


@pytest.mark.parametrize(("largest", "is_told"), [(4095, True), (4096, True), (4097, False), (65535, False)])
def test_sixteen_bits_of_which_few_are_used_are_told_of(tmp_path: Path, largest: int, is_told: bool) -> None:
    samples: NDArray[np.uint16] = np.full((64, 64), 7, np.uint16)
    samples[40, 50] = largest
    path = write_grey(tmp_path / "slide.tiff", samples)
    told = f"no value is over {largest:,} of 65,535, and no MaxSampleValue says that fewer bits count"
    assert remark_of(path) == (told if is_told else "")
    assert remark_of(path, as_labels=True) == ""


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_of_wide_integers_the_file_says_what_is_used(tmp_path: Path, dtype: type) -> None:
    samples = np.repeat(np.linspace(0, 250, 64).astype(dtype)[None], 64, axis=0)
    with pytest.raises(SlideUnreadable, match=r"its samples have \d\d bits, and no MaxSampleValue says which numbers are used"):
        read(write_grey(tmp_path / "silent.tiff", samples))
    told = write_grey(tmp_path / "told.tiff", samples, extratags=[(281, "H", 1, 255, True)])
    assert (read(told)[..., 0] == samples).all()
    assert remark_of(told) == ""


def test_remarks_are_in_the_record(tmp_path: Path) -> None:
    """Held whole, and read while it is painted."""
    for width in (100, 4000):
        path = tmp_path / "slide.tiff"
        write_grey(path, np.full((80, 90), 7, np.uint16), extratags=[(274, "H", 1, 3, True)])
        request = MontageRequest(tmp_path / f"out{width}", width, level=0, formats=(ImageFormat.png,), workers=1)
        result = make_montage(request, [SlideEntry("a", path.name), SlideEntry("b", path.name)], LocalPlace(tmp_path), ignore)
        assert [cell.remark for cell in result.cells] == [
            "its orientation tag (3) is not heeded; no value is over 7 of 65,535, and no MaxSampleValue says that fewer bits count"
        ] * 2


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
