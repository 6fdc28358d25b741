"""Making a montage: from slides to files that are complete."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from himl_cli.core.events import Notice, Notify
from himl_cli.core.montage import (
    DEFAULT_WIDTH,
    CellOutcome,
    Layout,
    LayoutStyle,
    MontageRequest,
    MontageResult,
    SlideEntry,
)
from himl_cli.core.processes import terminations
from himl_cli.services.montage.compose import remarks
from himl_cli.services.montage.compose.bands import painted_bands
from himl_cli.services.montage.compose.cells import CellPainter
from himl_cli.services.montage.compose.earlier import earlier_files, names_of
from himl_cli.services.montage.compose.output_folder import OutputFolder
from himl_cli.services.montage.compose.pictures import Setting
from himl_cli.services.montage.compose.pool import Pool
from himl_cli.services.montage.compose.precautions import check_inputs, check_names
from himl_cli.services.montage.compose.progress import Progress
from himl_cli.services.montage.compose.record import write_record
from himl_cli.services.montage.compose.sinks import Sinks
from himl_cli.services.montage.compose.sources import Sources, look_into
from himl_cli.services.montage.freed_memory import keep_freed_memory
from himl_cli.services.montage.layout.fit import fit_layout
from himl_cli.services.montage.layout.himl import himl_layout, himl_order
from himl_cli.services.montage.names import DZI, JPG, PAGE, PNG, RECORD
from himl_cli.services.montage.places import SlidePlace
from himl_cli.services.montage.slides.levels import level_for
from himl_cli.services.montage.slides.opening import check_backend

HELD_BYTES = 192 << 20
"""Pixels that the slides of one row of cells may hold together, so that all of a slide is read before any of it is
painted."""
IMPORTANCE = (PNG, JPG, PAGE, DZI, RECORD)


def make_montage(
    request: MontageRequest,
    entries: Sequence[SlideEntry],
    place: SlidePlace,
    notify: Notify,
    lists: Sequence[Path] = (),
) -> MontageResult:
    """Write the montage of *entries*, whose files lie in *place*, into the folder `request.output`, all of its files or
    none.

    A slide that cannot be read is a marked cell of it, and told in the result. *notify* hears Counting and Counted, the
    latter from several threads, and Notices. Raises BadUsage for a backend that is not there, a width that is too
    small, and where slides, or the *lists* that named them, or what is no montage's would be replaced; DiskFailed,
    HimlError where another montage is being written to that folder, and what *place* raises where no file can be
    brought. Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt; then, as after any error, nothing is left.
    """
    began = time.monotonic()
    check_backend(request.backend)
    keep_freed_memory()
    with (
        terminations(and_hangups=True),
        OutputFolder(request.output) as folder,
        ExitStack() as slides,  # left after the pool: nobody reads them any more
        Pool(request.workers) as pool,
        _given_up_on_errors(place, pool),
    ):
        removed, left = earlier_files(folder.path, names_of(request.formats))
        check_inputs(folder.path, entries, place, lists)
        check_names(folder.path, names_of(request.formats), removed)
        found = _found(request, entries, place, pool)
        layout = _layout(request, found)
        sinks = Sinks(request.formats, folder.new, layout.size, pool)
        with _aborted_on_errors(sinks, pool):
            _tell(notify, remarks.layout_remarks(layout, entries, sinks.jpg_size))
            setting = Setting(request, layout, place, pool, _held(layout, found))
            _tell(notify, remarks.growth_remarks(setting, found))
            progress = Progress(len(layout.cells), layout.size[1], notify)
            cells = _painters(setting, found, progress, slides)
            for band in painted_bands(layout, cells, pool):
                sinks.write(band)
                progress.rows_written(len(band))
            sinks.finish()
        outcomes = [cell.outcome() for cell in cells]
        names = _complete(folder, sinks, outcomes)
        folder.publish(names, removed)
    _tell(notify, remarks.level_remarks(request, outcomes))
    _tell(notify, remarks.earlier_remarks(str(request.output), removed, left))
    files = [request.output / name for name in IMPORTANCE if name in names]
    return MontageResult(
        files, layout.size, sinks.jpg_size, layout.columns, layout.rows, outcomes, time.monotonic() - began
    )


@contextmanager
def _given_up_on_errors(place: SlidePlace, pool: Pool) -> Iterator[None]:
    """On an error, threads that wait for files, or are about to read more, end: the pool will wait for them."""
    try:
        yield
    except BaseException:
        pool.give_up()
        place.stop()
        raise


@contextmanager
def _aborted_on_errors(sinks: Sinks, pool: Pool) -> Iterator[None]:
    """On an error, nothing more is read, and the files that are being written are closed."""
    try:
        yield
    except BaseException:
        pool.give_up()
        sinks.abort()
        raise


def _found(request: MontageRequest, entries: Sequence[SlideEntry], place: SlidePlace, pool: Pool) -> list[Sources]:
    """What is to be shown, in its order."""
    if request.layout is LayoutStyle.himl:
        entries = [entries[number] for number in himl_order(entries)]
    place.expect([name for entry in entries for name in (entry.image, entry.mask) if name])
    return look_into(entries, place, request.backend, pool)


def _layout(request: MontageRequest, found: Sequence[Sources]) -> Layout:
    has_masks = any(each.mask is not None for each in found)
    if request.layout is LayoutStyle.himl:
        return himl_layout(len(found), has_masks=has_masks, width=request.width or DEFAULT_WIDTH)
    width = request.width
    if width is None and any(
        not each.image.levels and not each.image.reason for each in found
    ):  # they were not looked into, for they are large
        width = DEFAULT_WIDTH
    levels = [each.image.levels for each in found if each.image.levels]
    sizes = [each[level_for(each, request.level, each[0])[0]] for each in levels]
    return fit_layout([each.image.aspect for each in found], has_masks=has_masks, width=width, sizes=sizes)


def _held(layout: Layout, found: Sequence[Sources]) -> int:
    """How many bytes of pixels each picture may hold."""
    return HELD_BYTES // (layout.columns * (2 if any(each.mask is not None for each in found) else 1))


def _painters(setting: Setting, found: Sequence[Sources], progress: Progress, slides: ExitStack) -> list[CellPainter]:
    """The cells; what is open of them at the end is closed with *slides*."""
    cells = [CellPainter(cell, found[cell.entry], setting, progress) for cell in setting.layout.cells]
    for cell in cells:
        slides.callback(cell.close)
    return cells


def _complete(folder: OutputFolder, sinks: Sinks, outcomes: Sequence[CellOutcome]) -> list[str]:
    """Write what tells of the cells; the names of all files and folders, in the order in which they take their
    places."""
    write_record(folder.new / RECORD, outcomes)
    sinks.write_page(outcomes)
    return [*sinks.names, RECORD, *((PAGE,) if DZI in sinks.names else ())]


def _tell(notify: Notify, sentences: Iterator[str]) -> None:
    for each in sentences:
        notify(Notice(each))
