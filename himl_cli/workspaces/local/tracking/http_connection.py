"""The connection of one client, with HTTP/1.1 requests and JSON replies, and the handlers of requests. Logs no
requests, since a path may contain the job's secret."""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import socket
from base64 import b64decode
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hmac import compare_digest
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from typing import Any
from urllib.parse import parse_qs, unquote

from himl_cli.core.errors import HimlError
from himl_cli.core.records import dataclass
from himl_cli.core.search import BadSearch
from himl_cli.workspaces.local.shim import children_of
from himl_cli.workspaces.local.tracking.models import LoggedModels, ModelRegistry, Traces
from himl_cli.workspaces.local.tracking.protocol import Fields, Json, RequestError, parse_json
from himl_cli.workspaces.local.tracking.tracked_runs import JobRuns

PREFIXES = ("/api/2.0/mlflow/", "/api/3.0/mlflow/", "/ajax-api/2.0/mlflow/", "/api/2.0/preview/mlflow/")
IDS = {"logged-models": "model_id", "traces": "trace_id"}  # routes with an id, which the table has as *
LARGEST_HEAD = 64 << 10
LARGEST_BODY = 64 << 20
# Clients retry 429, 500 and 502-504 for minutes. A full disk or an internal error must be reported at once.
NOT_RETRIED = HTTPStatus.INSUFFICIENT_STORAGE
OTHER_CREDENTIALS = (
    "MLflow sent a user name and password from ~/.mlflow/credentials, a .netrc file or MLFLOW_TRACKING_USERNAME "
    "instead of the job's token"
)

log = logging.getLogger(__name__)


