"""Tests of tiles of real slides: pixels, positions and occupancy compared with the slides, failures, files that stay
untouched, and memory.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Counted, Counting, Event, Notice, ignore
from himl_cli.slides.cutting import cut_slides, folder_names
from himl_cli.slides.query import LocalFolder, SlideQuery, list_slides
from himl_cli.slides.regions import RegionRaster, read_regions
from himl_cli.slides.slide_records import (
    Backend,
    Region,
    SlideEntry,
    SlidesFailed,
    TileFormat,
    TilesRequest,
    TilesResult,
    TileStore,
)
from tests.support.folders import contents
from tests.support.slides import (
    KINDS,
    mask_picture,
    mean_difference,
    read_slide,
    slide_picture,
    write_broken,
    write_giant,
    write_kind,
    write_svs,
    write_tiff,
)

ROOT = Path(__file__).parents[2]
Row = dict[str, str]


def cut(folder: Path, *entries: SlideEntry | str, **options: Any) -> TilesResult:
    """Return the tiles of slides in *folder*, cut to the folder `out` next to it, with all tiles kept by default."""
    found = [SlideEntry(each, each) if isinstance(each, str) else each for each in entries]
    request = TilesRequest(folder.parent / "out", **{"occupancy": 0.0, "workers": 2, **options})
    return cut_slides(request, found, LocalFolder(folder), options.get("notify", ignore))


def rows_of(result: TilesResult) -> list[Row]:
    with result.dataset.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def tile_of(result: TilesResult, row: Row) -> NDArray[np.uint8]:
    with Image.open(result.dataset.parent / row["image"]) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def places(row: Row) -> list[int]:
    return [int(row[edge]) for edge in ("left", "top", "right", "bottom")]


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    (tmp_path / "slides").mkdir()
    return tmp_path / "slides"


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_cover_the_level_of_every_kind_of_slide(kind: str, slides: Path) -> None:
    """Tiles have all pixels of the level, with white beyond its edge.

    Positions are multiples of the factor of the level, whose sides are rounded.
    """
    path, level = write_kind(kind, slides, seed=3), KINDS[kind].levels - 1
    shown = read_slide(path, level=level)
    result = cut(slides, path.name, level=level, tile_size=64, overlap=20)
    rows, (slide,) = rows_of(result), result.slides
    height, width = shown.shape[:2]
    assert (slide.reason, slide.level, slide.size, slide.tiles) == ("", level, (width, height), len(rows))
    assert len(rows) == -(-(width - 20) // 44) * -(-(height - 20) // 44)
    padded = np.pad(shown, ((0, 64), (0, 64), (0, 0)), constant_values=255)
    factor = (4 if kind.startswith("factor-4") else 2) ** level
    for number, row in enumerate(rows):
        top, left = (44 * each for each in divmod(number, -(-(width - 20) // 44)))
        assert np.array_equal(tile_of(result, row), padded[top : top + 64, left : left + 64])
        assert places(row) == [round(edge * factor) for edge in (left, top, left + 64, top + 64)]


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("resolution", [{"level": 1}, {"magnification": 10.2}, {"level": 2}])
@pytest.mark.parametrize("tile_format", TileFormat)
def test_tiles_are_the_regions_that_openslide_reads_there(
    resolution: dict[str, Any], tile_format: TileFormat, slides: Path
) -> None:
    write_svs(slides / "a.svs", slide_picture(5, (640, 480)))
    result = cut(
        slides,
        SlideEntry("A", "a.svs", label="tumour, grade 2"),
        tile_size=80,
        format=tile_format,
        backend=Backend.openslide,
        **resolution,
    )
    level, rows = resolution.get("level", 1), rows_of(result)
    assert len(rows) == {1: 12, 2: 4}[level]
    with openslide.OpenSlide(slides / "a.svs") as slide:
        for row in rows:
            left, top, right, bottom = places(row)
            assert (right - left, bottom - top) == (80 * 2**level,) * 2
            region = np.asarray(slide.read_region((left, top), level, (80, 80)).convert("RGB"))
            region = np.where(np.asarray(slide.read_region((left, top), level, (80, 80)))[..., 3:] == 0, 255, region)
            assert mean_difference(tile_of(result, row), region) <= (0 if tile_format is TileFormat.png else 3)
            assert row["slide_id"] == "A"
            assert row["tile_id"] == f"A.{left:05d}x_{top:05d}y"
            assert row["image"] == f"A/{left:05d}x_{top:05d}y.{tile_format.value}"
            assert (row["label"], float(row["occupancy"]) >= 0) == ("tumour, grade 2", True)
    assert list(rows[0]) == ["slide_id", "tile_id", "image", "left", "top", "right", "bottom", "label", "occupancy"]


def test_occupancy_is_the_share_of_dark_pixels_or_of_the_mask(slides: Path) -> None:
    """A mask may have a different size. If there is one, dark pixels do not count."""
    picture: NDArray[np.uint8] = np.full((200, 300, 3), 240, np.uint8)
    picture[:50, :100] = picture[150:, 250:] = (150, 60, 120)
    write_tiff(slides / "a.tiff", picture, levels=2, compression="deflate", tile=64)
    dark = cut(slides, "a.tiff", tile_size=100, occupancy=0.25)
    assert [(places(row), float(row["occupancy"])) for row in rows_of(dark)] == [
        ([0, 0, 100, 100], 0.5),
        ([200, 100, 300, 200], 0.25),
    ]
    mask: NDArray[np.uint8] = np.zeros((8, 12), np.uint8)
    mask[:, 4:8], mask[4:, 8:] = 3, 1
    Image.fromarray(mask).save(slides / "mask.png")
    write_tiff(
        slides / "mask.tiff", np.repeat(np.repeat(mask, 100, 0), 100, 1), levels=3, compression="deflate", tile=64
    )
    for name in ("mask.png", "mask.tiff"):
        entry = SlideEntry("a", "a.tiff", mask=name)
        shares = [float(row["occupancy"]) for row in rows_of(cut(slides, entry, tile_size=100, foreground="mask"))]
        assert shares == [0, 1, 0, 0, 1, 1]
        assert len(rows_of(cut(slides, entry, tile_size=50, level=1, foreground="mask", occupancy=1.0))) == 3
    labels = mask_picture(1, (93, 61))
    Image.fromarray(labels).save(slides / "labels.png")
    found = rows_of(cut(slides, SlideEntry("a", "a.tiff", mask="labels.png"), tile_size=64, foreground="mask"))
    whole = np.pad(
        np.asarray(Image.fromarray(labels).resize((300, 200), Image.Resampling.NEAREST)) > 0, ((0, 64), (0, 64))
    )
    for row in found:
        left, top, right, bottom = places(row)
        assert float(row["occupancy"]) == round(whole[top:bottom, left:right].mean(), 6)


@pytest.mark.large("takes long, and other tests run its branches")
def test_slides_without_tissue_have_no_tiles(slides: Path) -> None:
    """Noise has an Otsu threshold, but no tissue. Transparent pixels are white."""
    noise = np.random.default_rng(1).integers(236, 248, (300, 400, 1), np.uint8).repeat(3, axis=2)
    pictures = {
        "white": np.full((300, 400, 3), 255, np.uint8),
        "noise": noise,
        "black": np.zeros((300, 400, 3), np.uint8),
    }
    for name, picture in pictures.items():
        write_tiff(slides / f"{name}.tiff", picture, levels=2)
    Image.fromarray(np.zeros((100, 100, 4), np.uint8)).save(slides / "clear.png")
    tissue = noise.copy()
    tissue[100:150, 100:150] = (200, 150, 190)  # pale
    write_tiff(slides / "tissue.tiff", tissue)
    names = [*(f"{name}.tiff" for name in pictures), "clear.png", "tissue.tiff"]
    result = cut(slides, *names, tile_size=50, occupancy=0.05)
    assert [(slide.reason, slide.tiles) for slide in result.slides] == [*[("it has no foreground", 0)] * 4, ("", 1)]
    assert rows_of(result)[0]["occupancy"] == "1.0"
    assert cut(slides, *names, tile_size=50).slides[0].tiles == 48, "without a threshold all are kept"


BROKEN = (
    "empty",
    "missing",
    "garbage",
    "truncated",
    "truncated-tags",
    "truncated-png",
    "truncated-svs",
    "zeroed-some",
    "lying-size",
    "lying-tile",
)


@pytest.mark.large("takes long, and other tests run its branches")
def test_slides_that_fail_are_named_and_leave_nothing(slides: Path) -> None:
    good = write_kind("jpeg-pyramid", slides, seed=1, name="good").name
    broken = [write_broken(kind, slides).name for kind in BROKEN]
    masked = [
        SlideEntry("no mask", good),
        SlideEntry("broken mask", good, mask=broken[2]),
        SlideEntry("its mask", good, mask=good),
    ]
    result = cut(slides, *broken, good, tile_size=50)
    reasons = {slide.slide_id: slide.reason for slide in result.failed}
    assert list(reasons) == broken
    assert reasons["empty.tiff"] == "it is empty"
    assert all("\n" not in reason and str(slides) not in reason for reason in reasons.values())
    assert sorted(path.name for path in result.dataset.parent.iterdir()) == ["dataset.csv", "good.tiff", "slides.csv"]
    with result.record.open(encoding="utf-8", newline="") as file:
        listed = [(row["slide_id"], row["status"], row["reason"], row["tiles"]) for row in csv.DictReader(file)]
    assert listed == [*((name, "failed", reasons[name], "0") for name in broken), (good, "ok", "", "108")]
    assert str(result.problem) == "10 slides failed or have few tiles, and --strict allows no failure."
    others: dict[str, tuple[SlideEntry, dict[str, Any], str]] = {
        "no mask": (masked[0], {"foreground": "mask"}, "it has no mask"),
        "broken mask": (masked[1], {"foreground": "mask"}, "mask: it is not an image of a known format"),
        "level": (masked[2], {"level": 3}, "level 3 is missing (it has levels 0 to 2)"),
        "magnification": (
            masked[2],
            {"magnification": 10.0},
            "its scale is unknown (add a column mpp to the CSV, or --assume_mpp)",
        ),
    }
    write_svs(slides / "a.svs", slide_picture(5, (640, 480)))
    others["other"] = (
        SlideEntry("a", "a.svs"),
        {"magnification": 40.0},
        "its finest level has 0.5 µm per pixel (20x), coarser than 0.25 (40x)",
    )
    before = contents(result.dataset.parent)
    for entry, options, reason in others.values():
        with pytest.raises(SlidesFailed, match=re.escape(f"himl could not read slide '{entry.slide_id}': {reason}.")):
            cut(slides, entry, **options)
    assert contents(result.dataset.parent) == before


@pytest.mark.large("takes long, and other tests run its branches")
def test_what_is_complete_is_not_cut_again(slides: Path) -> None:
    """Slides are cut again for other options, a changed file, or a missing folder.

    The lists always have the same bytes.
    """
    names = [write_kind("jpeg-pyramid", slides, seed=seed, name=str(seed)).name for seed in range(3)]
    first = cut(slides, *names, tile_size=100, overview=True)
    made = contents(first.dataset.parent)
    assert {f"{name}/overview.jpg" for name in names} <= set(made)
    (first.dataset.parent / names[0] / "himl_tiles.json").unlink()
    with pytest.raises(BadUsage, match="is not a folder of tiles, and would be replaced"):
        cut(slides, *names, tile_size=100, overview=True)
    (first.dataset.parent / names[0] / "himl_tiles.json").write_text("{")
    events: list[Event] = []
    request = TilesRequest(slides.parent / "out", tile_size=100, occupancy=0.0, overview=True, workers=5)
    entries = list_slides(LocalFolder(slides), SlideQuery(), ignore)
    again = cut_slides(request, entries, LocalFolder(slides), events.append)
    assert [slide.is_resumed for slide in again.slides] == [False, True, True]
    assert [replace(slide, is_resumed=False) for slide in again.slides] == first.slides
    assert contents(first.dataset.parent) == made
    assert events == [Counting("slides", 3), *[Counted()] * 3]
    write_kind("jpeg-pyramid", slides, seed=9, name="1")
    changed = cut_slides(
        replace(request, workers=1), [replace(each, label="new") for each in entries], LocalFolder(slides), ignore
    )
    assert [slide.is_resumed for slide in changed.slides] == [True, False, True]
    assert {row["label"] for row in rows_of(changed)} == {"new"}
    other = cut_slides(replace(request, tile_size=200, overview=False), entries[1:], LocalFolder(slides), ignore)
    assert [slide.is_resumed for slide in other.slides] == [False, False]
    assert {row["slide_id"] for row in rows_of(other)} == set(names[1:]), "those of this call"
    assert not (first.dataset.parent / names[1] / "overview.jpg").exists()
    shutil.copy(write_broken("lying-tile", slides), slides / names[2])
    made = contents(first.dataset.parent)
    with pytest.raises(SlidesFailed, match=r"any of the 3 slides, such as '0.tiff': level 9 is missing"):
        cut_slides(replace(request, level=9), entries, LocalFolder(slides), ignore)
    assert contents(first.dataset.parent) == made
    assert len(cut_slides(request, entries[1:], LocalFolder(slides), ignore).failed) == 1
    left = sorted(path.name for path in first.dataset.parent.iterdir())
    assert left == [*names[:2], "dataset.csv", "slides.csv"], "no tiles of other options or files"


def members(result: TilesResult, slide: str) -> dict[str, bytes]:
    """The members of the tar of the *slide*, in order."""
    with tarfile.open(result.dataset.parent / slide / "tiles.tar") as tar:
        return {name: file.read() for name in tar.getnames() if (file := tar.extractfile(name))}


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_tar_has_the_tiles_of_a_slide_with_their_lines(slides: Path) -> None:
    """Each sample of WebDataset is a group of members whose names are the same up to the first dot of the file's
    name.
    """
    name = write_kind("jpeg-pyramid", slides, seed=1, name="a").name
    options: dict[str, Any] = {"tile_size": 100, "overlap": 20, "occupancy": 0.3}
    files = cut(slides, SlideEntry("Ä.1", name, "tumour"), **options)
    out, rows = files.dataset.parent, rows_of(files)
    tiles = {row["image"]: (out / row["image"]).read_bytes() for row in rows}
    tar = cut(slides, SlideEntry("Ä.1", name, "tumour"), **options, store=TileStore.tar)
    assert sorted(path.name for path in (out / "Ä.1").iterdir()) == ["himl_tiles.json", "tiles.tar"]
    found = members(tar, "Ä.1")
    assert {name: data for name, data in found.items() if name.endswith(".png")} == tiles
    assert [*found] == [f"{image.removesuffix('.png')}.{extension}" for image in tiles for extension in ("png", "json")]
    samples = [json.loads(data) for name, data in found.items() if name.endswith(".json")]
    assert [{key: str(value) for key, value in sample.items()} for sample in samples] == rows_of(tar)
    assert rows_of(tar) == [{**row, "tar": "Ä.1/tiles.tar"} for row in rows]
    made = contents(out)
    relabelled = cut(slides, SlideEntry("Ä.1", name, "normal"), **options, store=TileStore.tar)
    assert (relabelled.slides[0].is_resumed, rows_of(relabelled)[0]["label"]) == (False, "normal"), (
        "the tar contains the label"
    )
    assert json.loads(members(relabelled, "Ä.1")["Ä.1/00000x_00000y.json"])["label"] == "normal"
    again = [cut(slides, SlideEntry("Ä.1", name, "tumour"), **options, store=TileStore.tar) for _ in range(2)]
    assert ([each.slides[0].is_resumed for each in again], contents(out)) == ([False, True], made)


def test_max_tiles_is_a_choice_that_the_seed_repeats(slides: Path) -> None:
    name = write_kind("jpeg-pyramid", slides, seed=1, name="a").name
    options: dict[str, Any] = {"tile_size": 50, "occupancy": 0.01}
    every = {row["tile_id"]: row for row in rows_of(cut(slides, name, **options))}
    chosen = []
    for more in ({}, {"workers": 5, "store": TileStore.tar}, {"seed": 1}):
        result = cut(slides, name, **options, **more, max_tiles=7)
        rows = rows_of(result)
        files = members(result, name) if "store" in more else contents(result.dataset.parent)
        assert {name for name in files if name.endswith(".png")} == {row["image"] for row in rows}
        assert (result.slides[0].tiles, result.slides[0].reason) == (len(rows), "") == (7, "")
        assert all(row.items() >= every[row["tile_id"]].items() for row in rows)
        chosen.append([row["tile_id"] for row in rows])
    assert chosen[0] == chosen[1] != chosen[2]
    assert cut(slides, name, **options, max_tiles=1000).slides[0].tiles == len(every)


CORNERS = [(50, 50), (250, 50), (250, 150), (50, 150)]
HOLE = [(100, 50), (150, 50), (150, 150), (100, 150)]


def geojson(corners: list[tuple[int, int]], hole: list[tuple[int, int]], **properties: Any) -> str:
    rings = [[*ring, ring[0]] for ring in (corners, hole)]
    area = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {"classification": {"name": "Tumor"}, **properties},
    }
    return json.dumps(
        {"type": "FeatureCollection", "features": [area, area | {"geometry": {"type": "Point", "coordinates": [1, 2]}}]}
    )


def asap(kind: str, group: str, points: list[tuple[int, int]]) -> str:
    places = "".join(
        f'<Coordinate Order="{order}" X="{x},0" Y="{y}.0"/>' for order, (x, y) in reversed([*enumerate(points)])
    )
    return f'<Annotation Name="a" Type="{kind}" PartOfGroup="{group}"><Coordinates>{places}</Coordinates></Annotation>'


def aperio(kind: int, negative: int, points: list[tuple[int, int]]) -> str:
    places = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    return f'<Region Id="1" Type="{kind}" NegativeROA="{negative}"><Vertices>{places}</Vertices></Region>'


REGIONS = {
    "a.geojson": geojson(CORNERS, HOLE),
    "many.geojson": geojson(CORNERS, HOLE, slide_id="a"),
    "a.xml": "<ASAP_Annotations><Annotations>"
    + asap("Polygon", "Tumor", CORNERS)
    + asap("Spline", "Exclusion", HOLE)
    + asap("Dot", "None", [(1, 2)])
    + "</Annotations></ASAP_Annotations>",
    "a.ome.xml": '<Annotations MicronsPerPixel="0.25"><Annotation Id="1" Name="Tumor"><Regions>'
    + aperio(1, 0, CORNERS[::2])
    + aperio(0, 1, HOLE)
    + aperio(4, 0, CORNERS[:2])
    + "</Regions></Annotation></Annotations>",
}


@pytest.mark.parametrize("name", [*REGIONS, "folder"])
def test_only_regions_have_tiles(slides: Path, name: str) -> None:
    """The regions have the same area in each format: two rectangles of 50 x 100 and 100 x 100 pixels."""
    write_tiff(slides / "a.ome.tiff", np.full((200, 300, 3), (150, 60, 120), np.uint8), levels=2, tile=64)
    write_tiff(slides / "b.tiff", np.full((200, 300, 3), 240, np.uint8))
    entries = [SlideEntry("a", "a.ome.tiff"), SlideEntry("b", "b.tiff")]
    path = slides.parent / "regions" / name
    path.parent.mkdir()
    for file in [name] if name in REGIONS else ["a.xml"]:
        (path.parent / file).write_text(REGIONS[file])
    said: list[Event] = []
    regions = read_regions(path if name in REGIONS else path.parent, entries, said.append)
    assert said == [Notice("--regions: omitting annotations without an area (points, lines): 1.")]
    result = cut(slides, *entries, tile_size=50, regions=regions)
    assert [slide.reason for slide in result.slides] == ["", "it has no regions"]
    inside = [(row["left"], row["top"], row["inside"], row["region"]) for row in rows_of(result)]
    assert inside == [(str(left), str(top), "1.0", "Tumor") for top in (50, 100) for left in (50, 150, 200)]
    coarse = rows_of(cut(slides, entries[0], tile_size=50, level=1, overlap=25, regions=regions))
    assert {row["left"]: row["inside"] for row in coarse if row["top"] == "50"} == {
        "0": "0.5",
        "50": "0.5",
        "100": "0.5",
        "150": "1.0",
        "200": "0.5",
    }
    same = cut(slides, entries[0], tile_size=50, mpp=0.5, assume_mpp=0.25, overlap=25, regions=regions)
    assert rows_of(same) == coarse
    between = cut(slides, entries[0], tile_size=40, mpp=0.375, assume_mpp=0.25, regions=regions)  # 60 pixels of level 0
    assert {row["left"]: row["inside"] for row in rows_of(between) if row["top"] == "60"} == {
        "60": "0.675",
        "120": "0.5",
        "180": "1.0",
    }
    assert (
        cut(slides, entries[0], tile_size=200, regions=regions).slides[0].reason
        == "no tile has 50% of its area in a region"
    )


def test_pixels_are_in_a_region_with_their_centres() -> None:
    """The outline may cross itself, leave the level and have edges along pixels."""
    outline = [(-20.0, 3.0), (37.3, -8.0), (90.0, 44.5), (12.0, 44.5), (70.5, 5.25), (70.5, 60.0), (3.3, 50.1)]
    for scale, top, rows, width in ((1.0, 0, 50, 64), (1.7, 7, 20, 30), (1.0, 61, 10, 64), (1.0, 0, 50, 5)):
        found = RegionRaster([Region("", [outline])], width, (scale, scale)).columns(top, rows)[""]
        expected: NDArray[np.int64] = np.zeros((rows, width), np.int64)
        for row in range(rows):
            for column in range(width):
                x, y = (column + 0.5) * scale, (top + row + 0.5) * scale
                ends = zip(outline, [*outline[1:], outline[0]], strict=True)
                expected[row, column] = (
                    sum((b > y) != (d > y) and x >= a + (y - b) * (c - a) / (d - b) for (a, b), (c, d) in ends) % 2
                )
        assert found.tolist() == expected.sum(axis=0).tolist()


def test_masks_give_the_share_of_each_label_and_tiles_of_their_own(slides: Path) -> None:
    write_tiff(slides / "a.tiff", slide_picture(1, (300, 200)), levels=2)
    labels: NDArray[np.uint8] = np.zeros((200, 300), np.uint8)
    labels[:50, :100], labels[:, 100:110], labels[120:, 210:] = 1, 2, 12
    masks = {
        "labels": labels,
        "int32": labels.astype(np.int32),
        "floats": labels.astype(np.float32) / 50,
        "large": labels.astype(np.int32) * 100,
    }
    for name, mask in masks.items():
        tifffile.imwrite(slides / f"{name}.tiff", mask)
    tifffile.imwrite(slides / "fewer.tiff", np.minimum(labels, 2))
    entries = [SlideEntry(name, "a.tiff", mask=f"{name}.tiff", more={"label_3": "x"}) for name in masks]
    options: dict[str, Any] = {"tile_size": 100, "mask_tiles": True}
    result = cut(slides, *entries, SlideEntry("none", "a.tiff"), **options)
    rows = rows_of(result)
    assert [*rows[0]][9:] == ["mask", "label_1", "label_2", "label_12", "slide_label_3"]
    assert [(slide.has_large_labels, slide.reason) for slide in result.slides] == [(False, "")] * 3 + [
        (True, ""),
        (False, "it has no mask"),
    ]
    for row in rows:
        left, top, right, bottom = places(row)
        part = labels[top:bottom, left:right]
        shares = {f"label_{label}": float((part == label).mean()) for label in (1, 2, 12)}
        if row["slide_id"] == "floats":
            shares = {"label_1": float((part > 0).mean())}
        found = {} if row["slide_id"] == "large" else shares
        assert {name: float(row[name]) for name in ("label_1", "label_2", "label_12") if row[name]} == found
        with Image.open(result.dataset.parent / row["mask"]) as image:
            assert (image.mode, image.size) == ("L", (100, 100))
            assert row["slide_id"] not in ("labels", "int32") or (np.asarray(image) == part).all()
    rows = rows_of(cut(slides, entries[0], SlideEntry("fewer", "a.tiff", mask="fewer.tiff"), **options))
    assert {row["label_12"] for row in rows if row["slide_id"] == "fewer"} == {"0"}  # known
    tar = cut(slides, entries[0], entries[3], **options, store=TileStore.tar)
    assert [*members(tar, "labels")][:3] == [
        f"labels/00000x_00000y.{extension}" for extension in ("png", "mask.png", "json")
    ]
    assert json.loads(members(tar, "labels")["labels/00000x_00000y.json"])["label_1"] == 0.5
    assert "use --format files" in tar.slides[1].reason


def test_overviews_show_the_slide_with_its_tiles_marked(slides: Path) -> None:
    picture: NDArray[np.uint8] = np.full((3000, 4096, 3), 255, np.uint8)
    picture[1000:1500, 2000:2500] = 90
    write_tiff(slides / "a.tiff", picture, levels=3)
    result = cut(slides, "a.tiff", tile_size=500, occupancy=0.01, overview=True)
    with Image.open(result.dataset.parent / "a.tiff" / "overview.jpg") as image:
        seen = np.asarray(image).astype(int)
    assert seen.shape == (1500, 2048, 3)
    blue = np.argwhere(seen[..., 2] - seen[..., 0] > 80)
    left, top, right, bottom = places(rows_of(result)[0])
    assert (len(rows_of(result)), [left, top, right, bottom]) == (1, [2000, 1000, 2500, 1500])
    assert np.abs(blue.min(axis=0) - (top / 2, left / 2)).max() <= 2
    assert np.abs(blue.max(axis=0) - (bottom / 2, right / 2)).max() <= 2
    write_tiff(
        slides / "long.tiff",
        np.pad(picture[1000:1040, 2000:2040], ((0, 0), (60_000, 0), (0, 0)), constant_values=255),
        compression="deflate",
    )
    assert cut(slides, "long.tiff", tile_size=20, occupancy=0.01, overview=True).slides[0].tiles == 4, (
        "each is less than a pixel of the overview"
    )


def test_nothing_that_is_not_himls_is_replaced(slides: Path) -> None:
    write_kind("png", slides, name="a")
    (slides / "dataset.csv").write_text("image,slide_id\na.png,a\n")
    entries = [SlideEntry("a", "a.png")]
    for output, said in (
        (slides, "dataset.csv' is not a list of tiles"),
        (slides.parent / "other", "a' is not a folder of tiles"),
    ):
        (slides.parent / "other" / "a").mkdir(parents=True, exist_ok=True)
        (slides.parent / "other" / "a" / "b.txt").touch()
        before = contents(slides.parent)
        with pytest.raises(BadUsage, match=said):
            cut_slides(TilesRequest(output), entries, LocalFolder(slides), ignore)
        assert contents(slides.parent) == before
    tiled = cut_slides(TilesRequest(slides / "out", occupancy=0.0), entries, LocalFolder(slides), ignore)
    (slides / "dataset.csv").unlink()
    assert [entry.image for entry in list_slides(LocalFolder(slides), SlideQuery(), ignore)] == ["a.png"], (
        "tiles are no slides"
    )
    with pytest.raises(BadUsage, match=r"'slides[.]csv' describes tiles"):
        list_slides(LocalFolder(tiled.record.parent), SlideQuery(csv="slides.csv"), ignore)


def test_folders_have_names_that_every_file_system_takes() -> None:
    ids = [
        "a.tiff",
        "A.TIFF",
        "a.tiff",
        "../up",
        "",
        "..",
        "b/c d:é",
        "x" * 300,
        "x" * 301,
        "dataset.csv",
        "\udcff",
        "slide",
    ]
    names = folder_names([SlideEntry(each, "a.tiff") for each in ids])
    assert names[:7] == ["a.tiff", "A.TIFF_2", "a.tiff_3", "_up", "slide", "slide_2", "b_c_d_é"]
    assert len({name.casefold() for name in names}) == len(ids)
    assert all(len(name.encode()) < 200 and not set(name) & set('/\\:*?"<>|') and name[0] != "." for name in names)


@pytest.mark.large("cuts 1,000 slides")
def test_a_thousand_slides_are_cut_in_their_order(slides: Path) -> None:
    write_tiff(slides / "a.tiff", slide_picture(1, (32, 32)), compression="deflate", tile=32)
    write_broken("empty", slides)
    entries = [SlideEntry(f"s{number}", "empty.tiff" if number % 200 == 7 else "a.tiff") for number in range(1000)]
    result = cut(slides, *entries, tile_size=32)
    assert [slide.slide_id for slide in result.failed] == ["s7", "s207", "s407", "s607", "s807"]
    assert [row["slide_id"] for row in rows_of(result)] == [slide.slide_id for slide in result.slides if slide.is_ok]


SCRIPT = """
import sys
from pathlib import Path
from himl_cli.core.events import ignore
from himl_cli.slides.slide_records import SlideEntry
from himl_cli.slides.slide_records import TilesRequest
from himl_cli.slides.query import LocalFolder
from himl_cli.slides.cutting import cut_slides

