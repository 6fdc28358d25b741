"""Sending files up: what is identical is skipped, what differs stays as it is unless it may be replaced."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from himl_cli.core.blobs import BlobInfo, StoreRequest, TransferResult
from himl_cli.core.errors import BadUsage, BlobChanged, HimlError, NotFound, ServiceFailed
from himl_cli.core.events import Finished, Moved, Notify, Planned, ignore
from himl_cli.core.files import FoundFile, walk_files
from himl_cli.services.transfer.disk import explained, md5_of
from himl_cli.services.transfer.names import UnsafeName, safe_relative
from himl_cli.services.transfer.requests import UploadRequest
from himl_cli.services.transfer.tally import Tally
from himl_cli.workspaces.base import BlobStore

TRIES = 3
DIGESTED_BEFORE = 8 << 20  # bytes up to which a file is read for its MD5 first: it is still in memory when it is sent


def upload(store: BlobStore, request: UploadRequest, notify: Notify = ignore) -> TransferResult:
    """Store the files that *request* means; what went wrong with single files is in the result.

    A file that changes meanwhile is sent again, a few times. Raises NotFound when there is nothing to upload, BadUsage
    for a prefix that climbs, NotAllowed when file after file is refused.
    """
    work = _Upload(store, request, checked_prefix(request.prefix), notify)
    result = work.run(work.files())
    if not work.met:
        raise NotFound(f"There is nothing to upload in '{request.local}'.", hint="Are --include and --exclude right?")
    return result


def upload_named(store: BlobStore, files: Mapping[str, Path], notify: Notify = ignore) -> TransferResult:
    """Store *files* by the names that they get, which nothing has in *store* so far; otherwise as `upload`."""

    def found() -> Iterator[tuple[FoundFile, None]]:
        for name, path in files.items():
            yield FoundFile(name, str(path), path.stat()), None

    return _Upload(store, UploadRequest(Path()), "", notify).run(found())


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
class _Sending:
    """A file on its way, as it was when it was asked for."""

    found: FoundFile
    tries: int
    replaces: str | None


class _Upload:
    """One call of `upload`, and the sink that hears of its files."""

    def __init__(self, store: BlobStore, request: UploadRequest, prefix: str, notify: Notify) -> None:
        self._store = store
        self._request = request
        self._prefix = prefix + "/" if prefix else ""
        self._notify = notify
        self._tally = Tally()
        self._active: dict[str, _Sending] = {}
        self._sent: Counter[str] = Counter()
        self._again: deque[_Sending] = deque()
        self.met = 0

    def run(self, files: Iterator[tuple[FoundFile, BlobInfo | None]]) -> TransferResult:
        """Store *files*, each given with what has its name there."""
        started = time.monotonic()
        try:
            self._store_all(files)
        except OSError as err:
            raise explained(err, f"Cannot read '{err.filename or self._request.local}'") from err
        return self._tally.result(time.monotonic() - started)

    def _store_all(self, files: Iterator[tuple[FoundFile, BlobInfo | None]]) -> None:
        while True:
            self._store.store(self._requests(files), self, workers=self._request.workers)
            for name in [*self._active]:
                self._tally.fail(name, ServiceFailed(f"'{name}' was not stored."))
            if not self._again:
                return

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
                sending = self._again.popleft()
            elif (pair := next(files, None)) is None:
                return
            else:
                found, there = pair
                self.met += 1
                if not self._can_come_back(self._prefix + found.name) or not self._has_to_move(found, there):
                    continue
                sending = _Sending(found, 0, "" if there is None else there.etag or None)
                self._tally.check_hope()
                self._notify(Planned(1, found.stat.st_size))
            request = self._begin(sending)
            if request is not None:
                yield request

    def _can_come_back(self, name: str) -> bool:
        """Whether a download would take the name, also without folders at its beginning: nothing is stored that himl
        would refuse to bring back."""
        try:
            for part in name.split("/"):
                safe_relative(part)
        except UnsafeName as err:
            self._tally.refuse(name, str(err))
            return False
        return True

    def _has_to_move(self, found: FoundFile, there: BlobInfo | None) -> bool:
        if there is None:
            return True
        try:
            is_same = self._is_same(found, there)
        except OSError as err:
            self._tally.fail(there.name, explained(err, f"Cannot read '{found.path}'"))
            return False
        if is_same:
            self._tally.skipped += 1
        elif not self._request.overwrite:
            self._tally.differing.append(there.name)
        return not is_same and self._request.overwrite

    def _is_same(self, found: FoundFile, there: BlobInfo) -> bool:
        if there.size != found.stat.st_size:
            return False
        if not self._request.validate:
            self._tally.unverified += 1
            return True
        stored = there.md5 or self._store.md5(there)
        return stored is not None and stored == md5_of(found.path)

    def _begin(self, sending: _Sending) -> StoreRequest | None:
        """The file as it is now; a large one is digested by whoever reads it for sending."""
        path, name = sending.found.path, self._prefix + sending.found.name
        try:
            now = FoundFile(sending.found.name, path, os.stat(path))
            md5 = md5_of(path) if now.stat.st_size <= DIGESTED_BEFORE else None
        except OSError as err:
            self._tally.fail(name, explained(err, f"Cannot read '{path}'"))
            return None
        self._active[name] = _Sending(now, sending.tries + 1, sending.replaces)
        return StoreRequest(Path(path), name, now.stat.st_size, md5, sending.replaces)

    def advance(self, request: StoreRequest, amount: int) -> None:
        self._sent[request.name] += amount
        self._notify(Moved(request.name, amount))

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        sending, sent = replace(self._active.pop(request.name), replaces=stored.etag), self._sent.pop(request.name, 0)
        if _has_changed(sending):
            self._try_again(request, sending, HimlError(f"'{request.path}' keeps changing while it is uploaded."))
            return
        self._tally.files += 1
        self._tally.bytes += sent
        self._notify(Finished(request.name))

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        sending = self._active.pop(request.name)
        self._sent.pop(request.name, None)
        if _has_changed(sending):
            self._try_again(request, sending, error)
        elif isinstance(error, BlobChanged) and not self._request.overwrite:
            self._tally.differing.append(request.name)
        else:
            self._tally.fail(request.name, error)

    def _try_again(self, request: StoreRequest, sending: _Sending, error: HimlError) -> None:
        if sending.tries < TRIES:
            self._again.append(sending)
        else:
            self._tally.fail(request.name, error)


def _has_changed(sending: _Sending) -> bool:
    """Whether the file is no longer what was asked for."""
    try:
        now = os.stat(sending.found.path)
    except OSError:
        return True
    then = sending.found.stat
    return (now.st_size, now.st_mtime_ns, now.st_ino) != (then.st_size, then.st_mtime_ns, then.st_ino)
