"""Functions that load images and slides. They run with the Python of an environment that has the libraries, and import nothing from the benchmarks.

Each line of standard input is a call: a JSON list of the name of a function in `CALLS` and its arguments. The answer is a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any


def matplotlib(path: str) -> Any:
    from matplotlib.image import imread

    # A PNG becomes float32 from 0 to 1, a TIFF uint8.
    return imread(path)


def opencv(path: str) -> Any:
    import cv2

    array = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    return array if array.ndim == 2 else cv2.cvtColor(array, cv2.COLOR_BGR2RGB)


def pillow(path: str) -> Any:
    import numpy
    from PIL import Image

    with Image.open(path) as image:
        return numpy.asarray(image)


def pillow_png(path: str) -> Any:
    import numpy
    from PIL.PngImagePlugin import PngImageFile

    with PngImageFile(path) as image:
        return numpy.asarray(image)


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


def tifffile(path: str) -> Any:
    from tifffile import imread

    return imread(path)


ARRAYS: Mapping[str, Callable[[str], Any]] = {
    "matplotlib": matplotlib,
    "OpenCV": opencv,
    "Pillow": pillow,
    "imageio": imageio,
    "SimpleITK": simpleitk,
    "scikit-image": scikit_image,
    "tifffile": tifffile,
}
"""Each function returns an array of shape (height, width), or (height, width, 3) in the order red, green, blue."""


@cache
def to_tensor() -> Callable[[Any], Any]:
    """Return torchvision's function. On Linux, PyPI has only builds for CUDA. With a CPU build of PyTorch, their import needs missing operators declared."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision.transforms.functional import to_tensor as found

    return found  # type: ignore[no-any-return]


def from_numpy(array: Any) -> Any:
    """Return the result of `to_tensor` without torchvision: float32 from 0 to 1, of shape (1 or 3, height, width)."""
    import numpy
    import torch

    scaled = array if array.dtype == numpy.float32 else numpy.float32(array) / 255
    return torch.from_numpy(numpy.transpose(scaled if scaled.ndim == 3 else scaled[:, :, None], (2, 0, 1)))


def pillow_image(path: str) -> Any:
    from PIL import Image

    return Image.open(path)


def torchvision(path: str) -> Any:
    from torchvision.io import decode_image

    return decode_image(path)


def npy(path: str) -> Any:
    import numpy
    import torch

    return torch.from_numpy(numpy.load(Path(path).with_suffix(".npy")))


def pt(path: str) -> Any:
    import torch

    return torch.load(Path(path).with_suffix(".pt"))


def ways(table: str, kind: str) -> dict[str, tuple[Callable[[str], Any], Callable[[Any], Any]]]:
    """Return for each row a function that reads a file of *kind* (`RGB PNG`), and one that makes a `tensor`, or an `array` of float64 from 0 to 255."""
    is_png = kind.endswith("PNG")
    arrays = {name: read for name, read in ARRAYS.items() if name != "tifffile" or not is_png}
    if table == "array":
        own = {"matplotlib": (matplotlib, lambda array: array.astype(float) * 255), "Pillow, PngImageFile": (pillow_png, lambda array: array.astype(float))}
        return {**{name: (read, lambda array: array.astype(float)) for name, read in arrays.items()}, **(own if is_png else {})}
    stored = {"NumPy, .npy": (npy, lambda tensor: tensor), "torch, .pt": (pt, lambda tensor: tensor)}
    return {
        **{f"{name}, from_numpy": (arrays[name], from_numpy) for name in ("matplotlib", "OpenCV")},
        **{name: (read, to_tensor()) for name, read in arrays.items()},
        "Pillow": (pillow_image, to_tensor()),
        **({"torchvision": (torchvision, lambda tensor: tensor.float() / 255)} if is_png else {}),
        **stored,
    }


def names(table: str, kind: str) -> list[str]:
    return list(ways(table, kind))


def files(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).iterdir() if path.suffix in (".png", ".tif"))


def write_pt(folder: str) -> None:
    """Save a tensor beside each array in *folder*."""
    import numpy
    import torch

    for path in Path(folder).glob("*.npy"):
        torch.save(torch.from_numpy(numpy.load(path)), path.with_suffix(".pt"))


def check(table: str, kind: str, name: str, folder: str, tolerance: float) -> str:
    """Return why a row is not available, or "" if its result for each file equals the `.npy` within *tolerance* grey levels. Else raises AssertionError."""
    import numpy

    read, convert = ways(table, kind)[name]
    for path in files(folder):
        expected = numpy.load(Path(path).with_suffix(".npy")) * 255.0
        try:
            found = numpy.asarray(convert(read(path)))
        except (ImportError, RuntimeError) as e:
            return f"{type(e).__name__}: {str(e).partition('. ')[0]}"
        if table == "tensor":
            assert (str(found.dtype), found.shape) == ("float32", expected.shape), (name, path, found.shape)
            found = found * 255.0
        else:
            expected = numpy.moveaxis(expected, 0, -1) if len(expected) == 3 else expected[0]
            assert (str(found.dtype), found.shape) == ("float64", expected.shape), (name, path, found.shape)
        assert numpy.abs(found - expected).max() <= tolerance + 1e-4, (name, path, numpy.abs(found - expected).max())
    return ""


