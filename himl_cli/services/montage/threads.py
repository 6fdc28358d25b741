"""Threads, and how many of them there are."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor


class Threads(ThreadPoolExecutor):
    """A pool of *workers* threads that tells how many it has, so that no more work is begun than they can do."""

    def __init__(self, workers: int, thread_name_prefix: str = "") -> None:
        super().__init__(workers, thread_name_prefix=thread_name_prefix)
        self.workers = workers


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
