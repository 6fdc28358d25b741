"""Several requests at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 8
"""Requests under way at once: enough to hide the way to the service, few enough not to be throttled."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def ask_all(ask: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """What *ask* says to each of the *items*, in their order; the first error is raised, and what was not begun is dropped."""
    if len(items) < 2:
        return [ask(item) for item in items]
    pool = ThreadPoolExecutor(max_workers=min(AT_ONCE, len(items)), thread_name_prefix="himl-ask")
    try:
        return list(pool.map(ask, items))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
