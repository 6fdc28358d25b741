"""A port that TensorBoard can have."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys

from himl_cli.core.errors import BadUsage, HimlError

TRIED = 100
LAST_PORT = 65535
IS_WINDOWS = sys.platform == "win32"
TAKEN = {errno.EADDRINUSE} | (
    {errno.EACCES} if IS_WINDOWS else set()
)  # Windows says the latter of a port that somebody has for himself


def is_here_only(host: str) -> bool:
    """Whether nobody on another machine reaches *host*."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def free_port(host: str, first: int) -> int:
    """*first*, or the next port that is free at *host*; any free one for 0.

    Raises BadUsage for a host that is not this machine and for a port that only an administrator may take, HimlError
    where all are taken.
    """
    if first == 0:
        with socket.socket() as anywhere:
            anywhere.bind(("", 0))
            return int(anywhere.getsockname()[1])
    for port in range(first, min(first + TRIED, LAST_PORT + 1)):
        if is_free(host, port):
            return port
    raise HimlError(
        f"The ports {first} to {min(first + TRIED - 1, LAST_PORT)} are all taken.", hint="Name another one with --port."
    )


def is_free(host: str, port: int) -> bool:
    """Whether the port is free at all addresses of *host*: `localhost` may be two, and a browser takes either. Raises
    BadUsage as `free_port` does."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as err:
        raise BadUsage(
            f"There is no host '{host}': {err.strerror or err}.",
            hint="--host takes a name or an address of this machine.",
        ) from err
    usable = 0
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                if not IS_WINDOWS:
                    probe.setsockopt(
                        socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
                    )  # an ended server's port may be had again at once
                probe.bind(address)
                probe.listen(1)
        except OSError as err:
            if err.errno in TAKEN:
                return False
            if err.errno == errno.EACCES:
                raise BadUsage(
                    f"Port {port} is for administrators only.", hint="Take one from 1024 on, as --port 6006."
                ) from err
        else:
            usable += 1
    if not usable:
        raise BadUsage(
            f"'{host}' is not an address of this machine.",
            hint="Leave --host out, or give 0.0.0.0 for all its addresses.",
        )
    return True
