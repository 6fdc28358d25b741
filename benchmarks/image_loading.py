"""Compare libraries that load images and cut slides, like hi-ml's documentation, but with current versions.

A round loads 122 small images of each kind ten times, as tensors and as arrays. It saves the coarsest level of two slides with masks, and cuts tiles from them.
Imports do not count. Each library is checked for correct pixels before it is timed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean
from typing import Any, Protocol

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import clean_environment, new_parser, peer_python, recording, turns
from benchmarks.montage import SEED, textures, tissue
from benchmarks.raw import Raw
from tests.support.clients import CUCIM, IMAGES

READERS = str(Path(__file__).with_name("image_readers.py"))
LIBRARIES = ("torch", "torchvision", "numpy", "matplotlib", "opencv-python-headless", "pillow", "imageio", "SimpleITK", "scikit-image", "tifffile")
FOR_SLIDES = ("openslide-python", "openslide-bin", "imagecodecs")
SIZES = ((224, 224), (180, 224))
"""Width and height of the images, 61 of each."""
OF_EACH, TIMES = 61, 10
TOLERANCES = {"RGB PNG": 0, "grey PNG": 0, "RGB TIFF (LZW)": 0, "grey TIFF (LZW)": 0, "RGB TIFF (JPEG)": 20}
"""Largest difference of a pixel in grey levels: SimpleITK repeats the coarse colours of JPEG, other libraries smooth them."""
SLIDES = {"first.tiff": (27648, 29440), "second.svs": (5888, 25344)}
"""Width and height of level 0 in pixels. Each further level has a quarter of both."""
LEVELS, STEP, TILE, WHITE = 3, 4, 512, 244
PERIOD = (2992, 4000)
"""Height and width of the tissue that slides repeat. Both are whole numbers on each level."""
ROUNDING = 3
"""Largest difference of a pixel between two libraries in grey levels, because decoders of JPEG round differently."""
CUT = {"side": 224, "level": 1, "occupancy": 0.1}
MAKER = "Aperio Image Library v11.2.1\r\n"


class Readers(Protocol):
    """Calls a function of `image_readers.py` in a process with the libraries."""

    def __call__(self, function: str, *arguments: object) -> Any: ...


@contextmanager
def readers(python: str) -> Iterator[Readers]:
    """Run `image_readers.py` with one thread for computing, like a worker of a DataLoader. A failed call ends the benchmark."""
    environment = {**clean_environment(), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([python, READERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def call(function: str, *arguments: object) -> Any:
            print(json.dumps([function, *arguments]), file=asked, flush=True)
            line = answers.readline()
            return json.loads(line) if line else sys.exit(f"{function}: failed with {arguments}")

        yield call


def make_images(folder: Path) -> None:
    """Write files `000.png`, ... to a folder per kind, each beside its pixels as `.npy`: float32 from 0 to 1, of shape (channels, height, width)."""
    picture, random = tissue(textures(), 0), np.random.default_rng(SEED)
    for kind in TOLERANCES:
        (folder / kind).mkdir(parents=True)
    for number in range(OF_EACH * len(SIZES)):
        width, height = SIZES[number // OF_EACH]
        y, x = random.integers(0, 2700, 2)
        window = Image.fromarray(picture[y : y + height, x : x + width])
        for kind in TOLERANCES:
            path = folder / kind / f"{number:03}.{'png' if kind.endswith('PNG') else 'tif'}"
            image = window if kind.startswith("RGB") else window.convert("L")
            if kind.endswith("PNG"):
                image.save(path)
            else:
                tifffile.imwrite(path, np.asarray(image), compression=kind.partition("(")[2][:-1].lower(), metadata=None)
            with Image.open(path) as stored:
                pixels = np.atleast_3d(np.asarray(stored))
            np.save(path.with_suffix(".npy"), np.moveaxis(pixels, -1, 0).astype(np.float32) / 255)


def make_slides(folder: Path) -> None:
    """Write slides like those of scanners: JPEG tiles of tissue within an ellipse. A mask of the inner part is beside each: `.mask.tiff`, LZW, red channel."""
    folder.mkdir()
    picture = Image.fromarray(tissue(textures(), 1)[: PERIOD[0]])
    for name, size in SLIDES.items():
        with tifffile.TiffWriter(folder / name) as slide, tifffile.TiffWriter(folder / f"{name}.mask.tiff") as mask:
            for level in range(LEVELS):
                factor = STEP**level
                (width, height), pixels = (side // factor for side in size), np.asarray(picture.reduce(factor))
                common = {"shape": (height, width, 3), "dtype": np.uint8, "tile": (TILE, TILE), "photometric": "rgb", "metadata": None}
                is_svs = name.endswith(".svs")
                text = {"description": f"{MAKER}{size[0]}x{size[1]} -> {width}x{height} JPEG/RGB Q=85|AppMag = 20|MPP = 0.5"} if is_svs else {}
                coarser = 1 if level and not is_svs else 0
                parts = _tiles(pixels, width, height)
                slide.write(parts, **common, compression="jpeg", compressionargs={"level": 85}, subfiletype=coarser, **text)
                # The second picture of an SVS file is a thumbnail.
                if is_svs and level == 0:
                    slide.write(np.asarray(picture.reduce(16)), description=f"{MAKER}thumbnail", photometric="rgb", metadata=None)
                mask.write(_tiles(None, width, height), **common, compression="lzw", subfiletype=1 if level else 0)


def _tiles(pixels: NDArray[np.uint8] | None, width: int, height: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the tiles of a level, row by row: *pixels*, repeated within an ellipse, or for a mask (None) ones in the red channel within a smaller ellipse."""
    reach = 0.4 if pixels is not None else 0.3
    repeated = None if pixels is None else np.pad(pixels, ((0, TILE), (0, TILE), (0, 0)), mode="wrap")
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            y, x = np.ogrid[top : top + TILE, left : left + TILE]
            inside = (((x / width - 0.5) / reach) ** 2 + ((y / height - 0.5) / reach) ** 2 < 1)[..., None]
            if pixels is None or repeated is None:
                yield (inside * np.array([1, 0, 0])).astype(np.uint8)
            else:
                down, right = top % pixels.shape[0], left % pixels.shape[1]
                yield np.where(inside, repeated[down : down + TILE, right : right + TILE], np.uint8(WHITE))


