"""Tests of slides of all kinds: readers, levels and intended colours, and the reasons for refusing damaged ones."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import platform
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL
import pytest
import tifffile
from numpy.typing import NDArray
from packaging.version import Version
from PIL import Image, ImageCms

from himl_cli.core.errors import BadUsage
from himl_cli.slides.pictures import check_backend, level_for, open_slide
from himl_cli.slides.readers import LARGEST, MaskRule, factor_between, levels_among
from himl_cli.slides.slide_records import Backend, Colour, Size, SlideUnreadable
from himl_cli.slides.tiff import STRIP_BYTES, TiffSlide, stored_size
from tests.support import cucim, slides
from tests.support.slides import (
    KINDS,
    SIZE,
    change_tiles,
    mean_difference,
    move_tile,
    overwrite_tags,
    read_slide,
    slide_picture,
    write_broken,
    write_kind,
    write_tiff,
)

BLUE: Colour = (20, 60, 200)
OPENSLIDE_READS = [
    "jpeg-pyramid",
    "lzw-predictor",
    "uncompressed-pyramid",
    "factor-4-pyramid",
    "bigtiff",
    "ycbcr-subsampled",
    "rgba",
    "cmyk",
    "planar",
]
OPENSLIDE_READS += ["palette", "white-is-zero", "grey", "16-bit", "svs"]


def facts(path: Path, backend: Backend = Backend.auto) -> tuple[str, list[Size]]:
    slide = open_slide(path, backend)
    slide.close()
    return slide.backend, list(slide.levels)


def sizes(levels: Sequence[NDArray[Any]]) -> list[Size]:
    return [level.shape[1::-1] for level in levels]


def write_grey(path: Path, samples: NDArray[Any], **options: Any) -> Path:
    write_tiff(path, samples, photometric="minisblack", tile=64, compression=None, **options)
    return path


@pytest.mark.large("reads each kind of picture")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_what_was_put_in(tmp_path: Path, kind: str) -> None:
    path, expected = write_kind(kind, tmp_path, seed=3), KINDS[kind].seen(slide_picture(3))
    backend, levels = facts(path)
    assert backend == {".tiff": "tifffile", ".svs": "openslide"}.get(path.suffix, "pillow")
    assert levels == sizes(slides.pyramid(expected, KINDS[kind].levels, 4 if kind == "factor-4-pyramid" else 2))
    assert mean_difference(read_slide(path), expected) <= KINDS[kind].tolerance
    if kind in OPENSLIDE_READS:
        assert (facts(path, Backend.tifffile), facts(path, Backend.openslide)) == (
            ("tifffile", levels),
            ("openslide", levels),
        )
        for level in {0, len(levels) - 1}:
            one, other = (
                read_slide(path, backend=backend, level=level) for backend in (Backend.tifffile, Backend.openslide)
            )
            assert mean_difference(one, other) < 0.3


def test_only_reductions_are_levels(tmp_path: Path) -> None:
    """Levels may be below the first page, where OpenSlide finds none.

    Other pages that are not marked as reductions, such as another focus, may follow.
    """
    path = tmp_path / "slide.tiff"
    made = write_tiff(path, slide_picture(1), levels=3, subifds=True, compression="deflate")
    assert (facts(path)[1], facts(path, Backend.openslide)[1]) == (sizes(made), [SIZE])
    assert mean_difference(read_slide(path, level=2), made[2]) == 0
    write_tiff(path, slide_picture(1), levels=2)
    tifffile.imwrite(path, slide_picture(2), append=True, tile=(256, 256), photometric="rgb", metadata=None)
    assert facts(path)[1] == facts(path, Backend.openslide)[1] == [SIZE, (300, 215)]


# Of Tumor_054 in CAMELYON16, OpenSlide lists 97792 x 221184, the sides of levels 1 to 9 without padding, and tiles of
# 512 (https://github.com/Bayer-Group/tiffslide/issues/77). Its mask, which OpenSlide reads as a generic TIFF, has the
# padded sides 49152 x 110592, 24576 x 55296, 12288 x 27648 and 1536 x 3584. The others follow from tiles of 512.
# PANDA: https://hi-ml.readthedocs.io/en/latest/whole_slide_images.html. CMU-1: https://openslide.org/demo.
PUBLIC: Mapping[str, Mapping[float, Size]] = {
    "CAMELYON16, padded to whole tiles": {
        1: (97792, 221184),
        2: (49152, 110592),
        4: (24576, 55296),
        8: (12288, 27648),
        16: (6144, 13824),
        32: (3072, 7168),
        64: (1536, 3584),
        128: (1024, 2048),
        256: (512, 1024),
        512: (512, 512),
    },
    "Aperio CMU-1": {1: (46000, 32914), 4: (11500, 8228), 16: (2875, 2057)},
    "Hamamatsu CMU-1": {
        1: (51200, 38144),
        2: (25600, 19072),
        4: (12800, 9536),
        8: (6400, 4768),
        64: (800, 596),
        256: (200, 149),
    },
    "PANDA": {1: (27648, 29440), 4: (6912, 7360), 16: (1728, 1840)},
    "halved down to a pixel": {
        1: (1023, 777),
        2: (511, 388),
        4: (255, 194),
        8: (127, 97),
        16: (63, 48),
        32: (31, 24),
        64: (15, 12),
        128: (7, 6),
    },
    "thirds": {1: (1000, 700), 3: (333, 233), 9: (111, 78)},
    "no integer": {1: (1000, 700), 2.5: (400, 280)},
}


@pytest.mark.parametrize("name", PUBLIC)
def test_factors_are_those_of_public_pyramids(name: str) -> None:
    sizes = [*PUBLIC[name].values()]
    assert [factor_between(sizes[0], size) for size in sizes] == [*PUBLIC[name]]
    others: list[Size] = [(1280, 421), (387, 463), (160, 60)]
    assert levels_among([*sizes, *others]) == [*range(len(sizes))]


@pytest.mark.parametrize("backend", [Backend.auto, Backend.openslide, Backend.tifffile])
def test_labels_that_are_marked_as_reductions_are_no_levels(tmp_path: Path, backend: Backend) -> None:
    """Their tiles or names make no difference. Padded levels remain."""
    path, picture = tmp_path / "slide.tiff", slide_picture(1, (768, 512))
    padded = np.pad(picture[::2, ::2], ((0, 0), (0, 128), (0, 0)), constant_values=255)
    levels = (picture, padded, picture[::4, ::4])
    others: list[tuple[NDArray[Any], str]] = [(slide_picture(2, (160, 60)), "")]
    if backend is not Backend.openslide:  # it rejects most orders of such pages
        others += [
            (slide_picture(2, (90, 200)), ""),
            (slide_picture(2, (64, 64)), ""),
            (picture[::3, ::3], "Label"),
            (picture[::6, ::6], "macro 128x85"),
        ]
    for maker in ("", "Aperio Image Library v11.2.1\r\n"):
        with tifffile.TiffWriter(path) as file:
            for number, (pixels, text) in enumerate([(picture, "768x512"), (padded, ""), (levels[2], ""), *others]):
                side = 256 if pixels is padded else 64
                file.write(
                    pixels,
                    tile=(side, side),
                    photometric="rgb",
                    metadata=None,
                    description=maker + text,
                    subfiletype=int(number > 0),
                )
        assert facts(path, backend)[1] == sizes(levels)
        assert [
            mean_difference(read_slide(path, backend=backend, level=number), level)
            for number, level in enumerate(levels)
        ] == [0, 0, 0]


def test_a_preview_before_the_slide_is_not_level_0(tmp_path: Path) -> None:
    path, made = tmp_path / "slide.ome.tiff", slides.pyramid(slide_picture(1), 3)
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(slide_picture(2, (160, 60)), photometric="rgb", metadata={"axes": "YXS", "Name": "macro"})
        file.write(made[0], tile=(64, 64), photometric="rgb", subifds=2, metadata={"axes": "YXS", "Name": "slide"})
        for level in made[1:]:
            file.write(level, tile=(64, 64), photometric="rgb", subfiletype=1, metadata=None)
    assert facts(path)[1] == sizes(made)
    assert mean_difference(read_slide(path), made[0]) == 0


@pytest.mark.parametrize(("compression", "below"), [(None, True), ("deflate", False)])
def test_a_first_page_in_strips_may_have_levels_in_tiles(tmp_path: Path, compression: str | None, below: bool) -> None:
    """A thumbnail in strips is not a level of a tiled pyramid. If all pages are in strips, all are levels."""
    made = slides.pyramid(slide_picture(1), 3, 2)
    path, strips = tmp_path / "slide.tiff", tmp_path / "strips.tiff"
    with tifffile.TiffWriter(path) as file:
        file.write(made[0], photometric="rgb", compression=compression, metadata=None, subifds=3 if below else None)
        for level in made[1:]:
            file.write(level, photometric="rgb", tile=(64, 64), compression="deflate", subfiletype=1, metadata=None)
        file.write(slide_picture(2, (90, 60)), photometric="rgb", subfiletype=1, metadata=None)
    write_tiff(strips, slide_picture(1), levels=3, tile=None, compression=compression, subifds=below)
    assert facts(path)[1] == facts(strips)[1] == sizes(made)
    assert [mean_difference(read_slide(path, level=number), level) for number, level in enumerate(made)] == [0, 0, 0]


@pytest.mark.large("takes long, and other tests run its branches")
def test_thumbnail_label_and_macro_of_an_svs_are_no_levels(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    made = slides.write_svs(path, slide_picture(1), levels=3)
    for backend in (Backend.openslide, Backend.tifffile):
        assert (
            max(
                mean_difference(read_slide(path, backend=backend, level=level), picture)
                for level, picture in enumerate(made)
            )
            < 5
        )
    assert mean_difference(read_slide(path, BLUE), read_slide(path, None)) == 0
    write_tiff(path, slide_picture(1), compression="webp", description="Aperio Image Library v11.2.1\r\n600x430")
    with pytest.raises(SlideUnreadable, match="Unsupported TIFF compression"):
        open_slide(path, Backend.openslide)
    assert facts(path)[0] == "tifffile"
    assert mean_difference(read_slide(path), slide_picture(1)) < 6


@pytest.mark.large("reads large pictures")
def test_openslide_reads_in_strips_and_fractional_downsamples_exactly(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    made = write_tiff(path, slide_picture(1, (2001, 1501)), levels=2, factor=4, compression="deflate")
    assert mean_difference(read_slide(path, backend=Backend.openslide, level=1), made[1]) == 0
    picture = np.tile(slide_picture(1, (700, 240)), (9, 6, 1))
    write_tiff(path, picture, compression="deflate", tile=240)
    with closing(open_slide(path, Backend.openslide)) as slide:
        strips = list(slide.strips(0, None))
    assert len(strips) > 1
    assert np.array_equal(np.concatenate(strips), picture)


def test_a_dicom_series_is_a_pyramid(tmp_path: Path) -> None:
    made = [slide_picture(1)[:: 2**number, :: 2**number] for number in range(3)]
    for number, picture in enumerate(made):
        slides.write_dicom(tmp_path / f"{number}.dcm", picture, "1.2.4", number + 1)
    assert facts(tmp_path / "1.dcm") == ("openslide", sizes(made))
    assert [
        mean_difference(read_slide(tmp_path / "2.dcm", level=number), picture) for number, picture in enumerate(made)
    ] == [0, 0, 0]


@pytest.mark.large("takes long, and other tests run its branches")
def test_an_explicit_backend_stands_alone(tmp_path: Path) -> None:
    for kind, backend, reason in (
        ("striped", Backend.openslide, "OpenSlide does not support its format"),
        ("png", Backend.openslide, "OpenSlide does not support its format"),
        ("jpeg2000", Backend.openslide, "compression"),
        ("png", Backend.tifffile, "it is not a TIFF"),
    ):
        with pytest.raises(SlideUnreadable, match=reason):
            open_slide(write_kind(kind, tmp_path), backend)
    for backend in (Backend.auto, Backend.tifffile, Backend.openslide):
        check_backend(backend)
    if importlib.util.find_spec("cucim") is None:
        with pytest.raises(BadUsage, match="Backend 'cucim' needs a package that cannot be loaded") as caught:
            check_backend(Backend.cucim)
        assert "pip install cucim-cu12" in caught.value.hint


COMMON = [
    "jpeg-pyramid",
    "deflate-pyramid",
    "lzw-predictor",
    "uncompressed-pyramid",
    "factor-4-pyramid",
    "ycbcr-subsampled",
]
COMMON += ["aperio-jpeg2000", "svs"]


@pytest.mark.large("reads each kind of picture once more")
def test_cucim_reads_common_tiffs_only(tmp_path: Path) -> None:
    """It gives wrong colours, fewer levels or a segmentation fault for others."""
    for kind in (kind for kind in KINDS if KINDS[kind].suffix == ".tiff"):
        with closing(TiffSlide(write_kind(kind, tmp_path))) as slide:
            assert slide.is_common == (kind in COMMON), kind
    sparse = tmp_path / "deflate-pyramid.tiff"
    move_tile(sparse, 3, b"")
    with closing(TiffSlide(sparse)) as slide:
        assert not slide.is_common


CUCIM_PIXELS = """
import json, sys
from pathlib import Path
import numpy as np
from himl_cli.slides.slide_records import Backend
from himl_cli.slides.slide_records import SlideUnreadable
from tests.support.slides import BROKEN, KINDS, open_slide, read_slide
found = {}
for kind in BROKEN:
    try:
        read_slide(Path(f"{kind}{BROKEN[kind][0]}"), backend=Backend.cucim)
        found[kind] = ""
    except SlideUnreadable as err:
        found[kind] = str(err)
