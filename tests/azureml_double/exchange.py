"""One request and its answer: read from the client, checked and passed on, and modified where a fault applies."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email.utils
import hashlib
import json
import socket
import struct
import sys
import time
import uuid

from tests.azureml_double import faults
from tests.azureml_double.frame import UNKNOWN, ServiceError, data_plane_error
from tests.azureml_double.log import LAST_CHUNK, Head, Role, Seen, body_of, framed, read_head, role_of
from tests.azureml_double.state import Azure, make_run_token
from tests.azureml_double.storage import StorageRefusal, admitted, answer_of, asks_for_key, key_answer

WRONG_MD5 = base64.b64encode(b"not what it was!").decode()


class UploadCheck:
    """Checks whether the body of one *request*, which `add` receives in pieces, has the MD5 of its headers.

    The service compares `Content-MD5` for each request, and for a whole block blob also `x-ms-blob-content-md5`
    (Azure/azure-storage-ruby#64). Azurite does not check the body of a list of blocks, and uses another code for the
    rest.
    """

    def __init__(self, request: Head) -> None:
        is_whole = request.get("x-ms-blob-type") == "BlockBlob" and "comp=" not in request.first[1]
        self._promised = request.get("content-md5") or (request.get("x-ms-blob-content-md5") if is_whole else "")
        self._digest = hashlib.md5()

    def add(self, content: bytes) -> None:
        if self._promised:
            self._digest.update(content)

    def check(self) -> None:
        found = base64.b64encode(self._digest.digest()).decode()
        if self._promised and found != self._promised:
            message = (
                "The MD5 value specified in the request did not match with the MD5 value calculated by the server."
            )
            raise StorageRefusal(
                400, "Md5Mismatch", message, details={"UserSpecifiedMd5": self._promised, "ServerCalculatedMd5": found}
            )


class Broken(Exception):
    """A fault ended this connection: with RST, or (*orderly*) as if all data had been sent."""

    def __init__(self, *, orderly: bool) -> None:
        super().__init__("ended by a fault")
        self.orderly = orderly


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        )
    writer.transport.abort()


def changed(head: Head, met: faults.Met) -> None:
    """Change the answer's headers according to the faults. All services send a `Date`."""
    for name in ("content-md5", "x-ms-blob-content-md5"):
        if head.get(name) and met.use(faults.WrongMd5):
            head.set(name, WRONG_MD5)
    if head.get("etag") and met.use(faults.ChangeEtag):
        head.set("ETag", f'"0x{time.time_ns():X}"')
    shift = met.use(faults.WrongDate)
    if shift or not head.get("date"):
        head.set("Date", email.utils.formatdate(time.time() + (shift.seconds if shift else 0), usegmt=True))


def place_of(flip: faults.FlipByte | faults.FlipUpload | None, length: int | None) -> int:
    """Return the position of the byte in a body of this length, or -1 if it is outside."""
    return -1 if flip is None else flip.at if flip.at >= 0 else max(-1, (length or 0) + flip.at)


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


class Outlet:
    """Writes an answer's body to the client, counts it, and interrupts, slows or changes it. `length` is its size, if
    known. Each piece is counted before it is sent, so that the log includes every byte that a client has.
    """

    def __init__(
        self, writer: asyncio.StreamWriter, seen: Seen, met: faults.Met, length: int | None, *, chunked: bool
    ) -> None:
        self._writer, self._seen, self._met, self._chunked = writer, seen, met, chunked
        self._drip = met.first(faults.Drip)
        self._flip_at = place_of(met.first(faults.FlipByte), length)
        breaks = (faults.Reset, faults.Truncate, faults.Stall)
        stops = [(one.after, one) for one in met.actions if isinstance(one, breaks) and one.after is not None]
        self._stops = sorted(stops, key=lambda pair: pair[0])
        self.passed = 0

    async def begin(self, answer: Head) -> None:
        for action in self._met.actions:
            if isinstance(action, faults.Latency) or (isinstance(action, faults.Stall) and action.after is None):
                self._met.tell(action)
                await asyncio.sleep(action.seconds)
            elif isinstance(action, faults.Meanwhile):
                self._met.tell(action)
                await asyncio.get_running_loop().run_in_executor(None, action.call)
            elif isinstance(action, faults.Reset) and action.after is None:
                self._met.tell(action)
                raise Broken(orderly=False)
        self._writer.write(answer.wire)

    async def write(self, content: bytes) -> None:
        """Pass *content* on. Raises Broken if the connection must end within it, after sending the bytes before that
        point.
        """
        if self.passed <= self._flip_at < self.passed + len(content):
            self._met.use(faults.FlipByte)
            content = flipped(content, self._flip_at - self.passed)
        while self._stops and self._stops[0][0] <= self.passed + len(content):
            at, action = self._stops.pop(0)
            before = at - self.passed
            await self._out(content[:before])
            content = content[before:]
            self._met.tell(action)
            if not isinstance(action, faults.Stall):
                raise Broken(orderly=isinstance(action, faults.Truncate))
            await asyncio.sleep(action.seconds)
        await self._out(content)

    async def end(self) -> None:
        # Trigger faults at the very end of the body, or in an empty one.
        await self.write(b"")
        if self._chunked:
            self._writer.write(LAST_CHUNK)
        await self._writer.drain()

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


class Upstream:
    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None or self._streams[0].at_eof() or self._streams[1].is_closing():
            self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        return self._streams

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Exchange:
    def __init__(
        self,
        azure: Azure,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: Upstream,
        host: str,
        *,
        is_blob: bool,
    ) -> None:
        self._azure, self._reader, self._writer, self._upstream = azure, reader, writer, upstream
        self._host, self._is_blob = host, is_blob

    async def run(self, request: Head, seen: Seen, met: faults.Met) -> bool:
        """Process the request. Return whether the client's connection can be reused."""
        try:
            return await self._answered(request, seen, met)
        except Broken as e:
            with contextlib.suppress(ConnectionError):
                await self._writer.drain()
            if not e.orderly:
                reset(self._writer)
        self._upstream.close()
        return False

    async def _answered(self, request: Head, seen: Seen, met: faults.Met) -> bool:
        local = await self._own_answer(request, met)
        if local is not None:
            await self._take_body(request, seen, met)
            return await self._give(request, seen, met, *local)
        reader, writer = await self._upstream.streams()
        try:
            await self._take_body(request, seen, met, writer)
        except StorageRefusal as e:
            # It has only a part of the request, and does not carry it out.
            self._upstream.close()
            return await self._give(request, seen, met, *answer_of(e, request.first[0]))
        return await self._pass_answer(request, seen, met, await read_head(reader), reader)

    async def _own_answer(self, request: Head, met: faults.Met) -> tuple[Head, bytes] | None:
        """Return the front's own answer, or None if the request goes on to the server behind it."""
        page, status = met.use(faults.Page), met.use(faults.Status)
        if page is not None:
            body = page.text.encode()
            return Head(
                ["HTTP/1.1", str(page.status), "Page"],
                [("Content-Type", page.content_type), ("Content-Length", str(len(body)))],
            ), body
        if status is not None and not self._is_blob:
            return _json_answer(status, request.first[1] if role_of(self._host) is Role.DATA else "")
        # Each service rejects the token in its own way.
        if met.use(faults.ExpireToken):
            request.set("Authorization", f"Bearer {make_run_token('', '', seconds=-1)[0]}")
        if not self._is_blob:
            if met.first(faults.Rewrite):
                request.set("Accept-Encoding", "identity")
            return None
        try:
            if status is not None:
                raise StorageRefusal(status.status, status.code, status.message, status.headers)
            if asks_for_key(request):
                body = b"".join([content async for content in body_of(self._reader, request, is_answer=False)])
                request.set("Content-Length", "0")  # the body has been read
                return key_answer(self._azure, self._host, request, body)
            admitted(self._azure, self._host, request, met)
        except StorageRefusal as e:
            return answer_of(e, request.first[0])
        return None

    async def _take_body(
        self, request: Head, seen: Seen, met: faults.Met, writer: asyncio.StreamWriter | None = None
    ) -> None:
        """Read the request's body and pass it to the server behind, or (None) discard it. The last piece is passed
        only after the whole body was checked. Raises StorageRefusal if the body does not match the headers.
        """
        if request.get("expect"):
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.drop("expect")
        request.drop("connection", "proxy-connection")
        check, broken = UploadCheck(request), met.first(faults.ResetUpload)
        flip_at = place_of(met.first(faults.FlipUpload), request.length)
        held = request.wire
        async for content in body_of(self._reader, request, is_answer=False):
            if seen.sent <= flip_at < seen.sent + len(content):
                met.use(faults.FlipUpload)
                content = flipped(content, flip_at - seen.sent)
            seen.sent += len(content)
            if seen.method == "PUT" and not self._is_blob:
                seen.body += content
            if broken and seen.sent > broken.after:
                break
            check.add(content)
            await _pass(held, writer)
            held = framed(content, chunked=request.is_chunked)
        if broken:
            met.tell(broken)
            raise Broken(orderly=False)
        if writer is not None:
            if self._is_blob:
                check.check()
            await _pass(held + (LAST_CHUNK if request.is_chunked else b""), writer)

    async def _pass_answer(
        self, request: Head, seen: Seen, met: faults.Met, answer: Head, reader: asyncio.StreamReader
    ) -> bool:
        seen.status = int(answer.first[1])
        _judge(answer, seen)
        empty = request.first[0] == "HEAD" or seen.status in (204, 304)
        rewrite = met.use(faults.Rewrite)
        if rewrite is not None:
            body = json.dumps(
                rewrite.change(
                    json.loads(b"".join([content async for content in body_of(reader, answer, is_answer=True)]))
                )
            ).encode()
            answer.set("Content-Length", str(len(body)))
            return await self._give(request, seen, met, answer, body)
        ends_with_connection = not empty and answer.length is None and not answer.is_chunked
        outlet = Outlet(self._writer, seen, met, answer.length, chunked=answer.is_chunked and not empty)
        changed(answer, met)
        await outlet.begin(answer)
        if not empty:
            async for content in body_of(reader, answer, is_answer=True):
                await outlet.write(content)
        await outlet.end()
        return not (answer.closes or request.closes or ends_with_connection)

    async def _give(self, request: Head, seen: Seen, met: faults.Met, answer: Head, body: bytes) -> bool:
        """Send the front's own answer to a request that has been read."""
        status = met.first(faults.Status)
        if status is not None and status.retry_after is not None:
            answer.set("Retry-After", str(status.retry_after))
        seen.status = int(answer.first[1])
        outlet = Outlet(self._writer, seen, met, len(body), chunked=False)
        changed(answer, met)
        await outlet.begin(answer)
        await outlet.write(body)
        await outlet.end()
        return not request.closes


async def _pass(content: bytes, writer: asyncio.StreamWriter | None) -> None:
    if writer is not None:
        writer.write(content)
        await writer.drain()


def _json_answer(status: faults.Status, path: str) -> tuple[Head, bytes]:
    """A fault's answer: in the format of the data plane at *path*, with the request's id only in the body (as
    recorded), or without a path in ARM's short format.
    """
    error, is_data = ServiceError(status.status, status.code, status.message), bool(path)
    body = (
        bytes(data_plane_error(error, path).body)
        if is_data
        else json.dumps({"error": {"code": error.code, "message": error.message}}).encode()
    )
    headers = [("Content-Type", "application/json; charset=utf-8"), ("Content-Length", str(len(body)))]
    if not is_data:
        headers.append(("x-ms-request-id", str(uuid.uuid4())))
    return Head(["HTTP/1.1", str(status.status), "Fault"], [*headers, *status.headers]), body


def _judge(answer: Head, seen: Seen) -> None:
    """Record that the double does not support this request or failed itself, and remove the frame's mark from the
    answer.
    """
    if answer.get(UNKNOWN):
        answer.drop(UNKNOWN)
        seen.unknown = "nobody plays this request"
    elif seen.status == 405:
        seen.unknown = "nobody plays this method"
    elif seen.status == 500:
        seen.unknown = "the server behind the front failed"
