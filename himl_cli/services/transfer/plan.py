"""Plan of a transfer: its request, the files to move and their paths, and its result."""

from __future__ import annotations

import os
import re
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from himl_cli.core.blobs import BlobInfo, FileFailure, Refused, TransferResult
from himl_cli.core.errors import BadUsage, HimlError, NotAllowed, NotFound
from himl_cli.core.events import Notify, Planned
from himl_cli.core.files import STATE_NAME, Globs, make_folder
from himl_cli.core.records import dataclass
from himl_cli.services.transfer.digests import md5_of
from himl_cli.services.transfer.local_files import UnsafeName, disk_error, folded, safe_relative
from himl_cli.services.transfer.state import FetchedFile, TransferState
from himl_cli.workspaces.base import BlobStore

WORKERS = 32
FILES_PER_PAGE = 1000
JUNCTION = 0xA0000003  # Windows' IO_REPARSE_TAG_MOUNT_POINT
# If this number of files is refused with the same message and none succeeds, himl assumes that all will be refused.
REFUSALS = 64
SHOWN = 6


@dataclass(frozen=True)
class Filters:
    """Selection of files. *prefix* is a string prefix, or the name of one file, which then selects only this file and
    the content of a folder with that name.

    In a glob, `*` and `?` match within a folder, `**` matches any number of folders, `[a-c]` is a set. A glob matches
    the end of a name from the start of a folder (`*.ckpt`, `checkpoints/*`), and if its last part is a name
    (`checkpoints`), also the files below a folder of that name. With a leading `/`, it matches the whole name only. If
    *include* is set, one of its globs must match. A match of *exclude* omits the file.
    """

    prefix: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @cached_property
    def _globs(self) -> tuple[Globs, Globs]:
        return Globs(self.include), Globs(self.exclude)

    def admit(self, name: str) -> bool:
        """Whether the globs accept *name*. Raises BadUsage for an invalid glob."""
        if not (self.include or self.exclude):
            return True
        include, exclude = self._globs
        return (not self.include or include.matches(name)) and not (self.exclude and exclude.matches(name))

    def select(self, store: BlobStore) -> Iterator[BlobInfo]:
        """Yield the selected blobs, sorted by name, and fetch them as they are consumed. Raises NotFound if a selection
        matches nothing."""
        any_found = any_admitted = False
        folder = None
        for page in store.list(self.prefix):
            for blob in page:
                if not any_found and self.prefix and blob.name == self.prefix:
                    folder = self.prefix + "/"
                if folder is not None and blob.name != self.prefix and not blob.name.startswith(folder):
                    continue
                any_found = True
                if self.admit(blob.name):
                    any_admitted = True
                    yield blob
        if any_found and not any_admitted:
            below = f" with prefix '{self.prefix}'" if self.prefix else ""
            raise NotFound(
                f"No file{below} in {store.label} matches --include and --exclude.",
                hint="Quote globs. '*' matches within a folder, '**' across folders.",
            )
        if self.prefix and not any_found:
            raise NotFound(
                f"No file in {store.label} starts with '{self.prefix}'.", hint=_existing_names(store, self.prefix)
            )


def literal(name: str) -> str:
    """Glob that matches only the file *name*, with any characters."""
    return "/" + "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def list_files(store: BlobStore, filters: Filters, *, run: str = "") -> Iterator[dict[str, Any]]:
    """Yield the files of *store* that *filters* select, sorted by name, as records for lists. Raises NotFound if
    nothing matches."""
    for blob in filters.select(store):
        yield {"name": blob.name, "size": blob.size, "modified": blob.modified, "md5": blob.md5, "run": run}


def _existing_names(store: BlobStore, prefix: str) -> str:
    from difflib import get_close_matches

    names = [*islice((blob.name for page in store.list() for blob in page), 10_000)]
    if not names:
        return "It contains no files."
    tops = [*dict.fromkeys(re.sub("/.*", "/", name, flags=re.DOTALL) for name in names)]
    folders = dict.fromkeys(name.rpartition("/")[0] or name for name in names)
    near = get_close_matches(prefix.rstrip("/"), [*folders, *tops], n=1)
    suggestion = f"Did you mean '{near[0]}'? " if near else ""
    return f"{suggestion}Available: {', '.join(tops[:SHOWN])}{', ...' if len(tops) > SHOWN else ''}"