for kind in KINDS:
    path = Path(f"{kind}{KINDS[kind].suffix}")
    slide = open_slide(path, Backend.cucim)
    differences = [
        int(np.abs(by_cucim.astype(int) - read_slide(path, level=level)).max())
        for level in range(len(slide.levels))
        for by_cucim in [read_slide(path, backend=Backend.cucim, level=level)]
    ]
    found[kind] = slide.backend, list(slide.remarks), differences
    slide.close()
print(json.dumps(found))
"""


@pytest.mark.large("fetches cuCIM")
@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="cuCIM has packages for Linux only"
)
@pytest.mark.skipif(not (3, 11) <= sys.version_info < (3, 14), reason="cuCIM has packages for these versions only")
def test_cucim_gives_the_pixels_of_the_other_readers(tmp_path: Path) -> None:
    """It reads in another process, which ends if cuCIM gets a file for which it fails."""
    for kind in KINDS:
        write_kind(kind, tmp_path)
    for kind in slides.BROKEN:
        write_broken(kind, tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parents[2], cucim.fetched())))}
    command = [sys.executable, "-c", CUCIM_PIXELS]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stderr[-500:]
    found = json.loads(ran.stdout)  # and nothing else, such as warnings of a decoder
    assert {kind for kind in slides.BROKEN if not found.pop(kind)} <= {"unreadable"}
    assert {kind for kind in KINDS if found[kind][0] == "cucim"} == {*COMMON}
    for kind, (backend, remarks, differences) in found.items():
        assert max(differences) <= (kind == "aperio-jpeg2000"), kind
        assert (backend != "cucim") == ("cuCIM does not read it" in remarks)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
def test_jpegs_with_reduced_colours_have_the_pixels_of_pillow_and_openslide(tmp_path: Path, subsampling: str) -> None:
    path, picture = tmp_path / "slide.tiff", slide_picture(0, (512, 384))
    stored = []
    for top in range(0, 384, 128):
        for left in range(0, 512, 128):
            stream = io.BytesIO()
            Image.fromarray(picture[top : top + 128, left : left + 128]).save(stream, "JPEG", subsampling=subsampling)
            stored.append(stream.getvalue())
    factors = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2), "4:1:1": (4, 1)}[subsampling]
    options: dict[str, Any] = {
        "tile": (128, 128),
        "photometric": "ycbcr",
        "compression": "jpeg",
        "subsampling": factors,
    }
    with tifffile.TiffWriter(path) as file:
        file.write(iter(stored), shape=picture.shape, dtype=np.uint8, metadata=None, **options)
    tiles = [np.asarray(Image.open(io.BytesIO(each))) for each in stored]
    expected = np.concatenate([np.concatenate(tiles[row * 4 : row * 4 + 4], axis=1) for row in range(3)])
    for backend in (Backend.auto, Backend.openslide):
        assert np.array_equal(read_slide(path, backend=backend), expected)


def test_reduced_colours_without_jpeg_are_refused(tmp_path: Path) -> None:
    """Each block has four values of brightness and two of colour, which no reader here unpacks."""
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0, (64, 64)), photometric="ycbcr", subsampling=(2, 2))
    overwrite_tags(path, {"Compression": 8})
    with pytest.raises(
        SlideUnreadable, match=r"unsupported format \(YCbCr with colours reduced by 2 x 2, without JPEG\)"
    ):
        open_slide(path, Backend.auto)


def test_planes_that_are_not_shown_are_named(tmp_path: Path) -> None:
    picture, path = slide_picture(0, (64, 48)), tmp_path / "slide.ome.tif"
    told = "only its first channels, focus and time point are shown"
    for axes, planes in (("CYX", np.moveaxis(picture, 2, 0)), ("ZYXS", np.stack([picture, picture])), ("YXS", picture)):
        tifffile.imwrite(
            path, planes, ome=True, metadata={"axes": axes}, photometric="rgb" if "S" in axes else "minisblack"
        )
        with closing(open_slide(path, Backend.auto)) as slide:
            assert slide.remarks == ([] if axes == "YXS" else [told])
    write_tiff(path, np.dstack([picture, picture[..., 0]]), extrasamples=["unspecified"], compression="deflate")
    with closing(open_slide(path, Backend.auto)) as slide:
        assert slide.remarks == [told]


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_a_png_of_16_bits_is_shown_like_the_tiff_of_its_samples(tmp_path: Path, channels: int) -> None:
    """Its values are small, and Pillow reads only the upper 8 bits of each."""
    samples = slides.with_alpha(slide_picture(0)).astype(np.uint16)[..., 4 - channels :] * 7
    samples[..., -1] *= 36 if channels != 3 else 1
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(samples))
    photometric = "minisblack" if channels == 2 else "rgb"
    more: dict[str, Any] = {} if channels == 3 else {"extrasamples": ["unassalpha"]}
    write_tiff(
        tmp_path / "a.tiff",
        samples,
        photometric=photometric,
        planarconfig="contig",
        compression=None,
        tile=None,
        **more,
    )
    for background in (BLUE, None):
        assert np.array_equal(read_slide(tmp_path / "a.png", background), read_slide(tmp_path / "a.tiff", background))
    assert np.array_equal(
        read_slide(tmp_path / "a.png", as_labels=True), read_slide(tmp_path / "a.tiff", as_labels=True)
    )
    with closing(open_slide(tmp_path / "a.png", Backend.auto)) as slide:
        list(slide.strips(0, None))
        assert [remark.partition(" (")[0] for remark in slide.remarks] == ["its own range of values is shown"]


def test_transparent_colours_of_a_mask_are_background(tmp_path: Path) -> None:
    labels = slides.mask_picture(0)
    for mode, name in (("P", "palette"), ("L", "grey")):
        image = Image.fromarray(labels)
        if mode == "P":
            image.putpalette([255, 255, 255, 200, 0, 0, 0, 0, 200, 9, 9, 9, 8, 8, 8, 7, 7, 7])
        image.save(tmp_path / f"{name}.png", transparency=3)
        expected = np.where(labels == 3, 0, labels)
        assert (read_slide(tmp_path / f"{name}.png", None, as_labels=True)[..., 0] == expected).all()


@pytest.mark.parametrize(("kind", "ending"), [("jpeg-pyramid", ".ndpi"), ("png", ".jpg"), ("svs", ".jpg")])
def test_the_content_counts_and_closing_frees_the_file(tmp_path: Path, kind: str, ending: str) -> None:
    path = write_kind(kind, tmp_path).rename(
        tmp_path / (slides.not_utf8_name(ending) if sys.platform == "linux" else f"slide{ending}")
    )
    with closing(open_slide(path, Backend.auto)) as slide:
        next(iter(slide.strips(0, None)))
    if sys.platform == "linux":
        assert [handle for handle in Path("/proc/self/fd").iterdir() if handle.resolve() == path.resolve()] == []
    assert mean_difference(read_slide(path), slide_picture(0)) <= KINDS[kind].tolerance


@pytest.mark.parametrize("premultiplied", [False, True])
def test_what_is_transparent_lies_on_the_background(tmp_path: Path, premultiplied: bool) -> None:
    path, rgba = tmp_path / "slide.tiff", slides.with_alpha(slide_picture(0), premultiplied=premultiplied)
    write_tiff(path, rgba, compression="deflate", extrasamples=["assocalpha" if premultiplied else "unassalpha"])
    for backend in (Backend.tifffile, Backend.openslide):
        assert (
            mean_difference(read_slide(path, BLUE, backend), slides.over(slides.with_alpha(slide_picture(0)), BLUE)) < 1
        )


@pytest.mark.large("takes long, and other tests run its branches")
def test_without_background_transparency_is_dropped(tmp_path: Path) -> None:
    tiff, png = tmp_path / "slide.tiff", tmp_path / "slide.png"
    rgba = slides.with_alpha(slide_picture(0))
    write_tiff(tiff, rgba, compression="deflate", extrasamples=["unassalpha"])
    Image.fromarray(rgba).save(png)
    for path in (tiff, png):
        assert mean_difference(read_slide(path, None), slide_picture(0)) == 0
        assert mean_difference(read_slide(path, BLUE), slides.over(rgba, BLUE)) < 0.6
    write_tiff(tiff, rgba, compression="deflate", extrasamples=["unspecified"])
    assert mean_difference(read_slide(tiff, BLUE), slide_picture(0)) == 0, (
        "a fourth sample that nobody calls alpha is left aside"
    )
    samples: NDArray[Any] = np.zeros((64, 64, 2), np.uint8)
    samples[:, 32:] = (100, 255)
    write_grey(tiff, samples, planarconfig="contig", extrasamples=["unassalpha"])
    image = Image.new("P", (64, 64))
    image.putpalette([0, 0, 0, 250, 10, 20])
    image.paste(1, (32, 0, 64, 64))
    image.save(png, transparency=0)
    for path, colour in ((tiff, (100, 100, 100)), (png, (250, 10, 20))):
        seen = read_slide(path, BLUE)
        assert (seen[:, :32] == BLUE).all()
        assert (seen[:, 32:] == colour).all()


def most(value: int) -> dict[str, Any]:
    return {"extratags": [(281, "H", 1, value, True)]}


@pytest.mark.parametrize(
    ("samples", "options", "expected"),
    [
        (np.array([0, 128, 129, 32896, 65534, 65535], np.uint16), {}, [0, 0, 1, 128, 255, 255]),
        (np.array([0, 2048, 4095, 65535], np.uint16), most(4095), [0, 128, 255, 255]),
        (np.array([0, 2048, 4095, 65535], np.uint16), most(3000), [0, 8, 16, 255]),
        (np.array([0, 0.5, 1, 1.005, np.nan, 0.1], np.float32), {}, [0, 128, 255, 255, 0, 26]),
        (
            np.array([0, 0.5, 1, 2, np.nan, -1], np.float32),
            {"extratags": [(340, "f", 1, -1.0, True), (341, "f", 1, 1.0, True)]},
            [128, 191, 255, 255, 0, 0],
        ),
        (np.array([False, True, True, False]), {}, [0, 255, 255, 0]),
        (np.array([0, 8, 250], np.uint32), most(255), [0, 8, 250]),
        (np.array([0, 8, 250], np.uint64), most(255), [0, 8, 250]),
    ],
)
def test_samples_are_scaled_by_range_or_as_the_file_says(
    tmp_path: Path, samples: NDArray[Any], options: dict[str, Any], expected: list[int]
) -> None:
    """MaxSampleValue gives the range only if it is the maximum of a number of bits."""
    path = write_grey(tmp_path / "slide.tiff", np.repeat(samples[None], 64, axis=0), **options)
    assert (read_slide(path) == np.array(expected)[None, :, None]).all()


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0, 510, 1275, 2550], np.uint16), [0, 51, 128, 255]),  # as of a fluorescence scanner
        (np.array([0, 1000, 2000, 4000], np.uint16), [0, 64, 128, 255]),  # 12 bits
        (np.array([0, 0.01, 0.02, 0.04], np.float32), [0, 64, 128, 255]),
        (np.array([-1, 0, 2, 3000], np.float32), [0, 0, 0, 255]),
        (np.array([0, 0, 0, 0], np.uint16), [0, 0, 0, 0]),
    ],
)
def test_samples_that_use_little_of_their_range_are_shown_with_their_own(
    tmp_path: Path, samples: NDArray[Any], expected: list[int]
) -> None:
    picture = np.tile(np.repeat(samples, 32), (128, 1))
    paths = [
        write_grey(tmp_path / "grey.tiff", picture),
        tmp_path / "rgb.tiff",
        tmp_path / "pyramid.tiff",
        tmp_path / "grey.png",
    ]
    write_tiff(paths[1], np.dstack([picture] * 3), compression="deflate")
    with tifffile.TiffWriter(paths[2]) as file:
        for number in (1, 2):
            file.write(
                np.repeat(np.repeat(picture, 4 // number, 0), 4 // number, 1),
                tile=(64, 64),
                subfiletype=number - 1,
                metadata=None,
            )
    if samples.dtype == np.uint16:
        Image.fromarray(picture).save(paths[3])
    for path in paths if samples.dtype == np.uint16 else paths[:3]:
        with closing(open_slide(path, Backend.auto)) as slide:
            seen = [np.concatenate([*slide.strips(level, None)]) for level in range(len(slide.levels))]
            assert [remark.partition(" (")[0] for remark in slide.remarks] == [
                "its own range of values is shown"
            ] * int(any(expected))
        assert all((each[:, :: len(each) // 4] == np.array(expected)[None, :, None]).all() for each in seen)


@pytest.mark.large("takes long, and other tests run its branches")
def test_colour_profiles_are_named_unless_they_are_srgb(tmp_path: Path) -> None:
    """The pixels stay as they are."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile, said in (
        (srgb, []),
        (lab, ["its colour profile is not applied (Lab identity built-in)"]),
        (b"nothing", ["its colour profile is not applied (unnamed)"]),
    ):
        write_tiff(
            tmp_path / "a.tiff", slide_picture(1), compression="deflate", extratags=[slides.colour_profile(profile)]
        )
        Image.fromarray(slide_picture(1)).save(tmp_path / "a.png", icc_profile=profile)
        slides.write_svs(tmp_path / "a.svs", slide_picture(1), profile=profile)
        for name, tolerance in (("a.tiff", 0), ("a.png", 0), ("a.svs", 3)):
            assert mean_difference(read_slide(tmp_path / name), slide_picture(1)) <= tolerance
            with closing(open_slide(tmp_path / name, Backend.auto)) as slide:
                assert slide.remarks == said


