"""Slides for tests: small real files from seeds, of every common kind, and broken ones."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from himl_cli.slides.pictures import open_slide
from himl_cli.slides.readers import MaskRule
from himl_cli.slides.slide_records import Backend, Colour

Pixels: TypeAlias = NDArray[Any]
Size = tuple[int, int]
WHITE: Colour = (255, 255, 255)

SIZE: Size = (600, 430)
"""Width and height of a picture where nothing else is said; no multiple of a tile."""


def _smooth(seed: int, size: Size, scale: int = 40) -> NDArray[np.uint8]:
    """Coloured spots of about *scale* pixels."""
    coarse = np.random.default_rng(seed).integers(
        0, 256, (size[1] // scale + 2, size[0] // scale + 2, 3), dtype=np.uint8
    )
    box = (0.5, 0.5, 0.5 + max(1, size[0] / scale), 0.5 + max(1, size[1] / scale))
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC, box))


def slide_picture(seed: int, size: Size = SIZE) -> NDArray[np.uint8]:
    """An RGB picture, shape (height, width, 3), which depends on the seed. *size* is (width, height)."""
    return _smooth(seed + 1000, size)


def mask_picture(seed: int, size: Size = SIZE) -> NDArray[np.uint8]:
    """Labels 0 to 5, shape (height, width)."""
    return np.minimum(_smooth(seed + 2000, size, max(4, min(size) // 10))[..., 0] // 43, 5)


def reduced(pixels: Pixels, factor: int) -> Pixels:
    """The next coarser level: means of *factor* x *factor* pixels, or for masks (two dimensions, 8 bit) one pixel of
    each square.
    """
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    cut = pixels[: height * factor, : width * factor]
    if pixels.ndim == 2 and pixels.dtype == np.uint8:
        return np.ascontiguousarray(cut[::factor, ::factor])
    means = cut.reshape(height, factor, width, factor, -1).mean(axis=(1, 3))
    return np.rint(means).astype(pixels.dtype).reshape(height, width, *pixels.shape[2:])


def pyramid(pixels: Pixels, levels: int, factor: int = 2) -> list[Pixels]:
    """*levels* pictures, finest first."""
    made = [pixels]
    while len(made) < levels:
        made.append(reduced(made[-1], factor))
    return made


def with_alpha(pixels: Pixels, *, premultiplied: bool = False) -> Pixels:
    """An RGBA picture with a transparent left third, a half-transparent middle third, and an opaque right third."""
    third = pixels.shape[1] // 3
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    alpha[:, :third], alpha[:, third : 2 * third] = 0, 128
    colour = (pixels.astype(np.uint16) * alpha // 255).astype(np.uint8) if premultiplied else pixels
    return np.concatenate([colour, alpha], axis=2)


def over(rgba: Pixels, background: tuple[int, int, int]) -> Pixels:
    """*rgba* (colours not premultiplied) on *background*."""
    alpha = rgba[:, :, 3:].astype(np.float64) / 255
    return np.rint(rgba[:, :, :3] * alpha + np.array(background) * (1 - alpha)).astype(np.uint8)


def write_tiff(
    path: Path,
    pixels: Pixels,
    *,
    levels: int = 1,
    factor: int = 2,
    tile: int | Size | None = 256,
    subifds: bool = False,
    **options: Any,
) -> Sequence[Pixels]:
    """Write a tiled TIFF (*tile*: side, or width and height; None: strips), and return the pixels of each level.

    Other *options* are those of tifffile's `write`. The default compression is JPEG. Levels are separate pages, or
    sub-images of the first one."""
    made = pyramid(pixels, levels, factor)
    common: dict[str, Any] = {
        "photometric": "rgb" if pixels.ndim == 3 else "minisblack",
        "metadata": None,
        "compression": "jpeg",
        **options,
    }
    if tile is not None:
        common["tile"] = (tile, tile) if isinstance(tile, int) else tile[::-1]
    if common["compression"] == "jpeg":
        common.setdefault("compressionargs", {"level": 90})
    with tifffile.TiffWriter(
        path, bigtiff=common.pop("bigtiff", False), byteorder=common.pop("byteorder", None)
    ) as file:
        for number, level in enumerate(made):
            below = {"subifds": levels - 1} if subifds and number == 0 and levels > 1 else {}
            file.write(level, subfiletype=1 if number else 0, **below, **common)
    return made


def write_giant(path: Path, size: Size, *, tile: int = 256, compression: str = "jpeg", seed: int = 0) -> None:
    """Write a single-level slide of any *size*, such as 100,000 x 80,000, in a small file, since all tiles share the
    same data.
    """
    write_tiff(path, slide_picture(seed, (tile, tile)), tile=tile, compression=compression)
    offsets, counts = segments(path)
    number = -(-size[0] // tile) * -(-size[1] // tile)
    overwrite_tags(path, {"ImageWidth": size[0], "ImageLength": size[1]})
    with tifffile.TiffFile(path, mode="r+") as file:
        tags = file.pages[0].tags
        tags["TileByteCounts"].overwrite((counts[0],) * number, dtype="I")
        tags["TileOffsets"].overwrite((offsets[0],) * number, dtype="I")


def colour_profile(profile: bytes) -> tuple[int, int, int, bytes, bool]:
    """The tag of a TIFF with an ICC *profile*, for `TiffWriter.write(extratags=)`."""
    return 34675, 7, len(profile), profile, True


def write_svs(path: Path, pixels: Pixels, *, levels: int = 3, profile: bytes = b"") -> Sequence[Pixels]:
    """Write a file like an Aperio scanner: the finest level, a thumbnail, the other levels, a label and a macro
    picture.
    """
    made = pyramid(pixels, levels)
    height, width = pixels.shape[:2]
    maker = "Aperio Image Library v11.2.1\r\n"
    text = f"{maker}{width}x{height} [0,0 {width}x{height}] (240x240) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5000"
    thumbnail = np.asarray(Image.fromarray(pixels).resize((width // 3, height // 3)))
    label: Pixels = np.full((90, 80, 3), (20, 200, 40), np.uint8)
    tiled: dict[str, Any] = {
        "tile": (240, 240),
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": 90},
        "metadata": None,
    }
    plain: dict[str, Any] = {"photometric": "rgb", "metadata": None, "rowsperstrip": 16}
    with tifffile.TiffWriter(path) as file:
        file.write(made[0], description=text, extratags=[colour_profile(profile)] if profile else [], **tiled)
        file.write(thumbnail, description=text, compression="jpeg", **plain)
        for level in made[1:]:
            file.write(level, description=f"{text}|{level.shape[1]}x{level.shape[0]}", **tiled)
        file.write(label, description=f"{maker}label 80x90", subfiletype=1, compression="lzw", **plain)
        file.write(thumbnail, description=f"{maker}macro 200x100", subfiletype=9, compression="jpeg", **plain)
    return made


def write_ome_with_macro(path: Path, pixels: Pixels | None = None) -> None:
    """Write an OME-TIFF with a macro picture before the slide, whose level below is a sub-image."""
    found = slide_picture(0) if pixels is None else pixels
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as file:
        file.write(np.full((60, 160, 3), 200, np.uint8), photometric="rgb", metadata={"axes": "YXS", "Name": "macro"})
        file.write(found, subifds=1, metadata={"axes": "YXS", "Name": "slide"}, **options)
        file.write(reduced(found, 2), subfiletype=1, **options)


def write_ndpi(path: Path) -> None:
    """Write a file like a Hamamatsu scanner: JPEGs in one strip, then their pages, whose positions have 64 bits, and a
    macro picture."""
    data = bytearray(b"II*\0" + bytes(8))
    link = 4  # where the position of the next page goes
    picture = slide_picture(0, (512, 384))
    for pixels, power in ((picture, 20.0), (reduced(picture, 4), 5.0), (picture[::8, ::8], -1.0)):
        height, width = pixels.shape[:2]
        begin = len(data)
        data += imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=90)
        entries: list[tuple[int, int, int, bytes]] = [
            *((256, 4, 1, struct.pack("<I", width)), (257, 4, 1, struct.pack("<I", height))),
            *((258, 3, 1, struct.pack("<I", 8)), (259, 3, 1, struct.pack("<I", 7)), (262, 3, 1, struct.pack("<I", 6))),
            *((271, 2, 4, b"Ham\0"), (273, 4, 1, struct.pack("<I", begin)), (277, 3, 1, struct.pack("<I", 3))),
            *((278, 4, 1, struct.pack("<I", height)), (279, 4, 1, struct.pack("<I", len(data) - begin))),
            *((65420, 4, 1, struct.pack("<I", 1)), (65421, 11, 1, struct.pack("<f", power)), (65424, 9, 1, bytes(4))),
        ]
        struct.pack_into("<Q", data, link, len(data))
        data += struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHI", *each[:3]) + each[3] for each in entries)
        link = len(data)
        data += bytes(8 + 4 * len(entries))
    path.write_bytes(data)


def write_mirax(path: Path, pixels: Pixels, *, levels: int = 2, tile: int = 64) -> None:
    """Write a MIRAX slide, with the tiles of each level in a file of their own. The sides of *pixels* are whole tiles
    of every level."""
    folder, across, down = path.with_suffix(""), pixels.shape[1] // tile, pixels.shape[0] // tile
    folder.mkdir()
    slide = "0" * 32
    index = bytearray(b"01.02" + slide.encode())
    root = len(index)
    table = root + 8
    index += struct.pack("<ii", table, 0) + bytes(4 * levels)
    zoom = [f"HIER_0_VAL_{level}_SECTION=L{level}" for level in range(levels)]
    files = [f"FILE_{level}=Data{level:04}.dat" for level in range(levels)]
    general = [f"SLIDE_ID={slide}", f"IMAGENUMBER_X={across}", f"IMAGENUMBER_Y={down}", "OBJECTIVE_MAGNIFICATION=20"]
    sections = {
        "GENERAL": [*general, "CameraImageDivisionsPerSide=1"],
        "HIERARCHICAL": [
            "HIER_COUNT=1",
            "NONHIER_COUNT=0",
            "INDEXFILE=Index.dat",
            "HIER_0_NAME=Slide zoom level",
            f"HIER_0_COUNT={levels}",
            *zoom,
        ],
        "DATAFILE": [f"FILE_COUNT={levels}", *files],
    }
    for level, picture in enumerate(pyramid(pixels, levels)):
        data, tiles = b"", []
        for top in range(0, picture.shape[0], tile):
            for left in range(0, picture.shape[1], tile):
                stored = imagecodecs.jpeg8_encode(
                    np.ascontiguousarray(picture[top : top + tile, left : left + tile]), level=90
                )
                place = (top // tile << level) * across + (left // tile << level)
                tiles.append(struct.pack("<iiii", place, len(data), len(stored), level))
                data += stored
        (folder / f"Data{level:04}.dat").write_bytes(data)
        struct.pack_into("<i", index, table + 4 * level, len(index))
        pages = len(index) + 8  # an empty one, and that with the tiles
        index += struct.pack("<iiiiii", 0, pages, 0, pages + 8, len(tiles), 0) + b"".join(tiles)
        sections[f"L{level}"] = [
            *(
                "OVERLAP_X=0",
                "OVERLAP_Y=0",
                f"MICROMETER_PER_PIXEL_X={0.5 * 2**level}",
                f"MICROMETER_PER_PIXEL_Y={0.5 * 2**level}",
            ),
            *(
                "IMAGE_FORMAT=JPEG",
                "IMAGE_FILL_COLOR_BGR=16777215",
                f"DIGITIZER_WIDTH={tile}",
                f"DIGITIZER_HEIGHT={tile}",
            ),
            f"IMAGE_CONCAT_FACTOR={int(level > 0)}",
        ]
    (folder / "Index.dat").write_bytes(index)
    lines = [line for name, values in sections.items() for line in (f"[{name}]", *values)]
    (folder / "Slidedat.ini").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    path.write_bytes(b"\xff\xd8")


def ends_of_pages(path: Path) -> list[int]:
    """Where the tiles or strips of each page and sub-image of a TIFF end."""
    with tifffile.TiffFile(path, is_ndpi=b"Ham\0" in path.read_bytes()) as file:
        pages = [page for first in file.pages for page in (first, *(first.pages or ()))]
        return [max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))) for page in pages]


def _dicom_element(group: int, number: int, kind: str, value: str | int | bytes) -> bytes:
    stored = value.encode() if isinstance(value, str) else value
    if isinstance(stored, int):
        stored = struct.pack("<I" if kind == "UL" else "<H", stored)
    stored += (b"\0" if kind in ("UI", "OB") else b" ") * (len(stored) % 2)
    length = struct.pack("<xxI", len(stored)) if kind == "OB" else struct.pack("<H", len(stored))
    return struct.pack("<HH2s", group, number, kind.encode()) + length + stored


def write_dicom(
    path: Path,
    pixels: Pixels,
    series: str,
    number: int,
    *,
    image_type: str = "VOLUME",
    tile: int = 64,
    encapsulated: bool = False,
) -> None:
    """Write instance *number* of a DICOM series: a level of a slide, or its label or macro picture (*image_type*), with
    pixels as they are, or *encapsulated* as JPEGs."""
    height, width = pixels.shape[:2]
    down, across = -(-height // tile), -(-width // tile)
    padded = np.pad(pixels, ((0, down * tile - height), (0, across * tile - width), (0, 0)))
    frames = padded.reshape(down, tile, across, tile, 3).swapaxes(1, 2)
    colours, syntax, stored = "RGB", "1.2.840.10008.1.2.1", _dicom_element(0x7FE0, 0x10, "OB", frames.tobytes())
    if encapsulated:
        colours, syntax = "YBR_FULL_422", "1.2.840.10008.1.2.4.50"
        jpegs = [imagecodecs.jpeg8_encode(np.ascontiguousarray(each)) for row in frames for each in row]
        items = [
            struct.pack("<HHI", 0xFFFE, 0xE000, len(each) + len(each) % 2) + each + bytes(len(each) % 2)
            for each in [b"", *jpegs]
        ]
        ends = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        stored = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF) + b"".join(items) + ends
    sop, instance = "1.2.840.10008.5.1.4.1.1.77.1.6", f"{series}.{number}"
    meta = b"".join(
        [_dicom_element(2, 2, "UI", sop), _dicom_element(2, 3, "UI", instance), _dicom_element(2, 16, "UI", syntax)]
    )
    values: list[tuple[int, int, str, str | int | bytes]] = [
        *(
            (8, 0x8, "CS", f"ORIGINAL\\PRIMARY\\{image_type}\\NONE"),
            (8, 0x16, "UI", sop),
            (8, 0x18, "UI", instance),
            (8, 0x60, "CS", "SM"),
        ),
        *((0x20, 0xD, "UI", "1.2.3"), (0x20, 0xE, "UI", series), (0x20, 0x9311, "CS", "TILED_FULL")),
        *((0x28, 2, "US", 3), (0x28, 4, "CS", colours), (0x28, 6, "US", 0), (0x28, 8, "IS", str(down * across))),
        *(
            (0x28, 0x10, "US", tile),
            (0x28, 0x11, "US", tile),
            (0x28, 0x100, "US", 8),
            (0x28, 0x101, "US", 8),
            (0x28, 0x102, "US", 7),
        ),
        *((0x28, 0x103, "US", 0), (0x48, 6, "UL", width), (0x48, 7, "UL", height), (0x48, 0x303, "UL", 1)),
    ]
    head = bytes(128) + b"DICM" + _dicom_element(2, 0, "UL", len(meta)) + meta
    path.write_bytes(head + b"".join(_dicom_element(*each) for each in values) + stored)


def write_mask(path: Path, *, seed: int = 0, size: Size = SIZE, levels: int = 2) -> NDArray[np.uint8]:
    """Write a mask of labels 0 to 5 as a tiled TIFF, or as a plain picture if the suffix requires it. Returns the
    labels.
    """
    labels = mask_picture(seed, size)
    if path.suffix in {".tif", ".tiff"}:
        write_tiff(path, labels, levels=levels, compression="deflate")
    else:
        Image.fromarray(labels).save(path)
    return labels


def read_slide(
    path: Path,
    background: Colour | None = WHITE,
    backend: Backend = Backend.auto,
    *,
    level: int = 0,
    as_labels: bool = False,
) -> NDArray[np.uint8]:
    """The whole level, after checking that its strips follow the protocol."""
    slide = open_slide(path, backend, mask=MaskRule() if as_labels else None)
    try:
        width, height = slide.levels[level]
        strips = list(slide.strips(level, background))
    finally:
        slide.close()
    assert all(
        strip.dtype == np.uint8 and strip.flags.c_contiguous and strip.shape[1:] == (width, 3) and len(strip)
        for strip in strips
    )
    whole: NDArray[np.uint8] = np.concatenate(strips)
    assert len(whole) == height
    return whole


def mean_difference(one: Pixels, other: Pixels) -> float:
    """The mean difference in grey levels."""
    return float(np.abs(one.astype(int) - other).mean())


def segments(path: Path) -> tuple[Sequence[int], Sequence[int]]:
    """The offsets and sizes in bytes of the tiles or strips of the finest level."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        return tuple(page.dataoffsets), tuple(page.databytecounts)


