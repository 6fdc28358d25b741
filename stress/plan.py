"""The parts, the selection of their cases, and the workers. A worker that dies, hangs or has run many cases is
replaced.

The seed alone determines the cases of a sample and the random numbers of each case. A worker is a process that runs
cases one after the other in a separate world."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

from stress.accounting import accounting_cases
from stress.bombs import bomb_cases
from stress.endpoint import endpoint_cases
from stress.faults import fault_cases
from stress.fuzz.cases import fuzz_cases
from stress.kills import kill_cases
from stress.load import LARGE, load_cases
from stress.names import name_cases
from stress.pages import tb_cases, ui_cases
from stress.power import power_cases
from stress.queue import LARGE as LARGE_QUEUES
from stress.queue import queue_cases
from stress.ranks import rank_cases
from stress.records import Case, Outcome, Record, Result
from stress.secrets.cases import secret_cases
from stress.slides import slide_cases
from stress.slurm import slurm_cases
from stress.ssh import ssh_cases
from stress.world import SPAWN, World, leave_only_ours, running_world

HUNG = 3600.0  # seconds per case, far above the limits of its commands
SECONDS_TO_END = 30.0
LONGEST_SERVICE = 60
"""So many cases a worker runs: its Azurite keeps what it was sent in memory, and stops answering in time after some
hundred uploads that broke off.
"""


@dataclass(frozen=True)
class Part:
    """A part. `cases` returns all of its cases, slowest first. A sample has `per_cell` cases of each cell, without
    `large` ones.

    `share` is its part of a sample's time, relative to the other parts. `at_once` is the maximum of concurrent cases
    (None: the number of workers)."""

    name: str
    title: str
    cases: Callable[[], Sequence[Case]]
    per_cell: int = 1
    share: float = 0.5
    at_once: int | None = None
    large: frozenset[str] = frozenset()

    def chosen(self, seed: int, *, full: bool) -> Sequence[Case]:
        cases = self.cases()
        return cases if full else sample([case for case in cases if case.cell not in self.large], seed, self.per_cell)


PARTS = (
    Part("faults", "Faults of the network and of the services", fault_cases, share=1.0),
    Part("kills", "Killed at a random moment", kill_cases, per_cell=4, at_once=4),
    Part("power", "The power is cut at a random moment", power_cases, at_once=2),
    Part("ranks", "Ranks of a launch", rank_cases, at_once=2),
    Part(
        "names",
        "Names, links and documents that somebody else made",
        lambda: [*name_cases(), *bomb_cases(), *slide_cases()],
    ),
    Part("secrets", "Secrets", secret_cases),
    Part("fuzz", "Garbage in place of what comes from outside", fuzz_cases),
    Part("endpoint", "The server of a local job", endpoint_cases, at_once=2),
    Part("slurm", "Jobs of a Slurm", lambda: [*slurm_cases(), *accounting_cases()], at_once=2),
    Part("ssh", "Connections to a machine by SSH that die", ssh_cases, at_once=2),
    Part("queue", "Runs that wait for GPUs", queue_cases, at_once=1, large=LARGE_QUEUES),
    Part("ui", "The server of himl ui", ui_cases, at_once=2),
    Part("tb", "The server of himl tb", tb_cases, at_once=2),
    Part("load", "Many blobs, runs, writers and looks", load_cases, share=1.0, at_once=1, large=LARGE),
)


def cases_by_id() -> dict[str, Case]:
    return {case.id: case for part in PARTS for case in part.cases()}


def dice_for(seed: int, case_id: str) -> random.Random:
    """The random numbers of one case, which do not depend on other cases or their order."""
    return random.Random(f"{seed}/{case_id}")


def sample(cases: Sequence[Case], seed: int, per_cell: int) -> list[Case]:
    """*per_cell* cases of each cell (or all, if there are fewer), in the order of *cases*."""
    cells: dict[str, list[Case]] = {}
    for case in cases:
        cells.setdefault(case.cell, []).append(case)
    taken = {
        one.id
        for cell, alike in cells.items()
        for one in random.Random(f"{seed}/{cell}").sample(alike, min(per_cell, len(alike)))
    }
    return [case for case in cases if case.id in taken]


class WorkerFailed(Exception):
    """A worker failed before it could run a case. The text is the end of its log."""


class _Worker:
    def __init__(self, place: Path, seed: int) -> None:
        self.cases, self.log = 0, place / "worker.log"
        place.mkdir()
        self.log.touch()
        self._ours, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=work, args=(theirs, self.log, place, seed))
        self.process.start()
        theirs.close()

    def run(self, case_id: str) -> Record | None:
        self.cases += 1
        with suppress(OSError):
            self._ours.send(case_id)
        return cast("Record | None", self.answer())

    def answer(self) -> object:
        """The next reply, None if the worker has ended or hangs."""
        with suppress(EOFError, OSError):
            return self._ours.recv() if self._ours.poll(HUNG) else None
        return None

    def end(self) -> None:
        self._ours.close()
        self.process.join(SECONDS_TO_END)
        self.process.kill()
        self.process.join()


class Crew:
    """At most *count* workers with their files below *folder*. They start and end with the cases."""

    def __init__(self, folder: Path, seed: int, count: int) -> None:
        self._folder, self._seed, self._count = folder, seed, count
        self._guard, self._is_stopped = threading.Lock(), False
        self._workers: list[_Worker] = []

    def run(
        self,
        ids: Iterable[str],
        tell: Callable[[Record], None],
        deadline: float | None = None,
        at_once: int | None = None,
    ) -> list[str]:
        """Run these cases, at most *at_once* at a time, and call *tell* with each record. Returns the cases that did
        not start by *deadline* (of the monotonic clock). Raises WorkerFailed."""
        waiting = deque(ids)
        count = min(self._count, at_once or self._count, len(waiting))
        with ThreadPoolExecutor(self._count) as pool:
            try:
                for worker in [pool.submit(self._work, waiting, tell, deadline) for _ in range(count)]:
                    worker.result()
            except BaseException:  # a worker that cannot start, or Ctrl-C: running cases are useless
                with self._guard:
                    self._is_stopped = True
                    waiting.clear()
                    for running in self._workers:
                        running.process.kill()
                raise
        return list(waiting)

    def _work(self, waiting: deque[str], tell: Callable[[Record], None], deadline: float | None) -> None:
        worker: _Worker | None = None
        while case_id := self._next(waiting, deadline):
            worker = worker or self._start()
            begun = time.monotonic()
            record = worker.run(case_id)
            with self._guard:
                if not self._is_stopped:
                    tell(
                        record
                        or Record(
                            case_id,
                            Result(Outcome.lost, None, time.monotonic() - begun, why="harness: the worker ended"),
                        )
                    )
            if record is None or worker.cases >= LONGEST_SERVICE:
                self._end(worker)
                worker = None
        if worker is not None:
            self._end(worker)

    def _next(self, waiting: deque[str], deadline: float | None) -> str | None:
        with self._guard:
            return None if not waiting or (deadline is not None and time.monotonic() >= deadline) else waiting.popleft()

    def _start(self) -> _Worker:
        with self._guard:
            worker = _Worker(self._folder / f"worker_{uuid.uuid4().hex[:8]}", self._seed)
            self._workers.append(worker)
        if worker.answer() is None:
            raise WorkerFailed(worker.log.read_text(errors="replace")[-2000:])
        return worker

    def _end(self, worker: _Worker) -> None:
        worker.end()
        with self._guard:
            self._workers.remove(worker)


def work(answers: Connection, log: Path, place: Path, seed: int) -> None:
    """Report readiness, then run the case of each received id and reply with its record, until the connection
    closes.
    """
    pass_over_interrupts()
    with log.open("ab") as said:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(said.fileno(), stream.fileno())
    leave_only_ours()
    cases = cases_by_id()
    with running_world(place) as world, suppress(EOFError):
        answers.send("ready")
        while True:
            answers.send(run_case(world, cases[answers.recv()], seed))


def pass_over_interrupts() -> None:
    """Handle Ctrl-C by doing nothing, since the end of the parent process ends this one. Ignoring the signal would
    affect children, which some cases kill with it."""
    signal.signal(signal.SIGINT, lambda number, frame: None)


def run_case(world: World, case: Case, seed: int) -> Record:
    """Run *case*. An unexpected error also counts as lost, since such a case proves nothing."""
    begun = time.monotonic()
    try:
        with world.fresh():
            result = case.run(world, dice_for(seed, case.id))
    except Exception as e:  # noqa: BLE001 - whatever it is, the other cases go on
        traceback.print_exc()
        where = traceback.extract_tb(e.__traceback__)[-1]
        text = world.tidy(f"{type(e).__name__} in {Path(where.filename).name}:{where.lineno}: {e}")
        result = Result(Outcome.lost, None, time.monotonic() - begun, why=f"harness: {text[:600]}")
    return Record(case.id, result)
