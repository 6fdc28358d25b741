"""Files of montages and tiles: their names, montage.csv, and the output folder. A file appears there only when it is
complete, and himl replaces only its own files."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError
from himl_cli.core.files import PART_SUFFIX, flush
from himl_cli.core.locks import ProcessLock
from himl_cli.services.transfer import local_files
from himl_cli.slides.slide_records import (
    Box,
    CellOutcome,
    ImageFormat,
    MontageResult,
    SlideEntry,
    SlideFolder,
    SlideUnreadable,
    WrittenFile,
)

PNG, JPG, RECORD, PAGE = "montage.png", "montage.jpg", "montage.csv", "index.html"
# The description of the pyramid, and the folder of its tiles. Deep Zoom derives its name from the other.
DZI, TILES = "montage.dzi", "montage_files"
FILES = (PNG, JPG, DZI, RECORD, PAGE)
FILES_OF = {ImageFormat.png: (PNG,), ImageFormat.jpg: (JPG,), ImageFormat.dzi: (TILES, DZI, PAGE)}
# Staging folder inside the output folder (on the same disk, so that moving files is fast). It contains folders for new
# files and for those that they replace, and a lock.
STAGING, NEW, OLD, LOCK = f".montage{PART_SUFFIX}", "new", "old", "lock"
TILES_STAGING = f".tiles{PART_SUFFIX}"
HINT = "Use another folder with --output_path."
COLUMNS = (
    *("slide_id", "label", "image", "mask", "column", "row", "x", "y", "width", "height"),
    *("picture_x", "picture_y", "picture_width", "picture_height", "level", "backend", "status", "reason", "remark"),
)
# For tiles: the list of all tiles and the list of slides. Each slide's folder has its settings and an overview image.
TILES_DATASET, TILES_SLIDES, TILES_RECORD, OVERVIEW = "dataset.csv", "slides.csv", "himl_tiles.json", "overview.jpg"
TILES_TAR = "tiles.tar"
OVERVIEW_PAGE = "overview"  # folder with the montage of all overview images
TILE_COLUMNS = ("slide_id", "tile_id", "image", "left", "top", "right", "bottom", "label", "occupancy")
TILED_COLUMNS = (
    *("slide_id", "label", "image", "mask", "folder", "level", "width", "height", "backend"),
    *("tiles", "status", "reason", "mpp", "scale_source"),
)


def disk_error(err: OSError, what: str) -> DiskFailed:
    """Convert *err*. *what* is the beginning of the sentence, such as `Cannot write to 'x'`."""
    failed = local_files.disk_error(err, what)
    failed.hint = "Use another folder with --output_path, or check its permissions."
    if isinstance(failed, local_files.DiskFull):
        failed.hint = "Free some space, or use another folder with --output_path, and run the command again."
    return failed


def write_error(err: OSError, path: Path, what: str = "write") -> DiskFailed:
    """Convert *err* from doing *what* with *path*. The message names a staged file by its final path."""
    for above in path.parents:
        if above.name == NEW and above.parent.name in (STAGING, TILES_STAGING):
            path = above.parent.parent / path.relative_to(above)
            break
    return disk_error(err, f"Cannot {what} '{path}'")


def write_text(path: Path, text: str) -> None:
    """Write *text* to *path* unchanged, in UTF-8. Raises DiskFailed."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write *data* to *path*. Raises DiskFailed."""
    try:
        path.write_bytes(data)
    except OSError as err:
        raise write_error(err, path) from err


