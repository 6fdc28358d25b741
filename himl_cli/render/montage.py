"""What `himl montage` says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from himl_cli.core.blobs import named
from himl_cli.core.montage import CellOutcome, MontageResult, WrittenFile
from himl_cli.render.error_output import one_line
from himl_cli.render.output import Format, Output
from himl_cli.render.terminal import duration_text, size_text

LISTED = 20
"""Reasons that are told one by one; montage.csv and --json have them all."""
NONE_READ = "None of the slides was read. Paths in a CSV are relative to its folder."
OF_MASK = "mask: "
"""How the reason of a mask begins in the record."""


def print_montage(output: Output, result: MontageResult, files: Sequence[WrittenFile]) -> None:
    """The files, what they show and how long it took on stdout; what could not be read on stderr, at the end."""
    data = _document(result, files) if output.format is Format.json else None
    output.result(
        data, human=lambda: "\n".join([*_file_lines(files), _summary(result)]), quiet=[str(file.path) for file in files]
    )
    if output.format is Format.human:
        output.flush()
        for line in failed_lines(result.troubled):
            output.notice(line)
        if len(result.failed) == len(result.cells):
            output.notice(NONE_READ)


def failed_lines(cells: Sequence[CellOutcome]) -> Iterator[str]:
    """Which slides could not be read and why, each reason once."""
    alike: dict[tuple[bool, str], list[str]] = {}
    for cell in cells:
        alike.setdefault((cell.is_ok, cell.reason.removeprefix(OF_MASK)), []).append(cell.slide_id)
    for (is_ok, reason), ids in list(alike.items())[:LISTED]:
        yield f"{'mask not read' if is_ok else 'not read'}: {named(ids)}: {reason}"
    rest = list(alike.values())[LISTED:]
    if rest:
        yield f"... and {sum(map(len, rest)):,} more, for other reasons; montage.csv has them all."


def _file_lines(files: Sequence[WrittenFile]) -> Iterator[str]:
    """`outputs/montage.png  60,000 x 33,750  1.4 GB`, below each other."""
    rows = [
        (one_line(str(file.path)), f"{file.size[0]:,} x {file.size[1]:,}" if file.size else "", size_text(file.bytes))
        for file in files
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    for path, pixels, size in rows:
        yield f"{path.ljust(widths[0])}  {pixels.rjust(widths[1])}  {size.rjust(widths[2])}"


def _summary(result: MontageResult) -> str:
    """`197 of 200 slides in 20 columns and 10 rows, 3 not read; 15s.`"""
    total, failed = len(result.cells), len(result.failed)
    shown = f"{total:,} slide{'s' * (total != 1)}" if not failed else f"{total - failed:,} of {total:,} slides"
    masks = len(result.troubled) - failed
    said = [
        f"{shown} in {result.columns:,} column{'s' * (result.columns != 1)} and {result.rows:,} "
        f"row{'s' * (result.rows != 1)}"
    ]
    said += [f"{failed:,} not read"] if failed else []
    said += [f"{masks:,} without {'its mask' if masks == 1 else 'their masks'}"] if masks else []
    return f"{', '.join(said)}; {duration_text(result.seconds)}."


def _document(result: MontageResult, files: Sequence[WrittenFile]) -> dict[str, Any]:
    return {
        "files": [{"path": str(file.path), "bytes": file.bytes, **_sides(file.size)} for file in files],
        **_sides(result.size),
        "columns": result.columns,
        "rows": result.rows,
        "slides": len(result.cells),
        "failed": [_cell(cell, "reason") for cell in result.failed],
        "failed_masks": [_cell(cell, "mask", "reason") for cell in result.troubled if cell.is_ok],
        "remarks": [_cell(cell, "remark") for cell in result.cells if cell.remark],
        "seconds": round(result.seconds, 3),
    }


def _sides(size: tuple[int, int] | None) -> dict[str, int | None]:
    return {"width": size[0] if size else None, "height": size[1] if size else None}


def _cell(cell: CellOutcome, *names: str) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in ("slide_id", "image", *names)}
