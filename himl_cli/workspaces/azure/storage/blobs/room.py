"""How much may be held in memory at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

PAUSE = 0.1  # seconds between looks at whether whoever waits should go on waiting


class Room:
    """So many bytes, shared by threads; what is larger has to be alone."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._changed = threading.Condition()

    def take(self, amount: int) -> bool:
        """Whether there was room for *amount* bytes, which are taken then."""
        with self._changed:
            if self._taken and self._taken + amount > self._size:
                return False
            self._taken += amount
            return True

    def wait_and_take(self, amount: int, is_stopped: Callable[[], bool]) -> bool:
        """Take *amount* bytes once there is room; False when *is_stopped* says so first."""
        with self._changed:
            while not is_stopped():
                if self.take(amount):
                    return True
                self._changed.wait(PAUSE)
        return False

    def give_back(self, amount: int) -> None:
        """So many bytes are free again."""
        with self._changed:
            self._taken -= amount
            self._changed.notify_all()