class Routes:
    """The tracking REST of one job: `answer` maps a request to a reply, or raises `RequestError`."""

    def __init__(self, runs: JobRuns) -> None:
        models, traces = LoggedModels(runs), Traces(runs)
        registry = ModelRegistry(runs.store.database, models)
        self._routes: dict[tuple[str, str], Callable[[Fields], Json]] = {
            ("GET", "runs/get"): runs.get,
            ("POST", "runs/create"): runs.create,
            ("POST", "runs/update"): runs.update,
            ("POST", "runs/delete"): runs.delete,
            ("POST", "runs/restore"): runs.restore,
            ("POST", "runs/search"): runs.search,
            ("POST", "runs/log-inputs"): runs.log_inputs,
            ("POST", "runs/outputs"): runs.log_outputs,
            ("POST", "runs/log-metric"): partial(runs.log_one, "metrics"),
            ("POST", "runs/log-batch"): runs.log_batch,
            ("POST", "runs/log-parameter"): partial(runs.log_one, "params"),
            ("POST", "runs/set-tag"): partial(runs.log_one, "tags"),
            ("POST", "runs/delete-tag"): runs.delete_tag,
            ("POST", "runs/log-model"): runs.log_model,
            ("GET", "metrics/get-history"): runs.history,
            ("GET", "experiments/get"): partial(runs.experiment, "get"),
            ("GET", "experiments/get-by-name"): partial(runs.experiment, "get by name"),
            ("GET", "experiments/search"): partial(runs.experiment, "search"),
            ("POST", "experiments/search"): partial(runs.experiment, "search"),
            ("POST", "experiments/create"): partial(runs.experiment, "create"),
            ("POST", "experiments/set-experiment-tag"): partial(runs.experiment, "set tag"),
            ("POST", "experiments/delete-experiment-tag"): partial(runs.experiment, "delete tag"),
            ("POST", "experiments/update"): partial(runs.experiment, "change"),
            ("POST", "experiments/delete"): partial(runs.experiment, "change"),
            ("POST", "experiments/restore"): partial(runs.experiment, "change"),
            ("POST", "logged-models"): models.create,
            ("POST", "logged-models/search"): models.search,
            ("GET", "logged-models/*"): partial(models.edit, "get"),
            ("PATCH", "logged-models/*"): partial(models.edit, "finalize"),
            ("DELETE", "logged-models/*"): partial(models.edit, "delete"),
            ("PATCH", "logged-models/*/tags"): partial(models.edit, "set tags"),
            ("DELETE", "logged-models/*/tags/*"): partial(models.edit, "delete tag"),
            ("POST", "logged-models/*/params"): partial(models.edit, "log params"),
            ("POST", "traces"): traces.start,
            ("GET", "traces/*"): partial(traces.get, "get"),
            ("GET", "traces/*/info"): partial(traces.get, "get in MLflow 2"),
            ("PATCH", "traces/*"): partial(traces.get, "end"),
            ("PATCH", "traces/*/tags"): partial(traces.get, "set tag"),
            ("DELETE", "traces/*/tags"): partial(traces.get, "delete tag"),
            ("POST", "registered-models/create"): registry.create,
            ("GET", "registered-models/get"): partial(registry.get, "model"),
            ("GET", "registered-models/search"): partial(registry.search, "registered_models"),
            ("POST", "registered-models/rename"): partial(registry.edit, "rename"),
            ("PATCH", "registered-models/update"): partial(registry.edit, "describe"),
            ("DELETE", "registered-models/delete"): registry.delete,
            ("POST", "registered-models/set-tag"): partial(registry.edit, "set tag"),
            ("DELETE", "registered-models/delete-tag"): partial(registry.edit, "delete tag"),
            ("GET", "registered-models/get-latest-versions"): registry.latest_versions,
            ("POST", "registered-models/get-latest-versions"): registry.latest_versions,
            ("POST", "registered-models/alias"): partial(registry.edit, "set alias"),
            ("GET", "registered-models/alias"): partial(registry.get, "alias"),
            ("DELETE", "registered-models/alias"): partial(registry.edit, "delete alias"),
            ("POST", "model-versions/create"): registry.create_version,
            ("GET", "model-versions/get"): partial(registry.get, "version"),
            ("GET", "model-versions/get-download-uri"): partial(registry.get, "location"),
            ("GET", "model-versions/search"): partial(registry.search, "model_versions"),
            ("PATCH", "model-versions/update"): partial(registry.edit, "describe"),
            ("DELETE", "model-versions/delete"): partial(registry.edit, "delete version"),
            ("POST", "model-versions/transition-stage"): partial(registry.edit, "transition stage"),
            ("POST", "model-versions/set-tag"): partial(registry.edit, "set tag"),
            ("DELETE", "model-versions/delete-tag"): partial(registry.edit, "delete tag"),
        }

    def answer(self, method: str, path: str, query: str, body: bytes, sender: Callable[[], str] = str) -> Json:
        """The reply to a request. *path* is percent-encoded, without the query."""
        prefix = next((prefix for prefix in PREFIXES if path.startswith(prefix)), None)
        route = path.removeprefix(prefix).rstrip("/") if prefix else ""
        named: dict[str, object] = {}
        parts = route.split("/", 3)
        if (method, route) not in self._routes and parts[0] in IDS and len(parts) > 1:
            named = dict(zip((IDS[parts[0]], "tag_key"), map(unquote, parts[1::2]), strict=False))
            route = "/".join("*" if at in (1, 3) else unquote(part) for at, part in enumerate(parts))
        if (method, route) not in self._routes:
            raise RequestError(f"No API found for '{method} {path[:300]}'.", code="ENDPOINT_NOT_FOUND", status=404)
        fields: object = {}
        if method in ("GET", "DELETE") and not body:
            try:
                found = parse_qs(query, keep_blank_values=True, max_num_fields=1000)
            except ValueError as err:
                raise RequestError(f"Invalid query string: {err}.") from err
            fields = {name: values[0] if len(values) == 1 else values for name, values in found.items()}
        elif body.strip():
            fields = parse_json(body, "The request's body is not valid JSON", "BAD_REQUEST")
        if not isinstance(fields, dict):
            raise RequestError("The request's body must be a JSON object.", code="BAD_REQUEST")
        return self._routes[method, route](Fields({**fields, **named}, sender))


