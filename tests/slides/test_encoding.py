"""Tests of pictures that are resized in strips and encoded in pieces, against Pillow and other decoders, and of Deep
Zoom pyramids and their page.
"""

from __future__ import annotations

import html
import io
import json
import os
import re
import subprocess
import sys
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import imagecodecs
import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image

from himl_cli.core.errors import DiskFailed
from himl_cli.slides import resampling
from himl_cli.slides.compose import SINKS
from himl_cli.slides.encoding import JpegFile, PngFile, combined_adler32
from himl_cli.slides.pyramid import DeepZoom, Tiling, asset, write_page
from himl_cli.slides.resampling import Bicubic, Resampler, Rows, as_pillow, quick, resized
from himl_cli.slides.slide_records import Box, CellOutcome, Size
from himl_cli.slides.threads import Pool
from tests.support.folders import contents
from tests.support.montages import nearest
from tests.support.slides import slide_picture

WAYS = pytest.mark.parametrize("way", [as_pillow, quick(), None], ids=["as_pillow", "quick", "nearest"])
SIZES: list[tuple[Size, Size]] = [
    ((200, 150), (90, 60)),
    ((90, 60), (200, 150)),
    ((90, 60), (200, 7)),
    ((200, 150), (60, 150)),
]
SIZES += [((200, 150), (200, 150)), ((200, 150), (1, 1)), ((1, 1), (40, 30)), ((200, 1), (20, 30))]
LARGE: list[tuple[Size, Size]] = [((2500, 1700), (1210, 977)), ((2100, 2003), (2101, 1500)), ((700, 900), (2500, 1700))]
LONG: list[tuple[Size, Size]] = [((4_500_000, 1), (3, 2)), ((1, 4_500_000), (2, 3))]
assert all(
    max(source[0] * source[1], target[0] * target[1]) > resampling.WHOLE for source, target in [*LARGE, *LONG]
), "too large for one go"


