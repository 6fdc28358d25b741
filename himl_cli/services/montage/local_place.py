"""Slides that lie in a folder of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from himl_cli.core.errors import BadUsage, DiskFailed, NotFound
from himl_cli.core.files import walk_files
from himl_cli.core.montage import SlideUnreadable

GZIP = b"\x1f\x8b"


class LocalPlace:
    """A folder; implements `SlidePlace`. Absolute names are files anywhere on this machine.

    Bytes of file names that are no UTF-8 are kept as surrogates, as Python does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def label(self) -> str:
        return f"folder '{self.folder}'"

    @property
    def is_read_twice(self) -> bool:
        return True

    def names(self) -> Iterator[str]:
        """Every file in it and in its subfolders, sorted; links are followed, loops of them once. Broken links and what
        else is no file are named too.

        himl's workspaces (`.himl`) and bookkeeping are left out. Raises NotFound where there is no such folder,
        DiskFailed.
        """
        if not self.folder.is_dir():
            raise NotFound(
                f"There is no folder '{self.folder}'.", hint="Check the path; it is relative to the current folder."
            )
        try:
            for found in walk_files(str(self.folder), skip_workspaces=True, of_any_kind=True):
                yield found.name
        except OSError as err:
            where = self.folder if err.filename is None else Path(err.filename)
            raise DiskFailed(
                f"Cannot list folder '{where}': {err.strerror}.",
                hint="Let it be read, or name a folder beside or below it.",
            ) from err

    def has(self, name: str) -> bool:
        return os.path.isfile(self.folder / name)

    def text(self, name: str) -> str:
        """As `SlidePlace.text`. Raises NotFound, DiskFailed, BadUsage for a file that is packed by gzip or no UTF-8."""
        path = self.folder / name
        try:
            data = path.read_bytes()
            if data.startswith(GZIP):
                raise BadUsage(f"'{path}' is packed by gzip.", hint="Unpack it first.")
            return data.decode("utf-8-sig")
        except FileNotFoundError as err:
            raise NotFound(f"There is no file '{path}'.") from err
        except OSError as err:
            raise DiskFailed(f"Cannot read '{path}': {err.strerror}.") from err
        except UnicodeDecodeError as err:
            raise BadUsage(
                f"'{path}' is not UTF-8 text (byte {err.start}).",
                hint="Save it as UTF-8; Excel calls that 'CSV UTF-8'.",
            ) from err

    def expect(self, names: Sequence[str]) -> None:
        """All files are here."""

    def stop(self) -> None:
        """Nothing is waited for."""

    @contextmanager
    def at_hand(self, name: str) -> Iterator[Path]:
        """The file's path. Raises SlideUnreadable for an empty name."""
        if not name:
            raise SlideUnreadable("no image is named")
        yield self.folder / name