@dataclass(frozen=True)
class AuthContext:
    """The rules of authentication. A client sends the secret, which `-RANK` may follow, as a bearer token, as the
    password of `user`, or as the first part of the path. Reads at most `drained` bytes of the body of a client without
    it, and calls `on_authenticated` with a connection that has sent it. `is_shared`: other machines may connect."""

    routes: Routes
    user: str
    secret: str
    port: int
    drained: int
    on_authenticated: Callable[[socket.socket], None]
    is_shared: bool = False


def process_of(connection: socket.socket) -> int | None:
    """The descendant of this process at the other end of a loopback connection (Linux, proc(5)), else None. Of
    processes that share the socket, the one that forked the others."""
    ports = tuple(f":{name[1]:04X}" for name in (connection.getpeername(), connection.getsockname()))
    with suppress(OSError), open("/proc/net/tcp") as sockets:
        rows = [line.split() for line in sockets]
        links = {f"socket:[{row[9]}]" for row in rows if (row[1][-5:], row[2][-5:]) == ports}
        processes = children_of(os.getpid())
        for process in processes:
            processes += children_of(process)
            with suppress(OSError):  # it has ended
                for handle in os.listdir(f"/proc/{process}/fd"):
                    with suppress(OSError):
                        if os.readlink(f"/proc/{process}/fd/{handle}") in links:
                            return process
    return None


class _Head:
    """The header lines of one request, limited to `LARGEST_HEAD` bytes in total."""

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


