"""How much may be held in memory at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

PAUSE = 0.1  # seconds between looks at whether whoever waits should go on waiting


class Room:
    """So many bytes, shared by threads; what is larger has to be alone.

    Ctrl-C may strike within each of its methods: a lock and a queue of the interpreter itself are never left held then,
    unlike a `Condition`.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._waiting = 0
        self._lock = threading.Lock()
        # Something for each thread that waits, whenever bytes are given back
        self._freed: SimpleQueue[None] = SimpleQueue()

    def take(self, amount: int) -> bool:
        """Whether there was room for *amount* bytes, which are taken then."""
        with self._lock:
            return self._take(amount)

    def wait_and_take(self, amount: int, is_stopped: Callable[[], bool]) -> bool:
        """Take *amount* bytes once there is room; False when *is_stopped* says so first."""
        while not is_stopped():
            with self._lock:
                if self._take(amount):
                    return True
                self._waiting += 1
            with suppress(Empty):
                self._freed.get(timeout=PAUSE)
            with self._lock:
                self._waiting -= 1
        return False

    def give_back(self, amount: int) -> None:
        """So many bytes are free again."""
        with self._lock:
            self._taken -= amount
            for _ in range(self._waiting):
                self._freed.put(None)

    def _take(self, amount: int) -> bool:
        if self._taken and self._taken + amount > self._size:
            return False
        self._taken += amount
        return True
