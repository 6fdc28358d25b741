"""Annotations of slides in a Digital Slide Archive: documents from a CSV or GeoJSON.

A document is the body of large_image's `POST /annotation`. Coordinates are in pixels of the slide's highest resolution
from its upper left corner (https://girder.github.io/large_image/annotations.html).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta, Struct, ValidationError, convert

from himl_cli.core.errors import BadUsage, HimlError, IntegrityFailed, NotFound
from himl_cli.core.json_text import NotJson, read_json
from himl_cli.core.text import did_you_mean, listed, named
from himl_cli.workspaces.base import BlobStore

SIDES = ("left", "top", "right", "bottom")
SPECTRAL = ((43, 131, 186), (171, 221, 164), (255, 255, 191), (253, 174, 97), (215, 25, 28))
"""ColorBrewer's diverging colours from blue to red, in RGB."""
OPACITY = 0.5
DIGEST = "himl_sha256"  # the attribute of an annotation by which himl recognizes an earlier upload

Document = dict[str, Any]


class TileOptions(NamedTuple):
    """Options for drawing a CSV. `value` is the column of the values. The first and last colour are the minimum and
    maximum of a slide with `rescale`, else 0 and 1."""

    value: str
    is_heatmap: bool
    rescale: bool


Colour = Annotated[
    str,
    Meta(
        pattern=r"^(#([0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})|rgb\(\d+,\s*\d+,\s*\d+\)"
        r"|rgba\(\d+,\s*\d+,\s*\d+,\s*(\d?\.|)\d+\))$"
    ),
]
Length = Annotated[float, Meta(ge=0)]
Coordinate = tuple[float, float, float]


class Label(Struct, frozen=True, forbid_unknown_fields=True):
    value: str
    visibility: Literal["hidden", "always", "onhover"] = "hidden"
    fontSize: Annotated[float, Meta(gt=0)] = 1  # noqa: N815  # names of large_image, here and below
    color: Colour = ""


class Element(Struct, tag_field="type", forbid_unknown_fields=True):
    """An element of an annotation that himl uploads, with the rules of large_image's schema. Each subclass is a
    type."""

    user: dict[str, Any] = {}
    label: Label = Label("")
    group: str = ""


class Shape(Element):
    lineColor: Colour = ""  # noqa: N815
    lineWidth: Length = 0  # noqa: N815
    fillColor: Colour = ""  # noqa: N815


class Dot(Shape, tag="point", kw_only=True):
    center: Coordinate


class Polyline(Shape, tag="polyline", kw_only=True):
    points: Annotated[list[Coordinate], Meta(min_length=2)]
    closed: bool = False
    holes: list[Annotated[list[Coordinate], Meta(min_length=3)]] = []


class Rectangle(Shape, tag="rectangle", kw_only=True):
    center: Coordinate
    width: Length
    height: Length
    rotation: float = 0


class Heatmap(Element, tag="heatmap", kw_only=True):
    points: list[tuple[float, float, float, float]]
    radius: Annotated[float, Meta(gt=0)] = 1
    colorRange: list[Colour] = []  # noqa: N815
    rangeValues: list[float] = []  # noqa: N815
    normalizeRange: bool = False  # noqa: N815
    scaleWithZoom: bool = False  # noqa: N815


Uploaded = Dot | Polyline | Rectangle | Heatmap


