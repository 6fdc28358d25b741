"""HTTP/1.1 messages on asyncio streams: heads, and bodies by their framing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

CHUNK = 256 * 1024


@dataclass
class Head:
    """The first line (its three parts) and the headers of a message, in order."""

    first: list[str]
    headers: list[tuple[str, str]]

    def get(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.headers if key.lower() == name), default)

    def drop(self, *names: str) -> None:
        self.headers = [(key, value) for key, value in self.headers if key.lower() not in names]

    def set(self, name: str, value: str) -> None:
        self.drop(name.lower())
        self.headers.append((name, value))

    @property
    def wire(self) -> bytes:
        lines = [" ".join(self.first), *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @property
    def is_chunked(self) -> bool:
        return self.get("transfer-encoding").lower() == "chunked"

    @property
    def length(self) -> int | None:
        text = self.get("content-length")
        return int(text) if text else None

    @property
    def closes(self) -> bool:
        return self.get("connection").lower() == "close" or self.first[0] == "HTTP/1.0" or self.first[-1] == "HTTP/1.0"


async def read_head(reader: asyncio.StreamReader) -> Head:
    """The next message's head. Raises IncompleteReadError when the other side closed."""
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text[:-4].split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    return Head(first.split(" ", 2), [(name, value.strip()) for name, value in pairs])


async def body_of(reader: asyncio.StreamReader, head: Head, *, is_answer: bool) -> AsyncIterator[bytes]:
    """The body's bytes as they come, without chunk framing. An answer with no length runs to the end of the connection."""
    if head.is_chunked:
        async for chunk in _chunks(reader):
            yield chunk
    elif head.length is not None:
        left = head.length
        while left:
            content = await reader.read(min(left, CHUNK))
            if not content:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(content)
            yield content
    elif is_answer:
        while content := await reader.read(CHUNK):
            yield content


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return
        while size:
            content = await reader.read(min(size, CHUNK))
            if not content:
                raise asyncio.IncompleteReadError(b"", size)
            size -= len(content)
            yield content
        await reader.readexactly(2)


def framed(content: bytes, *, chunked: bool) -> bytes:
    """*content* as it goes on the wire."""
    return b"%x\r\n%b\r\n" % (len(content), content) if chunked else content


LAST_CHUNK = b"0\r\n\r\n"