def test_twelve_packed_bits_are_read_and_wide_integers_need_a_range(tmp_path: Path) -> None:
    samples = np.repeat(np.array([[0, 2048, 4095, 16] * 16], np.uint16), 64, axis=0)
    bits = np.unpackbits(samples.astype(">u2").view(np.uint8).reshape(64, 64, 2), axis=2)
    path = write_grey(tmp_path / "slide.tiff", np.zeros((64, 64), np.uint8))
    move_tile(path, 0, np.packbits(bits[..., 4:].reshape(64, -1), axis=1).tobytes())
    slides.overwrite_tags(path, {"BitsPerSample": 12})
    assert read_slide(path)[0, :4, 0].tolist() == [0, 128, 255, 1]
    for dtype in (np.uint32, np.uint64):
        write_grey(path, np.zeros((64, 64), dtype))
        with pytest.raises(
            SlideUnreadable, match=r"its samples have \d\d bits, but no MaxSampleValue defines the range of values"
        ):
            read_slide(path)


def test_cmyk_tiff_and_jpeg_of_photoshop_and_of_others(tmp_path: Path) -> None:
    """A JPEG file with an Adobe marker stores inverted inks. Other JPEG files do not."""
    # Cyan, with a fifth of black.
    inks: NDArray[np.uint8] = np.full((64, 64, 4), (255, 0, 0, 51), np.uint8)
    tiff, adobe, plain = (tmp_path / name for name in ("slide.tiff", "adobe.jpg", "plain.jpg"))
    write_tiff(tiff, inks, photometric="separated", compression="deflate")
    Image.fromarray(inks, "CMYK").save(adobe, quality=95)
    stored = bytes(imagecodecs.jpeg8_encode(inks, level=95, colorspace="CMYK", outcolorspace="CMYK"))
    start = stored.find(b"\xff\xee")
    plain.write_bytes(
        stored
        if start < 0
        else stored[:start] + stored[start + 2 + int.from_bytes(stored[start + 2 : start + 4], "big") :]
    )
    for path in (tiff, adobe, plain):
        assert np.abs(read_slide(path)[30, 30].astype(int) - (0, 204, 204)).max() <= 2