def picture(size: Size, seed: int = 0) -> NDArray[np.uint8]:
    """Return noise with hard edges, which shows differences most."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels[size[1] // 3 : size[1] // 2] = 255
    pixels[:, size[0] // 4 : size[0] // 3] //= 8
    return pixels


def cut(pixels: NDArray[np.uint8], heights: list[int]) -> Iterator[NDArray[np.uint8]]:
    top = count = 0
    while top < len(pixels):
        height = heights[count % len(heights)]
        yield pixels[top : top + height]
        top, count = top + height, count + 1


def by_pillow(pixels: NDArray[np.uint8], target: Size) -> NDArray[np.uint8]:
    """Resize bicubically, first along x. Pillow uses this order unless the height shrinks much more than the width."""
    image = Image.fromarray(pixels)
    return np.asarray(
        image.resize((target[0], image.height), Image.Resampling.BICUBIC).resize(target, Image.Resampling.BICUBIC)
    )


def fed(resampler: Resampler, strips: Iterator[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    made = [rows for strip in strips for rows in resampler.stream(strip)]
    resampler.finish()
    return np.concatenate(made)


def pull(rows: Rows, size: Size) -> NDArray[np.uint8]:
    """Return the next rows of *rows*. *size* is their width and their number."""
    made: NDArray[np.uint8] = np.empty((size[1], size[0], 3), np.uint8)
    rows.fill(made)
    return made


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize(
    ("source", "target"),
    [*SIZES, *(pytest.param(*each, marks=pytest.mark.large("draws large pictures")) for each in LARGE)],
    ids=str,
)
def test_streamed_pictures_equal_pillows(source: Size, target: Size) -> None:
    """Large pictures differ by at most one grey level. The quick method rounds differently."""
    pixels = picture(source)
    expected = by_pillow(pixels, target)
    for heights in ([1000], [7, 1, 32, 300]):
        assert difference(fed(Resampler(source, target), cut(pixels, heights)), expected) <= int(
            (source, target) in LARGE
        )
    assert difference(fed(Resampler(source, target, None), cut(pixels, [13, 256])), nearest(pixels, target)) == 0
    pixels = slide_picture(3, source)
    quickly, slowly = (fed(Resampler(source, target, way), cut(pixels, [7, 1, 32])) for way in (quick(), as_pillow))
    assert difference(quickly, slowly) <= 2
    assert np.abs(quickly.astype(int) - slowly).mean() < 0.35


@pytest.mark.parametrize("target", [(605, 488), (605, 1), (1, 488), (1250, 488), (605, 1000)], ids=str)
def test_a_part_is_resized_with_what_surrounds_it(target: Size) -> None:
    pixels = slide_picture(2, (1250, 1000))
    left, top, right, bottom = 150.25, 50.5, 950.75, 850.5
    image = Image.fromarray(pixels).resize((target[0], 1000), Image.Resampling.BICUBIC, (left, 0, right, 1000))
    expected = np.asarray(image.resize(target, Image.Resampling.BICUBIC, (0, top, target[0], bottom)))
    for way, most in ((as_pillow, 0), (quick(), 2)):
        assert difference(way((pixels[:7], pixels[7:]), target, (left, top, right, bottom)), expected) <= most


def test_where_the_quick_package_is_missing_pillow_resizes() -> None:
    """Some systems, such as Linux on ARM, have no builds of the quick package."""
    program = (
        "import sys; sys.modules['cykooz_resizer'] = None; from himl_cli.slides.resampling import *; "
        "print(quick() is as_pillow)"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "True\n"
    )


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("target", [(120, 90), (40, 500), (500, 40), (1, 1)], ids=str)
def test_large_reductions_stay_close_to_the_filter_alone(target: Size) -> None:
    pixels = picture((2800, 2100))
    made, expected = fed(Resampler((2800, 2100), target), cut(pixels, [100, 33])), by_pillow(pixels, target)
    assert difference(made, expected) <= 3
    assert np.abs(made.astype(float) - expected).mean() < (0.25 if target != (1, 1) else 3)


def test_large_reductions_treat_edges_as_pillow_does() -> None:
    source, target = (2803, 2309), (93, 77)
    pixels: NDArray[np.uint8] = np.zeros((source[1], source[0], 3), np.uint8)
    pixels[-2:] = 255
    pixels[:, -2:] = 255
    expected = np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.BICUBIC, reducing_gap=resampling.GAP))
    made = fed(Resampler(source, target), cut(pixels, [64]))
    assert difference(made, expected) <= 1
    assert made[:, -1].max() > 0 == made[:-2, :-2].max()


@pytest.mark.parametrize(("source", "target"), LONG, ids=str)
@WAYS
def test_one_colour_stays_that_colour_however_long_the_sums(source: Size, target: Size, way: Bicubic | None) -> None:
    pixels: NDArray[np.uint8] = np.full((source[1], source[0], 3), 251, np.uint8)
    assert (fed(Resampler(source, target, way), cut(pixels, [70_000])) == 251).all()


def test_wrong_numbers_of_rows_are_refused() -> None:
    resampler = Resampler((2500, 2000), (1000, 800))
    list(resampler.stream(np.zeros((1999, 2500, 3), np.uint8)))
    with pytest.raises(ValueError, match="Got only 1999 of 2000 rows"):
        resampler.finish()
    with pytest.raises(ValueError, match="Got 2001 rows instead of 2000"):
        list(resampler.stream(np.zeros((2, 2500, 3), np.uint8)))
    list(resampler.stream(np.zeros((1, 2500, 3), np.uint8)))
    resampler.finish()
    with pytest.raises(ValueError, match="0 x 5 to 3 x 3"):
        Resampler((0, 5), (3, 3))
    pixels = picture((30, 20))
    for height, said in ((21, "Got only 20 of 21 rows"), (19, "Got 20 rows instead of 19")):
        with pytest.raises(ValueError, match=said):
            pull(resized(cut(pixels, [20]), (30, height), (10, 10)), (10, 1))
    pulled = resized(cut(pixels, [7]), (30, 20), (10, 10))
    pull(pulled, (10, 9))
    with pytest.raises(ValueError, match="11 rows were requested, but there are 10"):
        pull(pulled, (10, 2))

    def strips() -> Iterator[NDArray[np.uint8]]:
        yield pixels[:5]
        raise OSError("the tile is gone")

    with pytest.raises(OSError, match="the tile is gone"):
        pull(resized(strips(), (30, 20), (10, 10)), (10, 1))


def test_strips_are_read_no_further_than_needed_and_let_go_of() -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []

    def strip() -> NDArray[np.uint8]:
        assert not [each for each in alive if each() is not None]
        made: NDArray[np.uint8] = np.zeros((100, 2500, 3), np.uint8)
        alive.append(weakref.ref(made))
        return made

    pulled = resized((strip() for _ in range(20)), (2500, 2000), (1250, 1000))
    pull(pulled, (1250, 100))
    assert len(alive) == 3
    pull(pulled, (1250, 900))
    assert len(alive) == 20


Kind = type[PngFile] | type[JpegFile]
both_kinds = pytest.mark.parametrize("kind", [PngFile, JpegFile])


def shades(size: Size) -> NDArray[np.uint8]:
    """Return a picture with slopes, a plain field, hard edges and noise, which differ in each row."""
    width, height = size
    x, y = (
        np.arange(side).astype(np.uint8)[:, None] * np.array(steps, np.uint8)
        for side, steps in ((width, (1, 2, 3)), (height, (3, 1, 2)))
    )
    pixels: NDArray[np.uint8] = x[None] + y[:, None]
    pixels[height // 3 : height // 2] = 255
    noisy = pixels[:, width // 2 : width * 3 // 4]
    noisy[:] = np.random.default_rng(width * 7 + height).integers(0, 256, noisy.shape, dtype=np.uint8)
    return pixels


def put(sink: PngFile | JpegFile | DeepZoom, pixels: NDArray[np.uint8], heights: Sequence[int] = (33,)) -> None:
    """Write *pixels* in bands of these heights, repeated in turn, and finish."""
    top = 0
    for height in cycle(heights):
        sink.write(pixels[top : top + height])
        top += height
        if top >= len(pixels):
            break
    sink.finish()


def by_vips(path: Path) -> NDArray[np.uint8]:
    image = pyvips.Image.new_from_file(str(path), access="sequential", fail_on="warning")
    return np.asarray(image.numpy())


@contextmanager
def busy_pool() -> Iterator[Pool]:
    """Yield a pool whose thread is busy until the end."""
    begun, may_end = Barrier(2), Event()
    with Pool(1) as pool:
        pool.submit(lambda: (begun.wait(), may_end.wait()))
        begun.wait()
        try:
            yield pool
        finally:
            may_end.set()


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(3) as threads:
        yield threads


def decoded(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def in_one_go(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return decoded(buffer.getvalue())


@both_kinds
@pytest.mark.parametrize("size", [(1, 1), (257, 131), (1100, 800), (1, 65_500), (65_500, 64)], ids=str)
def test_pictures_have_the_pixels_of_one_go(kind: Kind, size: Size, tmp_path: Path, pool: Pool) -> None:
    pixels, path = shades(size), tmp_path / "x"
    wanted = pixels if kind is PngFile else in_one_go(pixels)
    for heights in ((70_000,), (1, 100, 33)):
        put(kind(path, size, pool), pixels, heights)
        assert np.array_equal(decoded(path.read_bytes()), wanted)
        assert np.array_equal(by_vips(path), wanted)
    put(kind(path, size, pool), np.full_like(pixels, 255), (256,))
    assert path.stat().st_size < pixels.nbytes / 100 or size != (1100, 800)


# Pictures that begin with three equal pixels, so that the encoder finds a match near the start.
DIGEST_OF_PNGS = """
import hashlib
import numpy as np
from himl_cli.slides.encoding import encode_png

