"""Answers as the services send them to clients that read gzip: compressed, and in chunks without a length."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SMALLEST = 200  # bytes; shorter answers go as they are


def compressing(app: ASGIApp) -> ASGIApp:
    """*app* with its longer answers compressed."""
    zipped = GZipMiddleware(app, minimum_size=SMALLEST)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def without_length(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                if headers.get("content-encoding") == "gzip":
                    del headers["content-length"]
            await send(message)

        await zipped(scope, receive, without_length)

    return answer
