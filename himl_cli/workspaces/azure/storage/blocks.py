"""Local files on their way up: read once, watched for changes, large ones cut into blocks on a thread of their own."""

from __future__ import annotations

import hashlib
import os
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import RawIOBase
from queue import Empty, SimpleQueue

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import DiskFailed, HimlError

BLOCK = 4 << 20
MOST_BLOCKS = 50_000  # in one blob, says the service
AHEAD = 1
PAUSE = 0.1  # seconds between looks at whether a thread that waits should go on waiting

FileState = tuple[int, int, int]


class MemoryBudget:
    """So many bytes, shared by threads; what is larger has to be alone.

    Ctrl-C may strike within each of its methods: a lock and a queue of the interpreter itself are never left held then,
    unlike a `Condition`.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._waiting = 0
        self._lock = threading.Lock()
        # Something for each thread that waits, whenever bytes are released
        self._freed: SimpleQueue[None] = SimpleQueue()

    def try_acquire(self, amount: int) -> bool:
        """Whether *amount* bytes were free, which are taken then."""
        with self._lock:
            return self._acquire(amount)

    def acquire(self, amount: int, is_stopped: Callable[[], bool]) -> bool:
        """Take *amount* bytes once they are free; False when *is_stopped* says so first."""
        while not is_stopped():
            with self._lock:
                if self._acquire(amount):
                    return True
                self._waiting += 1
            with suppress(Empty):
                self._freed.get(timeout=PAUSE)
            with self._lock:
                self._waiting -= 1
        return False

    def release(self, amount: int) -> None:
        """So many bytes are free again."""
        with self._lock:
            self._taken -= amount
            for _ in range(self._waiting):
                self._freed.put(None)

    def _acquire(self, amount: int) -> bool:
        if self._taken and self._taken + amount > self._size:
            return False
        self._taken += amount
        return True


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes to be sent under `id`, and their MD5."""

    id: str
    body: bytes
    md5: bytes


