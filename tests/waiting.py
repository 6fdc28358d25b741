"""Waiting for what comes about in another thread, in another process or in the double."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 60.0
"""More than anything needs on a slow machine, and less than a test has."""


def until(holds: Callable[[], object], what: Callable[[], object] | str = "") -> None:
    """Returns once it holds. Where it never does, raises AssertionError with *what* was waited for, or what there is instead."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"it did not come about: {what if isinstance(what, str) else what()}"
        time.sleep(0.02)
