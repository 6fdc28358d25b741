"""Tests of the threads that create montages and tiles, under Ctrl-C."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, wait
from functools import partial

import pytest

from himl_cli.slides.threads import Pool


@pytest.mark.skipif(sys.platform == "win32", reason="signals are other ones there")
def test_an_interruption_leaves_no_thread_waiting() -> None:
    """Ctrl-C comes while conditions are taken and released. In the thread that does so, it would leave one taken."""
    dice = random.Random(1)

    def task(pool: Pool) -> None:
        while True:
            pool.check()
            time.sleep(0.0005)

    def work(pool: Pool) -> None:
        tasks = [pool.submit(task, pool) for _ in range(4)]
        while not wait(tasks, 0, FIRST_COMPLETED).done:
            pass

    def interrupted() -> None:
        timer = threading.Timer(dice.uniform(0.002, 0.01), signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
        with Pool(2) as pool:
            timer.start()
            pool.run(partial(work, pool))

    for _ in range(40):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
