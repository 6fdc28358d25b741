"""Connect standard input and output to PORT on HOST, as ProxyCommand of ssh, and pass each packet on MILLISECONDS after
it arrives: the network of a distant machine.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from socket import SHUT_WR, create_connection
from time import monotonic, sleep


def pass_on(read: Callable[[], bytes], write: Callable[[bytes], object], delay: float) -> None:
    """Write what *read* returns, each part *delay* seconds after it was read, until it returns nothing."""
    parts: SimpleQueue[tuple[float, bytes]] = SimpleQueue()

    def take() -> None:
        while True:
            part = read()
            parts.put((monotonic() + delay, part))
            if not part:
                return

    threading.Thread(target=take, daemon=True).start()
    while True:
        due, part = parts.get()
        sleep(max(0.0, due - monotonic()))
        if not part:
            return
        write(part)


def main(host: str, port: str, milliseconds: str) -> None:
    delay = float(milliseconds) / 1000
    with create_connection((host, int(port))) as there:

        def send() -> None:
            pass_on(lambda: os.read(0, 1 << 16), there.sendall, delay)
            there.shutdown(SHUT_WR)

        threading.Thread(target=send, daemon=True).start()
        with open(1, "wb", buffering=0, closefd=False) as out:
            pass_on(lambda: there.recv(1 << 16), out.write, delay)


if __name__ == "__main__":
    main(*sys.argv[1:])
