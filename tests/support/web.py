"""A small HTTPS file server that can omit features (ranges, HEAD, ETag), cut connections and replace content, and a
webhook.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import trustme

KEY = "marked-secret-T0B1"
"""The path of webhooks, which nobody may see."""
LOOK = "bytes=0-0"
LONG_AGO = "Fri, 02 Jan 2026 03:04:05 GMT"


@dataclass
class Served:
    """A file, and how it is served. `headers` take precedence over the others, `moved_to` makes it a redirect, and a
    `status` sends it unchanged.
    """

    body: bytes = b""
    etag: str = '"one"'
    modified: str = LONG_AGO
    ranges: bool = True
    if_range: bool = True
    head: bool = True
    length: bool = True
    status: int = 0
    moved_to: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A received request. `range` is empty without one."""

    method: str
    path: str
    query: str
    range: str
    headers: dict[str, str]


def _nothing(asked: Asked) -> None:
    """The default action before a reply."""


@dataclass
class FileServer:
    """`files` by path. Each reply after the first request for a file takes the next of `cuts`, and the connection
    breaks after that many bytes.
    """

    address: str
    files: dict[str, Served] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    seen: list[Asked] = field(default_factory=list)
    connections: list[int] = field(default_factory=list)  # their source ports
    before: Callable[[Asked], None] = _nothing

    def __call__(self, path: str, query: str = "") -> str:
        """The address of the file at *path*."""
        return f"{self.address}{path}?{query}" if query else f"{self.address}{path}"

    def put(self, path: str, body: bytes, **how: object) -> Served:
        self.files[path] = Served(body, **how)  # type: ignore[arg-type]
        return self.files[path]

    def clear(self) -> None:
        """Restore the initial state."""
        self.files, self.cuts, self.seen, self.connections, self.before = {}, [], [], [], _nothing

    @property
    def ranges(self) -> list[str]:
        """The ranges of GET requests, without the first request for a file."""
        return [one.range for one in self.seen if one.method == "GET" and one.range != LOOK]


@contextmanager
def serving_files(bundle: Path | None) -> Iterator[FileServer]:
    """A server on localhost. Writes its CA certificate to the file *bundle*, or uses plain HTTP if that is None."""
    server, address = _server(_Handler, bundle)
    files = FileServer(address)
    server.files = files  # type: ignore[attr-defined]
    with answering(server):
        yield files


def _server(handler: type[BaseHTTPRequestHandler], bundle: Path | None) -> tuple[ThreadingHTTPServer, str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if bundle is not None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(bundle))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server, f"{'http' if bundle is None else 'https'}://localhost:{server.server_port}"


@dataclass
class WebhookServer:
    """Receives POST requests to `url` with the path `KEY`. Each gets the next of `answers`, else 200. None: no reply
    before the server ends.
    """

    address: str
    answers: list[int | None] = field(default_factory=list)
    moved_to: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)  # of the received requests
    ending: Event = field(default_factory=Event)

    @property
    def url(self) -> str:
        return f"{self.address}/services/{KEY}"


@contextmanager
def serving_webhook(bundle: Path | None = None) -> Iterator[WebhookServer]:
    """A webhook on localhost, as `serving_files`."""
    server, address = _server(_Webhook, bundle)
    webhook = WebhookServer(address)
    server.webhook = webhook  # type: ignore[attr-defined]
    with answering(server):
        try:
            yield webhook
        finally:
            webhook.ending.set()


class _Webhook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        webhook: WebhookServer = self.server.webhook  # type: ignore[attr-defined]
        webhook.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        webhook.targets.append(self.path)
        status = webhook.answers.pop(0) if webhook.answers else 200
        if status is None:
            webhook.ending.wait()
            return
        self.send_response(status)
        if webhook.moved_to:
            self.send_header("Location", webhook.moved_to)
        self.end_headers()

    def handle(self) -> None:
        with suppress(ConnectionError, ssl.SSLError):  # the client disconnected
            super().handle()

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def answering(server: ThreadingHTTPServer) -> Iterator[None]:
    """Serve requests to *server* in a thread within the context."""
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(is_get=True)

    def do_HEAD(self) -> None:
        self._answer(is_get=False)

    def handle(self) -> None:
        self.server.files.connections.append(self.client_address[1])  # type: ignore[attr-defined]
        try:
            super().handle()
        except (ConnectionError, ssl.SSLError):  # the client disconnected
            self.close_connection = True

    def finish(self) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            super().finish()

    def _answer(self, *, is_get: bool) -> None:
        files: FileServer = self.server.files  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, parts.path, parts.query, headers.get("range", ""), headers)
        files.seen.append(asked)
        files.before(asked)
        served = files.files.get(parts.path, Served(status=404))
        if not is_get and not served.head:
            served = Served(status=405)
        status, body, fields = _content(served, asked)
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        if not is_get:
            return
        cut = files.cuts.pop(0) if files.cuts and asked.range != LOOK else len(body)
        if "Transfer-Encoding" in fields:
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
            cut += len(body)
        self.wfile.write(body[:cut])
        self.close_connection = self.close_connection or cut < len(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def _content(served: Served, asked: Asked) -> tuple[int, bytes, dict[str, str]]:
    """The status, the body, and additional headers."""
    if served.moved_to:
        return 302, b"", {"Location": served.moved_to, "Content-Length": "0"}
    if served.status:
        return served.status, served.body, {"Content-Length": str(len(served.body)), **served.headers}
    fields = {name: value for name, value in {"ETag": served.etag, "Last-Modified": served.modified}.items() if value}
    body, status = served.body, 200
    condition = asked.headers.get("if-range", "")
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.range)
    if (
        served.ranges
        and found
        and not (served.if_range and condition and condition not in (served.etag, served.modified))
    ):
        start, stop = int(found[1]), min(int(found[2]) + 1, len(body))
        if start >= len(body):
            return 416, b"", {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"}
        fields["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
        body, status = body[start:stop], 206
    fields |= {"Content-Length": str(len(body))} if served.length else {"Transfer-Encoding": "chunked"}
    return status, body, {**fields, **served.headers}
