"""Tests of the foreground of tiles: the same tissue beside black areas, borders and pens, in stains of every kind."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from himl_cli.core.events import ignore
from himl_cli.slides.cutting import cut_slides
from himl_cli.slides.query import LocalFolder
from himl_cli.slides.slide_records import SlideEntry, SlidesFailed, TilesRequest
from tests.support.running import Himl
from tests.support.slides import Pixels, write_tiff

TISSUE = (205, 130, 185)
STAINS = {
    "pale": (230, 212, 227),
    "dark nuclei": (57, 51, 131),
    "eosin": (225, 90, 160),
    "DAB": (137, 69, 42),
    "pale haematoxylin": (215, 220, 232),
    "silver": (90, 88, 86),
    "blood": (195, 60, 75),
}
MARKS = {
    "black pen": (35, 33, 40),
    "blue pen": (20, 20, 200),
    "light blue pen": (30, 70, 175),
    "green pen": (10, 60, 20),
    "bright green pen": (20, 170, 90),
    "red pen": (220, 30, 40),
    "unscanned": (0, 0, 0),
    "shadow": (205, 204, 203),
}


LIGHTS = {
    "warm": (240, 228, 205),
    "yellow": (250, 238, 192),
    "old yellow": (250, 235, 150),
    "cool": (212, 224, 245),
    "grey": (180, 180, 178),
    "warm grey": (190, 180, 158),
    "nearly neutral": (240, 230, 219),
}
WHITE_LIGHT = (243, 242, 239)


def slide(
    tissue: tuple[int, int, int] = TISSUE,
    mark: tuple[int, int, int] | None = None,
    light: tuple[int, int, int] = WHITE_LIGHT,
) -> Pixels:
    """White noise, 400 x 200 pixels, with tissue in 8 tiles of 50 pixels on the left, and the mark on the right."""
    pixels: Pixels = np.full((200, 400, 3), light, np.int16)
    pixels[50:150, 50:250] = np.array(tissue) * light // WHITE_LIGHT
    if mark is not None:
        pixels[:, 300:] = mark
    return np.clip(pixels + np.random.default_rng(1).integers(-2, 3, pixels.shape), 0, 255).astype(np.uint8)


def fatty() -> Pixels:
    """Fat: thin membranes around white cells of 20 pixels."""
    pixels = slide((240, 239, 237))
    pixels[50:150:20, 50:250] = pixels[50:150, 50:250:20] = (226, 196, 214)
    return pixels


PICTURES = {
    **{name: slide(colour) for name, colour in STAINS.items()},
    **{name: slide(mark=colour) for name, colour in MARKS.items()},
    "pale and dark": np.where(np.arange(400)[None, :, None] < 150, slide((90, 40, 120)), slide(STAINS["pale"])),
    "black border": np.pad(slide()[1:-1, 1:-1], ((1, 1), (1, 1), (0, 0))),
    "fat": fatty(),
    **{
        f"{name} in {light} light": slide(STAINS[name], light=LIGHTS[light])
        for light in LIGHTS
        for name in ("pale", "DAB", "silver", "eosin")
    },
    **{
        f"{name} in warm light": slide(mark=MARKS[name], light=LIGHTS["warm"])
        for name in ("black pen", "blue pen", "unscanned")
    },
    "white that was not scanned": slide(mark=(260, 260, 260), light=LIGHTS["warm"]),
    "saturated white": slide(STAINS["pale haematoxylin"], light=(260, 260, 260)),
}


def kept(folder: Path, pictures: dict[str, Pixels], rule: str) -> dict[str, list[tuple[int, int]]]:
    for name, pixels in pictures.items():
        write_tiff(folder / f"{name}.tiff", pixels, levels=2, compression="deflate", tile=64)
    request = TilesRequest(folder / "out", tile_size=50, foreground=rule, workers=2)
    result = cut_slides(request, [SlideEntry(name, f"{name}.tiff") for name in pictures], LocalFolder(folder), ignore)
    places: dict[str, list[tuple[int, int]]] = {name: [] for name in pictures}
    for line in result.dataset.read_text().splitlines()[1:]:
        name, _, _, left, top, *_ = line.split(",")
        places[name].append((int(left), int(top)))
    return places


@pytest.mark.large("looks for tissue in many pixels")
def test_the_default_keeps_all_tissue_and_nothing_else(tmp_path: Path) -> None:
    there = [(left, top) for top in (50, 100) for left in (50, 100, 150, 200)]
    assert kept(tmp_path, PICTURES, "saturation") == dict.fromkeys(PICTURES, there)


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("name", ["clean", "pale and dark", "black pen", "two values"])
def test_otsu_is_that_of_hi_ml_to_the_tile(name: str, tmp_path: Path) -> None:
    """hi-ml compares the mean of the channels with scikit-image's threshold of the coarsest level."""
    is_dark = slide().mean(axis=2, keepdims=True) < 230
    others = {"clean": slide(), "two values": np.where(is_dark, np.uint8(90), np.uint8(255)).repeat(3, axis=2)}
    pixels = (PICTURES | others)[name]
    coarse = pixels.reshape(100, 2, 200, 2, 3).mean(axis=(1, 3)).round().mean(axis=2)
    counts, edges = np.histogram(coarse, 256)
    centres = (edges[1:] + edges[:-1]) / 2
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    low, high = np.cumsum(counts * centres) / below, (np.cumsum((counts * centres)[::-1]) / above[::-1])[::-1]
    threshold = centres[np.argmax(below[:-1] * above[1:] * (low[:-1] - high[1:]) ** 2)]
    shares = (pixels.mean(axis=2) < threshold).reshape(4, 50, 8, 50).mean(axis=(1, 3))
    expected = [(50 * int(left), 50 * int(top)) for top, left in np.argwhere(shares >= 0.05)]
    assert kept(tmp_path, {name: pixels}, "otsu") == {name: expected}


