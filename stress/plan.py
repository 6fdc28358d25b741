"""The parts that there are, what of them is run, and the workers that run it: one that dies, hangs or has run many cases is replaced.

What a sample has, and the numbers that each case draws from, follow from the seed alone. A worker is `python -m stress.plan FOLDER SEED`: it runs cases
one after the other in a world of its own.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
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
from pathlib import Path

from stress.bombs import bomb_cases
from stress.endpoint import endpoint_cases
from stress.faults import fault_cases
from stress.fuzz.cases import fuzz_cases
from stress.kills import kill_cases
from stress.load import LARGE, load_cases
from stress.names import name_cases
from stress.ranks import rank_cases
from stress.records import Case, Outcome, Record, Result, parse_record
from stress.secrets.cases import secret_cases
from stress.world import World, leave_only_ours, running_world
from tests.support.machine import ROOT

HUNG = 3600.0  # seconds for a case; its commands have limits of their own, far below
SECONDS_TO_END = 30.0
LONGEST_SERVICE = 60
"""So many cases a worker runs: its Azurite keeps what it was sent in memory, and stops answering in time after some hundred uploads that broke off."""


@dataclass(frozen=True)
class Part:
    """`cases` gives all of its cases, those that take longest first; a sample takes `per_cell` of each cell but those that are `large`.

    `share` is its part of a sample's time, relative to that of the others; `at_once` is how many of its cases run at a time at most
    (None: as many as there are workers).
    """

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
    Part("ranks", "Ranks of a launch", rank_cases, at_once=2),
    Part("names", "Names, links and documents that somebody else made", lambda: [*name_cases(), *bomb_cases()]),
    Part("secrets", "Secrets", secret_cases),
    Part("fuzz", "Garbage in place of what comes from outside", fuzz_cases),
    Part("endpoint", "The server of a local job", endpoint_cases, at_once=2),
    Part("load", "Many blobs, runs, writers and looks", load_cases, share=1.0, at_once=1, large=LARGE),
)


def cases_by_id() -> dict[str, Case]:
    return {case.id: case for part in PARTS for case in part.cases()}


def dice_for(seed: int, case_id: str) -> random.Random:
    """The numbers of one case: the same whichever other cases run, in whatever order."""
    return random.Random(f"{seed}/{case_id}")


def sample(cases: Sequence[Case], seed: int, per_cell: int) -> list[Case]:
    """*per_cell* cases of each cell (all of one that has fewer), in the order of *cases*."""
    cells: dict[str, list[Case]] = {}
    for case in cases:
        cells.setdefault(case.cell, []).append(case)
    taken = {one.id for cell, alike in cells.items() for one in random.Random(f"{seed}/{cell}").sample(alike, min(per_cell, len(alike)))}
    return [case for case in cases if case.id in taken]


class WorkerFailed(Exception):
    """A worker did not come so far as to run a case; the text is the end of what it said."""


class _Worker:
    def __init__(self, place: Path, seed: int) -> None:
        place.mkdir()
        self.cases = 0
        self.log = place / "worker.log"
        command = [sys.executable, "-m", "stress.plan", str(place), str(seed)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, encoding="utf-8")

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def run(self, case_id: str) -> Record | None:
        assert self.process.stdin is not None
        self.cases += 1
        with suppress(BrokenPipeError):
            print(case_id, file=self.process.stdin, flush=True)
        hung = threading.Timer(HUNG, self.process.kill)
        hung.start()
        line = self.said()
        hung.cancel()
        return parse_record(json.loads(line)) if line else None

    def end(self) -> None:
        try:
            self.process.communicate(timeout=SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


class Crew:
    """*count* workers at most, whose files lie below *folder*; they come with the cases and are gone with them."""

    def __init__(self, folder: Path, seed: int, count: int) -> None:
        self._folder, self._seed, self._count = folder, seed, count
        self._guard, self._is_stopped = threading.Lock(), False
        self._workers: list[_Worker] = []

    def run(self, ids: Iterable[str], tell: Callable[[Record], None], deadline: float | None = None, at_once: int | None = None) -> list[str]:
        """Run these cases, *at_once* at a time at most, and *tell* each record; those that were not begun by *deadline* (of the monotonic clock).

        Raises WorkerFailed.
        """
        waiting = deque(ids)
        count = min(self._count, at_once or self._count, len(waiting))
        with ThreadPoolExecutor(self._count) as pool:
            try:
                for worker in [pool.submit(self._work, waiting, tell, deadline) for _ in range(count)]:
                    worker.result()
            except BaseException:  # a worker that cannot begin, or Ctrl-C: whatever runs is of no use any more
                with self._guard:
                    self._is_stopped = True
                    waiting.clear()
                    for running in self._workers:
                        running.process.kill()
                raise
        return list(waiting)

    def _work(self, waiting: deque[str], tell: Callable[[Record], None], deadline: float | None) -> None:
        worker: _Worker | None = None
        try:
            while True:
                with self._guard:
                    if not waiting or (deadline is not None and time.monotonic() >= deadline):
                        return
                    case_id = waiting.popleft()
                worker = worker or self._start()
                begun = time.monotonic()
                record = worker.run(case_id)
                with self._guard:
                    if self._is_stopped:
                        return
                    tell(record or Record(case_id, Result(Outcome.lost, None, time.monotonic() - begun, why="harness: the worker ended")))
                if record is None or worker.cases >= LONGEST_SERVICE:
                    self._end(worker)
                    worker = None
        finally:
            if worker is not None:
                self._end(worker)

    def _start(self) -> _Worker:
        with self._guard:
            worker = _Worker(self._folder / f"worker_{uuid.uuid4().hex[:8]}", self._seed)
            self._workers.append(worker)
        if not worker.said():
            self._end(worker)
            raise WorkerFailed(worker.log.read_text(errors="replace")[-2000:])
        return worker

    def _end(self, worker: _Worker) -> None:
        worker.end()
        with self._guard:
            self._workers.remove(worker)


def work(place: Path, seed: int) -> None:
    """Say "ready", then run the case of each id that comes on stdin and answer with the line of its record, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the one that asks, and that ends this
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else is printed here is no answer
        leave_only_ours()
        cases = cases_by_id()
        with running_world(place) as world:
            print("ready", file=answers, flush=True)
            for line in sys.stdin:
                print(run_case(world, cases[line.strip()], seed).as_line(), end="", file=answers, flush=True)


def run_case(world: World, case: Case, seed: int) -> Record:
    """Run *case*. What fails in it outside of what it judges is lost, too: a case that cannot be judged proves nothing."""
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


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]))
