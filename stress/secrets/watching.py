"""What processes show to everybody on the machine while a command runs: their arguments, and (to their own user) their variables. Needs /proc."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 0.005
_NAME = re.compile(r"-?[A-Za-z][\w.]{0,39}")
YOUNG = 5.0
"""Seconds for which a process that is none of ours is looked at again: it may be one that has not begun its program yet."""


@dataclass
class Shown:
    """One process: all arguments that it was seen with, and its variables."""

    arguments: set[bytes] = field(default_factory=set)
    variables: dict[str, bytes] = field(default_factory=dict)

    @property
    def is_job(self) -> bool:
        """Whether it is a script that himl runs, or was started by one: it has to get what it was given."""
        return "AZUREML_RUN_ID" in self.variables

    @property
    def program(self) -> str:
        """The first words of its arguments, without folders, and without those that may say more than which program it is."""
        words = max(self.arguments, key=len, default=b"").decode(errors="replace").split("\0")
        return " ".join(os.path.basename(word) for word in words[:3] if _NAME.fullmatch(os.path.basename(word)))


class Watcher:
    """Looks at all processes whose variables hold *entry* (`NAME=value`)."""

    def __init__(self, entry: str) -> None:
        self._entry = entry.encode()
        self._ours: dict[str, Shown] = {}
        self._others: dict[str, float] = {}
        self._gone: list[Shown] = []
        self._stopped = threading.Event()
        self.looks = 0

    def run(self) -> None:
        while not self._stopped.is_set():
            self._look()
            self._stopped.wait(SECONDS)

    def stop(self) -> None:
        self._stopped.set()

    def processes(self) -> list[Shown]:
        """Those that were seen."""
        return [*self._gone, *self._ours.values()]

    def take(self) -> list[Shown]:
        """Those that were seen and have ended since the last call, and those that run."""
        ended, self._gone = self._gone, []
        return [*ended, *self._ours.values()]

    def _look(self) -> None:
        self.looks += 1
        there, moment = {name for name in os.listdir("/proc") if name.isdigit()}, time.monotonic()
        for number in self._ours.keys() - there:
            self._gone.append(self._ours.pop(number))
        for number in self._others.keys() - there:
            del self._others[number]
        for number in there:
            if moment - self._others.setdefault(number, moment) < YOUNG or number in self._ours:
                self._see(number)

    def _see(self, number: str) -> None:
        try:
            arguments, variables = Path("/proc", number, "cmdline").read_bytes(), Path("/proc", number, "environ").read_bytes()
        except OSError:  # it has ended, or is somebody else's
            return
        entries = variables.split(b"\0")
        if self._entry in entries and arguments:
            shown = self._ours.setdefault(number, Shown())
            shown.arguments.add(arguments)
            pairs = (entry.partition(b"=") for entry in entries)
            shown.variables |= {name.decode(errors="replace"): value for name, _, value in pairs if name}


@contextmanager
def watching(entry: str) -> Iterator[Watcher]:
    """A watcher that looks every few milliseconds as long as the context lasts."""
    watcher = Watcher(entry)
    thread = threading.Thread(target=watcher.run, name="watcher", daemon=True)
    thread.start()
    try:
        yield watcher
    finally:
        watcher.stop()
        thread.join()