def load_images(record: Raw, call: Readers, folder: Path, rounds: int) -> None:
    """Measure all tables in each round, so that a slow minute of the machine affects one round of each row."""
    rows: list[tuple[str, str, str]] = []
    for kind, tolerance in TOLERANCES.items():
        call("write_pt", str(folder / kind))
        for table in ("tensor", "array"):
            for name in call("names", table, kind):
                if why := call("check", table, kind, name, str(folder / kind), tolerance):
                    record.leave_out(name, f"it does not load on this machine ({why})")
                else:
                    rows.append((table, kind, name))
    for number, (table, kind, name) in turns(rows, rounds):
        record.add(f"{kind} to {table}", name, number, **call("load", table, kind, name, str(folder / kind), TIMES))


def read_slides(record: Raw, libraries: Mapping[str, Readers], folder: Path, rounds: int) -> None:
    slides = [(str(folder / name), str(folder / f"{name}.mask.tiff")) for name in SLIDES]
    cut = tuple(CUT.values())
    # The first pass is not measured.
    for library, call in libraries.items():
        for number, (path, mask) in enumerate(slides):
            for one in (path, mask):
                call("lowest", library, one, f"{one}.{library}.png")
            (folder / f"{library} {number}").mkdir()
            call("tiles", library, path, mask, *cut, str(folder / f"{library} {number}"))
    first, *others = libraries
    for other in others:
        check_same([path for pair in slides for path in pair], folder, first, other)
    for number, library in turns(libraries, rounds):
        call = libraries[library]
        saved = [call("lowest", library, path, f"{path}.{library}.png") for pair in slides for path in pair]
        for stage in ("open", "read", "save"):
            record.add(f"lowest level: {stage}", library, number, **{figure: mean(one[stage][figure] for one in saved) for figure in ("wall", "cpu")})
        for scenario, places in (
            ("tiles to PNGs", [str(folder / f"{library} {slide}") for slide in range(len(slides))]),
            ("tiles to an array", [""] * len(slides)),
        ):
            made = [call("tiles", library, *pair, *cut, place) for pair, place in zip(slides, places, strict=True)]
            record.add(scenario, library, number, **{figure: sum(one[figure] for one in made) for figure in ("wall", "cpu")})


def check_same(paths: Sequence[str], folder: Path, one: str, other: str) -> None:
    """End the benchmark if the pictures of two libraries differ by more than JPEG permits, or if they have different tiles."""
    pairs = [(Path(f"{path}.{one}.png"), Path(f"{path}.{other}.png")) for path in paths]
    for number in range(len(SLIDES)):
        made, others = (sorted((folder / f"{library} {number}").iterdir()) for library in (one, other))
        if not made or [path.name for path in made] != [path.name for path in others]:
            sys.exit(f"{one} and {other} select different tiles.")
        pairs += zip(made, others, strict=True)
    for first, second in pairs:
        difference = np.abs(np.asarray(Image.open(first)).astype(int) - np.asarray(Image.open(second)))
        if difference.max() > ROUNDING:
            sys.exit(f"{one} and {other} differ by {difference.max()} grey levels in {first.name}.")


def try_masks(record: Raw, libraries: Mapping[str, Readers], folder: Path) -> None:
    """Record the kinds of masks that each library reads."""
    pixels: NDArray[np.uint8] = np.full((TILE, TILE, 3), 200, np.uint8)
    for kind, part in (("RGB", pixels), ("grey", pixels[..., 0])):
        for compression in ("LZW", "Deflate", "JPEG"):
            path = folder / f"{kind} {compression}.tiff"
            tifffile.imwrite(path, part, tile=(256, 256), compression={"Deflate": "adobe_deflate"}.get(compression, compression.lower()), metadata=None)
            for library, call in libraries.items():
                record.add_fact(f"{kind}, {compression}", library, call("reads", library, str(path)))


if __name__ == "__main__":
    args = new_parser(__doc__, 5).parse_args()
    with ExitStack() as stack:
        record = stack.enter_context(recording("image_loading", args.raw))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        images, cucim = peer_python(record, IMAGES, "all", *LIBRARIES, *FOR_SLIDES), peer_python(record, CUCIM, "cuCIM", "cucim-cu12")
        if not images:
            sys.exit(f"The libraries are not available: {record.meta['missing']['all']}")
        call = stack.enter_context(readers(images))
        make_images(folder / "images")
        load_images(record, call, folder / "images", args.rounds)
        make_slides(folder / "slides")
        libraries = {"OpenSlide": call, "tifffile": call, **({"cuCIM": stack.enter_context(readers(cucim))} if cucim else {})}
        try_masks(record, libraries, folder)
        read_slides(record, libraries, folder / "slides", args.rounds)
