"""The running double, in a thread of this process: Azurite, the application (the routes of each host name), and the
front.

The front is an HTTP proxy on loopback that answers `CONNECT` itself, with temporary certificates, and passes requests
to the application or to Azurite. Every client connects through `HTTPS_PROXY` and uses the real host names. Other
hosts are rejected and recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import trustme
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.azureml_double import arm_jobs, arm_resources, history, history_query, identity, mlflow_routes, run_data, v1
from tests.azureml_double.azurite import azurite, make_key
from tests.azureml_double.exchange import Exchange, Upstream, reset
from tests.azureml_double.faults import BadCertificate, BreakHandshake, Faults, Meanwhile, Refuse
from tests.azureml_double.frame import Plane, compressing, unknown
from tests.azureml_double.log import CERTIFIED, Head, RequestLog, Role, Seen, masked, read_head, role_of
from tests.azureml_double.seeding import StagedWorkspace, new_workspace
from tests.azureml_double.state import Azure
from tests.azureml_double.storage import Storage
from tests.azureml_double.tunnel import serve

DAY = timedelta(days=1)
LIMIT = 1 << 20
COUNT = 200  # storage accounts, two for each workspace at one time
# Seconds. The limit keeps a client that is never released from failing all later tests.
LONGEST_HOLD = 240.0
CLOSED = (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError)
CONTROL_PLANE: list[ModuleType] = [arm_resources, arm_jobs]
DATA_PLANE: list[ModuleType] = [history, run_data, mlflow_routes, history_query, v1]


class Certificates:
    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.good = _context(self.authority, CERTIFIED)

    @lru_cache  # noqa: B019
    def bad(self, fault: BadCertificate) -> ssl.SSLContext:
        now = datetime.now(timezone.utc)
        authority, names, validity = {
            "untrusted": (trustme.CA(), CERTIFIED, {}),
            "expired": (self.authority, CERTIFIED, {"not_before": now - 2 * DAY, "not_after": now - DAY}),
            "early": (self.authority, CERTIFIED, {"not_before": now + DAY, "not_after": now + 2 * DAY}),
            "other": (self.authority, ("other.himl.invalid",), {}),
        }[fault.kind]
        return _context(authority, names, **validity)


def _context(authority: trustme.CA, names: tuple[str, ...], **validity: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **validity).configure_cert(context)
    return context


async def _say(writer: asyncio.StreamWriter, status: str, headers: str = "") -> None:
    writer.write(f"HTTP/1.1 {status}\r\n{headers}\r\n".encode())
    await writer.drain()


def _acknowledge(sock: socket.socket) -> None:
    """Acknowledge received data at once. Clients behind a proxy send a body only after the acknowledgement of its
    head, which the system would delay by 40 ms.
    """
    if hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


async def _with_tls(
    writer: asyncio.StreamWriter, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LIMIT, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport = await loop.start_tls(writer.transport, protocol, context, server_side=True)
    if transport is None:
        raise ConnectionResetError("the client left during the handshake")
    protocol.connection_made(transport)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def discovery(request: Request) -> Response:
    base = f"https://{request.headers['host']}"
    names = ("api", "catalog", "experimentation", "history", "hyperdrive", "labeling", "modelmanagement", "pipelines")
    return JSONResponse(dict.fromkeys(names, base) | {"studio": "https://ml.azure.com"})


def routes_of(modules: list[ModuleType]) -> list[BaseRoute]:
    return [route for module in modules for route in module.routes]


def application(azure: Azure) -> ASGIApp:
    planes = {
        Role.ARM: Plane(azure, routes_of(CONTROL_PLANE), is_arm=True),
        Role.DATA: Plane(azure, routes_of(DATA_PLANE), is_arm=False),
    }
    apps: dict[Role | None, Starlette] = {
        Role.ARM: _app([*arm_resources.open_routes, *arm_jobs.open_routes], compressing(planes[Role.ARM])),
        Role.DATA: _app([Route("/discovery", discovery)], compressing(planes[Role.DATA])),
        Role.LOGIN: _app(identity.routes, None),
        None: _app(identity.plain_routes, None),
    }
    for app in apps.values():
        app.state.azure = azure

    async def by_host(scope: Scope, receive: Receive, send: Send) -> None:
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode()
        await apps[role_of(host.partition(":")[0])](scope, receive, send)

    return by_host


def _app(routes: list[Any], plane: ASGIApp | None) -> Starlette:
    app = Starlette(routes=routes)
    app.router.default = plane or unknown
    app.router.redirect_slashes = False
    return app


class Stage:
    """One double, made by `running_stage`. `port` is the proxy's port, `ca_file` contains the authority that clients
    must trust.

    Azurite must know its *accounts*, which share one *key*, at its start. Their number is limited, so tests reuse
    them in turn after they are emptied.
    """

    def __init__(self, folder: Path, azurite_port: int, accounts: Iterable[str], key: str) -> None:
        self.azure = Azure()
        self.log = RequestLog()
        self.faults = Faults()
        self.port = 0
        self.ca_file = folder / "ca.pem"
        self.azurite = f"http://127.0.0.1:{azurite_port}"
        self._app_port, self._azurite_port, self._free_accounts, self._key = 0, azurite_port, deque(accounts), key
        self._staged: list[StagedWorkspace] = []
        self._tls = Certificates()
        self._tls.authority.cert_pem.write_to_path(self.ca_file)

    def workspace(self, name: str = "", **options: Any) -> StagedWorkspace:
        """Make a workspace with separate storage, in a separate subscription, group and tenant unless *options* name
        them.
        """
        name = name or f"ws-{uuid.uuid4().hex[:8]}"
        if len(self._free_accounts) < 2:
            raise RuntimeError(
                "all storage accounts of this stage are in use: a test left its workspaces behind, or makes very many"
            )
        first, second = (Storage(self._free_accounts.popleft(), self._key, self.azurite) for _ in range(2))
        staged = new_workspace(self, name, first, second, **options)
        self._staged.append(staged)
        return staged

    def environment(self) -> dict[str, str]:
        none_of_this_machine = dict.fromkeys(
            ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"), ""
        )
        proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), f"http://127.0.0.1:{self.port}")
        trusted = dict.fromkeys(("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"), str(self.ca_file))
        return {
            **none_of_this_machine,
            **proxies,
            **trusted,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "AZUREML_CURRENT_CLOUD": "AzureCloud",
        }

    def clear(self) -> None:
        self.faults.clear()
        self.log.clear()

    @contextmanager
    def holding(self, match: str, **which: Any) -> Iterator[None]:
        """Hold back the answers to matching requests within this context. *which* are options of `Faults.add`. By
        default all requests match.
        """
        let_go = threading.Event()
        self.faults.add(Meanwhile(lambda: let_go.wait(LONGEST_HOLD)), match, **{"times": None, **which})
        try:
            yield
        finally:
            let_go.set()

    @contextmanager
    def own_workspaces(self) -> Iterator[None]:
        """Delete the workspaces that are made within this context at its end, with their jobs and data."""
        before = len(self._staged)
        try:
            yield
        finally:
            while len(self._staged) > before:
                workspace = self._staged.pop().state
                if workspace.jobs is not None:
                    workspace.jobs.close()
                self.azure.forget_workspace(workspace)
                for storage in (workspace.storage, workspace.second_storage):
                    storage.wipe()
                    storage.close()
                    self._free_accounts.append(storage.account)

    async def serve(self, ready: threading.Event, stopping: asyncio.Event) -> None:
        config = uvicorn.Config(
            application(self.azure), port=0, log_config=None, access_log=False, lifespan="off", ws="none"
        )
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        self._app_port = server.servers[0].sockets[0].getsockname()[1]
        conversations: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._answer(reader, writer))
            conversations.add(task)
            task.add_done_callback(conversations.discard)

        listener = await asyncio.start_server(accept, "127.0.0.1", 0, limit=LIMIT)
        self.port = listener.sockets[0].getsockname()[1]
        ready.set()
        await stopping.wait()
        listener.close()
        for task in list(conversations):
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        await server.shutdown()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(*CLOSED):
            try:
                await self._converse(reader, writer)
            finally:
                writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        # The identity endpoints of jobs use plain HTTP.
        if head.first[0] != "CONNECT":
            await self._relay(reader, writer, "", self._app_port, head)
            return
        host = head.first[1].rpartition(":")[0].lower()
        role = role_of(host)
        account = host.partition(".")[0]
        if role is None or (role is Role.BLOB and self.azure.storage(account) is None):
            # An interrupted client may have sent this before its workspace was deleted.
            unknown = "" if role is Role.BLOB and account in self._free_accounts else "nobody plays this host"
            self.log.note(Seen("CONNECT", host, "", "", {}, status=502, unknown=unknown))
            await _say(writer, "502 Bad Gateway", "Content-Length: 0\r\nConnection: close\r\n")
            return
        met = self.faults.meet(f"CONNECT {host}")
        refuse, bad, breaks = met.use(Refuse), met.use(BadCertificate), met.use(BreakHandshake)
        if met.actions:
            self.log.note(Seen("CONNECT", host, "", "", {}, status=refuse.status if refuse else 200, faults=met.done))
        if refuse:
            await _say(writer, f"{refuse.status} Fault", "Content-Length: 0\r\nConnection: close\r\n")
            return
        await _say(writer, "200 Connection established")
        if breaks:
            await reader.read(1)
            if breaks.how == "plain":
                await _say(writer, "403 Forbidden", "Content-Length: 0\r\n")
            if breaks.how == "reset":
                reset(writer)
            return
        reader, secure = await _with_tls(writer, self._tls.bad(bad) if bad else self._tls.good)
        try:
            if role is Role.NODE:
                request = await read_head(reader)
                seen = Seen(request.first[0], host, request.first[1], "", {"upgrade": request.get("upgrade")})
                self.log.note(seen)
                await serve(
                    self.azure, request, reader, secure, seen, self.faults.meet(f"GET {seen.host}{seen.path}", request)
                )
                return
            await self._relay(reader, secure, host, self._azurite_port if role is Role.BLOB else self._app_port, None)
        finally:
            secure.close()

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, head: Head | None
    ) -> None:
        upstream = Upstream(port)
        sock = writer.get_extra_info("socket")
        try:
            while True:
                head = head or await read_head(reader)
                _acknowledge(sock)
                exchange = Exchange(self.azure, reader, writer, upstream, host, is_blob=port == self._azurite_port)
                if not await self._noted(exchange, head, host):
                    return
                head = None
        finally:
            upstream.close()

    async def _noted(self, exchange: Exchange, request: Head, host: str) -> bool:
        path, _, query = request.first[1].partition("?")
        headers = {name.lower(): "***" if name.lower() == "authorization" else value for name, value in request.headers}
        seen = Seen(request.first[0], host or request.get("host"), unquote(path), masked(query), headers)
        actions = self.faults.meet(
            f"{seen.method} {seen.host}{seen.path}{'?' if seen.query else ''}{seen.query}", request
        )
        seen.faults = actions.done
        if host:
            self.log.note(seen)
        begun = time.perf_counter()
        try:
            return await exchange.run(request, seen, actions)
        finally:
            seen.seconds = time.perf_counter() - begun


@contextmanager
def running_stage(folder: Path) -> Iterator[Stage]:
    """Run a stage for the duration of the context. *folder* contains its certificate and Azurite's log. Raises
    AzuriteFailed.
    """
    prefix, key = f"himl{uuid.uuid4().hex[:8]}", make_key(uuid.uuid4().hex)
    accounts = [f"{prefix}{number:03d}" for number in range(COUNT)]
    with azurite(accounts, key, folder) as port:
        stage = Stage(folder, port, accounts, key)
        with _in_thread(stage), stage.own_workspaces():
            yield stage


@contextmanager
def _in_thread(stage: Stage) -> Iterator[None]:
    ready, failures = threading.Event(), list[BaseException]()
    loop = asyncio.new_event_loop()
    stopping = asyncio.Event()

    def run() -> None:
        try:
            loop.run_until_complete(stage.serve(ready, stopping))
            loop.run_until_complete(loop.shutdown_default_executor())
        except BaseException as e:
            failures.append(e)
            ready.set()
            raise
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="stage", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        if not failures:
            loop.call_soon_threadsafe(stopping.set)
        thread.join(timeout=60)
