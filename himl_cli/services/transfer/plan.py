"""What a transfer is asked for, which files have to move for it and where they go, and what it came to."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from himl_cli.core.blobs import BlobInfo, Failure, Refused, TransferResult
from himl_cli.core.errors import BadUsage, HimlError, NotAllowed
from himl_cli.core.events import Notify, Planned
from himl_cli.core.files import STATE_NAME
from himl_cli.services.transfer.file_names import UnsafeName, folded, safe_relative
from himl_cli.services.transfer.filters import Filters
from himl_cli.services.transfer.local_files import disk_error, md5_of
from himl_cli.services.transfer.state import FetchedFile, TransferState
from himl_cli.workspaces.base import BlobStore

WORKERS = 32
PAGE = 1000
FOLDERS_REMEMBERED = 10_000
JUNCTION = 0xA0000003  # Windows' IO_REPARSE_TAG_MOUNT_POINT
REFUSALS = 64
"""So many files that were refused in the same words, and none that went through, settle that the rest would be refused
too."""


@dataclass(frozen=True)
class DownloadRequest:
    """Files of a store into `folder`, below its subfolder `under`.

    `strip_prefix` drops the folders of the prefix from the names; `overwrite` replaces files here that differ; without
    `validate` no MD5 is computed, and files here are compared by size. Names that begin with one of `logs` are of logs
    of a service that never have an MD5: they do not count as unverified.
    """

    folder: Path
    filters: Filters = field(default_factory=Filters)
    under: str = ""
    strip_prefix: bool = False
    overwrite: bool = False
    validate: bool = True
    workers: int = WORKERS
    logs: tuple[str, ...] = ()

    def target(self, name: str) -> str:
        """The name that blob *name* gets below `folder`."""
        if self.strip_prefix:
            prefix = self.filters.prefix
            folder = prefix.rstrip("/") + "/"
            name = name[len(folder) :] if name.startswith(folder) else name[prefix.rfind("/") + 1 :]
        return f"{self.under}/{name}" if self.under else name

    @property
    def may_collide(self) -> bool:
        """Whether two names may get one target: a prefix that ends within a name drops more of some names than of
        others."""
        return self.strip_prefix and self.filters.prefix != "" and not self.filters.prefix.endswith("/")


@dataclass(frozen=True)
class UploadRequest:
    """The contents of the folder `local` (or that one file) to `prefix`; the prefix of `filters` is not used.

    Without `validate`, files that the store has already are compared by size only.
    """

    local: Path
    prefix: str = ""
    filters: Filters = field(default_factory=Filters)
    overwrite: bool = False
    validate: bool = True
    workers: int = WORKERS


@dataclass(slots=True)
class TransferStats:
    """A transfer's result while it is counted."""

    files: int = 0
    bytes: int = 0
    skipped: int = 0
    unverified: int = 0
    differing: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)

    def fail(self, name: str, error: HimlError) -> None:
        self.failed.append(Failure(name, str(error), error.code, error.hint))

    def refuse(self, name: str, reason: str) -> None:
        self.refused.append(Refused(name, reason))

    def check_refusals(self) -> None:
        """Raises NotAllowed once it is settled that nothing is let through. Words that name their file are of that one
        alone."""
        first = self.failed[:REFUSALS]
        if self.files or len(first) < REFUSALS:
            return
        if {(one.code, one.message) for one in first} == {(NotAllowed.code, first[0].message)}:
            count = len(self.failed)
            message = f"{first[0].message} So it was for the first {count} files; the others were not tried."
            raise NotAllowed(message, hint=first[0].hint)

    def result(self, seconds: float) -> TransferResult:
        lists = (tuple(sorted(self.differing)), tuple(self.refused), tuple(self.failed))
        return TransferResult(self.files, self.bytes, seconds, self.skipped, self.unverified, *lists)


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A blob that has to be brought to `path` (`target` below the folder); what is there may be replaced only if so
    said."""

    blob: BlobInfo
    target: str
    path: str
    may_replace: bool = False
    attempts: int = 0


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
            raise disk_error(err, f"Cannot make '{folder}'") from err
        self._known: set[str] = set()
        self._absent: set[str] = set()
        self._made: set[str] = set()
        self._maybe_empty: set[str] = set()
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
            raise disk_error(err, f"Cannot write to '{self.folder}'") from err
        finally:
            probe.unlink(missing_ok=True)

    def path(self, target: str) -> str:
        """The path of *target*, a name with `/` separators. Raises UnsafeName when it may not or cannot be a file
        here."""
        parts = safe_relative(target)
        if parts[:-1] != self._last[0]:  # mostly, it is the folder of the name before
            self._last = parts[:-1], os.path.join(self._top, *parts[:-1])
        folder = self._last[1]
        if folder not in self._known and folder not in self._absent:
            above = self._top
            for part in parts[:-1]:
                above = os.path.join(above, part)
                self._check_folder(above)
        return os.path.join(folder, parts[-1])

    def stat(self, path: str) -> os.stat_result | None:
        """What is at *path*, from `path()`, links not followed; None for nothing. Raises OSError where that cannot be
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
            status = os.lstat(folder)
        except FileNotFoundError:
            _remember(folder, self._absent)
            return
        except OSError as err:
            raise UnsafeName(f"its folder cannot be reached here: {err.strerror}") from err
        shown = os.path.relpath(folder, self.folder)
        # Windows' other kind of link is a folder to `lstat`
        if stat.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", 0) == JUNCTION:
            raise UnsafeName(f"'{shown}' is a link here, and could lead out of the target folder")
        if not stat.S_ISDIR(status.st_mode):
            raise UnsafeName(f"'{shown}' is a file here")
        _remember(folder, self._known)

    def make_folder_of(self, path: str) -> None:
        """Make the folder that *path*, from `path()`, lies in. Raises OSError."""
        folder = os.path.dirname(path)
        if folder not in self._known:
            above = folder
            while above not in self._made and not os.path.isdir(above):
                _remember(above, self._made)
                above = os.path.dirname(above)
            os.makedirs(folder, exist_ok=True)
            self._absent.clear()  # those above it are there now, too
            _remember(folder, self._known)

    def note_missing(self, path: str) -> None:
        """*path*, from `path()`, did not arrive: perhaps its folder was made for nothing."""
        self._maybe_empty.add(os.path.dirname(path))

    def remove_empty(self) -> None:
        """Remove the folders that were made here for files that did not arrive, and that hold nothing."""
        for folder in self._maybe_empty:
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


