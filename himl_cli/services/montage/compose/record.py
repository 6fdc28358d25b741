"""montage.csv: what lies in which cell, and what became of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from himl_cli.core.montage import Box, CellOutcome
from himl_cli.services.montage.disk_errors import unwritten
from himl_cli.services.montage.escaping import escaped

COLUMNS = (
    *("slide_id", "label", "image", "mask", "column", "row", "x", "y", "width", "height"),
    *("picture_x", "picture_y", "picture_width", "picture_height", "level", "backend", "status", "reason", "remark"),
)
OK, MASK_FAILED, FAILED = "ok", "mask failed", "failed"


def write_record(path: Path, cells: Iterable[CellOutcome]) -> None:
    """A line a cell, in the order of *cells*, to *path*: UTF-8 without a byte order mark. Raises DiskFailed.

    Boxes are in pixels of the whole montage; what there is none of is empty. Texts stand as they are, also those that a
    spreadsheet takes for formulas; only what UTF-8 cannot say, or readers stumble over, is escaped: see `plain`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_line(cell) for cell in cells)
    try:
        path.write_text(text.getvalue(), encoding="utf-8", newline="")
    except OSError as err:
        raise unwritten(err, path) from err


def plain(text: str) -> str:
    r"""*text* with bytes of file names that are no UTF-8 as `\xff`, and zeros, carriage returns and lone surrogates as
    escapes too."""
    return escaped(text).replace("\0", "\\u0000").replace("\r", "\\r")


def _line(cell: CellOutcome) -> list[str]:
    texts = [cell.slide_id, cell.label or "", cell.image, cell.mask or ""]
    place = [str(cell.column), str(cell.row), *_numbers(cell.box), *_numbers(cell.picture)]
    read = ["" if cell.level is None else str(cell.level), cell.backend, _status(cell), cell.reason, cell.remark]
    return [plain(each) for each in (*texts, *place, *read)]


def _status(cell: CellOutcome) -> str:
    if not cell.is_ok:
        return FAILED
    return MASK_FAILED if cell.reason else OK


def _numbers(box: Box | None) -> list[str]:
    return [""] * 4 if box is None else [str(each) for each in (box.x, box.y, box.width, box.height)]
