"""Slides for montages, and readers of the results."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from himl_cli.slides.resampling import Bicubic, as_pillow
from himl_cli.slides.slide_records import Size
from tests.support.folders import contents
from tests.support.slides import mean_difference, write_kind

Row = Mapping[str, str]
SEEDS = {"a.tiff": 1, "b.svs": 2, "c.png": 3, "d.tiff": 4}


def four_slides(folder: Path) -> Path:
    """Write four slides of one shape in three formats with the seeds SEEDS, one of them in a subfolder, and a file
    that is not a slide.
    """
    (folder / "more").mkdir(parents=True)
    write_kind("deflate-pyramid", folder, seed=SEEDS["a.tiff"], name="a")
    write_kind("svs", folder, seed=SEEDS["b.svs"], name="b")
    write_kind("png", folder, seed=SEEDS["c.png"], name="c")
    write_kind("jpeg-pyramid", folder / "more", seed=SEEDS["d.tiff"], name="d")
    (folder / "notes.txt").write_text("no slide")
    return folder


def rows_of(folder: Path) -> list[Row]:
    """The lines of its montage.csv."""
    with (folder / "montage.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pixels_of(path: Path) -> NDArray[np.uint8]:
    """RGB, shape (height, width, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def resized(pixels: NDArray[np.uint8], target: Size, bicubic: Bicubic = as_pillow) -> NDArray[np.uint8]:
    """The whole picture, shape (height, width, 3), in another size."""
    return bicubic((pixels,), target, None)


def nearest(pixels: NDArray[np.uint8], target: Size) -> NDArray[np.uint8]:
    """The picture in another size by nearest pixels, as in Pillow."""
    return np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.NEAREST))


def picture_box(row: Row) -> tuple[int, int, int, int]:
    """Left, upper, right and lower side of the slide's own pixels."""
    x, y, width, height = (int(row[f"picture_{name}"]) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def difference(montage: NDArray[np.uint8], row: Row, source: NDArray[np.uint8]) -> float:
    """The mean difference between the slide in the montage and *source*, in grey levels."""
    left, upper, right, lower = picture_box(row)
    return mean_difference(montage[upper:lower, left:right], resized(source, (right - left, lower - upper)))


def left_in(folder: Path) -> list[str]:
    """The files below the folder, including hidden ones."""
    return sorted(contents(folder))