class DownloadPlan:
    """Decides of each blob whether it is skipped, refused, left because it differs, or has to move: a page at a time,
    so that memory does not grow with their number."""

    def __init__(
        self,
        store: BlobStore,
        request: DownloadRequest,
        folder: TargetFolder,
        state: TransferState,
        stats: TransferStats,
    ) -> None:
        self._store = store
        self._origin = store.origin
        self._request = request
        self._folder = folder
        self._state = state
        self._stats = stats
        self._folds = folder.folds_names()

    def files(self, blobs: Iterator[BlobInfo], notify: Notify) -> Iterator[PlannedFile]:
        """Those of *blobs* (sorted by name) that have to move; pages are announced to *notify* as they are decided."""
        single = without_folders(blobs, self._stats)
        while page := [*islice(single, PAGE)]:
            moving = [planned for blob in page if (planned := self._decide(blob)) is not None]
            if moving:
                notify(Planned(len(moving), sum(planned.blob.size for planned in moving)))
            yield from moving

    def source(self, blob: BlobInfo) -> str:
        """What the state file calls the blob's origin."""
        return f"{self._origin}\n{blob.name}"

    def _decide(self, blob: BlobInfo) -> PlannedFile | None:
        target = self._request.target(blob.name)
        try:
            path = self._folder.path(target)
        except UnsafeName as err:
            self._stats.refuse(blob.name, str(err))
            return None
        if self._folds or self._request.may_collide:
            other = self._state.claim(target, folded(target) if self._folds else target)
            if other is not None:
                self._stats.refuse(blob.name, f"it would fall together with '{other}' here")
                return None
        planned = PlannedFile(blob, target, path)
        try:
            there = self._folder.stat(path)
        except OSError as err:
            self._stats.refuse(blob.name, f"it cannot be reached here: {err.strerror}")
            return None
        if there is None:
            return planned
        if stat.S_ISDIR(there.st_mode):
            self._stats.refuse(blob.name, "a folder of this name is here")
            return None
        try:
            return self._compare(planned, there)
        except OSError as err:
            self._stats.fail(blob.name, disk_error(err, f"Cannot read '{path}'"))
            return None

    def _compare(self, planned: PlannedFile, there: os.stat_result) -> PlannedFile | None:
        """What to do where a file or link of this name is here already. Raises OSError when it cannot be read."""
        blob, request = planned.blob, self._request
        known = self._state.find(planned.target)
        if known is not None and self._is_untouched(known, planned, there):
            if not ((blob.etag != "" and blob.etag == known.etag) or (blob.md5 is not None and blob.md5 == known.md5)):
                return replace(planned, may_replace=True)
            if known.md5 is not None or not request.validate:
                self._skip(known)
                return None
        if stat.S_ISREG(there.st_mode) and there.st_size == blob.size:
            expected = (blob.md5 or self._store.md5(blob)) if request.validate else None
            if expected is None and request.validate:  # nobody knows the blob's MD5: its bytes have to come
                return replace(planned, may_replace=request.overwrite)
            if expected is None or md5_of(planned.path) == expected:
                self._stats.unverified += expected is None and not blob.name.startswith(request.logs)
                size, time = there.st_size, there.st_mtime_ns
                self._skip(FetchedFile(planned.target, self.source(blob), blob.etag, size, time, expected))
                return None
        if request.overwrite:
            return replace(planned, may_replace=True)
        self._stats.differing.append(planned.target)
        return None

    def _is_untouched(self, known: FetchedFile, planned: PlannedFile, there: os.stat_result) -> bool:
        """Whether the file here is as it was when it was fetched from this blob."""
        if (
            known.source != self.source(planned.blob)
            or not stat.S_ISREG(there.st_mode)
            or (known.size, known.mtime_ns) != (there.st_size, there.st_mtime_ns)
        ):
            return False
        return known.clean or (known.md5 is not None and md5_of(planned.path) == known.md5)

    def _skip(self, known: FetchedFile) -> None:
        self._stats.skipped += 1
        if not known.clean:
            self._state.record(known)


def without_folders(blobs: Iterable[BlobInfo], stats: TransferStats) -> Iterator[BlobInfo]:
    """*blobs*, sorted by name, without those whose name is a folder of others too: an empty one only marks that folder,
    any other is refused.

    A blob is held back while names that begin with its own come, for only then is it known; so few are held at a time.
    """
    held: list[BlobInfo] = []
    for blob in blobs:
        if held and blob.name == held[-1].name:
            continue
        while held and not blob.name.startswith(held[-1].name):
            yield held.pop()
        folders = [one for one in held if blob.name.startswith(one.name + "/")]
        for one in folders:
            held.remove(one)
            if one.size:
                stats.refuse(one.name, "there is a folder of this name too")
        if not (blob.size == 0 and blob.name.endswith("/")):  # some tools mark empty folders so
            held.append(blob)
    yield from reversed(held)
