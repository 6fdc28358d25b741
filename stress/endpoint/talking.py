"""Bytes sent as they are, and what comes back."""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import suppress

SECONDS = 60.0
MOST = 1 << 20


def exchange(port: int, content: bytes) -> bytes:
    """What comes back for *content*, until the server closes the connection. Raises TimeoutError where it does not."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as client:
        with suppress(OSError):  # refused before all was sent: the reason may have arrived nevertheless
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
        return received(client)


def received(client: socket.socket) -> bytes:
    """All that comes until the end. Raises TimeoutError, also where it comes for ever."""
    found, deadline = b"", time.monotonic() + SECONDS
    with suppress(ConnectionError):
        while (piece := client.recv(65536)) and len(found) < MOST:
            found += piece
            if time.monotonic() > deadline:
                raise TimeoutError("the answer has no end")
    return found


def status_of(reply: bytes) -> int:
    """That of the first reply; 0 where there is none."""
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", reply)
    return int(found[1]) if found else 0


def is_told_in_json(reply: bytes) -> bool:
    """Whether the first reply, an error, says why in MLflow's terms. One to HEAD has no body."""
    body = reply.partition(b"\r\n\r\n")[2]
    try:
        document, _ = json.JSONDecoder().raw_decode(body.decode())
    except ValueError:
        return not body
    return set(document) == {"error_code", "message"}
