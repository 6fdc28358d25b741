"""Requests that are repeated until they did what they should, and many of them at once."""

from __future__ import annotations

import heapq
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import count
from typing import Protocol

from himl_cli.core.errors import HimlError
from himl_cli.workspaces.azure.storage.blobs.access import Access, Signed
from himl_cli.workspaces.azure.storage.blobs.faults import fault_of
from himl_cli.workspaces.azure.storage.blobs.lines import Broken, Exchange, Line, Lines
from himl_cli.workspaces.retry import Failure, RetryState

LONGEST_LOOK = 1.0  # seconds without a look at what the caller wants, such as Ctrl-C
SOON = 0.005


class WrongAnswer(Exception):
    """The answer so far is not what was asked for; the rest of it is not wanted."""

    def __init__(self, fault: Failure) -> None:
        super().__init__(str(fault.error))
        self.fault = fault


class Task(ABC):
    """One request after the other until `name` is dealt with."""

    def __init__(self, name: str, access: Access, health: RetryState) -> None:
        self.name = name
        self.access = access
        self._health = health
        self._failures = 0
        self._was_renewed = False
        self._signed: Signed | None = None

    @abstractmethod
    def exchange(self) -> Exchange:
        """What to ask next. Raises HimlError when nothing can be asked."""

    @abstractmethod
    def answered(self, line: Line) -> float | None:
        """The whole answer is there: None when the task has ended, else seconds until it asks again. Raises
        WrongAnswer."""

    @abstractmethod
    def fail(self, error: HimlError) -> None:
        """It will not be done."""

    def part(self, line: Line) -> None:
        """Some of the answer's body is there (only for exchanges `in_pieces`). Raises WrongAnswer."""
        raise NotImplementedError

    def sign(self, query: str = "") -> Signed:
        self._signed = self.access.signed(self.name, query)
        return self._signed

    def moved(self) -> None:
        """There was progress: what failed before counts no more."""
        self._failures = 0
        self._was_renewed = False
        self._health.worked()
        self.access.worked()

    def heard(self, line: Line, broken: Broken | None) -> float | None:
        """The exchange ended. None: so has the task; else the seconds until it asks again."""
        try:
            if broken is None:
                return self.answered(line)
            self.broke_off(line)
            return self.after(self.fault(line, broken))
        except WrongAnswer as wrong:
            return self.after(wrong.fault)

    def broke_off(self, line: Line) -> None:
        """The connection broke; *line* may still hold good bytes. Raises WrongAnswer."""
        line.chunks.clear()

    def after(self, fault: Failure) -> float | None:
        """What to do about *fault*: as `heard`."""
        try:
            if (
                fault.is_refusal
                and not self._was_renewed
                and self._signed is not None
                and self.access.renewed(self.name, self._signed, fault.code)
            ):
                self._was_renewed = True
                return 0.0
            self._failures += 1
            if fault.is_refusal and (self._was_renewed or self.access.place.is_new):
                raise fault.again or fault.error
            return self._health.wait(self._failures, fault)
        except HimlError as error:
            self.fail(error)
            return None

    def fault(self, line: Line, broken: Broken | None = None) -> Failure:
        return fault_of(line, broken, self.access.place, self.name)


class Source(Protocol):
    """Where tasks come from."""

    def next(self) -> Task | None:
        """The next task; None when there is none, or none yet."""

    def is_preparing(self) -> bool:
        """Whether there is none *yet*: `next` is worth asking again soon."""


class Tasks:
    """The tasks of an iterator, each taken when there is a line free for it."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._tasks = tasks

    def next(self) -> Task | None:
        return next(self._tasks, None)

    def is_preparing(self) -> bool:
        return False


class Run:
    """Carries out the tasks of a source, up to *workers* at once, in the caller's thread."""

    def __init__(self, lines: Lines, source: Source, workers: int, beside: Callable[[], None] | None = None) -> None:
        """*beside* is called now and then, to go on with what else is under way."""
        self._lines = lines
        self._beside = beside
        self._source = source
        self._workers = max(1, workers)
        self._running: dict[Line, Task] = {}
        self._waiting: list[tuple[float, int, Task]] = []
        self._numbers = count()

    def finish(self) -> None:
        """Go on until all tasks have ended."""
        while self.step(LONGEST_LOOK):
            pass

    def step(self, longest: float) -> bool:
        """Go on with what can be done, waiting up to so many seconds for something; False once all tasks have ended."""
        self._fill()
        if not self._running and not self._waiting and not self._source.is_preparing():
            return False
        if self._beside is not None:
            self._beside()
        ended = [(line, broken, self._running.pop(line)) for line, broken in self._lines.turn(self._patience(longest))]
        if (
            ended
        ):  # the next requests go out before what came is dealt with, which may take as long as the way to the service
            self._fill()
            self._lines.go_on()
        for line, broken, task in ended:
            self._end(line, broken, task)
        self._hand_on()
        return True

    def _fill(self) -> None:
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            self._start(heapq.heappop(self._waiting)[2])
        while len(self._running) + len(self._waiting) < self._workers:
            task = self._source.next()
            if task is None:
                return
            self._start(task)

    def _start(self, task: Task) -> None:
        try:
            line = self._lines.send(task.exchange())
        except HimlError as error:
            task.fail(error)
            return
        self._running[line] = task

    def _patience(self, longest: float) -> float:
        if self._source.is_preparing() and len(self._running) < self._workers:
            longest = min(longest, SOON)
        if self._waiting:
            longest = min(longest, max(0.0, self._waiting[0][0] - time.monotonic()))
        return longest

    def _end(self, line: Line, broken: Broken | None, task: Task) -> None:
        wait = task.heard(line, broken)
        self._lines.release(line)
        self._later(task, wait)

    def _later(self, task: Task, wait: float | None) -> None:
        if wait is not None:
            heapq.heappush(self._waiting, (time.monotonic() + wait, next(self._numbers), task))

    def _hand_on(self) -> None:
        for line in self._lines.with_pieces():
            task = self._running.get(line)
            if task is None:
                continue
            try:
                task.part(line)
            except WrongAnswer as wrong:
                del self._running[line]
                self._lines.release(line)
                self._later(task, task.after(wrong.fault))