def after(name, *images):
    folder = Path(sys.argv[1])
    request = TilesRequest(folder / name, tile_size=256, occupancy=0.9999, workers=2)
    slides = [SlideEntry(str(number), image) for number, image in enumerate(images)]
    result = cut_slides(request, slides, LocalFolder(folder), ignore)
    assert not result.failed
    # of this process since it began: what getrusage tells includes that of the one which started it
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024

print(after("one", "small.tiff"), after("giant", "giant.tiff", "giant.tiff"), after("many", *["small.tiff"] * 150))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
@pytest.mark.large("cuts a large slide")
def test_memory_is_that_of_a_few_rows_of_tiles(tmp_path: Path) -> None:
    """The giant slide has 430 MB of pixels, and a row of its tiles has 9 MB. Two slides are cut at once.

    Imports for the first slide do not count.
    """
    write_giant(tmp_path / "giant.tiff", (12_000, 12_000), tile=256, compression="deflate")
    write_tiff(tmp_path / "small.tiff", np.full((600, 800, 3), 255, np.uint8), compression="deflate")
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    of_small, of_giant, of_many = map(int, ran.stdout.split())
    assert (of_giant - of_small < 130, of_many - of_giant < 30) == (True, True), ran.stdout


@pytest.mark.parametrize("tile_format", TileFormat)
def test_the_quality_of_tiles_is_that_of_their_pixels(tile_format: TileFormat, slides: Path) -> None:
    """Grey, noise, half a green pen, and a quarter of black, a tile each."""
    picture: NDArray[np.uint8] = np.full((40, 160, 3), 200, np.uint8)
    picture[:, 40:80] = np.random.default_rng(1).integers(100, 200, (40, 40, 1))
    picture[:, 80:100], picture[:20, 120:140] = (40, 160, 60), 0
    write_tiff(slides / "a.tiff", picture, compression="deflate", tile=64)
    grey, noise, pen, black = rows_of(cut(slides, "a.tiff", tile_size=40, quality=True, format=tile_format))
    assert [*grey][9:] == ["mean", "saturation", "sharpness", "pen", "black"]
    found = [[float(row[name]) for name in ("mean", "saturation", "pen", "black")] for row in (grey, noise, pen, black)]
    assert found[0] == [200, 0, 0, 0]
    assert found[1] == [round(float(picture[:, 40:80].mean()), 4), 0, 0, 0]
    assert found[2] == [round((200 + 260 / 3) / 2, 4), 0.375, 0.5, 0]
    assert found[3] == [150, 0, 0, 0.25]
    grid = picture[:, 40:80, 0].astype(float)
    laplacian = grid[:-2, 1:-1] + grid[2:, 1:-1] + grid[1:-1, :-2] + grid[1:-1, 2:] - 4 * grid[1:-1, 1:-1]
    assert abs(float(noise["sharpness"]) - laplacian.var()) < 0.01
    assert float(grey["sharpness"]) == 0
    assert "mean" not in rows_of(cut(slides, "a.tiff", tile_size=40))[0]
