"""Bringing files down: bytes land beside their place, are checked, and only then get their name."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

from himl_cli.core.blobs import BlobInfo, FetchRequest, TransferResult
from himl_cli.core.errors import BadUsage, BlobChanged, DiskFailed, HimlError, IntegrityFailed, NotFound, ServiceFailed
from himl_cli.core.events import Finished, Moved, Notice, Notify, ignore
from himl_cli.core.runs import Run
from himl_cli.services.transfer.local_files import DigestThread, DiskFull, disk_error, md5_of
from himl_cli.services.transfer.partial_files import IN_MEMORY, BufferedFile, PartialFile
from himl_cli.services.transfer.plan import (
    DownloadPlan,
    DownloadRequest,
    PlannedFile,
    TargetFolder,
    TransferStats,
)
from himl_cli.services.transfer.ranks import rank_zero_only
from himl_cli.services.transfer.state import FetchedFile, TransferState
from himl_cli.workspaces.base import BlobStore

ATTEMPTS = 3
SERVICE_LOGS = ("user_logs/", "system_logs/", "azureml-logs/", "logs/azureml/")


def download_runs(
    files_of: Callable[[str], BlobStore],
    runs: Sequence[Run],
    request: DownloadRequest,
    *,
    output_key: str | None = None,
    flat: bool = False,
    notify: Notify = ignore,
) -> TransferResult:
    """Bring the files of *runs* to `request.folder/<run id>`, with *flat* to the folder itself; *files_of* gives a
    run's store (of the output *output_key* where that is given).

    On a node with several ranks only rank 0 does it. A run without matching files is named, and the others go on;
    raises NotFound when no run has any, BadUsage for *flat* with several runs, and what `download` raises.
    """
    if flat and len(runs) > 1:
        raise BadUsage(
            f"--flat takes one run, and {len(runs)} are selected.", hint="Leave out --flat, or select one run."
        )
    logs = SERVICE_LOGS if output_key is None else ()

    def download_each() -> TransferResult:
        total = TransferResult()
        missing: list[NotFound] = []
        for run in runs:
            try:
                one = download(files_of(run.id), replace(request, under="" if flat else run.id, logs=logs), notify)
                if one.is_empty and len(runs) > 1:
                    notify(Notice(f"Run '{run.id}' has no files."))
                total += one
            except NotFound as err:
                if len(runs) > 1:
                    notify(Notice(str(err)))
                missing.append(err)
        if missing and len(missing) == len(runs):
            raise missing[0]
        return total

    key = repr(("download", [run.id for run in runs], output_key, flat, request))
    return rank_zero_only(request.folder, key, download_each, notify=notify)


def download_blobs(store: BlobStore, request: DownloadRequest, *, notify: Notify = ignore) -> TransferResult:
    """As `download`, and on a node with several ranks only by rank 0."""
    key = repr(("download", store.origin, request))
    return rank_zero_only(request.folder, key, lambda: download(store, request, notify), notify=notify)


def download(store: BlobStore, request: DownloadRequest, notify: Notify = ignore) -> TransferResult:
    """Bring the blobs that *request* means to its folder; what went wrong with single files is in the result.

    Raises NotFound when nothing matches, BadUsage when the folder is a file, DiskFailed when the folder cannot be
    written or the disk is full, NotAllowed when file after file is refused. However it ends, no file has its final name
    before it is complete and checked, and a later call goes on from what is there.
    """
    started = time.monotonic()
    if request.folder.is_file():
        raise BadUsage(
            f"'{request.folder}' is a file, not a folder to write to.",
            hint="Name a folder; it is made where there is none.",
        )
    blobs = request.filters.select(store)
    first = next(blobs, None)  # before anything is made here
    if first is None:
        return TransferResult(seconds=time.monotonic() - started)
    folder = TargetFolder(request.folder)
    stats = TransferStats()
    with (
        TransferState(request.folder, lambda text: notify(Notice(text))) as state,
        DigestThread() as digests,
    ):
        plan = DownloadPlan(store, request, folder, state, stats)
        work = _Download(store, request, notify, folder, state, digests, stats, plan)
        work.run(plan.files(chain([first], blobs), notify))
    return stats.result(time.monotonic() - started)


class _Download:
    """One call of `download`, and the sink that its bytes come to."""

    def __init__(
        self,
        store: BlobStore,
        request: DownloadRequest,
        notify: Notify,
        folder: TargetFolder,
        state: TransferState,
        digests: DigestThread,
        stats: TransferStats,
        plan: DownloadPlan,
    ) -> None:
        self._store = store
        self._request = request
        self._notify = notify
        self._folder = folder
        self._state = state
        self._digests = digests if request.validate else None
        self._stats = stats
        self._plan = plan
        self._active: dict[str, PartialFile | BufferedFile] = {}
        self._complete: list[PartialFile | BufferedFile] = []  # nothing more of these will come
        self._again: deque[PlannedFile] = deque()

    def run(self, planned: Iterator[PlannedFile]) -> None:
        try:
            while True:
                self._store.fetch(self._requests(planned), self, workers=self._request.workers)
                for file in [*self._active.values()]:
                    if file.outstanding:
                        self._give_up(file)
                self._settle(wait=True)
                if not self._again:
                    return
        finally:
            for file in self._active.values():
                file.suspend()
            self._folder.remove_empty()

    def _requests(self, planned: Iterator[PlannedFile]) -> Iterator[FetchRequest]:
        while True:
            one = self._again.popleft() if self._again else next(planned, None)
            if one is None:
                return
            self._stats.check_refusals()
            file: PartialFile | BufferedFile
            try:
                self._folder.make_folder_of(one.path)
                if one.blob.size <= IN_MEMORY:
                    part = self._state.part_of(one.path)
                    file = BufferedFile(one, part, is_hashed=self._digests is not None)
                else:
                    file = PartialFile(one, self._plan.source(one.blob), self._state, self._digests)
            except OSError as err:
                self._fail(one, _disk_error(err, one))
                continue
            self._active[one.blob.name] = file
            if not file.requests:
                self._end(file)
            for number, request in enumerate(file.requests):
                if file.error is not None:  # what is left of it is not asked for
                    file.outstanding -= len(file.requests) - number
                    if file.outstanding == 0:
                        self._end(file)
                    break
                yield request

    def write(self, request: FetchRequest, offset: int, data: bytes) -> None:
        if self._complete:
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
        if file.outstanding == 0:
            self._end(file)

    def fail(self, request: FetchRequest, error: HimlError) -> None:
        file = self._active[request.blob.name]
        file.fail(error)
        if file.outstanding == 0:
            self._end(file)

    def _end(self, file: PartialFile | BufferedFile) -> None:
        self._complete.append(file)
        self._settle(wait=False)

    def _settle(self, *, wait: bool) -> None:
        files, self._complete = self._complete, []
        for file in files:
            if file.error is None and not wait and not file.is_digested:
                self._complete.append(file)
                continue
            if file.error is None:
                self._check_and_land(file)
            if file.error is not None:
                self._give_up(file)
            else:
                del self._active[file.planned.blob.name]

    def _check_and_land(self, file: PartialFile | BufferedFile) -> None:
        """Sets `file.error` where that fails."""
        blob = file.planned.blob
        try:
            md5 = file.md5()
            expected = None if md5 is None else file.service_md5 or blob.md5 or self._store.md5(blob)
            if expected is not None and expected != md5:
                file.error = IntegrityFailed(f"'{blob.name}' does not match its MD5 after {ATTEMPTS} tries.")
            else:
                self._land(file, md5, is_verified=expected is not None or blob.size == 0)
        except OSError as err:
            file.error = _disk_error(err, file.planned)

    def _land(self, file: PartialFile | BufferedFile, md5: bytes | None, *, is_verified: bool) -> None:
        planned = file.planned
        if not planned.may_replace and os.path.lexists(planned.path):
            is_same = md5 is not None and os.path.isfile(planned.path) and md5_of(planned.path) == md5
            file.discard()
            if not is_same:
                self._stats.differing.append(planned.target)
                return
            self._stats.skipped += 1
            status = os.stat(planned.path)
        else:
            status = file.land()
            self._stats.files += 1
            self._stats.bytes += file.received
        self._stats.unverified += not is_verified and not planned.blob.name.startswith(self._request.logs)
        source, etag = self._plan.source(planned.blob), planned.blob.etag
        self._state.record(FetchedFile(planned.target, source, etag, status.st_size, status.st_mtime_ns, md5))
        self._notify(Finished(planned.blob.name))

    def _give_up(self, file: PartialFile | BufferedFile) -> None:
        """Try the file again from its beginning where that may help; else it failed."""
        planned, name = file.planned, file.planned.blob.name
        error = file.error or ServiceFailed(f"'{name}' did not arrive.")
        del self._active[name]
        if not isinstance(error, (IntegrityFailed, BlobChanged)):
            file.suspend()
            self._fail(planned, error)
            return
        file.discard()
        blob: BlobInfo | None = planned.blob
        if isinstance(error, BlobChanged):
            blob = self._store.stat(name)
            error = ServiceFailed(
                f"'{name}' changed each of the {ATTEMPTS} times it was read.",
                hint="Run the command again when nothing writes to it.",
            )
        if blob is None:
            self._fail(planned, NotFound(f"'{name}' was removed while it was fetched."))
        elif planned.attempts + 1 < ATTEMPTS:
            self._again.append(replace(planned, blob=blob, attempts=planned.attempts + 1))
        else:
            self._fail(planned, error)

    def _fail(self, planned: PlannedFile, error: HimlError) -> None:
        self._stats.fail(planned.blob.name, error)
        self._folder.note_missing(planned.path)


def _disk_error(err: OSError, planned: PlannedFile) -> DiskFailed:
    """*err* for this file alone. Raises DiskFull when no other file would fit either."""
    error = disk_error(err, f"Cannot write '{planned.path}'")
    if isinstance(error, DiskFull):
        raise error from err
    return error
