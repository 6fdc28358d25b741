from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from himl_cli.core.errors import BadUsage
from himl_cli.core.montage import Backend, Size, SlideUnreadable
from himl_cli.services.montage.slides import check_backend, open_slide
from tests.support.slides import KINDS, SIZE, not_utf8_name, pyramid, slide_picture, write_kind, write_svs, write_tiff

WHITE = (255, 255, 255)
OPENSLIDE_READS = ["jpeg-pyramid", "lzw-predictor", "uncompressed-pyramid", "factor-4-pyramid", "bigtiff", "ycbcr-subsampled", "rgba", "cmyk", "planar"]
OPENSLIDE_READS += ["palette", "white-is-zero", "grey", "16-bit", "svs"]


def read(path: Path, level: int = 0, backend: Backend = Backend.auto) -> NDArray[np.uint8]:
    """The whole level, whose strips are what the protocol says."""
    slide = open_slide(path, backend)
    try:
        width, height = slide.levels[level]
        strips = list(slide.strips(level, WHITE))
    finally:
        slide.close()
    assert all(strip.dtype == np.uint8 and strip.flags.c_contiguous and strip.shape[1:] == (width, 3) and len(strip) for strip in strips)
    whole: NDArray[np.uint8] = np.concatenate(strips)
    assert len(whole) == height
    return whole


def facts(path: Path, backend: Backend = Backend.auto) -> tuple[str, list[Size]]:
    slide = open_slide(path, backend)
    slide.close()
    return slide.backend, list(slide.levels)


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_what_was_put_in(tmp_path: Path, kind: str) -> None:
    path = write_kind(kind, tmp_path, seed=3)
    expected = KINDS[kind].seen(slide_picture(3))
    assert facts(path)[1] == [level.shape[1::-1] for level in pyramid(expected, KINDS[kind].levels, 4 if kind == "factor-4-pyramid" else 2)]
    assert difference(read(path), expected) <= KINDS[kind].tolerance


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        ("jpeg-pyramid", "tifffile"),
        ("striped", "tifffile"),
        ("jpeg2000", "tifffile"),
        ("svs", "openslide"),
        ("png", "pillow"),
        ("jpeg", "pillow"),
        ("jp2", "pillow"),
    ],
)
def test_each_format_is_read_by_what_reads_it_best(tmp_path: Path, kind: str, backend: str) -> None:
    assert facts(write_kind(kind, tmp_path))[0] == backend


@pytest.mark.parametrize("kind", OPENSLIDE_READS)
def test_tifffile_and_openslide_read_same_levels_and_pixels(tmp_path: Path, kind: str) -> None:
    path = write_kind(kind, tmp_path)
    sizes = facts(path, Backend.tifffile)[1]
    assert facts(path, Backend.openslide) == ("openslide", sizes)
    for level in range(len(sizes)):
        assert difference(read(path, level, Backend.tifffile), read(path, level, Backend.openslide)) < 0.3


def test_subifd_levels_are_read_where_openslide_finds_none(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    made = write_tiff(path, slide_picture(1), levels=3, subifds=True, compression="deflate")
    assert facts(path, Backend.openslide)[1] == [SIZE]
    assert facts(path)[1] == [level.shape[1::-1] for level in made]
    assert difference(read(path, 2), made[2]) == 0


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_first_page_in_strips_may_have_levels_in_tiles(tmp_path: Path, compression: str | None, below: bool) -> None:
    """A thumbnail in strips among them is none; of strips alone all are levels."""
    made = pyramid(slide_picture(1), 3, 2)
    path, strips = tmp_path / "slide.tiff", tmp_path / "strips.tiff"
    with tifffile.TiffWriter(path) as file:
        file.write(made[0], photometric="rgb", compression=compression, metadata=None, subifds=3 if below else None)
        for level in made[1:]:
            file.write(level, photometric="rgb", tile=(64, 64), compression="deflate", subfiletype=1, metadata=None)
        file.write(slide_picture(2, (90, 60)), photometric="rgb", subfiletype=1, metadata=None)
    assert facts(path)[1] == [level.shape[1::-1] for level in made]
    for number, level in enumerate(made):
        assert difference(read(path, number), level) == 0
    write_tiff(strips, slide_picture(1), levels=3, tile=None, compression=compression, subifds=below)
    assert facts(strips)[1] == facts(path)[1]


def test_a_page_that_says_nothing_of_being_reduced_is_no_level(tmp_path: Path) -> None:
    """Other pictures, of another focus say, may follow."""
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(1), levels=2)
    tifffile.imwrite(path, slide_picture(2), append=True, tile=(256, 256), photometric="rgb", metadata=None)
    assert facts(path)[1] == facts(path, Backend.openslide)[1] == [SIZE, (300, 215)]