def block_size(size: int) -> int:
    """Bytes a block for a file of *size* bytes."""
    needed = -(-size // MOST_BLOCKS)
    return max(BLOCK, -(-needed // (1 << 20)) << 20)


def block_id(index: int, md5: bytes) -> str:
    """Tells a block's position and content, so that one that an earlier attempt left is known again; all are of one
    length."""
    return b64encode(index.to_bytes(4, "big") + md5 + b"himl").decode()


class BlockReader:
    """Reads ahead by a few blocks. `next` gives them in order; then `md5` is that of the whole, as far as it was read.

    It waits for memory before it reads a block; whoever gets the block releases it. Ctrl-C may strike within `next`:
    what the thread waits for is never left locked then.
    """

    def __init__(self, request: StoreRequest, memory: MemoryBudget) -> None:
        self._request = request
        self._memory = memory
        self._queue: SimpleQueue[Block | Exception | None] = SimpleQueue()
        self._slots: SimpleQueue[None] = SimpleQueue()  # one for each block that may be read ahead
        for _ in range(AHEAD):
            self._slots.put(None)
        self._is_stopped = False
        self._in_hand = 0  # bytes of memory that no block was handed over for
        self._whole = hashlib.md5(usedforsecurity=False)
        self._thread = threading.Thread(target=self._work, name="himl-blocks", daemon=True)
        self.is_through = False
        self._thread.start()

    @property
    def md5(self) -> bytes:
        return self._whole.digest()

    def next(self) -> Block | None:
        """The next block; None when it is not ready yet, or there are no more (then `is_through`).

        Raises HimlError when the file is not what was promised, or cannot be read; whatever else ended the thread as
        RuntimeError.
        """
        try:
            found = self._queue.get_nowait()
        except Empty:
            return None
        self._slots.put(None)
        if isinstance(found, Block):
            return found
        self.is_through = True
        self._thread.join()
        if found is not None:
            raise found
        return None

    def close(self) -> None:
        """Stop reading; what was not given by `next` is dropped."""
        self._is_stopped = True
        self._thread.join()
        while not self._queue.empty():
            dropped = self._queue.get_nowait()
            if isinstance(dropped, Block):
                self._memory.release(len(dropped.body))

    def _may_read(self, amount: int) -> bool:
        is_acquired = self._memory.acquire(amount, lambda: self._is_stopped)
        self._in_hand += amount if is_acquired else 0
        return is_acquired

    def _work(self) -> None:
        # Should nothing else be known
        end: Exception | None = RuntimeError(f"reading '{self._request.path}' ended before its time")
        try:
            for index, piece in enumerate(file_pieces(self._request, block_size(self._request.size), self._may_read)):
                self._whole.update(piece)
                md5 = hashlib.md5(piece, usedforsecurity=False).digest()
                if not self._put(Block(block_id(index, md5), piece, md5)):
                    return
                self._in_hand -= len(piece)
            if self._request.md5 not in (None, self.md5):
                raise file_changed(self._request)
            end = None
        except HimlError as error:
            end = error
        finally:
            self._memory.release(self._in_hand)
            self._put(end)

    def _put(self, item: Block | Exception | None) -> bool:
        """Whether it could be handed over before the reading was stopped."""
        while not self._is_stopped:
            try:
                self._slots.get(timeout=PAUSE)
            except Empty:
                continue
            self._queue.put(item)
            return True
        return False


def file_state(request: StoreRequest) -> FileState | None:
    """What changes with the file; None where it cannot be looked at."""
    try:
        return _state(os.stat(request.path))
    except OSError:
        return None


def file_changed(request: StoreRequest) -> HimlError:
    return HimlError(
        f"'{request.path}' changed while it was stored.", hint="Run the command again when nothing writes to it."
    )


def file_content(request: StoreRequest) -> tuple[bytes, bytes]:
    """The file's bytes and their MD5. Raises HimlError when they are not what was promised, DiskFailed."""
    try:
        with open(request.path, "rb", buffering=0) as source:
            before = _state(os.fstat(source.fileno()))
            body = _read(source, request.size + 1) if before[0] == request.size else b""
            after = _state(os.fstat(source.fileno()))
    except OSError as err:
        raise _unreadable(request, err) from err
    if len(body) != request.size or before != after or before[0] != request.size:
        raise file_changed(request)
    return body, request.md5 or hashlib.md5(body, usedforsecurity=False).digest()


def file_md5(request: StoreRequest) -> bytes:
    """MD5 of the file. Raises as `file_pieces`, and when it is not the promised one."""
    digest = hashlib.md5(usedforsecurity=False)
    for piece in file_pieces(request, 1 << 20):
        digest.update(piece)
    if request.md5 not in (None, digest.digest()):
        raise file_changed(request)
    return digest.digest()


def file_pieces(
    request: StoreRequest, length: int, may_read: Callable[[int], bool] = lambda amount: True
) -> Iterator[bytes]:
    """The file in pieces of *length* bytes, the last one shorter; *may_read* hears of each before, and ends it all by
    saying no.

    Raises HimlError when it is not, or no longer, what was promised; DiskFailed.
    """
    left = request.size
    try:
        with open(request.path, "rb", buffering=0) as source:
            before = _state(os.fstat(source.fileno()))
            while left and before[0] == request.size:
                if not may_read(min(length, left)):
                    return
                piece = _read(source, min(length, left))
                if not piece:
                    break
                left -= len(piece)
                yield piece
            is_same = _state(os.fstat(source.fileno())) == before == _state(os.stat(request.path))
    except OSError as err:
        raise _unreadable(request, err) from err
    if left or not is_same:
        raise file_changed(request)


def _state(status: os.stat_result) -> FileState:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _unreadable(request: StoreRequest, err: OSError) -> DiskFailed:
    return DiskFailed(
        f"Cannot read '{request.path}': {err.strerror or err}.", hint="Check the file and its permissions."
    )


def _read(source: RawIOBase, length: int) -> bytes:
    """The next *length* bytes, or all there are; a network disk may give less at once."""
    piece = source.read(length) or b""
    while 0 < len(piece) < length and (more := source.read(length - len(piece))):
        piece += more
    return piece
