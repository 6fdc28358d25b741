"""Storing files: small ones in one request, large ones in blocks, several at once."""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import BlobChanged, HimlError
from himl_cli.workspaces.azure.storage.blocks import (
    Block,
    BlockReader,
    MemoryBudget,
    file_changed,
    file_content,
    file_md5,
    file_state,
)
from himl_cli.workspaces.azure.storage.curl import CurlPool, CurlRequest
from himl_cli.workspaces.azure.storage.errors import BlocksUnsupported
from himl_cli.workspaces.azure.storage.properties import (
    md5_text,
    media_type,
    properties_of,
    reason_not_to_store,
    stored_blob,
)
from himl_cli.workspaces.azure.storage.scheduler import Attempt, AttemptFailed, Scheduler, Task
from himl_cli.workspaces.azure.storage.signing import Endpoint
from himl_cli.workspaces.base import StoreSink
from himl_cli.workspaces.retry import Failure, RetryPolicy, RetryState

SINGLE = 8 << 20  # bytes; up to here a file goes in one request
MEMORY = 32 << 20  # bytes of files in memory at once
LARGE_AT_ONCE = 8
MOST_WHOLE = 5000 << 20  # bytes in one request, says the service
_BLOCK_NAMES = re.compile(rb"<Name>([^<]+)</Name>")
_SOMEBODY_ELSES = {
    (409, "BlobAlreadyExists"),
    (412, "ConditionNotMet"),
    (412, "TargetConditionNotMet"),
    (404, "BlobNotFound"),
}


def store_blobs(
    requests: Iterable[StoreRequest],
    sink: StoreSink,
    endpoint: Endpoint,
    pool: CurlPool,
    policy: RetryPolicy,
    *,
    workers: int,
    on_step: Callable[[], object] = bool,
) -> None:
    """As `BlobStore.store`: up to 8 MiB in one request, above in blocks; every request carries the MD5 of its bytes."""
    uploads = _Uploads(iter(requests), sink, endpoint, RetryState(policy, endpoint.pauses))
    try:
        with pool.client() as client:
            Scheduler(client, uploads.next, workers, is_preparing=uploads.is_reading, on_step=on_step).run()
    finally:
        uploads.close()


class _Uploads:
    """The tasks that store *requests*, made as connections and memory get free."""

    def __init__(
        self, requests: Iterator[StoreRequest], sink: StoreSink, endpoint: Endpoint, retries: RetryState
    ) -> None:
        self._requests = requests
        self.sink = sink
        self.endpoint = endpoint
        self.retries = retries
        self.memory = MemoryBudget(MEMORY)
        self._large: list[_LargeFile] = []
        self._request: StoreRequest | None = None  # the next one

    def next(self) -> Task | None:
        for file in self._large:
            task = next(file.tasks, None)
            if task is not None:
                return task
        self._large = [file for file in self._large if not file.is_over]
        while True:
            request = self._request = self._request or next(self._requests, None)
            if request is None:
                return None
            if reason := reason_not_to_store(request.name):
                text = f"'{request.name}' cannot be stored in {self.endpoint.label}: {reason}."
                self.sink.fail(request, HimlError(text, hint="Rename it."))
            elif request.size <= SINGLE:
                if not self.memory.try_acquire(request.size):
                    return None
                self._request = None
                return _PutFile(request, self)
            elif len(self._large) >= LARGE_AT_ONCE:
                return None
            else:
                self._request = None
                self._large.append(_LargeFile(request, self))
                return next(self._large[-1].tasks, None)
            self._request = None

    def is_reading(self) -> bool:
        """Whether blocks will come that are not there yet."""
        return any(file.is_reading for file in self._large)

    def close(self) -> None:
        """Stop reading files."""
        for file in self._large:
            file.close()


