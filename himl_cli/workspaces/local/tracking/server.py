"""The server of one job, in threads of the process that supervises it.

Importing this module is cheap; what serves is imported by the server's own thread, while the script starts.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.core.errors import RunNotFound
from himl_cli.workspaces.local.database import Database
from himl_cli.workspaces.local.run_store import RunStore
from himl_cli.workspaces.local.tracking.environment import (
    LOOPBACK,
    ClientEnvironment,
    client_environment,
    experiment_number,
)
from himl_cli.workspaces.local.tracking.strangers import Limits, Strangers

if TYPE_CHECKING:
    from himl_cli.workspaces.local.tracking.connection import Door
    from himl_cli.workspaces.local.tracking.runs import JobRuns

PENDING = 256  # connections that wait to be accepted: every rank, and its data loaders, may come at once
FAREWELL_SECONDS = 5.0


class TrackingServer:
    """Serves MLflow's tracking REST for the job *job_id* on a free loopback port, from construction to `close`.

    *artifacts_of* names the folder of a run's artifacts (it need not exist), *new_child_id* makes the id of a nested
    run; *limits* are for whoever has not shown the job's token. Raises RunNotFound where the job is not recorded,
    OSError where no port is to be had.
    """

    def __init__(
        self,
        database: Database,
        job_id: str,
        *,
        artifacts_of: Callable[[str], Path],
        new_child_id: Callable[[], str],
        limits: Limits | None = None,
    ) -> None:
        job = RunStore(database).get(job_id)
        if job is None:
            raise RunNotFound(job_id, f"'{database.path}'")
        self._job = job
        self._database = database
        self._artifacts_of = artifacts_of
        self._new_child_id = new_child_id
        self._secret = os.urandom(24).hex()
        self._listener = socket.create_server((LOOPBACK, 0), backlog=PENDING)
        self.port: int = self._listener.getsockname()[1]
        self._closing = False
        self._lock = threading.Lock()
        self._talks: dict[socket.socket, threading.Thread] = {}
        self._strangers = Strangers(limits or Limits())
        self._runs: JobRuns | None = None
        self._accepting = threading.Thread(target=self._serve, name="tracking", daemon=True)
        self._accepting.start()

    def __enter__(self) -> TrackingServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def environment(self, base: Mapping[str, str]) -> ClientEnvironment:
        """What to change in *base*, the environment of the job's processes, so that MLflow's clients come here."""
        return client_environment(
            base,
            port=self.port,
            secret=self._secret,
            run_id=self._job.id,
            experiment_id=experiment_number(self._job.experiment),
        )

    def close(self) -> None:
        """Answer the requests that have arrived, end all connections, and remove the runs that the script deleted."""
        if self._closing:
            return
        self._closing = True
        self._strangers.close()
        with suppress(OSError), socket.create_connection((LOOPBACK, self.port), timeout=1):
            pass  # closing a socket does not wake the thread that accepts on it; a connection does, everywhere
        self._accepting.join(FAREWELL_SECONDS)
        with self._lock:
            talks = dict(self._talks)
        for client in talks:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RD)  # whoever waits for a request reads its end; replies still go out
        deadline = time.monotonic() + FAREWELL_SECONDS
        for client, thread in talks.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            client.close()
        if self._runs is not None:
            self._runs.remove_deleted()

    def _serve(self) -> None:
        from himl_cli.workspaces.local.tracking.connection import Door
        from himl_cli.workspaces.local.tracking.routes import Routes
        from himl_cli.workspaces.local.tracking.runs import JobRuns

        with self._listener:  # clients of a server that is gone are refused, they do not wait
            self._runs = JobRuns(self._database, self._job, self._artifacts_of, self._new_child_id)
            door = Door(Routes(self._runs), self._secret, self.port)
            while not self._closing:
                self._accept(door)

    def _accept(self, door: Door) -> None:
        """Take one connection into a thread of its own."""
        self._strangers.make_room()
        try:
            client, _ = self._listener.accept()
        except OSError:  # no file handle left: the job's own connections go on, the next one waits
            self._strangers.end_oldest()
            time.sleep(0.1)
            return
        self._strangers.add(client)
        thread = threading.Thread(target=self._talk, args=(client, door), daemon=True)
        with self._lock:
            self._talks[client] = thread
        try:
            thread.start()
        except RuntimeError:  # no thread left: the client sees its connection closed, and tries again
            self._forget(client)

    def _talk(self, client: socket.socket, door: Door) -> None:
        from himl_cli.workspaces.local.tracking.connection import Connection

        with suppress(OSError):  # the client went away
            Connection(client, door, self._strangers)
        self._forget(client)

    def _forget(self, client: socket.socket) -> None:
        self._strangers.remove(client)
        with self._lock:
            self._talks.pop(client, None)
        client.close()
