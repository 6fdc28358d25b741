"""Regions of slides, drawn by pathologists: areas of GeoJSON (QuPath) or of ASAP's or Aperio's XML, and the pixels of a
level that they cover."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice, Notify
from himl_cli.core.text import did_you_mean, named, read_text
from himl_cli.slides.annotations import shapes_of
from himl_cli.slides.slide_records import Region, SlideEntry

OPTION = "--regions"
SUFFIXES = (".geojson", ".json", ".xml")
# ASAP's types with an area, and Aperio's numbers of a rectangle and an ellipse, whose vertices may be opposite corners
ASAP_AREAS, RECTANGLE, ELLIPSE = ("Polygon", "Spline", "Rectangle"), "1", "2"
APERIO_AREAS = ("0", RECTANGLE, ELLIPSE)
ELLIPSE_POINTS = 64
HINT = "Use GeoJSON, as QuPath exports it, or an XML file of ASAP or Aperio ImageScope."
CUT_OUTS = ("_2", "exclusion")  # groups of ASAP that CAMELYON16 and ASAP's users cut out of the others


def read_regions(path: Path, entries: Sequence[SlideEntry], notify: Notify) -> Mapping[str, Sequence[Region]]:
    """The regions of the slides *entries*, by id, from the file *path*, or from the files in a folder of that path.

    A file is about the slide of its name, or the only one. Features of GeoJSON may name others by `slide_id`. Raises
    BadUsage for invalid files, and if none of the slides has a region.
    """
    files = [each for each in sorted(path.iterdir()) if each.suffix.lower() in SUFFIXES] if path.is_dir() else [path]
    found: dict[str, list[Region]] = {}
    without_area = 0
    for file in files:
        text = read_text(file, OPTION)
        slide = entries[0].slide_id if len(entries) == 1 and not path.is_dir() else file.stem
        read = {"<": _of_xml, "{": _of_geojson, "[": _of_geojson}.get(text.lstrip()[:1])
        if read is None:
            raise BadUsage(f"{OPTION}: '{file}' is neither GeoJSON nor XML.", hint=HINT)
        for name, region in read(text, str(file), slide):
            if region is None:
                without_area += 1
            else:
                found.setdefault(name, []).append(region)
    if without_area:
        notify(Notice(f"{OPTION}: omitting annotations without an area (points, lines): {without_area:,}."))
    regions = {each.slide_id: [*_of_slide(each, found)] for each in entries}
    if not any(regions.values()):
        what = (
            f": none of the slides has a region. There are regions of {named([*found])}."
            if found
            else " has no regions."
        )
        hint = "Name each file after its slide, or set slide_id of each feature."
        raise BadUsage(f"{OPTION} '{path}'{what}", hint=did_you_mean(entries[0].slide_id, found) or hint)
    return regions


def _of_slide(slide: SlideEntry, found: Mapping[str, Sequence[Region]]) -> Iterator[Region]:
    """Regions of the id of *slide*, or of the name of its image, with or without extension."""
    name = re.split(r"[/\\]", slide.image)[-1]
    bare = re.sub(r"\.\w+$", "", name)
    for each in dict.fromkeys((slide.slide_id, name, bare, bare.removesuffix(".ome"))):
        yield from found.get(each, ())


Found = Iterator[tuple[str, Region | None]]
"""The slide and the region of each annotation. None: it has no area."""


def _of_geojson(text: str, source: str, slide: str) -> Found:
    for name, elements in shapes_of(text, source, slide).items():
        for each in elements:
            region = None
            if each.get("closed"):
                rings = [each["points"], *each.get("holes", ())]
                label = each.get("group") or each.get("label", {}).get("value", "")
                region = Region(str(label), [[(x, y) for x, y, _ in ring] for ring in rings])
            yield name, region


def _of_xml(text: str, source: str, slide: str) -> Found:
    try:
        root = ET.fromstring(text)  # noqa: S314  # expat limits the growth of entities, and loads no files
        if root.tag not in ("ASAP_Annotations", "Annotations"):
            raise BadUsage(f"{OPTION}: '{source}' has neither ASAP's nor Aperio's annotations.", hint=HINT)
        for each in root.iter("Annotation"):
            if root.tag == "ASAP_Annotations":
                label = each.get("PartOfGroup") or ""
                points = _points(sorted(each.iter("Coordinate"), key=lambda point: float(point.get("Order", 0))))
                region = Region("" if label == "None" else label, [points], label.lower() in CUT_OUTS)
                yield slide, region if each.get("Type") in ASAP_AREAS and len(points) > 2 else None
                continue
            for drawn in each.iter("Region"):
                points, kind = _points([*drawn.iter("Vertex")]), drawn.get("Type", "0")
                if points and (kind == ELLIPSE or (kind == RECTANGLE and len(points) == 2)):
                    points = _within(points, ELLIPSE_POINTS if kind == ELLIPSE else 4)
                label = each.get("Name") or drawn.get("Text") or ""
                region = Region(label, [points], drawn.get("NegativeROA") == "1")
                yield slide, region if kind in APERIO_AREAS and len(points) > 2 else None
    except (ET.ParseError, TypeError, ValueError) as err:
        raise BadUsage(f"{OPTION}: '{source}' is not valid XML of annotations: {err}.", hint=HINT) from err


def _points(places: Sequence[ET.Element]) -> list[tuple[float, float]]:
    """The coordinates of *places*, with a decimal point or comma. Raises ValueError, TypeError for missing ones."""
    read = [tuple(float(str(place.get(axis)).replace(",", ".")) for axis in "XY") for place in places]
    if not all(map(math.isfinite, (part for point in read for part in point))):
        raise ValueError("a coordinate is not a number")
    return [(x, y) for x, y in read]


def _within(points: Sequence[tuple[float, float]], corners: int) -> list[tuple[float, float]]:
    """The rectangle around *points*, or the ellipse in it as a polygon with that many *corners*."""
    (left, right), (top, bottom) = ((min(side), max(side)) for side in zip(*points, strict=True))
    if corners == 4:
        return [(left, top), (right, top), (right, bottom), (left, bottom)]
    angles = [2 * math.pi * number / corners for number in range(corners)]
    x, y, across, down = (left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2
    return [(x + across * math.cos(angle), y + down * math.sin(angle)) for angle in angles]


class RegionRaster:
    """The pixels of a level whose centres are in the *regions*, for a level of *width* pixels, each as wide and high as
    *scale* pixels of level 0."""

    def __init__(self, regions: Sequence[Region], width: int, scale: tuple[float, float]) -> None:
        self._width = width
        self._regions = [(each, _edges(each.rings) / (*scale, *scale)) for each in regions]
        self.labels = sorted({each.label for each in regions if not each.is_cut_out} - {""})

    def columns(self, top: int, rows: int) -> Mapping[str, NDArray[np.int64]]:
        """The number of pixels of each column of the level, in *rows* rows from *top*, that any region (the key is
        empty) and each label covers."""
        covered: dict[str, NDArray[np.bool_]] = {
            label: np.zeros((rows, self._width), np.bool_) for label in ("", *self.labels)
        }
        for region, edges in sorted(self._regions, key=lambda each: each[0].is_cut_out):
            if edges[:, 1::2].max(initial=0) <= top or edges[:, 1::2].min(initial=top + rows) >= top + rows:
                continue
            left, inside = _inside(edges, top, rows, self._width)
            for label, pixels in covered.items():
                part = pixels[:, left : left + inside.shape[1]]
                if region.is_cut_out:
                    part &= ~inside
                elif label in ("", region.label):
                    part |= inside
        return {label: pixels.sum(axis=0, dtype=np.int64) for label, pixels in covered.items()}


def _edges(rings: Sequence[Sequence[tuple[float, float]]]) -> NDArray[np.float64]:
    """The edges of closed *rings*, shape (edges, 4): x and y of both ends."""
    ends = [np.hstack((ring, np.roll(ring, -1, axis=0))) for ring in (np.asarray(ring, float) for ring in rings)]
    return np.concatenate(ends)


def _inside(edges: NDArray[np.float64], top: int, rows: int, width: int) -> tuple[int, NDArray[np.bool_]]:
    """The pixels of *rows* rows from *top* whose centres the *edges* surround an odd number of times, and their left
    column. An edge that crosses a row inverts all pixels to its right."""
    left, right = (int(np.clip(side, 0, width)) for side in (edges[:, ::2].min(), edges[:, ::2].max() + 1))
    x, y, to_x, to_y = edges.T
    first, last = (np.clip(np.ceil(side - top - 0.5), 0, rows) for side in (np.minimum(y, to_y), np.maximum(y, to_y)))
    counts = (last - first).astype(np.int64)
    edge: NDArray[np.int64] = np.repeat(np.arange(len(edges)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge].astype(np.int64)
    place = x[edge] + (row + top + 0.5 - y[edge]) * ((to_x - x)[edge] / (to_y - y)[edge])
    column = np.clip(np.ceil(place - 0.5), left, right).astype(np.int64) - left
    crossings: NDArray[np.uint8] = np.zeros((rows, right - left + 1), np.uint8)
    np.bitwise_xor.at(crossings, (row, column), 1)
    return left, np.bitwise_xor.accumulate(crossings, axis=1)[:, : right - left].view(np.bool_)
