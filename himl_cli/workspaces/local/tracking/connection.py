"""One client's connection: HTTP/1.1 in, JSON out. Nothing here is logged: a path may hold the job's secret."""

from __future__ import annotations

import json
import logging
import socket
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from himl_cli.core.errors import HimlError
from himl_cli.workspaces.local.tracking.environment import USER
from himl_cli.workspaces.local.tracking.fields import Refused
from himl_cli.workspaces.local.tracking.routes import Routes

LARGEST_BODY = 64 << 20
LARGEST_DRAINED = 1 << 30
PIECE = 1 << 20
# Clients retry 429, 500 and 502-504 for minutes; a full disk or a fault of ours is better told at once.
NOT_RETRIED = HTTPStatus.INSUFFICIENT_STORAGE
SPOILED = "MLflow sent a user name and password instead of the job's token; they come from ~/.mlflow/credentials, a .netrc file or MLFLOW_TRACKING_USERNAME"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Door:
    """Who is let in, and to what. The secret is taken as a bearer token, as a password, or as the first part of the path."""

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


class Connection(BaseHTTPRequestHandler):
    """Serves one connection until the client closes it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, client: socket.socket, door: Door) -> None:
        self.door = door
        server: Any = None  # the base class only hands it on
        super().__init__(client, ("127.0.0.1", 0), server)

    def _answer(self) -> None:
        try:
            status, reply = HTTPStatus.OK, self._reply()
        except Refused as refusal:
            status, reply = HTTPStatus(refusal.status), _error(refusal.code, str(refusal))
        except HimlError as err:
            status, reply = NOT_RETRIED, _error("INTERNAL_ERROR", f"himl could not keep what was logged: {err} {err.hint}".strip())
        except Exception:  # the edge of a thread: the client must hear something, and the job goes on
            log.exception("The tracking server failed on a request.")
            status, reply = NOT_RETRIED, _error("INTERNAL_ERROR", "The tracking server of this job failed; its log says why.")
        self._send(status, reply)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _answer  # noqa: N815 - the names that the base class calls

    def _reply(self) -> Mapping[str, object]:
        length = self._length()
        path, _, query = self.path.partition("?")
        try:
            route = self._admitted(path)
            if length > LARGEST_BODY:
                raise Refused(f"The request's body is larger than {LARGEST_BODY >> 20} MiB.", code="REQUEST_LIMIT_EXCEEDED", status=413)
        except Refused:
            self._drain(length)
            raise
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            raise Refused("The request's body ended early.", code="BAD_REQUEST")
        return self.door.routes.answer(self.command, route, query, body)

    def _length(self) -> int:
        """Raises `Refused`, and lets the connection end, where the end of the body cannot be told."""
        text = self.headers.get("Content-Length", "0").strip()
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise Refused("Send the body with a Content-Length.", code="BAD_REQUEST", status=411)
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            self.close_connection = True
            raise Refused("The Content-Length is not a number.", code="BAD_REQUEST")
        return int(text)

    def _admitted(self, path: str) -> str:
        """The path without the secret. A foreign Host is a web page whose name was bound to this address."""
        if self.headers.get("Host", "").lower() not in self.door.hosts:
            raise Refused("This server answers on 127.0.0.1 only.", code="PERMISSION_DENIED", status=403)
        first, _, rest = path[1:].partition("/")
        if compare_digest(first.encode("latin-1", "replace"), self.door.secret.encode()):
            return f"/{rest}"
        authorization = self.headers.get("Authorization", "")
        if self.door.is_key(authorization):
            return path
        cause = f": {SPOILED}." if authorization.lower().startswith("basic ") else "."
        raise Refused(f"This is the tracking server of one himl job, and the request lacks the job's token{cause}", code="UNAUTHENTICATED", status=401)

    def _drain(self, length: int) -> None:
        """Read what is not wanted: a client that is still sending would see a reset instead of the reason."""
        if length > LARGEST_DRAINED:
            self.close_connection = True
            return
        while length > 0 and (piece := self.rfile.read(min(length, PIECE))):
            length -= len(piece)

    def _send(self, status: HTTPStatus, reply: Mapping[str, object]) -> None:
        """Everything in one write: in two, the second waits for the client's delayed acknowledgement, some 40 ms."""
        body = json.dumps(reply, separators=(",", ":"), allow_nan=False).encode()
        closing = "Connection: close\r\n" if self.close_connection else ""
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{closing}\r\n"
        self.wfile.write(head.encode("ascii") + (b"" if self.command == "HEAD" else body))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses (a request line it cannot read, an unknown method), as JSON too."""
        self.close_connection = True
        self._send(HTTPStatus(code), _error("BAD_REQUEST", message or HTTPStatus(code).phrase))


def _error(code: str, message: str) -> dict[str, object]:
    return {"error_code": code, "message": message}
