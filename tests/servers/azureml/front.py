"""The front: an HTTP proxy on loopback that answers `CONNECT` itself, with throw-away certificates, and hands requests to the double or to Azurite.

Every client reaches it by `HTTPS_PROXY` and asks the real host names. Hosts that nobody plays are refused and noted.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from dataclasses import dataclass
from urllib.parse import unquote

from tests.servers.azureml.certificates import Certificates
from tests.servers.azureml.effects import reset
from tests.servers.azureml.exchange import Exchange, Upstream
from tests.servers.azureml.faults import BadCertificate, BreakHandshake, Faults, Refuse
from tests.servers.azureml.hosts import Role, role_of
from tests.servers.azureml.log import RequestLog, Seen, masked
from tests.servers.azureml.messages import Head, read_head
from tests.servers.azureml.state import Azure

LIMIT = 1 << 20
CLOSED = (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError)


@dataclass(frozen=True)
class Front:
    """`app` and `azurite` are loopback ports that speak plain HTTP."""

    azure: Azure
    log: RequestLog
    faults: Faults
    certificates: Certificates
    app: int
    azurite: int

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, from its first byte to its end."""
        with contextlib.suppress(*CLOSED):
            try:
                await self._converse(reader, writer)
            finally:
                writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        if head.first[0] != "CONNECT":  # the control port and the identity endpoints of jobs: plain HTTP
            await self._relay(reader, writer, "", self.app, head)
            return
        host = head.first[1].rpartition(":")[0].lower()
        role = role_of(host)
        if role is None or (role is Role.BLOB and self.azure.storage(host.partition(".")[0]) is None):
            self.log.note(Seen("CONNECT", host, "", "", {}, status=502, unknown="nobody plays this host"))
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        met = self.faults.meet(f"CONNECT {host}")
        refuse, bad, breaks = met.use(Refuse), met.use(BadCertificate), met.use(BreakHandshake)
        if met.actions:
            self.log.note(Seen("CONNECT", host, "", "", {}, status=refuse.status if refuse else 200, faults=met.done))
        if refuse:
            writer.write(b"HTTP/1.1 %d Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % refuse.status)
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        if breaks:
            await writer.drain()
            await reader.read(1)
            if breaks.how == "plain":
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
            if breaks.how == "reset":
                reset(writer)
            return
        reader, secure = await _with_tls(writer, self.certificates.bad(bad) if bad else self.certificates.good)
        try:
            await self._relay(reader, secure, host, self.azurite if role is Role.BLOB else self.app, None)
        finally:
            secure.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, head: Head | None) -> None:
        upstream = Upstream(port)
        sock = writer.get_extra_info("socket")
        try:
            while True:
                head = head or await read_head(reader)
                _acknowledge(sock)
                exchange = Exchange(self.azure, reader, writer, upstream, host, is_blob=port == self.azurite)
                if not await self._noted(exchange, head, host):
                    return
                head = None
        finally:
            upstream.close()

    async def _noted(self, exchange: Exchange, request: Head, host: str) -> bool:
        """Carry out one exchange and note it; whether the connection goes on."""
        path, _, query = request.first[1].partition("?")
        headers = {name.lower(): "***" if name.lower() == "authorization" else value for name, value in request.headers}
        seen = Seen(request.first[0], host or request.get("host"), unquote(path), masked(query), headers)
        actions = self.faults.meet(f"{seen.method} {seen.host}{seen.path}{'?' if seen.query else ''}{seen.query}", request)
        seen.faults = actions.done
        if host:
            self.log.note(seen)
        begun = time.perf_counter()
        try:
            return await exchange.run(request, seen, actions)
        finally:
            seen.seconds = time.perf_counter() - begun


def _acknowledge(sock: socket.socket) -> None:
    """Clients that speak through a proxy wait with a body for the acknowledgement of its head; the system would hold that back for 40 ms."""
    if hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


async def _with_tls(writer: asyncio.StreamWriter, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The same connection, encrypted from here on (`StreamWriter.start_tls` came with Python 3.11)."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LIMIT, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport = await loop.start_tls(writer.transport, protocol, context, server_side=True)
    if transport is None:
        raise ConnectionResetError("the client left during the handshake")
    protocol.connection_made(transport)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
