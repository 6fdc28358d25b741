"""What a process that was forked must not use: its parent's connections, locks, and what waits to be sent.

Two processes on one TLS connection garble it for both; a lock that another thread of the parent held is never given
back.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something that belongs to the process that made it."""

    def after_fork(self) -> None:
        """In the child: forget, without closing, what belongs to the parent."""


_known: weakref.WeakSet[Forked] = weakref.WeakSet()


def tell_of_forks(thing: Forked) -> None:
    """Call its `after_fork` in every process that is forked from here on, as long as it lives."""
    _known.add(thing)


def _in_child() -> None:
    for thing in list(_known):
        thing.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_in_child)