def test_thumbnail_label_and_macro_of_an_svs_are_no_levels(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    made = write_svs(path, slide_picture(1), levels=3)
    for backend in (Backend.openslide, Backend.tifffile):
        for level, picture in enumerate(made):
            assert difference(read(path, level, backend), picture) < 5


def test_an_svs_that_openslide_refuses_is_read_by_tifffile(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    write_tiff(path, slide_picture(1), compression="webp", description="Aperio Image Library v11.2.1\r\n600x430")
    with pytest.raises(SlideUnreadable, match="Unsupported TIFF compression"):
        open_slide(path, Backend.openslide)
    assert facts(path)[0] == "tifffile"
    assert difference(read(path), slide_picture(1)) < 6


def test_openslide_reads_fractional_downsample_exactly(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    made = write_tiff(path, slide_picture(1, (2001, 1501)), levels=2, factor=4, compression="deflate")
    assert difference(read(path, 1, Backend.openslide), made[1]) == 0


def test_a_level_that_openslide_gives_in_several_strips_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    picture = np.tile(slide_picture(1, (700, 360)), (6, 6, 1))
    write_tiff(path, picture, compression="deflate", tile=240)
    slide = open_slide(path, Backend.openslide)
    strips = list(slide.strips(0, WHITE))
    slide.close()
    assert len(strips) > 1
    assert difference(np.concatenate(strips), picture) == 0


@pytest.mark.parametrize(
    ("kind", "reason"), [("striped", "OpenSlide knows no such format"), ("png", "OpenSlide knows no such format"), ("jpeg2000", "compression")]
)
def test_an_explicit_backend_stands_alone(tmp_path: Path, kind: str, reason: str) -> None:
    with pytest.raises(SlideUnreadable, match=reason):
        open_slide(write_kind(kind, tmp_path), Backend.openslide)


def test_tifffile_reads_tiffs_only(tmp_path: Path) -> None:
    with pytest.raises(SlideUnreadable, match="it is no TIFF"):
        open_slide(write_kind("png", tmp_path), Backend.tifffile)


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 there")
@pytest.mark.parametrize("kind", ["jpeg-pyramid", "svs", "png", "jpeg"])
def test_names_may_be_any_bytes(tmp_path: Path, kind: str) -> None:
    path = write_kind(kind, tmp_path).rename(tmp_path / not_utf8_name(KINDS[kind].suffix))
    assert os.fsencode(path.name).startswith(b"slide-\xff")
    assert difference(read(path), slide_picture(0)) <= KINDS[kind].tolerance


@pytest.mark.parametrize("kind", ["jpeg-pyramid", "png", "svs"])
def test_the_content_counts_not_the_ending(tmp_path: Path, kind: str) -> None:
    path = write_kind(kind, tmp_path).rename(tmp_path / "slide.jpg")
    assert difference(read(path), slide_picture(0)) <= KINDS[kind].tolerance


def test_closing_frees_the_file(tmp_path: Path) -> None:
    for kind in ("jpeg-pyramid", "svs", "png"):
        path = write_kind(kind, tmp_path)
        before = _open_files(path)
        slide = open_slide(path, Backend.auto)
        next(iter(slide.strips(0, WHITE)))
        slide.close()
        assert _open_files(path) == before


def _open_files(path: Path) -> int:
    """How many handles of this process lead to it, where that can be told."""
    handles = Path("/proc/self/fd")
    return sum(handle.resolve() == path.resolve() for handle in handles.iterdir()) if handles.is_dir() else 0


def test_backend_check_passes_or_names_package_to_install() -> None:
    for backend in (Backend.auto, Backend.tifffile, Backend.openslide):
        check_backend(backend)
    try:
        import cucim  # noqa: F401
    except ImportError:
        with pytest.raises(BadUsage, match="Backend 'cucim' needs a package that cannot be loaded here") as caught:
            check_backend(Backend.cucim)
        assert "pip install cucim-cu12" in caught.value.hint
    else:
        check_backend(Backend.cucim)
