"""Slides for tests: real files, small and seeded, of every kind that people have, and broken ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

Pixels: TypeAlias = NDArray[Any]
Size = tuple[int, int]

SIZE: Size = (600, 430)
"""Width and height of a picture where nothing else is said; no multiple of a tile."""


def _noise(random: np.random.Generator, size: Size, scale: int) -> NDArray[np.float32]:
    """Smooth noise from 0 to 1, shape (height, width), whose spots are about *scale* pixels wide."""
    width, height = size
    coarse = random.random((height // scale + 4, width // scale + 4), dtype=np.float32)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC, box=(1, 1, 1 + max(1, width / scale), 1 + max(1, height / scale)))
    return np.clip(np.asarray(image, dtype=np.float32), 0, 1)


def _tissue(seed: int, size: Size) -> NDArray[np.float32]:
    """How much tissue there is, 0 to 1, shape (height, width)."""
    random = np.random.default_rng(seed)
    width, height = size
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    field: Pixels = np.zeros((height, width), np.float32)
    for _ in range(3):
        cx, cy, rx, ry = np.asarray(random.uniform((-0.5, -0.5, 0.25, 0.25), (0.5, 0.5, 0.6, 0.5)), np.float32)
        field = np.maximum(field, 1 - ((x - cx) / rx) ** 2 - ((y - cy) / ry) ** 2)
    ragged = field + 0.7 * (_noise(random, size, max(4, min(size) // 8)) - 0.5)
    return np.clip(ragged * 6, 0, 1).astype(np.float32)


def slide_picture(seed: int, size: Size = SIZE) -> NDArray[np.uint8]:
    """Something like stained tissue on a light ground, RGB, shape (height, width, 3). *size* is (width, height)."""
    random = np.random.default_rng(seed + 1000)
    tissue = _tissue(seed, size)[:, :, None]
    texture = _noise(random, size, 12)[:, :, None]
    nuclei = np.clip((_noise(random, size, 5)[:, :, None] - 0.68) * 8, 0, 1)
    pink, rose, purple, ground = (np.array(colour, np.float32) for colour in ((235, 160, 200), (200, 110, 165), (85, 50, 125), (243, 241, 244)))
    stained = pink * (1 - texture) + rose * texture
    stained = stained * (1 - nuclei) + purple * nuclei
    return np.clip(ground * (1 - tissue) + stained * tissue, 0, 255).astype(np.uint8)


def mask_picture(seed: int, size: Size = SIZE) -> NDArray[np.uint8]:
    """Labels 0 to 5 for the slide of that seed, shape (height, width): 0 where no tissue is."""
    tissue = _tissue(seed, size)
    grades = _noise(np.random.default_rng(seed + 2000), size, max(4, min(size) // 5))
    lowest, highest = float(grades.min()), float(grades.max())
    labels = 1 + np.minimum((grades - lowest) / max(highest - lowest, 1e-6) * 5, 4).astype(np.uint8)
    return np.where(tissue > 0.5, labels, 0).astype(np.uint8)


def reduced(pixels: Pixels, factor: int) -> Pixels:
    """The next coarser level: means of *factor* x *factor* pixels. Masks (two dimensions, 8 bit) keep their values: one pixel of each square."""
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    cut = pixels[: height * factor, : width * factor]
    if pixels.ndim == 2 and pixels.dtype == np.uint8:
        return np.ascontiguousarray(cut[::factor, ::factor])
    means = cut.reshape(height, factor, width, factor, -1).mean(axis=(1, 3))
    return np.rint(means).astype(pixels.dtype).reshape(height, width, *pixels.shape[2:])


def pyramid(pixels: Pixels, levels: int, factor: int = 2) -> list[Pixels]:
    """*levels* pictures, the finest first."""
    made = [pixels]
    while len(made) < levels:
        made.append(reduced(made[-1], factor))
    return made


def with_alpha(pixels: Pixels, *, premultiplied: bool = False) -> Pixels:
    """RGBA: the left third is fully transparent, the middle one half, the right one opaque."""
    third = pixels.shape[1] // 3
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    alpha[:, :third], alpha[:, third : 2 * third] = 0, 128
    colour = (pixels.astype(np.uint16) * alpha // 255).astype(np.uint8) if premultiplied else pixels
    return np.concatenate([colour, alpha], axis=2)


def over(rgba: Pixels, background: tuple[int, int, int]) -> Pixels:
    """What *rgba* (colours not premultiplied) looks like on *background*."""
    alpha = rgba[:, :, 3:].astype(np.float64) / 255
    return np.rint(rgba[:, :, :3] * alpha + np.array(background) * (1 - alpha)).astype(np.uint8)


def as_grey(pixels: Pixels) -> Pixels:
    """Grey, shape (height, width)."""
    return np.asarray(Image.fromarray(pixels).convert("L"))


def as_ycbcr(pixels: Pixels) -> Pixels:
    """Lightness and two colour differences, as in JPEG."""
    return np.asarray(Image.fromarray(pixels).convert("YCbCr"))


def as_cmyk(pixels: Pixels) -> Pixels:
    """Cyan, magenta, yellow and no black: 255 is full ink."""
    return np.concatenate([255 - pixels, np.zeros((*pixels.shape[:2], 1), np.uint8)], axis=2)


def as_palette(pixels: Pixels) -> Image.Image:
    """At most 64 colours."""
    return Image.fromarray(pixels).quantize(64)


def write_tiff(
    path: Path,
    pixels: Pixels,
    *,
    levels: int = 1,
    factor: int = 2,
    tile: int | Size | None = 256,
    compression: str | None = "jpeg",
    subifds: bool = False,
    **options: Any,
) -> Sequence[Pixels]:
    """A TIFF of tiles (*tile*: their side, or width and height; None: strips, see `rowsperstrip`), and what was put into each level.

    *compression*: None, `jpeg`, `deflate`, `lzw`, `jpeg2000`, `webp`, `zstd` ...; other *options* are those of tifffile's `write`. Levels are pages of
    their own, or hang below the first one.
    """
    made = pyramid(pixels, levels, factor)
    side = (tile, tile) if isinstance(tile, int) else tile
    common: dict[str, Any] = {"photometric": "rgb" if pixels.ndim == 3 else "minisblack", "metadata": None, **options}
    if side is not None:
        common["tile"] = (side[1], side[0])
    if compression is not None:
        common["compression"] = compression
    if compression == "jpeg":
        common.setdefault("compressionargs", {"level": 90})
    bigtiff = common.pop("bigtiff", False)
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as file:
        for number, level in enumerate(made):
            below = {"subifds": levels - 1} if subifds and number == 0 and levels > 1 else {}
            file.write(level, subfiletype=1 if number else 0, **below, **common)
    return made


def write_giant(path: Path, size: Size, *, tile: int = 256, compression: str = "jpeg", seed: int = 0) -> None:
    """A single-level slide of any *size*, 100,000 x 80,000 say, in a small file: all tiles are one and the same, and lie at one place."""
    write_tiff(path, slide_picture(seed, (tile, tile)), tile=tile, compression=compression)
    offsets, counts = segments(path)
    number = -(-size[0] // tile) * -(-size[1] // tile)
    overwrite_tags(path, {"ImageWidth": size[0], "ImageLength": size[1]})
    with tifffile.TiffFile(path, mode="r+") as file:
        tags = file.pages[0].tags
        tags["TileByteCounts"].overwrite((counts[0],) * number, dtype="I")
        tags["TileOffsets"].overwrite((offsets[0],) * number, dtype="I")


def write_svs(path: Path, pixels: Pixels, *, levels: int = 3, factor: int = 2) -> Sequence[Pixels]:
    """Like a file of an Aperio scanner: the finest level, a thumbnail, the other levels, a label and a macro picture."""
    made = pyramid(pixels, levels, factor)
    height, width = pixels.shape[:2]
    told = f"Aperio Image Library v11.2.1\r\n{width}x{height} [0,0 {width}x{height}] (240x240) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5000"
    thumbnail = np.asarray(Image.fromarray(pixels).resize((width // 3, height // 3)))
    label: Pixels = np.full((90, 80, 3), (20, 200, 40), np.uint8)
    tiled: dict[str, Any] = {"tile": (240, 240), "photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 90}, "metadata": None}
    plain: dict[str, Any] = {"photometric": "rgb", "metadata": None, "rowsperstrip": 16}
    with tifffile.TiffWriter(path) as file:
        file.write(made[0], description=told, **tiled)
        file.write(thumbnail, description=told, compression="jpeg", **plain)
        for level in made[1:]:
            file.write(level, description=f"{told}|{level.shape[1]}x{level.shape[0]}", **tiled)
        file.write(label, description="Aperio Image Library v11.2.1\r\nlabel 80x90", subfiletype=1, compression="lzw", **plain)
        file.write(thumbnail, description="Aperio Image Library v11.2.1\r\nmacro 200x100", subfiletype=9, compression="jpeg", **plain)
    return made


def write_mask(path: Path, *, seed: int = 0, size: Size = SIZE, levels: int = 2) -> NDArray[np.uint8]:
    """A mask of the slide of that seed: labels 0 to 5, tiled TIFF; a plain picture where the name ends so. Returns the labels."""
    labels = mask_picture(seed, size)
    if path.suffix in {".tif", ".tiff"}:
        write_tiff(path, labels, levels=levels, compression="deflate")
    else:
        Image.fromarray(labels).save(path)
    return labels


def segments(path: Path) -> tuple[Sequence[int], Sequence[int]]:
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        return tuple(page.dataoffsets), tuple(page.databytecounts)


def overwrite_tags(path: Path, values: Mapping[str, Any], page: int = 0) -> None:
    """Let the tags of a TIFF say something else; the pixels stay."""
    with tifffile.TiffFile(path, mode="r+") as file:
        tags = file.pages[page].tags
        for name, value in values.items():
            tags[name].overwrite(value)


def zero_tiles(path: Path, numbers: Sequence[int] | None = None) -> None:
    """Zeros in the place of the compressed bytes of some tiles (None: of all of them) of the finest level."""
    offsets, counts = segments(path)
    with path.open("r+b") as file:
        for number in range(len(offsets)) if numbers is None else numbers:
            file.seek(offsets[number])
            file.write(bytes(counts[number]))


def leave_out_tiles(path: Path, numbers: Sequence[int]) -> None:
    """As sparse files have it: no bytes are stored for some tiles of the finest level."""
    offsets, counts = segments(path)
    kept = [0 if number in numbers else 1 for number in range(len(offsets))]
    overwrite_tags(
        path,
        {
            "TileOffsets": tuple(value * keep for value, keep in zip(offsets, kept, strict=True)),
            "TileByteCounts": tuple(value * keep for value, keep in zip(counts, kept, strict=True)),
        },
    )


__all__ = [
    "BROKEN",
    "KINDS",
    "SIZE",
    "leave_out_tiles",
    "mask_picture",
    "not_utf8_name",
    "over",
    "overwrite_tags",
    "pyramid",
    "reduced",
    "segments",
    "slide_picture",
    "with_alpha",
    "write_broken",
    "write_giant",
    "write_kind",
    "write_mask",
    "write_svs",
    "write_tiff",
    "zero_tiles",
]


def _wide(pixels: Pixels) -> Pixels:
    return pixels.astype(np.uint16) * 257


def _rgb_of_grey(pixels: Pixels) -> Pixels:
    return np.repeat(as_grey(pixels)[:, :, None], 3, axis=2)


def _rgb_of_palette(pixels: Pixels) -> Pixels:
    return np.asarray(as_palette(pixels).convert("RGB"))


def _on_white(pixels: Pixels) -> Pixels:
    return over(with_alpha(pixels), (255, 255, 255))


def _same(pixels: Pixels) -> Pixels:
    return pixels


@dataclass(frozen=True)
class Kind:
    """How to write one kind of slide; `seen` is what it shows, of what was put in, and `tolerance` the mean difference that its compression may make."""

    suffix: str
    write: Callable[[Path, Pixels], object]
    levels: int = 1
    seen: Callable[[Pixels], Pixels] = field(default=_same)
    tolerance: float = 0.0


def _tiff(
    tolerance: float = 0.0, levels: int = 1, convert: Callable[[Pixels], Pixels] = _same, seen: Callable[[Pixels], Pixels] = _same, **options: Any
) -> Kind:
    def write(path: Path, pixels: Pixels) -> None:
        write_tiff(path, convert(pixels), levels=levels, **options)

    return Kind(".tiff", write, levels, seen, tolerance)


def _palette_tiff(path: Path, pixels: Pixels) -> None:
    image = as_palette(pixels)
    colours = np.asarray(image.getpalette(), np.uint16).reshape(-1, 3)
    table: Pixels = np.zeros((3, 256), np.uint16)
    table[:, : len(colours)] = colours.T * 257
    tifffile.imwrite(path, np.asarray(image), photometric="palette", colormap=table, tile=(128, 128), compression="lzw", metadata=None)


def _pillow(*, convert: Callable[[Image.Image], Image.Image] = lambda image: image, **options: Any) -> Callable[[Path, Pixels], None]:
    def write(path: Path, pixels: Pixels) -> None:
        convert(Image.fromarray(pixels)).save(path, **options)

    return write


def _rotated_jpeg(path: Path, pixels: Pixels) -> None:
    """Stored lying on its side; the EXIF orientation says how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90).save(path, quality=95, exif=exif)