@pytest.mark.parametrize("compression", [33003, 33005])
def test_jpeg_2000_of_aperio_scanners(tmp_path: Path, compression: int) -> None:
    """Compression 33003 holds YCbCr without a mark for it. OpenSlide is the reference."""
    picture = slide_picture(0, (512, 256))
    stored = np.asarray(Image.fromarray(picture).convert("YCbCr")) if compression == 33003 else picture
    tiles = (
        imagecodecs.jpeg2k_encode(np.ascontiguousarray(stored[:, left : left + 256]), codecformat="j2k", mct=False)
        for left in (0, 256)
    )
    path = tmp_path / "slide.svs"
    common: dict[str, Any] = {"photometric": "rgb", "compression": compression, "metadata": None}
    common["description"] = "Aperio Image Library v11.2.1\r\n512x256"
    tifffile.imwrite(path, tiles, shape=picture.shape, dtype="uint8", tile=(256, 256), **common)
    seen = read_slide(path, None, Backend.tifffile)
    assert mean_difference(seen, read_slide(path, None, Backend.openslide)) < 0.1
    assert mean_difference(seen, picture) < 1


def test_masks_keep_their_labels(tmp_path: Path) -> None:
    tiff, png = tmp_path / "mask.tiff", tmp_path / "mask.png"
    for path in (tiff, png):
        labels = slides.write_mask(path, seed=4, levels=3)
        for as_labels in (False, True):
            assert (read_slide(path, None, as_labels=as_labels) == labels[..., None]).all()
    assert (read_slide(tiff, None, level=2, as_labels=True)[..., 0] == labels[: 4 * 107 : 4, ::4]).all()
    for dtype in (np.uint16, np.uint32, np.float32, bool):
        numbers = slides.mask_picture(4).astype(dtype)
        numbers[0, 0] = 1000
        write_grey(tiff, numbers)
        expected = np.where(numbers > 0, (numbers.astype(int) - 1) % 255 + 1, 0)
        assert (read_slide(tiff, None, as_labels=True)[..., 0] == expected).all()
        if dtype in (np.uint16, bool):
            Image.fromarray(numbers).save(png)
            assert (read_slide(png, None, as_labels=True)[..., 0] == expected).all()


