"""TIFF files for tests, and what can be done to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.slide_pictures import SIZE, Pixels, Size, mask_picture, pyramid, slide_picture


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
