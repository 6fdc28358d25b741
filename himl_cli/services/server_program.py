"""TensorBoard or MLflow's server as a process that ends when whoever started it is gone: its standard input is a pipe
that closes then.

The first argument is a folder that is removed at its end, since whoever started it may have been killed; the second one
names the server; the others are the server's.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

# What MLflow's server does beside showing runs: it runs programs, or sends what it is told to others
MLFLOW_CLOSED = {"assistant", "gateway", "jobs", "mcp-servers", "upload-artifact", "webhooks"}
# What a browser that has not been here before is to begin with: pages about training, and no assistant beside them
MLFLOW_DEFAULTS = {"mlflow.workflowType_v1": "machine_learning", "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True}
MLFLOW_SCRIPT = (
    f"<script>for (const [name, value] of Object.entries({json.dumps(MLFLOW_DEFAULTS)}))"
    " if (localStorage.getItem(name) === null) localStorage.setItem(name, JSON.stringify(value))</script>"
)


def main() -> None:
    own, server = sys.argv.pop(1), sys.argv.pop(1)
    starter_is_gone = threading.Event()

    def end_with_starter() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        starter_is_gone.set()
        os.kill(os.getpid(), signal.SIGTERM)  # the server tidies up at that

    def clean_up() -> None:
        if starter_is_gone.is_set():
            shutil.rmtree(own, ignore_errors=True)

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())  # until the server has its own
    threading.Thread(target=end_with_starter, daemon=True).start()
    # Before the server's own, so that it comes after them: one of TensorBoard's makes a folder
    atexit.register(clean_up)
    if server == "mlflow":
        run_mlflow(*sys.argv[1:])
        return
    from tensorboard.main import run_main

    run_main()


def run_mlflow(uri: str, host: str, port: str, token: str) -> None:
    """MLflow's server over the store of *uri*. It answers the path *token*, too, so that it can be told from others.

    Not by `mlflow server`, whose processes are three at least, each of which imports MLflow.
    """
    import uvicorn
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(uri, uri, uri)
    from mlflow.server.fastapi_app import app

    hasten_curves()

    async def answer(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        parts, headers = {*str(scope["path"]).split("/")}, dict(scope["headers"])
        origin = headers.get(b"origin")
        # MLflow 3.5 lets pages of any address ask, and later ones none but localhost's, not even the server's own
        is_foreign = origin is not None and origin.partition(b"://")[2] != headers.get(b"host")
        if is_foreign or parts & {token, *MLFLOW_CLOSED}:
            status = 200 if token in parts and not is_foreign else 403
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_page(message: dict[str, Any]) -> None:
            """Send on, the page itself with the script at its beginning."""
            if message["type"] == "http.response.start" and message["status"] == 200:
                message["headers"] = [pair for pair in message["headers"] if pair[0].lower() != b"content-length"]
                is_first.append(True)
            elif is_first:
                is_first.clear()
                message["body"] = message.get("body", b"").replace(b"<head>", b"<head>" + MLFLOW_SCRIPT.encode(), 1)
            await send(message)

        is_first: list[bool] = []
        own = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"origin"]}
        await app(own, receive, send_page if parts == {""} else send)

    uvicorn.run(answer, host=host, port=int(port), log_level="warning", lifespan="off", timeout_graceful_shutdown=1)


def hasten_curves() -> None:
    """Let MLflow's server answer at once what its pages draw: its own way, from objects by protocol buffers to JSON,
    takes several times as long. Whatever is not plain is left to that."""
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
        if not is_interval and len(points) > most:  # the rest is for a next page
            return None
        metrics = [{**point, "value": float_form(point["value"])} for point in points]
        return Response(msgspec.json.encode({"metrics": metrics}), mimetype="application/json")


if __name__ == "__main__":
    main()