def overwrite_tags(path: Path, values: Mapping[str, Any], page: int = 0) -> None:
    """Overwrite tags of a TIFF, without changing pixels."""
    with tifffile.TiffFile(path, mode="r+") as file:
        tags = file.pages[page].tags
        for name, value in values.items():
            tags[name].overwrite(value)


def change_tiles(
    path: Path,
    numbers: Sequence[int] | None = None,
    change: Callable[[bytes], bytes] = lambda stored: bytes(len(stored)),
) -> None:
    """Replace some tiles (None: all) of the finest level by as many other bytes, by default zeros."""
    offsets, counts = segments(path)
    with path.open("r+b") as file:
        for number in range(len(offsets)) if numbers is None else numbers:
            file.seek(offsets[number])
            changed = change(file.read(counts[number]))
            assert len(changed) == counts[number]
            file.seek(offsets[number])
            file.write(changed)


def move_tile(path: Path, number: int, stored: bytes, gap: int = 0) -> None:
    """Append *stored* to the file as a tile of the finest level. Without bytes, the tile is omitted, as in sparse
    files.
    """
    content = path.read_bytes() + bytes(gap)
    path.write_bytes(content + stored)
    offsets, counts = map(list, segments(path))
    offsets[number], counts[number] = len(content) if stored else 0, len(stored)
    overwrite_tags(path, {"TileOffsets": tuple(offsets), "TileByteCounts": tuple(counts)})


