from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from himl_cli.core.montage import Backend, Colour
from himl_cli.services.montage.slides import open_slide
from tests.services.montage.test_slides_kinds import difference
from tests.support.slides import mask_picture, over, slide_picture, with_alpha, write_mask, write_svs, write_tiff

BLUE: Colour = (20, 60, 200)


def shown(
    path: Path, background: Colour | None = (255, 255, 255), backend: Backend = Backend.auto, *, level: int = 0, as_labels: bool = False
) -> NDArray[np.uint8]:
    slide = open_slide(path, backend, as_labels=as_labels)
    try:
        return np.concatenate(list(slide.strips(level, background)))
    finally:
        slide.close()


def write_grey(path: Path, samples: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, samples, photometric="minisblack", tile=(64, 64), metadata=None, **options)
    return path


@pytest.mark.parametrize("backend", [Backend.tifffile, Backend.openslide])
@pytest.mark.parametrize("premultiplied", [False, True])
def test_what_is_transparent_lies_on_the_background(tmp_path: Path, backend: Backend, premultiplied: bool) -> None:
    path = tmp_path / "slide.tiff"
    rgba = with_alpha(slide_picture(0), premultiplied=premultiplied)
    write_tiff(path, rgba, compression="deflate", extrasamples=["assocalpha" if premultiplied else "unassalpha"])
    assert difference(shown(path, BLUE, backend), over(with_alpha(slide_picture(0)), BLUE)) < 1


def test_without_background_transparency_is_dropped(tmp_path: Path) -> None:
    tiff, png = tmp_path / "slide.tiff", tmp_path / "slide.png"
    rgba = with_alpha(slide_picture(0))
    write_tiff(tiff, rgba, compression="deflate", extrasamples=["unassalpha"])
    Image.fromarray(rgba).save(png)
    for path in (tiff, png):
        assert difference(shown(path, None), slide_picture(0)) == 0
        assert difference(shown(path, BLUE), over(rgba, BLUE)) < 0.6


def test_a_fourth_sample_that_nobody_calls_alpha_is_left_aside(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, with_alpha(slide_picture(0)), compression="deflate", extrasamples=["unspecified"])
    assert difference(shown(path, BLUE), slide_picture(0)) == 0