class _Commit(Task):
    """Stores *request* on the condition that its name still has what was there when it was decided to store it.

    Where it has not, the blob is looked at: with our content it is ours, stored by an attempt whose response was lost,
    or as good.
    """

    def __init__(self, request: StoreRequest, uploads: _Uploads, md5: bytes = b"") -> None:
        super().__init__(request.name, uploads.endpoint, uploads.retries)
        self._stored = request
        self._md5 = md5
        self._is_taken = False

    @abstractmethod
    def put(self) -> CurlRequest:
        """The request that stores it. Raises HimlError."""

    @abstractmethod
    def done(self, blob: BlobInfo) -> None:
        """It is stored."""

    def put_failure(self, failure: Failure) -> Failure:
        """What *failure* of the request really is."""
        return _damaged_on_the_way(failure)

    def condition(self) -> list[str]:
        """The header that makes the service store it only where nothing else was put there meanwhile."""
        replaces = self._stored.replaces
        if replaces is None:
            return []
        return [f'If-Match: "{replaces}"' if replaces else "If-None-Match: *"]

    def blob_headers(self) -> list[str]:
        """Those of a whole blob."""
        return [
            *self.condition(),
            "x-ms-blob-type: BlockBlob",
            f"Content-Type: {media_type(self.name)}",
            f"Content-MD5: {md5_text(self._md5)}",
            "Expect:",
        ]

    def attempt(self) -> Attempt:
        if not self._is_taken:
            response = yield self.put()
            if response.is_complete and response.status == 201:
                self.progressed()
                self.done(stored_blob(response, self._stored, self._md5))
                return
            failure = self.failure(response)
            if self._stored.replaces is None or (response.status, failure.code) not in _SOMEBODY_ELSES:
                raise AttemptFailed(self.put_failure(failure))
            self._is_taken = True
        response = yield self.request(method="HEAD")
        self.check(response, 200, 404)
        there = properties_of(response, self.name).blob if response.status == 200 else None
        if there is None or (there.size, there.md5) != (self._stored.size, self._md5):
            text = (
                f"'{self.name}' in {self.endpoint.label} was changed by somebody else meanwhile; it is left as it is."
            )
            raise AttemptFailed(Failure(BlobChanged(text, hint="Run the command again.")))
        self.done(stored_blob(response, self._stored, self._md5))


def _damaged_on_the_way(failure: Failure) -> Failure:
    """A digest that was made from the very bytes that were sent is right: where the service finds another, they were
    damaged."""
    return Failure(failure.error, failure.code, may_pass=True) if failure.code == "Md5Mismatch" else failure


class _PutFile(_Commit):
    """A whole file as one blob; the service checks its MD5 and keeps it."""

    def __init__(self, request: StoreRequest, uploads: _Uploads) -> None:
        super().__init__(request, uploads)
        self._uploads = uploads
        self._body: bytes | None = None

    def put(self) -> CurlRequest:
        if self._body is None:
            self._body, self._md5 = file_content(self._stored)
        return self.request(*self.blob_headers(), method="PUT", body=self._body)

    def put_failure(self, failure: Failure) -> Failure:
        """A wrong MD5 is the file's own change since it was digested, or damage on the way."""
        body = self._body or b""
        if failure.code == "Md5Mismatch" and hashlib.md5(body, usedforsecurity=False).digest() != self._md5:
            return Failure(file_changed(self._stored))
        return super().put_failure(failure)

    def done(self, blob: BlobInfo) -> None:
        self._uploads.memory.release(self._stored.size)
        self._uploads.sink.advance(self._stored, self._stored.size)
        self._uploads.sink.finish(self._stored, blob)

    def fail(self, error: HimlError) -> None:
        self._body = None
        self._uploads.memory.release(self._stored.size)
        self._uploads.sink.fail(self._stored, error)


class _LargeFile:
    """A large file on its way up: blocks, several at once, then the list that makes them a blob.

    Blocks that an earlier attempt left are not sent again. What had the name keeps it until the list of blocks is
    stored. A blob that the service does not let be made of blocks is sent whole instead.
    """

    def __init__(self, request: StoreRequest, uploads: _Uploads) -> None:
        self.request = request
        self.uploads = uploads
        self.state = file_state(request)
        self.left: frozenset[str] | None = None  # ids of blocks that an earlier attempt left, once they are known
        self.in_flight = 0
        self.is_over = False
        self._reader: BlockReader | None = None
        self._ids: list[str] = []
        self._advanced = 0
        self._is_whole = self._is_whole_sent = False
        self.tasks = self._tasks()

    @property
    def is_reading(self) -> bool:
        """Whether blocks will come that are not there yet."""
        return self._is_in_blocks() and self._reader is not None and not self._reader.is_through

    def _is_in_blocks(self) -> bool:
        return not self.is_over and not self._is_whole

    def _tasks(self) -> Iterator[Task | None]:
        """The requests there are to make; None only while one is under way, or `is_reading`."""
        try:
            yield _ListBlocks(self)
            while self._is_in_blocks() and self.left is None:
                yield None
            if self._is_in_blocks():
                reader = self._reader = BlockReader(self.request, self.uploads.memory)
                while self._is_in_blocks() and ((task := self._next_block(reader)) or not reader.is_through):
                    yield task
                while self._is_in_blocks() and self.in_flight:
                    yield None
                if self._is_in_blocks():
                    if file_state(self.request) != self.state:  # no longer what was read
                        raise file_changed(self.request)
                    yield _PutBlockList(self, self._ids, reader.md5)
                while self._is_in_blocks():
                    yield None
            while not self.is_over and self.in_flight:
                yield None
            if not self.is_over:
                self._is_whole_sent = True
                yield _PutWhole(self, file_md5(self.request))
        except HimlError as error:
            self.fail(error)

    def _next_block(self, reader: BlockReader) -> Task | None:
        while (block := reader.next()) is not None:
            self._ids.append(block.id)
            if self.left is None or block.id not in self.left:
                self.in_flight += 1
                return _PutBlock(self, block)
            self.uploads.memory.release(len(block.body))
        return None

    def block_ended(self, size: int, error: HimlError | None = None) -> None:
        """A block of *size* bytes was stored, or failed."""
        self.uploads.memory.release(size)
        self.in_flight -= 1
        if error is not None:
            self.fail(error)
        elif not self.is_over:
            self._advance(size)

    def _advance(self, amount: int) -> None:
        self._advanced += amount
        self.uploads.sink.advance(self.request, amount)

    def stored(self, blob: BlobInfo) -> None:
        if self._is_whole:
            self._advance(self.request.size - self._advanced)
        self.is_over = True
        self.uploads.sink.finish(self.request, blob)

    def fail(self, error: HimlError) -> None:
        if self.is_over:
            return
        if isinstance(error, BlocksUnsupported) and self.request.size <= MOST_WHOLE and not self._is_whole_sent:
            self._is_whole = True
            self._stop_reading()
            return
        self.close()
        self.uploads.sink.fail(self.request, error)

    def close(self) -> None:
        """Stop reading the file; nothing more is asked for."""
        self.is_over = True
        self._stop_reading()

    def _stop_reading(self) -> None:
        if self._reader is not None:
            self._reader.close()


