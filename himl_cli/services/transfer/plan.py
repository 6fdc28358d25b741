"""What has to move: each blob is skipped, refused, left because it differs, or wanted."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.events import Notify, Planned
from himl_cli.services.transfer.disk import explained, md5_of
from himl_cli.services.transfer.names import UnsafeName, folded
from himl_cli.services.transfer.requests import DownloadRequest
from himl_cli.services.transfer.state import Fetched, TransferState
from himl_cli.services.transfer.tally import Tally
from himl_cli.services.transfer.targets import TargetFolder
from himl_cli.workspaces.base import BlobStore

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """A blob that has to be brought to `path` (`target` below the folder); what is there may be replaced only if so
    said."""

    blob: BlobInfo
    target: str
    path: str
    may_replace: bool = False
    tries: int = 0


class DownloadPlan:
    """Goes through the blobs a page at a time, so that memory does not grow with their number."""

    def __init__(
        self, store: BlobStore, request: DownloadRequest, folder: TargetFolder, state: TransferState, tally: Tally
    ) -> None:
        self._store = store
        self._origin = store.origin
        self._request = request
        self._folder = folder
        self._state = state
        self._tally = tally
        self._folds = folder.folds_names()

    def wanted(self, blobs: Iterator[BlobInfo], notify: Notify) -> Iterator[Wanted]:
        """Those of *blobs* (sorted by name) that have to move; pages are announced to *notify* as they are decided."""
        apart = files_apart_from_folders(blobs, self._tally)
        while page := [*islice(apart, PAGE)]:
            moving = [wanted for blob in page if (wanted := self._decide(blob)) is not None]
            if moving:
                notify(Planned(len(moving), sum(wanted.blob.size for wanted in moving)))
            yield from moving

    def source(self, blob: BlobInfo) -> str:
        """What the state file calls the blob's origin."""
        return f"{self._origin}\n{blob.name}"

    def _decide(self, blob: BlobInfo) -> Wanted | None:
        wanted = self._place(blob)
        if wanted is None:
            return None
        try:
            here = self._folder.state_of(wanted.path)
        except OSError as err:
            self._tally.refuse(blob.name, f"it cannot be reached here: {err.strerror}")
            return None
        if here is None:
            return wanted
        if stat.S_ISDIR(here.st_mode):
            self._tally.refuse(blob.name, "a folder of this name is here")
            return None
        try:
            return self._compare(wanted, here)
        except OSError as err:
            self._tally.fail(blob.name, explained(err, f"Cannot read '{wanted.path}'"))
            return None

    def _place(self, blob: BlobInfo) -> Wanted | None:
        """Where the blob goes; None when it is refused."""
        target = self._request.target(blob.name)
        try:
            path = self._folder.place(target)
        except UnsafeName as err:
            self._tally.refuse(blob.name, str(err))
            return None
        if self._folds or self._request.may_fall_together:
            other = self._state.claim(target, folded(target) if self._folds else target)
            if other is not None:
                self._tally.refuse(blob.name, f"it would fall together with '{other}' here")
                return None
        return Wanted(blob, target, path)

    def _compare(self, wanted: Wanted, here: os.stat_result) -> Wanted | None:
        """What to do where a file or link of this name is here already. Raises OSError when it cannot be read."""
        known = self._state.find(wanted.target)
        if known is not None and self._is_untouched(known, wanted, here):
            if not _same_source(known, wanted.blob):
                return replace(wanted, may_replace=True)
            if known.md5 is not None or not self._request.validate:
                self._skip(known)
                return None
        if stat.S_ISREG(here.st_mode) and here.st_size == wanted.blob.size:
            expected = (wanted.blob.md5 or self._store.md5(wanted.blob)) if self._request.validate else None
            if (
                expected is None and self._request.validate
            ):  # nobody knows the blob's MD5: its bytes have to come to be compared
                return replace(wanted, may_replace=self._request.overwrite)
            if expected is None or md5_of(wanted.path) == expected:
                self._tally.unverified += expected is None and not wanted.blob.name.startswith(self._request.logs)
                self._skip(
                    Fetched(
                        wanted.target,
                        self.source(wanted.blob),
                        wanted.blob.etag,
                        here.st_size,
                        here.st_mtime_ns,
                        expected,
                    )
                )
                return None
        if self._request.overwrite:
            return replace(wanted, may_replace=True)
        self._tally.differing.append(wanted.target)
        return None

    def _is_untouched(self, known: Fetched, wanted: Wanted, here: os.stat_result) -> bool:
        """Whether the file here is as it was when it was fetched from this blob."""
        if (
            known.source != self.source(wanted.blob)
            or not stat.S_ISREG(here.st_mode)
            or (known.size, known.mtime_ns) != (here.st_size, here.st_mtime_ns)
        ):
            return False
        return known.clean or (known.md5 is not None and md5_of(wanted.path) == known.md5)

    def _skip(self, known: Fetched) -> None:
        self._tally.skipped += 1
        if not known.clean:
            self._state.record(known)


def _same_source(known: Fetched, blob: BlobInfo) -> bool:
    return (blob.etag != "" and blob.etag == known.etag) or (blob.md5 is not None and blob.md5 == known.md5)


def files_apart_from_folders(blobs: Iterable[BlobInfo], tally: Tally) -> Iterator[BlobInfo]:
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
                tally.refuse(one.name, "there is a folder of this name too")
        if not (blob.size == 0 and blob.name.endswith("/")):  # some tools mark empty folders so
            held.append(blob)
    yield from reversed(held)