def test_all_turns_of_exif(tmp_path: Path) -> None:
    picture, path = slide_picture(0, (48, 32)), tmp_path / "turned.png"
    # The numbers of Image.Transpose with which Pillow undoes each orientation.
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    for orientation, method in back.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(picture)
        (image if method is None else image.transpose(Image.Transpose(method))).save(path, exif=exif)
        assert mean_difference(read_slide(path), picture) == 0


def test_the_level_asked_for_or_the_coarsest_that_fills() -> None:
    asked: list[tuple[int | None, Size, int]] = [
        (0, (1, 1), 0),
        (2, (9999, 9999), 2),
        (None, (500, 375), 2),
        (None, (501, 1), 1),
        (None, (1, 376), 1),
    ]
    asked += [(None, (2000, 1500), 1), (None, (2001, 1500), 0)]
    for requested, wanted, level in asked:
        assert level_for([(8000, 6000), (2000, 1500), (500, 375)], requested, wanted) == (level, "")
    assert level_for([(80, 60), (40, 30), (20, 15)], 7, (1, 1)) == (
        2,
        "level 7 is missing (it has levels 0 to 2), and level 2 was read",
    )
    assert level_for([(80, 60)], 1, (1, 1)) == (0, "level 1 is missing (it has only level 0), and level 0 was read")


