from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import PIL
import pytest
import tifffile
from numpy.typing import NDArray
from packaging.version import Version
from PIL import Image

from himl_cli.core.montage import Backend, SlideUnreadable
from himl_cli.services.montage.readers import LARGEST
from himl_cli.services.montage.slides import open_slide
from tests.services.montage.test_slides_kinds import difference, read
from tests.support.slides import BROKEN, leave_out_tiles, overwrite_tags, segments, slide_picture, write_broken, write_giant, write_kind, write_tiff

REASONS = {
    "missing": "it does not exist",
    "empty": "it is empty",
    "folder": "it is a folder",
    "unreadable": "it may not be read",
    "text": "it is no picture of a known format",
    "garbage": "it is no picture of a known format",
    "garbage-svs": "it is no picture of a known format",
    "header-only": "there is no picture in it",
    "garbled-tiles": "tile 1 of 6 of level 0",
    "zeroed": "tile 1 of 6 of level 0 is damaged: .* bytes of zeros",
    "zeroed-deflate": "tile 1 of 6 of level 0 is damaged: .* bytes of zeros",
    "zeroed-jpeg2000": "tile 1 of 6 of level 0 is damaged: .* bytes of zeros",
    "zeroed-some": "tile 6 of 20 of level 0 is damaged",
    "truncated": "the file is cut short: it ends at byte .*, and tile 4 of 6 of level 0 at",
    "truncated-tags": "there is no picture in it",
    "truncated-png": "it is damaged: image file is truncated",
    "truncated-jpeg": "it is damaged: image file is truncated",
    "truncated-svs": "the file is cut short",
    "lying-size": "it is 3000000 x 3000000 pixels, for which 137334961 tiles are needed; it has 6",
    "lying-tile": "the tiles of level 0 are 60000 x 60000 pixels, 10,299 MB each",
    "beyond-the-end": "the file is cut short",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_read_says_why(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_broken(kind, tmp_path)
    if kind == "unreadable" and os.access(path, os.R_OK):
        pytest.skip("this user reads everything")
    with pytest.raises(SlideUnreadable, match=REASONS[kind]) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert path.name not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [kind for kind in BROKEN if kind not in {"missing", "empty", "folder", "unreadable"}])
@pytest.mark.parametrize("backend", [Backend.tifffile, Backend.openslide])
def test_each_backend_refuses_it_in_one_line(tmp_path: Path, kind: str, backend: Backend, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_broken(kind, tmp_path)
    with pytest.raises(SlideUnreadable) as caught:
        read(path, 0, backend)
    assert "\n" not in str(caught.value)
    assert path.name not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_libraries_say_nothing_on_the_terminal(tmp_path: Path) -> None:
    """In a process of its own: pytest listens to what is logged."""
    path = write_broken("truncated-tags", tmp_path)
    script = (
        "import sys; from pathlib import Path; from himl_cli.core.montage import Backend, SlideUnreadable\n"
        "from himl_cli.services.montage.slides import open_slide\n"
        "try: open_slide(Path(sys.argv[1]), Backend.auto)\n"
        "except SlideUnreadable as err: print(err)"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert (ran.stdout.strip(), ran.stderr) == ("there is no picture in it", "")


def _change_tile(path: Path, change: Callable[[bytes], bytes], number: int = 3) -> None:
    """Put other bytes in the place of a tile's."""
    offsets, counts = segments(path)
    with path.open("r+b") as file:
        file.seek(offsets[number])
        stored = file.read(counts[number])
        changed = change(stored)
        assert len(changed) == len(stored)
        assert changed != stored
        file.seek(offsets[number])
        file.write(changed)


def _zeros_at_the_end(stored: bytes) -> bytes:
    return stored[: len(stored) // 2] + bytes(len(stored) - len(stored) // 2)


def test_the_end_of_a_tile_that_libjpeg_covers_with_grey_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0))
    _change_tile(path, _zeros_at_the_end)
    with pytest.raises(SlideUnreadable, match="tile 4 of 6 of level 0 is damaged: the picture in it has no end"):
        read(path)


@pytest.mark.parametrize("compression", ["deflate", "lzw", "zstd", "jpeg2000", "packbits"])
def test_half_a_tile_is_no_tile(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0), compression=compression)
    _change_tile(path, _zeros_at_the_end)
    with pytest.raises(SlideUnreadable, match="tile 4 of 6 of level 0"):
        read(path)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000"])
def test_padding_behind_a_tile_is_no_damage(tmp_path: Path, compression: str) -> None:
    """As older versions of imagecodecs wrote JPEG 2000."""
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0), compression=compression, tile=512)
    offsets, counts = segments(path)
    content = path.read_bytes()
    first = content[offsets[0] : offsets[0] + counts[0]] + bytes(100_000)
    path.write_bytes(content + first)
    overwrite_tags(path, {"TileOffsets": (len(content), *offsets[1:]), "TileByteCounts": (len(first), *counts[1:])})
    assert difference(read(path), slide_picture(0)) < 3


@pytest.mark.parametrize("compression", [None, "jpeg", "deflate", "lzw", "packbits", "jpeg2000", "webp", "zstd"])
def test_black_is_shown_black(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, np.zeros((300, 500, 3), np.uint8), compression=compression)
    assert not read(path).any()


