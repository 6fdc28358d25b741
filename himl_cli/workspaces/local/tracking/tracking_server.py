"""The tracking server of one job, in threads of its supervisor, and the job's environment variables for it.

Importing this module is fast. The server's thread imports the other modules once the first client connects, since most
jobs never use the server.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.core.errors import RunNotFound
from himl_cli.core.files import home_folder
from himl_cli.core.records import dataclass
from himl_cli.workspaces.local.run_store import Database, RunStore

if TYPE_CHECKING:
    from himl_cli.workspaces.local.tracking.http_connection import AuthContext
    from himl_cli.workspaces.local.tracking.tracked_runs import JobRuns

LOOPBACK = "127.0.0.1"
USER = "himl"  # the user name if the job's token is sent as a password
CLOSE_SECONDS = 5.0
# Variables that would send other credentials than the job's token, name runs and experiments of another server, or
# request features that the server lacks
DROPPED = (
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_WORKSPACE",
)


@dataclass(frozen=True)
class Limits:
    """Limits for connections without the job's token: at most `most` at a time. Another one waits until the oldest is
    authenticated, or has been open for `grace` seconds and is closed.

    The server closes connections without traffic for `silence` seconds, and reads at most `drained` bytes of a body
    that it refuses.
    """

    most: int = 128
    grace: float = 2.0
    silence: float = 30.0
    drained: int = 8 << 20


class TrackingServer:
    """Serves MLflow's tracking REST for the job *job_id* on a free loopback port, from `serve` to `close`. A client
    that connects earlier waits. With *is_shared*, it also accepts connections of ranks on other machines.

    *artifacts_of* returns the folder of a run's artifacts (it need not exist), *new_child_id* the id of a nested run.
    Raises RunNotFound if the job is not recorded, OSError if no port is free.
    """

    def __init__(
        self,
        database: Database,
        job_id: str,
        *,
        artifacts_of: Callable[[str], Path],
        new_child_id: Callable[[], str],
        limits: Limits | None = None,
        is_shared: bool = False,
    ) -> None:
        job = RunStore(database).get(job_id)
        if job is None:
            raise RunNotFound(job_id, f"'{database.path}'")
        self._secret = os.urandom(24).hex()
        self._is_shared = is_shared
        # All ranks and their data loaders may connect at once
        self._listener = socket.create_server(("" if is_shared else LOOPBACK, 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._closing = threading.Event()
        self._threads: dict[socket.socket, threading.Thread] = {}  # each change of a dictionary is atomic
        self._limiter = UnauthenticatedLimiter(limits or Limits())
        self._runs: JobRuns | None = None
        facts = (database, job, artifacts_of, new_child_id)
        self._accepting = threading.Thread(target=self._serve, args=facts, name="tracking", daemon=True)

    def environment(self, base: Mapping[str, str], rank: str = "0") -> dict[str, str]:
        """*base*, the environment of a process of the job, with the variables that make MLflow's clients use this
        server. The token ends with the *rank*, since each rank continues the job's run."""
        return client_environment(base, port=self.port, secret=f"{self._secret}-{rank}")

    def serve(self) -> None:
        """Start to serve requests."""
        self._accepting.start()

    def close(self) -> None:
        """Reply to the requests that have arrived, close all connections, and remove the runs that the script deleted.
        Raises DiskFailed."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._limiter.close()
        if self._accepting.is_alive():
            # A connection wakes the accepting thread on every platform, unlike closing the socket. create_connection
            # would import the codec of international names first.
            with suppress(OSError), socket.socket() as waker:
                waker.settimeout(1)
                waker.connect((LOOPBACK, self.port))
            self._accepting.join(CLOSE_SECONDS)
        else:
            self._listener.close()
        threads = dict(self._threads)
        for client in threads:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RD)  # ends the wait for a request, but replies are still sent
        deadline = time.monotonic() + CLOSE_SECONDS
        for client, thread in threads.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            client.close()
        if self._runs is not None:
            self._runs.close()

    def _context(self, *facts_of_job: Any) -> AuthContext:
        from himl_cli.workspaces.local.tracking.http_connection import AuthContext, Routes
        from himl_cli.workspaces.local.tracking.tracked_runs import JobRuns

        self._runs = JobRuns(*facts_of_job)
        limiter = self._limiter
        facts = (self.port, limiter.limits.drained, limiter.remove, self._is_shared)
        return AuthContext(Routes(self._runs), USER, self._secret, *facts)

    def _serve(self, *facts: Any) -> None:
        limiter = self._limiter
        context: AuthContext | None = None
        with self._listener:  # after its end, clients are refused instead of waiting
            while not self._closing.is_set():
                limiter.wait()
                try:
                    client, _ = self._listener.accept()
                except OSError:  # no file handle is free: authenticated connections continue, the next one waits
                    limiter.end_oldest()
                    time.sleep(0.1)
                    continue
                if context is None and self._closing.is_set():  # the first connection is by `close`, or as late
                    client.close()
                    break
                context = context or self._context(*facts)
                limiter.add(client)
                thread = threading.Thread(target=self._talk, args=(client, context), daemon=True)
                self._threads[client] = thread
                try:
                    thread.start()
                except RuntimeError:  # no thread is available: the client's connection is closed, and it retries
                    self._forget(client)

    def _talk(self, client: socket.socket, context: AuthContext) -> None:
        from himl_cli.workspaces.local.tracking.http_connection import TrackingConnection

        try:
            with suppress(OSError):  # the client disconnected
                TrackingConnection(client, context)
        finally:
            self._forget(client)

    def _forget(self, client: socket.socket) -> None:
        self._limiter.remove(client)
        self._threads.pop(client, None)
        client.close()


class UnauthenticatedLimiter:
    """Limits connections without the job's token in number and time, since every user of this machine can open them.
    Thread-safe."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._changed = threading.Condition()
        self._since: dict[socket.socket, float] = {}
        self._is_closed = False

    def wait(self) -> None:
        """Wait until another connection is allowed."""
        with self._changed:
            while len(self._since) >= self.limits.most and not self._is_closed:
                left = next(iter(self._since.values())) + self.limits.grace - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                else:
                    self.end_oldest()

    def end_oldest(self) -> None:
        """Close the oldest connection, if there is one."""
        with self._changed:
            client = next(iter(self._since), None)
            if client is not None:
                del self._since[client]
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)  # its thread wakes and closes it

    def add(self, client: socket.socket) -> None:
        client.settimeout(self.limits.silence)
        with self._changed:
            self._since[client] = time.monotonic()

    def remove(self, client: socket.socket) -> None:
        """Remove a connection that has sent the token, or that has ended."""
        with self._changed:
            self._since.pop(client, None)
            self._changed.notify_all()

    def close(self) -> None:
        """End all waiting."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


def client_environment(base: Mapping[str, str], *, port: int, secret: str) -> dict[str, str]:
    """*base* with the variables for MLflow's clients. None of them names a run or an experiment, which a script's own
    server would not find.

    Clients send the secret as a bearer token. A user's `~/.mlflow/credentials` would take precedence, so if that file
    exists, they also send it as a password. A netrc file with this address would take precedence over both. Only then
    the secret is part of the URL, since MLflow 2 prints the URL to the job's log.
    """
    address = f"http://{LOOPBACK}:{port}"
    home = Path(base.get("USERPROFILE" if sys.platform == "win32" else "HOME") or home_folder() or os.sep)
    env = {name: value for name, value in base.items() if name not in DROPPED}
    if (home / ".mlflow" / "credentials").exists():
        env |= {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": secret}
    lower, upper = base.get("no_proxy", ""), base.get("NO_PROXY", "")  # clients read either
    env["NO_PROXY"] = _with_loopback(upper or lower)
    if sys.platform != "win32":  # on Windows, both are the same variable
        env["no_proxy"] = _with_loopback(lower or upper)
    uri = f"{address}/{secret}" if _netrc_applies(base, home) else address
    return env | {
        "MLFLOW_TRACKING_URI": uri,
        "HIML_TRACKING_URI": uri,  # to detect that a script uses another server
        "MLFLOW_TRACKING_TOKEN": secret,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }


def _netrc_applies(base: Mapping[str, str], home: Path) -> bool:
    """Whether a netrc file, where requests looks for it, has a login for the loopback address or for all hosts."""
    for path in [Path(base["NETRC"])] if base.get("NETRC") else [home / ".netrc", home / "_netrc"]:
        try:
            words = Path(os.path.expanduser(path)).read_text(encoding="utf-8", errors="replace").split()
        except FileNotFoundError:
            continue
        except OSError:
            return True
        if {"default", LOOPBACK} & set(words):
            return True
    return False


def _with_loopback(hosts: str) -> str:
    """*hosts* with the loopback address, unless it is `*` for all hosts."""
    if hosts.strip() == "*":
        return hosts
    return ",".join([*(host.strip() for host in hosts.split(",") if host.strip()), LOOPBACK])
