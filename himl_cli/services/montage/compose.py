"""The making of a montage: slides are read, painted into bands of rows, and the bands are handed to the files, from the
top down, until these are complete."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from himl_cli.core.events import Notice, Notify
from himl_cli.core.montage import (
    DEFAULT_WIDTH,
    CellOutcome,
    ImageFormat,
    Layout,
    LayoutStyle,
    MontageRequest,
    MontageResult,
    Size,
    SlideEntry,
)
from himl_cli.core.processes import terminations
from himl_cli.services.montage.captions import undrawable
from himl_cli.services.montage.cells import CellPainter, Progress, Setting, Sources, find_sources, painted_bands
from himl_cli.services.montage.dataset import SlideFolder
from himl_cli.services.montage.encoding import JpegFile, PngFile
from himl_cli.services.montage.files import (
    DZI,
    FILES_OF,
    JPG,
    PAGE,
    PNG,
    RECORD,
    check_inputs,
    earlier_files,
    output_folder,
    publish,
    write_record,
)
from himl_cli.services.montage.layout import fit_layout, himl_layout, himl_order
from himl_cli.services.montage.pyramid import DeepZoom, Tiling, write_page
from himl_cli.services.montage.slides.open import check_backend
from himl_cli.services.montage.slides.slide import level_for
from himl_cli.services.montage.threads import Pool, reuse_freed_memory

Sink = PngFile | JpegFile | DeepZoom
# What writes each format, and where in the folder of new files.
SINKS: dict[ImageFormat, tuple[type[Sink], str]] = {
    ImageFormat.png: (PngFile, PNG),
    ImageFormat.jpg: (JpegFile, JPG),
    ImageFormat.dzi: (DeepZoom, ""),
}
# Pixels that the slides of one row of cells may hold together, so that all of a slide is read before any of it is
# painted.
HELD_BYTES = 192 << 20
IMPORTANCE = (PNG, JPG, PAGE, DZI, RECORD)
MOST_CHARACTERS = 10
GROWTH = 2  # how far slides may be enlarged, in width and height, without a word


def make_montage(
    request: MontageRequest,
    entries: Sequence[SlideEntry],
    folder: SlideFolder,
    notify: Notify,
    lists: Sequence[Path] = (),
) -> MontageResult:
    """Write the montage of *entries*, whose files lie in *folder*, into `request.output`, once all of it is complete.

    A slide that cannot be read is a marked cell of it, and named in the result. *notify* hears Counting and Counted,
    the latter from several threads, and Notices. Raises BadUsage for a backend that is not installed, a width that is
    too small, and where slides, or the *lists* that named them, or what is no montage's would be replaced; DiskFailed,
    HimlError where another montage is being written to that folder, and what *folder* raises where no file can be
    given. Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt; then, as after any error, nothing is left.
    """
    began = time.monotonic()
    check_backend(request.backend)
    reuse_freed_memory()
    names = [*(name for each in request.formats for name in FILES_OF[each]), RECORD]
    if request.layout is LayoutStyle.himl:
        entries = himl_order(entries)
    with (
        terminations(and_hangups=True),
        output_folder(request.output) as new,
        ExitStack() as slides,  # left after the pool: nobody reads them any more
        Pool(request.workers, folder.stop) as pool,  # threads that wait for files end on an error
    ):
        removed, left = earlier_files(request.output, names)
        check_inputs(request.output, entries, folder, lists)
        folder.expect([name for entry in entries for name in (entry.image, entry.mask) if name])
        found = find_sources(entries, folder, request.backend, pool)
        layout = _layout(request, found)
        sinks: list[Sink] = []
        for kind, name in (SINKS[each] for each in request.formats):
            sinks.append(kind(new / name, layout.size, pool))
            slides.callback(sinks[-1].abort)  # which does nothing to a file that is complete
        jpg_size = JpegFile.size_for(layout.size) if ImageFormat.jpg in request.formats else None
        pictures = layout.columns * (2 if any(mask is not None for _, mask in found) else 1)
        setting = Setting(request, layout, folder, pool, HELD_BYTES // pictures)
        for text in (*layout_remarks(layout, entries, jpg_size), *_growth_remarks(setting, found)):
            notify(Notice(text))
        progress = Progress(len(layout.cells), layout.size[1], notify)
        cells = [CellPainter(cell, entries[cell.entry], found[cell.entry], setting, progress) for cell in layout.cells]
        for cell in cells:
            slides.callback(cell.close)
        for band in painted_bands(layout, cells, pool):
            for sink in sinks:
                sink.write(band)
            progress.add(rows=len(band))
        for sink in sinks:
            sink.finish()
        outcomes = [cell.outcome() for cell in cells]
        write_record(new / RECORD, outcomes)
        if ImageFormat.dzi in request.formats:
            write_page(new / PAGE, Tiling(layout.size), outcomes, "Montage")
        publish(request.output, names, removed)
    for text in _late_remarks(request, outcomes, removed, left):
        notify(Notice(text))
    files = [request.output / name for name in IMPORTANCE if name in names]
    seconds = time.monotonic() - began
    return MontageResult(files, layout.size, jpg_size, layout.columns, layout.rows, outcomes, seconds)


def _layout(request: MontageRequest, found: Sequence[Sources]) -> Layout:
    has_masks = any(mask is not None for _, mask in found)
    if request.layout is LayoutStyle.himl:
        return himl_layout(len(found), has_masks=has_masks, width=request.width or DEFAULT_WIDTH)
    width = request.width
    if width is None and any(not image.levels and not image.reason for image, _ in found):  # not looked into: large
        width = DEFAULT_WIDTH
    aspects = [image.levels[0][0] / image.levels[0][1] if image.levels else None for image, _ in found]
    levels = [image.levels for image, _ in found if image.levels]
    sizes = [each[level_for(each, request.level, each[0])[0]] for each in levels]
    return fit_layout(aspects, has_masks=has_masks, width=width, sizes=sizes)


def layout_remarks(layout: Layout, entries: Sequence[SlideEntry], jpg_size: Size | None) -> Iterator[str]:
    """What is known before anything is painted, a sentence each."""
    if layout.remark:
        yield layout.remark
    lacking = undrawable(entries) if layout.style is LayoutStyle.himl or not layout.remark else ""
    if lacking:
        more = " and others" if len(lacking) > MOST_CHARACTERS else ""
        shown = " ".join(lacking[:MOST_CHARACTERS])
        yield f"Captions show boxes for characters that their font lacks: {shown}{more}."
    if jpg_size is not None and jpg_size != layout.size:
        yield (
            f"montage.jpg is scaled to {jpg_size[0]:,} x {jpg_size[1]:,} pixels: a JPEG cannot have the montage's "
            f"{layout.size[0]:,} x {layout.size[1]:,}."
        )


def _growth_remarks(setting: Setting, found: Sequence[Sources]) -> Iterator[str]:
    """Where the width that was asked for, or that of hi-ml's layout, enlarges the median slide."""
    if setting.is_fit and setting.request.width is None:
        return
    growths, is_finer_there = [], False
    for cell in setting.layout.cells:
        if levels := found[cell.entry][0].levels:
            box = setting.box(cell.image, levels[0])
            level, _ = level_for(levels, setting.request.level, box.size)
            growths.append(math.sqrt(math.prod(box.size) / math.prod(levels[level])))
            is_finer_there |= level > 0
    growth = statistics.median(growths) if growths else 0
    if growth > GROWTH:
        width = math.ceil(setting.layout.size[0] / growth)
        way = "Without --width none is enlarged." if setting.is_fit else f"--width {width} shows as much."
        finer = " --level auto reads finer levels." if is_finer_there else ""
        yield (
            f"The median slide is enlarged {growth:.1f} times in width and height, which shows nothing more of it. "
            f"{way}{finer}"
        )


def _late_remarks(
    request: MontageRequest, cells: Sequence[CellOutcome], removed: Sequence[str], left: Sequence[str]
) -> Iterator[str]:
    """Other levels than the one asked for (masks are often files of one level, which is nothing to tell of), and files
    of the output folder that are not this montage's."""
    count = sum(cell.level not in (None, request.level) for cell in cells) if request.level is not None else 0
    if count:
        slides = "one slide" if count == 1 else f"{count:,} slides"
        yield (
            f"Level {request.level} is missing in {slides}: the nearest one was read. The column 'remark' of "
            "montage.csv tells which."
        )
    if removed:
        were = "was" if len(removed) == 1 else "were"
        yield f"{_and(removed)} of an earlier montage {were} removed from '{request.output}': this one has none."
    if left:
        are = "is" if len(left) == 1 else "are"
        yield f"{_and(left)} in '{request.output}' {are} older than this montage and no part of it."


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
