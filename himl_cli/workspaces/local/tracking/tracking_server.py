"""The tracking server of one job, in threads of the process that supervises it, and what the job's environment says of
it.

Importing this module is cheap; the server's own thread imports what serves once the first client connects, since most
jobs never ask.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.core.errors import RunNotFound
from himl_cli.core.files import home_folder
from himl_cli.workspaces.local.run_store import Database, RunStore

if TYPE_CHECKING:
    from himl_cli.workspaces.local.tracking.http_connection import AuthContext
    from himl_cli.workspaces.local.tracking.tracked_runs import JobRuns

LOOPBACK = "127.0.0.1"
USER = "himl"  # the name beside the job's token where that goes as a password
CLOSE_SECONDS = 5.0
# Each would send other credentials than the job's token, or ask for what the job's server has not.
DROPPED = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_WORKSPACE",
)


@dataclass(frozen=True)
class Limits:
    """For connections that have not shown the job's token: `most` at a time; another one waits until the oldest is
    authenticated, or has been open for `grace` seconds and is ended.

    One that neither sends nor takes anything for `silence` seconds is ended as well. Of a body that is refused,
    `drained` bytes are read.
    """

    most: int = 128
    grace: float = 2.0
    silence: float = 30.0
    drained: int = 8 << 20


class TrackingServer:
    """Serves MLflow's tracking REST for the job *job_id* on a free loopback port, from `serve` to `close`; a client
    that connects before that waits. With *is_shared* it listens to other machines too, on which the job has ranks.

    *artifacts_of* names the folder of a run's artifacts (it need not exist), *new_child_id* makes the id of a nested
    run. Raises RunNotFound where the job is not recorded, OSError where no port is to be had.
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
        self._job = job
        self._secret = os.urandom(24).hex()
        # So many may wait to be accepted: every rank, and its data loaders, may come at once
        self._is_shared = is_shared
        self._listener = socket.create_server(("" if is_shared else LOOPBACK, 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: dict[socket.socket, threading.Thread] = {}
        self._limiter = UnauthenticatedLimiter(limits or Limits())
        self._runs: JobRuns | None = None
        self._experiment_id = experiment_number(job.experiment)
        facts = (database, job, self._experiment_id, artifacts_of, new_child_id)
        self._accepting = threading.Thread(target=self._serve, args=facts, name="tracking", daemon=True)

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """*base*, the environment of the job's processes, changed so that MLflow's clients come here."""
        ids = {"run_id": self._job.id, "experiment_id": self._experiment_id}
        return client_environment(base, port=self.port, secret=self._secret, **ids)

    def serve(self) -> None:
        """Begin to answer."""
        self._accepting.start()

    def close(self) -> None:
        """Answer the requests that have arrived, end all connections, and remove the runs that the script deleted.
        Raises DiskFailed."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._limiter.close()
        if self._accepting.is_alive():
            with suppress(OSError), socket.create_connection((LOOPBACK, self.port), timeout=1):
                pass  # closing a socket does not wake the thread that accepts on it; a connection does, everywhere
            self._accepting.join(CLOSE_SECONDS)
        else:
            self._listener.close()
        with self._lock:
            threads = dict(self._threads)
        for client in threads:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RD)  # whoever waits for a request reads its end; replies still go out
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
        with self._listener:  # clients of a server that is gone are refused, they do not wait
            while not self._closing.is_set():
                limiter.wait()
                try:
                    client, _ = self._listener.accept()
                except OSError:  # no file handle left: the job's own connections go on, the next one waits
                    limiter.end_oldest()
                    time.sleep(0.1)
                    continue
                if context is None and self._closing.is_set():  # by `close`, or as late as it, and nobody came before
                    client.close()
                    break
                context = context or self._context(*facts)
                limiter.add(client)
                thread = threading.Thread(target=self._talk, args=(client, context), daemon=True)
                with self._lock:
                    self._threads[client] = thread
                try:
                    thread.start()
                except RuntimeError:  # no thread left: the client sees its connection closed, and tries again
                    self._forget(client)

    def _talk(self, client: socket.socket, context: AuthContext) -> None:
        from himl_cli.workspaces.local.tracking.http_connection import Connection

        try:
            with suppress(OSError):  # the client went away
                Connection(client, context)
        finally:
            self._forget(client)

    def _forget(self, client: socket.socket) -> None:
        self._limiter.remove(client)
        with self._lock:
            self._threads.pop(client, None)
        client.close()


class UnauthenticatedLimiter:
    """Connections that have not shown the job's token: whoever is on this machine can open them, so there are few, and
    none for long. Safe to share between threads."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._changed = threading.Condition()
        self._since: dict[socket.socket, float] = {}
        self._is_closed = False

    def wait(self) -> None:
        """Wait until there may be one more."""
        with self._changed:
            while len(self._since) >= self.limits.most and not self._is_closed:
                left = next(iter(self._since.values())) + self.limits.grace - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                else:
                    self.end_oldest()

    def end_oldest(self) -> None:
        """However long it has been open; nothing where there is none."""
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
        """It has shown the token, or it is gone."""
        with self._changed:
            self._since.pop(client, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


def experiment_number(name: str) -> str:
    """The id that clients are told for the experiment called *name*: digits, always the same ones."""
    return str(zlib.crc32(name.encode()) + 1)  # never 0: that is MLflow's default experiment, which clients treat apart


def client_environment(
    base: Mapping[str, str], *, port: int, secret: str, run_id: str, experiment_id: str
) -> dict[str, str]:
    """The environment of a job that is otherwise *base*.

    The secret goes as a bearer token. A user's `~/.mlflow/credentials` would win over that, so it goes as a password
    too where there is such a file; a netrc file that speaks of this address would win over both, and only then the
    secret stands in the URL: MLflow 2 prints that into the job's log.
    """
    address = f"http://{LOOPBACK}:{port}"
    home = Path(base.get("USERPROFILE" if sys.platform == "win32" else "HOME") or home_folder() or os.sep)
    env = {name: value for name, value in base.items() if name not in DROPPED}
    if (home / ".mlflow" / "credentials").exists():
        env |= {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": secret}
    lower, upper = base.get("no_proxy", ""), base.get("NO_PROXY", "")  # clients look at either
    env["NO_PROXY"] = _with_loopback(upper or lower)
    if sys.platform != "win32":  # there the two are one variable
        env["no_proxy"] = _with_loopback(lower or upper)
    return env | {
        "MLFLOW_TRACKING_URI": f"{address}/{secret}" if _netrc_applies(base, home) else address,
        "MLFLOW_TRACKING_TOKEN": secret,
        "MLFLOW_RUN_ID": run_id,
        "MLFLOW_EXPERIMENT_ID": experiment_id,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }


def _netrc_applies(base: Mapping[str, str], home: Path) -> bool:
    """Whether a netrc file, as requests looks for it, has a login for the loopback address or for every host."""
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
    """`*` alone means all hosts."""
    if hosts.strip() == "*":
        return hosts
    return ",".join([*(host.strip() for host in hosts.split(",") if host.strip()), LOOPBACK])
