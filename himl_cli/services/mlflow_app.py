"""MLflow's server for the pages of `himl ui`, behind a filter of requests and limits for clients.

`mlflow server` is not used, because it starts at least three processes, each of which imports MLflow.
"""

from __future__ import annotations

from asyncio import Transport, to_thread
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from himl_cli.services.mlflow_page import additions
from himl_cli.services.server_access import Access, Answer

# Bytes of a body. Those of the pages have a few thousand
LARGEST_BODY = 1 << 20
# Functions of MLflow's server other than showing runs, which run programs, load objects that clients describe, or send
# requests to other servers
MLFLOW_CLOSED = {"assistant", "create-promptlab-run", "demo", "gateway", "invoke", "jobs", "mcp-servers"}
MLFLOW_CLOSED |= {"register", "upload-artifact", "webhooks"}
# Functions that pages call by POST, and that change nothing
MLFLOW_READS = {"search", "search-datasets", "get-latest-versions", "batchGetInfos", "graphql"}
READS_ONLY = b'{"error_code": "PERMISSION_DENIED", "message": "himl ui --read_only accepts no changes."}'


class ClientConnection(H11Protocol):
    """The connection of a client. If more than `most` have sent no request or a part of one, those that are older than
    `grace` seconds are closed: every user of this machine could open all that the server can have."""

    most: ClassVar = 128
    grace: ClassVar = 2.0
    _incomplete: ClassVar[dict[H11Protocol, float]] = {}

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._count()
        self.loop.call_later(self.grace, self._count)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._count()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._incomplete.pop(self, None)

    def _count(self) -> None:
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing():
            self._incomplete.setdefault(self, self.loop.time())
        else:
            self._incomplete.pop(self, None)
        while len(self._incomplete) > self.most:
            oldest, since = next(iter(self._incomplete.items()))
            if self.loop.time() < since + self.grace:
                break
            del self._incomplete[oldest]
            oldest.transport.abort()


def refusal(method: str, headers: dict[bytes, bytes], parts: list[str], *, reads_only: bool) -> Answer | None:
    """The answer to a request of a page of another origin, for a closed function, with a body without a length or with
    too large a one, or that changes something if the server *reads_only*."""
    origin, length = headers.get(b"origin"), headers.get(b"content-length", b"0")
    # MLflow 3.5 accepts requests from pages of any origin. Later versions reject all but localhost's, including the
    # server's own.
    if origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
        return Answer(403, [])
    if MLFLOW_CLOSED.intersection(parts):
        return Answer(403, [])
    if reads_only and method not in ("GET", "HEAD") and parts[-1] not in MLFLOW_READS:
        return Answer(403, [("Content-Type", "application/json")], READS_ONLY)
    if b"transfer-encoding" in headers:
        return Answer(411, [])
    return Answer(413, []) if len(length) > 7 or int(length) > LARGEST_BODY else None


def run_mlflow(access: Access, uri: str, host: str, port: str) -> None:
    """Run MLflow's server for the store of *uri* behind *access*."""
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(uri, uri, uri)
    from mlflow.server.fastapi_app import app

    hasten_curves()

    async def answer(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        path, headers = str(scope["path"]), dict(scope["headers"])
        parts, body, message = path.split("/"), b"", {"more_body": True}
        texts = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
        found = access.answer(int(port), path, scope["query_string"].decode("latin-1"), texts)
        if found is None:
            found = refusal(scope["method"], headers, parts, reads_only=access.reads_only)
        if found is not None:
            own = [(name.encode(), value.encode()) for name, value in found.headers]
            await send({"type": "http.response.start", "status": found.status, "headers": own})
            await send({"type": "http.response.body", "body": found.body})
            return
        while message.get("more_body"):  # MLflow has few threads, so it must not wait for clients
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
        whole = [{"type": "http.request", "body": body}]

        async def receive_whole() -> Any:
            return whole.pop() if whole else await receive()

        head = await to_thread(page_additions) if path == "/" else b""

        async def send_page(message: dict[str, Any]) -> None:
            """Forward a message, with himl's additions at the beginning of the page."""
            if message["type"] == "http.response.start" and message["status"] == 200:
                message["headers"] = [pair for pair in message["headers"] if pair[0].lower() != b"content-length"]
                is_first.append(True)
            elif is_first:
                is_first.clear()
                message["body"] = message.get("body", b"").replace(b"<head>", b"<head>" + head, 1)
            await send(message)

        is_first: list[bool] = []
        scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"origin"]}
        await app(scope, receive_whole, send_page if path == "/" else send)

    run = partial(uvicorn.run, ws="none", lifespan="off", log_level="warning", timeout_graceful_shutdown=1)
    run(answer, host=host, port=int(port), http=ClientConnection)


def page_additions() -> bytes:
    """The additions to the page, for the runs that are the newest now."""
    from mlflow.exceptions import MlflowException
    from mlflow.server.handlers import _get_tracking_store

    try:
        return additions(_get_tracking_store().newest_experiment())
    except MlflowException:  # a service does not respond: the page itself shows the error
        return additions("")


def hasten_curves() -> None:
    """Make MLflow's server answer requests for curves directly. Its own conversion, from objects through protocol
    buffers to JSON, takes several times as long, and remains for all other requests."""
    import msgspec
    from flask import Response, request
    from mlflow.server import app
    from mlflow.server.handlers import _get_tracking_store

    from himl_cli.core.errors import HimlError
    from himl_cli.core.logged import float_form

    store = _get_tracking_store()  # a RunStore

    @app.before_request  # type: ignore[untyped-decorator]
    def answer() -> Response | None:
        asked, action = request.args, request.path.rpartition("/")[2]
        is_interval = action == "get-history-bulk-interval"
        if not is_interval and (action != "get-history" or "page_token" in asked):
            return None
        try:
            runs = asked.getlist("run_ids") if is_interval else [asked.get("run_uuid") or asked["run_id"]]
            most = int(asked["max_results"])
            steps = [int(asked[name]) if name in asked else None for name in ("start_step", "end_step")]
            points = [*store.points(runs, asked["metric_key"], most if is_interval else None, *steps)]
        except (HimlError, LookupError, ValueError):
            return None
        if not is_interval and len(points) > most:  # the answer needs a second page
            return None
        metrics = [{**point, "value": float_form(point["value"])} for point in points]
        return Response(msgspec.json.encode({"metrics": metrics}), mimetype="application/json")