def not_utf8_name(suffix: str = ".tiff") -> str:
    """A file name that is not UTF-8, which Linux allows, but Windows and macOS do not."""
    return os.fsdecode(b"slide-\xff\xe9") + suffix


def _same(pixels: Pixels) -> Pixels:
    return pixels


def _wide(pixels: Pixels) -> Pixels:
    return pixels.astype(np.uint16) * 257


def _grey(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).convert("L"))


def _grey_rgb(pixels: Pixels) -> Pixels:
    return np.repeat(_grey(pixels)[:, :, None], 3, axis=2)


def _ycbcr(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).convert("YCbCr"))


def _cmyk(pixels: Pixels) -> Pixels:
    """Cyan, magenta, yellow and no black: 255 is full ink."""
    return np.concatenate([255 - pixels, np.zeros((*pixels.shape[:2], 1), np.uint8)], axis=2)


def _palette(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels).quantize(64)


def _palette_rgb(pixels: Pixels) -> Pixels:
    return np.asarray(_palette(pixels).convert("RGB"))


def _on_white(pixels: Pixels) -> Pixels:
    return over(with_alpha(pixels), (255, 255, 255))


@dataclass(frozen=True)
class Kind:
    """The writer of one kind of slide. `seen` is its visible picture, and `tolerance` the mean difference that its
    compression may cause.
    """

    suffix: str
    write: Callable[[Path, Pixels], object]
    levels: int = 1
    seen: Callable[[Pixels], Pixels] = _same
    tolerance: float = 0.0