def test_one_segment_for_all_comes_in_parts(tmp_path: Path) -> None:
    path, picture = tmp_path / "slide.tiff", np.tile(slide_picture(0, (600, 500)), (2, 10, 1))
    for compression, tile in ((None, None), ("deflate", None), ("deflate", (6016, 1008))):
        write_tiff(path, picture, tile=tile, compression=compression, rowsperstrip=None if tile else 1000)
        with closing(open_slide(path, Backend.auto)) as slide:
            strips = list(slide.strips(0, None))
        assert max(strip.nbytes for strip in strips) <= STRIP_BYTES
        assert np.array_equal(np.concatenate(strips), picture)


REASONS = {
    "missing": "it does not exist",
    "empty": "it is empty",
    "folder": "it is a folder",
    "unreadable": "permission denied",
    "garbage": "it is not an image of a known format",
    "garbage-svs": "it is not an image of a known format",
    "header-only": "the file is truncated: it ends at byte 8, but page 1 ends at 10",
    "garbled-png": "it is not an image of a known format: broken PNG file",
    "garbled-strips": "strip 1 of 27 of level 0 cannot be decoded",
    "garbled-tiles": "tile 1 of 6 of level 0",
    "zeroed": "tile 1 of 6 of level 0 is damaged: .* bytes of zeros",
    "zeroed-deflate": "tile 1 of 6 of level 0 is damaged: .* bytes of zeros",
    "zeroed-some": "tile 6 of 20 of level 0 is damaged",
    "truncated": "the file is truncated: it ends at byte .*, but page 1 ends at",
    "truncated-tags": "the file is truncated: it ends at byte .*, but page 1 ends at",
    "truncated-png": "it is damaged: image file is truncated",
    "truncated-jpeg": "it is damaged: image file is truncated",
    "truncated-svs": "the file is truncated",
    "lying-size": "has 3000000 x 3000000 pixels, for which 137334961 tiles are needed, but only 6",
    "giant": "it has 700000 x 300 pixels, and the maximum is 600,000 on a side",
    "lying-tile": "the tiles of level 0 have 60000 x 60000 pixels, 10,299 MB each",
}


