"""The user's cache of checkpoints that were brought for jobs. What nobody used for a month is removed when another one
is brought."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from himl_cli.services.transfer.local_files import disk_error
from himl_cli.services.user_cache import cache_of

log = logging.getLogger(__name__)

KEPT_DAYS = 30
USED = ".himl-used"
"""The file in each folder whose time says when it was used last."""
_LOCK, _GONE = ".himl-lock", ".gone-"


@contextmanager
def cache_folder(key: str) -> Iterator[Path]:
    """The folder for what *key* names, which stays as it is while it is in use here, and for `KEPT_DAYS` after. Raises
    BadUsage without a home, DiskFailed."""
    top = cache_of("checkpoints", "to keep checkpoints in", "Download it, and name the file.")
    folder = top / hashlib.sha256(key.encode()).hexdigest()[:16]
    try:
        with _having(top):
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / USED).touch()
            gone = _put_aside(top, time.time() - KEPT_DAYS * 24 * 3600)
    except OSError as err:
        raise disk_error(err, "Cannot make himl's cache folder") from err
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    try:
        yield folder
    finally:
        with suppress(OSError):
            (folder / USED).touch()


@contextmanager
def _having(top: Path) -> Iterator[None]:
    """The cache for oneself, for the moment that it takes to choose a folder: nobody puts one aside that another himl
    is about to use."""
    from filelock import FileLock

    with FileLock(top / _LOCK):
        yield


def _put_aside(top: Path, before: float) -> list[Path]:
    """Rename the folders that were used last *before* that time, so that nobody takes them up again; gives all that is
    to be removed.

    One that cannot be renamed, since a program has a file of it open (on Windows), stays.
    """
    gone = []
    for folder in top.iterdir():
        if folder.name.startswith(_GONE):  # somebody was stopped while removing it
            gone.append(folder)
        elif folder.is_dir() and _used_last(folder) < before:
            with suppress(OSError):
                gone.append(folder.rename(top / f"{_GONE}{uuid.uuid4().hex}"))
                log.debug("'%s' was not used for %d days, and is removed", folder, KEPT_DAYS)
    return gone


def _used_last(folder: Path) -> float:
    """Seconds since 1970; infinity where it cannot be told."""
    for path in (folder / USED, folder):
        with suppress(OSError):
            return path.stat().st_mtime
    return float("inf")