@dataclass(frozen=True)
class DownloadRequest:
    """Files to download into `folder`, below its subfolder `under`.

    `strip_prefix` removes the folders of the prefix from the names. `overwrite` replaces local files that differ.
    Without `validate`, no MD5 is computed, and local files are compared by size. Names with a prefix in `logs` are
    service logs, which never have an MD5 and do not count as unverified.
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
        """Name of the blob *name* below `folder`, also for one that begins with a slash."""
        if self.strip_prefix:
            prefix = self.filters.prefix
            folder = prefix.rstrip("/") + "/"
            name = name[len(folder) :] if name.startswith(folder) else name[prefix.rfind("/") + 1 :]
        name = name.lstrip("/")
        return f"{self.under}/{name}" if self.under else name


@dataclass(frozen=True)
class UploadRequest:
    """Upload of the folder or file `local` to `prefix`. The prefix of `filters` is not used.

    Without `validate`, existing files in the store are compared by size only.
    """

    local: Path
    prefix: str = ""
    filters: Filters = field(default_factory=Filters)
    overwrite: bool = False
    validate: bool = True
    workers: int = WORKERS


class TransferStats:
    def __init__(self) -> None:
        self.files = self.bytes = self.skipped = self.unverified = 0
        self.differing: list[str] = []
        self.refused: list[Refused] = []
        self.failed: list[FileFailure] = []
        self._started = time.monotonic()

    def fail(self, name: str, error: HimlError) -> None:
        self.failed.append(FileFailure.of(name, error))

    def check_refusals(self) -> None:
        """Raise NotAllowed if all files are refused. A message that names its file concerns that file only."""
        first = self.failed[:REFUSALS]
        if self.files or len(first) < REFUSALS:
            return
        if {(one.code, one.message) for one in first} == {(NotAllowed.code, first[0].message)}:
            raise NotAllowed(
                f"{first[0].message} The first {len(self.failed)} files failed like this. The others were not tried.",
                hint=first[0].hint,
            )

    def result(self) -> TransferResult:
        return TransferResult(
            self.files,
            self.bytes,
            time.monotonic() - self._started,
            self.skipped,
            self.unverified,
            tuple(sorted(self.differing)),
            tuple(self.refused),
            tuple(self.failed),
        )


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A blob to download to `path` (`target` below the folder). `may_replace` allows it to replace a file.
    `arrived` is the MD5 of the previous attempt, if that was wrong."""

    blob: BlobInfo
    target: str
    path: str
    may_replace: bool = False
    attempts: int = 0
    arrived: bytes | None = None


