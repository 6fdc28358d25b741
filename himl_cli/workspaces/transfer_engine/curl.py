"""HTTP through libcurl: many requests at once from one thread, with connections that stay open between them.

`Curl.perform` would delay Ctrl-C until a request ends. `CurlMulti` with select returns control at once.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.request import getproxies, proxy_bypass

from himl_cli import __version__
from himl_cli.core.errors import DiskFailed, HimlError
from himl_cli.core.installation import ca_bundle
from himl_cli.core.processes import register_after_fork
from himl_cli.core.records import dataclass

BUFFER = 64 << 10
UPLOAD = "PUT from a file"


@dataclass(slots=True)
class CurlRequest:
    """`headers` are lines. `content` is the body of a PUT or POST. A PUT with `file` sends the file while reading it.

    A response that `is_streamed` is consumed piece by piece.
    """

    url: str = field(repr=False)
    headers: list[str] = field(repr=False)
    method: str = "GET"
    content: bytes | None = field(default=None, repr=False)
    is_streamed: bool = False
    file: Path | None = None


class CurlResponse:
    """A request in progress and its response so far: header lines in `head`, body pieces in `chunks`.

    At its end, it either `is_complete` or has a `failure`: libcurl's number and message, and the system's `errno` or 0.
    After its release, it is reused for another request.
    """

    __slots__ = ("_curl", "_host", "_lowered", "_text", "chunks", "failure", "file", "handle", "head", "is_complete",
                 "kind")  # fmt: skip

    def __init__(self, handle: Any, kind: str, curl: Any) -> None:
        self.handle, self.kind, self._curl = handle, kind, curl
        self.head: list[bytes] = []
        self.chunks: list[bytes] = []
        self.is_complete = False
        self.failure: tuple[int, str, int] | None = None
        self._host = ""
        self._text = self._lowered = b""  # the head as one text, once requested
        self.file: BinaryIO | None = None

    def start(self, request: CurlRequest, host: str, proxy: str) -> None:
        """Set up the handle for *request* to *host* through *proxy*, empty for none. Raises DiskFailed."""
        if host != self._host:
            self.handle.setopt(self._curl.PROXY, proxy)
            self._host = host
        self.head.clear()
        self._text = self._lowered = b""
        self.chunks.clear()
        self.is_complete, self.failure = False, None
        self.handle.setopt(self._curl.URL, request.url)
        self.handle.setopt(self._curl.HTTPHEADER, request.headers)
        if request.content is not None:
            self.handle.setopt(self._curl.POSTFIELDS, request.content)
        if request.file is None:
            return
        try:
            file = self.file = request.file.open("rb")
        except OSError as err:
            raise DiskFailed(
                f"Cannot read '{request.file}': {err.strerror or err}.", hint="Check the file and its permissions."
            ) from err

        def seek(offset: int, origin: int) -> int:
            file.seek(offset, origin)
            return int(self._curl.SEEKFUNC_OK)

        self.handle.setopt(self._curl.READFUNCTION, file.read)
        self.handle.setopt(self._curl.SEEKFUNCTION, seek)
        self.handle.setopt(self._curl.INFILESIZE_LARGE, os.fstat(file.fileno()).st_size)

    @property
    def status(self) -> int:
        return int(self.handle.getinfo(self._curl.RESPONSE_CODE))

    def header(self, name: bytes) -> str:
        """The value of header *name* (in lower case), or ""."""
        if not self._text:
            text = b"\n" + b"".join(self.head)
            # Lines before the last status line are a proxy's response, or a `100 Continue`.
            self._text = text[max(text.rfind(b"\nHTTP/"), 0) :]
            self._lowered = self._text.lower()
        start = self._lowered.find(b"\n" + name + b":")
        if start < 0:
            return ""
        start += len(name) + 2
        return self._text[start : self._text.find(b"\n", start)].strip().decode("latin-1")

    def take(self) -> bytes:
        data = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks.clear()
        return data


class CurlClient:
    """Concurrent requests, for one owner and one thread at a time (see `CurlPool`). Raises HimlError if libcurl cannot
    be loaded."""

    def __init__(self, timeouts: tuple[float, float], *, uses_proxies: bool) -> None:
        self._curl = curl = load_pycurl()
        self._timeouts, self._uses_proxies = timeouts, uses_proxies
        self._authorities = ca_bundle()
        self._multi = curl.CurlMulti()
        self._multi.setopt(curl.M_MAXCONNECTS, 128)
        self._idle: defaultdict[str, list[CurlResponse]] = defaultdict(list)
        self._busy: dict[Any, CurlResponse] = {}
        self._streams: set[CurlResponse] = set()
        self._proxies: dict[str, str] = {}
        self._is_performed = False  # nothing was sent since the last `perform`

    def send(self, request: CurlRequest) -> CurlResponse:
        """Start a request. Raises DiskFailed for an unreadable file."""
        kind = request.method if request.file is None else UPLOAD
        response = self._idle[kind].pop() if self._idle[kind] else self._new(kind)
        host = request.url.split("/", 3)[2]
        if host not in self._proxies:
            self._proxies[host] = proxy_for(request.url, host) if self._uses_proxies else ""
        response.start(request, host, self._proxies[host])
        self._is_performed = False
        self._multi.add_handle(response.handle)
        self._busy[response.handle] = response
        if request.is_streamed:
            self._streams.add(response)
        return response

    def poll(self, seconds: float) -> Sequence[CurlResponse]:
        """Continue all requests and return those that ended, waiting at most this long for one of them."""
        if seconds <= 0 or not self._is_performed:
            self.perform()
        ended = self._ended()
        if ended or seconds <= 0 or self.with_pieces():
            return ended
        if not self._busy:
            time.sleep(seconds)
        else:
            due = self._multi.timeout()
            if due >= 0:
                seconds = min(seconds, due / 1000)
            # Without a socket, select does not wait.
            if seconds > 0 and self._multi.select(seconds) <= 0 and not any(self._multi.fdset()):
                time.sleep(min(seconds, 0.02))
        self.perform()
        return self._ended()

    def perform(self) -> None:
        """Continue without waiting. The next `poll` returns requests that end."""
        self._multi.perform()
        self._is_performed = True

    def with_pieces(self) -> Sequence[CurlResponse]:
        """The streamed responses with enough data to be consumed: 8 times libcurl's 16 KiB."""
        return [one for one in self._streams if len(one.chunks) >= 8] if self._streams else ()

    def _ended(self) -> list[CurlResponse]:
        ended: list[CurlResponse] = []
        left = 1
        while left:
            left, succeeded, failed = self._multi.info_read()
            for handle in succeeded:
                self._busy[handle].is_complete = True
                ended.append(self._busy[handle])
            for handle, number, text in failed:
                self._busy[handle].failure = number, text, int(handle.getinfo(self._curl.OS_ERRNO))
                ended.append(self._busy[handle])
        return ended

    def release(self, response: CurlResponse) -> None:
        """Release *response*, ended or not, to be reused for another request."""
        del self._busy[response.handle]
        self._streams.discard(response)
        self._multi.remove_handle(response.handle)
        response.chunks.clear()
        if response.kind in ("PUT", "POST"):
            response.handle.setopt(self._curl.POSTFIELDS, b"")
        if response.file is not None:
            response.file.close()
            response.file = None
        self._idle[response.kind].append(response)

    def release_all(self) -> None:
        for response in [*self._busy.values()]:
            self.release(response)

    def close(self) -> None:
        self.release_all()
        for responses in self._idle.values():
            while responses:
                responses.pop().handle.close()
        self._multi.close()

    def _new(self, kind: str) -> CurlResponse:
        curl = self._curl
        handle = curl.Curl()
        response = CurlResponse(handle, kind, curl)
        is_folder = os.path.isdir(self._authorities)
        options: list[tuple[int, Any]] = [
            (curl.NOSIGNAL, 1),
            (curl.PROTOCOLS, curl.PROTO_HTTP | curl.PROTO_HTTPS),
            (curl.HTTP_VERSION, curl.CURL_HTTP_VERSION_1_1),
            (curl.USERAGENT, f"himl/{__version__}"),
            (curl.NOPROXY, ""),  # proxy_for decides
            (curl.PROXYAUTH, curl.HTTPAUTH_ANY),
            (curl.TCP_KEEPALIVE, 1),
            (curl.CONNECTTIMEOUT_MS, int(self._timeouts[0] * 1000)),
            (curl.LOW_SPEED_LIMIT, 100),
            (curl.LOW_SPEED_TIME, max(1, round(self._timeouts[1]))),
            (curl.BUFFERSIZE, BUFFER),
            (curl.WRITEFUNCTION, response.chunks.append),  # avoids a Python frame per piece
            (curl.HEADERFUNCTION, response.head.append),
            (curl.CAPATH if is_folder else curl.CAINFO, self._authorities),
            (curl.PROXY_CAPATH if is_folder else curl.PROXY_CAINFO, self._authorities),
        ]
        of_kind: dict[str, list[tuple[int, Any]]] = {
            "GET": [],
            "HEAD": [(curl.NOBODY, 1)],
            "DELETE": [(curl.CUSTOMREQUEST, "DELETE")],
            "POST": [(curl.POST, 1), (curl.UPLOAD_BUFFERSIZE, BUFFER)],
            "PUT": [(curl.POST, 1), (curl.UPLOAD_BUFFERSIZE, BUFFER), (curl.CUSTOMREQUEST, "PUT")],
            UPLOAD: [(curl.UPLOAD, 1), (curl.UPLOAD_BUFFERSIZE, BUFFER)],
        }
        for option, value in options + of_kind[kind]:
            handle.setopt(option, value)
        return response


