"""One request and its answer: read from the client, passed on, and broken on the way where a fault says so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Sequence

from tests.servers.azureml.answers import UNKNOWN, ServiceError, error_document
from tests.servers.azureml.blob_rules import StorageRefusal, admitted, answer_of, key_answer, refusal_of
from tests.servers.azureml.delegation import asks_for_key
from tests.servers.azureml.effects import Broken, Outlet, changed, first, reset
from tests.servers.azureml.faults import Action, Page, ResetUpload, Status
from tests.servers.azureml.hosts import Role, role_of
from tests.servers.azureml.log import Seen
from tests.servers.azureml.messages import LAST_CHUNK, Head, body_of, framed, read_head
from tests.servers.azureml.state import Azure


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

    async def run(self, request: Head, seen: Seen, actions: Sequence[Action]) -> bool:
        """Carry it out; whether the client's connection is still good afterwards."""
        try:
            return await self._answered(request, seen, actions)
        except Broken as e:
            with contextlib.suppress(ConnectionError):
                await self._writer.drain()
            if not e.orderly:
                reset(self._writer)
        self._upstream.close()
        return False

    async def _answered(self, request: Head, seen: Seen, actions: Sequence[Action]) -> bool:
        status, page = first(actions, Status), first(actions, Page)
        if page is not None:
            return await self._local(request, seen, actions, *_page_answer(page))
        try:
            if status is not None and self._is_blob:
                raise refusal_of(status)
            if status is not None:
                return await self._local(request, seen, actions, *_json_answer(status, is_data=role_of(self._host) is Role.DATA))
            if self._is_blob and asks_for_key(request):
                body = b"".join([content async for content in body_of(self._reader, request, is_answer=False)])
                request.set("Content-Length", "0")  # it is read
                return await self._local(request, seen, actions, *key_answer(self._azure, self._host, request, body))
            if self._is_blob:
                request = admitted(self._azure, self._host, request, actions)
        except StorageRefusal as e:
            return await self._local(request, seen, actions, *answer_of(e, request.first[0]))
        reader, writer = await self._upstream.streams()
        await self._pass_request(request, seen, actions, writer)
        answer = await read_head(reader)
        return await self._pass_answer(request, seen, actions, answer, reader)

    async def _pass_request(self, request: Head, seen: Seen, actions: Sequence[Action], writer: asyncio.StreamWriter | None) -> None:
        """The request to the server behind, or (None) to nobody."""
        if request.get("expect"):
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.drop("expect")
        if writer is not None:
            request.drop("connection", "proxy-connection")
            writer.write(request.wire)
        broken = first(actions, ResetUpload)
        async for content in body_of(self._reader, request, is_answer=False):
            seen.sent += len(content)
            if broken and seen.sent > broken.after:
                raise Broken(orderly=False)
            if writer is not None:
                writer.write(framed(content, chunked=request.is_chunked))
                await writer.drain()
        if broken:
            raise Broken(orderly=False)
        if writer is not None and request.is_chunked:
            writer.write(LAST_CHUNK)

    async def _pass_answer(self, request: Head, seen: Seen, actions: Sequence[Action], answer: Head, reader: asyncio.StreamReader) -> bool:
        seen.status = int(answer.first[1])
        _judge(answer, seen)
        empty = request.first[0] == "HEAD" or seen.status in (204, 304)
        ends_with_connection = not empty and answer.length is None and not answer.is_chunked
        outlet = Outlet(self._writer, actions, answer.length, chunked=answer.is_chunked and not empty)
        changed(answer, actions)
        keeps = not (answer.closes or request.closes or ends_with_connection)
        await outlet.begin()
        self._writer.write(answer.wire)
        try:
            if not empty:
                async for content in body_of(reader, answer, is_answer=True):
                    await outlet.write(content)
            await outlet.end()
        finally:
            seen.received = outlet.passed
        return keeps

    async def _local(self, request: Head, seen: Seen, actions: Sequence[Action], answer: Head, body: bytes) -> bool:
        """An answer that the front itself gives; the request's body is read and goes nowhere."""
        await self._pass_request(request, seen, actions, None)
        for action in actions:
            if isinstance(action, Status) and action.retry_after is not None:
                answer.set("Retry-After", str(action.retry_after))
        seen.status = int(answer.first[1])
        outlet = Outlet(self._writer, actions, len(body), chunked=False)
        changed(answer, actions)
        await outlet.begin()
        self._writer.write(answer.wire)
        await outlet.write(body)
        await outlet.end()
        seen.received = outlet.passed
        return not request.closes


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
