"""Uploads: small files in one request, large ones in blocks, several at once, which a thread reads ahead.

Each file is read once and watched for changes. Every request carries the MD5 of its content.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from base64 import b64encode
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import quote

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import BlobChanged, DiskFailed, HimlError
from himl_cli.core.records import dataclass
from himl_cli.workspaces.azure.storage.blob_responses import (
    BlocksUnsupported,
    StorageEndpoint,
    properties_of,
    stored_blob,
)
from himl_cli.workspaces.azure.storage.signing import media_type, reason_not_to_store
from himl_cli.workspaces.base import StoreSink
from himl_cli.workspaces.retry import Failure, RetryPolicy, RetryState
from himl_cli.workspaces.transfer_engine.curl import CurlPool, CurlRequest, CurlResponse
from himl_cli.workspaces.transfer_engine.scheduler import Attempt, AttemptFailed, Scheduler, Task

SINGLE = 8 << 20  # bytes of the largest file in one request
BLOCK = 4 << 20
MOST_BLOCKS = 50_000  # in one blob, the service's limit
_CONFLICTS = {
    (409, "BlobAlreadyExists"),
    (412, "ConditionNotMet"),
    (412, "TargetConditionNotMet"),
    (404, "BlobNotFound"),
}


def store_blobs(
    requests: Iterable[StoreRequest],
    sink: StoreSink,
    endpoint: StorageEndpoint,
    pool: CurlPool,
    policy: RetryPolicy,
    *,
    workers: int,
    on_step: Callable[[], object] = bool,
) -> None:
    """As `BlobStore.store`."""
    uploads = _Uploads(requests, sink, endpoint, RetryState(policy, endpoint.pauses))
    try:
        with pool.client() as client:
            Scheduler(client, uploads.next, workers, is_preparing=uploads.is_reading, on_step=on_step).run()
    finally:
        uploads.close()


class _Uploads:
    def __init__(
        self, requests: Iterable[StoreRequest], sink: StoreSink, endpoint: StorageEndpoint, retries: RetryState
    ) -> None:
        self.sink = sink
        self.endpoint = endpoint
        self.retries = retries
        self.memory = MemoryBudget(32 << 20)
        self._large: list[_LargeFile] = []
        self._new = self._of_new_files(requests)

    def next(self) -> Task | None:
        for file in self._large:
            task = next(file.tasks, None)
            if task is not None:
                return task
        self._large = [file for file in self._large if not file.is_over]
        return next(self._new, None)

    def _of_new_files(self, requests: Iterable[StoreRequest]) -> Iterator[Task | None]:
        for request in requests:
            if reason := reason_not_to_store(request.name):
                self.sink.fail(
                    request,
                    HimlError(
                        f"himl cannot store '{request.name}' in {self.endpoint.label}: {reason}.", hint="Rename it."
                    ),
                )
            elif request.size <= SINGLE:
                while not self.memory.try_acquire(request.size):
                    yield None
                yield _SmallFile(request, self)  # no variable here keeps it or its bytes
            else:
                while len(self._large) >= 8:
                    yield None
                self._large.append(_LargeFile(request, self))
                yield next(self._large[-1].tasks, None)

    def is_reading(self) -> bool:
        return any(file.is_reading for file in self._large)

    def close(self) -> None:
        for file in self._large:
            file.close()


class _FileTask(Task):
    def __init__(self, file: StoreRequest, uploads: _Uploads) -> None:
        super().__init__(file.name, uploads.endpoint, uploads.retries)
        self.file = file
        self.uploads = uploads

    def put(self, *headers: str, md5: bytes, is_final: bool = True, **options: Any) -> CurlRequest:
        """A request for content with this MD5. The service refuses an *is_final* one if other content was stored since
        the decision to store the file."""
        replaces = self.file.replaces
        if is_final and replaces is not None:
            headers = (*headers, f'If-Match: "{replaces}"' if replaces else "If-None-Match: *")
        return self.request(f"Content-MD5: {b64encode(md5).decode()}", *headers, "Expect:", method="PUT", **options)

    def put_blob(self, md5: bytes, **options: Any) -> CurlRequest:
        return self.put("x-ms-blob-type: BlockBlob", f"Content-Type: {media_type(self.name)}", md5=md5, **options)

    def check_stored(self, response: CurlResponse) -> None:
        """Raise AttemptFailed unless *response* confirms that the content is stored.

        A digest of the very bytes that were sent is right. If the service finds another, they were damaged on the way.
        """
        if not response.is_complete or response.status != 201:
            failure = self.failure(response)
            raise AttemptFailed(replace(failure, may_pass=True) if failure.code == "Md5Mismatch" else failure)
        self.progressed()

    def commit(self, request: CurlRequest, md5: bytes) -> Generator[CurlRequest, CurlResponse, BlobInfo]:
        """Send the final *request*. If the service refuses it because the blob changed meanwhile, check the blob. With
        our content, an attempt without a response stored it, or an equal upload did."""
        response = yield request
        try:
            self.check_stored(response)
        except AttemptFailed as failed:
            if self.file.replaces is None or (response.status, failed.failure.code) not in _CONFLICTS:
                raise
            response = yield self.request(method="HEAD")
            self.check(response, 200, 404)
            there = properties_of(response, self.name).blob if response.status == 200 else None
            if there is None or (there.size, there.md5) != (self.file.size, md5):
                error = BlobChanged(
                    f"Another program changed '{self.name}' in {self.endpoint.label} during the upload. himl did not "
                    "replace it.",
                    hint="Run the command again.",
                )
                raise AttemptFailed(Failure(error)) from None
        return stored_blob(response, self.file, md5)


class _SmallFile(_FileTask):
    _body: bytes | None = None
    _md5 = b""

    def attempt(self) -> Attempt:
        if self._body is None:
            self._body = b"".join(file_pieces(self.file, SINGLE))
            self._md5 = self.file.md5 or hashlib.md5(self._body, usedforsecurity=False).digest()
        try:
            blob = yield from self.commit(self.put_blob(self._md5, content=self._body), self._md5)
        except AttemptFailed as failed:
            if (
                failed.failure.code == "Md5Mismatch"
                and hashlib.md5(self._body, usedforsecurity=False).digest() != self._md5
            ):  # the file differed from its digest when it was read
                raise AttemptFailed(Failure(_file_changed(self.file))) from None
            raise
        self.uploads.memory.release(self.file.size)
        self.uploads.sink.advance(self.file, self.file.size)
        self.uploads.sink.finish(self.file, blob)

    def fail(self, error: HimlError) -> None:
        self._body = None
        self.uploads.memory.release(self.file.size)
        self.uploads.sink.fail(self.file, error)


class _PartTask(_FileTask):
    def __init__(
        self, large: _LargeFile, attempt: Callable[[_PartTask], Attempt], fail: Callable[[HimlError], None]
    ) -> None:
        super().__init__(large.file, large.uploads)
        self._attempt = attempt
        self._fail = fail

    def attempt(self) -> Attempt:
        return self._attempt(self)

    def fail(self, error: HimlError) -> None:
        self._fail(error)


class _LargeFile:
    """A large upload: blocks, several at once, then the list that makes them a blob.

    Blocks of an earlier attempt are not sent again. A blob of that name stays until the list of blocks is stored. If
    the service does not accept blocks for a blob, the file is sent whole.
    """

    def __init__(self, file: StoreRequest, uploads: _Uploads) -> None:
        self.file = file
        self.uploads = uploads
        self.reader: BlockReader | None = None
        self.is_over = self.is_reading = False
        self.tasks = self._tasks()
        self._state = _state_now(file)
        self._left: frozenset[str] | None = None  # ids of blocks of an earlier attempt, once known
        self._ids: list[str] = []
        self._in_flight = self._advanced = 0
        self._is_in_blocks, self._is_whole_sent = True, False

    def _tasks(self) -> Iterator[Task | None]:
        """The possible requests, or None only while one is in progress or the file is being read."""
        try:
            yield _PartTask(self, self._list_blocks, self._fail)
            while self._is_in_blocks and self._left is None:
                yield None
            if self._is_in_blocks:
                self.reader, self.is_reading = BlockReader(self.file, self.uploads.memory), True
            while self.reader is not None and not self.reader.is_through:
                yield self._next_block(self.reader)  # no variable here keeps it or its bytes
            self.is_reading = False
            while not self.is_over and self._in_flight:
                yield None
            if self._is_in_blocks:
                if _state_now(self.file) != self._state:  # the file changed since it was read
                    raise _file_changed(self.file)
                yield _PartTask(self, self._put_list, self._fail)
            while self._is_in_blocks:
                yield None
            if not self.is_over:
                self._is_whole_sent = True
                digest = hashlib.md5(usedforsecurity=False)
                for piece in file_pieces(self.file, 1 << 20):
                    digest.update(piece)
                if self.file.md5 not in (None, digest.digest()):
                    raise _file_changed(self.file)
                yield _PartTask(self, partial(self._put_whole, digest.digest()), self._fail)
        except HimlError as error:
            self._fail(error)

    def _list_blocks(self, task: _PartTask) -> Attempt:
        """Request the blocks of an earlier attempt. Without permission to read the list, all are sent."""
        response = yield task.request(query="comp=blocklist&blocklisttype=uncommitted")
        task.check(response, 200, 403, 404)
        names = re.findall(rb"<Name>([^<]+)</Name>", response.take() if response.status == 200 else b"")
        self._left = frozenset(name.decode("ascii", "replace") for name in names)

    def _next_block(self, reader: BlockReader) -> Task | None:
        while (block := reader.next()) is not None:
            self._ids.append(block.id)
            if self._left is None or block.id not in self._left:
                self._in_flight += 1
                return _PartTask(self, partial(self._put_block, block), partial(self._block_ended, len(block.body)))
            self.uploads.memory.release(len(block.body))
        return None

    def _put_block(self, block: Block, task: _PartTask) -> Attempt:
        response = yield task.put(
            "Content-Type: application/octet-stream",
            md5=block.md5,
            is_final=False,
            query=f"comp=block&blockid={quote(block.id, safe='')}",
            content=block.body,
        )
        task.check_stored(response)
        self._block_ended(len(block.body))

    def _block_ended(self, size: int, error: HimlError | None = None) -> None:
        self.uploads.memory.release(size)
        self._in_flight -= 1
        if error is not None:
            self._fail(error)
        elif not self.is_over:
            self._advanced += size
            self.uploads.sink.advance(self.file, size)

    def _put_list(self, task: _PartTask) -> Attempt:
        assert self.reader is not None
        md5 = self.reader.md5
        listed = "".join(f"<Latest>{one}</Latest>" for one in self._ids)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
        request = task.put(
            f"x-ms-blob-content-md5: {b64encode(md5).decode()}",
            f"x-ms-blob-content-type: {media_type(task.name)}",
            "Content-Type: application/xml",
            md5=hashlib.md5(body, usedforsecurity=False).digest(),
            query="comp=blocklist",
            content=body,
        )
        blob = yield from task.commit(request, md5)
        self.close()
        self.uploads.sink.finish(self.file, blob)

    def _put_whole(self, md5: bytes, task: _PartTask) -> Attempt:
        if _state_now(self.file) != self._state:
            raise _file_changed(self.file)
        blob = yield from task.commit(task.put_blob(md5, file=self.file.path), md5)
        self.uploads.sink.advance(self.file, self.file.size - self._advanced)
        self.close()
        self.uploads.sink.finish(self.file, blob)

    def _fail(self, error: HimlError) -> None:
        if self.is_over:
            return
        if isinstance(error, BlocksUnsupported) and self.file.size <= 5000 << 20 and not self._is_whole_sent:
            self.close(is_over=False)
        else:
            self.close()
            self.uploads.sink.fail(self.file, error)

    def close(self, *, is_over: bool = True) -> None:
        self.is_over, self._is_in_blocks = is_over, False
        if self.reader is not None:
            self.reader.close()


class MemoryBudget:
    """A budget of bytes. A larger item must be alone. For one thread."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0

    def try_acquire(self, amount: int) -> bool:
        if self._taken and self._taken + amount > self._size:
            return False
        self._taken += amount
        return True

    def release(self, amount: int) -> None:
        self._taken -= amount


