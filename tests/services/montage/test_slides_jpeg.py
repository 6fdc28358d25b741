"""What is seen of JPEG and WebP without decoding: no sound picture is taken for damaged, and zeros in a damaged one are seen."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from himl_cli.core.montage import SlideUnreadable
from himl_cli.services.montage.slides import jpeg_streams, webp_streams
from himl_cli.services.montage.slides.stored_sizes import stored_size
from tests.services.montage.test_slides_kinds import difference, read
from tests.slides import segments, slide_picture, write_tiff

WAYS: Mapping[str, Mapping[str, Any]] = {
    "baseline": {},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "restart": {"restart_marker_blocks": 7},
    "restart-progressive": {"restart_marker_rows": 1, "progressive": True},
    "4:4:4": {"subsampling": 0, "optimize": True},
    "4:2:2": {"subsampling": 1, "progressive": True},
    "grey": {"grey": True, "optimize": True},
    "grey-progressive": {"grey": True, "progressive": True},
    "cmyk": {"cmyk": True, "optimize": True},
}
SIZE = (520, 392)


def jpeg_of(picture: NDArray[np.uint8], quality: int, *, grey: bool = False, cmyk: bool = False, **options: Any) -> bytes:
    image = Image.fromarray(picture)
    image = image.convert("L") if grey else image.convert("CMYK") if cmyk else image
    made = io.BytesIO()
    image.save(made, "JPEG", quality=quality, **options)
    return made.getvalue()


def sound_pictures() -> Iterator[NDArray[np.uint8]]:
    """Those that compress to long runs: flat ones, slopes of one step a block, patterns of one block; and a slide, alone and on white."""
    width, height = SIZE
    for colour in ((255, 255, 255), (0, 0, 0), (129, 129, 129), (240, 180, 210)):
        yield np.full((height, width, 3), colour, np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for values in (255 - columns // 8 % 256, columns // 8 % 256, 255 - rows // 8 % 256, 255 - columns % 256, (rows + columns) % 2 * 255):
        yield np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)
    dots: NDArray[np.uint8] = np.full((height, width, 3), 200, np.uint8)
    dots[::8, ::8] = 0
    yield dots
    yield slide_picture(0, SIZE)
    on_white: NDArray[np.uint8] = np.full((height, width, 3), 255, np.uint8)
    on_white[-60:, -60:] = slide_picture(0, (60, 60))
    yield on_white


@pytest.mark.parametrize("way", WAYS)
def test_no_sound_jpeg_is_taken_for_damaged(way: str) -> None:
    for picture in sound_pictures():
        for quality in (1, 75, 95):
            stored = jpeg_of(picture, quality, **WAYS[way])
            assert (jpeg_streams.trouble_in(stored), jpeg_streams.is_whole(stored), stored_size(stored)) == ("", True, SIZE)


@pytest.mark.parametrize("way", WAYS)
def test_zeros_in_a_jpeg_are_seen(way: str) -> None:
    stored = jpeg_of(slide_picture(0, SIZE), 90, **WAYS[way])
    random = np.random.default_rng(0)
    for place in random.integers(len(stored) // 4, len(stored) - 1100, 20):
        damaged = stored[:place] + bytes(1000) + stored[place + 1000 :]
        assert jpeg_streams.trouble_in(damaged)


@pytest.mark.parametrize("count", [64, 65])
def test_more_than_64_zeros_cannot_be_where_flat_blocks_have_other_codes(count: int) -> None:
    stored = jpeg_of(slide_picture(0, SIZE), 90)
    place = 10_000
    assert stored[place - 1]
    assert stored[place + count]
    damaged = stored[:place] + bytes(count) + stored[place + count :]
    assert jpeg_streams.trouble_in(damaged) == ("" if count == 64 else "zeros in the midst of it")


def test_where_flat_blocks_are_zeros_there_may_be_as_many_as_there_are_blocks() -> None:
    flat: NDArray[np.uint8] = np.full((512, 512), 255, np.uint8)
    flat[:8, :8] = 0
    stored = jpeg_of(flat, 75, optimize=True)
    place = stored.find(bytes(1000))  # 4,096 blocks, 2 bits each
    assert place > 0
    assert jpeg_streams.trouble_in(stored) == ""
    assert jpeg_streams.trouble_in(stored[:place] + bytes(100) + stored[place:]) == "zeros in the midst of it"


def without_tables(stored: bytes) -> tuple[bytes, bytes]:
    """The stream as TIFFs have it: its tables of codes stand in another one."""
    begin = stored.index(b"\xff\xc4")
    end = stored.index(b"\xff\xda")
    return stored[:begin] + stored[end:], b"\xff\xd8" + stored[begin:end] + b"\xff\xd9"


def test_tables_in_another_stream_count() -> None:
    stored, tables = without_tables(jpeg_of(slide_picture(0, SIZE), 90))
    damaged = stored[:10_000] + bytes(100) + stored[10_100:]
    assert jpeg_streams.trouble_in(stored, tables) == ""
    assert jpeg_streams.trouble_in(damaged, tables) == "zeros in the midst of it"
    assert jpeg_streams.trouble_in(damaged) == ""  # what the zeros would mean is not known


@pytest.mark.parametrize(("count", "trouble"), [(129, ""), (130, "zeros in the midst of it")])
def test_a_scan_of_details_may_say_of_each_block_that_it_has_none(count: int, trouble: str) -> None:
    """A bit a block, where an encoder does not count them together: 1,024 blocks."""
    frame = b"\xff\xc2\x00\x0b\x08\x01\x00\x01\x00\x01\x01\x11\x00"
    tables = b"\xff\xc4\x00\x14\x10\x01" + bytes(15) + b"\x00"
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00"
    assert jpeg_streams.trouble_in(b"\xff\xd8" + frame + tables + scan + bytes(count) + b"\xff\xd9") == trouble


def test_parts_between_restart_marks_that_are_missing_are_seen() -> None:
    stored = jpeg_of(slide_picture(0, SIZE), 90, restart_marker_blocks=7)
    first, second = stored.find(b"\xff\xd3"), stored.find(b"\xff\xd4")
    assert jpeg_streams.trouble_in(stored) == ""
    assert jpeg_streams.trouble_in(stored[:first] + stored[second:]) == "parts of it are missing"


def test_what_stands_in_front_of_and_behind_a_jpeg_does_not_count(tmp_path: Path) -> None:
    """Cameras put films there; profiles have zeros."""
    path = tmp_path / "slide.jpg"
    Image.fromarray(slide_picture(0)).save(path, quality=95, icc_profile=bytes(5000))
    path.write_bytes(path.read_bytes() + bytes(200_000))
    assert difference(read(path), slide_picture(0)) < 3


@pytest.mark.parametrize("way", ["baseline", "progressive"])
def test_zeros_in_a_plain_jpeg_are_told(tmp_path: Path, way: str) -> None:
    stored = jpeg_of(slide_picture(0), 90, **WAYS[way])
    path = tmp_path / "slide.jpg"
    path.write_bytes(stored[:30_000] + bytes(400) + stored[30_400:])
    with pytest.raises(SlideUnreadable, match="it is damaged: zeros in the midst of it"):
        read(path)


@pytest.mark.parametrize("tile", [128, 1024])
def test_zeros_in_a_tile_whose_tables_stand_elsewhere_are_told(tmp_path: Path, tile: int) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0), tile=tile)
    offsets, counts = segments(path)
    content = path.read_bytes()
    middle = offsets[0] + counts[0] // 2
    path.write_bytes(content[:middle] + bytes(100) + content[middle + 100 :])
    with pytest.raises(SlideUnreadable, match=r"tile 1 of \d+ of level 0 is damaged: zeros in the midst of it"):
        read(path)


@pytest.mark.parametrize("compression", ["jpeg", "jpegxr"])
def test_flat_parts_of_a_tile_without_loss_are_no_damage(tmp_path: Path, compression: str) -> None:
    """A lossless JPEG takes a bit for a pixel that is as its neighbour."""
    picture: NDArray[np.uint16] = np.full((512, 512), 65535, np.uint16)
    picture[:8, :8] = slide_picture(0, (8, 8))[..., 0]
    path = tmp_path / "slide.tiff"
    told: dict[str, Any] = {"compressionargs": {"lossless": True}} if compression == "jpeg" else {}
    write_tiff(path, picture, compression=compression, tile=512, **told)
    assert read(path)[100:, 100:].min() == 255


def test_sound_webp_is_not_taken_for_damaged() -> None:
    for picture in sound_pictures():
        for quality, method in ((75, 0), (100, 0), (100, 4)):
            stored = bytes(imagecodecs.webp_encode(np.ascontiguousarray(picture), level=quality, method=method, lossless=False))
            assert (webp_streams.trouble_in(stored), stored_size(stored)) == ("", SIZE)


def test_lossless_webp_may_have_zeros(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    picture = random.integers(100, 140, (512, 512, 3), dtype=np.uint8)
    picture[200:210] = 120
    stored = bytes(imagecodecs.webp_encode(picture, lossless=True, method=0, level=1))
    path = tmp_path / "slide.tiff"
    write_tiff(path, picture, compression="webp", tile=512, compressionargs={"lossless": True, "method": 0, "level": 1})
    assert bytes(2000) in stored
    assert webp_streams.trouble_in(stored) == ""
    assert webp_streams.trouble_in(b"RIFF\x90\x13\0\0WEBPVP8L\x88\x13\0\0" + bytes(5000)) == ""
    assert difference(read(path), picture) == 0


def test_a_large_hole_in_a_webp_is_told(tmp_path: Path) -> None:
    path = tmp_path / "slide.webp"
    Image.fromarray(slide_picture(0)).save(path, quality=90)
    content = path.read_bytes()
    path.write_bytes(content[:5000] + bytes(3000) + content[8000:])
    with pytest.raises(SlideUnreadable, match="it is damaged: zeros in the midst of it"):
        read(path)
