"""Several workers at once: cases are handed out one by one, and a worker that dies, hangs or has run many is replaced."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stress.records import Outcome, Record, Result, parse_record
from stress.worker import LOG
from tests.support.machine import ROOT

HUNG = 3600.0
"""Seconds after which a worker that says nothing of its case is ended; a case's commands have limits of their own, far below."""
SECONDS_TO_END = 30.0
LONGEST_SERVICE = 60
"""So many cases a worker runs: its Azurite keeps what it was sent in memory, and stops answering in time after some hundred uploads that broke off."""
SHOWN = 2000


class WorkerFailed(Exception):
    """A worker did not come so far as to run a case; the text is the end of what it said."""


class _Worker:
    """One process, whose files are in *place*."""

    def __init__(self, place: Path, seed: int) -> None:
        place.mkdir()
        self.cases = 0
        self._log = place / LOG
        command = [sys.executable, "-m", "stress.worker", str(place), str(seed)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, encoding="utf-8")

    def is_ready(self) -> bool:
        """Wait until it can run cases; false where it ended instead."""
        return bool(self._said())

    def run(self, case_id: str) -> Record | None:
        """The record of one case; None where the worker ended before."""
        assert self._process.stdin is not None
        self.cases += 1
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{case_id}\n")
            self._process.stdin.flush()
        hung = threading.Timer(HUNG, self._process.kill)
        hung.start()
        line = self._said()
        hung.cancel()
        return parse_record(line) if line else None

    def log(self) -> str:
        """The end of what it said."""
        return self._log.read_text(errors="replace")[-SHOWN:]

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Let it come to its end, and see to it that it does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class Crew:
    """*count* workers at most, whose files lie below *folder*; they come with the cases and are gone with them."""

    def __init__(self, folder: Path, seed: int, count: int) -> None:
        self._folder, self._seed, self._count = folder, seed, count
        self._guard = threading.Lock()
        self._workers: list[_Worker] = []
        self._started = 0
        self._is_stopped = False

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
                        running.kill()
                raise
        return list(waiting)

    def _work(self, waiting: deque[str], tell: Callable[[Record], None], deadline: float | None) -> None:
        """Run cases one after the other, with a worker that is started when there is a case for it. Raises WorkerFailed."""
        worker: _Worker | None = None
        try:
            while (case_id := self._next(waiting, deadline)) is not None:
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

    def _next(self, waiting: deque[str], deadline: float | None) -> str | None:
        with self._guard:
            return waiting.popleft() if waiting and (deadline is None or time.monotonic() < deadline) else None

    def _start(self) -> _Worker:
        """A worker that can run cases. Raises WorkerFailed."""
        with self._guard:
            self._started += 1
            worker = _Worker(self._folder / f"worker_{self._started}", self._seed)
            self._workers.append(worker)
        if not worker.is_ready():
            self._end(worker)
            raise WorkerFailed(worker.log())
        return worker

    def _end(self, worker: _Worker) -> None:
        worker.end()
        with self._guard:
            self._workers.remove(worker)
