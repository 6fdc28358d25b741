"""Count the right tiles of `himl tiles`, next to the rules of CLAM and of hi-ml-cpath, on pictures of which each tile
has a label.

The pictures are those of tests/slides/test_tissue.py: stains from pale to dark, pens, borders, fat, areas that were not
scanned, and light of several colours. The other rules are applied to the same pixels: hi-ml's is Otsu's threshold of
the mean of the channels, CLAM's the saturation after a median filter of 7 pixels, above 8, and closed by 4 pixels,
without its filter by area, which would drop pictures of this size."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Set
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.aims import BACKGROUND, RIGHT, TISSUE
from benchmarks.measure import new_parser, recording
from tests.slides.test_tissue import PICTURES, kept

TILE, SHARE = 50, 0.05
LABELLED = {(left, top) for top in (50, 100) for left in (50, 100, 150, 200)}
MEDIAN, SATURATION, CLOSED = 7, 8, 5  # Pillow's filters have odd sizes
Place = tuple[int, int]
Rule = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]


def otsu(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Otsu's threshold with 256 bins, as scikit-image has it, maximizes the variance between both sides."""
    means = pixels.mean(axis=2)
    counts, edges = np.histogram(means, 256)
    centres = (edges[1:] + edges[:-1]) / 2
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    low, high = np.cumsum(counts * centres) / below, (np.cumsum((counts * centres)[::-1]) / above[::-1])[::-1]
    threshold = centres[np.argmax(below[:-1] * above[1:] * (low[:-1] - high[1:]) ** 2)]
    return np.asarray(means < threshold)


def clam(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    saturation = Image.fromarray(pixels).convert("HSV").getchannel("S").filter(ImageFilter.MedianFilter(MEDIAN))
    is_tissue = saturation.point([255 * (value > SATURATION) for value in range(256)])
    return np.asarray(is_tissue.filter(ImageFilter.MaxFilter(CLOSED)).filter(ImageFilter.MinFilter(CLOSED))) > 0


def tiles_of(rule: Rule, pixels: NDArray[np.uint8]) -> Set[Place]:
    found = rule(pixels)
    rows, columns = (size // TILE for size in found.shape)
    shares = found[: rows * TILE, : columns * TILE].reshape(rows, TILE, columns, TILE).mean(axis=(1, 3))
    return {(TILE * int(left), TILE * int(top)) for top, left in np.argwhere(shares >= SHARE)}


def by_himl() -> Mapping[str, Set[Place]]:
    with tempfile.TemporaryDirectory() as folder:
        return {name: set(places) for name, places in kept(Path(folder), PICTURES, "saturation").items()}


def main() -> None:
    args = new_parser(__doc__, 1).parse_args()
    with recording("tissue", args.raw) as record:
        candidates = {"labels": dict.fromkeys(PICTURES, LABELLED), "himl": by_himl()}
        for name, rule in {"CLAM's rule": clam, "hi-ml's rule": otsu}.items():
            candidates[name] = {
                picture: tiles_of(rule, np.asarray(pixels, np.uint8)) for picture, pixels in PICTURES.items()
            }
        for name, found in candidates.items():
            for what, count in (
                (RIGHT, sum(places == LABELLED for places in found.values())),
                (TISSUE, sum(len(places & LABELLED) for places in found.values())),
                (BACKGROUND, sum(len(places - LABELLED) for places in found.values())),
            ):
                record.add_fact(what, name, count)
        print(*(f"{fact['candidate']}: {fact['scenario']}: {fact['value']}" for fact in record.facts), sep="\n")


if __name__ == "__main__":
    main()