def _png16(path: Path, pixels: Pixels) -> None:
    path.write_bytes(imagecodecs.png_encode(_wide(pixels)))


def _grey_png16(path: Path, pixels: Pixels) -> None:
    path.write_bytes(imagecodecs.png_encode(_wide(as_grey(pixels))))


KINDS: Mapping[str, Kind] = {
    "jpeg-pyramid": _tiff(3.0, 3),
    "deflate-pyramid": _tiff(0, 3, compression="deflate", tile=128),
    "lzw-predictor": _tiff(0, 2, compression="lzw", predictor=True, tile=128),
    "zstd": _tiff(0, 1, compression="zstd"),
    "webp": _tiff(6.0, 1, compression="webp"),
    "uncompressed-pyramid": _tiff(0, 3, compression=None, tile=64),
    "subifd-pyramid": _tiff(3.0, 3, subifds=True),
    "factor-4-pyramid": _tiff(3.0, 3, factor=4, tile=(128, 64)),
    "bigtiff": _tiff(3.0, 2, bigtiff=True),
    "big-endian": Kind(".tif", lambda path, pixels: tifffile.imwrite(path, _wide(pixels), byteorder=">", photometric="rgb", tile=(64, 64), metadata=None)),
    "single-level": _tiff(3.0),
    "striped": _tiff(0, 1, tile=None, compression="deflate", rowsperstrip=7),
    "striped-whole": _tiff(0, 1, tile=None, compression=None),
    "striped-pyramid": _tiff(0, 2, tile=None, compression="lzw", rowsperstrip=100),
    "ycbcr-subsampled": _tiff(3.0, 2, as_ycbcr, photometric="ycbcr", subsampling=(2, 2)),
    "ycbcr-lossless": _tiff(1.0, 1, as_ycbcr, photometric="ycbcr", compression="deflate"),
    "jpeg2000": _tiff(3.0, 2, compression="jpeg2000", compressionargs={"level": 40}),
    "aperio-jpeg2000": _tiff(3.0, 1, compression="aperio_jp2000_rgb", compressionargs={"level": 40}),
    "16-bit": _tiff(0, 2, _wide, compression="deflate"),
    "16-bit-grey": _tiff(0, 1, lambda pixels: _wide(as_grey(pixels)), _rgb_of_grey, compression="deflate"),
    "float": _tiff(0.6, 1, lambda pixels: np.asarray(pixels / 255, np.float32), compression="deflate", predictor=True),
    "grey": _tiff(3.0, 1, as_grey, _rgb_of_grey),
    "white-is-zero": _tiff(0, 1, lambda pixels: 255 - as_grey(pixels), _rgb_of_grey, photometric="miniswhite", compression="deflate"),
    "cmyk": _tiff(0, 1, as_cmyk, photometric="separated", compression="deflate"),
    "rgba": _tiff(1.0, 2, with_alpha, _on_white, extrasamples=["unassalpha"], compression="deflate"),
    "planar": Kind(
        ".tiff",
        lambda path, pixels: tifffile.imwrite(
            path, np.moveaxis(pixels, 2, 0), photometric="rgb", planarconfig="separate", tile=(128, 128), compression="deflate", metadata=None
        ),
    ),
    "palette": Kind(".tiff", _palette_tiff, seen=_rgb_of_palette),
    "one-huge-tile": _tiff(3.0, 1, tile=(2048, 1024)),
    "svs": Kind(".svs", lambda path, pixels: write_svs(path, pixels), 3, tolerance=3.0),
    "png": Kind(".png", _pillow()),
    "palette-png": Kind(".png", _pillow(convert=lambda image: image.quantize(64)), seen=_rgb_of_palette),
    "rgba-png": Kind(".png", _pillow(convert=lambda image: Image.fromarray(with_alpha(np.asarray(image)))), seen=_on_white),
    "grey-png": Kind(".png", _pillow(convert=lambda image: image.convert("L")), seen=_rgb_of_grey),
    "16-bit-png": Kind(".png", _png16),
    "16-bit-grey-png": Kind(".png", _grey_png16, seen=_rgb_of_grey),
    "jpeg": Kind(".jpg", _pillow(quality=95), tolerance=3.0),
    "progressive-jpeg": Kind(".jpeg", _pillow(quality=95, progressive=True), tolerance=3.0),
    "cmyk-jpeg": Kind(".jpg", _pillow(convert=lambda image: Image.fromarray(as_cmyk(np.asarray(image)), "CMYK"), quality=95), tolerance=3.0),
    "rotated-jpeg": Kind(".jpg", _rotated_jpeg, tolerance=3.0),
    "bmp": Kind(".bmp", _pillow()),
    "jp2": Kind(".jp2", _pillow()),
    "lossy-webp": Kind(".webp", _pillow(quality=90), tolerance=6.0),
}
"""Slides that show `slide_picture(seed)`; those with transparency are `with_alpha`, and are seen on white."""


