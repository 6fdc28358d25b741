"""Python's collector of reference cycles, while files move."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = 50_000
"""Objects that come to be before it looks; Python's own figure is 700 (from 3.12 on 2,000 and others)."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let it look seldom: records of files make no cycles, and its looks take a twentieth of the time of small files.
    One that is off stays off."""
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(max(before[0], SELDOM), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
