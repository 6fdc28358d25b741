"""Pictures that are handed to an encoder band by band, and what they show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from threading import Barrier, Event
from typing import TYPE_CHECKING

import numpy as np
import pyvips

from himl_cli.core.montage import Size
from himl_cli.services.montage.threads import Pool

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from himl_cli.services.montage.compose import Sink


def shades(size: Size) -> NDArray[np.uint8]:
    """A picture with slopes, a plain field, hard edges and noise, different in each row."""
    width, height = size
    x, y = (np.arange(side).astype(np.uint8)[:, None] * np.array(steps, np.uint8) for side, steps in ((width, (1, 2, 3)), (height, (3, 1, 2))))
    pixels: NDArray[np.uint8] = x[None] + y[:, None]
    pixels[height // 3 : height // 2] = 255
    noisy = pixels[:, width // 2 : width * 3 // 4]
    noisy[:] = np.random.default_rng(width * 7 + height).integers(0, 256, noisy.shape, dtype=np.uint8)
    return pixels


def put(sink: Sink, pixels: NDArray[np.uint8], heights: tuple[int, ...]) -> None:
    """All of *pixels* in bands of these heights, over and over, and the end."""
    top = 0
    for height in cycle(heights):
        sink.write(pixels[top : top + height])
        top += height
        if top >= len(pixels):
            break
    sink.finish()


def by_vips(path: Path) -> NDArray[np.uint8]:
    """What libvips reads; a warning of its libraries is an error."""
    image = pyvips.Image.new_from_file(str(path), access="sequential", fail_on="warning")
    return np.asarray(image.numpy())


@contextmanager
def busy_pool(workers: int = 1) -> Iterator[Pool]:
    """A pool whose threads have something else to do until the end."""
    begun, may_end = Barrier(workers + 1), Event()

    def wait() -> None:
        begun.wait()
        may_end.wait()

    with Pool(workers) as pool:
        for _ in range(workers):
            pool.submit(wait)
        begun.wait()
        try:
            yield pool
        finally:
            may_end.set()
