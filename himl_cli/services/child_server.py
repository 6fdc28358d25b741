"""A web server (TensorBoard or MLflow's) as a child process at a free port, which ends with this process."""

from __future__ import annotations

import errno
import ipaddress
import json
import re
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlencode

from himl_cli.core import ports
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.processes import detached, end_detached
from himl_cli.services.server_access import Access

SECONDS_TO_END, ANSWER_SECONDS = 5.0, 1.0
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only with --host
PORTS_TRIED, LAST_PORT = 100, 65535
IS_WINDOWS = sys.platform == "win32"
# On Windows, EACCES means that another program uses the port exclusively
TAKEN = {errno.EADDRINUSE, *([errno.EACCES] if IS_WINDOWS else [])}
# What TensorBoard and uvicorn write in their logs about a port that another program has, or had
SAID_OF_TAKEN = re.compile(r"\bbind\b.*(?:already in use|only one usage of each socket address)", re.IGNORECASE)
# From this size in bytes, glibc returns a freed block to the system at once (mallopt(3)). CPython's table of interned
# strings, 8 MB in MLflow's server, is allocated again after some hundred requests, and would stay in each thread's heap
RETURNED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}


class ChildServer(ABC):
    """A server at *host* and *port*, running until it is closed.

    *folder* belongs to the server. It contains the server's log and temporary files, and is removed if this process is
    killed. Raises DiskFailed.
    """

    name: ClassVar[str]
    version_check: ClassVar[str]
    """A command that checks whether the server's program works."""

    def __init__(self, folder: Path, host: str, port: int, access: Access, notify: Notify = ignore) -> None:
        self._own = folder
        self._access = access
        self._log = folder / "server.log"
        self._host = host
        self._address = ANY_ADDRESS.get(host, host)
        self._port = port
        self._notify = notify
        self._was_up = False
        self._process = self._start()

    @property
    @abstractmethod
    def arguments(self) -> Sequence[str]:
        """The arguments of `services.server_program` after the folder."""

    @property
    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """The server's environment, without the variables for temporary files."""

    @property
    def url(self) -> str:
        host = socket.gethostname() if self._host in ANY_ADDRESS else self._host
        query = f"?{urlencode({'token': self._access.token})}" if self._access.token else ""
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/{query}"

    def write_page(self) -> str:
        """Write a page that leads to the server, in its private folder, and return the address of the page: the
        arguments of a browser are visible to all users."""
        page = self._own / "open.html"
        page.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={self.url}">', encoding="utf-8")
        return page.as_uri()

    def answers(self) -> bool:
        """Whether this server, and not another one that uses the port, answers at its address."""
        return get(self._address, self._port, f"/{self._access.mark}")[0] == HTTPStatus.OK

    def is_up(self) -> bool:
        self._was_up = self._was_up or self.answers()
        return self._was_up

    def tell_address(self, asked: int) -> None:
        """Report a port other than the one *asked* for, and an address that other machines can reach."""
        if asked not in (self._port, 0):
            self._notify(Notice(f"Port {asked} is in use, so {self.name} uses {self._port}."))
        address = f"{self._host}:{self._port}"
        if not self._access.token:
            self._notify(Notice(f"Without a token, anyone who can reach {address} can see these runs."))
        elif not is_loopback(self._host):
            self._notify(Notice(f"Other machines can reach {address}. The token and the runs are sent unencrypted."))

    def check(self) -> None:
        """Check that the server runs. If another program took its port while it started, restart it at the next one.

        Raises HimlError, with the last line of its log, if the server has ended.
        """
        code = self._process.poll()
        if code is None:
            return
        lines: list[str] = []
        with suppress(OSError):
            lines = self._log.read_bytes()[-4000:].decode("utf-8", "replace").splitlines()
        if not self._was_up and (any(map(SAID_OF_TAKEN.search, lines)) or not _is_free(self._host, self._port)):
            taken, self._port = self._port, free_port(self._host, self._port + 1)
            self.tell_address(taken)
            self.restart()
            return
        ending = f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}"
        with suppress(ValueError):
            ending = f"was ended by {signal.Signals(-code).name}"
        last = next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
        raise HimlError(f"{self.name} {ending}: {last}", hint=f"Check that '{self.version_check}' works.")

    def restart(self) -> None:
        self.close()
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        own = str(self._own)
        try:
            with self._log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "himl_cli.services.server_program", own, *self.arguments],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    # In the shared folder for temporary files, another user's leftover folder makes TensorBoard fail
                    env={**RETURNED_AT_ONCE, **self.environment, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), own)},
                    # `-m` searches this folder first, where it must not find a module of the user
                    cwd=own,
                    **detached(),
                )
        except OSError as err:
            raise DiskFailed(f"Cannot start {self.name}: {err.strerror or err}.") from err
        assert process.stdin is not None
        with suppress(OSError):  # the server has ended, which `check` reports
            process.stdin.write(json.dumps(vars(self._access)).encode() + b"\n")
            process.stdin.flush()
        return process

    def end_at_once(self) -> None:
        """End the server and its child processes, without removing the folder."""
        end_detached(self._process)

    def close(self) -> None:
        try:
            self._process.communicate(timeout=SECONDS_TO_END)  # closes its standard input and waits
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            end_detached(self._process)


def check_port(port: int) -> None:
    """Raise BadUsage for an invalid port."""
    if not 0 <= port <= LAST_PORT:
        raise BadUsage(f"--port must be from 0 to {LAST_PORT}, not {port}.")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def get(host: str, port: int, path: str, seconds: float = ANSWER_SECONDS) -> tuple[int, bytes]:
    """The HTTP status and content of an answer from this machine, without a proxy. The status is 0 for none."""
    from himl_cli.workspaces.transfer_engine.curl import get_locally

    return get_locally(f"http://{f'[{host}]' if ':' in host else host}:{port}{path}", seconds=seconds)


def free_port(host: str, first: int) -> int:
    """*first* or the next free port at *host*, or any free port for 0.

    Raises BadUsage for a host that is not this machine and for a port that is reserved for administrators, HimlError
    if all ports are in use.
    """
    if first == 0:
        return ports.free_port()
    last = min(first + PORTS_TRIED - 1, LAST_PORT)
    port = next((port for port in range(first, last + 1) if _is_free(host, port)), None)
    if port is None:
        raise HimlError(f"All ports from {first} to {last} are in use.", hint="Choose another one with --port.")
    return port


def _is_free(host: str, port: int) -> bool:
    """Whether the port is free at all addresses of *host*. `localhost` may have two, and a browser uses either. Raises
    BadUsage as `free_port` does."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as err:
        raise BadUsage(
            f"There is no host '{host}': {err.strerror or err}.",
            hint="Use a name or an address of this machine.",
        ) from err
    usable = 0
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                if not IS_WINDOWS:  # allows the port of a server that has just ended
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen(1)
            usable += 1
        except OSError as err:
            if err.errno in TAKEN:
                return False
            if err.errno == errno.EACCES:
                raise BadUsage(
                    f"Port {port} is for administrators only.", hint="Use 1024 or higher, for example --port 6006."
                ) from err
    if not usable:
        raise BadUsage(
            f"'{host}' is not an address of this machine.",
            hint="Omit --host, or use 0.0.0.0 for all addresses.",
        )
    return True