class _ListBlocks(Task):
    """Asks which blocks an earlier attempt left; whoever may not read the list sends them all."""

    def __init__(self, file: _LargeFile) -> None:
        super().__init__(file.request.name, file.uploads.endpoint, file.uploads.retries)
        self._file = file

    def attempt(self) -> Attempt:
        response = yield self.request(query="comp=blocklist&blocklisttype=uncommitted")
        self.check(response, 200, 403, 404)
        names = _BLOCK_NAMES.findall(response.take()) if response.status == 200 else []
        self._file.left = frozenset(name.decode("ascii", "replace") for name in names)

    def fail(self, error: HimlError) -> None:
        self._file.fail(error)


class _PutBlock(Task):
    """Sends one block; the service checks its MD5."""

    def __init__(self, file: _LargeFile, block: Block) -> None:
        super().__init__(file.request.name, file.uploads.endpoint, file.uploads.retries)
        self._file = file
        self._block: Block | None = block  # None once it ended, so that nobody keeps its bytes
        self._size = len(block.body)

    def attempt(self) -> Attempt:
        response = yield self._put()
        if not response.is_complete or response.status != 201:
            raise AttemptFailed(_damaged_on_the_way(self.failure(response)))
        self.progressed()
        self._block = None
        self._file.block_ended(self._size)

    def _put(self) -> CurlRequest:
        assert self._block is not None
        return self.request(
            f"Content-MD5: {md5_text(self._block.md5)}",
            "Content-Type: application/octet-stream",
            "Expect:",
            query=f"comp=block&blockid={quote(self._block.id, safe='')}",
            method="PUT",
            body=self._block.body,
        )

    def fail(self, error: HimlError) -> None:
        self._block = None
        self._file.block_ended(self._size, error)


class _CommitLarge(_Commit):
    """Makes a large file's blob."""

    def __init__(self, file: _LargeFile, md5: bytes) -> None:
        super().__init__(file.request, file.uploads, md5)
        self._file = file

    def done(self, blob: BlobInfo) -> None:
        self._file.stored(blob)

    def fail(self, error: HimlError) -> None:
        self._file.fail(error)


class _PutWhole(_CommitLarge):
    """Sends a large file in one request, read as it goes; the service checks its MD5."""

    def put(self) -> CurlRequest:
        if file_state(self._stored) != self._file.state:
            raise file_changed(self._stored)
        return self.request(*self.blob_headers(), method="PUT", file=self._stored.path)


class _PutBlockList(_CommitLarge):
    """Makes the blob of its blocks, with the whole file's MD5 beside it."""

    def __init__(self, file: _LargeFile, ids: Iterable[str], md5: bytes) -> None:
        super().__init__(file, md5)
        listed = "".join(f"<Latest>{one}</Latest>" for one in ids)
        self._body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()

    def put(self) -> CurlRequest:
        return self.request(
            *self.condition(),
            f"Content-MD5: {md5_text(hashlib.md5(self._body, usedforsecurity=False).digest())}",
            f"x-ms-blob-content-md5: {md5_text(self._md5)}",
            f"x-ms-blob-content-type: {media_type(self.name)}",
            "Content-Type: application/xml",
            "Expect:",
            query="comp=blocklist",
            method="PUT",
            body=self._body,
        )
