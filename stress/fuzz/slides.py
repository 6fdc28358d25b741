"""Slides whose bytes are damaged, and the pieces of compressed pictures within them."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

from himl_cli.core.montage import Backend, SlideUnreadable
from himl_cli.services.montage.slides import open_slide
from himl_cli.services.montage.tiff import stored_size
from stress.fuzz.strategies import damaged
from stress.fuzz.target import Target, written
from tests.support.slides import slide_picture, write_svs, write_tiff

SIZE = (96, 64)
LARGEST = 4_000_000
"""Pixels of a slide that is read to its end; of a larger one the beginning is."""
MOST_STRIPS = 40
PICTURES = {"png": {}, "jpg": {"quality": 90}, "webp": {"quality": 80}, "jp2": {}, "bmp": {}}
TIFFS = {
    "jpeg": {"tile": 32, "levels": 2},
    "deflate": {"compression": "deflate", "tile": 32},
    "strips": {"tile": None, "compression": "lzw", "rowsperstrip": 16},
} | {
    "webp": {"compression": "webp", "tile": 32},
    "jpeg2000": {"compression": "jpeg2000", "tile": 32},
    "bigtiff": {"compression": "zstd", "tile": 32, "bigtiff": True},
}


@cache
def _tiffs() -> list[bytes]:
    picture, path = slide_picture(0, SIZE), Path.cwd() / "made.tiff"
    found = []
    for options in TIFFS.values():
        write_tiff(path, picture, **options)  # type: ignore[arg-type]
        found.append(path.read_bytes())
    write_svs(path, picture, levels=2)
    return [*found, path.read_bytes()]


@cache
def _pictures() -> list[bytes]:
    from PIL import Image

    found = []
    for ending, options in PICTURES.items():
        path = Path.cwd() / f"made.{ending}"
        Image.fromarray(slide_picture(0, SIZE)).save(path, **options)  # type: ignore[arg-type]
        found.append(path.read_bytes())
    return found


def _read(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own; a montage silences them
        slide = open_slide(path, Backend.auto)
    try:
        for level, size in enumerate(slide.levels):
            strips = slide.strips(level, (255, 255, 255))
            for number, strip in enumerate(strips):
                assert strip.shape[1:] == (size[0], 3), strip.shape
                if number > MOST_STRIPS or size[0] * size[1] > LARGEST:
                    break
    finally:
        slide.close()


def targets() -> list[Target]:
    return [
        Target("slides/tiff", lambda: damaged(_tiffs()), lambda content: _read(written("slide.tiff", content)), (SlideUnreadable,)),
        Target("slides/picture", lambda: damaged(_pictures()), lambda content: _read(written("slide.png", content)), (SlideUnreadable,)),
        Target("slides/stored_size", lambda: damaged([*_pictures(), *_tiffs()]), stored_size, ()),
    ]
