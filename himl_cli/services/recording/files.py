"""Telling a run's files: logs as they grow, others once they stay as they are, and all of them at the end."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import DiskFailed, HimlError
from himl_cli.services.recording.ends import is_refusal, passes
from himl_cli.services.recording.note import Told
from himl_cli.workspaces.base import FolderWorkspace, RunRecorder

log = logging.getLogger(__name__)

WORKERS = 8
LOGS = ("user_logs/", "logs/")
SECONDS_TO_SETTLE = 2.0
"""A file that is so long as it is counts as written."""
SECONDS_AT_MOST = 60.0
"""One that never is gets told so often all the same."""
BYTES_A_SECOND = 1 << 18
"""A log is told whole each time it grew, and the larger it is the more seldom, so that not more than this goes out on
average."""
TRIES_AT_THE_END = 3
CHUNK = 1 << 20


@dataclass
class _Seen:
    """A file as it was met last, since when it is so, and when it was told last (or met first)."""

    etag: str
    since: float
    told: float


@dataclass
class _Hearing:
    """Hears which files of one round arrived."""

    arrived: list[StoreRequest] = field(default_factory=list)
    failed: list[tuple[StoreRequest, HimlError]] = field(default_factory=list)

    def advance(self, request: StoreRequest, amount: int) -> None:
        """Nobody watches."""

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        self.arrived.append(request)

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        self.failed.append((request, error))


class FileTelling:
    """The files of one run."""

    def __init__(
        self,
        here: FolderWorkspace,
        there: RunRecorder,
        run_id: str,
        told: Told,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._here = here
        self._there = there
        self._run_id = run_id
        self._told = told
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    def tell(self, *, is_last: bool = False) -> bool:
        """Tell the files that are due; whether there were any. What is not taken is named in the log and passed over.

        With *is_last* all of them, as they are now. Raises what passes, and what concerns all of them; what arrived
        counts all the same.
        """
        for _ in range(TRIES_AT_THE_END if is_last else 1):
            due = [*self._due(is_last=is_last)]
            if not due:
                return False
            left = self._send(due)
            if not left:
                return True
        if is_last:
            for name in left:
                log.warning("'%s' of run '%s' could not be told: it does not stay as it is.", name, self._run_id)
        return True

    def _due(self, *, is_last: bool) -> Iterator[BlobInfo]:
        now = self._clock()
        for page in self._here.run_files(self._run_id).list():
            for blob in page:
                if self._told.files.get(blob.name) != blob.etag and (is_last or self._is_ready(blob, now)):
                    yield blob

    def _is_ready(self, blob: BlobInfo, now: float) -> bool:
        pause = blob.size / BYTES_A_SECOND
        seen = self._seen.get(blob.name)
        if blob.name.startswith(LOGS):
            return seen is None or now - seen.told >= max(SECONDS_TO_SETTLE, pause)
        if seen is None:
            seen = self._seen[blob.name] = _Seen(blob.etag, now, now)
        elif seen.etag != blob.etag:
            seen.etag, seen.since = blob.etag, now
        return now - seen.since >= SECONDS_TO_SETTLE or now - seen.told >= max(SECONDS_AT_MOST, pause)

    def _send(self, due: list[BlobInfo]) -> list[str]:
        """Send *due*; the names of those that changed meanwhile."""
        hearing, etags = _Hearing(), {blob.name: blob.etag for blob in due}
        with tempfile.TemporaryDirectory(prefix="himl-") as aside:
            try:
                self._there.run_files(self._run_id).store(self._requests(due, Path(aside)), hearing, workers=WORKERS)
            finally:
                for request in hearing.arrived:
                    self._note(request.name, etags[request.name])
        return self._left(hearing, etags)

    def _requests(self, due: list[BlobInfo], aside: Path) -> Iterator[StoreRequest]:
        for number, blob in enumerate(due):
            path = self._here.file_path(self._run_id, blob.name)
            if path is None:
                continue
            if blob.name.startswith(LOGS):
                copy = aside / str(number)
                if not _copied(path, copy, blob.size):
                    continue
                path = copy
            yield StoreRequest(path, blob.name, blob.size)

    def _left(self, hearing: _Hearing, etags: dict[str, str]) -> list[str]:
        left, files = [], self._here.run_files(self._run_id)
        for request, error in hearing.failed:
            if (passes(error) and not isinstance(error, DiskFailed)) or is_refusal(error):
                raise error
            now = files.stat(request.name)
            if now is not None and now.etag == etags[request.name]:
                log.warning("'%s' of run '%s' was not taken: %s", request.name, self._run_id, error)
                self._note(request.name, now.etag)
            elif now is not None:
                left.append(request.name)
        return left

    def _note(self, name: str, etag: str) -> None:
        now = self._clock()
        self._told.files[name] = etag
        self._seen[name] = _Seen(etag, now, now)


def _copied(path: Path, copy: Path, size: int) -> bool:
    """Keep the first *size* bytes of a file that may grow; False where it is gone, or shorter by now."""
    try:
        with path.open("rb") as source, copy.open("wb") as target:
            left = size
            while left and (piece := source.read(min(left, CHUNK))):
                target.write(piece)
                left -= len(piece)
    except FileNotFoundError:
        return False
    except OSError as err:
        raise DiskFailed(
            f"Cannot copy '{path}': {err.strerror}.", hint="Is there room in the folder for temporary files?"
        ) from err
    return left == 0
