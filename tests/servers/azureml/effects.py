"""Faults carried out on one answer on its way to the client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email.utils
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import TypeVar

from tests.servers.azureml.faults import Action, ChangeEtag, Drip, FlipByte, Latency, Reset, Stall, Truncate, WrongDate, WrongMd5
from tests.servers.azureml.messages import LAST_CHUNK, Head, framed

WRONG_MD5 = base64.b64encode(b"not what it was!").decode()
Kind = TypeVar("Kind", bound=Action)


class Broken(Exception):
    """A fault ended this connection: with RST, or (*orderly*) as if all had been sent."""

    def __init__(self, *, orderly: bool) -> None:
        super().__init__("ended by a fault")
        self.orderly = orderly


def first(actions: Sequence[Action], kind: type[Kind]) -> Kind | None:
    return next((one for one in actions if isinstance(one, kind)), None)


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with RST, as a router or a crashed server would."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0))
    writer.transport.abort()


def changed(head: Head, actions: Sequence[Action]) -> None:
    """Let the answer's headers say what the faults want them to say; all services send a `Date`."""
    if first(actions, WrongMd5):
        for name in ("content-md5", "x-ms-blob-content-md5"):
            if head.get(name):
                head.set(name, WRONG_MD5)
    if first(actions, ChangeEtag) and head.get("etag"):
        head.set("ETag", f'"0x{time.time_ns():X}"')
    shift = first(actions, WrongDate)
    if shift or not head.get("date"):
        head.set("Date", email.utils.formatdate(time.time() + (shift.seconds if shift else 0), usegmt=True))


class Outlet:
    """Where an answer's body goes: counts it, and breaks, slows or changes it on the way. `length` is its size, where that is known."""

    def __init__(self, writer: asyncio.StreamWriter, actions: Sequence[Action], length: int | None, *, chunked: bool) -> None:
        self._writer = writer
        self._actions = actions
        self._chunked = chunked
        self._drip = first(actions, Drip)
        flip = first(actions, FlipByte)
        self._flip_at = -1 if flip is None else flip.at if flip.at >= 0 else (length or 0) + flip.at
        self._stops = _stops(actions)
        self.passed = 0

    async def begin(self) -> None:
        """Before the status line."""
        for action in self._actions:
            if isinstance(action, Latency) or (isinstance(action, Stall) and action.after is None):
                await asyncio.sleep(action.seconds)
            elif isinstance(action, Reset) and action.after is None:
                raise Broken(orderly=False)

    async def write(self, content: bytes) -> None:
        """Pass *content* on. Raises Broken where the connection is to end within it; what comes before that has been sent."""
        content = self._flipped(content)
        while self._stops and self._stops[0][0] <= self.passed + len(content):
            at, action = self._stops.pop(0)
            before = at - self.passed
            await self._out(content[:before])
            content = content[before:]
            if not isinstance(action, Stall):
                raise Broken(orderly=isinstance(action, Truncate))
            await asyncio.sleep(action.seconds)
        await self._out(content)

    async def end(self) -> None:
        """After the body: faults that were to come at its very end, or in an empty one."""
        await self.write(b"")
        if self._chunked:
            self._writer.write(LAST_CHUNK)
        await self._writer.drain()

    def _flipped(self, content: bytes) -> bytes:
        at = self._flip_at - self.passed
        if self._flip_at < 0 or not 0 <= at < len(content):
            return content
        return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]

    async def _out(self, content: bytes) -> None:
        step = max(1, self._drip.bytes_per_second // 20) if self._drip else len(content) or 1
        for start in range(0, len(content), step):
            piece = content[start : start + step]
            self._writer.write(framed(piece, chunked=self._chunked))
            self.passed += len(piece)
            await self._writer.drain()
            if self._drip:
                await asyncio.sleep(len(piece) / self._drip.bytes_per_second)


def _stops(actions: Sequence[Action]) -> list[tuple[int, Reset | Truncate | Stall]]:
    """Faults that come after so many bytes, the earliest first."""
    found = [(one.after, one) for one in actions if isinstance(one, (Reset, Truncate, Stall)) and one.after is not None]
    return sorted(found, key=lambda pair: pair[0])
