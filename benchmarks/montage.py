"""Measure `himl montage`, next to hi-ml-cpath 0.5.2 with its pinned versions.

200 seeded slides of three levels (level 1: 2000 x 1500) become montage.png and montage.jpg at each width. It times
whole processes, including their start, in turns. Memory is the peak of the largest process, without the worker
processes of hi-ml-cpath. If Python 3.9 or that environment is not available, it omits hi-ml-cpath."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import HIML, PROGRAMS, clean_environment, new_parser, peer_python, recording, spend, turns
from tests.support.clients import HI_ML_CPATH

PATTERN = "*.tiff"
OURS, SAME_PICTURE, THEIRS = "himl montage", "himl montage --layout hi-ml", "hi-ml-cpath 0.5.2"
WIDTHS = (20_000, 60_000)
FINEST = (4000, 3000)
"""Width and height of level 0 in pixels. Each further level has half of both, so level 1 has 2000 x 1500."""
LEVELS, TILE, SEED = 3, 256, 7
EOSIN, HAEMATOXYLIN = np.array([214, 122, 176], np.float32), np.array([92, 58, 138], np.float32)


def make_slides(folder: Path, count: int) -> None:
    """Write slides `slide_000.tiff`, ... to *folder*: tiled JPEG TIFFs that look like tissue, the same each time."""
    folder.mkdir(parents=True)
    base = textures()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda number: _write(folder / f"slide_{number:03}.tiff", tissue(base, number)), range(count)))


def textures() -> Sequence[NDArray[np.float32]]:
    """Return the location of the tissue, and the darkness of its grain."""
    random = np.random.default_rng(SEED)
    return [_texture(random, (900, 0.6), (300, 0.3), (80, 0.1)), _texture(random, (40, 0.4), (12, 0.45), (5, 0.15))]


def _texture(random: np.random.Generator, *parts: tuple[int, float]) -> NDArray[np.float32]:
    """Return a value from 0 to 1 for each pixel of level 0: the sum of *parts*, each noise that is smooth over a
    number of pixels, with a weight.
    """

    def noise(cell: int) -> NDArray[np.float32]:
        coarse = random.random((FINEST[1] // cell + 2, FINEST[0] // cell + 2), dtype=np.float32)
        return np.asarray(Image.fromarray(coarse).resize(FINEST, Image.Resampling.BICUBIC))

    return np.asarray(sum(noise(cell) * weight for cell, weight in parts))


def tissue(base: Sequence[NDArray[np.float32]], number: int) -> NDArray[np.uint8]:
    """Return the pixels of level 0 of slide *number*, of shape (height, width, 3), made from `textures()`."""
    random = np.random.default_rng([SEED, number])
    shape, grain = (np.roll(part, tuple(random.integers(0, 3000, 2)), (0, 1)) for part in base)
    cover = np.clip((shape - 0.5) * 12, 0, 1)[..., None]
    stain = EOSIN + (HAEMATOXYLIN - EOSIN) * np.clip((grain[..., None] - 0.35) * 3, 0, 1)
    speckle = random.integers(-3, 4, (*grain.shape, 1), dtype=np.int8)
    return np.clip(244 + (stain - 244) * cover + speckle, 0, 255).astype(np.uint8)


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    picture = Image.fromarray(pixels)
    with tifffile.TiffWriter(path) as file:
        for level in range(LEVELS):
            write_level(file, picture, level)


def write_level(file: tifffile.TiffWriter, picture: Image.Image, level: int) -> None:
    options: dict[str, Any] = {
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": 85},
        "metadata": None,
    }
    file.write(np.asarray(picture.reduce(2**level)), tile=(TILE, TILE), subfiletype=1 if level else 0, **options)


if __name__ == "__main__":
    parser = new_parser(__doc__, 3)
    parser.add_argument("--their_rounds", type=int, default=1, help="rounds of hi-ml-cpath, which takes minutes each")
    parser.add_argument(
        "--width", type=int, action="append", help="width in pixels, may be repeated (default: 20,000 and 60,000)"
    )
    parser.add_argument("--count", type=int, default=200, help="number of slides")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, recording("montage", args.raw) as record:
        python = peer_python(record, HI_ML_CPATH, THEIRS, "hi-ml-cpath", "pillow")
        slides, result = Path(name, "slides"), Path(name, "result")
        # Threads of himl, processes of hi-ml-cpath.
        workers = str(os.cpu_count() or 1)
        make_slides(slides, args.count)
        for width in args.width or WIDTHS:
            size = ["--width", str(width), "--workers", workers, "--output_path", str(result)]
            ours = [HIML, "montage", str(slides), "--image_glob", PATTERN, *size, "-q"]
            theirs = [python, PROGRAMS, "montage", str(slides), PATTERN, str(width), workers, str(result)]
            commands = {OURS: ours, SAME_PICTURE: [*ours, "--layout", "hi-ml"], **({THEIRS: theirs} if python else {})}
            for number, candidate in turns(commands, max(args.rounds, args.their_rounds)):
                if number > (args.their_rounds if candidate == THEIRS else args.rounds):
                    continue
                spent = spend(commands[candidate], {**clean_environment(), "TMPDIR": name})
                record.add(f"{width:,} wide", candidate, number, **spent)
                for kind in ("png", "jpg"):
                    record.add(
                        f"{width:,} wide, {kind}", candidate, number, bytes=(result / f"montage.{kind}").stat().st_size
                    )
                shutil.rmtree(result)
                os.sync()