class TrackingConnection(BaseHTTPRequestHandler):
    """Serves one connection until the client closes it, or until the limiter ends one without a token."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, client: socket.socket, context: AuthContext) -> None:
        self._context = context
        self._is_authenticated = False
        self._rank = ""
        server: Any = None  # the base class does not use it
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
        except ConnectionError:
            self.close_connection = True
            return
        except RequestError as err:
            status, reply = HTTPStatus(err.status), {"error_code": err.code, "message": str(err)}
        except BadSearch as err:
            status, reply = HTTPStatus.BAD_REQUEST, {"error_code": "INVALID_PARAMETER_VALUE", "message": str(err)}
        except HimlError as err:
            message = f"himl could not store the logged values: {err} {err.hint}".strip()
            status, reply = NOT_RETRIED, {"error_code": "INTERNAL_ERROR", "message": message}
        except Exception:  # the client must get a reply, and the job continues
            log.exception("The tracking server failed on a request.")
            message = "The tracking server of this job failed. Its log has the reason."
            status, reply = NOT_RETRIED, {"error_code": "INTERNAL_ERROR", "message": message}
        self._send(status, reply)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _answer  # noqa: N815 - the names that the base class calls

    def _reply(self) -> Json:
        length = self._length()
        path, _, query = self.path.partition("?")
        try:
            route = self._authenticate(path)
            if length > LARGEST_BODY:
                raise RequestError(
                    f"The request's body is larger than {LARGEST_BODY >> 20} MiB.",
                    code="REQUEST_LIMIT_EXCEEDED",
                    status=413,
                )
        except RequestError:
            # Read the body, since a client that is still sending would get a reset instead of the reason. Read less
            # without the token
            if length > (1 << 30 if self._is_authenticated else self._context.drained):
                self.close_connection = True
                raise
            while length > 0 and (piece := self._read(min(length, 1 << 20))):
                length -= len(piece)
            raise
        body = self._read(length)
        if len(body) < length:
            self.close_connection = True
            raise RequestError("The request's body ended early.", code="BAD_REQUEST")
        return self._context.routes.answer(self.command, route, query, body, self._sender)

    def _length(self) -> int:
        """The length of the body. If it is unknown, raises `RequestError`, and the connection ends."""
        given = {value.strip() for value in self.headers.get_all("Content-Length", ["0"])}
        if "Transfer-Encoding" in self.headers:
            error = RequestError("Send the body with a Content-Length.", code="BAD_REQUEST", status=411)
        elif len(given) == 1 and re.fullmatch("[0-9]{1,19}", length := given.pop()):
            return int(length)
        else:
            error = RequestError("The Content-Length is not a number.", code="BAD_REQUEST")
        self.close_connection = True
        raise error

    def _authenticate(self, path: str) -> str:
        """The path without the secret. Rejects another Host, as of a web page with a DNS name for this address."""
        hosts, port = self.headers.get_all("Host", []), self._context.port
        known_hosts = r"[\d.]+" if self._context.is_shared else "127[.]0[.]0[.]1|localhost"
        if len(hosts) != 1 or not re.fullmatch(f"({known_hosts}):{port}", hosts[0].lower()):
            raise RequestError("This server accepts only its own address.", code="PERMISSION_DENIED", status=403)
        authorization = self.headers.get("Authorization", "")
        kind, _, sent = authorization.partition(" ")
        if kind == "Basic":
            with suppress(ValueError):
                user, _, sent = b64decode(sent, validate=True).decode("latin-1").partition(":")
                sent = sent if user == self._context.user else ""
        first, _, rest = path[1:].partition("/")
        if self._is_token(first):
            path = f"/{rest}"
        elif kind not in ("Bearer", "Basic") or not self._is_token(sent):
            cause = f": {OTHER_CREDENTIALS}." if kind.lower() == "basic" else "."
            raise RequestError(
                f"This is the tracking server of one himl job, and the request lacks the job's token{cause}",
                code="UNAUTHENTICATED",
                status=401,
            )
        if not self._is_authenticated:  # from now on, it has no time limit
            self._is_authenticated = True
            self._context.on_authenticated(self.connection)
            self.connection.settimeout(None)
        return path

    def _is_token(self, text: str) -> bool:
        """Whether *text* is the job's secret. It may end with a rank, which this connection then belongs to."""
        secret, _, rank = text.partition("-")
        is_ours = compare_digest(secret.encode("latin-1", "replace"), self._context.secret.encode())
        self._rank = rank if is_ours else self._rank
        return is_ours

    def _sender(self) -> str:
        """The rank and, where the kernel lists it, the process of the client."""
        return f"{self._rank} {process_of(self.connection)}"

    def _read(self, length: int) -> bytes:
        """At most *length* bytes of the body. Raises ConnectionError if the client disconnects in the middle of a
        request, or stops sending."""
        try:
            return self.rfile.read(length)
        except OSError as err:
            raise ConnectionError from err

    def _send(self, status: HTTPStatus, reply: Json) -> None:
        """Send the reply in one write. A second write would wait for the client's delayed acknowledgement, about
        40 ms."""
        try:
            text = json.dumps(reply, separators=(",", ":"), allow_nan=False)
        except ValueError:  # in a document of the client, such as a trace
            finite = json.loads(json.dumps(reply), parse_constant=str)
            text = json.dumps(finite, separators=(",", ":"))
        if status != HTTPStatus.OK:  # a message may quote the path, and clients print messages
            text = text.replace(self._context.secret, "…")
        body = text.encode()
        closing = "Connection: close\r\n" if self.close_connection else ""
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\nContent-Length: "
            f"{len(body)}\r\n{closing}\r\n"
        )
        self.wfile.write(head.encode("ascii") + (b"" if self.command == "HEAD" else body))

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing about connections."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send errors of the base class (an invalid request line, an unknown method) as JSON. Omits *message*, which
        may quote the request."""
        self.close_connection = True
        status = HTTPStatus(code)
        text = f"{status.phrase}: {status.description}." if status.description else f"{status.phrase}."
        self._send(status, {"error_code": "BAD_REQUEST", "message": text})