def write_kind(kind: str, folder: Path, *, seed: int = 0, name: str | None = None) -> Path:
    """A slide of that kind with `slide_picture(seed)`, called *name* or as its kind, with the ending that belongs to it."""
    path = folder / f"{name or kind}{KINDS[kind].suffix}"
    KINDS[kind].write(path, slide_picture(seed))
    return path


def _garbled(path: Path) -> None:
    """The header and the tags are whole; the bytes of every tile are noise."""
    write_tiff(path, slide_picture(0))
    offsets, counts = segments(path)
    random = np.random.default_rng(0)
    with path.open("r+b") as file:
        for offset, count in zip(offsets, counts, strict=True):
            file.seek(offset)
            file.write(random.bytes(count))


def _zeroed(path: Path) -> None:
    write_tiff(path, slide_picture(0))
    zero_tiles(path)


def _zeroed_deflate(path: Path) -> None:
    write_tiff(path, slide_picture(0), compression="deflate")
    zero_tiles(path)


def _zeroed_jpeg2000(path: Path) -> None:
    write_tiff(path, slide_picture(0), compression="jpeg2000")
    zero_tiles(path)


def _zeroed_some(path: Path) -> None:
    write_tiff(path, slide_picture(0), tile=128)
    zero_tiles(path, [5, 6])


