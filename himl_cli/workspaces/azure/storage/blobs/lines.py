"""HTTP by libcurl: many requests at once from one thread, connections kept between them.

`Curl.perform` would hold Ctrl-C back until a request ends; `CurlMulti` with select gives control back at once.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from himl_cli import __version__
from himl_cli.core.errors import DiskFailed
from himl_cli.core.processes import register_after_fork
from himl_cli.workspaces.azure.requests.trust import ca_bundle
from himl_cli.workspaces.azure.storage.blobs.libcurl import libcurl
from himl_cli.workspaces.azure.storage.blobs.proxies import proxy_for

BUFFER = 128 << 10
PIECE_CHUNKS = 16  # libcurl hands over 16 KiB at a time: so many are a piece worth handing on
KEPT_CONNECTIONS = 128
IDLE_NAP = 0.02
FROM_FILE = "PUT from a file"


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds for a connection to stand, and for a request without progress (under 100 bytes a second) to be given
    up."""

    connect: float = 10.0
    stall: float = 30.0


@dataclass(slots=True)
class Exchange:
    """A request. `headers` as lines; `body` is what a PUT or POST sends; an answer `in_pieces` is taken as it comes.

    With `file` a PUT sends that, read as it goes.
    """

    url: str = field(repr=False)
    headers: list[str] = field(repr=False)
    method: str = "GET"
    body: bytes | None = field(default=None, repr=False)
    in_pieces: bool = False
    file: Path | None = None


class Line:
    """A request under way and what came back so far: header lines in `head`, body pieces in `chunks`."""

    __slots__ = ("_file", "_host", "_lowered", "_status", "_text", "chunks", "handle", "head", "kind")

    def __init__(self, handle: Any, kind: str, status: int) -> None:
        self.handle = handle
        self.kind = kind
        self._status = status  # libcurl's number for what `status` asks
        self.head: list[bytes] = []
        self.chunks: list[bytes] = []
        self._host = ""
        self._text = self._lowered = b""  # the head as one text, once it was asked for
        self._file: BinaryIO | None = None

    def begin(self, exchange: Exchange, codes: Any, proxies: dict[str, str]) -> None:
        host = exchange.url.split("/", 3)[2]
        if host != self._host:
            if host not in proxies:
                proxies[host] = proxy_for(exchange.url, host)
            self.handle.setopt(codes.PROXY, proxies[host])
            self._host = host
        self.head.clear()
        self._text = self._lowered = b""
        self.chunks.clear()
        self.handle.setopt(codes.URL, exchange.url)
        self.handle.setopt(codes.HTTPHEADER, exchange.headers)
        if exchange.body is not None:
            self.handle.setopt(codes.POSTFIELDS, exchange.body)
        if exchange.file is not None:
            self._send_file(exchange.file, codes)

    def _send_file(self, path: Path, codes: Any) -> None:
        try:
            file = self._file = path.open("rb")
        except OSError as err:
            raise DiskFailed(
                f"Cannot read '{path}': {err.strerror or err}.", hint="Check the file and its permissions."
            ) from err

        def seek(offset: int, origin: int) -> int:
            file.seek(offset, origin)
            return int(codes.SEEKFUNC_OK)

        self.handle.setopt(codes.READFUNCTION, file.read)
        self.handle.setopt(codes.SEEKFUNCTION, seek)
        self.handle.setopt(codes.INFILESIZE_LARGE, os.fstat(file.fileno()).st_size)

    def let_go(self, codes: Any) -> None:
        """Forget what was sent and what came back."""
        self.chunks.clear()
        if self.kind in ("PUT", "POST"):
            self.handle.setopt(codes.POSTFIELDS, b"")
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def status(self) -> int:
        """Of the answer; 0 before there is one."""
        return int(self.handle.getinfo(self._status))

    def header(self, name: bytes) -> str:
        """The value of header *name* (in lower case) of the answer whose head is there; empty where there is none."""
        if not self._text:
            text = b"\n" + b"".join(self.head)
            self._text = text[
                max(text.rfind(b"\nHTTP/"), 0) :
            ]  # what stood before was a proxy's answer, or a `100 Continue`
            self._lowered = self._text.lower()
        start = self._lowered.find(b"\n" + name + b":")
        if start < 0:
            return ""
        start += len(name) + 2
        return self._text[start : self._text.find(b"\n", start)].strip().decode("latin-1")

    def take(self) -> bytes:
        """The body that came since the last time."""
        data = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks.clear()
        return data


@dataclass(frozen=True, slots=True)
class Broken:
    """A request without a whole answer: libcurl's number for why and its words, and the system's number (`errno`), 0
    for none."""

    number: int
    text: str
    system: int = 0