def test_a_threshold_is_a_mean_of_the_channels(himl: Himl, project: Path) -> None:
    (project / "pens").mkdir()
    write_tiff(project / "pens" / "a.tiff", slide(mark=MARKS["black pen"]), compression="deflate")
    for rule, tiles in (("threshold=180", 8), ("Threshold=50", 0), ("otsu", 8), ("saturation", 8)):
        assert himl.ok("tiles", "pens", "--tile_size", "50", "--foreground", rule, "--json").json()["tiles"] == tiles
    lacks: tuple[tuple[tuple[str, ...], str], ...] = (
        (("--foreground", "threshold=50"), "few tiles: 'a.tiff': it has no foreground"),
        (("--tile_size", "200", "--occupancy", "0.9"), "few tiles: 'a.tiff': no tile reaches --occupancy 0.9"),
        (("--tile_size", "64", "--occupancy", "0.95"), "few tiles: 'a.tiff': the tiles have 41% of its foreground"),
        (("--tile_size", "50", "--occupancy", "0.05"), ""),
    )
    for cut, reason in lacks:
        for _ in range(2):  # the second call keeps the tiles
            done = himl("tiles", "pens", *cut, "--strict")
            assert (done.code, [line for line in done.stderr.splitlines() if "few" in line][:1]) == (
                int(bool(reason)),
                [reason] * bool(reason),
            )
    told = "Foreground by the rule 'saturation' (see --foreground)."
    assert told in himl.ok("tiles", "pens", "--tile_size", "50").stderr.splitlines()
    assert told not in himl.ok("tiles", "pens", "--tile_size", "50", "--foreground", "saturation").stderr
    (project / "masks.csv").write_text(
        "slide_id,image,mask\na,pens/a.tiff,mask.jpg\nb,pens/a.tiff,mask.tif\nc,pens/a.tiff,mask.png\n"
    )
    mask = Image.fromarray(np.full((20, 40), 200, np.uint8))
    mask.save(project / "mask.jpg")
    mask.save(project / "mask.png")
    mask.save(project / "mask.tif", compression="jpeg")
    for name, values in (("dark8", 255 - slide()[..., 0]), ("dark16", (255 - slide()[..., 0]).astype(np.uint16))):
        write_tiff(project / f"{name}.tiff", values, compression="deflate")
    write_tiff(project / "warm.tiff", slide(light=LIGHTS["warm"]), compression="deflate")
    told = "'warm.tiff': its background has a tint, which counts as white with --foreground saturation."
    assert told in himl.ok("tiles", ".", "--image_glob", "warm.tiff").stderr.splitlines()
    told = "'dark16.tiff', 'dark8.tiff': its background is dark, so that --foreground saturation is wrong."
    assert told in himl.ok("tiles", ".", "--image_glob", "dark*.tiff").stderr.splitlines()
    halved = "JPEG masks, below 128 is background (see --mask_threshold): 'a', 'b'.\n"
    for bound, told in (((), halved), (("--mask_threshold", "0"), ""), (("--mask_threshold", "9"), "")):
        assert himl.ok("tiles", "masks.csv", "--masks", *bound).stderr == told
    for options, said in (
        (("--mask_threshold", "1"), "--mask_threshold is for masks, not for the foreground 'saturation'."),
        (("--foreground", "otzu"), "--foreground cannot be 'otzu'."),
        (("--foreground", "threshold=300"), "--foreground cannot be 'threshold=300'."),
        (("--foreground", "otsu", "--masks"), "--masks and --foreground cannot be combined."),
    ):
        done = himl("tiles", "pens", *options)
        assert (done.code, done.stderr.splitlines()[0]) == (2, f"error: {said}")


