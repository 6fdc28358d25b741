"""The folder that a montage is written to: nothing of it is seen there before all of it is complete, and nothing is
replaced that is no montage's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError
from himl_cli.core.montage import SlideEntry, SlideUnreadable
from himl_cli.core.processes import ProcessLock
from himl_cli.services.montage.dataset import SlideFolder
from himl_cli.services.montage.files import (
    DZI,
    FILES,
    JPG,
    NEW,
    PAGE,
    PNG,
    RECORD,
    STAGING,
    TILES,
    disk_error,
    is_record,
)

OLD, LOCK = "old", "lock"
HINT = "Choose another folder with --output_path."


class OutputFolder:
    """Files are made in `new`, and `publish` moves them to *path*; within the `with`, nobody else writes a montage
    there.

    What a call left that was killed is removed first. Raises BadUsage where the folder is a link that leads nowhere,
    DiskFailed where it cannot be made or written, HimlError where another process is at work in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._staging = path.absolute() / STAGING
        self._lock = ProcessLock(self._staging / LOCK)
        self._is_locked = False
        self._made: list[Path] = []

    @property
    def new(self) -> Path:
        """Where to write. Names are those of the files in the end."""
        return self._staging / NEW

    def __enter__(self) -> OutputFolder:
        try:
            self._make_folders()
            self._is_locked = self._lock.take() and (self._staging / LOCK).exists()  # or its holder just removed it
            if not self._is_locked:
                raise HimlError(
                    f"Another montage is being written to '{self.path}'.",
                    hint="Wait until it is complete, or write to another folder by --output_path.",
                )
            self._remove_staged()
            self.new.mkdir()
        except OSError as err:
            self._release()
            raise disk_error(err, f"Cannot write to '{self.path}'") from err
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # there may be an error on its way that matters more
            self._remove_staged()
        self._release()

    def publish(self, names: Sequence[str], stale: Sequence[str]) -> None:
        """Move the files and folders *names* into place, in this order, and take *stale* away. Raises DiskFailed; then
        old and new files may lie side by side."""
        try:
            (self._staging / OLD).mkdir()
            for name in (*stale, *names):
                final = self.path / name
                if name in stale or (final.is_dir() and not final.is_symlink()):
                    with suppress(FileNotFoundError):
                        os.rename(final, self._staging / OLD / name)
                if name in names:
                    os.replace(self.new / name, final)
        except OSError as err:
            raise disk_error(err, f"Cannot put the montage into '{self.path}'") from err

    def _make_folders(self) -> None:
        """The folder and those above it; which of them are new is kept in mind."""
        missing = self.path.absolute()
        if missing.exists() and not missing.is_dir():
            raise DiskFailed(f"Cannot write to '{self.path}': it is a file.", hint="Name a folder.")
        while not missing.exists():
            if missing.is_symlink():
                what = f"'{missing.name}' is a link to '{os.readlink(missing)}', which does not exist"
                raise BadUsage(f"Cannot write to '{self.path}': {what}.", hint="Make that folder, or name another one.")
            self._made.append(missing)
            missing = missing.parent
        self._staging.mkdir(parents=True, exist_ok=True)

    def _remove_staged(self) -> None:
        for each in (OLD, NEW):
            if (self._staging / each).is_dir():
                shutil.rmtree(self._staging / each)

    def _release(self) -> None:
        """Give the lock back, and remove folders that were made for nothing."""
        if self._is_locked:
            with suppress(OSError):  # Windows keeps a file that is open, and filelock removes it there
                (self._staging / LOCK).unlink()  # while it is held: who opens it later makes a new one
        self._lock.release()
        for folder in (self._staging, *self._made):
            with suppress(OSError):
                folder.rmdir()


def earlier_files(folder: Path, names: Collection[str]) -> tuple[list[str], list[str]]:
    """Files of *folder* that are called as those of a montage, and not among *names*, which a new one consists of.

    First those that an earlier montage made, which its montage.csv proves: they would be taken for the new one's, and
    have to go. Then those that may be anybody's. A page, or tiles, without a `montage.dzi` beside them are none of
    ours.
    """
    zoom = (PAGE, DZI, TILES) if (folder / DZI).is_file() else ()
    found = [name for name in (PNG, JPG, *zoom) if name not in names and os.path.lexists(folder / name)]
    return (found, []) if is_record(folder / RECORD) else ([], found)


def check_names(folder: Path, names: Collection[str], removed: Collection[str]) -> None:
    """Raises BadUsage where what has one of these names in *folder* is none of a montage's: *names* will be replaced,
    and *removed* will go."""
    for name in (*names, *removed):
        path = folder / name
        if os.path.lexists(path) and path.is_dir() != (name == TILES):
            kinds = ("folder", "file") if path.is_dir() else ("file", "folder")
            raise BadUsage(f"'{path}' is a {kinds[0]}, and a montage has a {kinds[1]} of that name.", hint=HINT)
    if (folder / DZI).is_file():
        return
    if TILES in names and (folder / TILES).is_dir() and os.listdir(folder / TILES):
        raise BadUsage(
            f"'{folder / TILES}' has files in it that are no montage's: there is no {DZI} beside it.", hint=HINT
        )
    if PAGE in names and os.path.lexists(folder / PAGE):
        raise BadUsage(f"'{folder / PAGE}' is no montage's page: there is no {DZI} beside it.", hint=HINT)


def check_inputs(folder: Path, entries: Sequence[SlideEntry], slides: SlideFolder, lists: Iterable[Path]) -> None:
    """Raises BadUsage where a slide, a mask or one of the *lists* of slides lies where a montage in *folder* has its
    files.

    Whatever the montage is to consist of: it would be replaced by this one, or taken for a part of it by the next one.
    A record of a montage is no such list. Compared are real paths and the identity of files, since disks may fold case.
    To be called before *slides* expects files; those that are not on this machine lie nowhere in *folder*.
    """
    if not any(os.path.lexists(folder / name) for name in (*FILES, TILES)):
        return
    real = os.path.realpath(folder)
    taken = {os.path.normcase(os.path.join(real, name)) for name in (*FILES, TILES)}
    tiles = tuple(
        f"{os.path.normcase(each)}{os.sep}" for each in (os.path.join(real, TILES), os.path.realpath(folder / TILES))
    )
    identities = {_identity(folder / name) for name in FILES} - {None}
    parents: dict[Path, str] = {}
    kinds = {
        "a slide or a mask": _paths(entries, slides),
        "a list of slides": (path for path in lists if not is_record(path)),
    }
    for kind, paths in kinds.items():
        for path in paths:
            try:
                if path.parent not in parents:
                    parents[path.parent] = os.path.realpath(path.parent)
                found = {os.path.join(parents[path.parent], path.name)}
                found |= {os.path.realpath(path)} if os.path.islink(path) else set()
                found = {os.path.normcase(each) for each in found}
                is_taken = found & taken or any(each.startswith(tiles) for each in found)
            except ValueError:  # a null byte in the name
                continue
            if is_taken or _identity(path) in identities:
                raise BadUsage(
                    f"'{path}' is {kind} of this montage, and the montage's own files have that name.", hint=HINT
                )


def _paths(entries: Iterable[SlideEntry], slides: SlideFolder) -> Iterator[Path]:
    """The images and masks that lie on this machine."""
    if not slides.is_rereadable:
        return
    for name in (name for entry in entries for name in (entry.image, entry.mask) if name):
        with suppress(SlideUnreadable), slides.local_path(name) as path:  # its cell will say so
            yield path


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