def _tiff(
    tolerance: float = 0,
    levels: int = 1,
    convert: Callable[[Pixels], Pixels] = _same,
    seen: Callable[[Pixels], Pixels] = _same,
    **options: Any,
) -> Kind:
    return Kind(
        ".tiff",
        lambda path, pixels: write_tiff(path, convert(pixels), levels=levels, **options),
        levels,
        seen,
        tolerance,
    )


def _plain(
    suffix: str,
    tolerance: float = 0,
    convert: Callable[[Pixels], Pixels | Image.Image] = _same,
    seen: Callable[[Pixels], Pixels] = _same,
    **options: Any,
) -> Kind:
    def write(path: Path, pixels: Pixels) -> None:
        made = convert(pixels)
        (made if isinstance(made, Image.Image) else Image.fromarray(made)).save(path, **options)

    return Kind(suffix, write, 1, seen, tolerance)


def _palette_tiff(path: Path, pixels: Pixels) -> None:
    image = _palette(pixels)
    colours = np.asarray(image.getpalette(), np.uint16).reshape(-1, 3)
    table: Pixels = np.zeros((3, 256), np.uint16)
    table[:, : len(colours)] = colours.T * 257
    write_tiff(path, np.asarray(image), photometric="palette", colormap=table, compression="lzw")