@pytest.mark.large("looks for tissue in many pixels")
def test_masks_of_every_kind_select_the_same_tiles(tmp_path: Path) -> None:
    """Labels are numbers of any width, indices of a palette, or in one channel. Floats count where they are not 0."""
    labels: Pixels = np.zeros((200, 400), np.uint8)
    labels[50:150, 50:150], labels[50:150, 150:250] = 1, 2
    write_tiff(tmp_path / "slide.tiff", slide(), compression="deflate")
    indexed = Image.fromarray(labels)
    indexed.putpalette([255, 255, 255, 200, 0, 0, 0, 0, 200])
    indexed.save(tmp_path / "palette.png")
    table: Pixels = np.zeros((3, 256), np.uint16)
    table[:, :3] = np.array([[65535] * 3, [51400, 0, 0], [0, 0, 51400]]).T
    drawn: Pixels = np.full((200, 400, 4), 255, np.uint8)
    drawn[..., 3] = np.where(labels, 90, 0)
    Image.fromarray(drawn).save(tmp_path / "alpha.png")
    Image.fromarray(np.where(labels, np.uint8(255), np.uint8(0))).save(tmp_path / "halo.jpg", quality=40)
    red = np.stack([labels, labels * 0, labels * 0], axis=2)
    for name, values in {
        **{kind: labels.astype(kind) for kind in ("u2", "i1", "i2", "i4", "u4", "f8")},
        "negative": np.where(labels, labels.astype(np.int16), -1),
        "shares": np.where(labels, 0.7, 0).astype(np.float32),
        "unknown": np.where(labels, labels, np.nan).astype(np.float16),
        "large": np.where(labels, labels.astype(np.uint32) * 256, 0),
        "red": red,
        "wide red": red.astype(np.uint16),
    }.items():
        photometric = "rgb" if values.ndim == 3 else "minisblack"
        write_tiff(tmp_path / f"{name}.tiff", values, compression="deflate", tile=64, photometric=photometric)
    write_tiff(tmp_path / "indexed.tiff", labels, compression="deflate", photometric="palette", colormap=table)
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_file() and path.name != "slide.tiff")
    entries = [SlideEntry(name, "slide.tiff", mask=name) for name in names]
    halo = {"halo.jpg": 32}  # its background is 1, which counts if the user sets the threshold
    for threshold, some in ((None, {}), (0.0, halo), (0.8, {"shares.tiff": 0, **halo})):
        request = TilesRequest(tmp_path / "out", tile_size=50, foreground="mask", mask_threshold=threshold, workers=2)
        result = cut_slides(request, entries, LocalFolder(tmp_path), ignore)
        assert [slide.reason for slide in result.failed] == []
        assert {each.slide_id: each.tiles for each in result.slides} == {name: some.get(name, 8) for name in names}


@pytest.mark.large("looks for tissue in many pixels")
def test_a_mask_of_another_shape_fails(tmp_path: Path) -> None:
    write_tiff(tmp_path / "slide.tiff", slide(), compression="deflate")
    for size, reason in (
        ((40, 20), ""),
        ((57, 28), ""),
        ((20, 40), "mask: 20 x 40 pixels do not have the shape of 400 x 200"),
        ((400, 209), "mask: 400 x 209 "),
    ):
        Image.fromarray(np.ones(size[::-1], np.uint8)).save(tmp_path / "mask.png")
        entry = SlideEntry("a", "slide.tiff", mask="mask.png")
        request = TilesRequest(tmp_path / "out", tile_size=50, foreground="mask")
        with pytest.raises(SlidesFailed, match=re.escape(reason)) if reason else nullcontext():
            (found,) = cut_slides(request, [entry], LocalFolder(tmp_path), ignore).slides
            assert (found.reason, found.tiles > 0) == ("", True), size
