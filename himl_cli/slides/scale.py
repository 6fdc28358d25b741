"""The scale of a slide, in micrometres per pixel, and the pixels of a slide at another scale."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from html import unescape
from pathlib import Path
from typing import NamedTuple

from tifffile import TiffFile, TiffPage

from himl_cli.core.records import dataclass
from himl_cli.slides.readers import LIBRARY_ERRORS, vendor_of
from himl_cli.slides.slide_records import Size, SlideUnreadable
from himl_cli.slides.tiff import level_pages

CSV_COLUMNS = ("mpp", "microns_per_pixel")
# Scales of microscopes. Programs for prints write 72 to 1200 pixels per inch, which are 353 to 21 micrometres.
LEAST_MPP, MOST_MPP = 0.01, 20.0
MICROMETRES = {
    **dict.fromkeys(("µm", "μm", "\\u00b5m", "um", "micron", "microns"), 1.0),
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "inch": 25_400.0,
}
RESOLUTION, UNIT, UNITS = (282, 283), 296, {2: "inch", 3: "cm"}  # tags of a TIFF
ONE_POWER = 10.0  # micrometres per pixel at magnification 1: 20 has 0.5, and 40 has 0.25
NEAR_POWER, NEAR, ENLARGED = 0.05, 0.001, 0.05  # relative differences of scales
TINY = 1e-6  # of a pixel, for sums that are not exact


class Scale(NamedTuple):
    """Micrometres per pixel of level 0, across and down. `source` is where they come from: `csv`, `openslide`, `ome`,
    `imagej`, `aperio`, `tiff`, `objective` or `assumed`."""

    across: float
    down: float
    source: str


@dataclass(frozen=True)
class PixelGrid:
    """Pixels of a slide at a scale: `size` of the whole slide, made of `level`.

    `step` has the pixels of that level per pixel, across and down (1 and 1: as stored), and `downsample` those of level
    0. `mpp` has micrometres per pixel, None if the scale was not requested.
    """

    level: int
    size: Size
    step: tuple[float, float]
    downsample: tuple[float, float]
    mpp: float | None = None
    scale_source: str = ""


def csv_mpp(row: Mapping[str, str]) -> str:
    """Text of the scale in the *row* of a slide, empty if there is none. Different scales give a text with all."""
    found = (value.strip() for name, value in row.items() if name.casefold() in CSV_COLUMNS)
    return " and ".join(dict.fromkeys(filter(None, found)))


def scale_of(
    path: Path, size: Size, row: Mapping[str, str], assumed: float | None, *, by_objective: bool = False
) -> Scale:
    """Scale of the slide at *path*, whose level 0 has *size* pixels: of its *row* in the CSV, of its file, or
    *assumed*. With *by_objective*, the magnification of the objective is enough.

    Raises SlideUnreadable for an unknown scale."""
    if text := csv_mpp(row):
        with suppress(ValueError):
            number = float(text.replace(",", "."))
            if LEAST_MPP <= number <= MOST_MPP:
                return Scale(number, number, "csv")
        raise SlideUnreadable(f"mpp '{text}' in the CSV is not a number from {LEAST_MPP} to {MOST_MPP:g}")
    doubt = ""
    for across, down, source in _recorded(path, size, by_objective=by_objective):
        if min(across, down) >= LEAST_MPP and max(across, down) <= MOST_MPP:
            return Scale(across, down, source)
        doubt = f", because {max(across, down):.4g} µm per pixel is not the scale of a slide"
    if assumed is not None:
        return Scale(assumed, assumed, "assumed")
    raise SlideUnreadable(f"its scale is unknown{doubt} (add a column mpp to the CSV, or --assume_mpp)")


def size_at(size: Size, scale: Scale, mpp: float) -> Size:
    """Size of a slide, whose level 0 has *size* pixels, with *mpp* micrometres per pixel."""
    return max(1, round(size[0] * scale.across / mpp)), max(1, round(size[1] * scale.down / mpp))


def grid_at(
    levels: Sequence[Size], downsamples: Sequence[float], scale: Scale, mpp: float, *, is_power: bool = False
) -> PixelGrid:
    """The grid with *mpp* micrometres per pixel: of the nearest level if that has this scale, else made of the next
    finer one. A magnification (*is_power*) is nominal, so that it has a level within 5 %.

    Raises SlideUnreadable if the slide is coarser."""
    whole = mpp / scale.across, mpp / scale.down
    off = [max(abs(factor / each - 1) for each in whole) for factor in downsamples]
    level = off.index(min(off))
    if off[level] <= (NEAR_POWER if is_power else NEAR):
        factor = downsamples[level]
        return PixelGrid(level, levels[level], (1.0, 1.0), (factor, factor), scale.across * factor, scale.source)
    if min(whole) < 1 - ENLARGED:
        here, wanted = max(scale[:2]), mpp
        powers = f" ({ONE_POWER / here:.3g}x)", f" ({ONE_POWER / wanted:.3g}x)"
        raise SlideUnreadable(
            f"its finest level has {here:.4g} µm per pixel{powers[0]}, coarser than {wanted:.4g}{powers[1]}"
        )
    level = max((number for number, factor in enumerate(downsamples) if factor <= min(whole)), default=0)
    factor = downsamples[level]
    step = whole[0] / factor, whole[1] / factor
    width, height = (max(1, int(side / each + TINY)) for side, each in zip(levels[level], step, strict=True))
    return PixelGrid(level, (width, height), step, whole, mpp, scale.source)


def _recorded(path: Path, size: Size, *, by_objective: bool) -> Iterator[tuple[float, float, str]]:
    """Scales in the file of a slide, the most reliable first."""
    properties: Mapping[str, str] = {}
    with suppress(ImportError, *LIBRARY_ERRORS):
        import openslide

        if vendor_of(path) not in (None, "generic-tiff"):
            with suppress(openslide.OpenSlideError), openslide.OpenSlide(path) as slide:
                properties = dict(slide.properties)
    across = _number(properties.get("openslide.mpp-x"))
    if across:
        yield across, _number(properties.get("openslide.mpp-y")) or across, "openslide"
    with suppress(SlideUnreadable, *LIBRARY_ERRORS), TiffFile(path, mode="r", _multifile=False, is_ndpi=False) as file:
        yield from _of_tiff(level_pages(file)[0], str(getattr(file.pages[0], "description", "")), size)
    power = _number(properties.get("openslide.objective-power"))
    if by_objective and power:
        yield ONE_POWER / power, ONE_POWER / power, "objective"


def _of_tiff(page: TiffPage, text: str, size: Size) -> Iterator[tuple[float, float, str]]:
    """Scales in a TIFF whose first page has the description *text*: OME-XML, an Aperio header, and the tags of the
    *page* of level 0, whose unit ImageJ writes into the description."""
    for element in re.findall(r"<(?:\w+:)?Pixels\b([^>]*)>", text) if text.rstrip().endswith("OME>") else ():
        values = {name: unescape(value) for name, value in re.findall(r'(\w+)="([^"]*)"', element)}
        if (values.get("SizeX"), values.get("SizeY")) == (str(size[0]), str(size[1])):
            units = [MICROMETRES.get(values.get(f"PhysicalSize{axis}Unit", "µm"), 0.0) for axis in "XY"]
            if (across := _number(values.get("PhysicalSizeX"))) and all(units):
                down = _number(values.get("PhysicalSizeY")) or across
                yield across * units[0], down * units[1], "ome"
            break
    if text.startswith("Aperio") and (mpp := re.search(r"\|\s*MPP\s*=\s*(\d*\.?\d+)", text)):
        yield float(mpp[1]), float(mpp[1]), "aperio"
    named = re.search(r"^unit=(\S+)", text, re.MULTILINE) if text.startswith("ImageJ=") else None
    unit = named[1].casefold() if named else UNITS.get(page.tags.valueof(UNIT, 0), "")
    found = [page.tags.valueof(tag) for tag in RESOLUTION]
    per_unit = [value[0] / value[1] for value in found if isinstance(value, tuple) and all(value)]
    if unit in MICROMETRES and len(per_unit) == len(RESOLUTION):
        yield MICROMETRES[unit] / per_unit[0], MICROMETRES[unit] / per_unit[1], "imagej" if named else "tiff"


def _number(text: str | None) -> float | None:
    with suppress(TypeError, ValueError):
        return float(text)  # type: ignore[arg-type]  # None raises TypeError
    return None