def _rotated_jpeg(path: Path, pixels: Pixels) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated, and shown after a quarter turn clockwise
    Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90).save(path, quality=95, exif=exif)


KINDS: Mapping[str, Kind] = {
    "jpeg-pyramid": _tiff(3, 3),
    "deflate-pyramid": _tiff(0, 3, compression="deflate", tile=128),
    "lzw-predictor": _tiff(0, 2, compression="lzw", predictor=True, tile=128),
    "deflate-predictor": _tiff(0, 2, compression="deflate", predictor=True, tile=128),
    "webp": _tiff(6, compression="webp"),
    "uncompressed-pyramid": _tiff(0, 3, compression=None, tile=64),
    "subifd-pyramid": _tiff(3, 3, subifds=True),
    "factor-4-pyramid": _tiff(3, 3, factor=4, tile=(128, 64)),
    "bigtiff": _tiff(0, 2, compression="zstd", bigtiff=True),
    "big-endian": _tiff(0, 1, _wide, byteorder=">", tile=64, compression=None),
    "striped": _tiff(tile=None, compression="deflate", rowsperstrip=7),
    "striped-pyramid": _tiff(0, 2, tile=None, compression="lzw", rowsperstrip=100),
    "ycbcr-subsampled": _tiff(3, 2, _ycbcr, photometric="ycbcr", subsampling=(2, 2)),
    "ycbcr-lossless": _tiff(1, 1, _ycbcr, photometric="ycbcr", compression="deflate"),
    "jpeg2000": _tiff(3, 2, compression="jpeg2000", compressionargs={"level": 40}),
    "aperio-jpeg2000": _tiff(3, compression="aperio_jp2000_rgb", compressionargs={"level": 40}),
    "16-bit": _tiff(0, 2, _wide, compression="deflate"),
    "float": _tiff(0.6, 1, lambda pixels: np.asarray(pixels / 255, np.float32), compression="deflate", predictor=True),
    "grey": _tiff(3, 1, _grey, _grey_rgb),
    "white-is-zero": _tiff(
        0, 1, lambda pixels: 255 - _grey(pixels), _grey_rgb, photometric="miniswhite", compression="deflate"
    ),
    "cmyk": _tiff(0, 1, _cmyk, photometric="separated", compression="deflate"),
    "rgba": _tiff(1, 2, with_alpha, _on_white, extrasamples=["unassalpha"], compression="deflate"),
    "planar": _tiff(
        0, 1, lambda pixels: np.moveaxis(pixels, 2, 0), planarconfig="separate", tile=128, compression="deflate"
    ),
    "palette": Kind(".tiff", _palette_tiff, seen=_palette_rgb),
    "svs": Kind(".svs", lambda path, pixels: write_svs(path, pixels), 3, tolerance=3),
    "png": _plain(".png"),
    "palette-png": _plain(".png", 0, _palette, _palette_rgb),
    "rgba-png": _plain(".png", 0, with_alpha, _on_white),
    "16-bit-png": Kind(".png", lambda path, pixels: path.write_bytes(imagecodecs.png_encode(_wide(pixels)))),
    "16-bit-grey-png": _plain(".png", 0, lambda pixels: _wide(_grey(pixels)), _grey_rgb),
    "jpeg": _plain(".jpg", 3, quality=95),
    "cmyk-jpeg": _plain(".jpg", 3, lambda pixels: Image.fromarray(_cmyk(pixels), "CMYK"), quality=95),
    "rotated-jpeg": Kind(".jpg", _rotated_jpeg, tolerance=3),
    "bmp": _plain(".bmp"),
    "jp2": _plain(".jp2"),
    "lossy-webp": _plain(".webp", 6, quality=90),
}
"""Slides that show `slide_picture(seed)`; those with transparency are `with_alpha`, and are seen on white."""


