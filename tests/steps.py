"""Doing something between any two steps of the code that is tested."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Step = Callable[[FrameType, str, object], None]


@contextmanager
def at_each_step(react: Step) -> Iterator[None]:
    """Call *react* at each call and return in this thread; once it has raised, no more."""
    before = sys.getprofile()
    sys.setprofile(react)
    try:
        yield
    finally:
        sys.setprofile(before)
