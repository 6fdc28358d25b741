"""The network traffic: host names that the double serves, HTTP/1.1 messages, the log of all requests, and all secrets
for tests that search for leaks.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import parse_qsl

CHUNK = 256 * 1024
LAST_CHUNK = b"0\r\n\r\n"
_SECRET = re.compile(r"(?i)\b(sig|client_secret|client_assertion)=[^&]*")
Listener = Callable[[str, str], None]
_listeners: list[Listener] = []


class Role(Enum):
    ARM = "control plane"
    LOGIN = "identity"
    DATA = "data plane"
    BLOB = "storage"
    NODE = "a node of a job"


# Host names have a region or an account as prefix.
DATA_PLANE, STORAGE = "api.azureml.ms", "blob.core.windows.net"
NODES = "eastus.nodes.azureml.ms"
_EXACT = dict.fromkeys(("management.azure.com", "management.usgovcloudapi.net"), Role.ARM)
# The other services are always those of the public cloud.
_EXACT |= dict.fromkeys(("login.microsoftonline.com", "login.microsoftonline.us"), Role.LOGIN)
_BELOW = {DATA_PLANE: Role.DATA, STORAGE: Role.BLOB, NODES: Role.NODE}
CERTIFIED = (*_EXACT, *(f"*.{suffix}" for suffix in _BELOW))


def role_of(host: str) -> Role | None:
    host = host.lower()
    return _EXACT.get(host) or _BELOW.get(host.partition(".")[2])


def issued(kind: str, secret: str) -> str:
    for listener in tuple(_listeners):
        listener(kind, secret)
    return secret


def signed(query: str) -> str:
    if _listeners:
        for name, value in parse_qsl(query.partition("?")[2] or query):
            if name == "sig":
                issued("signature", value)
    return query


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@dataclass
class Head:
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
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text[:-4].split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    return Head(first.split(" ", 2), [(name, value.strip()) for name, value in pairs])


async def body_of(reader: asyncio.StreamReader, head: Head, *, is_answer: bool) -> AsyncIterator[bytes]:
    """Yield the bytes of the body as they arrive, without chunk framing. An answer without a length extends to the
    end of the connection.
    """
    if head.is_chunked:
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            async for content in _pieces(reader, size):
                yield content
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    elif head.length is not None:
        async for content in _pieces(reader, head.length):
            yield content
    elif is_answer:
        while content := await reader.read(CHUNK):
            yield content


async def _pieces(reader: asyncio.StreamReader, left: int) -> AsyncIterator[bytes]:
    while left:
        content = await reader.read(min(left, CHUNK))
        if not content:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(content)
        yield content


def framed(content: bytes, *, chunked: bool) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content) if chunked else content


@dataclass
class Seen:
    """One request. `sent` and `received` count the bytes of the bodies as the client saw them. `query` has masked
    signatures. `status` 0 means no answer.
    """

    method: str
    host: str
    path: str
    query: str
    headers: dict[str, str]
    sent: int = 0
    status: int = 0
    received: int = 0
    started: float = field(default_factory=time.time)
    seconds: float = 0.0
    unknown: str = ""  # why the double does not support the request
    faults: list[str] = field(default_factory=list)
    body: bytes = b""  # body of a PUT to a service other than storage

    def __str__(self) -> str:
        return f"{self.method} {self.host}{self.path}{'?' if self.query else ''}{self.query} -> {self.status}"


def masked(query: str) -> str:
    return _SECRET.sub(r"\1=***", signed(query))


class RequestLog:
    """All requests since the last `clear`. Thread-safe for reading."""

    def __init__(self) -> None:
        self._seen: list[Seen] = []
        self._expected: list[str] = []

    def note(self, seen: Seen) -> None:
        self._seen.append(seen)

    def clear(self) -> None:
        self._seen, self._expected = [], []

    def all(self) -> list[Seen]:
        return list(self._seen)

    def find(self, pattern: str = "", where: Callable[[Seen], bool] = lambda seen: True) -> list[Seen]:
        """Return the requests whose line (`METHOD host/path?query -> status`) matches the regular expression
        *pattern*, in order.
        """
        return [seen for seen in self.all() if re.search(pattern, str(seen)) and where(seen)]

    def expect_unknown(self, pattern: str) -> None:
        """Declare that the test sends such unsupported requests intentionally, so that they do not fail it."""
        self._expected.append(pattern)

    def unknown(self) -> list[str]:
        """List unsupported requests, and answers that are failures of the double itself."""
        return [
            f"{seen} ({seen.unknown})"
            for seen in self.all()
            if seen.unknown and not any(re.search(one, str(seen)) for one in self._expected)
        ]
