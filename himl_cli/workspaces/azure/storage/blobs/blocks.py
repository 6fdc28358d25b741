"""Cutting a large file into blocks, on a thread of its own: read once, digested whole and block by block."""

from __future__ import annotations

import hashlib
import threading
from base64 import b64encode
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import HimlError
from himl_cli.workspaces.azure.storage.blobs.local_file import changed, pieces_of
from himl_cli.workspaces.azure.storage.blobs.room import Room

BLOCK = 4 << 20
MOST_BLOCKS = 50_000  # in one blob, says the service
AHEAD = 1
PAUSE = 0.1


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
    """Tells a block's place and content, so that one that an earlier try left is known again; all are of one length."""
    return b64encode(index.to_bytes(4, "big") + md5 + b"himl").decode()


class BlockReader:
    """Reads ahead by a few blocks. `next` gives them in order; then `md5` is that of the whole, as far as it was read.

    It waits for room before it reads a block; whoever gets the block gives the room back. Ctrl-C may strike within
    `next`: what the thread waits for is never left locked then.
    """

    def __init__(self, request: StoreRequest, room: Room) -> None:
        self._request = request
        self._room = room
        self._queue: SimpleQueue[Block | Exception | None] = SimpleQueue()
        self._places: SimpleQueue[None] = SimpleQueue()  # one for each block that may be read ahead
        for _ in range(AHEAD):
            self._places.put(None)
        self._is_stopped = False
        self._in_hand = 0  # bytes of room that no block was handed over for
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
        self._places.put(None)
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
                self._room.give_back(len(dropped.body))

    def _may_read(self, amount: int) -> bool:
        there_was_room = self._room.wait_and_take(amount, lambda: self._is_stopped)
        self._in_hand += amount if there_was_room else 0
        return there_was_room

    def _work(self) -> None:
        end: Exception | None = RuntimeError(
            f"reading '{self._request.path}' ended before its time"
        )  # should nothing else be known
        try:
            for index, piece in enumerate(pieces_of(self._request, block_size(self._request.size), self._may_read)):
                self._whole.update(piece)
                md5 = hashlib.md5(piece, usedforsecurity=False).digest()
                if not self._put(Block(block_id(index, md5), piece, md5)):
                    return
                self._in_hand -= len(piece)
            if self._request.md5 not in (None, self.md5):
                raise changed(self._request)
            end = None
        except HimlError as error:
            end = error
        finally:
            self._room.give_back(self._in_hand)
            self._put(end)

    def _put(self, item: Block | Exception | None) -> bool:
        """Whether it could be handed over before the reading was stopped."""
        while not self._is_stopped:
            try:
                self._places.get(timeout=PAUSE)
            except Empty:
                continue
            self._queue.put(item)
            return True
        return False
