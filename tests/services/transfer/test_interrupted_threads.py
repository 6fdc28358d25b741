"""Ctrl-C and SIGTERM in the middle of what the threads of a transfer share: whoever is stopped leaves no lock behind."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import pytest

from himl_cli.services.transfer.local_files import FileDigest
from himl_cli.workspaces.azure.storage.blob_upload import BLOCK, BlockReader, MemoryBudget
from tests.support.stores import sending

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a timer's signals need POSIX")
STRIKES = 300


def struck(act: Callable[[], object]) -> None:
    """Call *act* over and over, until a signal has broken that off STRIKES times, each at another point."""

    def strike(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    dice, before = random.Random(7), signal.signal(signal.SIGALRM, strike)
    try:
        for _ in range(STRIKES):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + dice.random() * 0.0005)
                while True:
                    act()
            except KeyboardInterrupt:
                pass
    finally:
        signal.signal(signal.SIGALRM, before)


def ends(act: Callable[[], object]) -> bool:
    """Whether *act* comes back on a thread of its own."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(60)
    return not thread.is_alive()


def test_whoever_is_interrupted_can_still_stop_the_reading(tmp_path: Path) -> None:
    memory = MemoryBudget(1 << 30)
    reader = BlockReader(sending(tmp_path / "1", "x", bytes(2 * BLOCK)), memory)
    first = reader.next
    struck(lambda: first() and None)
    assert ends(reader.close)


def test_interrupted_wait_for_md5_can_still_be_cancelled(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"x")
    digest = FileDigest(str(tmp_path / "1"), 1, SimpleQueue())
    digest.written(0, 1)
    digest.catch_up(memoryview(bytearray(1)))
    struck(digest.result)
    assert ends(digest.cancel)
