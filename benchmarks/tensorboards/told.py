"""A program that does something for each line it is given, and says a line when it is through."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


class Told:
    """Within `told`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def once_more(self) -> None:
        """Have it do it. Raises SystemExit where it ended instead."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.hear()

    def hear(self) -> str:
        """What it says next. Raises SystemExit where it ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._process.args!r} ended with exit code {self._process.wait()}")
        return line.strip()


@contextmanager
def told(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Told]:
    """The program, once it said that it is ready; ended with the context."""
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        program = Told(process)
        program.hear()
        yield program
    finally:
        process.kill()
        process.communicate()
