"""TensorBoard or MLflow's server as a process that ends with its parent, which closes the pipe of its standard input.

The arguments are a folder that the process removes at its end, because the parent may have been killed, the name of the
server, and the arguments of the server.
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

# Functions of MLflow's server other than showing runs, which run programs or send requests to other servers
MLFLOW_CLOSED = {"assistant", "gateway", "jobs", "mcp-servers", "upload-artifact", "webhooks"}
# Settings for a new browser: pages about training, without an assistant
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
        os.kill(os.getpid(), signal.SIGTERM)  # lets the server clean up

    def clean_up() -> None:
        if starter_is_gone.is_set():
            shutil.rmtree(own, ignore_errors=True)

    # Handles signals until the server installs its own handler
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    threading.Thread(target=end_with_starter, daemon=True).start()
    # Registered before the server's functions, so that it runs after them: one of TensorBoard's creates a folder
    atexit.register(clean_up)
    if server == "mlflow":
        run_mlflow(*sys.argv[1:])
        return
    from tensorboard.main import run_main

    run_main()


def run_mlflow(uri: str, host: str, port: str, token: str) -> None:
    """Run MLflow's server for the store of *uri*. It also answers the path *token*, which identifies it.

    `mlflow server` is not used, because it starts at least three processes, each of which imports MLflow.
    """
    import uvicorn
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(uri, uri, uri)
    from mlflow.server.fastapi_app import app

    hasten_curves()

    async def answer(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        parts, headers = {*str(scope["path"]).split("/")}, dict(scope["headers"])
        origin = headers.get(b"origin")
        # MLflow 3.5 accepts requests from pages of any origin. Later versions reject all but localhost's, including the
        # server's own.
        is_foreign = origin is not None and origin.partition(b"://")[2] != headers.get(b"host")
        if is_foreign or parts & {token, *MLFLOW_CLOSED}:
            status = 200 if token in parts and not is_foreign else 403
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_page(message: dict[str, Any]) -> None:
            """Forward a message, with the script at the beginning of the page."""
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


if __name__ == "__main__":
    main()
