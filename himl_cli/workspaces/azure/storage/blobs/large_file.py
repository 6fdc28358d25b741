"""One large file on its way up: blocks, several at once, then the list that makes them a blob."""

from __future__ import annotations

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import HimlError
from himl_cli.workspaces.azure.storage.blobs.access import Access
from himl_cli.workspaces.azure.storage.blobs.block_tasks import (
    LeftBlocks,
    PutBlock,
    PutBlockList,
    PutWhole,
    left_blocks,
)
from himl_cli.workspaces.azure.storage.blobs.blocks import Block, BlockReader
from himl_cli.workspaces.azure.storage.blobs.faults import BlocksNotTaken
from himl_cli.workspaces.azure.storage.blobs.lines import Line
from himl_cli.workspaces.azure.storage.blobs.local_file import changed, state_now, whole_md5
from himl_cli.workspaces.azure.storage.blobs.properties import stored_blob
from himl_cli.workspaces.azure.storage.blobs.room import Room
from himl_cli.workspaces.azure.storage.blobs.tasks import Task
from himl_cli.workspaces.base import StoreSink
from himl_cli.workspaces.retry import RetryState

MOST_WHOLE = 5000 << 20  # bytes in one request, says the service


class LargeFile:
    """Blocks that an earlier try left are not sent again. What had the name keeps it until the list of blocks is
    stored.

    A blob that the service does not let be made of blocks is sent whole instead.
    """

    def __init__(self, request: StoreRequest, sink: StoreSink, access: Access, health: RetryState, room: Room) -> None:
        self._request = request
        self._sink = sink
        self._common = (request.name, access, health)
        self._room = room
        self._state = state_now(request)
        self._reader: BlockReader | None = None
        self._left: frozenset[str] = frozenset()
        self._ids: list[str] = []
        self._on_the_way = 0
        self._advanced = 0
        self._is_asked = False
        self._is_whole = False
        self._is_committing = False
        self.is_over = False

    @property
    def is_reading(self) -> bool:
        """Whether blocks will come that are not there yet."""
        return not self.is_over and not self._is_whole and self._reader is not None and not self._reader.is_through

    def next(self) -> Task | None:
        """The next request there is to make; None when there is none, or none yet."""
        if self.is_over or self._is_committing:
            return None
        if self._is_whole:
            return self._send_whole()
        if self._reader is None:
            if self._is_asked:
                return None
            self._is_asked = True
            return LeftBlocks(*self._common, self._begin, self._fail)
        try:
            task = self._next_block(self._reader)
        except HimlError as error:
            self._fail(error)
            return None
        return task if task is not None else self._commit(self._reader)

    def _begin(self, line: Line) -> None:
        self._left = left_blocks(line)
        if not self.is_over:
            self._reader = BlockReader(self._request, self._room)

    def _next_block(self, reader: BlockReader) -> Task | None:
        while not reader.is_through:
            block = reader.next()
            if block is None:
                return None
            if block.id not in self._left:
                return self._send(block)
            self._room.give_back(len(block.body))
            self._ids.append(block.id)
        return None

    def _send(self, block: Block) -> Task:
        size = len(block.body)

        def done(_: Line) -> None:
            self._room.give_back(size)
            self._on_the_way -= 1
            if not self.is_over:
                self._advance(size)

        def failed(error: HimlError) -> None:
            self._room.give_back(size)
            self._on_the_way -= 1
            self._fail(error)

        self._ids.append(block.id)
        self._on_the_way += 1
        return PutBlock(block, *self._common, done, failed)

    def _commit(self, reader: BlockReader) -> Task | None:
        """The last request, once all blocks are there and the file is still what was read."""
        if not reader.is_through or self._on_the_way:
            return None
        if state_now(self._request) != self._state:
            self._fail(changed(self._request))
            return None
        self._is_committing = True
        return PutBlockList(
            self._request,
            self._ids,
            reader.md5,
            *self._common[1:],
            lambda line: self._stored(line, reader.md5),
            self._fail,
        )

    def _stored(self, line: Line, md5: bytes) -> None:
        self.is_over = True
        self._sink.finish(self._request, stored_blob(line, self._request, md5))

    def _advance(self, amount: int) -> None:
        self._advanced += amount
        self._sink.advance(self._request, amount)

    def _fail(self, error: HimlError) -> None:
        if self.is_over:
            return
        if (
            isinstance(error, BlocksNotTaken)
            and self._request.size <= MOST_WHOLE
            and not (self._is_whole and self._is_committing)
        ):
            self._is_whole, self._is_committing = True, False
            self._stop_reading()
            return
        self.close()
        self._sink.fail(self._request, error)

    def _send_whole(self) -> Task | None:
        """The one request for all, once no block is on its way any more."""
        if self._on_the_way:
            return None
        self._is_committing = True
        try:
            md5 = whole_md5(self._request)
        except HimlError as error:
            self._fail(error)
            return None

        def done(line: Line) -> None:
            self._advance(self._request.size - self._advanced)
            self._stored(line, md5)

        return PutWhole(self._request, self._state, md5, *self._common[1:], done, self._fail)

    def close(self) -> None:
        """Stop reading the file; nothing more is asked for."""
        self.is_over = True
        self._stop_reading()

    def _stop_reading(self) -> None:
        if self._reader is not None:
            self._reader.close()
