"""Connections that have not shown the job's token: whoever is on this machine can open them, so there are few, and none
for long."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """`most` strangers at a time: another one waits until the oldest is admitted, or has been here for `grace` seconds
    and is ended.

    One that neither sends nor takes anything for `silence` seconds is ended as well. Of a body that is refused,
    `drained` bytes are read.
    """

    most: int = 128
    grace: float = 2.0
    silence: float = 30.0
    drained: int = 8 << 20


class Strangers:
    """Those that there are; safe to share between threads."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._changed = threading.Condition()
        self._since: dict[socket.socket, float] = {}
        self._is_closed = False

    def make_room(self) -> None:
        """Wait until there may be one more."""
        with self._changed:
            while len(self._since) >= self.limits.most and not self._is_closed:
                left = next(iter(self._since.values())) + self.limits.grace - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                else:
                    self._end_oldest()

    def end_oldest(self) -> None:
        """However long it has been here; nothing where there is none."""
        with self._changed:
            self._end_oldest()

    def add(self, client: socket.socket) -> None:
        client.settimeout(self.limits.silence)
        with self._changed:
            self._since[client] = time.monotonic()

    def remove(self, client: socket.socket) -> None:
        """It has shown the token, or it is gone; nothing where it is no stranger."""
        with self._changed:
            self._since.pop(client, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits for room any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _end_oldest(self) -> None:
        client = next(iter(self._since), None)
        if client is not None:
            del self._since[client]
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)  # its thread wakes and closes it
