"""TensorBoard as a process that ends when whoever started it is gone: its standard input is a pipe that closes then."""

from __future__ import annotations

import os
import signal
import sys
import threading


def main() -> None:
    threading.Thread(target=_end_with_starter, daemon=True).start()
    from tensorboard.main import run_main

    run_main()


def _end_with_starter() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # TensorBoard tidies up at that


if __name__ == "__main__":
    main()
