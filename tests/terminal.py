"""Running a command in a terminal of its own, as a person would see it (POSIX)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class Terminal:
    """A command in a terminal of *columns*; what it printed is in `screen`, with its colour codes."""

    def __init__(self, command: Sequence[str], *, cwd: Path, columns: int = 80, env: Mapping[str, str] | None = None) -> None:
        assert sys.platform != "win32"
        import fcntl
        import pty
        import struct
        import termios

        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self._process = subprocess.Popen(
            command, cwd=cwd, env=environment | {"TERM": "xterm-256color"} | dict(env or {}), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self._chunks: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def screen(self) -> str:
        return b"".join(self._chunks).decode("utf-8", "replace").replace("\r\n", "\n")

    def wait_for(self, text: str, timeout: float = 60) -> None:
        """Until *text* was printed; fails the test after *timeout* seconds."""
        deadline = time.monotonic() + timeout
        while text not in self.screen:
            assert time.monotonic() < deadline, f"'{text}' was not printed in {timeout} s:\n{self.screen}"
            time.sleep(0.02)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def finish(self, timeout: float = 100) -> int:
        """Wait for the command's end; gives its exit code."""
        code = self._process.wait(timeout)
        self._reader.join(timeout)
        os.close(self._ours)
        return code

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._ours, 65536)
            except OSError:  # Linux's way to say that nobody writes any more
                return
            if not chunk:
                return
            self._chunks.append(chunk)