class Tile(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float
    value: float


def run_file(store: BlobStore, name: str, run_id: str) -> str:
    """The text of a run's file, checked by its MD5. Raises NotFound with similar names, BadUsage if it is not UTF-8."""
    blob = store.stat(name)
    if blob is None:
        folder = name.partition("/")[0]
        known = [each.name for page in store.list() for each in page if each.name.endswith((".csv", "json"))]
        hint = did_you_mean(name, known) or f"List its files: himl download {run_id} --prefix {folder} --list"
        raise NotFound(f"Run '{run_id}' has no file '{name}'.", hint=hint)
    content = b"".join(store.read(name))
    if blob.md5 is not None and hashlib.md5(content, usedforsecurity=False).digest() != blob.md5:
        unchecked = f"himl download {run_id} --prefix {shlex.quote(name)} --no_validate"
        raise IntegrityFailed(
            f"'{name}' of run '{run_id}' does not match its MD5.",
            hint=f"If the stored MD5 is wrong, download the file without the check, and name it as FILE: {unchecked}",
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise BadUsage(f"'{name}' of run '{run_id}' is not UTF-8 text (byte {err.start}).", hint="Name a CSV.") from err


def read_documents(
    text: str,
    source: str,
    problems: dict[str, HimlError],
    *,
    name: str,
    slide: str,
    id_filter: str = "",
    options: TileOptions,
) -> dict[str, Document]:
    """The annotation *name* for each slide whose id contains *id_filter*, by slide id, from the *text* of *source*.

    The text is GeoJSON if it begins with a bracket, else a CSV. Shapes of GeoJSON without a property `slide_id` belong
    to *slide*. Slides with an invalid line or element are added to *problems* instead. Raises BadUsage, with the
    invalid column, line or shape, or if no slide is left.
    """
    is_geojson = text.lstrip()[:1] in ("{", "[")
    if is_geojson and options.is_heatmap:
        raise BadUsage(f"A heat map needs a CSV, but '{source}' is GeoJSON.", hint="Omit --kind.")
    elements = shapes_of(text, source, slide) if is_geojson else _tile_elements(text, source, problems, options)
    documents = {}
    for slide_id, each in elements.items():
        if id_filter not in slide_id or slide_id in problems:
            continue
        try:
            _check(each, slide_id, source)
        except BadUsage as err:
            problems[slide_id] = err
            continue
        digest = hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest()
        documents[slide_id] = {
            "name": name,
            "description": f"Uploaded by himl from {source}",
            "attributes": {DIGEST: digest},
            "elements": each,
        }
    for slide_id in [each for each in problems if id_filter not in each]:
        del problems[slide_id]
    if not documents and problems:
        raise next(iter(problems.values()))
    if not documents:
        what = f"'{source}' has no slide with '{id_filter}' in its id. It has {named([*elements])}."
        raise BadUsage(what, hint="Correct or omit --id_filter.")
    return documents


def _check(elements: Sequence[Document], slide: str, source: str) -> None:
    """Raise BadUsage if large_image's schema does not allow one of the *elements*."""
    for number, element in enumerate(elements, 1):
        try:
            convert(element, Uploaded)
        except ValidationError as err:
            reason, _, place = str(err).partition(" - at `$.")
            name = re.split(r"\W", place)[0]
            value = f"{name} '{element.get(name)}': " if name else ""
            raise BadUsage(
                f"'{source}': the archive does not accept element {number} of '{slide}' ({value}{reason}).",
                hint="Colours are #rrggbb, rgb(R, G, B) or rgba(R, G, B, A), and lineWidth is a number.",
            ) from err


def _tile_elements(
    text: str, source: str, problems: dict[str, HimlError], options: TileOptions
) -> dict[str, list[Document]]:
    tiles: dict[str, list[Tile]] = {}
    first_line = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=first_line.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    wanted = (*SIDES, options.value)
    try:
        names = rows.fieldnames or ()
        places = {each: [name for name in names if name == each] for each in ("slide_id", *wanted)}
        for each in places:
            places[each] = places[each] or [name for name in names if name.strip().casefold() == each.casefold()]
        columns = {each: found[0] for each, found in places.items() if len(found) == 1}
        if repeated := [each for each, found in places.items() if len(found) > 1]:
            raise BadUsage(f"'{source}' has several columns '{repeated[0]}'.", hint="Rename or remove all but one.")
        missing = [column for column in places if column not in columns]
        if missing:
            shown = listed([f"'{name}'" for name in names]) or "none"
            hint = did_you_mean(missing[0], names)
            hint = hint or "Name the column of values with --value. The others are slide_id, left, top, right, bottom."
            raise BadUsage(f"'{source}' has no column '{missing[0]}'. It has {shown}.", hint=hint)
        for row in rows:
            where = f"'{source}', line {rows.line_num}"
            slide = (row[columns["slide_id"]] or "").strip()
            if not slide:
                raise BadUsage(f"{where}: slide_id is empty.", hint="Name the slide.")
            try:
                tile = Tile(*(_number(row[columns[each]], f"{where}: {each}") for each in wanted))
                if tile.right <= tile.left or tile.bottom <= tile.top:
                    hint = "right must exceed left, and bottom must exceed top, in pixels of the highest resolution."
                    raise BadUsage(f"{where}: the tile has no area.", hint=hint)
                tiles.setdefault(slide, []).append(tile)
            except BadUsage as err:
                problems.setdefault(slide, err)
    except csv.Error as err:
        hint = "Enclose a field with quotes or separators in double quotes, and double the quotes in it."
        raise BadUsage(f"'{source}', line {rows.reader.line_num}: {err}.", hint=hint) from err
    if not tiles and not problems:
        raise BadUsage(f"'{source}' has no lines below its header.", hint="Write one line per tile.")
    draw = _heatmap if options.is_heatmap else _rectangles
    return {slide: draw(each, options) for slide, each in tiles.items()}


def _number(text: str | None, what: str) -> float:
    with suppress(ValueError):
        value = float(text or "")
        if math.isfinite(value):
            return value
    raise BadUsage(f"{what} must be a number, not '{text or ''}'.", hint="Correct or remove the line.")


def _rectangles(tiles: Sequence[Tile], options: TileOptions) -> list[Document]:
    values = [tile.value for tile in tiles]
    low, high = (min(values), max(values)) if options.rescale and min(values) < max(values) else (0.0, 1.0)
    return [
        {
            "type": "rectangle",
            "center": [(tile.left + tile.right) / 2, (tile.top + tile.bottom) / 2, 0],
            "width": tile.right - tile.left,
            "height": tile.bottom - tile.top,
            "rotation": 0,
            "fillColor": _rgba(_colour((tile.value - low) / (high - low)), OPACITY),
            "lineColor": _rgba((0, 0, 0), 0),
            "label": {"value": f"{tile.value:.4g}", "visibility": "hidden"},
            "user": {options.value: tile.value},
        }
        for tile in tiles
    ]


def _heatmap(tiles: Sequence[Tile], options: TileOptions) -> list[Document]:
    """One element with a point at the center of each tile and the width of a tile as radius. The slide is visible
    where values are low."""
    stops = [_rgba(colour, OPACITY if number else 0) for number, colour in enumerate(SPECTRAL)]
    centers = [[(tile.left + tile.right) / 2, (tile.top + tile.bottom) / 2, 0, tile.value] for tile in tiles]
    return [
        {
            "type": "heatmap",
            "points": centers,
            "radius": max(tile.right - tile.left for tile in tiles),
            "scaleWithZoom": True,
            "normalizeRange": options.rescale,
            "colorRange": stops,
            "rangeValues": [number / (len(stops) - 1) for number in range(len(stops))],
        }
    ]


def _colour(position: float) -> Sequence[int]:
    """The colour of SPECTRAL at *position*, from 0 to 1, interpolated between its neighbours."""
    place = min(max(position, 0.0), 1.0) * (len(SPECTRAL) - 1)
    below = min(int(place), len(SPECTRAL) - 2)
    pairs = zip(SPECTRAL[below], SPECTRAL[below + 1], strict=True)
    return [round(first + (second - first) * (place - below)) for first, second in pairs]


def _rgba(colour: Sequence[int], opacity: float) -> str:
    return f"rgba({colour[0]}, {colour[1]}, {colour[2]}, {opacity:g})"


def shapes_of(text: str, source: str, default_slide: str) -> dict[str, list[Document]]:
    """The elements of each slide. A shape has the label, group and colours of its properties, in the format of
    large_image and QuPath."""
    try:
        value = read_json(text)
    except NotJson as err:
        hint = "himl reads a file that begins with '{' or '[' as GeoJSON."
        raise BadUsage(f"'{source}' is not valid JSON (line {err.line}): {err}.", hint=hint) from err
    shapes: dict[str, list[Document]] = {}
    number = 0
    for feature in value if isinstance(value, list) else [value]:
        if not isinstance(feature, Mapping):
            raise BadUsage(f"'{source}' is not GeoJSON.", hint="Use a FeatureCollection, a Feature or a geometry.")
        inner = feature.get("features", [feature]) if feature.get("type") == "FeatureCollection" else [feature]
        for each in inner:
            number += 1
            try:
                properties = each.get("properties") or {} if each["type"] == "Feature" else {}
                outlines = [each["geometry"], each.get("nucleusGeometry")] if each["type"] == "Feature" else [each]
                named = properties.get("slide_id")
                slide = default_slide if named in (None, "") else str(named)
                for outline in outlines:
                    if outline is not None:
                        shapes.setdefault(slide, []).extend(_geometry_elements(outline, _style(properties)))
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as err:
                what = f"'{source}': shape {number} cannot be an annotation"
                hint = "Use points, lines and polygons with numeric coordinates."
                raise BadUsage(f"{what}.", hint=hint) from err
    if not any(shapes.values()):
        raise BadUsage(f"'{source}' has no shapes.", hint="Add points, lines or polygons as features.")
    return shapes


def _style(properties: Mapping[str, Any]) -> Document:
    names = ("lineColor", "fillColor", "lineWidth", "group")
    style = {name: properties[name] for name in names if properties.get(name) is not None}
    labels, colours = [properties.get("label"), properties.get("name")], [*_packed(properties)]
    group, above = list[str](), properties.get("classification")
    above = {"name": above} if isinstance(above, str) else above
    while isinstance(above, Mapping):  # a class of QuPath, and before 0.4 the classes that it is derived from
        group[:0] = [str(each) for each in above.get("names") or [above.get("name")] if each not in (None, "")]
        colours += _packed(above)
        above = above.get("parentClass")
    if group:
        labels.append(": ".join(group))
        style.setdefault("group", labels[-1])
    if colours:
        style.setdefault("lineColor", colours[0])
    if (label := next((each for each in labels if each not in (None, "", {})), None)) is not None:
        label = label if isinstance(label, Mapping) else {"value": label}
        style["label"] = {**label, "value": str(label["value"])}
    return style


def _packed(owner: Mapping[str, Any]) -> Iterator[Any]:
    """The colour of an object or a class of QuPath: a list of red, green, blue and perhaps alpha, or their bits in one
    integer. Others are unchanged."""
    for value in (owner.get("color"), owner.get("colorRGB")):
        parts = value
        if isinstance(value, int):
            parts = [value >> 16 & 255, value >> 8 & 255, value & 255, (value >> 24 & 255) or 255]
        if isinstance(parts, list) and len(parts) in (3, 4) and all(isinstance(part, int) for part in parts):
            yield _rgba(parts, [*parts, 255][3] / 255)
        elif value is not None:
            yield value


def _geometry_elements(geometry: Mapping[str, Any], style: Document) -> Iterator[Document]:
    """The elements of one geometry (RFC 7946). Raises KeyError for an unsupported type, and Python's errors for invalid
    coordinates."""
    kind, coordinates = geometry["type"], geometry.get("coordinates")
    if kind == "GeometryCollection":
        for inner in geometry["geometries"]:
            yield from _geometry_elements(inner, style)
    elif kind in ("MultiPoint", "MultiLineString", "MultiPolygon"):
        for each in coordinates or ():
            yield from _geometry_elements({"type": kind.removeprefix("Multi"), "coordinates": each}, style)
    elif kind == "Point":
        yield {**style, "type": "point", "center": _coordinate(coordinates)}
    elif kind == "LineString":
        yield {**style, "type": "polyline", "points": _points(coordinates, 2), "closed": False}
    elif kind == "Polygon":
        outer, *holes = map(_ring, coordinates or ())
        yield {**style, "type": "polyline", "points": outer, "closed": True} | ({"holes": holes} if holes else {})
    else:
        raise KeyError(kind)


def _points(positions: Any, least: int) -> list[list[float]]:
    points = [_coordinate(position) for position in positions]
    if len(points) < least:
        raise ValueError(positions)
    return points


def _ring(positions: Any) -> list[list[float]]:
    """The points of a ring, without a last one that repeats the first, which some programs omit."""
    points = _points(positions, 3)
    return _points(points[:-1], 3) if points[0] == points[-1] else points


def _coordinate(position: Any) -> list[float]:
    x, y = (float(part) for part in position[:2])
    if not math.isfinite(x + y):
        raise ValueError(position)
    return [x, y, 0.0]
