"""Slides for tests: real files, small and seeded, of every kind that people have, and the broken ones.

picture = slide_picture(seed=1, size=(600, 400))     RGB, shape (400, 600, 3)
write_tiff(path, picture, levels=3)                   a tiled pyramid, JPEG
write_kind("cmyk-jpeg", folder)                       any of KINDS
write_broken("truncated", folder)                     any of BROKEN
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from tests.slide_files import leave_out_tiles, overwrite_tags, segments, write_giant, write_mask, write_svs, write_tiff, zero_tiles
from tests.slide_pictures import (
    SIZE,
    Pixels,
    as_cmyk,
    as_grey,
    as_palette,
    as_ycbcr,
    mask_picture,
    over,
    pyramid,
    reduced,
    slide_picture,
    with_alpha,
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
