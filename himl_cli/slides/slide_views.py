"""The output of `himl montage`, `himl tiles` and `himl dsa`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from himl_cli.core.errors import HimlError
from himl_cli.core.text import named
from himl_cli.render.output import (
    Column,
    Format,
    Output,
    as_table,
    duration_text,
    one_line,
    size_text,
)
from himl_cli.slides.slide_records import (
    CellOutcome,
    MontageResult,
    TiledSlide,
    TilesRequest,
    TilesResult,
    WrittenFile,
    grouped_remarks,
)

FAILED_SLIDES_SHOWN = 20  # --json has all of them


def print_montage(output: Output, result: MontageResult, files: Sequence[WrittenFile]) -> None:
    """Print the files, their contents and the duration on stdout, and unreadable slides on stderr at the end."""
    data = {
        "files": [{"path": str(file.path), "bytes": file.bytes, **_sides(file.size)} for file in files],
        **_sides(result.size),
        "mpp": result.mpp,
        "columns": result.columns,
        "rows": result.rows,
        "slides": len(result.cells),
        "failed": [_cell(cell, "reason") for cell in result.failed],
        "failed_masks": [_cell(cell, "mask", "reason") for cell in result.troubled if cell.is_ok],
        "remarks": [_cell(cell, "remark") for cell in result.cells if cell.remark],
        "seconds": round(result.seconds, 3),
    }
    output.result(
        data,
        human=lambda: "\n".join([*_file_lines(files), _montage_summary(result)]),
        quiet=[str(file.path) for file in files],
    )
    if output.format is Format.human:
        output.flush()
        for line in failed_lines(result.troubled):
            output.notice(line)


DRY_RUN_COLUMNS = (
    Column("SLIDE", lambda slide: slide.slide_id),
    Column("TILES", lambda slide: f"{slide.tiles:,}", right=True),
    Column("SIZE", lambda slide: size_text(slide.bytes), right=True),
)


def print_tiles(output: Output, result: TilesResult, request: TilesRequest, *, is_chosen: bool) -> None:
    """Print the list of tiles (of a dry run: a table of the slides), their number and the duration on stdout, then
    slides with few tiles or none, and remarks, on stderr. *is_chosen* says that the user chose the foreground."""
    names = ("folder", "level", "backend", "tiles", "bytes", "is_resumed", "mpp", "scale_source", "mask_threshold")
    tiles, total, failed = sum(slide.tiles for slide in result.slides), len(result.slides), len(result.failed)
    resumed = sum(slide.is_resumed for slide in result.slides)
    data = {
        "dataset": None if request.is_dry_run else str(result.dataset),
        "foreground": request.foreground,
        "tiles": tiles,
        "slides": [{**_cell(slide, *names, "reason", "remark"), **_sides(slide.size)} for slide in result.slides],
        "failed": failed,
        "seconds": round(result.seconds, 3),
    }
    parts = {
        f"{tiles:,} tile{'s' * (tiles != 1)} of {total - failed:,} slide{'s' * (total - failed != 1)}": True,
        f"{resumed:,} of them already complete": resumed,
        f"{failed:,} not read": failed,
    }
    summary = f"{', '.join(filter(parts.get, parts))}; {duration_text(result.seconds)}."
    human = f"{one_line(str(result.dataset))}  {summary}"
    if request.is_dry_run:
        size = size_text(sum(slide.bytes for slide in result.slides))
        human = f"{as_table(result.slides, DRY_RUN_COLUMNS)}\n{size} for {summary} Nothing was written."
    output.result(data, human=human, quiet=[str(tiles) if request.is_dry_run else str(result.dataset)])
    if output.format is Format.human:
        output.flush()
        remarks = _tile_remarks(result.slides, request, is_chosen=is_chosen)
        for line in (*failed_lines(result.troubled, result.record.name, "few tiles"), *remarks):
            output.notice(line)


def _tile_remarks(slides: Sequence[TiledSlide], request: TilesRequest, *, is_chosen: bool) -> Iterator[str]:
    """What himl chose where the user and the files leave a choice."""
    yield from grouped_remarks(slides)
    if not is_chosen:
        yield f"Foreground by the rule '{request.foreground}' (see --foreground)."
    halved = [slide.slide_id for slide in slides if slide.mask_threshold not in (None, request.mask_threshold or 0)]
    if halved:
        yield f"JPEG masks, below 128 is background (see --mask_threshold): {named(halved)}."
    if large := [slide.slide_id for slide in slides if slide.has_large_labels]:
        yield f"Masks with labels above 255, whose shares are unknown: {named(large)}."


def failed_lines(
    slides: Sequence[CellOutcome | TiledSlide], record: str = "montage.csv", lack: str = "mask not read"
) -> Iterator[str]:
    """Each reason for unreadable slides, with their ids. *record* is the file with all of them. *lack* is the problem
    of slides that were read."""
    alike: dict[tuple[bool, str], list[str]] = {}
    for slide in slides:
        reason = slide.reason.removeprefix("mask: ") if slide.is_ok else slide.reason
        alike.setdefault((slide.is_ok, reason), []).append(slide.slide_id)
    for (is_ok, reason), ids in list(alike.items())[:FAILED_SLIDES_SHOWN]:
        yield f"{lack if is_ok else 'not read'}: {named(ids)}: {reason}"
    rest = list(alike.values())[FAILED_SLIDES_SHOWN:]
    if rest:
        yield f"... and {sum(map(len, rest)):,} more, for other reasons. {record} lists all of them."


def _file_lines(files: Sequence[WrittenFile]) -> Iterator[str]:
    """Aligned lines such as `outputs/montage.png  60,000 x 33,750  1.4 GB`."""
    rows = [
        (one_line(str(file.path)), f"{file.size[0]:,} x {file.size[1]:,}" if file.size else "", size_text(file.bytes))
        for file in files
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    for path, pixels, size in rows:
        yield f"{path.ljust(widths[0])}  {pixels.rjust(widths[1])}  {size.rjust(widths[2])}"


def _montage_summary(result: MontageResult) -> str:
    """The summary, such as `197 of 200 slides in 20 columns and 10 rows, 3 not read; 15s.`"""
    total, failed = len(result.cells), len(result.failed)
    shown = f"{total:,} slide{'s' * (total != 1)}" if not failed else f"{total - failed:,} of {total:,} slides"
    masks = len(result.troubled) - failed
    columns = f"{result.columns:,} column{'s' * (result.columns != 1)}"
    rows = f"{result.rows:,} row{'s' * (result.rows != 1)}"
    parts = {
        f"{shown} in {columns} and {rows}": True,
        f"{failed:,} not read": failed,
        f"{masks:,} without {'its mask' if masks == 1 else 'their masks'}": masks,
    }
    return f"{', '.join(filter(parts.get, parts))}; {duration_text(result.seconds)}."


def _sides(size: tuple[int, int] | None) -> dict[str, int | None]:
    return {"width": size[0] if size else None, "height": size[1] if size else None}


def _cell(cell: CellOutcome | TiledSlide, *names: str) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in ("slide_id", "image", *names)}


ARCHIVE_COLUMNS = (
    Column("TYPE", lambda row: row["type"]),
    Column("NAME", lambda row: row["name"], folds=30),
    Column("ID", lambda row: row["id"], rank=1, least=24),
    Column("ELEMENTS", lambda row: "" if row["elements"] is None else str(row["elements"]), rank=2, right=True),
    Column("UPDATED", lambda row: (row["updated"] or "")[:16].replace("T", " "), rank=3, least=16),
)


def print_annotations(output: Output, name: str, rows: Sequence[Mapping[str, Any]], problem: HimlError | None) -> None:
    """Print the outcome for the annotation *name* of each slide, with failures on stderr. Raises *problem*."""
    for row in rows if len(rows) > 1 and output.format is Format.human else ():
        if row["reason"]:
            output.notice(f"{row['slide_id']}: {row['reason']}")
    counts = Counter(row["status"] for row in rows)
    parts = [
        f"{counts[status]:,} {status}" for status in ("uploaded", "replaced", "unchanged", "failed") if counts[status]
    ]
    output.result(
        {"name": name, "slides": rows},
        human="" if counts["failed"] == len(rows) else f"Annotation '{name}': {', '.join(parts)}.",
        quiet=[row["annotation_id"] for row in rows if row["annotation_id"]],
    )
    if problem is not None:
        raise problem
