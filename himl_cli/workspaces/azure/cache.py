"""What himl remembers between calls, with an expiry: tokens, workspace records, datastore secrets.

One small JSON file a value, in the user's cache folder. The folder is the user's alone (0700) and so is each file
(0600) from the moment it exists; on Windows the access list of the user's profile does the same. A folder that belongs
to somebody else, a link in its place, a file that cannot be read or understood count as empty, and nothing is then
kept. Files are replaced whole, so that any number of processes may read and write at once; the last one to write wins.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from himl_cli.core.files import atomic_replacement
from himl_cli.core.text import read_json

log = logging.getLogger(__name__)

# Part of the folder's name: another layout gets another number, and old files are then never read.
VERSION = "1"

# No value lives longer, so that files older than this can be removed unread.
LONGEST_SECONDS = 2 * 24 * 3600.0


class DiskCache:
    """Values by kind and key. Never raises for what lies, or cannot lie, on the disk."""

    def __init__(self, folder: Path | None) -> None:
        """Keep values below *folder*; nowhere with None."""
        self._folder = folder
        self._swept: set[Path] = set()

    @classmethod
    def of_user(cls) -> DiskCache:
        """In the user's cache folder, or nowhere where HIML_NO_CACHE is set (to anything but 0)."""
        if os.environ.get("HIML_NO_CACHE", "") not in ("", "0"):
            return cls(None)
        import platformdirs

        try:
            folder = platformdirs.user_cache_path("himl", appauthor=False) / "azure"
        except RuntimeError:  # a user without a home folder; older platformdirs give a relative one
            return cls(None)
        return cls(folder if folder.is_absolute() else None)

    def get(self, kind: str, key: str) -> Any | None:
        """The value, or None where none is kept or its time is over."""
        path = self._path(kind, key)
        if path is None or not _is_private(path.parent):
            return None
        try:
            held = read_json(path.read_bytes())
            value, expires, its_key = held["value"], float(held["expires"]), held["key"]
        except (OSError, ValueError, TypeError, KeyError, OverflowError):
            return None
        return value if its_key == key and time.time() < expires else None

    def put(self, kind: str, key: str, value: Any, *, seconds: float = LONGEST_SECONDS) -> None:
        """Keep a JSON *value* for so many seconds, two days at most."""
        path = self._path(kind, key)
        if path is None or seconds <= 0:
            return
        folder, now = path.parent, time.time()
        content = json.dumps({"key": key, "expires": now + min(seconds, LONGEST_SECONDS), "value": value})
        try:
            for level in (folder.parent.parent, folder.parent, folder):
                level.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_private(folder):
                raise PermissionError(f"'{folder}' is open to others")
            with atomic_replacement(path, is_private=True) as temporary:
                Path(temporary).write_text(content, encoding="ascii")
            if folder not in self._swept:  # once is enough, with thousands of values
                self._swept.add(folder)
                for old in folder.iterdir():  # values of other accounts, parts of processes that were killed
                    with suppress(OSError):  # another process was faster, or has it open
                        if old.stat().st_mtime < now - LONGEST_SECONDS:
                            old.unlink()
        except OSError as err:
            log.debug("nothing is kept in %s: %s", folder, err)

    def forget(self, kind: str, key: str) -> None:
        path = self._path(kind, key)
        try:
            if path is not None:
                path.unlink(missing_ok=True)
        except OSError as err:
            log.debug("cannot remove %s: %s", path, err)

    def _path(self, kind: str, key: str) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"v{VERSION}" / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"


def _is_private(folder: Path) -> bool:
    """Whether *folder* and the two above it are real folders of this user that nobody else can enter; modes are
    mended."""
    try:
        for level in (folder, folder.parent, folder.parent.parent):
            found = level.lstat()
            if not stat.S_ISDIR(found.st_mode):
                return False
            if sys.platform != "win32":
                if found.st_uid != os.geteuid():
                    return False
                if stat.S_IMODE(found.st_mode) & 0o077:
                    level.chmod(0o700)
    except OSError:
        return False
    return True
