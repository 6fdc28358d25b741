"""The user's cache of slides that were brought from datastores. What was not used for longest makes room for others;
what is in use stays."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.errors import DiskFailed
from himl_cli.core.files import PART_SUFFIX, is_bookkeeping
from himl_cli.services.montage.cache_pins import FOLDER as IN_USE
from himl_cli.services.montage.cache_pins import Pins
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.services.transfer.names import part_name
from himl_cli.services.transfer.state import mark_of
from himl_cli.services.user_cache import cache_of

log = logging.getLogger(__name__)

SPARED = 1_000_000_000
"""Bytes of the disk that are left to others."""
_LOCK = ".himl-lock"


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file in the cache, by its name there; `used` is when it was used last, in nanoseconds since 1970."""

    name: str
    size: int
    used: int


class SlideCache:
    """Files of the store called *origin*, below `root` under the names that they have there, and those of other stores
    beside them.

    All of them take *limit* bytes at most, and not the last of the disk, unless what is in use at one moment takes
    more. When a file was used last is its access time. For several threads. Raises BadUsage for a user without a home,
    DiskFailed.
    """

    def __init__(self, origin: str, limit: int) -> None:
        self._top = cache_of(
            "slides", "to keep slides in", "Fetch them with 'himl datastore download', and name their folder."
        )
        self.limit = limit
        self.root = self._top / hashlib.sha256(origin.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        with self._alone():
            self.root.mkdir(mode=0o700, exist_ok=True)
            self._pins = Pins(self._top)

    def room(self) -> int:
        """Bytes that could be here at once, were nothing else in use: the limit, or less where the disk has less.
        Raises DiskFailed."""
        with self._alone():
            return self._ceiling(self._kept())

    def reserve(self, slides: Sequence[Mapping[str, int]], *, at_any_rate: bool) -> int:
        """Make room for the first of *slides*, each the sizes of its files by name: for as many as can be here beside
        what is in use already.

        Gives how many these are. Their files stay until they are released. *at_any_rate*: for the first one in any
        case. Raises DiskFailed.
        """
        with self._alone():
            kept = self._kept()
            pinned = self._pins.others() | self._pins.own
            ceiling = self._ceiling(kept)
            held = sum(pinned.values())
            count = 0
            for files in slides:
                new = {key: size for name, size in files.items() if (key := self._key(name)) not in pinned}
                held += sum(new.values())
                if held > ceiling and not (at_any_rate and count == 0):
                    break
                pinned |= new
                count += 1
            for files in slides[:count]:
                self._pins.add({self._key(name): size for name, size in files.items()})
            if count:
                _evict(self._top, kept, pinned, ceiling)
            return count

    def release(self, names: Collection[str]) -> None:
        """Files that were reserved are not in use any more."""
        keys = [self._key(name) for name in names]
        self._note_use(keys)
        self._pins.drop(keys)

    def _note_use(self, keys: Iterable[str]) -> None:
        """Let files, by their names in the cache, be those that were used last."""
        for key in keys:
            path = self._top / key
            with suppress(OSError):  # it did not arrive
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))

    def close(self) -> None:
        """Release everything, and remove what is more than the limit."""
        try:
            with self._alone():
                self._note_use(self._pins.own)
                self._pins.close()
                _evict(self._top, self._kept(), self._pins.others(), self.limit)
                if self._pins.is_alone:  # else another one may be about to write to a folder that is empty yet
                    _remove_empty(self._top)
        except DiskFailed as err:
            log.debug("the cache of slides stays as it is: %s", err)
        finally:
            self._pins.close()

    def _key(self, name: str) -> str:
        return f"{self.root.name}/{name}"

    def _ceiling(self, kept: Sequence[_Kept]) -> int:
        """Bytes that all files may take: the limit, or what the disk has."""
        return min(self.limit, sum(each.size for each in kept) + shutil.disk_usage(self._top).free - SPARED)

    def _kept(self) -> list[_Kept]:
        """All files, partial ones too."""
        kept = []
        for folder, folders, names in os.walk(self._top):
            folders[:] = [each for each in folders if each != IN_USE]
            for name in names:
                path = os.path.join(folder, name)
                with suppress(FileNotFoundError):
                    if folder != str(self._top) and (not is_bookkeeping(name) or name.endswith(PART_SUFFIX)):
                        status = os.stat(path)
                        kept.append(
                            _Kept(
                                os.path.relpath(path, self._top).replace(os.sep, "/"),
                                status.st_size,
                                status.st_atime_ns,
                            )
                        )
        return kept

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The cache for oneself, for the moment that it takes to choose files. Raises DiskFailed for what goes wrong on
        the disk."""
        from filelock import FileLock

        try:
            with FileLock(self._top / _LOCK):
                yield
        except OSError as err:
            raise disk_error(err, f"Cannot use himl's cache '{self._top}'") from err


def _evict(top: Path, kept: Sequence[_Kept], pinned: Mapping[str, int], ceiling: int) -> None:
    """Remove those that are not *pinned*, the one that was used longest ago first, until all that is left, and all that
    is pinned, takes *ceiling* bytes.

    One that cannot be removed, since a program has it open (on Windows), stays.
    """
    mark = mark_of(top)
    staying = {*pinned, *(_part_of(name, mark) for name in pinned)}
    loose = sorted((each for each in kept if each.name not in staying), key=lambda each: each.used)
    excess = sum(pinned.values()) + sum(each.size for each in loose) - ceiling
    for each in loose:
        if excess <= 0:
            return
        with suppress(OSError):
            (top / each.name).unlink()
            excess -= each.size
            log.debug("'%s' makes room for other slides", each.name)


def _part_of(name: str, mark: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{part_name(base, mark)}"


def _remove_empty(top: Path) -> None:
    for folder, _, _ in os.walk(top, topdown=False):
        if Path(folder).parent not in (top, top.parent):
            with suppress(OSError):  # something is in it
                os.rmdir(folder)
