"""Measure the libraries of docs/image-loading.md that the current Python can import, and print the tables as Markdown.

    python docs/image_loading.py

Makes its own images and slides, the same ones each time, and checks the pixels of each library before it times it.
Needs numpy, pillow, tifffile and imagecodecs. Run it in a second environment for a library that does not install
beside the others, such as cuCIM.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tifffile
from PIL import Image

ROUNDS, REPEATS, COUNT = 5, 10, 61
IMAGE_SIZES = ((224, 224), (180, 224))
"""Width and height, COUNT images of each."""
KINDS = {"RGB PNG": 0, "grey PNG": 0, "RGB TIFF (LZW)": 0, "grey TIFF (LZW)": 0, "RGB TIFF (JPEG)": 20}
"""Largest difference of a pixel in grey levels: SimpleITK repeats the coarse colours of JPEG, others smooth them."""
SLIDE_SIZES = {"first.tiff": (27648, 29440), "second.svs": (5888, 25344)}
"""Width and height of level 0. Each further level has a quarter of both."""
LEVELS, FACTOR, FILE_TILE = 3, 4, 512
TILE, TILE_LEVEL, OCCUPANCY = 224, 1, 0.1
PACKAGES = (
    "numpy",
    "matplotlib",
    "opencv-python-headless",
    "pillow",
    "imageio",
    "SimpleITK",
    "scikit-image",
    "tifffile",
)
OTHERS = ("imagecodecs", "torch", "openslide-python", "openslide-bin", "cucim-cu12")


def opencv(path: str) -> Any:
    import cv2

    array = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    return array if array.ndim == 2 else cv2.cvtColor(array, cv2.COLOR_BGR2RGB)


def pillow(path: str) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)


def matplotlib(path: str) -> Any:
    from matplotlib.image import imread

    # A PNG becomes float32 from 0 to 1, a TIFF uint8.
    return imread(path)


def imageio(path: str) -> Any:
    from imageio.v3 import imread

    return imread(path)


def simpleitk(path: str) -> Any:
    import SimpleITK

    array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))
    # Subsampled JPEG in a TIFF has an alpha channel.
    return array if array.ndim == 2 else array[..., :3]


def scikit_image(path: str) -> Any:
    from skimage.io import imread

    return imread(path)


READERS: Mapping[str, Callable[[str], Any]] = {
    "matplotlib": matplotlib,
    "OpenCV": opencv,
    "Pillow": pillow,
    "imageio": imageio,
    "SimpleITK": simpleitk,
    "scikit-image": scikit_image,
    "tifffile": tifffile.imread,
}
"""Each returns an array of shape (height, width), or (height, width, 3) in the order red, green, blue."""


def from_numpy(array: Any) -> Any:
    """A tensor of float32 from 0 to 1, of shape (1 or 3, height, width)."""
    import torch

    scaled = array if array.dtype == np.float32 else np.float32(array) / 255
    return torch.from_numpy(np.transpose(scaled if scaled.ndim == 3 else scaled[:, :, None], (2, 0, 1)))


def copied(array: Any) -> Any:
    """The same tensor as a contiguous copy, which `to_tensor` of torchvision makes."""
    return from_numpy(array).contiguous()


def floats(array: Any) -> Any:
    """An array of float64 from 0 to 255."""
    return array.astype(float) * (255 if array.dtype == np.float32 else 1)


class OpenSlide:
    """A slide. `levels` has the width and height of each level, the finest first. `read` returns pixels of shape
    (height, width, 3) from *x* and *y* of that level."""

    def __init__(self, path: str) -> None:
        import openslide

        self._slide = openslide.OpenSlide(path)
        self.levels = list(self._slide.level_dimensions)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Any:
        scale = round(self._slide.level_downsamples[level])
        return np.asarray(self._slide.read_region((x * scale, y * scale), level, (width, height)).convert("RGB"))


class CuCim:
    """The same with cuCIM."""

    def __init__(self, path: str) -> None:
        from cucim import CuImage

        self._slide = CuImage(path)
        self.levels = list(self._slide.resolutions["level_dimensions"])

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Any:
        scale = round(self._slide.resolutions["level_downsamples"][level])
        return np.asarray(self._slide.read_region((x * scale, y * scale), (width, height), level))[..., :3]


class TiffFile:
    """The same with tifffile, which decodes a level when it is first read, and keeps it in memory."""

    def __init__(self, path: str) -> None:
        self._series = tifffile.TiffFile(path).series[0]
        self.levels = [level.shape[1::-1] for level in self._series.levels]
        self._decoded = cache(lambda level: self._series.levels[level].asarray())

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Any:
        return self._decoded(level)[y : y + height, x : x + width]


SLIDES: Mapping[str, Callable[[str], Any]] = {"OpenSlide": OpenSlide, "tifffile": TiffFile, "cuCIM": CuCim}


def picture(width: int, height: int) -> Any:
    """Pixels that compress like tissue: smooth colours with grain, of shape (height, width, 3)."""
    random = np.random.default_rng(7)
    coarse = Image.fromarray(random.integers(90, 230, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    return np.clip(smooth + random.integers(-6, 7, (height, width, 1)), 0, 255).astype(np.uint8)


def make_images(folder: Path) -> None:
    source, random = picture(1000, 1000), np.random.default_rng(8)
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
    for number in range(COUNT * len(IMAGE_SIZES)):
        width, height = IMAGE_SIZES[number // COUNT]
        y, x = random.integers(0, 1000 - 224, 2)
        window = Image.fromarray(source[y : y + height, x : x + width])
        for kind in KINDS:
            image = window if kind.startswith("RGB") else window.convert("L")
            if kind.endswith("PNG"):
                image.save(folder / kind / f"{number:03}.png")
            else:
                coding = kind.partition("(")[2][:-1].lower()
                tifffile.imwrite(folder / kind / f"{number:03}.tif", np.asarray(image), compression=coding)


def make_slides(folder: Path) -> None:
    """Tiled pyramids, JPEG, each with a mask of an ellipse beside it: `.mask.tiff`, LZW, in the red channel."""
    folder.mkdir()
    pattern = Image.fromarray(picture(4096, 4096))
    for name, size in SLIDE_SIZES.items():
        with tifffile.TiffWriter(folder / name) as slide, tifffile.TiffWriter(folder / f"{name}.mask.tiff") as mask:
            for level in range(LEVELS):
                width, height = (side // FACTOR**level for side in size)
                pixels, form = np.asarray(pattern.reduce(FACTOR**level)), {"tile": (FILE_TILE, FILE_TILE)}
                repeats = (height // pixels.shape[0] + 1, width // pixels.shape[1] + 1, 1)
                y, x = np.ogrid[:height, :width]
                inside = ((x / width - 0.5) / 0.3) ** 2 + ((y / height - 0.5) / 0.3) ** 2 < 1
                common: dict[str, Any] = {**form, "photometric": "rgb", "metadata": None, "subfiletype": int(level > 0)}
                whole = np.tile(pixels, repeats)[:height, :width]
                slide.write(whole, **common, compression="jpeg", compressionargs={"level": 85})
                mask.write(inside[..., None] * np.array([1, 0, 0], np.uint8), **common, compression="lzw")


def cut(read: Callable[[str], Any], path: str, keep: Callable[[Any], None]) -> None:
    """Pass each tile of the middle level to *keep* of which the mask covers at least OCCUPANCY."""
    slide = read(path)
    width, height = slide.levels[TILE_LEVEL]
    inside = read(f"{path}.mask.tiff").read(TILE_LEVEL, 0, 0, width, height)[..., 0] > 0
    for y in range(0, height - TILE + 1, TILE):
        for x in range(0, width - TILE + 1, TILE):
            if inside[y : y + TILE, x : x + TILE].mean() >= OCCUPANCY:
                keep(slide.read(TILE_LEVEL, x, y, TILE, TILE))


def save_tiles(read: Callable[[str], Any], paths: Sequence[str], folder: str) -> None:
    for path in paths:
        cut(read, path, lambda tile: Image.fromarray(tile).save(f"{folder}/tile.png"))


def stack_tiles(read: Callable[[str], Any], paths: Sequence[str]) -> None:
    for path in paths:
        tiles: list[Any] = []
        cut(read, path, tiles.append)
        np.stack(tiles)


def read_lowest(read: Callable[[str], Any], paths: Sequence[str]) -> None:
    for path in paths:
        slide = read(path)
        slide.read(len(slide.levels) - 1, 0, 0, *slide.levels[-1])


def load(read: Callable[[str], Any], convert: Callable[[Any], Any], paths: Sequence[str]) -> None:
    for path in [*paths] * REPEATS:
        convert(read(path))


def is_right(read: Callable[[str], Any], paths: Sequence[str], tolerance: int) -> bool:
    """Whether the pixels of all *paths* are within *tolerance* grey levels of Pillow's. Raises ImportError."""
    return all(np.abs(floats(read(path)) - pillow(path)).max() <= tolerance + 1e-4 for path in paths)