class TargetFolder:
    """Target folder of a transfer. Raises BadUsage if it is a file, DiskFailed if it cannot be created."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._top = str(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as err:
            raise BadUsage(
                f"'{folder}' is not a folder, or is below a file.", hint="Give the path of another folder."
            ) from err
        except OSError as err:
            raise disk_error(err, f"Cannot create '{folder}'") from err
        self._there: dict[str, bool] = {}  # by path, whether the folder exists
        self._last: tuple[tuple[str, ...], str] = ((), self._top)

    def folds_names(self) -> bool:
        """Whether names that differ only in case or Unicode form are the same file in this folder."""
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

    def find(self, target: str) -> tuple[str, os.stat_result | None]:
        """Path of *target*, a name with `/` separators, and the status of the existing file, without following links.
        None if there is none. Raises UnsafeName if it may not or cannot be a file in this folder."""
        parts = safe_relative(target)
        if parts[:-1] != self._last[0]:  # consecutive names are mostly in the same folder
            self._last = parts[:-1], os.path.join(self._top, *parts[:-1])
        folder = self._last[1]
        if folder not in self._there:
            if len(self._there) >= 10_000:
                self._there.clear()
            above = self._top
            for part in parts[:-1]:
                above = os.path.join(above, part)
                if not self._there.get(above):
                    self._there[above] = self._is_folder(above)
        path = os.path.join(folder, parts[-1])
        if not self._there.get(folder, True):
            return path, None
        try:
            return path, os.lstat(path)
        except FileNotFoundError:
            return path, None
        except OSError as err:
            raise UnsafeName(f"its path cannot be read: {err.strerror}") from err

    def _is_folder(self, folder: str) -> bool:
        """Whether *folder* exists. Raises UnsafeName unless it is a real folder. A symlink could lead anywhere."""
        try:
            status = os.lstat(folder)
        except FileNotFoundError:
            return False
        except OSError as err:
            raise UnsafeName(f"its folder cannot be read: {err.strerror}") from err
        shown = os.path.relpath(folder, self.folder)
        # On Windows, a junction is a folder for `lstat`.
        if stat.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", 0) == JUNCTION:
            raise UnsafeName(f"'{shown}' is a local link, which could lead out of the target folder")
        if not stat.S_ISDIR(status.st_mode):
            raise UnsafeName(f"'{shown}' is a local file")
        return True

    def make_folder_of(self, path: str) -> None:
        """Create the parent folder of *path*, which comes from `find()`. Raises OSError."""
        folder = os.path.dirname(path)
        if not self._there.get(folder):
            make_folder(Path(folder))
            self._there.clear()  # its parents exist now
            self._there[folder] = True


class DownloadPlan:
    """Decides whether each blob is skipped, refused, kept because it differs, or downloaded. Blobs come in pages, so
    that memory use does not grow with their number."""

    def __init__(
        self,
        store: BlobStore,
        request: DownloadRequest,
        folder: TargetFolder,
        state: TransferState,
        stats: TransferStats,
    ) -> None:
        self.store = store
        self.request = request
        self.folder = folder
        self.state = state
        self.stats = stats
        self._folds = folder.folds_names()
        # Two names may have the same target, since a prefix that ends within a name removes more of some names. So may
        # names after one that begins with a slash, which no file has.
        prefix = request.filters.prefix
        self._may_collide = self._folds or (request.strip_prefix and prefix != "" and not prefix.endswith("/"))

    def files(self, blobs: Iterator[BlobInfo], notify: Notify) -> Iterator[PlannedFile]:
        """Yield those of *blobs* (sorted by name) that must be downloaded, and report each page to *notify*."""
        single = self._without_folders(blobs)
        while page := [*islice(single, FILES_PER_PAGE)]:
            moving = [planned for blob in page if (planned := self._decide(blob)) is not None]
            if moving:
                notify(Planned(len(moving), sum(planned.blob.size for planned in moving)))
            yield from moving

    def source(self, blob: BlobInfo) -> str:
        return f"{self.store.origin}\n{blob.name}"

    def _decide(self, blob: BlobInfo) -> PlannedFile | None:
        target = self.request.target(blob.name)
        self._may_collide = self._may_collide or blob.name.startswith("/")
        try:
            path, there = self.folder.find(target)
            if self._may_collide:
                other = self.state.claim(target, folded(target) if self._folds else target)
                if other is not None:
                    raise UnsafeName(f"it would be the same local file as '{other}'")
            if there is not None and stat.S_ISDIR(there.st_mode):
                raise UnsafeName("a local folder has this name")
        except UnsafeName as err:
            self.stats.refused.append(Refused(blob.name, str(err)))
            return None
        planned = PlannedFile(blob, target, path)
        if there is None:
            return planned
        try:
            return self._compare(planned, there)
        except OSError as err:
            self.stats.fail(blob.name, disk_error(err, f"Cannot read '{path}'"))
            return None

    def _compare(self, planned: PlannedFile, there: os.stat_result) -> PlannedFile | None:
        """Decide about a blob whose local file or link exists. Raises OSError if that cannot be read."""
        blob, request = planned.blob, self.request
        known, source, is_file = self.state.find(planned.target), self.source(blob), stat.S_ISREG(there.st_mode)
        size, time_ns = there.st_size, there.st_mtime_ns
        if (
            known is not None
            and (is_file, known.source, known.size, known.mtime_ns) == (True, source, size, time_ns)
            and (known.clean or (known.md5 is not None and md5_of(planned.path) == known.md5))
        ):  # unchanged since it was fetched from this blob
            if not ((blob.etag != "" and blob.etag == known.etag) or (blob.md5 is not None and blob.md5 == known.md5)):
                return replace(planned, may_replace=True)
            if known.md5 is not None or not request.validate:
                self._skip(known)
                return None
        if is_file and size == blob.size:
            expected = (blob.md5 or self.store.md5(blob)) if request.validate else None
            if expected is None and request.validate:  # an unknown MD5 requires a download
                return replace(planned, may_replace=request.overwrite)
            if expected is None or md5_of(planned.path) == expected:
                self.stats.unverified += expected is None and not blob.name.startswith(request.logs)
                self._skip(FetchedFile(planned.target, source, blob.etag, size, time_ns, expected))
                return None
        if request.overwrite:
            return replace(planned, may_replace=True)
        self.stats.differing.append(planned.target)
        return None

    def _skip(self, known: FetchedFile) -> None:
        self.stats.skipped += 1
        if not known.clean:
            self.state.record(known)

    def _without_folders(self, blobs: Iterable[BlobInfo]) -> Iterator[BlobInfo]:
        """Yield *blobs*, sorted by name, without those whose name is also a folder of others. An empty one only marks
        the folder. Any other is refused.

        A blob is held back while names that begin with its name arrive, so that few are held at a time.
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
                    self.stats.refused.append(Refused(one.name, "a folder has the same name"))
            if not (blob.size == 0 and blob.name.endswith("/")):  # some tools mark empty folders like this
                held.append(blob)
        yield from reversed(held)
