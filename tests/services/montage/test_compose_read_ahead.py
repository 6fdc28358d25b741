"""Reading ahead: the same strips, whoever reads them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from himl_cli.core.montage import SlideUnreadable
from himl_cli.services.montage.threads import read_ahead


def strips(count: int, *, fails: bool = False) -> Iterator[NDArray[np.uint8]]:
    for number in range(count):
        yield np.full((2, 3, 3), number, np.uint8)
    if fails:
        raise SlideUnreadable("the rest is gone")


def values(source: Iterator[NDArray[np.uint8]]) -> list[int]:
    return [int(strip[0, 0, 0]) for strip in source]


def test_strips_come_in_their_order() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert values(read_ahead(strips(50), pool)) == list(range(50))
        assert values(read_ahead(strips(0), pool)) == []


def test_the_only_thread_of_a_pool_may_ask_for_them() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: values(read_ahead(strips(50), pool))).result(timeout=60) == list(range(50))


def test_an_error_comes_after_what_was_read_before() -> None:
    with ThreadPoolExecutor(2) as pool:
        ahead = read_ahead(strips(3, fails=True), pool)
        assert [int(next(ahead)[0, 0, 0]) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(SlideUnreadable, match="the rest is gone"):
            next(ahead)


def test_another_thread_reads_meanwhile() -> None:
    readers = []

    def noted() -> Iterator[NDArray[np.uint8]]:
        for strip in strips(3):
            readers.append(threading.current_thread())
            yield strip

    with ThreadPoolExecutor(1) as pool:
        ahead = read_ahead(noted(), pool)
        next(ahead)
        pool.submit(int).result()  # what was submitted before is done by then
        assert len(readers) == 2
        assert readers[1] is not threading.current_thread()
        ahead.close()


def test_closed_it_waits_for_what_is_being_read() -> None:
    begun, go_on = threading.Event(), threading.Event()
    ended = []

    def slow() -> Iterator[NDArray[np.uint8]]:
        yield from strips(1)
        begun.set()
        go_on.wait(60)
        ended.append(True)
        yield from strips(1)

    with ThreadPoolExecutor(1) as pool:
        ahead = read_ahead(slow(), pool)
        next(ahead)
        assert begun.wait(60)
        threading.Timer(0.2, go_on.set).start()
        ahead.close()
        assert ended
