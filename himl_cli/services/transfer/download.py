"""Download files. Bytes go to a partial file, which gets its final name after its check."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import chain

from himl_cli.core.blobs import BlobInfo, Bytes, FetchRequest, TransferResult
from himl_cli.core.errors import BadUsage, BlobChanged, DiskFailed, HimlError, IntegrityFailed, NotFound, ServiceFailed
from himl_cli.core.events import Finished, Moved, Notice, Notify, ignore
from himl_cli.core.files import flush
from himl_cli.core.runs import Run, more_files
from himl_cli.services.transfer.digests import DigestThread, FileDigest, md5_of
from himl_cli.services.transfer.local_files import (
    OPEN_FLAGS,
    BackgroundFlush,
    DiskFull,
    disk_error,
    open_new,
    write_all,
)
from himl_cli.services.transfer.plan import DownloadPlan, DownloadRequest, PlannedFile, TargetFolder, TransferStats
from himl_cli.services.transfer.ranks import rank_zero_only
from himl_cli.services.transfer.state import FetchedFile, TransferState
from himl_cli.workspaces.base import BlobStore

DOWNLOAD_ATTEMPTS = 3
WRONG_MD5 = (
    "The same bytes arrived each time, so the stored MD5 is wrong. To skip it: 'himl download RUN --no_validate' "
    "or 'himl datastore download PREFIX FOLDER --no_validate'."
)
SERVICE_LOGS = ("user_logs/", "system_logs/", "azureml-logs/", "logs/azureml/")

# Up to this size, a file is digested while it arrives, and restarted instead of resumed.
SMALL = 4 << 20
# Above this size, a file comes in pieces, several at once if the store allows it.
LARGE = 32 << 20
# The shortest pieces come first and last. The digest begins early, and little is left to digest after the last byte.
PIECE = 2 << 20
# In between, longer pieces need fewer requests, each of which costs the service time.
LONGEST_PIECE = 8 << 20
# A piece is at most this fraction of the bytes before it, and of the bytes after it.
GROWTH = 16
DECLINE = 32
MOST_PIECES = 1 << 14
# Size of a range with its own check, if the MD5 of the file is unknown. Each active request holds one in memory.
CHECKED = 1 << 20
# Complete files get their names in groups, because one flush of the disk takes as long as that of one file
LANDED_AT_ONCE, LANDING_SECONDS = 500, 0.5


def download_runs(
    files_of: Callable[[str], BlobStore],
    runs: Sequence[Run],
    request: DownloadRequest,
    *,
    output_key: str | None = None,
    flat: bool = False,
    notify: Notify = ignore,
) -> TransferResult:
    """Download the files of *runs* to `request.folder/<run id>`, or to the folder itself if *flat*. *files_of* returns
    the store of a run, or of its output *output_key*.

    On a node with several ranks, only rank 0 downloads. A run without matching files is reported, and the others
    continue. Raises NotFound if no run has any, BadUsage for *flat* with several runs, and what `download` raises.
    """
    if flat and len(runs) > 1:
        raise BadUsage(f"--flat takes one run, but {len(runs)} are selected.", hint="Omit --flat, or select one run.")
    logs = SERVICE_LOGS if output_key is None else ()

    def download_each() -> TransferResult:
        total = TransferResult()
        missing: list[NotFound] = []
        for run in runs:
            try:
                one = download(files_of(run.id), replace(request, under="" if flat else run.id, logs=logs), notify)
                if len(runs) > 1 and one.is_empty:
                    notify(Notice(f"Run '{run.id}' has no files."))
                total += one
            except NotFound as err:
                if len(runs) > 1:
                    notify(Notice(str(err)))
                missing.append(err)
        if missing and len(missing) == len(runs):
            raise missing[0]
        if remark := more_files(runs):
            notify(Notice(remark))
        return total

    key = repr(("download", [run.id for run in runs], output_key, flat, request))
    return rank_zero_only(request.folder, key, download_each, notify=notify)


def download_blobs(store: BlobStore, request: DownloadRequest, *, notify: Notify = ignore) -> TransferResult:
    """Download as with `download`. On a node with several ranks, only rank 0 downloads."""
    key = repr(("download", store.origin, request))
    return rank_zero_only(request.folder, key, lambda: download(store, request, notify), notify=notify)


def download(
    store: BlobStore, request: DownloadRequest, notify: Notify = ignore, *, blobs: Iterable[BlobInfo] | None = None
) -> TransferResult:
    """Download the blobs that *request* selects. The result contains the failures of single files. *blobs* replaces
    the selection, with ETags from a listing. A blob whose ETag has changed since then is not downloaded.

    Raises NotFound if nothing matches, BadUsage if the folder is a file, DiskFailed if the folder cannot be written or
    the disk is full, NotAllowed if file after file is refused. In each case, a file gets its final name only when it
    is complete and checked, and a later call resumes the rest.
    """
    stats = TransferStats()
    if request.folder.is_file():
        raise BadUsage(
            f"'{request.folder}' is a file, not a folder to write to.",
            hint="Give the path of a folder. himl creates it if necessary.",
        )
    chosen = request.filters.select(store) if blobs is None else iter(sorted(blobs, key=lambda blob: blob.name))
    first = next(chosen, None)  # before himl creates a folder
    if first is None:
        return stats.result()
    folder = TargetFolder(request.folder)
    with (
        TransferState(request.folder, lambda text: notify(Notice(text))) as state,
        closing(DigestThread()) as digests,
    ):
        plan = DownloadPlan(store, request, folder, state, stats)
        _Download(plan, digests if request.validate else None, notify).run(plan.files(chain([first], chosen), notify))
    return stats.result()


class _Download:
    """One call of `download`, and the sink of its bytes."""

    def __init__(self, plan: DownloadPlan, digests: DigestThread | None, notify: Notify) -> None:
        self._plan = plan
        self._digests = digests
        self._notify = notify
        self._active: dict[str, PartialFile] = {}
        self._complete: list[PartialFile] = []  # all their bytes have arrived
        self._checked: list[PartialFile] = []  # they get their final names together, once they are on the disk
        self._landed = time.monotonic()
        self._again: deque[PlannedFile] = deque()

    def run(self, planned: Iterator[PlannedFile]) -> None:
        try:
            while True:
                self._plan.store.fetch(self._requests(planned), self, workers=self._plan.request.workers)
                for file in [*self._active.values()]:
                    if file.outstanding:
                        self._give_up(file)
                self._settle(wait=True)
                if not self._again:
                    break
            if self._plan.stats.files:  # the names of the last group
                self._flush([])
        finally:
            with suppress(DiskFailed):  # the first error is reported
                self._land_checked()
            for file in self._active.values():
                file.suspend()

    def _requests(self, planned: Iterator[PlannedFile]) -> Iterator[FetchRequest]:
        while True:
            one = self._again.popleft() if self._again else next(planned, None)
            if one is None:
                return
            if not self._checked:
                self._plan.stats.check_refusals()
            try:
                self._plan.folder.make_folder_of(one.path)
                file = PartialFile(one, self._plan.source(one.blob), self._plan.state, self._digests)
            except OSError as err:
                self._plan.stats.fail(one.blob.name, _disk_error(err, one))
                continue
            self._active[one.blob.name] = file
            self._check_end(file)
            for number, request in enumerate(file.requests):
                if file.error is not None:  # skip the remaining requests
                    file.outstanding -= len(file.requests) - number
                    self._check_end(file)
                    break
                yield request

    def write(self, request: FetchRequest, offset: int, data: Bytes) -> None:
        if self._complete or self._checked:
            self._settle(wait=False)
        file = self._active[request.blob.name]
        if file.error is not None:
            return
        try:
            file.write(request, offset, data)
        except OSError as err:
            file.error = _disk_error(err, file.planned)
            return
        self._notify(Moved(request.blob.name, len(data)))

    def finish(self, request: FetchRequest, md5: bytes | None) -> None:
        file = self._active[request.blob.name]
        file.finish(request, md5)
        self._check_end(file)

    def fail(self, request: FetchRequest, error: HimlError) -> None:
        file = self._active[request.blob.name]
        file.outstanding -= 1
        file.error = file.error or error
        self._check_end(file)

    def _check_end(self, file: PartialFile) -> None:
        if file.outstanding == 0:
            self._complete.append(file)
            self._settle(wait=False)

    def _settle(self, *, wait: bool) -> None:
        files, self._complete = self._complete, []
        for file in files:
            if file.error is None and not wait and not file.is_digested:
                self._complete.append(file)
                continue
            if file.error is None:
                try:
                    self._check(file)
                except OSError as err:
                    file.error = _disk_error(err, file.planned)
            if file.error is not None:
                self._give_up(file)
            else:
                self._checked.append(file)
        if wait or len(self._checked) >= LANDED_AT_ONCE or time.monotonic() - self._landed > LANDING_SECONDS:
            self._land_checked()

    def _check(self, file: PartialFile) -> None:
        """Set `file.error` if its bytes differ from those of the blob. Raises OSError."""
        blob, md5 = file.planned.blob, file.md5()
        expected = None if md5 is None else file.service_md5 or blob.md5 or self._plan.store.md5(blob)
        if expected is not None and expected != md5:
            file.error = IntegrityFailed(f"'{blob.name}' does not match its MD5 after {DOWNLOAD_ATTEMPTS} attempts.")
            if file.planned.arrived == md5:
                file.error.hint = WRONG_MD5
            file.planned = replace(file.planned, arrived=md5)
            return
        file.is_verified = expected is not None or blob.size == 0 or blob.name.startswith(self._plan.request.logs)
        file.complete()

    def _land_checked(self) -> None:
        """Give the checked files their final names. A power cut leaves no file without its content there. Raises
        DiskFailed if the disk fails."""
        files, self._checked, self._landed = self._checked, [], time.monotonic()
        if not files:
            return
        self._flush(files)
        for file in files:
            try:
                self._land(file)
            except OSError as err:
                file.error = _disk_error(err, file.planned)
                self._give_up(file)
            else:
                del self._active[file.planned.blob.name]

    def _flush(self, files: Sequence[PartialFile]) -> None:
        """Write *files*, and on Linux all names, to the disk. Raises DiskFailed."""
        folder = self._plan.request.folder
        try:
            flush(folder, [file.part for file in files])
        except OSError as err:
            raise disk_error(err, f"Cannot write to '{folder}'") from err

    def _land(self, file: PartialFile) -> None:
        planned, stats, md5 = file.planned, self._plan.stats, file.md5()
        blob = planned.blob
        if not planned.may_replace and os.path.lexists(planned.path):
            is_same = md5 is not None and os.path.isfile(planned.path) and md5_of(planned.path) == md5
            file.discard()
            if not is_same:
                stats.differing.append(planned.target)
                return
            stats.skipped += 1
        else:
            file.land()
            stats.files += 1
            stats.bytes += file.received
        stats.unverified += not file.is_verified
        status, source = os.stat(planned.path), self._plan.source(blob)
        self._plan.state.record(FetchedFile(planned.target, source, blob.etag, status.st_size, status.st_mtime_ns, md5))
        self._notify(Finished(blob.name))

    def _give_up(self, file: PartialFile) -> None:
        """Restart the file if that may help. Otherwise, record its failure."""
        planned, name, fail = file.planned, file.planned.blob.name, self._plan.stats.fail
        error = file.error or ServiceFailed(f"'{name}' did not arrive.")
        del self._active[name]
        if not isinstance(error, (IntegrityFailed, BlobChanged)):
            file.suspend()
            fail(name, error)
            return
        file.discard()
        blob: BlobInfo | None = planned.blob
        if isinstance(error, BlobChanged):
            blob = self._plan.store.stat(name)
            error = ServiceFailed(
                f"'{name}' changed during each of {DOWNLOAD_ATTEMPTS} downloads.",
                hint="Run the command again when nothing writes to the file.",
            )
        if blob is None:
            fail(name, NotFound(f"'{name}' was deleted during the download."))
        elif planned.attempts + 1 < DOWNLOAD_ATTEMPTS:
            self._again.append(replace(planned, blob=blob, attempts=planned.attempts + 1))
        else:
            fail(name, error)


def _disk_error(err: OSError, planned: PlannedFile) -> DiskFailed:
    """Convert *err* for this file. Raises DiskFull if no other file would fit either."""
    error = disk_error(err, f"Cannot write '{planned.path}'")
    if isinstance(error, DiskFull):
        raise error from err
    return error


class PartialFile:
    """A file in transfer, written beside its final path, with each byte at its offset. Raises OSError.

    `received` counts bytes, without those of an earlier transfer. `outstanding` counts unfinished requests.
    """

    def __init__(self, planned: PlannedFile, source: str, state: TransferState, digests: DigestThread | None) -> None:
        blob = planned.blob
        self.planned = planned
        self.error: HimlError | None = None
        self.is_verified = False
        self.service_md5: bytes | None = None
        self.received = 0
        self.part = state.part_of(planned.path)
        self._state = state
        self._identity = f"{source}\n{blob.etag}\n{blob.size}"
        self._digests = digests
        self._descriptor = -1
        self._positions: dict[int, int] = {}  # end of the received bytes, by start of the request
        self._is_resumable = blob.size > SMALL
        self._comes_in_pieces = blob.size > LARGE
        self._flush = BackgroundFlush()  # of a file that comes in pieces
        self._arrived: list[tuple[int, int]] = []  # since the last flush began
        self._small_md5 = None if digests is None or self._is_resumable else hashlib.md5(usedforsecurity=False)
        self._digest: FileDigest | None = None
        self._done = self._resumed() if self._is_resumable else []
        checked_each = CHECKED if digests is not None and blob.md5 is None else 0
        self.requests = [FetchRequest(blob, start, stop - start, checked_each) for start, stop in self._missing()]
        self.outstanding = len(self.requests)
        if self._done:
            self._follow()

    def _resumed(self) -> list[tuple[int, int]]:
        """Ranges of this exact blob from an earlier transfer. If there are none, restart the partial file."""
        if os.path.lexists(self.part):
            status = os.lstat(self.part)
            is_file = stat.S_ISREG(status.st_mode)  # a user may have replaced it with a link
            ranges = self._state.ranges(self.planned.target, self._identity) if self.planned.blob.etag else []
            if ranges and is_file and status.st_size <= self.planned.blob.size:
                if not self._comes_in_pieces:
                    ranges = [(0, status.st_size)]
                return [(start, stop) for start, stop in ranges if start < stop <= status.st_size]
            os.unlink(self.part)
        self._state.begin_part(self.planned.target, self._identity)
        return []

    def _missing(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges that are missing from the sorted complete ranges. A large file starts and ends with short
        pieces and has longer ones between, at most about `MOST_PIECES`."""
        size, start = self.planned.blob.size, 0
        least = PIECE * max(1, -(-size // (PIECE * MOST_PIECES))) if self._comes_in_pieces else size
        for gap_end, next_start in [*self._done, (size, size)]:
            while start < gap_end:
                length = max(least, min(start // GROWTH, (size - start) // DECLINE, LONGEST_PIECE))
                stop = min(start + length, gap_end)
                yield start, stop
                start = stop
            start = max(start, next_start)

    def _follow(self) -> None:
        if self._digests is not None and self._digest is None:
            self._digest = self._digests.follow(self.part, self.planned.blob.size)
            for start, stop in self._done:
                self._digest.written(start, stop)

    def _open(self) -> None:
        if self._is_resumable:
            self._descriptor = os.open(self.part, OPEN_FLAGS, 0o666)
            self._follow()
        else:
            self._descriptor = open_new(self.part)

    def write(self, request: FetchRequest, offset: int, data: Bytes) -> None:
        position, end = self._positions.get(request.offset, request.offset), offset + len(data)
        if offset != position or end > request.offset + request.length:
            self.error = IntegrityFailed(f"'{request.blob.name}' arrived with bytes that were not requested.")
            return
        if self._descriptor < 0:
            self._open()
        if self._is_resumable:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
        write_all(self._descriptor, data)
        self._positions[request.offset] = end
        self.received += len(data)
        if self._small_md5 is not None:
            self._small_md5.update(data)
        elif self._digest is not None:
            self._digest.written(request.offset, end)

    def finish(self, request: FetchRequest, md5: bytes | None) -> None:
        """Record the end of *request*. Set `error` if bytes are missing."""
        self.outstanding -= 1
        stop = request.offset + request.length
        if self._positions.get(request.offset, request.offset) != stop:
            self.error = self.error or IntegrityFailed(f"'{request.blob.name}' arrived without its end.")
            return
        self.service_md5 = md5 or self.service_md5
        if self._comes_in_pieces and self.error is None:
            self._arrived.append((request.offset, stop))
            self._record([self._arrived[-1]], is_on_disk=False)
            if self._flush.is_idle:
                self._record(self._flush.start(self._descriptor, self._arrived), is_on_disk=True)
                self._arrived = []

    def _record(self, ranges: Iterable[tuple[int, int]], *, is_on_disk: bool) -> None:
        for start, stop in ranges:
            self._state.add_range(self.planned.target, self._identity, start, stop, is_on_disk=is_on_disk)

    @property
    def is_digested(self) -> bool:
        return self._digest is None or self._digest.is_ready

    def md5(self) -> bytes | None:
        """Wait for the thread and return the MD5 of the received bytes. None if it is not computed."""
        if self._digest is not None:
            return self._digest.result()
        return None if self._small_md5 is None else self._small_md5.digest()

    def complete(self) -> None:
        """Close the complete file."""
        if self._descriptor < 0 and not self._is_resumable:
            self._open()  # an empty file
        self._close()

    def land(self) -> None:
        os.replace(self.part, self.planned.path)
        if self._is_resumable:
            self._state.forget_part(self.planned.target)

    def suspend(self) -> None:
        """Close the file, and keep a large file for a later resumption."""
        if not self._is_resumable or not self._state.is_kept:
            self.discard()
            return
        if self._descriptor >= 0:
            with suppress(OSError):  # without a record, they are requested again
                os.fsync(self._descriptor)
                self._record(self._positions.items(), is_on_disk=True)
        self._close()

    def discard(self) -> None:
        self._close()
        if os.path.lexists(self.part):
            os.unlink(self.part)
        if self._is_resumable:
            self._state.forget_part(self.planned.target)

    def _close(self) -> None:
        """Close the file, so that it can be renamed or removed."""
        if self._digest is not None:
            self._digest.cancel()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