def _cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def _truncated(path: Path) -> None:
    """The tags stand at the front, as writers that plan for streaming put them; tiles are missing."""
    write_tiff(path, slide_picture(0), levels=1)
    offsets, counts = segments(path)
    _cut(path, (offsets[len(offsets) // 2] + counts[len(offsets) // 2] / 2) / path.stat().st_size)


def _truncated_tags(path: Path) -> None:
    """The tags stand at the end, and are gone."""
    picture = slide_picture(0)
    Image.fromarray(picture).save(path, format="TIFF", compression="tiff_lzw")
    write_tiff(path, picture, levels=1)
    content = path.read_bytes()
    path.write_bytes(content[:4] + (len(content) + 5000).to_bytes(4, "little") + content[8:])


def _truncated_png(path: Path) -> None:
    Image.fromarray(slide_picture(0)).save(path)
    _cut(path)


def _truncated_jpeg(path: Path) -> None:
    Image.fromarray(slide_picture(0)).save(path)
    _cut(path)


def _truncated_svs(path: Path) -> None:
    write_svs(path, slide_picture(0), levels=1)
    _cut(path, 0.5)


def _unreadable(path: Path) -> None:
    write_tiff(path, slide_picture(0))
    path.chmod(0)


def _lying_size(path: Path) -> None:
    """Says that it is 3,000,000 pixels wide and high."""
    write_tiff(path, slide_picture(0), compression="deflate")
    overwrite_tags(path, {"ImageWidth": 3_000_000, "ImageLength": 3_000_000})


def _lying_tile(path: Path) -> None:
    """One tile that says it is 60,000 pixels wide and high."""
    write_tiff(path, slide_picture(0), compression="deflate", tile=1024)
    overwrite_tags(path, {"TileWidth": 60_000, "TileLength": 60_000})


def _beyond_the_end(path: Path) -> None:
    write_tiff(path, slide_picture(0), compression="deflate")
    offsets, _ = segments(path)
    overwrite_tags(path, {"TileOffsets": tuple(offset + 10_000_000 for offset in offsets)})


BROKEN: Mapping[str, tuple[str, Callable[[Path], object]]] = {
    "missing": (".tiff", lambda path: None),
    "empty": (".tiff", lambda path: path.touch()),
    "folder": (".tiff", lambda path: path.mkdir()),
    "unreadable": (".tiff", _unreadable),
    "text": (".tiff", lambda path: path.write_text("slide_id,image\n1,a.tiff\n")),
    "garbage": (".tiff", lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000))),
    "garbage-svs": (".svs", lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000))),
    "header-only": (".tiff", lambda path: path.write_bytes(b"II*\x00\x08\x00\x00\x00")),
    "garbled-tiles": (".tiff", _garbled),
    "zeroed": (".tiff", _zeroed),
    "zeroed-deflate": (".tiff", _zeroed_deflate),
    "zeroed-jpeg2000": (".tiff", _zeroed_jpeg2000),
    "zeroed-some": (".tiff", _zeroed_some),
    "truncated": (".tiff", _truncated),
    "truncated-tags": (".tiff", _truncated_tags),
    "truncated-png": (".png", _truncated_png),
    "truncated-jpeg": (".jpg", _truncated_jpeg),
    "truncated-svs": (".svs", _truncated_svs),
    "lying-size": (".tiff", _lying_size),
    "lying-tile": (".tiff", _lying_tile),
    "beyond-the-end": (".tiff", _beyond_the_end),
}
"""Slides that cannot be shown, or not wholly. Root reads the unreadable one all the same."""


def write_broken(kind: str, folder: Path, *, name: str | None = None) -> Path:
    """A broken slide of that kind, called *name* or as its kind."""
    suffix, write = BROKEN[kind]
    path = folder / f"{name or kind}{suffix}"
    write(path)
    return path


def not_utf8_name(suffix: str = ".tiff") -> str:
    """A file name that is no UTF-8: Linux has such, Windows and macOS do not."""
    return os.fsdecode(b"slide-\xff\xe9") + suffix
