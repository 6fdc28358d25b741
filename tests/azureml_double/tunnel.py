"""The nodes of jobs: a WebSocket that connects to the SSH server of the job, as the vendor's command lines open it."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from tests.azureml_double.faults import Met, Status
from tests.azureml_double.frame import AUDIENCES
from tests.azureml_double.log import CHUNK, Head, Seen
from tests.azureml_double.state import Azure, Run, TokenRefused, read_token

PATH = "/nbip/v1.0/ws-tcp"


def _run_at(azure: Azure, host: str) -> Run | None:
    for workspace in azure.workspaces.values():
        for run in workspace.runs.values():
            told = [each.get("properties") or {} for services in run.services.values() for each in services.values()]
            if any(urlsplit(each.get("ProxyEndpoint", "")).hostname == host for each in told):
                return run
    return None


def _refusal(run: Run | None, head: Head) -> int:
    """The status of the answer to an unauthorized client, or 0 for the owner of a running job with a token for
    Resource Manager.
    """
    scheme, _, token = head.get("authorization").partition(" ")
    try:
        claims = read_token(token)
    except TokenRefused:
        return 401
    if scheme.lower() != "bearer" or claims["aud"].rstrip("/") not in AUDIENCES[:1]:
        return 401
    if run is None or run.status != "Running":
        return 404
    return 0 if claims.get("appid") == run.owner else 403


async def serve(
    azure: Azure, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen, met: Met
) -> None:
    """Answer the request *head* and, if access is allowed, pass bytes in both directions until one side ends."""
    run, fault = _run_at(azure, seen.host), met.use(Status)
    seen.faults = met.done
    protocol = ServerProtocol(max_size=None)
    protocol.receive_data(head.wire)
    (request,) = protocol.events_received()
    assert isinstance(request, Request)
    seen.status = fault.status if fault else 404 if seen.path != PATH else _refusal(run, head)
    answer: Response = protocol.reject(seen.status, "") if seen.status else protocol.accept(request)
    seen.status = answer.status_code
    protocol.send_response(answer)
    writer.write(b"".join(protocol.data_to_send()))
    await writer.drain()
    if run is None or run.ssh_port is None or seen.status != 101:
        return
    from_server, to_server = await asyncio.open_connection("127.0.0.1", run.ssh_port)

    async def up() -> None:
        while not protocol.close_expected() and (content := await reader.read(CHUNK)):
            protocol.receive_data(content)
            for event in protocol.events_received():
                if isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
                    seen.sent += len(event.data)
                    to_server.write(event.data)
            await to_server.drain()
            await flush()

    async def down() -> None:
        while content := await from_server.read(CHUNK):
            seen.received += len(content)
            protocol.send_binary(content)
            await flush()
        protocol.send_close(1000)
        await flush()

    async def flush() -> None:
        writer.write(b"".join(protocol.data_to_send()))
        await writer.drain()

    ways = [asyncio.ensure_future(up()), asyncio.ensure_future(down())]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        to_server.close()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
