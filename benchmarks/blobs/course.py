"""Each client through each scenario, checked each time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.blobs import clients
from benchmarks.blobs.azurite import azurite
from benchmarks.blobs.clients import CLIENTS, NEVER_LATE, ONCE, ONLY_SMALL, ONLY_UP, Task
from benchmarks.blobs.himl_workspace import HimlWorkspace
from benchmarks.blobs.nginx import BlobServer, free_port, late
from benchmarks.blobs.proof import check_download, check_upload
from benchmarks.blobs.sample import Sample
from benchmarks.blobs.tools import Tools
from benchmarks.raw import Raw
from benchmarks.spent import Spent, spend

MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Scenario:
    """What moves; `late` adds 30 ms to each download of a blob from nginx, to each request to Azurite. Uploads always go to Azurite."""

    name: str
    direction: str
    part: str
    late: bool = False
    azurite: bool = False
    rounds: int = 3
    """At most."""

    def takes(self, client: str) -> bool:
        """Whether *client* has a part in it. A file at a time, 30 ms late, is told by one scenario: it takes a minute and more."""
        if client == "azure-storage-blob, one by one" and self.late and self.direction == "up":
            return False
        is_part = self.part == "small" or client not in ONLY_SMALL
        return is_part and (self.direction == "up" or client not in ONLY_UP) and not (self.late and client in NEVER_LATE)


SCENARIOS = [
    Scenario("small down", "down", "small"),
    Scenario("small down, 30 ms", "down", "small", late=True),
    Scenario("small down from Azurite", "down", "small", azurite=True),
    Scenario("small up", "up", "small", azurite=True),
    Scenario("small up, 30 ms", "up", "small", azurite=True, late=True, rounds=2),
    Scenario("large down", "down", "large"),
    Scenario("large down, 30 ms", "down", "large", late=True, rounds=2),
    Scenario("large down from Azurite", "down", "large", azurite=True, rounds=2),
    Scenario("large up", "up", "large", azurite=True),
    Scenario("large up, 30 ms", "up", "large", azurite=True, late=True, rounds=2),
]


class Course:
    """Runs clients. `server` has the sample by nginx."""

    def __init__(self, tools: Tools, himl: HimlWorkspace, sample: Sample, server: BlobServer, scratch: Path, record: Raw) -> None:
        self._tools, self._himl, self._sample, self._server, self._scratch, self._record = tools, himl, sample, server, scratch, record
        self._port, self._late_port = free_port(), free_port()
        self._environment = clients.environment(os.environ, himl, scratch)
        self._met: set[tuple[str, str]] = set()

    def time(self, scenario: Scenario, names: Sequence[str], rounds: int) -> dict[str, list[Spent]]:
        """*names* in turns, every other round backwards, *rounds* times at most; those in `ONCE` once.

        A client that has not yet moved anything in this direction does so once unmeasured; `himl command` in each scenario, for each has a datastore of its
        own, whose SAS it remembers from one call to the next.
        """
        spent: dict[str, list[Spent]] = {name: [] for name in names}
        with self._source(scenario) as port:
            for name in names:
                if name == "himl command" or (name, scenario.direction) not in self._met:
                    self._once(scenario, name, port)
                    self._met.add((name, scenario.direction))
            for number in range(min(rounds, scenario.rounds)):
                for name in [one for one in list(names)[:: -1 if number % 2 else 1] if number == 0 or one not in ONCE]:
                    spent[name].append(self._once(scenario, name, port, is_first=number == 0))
        return spent

    @contextmanager
    def _source(self, scenario: Scenario) -> Iterator[int]:
        """The port that downloads come from; that of uploads, where nothing listens yet."""
        if scenario.direction == "up":
            yield self._late_port if scenario.late else self._port
        elif not scenario.azurite:
            yield self._server.slow_port if scenario.late else self._server.port
        else:
            with tempfile.TemporaryDirectory(dir=self._scratch) as folder, azurite(self._port, Path(folder)):
                filling = Task(self._tools, self._himl, "up", scenario.part, self._port, self._sample.folder)
                spend(clients.himl_engine(filling), self._environment)
                check_upload(self._sample, scenario.part, self._port)
                yield self._port

    def _once(self, scenario: Scenario, name: str, port: int, *, is_first: bool = False) -> Spent:
        os.sync()  # what the one before has not yet written would slow this one
        return (self._down if scenario.direction == "down" else self._up)(scenario, name, port, is_first)

    def _down(self, scenario: Scenario, name: str, port: int, is_first: bool) -> Spent:
        with tempfile.TemporaryDirectory(dir=MEMORY if scenario.part == "small" and MEMORY.is_dir() else self._scratch) as folder:
            task = Task(self._tools, self._himl, "down", scenario.part, port, Path(folder))
            spent = spend(CLIENTS[name](task), self._environment)
            check_download(self._sample, scenario.part, task.folder, is_read=is_first)
        return spent

    def _up(self, scenario: Scenario, name: str, port: int, is_first: bool) -> Spent:
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder, self._empty_service(Path(folder), is_late=scenario.late):
            task = Task(self._tools, self._himl, "up", scenario.part, port, self._sample.folder)
            spent = spend(CLIENTS[name](task), self._environment)
            with_md5 = check_upload(self._sample, scenario.part, self._port)
            if is_first and not scenario.late:
                self._record.add_fact(f"MD5s stored, {scenario.part}", name, with_md5)
        return spent

    @contextmanager
    def _empty_service(self, folder: Path, *, is_late: bool) -> Iterator[None]:
        (folder / "azurite").mkdir()
        with azurite(self._port, folder / "azurite"):
            if is_late:
                with late(self._port, self._late_port, folder / "nginx"):
                    yield
            else:
                yield

    def notices(self, part: str, name: str) -> bool:
        """Whether a download fails when a blob's MD5 is not that of its content: to be asked of a server that lies."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            try:
                spend(CLIENTS[name](Task(self._tools, self._himl, "down", part, self._server.port, Path(folder))), self._environment)
            except SystemExit:
                return True
        return False

    def floor(self, scenario: Scenario, rounds: int) -> list[Spent]:
        """The MD5 of the same bytes on one thread."""
        return [spend(clients.md5_floor(self._sample.folder / scenario.part), self._environment) for _ in range(min(rounds, scenario.rounds))]
