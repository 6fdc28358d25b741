"""What a user is told about a montage beside its slides, a sentence each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from himl_cli.core.montage import CellOutcome, Layout, LayoutStyle, MontageRequest, Size, SlideEntry
from himl_cli.services.montage.compose.pictures import Setting
from himl_cli.services.montage.compose.sources import Sources
from himl_cli.services.montage.layout.captions import undrawable
from himl_cli.services.montage.slides.levels import level_for

SHOWN = 10
GROWTH = 2
"""How far slides may be enlarged, in width and height, without a word."""


def layout_remarks(layout: Layout, entries: Sequence[SlideEntry], jpg_size: Size | None) -> Iterator[str]:
    """What is known before anything is painted."""
    if layout.remark:
        yield layout.remark
    lacking = undrawable(entries) if layout.style is LayoutStyle.himl or not layout.remark else ""
    if lacking:
        more = " and others" if len(lacking) > SHOWN else ""
        yield f"Captions show boxes for characters that their font lacks: {' '.join(lacking[:SHOWN])}{more}."
    if jpg_size is not None and jpg_size != layout.size:
        yield (
            f"montage.jpg is scaled to {jpg_size[0]:,} x {jpg_size[1]:,} pixels: a JPEG cannot have the montage's "
            f"{layout.size[0]:,} x {layout.size[1]:,}."
        )


def growth_remarks(setting: Setting, found: Sequence[Sources]) -> Iterator[str]:
    """Where the width that was asked for, or that of hi-ml's layout, enlarges the median slide."""
    is_fit = setting.layout.style is LayoutStyle.fit
    if is_fit and setting.request.width is None:
        return
    growths, is_finer_there = [], False
    for cell in setting.layout.cells:
        if levels := found[cell.entry].image.levels:
            box = setting.box(cell.image, levels[0])
            level, _ = level_for(levels, setting.request.level, box.size)
            growths.append(math.sqrt(math.prod(box.size) / math.prod(levels[level])))
            is_finer_there |= level > 0
    growth = statistics.median(growths) if growths else 0
    if growth > GROWTH:
        way = (
            "Without --width none is enlarged."
            if is_fit
            else f"--width {math.ceil(setting.layout.size[0] / growth)} shows as much."
        )
        finer = " --level auto reads finer levels." if is_finer_there else ""
        yield (
            f"The median slide is enlarged {growth:.1f} times in width and height, which shows nothing more of it. "
            f"{way}{finer}"
        )


def level_remarks(request: MontageRequest, cells: Sequence[CellOutcome]) -> Iterator[str]:
    """Other levels than the one asked for; masks are often files of one level, which is nothing to tell of."""
    count = sum(cell.level not in (None, request.level) for cell in cells) if request.level is not None else 0
    if count:
        slides = "one slide" if count == 1 else f"{count:,} slides"
        yield (
            f"Level {request.level} is missing in {slides}: the nearest one was read. The column 'remark' of "
            "montage.csv tells which."
        )


def earlier_remarks(folder: str, removed: Sequence[str], left: Sequence[str]) -> Iterator[str]:
    """Files of the output folder that are not this montage's."""
    if removed:
        yield (
            f"{_listed(removed)} of an earlier montage {'was' if len(removed) == 1 else 'were'} removed from "
            f"'{folder}': this one has none."
        )
    if left:
        yield (
            f"{_listed(left)} in '{folder}' {'is' if len(left) == 1 else 'are'} older than this montage and no part "
            "of it."
        )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