random, digest = np.random.default_rng(5), hashlib.sha256()
for _ in range(20_000):
    pixels = random.integers(0, 24, (2, 60, 3), np.uint8)
    pixels[0, :3] = random.integers(0, 256, 3)
    digest.update(encode_png(pixels))
print(digest.hexdigest())
"""


@pytest.mark.large("starts a process for each case")
def test_equal_pixels_have_equal_files_in_each_process() -> None:
    """ISA-L's output may depend on addresses, which the system draws for each process."""
    started = [
        subprocess.Popen([sys.executable, "-c", DIGEST_OF_PNGS], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    digests = {process.communicate()[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(digests) == 1


def test_strips_are_joined_by_restart_markers(tmp_path: Path, pool: Pool) -> None:
    """Each strip is a whole number of rows of blocks.

    Markers count from 0 to 7 repeatedly, and the header has the interval.
    """
    size, path = (65_500, 32 * 10 + 5), tmp_path / "x.jpg"
    put(JpegFile(path, size, pool), np.tile(shades((655, size[1])), (1, 100, 1)), (100,))
    content = path.read_bytes()
    (interval,) = re.findall(rb"\xff\xdd\x00\x04(..)", content, re.DOTALL)
    assert int.from_bytes(interval, "big") == 2 * -(-65_500 // 16)
    data = content[content.index(b"\xff\xda") :]
    assert [marker - 0xD0 for marker in re.findall(rb"\xff([\xd0-\xd7])", data) for marker in marker] == [
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        0,
        1,
    ]
    assert content.count(b"\xff\xd8") == content.count(b"\xff\xd9") == 1


@pytest.mark.large("encodes large pictures")
@pytest.mark.parametrize("size", [(70_000, 90), (20, 66_000)], ids=str)
def test_a_jpeg_that_would_be_too_long_is_scaled_to_fit(size: Size, tmp_path: Path, pool: Pool) -> None:
    sizes = {
        (500, 400): (500, 400),
        (65_500, 65_500): (65_500, 65_500),
        (65_501, 40_000): (65_500, 39_999),
        (100_000, 200_000): (32_750, 65_500),
    }
    sizes |= {(200_000, 1): (65_500, 1), (70_000, 35_001): (65_500, 32_751)}
    assert {size: JpegFile.size_for(size) for size in sizes} == sizes
    pixels = shades(size)
    for kind, name in SINKS.values():
        put(kind(tmp_path / name, size, pool), pixels, (7, 128))
    assert np.array_equal(decoded((tmp_path / "montage.png").read_bytes()), pixels)
    assert f'Width="{size[0]}" Height="{size[1]}"' in (tmp_path / "montage.dzi").read_text()
    scaled = in_one_go(np.concatenate([*Resampler(size, JpegFile.size_for(size)).stream(pixels)]))
    made = decoded((tmp_path / "montage.jpg").read_bytes())
    assert made.shape[1::-1] == JpegFile.size_for(size)
    # If the resized picture differs by a grey level, its block of the JPEG file differs a little.
    difference = np.abs(made.astype(int) - scaled)
    assert difference.mean() < 0.1
    assert difference.max() < 25


def test_a_pool_that_is_busy_holds_nothing_up(tmp_path: Path) -> None:
    for kind, size in ((PngFile, (1000, 800)), (JpegFile, (1000, 800)), (JpegFile, (70_000, 40))):
        with busy_pool() as pool:
            put(kind(tmp_path / "x", size, pool), shades(size), (100,))
        assert by_vips(tmp_path / "x").shape[:2] == (size if kind is PngFile else JpegFile.size_for(size))[::-1]


def test_what_does_not_fit_is_refused_and_checksums_put_together(tmp_path: Path, pool: Pool) -> None:
    jpeg = JpegFile(tmp_path / "x.jpg", (30, 20), pool)
    with pytest.raises(ValueError, match="Got 21 rows instead of 20"):
        jpeg.write(np.zeros((21, 30, 3), np.uint8))
    jpeg.write(np.zeros((19, 30, 3), np.uint8))
    with pytest.raises(ValueError, match="Got only 19 of 20 rows"):
        jpeg.finish()
    jpeg.abort()
    for first, second in (
        (b"", b""),
        (b"", b"abc"),
        (b"abc", b""),
        (b"\xff" * 70_000, b"\xff" * 200_003),
        (b"\x00" * 65_521, b"a" * 65_521),
    ):
        assert combined_adler32(zlib.adler32(first), zlib.adler32(second), len(second)) == zlib.adler32(first + second)


@both_kinds
def test_a_picture_that_cannot_be_written_or_is_given_up_is_closed(
    kind: Kind, tmp_path: Path, pool: Pool, read_only: Callable[[Path], Path]
) -> None:
    (tmp_path / "fixed").mkdir()
    with pytest.raises(DiskFailed, match=r"^Cannot write '.*fixed.x': .+\.$"):
        kind(read_only(tmp_path / "fixed") / "x", (20, 10), pool)
    with pytest.raises(DiskFailed, match="No such file or directory"):
        kind(tmp_path / "none" / "x", (20, 10), pool)
    pixels, path = shades((2000, 1500)), tmp_path / "x"
    with busy_pool() as pool:
        sink = kind(path, (2000, 1500), pool)
        sink.write(pixels[:700])
        sink.abort()
        left = path.read_bytes()
        path.unlink()  # which Windows refuses for an open file
        sink.abort()
    assert len(left) < pixels.nbytes
    assert not path.exists()


@both_kinds
def test_a_new_picture_replaces_what_had_its_name(kind: Kind, tmp_path: Path, pool: Pool) -> None:
    white: NDArray[np.uint8] = np.full((10, 20, 3), 255, np.uint8)
    path, other = tmp_path / ("\udcff\udce9" if sys.platform == "linux" else "x"), tmp_path / "other"
    other.write_bytes(b"kept" * 10_000)
    os.link(other, path)
    sink = kind(path, (20, 10), pool)
    put(sink, white, (10,))
    complete = path.read_bytes()
    assert np.array_equal(decoded(complete), white)
    assert other.read_bytes() == b"kept" * 10_000
    sink.abort()
    assert path.read_bytes() == complete


def halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the means of all blocks of 2 x 2 pixels, computed with floats."""
    height, width, _ = pixels.shape
    padded = np.full((height + height % 2, width + width % 2, 3), np.nan)
    padded[:height, :width] = pixels
    blocks = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2, 3)
    return np.floor(np.nanmean(blocks, axis=(1, 3)) + 0.5).astype(np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (510, 510), (511, 512), (1021, 1019), (1531, 7), (3, 2049)], ids=str)
def test_tiles_are_those_of_the_whole_picture(tmp_path: Path, pool: Pool, size: tuple[int, int]) -> None:
    pixels, names = shades(size), {"montage.dzi"}
    sinks = [DeepZoom(tmp_path / str(number), size, pool) for number in range(3)]
    for sink, heights in zip(sinks, ((3000,), (1, 1, 1, 2000), (509, 1, 1, 2, 507, 3)), strict=True):
        put(sink, pixels, heights)
        sink.abort()
    tiling = sinks[0].tiling
    for level in reversed(range(tiling.levels)):
        columns, rows = tiling.grid_of(level)
        for column, row in ((column, row) for row in range(rows) for column in range(columns)):
            x, y = max(0, column * 510 - 1), max(0, row * 510 - 1)
            shown = np.ascontiguousarray(pixels[y : row * 510 + 511, x : column * 510 + 511])
            expected = imagecodecs.jpeg8_encode(shown, level=90, subsampling="420")
            names.add(tiling.name_of(level, column, row))
            assert (tmp_path / "0" / tiling.name_of(level, column, row)).read_bytes() == expected, (level, column, row)
        pixels = halved(pixels)
    assert pixels.shape == (1, 1, 3)
    assert contents(tmp_path / "0").keys() == names
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "2")
    assert (tmp_path / "0" / "montage.dzi").read_text() == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpg" Overlap="1" TileSize="510">\n'
        f'  <Size Width="{size[0]}" Height="{size[1]}"/>\n</Image>\n'
    )


def test_stopping_makes_no_more_tiles(tmp_path: Path) -> None:
    with busy_pool() as pool:
        sink = DeepZoom(tmp_path, (2000, 1000), pool)
        sink.write(shades((2000, 511)))
        sink.abort()
    assert set(contents(tmp_path)) == set()
    sink.abort()


def test_a_folder_or_page_that_cannot_be_written_is_told(tmp_path: Path, pool: Pool) -> None:
    (tmp_path / "montage_files").write_text("in the way")
    with pytest.raises(DiskFailed, match=r"Cannot create the folder '.*montage_files"):
        DeepZoom(tmp_path, (80, 100), pool)
    with pytest.raises(DiskFailed, match=r"Cannot write '.*index\.html'"):
        page_of(tmp_path / "nowhere" / "index.html", "")


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\u2028\u2029",
    "a\"b'c&amp;",
    "{{data}}",
    "]]>",
    "bad\udcffname",
    "\ud83d",
    "🔬",
    "שקופית",
]


def page_of(path: Path, text: str, title: str = "Montage") -> tuple[str, str]:
    """Return the data of a page with one cell, whose texts are *text*, and the rest of the page without data and
    title.
    """
    texts: Any = {"image": f"{text}.tiff", "label": text, "backend": "openslide", "reason": text, "remark": text}
    write_page(
        path,
        Tiling((900, 600)),
        [CellOutcome(text, column=0, row=0, box=Box(0, 0, 300, 200), picture=None, level=None, is_ok=False, **texts)],
        title,
    )
    page = path.read_text(encoding="utf-8")
    before, start, rest = page.partition('<script type="application/json" id="montage">')
    data, end, after = rest.partition("</script>")
    escaped = html.escape(json.loads(data)["title"])
    assert before.count(f"<title>{escaped}</title>") == before.count(f"<h1>{escaped}</h1>") == 1
    return data, before.replace(f">{escaped}<", "><") + start + end + after


def test_a_page_has_no_markup_of_others_and_asks_for_nothing(tmp_path: Path) -> None:
    _, plain = page_of(tmp_path / "plain.html", "one")
    for text in HOSTILE:
        found, rest = page_of(tmp_path / "index.html", text, text)
        expected = {"bad\udcffname": "bad\\xffname", "\ud83d": "\\ud83d"}.get(text, text)
        assert (rest, re.findall("[<>&]", found)) == (plain, [])
        data = json.loads(found)
        assert data["title"] == expected
        assert data["cells"] == [
            [expected, expected, 0, 0, 300, 200, None, 0, f"{expected}.tiff", "openslide", expected, expected]
        ]
    assert re.findall('(?:src|href|action)="([^"]*)"', plain.partition("<script")[0]) == ["data:,"]
    assert "sourceMappingURL" not in plain
    assert (
        'http-equiv="Content-Security-Policy" content="default-src &#x27;none&#x27;; script-src &#x27;sha256-' in plain
    )
    licence, library = asset("openseadragon-LICENSE.txt"), asset("openseadragon.min.js")
    assert licence.startswith("Copyright (C) 2009 CodePlex Foundation")
    assert licence in plain
    assert "//! openseadragon 6.1.1" in library
    assert not re.search("</script|<!--", library, re.IGNORECASE)
