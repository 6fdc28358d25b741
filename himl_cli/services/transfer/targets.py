"""The folder that files go to: where a name may land there, and which names would fall together."""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.files import STATE_NAME
from himl_cli.services.transfer.disk import explained
from himl_cli.services.transfer.names import UnsafeName, safe_relative

FOLDERS_REMEMBERED = 10_000
JUNCTION = 0xA0000003  # Windows' IO_REPARSE_TAG_MOUNT_POINT


class TargetFolder:
    """The folder below which all files of a transfer land. Raises BadUsage when it is a file, DiskFailed when it cannot
    be made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._top = str(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as err:
            raise BadUsage(
                f"'{folder}' is not a folder, or lies below a file.", hint="Name another folder to write to."
            ) from err
        except OSError as err:
            raise explained(err, f"Cannot make '{folder}'") from err
        self._known: set[str] = set()
        self._absent: set[str] = set()
        self._made: set[str] = set()
        self._forsaken: set[str] = set()
        self._last: tuple[tuple[str, ...], str] = ((), self._top)

    def folds_names(self) -> bool:
        """Whether names that differ in case or Unicode form only are one file here."""
        mark = uuid.uuid4().hex
        probe = self.folder / f"{STATE_NAME}-{mark}-\u00c9"
        others = [self.folder / f"{STATE_NAME}-{mark}-{spelling}" for spelling in ("\u00e9", "E\u0301")]
        try:
            probe.touch()
            return any(other.exists() for other in others)
        except OSError as err:
            raise explained(err, f"Cannot write to '{self.folder}'") from err
        finally:
            probe.unlink(missing_ok=True)

    def place(self, target: str) -> str:
        """The path of *target*, a name with `/` separators. Raises UnsafeName when it may not or cannot be a file
        here."""
        parts = safe_relative(target)
        folder = self._folder_of(parts)
        if folder not in self._known and folder not in self._absent:
            above = self._top
            for part in parts[:-1]:
                above = os.path.join(above, part)
                self._check_folder(above)
        return os.path.join(folder, parts[-1])

    def _folder_of(self, parts: tuple[str, ...]) -> str:
        """The folder that the last of *parts* goes to; that of the name before, mostly."""
        if parts[:-1] != self._last[0]:
            self._last = parts[:-1], os.path.join(self._top, *parts[:-1])
        return self._last[1]

    def state_of(self, path: str) -> os.stat_result | None:
        """What is at *path*, from `place`, links not followed; None for nothing. Raises OSError where that cannot be
        seen."""
        if os.path.dirname(path) in self._absent:
            return None
        try:
            return os.lstat(path)
        except FileNotFoundError:
            return None

    def _check_folder(self, folder: str) -> None:
        """A symlink on the way could lead anywhere: files land only in real folders."""
        if folder in self._known:
            return
        try:
            mode = os.lstat(folder).st_mode
        except FileNotFoundError:
            _remember(folder, self._absent)
            return
        except OSError as err:
            raise UnsafeName(f"its folder cannot be reached here: {err.strerror}") from err
        shown = os.path.relpath(folder, self.folder)
        if stat.S_ISLNK(mode) or _is_junction(folder):
            raise UnsafeName(f"'{shown}' is a link here, and could lead out of the target folder")
        if not stat.S_ISDIR(mode):
            raise UnsafeName(f"'{shown}' is a file here")
        _remember(folder, self._known)

    def make_folder_of(self, path: str) -> None:
        """Make the folder that *path*, from `place`, lies in. Raises OSError."""
        folder = os.path.dirname(path)
        if folder not in self._known:
            above = folder
            while above not in self._made and not os.path.isdir(above):
                _remember(above, self._made)
                above = os.path.dirname(above)
            os.makedirs(folder, exist_ok=True)
            self._absent.clear()  # those above it are there now, too
            _remember(folder, self._known)

    def forsake(self, path: str) -> None:
        """*path*, from `place`, did not arrive: perhaps its folder was made for nothing."""
        self._forsaken.add(os.path.dirname(path))

    def remove_forsaken(self) -> None:
        """Remove the folders that were made here for files that did not arrive, and that hold nothing."""
        for folder in self._forsaken:
            while folder in self._made:
                try:
                    os.rmdir(folder)
                except OSError:  # something is in it
                    break
                folder = os.path.dirname(folder)


def _remember(folder: str, folders: set[str]) -> None:
    if len(folders) >= FOLDERS_REMEMBERED:
        folders.clear()
    folders.add(folder)


def _is_junction(folder: str) -> bool:
    """Windows' other kind of link, which `lstat` shows as a folder."""
    return getattr(os.lstat(folder), "st_reparse_tag", 0) == JUNCTION
