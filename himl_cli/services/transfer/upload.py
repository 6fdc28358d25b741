"""Sending files up: what is identical is skipped, what differs stays as it is unless it may be replaced."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.blobs import BlobInfo, StoreRequest, TransferResult
from himl_cli.core.errors import BadUsage, BlobChanged, HimlError, NotFound, ServiceFailed
from himl_cli.core.events import Finished, Moved, Notify, Planned, ignore
from himl_cli.core.files import FoundFile, walk_files
from himl_cli.services.transfer.file_names import UnsafeName, safe_relative
from himl_cli.services.transfer.local_files import disk_error, md5_of
from himl_cli.services.transfer.plan import TransferStats, UploadRequest
from himl_cli.workspaces.base import BlobStore

ATTEMPTS = 3
DIGESTED_BEFORE = 8 << 20  # bytes up to which a file is read for its MD5 first: it is still in memory when it is sent


def upload(store: BlobStore, request: UploadRequest, notify: Notify = ignore) -> TransferResult:
    """Store the files that *request* means; what went wrong with single files is in the result.

    A file that changes meanwhile is sent again, a few times. Raises NotFound when there is nothing to upload, BadUsage
    for a prefix that climbs, NotAllowed when file after file is refused.
    """
    work = _Upload(store, request, checked_prefix(request.prefix), notify)
    result = work.run(work.files())
    if not work.count:
        raise NotFound(f"There is nothing to upload in '{request.local}'.", hint="Are --include and --exclude right?")
    return result


def upload_named(store: BlobStore, files: Mapping[str, Path], notify: Notify = ignore) -> TransferResult:
    """Store *files* by the names that they get, which nothing has in *store* so far; otherwise as `upload`."""
    found = ((FoundFile(name, str(path), path.stat()), None) for name, path in files.items())
    return _Upload(store, UploadRequest(Path()), "", notify).run(found)


def checked_prefix(prefix: str) -> str:
    """The folder that *prefix* means: no slashes around it, single ones in it; `.` and `/` are the top, ''.

    Raises BadUsage for one that climbs, and for one with backslashes, whose files Windows could not hold.
    """
    if "\\" in prefix:
        slashes = prefix.replace("\\", "/")
        raise BadUsage(f"'{prefix}' has backslashes in it.", hint=f"Slashes part the folders of a store: {slashes}")
    parts = [part for part in prefix.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadUsage(f"'{prefix}' leads out of the store.", hint="Name a folder below its top.")
    return "/".join(parts)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A file being sent, as it was when it was asked for; `replaces` as in StoreRequest."""

    found: FoundFile
    number: int
    replaces: str | None

    def has_changed(self) -> bool:
        """Whether the file is no longer what was asked for."""
        try:
            now = os.stat(self.found.path)
        except OSError:
            return True
        then = self.found.stat
        return (now.st_size, now.st_mtime_ns, now.st_ino) != (then.st_size, then.st_mtime_ns, then.st_ino)


class _Upload:
    """One call of `upload`, and the sink that hears of its files."""

    def __init__(self, store: BlobStore, request: UploadRequest, prefix: str, notify: Notify) -> None:
        self._store = store
        self._request = request
        self._prefix = prefix + "/" if prefix else ""
        self._notify = notify
        self._stats = TransferStats()
        self._active: dict[str, _Attempt] = {}
        self._sent: Counter[str] = Counter()
        self._again: deque[_Attempt] = deque()
        self.count = 0

    def run(self, files: Iterator[tuple[FoundFile, BlobInfo | None]]) -> TransferResult:
        """Store *files*, each given with what has its name there."""
        started = time.monotonic()
        try:
            while True:
                self._store.store(self._requests(files), self, workers=self._request.workers)
                for name in [*self._active]:
                    self._stats.fail(name, ServiceFailed(f"'{name}' was not stored."))
                if not self._again:
                    break
        except OSError as err:
            raise disk_error(err, f"Cannot read '{err.filename or self._request.local}'") from err
        return self._stats.result(time.monotonic() - started)

    def files(self) -> Iterator[tuple[FoundFile, BlobInfo | None]]:
        """The local files that are meant, each with what the store has under its name."""
        local = self._request.local
        if local.is_file():
            found = FoundFile(local.name, str(local), local.stat())
            yield found, self._store.stat(self._prefix + local.name)
            return
        if not local.is_dir():
            raise NotFound(f"There is no file or folder '{local}'.")
        # In the order of the walk: both are sorted
        stored = (blob for page in self._store.list(self._prefix) for blob in page)
        there = next(stored, None)
        for found in walk_files(str(local), skip_workspaces=True):
            name = self._prefix + found.name
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
                attempt = _Attempt(found, 0, "" if there is None else there.etag or None)
                self._stats.check_refusals()
                self._notify(Planned(1, found.stat.st_size))
            path, name = attempt.found.path, self._prefix + attempt.found.name
            try:  # as the file is now; a large one is digested by whoever reads it for sending
                now = FoundFile(attempt.found.name, path, os.stat(path))
                md5 = md5_of(path) if now.stat.st_size <= DIGESTED_BEFORE else None
            except OSError as err:
                self._stats.fail(name, disk_error(err, f"Cannot read '{path}'"))
                continue
            self._active[name] = _Attempt(now, attempt.number + 1, attempt.replaces)
            yield StoreRequest(Path(path), name, now.stat.st_size, md5, attempt.replaces)

    def _has_to_move(self, found: FoundFile, there: BlobInfo | None) -> bool:
        """False for what is refused, since a download would refuse the name (also without folders at its beginning),
        for what is stored already, and for what differs and may not be replaced."""
        name = self._prefix + found.name
        try:
            for part in name.split("/"):
                safe_relative(part)
            is_same = there is not None and self._is_same(found, there)
        except UnsafeName as err:
            self._stats.refuse(name, str(err))
            return False
        except OSError as err:
            self._stats.fail(name, disk_error(err, f"Cannot read '{found.path}'"))
            return False
        if is_same:
            self._stats.skipped += 1
        elif there is not None and not self._request.overwrite:
            self._stats.differing.append(name)
        return there is None or (not is_same and self._request.overwrite)

    def _is_same(self, found: FoundFile, there: BlobInfo) -> bool:
        if there.size != found.stat.st_size:
            return False
        if not self._request.validate:
            self._stats.unverified += 1
            return True
        stored = there.md5 or self._store.md5(there)
        return stored is not None and stored == md5_of(found.path)

    def advance(self, request: StoreRequest, amount: int) -> None:
        self._sent[request.name] += amount
        self._notify(Moved(request.name, amount))

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        attempt, sent = self._active.pop(request.name), self._sent.pop(request.name, 0)
        if attempt.has_changed():
            error = HimlError(f"'{request.path}' keeps changing while it is uploaded.")
            self._try_again(_Attempt(attempt.found, attempt.number, stored.etag), request.name, error)
            return
        self._stats.files += 1
        self._stats.bytes += sent
        self._notify(Finished(request.name))

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        attempt = self._active.pop(request.name)
        self._sent.pop(request.name, None)
        if attempt.has_changed():
            self._try_again(attempt, request.name, error)
        elif isinstance(error, BlobChanged) and not self._request.overwrite:
            self._stats.differing.append(request.name)
        else:
            self._stats.fail(request.name, error)

    def _try_again(self, attempt: _Attempt, name: str, error: HimlError) -> None:
        if attempt.number < ATTEMPTS:
            self._again.append(attempt)
        else:
            self._stats.fail(name, error)
