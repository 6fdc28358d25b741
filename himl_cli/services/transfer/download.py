"""Bringing files down: bytes land beside their place, are checked, and only then get their name."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from himl_cli.core.blobs import BlobInfo, FetchRequest, TransferResult
from himl_cli.core.errors import BadUsage, BlobChanged, DiskFailed, HimlError, IntegrityFailed, NotFound, ServiceFailed
from himl_cli.core.events import Finished, Moved, Notice, Notify, ignore
from himl_cli.services.transfer.arrival import Arrival
from himl_cli.services.transfer.collector import rare_collections
from himl_cli.services.transfer.disk import DiskFull, explained, md5_of
from himl_cli.services.transfer.integrity import Hashing
from himl_cli.services.transfer.plan import DownloadPlan, Wanted
from himl_cli.services.transfer.requests import DownloadRequest
from himl_cli.services.transfer.state import Fetched, TransferState
from himl_cli.services.transfer.tally import Tally
from himl_cli.services.transfer.targets import TargetFolder
from himl_cli.services.transfer.whole import IN_MEMORY, WholeArrival
from himl_cli.workspaces.base import BlobStore

TRIES = 3


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
    tally = Tally()
    with (
        rare_collections(),
        TransferState(request.folder, lambda text: notify(Notice(text))) as state,
        Hashing() as hashing,
    ):
        _Download(store, request, notify, folder, state, hashing, tally).run(chain([first], blobs))
    return tally.result(time.monotonic() - started)


class _Download:
    """One call of `download`, and the sink that its bytes come to."""

    def __init__(
        self,
        store: BlobStore,
        request: DownloadRequest,
        notify: Notify,
        folder: TargetFolder,
        state: TransferState,
        hashing: Hashing,
        tally: Tally,
    ) -> None:
        self._store = store
        self._request = request
        self._notify = notify
        self._folder = folder
        self._state = state
        self._hashing = hashing if request.validate else None
        self._tally = tally
        self._plan = DownloadPlan(store, request, folder, state, tally)
        self._active: dict[str, Arrival | WholeArrival] = {}
        self._digesting: list[Arrival | WholeArrival] = []
        self._again: deque[Wanted] = deque()

    def run(self, blobs: Iterator[BlobInfo]) -> None:
        wanted = self._plan.wanted(blobs, self._notify)
        try:
            while True:
                self._store.fetch(self._requests(wanted), self, workers=self._request.workers)
                for arrival in [*self._active.values()]:
                    if arrival.outstanding:
                        arrival.error = arrival.error or ServiceFailed(f"'{arrival.wanted.blob.name}' did not arrive.")
                        self._give_up(arrival)
                self._settle(wait=True)
                if not self._again:
                    return
        finally:
            for arrival in self._active.values():
                arrival.suspend()
            self._folder.remove_forsaken()

    def _requests(self, wanted: Iterator[Wanted]) -> Iterator[FetchRequest]:
        while True:
            one = self._again.popleft() if self._again else next(wanted, None)
            if one is None:
                return
            self._tally.check_hope()
            arrival = self._begin(one)
            if arrival is None:
                continue
            if not arrival.requests:
                self._arrived(arrival)
            for place, request in enumerate(arrival.requests):
                if arrival.error is not None:  # what is left of it is not asked for
                    arrival.outstanding -= len(arrival.requests) - place
                    if arrival.outstanding == 0:
                        self._arrived(arrival)
                    break
                yield request

    def _begin(self, wanted: Wanted) -> Arrival | WholeArrival | None:
        try:
            self._folder.make_folder_of(wanted.path)
            arrival = self._arrival(wanted)
        except OSError as err:
            self._fail(wanted, _local(err, wanted))
            return None
        self._active[wanted.blob.name] = arrival
        return arrival

    def _arrival(self, wanted: Wanted) -> Arrival | WholeArrival:
        if wanted.blob.size <= IN_MEMORY:
            return WholeArrival(wanted, self._state.part_of(wanted.path), is_hashed=self._hashing is not None)
        return Arrival(wanted, self._plan.source(wanted.blob), self._state, self._hashing)

    def write(self, request: FetchRequest, offset: int, data: bytes) -> None:
        if self._digesting:
            self._settle(wait=False)
        arrival = self._active[request.blob.name]
        if arrival.error is not None:
            return
        try:
            arrival.write(request, offset, data)
        except OSError as err:
            arrival.error = _local(err, arrival.wanted)
            return
        self._notify(Moved(request.blob.name, len(data)))

    def finish(self, request: FetchRequest, md5: bytes | None) -> None:
        arrival = self._active[request.blob.name]
        arrival.finish(request, md5)
        if arrival.outstanding == 0:
            self._arrived(arrival)

    def fail(self, request: FetchRequest, error: HimlError) -> None:
        arrival = self._active[request.blob.name]
        arrival.fail(error)
        if arrival.outstanding == 0:
            self._arrived(arrival)

    def _arrived(self, arrival: Arrival | WholeArrival) -> None:
        """Nothing more of it will come."""
        self._digesting.append(arrival)
        self._settle(wait=False)

    def _settle(self, *, wait: bool) -> None:
        arrivals, self._digesting = self._digesting, []
        for arrival in arrivals:
            if arrival.error is not None:
                self._give_up(arrival)
            elif wait or arrival.is_digested:
                self._complete(arrival)
            else:
                self._digesting.append(arrival)

    def _complete(self, arrival: Arrival | WholeArrival) -> None:
        blob = arrival.wanted.blob
        try:
            md5 = arrival.md5()
            expected = None if md5 is None else arrival.service_md5 or blob.md5 or self._store.md5(blob)
            if expected is not None and expected != md5:
                arrival.error = IntegrityFailed(f"'{blob.name}' does not match its MD5 after {TRIES} tries.")
            else:
                self._land(arrival, md5, is_verified=expected is not None or blob.size == 0)
        except OSError as err:
            arrival.error = _local(err, arrival.wanted)
        if arrival.error is not None:
            self._give_up(arrival)
        else:
            del self._active[blob.name]

    def _land(self, arrival: Arrival | WholeArrival, md5: bytes | None, *, is_verified: bool) -> None:
        wanted = arrival.wanted
        if not wanted.may_replace and os.path.lexists(wanted.path):
            is_same = md5 is not None and os.path.isfile(wanted.path) and md5_of(wanted.path) == md5
            arrival.discard()
            if not is_same:
                self._tally.differing.append(wanted.target)
                return
            self._tally.skipped += 1
            status = os.stat(wanted.path)
        else:
            status = arrival.land()
            self._tally.files += 1
            self._tally.bytes += arrival.received
        self._tally.unverified += not is_verified and not wanted.blob.name.startswith(self._request.logs)
        self._state.record(
            Fetched(
                wanted.target, self._plan.source(wanted.blob), wanted.blob.etag, status.st_size, status.st_mtime_ns, md5
            )
        )
        self._notify(Finished(wanted.blob.name))

    def _give_up(self, arrival: Arrival | WholeArrival) -> None:
        """Try the file again from its beginning where that may help; else it failed."""
        wanted, error = arrival.wanted, arrival.error or ServiceFailed(f"'{arrival.wanted.blob.name}' did not arrive.")
        del self._active[wanted.blob.name]
        if not isinstance(error, (IntegrityFailed, BlobChanged)):
            arrival.suspend()
            self._fail(wanted, error)
            return
        arrival.discard()
        blob = self._store.stat(wanted.blob.name) if isinstance(error, BlobChanged) else wanted.blob
        if blob is None:
            self._fail(wanted, NotFound(f"'{wanted.blob.name}' was removed while it was fetched."))
        elif wanted.tries + 1 < TRIES:
            self._again.append(replace(wanted, blob=blob, tries=wanted.tries + 1))
        elif isinstance(error, BlobChanged):
            often = ServiceFailed(
                f"'{blob.name}' changed each of the {TRIES} times it was read.",
                hint="Run the command again when nothing writes to it.",
            )
            self._fail(wanted, often)
        else:
            self._fail(wanted, error)

    def _fail(self, wanted: Wanted, error: HimlError) -> None:
        self._tally.fail(wanted.blob.name, error)
        self._folder.forsake(wanted.path)


def _local(err: OSError, wanted: Wanted) -> DiskFailed:
    """*err* for this file alone. Raises DiskFull when no other file would fit either."""
    error = explained(err, f"Cannot write '{wanted.path}'")
    if isinstance(error, DiskFull):
        raise error from err
    return error
