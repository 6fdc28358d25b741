"""Storing files: small ones in one request, large ones in blocks, several at once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
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
from himl_cli.workspaces.azure.storage.curl import CurlPool, CurlRequest, CurlResponse
from himl_cli.workspaces.azure.storage.failures import BlocksUnsupported
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
                return _SmallFile(request, self).task()
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


class _FileTask(Task):
    """Some requests for one file: *attempt* and *fail* are the task's own."""

    def __init__(
        self,
        request: StoreRequest,
        uploads: _Uploads,
        attempt: Callable[[_FileTask], Attempt],
        fail: Callable[[HimlError], None],
    ) -> None:
        super().__init__(request.name, uploads.endpoint, uploads.retries)
        self._request = request
        self._attempt = attempt
        self._fail = fail

    def attempt(self) -> Attempt:
        return self._attempt(self)

    def fail(self, error: HimlError) -> None:
        self._fail(error)

    def put(self, *headers: str, md5: bytes, query: str = "", **options: Any) -> CurlRequest:
        """A request that sends bytes with this MD5."""
        return self.request(f"Content-MD5: {md5_text(md5)}", *headers, "Expect:", query=query, method="PUT", **options)

    def put_blob(self, md5: bytes, **options: Any) -> CurlRequest:
        """A request that sends a whole blob; the service checks its MD5 and keeps it."""
        headers = (*self.condition(), "x-ms-blob-type: BlockBlob", f"Content-Type: {media_type(self.name)}")
        return self.put(*headers, md5=md5, **options)

    def condition(self) -> list[str]:
        """The header that makes the service store it only where nothing else was put there meanwhile."""
        replaces = self._request.replaces
        if replaces is None:
            return []
        return [f'If-Match: "{replaces}"' if replaces else "If-None-Match: *"]

    def check_stored(self, response: CurlResponse) -> None:
        """Raises AttemptFailed unless *response* says that what was put is stored.

        A digest that was made from the very bytes that were sent is right: where the service finds another, they were
        damaged on the way.
        """
        if not response.is_complete or response.status != 201:
            failure = self.failure(response)
            raise AttemptFailed(replace(failure, may_pass=True) if failure.code == "Md5Mismatch" else failure)
        self.progressed()

    def commit(self, request: CurlRequest, md5: bytes) -> Generator[CurlRequest, CurlResponse, BlobInfo]:
        """Store it by *request*, where its name still has what was there when it was decided to store it.

        Where it has not, the blob is looked at: with our content it is ours, stored by an attempt whose response was
        lost, or as good.
        """
        response = yield request
        try:
            self.check_stored(response)
        except AttemptFailed as failed:
            if self._request.replaces is None or (response.status, failed.failure.code) not in _SOMEBODY_ELSES:
                raise
            response = yield self.request(method="HEAD")
            self.check(response, 200, 404)
            there = properties_of(response, self.name).blob if response.status == 200 else None
            if there is None or (there.size, there.md5) != (self._request.size, md5):
                where = self.endpoint.label
                text = f"'{self.name}' in {where} was changed by somebody else meanwhile; it is left as it is."
                raise AttemptFailed(Failure(BlobChanged(text, hint="Run the command again."))) from None
        return stored_blob(response, self._request, md5)


class _SmallFile:
    """A file that goes in one request; its bytes are kept for another attempt."""

    def __init__(self, request: StoreRequest, uploads: _Uploads) -> None:
        self._request = request
        self._uploads = uploads
        self._body: bytes | None = None
        self._md5 = b""

    def task(self) -> Task:
        """What stores it; not kept here, since a cycle of references would keep the bytes."""
        return _FileTask(self._request, self._uploads, self._attempt, self._fail)

    def _attempt(self, task: _FileTask) -> Attempt:
        if self._body is None:
            self._body, self._md5 = file_content(self._request)
        try:
            blob = yield from task.commit(task.put_blob(self._md5, body=self._body), self._md5)
        except AttemptFailed as failed:
            if failed.failure.code == "Md5Mismatch" and self._is_changed():
                raise AttemptFailed(Failure(file_changed(self._request))) from None
            raise
        self._uploads.memory.release(self._request.size)
        self._uploads.sink.advance(self._request, self._request.size)
        self._uploads.sink.finish(self._request, blob)

    def _is_changed(self) -> bool:
        """Whether the file was not any more what had been digested when it was read."""
        return hashlib.md5(self._body or b"", usedforsecurity=False).digest() != self._md5

    def _fail(self, error: HimlError) -> None:
        self._body = None
        self._uploads.memory.release(self._request.size)
        self._uploads.sink.fail(self._request, error)


