"""Upload files. Identical files are skipped, and different files are replaced only if that is allowed."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from himl_cli.core.blobs import BlobInfo, Refused, StoreRequest, TransferResult
from himl_cli.core.errors import BadUsage, BlobChanged, HimlError, NotFound, ServiceFailed
from himl_cli.core.events import Finished, Moved, Notify, Planned, ignore
from himl_cli.core.files import WORKSPACE_FOLDER, FoundFile, walk_files
from himl_cli.core.records import dataclass
from himl_cli.services.transfer.digests import md5_of
from himl_cli.services.transfer.local_files import UnsafeName, disk_error, safe_relative
from himl_cli.services.transfer.plan import Filters, TransferStats, UploadRequest
from himl_cli.workspaces.base import BlobStore, LocalStore

UPLOAD_ATTEMPTS = 3
# Up to this size, a file is read for its MD5 before the upload, during which it is still in memory.
DIGESTED_BEFORE = 8 << 20


def upload(store: BlobStore, request: UploadRequest, notify: Notify = ignore) -> TransferResult:
    """Upload the files that *request* selects. The result contains the failures of single files.

    A file that changes meanwhile is sent again, a few times. Raises NotFound if there is nothing to upload, BadUsage
    for a prefix with `..`, NotAllowed if file after file is refused.
    """
    work = _Upload(store, request, notify)
    result = work.run(work.files())
    if not work.count:
        hint = "Check --include and --exclude." if request.filters != Filters() else ""
        raise NotFound(f"There are no files to upload in '{request.local}'.", hint=hint)
    return result


def upload_named(
    store: BlobStore, files: Mapping[str, Path], notify: Notify = ignore, *, overwrite: bool | None = None
) -> TransferResult:
    """Upload *files* under other names, like `upload`. With *overwrite* None, *store* must not have any of the
    names."""
    found = (
        (FoundFile(name, str(path), path.stat()), None if overwrite is None else store.stat(name))
        for name, path in files.items()
    )
    return _Upload(store, UploadRequest(Path(), overwrite=bool(overwrite)), notify).run(found)


def checked_prefix(prefix: str) -> str:
    """Normalize *prefix* to a folder without outer or double slashes. `.` and `/` become '', the top.

    Raises BadUsage for `..`, and for backslashes, because Windows could not store these files.
    """
    if "\\" in prefix:
        slashes = prefix.replace("\\", "/")
        raise BadUsage(f"'{prefix}' contains backslashes.", hint=f"Use slashes between folders: {slashes}")
    parts = [part for part in prefix.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadUsage(f"'{prefix}' leads out of the store.", hint="Give a folder below its top.")
    return "/".join(parts)


@dataclass()
class _Attempt:
    """An upload of a file with its status at the request. `replaces` is as in StoreRequest. `sent` counts bytes."""

    found: FoundFile
    replaces: str | None
    number: int = 1
    sent: int = 0


class _Upload:
    """One call of `upload`, and the sink of its progress."""

    def __init__(self, store: BlobStore, request: UploadRequest, notify: Notify) -> None:
        prefix = checked_prefix(request.prefix)
        self._store = store
        self._request = request
        self._prefix = f"{prefix}/" if prefix else ""
        self._notify = notify
        self._stats = TransferStats()
        self._active: dict[str, _Attempt] = {}
        self._again: deque[_Attempt] = deque()
        self.count = 0

    def run(self, files: Iterator[tuple[FoundFile, BlobInfo | None]]) -> TransferResult:
        try:
            while True:
                self._store.store(self._requests(files), self, workers=self._request.workers)
                for name in [*self._active]:
                    self._stats.fail(name, ServiceFailed(f"'{name}' was not stored."))
                if not self._again:
                    return self._stats.result()
        except OSError as err:
            raise disk_error(err, f"Cannot read '{err.filename or self._request.local}'") from err

    def files(self) -> Iterator[tuple[FoundFile, BlobInfo | None]]:
        local = self._request.local
        if local.is_file():
            found = FoundFile(local.name, str(local), local.stat())
            yield found, self._store.stat(self._prefix + local.name)
            return
        if not local.is_dir():
            raise NotFound(f"There is no file or folder '{local}'.")
        target = self._store.path_of(f"{self._prefix}x") if isinstance(self._store, LocalStore) else None
        below = None
        with suppress(ValueError):  # it is elsewhere
            below = target and target.resolve().relative_to(local.resolve())
        if below and WORKSPACE_FOLDER not in below.parts:  # the walk skips such a folder
            what = f"'{local}' contains the destination, {self._store.label}."
            raise BadUsage(what, hint="Upload a folder in it.")
        # Both iterators are sorted in the order of the walk.
        stored = (blob for page in self._store.list(self._prefix) for blob in page)
        there = next(stored, None)
        for found in walk_files(str(local), skip_workspaces=True, of_any_kind=True):
            name = self._prefix + found.name
            if stat.S_ISLNK(found.stat.st_mode) and self._request.filters.admit(found.name):
                self.count += 1
                self._stats.refused.append(Refused(name, "it is a link to a file that does not exist"))
            if not stat.S_ISREG(found.stat.st_mode):
                continue
            while there is not None and there.name < name:
                there = next(stored, None)
            if self._request.filters.admit(found.name):
                yield found, there if there is not None and there.name == name else None

    def _requests(self, files: Iterator[tuple[FoundFile, BlobInfo | None]]) -> Iterator[StoreRequest]:
        while True:
            if self._again:
                attempt = self._again.popleft()
            elif (pair := next(files, None)) is None:
                return
            else:
                found, there = pair
                self.count += 1
                if not self._has_to_move(found, there):
                    continue
                attempt = _Attempt(found, "" if there is None else there.etag or None)
                self._stats.check_refusals()
                self._notify(Planned(1, found.stat.st_size))
            found = attempt.found
            name = self._prefix + found.name
            try:  # a large file is digested during the upload
                if attempt.number > 1:
                    attempt.found = found = FoundFile(found.name, found.path, os.stat(found.path))
                md5 = md5_of(found.path) if found.stat.st_size <= DIGESTED_BEFORE else None
            except OSError as err:
                self._stats.fail(name, disk_error(err, f"Cannot read '{found.path}'"))
                continue
            self._active[name] = attempt
            yield StoreRequest(Path(found.path), name, found.stat.st_size, md5, attempt.replaces)

    def _has_to_move(self, found: FoundFile, there: BlobInfo | None) -> bool:
        """Whether a file must be uploaded. False for a name that a download would refuse (even without its first
        folders), for a stored file, and for a different file that may not be replaced."""
        name, stats = self._prefix + found.name, self._stats
        try:
            for part in name.split("/"):
                safe_relative(part)
            if there is None:
                return True
            is_same = there.size == found.stat.st_size
            if is_same and self._request.validate:
                stored = there.md5 or self._store.md5(there)
                is_same = stored is not None and stored == md5_of(found.path)
        except UnsafeName as err:
            stats.refused.append(Refused(name, str(err)))
            return False
        except OSError as err:
            stats.fail(name, disk_error(err, f"Cannot read '{found.path}'"))
            return False
        if is_same:
            stats.skipped += 1
            stats.unverified += not self._request.validate
        elif not self._request.overwrite:
            stats.differing.append(name)
        return not is_same and self._request.overwrite

    def advance(self, request: StoreRequest, amount: int) -> None:
        self._active[request.name].sent += amount
        self._notify(Moved(request.name, amount))

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        sent = self._active[request.name].sent
        error = HimlError(f"'{request.path}' keeps changing during the upload.")
        if self._is_unchanged(request, stored.etag, error):
            self._stats.files += 1
            self._stats.bytes += sent
            self._notify(Finished(request.name))

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        if self._is_unchanged(request, request.replaces, error):
            if isinstance(error, BlobChanged) and not self._request.overwrite:
                self._stats.differing.append(request.name)
            else:
                self._stats.fail(request.name, error)

    def _is_unchanged(self, request: StoreRequest, replaces: str | None, error: HimlError) -> bool:
        """Whether the file is unchanged since the request. If not, send it again, or record *error* after the last
        attempt."""
        attempt = self._active.pop(request.name)
        then = attempt.found.stat
        with suppress(OSError):
            now = os.stat(attempt.found.path)
            if (now.st_size, now.st_mtime_ns, now.st_ino) == (then.st_size, then.st_mtime_ns, then.st_ino):
                return True
        if attempt.number < UPLOAD_ATTEMPTS:
            self._again.append(_Attempt(attempt.found, replaces, attempt.number + 1))
        else:
            self._stats.fail(request.name, error)
        return False
