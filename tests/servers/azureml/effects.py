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

from tests.servers.azureml.faults import ChangeEtag, Drip, FlipByte, Latency, Meanwhile, Met, Reset, Stall, Truncate, WrongDate, WrongMd5
from tests.servers.azureml.log import Seen
from tests.servers.azureml.messages import LAST_CHUNK, Head, framed

WRONG_MD5 = base64.b64encode(b"not what it was!").decode()


class Broken(Exception):
    """A fault ended this connection: with RST, or (*orderly*) as if all had been sent."""

    def __init__(self, *, orderly: bool) -> None:
        super().__init__("ended by a fault")
        self.orderly = orderly


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with RST, as a router or a crashed server would."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0))
    writer.transport.abort()


def changed(head: Head, met: Met) -> None:
    """Let the answer's headers say what the faults want them to say; all services send a `Date`."""
    wrong = met.first(WrongMd5)
    if wrong is not None:
        if wrong.always and head.first[1] in ("200", "206"):
            head.set("Content-MD5", WRONG_MD5)
        for name in ("content-md5", "x-ms-blob-content-md5"):
            if head.get(name):
                met.tell(wrong)
                head.set(name, WRONG_MD5)
    if head.get("etag") and met.use(ChangeEtag):
        head.set("ETag", f'"0x{time.time_ns():X}"')
    shift = met.use(WrongDate)
    if shift or not head.get("date"):
        head.set("Date", email.utils.formatdate(time.time() + (shift.seconds if shift else 0), usegmt=True))


def place_of(at: int | None, length: int | None) -> int:
    """Where byte *at* of a body is (counted from its end where it is negative); -1 for nowhere."""
    return -1 if at is None else at if at >= 0 else max(-1, (length or 0) + at)


def flipped(content: bytes, at: int) -> bytes:
    """*content* with another byte there, where it has one."""
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :] if 0 <= at < len(content) else content


class Outlet:
    """Where an answer's body goes: counts it, and breaks, slows or changes it on the way. `length` is its size, where that is known.

    A piece is counted before it is out: whoever has it finds it in the log.
    """

    def __init__(self, writer: asyncio.StreamWriter, seen: Seen, met: Met, length: int | None, *, chunked: bool) -> None:
        self._writer = writer
        self._seen = seen
        self._met = met
        self._chunked = chunked
        self._drip = met.first(Drip)
        flip = met.first(FlipByte)
        self._flip_at = place_of(flip.at if flip else None, length)
        self._stops = _stops(met)
        self.passed = 0

    async def begin(self) -> None:
        """Before the status line."""
        for action in self._met.actions:
            if isinstance(action, Latency) or (isinstance(action, Stall) and action.after is None):
                self._met.tell(action)
                await asyncio.sleep(action.seconds)
            elif isinstance(action, Meanwhile):
                self._met.tell(action)
                await asyncio.get_running_loop().run_in_executor(None, action.call)
            elif isinstance(action, Reset) and action.after is None:
                self._met.tell(action)
                raise Broken(orderly=False)

    async def write(self, content: bytes) -> None:
        """Pass *content* on. Raises Broken where the connection is to end within it; what comes before that has been sent."""
        content = self._flipped(content)
        while self._stops and self._stops[0][0] <= self.passed + len(content):
            at, action = self._stops.pop(0)
            before = at - self.passed
            await self._out(content[:before])
            content = content[before:]
            self._met.tell(action)
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
        if not self.passed <= self._flip_at < self.passed + len(content):
            return content
        self._met.use(FlipByte)
        return flipped(content, self._flip_at - self.passed)

    async def _out(self, content: bytes) -> None:
        step = max(1, self._drip.bytes_per_second // 20) if self._drip else len(content) or 1
        for start in range(0, len(content), step):
            piece = content[start : start + step]
            self.passed += len(piece)
            self._seen.received = self.passed
            self._writer.write(framed(piece, chunked=self._chunked))
            await self._writer.drain()
            if self._drip and piece:
                self._met.tell(self._drip)
                await asyncio.sleep(len(piece) / self._drip.bytes_per_second)


def _stops(met: Met) -> list[tuple[int, Reset | Truncate | Stall]]:
    """Faults that come after so many bytes, the earliest first."""
    found = [(one.after, one) for one in met.actions if isinstance(one, (Reset, Truncate, Stall)) and one.after is not None]
    return sorted(found, key=lambda pair: pair[0])
