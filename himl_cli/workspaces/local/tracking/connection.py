"""One client's connection: HTTP/1.1 in, JSON out. Nothing here is logged: a path may hold the job's secret."""

from __future__ import annotations

import http.client
import json
import logging
import socket
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from typing import Any

from himl_cli.core.errors import HimlError
from himl_cli.workspaces.local.tracking.environment import USER
from himl_cli.workspaces.local.tracking.fields import Refused
from himl_cli.workspaces.local.tracking.routes import Routes
from himl_cli.workspaces.local.tracking.strangers import Strangers

LARGEST_HEAD = 64 << 10
LARGEST_BODY = 64 << 20
LARGEST_DRAINED = 1 << 30
PIECE = 1 << 20
# Clients retry 429, 500 and 502-504 for minutes; a full disk or a fault of ours is better told at once.
NOT_RETRIED = HTTPStatus.INSUFFICIENT_STORAGE
SPOILED = (
    "MLflow sent a user name and password instead of the job's token; they come from ~/.mlflow/credentials, a "
    ".netrc file or MLFLOW_TRACKING_USERNAME"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Door:
    """Who is let in, and to what. The secret is taken as a bearer token, as a password, or as the first part of the
    path."""

    routes: Routes
    secret: str
    port: int

    def is_key(self, authorization: str) -> bool:
        """Whether the header's value holds the secret."""
        given = authorization.encode("latin-1", "replace")
        password = b64encode(f"{USER}:{self.secret}".encode())
        return compare_digest(given, f"Bearer {self.secret}".encode()) or compare_digest(given, b"Basic " + password)

    @property
    def hosts(self) -> tuple[str, str]:
        return f"127.0.0.1:{self.port}", f"localhost:{self.port}"


class _Gone(Exception):
    """The client went away in the middle of a request, or fell silent."""


class _Head:
    """The header lines of one request, in all no longer than `LARGEST_HEAD`."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self._left = LARGEST_HEAD

    def readline(self, limit: int) -> bytes:
        """Raises LineTooLong."""
        line = self._file.readline(min(limit, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise http.client.LineTooLong("header")
        return line


class Connection(BaseHTTPRequestHandler):
    """Serves one connection until the client closes it, or until the time of *strangers* is over for one that shows no
    token."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, client: socket.socket, door: Door, strangers: Strangers) -> None:
        self.door = door
        self._strangers = strangers
        self._is_ours = False
        server: Any = None  # the base class only hands it on
        super().__init__(client, ("127.0.0.1", 0), server)

    def parse_request(self) -> bool:
        whole: Any = self.rfile
        head: Any = _Head(whole)
        self.rfile = head
        try:
            return super().parse_request()
        finally:
            self.rfile = whole

    def _answer(self) -> None:
        try:
            status, reply = HTTPStatus.OK, self._reply()
        except _Gone:
            self.close_connection = True
            return
        except Refused as refusal:
            status, reply = HTTPStatus(refusal.status), _error(refusal.code, str(refusal))
        except HimlError as err:
            status, reply = (
                NOT_RETRIED,
                _error("INTERNAL_ERROR", f"himl could not keep what was logged: {err} {err.hint}".strip()),
            )
        except Exception:  # the edge of a thread: the client must hear something, and the job goes on
            log.exception("The tracking server failed on a request.")
            status, reply = (
                NOT_RETRIED,
                _error("INTERNAL_ERROR", "The tracking server of this job failed; its log says why."),
            )
        self._send(status, reply)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _answer  # noqa: N815 - the names that the base class calls

    def _reply(self) -> Mapping[str, object]:
        length = self._length()
        path, _, query = self.path.partition("?")
        try:
            route = self._admitted(path)
            self._come_in()
            if length > LARGEST_BODY:
                raise Refused(
                    f"The request's body is larger than {LARGEST_BODY >> 20} MiB.",
                    code="REQUEST_LIMIT_EXCEEDED",
                    status=413,
                )
        except Refused:
            self._drain(length)
            raise
        body = self._read(length)
        if len(body) < length:
            self.close_connection = True
            raise Refused("The request's body ended early.", code="BAD_REQUEST")
        return self.door.routes.answer(self.command, route, query, body)

    def _length(self) -> int:
        """Raises `Refused`, and lets the connection end, where the end of the body cannot be told."""
        given = {value.strip() for value in self.headers.get_all("Content-Length", ["0"])}
        text = given.pop()
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise Refused("Send the body with a Content-Length.", code="BAD_REQUEST", status=411)
        if given or not (text.isascii() and text.isdigit() and len(text) < 20):
            self.close_connection = True
            raise Refused("The Content-Length is not a number.", code="BAD_REQUEST")
        return int(text)

    def _admitted(self, path: str) -> str:
        """The path without the secret. A foreign Host is a web page whose name was bound to this address."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.door.hosts:
            raise Refused("This server answers on 127.0.0.1 only.", code="PERMISSION_DENIED", status=403)
        first, _, rest = path[1:].partition("/")
        if compare_digest(first.encode("latin-1", "replace"), self.door.secret.encode()):
            return f"/{rest}"
        authorization = self.headers.get("Authorization", "")
        if self.door.is_key(authorization):
            return path
        cause = f": {SPOILED}." if authorization.lower().startswith("basic ") else "."
        raise Refused(
            f"This is the tracking server of one himl job, and the request lacks the job's token{cause}",
            code="UNAUTHENTICATED",
            status=401,
        )

    def _come_in(self) -> None:
        """The client has shown the token: it may be as slow as it likes, for as long as the job goes on."""
        if not self._is_ours:
            self._is_ours = True
            self._strangers.remove(self.connection)
            self.connection.settimeout(None)

    def _drain(self, length: int) -> None:
        """Read what is not wanted: a client that is still sending would see a reset instead of the reason. Of a
        stranger it is not much."""
        if length > (LARGEST_DRAINED if self._is_ours else self._strangers.limits.drained):
            self.close_connection = True
            return
        while length > 0 and (piece := self._read(min(length, PIECE))):
            length -= len(piece)

    def _read(self, length: int) -> bytes:
        """So much of the body, or what there is of it. Raises _Gone."""
        try:
            return self.rfile.read(length)
        except OSError as err:
            raise _Gone from err

    def _send(self, status: HTTPStatus, reply: Mapping[str, object]) -> None:
        """Everything in one write: in two, the second waits for the client's delayed acknowledgement, some 40 ms."""
        text = json.dumps(reply, separators=(",", ":"), allow_nan=False)
        if status != HTTPStatus.OK:  # a reason may quote the path, and clients print reasons
            text = text.replace(self.door.secret, "…")
        body = text.encode()
        closing = "Connection: close\r\n" if self.close_connection else ""
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\nContent-Length: "
            f"{len(body)}\r\n{closing}\r\n"
        )
        self.wfile.write(head.encode("ascii") + (b"" if self.command == "HEAD" else body))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said of a connection."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses (a request line it cannot read, an unknown method), as JSON too; *message* may
        quote what was sent."""
        self.close_connection = True
        status = HTTPStatus(code)
        self._send(
            status,
            _error(
                "BAD_REQUEST", f"{status.phrase}: {status.description}." if status.description else f"{status.phrase}."
            ),
        )


def _error(code: str, message: str) -> dict[str, object]:
    return {"error_code": code, "message": message}