@pytest.mark.parametrize("value", [1, 128, 255])
@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "webp"])
def test_flat_colours_are_not_taken_for_damage(tmp_path: Path, value: int, compression: str) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(
        path, np.full((1024, 1024), value, np.uint8) if compression == "jpeg" else np.full((1024, 1024, 3), value, np.uint8), compression=compression, tile=1024
    )
    assert np.abs(read(path).astype(int) - value).max() <= 1


@pytest.mark.parametrize("backend", [Backend.tifffile, Backend.openslide])
def test_tiles_that_were_never_stored_are_background(tmp_path: Path, backend: Backend) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0), compression="deflate")
    leave_out_tiles(path, [0, 4])
    shown = slide_picture(0)
    for background in ((10, 200, 30), None):
        slide = open_slide(path, backend)
        whole = np.concatenate(list(slide.strips(0, background)))
        slide.close()
        expected = shown.copy()
        expected[:256, :256] = expected[256:, 256:512] = background or (0, 0, 0)
        assert difference(whole, expected) == 0


def test_a_damaged_level_leaves_the_others_readable(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    made = write_tiff(path, slide_picture(0), levels=2, compression="deflate")
    overwrite_tags(path, {"TileWidth": 16}, page=1)
    assert difference(read(path), made[0]) == 0
    with pytest.raises(SlideUnreadable, match="level 1 says it is 300 x 215 pixels, for which 19 tiles are needed; it has 2"):
        read(path, 1)


def test_what_comes_before_the_damage_is_given(tmp_path: Path) -> None:
    path = write_broken("zeroed-some", tmp_path)
    slide = open_slide(path, Backend.auto)
    strips = slide.strips(0, None)
    assert difference(next(strips), slide_picture(0)[:128]) < 3
    with pytest.raises(SlideUnreadable):
        next(strips)
    slide.close()


@pytest.mark.parametrize(
    ("data", "photometric", "reason"),
    [
        (np.zeros((64, 64), np.int16), "minisblack", "its samples are of a kind that is not read"),
        (np.zeros((64, 64, 3), np.int8), "rgb", "its samples are of a kind that is not read"),
        (np.zeros((64, 64, 3), np.uint8), "cielab", "its pixels are of a kind that is not read"),
    ],
)
def test_pixels_of_unknown_meaning_are_refused(tmp_path: Path, data: NDArray[np.generic], photometric: str, reason: str) -> None:
    path = tmp_path / "slide.tiff"
    tifffile.imwrite(path, data, photometric=photometric, tile=(64, 64), metadata=None)
    with pytest.raises(SlideUnreadable, match=reason):
        read(path, 0, Backend.tifffile)


def test_a_plain_picture_may_be_larger_than_pillow_would_have_it(tmp_path: Path) -> None:
    path = tmp_path / "slide.png"
    Image.new("1", (9_500, 9_500), 1).save(path)  # 90 million pixels: Pillow warns at 89 million, and warnings fail a test
    slide = open_slide(path, Backend.auto)
    assert slide.levels == [(9_500, 9_500)]
    first = next(slide.strips(0, None))
    slide.close()
    assert first.min() == 255
    assert len(first) < 500


def test_oversized_plain_image_is_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "slide.bmp"
    Image.new("L", (10, 10)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:18] + struct.pack("<ii", 20_000, 20_001) + content[26:])
    assert LARGEST == 400_000_000
    with pytest.raises(SlideUnreadable, match="it is 20000 x 20001 pixels in one piece; more than 400 million"):
        open_slide(path, Backend.auto)


def test_a_limit_of_the_library_s_own_is_a_reason(tmp_path: Path) -> None:
    """Pillow has one for WebP from its version 13 on; older ones see the damage when they decode it."""
    path = tmp_path / "slide.webp"
    Image.new("RGB", (10, 10)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:26] + struct.pack("<HH", 16_000, 12_500) + content[30:])
    reason = "it has more pixels than are read of its format: " if Version(PIL.__version__) >= Version("13") else "it is damaged: failed to read next frame"
    with pytest.raises(SlideUnreadable, match=reason), closing(open_slide(path, Backend.auto)) as slide:
        list(slide.strips(0, None))


def test_a_single_level_of_any_size_comes_in_strips(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    write_giant(path, (100_000, 80_000), tile=512)
    slide = open_slide(path, Backend.auto)
    assert slide.levels == [(100_000, 80_000)]
    first = next(slide.strips(0, None))
    slide.close()
    assert first.shape == (512, 100_000, 3)
    assert difference(first[:, 99_840 - 512 : 99_840], slide_picture(0, (512, 512))) < 3


def test_noise_never_ends_in_anything_but_a_reason(tmp_path: Path) -> None:
    """Bytes of real files are changed at random."""
    random = np.random.default_rng(0)
    for kind in ("jpeg-pyramid", "striped", "svs", "palette", "png", "cmyk-jpeg", "16-bit-png"):
        content = write_kind(kind, tmp_path).read_bytes()
        path = tmp_path / f"noisy{Path(write_kind(kind, tmp_path)).suffix}"
        for _ in range(10):
            noisy = np.frombuffer(content, np.uint8).copy()
            places = random.integers(0, len(noisy), 20) if random.random() < 0.5 else random.integers(0, 600, 3)
            noisy[places] = random.integers(0, 256, len(places))
            path.write_bytes(noisy.tobytes())
            with suppress(SlideUnreadable):
                read(path)