@dataclass(frozen=True, slots=True)
class Block:
    """The bytes for block `id`, and their MD5."""

    id: str
    body: bytes
    md5: bytes


def block_size(size: int) -> int:
    return max(BLOCK, -(-size // MOST_BLOCKS // (1 << 20)) << 20)


def block_id(index: int, md5: bytes) -> str:
    """An id from a block's position and content, which identifies a block of an earlier attempt. All have one
    length."""
    return b64encode(index.to_bytes(4, "big") + md5 + b"himl").decode()


class BlockReader:
    """A thread that reads a file block by block, one while `next` waits for another.

    `next` returns the blocks in order. Then it `is_through`, and `md5` is that of the whole. Memory is reserved before
    a block is read, and the receiver of the block releases it. Ctrl-C may arrive within `next`, so the queues are the
    interpreter's own, which stay unlocked then.
    """

    def __init__(self, file: StoreRequest, memory: MemoryBudget) -> None:
        self._file = file
        self._memory = memory
        self._left = file.size  # bytes that are not ordered yet
        self._in_hand = 0  # bytes that are ordered, but not returned by `next` yet
        self._orders: SimpleQueue[bool] = SimpleQueue()  # True for each block to read, False for the end
        self._read: SimpleQueue[Block | Exception | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="himl-blocks", daemon=True)
        self.md5 = b""
        self.is_through = False
        self._thread.start()

    def next(self) -> Block | None:
        """The next block, or None if it is not ready or there are no more.

        Raises HimlError if the file changed or is unreadable, and RuntimeError if the thread ended for another reason.
        """
        size = block_size(self._file.size)
        while self._left and self._in_hand <= size and self._memory.try_acquire(min(size, self._left)):
            self._in_hand += min(size, self._left)
            self._left -= min(size, self._left)
            self._orders.put(True)
        try:
            found = self._read.get_nowait()
        except Empty:
            return None
        if isinstance(found, Block):
            self._in_hand -= len(found.body)
            return found
        self.is_through = True
        self._thread.join()
        if found is not None:
            raise found
        return None

    def close(self) -> None:
        """Stop reading, and drop the blocks that `next` has not returned."""
        self.is_through = True
        self._orders.put(False)
        self._thread.join()
        self._memory.release(self._in_hand)
        self._in_hand = 0

    def _work(self) -> None:
        # For an end without any other reason.
        end: Exception | None = RuntimeError(f"reading '{self._file.path}' ended early")
        whole = hashlib.md5(usedforsecurity=False)
        try:
            size = block_size(self._file.size)
            pieces = file_pieces(self._file, size, lambda: self._orders.get() and not self.is_through)
            for index, piece in enumerate(pieces):
                whole.update(piece)
                md5 = hashlib.md5(piece, usedforsecurity=False).digest()
                self._read.put(Block(block_id(index, md5), piece, md5))
            self.md5 = whole.digest()
            end = None if self._file.md5 in (None, self.md5) else _file_changed(self._file)
        except HimlError as error:
            end = error
        finally:
            self._read.put(end)


def file_pieces(file: StoreRequest, length: int, may_read: Callable[[], bool] = lambda: True) -> Iterator[bytes]:
    """The file in pieces of *length* bytes, the last one shorter. Stops when *may_read*, called before each, returns
    False.

    Raises HimlError if the file has changed, and DiskFailed.
    """
    left = file.size
    try:
        with open(file.path, "rb", buffering=0) as source:
            before = _state(os.fstat(source.fileno()))
            while left and before[0] == file.size:
                wanted = min(length, left)
                if not may_read():
                    return
                piece = source.read(wanted)
                while 0 < len(piece) < wanted and (more := source.read(wanted - len(piece))):
                    piece += more  # a network disk may return less at once
                if not piece:
                    break
                left -= len(piece)
                yield piece
            is_same = before[0] == file.size and _state(os.fstat(source.fileno())) == before
    except OSError as err:
        raise DiskFailed(
            f"Cannot read '{file.path}': {err.strerror or err}.", hint="Check the file and its permissions."
        ) from err
    if left or not is_same:
        raise _file_changed(file)


def _state_now(file: StoreRequest) -> tuple[int, int, int] | None:
    try:
        return _state(os.stat(file.path))
    except OSError:
        return None


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _file_changed(file: StoreRequest) -> HimlError:
    return HimlError(
        f"'{file.path}' changed during the upload.", hint="Run the command again when no program writes to it."
    )
