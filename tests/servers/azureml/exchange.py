"""One request and its answer: read from the client, passed on, and broken on the way where a fault says so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid

from tests.servers.azureml.answers import UNKNOWN, ServiceError, error_document
from tests.servers.azureml.blob_rules import StorageRefusal, admitted, answer_of, key_answer, refusal_of, with_token_of_the_past
from tests.servers.azureml.delegation import asks_for_key
from tests.servers.azureml.effects import Broken, Outlet, changed, flipped, place_of, reset
from tests.servers.azureml.faults import FlipUpload, Met, Page, ResetUpload, Status
from tests.servers.azureml.hosts import Role, role_of
from tests.servers.azureml.log import Seen
from tests.servers.azureml.messages import LAST_CHUNK, Head, body_of, framed, read_head
from tests.servers.azureml.state import Azure
from tests.servers.azureml.upload_check import UploadCheck


class Upstream:
    """The connection to the server behind; made anew where that server closed it meanwhile."""

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
    """One request on the connection of a client; `host` is the name that it asked for."""

    def __init__(self, azure: Azure, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: Upstream, host: str, *, is_blob: bool) -> None:
        self._azure = azure
        self._reader = reader
        self._writer = writer
        self._upstream = upstream
        self._host = host
        self._is_blob = is_blob

    async def run(self, request: Head, seen: Seen, met: Met) -> bool:
        """Carry it out; whether the client's connection is still good afterwards."""
        try:
            return await self._answered(request, seen, met)
        except Broken as e:
            with contextlib.suppress(ConnectionError):
                await self._writer.drain()
            if not e.orderly:
                reset(self._writer)
        self._upstream.close()
        return False

    async def _answered(self, request: Head, seen: Seen, met: Met) -> bool:
        local = await self._own_answer(request, met)
        if local is not None:
            await self._take_body(request, seen, met)
            return await self._give(request, seen, met, *local)
        reader, writer = await self._upstream.streams()
        try:
            await self._take_body(request, seen, met, writer)
        except StorageRefusal as e:
            self._upstream.close()  # it has not all of the request, and carries nothing out
            return await self._give(request, seen, met, *answer_of(e, request.first[0]))
        answer = await read_head(reader)
        return await self._pass_answer(request, seen, met, answer, reader)

    async def _own_answer(self, request: Head, met: Met) -> tuple[Head, bytes] | None:
        """What the front answers itself; None where the request goes on to the server behind."""
        page, status = met.use(Page), met.use(Status)
        if page is not None:
            return _page_answer(page)
        if status is not None and not self._is_blob:
            return _json_answer(status, is_data=role_of(self._host) is Role.DATA)
        with_token_of_the_past(request, met)
        if not self._is_blob:
            return None
        try:
            if status is not None:
                raise refusal_of(status)
            if asks_for_key(request):
                body = b"".join([content async for content in body_of(self._reader, request, is_answer=False)])
                request.set("Content-Length", "0")  # it is read
                return key_answer(self._azure, self._host, request, body)
            admitted(self._azure, self._host, request, met)
        except StorageRefusal as e:
            return answer_of(e, request.first[0])
        return None

    async def _take_body(self, request: Head, seen: Seen, met: Met, writer: asyncio.StreamWriter | None = None) -> None:
        """The request to the server behind, or (None) to nobody.

        The last piece goes on only once all is there and has been checked. Raises StorageRefusal where the body is not what the headers say.
        """
        if request.get("expect"):
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.drop("expect")
        request.drop("connection", "proxy-connection")
        check, broken, flip = UploadCheck(request), met.first(ResetUpload), met.first(FlipUpload)
        flip_at = place_of(flip.at if flip else None, request.length)
        held = request.wire
        async for content in body_of(self._reader, request, is_answer=False):
            if seen.sent <= flip_at < seen.sent + len(content):
                met.use(FlipUpload)
                content = flipped(content, flip_at - seen.sent)
            seen.sent += len(content)
            if seen.method == "PUT" and not self._is_blob:
                seen.body += content
            if broken and seen.sent > broken.after:
                break
            check.add(content)
            held = await _passed(held, writer) + framed(content, chunked=request.is_chunked)
        if broken:
            met.tell(broken)
            raise Broken(orderly=False)
        if writer is not None:
            if self._is_blob:
                check.check()
            await _passed(held + (LAST_CHUNK if request.is_chunked else b""), writer)

    async def _pass_answer(self, request: Head, seen: Seen, met: Met, answer: Head, reader: asyncio.StreamReader) -> bool:
        seen.status = int(answer.first[1])
        _judge(answer, seen)
        empty = request.first[0] == "HEAD" or seen.status in (204, 304)
        ends_with_connection = not empty and answer.length is None and not answer.is_chunked
        outlet = Outlet(self._writer, seen, met, answer.length, chunked=answer.is_chunked and not empty)
        changed(answer, met)
        keeps = not (answer.closes or request.closes or ends_with_connection)
        await outlet.begin()
        self._writer.write(answer.wire)
        if not empty:
            async for content in body_of(reader, answer, is_answer=True):
                await outlet.write(content)
        await outlet.end()
        return keeps

    async def _give(self, request: Head, seen: Seen, met: Met, answer: Head, body: bytes) -> bool:
        """An answer of the front itself to a request that is read."""
        for action in met.actions:
            if isinstance(action, Status) and action.retry_after is not None:
                answer.set("Retry-After", str(action.retry_after))
        seen.status = int(answer.first[1])
        outlet = Outlet(self._writer, seen, met, len(body), chunked=False)
        changed(answer, met)
        await outlet.begin()
        self._writer.write(answer.wire)
        await outlet.write(body)
        await outlet.end()
        return not request.closes


async def _passed(content: bytes, writer: asyncio.StreamWriter | None) -> bytes:
    """Send *content*, or let go of it where there is nobody to send it to; nothing is left of it."""
    if writer is not None:
        writer.write(content)
        await writer.drain()
    return b""


def _json_answer(status: Status, *, is_data: bool) -> tuple[Head, bytes]:
    """A fault's answer: of the data plane in its form, with the request's id in the body only (as recorded), else in ARM's short form."""
    error = ServiceError(status.status, status.code, status.message)
    body = json.dumps(error_document(error) if is_data else {"error": {"code": error.code, "message": error.message}}).encode()
    headers = [("Content-Type", "application/json; charset=utf-8"), ("Content-Length", str(len(body)))]
    if not is_data:
        headers.append(("x-ms-request-id", str(uuid.uuid4())))
    return Head(["HTTP/1.1", str(status.status), "Fault"], [*headers, *status.headers]), body


def _page_answer(page: Page) -> tuple[Head, bytes]:
    body = page.text.encode()
    return Head(["HTTP/1.1", str(page.status), "Page"], [("Content-Type", page.content_type), ("Content-Length", str(len(body)))]), body


def _judge(answer: Head, seen: Seen) -> None:
    """Note that nobody plays this request, or that the double itself failed; the frame's mark is taken off the answer."""
    if answer.get(UNKNOWN):
        answer.drop(UNKNOWN)
        seen.unknown = "nobody plays this request"
    elif seen.status == 405:
        seen.unknown = "nobody plays this method"
    elif seen.status == 500:
        seen.unknown = "the server behind the front failed"