def report(title: str, rows: Mapping[str, Callable[[], None]]) -> None:
    """Time all *rows* in turns, and print the median, minimum and maximum of each in seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(ROUNDS + 1):  # the first round warms up
        for name, call in rows.items():
            start = time.perf_counter()
            call()
            seconds[name] += [time.perf_counter() - start] if number else []
    print(f"\n| {title} | median | minimum to maximum |\n| --- | --- | --- |")
    for name, found in seconds.items():
        print(f"| {name} | {median(found):.3f} s | {min(found):.3f} s to {max(found):.3f} s |")


def image_rows(
    folder: Path, kind: str, conversions: Mapping[str, Callable[[Any], Any]]
) -> dict[str, Callable[[], None]]:
    paths, rows = sorted(map(str, folder.iterdir())), dict[str, Callable[[], None]]()
    for name, read in READERS.items():
        if name == "tifffile" and kind.endswith("PNG"):
            continue
        try:
            if not is_right(read, paths, KINDS[kind]):
                print(f"\n{name} returns other pixels of {kind}.")
                continue
            for label, convert in conversions.items():
                convert(read(paths[0]))
                rows[name + label] = partial(load, read, convert, paths)
        except ImportError as e:
            print(f"\n{kind}, {name}: {e}.")
    return rows


def slide_libraries(path: str) -> dict[str, Callable[[str], Any]]:
    found = {}
    for name, read in SLIDES.items():
        try:
            if read(path).read(LEVELS - 1, 0, 0, 8, 8).shape == (8, 8, 3):
                found[name] = read
        except ImportError as e:
            print(f"\n{name}: {e}.")
    return found


def main() -> None:
    for name in (*PACKAGES, *OTHERS):
        try:
            print(f"{name} {version(name)}", end="; ")
        except PackageNotFoundError:
            continue
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_images(folder / "images")
        for kind in KINDS:
            tensors = {", from_numpy": from_numpy, "": copied}
            for table, conversions in (("tensor", tensors), ("array", {"": floats})):
                report(f"{kind} to {table}", image_rows(folder / "images" / kind, kind, conversions))
        make_slides(folder / "slides")
        paths = [str(folder / "slides" / name) for name in SLIDE_SIZES]
        found = slide_libraries(paths[0])
        report("lowest level", {name: partial(read_lowest, read, paths) for name, read in found.items()})
        report("tiles to PNGs", {name: partial(save_tiles, read, paths, temporary) for name, read in found.items()})
        report("tiles to an array", {name: partial(stack_tiles, read, paths) for name, read in found.items()})


if __name__ == "__main__":
    main()