@pytest.mark.parametrize("kind", slides.BROKEN)
def test_what_cannot_be_read_says_why(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_broken(kind, tmp_path)
    if kind == "unreadable" and os.access(path, os.R_OK):
        pytest.skip("this user reads everything")
    for backend, reason in ((Backend.auto, REASONS[kind]), (Backend.tifffile, "."), (Backend.openslide, ".")):
        with pytest.raises(SlideUnreadable, match=reason) as caught:
            read_slide(path, backend=backend)
        assert "\n" not in str(caught.value)
        assert path.name not in str(caught.value)
    assert capfd.readouterr() == ("", "")


WHOLE: Mapping[str, Callable[[Path], object]] = {
    "pages": lambda path: write_tiff(path, slide_picture(0), levels=3),
    "bigtiff": lambda path: write_tiff(path, slide_picture(0), levels=3, bigtiff=True, byteorder=">"),
    "sub-images": lambda path: write_tiff(path, slide_picture(0), levels=3, subifds=True),
    "striped": lambda path: write_tiff(path, slide_picture(0), tile=None, compression=None, rowsperstrip=7, levels=2),
    "aperio": lambda path: slides.write_svs(path, slide_picture(0), profile=bytes(5000)),
    "ome": slides.write_ome_with_macro,
    "hamamatsu": slides.write_ndpi,
}


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("form", WHOLE)
def test_a_part_of_a_slide_is_truncated_wherever_it_ends(tmp_path: Path, form: str) -> None:
    """It would be a slide with fewer levels, or without its label. Some writers put the first tags at the end."""
    whole, path = tmp_path / "whole.tiff", tmp_path / "part.tiff"
    WHOLE[form](whole)
    content = whole.read_bytes()
    with closing(open_slide(whole, Backend.auto)):  # complete
        pass
    ends = slides.ends_of_pages(whole)
    for end in [*range(200, len(content), len(content) // 12), *(end - 1 for end in ends), len(content) - 100]:
        path.write_bytes(content[:end])
        for backend in (Backend.auto, Backend.tifffile, Backend.openslide):
            with pytest.raises(SlideUnreadable, match=f"the file is truncated: it ends at byte {end:,}, but page "):
                open_slide(path, backend)
        with pytest.raises(SlideUnreadable, match="the file is truncated"):
            open_slide(path, Backend.auto, mask=MaskRule())


def test_a_part_of_a_dicom_file_is_truncated_and_so_is_its_slide(tmp_path: Path) -> None:
    picture = slide_picture(0, (256, 192))
    images = {name: (pixels, "VOLUME") for name, pixels in zip("012", slides.pyramid(picture, 3), strict=True)}
    for name, (pixels, kind) in {**images, "label": (picture[:64, :64], "LABEL")}.items():
        for encapsulated in (False, True):
            folder = tmp_path / f"{encapsulated}"
            folder.mkdir(exist_ok=True)
            slides.write_dicom(
                folder / f"{name}.dcm", pixels, "1.2.9", len(name), image_type=kind, encapsulated=encapsulated
            )
    slides.write_dicom(tmp_path / "False/other.dcm", picture, "1.2.10", 1)
    for path in sorted(tmp_path.glob("*/*.dcm")):
        content = path.read_bytes()
        for end in (len(content) - 1, len(content) // 2, 750):
            path.write_bytes(content[:end])
            shown = path.with_name("0.dcm")
            named = "the file" if path == shown else f"'{path.name}' of its series"
            reason = f"{named} is truncated: it ends at byte {end:,}, before its last pixel"
            if path.name == "other.dcm":
                open_slide(shown, Backend.auto).close()
            else:
                with pytest.raises(SlideUnreadable, match=f"^{reason}$"):
                    open_slide(shown, Backend.auto)
        path.write_bytes(content)
        open_slide(path.with_name("0.dcm"), Backend.auto).close()


def test_a_part_of_a_mirax_slide_is_truncated(tmp_path: Path) -> None:
    """OpenSlide tells it when it reads the missing tile, which may be on a level that nobody sees now."""
    path, picture = tmp_path / "a.mrxs", slide_picture(0, (256, 192))
    slides.write_mirax(path, picture)
    assert mean_difference(read_slide(path), picture) < 2
    for name in ("Data0000.dat", "Data0001.dat"):
        data = tmp_path / "a" / name
        content = data.read_bytes()
        data.write_bytes(content[:-1])
        reason = (
            f"its file '{name}' is truncated: it ends at byte {len(content) - 1:,}, but a tile ends at {len(content):,}"
        )
        with pytest.raises(SlideUnreadable, match=f"^{reason}$"):
            open_slide(path, Backend.auto)
        data.unlink()
        with pytest.raises(SlideUnreadable, match=f"^its file '{name}' is missing$"):
            open_slide(path, Backend.openslide)
        data.write_bytes(content)
    open_slide(path, Backend.auto).close()
    for name in ("Index.dat", "Slidedat.ini"):
        content = (tmp_path / "a" / name).read_bytes()
        (tmp_path / "a" / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(SlideUnreadable):
            read_slide(path)
        (tmp_path / "a" / name).write_bytes(content)


def in_a_process(path: Path) -> tuple[str, str]:
    """Read the slide in another process.

    Return its number of levels or the reason for a failure, and stderr. A process that hangs fails the test.
    """
    code = (
        "import sys; from pathlib import Path; from himl_cli.slides.slide_records import Backend\n"
        "from himl_cli.slides.pictures import open_slide\n"
    )
    code += "try: print(len(open_slide(Path(sys.argv[1]), Backend.auto).levels))\nexcept Exception as err: print(err)"
    ran = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False, timeout=100
    )
    return ran.stdout.strip(), ran.stderr


@pytest.mark.large("starts a process for each case")
def test_pages_that_form_a_ring_end_and_libraries_say_nothing(tmp_path: Path) -> None:
    """The slides are read in another process, because pytest captures log messages."""
    reason, errors = in_a_process(write_broken("truncated-tags", tmp_path))
    assert (reason.partition(":")[0], errors) == ("the file is truncated", "")
    path = tmp_path / "slide.tiff"
    for levels in (1, 3):
        write_tiff(path, slide_picture(0), levels=levels)
        with tifffile.TiffFile(path) as file:
            last = int(file.pages[levels - 1].offset)
        content = bytearray(path.read_bytes())
        (entries,) = struct.unpack_from("<H", content, last)
        struct.pack_into("<I", content, last + 2 + 12 * entries, struct.unpack_from("<I", content, 4)[0])
        path.write_bytes(content)
        assert in_a_process(path) == (str(levels), "")


def test_half_a_tile_or_one_of_another_size_is_no_tile(tmp_path: Path) -> None:
    """The grey with which libjpeg fills the end of a partial tile is also refused."""
    path = tmp_path / "slide.tiff"
    for compression in ("jpeg", "deflate", "lzw", "zstd", "jpeg2000", "packbits"):
        write_tiff(path, slide_picture(0), compression=compression)
        change_tiles(path, [3], lambda stored: stored[: len(stored) // 2] + bytes(len(stored) - len(stored) // 2))
        reason = " is damaged: its image has no end" if compression == "jpeg" else ""
        with pytest.raises(SlideUnreadable, match=f"tile 4 of 6 of level 0{reason}"):
            read_slide(path)
    path, picture = tmp_path / "slide.tiff", slide_picture(0, (128, 128))
    jpeg, jpeg_2000 = (
        bytearray(imagecodecs.jpeg8_encode(picture)),
        bytearray(imagecodecs.jpeg2k_encode(picture, codecformat="j2k")),
    )
    struct.pack_into(">HH", jpeg, jpeg.find(b"\xff\xc0") + 5, 60_000, 60_000)
    struct.pack_into(">II", jpeg_2000, jpeg_2000.find(b"\xff\x51") + 6, 60_000, 60_000)
    for compression, stored in (("jpeg", jpeg), ("jpeg2000", jpeg_2000)):
        write_tiff(path, slide_picture(0), compression=compression, tile=128)
        move_tile(path, 0, bytes(stored))
        with pytest.raises(
            SlideUnreadable,
            match="tile 1 of 20 of level 0 is damaged: it has 60000 x 60000 pixels in an area of 128 x 128",
        ):
            read_slide(path)


@pytest.mark.parametrize("size", [(70, 430), (33, 47)])
def test_sizes_are_read_from_headers_of_jpeg_and_jpeg_2000(size: tuple[int, int]) -> None:
    picture = slide_picture(0, size)
    stored = [imagecodecs.jpeg2k_encode(picture, codecformat=codec) for codec in ("j2k", "jp2")]
    stored.append(imagecodecs.ljpeg_encode(np.ascontiguousarray(picture[..., 0])))
    for mode, options in (
        ("RGB", {"optimize": True, "subsampling": 1, "progressive": True}),
        ("RGB", {"restart_marker_rows": 1}),
        ("L", {}),
        ("CMYK", {}),
    ):
        made = io.BytesIO()
        Image.fromarray(picture).convert(mode).save(made, "JPEG", **options)
        stored.append(made.getvalue())
    assert [stored_size(bytes(each)) for each in stored] == [size] * len(stored)
    whole = bytes(imagecodecs.jpeg8_encode(picture))
    frame = whole.find(b"\xff\xc0")
    broken = [
        b"",
        b"\xff\xd8",
        whole[: frame + 6],
        whole[:frame] + whole[whole.find(b"\xff\xda") :],
        b"\xff\x4f\xff\x51\0",
    ]
    assert [stored_size(each) for each in broken] == [None] * len(broken)


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("compression", [None, "jpeg", "deflate", "lzw", "packbits", "jpeg2000", "webp", "zstd"])
def test_flat_colours_are_not_taken_for_damage(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "slide.tiff"
    for value in (0, 128, 255):
        write_tiff(path, np.full((1024, 1024, 3), value, np.uint8), compression=compression, tile=1024)
        assert np.abs(read_slide(path).astype(np.int16) - value).max() <= (1 if value else 0)


def test_zeros_in_and_behind_tiles_are_no_damage(tmp_path: Path) -> None:
    """A lossless JPEG uses one bit for a pixel that equals its neighbour.

    Older imagecodecs wrote zeros after JPEG 2000 data.
    """
    path = tmp_path / "slide.tiff"
    picture = np.random.default_rng(0).integers(100, 140, (512, 512, 3), dtype=np.uint8)
    picture[200:210] = 120
    write_tiff(path, picture, compression="webp", tile=512, compressionargs={"lossless": True, "method": 0, "level": 1})
    assert mean_difference(read_slide(path), picture) == 0
    grey: NDArray[np.uint16] = np.full((512, 512), 65535, np.uint16)
    grey[:8, :8] = slide_picture(0, (8, 8))[..., 0]
    for compression in ("jpeg", "jpegxr"):
        write_tiff(
            path,
            grey,
            compression=compression,
            tile=512,
            compressionargs={"lossless": True} if compression == "jpeg" else None,
        )
        assert read_slide(path)[100:, 100:].min() == 255
    for compression in ("jpeg", "jpeg2000"):
        write_tiff(path, slide_picture(0), compression=compression, tile=512)
        (offset, *_), (count, *_) = slides.segments(path)
        move_tile(path, 0, path.read_bytes()[offset : offset + count] + bytes(100_000))
        assert mean_difference(read_slide(path), slide_picture(0)) < 3


def test_tiles_that_were_never_stored_are_background(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    for backend in (Backend.tifffile, Backend.openslide):
        write_tiff(path, slide_picture(0), compression="deflate")
        for number in (0, 4):
            move_tile(path, number, b"")
        for background in ((10, 200, 30), None):
            expected = slide_picture(0).copy()
            expected[:256, :256] = expected[256:, 256:512] = background or (0, 0, 0)
            assert mean_difference(read_slide(path, background, backend), expected) == 0
        for number in range(6):
            move_tile(path, number, b"")
        with pytest.raises(SlideUnreadable, match="none of the tiles of level 0 is stored"):
            read_slide(path)


def test_a_damaged_level_leaves_the_others_readable(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    made = write_tiff(path, slide_picture(0), levels=2, compression="deflate")
    slides.overwrite_tags(path, {"TileWidth": 16}, page=1)
    assert mean_difference(read_slide(path), made[0]) == 0
    with pytest.raises(
        SlideUnreadable, match="level 1 has 300 x 215 pixels, for which 19 tiles are needed, but only 2"
    ):
        read_slide(path, level=1)
    with closing(open_slide(write_broken("zeroed-some", tmp_path), Backend.auto)) as slide:
        strips = slide.strips(0, None)
        assert mean_difference(next(strips), slide_picture(0)[:128]) < 3
        with pytest.raises(SlideUnreadable):
            next(strips)


def test_pixels_of_unknown_meaning_are_refused(tmp_path: Path) -> None:
    path, not_read = tmp_path / "slide.tiff", "pixels have an unsupported format"
    kinds: list[tuple[type, dict[str, Any], dict[str, object], str]] = [
        (np.int16, {"compression": None}, {}, r"its samples have an unsupported format \(INT\)"),
        (np.uint8, {"photometric": "cielab", "compression": "lzw"}, {}, rf"its {not_read} \(CIELAB"),
        (np.uint8, {"compression": "deflate"}, {"BitsPerSample": (8, 8, 16)}, "have an unsupported format"),
        (np.uint8, {"compression": "deflate"}, {"ImageLength": 0}, "has no pixels"),
    ]
    for dtype, options, tags, reason in kinds:
        write_tiff(path, slide_picture(0).astype(dtype), **options)
        slides.overwrite_tags(path, tags)
        for backend in (Backend.auto, Backend.tifffile):
            with pytest.raises(SlideUnreadable, match=reason):
                read_slide(path, backend=backend)


def test_plain_pictures_have_limits_of_their_own(tmp_path: Path) -> None:
    """himl reads larger pictures than Pillow's limit, and refuses more than 400 million pixels.

    For WebP, Pillow 13 has a limit, and older versions find the damage when they decode the picture.
    """
    path = tmp_path / "slide.png"
    # This has 90 million pixels. Pillow warns from 89 million, and warnings fail a test.
    Image.new("1", (9_500, 9_500), 1).save(path)
    with closing(open_slide(path, Backend.auto)) as slide:
        assert slide.levels == [(9_500, 9_500)]
        first = next(slide.strips(0, None))
    assert first.min() == 255
    assert len(first) < 500
    path = tmp_path / "slide.bmp"
    Image.new("L", (10, 10)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:18] + struct.pack("<ii", 20_000, 20_001) + content[26:])
    assert LARGEST == 400_000_000
    with pytest.raises(
        SlideUnreadable, match="it is an untiled image of 20000 x 20001 pixels, and more than 400 million"
    ):
        open_slide(path, Backend.auto)
    path = tmp_path / "slide.webp"
    Image.new("RGB", (10, 10)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:26] + struct.pack("<HH", 16_000, 12_500) + content[30:])
    reason = (
        "it has too many pixels for its format: "
        if Version(PIL.__version__) >= Version("13")
        else "it is damaged: failed to read next frame"
    )
    with pytest.raises(SlideUnreadable, match=reason), closing(open_slide(path, Backend.auto)) as slide:
        list(slide.strips(0, None))


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_single_level_of_any_size_comes_in_strips(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    slides.write_giant(path, (100_000, 80_000), tile=512)
    with closing(open_slide(path, Backend.auto)) as slide:
        first = next(slide.strips(0, None))
    assert (slide.levels, first.shape) == ([(100_000, 80_000)], (512, 100_000, 3))
    assert mean_difference(first[:, 99_840 - 512 : 99_840], slide_picture(0, (512, 512))) < 3


def test_tiles_may_lie_anywhere_and_many_are_decoded_by_threads(tmp_path: Path) -> None:
    """Tiles are stored backwards, or with so much data between them that a row of them takes several reads."""
    path, pixels = tmp_path / "slide.tiff", slide_picture(1, (600, 400))
    for gap in (0, 1 << 20):
        write_tiff(path, pixels, compression="deflate")
        content, (offsets, counts) = path.read_bytes(), slides.segments(path)
        change_tiles(path)
        for number in reversed(range(len(offsets))):
            move_tile(path, number, content[offsets[number] : offsets[number] + counts[number]], gap)
        assert np.array_equal(read_slide(path), pixels)

    def has_threads() -> bool:
        return any(thread.name.startswith("himl-tiles") for thread in threading.enumerate())

    path, picture = tmp_path / "slide.tiff", np.tile(slide_picture(0, (550, 40)), (1, 2, 1))
    write_tiff(path, picture, compression="deflate", tile=16)
    assert mean_difference(read_slide(path), picture) == 0
    change_tiles(path, [100])
    with closing(open_slide(path, Backend.auto)) as slide:
        strips = slide.strips(0, None)
        assert mean_difference(next(strips), picture[:16]) == 0
        assert has_threads() == ((os.cpu_count() or 1) > 1)
        with pytest.raises(SlideUnreadable, match="tile 101 of 207 of level 0 is damaged"):
            next(strips)
    assert not has_threads()
