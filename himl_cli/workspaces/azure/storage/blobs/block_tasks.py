"""The requests that make a blob of blocks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from urllib.parse import quote

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import HimlError
from himl_cli.workspaces.azure.storage.blobs.access import Access
from himl_cli.workspaces.azure.storage.blobs.blocks import Block
from himl_cli.workspaces.azure.storage.blobs.commit import CommitTask
from himl_cli.workspaces.azure.storage.blobs.lines import Exchange, Line
from himl_cli.workspaces.azure.storage.blobs.local_file import State, changed, state_now
from himl_cli.workspaces.azure.storage.blobs.tasks import Task
from himl_cli.workspaces.azure.storage.blobs.types import media_type
from himl_cli.workspaces.azure.storage.blobs.wire import md5_text
from himl_cli.workspaces.retry import Failure, RetryState

_NAMES = re.compile(rb"<Name>([^<]+)</Name>")


def damaged_on_the_way(fault: Failure) -> Failure:
    """A digest that was made from the very bytes that were sent is right: where the service finds another, they were
    damaged."""
    return Failure(fault.error, fault.code, may_pass=True) if fault.code == "Md5Mismatch" else fault


class BlockTask(Task):
    """One request about a blob's blocks; *done* hears of its answer, *failed* of its error."""

    good = 201

    def __init__(
        self,
        name: str,
        access: Access,
        health: RetryState,
        done: Callable[[Line], None],
        failed: Callable[[HimlError], None],
    ) -> None:
        super().__init__(name, access, health)
        self._done = done
        self._failed = failed

    def answered(self, line: Line) -> float | None:
        if line.status != self.good:
            return self.after(damaged_on_the_way(self.fault(line)))
        self.moved()
        self._done(line)
        return None

    def fail(self, error: HimlError) -> None:
        self._failed(error)


class LeftBlocks(BlockTask):
    """Asks which blocks an earlier try left; whoever may not read the list sends them all."""

    good = 200

    def exchange(self) -> Exchange:
        signed = self.sign("comp=blocklist&blocklisttype=uncommitted")
        return Exchange(signed.url, [*signed.headers])

    def answered(self, line: Line) -> float | None:
        if line.status in (403, 404):
            self._done(line)
            return None
        return super().answered(line)


def left_blocks(line: Line) -> frozenset[str]:
    """Their ids, out of the answer."""
    return (
        frozenset(name.decode("ascii", "replace") for name in _NAMES.findall(line.take()))
        if line.status == 200
        else frozenset()
    )


class PutBlock(BlockTask):
    """Sends one block; the service checks its MD5."""

    def __init__(
        self,
        block: Block,
        name: str,
        access: Access,
        health: RetryState,
        done: Callable[[Line], None],
        failed: Callable[[HimlError], None],
    ) -> None:
        super().__init__(name, access, health, done, failed)
        self._block = block

    def exchange(self) -> Exchange:
        signed = self.sign(f"comp=block&blockid={quote(self._block.id, safe='')}")
        return Exchange(
            signed.url,
            [
                *signed.headers,
                f"Content-MD5: {md5_text(self._block.md5)}",
                "Content-Type: application/octet-stream",
                "Expect:",
            ],
            "PUT",
            self._block.body,
        )


class _Making(CommitTask):
    """Makes a large file's blob; *done* hears of its answer, *failed* of its error."""

    def __init__(
        self,
        request: StoreRequest,
        md5: bytes,
        access: Access,
        health: RetryState,
        done: Callable[[Line], None],
        failed: Callable[[HimlError], None],
    ) -> None:
        super().__init__(request, access, health)
        self.md5 = md5
        self._done = done
        self._failed = failed

    def judged(self, fault: Failure) -> Failure:
        return damaged_on_the_way(fault)

    def stored(self, line: Line) -> None:
        self._done(line)

    def fail(self, error: HimlError) -> None:
        self._failed(error)


class PutWhole(_Making):
    """Sends a large file in one request, read as it goes, as long as it is in *state*; the service checks its MD5."""

    def __init__(
        self,
        request: StoreRequest,
        state: State | None,
        md5: bytes,
        access: Access,
        health: RetryState,
        done: Callable[[Line], None],
        failed: Callable[[HimlError], None],
    ) -> None:
        super().__init__(request, md5, access, health, done, failed)
        self._state = state

    def send(self) -> Exchange:
        if state_now(self.request) != self._state:
            raise changed(self.request)
        signed = self.sign()
        about = [
            "x-ms-blob-type: BlockBlob",
            f"Content-Type: {media_type(self.name)}",
            f"Content-MD5: {md5_text(self.md5)}",
            "Expect:",
        ]
        return Exchange(signed.url, [*signed.headers, *self.condition, *about], "PUT", file=self.request.path)


class PutBlockList(_Making):
    """Makes the blob of its blocks, with the whole file's MD5 beside it."""

    def __init__(
        self,
        request: StoreRequest,
        ids: Sequence[str],
        md5: bytes,
        access: Access,
        health: RetryState,
        done: Callable[[Line], None],
        failed: Callable[[HimlError], None],
    ) -> None:
        super().__init__(request, md5, access, health, done, failed)
        listed = "".join(f"<Latest>{one}</Latest>" for one in ids)
        self._body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()

    def send(self) -> Exchange:
        signed = self.sign("comp=blocklist")
        headers = [
            *signed.headers,
            *self.condition,
            f"Content-MD5: {md5_text(hashlib.md5(self._body, usedforsecurity=False).digest())}",
            f"x-ms-blob-content-md5: {md5_text(self.md5)}",
            f"x-ms-blob-content-type: {media_type(self.name)}",
            "Content-Type: application/xml",
            "Expect:",
        ]
        return Exchange(signed.url, headers, "PUT", self._body)