def load(table: str, kind: str, name: str, folder: str, times: int) -> dict[str, float]:
    (read, convert), paths = ways(table, kind)[name], files(folder)
    with timed() as took:
        for path in paths * times:
            convert(read(path))
    return took


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    took: dict[str, float] = {}
    start, cpu = time.perf_counter(), time.process_time()
    yield took
    took.update(wall=time.perf_counter() - start, cpu=time.process_time() - cpu)


class OpenSlide:
    """A slide. `levels` has the width and height of each level, the finest first. `read` returns (height, width, 3) pixels from *x* and *y* of that level."""

    def __init__(self, path: str) -> None:
        import openslide

        self._slide = openslide.OpenSlide(path)
        self.levels = list(self._slide.level_dimensions)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Any:
        import numpy

        scale = round(self._slide.level_downsamples[level])
        return numpy.asarray(self._slide.read_region((x * scale, y * scale), level, (width, height)).convert("RGB"))


class CuCim:
    """The same with cuCIM."""

    def __init__(self, path: str) -> None:
        from cucim import CuImage

        self._slide = CuImage(path)
        self.levels = list(self._slide.resolutions["level_dimensions"])

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Any:
        import numpy

        scale = round(self._slide.resolutions["level_downsamples"][level])
        return numpy.asarray(self._slide.read_region((x * scale, y * scale), (width, height), level))[..., :3]


class TiffFile:
    """The same with tifffile, which decodes a level when it is first read, and keeps it in memory."""

    def __init__(self, path: str) -> None:
        from tifffile import TiffFile as Opened

        self._slide = Opened(path)
        self.levels = [level.shape[1::-1] for level in self._slide.series[0].levels]

    @cached_property
    def _decoded(self) -> dict[int, Any]:
        return {}

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Any:
        if level not in self._decoded:
            self._decoded[level] = self._slide.series[0].levels[level].asarray()
        return self._decoded[level][y : y + height, x : x + width]


SLIDES: Mapping[str, Callable[[str], Any]] = {"OpenSlide": OpenSlide, "cuCIM": CuCim, "tifffile": TiffFile}


def reads(library: str, path: str) -> bool:
    try:
        return bool(SLIDES[library](path).read(0, 0, 0, 8, 8).any())
    except (RuntimeError, ValueError):
        return False


def lowest(library: str, path: str, picture: str) -> dict[str, dict[str, float]]:
    """Save the coarsest level as a PNG, and return the times to open, read and save it."""
    from PIL import Image

    with timed() as opening:
        slide = SLIDES[library](path)
    with timed() as reading:
        pixels = slide.read(len(slide.levels) - 1, 0, 0, *slide.levels[-1])
    with timed() as saving:
        Image.fromarray(pixels).save(picture)
    return {"open": opening, "read": reading, "save": saving}


def tiles(library: str, path: str, mask: str, side: int, level: int, occupancy: float, folder: str) -> dict[str, float]:
    """Time cutting squares of *side* pixels of which the mask covers at least *occupancy*, as PNGs in *folder*, or as an array if *folder* is empty."""
    import numpy
    from PIL import Image

    with timed() as took:
        slide, kept = SLIDES[library](path), []
        width, height = slide.levels[level]
        inside = SLIDES[library](mask).read(level, 0, 0, width, height)[..., 0] > 0
        for y in range(0, height - side + 1, side):
            for x in range(0, width - side + 1, side):
                if inside[y : y + side, x : x + side].mean() >= occupancy:
                    tile = slide.read(level, x, y, side, side)
                    if folder:
                        Image.fromarray(tile).save(Path(folder, f"{x}_{y}.png"))
                    else:
                        kept.append(tile)
        stacked = numpy.stack(kept) if kept else None
    assert folder or stacked is not None, "no tile is covered by the mask"
    return took


CALLS: tuple[Callable[..., Any], ...] = (names, write_pt, check, load, reads, lowest, tiles)

if __name__ == "__main__":
    # Other libraries must not import the modules of the benchmarks.
    del sys.path[0]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # Output of the libraries must not mix with the answers.
    os.dup2(2, 1)
    for line in sys.stdin:
        call, *arguments = json.loads(line)
        print(json.dumps({one.__name__: one for one in CALLS}[call](*arguments)), file=answers)
