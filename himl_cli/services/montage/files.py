"""The files of a montage and those of tiles: their names, montage.csv, and the folder that they are written to. Nothing
is seen there before it is complete, and nothing is replaced that is not himl's."""

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
from himl_cli.core.files import PART_SUFFIX
from himl_cli.core.montage import (
    Box,
    CellOutcome,
    ImageFormat,
    MontageResult,
    SlideEntry,
    SlideFolder,
    SlideUnreadable,
    WrittenFile,
)
from himl_cli.core.processes import ProcessLock
from himl_cli.services.transfer import local_files

PNG, JPG, RECORD, PAGE = "montage.png", "montage.jpg", "montage.csv", "index.html"
# The description of the pyramid, and the folder of its tiles, whose name Deep Zoom makes of the other.
DZI, TILES = "montage.dzi", "montage_files"
FILES = (PNG, JPG, DZI, RECORD, PAGE)
FILES_OF = {ImageFormat.png: (PNG,), ImageFormat.jpg: (JPG,), ImageFormat.dzi: (TILES, DZI, PAGE)}
# The folder inside the output folder that everything is made in (on the same disk, so that moving it out takes no
# time), and what is in it: folders of new files and of those that they replace, and a lock.
STAGING, NEW, OLD, LOCK = f".montage{PART_SUFFIX}", "new", "old", "lock"
TILES_STAGING = f".tiles{PART_SUFFIX}"
HINT = "Choose another folder with --output_path."
COLUMNS = (
    *("slide_id", "label", "image", "mask", "column", "row", "x", "y", "width", "height"),
    *("picture_x", "picture_y", "picture_width", "picture_height", "level", "backend", "status", "reason", "remark"),
)
# Of tiles: the list of all, that of the slides; in each slide's folder how they were cut, and a picture of the slide
TILES_DATASET, TILES_SLIDES, TILES_RECORD, OVERVIEW = "dataset.csv", "slides.csv", "himl_tiles.json", "overview.jpg"
TILE_COLUMNS = ("slide_id", "tile_id", "image", "left", "top", "right", "bottom", "label", "occupancy")
TILED_COLUMNS = (
    *("slide_id", "label", "image", "mask", "folder", "level", "width", "height", "backend"),
    *("tiles", "status", "reason"),
)


def disk_error(err: OSError, what: str) -> DiskFailed:
    """*err* as ours; *what* is the sentence's beginning, such as `Cannot write to 'x'`."""
    failed = local_files.disk_error(err, what)
    failed.hint = "Choose another folder with --output_path, or check its permissions."
    if isinstance(failed, local_files.DiskFull):
        failed.hint = "Free some space, or choose another folder with --output_path, and run the command again."
    return failed


def write_error(err: OSError, path: Path, what: str = "write") -> DiskFailed:
    """*err*, met in doing *what* with *path*; what is being staged is called by the path that it would have had in the
    end."""
    for above in path.parents:
        if above.name == NEW and above.parent.name in (STAGING, TILES_STAGING):
            path = above.parent.parent / path.relative_to(above)
            break
    return disk_error(err, f"Cannot {what} '{path}'")


def write_text(path: Path, text: str) -> None:
    """Write *text* to *path* as it is, in UTF-8. Raises DiskFailed."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Raises DiskFailed."""
    try:
        path.write_bytes(data)
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
        texts = [cell.slide_id, cell.label, cell.image, cell.mask, cell.column, cell.row]
        values = [*texts, *_sides(cell.box), *_sides(cell.picture), cell.level, cell.backend, status]
        writer.writerow(["" if each is None else plain(str(each)) for each in (*values, cell.reason, cell.remark)])
    write_text(path, text.getvalue())


def _sides(box: Box | None) -> Sequence[int | None]:
    return [None] * 4 if box is None else [box.x, box.y, box.width, box.height]


def is_record(path: Path, columns: Sequence[str] = COLUMNS) -> bool:
    """Whether *path* is a CSV with these columns: by default, the montage.csv of a montage."""
    header = ",".join(columns) + "\n"
    try:
        if not path.is_file():  # reading a pipe would wait for somebody to write
            return False
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.readline(len(header) + 1) == header
    except OSError:
        return False


def escaped(text: str) -> str:
    r"""*text* with bytes of file names that are no UTF-8, which Python keeps as surrogates, as `\xff`, and other lone
    surrogates as `\ud800`."""

    def escape(character: re.Match[str]) -> str:
        code = ord(character[0])
        return f"\\x{code & 0xFF:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"

    return re.sub("[\ud800-\udfff]", escape, text)


def plain(text: str) -> str:
    r"""*text* with bytes of file names that are no UTF-8 as `\xff`, and zeros, carriage returns and lone surrogates as
    escapes too."""
    return escaped(text).replace("\0", "\\u0000").replace("\r", "\\r")