class _LargeFile:
    """A large file on its way up: blocks, several at once, then the list that makes them a blob.

    Blocks that an earlier attempt left are not sent again. What had the name keeps it until the list of blocks is
    stored. A blob that the service does not let be made of blocks is sent whole instead.
    """

    def __init__(self, request: StoreRequest, uploads: _Uploads) -> None:
        self._request = request
        self._uploads = uploads
        self._state = file_state(request)
        self._left: frozenset[str] | None = None  # ids of blocks that an earlier attempt left, once they are known
        self._reader: BlockReader | None = None
        self._ids: list[str] = []
        self._in_flight = self._advanced = 0
        self._is_whole = self._is_whole_sent = False
        self.is_reading = False  # blocks will come that are not there yet
        self.is_over = False
        self.tasks = self._tasks()

    def _tasks(self) -> Iterator[Task | None]:
        """The requests there are to make; None only while one is under way, or `is_reading`."""
        try:
            yield self._task(self._list_blocks)
            while self._is_in_blocks() and self._left is None:
                yield None
            if self._is_in_blocks():
                reader = self._reader = BlockReader(self._request, self._uploads.memory)
                self.is_reading = True
                while self._is_in_blocks() and not reader.is_through:
                    yield self._next_block(reader)  # held by no variable here, nor are its bytes
                self.is_reading = False
            while not self.is_over and self._in_flight:
                yield None
            if self._is_in_blocks():
                if file_state(self._request) != self._state:  # no longer what was read
                    raise file_changed(self._request)
                yield self._task(partial(self._put_list, reader.md5))
            while self._is_in_blocks():
                yield None
            if not self.is_over:
                self._is_whole_sent = True
                yield self._task(partial(self._put_whole, file_md5(self._request)))
        except HimlError as error:
            self._fail(error)

    def _is_in_blocks(self) -> bool:
        return not self.is_over and not self._is_whole

    def _task(
        self, attempt: Callable[[_FileTask], Attempt], fail: Callable[[HimlError], None] | None = None
    ) -> _FileTask:
        return _FileTask(self._request, self._uploads, attempt, fail or self._fail)

    def _list_blocks(self, task: _FileTask) -> Attempt:
        """Ask which blocks an earlier attempt left; whoever may not read the list sends them all."""
        response = yield task.request(query="comp=blocklist&blocklisttype=uncommitted")
        task.check(response, 200, 403, 404)
        names = _BLOCK_NAMES.findall(response.take()) if response.status == 200 else []
        self._left = frozenset(name.decode("ascii", "replace") for name in names)

    def _next_block(self, reader: BlockReader) -> Task | None:
        while (block := reader.next()) is not None:
            self._ids.append(block.id)
            if self._left is None or block.id not in self._left:
                self._in_flight += 1
                return self._task(partial(self._put_block, block), partial(self._block_ended, len(block.body)))
            self._uploads.memory.release(len(block.body))
        return None

    def _put_block(self, block: Block, task: _FileTask) -> Attempt:
        query = f"comp=block&blockid={quote(block.id, safe='')}"
        kind = "Content-Type: application/octet-stream"
        response = yield task.put(kind, md5=block.md5, query=query, body=block.body)
        task.check_stored(response)
        self._block_ended(len(block.body))

    def _block_ended(self, size: int, error: HimlError | None = None) -> None:
        """A block of *size* bytes was stored, or failed."""
        self._uploads.memory.release(size)
        self._in_flight -= 1
        if error is not None:
            self._fail(error)
        elif not self.is_over:
            self._advance(size)

    def _put_list(self, md5: bytes, task: _FileTask) -> Attempt:
        """Make the blob of its blocks, with the whole file's MD5 beside it."""
        listed = "".join(f"<Latest>{one}</Latest>" for one in self._ids)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
        request = task.put(
            *task.condition(),
            f"x-ms-blob-content-md5: {md5_text(md5)}",
            f"x-ms-blob-content-type: {media_type(task.name)}",
            "Content-Type: application/xml",
            md5=hashlib.md5(body, usedforsecurity=False).digest(),
            query="comp=blocklist",
            body=body,
        )
        self._stored((yield from task.commit(request, md5)))

    def _put_whole(self, md5: bytes, task: _FileTask) -> Attempt:
        """Send all in one request, read as it goes."""
        if file_state(self._request) != self._state:
            raise file_changed(self._request)
        blob = yield from task.commit(task.put_blob(md5, file=self._request.path), md5)
        self._advance(self._request.size - self._advanced)
        self._stored(blob)

    def _advance(self, amount: int) -> None:
        self._advanced += amount
        self._uploads.sink.advance(self._request, amount)

    def _stored(self, blob: BlobInfo) -> None:
        self.is_over = True
        self._uploads.sink.finish(self._request, blob)

    def _fail(self, error: HimlError) -> None:
        if self.is_over:
            return
        if isinstance(error, BlocksUnsupported) and self._request.size <= MOST_WHOLE and not self._is_whole_sent:
            self._is_whole = True
            self._stop_reading()
            return
        self.close()
        self._uploads.sink.fail(self._request, error)

    def close(self) -> None:
        """Stop reading the file; nothing more is asked for."""
        self.is_over = True
        self._stop_reading()

    def _stop_reading(self) -> None:
        self.is_reading = False
        if self._reader is not None:
            self._reader.close()