def test_grey_with_alpha(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    samples: NDArray[Any] = np.zeros((64, 64, 2), np.uint8)
    samples[:, 32:] = (100, 255)
    tifffile.imwrite(path, samples, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"], tile=(64, 64), metadata=None)
    seen = shown(path, BLUE)
    assert (seen[:, :32] == BLUE).all()
    assert (seen[:, 32:] == 100).all()


def test_palette_entries_of_a_png_may_be_transparent(tmp_path: Path) -> None:
    path = tmp_path / "slide.png"
    image = Image.new("P", (8, 4))
    image.putpalette([0, 0, 0, 250, 10, 20])
    image.paste(1, (4, 0, 8, 4))
    image.save(path, transparency=0)
    seen = shown(path, BLUE)
    assert (seen[:, :4] == BLUE).all()
    assert (seen[:, 4:] == (250, 10, 20)).all()


def test_sixteen_bits_are_scaled_by_their_range(tmp_path: Path) -> None:
    samples = np.repeat(np.array([[0, 128, 129, 32896, 65534, 65535]], np.uint16), 64, axis=0)
    assert shown(write_grey(tmp_path / "slide.tiff", samples))[0, :, 0].tolist() == [0, 0, 1, 128, 255, 255]


@pytest.mark.parametrize(("told", "expected"), [(4095, [0, 128, 255, 255]), (3000, [0, 8, 16, 255]), (65535, [0, 8, 16, 255])])
def test_twelve_bits_in_sixteen_count_where_the_file_says_so(tmp_path: Path, told: int, expected: list[int]) -> None:
    """MaxSampleValue is taken for the range only where it is that of a number of bits."""
    samples = np.repeat(np.array([[0, 2048, 4095, 65535]], np.uint16), 64, axis=0)
    path = write_grey(tmp_path / "slide.tiff", samples, extratags=[(281, "H", 1, told, True)])
    assert shown(path)[0, :, 0].tolist() == expected


def test_twelve_packed_bits(tmp_path: Path) -> None:
    samples = np.repeat(np.array([[0, 2048, 4095, 16] * 16], np.uint16), 64, axis=0)
    bits = np.unpackbits(samples.astype(">u2").view(np.uint8).reshape(64, 64, 2), axis=2)
    packed = np.packbits(bits[..., 4:].reshape(64, -1), axis=1).tobytes()
    path = write_grey(tmp_path / "slide.tiff", np.zeros((64, 96), np.uint8))
    content = path.read_bytes()
    path.write_bytes(content + packed)
    with tifffile.TiffFile(path, mode="r+") as file:
        tags = file.pages[0].tags
        for name, value in {"ImageWidth": 64, "BitsPerSample": 12, "TileWidth": 64}.items():
            tags[name].overwrite(value)
        tags["TileOffsets"].overwrite((len(content),))
        tags["TileByteCounts"].overwrite((len(packed),))
    assert shown(path)[0, :4, 0].tolist() == [0, 128, 255, 1]


def test_floats_are_taken_from_0_to_1_or_as_the_file_says(tmp_path: Path) -> None:
    samples = np.repeat(np.array([[0, 0.5, 1, 2, np.nan, -1]], np.float32), 64, axis=0)
    assert shown(write_grey(tmp_path / "one.tiff", samples))[0, :, 0].tolist() == [0, 128, 255, 255, 0, 0]
    told = [(340, "f", 1, -1.0, True), (341, "f", 1, 1.0, True)]
    assert shown(write_grey(tmp_path / "two.tiff", samples, extratags=told))[0, :, 0].tolist() == [128, 191, 255, 255, 0, 0]


def test_bits_are_black_and_white(tmp_path: Path) -> None:
    samples: NDArray[Any] = np.zeros((64, 64), bool)
    samples[:, 40:] = True
    assert shown(write_grey(tmp_path / "slide.tiff", samples)).tolist() == (samples[..., None].repeat(3, axis=2) * 255).tolist()


def test_cmyk_jpeg_of_photoshop_and_of_others_look_the_same(tmp_path: Path) -> None:
    """With an Adobe marker inks are stored inverted; without it they are not."""
    inks: NDArray[np.uint8] = np.full((64, 64, 4), (255, 0, 0, 51), np.uint8)  # cyan, a fifth of black
    adobe, plain = tmp_path / "adobe.jpg", tmp_path / "plain.jpg"
    Image.fromarray(inks, "CMYK").save(adobe, quality=95)
    plain.write_bytes(_without_adobe_marker(bytes(imagecodecs.jpeg8_encode(inks, level=95, colorspace="CMYK", outcolorspace="CMYK"))))
    for path in (adobe, plain):
        assert np.abs(shown(path)[30, 30].astype(int) - (0, 204, 204)).max() <= 2


def _without_adobe_marker(jpeg: bytes) -> bytes:
    start = jpeg.find(b"\xff\xee")
    return jpeg if start < 0 else jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def test_cmyk_tiff(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    inks: NDArray[np.uint8] = np.full((64, 64, 4), (255, 0, 51, 51), np.uint8)
    write_tiff(path, inks, photometric="separated", compression="deflate")
    assert shown(path)[5, 5].tolist() == [0, 204, 163]


@pytest.mark.parametrize("compression", [33003, 33005])
def test_jpeg_2000_of_aperio_scanners(tmp_path: Path, compression: int) -> None:
    """33003 holds YCbCr without saying so; OpenSlide is the judge."""
    picture = slide_picture(0, (512, 256))
    stored = np.asarray(Image.fromarray(picture).convert("YCbCr")) if compression == 33003 else picture
    tiles = (imagecodecs.jpeg2k_encode(np.ascontiguousarray(stored[:, left : left + 256]), codecformat="j2k", mct=False) for left in (0, 256))
    path = tmp_path / "slide.svs"
    told = "Aperio Image Library v11.2.1\r\n512x256"
    common: dict[str, Any] = {"photometric": "rgb", "compression": compression, "description": told, "metadata": None}
    tifffile.imwrite(path, tiles, shape=picture.shape, dtype="uint8", tile=(256, 256), **common)
    assert difference(shown(path, None, Backend.tifffile), shown(path, None, Backend.openslide)) < 0.1
    assert difference(shown(path, None, Backend.tifffile), picture) < 1


@pytest.mark.parametrize("name", ["mask.tiff", "mask.png"])
@pytest.mark.parametrize("as_labels", [False, True])
def test_masks_keep_their_labels(tmp_path: Path, name: str, as_labels: bool) -> None:
    labels = write_mask(tmp_path / name, seed=4)
    seen = shown(tmp_path / name, None, as_labels=as_labels)
    assert set(np.unique(labels)) == {0, 1, 2, 3, 4, 5}
    assert (seen == labels[..., None]).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32])
def test_labels_in_wider_numbers_are_not_scaled(tmp_path: Path, dtype: type) -> None:
    labels = mask_picture(4).astype(dtype)
    labels[0, 0] = 1000
    path = write_grey(tmp_path / "mask.tiff", labels)
    seen = shown(path, None, as_labels=True)[..., 0]
    assert seen[0, 0] == 255
    assert (seen.ravel()[1:] == labels.ravel()[1:]).all()


def test_labels_in_a_png_of_16_bits_are_not_scaled(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(imagecodecs.png_encode(mask_picture(4).astype(np.uint16)))
    assert (shown(path, None, as_labels=True)[..., 0] == mask_picture(4)).all()


def test_masks_have_levels_as_slides_have(tmp_path: Path) -> None:
    labels = write_mask(tmp_path / "mask.tiff", seed=4, levels=3)
    assert (shown(tmp_path / "mask.tiff", None, level=2, as_labels=True)[..., 0] == labels[: 4 * 107 : 4, ::4]).all()


def test_all_turns_of_exif(tmp_path: Path) -> None:
    """What is seen is the same, however it is stored."""
    picture = slide_picture(0, (48, 32))
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how Pillow undoes each: its numbers of Image.Transpose
    for orientation, method in back.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(picture)
        path = tmp_path / f"{orientation}.png"
        (image if method is None else image.transpose(Image.Transpose(method))).save(path, exif=exif)
        assert difference(shown(path), picture) == 0


def test_an_svs_has_no_transparency_to_speak_of(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    write_svs(path, slide_picture(0))
    assert difference(shown(path, BLUE), shown(path, None)) == 0