def written_files(result: MontageResult) -> Sequence[WrittenFile]:
    """What *result* names, as it is on the disk. A pyramid's tiles lie in a folder beside its `.dzi`, and count as that
    file."""
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
    """Where to write the files of a montage (or of tiles) in *path*, which is made, by the names that they have in the
    end; `publish` moves them. Within the `with`, nobody else writes such files there.

    What a call left that was killed is removed first. Raises BadUsage where the folder is a link that leads nowhere,
    DiskFailed where it cannot be made or written, HimlError where another process is at work in it.
    """
    staging = path.absolute() / staging_name
    lock, is_locked = ProcessLock(staging / LOCK), False
    made: list[Path] = []
    try:
        try:
            missing = path.absolute()
            if missing.exists() and not missing.is_dir():
                raise DiskFailed(f"Cannot write to '{path}': it is a file.", hint="Name a folder.")
            while not missing.exists():
                if missing.is_symlink():
                    what = f"'{missing.name}' is a link to '{os.readlink(missing)}', which does not exist"
                    raise BadUsage(f"Cannot write to '{path}': {what}.", hint="Make that folder, or name another one.")
                made.append(missing)
                missing = missing.parent
            staging.mkdir(parents=True, exist_ok=True)
            is_locked = lock.take() and (staging / LOCK).exists()  # or its holder just removed it
            if not is_locked:
                raise HimlError(
                    f"Another himl {staging_name.split('.')[1]} is writing to '{path}'.",
                    hint="Wait until it is complete, or write to another folder by --output_path.",
                )
            _remove_staged(staging)
            (staging / NEW).mkdir()
        except OSError as err:
            raise disk_error(err, f"Cannot write to '{path}'") from err
        yield staging / NEW
    finally:
        if is_locked:
            with suppress(OSError):  # Windows keeps a file that is open, and filelock removes it there
                _remove_staged(staging)
                (staging / LOCK).unlink()  # while it is held: who opens it later makes a new one
        lock.release()
        for folder in (staging, *made):  # as far as they were made for nothing
            with suppress(OSError):
                folder.rmdir()


def _remove_staged(staging: Path) -> None:
    for name in (OLD, NEW):
        shutil.rmtree(staging / name, ignore_errors=True)


def publish(path: Path, names: Sequence[str], stale: Sequence[str]) -> None:
    """Move the files and folders *names* of `output_folder` into place, in this order, and take *stale* away. Raises
    DiskFailed; then old and new files may lie side by side."""
    staging = path.absolute() / STAGING
    try:
        (staging / OLD).mkdir()
        for name in (*stale, *names):
            final = path / name
            if name in stale or (final.is_dir() and not final.is_symlink()):
                with suppress(FileNotFoundError):
                    os.rename(final, staging / OLD / name)
            if name in names:
                os.replace(staging / NEW / name, final)
    except OSError as err:
        raise disk_error(err, f"Cannot put the montage into '{path}'") from err


def earlier_files(folder: Path, names: Collection[str]) -> tuple[list[str], list[str]]:
    """Files of *folder* that are called as those of a montage, and not among *names*, which a new one consists of.

    First those that an earlier montage made, which its montage.csv proves: they would be taken for the new one's, and
    have to go. Then those that may be anybody's. A page, or tiles, without a `montage.dzi` beside them are none of
    ours. Raises BadUsage where what would be replaced, or would go, is none of a montage's.
    """
    is_zoom = (folder / DZI).is_file()
    found = [name for name in (PNG, JPG, *((PAGE, DZI, TILES) if is_zoom else ())) if name not in names]
    found = [name for name in found if os.path.lexists(folder / name)]
    removed, left = (found, []) if is_record(folder / RECORD) else ([], found)
    for name in (*names, *removed):
        path = folder / name
        if os.path.lexists(path) and path.is_dir() != (name == TILES):
            kinds = ("folder", "file") if path.is_dir() else ("file", "folder")
            raise BadUsage(f"'{path}' is a {kinds[0]}, and a montage has a {kinds[1]} of that name.", hint=HINT)
        if name == TILES and not is_zoom and path.is_dir() and os.listdir(path):
            what = f"'{path}' has files in it that are no montage's: there is no {DZI} beside it."
            raise BadUsage(what, hint=HINT)
        if name == PAGE and not is_zoom and os.path.lexists(path):
            raise BadUsage(f"'{path}' is no montage's page: there is no {DZI} beside it.", hint=HINT)
    return removed, left


def check_inputs(folder: Path, entries: Sequence[SlideEntry], slides: SlideFolder, lists: Iterable[Path]) -> None:
    """Raises BadUsage where a slide, a mask or one of the *lists* of slides lies where a montage in *folder* has its
    files.

    Whatever the montage is to consist of: it would be replaced by this one, or taken for a part of it by the next one.
    A record of a montage is no such list. Compared are identities of files, and real paths for the folder of tiles.
    To be called before *slides* expects files; those that are not on this machine lie nowhere in *folder*.
    """
    if not any(os.path.lexists(folder / name) for name in (*FILES, TILES)):
        return
    real_path = cache(os.path.realpath)
    tiles = f"{os.path.normcase(real_path(folder / TILES))}{os.sep}"
    identities = {_identity(folder / name) for name in FILES} - {None}
    inputs = [(path, "a list of slides") for path in lists if not is_record(path)]
    names = [name for entry in entries for name in (entry.image, entry.mask) if name and slides.is_rereadable]
    for name in names:
        with suppress(SlideUnreadable), slides.local_path(name) as path:  # its cell will say so
            inputs.append((path, "a slide or a mask"))
    for path, kind in inputs:
        if "\0" in str(path):
            continue
        found = [os.path.join(real_path(path.parent), path.name), *([real_path(path)] if os.path.islink(path) else [])]
        if _identity(path) in identities or any(os.path.normcase(each).startswith(tiles) for each in found):
            raise BadUsage(
                f"'{path}' is {kind} of this montage, and the montage's own files have that name.", hint=HINT
            )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