class Lines:
    """Requests that run at the same time. One owner and one thread at a time; see `Exchanger`. Raises HimlError where
    libcurl cannot be loaded."""

    def __init__(self, limits: Limits) -> None:
        pycurl = libcurl()
        self._codes: Any = pycurl
        self._limits = limits
        self._trust = ca_bundle()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, KEPT_CONNECTIONS)
        self._idle: dict[str, list[Line]] = {"GET": [], "HEAD": [], "PUT": [], "POST": [], FROM_FILE: []}
        self._busy: dict[Any, Line] = {}
        self._streams: set[Line] = set()
        self._proxies: dict[str, str] = {}
        self._is_moved = False  # nothing was sent since libcurl last had its turn

    def send(self, exchange: Exchange) -> Line:
        """Start a request. Raises DiskFailed for a file that cannot be opened."""
        kind = exchange.method if exchange.file is None else FROM_FILE
        idle = self._idle[kind]
        line = idle.pop() if idle else self._new(kind)
        line.begin(exchange, self._codes, self._proxies)
        self._is_moved = False
        self._multi.add_handle(line.handle)
        self._busy[line.handle] = line
        if exchange.in_pieces:
            self._streams.add(line)
        return line

    def turn(self, seconds: float) -> Sequence[tuple[Line, Broken | None]]:
        """Go on with all requests and give those that ended; wait up to so long for one of them to move."""
        if seconds <= 0 or not self._is_moved:
            self.go_on()
        ended = self._ended()
        if ended or seconds <= 0 or self.with_pieces():
            return ended
        self._wait(seconds)
        self.go_on()
        return self._ended()

    def go_on(self) -> None:
        """Do what can be done without waiting; what ends is given by the next `turn`."""
        self._multi.perform()
        self._is_moved = True

    def with_pieces(self) -> Sequence[Line]:
        """The lines whose answers are taken in pieces and of which enough is there to be worth taking."""
        return [line for line in self._streams if len(line.chunks) >= PIECE_CHUNKS] if self._streams else ()

    def _wait(self, seconds: float) -> None:
        if not self._busy:
            time.sleep(seconds)
            return
        due = self._multi.timeout()
        if due >= 0:
            seconds = min(seconds, due / 1000)
        if (
            seconds > 0 and self._multi.select(seconds) <= 0 and not any(self._multi.fdset())
        ):  # without a socket it does not wait
            time.sleep(min(seconds, IDLE_NAP))

    def _ended(self) -> list[tuple[Line, Broken | None]]:
        ended: list[tuple[Line, Broken | None]] = []
        left = 1
        while left:
            left, well, badly = self._multi.info_read()
            ended += [(self._busy[handle], None) for handle in well]
            ended += [
                (self._busy[handle], Broken(number, text, int(handle.getinfo(self._codes.OS_ERRNO))))
                for handle, number, text in badly
            ]
        return ended

    def release(self, line: Line) -> None:
        """Done with *line*, ended or not: it may be used for another request."""
        del self._busy[line.handle]
        self._streams.discard(line)
        self._multi.remove_handle(line.handle)
        line.let_go(self._codes)
        self._idle[line.kind].append(line)

    def release_all(self) -> None:
        for line in [*self._busy.values()]:
            self.release(line)

    def close(self) -> None:
        self.release_all()
        for lines in self._idle.values():
            while lines:
                lines.pop().handle.close()
        self._multi.close()

    def _new(self, kind: str) -> Line:
        curl = self._codes
        handle = curl.Curl()
        line = Line(handle, kind, curl.RESPONSE_CODE)
        handle.setopt(curl.NOSIGNAL, 1)
        handle.setopt(curl.PROTOCOLS, curl.PROTO_HTTP | curl.PROTO_HTTPS)
        handle.setopt(curl.HTTP_VERSION, curl.CURL_HTTP_VERSION_1_1)
        handle.setopt(curl.USERAGENT, f"himl/{__version__}")
        handle.setopt(curl.NOPROXY, "")  # decided by proxy_for
        handle.setopt(curl.PROXYAUTH, curl.HTTPAUTH_ANY)
        handle.setopt(curl.TCP_KEEPALIVE, 1)
        handle.setopt(curl.CONNECTTIMEOUT_MS, int(self._limits.connect * 1000))
        handle.setopt(curl.LOW_SPEED_LIMIT, 100)
        handle.setopt(curl.LOW_SPEED_TIME, max(1, round(self._limits.stall)))
        handle.setopt(curl.BUFFERSIZE, BUFFER)
        handle.setopt(curl.WRITEFUNCTION, line.chunks.append)  # no Python frame a piece
        handle.setopt(curl.HEADERFUNCTION, line.head.append)
        self._set_trust(handle)
        if kind == "HEAD":
            handle.setopt(curl.NOBODY, 1)
        if kind == FROM_FILE:
            handle.setopt(curl.UPLOAD, 1)
            handle.setopt(curl.UPLOAD_BUFFERSIZE, BUFFER)
        if kind in ("PUT", "POST"):
            handle.setopt(curl.UPLOAD_BUFFERSIZE, BUFFER)
            handle.setopt(curl.POST, 1)
        if kind == "PUT":
            handle.setopt(curl.CUSTOMREQUEST, "PUT")
        return line

    def _set_trust(self, handle: Any) -> None:
        for place in (
            (self._codes.CAPATH, self._codes.PROXY_CAPATH)
            if os.path.isdir(self._trust)
            else (self._codes.CAINFO, self._codes.PROXY_CAINFO)
        ):
            handle.setopt(place, self._trust)


class Exchanger:
    """Lends out `Lines`, so that connections last from one use to the next, whichever thread or nesting asks."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._idle: deque[Lines] = deque()
        self._inherited: list[Lines] = []
        register_after_fork(self)

    @contextmanager
    def lines(self) -> Iterator[Lines]:
        """Lines of one's own for a while; requests that have not ended when it is over are given up."""
        try:
            lines = self._idle.pop()
        except IndexError:
            lines = Lines(self._limits)
        try:
            yield lines
        finally:
            lines.release_all()
            self._idle.append(lines)

    def after_fork(self) -> None:
        """The connections are still the parent's: they are neither used nor closed here."""
        self._inherited.extend(self._idle)  # kept, for dropping them would close them
        self._idle = deque()

    def close(self) -> None:
        """Close all connections that are not in use."""
        while self._idle:
            self._idle.pop().close()
