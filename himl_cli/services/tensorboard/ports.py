"""A port that TensorBoard can have."""

from __future__ import annotations

import errno
import socket
import sys

from himl_cli.core.errors import BadUsage, HimlError

TRIED = 100
LAST_PORT = 65535
TAKEN = {errno.EADDRINUSE, errno.EACCES}  # Windows says the latter of a port that somebody has for himself
HERE_ONLY = {"localhost", "127.0.0.1", "::1"}


def is_here_only(host: str) -> bool:
    """Whether nobody on another machine reaches *host*."""
    return host.lower() in HERE_ONLY


def free_port(host: str, first: int) -> int:
    """*first*, or the next port that is free at *host*; any free one for 0.

    Raises BadUsage for a host that is not this machine, HimlError where all are taken.
    """
    if first == 0:
        with socket.socket() as anywhere:
            anywhere.bind(("", 0))
            return int(anywhere.getsockname()[1])
    for port in range(first, min(first + TRIED, LAST_PORT + 1)):
        if _is_free(host, port):
            return port
    raise HimlError(f"The ports {first} to {min(first + TRIED - 1, LAST_PORT)} are all taken.", hint="Name another one with --port.")


def _is_free(host: str, port: int) -> bool:
    """Whether the port is free at all addresses of *host*: `localhost` may be two, and a browser takes either."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as err:
        raise BadUsage(f"There is no host '{host}': {err.strerror or err}.", hint="--host takes a name or an address of this machine.") from err
    usable = 0
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                if sys.platform != "win32":
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # an ended server's port may be had again at once
                probe.bind(address)
                probe.listen(1)
        except OSError as err:
            if err.errno in TAKEN:
                return False
        else:
            usable += 1
    if not usable:
        raise BadUsage(f"'{host}' is not an address of this machine.", hint="Leave --host out, or give 0.0.0.0 for all its addresses.")
    return True