class CurlPool:
    """Lends clients, so that connections outlast one use, whichever thread or nested call needs them.

    *connect* is the limit in seconds for opening a connection. *stall* is the limit for a request without progress
    (below 100 bytes per second). Servers of this machine need no proxy.
    """

    def __init__(self, connect: float = 10.0, stall: float = 30.0, *, uses_proxies: bool = True) -> None:
        self._timeouts, self._uses_proxies = (connect, stall), uses_proxies
        self._idle: deque[CurlClient] = deque()
        self._inherited: list[CurlClient] = []
        register_after_fork(self)

    @contextmanager
    def client(self) -> Iterator[CurlClient]:
        """Lend a client for the duration of the context, and abandon its unfinished requests at the end."""
        try:
            client = self._idle.pop()
        except IndexError:
            client = CurlClient(self._timeouts, uses_proxies=self._uses_proxies)
        try:
            yield client
        finally:
            client.release_all()
            self._idle.append(client)

    def after_fork(self) -> None:
        """Leave the parent's connections, neither using nor closing them."""
        self._inherited.extend(self._idle)  # kept alive, because deleting them would close them
        self._idle = deque()

    def close(self) -> None:
        """Close all unused connections."""
        while self._idle:
            self._idle.pop().close()


def get_locally(url: str, *, seconds: float) -> tuple[int, bytes]:
    """The status and content of the response of a server on this machine, without a proxy, or 0 and nothing if it does
    not answer within *seconds*. Raises HimlError if libcurl cannot be loaded."""
    pool = CurlPool(seconds, seconds, uses_proxies=False)
    with closing(pool), pool.client() as client:
        response = client.send(CurlRequest(url, []))
        while not response.is_complete and response.failure is None:
            client.poll(seconds)
        return (response.status, response.take()) if response.is_complete else (0, b"")


def load_pycurl() -> Any:
    """The module `pycurl`. Raises HimlError if it cannot be loaded, for example if it was built for another
    libcurl."""
    try:
        import pycurl
    except ImportError as err:
        raise HimlError(
            f"pycurl cannot be loaded: {err}.", hint="Install it again: pip install --force-reinstall pycurl"
        ) from err
    return pycurl


def proxy_for(url: str, host: str) -> str:
    """The proxy for *url* (on *host*, maybe with a port) from HTTPS_PROXY and its relatives, except for NO_PROXY, by
    the rules of urllib and requests, or ""."""
    proxies = getproxies()
    proxy = proxies.get(url.split(":", 1)[0]) or proxies.get("all") or ""
    return "" if not proxy or proxy_bypass(host) else proxy
