"""Ports of this machine for servers that start later."""

from __future__ import annotations

from contextlib import suppress

# Systems give higher ports to the connections of clients: from 32768 on Linux, from 49152 on macOS and Windows
FIRST, COUNT, TRIES = 10_000, 20_000, 100


def free_port(host: str = "") -> int:
    """A free TCP port at the address *host*, by default at all addresses, which no connection of a client takes before
    a server does. Raises OSError for an address of another machine."""
    import secrets
    import socket

    with socket.socket() as probe:
        for _ in range(TRIES):
            with suppress(OSError):
                probe.bind((host, FIRST + secrets.randbelow(COUNT)))
                break
        else:
            probe.bind((host, 0))
        return int(probe.getsockname()[1])
