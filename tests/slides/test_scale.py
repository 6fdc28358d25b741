"""Tests of the scale of slides: where it is recorded, tiles of slides of several scales, and slides without one."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from himl_cli.slides.pictures import open_slide
from himl_cli.slides.resampling import averaged
from himl_cli.slides.scale import scale_of
from himl_cli.slides.slide_records import Backend, SlideEntry, SlideUnreadable
from tests.slides.test_cutting import cut, places, rows_of, tile_of
from tests.support.running import Himl
from tests.support.slides import Pixels, slide_picture, write_mask, write_svs, write_tiff

SIZE = (640, 480)
UNKNOWN = "its scale is unknown (add a column mpp to the CSV, or --assume_mpp)"
PRINTED = (
    "its scale is unknown, because 352.8 µm per pixel is not the scale of a slide (add a column mpp to the "
    "CSV, or --assume_mpp)"
)


def write_scaled(path: Path, mpp: float, **options: Any) -> Pixels:
    """Write a slide whose resolution tags have *mpp* micrometres per pixel, and return the pixels of level 0."""
    options = {
        "resolution": (10_000 / mpp,) * 2,
        "resolutionunit": "CENTIMETER",
        "compression": "deflate",
        "tile": 64,
        **options,
    }
    return write_tiff(path, slide_picture(3, SIZE), **options)[0]


def write_ome(path: Path, **sides: Any) -> None:
    """Write an OME-TIFF with these attributes, after a smaller picture with others."""
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(
            slide_picture(3, SIZE),
            tile=(64, 64),
            photometric="rgb",
            compression="deflate",
            metadata={"axes": "YXS", **sides},
        )
        file.write(np.zeros((64, 64, 3), np.uint8), photometric="rgb", metadata={"axes": "YXS", "PhysicalSizeX": 7})


def write_imagej(path: Path, unit: str, per_unit: float) -> None:
    tifffile.imwrite(
        path,
        slide_picture(3, SIZE),
        imagej=True,
        photometric="rgb",
        resolution=(per_unit, per_unit),
        metadata={"unit": unit},
    )


def test_scales_come_from_the_csv_the_file_or_the_user(tmp_path: Path) -> None:
    """The row of the CSV precedes the file. Tags of prints, such as 72 dpi, are no scale."""
    write_scaled(tmp_path / "cm.tiff", 0.25)
    write_scaled(tmp_path / "inch.tiff", 0.5, resolution=(25_400 / 0.5, 25_400 / 0.4), resolutionunit="INCH")
    write_scaled(tmp_path / "dpi.tiff", 0.5, resolution=(72, 72), resolutionunit="INCH")
    write_scaled(tmp_path / "unitless.tiff", 0.5, resolutionunit="NONE")
    write_scaled(tmp_path / "none.tiff", 0.5, resolution=None, resolutionunit=None)
    write_svs(tmp_path / "a.svs", slide_picture(3, SIZE))
    write_ome(
        tmp_path / "nm.ome.tiff", PhysicalSizeX=250, PhysicalSizeXUnit="nm", PhysicalSizeY=260, PhysicalSizeYUnit="nm"
    )
    write_ome(tmp_path / "default.ome.tiff", PhysicalSizeX=0.5)
    write_ome(tmp_path / "pixel.ome.tiff", PhysicalSizeX=0.5, PhysicalSizeXUnit="pixel")
    write_imagej(tmp_path / "um.tiff", "um", 4)
    write_imagej(tmp_path / "mm.tiff", "mm", 2000)
    Image.fromarray(slide_picture(3, SIZE)).save(tmp_path / "a.png", dpi=(25_400, 25_400))
    (tmp_path / "broken.tiff").write_bytes((tmp_path / "cm.tiff").read_bytes()[:9])

    def found(name: str, row: dict[str, str] | None = None, assumed: float | None = None) -> object:
        try:
            across, down, source = scale_of(tmp_path / name, SIZE, row or {}, assumed)
        except SlideUnreadable as err:
            return str(err)
        return round(across, 6), round(down, 6), source

    assert {name: found(name) for name in sorted(path.name for path in tmp_path.iterdir() if path.is_file())} == {
        "a.png": UNKNOWN,
        "a.svs": (0.5, 0.5, "openslide"),
        "broken.tiff": UNKNOWN,
        "cm.tiff": (0.25, 0.25, "tiff"),
        "default.ome.tiff": (0.5, 0.5, "ome"),
        "dpi.tiff": PRINTED,
        "inch.tiff": (0.5, 0.4, "tiff"),
        "mm.tiff": (0.5, 0.5, "imagej"),
        "nm.ome.tiff": (0.25, 0.26, "ome"),
        "none.tiff": UNKNOWN,
        "pixel.ome.tiff": UNKNOWN,
        "um.tiff": (0.25, 0.25, "imagej"),
        "unitless.tiff": UNKNOWN,
    }
    assert found("cm.tiff", {"MPP": " 0,46 "}) == (0.46, 0.46, "csv")
    assert found("cm.tiff", {"mpp": " "}, 1) == (0.25, 0.25, "tiff")
    assert found("none.tiff", {"microns_per_pixel": "0.46"}, 1) == (0.46, 0.46, "csv")
    assert found("dpi.tiff", {}, 0.4) == (0.4, 0.4, "assumed")
    both = found("cm.tiff", {"mpp": "0.5", "microns_per_pixel": "0.25"})
    assert both == "mpp '0.5 and 0.25' in the CSV is not a number from 0.01 to 20"
    for text in ("0", "-1", "nan", "inf", "40x", "250"):
        assert found("cm.tiff", {"mpp": text}, 0.5) == f"mpp '{text}' in the CSV is not a number from 0.01 to 20"


def exact(pixels: Pixels, across: float, down: float) -> NDArray[np.float64]:
    """Means of areas of *across* x *down* pixels."""

    def weights(side: int, factor: float) -> NDArray[np.float64]:
        edges = np.arange(int(side / factor + 1e-6) + 1)[:, None] * factor
        return np.diff(np.clip(edges - np.arange(side), 0, 1), axis=0) / factor

    return np.einsum(
        "ij,jkc,lk->ilc",
        weights(pixels.shape[0], down),
        pixels.astype(float),
        weights(pixels.shape[1], across),
        optimize=True,
    )


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("factors", [(1.0, 1.0), (2.0, 4.0), (1.984, 2.016), (0.97, 0.98), (12.34, 7.1)])
def test_pixels_are_means_of_their_areas(factors: tuple[float, float]) -> None:
    """The strips may have any height."""
    pixels = slide_picture(1, (400, 301))
    wanted = exact(pixels, *factors)
    for rows in (7, 301):
        strips = iter([pixels[top : top + rows] for top in range(0, 301, rows)])
        made = np.concatenate([*averaged(strips, factors, (wanted.shape[1], wanted.shape[0]))])
        assert np.abs(made - wanted).max() < 0.501


MIXED = {  # micrometres per pixel of level 0, levels, and the level to read for 0.5 micrometres
    "quarter": (0.25, 3, 1),
    "half": (0.5, 1, 0),
    "aperio": (0.499, 2, 0),
    "hamamatsu": (0.2273, 3, 1),
    "single": (0.12, 1, 0),
    "nominal": (0.51, 1, 0),
}


@pytest.mark.large("cuts slides of several scales")
def test_slides_of_several_scales_become_tiles_of_one(tmp_path: Path) -> None:
    """Tiles have their exact size, the means of the pixels of the next finer level, and positions of level 0."""
    finest = {
        name: write_scaled(tmp_path / f"{name}.tiff", mpp, levels=levels) for name, (mpp, levels, _) in MIXED.items()
    }
    result = cut(tmp_path, *(SlideEntry(name, f"{name}.tiff") for name in MIXED), mpp=0.5, tile_size=50, overlap=10)
    for slide in result.slides:
        mpp, _, level = MIXED[slide.slide_id]
        factor = 0.5 / mpp
        sides = (int(SIZE[0] / factor + 1e-6), int(SIZE[1] / factor + 1e-6))
        assert (slide.reason, slide.level, slide.size, slide.mpp, slide.scale_source) == ("", level, sides, 0.5, "tiff")
        with tifffile.TiffFile(tmp_path / f"{slide.slide_id}.tiff") as file:
            source = file.pages[level].asarray()
        whole = exact(source, factor / 2**level, factor / 2**level)
        padded = np.pad(whole, ((0, 60), (0, 60), (0, 0)), constant_values=255)
        rows = [row for row in rows_of(result) if row["slide_id"] == slide.slide_id]
        columns = 1 + -(-(sides[0] - 50) // 40)
        assert len(rows) == columns * (1 + -(-(sides[1] - 50) // 40)) == slide.tiles
        for number, row in enumerate(rows):
            top, left = (40 * each for each in divmod(number, columns))
            assert places(row) == [round(edge * factor) for edge in (left, top, left + 50, top + 50)]
            tile = tile_of(result, row)
            assert tile.shape == (50, 50, 3)
            assert np.abs(tile - padded[top : top + 50, left : left + 50]).max() < 0.501
    with result.record.open(encoding="utf-8", newline="") as file:
        assert {row["mpp"] for row in csv.DictReader(file)} == {"0.5"}
    assert np.array_equal(
        tile_of(result, next(row for row in rows_of(result) if row["slide_id"] == "half")), finest["half"][:50, :50]
    )


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_magnification_is_the_level_within_five_percent_or_made_of_a_finer_one(tmp_path: Path) -> None:
    for name, (mpp, levels, _) in MIXED.items():
        write_scaled(tmp_path / f"{name}.tiff", mpp, levels=levels)
    write_svs(tmp_path / "objective.svs", slide_picture(3, SIZE))
    entries = [SlideEntry(name, f"{name}.tiff") for name in MIXED] + [SlideEntry("svs", "objective.svs")]
    found = {
        slide.slide_id: (slide.level, slide.size, round(slide.mpp or 0, 4))
        for slide in cut(tmp_path, *entries, magnification=20.0).slides
    }
    assert found == {
        "quarter": (1, (320, 240), 0.5),
        "half": (0, (640, 480), 0.5),
        "aperio": (0, (640, 480), 0.499),
        "hamamatsu": (1, (290, 218), 0.5),
        "single": (0, (153, 115), 0.5),
        "nominal": (0, (640, 480), 0.51),
        "svs": (0, (640, 480), 0.5),
    }


def test_masks_have_the_scale_of_their_slides(tmp_path: Path) -> None:
    write_scaled(tmp_path / "a.tiff", 0.25)
    labels = write_mask(tmp_path / "mask.png", size=SIZE) > 0
    result = cut(tmp_path, SlideEntry("a", "a.tiff", mask="mask.png"), mpp=1.0, tile_size=40, foreground="mask")
    for row in rows_of(result):
        left, top, right, bottom = places(row)
        assert abs(float(row["occupancy"]) - labels[top:bottom, left:right].mean()) < 0.05


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("backend", [Backend.auto, Backend.tifffile, Backend.openslide])
def test_the_scale_does_not_depend_on_the_backend(backend: Backend, tmp_path: Path) -> None:
    write_ome(tmp_path / "a.ome.tiff", PhysicalSizeX=0.25)
    open_slide(tmp_path / "a.ome.tiff", backend).close()
    (slide,) = cut(tmp_path, "a.ome.tiff", mpp=0.5, backend=backend).slides
    assert (slide.size, slide.scale_source, slide.backend) == (
        (320, 240),
        "ome",
        "openslide" if backend is Backend.openslide else "tifffile",
    )


def test_a_montage_shows_slides_at_one_scale_with_a_bar(himl: Himl, project: Path) -> None:
    """The boxes of slides have their exact size in micrometres, and the bar has the length that it names."""
    folder = project / "slides"
    folder.mkdir()
    for name, (mpp, levels, _) in MIXED.items():
        write_scaled(folder / f"{name}.tiff", mpp, levels=levels)
    write_scaled(folder / "none.tiff", 1, resolution=None, resolutionunit=None)
    done = himl.ok("montage", "slides", "--mpp", "1", "--image_format", "png", "--json").json()
    with (project / "outputs" / "montage.csv").open(encoding="utf-8", newline="") as file:
        cells = {row["slide_id"].removesuffix(".tiff"): row for row in csv.DictReader(file)}
    for name, (mpp, _, _) in MIXED.items():
        box = [int(cells[name][f"picture_{side}"]) for side in ("width", "height")]
        assert box == [round(side * mpp) for side in SIZE]
    assert (cells["none"]["reason"], done["mpp"], len(done["failed"])) == (UNKNOWN, 1.0, 1)
    with Image.open(project / "outputs" / "montage.png") as image:
        bottom = max(int(row["y"]) + int(row["height"]) for row in cells.values())
        below = np.asarray(image.convert("L"))[bottom:]
    line = next(row for row in below if (row < 64).sum() > 50)
    left = min(int(row["x"]) for row in cells.values())
    assert np.flatnonzero(line < 64).tolist() == [*range(left, left + 100)], "100 µm"
    assert (below[10:, : left + 100] < 128).any(), "its length"
    enlarged = himl.ok(
        "montage", "slides", "--mpp", "0.25", "--assume_mpp", "1", "--image_format", "png", "--json"
    ).json()
    remarks = {each["slide_id"]: each["remark"] for each in enlarged["remarks"]}
    assert remarks["none.tiff"] == "it is enlarged 4.0 times, because its finest level is coarser"
    assert "quarter.tiff" not in remarks
    for words, said in {
        ("--mpp", "1", "--width", "300"): "--mpp and --width cannot be combined",
        ("--mpp", "1", "--layout", "hi-ml"): "--mpp and --layout hi-ml cannot be combined",
        ("--assume_mpp", "1"): "--assume_mpp has no effect without a scale.",
        ("--mpp", "0.01", "--assume_mpp", "10"): "At 0.01 µm per pixel, the montage would be wider than 60,000 pixels.",
    }.items():
        failed = himl("montage", "slides", *words)
        assert (failed.code, said in failed.stderr) == (2, True), failed.stderr


def test_slides_without_a_scale_fail_unless_the_user_gives_one(himl: Himl, project: Path) -> None:
    """Columns of the CSV are those of its slides in dataset.csv."""
    folder = project / "slides"
    folder.mkdir()
    write_scaled(folder / "dpi.tiff", 0.5, resolution=(72, 72), resolutionunit="INCH")
    write_scaled(folder / "known.tiff", 0.25)
    (folder / "dataset.csv").write_text(
        "slide_id,image,MPP,Patient,left,Region\na,dpi.tiff,,p1,1,\nb,known.tiff,,p2,2,x\nc,dpi.tiff,0.5,p1,3,\n"
    )
    options = ("--mpp", "1", "--occupancy", "0", "--tile_size", "100", "--json")
    done = himl.ok("tiles", "slides", *options)
    found = {slide["slide_id"]: slide for slide in done.json()["slides"]}
    assert {name: (slide["reason"], slide["mpp"], slide["scale_source"]) for name, slide in found.items()} == {
        "a": (PRINTED, None, ""),
        "b": ("", 1.0, "tiff"),
        "c": ("", 1.0, "csv"),
    }
    with (project / "outputs" / "dataset.csv").open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [*rows[0]][9:] == ["MPP", "Patient", "slide_left", "slide_Region"]
    assert {(row["slide_id"], row["Patient"], row["slide_left"], row["MPP"]) for row in rows} == {
        ("b", "p2", "2", ""),
        ("c", "p1", "3", "0.5"),
    }
    assert himl("tiles", "slides", *options, "--strict").code == 1
    assumed = himl.ok("tiles", "slides", *options, "--assume_mpp", "0.5").json()["slides"]
    assert [(slide["scale_source"], slide["width"], slide["is_resumed"]) for slide in assumed] == [
        ("assumed", 320, False),
        ("tiff", 160, False),
        ("csv", 320, False),
    ]
    refused = {
        ("--mpp", "1", "--level", "0"): "--level and --mpp cannot be combined.",
        ("--mpp", "0"): "--mpp must be a number of micrometres from 0.01 to 1,000, not 0.",
        ("--mpp", "nan"): "--mpp must be a number of micrometres from 0.01 to 1,000, not nan.",
        ("--assume_mpp", "1"): "--assume_mpp has no effect without a scale.",
    }
    for words, said in refused.items():
        failed = himl("tiles", "slides", *words)
        assert (failed.code, said in failed.stderr) == (2, True), failed.stderr