def write_record(path: Path, cells: Iterable[CellOutcome]) -> None:
    """Write one row per cell to *path*, in order, in UTF-8 without a byte order mark. Raises DiskFailed.

    Boxes are in pixels of the whole montage. Missing values are empty. Texts are unchanged, even if a spreadsheet reads
    them as formulas. Only characters that UTF-8 cannot encode, or that confuse readers, are escaped (see `plain`).
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in cells:
        status = "failed" if not cell.is_ok else "mask failed" if cell.reason else "ok"
        texts = [cell.slide_id, cell.label, cell.image, cell.mask, cell.column, cell.row]
        values = [*texts, *_sides(cell.box), *_sides(cell.picture), cell.level, cell.backend, status]
        writer.writerow(["" if each is None else plain(str(each)) for each in (*values, cell.reason, cell.remark)])
    write_text(path, text.getvalue())


def _sides(box: Box | None) -> Sequence[int | None]:
    return [None] * 4 if box is None else [box.x, box.y, box.width, box.height]


def is_record(path: Path, columns: Sequence[str] = COLUMNS) -> bool:
    """Whether *path* is a CSV with these columns, and perhaps more after them. The default is a montage.csv."""
    header = ",".join(columns)
    try:
        if not path.is_file():  # reading a pipe would block
            return False
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.readline(len(header) + 1) in (f"{header}\n", f"{header},")
    except OSError:
        return False


def escaped(text: str) -> str:
    r"""*text* with bytes of file names that are not UTF-8, which Python represents as surrogates, as `\xff`, and other
    lone surrogates as `\ud800`."""

    def escape(character: re.Match[str]) -> str:
        code = ord(character[0])
        return f"\\x{code & 0xFF:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"

    return re.sub("[\ud800-\udfff]", escape, text)


def plain(text: str) -> str:
    r"""*text* with bytes of file names that are not UTF-8 as `\xff`, and NUL characters, carriage returns and lone
    surrogates as escapes."""
    return escaped(text).replace("\0", "\\u0000").replace("\r", "\\r")


def written_files(result: MontageResult) -> Sequence[WrittenFile]:
    """Files of *result*, with their properties on the disk. The tiles of a pyramid are in a folder beside its `.dzi`,
    and count as part of that file."""
    written = []
    for path in result.files:
        size = path.stat().st_size
        if path.name == DZI:
            for folder, _, names in os.walk(path.with_name(TILES)):
                size += sum(os.stat(os.path.join(folder, name)).st_size for name in names)
        written.append(WrittenFile(path, size, {RECORD: None, JPG: result.jpg_size}.get(path.name, result.size)))
    return written


@contextmanager
def output_folder(path: Path, staging_name: str = STAGING) -> Iterator[Path]:
    """Context with the staging folder for a montage (or tiles) in *path*, which is created. Files have their final
    names in it, and `publish` moves them. Inside the context, no other process writes such files to *path*.

    Files of a killed call are removed first. Raises BadUsage if the folder is a broken link, DiskFailed if it cannot
    be created or written, HimlError if another process uses it.
    """
    staging = path.absolute() / staging_name
    lock, is_locked = ProcessLock(staging / LOCK), False
    made: list[Path] = []
    try:
        try:
            missing = path.absolute()
            if missing.exists() and not missing.is_dir():
                raise DiskFailed(f"Cannot write to '{path}': it is a file.", hint="Give the path of a folder.")
            while not missing.exists():
                if missing.is_symlink():
                    what = f"'{missing.name}' is a link to '{os.readlink(missing)}', which does not exist"
                    raise BadUsage(f"Cannot write to '{path}': {what}.", hint="Create that folder, or use another one.")
                made.append(missing)
                missing = missing.parent
            with suppress(FileNotFoundError):  # the previous holder has just removed the folder, or its lock
                staging.mkdir(parents=True, exist_ok=True)
                is_locked = lock.take() and (staging / LOCK).exists()
            if not is_locked:
                raise HimlError(
                    f"Another himl {staging_name.split('.')[1]} is writing to '{path}'.",
                    hint="Wait until it has finished, or use another folder with --output_path.",
                )
            _remove_staged(staging)
            (staging / NEW).mkdir()
        except OSError as err:
            raise disk_error(err, f"Cannot write to '{path}'") from err
        yield staging / NEW
    finally:
        if is_locked:
            with suppress(OSError):  # Windows does not delete an open file, but filelock does later
                _remove_staged(staging)
                (staging / LOCK).unlink()  # while it is held. A process that opens it later creates a new one.
        lock.release()
        for folder in (staging, *made):  # if they are still empty
            with suppress(OSError):
                folder.rmdir()


def _remove_staged(staging: Path) -> None:
    for name in (OLD, NEW):
        shutil.rmtree(staging / name, ignore_errors=True)


def publish(path: Path, names: Sequence[str], stale: Sequence[str]) -> None:
    """Move the files and folders *names* of `output_folder` to their final paths, and remove *stale*. The record is
    first, since it shows the next montage that the others are himl's. Raises DiskFailed, after which old and new files
    may be mixed."""
    staging = path.absolute() / STAGING
    try:
        (staging / OLD).mkdir()
        flush(staging)
        for name in (*stale, *sorted(names, key=lambda name: name != RECORD)):
            final = path / name
            if name in stale or (final.is_dir() and not final.is_symlink()):
                with suppress(FileNotFoundError):
                    os.rename(final, staging / OLD / name)
            if name in names:
                os.replace(staging / NEW / name, final)
        flush(path, [])
    except OSError as err:
        raise disk_error(err, f"Cannot move the montage to '{path}'") from err


def earlier_files(folder: Path, names: Collection[str]) -> list[str]:
    """Files of an earlier montage in *folder*, other than *names*, which a new montage consists of. They must be
    removed, because they would seem to belong to the new one.

    Raises BadUsage for a file that does not belong to a montage, as a montage.csv beside it proves. A page or tiles
    without a `montage.dzi` do not, but they are in the way only of a new pyramid.
    """
    is_zoom = (folder / DZI).is_file()
    removed = [name for name in (PNG, JPG, *((PAGE, DZI, TILES) if is_zoom else ())) if name not in names]
    removed = [name for name in removed if os.path.lexists(folder / name)]
    for name in (*names, *removed):
        path = folder / name
        if os.path.lexists(path) and path.is_dir() != (name == TILES):
            kinds = ("folder", "file") if path.is_dir() else ("file", "folder")
            raise BadUsage(f"'{path}' is a {kinds[0]}, but a montage has a {kinds[1]} with that name.", hint=HINT)
        if name == TILES and not is_zoom and path.is_dir() and os.listdir(path):
            what = f"'{path}' contains files that are not from a montage, because there is no {DZI} beside it."
            raise BadUsage(what, hint=HINT)
        if name == PAGE and not is_zoom and os.path.lexists(path):
            raise BadUsage(f"'{path}' is not a montage's page, because there is no {DZI} beside it.", hint=HINT)
    for name in () if is_record(folder / RECORD) else (PNG, JPG, DZI, RECORD):
        if os.path.lexists(folder / name):
            what = f"'{folder / name}' does not belong to a montage, because himl's {RECORD} is not in that folder."
            raise BadUsage(what, hint=HINT)
    return removed


def check_inputs(folder: Path, entries: Sequence[SlideEntry], slides: SlideFolder, lists: Iterable[Path]) -> None:
    """Raise BadUsage if a slide, a mask or one of the *lists* of slides has the path of a montage file in *folder*.

    This applies to all names of montage files, because this montage would replace it, or the next one would take it
    for a part. A record of a montage does not count as a list. Files are compared by identity, and the folder of tiles
    by real path. Call this before *slides* expects files. Files on other machines cannot be in *folder*.
    """
    if not any(os.path.lexists(folder / name) for name in (*FILES, TILES)):
        return
    real_path = cache(os.path.realpath)
    tiles = f"{os.path.normcase(real_path(folder / TILES))}{os.sep}"
    identities = {_identity(folder / name) for name in FILES} - {None}
    inputs = [(path, "a list of slides") for path in lists if not is_record(path)]
    names = [name for entry in entries for name in (entry.image, entry.mask) if name and slides.is_rereadable]
    for name in names:
        with suppress(SlideUnreadable), slides.local_path(name) as path:  # its cell shows the reason
            inputs.append((path, "a slide or a mask"))
    for path, kind in inputs:
        if "\0" in str(path):
            continue
        found = [os.path.join(real_path(path.parent), path.name), *([real_path(path)] if os.path.islink(path) else [])]
        if _identity(path) in identities or any(os.path.normcase(each).startswith(tiles) for each in found):
            raise BadUsage(f"'{path}' is {kind} of this montage, but has the name of a file of the montage.", hint=HINT)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