def write_kind(kind: str, folder: Path, *, seed: int = 0, name: str | None = None) -> Path:
    """Write a slide of *kind* with `slide_picture(seed)`, with the name *name* or that of its kind, and its suffix."""
    path = folder / f"{name or kind}{KINDS[kind].suffix}"
    KINDS[kind].write(path, slide_picture(seed))
    return path


Broken = tuple[str, Callable[[Path], object]]


def _damaged(damage: Callable[[Path], object], suffix: str = ".tiff", **options: Any) -> Broken:
    """A slide that *damage* changes."""

    def write(path: Path) -> None:
        if suffix == ".tiff":
            write_tiff(path, slide_picture(0), **options)
        elif suffix == ".svs":
            write_svs(path, slide_picture(0), levels=1)
        else:
            Image.fromarray(slide_picture(0)).save(path)
        damage(path)

    return suffix, write


def _cut(path: Path, end: int | None = None) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 if end is None else end])


def _cut_in_a_tile(path: Path) -> None:
    """Cut off tiles of a file with its tags at the start, as for streaming."""
    offsets, counts = segments(path)
    _cut(path, offsets[len(offsets) // 2] + counts[len(offsets) // 2] // 2)


def _without_tags(path: Path) -> None:
    """Make the header refer to tags after the end of the file."""
    content = path.read_bytes()
    path.write_bytes(content[:4] + (len(content) + 5000).to_bytes(4, "little") + content[8:])


def _noise(stored: bytes) -> bytes:
    return np.random.default_rng(0).bytes(len(stored))


BROKEN: Mapping[str, Broken] = {
    "missing": (".tiff", lambda path: None),
    "empty": (".tiff", lambda path: path.touch()),
    "folder": (".tiff", lambda path: path.mkdir()),
    "unreadable": _damaged(lambda path: path.chmod(0)),
    "garbage": (".tiff", lambda path: path.write_bytes(_noise(bytes(5000)))),
    "garbage-svs": (".svs", lambda path: path.write_bytes(_noise(bytes(5000)))),
    "header-only": (".tiff", lambda path: path.write_bytes(b"II*\x00\x08\x00\x00\x00")),
    "garbled-png": (".png", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))),
    "garbled-strips": _damaged(
        lambda path: change_tiles(path, change=_noise), compression="deflate", tile=None, rowsperstrip=16
    ),
    "garbled-tiles": _damaged(lambda path: change_tiles(path, change=_noise)),
    "zeroed": _damaged(change_tiles),
    "zeroed-deflate": _damaged(change_tiles, compression="deflate"),
    "zeroed-some": _damaged(lambda path: change_tiles(path, [5, 6]), tile=128),
    "truncated": _damaged(_cut_in_a_tile),
    "truncated-tags": _damaged(_without_tags),
    "truncated-png": _damaged(_cut, ".png"),
    "truncated-jpeg": _damaged(_cut, ".jpg"),
    "truncated-svs": _damaged(_cut, ".svs"),
    "lying-size": _damaged(
        lambda path: overwrite_tags(path, {"ImageWidth": 3_000_000, "ImageLength": 3_000_000}), compression="deflate"
    ),
    "giant": (".tiff", lambda path: write_giant(path, (700_000, 300))),
    "lying-tile": _damaged(
        lambda path: overwrite_tags(path, {"TileWidth": 60_000, "TileLength": 60_000}), compression="deflate", tile=1024
    ),
}
"""Slides that cannot be shown, or not wholly. Root reads the unreadable one all the same."""


def write_broken(kind: str, folder: Path, *, name: str | None = None) -> Path:
    """Write a broken slide of *kind*, with the name *name* or that of its kind."""
    suffix, write = BROKEN[kind]
    path = folder / f"{name or kind}{suffix}"
    write(path)
    return path
