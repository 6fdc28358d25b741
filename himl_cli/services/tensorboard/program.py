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


def main() -> None:
    own = sys.argv.pop(1)
    starter_is_gone = threading.Event()

    def end_with_starter() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        starter_is_gone.set()
        os.kill(os.getpid(), signal.SIGTERM)  # TensorBoard tidies up at that

    def clean_up() -> None:
        if starter_is_gone.is_set():
            shutil.rmtree(own, ignore_errors=True)

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())  # until TensorBoard has its own
    threading.Thread(target=end_with_starter, daemon=True).start()
    # Before TensorBoard's own, so that it comes after them: one of them makes a folder
    atexit.register(clean_up)
    from tensorboard.main import run_main

    run_main()


if __name__ == "__main__":
    main()
