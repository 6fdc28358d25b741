"""The files of a montage: their names, montage.csv, and what is said where they cannot be written."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from himl_cli.core.errors import FULL_DISK, DiskFailed
from himl_cli.core.files import PART_SUFFIX
from himl_cli.core.montage import Box, CellOutcome, ImageFormat, MontageResult, WrittenFile
from himl_cli.services.transfer.local_files import DiskFull

PNG, JPG, RECORD, PAGE = "montage.png", "montage.jpg", "montage.csv", "index.html"
DZI, TILES = "montage.dzi", "montage_files"
"""The description of the pyramid, and the folder of its tiles, whose name Deep Zoom makes of the other."""
FILES = (PNG, JPG, DZI, RECORD, PAGE)
FILES_OF = {ImageFormat.png: (PNG,), ImageFormat.jpg: (JPG,), ImageFormat.dzi: (TILES, DZI, PAGE)}

STAGING, NEW = f".montage{PART_SUFFIX}", "new"
"""The folder inside the output folder that everything is made in (on the same disk, so that moving it out takes no
time), and the folder of new files in it."""
HINT = "Choose another folder with --output_path, or check its permissions."
FULL_HINT = "Free some space, or choose another folder with --output_path, and run the command again."

COLUMNS = (
    *("slide_id", "label", "image", "mask", "column", "row", "x", "y", "width", "height"),
    *("picture_x", "picture_y", "picture_width", "picture_height", "level", "backend", "status", "reason", "remark"),
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_FIRST_ODD_BYTE, _LAST_ODD_BYTE = 0xDC80, 0xDCFF
"""How Python keeps bytes of file names that are no UTF-8."""


def disk_error(err: OSError, what: str) -> DiskFailed:
    """*err* as ours; *what* is the sentence's beginning, such as `Cannot write to 'x'`."""
    if err.errno in FULL_DISK:
        return DiskFull(f"{what}: no space left on the disk.", hint=FULL_HINT)
    return DiskFailed(f"{what}: {err.strerror or err}.", hint=HINT)


def write_error(err: OSError, path: Path, what: str = "write") -> DiskFailed:
    """*err*, met in doing *what* with *path*; what is being staged is called by the path that it would have had in the
    end."""
    for above in path.parents:
        if above.name == NEW and above.parent.name == STAGING:
            path = above.parent.parent / path.relative_to(above)
            break
    return disk_error(err, f"Cannot {what} '{path}'")


def write_text(path: Path, text: str) -> None:
    """Write *text* to *path* as it is, in UTF-8. Raises DiskFailed."""
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as err:
        raise write_error(err, path) from err


def write_record(path: Path, cells: Iterable[CellOutcome]) -> None:
    """A line a cell, in the order of *cells*, to *path*: UTF-8 without a byte order mark. Raises DiskFailed.

    Boxes are in pixels of the whole montage; what there is none of is empty. Texts stand as they are, also those that a
    spreadsheet takes for formulas; only what UTF-8 cannot say, or readers stumble over, is escaped: see `plain`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in cells:
        status = "failed" if not cell.is_ok else "mask failed" if cell.reason else "ok"
        level = "" if cell.level is None else cell.level
        texts = [cell.slide_id, cell.label or "", cell.image, cell.mask or ""]
        boxes = [cell.column, cell.row, *_sides(cell.box), *_sides(cell.picture)]
        writer.writerow(
            [plain(str(each)) for each in (*texts, *boxes, level, cell.backend, status, cell.reason, cell.remark)]
        )
    write_text(path, text.getvalue())


def is_record(path: Path) -> bool:
    """Whether *path* is the montage.csv of a montage."""
    header = ",".join(COLUMNS) + "\n"
    try:
        if not path.is_file():  # reading a pipe would wait for somebody to write
            return False
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.readline(len(header) + 1) == header
    except OSError:
        return False


def escaped(text: str) -> str:
    r"""*text* with bytes of file names that are no UTF-8 as `\xff`, and other lone surrogates as `\ud800`."""
    return _SURROGATE.sub(_escape, text)


def _escape(character: re.Match[str]) -> str:
    code = ord(character[0])
    return f"\\x{code & 0xFF:02x}" if _FIRST_ODD_BYTE <= code <= _LAST_ODD_BYTE else f"\\u{code:04x}"


def plain(text: str) -> str:
    r"""*text* with bytes of file names that are no UTF-8 as `\xff`, and zeros, carriage returns and lone surrogates as
    escapes too."""
    return escaped(text).replace("\0", "\\u0000").replace("\r", "\\r")


def _sides(box: Box | None) -> Sequence[object]:
    return [""] * 4 if box is None else [box.x, box.y, box.width, box.height]


def written_files(result: MontageResult) -> Sequence[WrittenFile]:
    """What *result* names, as it is on the disk. A pyramid's tiles lie in a folder beside its `.dzi`, and count as that
    file."""
    sizes = {RECORD: None, JPG: result.jpg_size}
    return [WrittenFile(path, _bytes_of(path), sizes.get(path.name, result.size)) for path in result.files]


def _bytes_of(path: Path) -> int:
    size = path.stat().st_size
    if path.name == DZI:
        for folder, _, names in os.walk(path.with_name(TILES)):
            size += sum(os.stat(os.path.join(folder, name)).st_size for name in names)
    return size
