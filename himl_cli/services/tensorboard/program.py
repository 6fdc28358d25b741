"""TensorBoard as a process that ends when whoever started it is gone: its standard input is a pipe that closes then.

The first argument is a folder that is removed at its end, since whoever started it may have been killed; the others are
TensorBoard's.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import threading
from types import FrameType


def main() -> None:
    own = sys.argv.pop(1)
    starter_is_gone = threading.Event()
    signal.signal(signal.SIGTERM, _end)  # until TensorBoard has its own
    threading.Thread(target=_end_with_starter, args=(starter_is_gone,), daemon=True).start()
    atexit.register(
        _tidy, own, starter_is_gone
    )  # before TensorBoard's own, so that it comes after them: one of them makes a folder
    from tensorboard.main import run_main

    run_main()


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit()


def _tidy(own: str, starter_is_gone: threading.Event) -> None:
    if starter_is_gone.is_set():
        shutil.rmtree(own, ignore_errors=True)


def _end_with_starter(starter_is_gone: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    starter_is_gone.set()
    os.kill(os.getpid(), signal.SIGTERM)  # TensorBoard tidies up at that


if __name__ == "__main__":
    main()
