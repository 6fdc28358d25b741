"""Interactive services of a job: those of its submission, their addresses on a node, and the connection to its SSH
server, which sends bytes through a WebSocket."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import NotAllowed, ServiceFailed
from himl_cli.core.installation import ca_bundle
from himl_cli.core.redaction import parts_of
from himl_cli.core.runs import JobServices, RunService
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.responses import understood

log = logging.getLogger(__name__)

# Services of every job, which are not interactive.
ALWAYS = {"tracking", "studio"}
# The vendor's own clients append it to the ProxyEndpoint of an SSH service.
TUNNEL_PATH = "/nbip/v1.0/ws-tcp"
OPEN_SECONDS = 60.0  # the first connection to a new node is slow


def job_services(connection: Connection, run_id: str) -> JobServices | None:
    """The services of the job's submission, or None if resource manager lacks them, as for a pipeline's step."""
    url = connection.arm(f"/jobs/{quote(run_id, safe='')}")
    job = connection.find_object(url, "job", params={"api-version": ApiVersion.JOBS}) or {}
    with understood(url, "the job"):
        properties: Mapping[str, Any] | None = job.get("properties")
        if properties is None:
            return None
        services = {
            name: each
            for name, each in (properties.get("services") or {}).items()
            if str(each.get("jobServiceType")).lower() not in ALWAYS
        }
        keys = [str((each.get("properties") or {}).get("sshPublicKeys") or "") for each in services.values()]
        return JobServices(
            {name: str(each.get("jobServiceType")) for name, each in services.items()},
            frozenset(name for name, each in services.items() if each.get("nodes")),
            int((properties.get("resources") or {}).get("instanceCount") or 1),
            tuple(line.strip() for text in keys for line in text.splitlines() if line.strip()),
        )


def read_services(connection: Connection, run_id: str, node: int) -> list[RunService]:
    """The services on *node* in the run history, or none if it does not list the node yet."""
    url = connection.service("history", f"/runs/{quote(run_id, safe='')}/serviceinstances/{node}")
    answer = connection.find_object(url, "services") or {}
    with understood(url, "its list of services"):
        return [
            RunService(
                name,
                str(each.get("type") or ""),
                node,
                str(each.get("status") or ""),
                str(each.get("endpoint") or "").replace("<nodeIndex>", str(node)),
                each.get("port"),
                str(((each.get("error") or {}).get("error") or {}).get("message") or ""),
                str((each.get("properties") or {}).get("ProxyEndpoint") or ""),
            )
            for name, each in (answer.get("instances") or {}).items()
            if str(each.get("type")).lower() not in ALWAYS
        ]


def tunnel(
    connection: Connection, service: RunService, read: Callable[[], bytes], write: Callable[[bytes], None]
) -> None:
    """Pass data from *read* (b"" at its end) to the node's SSH server, and its data to *write*, until either side ends.

    Raises NotAllowed, ServiceFailed.
    """
    import asyncio

    from websockets.exceptions import InvalidStatus, WebSocketException

    url, host = _tunnel_url(connection, service)
    scope = connection.address.cloud.management_scope
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # at DEBUG, it would log the token
    token = connection.tokens.get(scope)
    try:
        for is_last in (False, True):
            try:
                asyncio.run(_pass_bytes(url, token, read, write))
                return
            except InvalidStatus as err:
                status = err.response.status_code
                if status == 401 and not is_last:
                    token = connection.tokens.renew(scope, token)
                    continue
                if status in (401, 403):
                    raise NotAllowed(
                        f"You may not use service '{service.name}' of this job: {host} answered {status}.",
                        hint="Only the job's submitter may attach to it. Check the sign-in: himl doctor",
                    ) from err
                raise ServiceFailed(
                    f"Service '{service.name}' is not reachable: {host} answered {status}.",
                    hint="Azure ML may still be opening it. Try again in a minute.",
                ) from err
    except (WebSocketException, TimeoutError, OSError) as err:
        raise ServiceFailed(
            f"The connection to service '{service.name}' at {host} failed: "
            f"{str(err).rstrip('.') or type(err).__name__}.",
            hint="Try again, or check the proxy in HTTPS_PROXY and NO_PROXY.",
        ) from err


async def _pass_bytes(url: str, token: str, read: Callable[[], bytes], write: Callable[[bytes], None]) -> None:
    """Connect, and pass data until either side ends. One thread uses the connection: the `ssl` of Python 3.11 has no
    lock, and a read and a write at the same time can make either wait forever. Raises WebSocketException, OSError."""
    import asyncio
    from concurrent.futures import CancelledError

    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    class Connect(connect):
        def process_redirect(self, exc: Exception) -> Exception | str:
            return exc  # the token goes to no other host

    authorities = ca_bundle()
    is_folder = Path(authorities).is_dir()
    trusted = ssl.create_default_context(
        cafile=None if is_folder else authorities, capath=authorities if is_folder else None
    )
    headers = {"Authorization": f"Bearer {token}"}
    loop = asyncio.get_running_loop()
    async with Connect(
        url, ssl=trusted, additional_headers=headers, compression=None, max_size=None, open_timeout=OPEN_SECONDS
    ) as socket:

        async def send(content: bytes) -> None:
            await (socket.send(content) if content else socket.close())

        def forward() -> None:
            with suppress(ConnectionClosed, OSError, CancelledError):
                for content in chain(iter(read, b""), [b""]):
                    if loop.is_closed():
                        return
                    asyncio.run_coroutine_threadsafe(send(content), loop).result()

        log.debug("connected to %s", url)
        threading.Thread(target=forward, name="himl-tunnel", daemon=True).start()
        async for message in socket:
            await asyncio.to_thread(write, message if isinstance(message, bytes) else message.encode())


def _tunnel_url(connection: Connection, service: RunService) -> tuple[str, str]:
    """The WebSocket's address and its host. Raises ServiceFailed for a host that must not get himl's token."""
    parts = parts_of(service.proxy)
    host = (parts.hostname or "").lower()
    domain = connection.address.cloud.data_plane_suffix.removeprefix(".api")
    if parts.scheme not in ("wss", "https") or not host.endswith(domain):
        raise ServiceFailed(f"himl sends its credentials only to Azure, not to '{service.proxy}'.")
    return f"wss://{parts.netloc}{parts.path.rstrip('/')}{TUNNEL_PATH}", host
