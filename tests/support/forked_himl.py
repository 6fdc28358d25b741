"""Asking the process of `tests/support/forking_himl.py` for copies of `himl` that run one command each."""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.forking_himl import LENGTH

FORKING = Path(__file__).with_name("forking_himl.py")
READ_AT_START = ("PYTHON", "LC_", "LD_", "DYLD_", "COVERAGE_", "MALLOC_", "OPENSSL_", "LANG", "AZUREML_DEFAULT_")
"""Variables that begin so are read when a process starts or when modules are imported: a copy would not heed them."""


PROGRAM = Path(sys.executable).with_name("himl.exe" if sys.platform == "win32" else "himl")
"""As it is installed."""


class ForkedHiml:
    """One such process, started when it is first asked, of the installed *program*. `can_run` says whether it will do for a call."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._asking: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._at_start: dict[str, str] = {}
        self._modules: list[str] = []
        self._turn = threading.Lock()

    def can_run(self, variables: Mapping[str, str]) -> bool:
        """Whether a copy is the same as a start of the program with *variables*. Never on Windows, and not with HIML_TEST_START=1."""
        if sys.platform == "win32" or os.environ.get("HIML_TEST_START") == "1":
            return False
        with self._turn:
            if self._process is None:
                self._start()
            return _at_start(variables) == self._at_start

    def run(
        self, command: Sequence[str], folder: Path, variables: Mapping[str, str], given: bytes = b"", timeout: float = 120, *, is_script: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        """What `himl` (or with *is_script* Python's script *command[0]*) left, once nobody holds its streams any more. Raises TimeoutExpired."""
        pipes = [os.pipe() for _ in range(4)]  # stdin, stdout, stderr, and what is told of it
        ours = [pipes[0][1], *(reading for reading, _ in pipes[1:])]
        theirs = [pipes[0][0], *(writing for _, writing in pipes[1:])]
        request = {"command": list(command), "folder": str(folder), "variables": dict(variables), "script": is_script}
        try:
            with self._turn:
                assert self._asking is not None
                text = json.dumps(request | {"modules": self._modules}).encode()
                self._modules = []
                socket.send_fds(self._asking, [len(text).to_bytes(LENGTH, "big")], theirs)
                self._asking.sendall(text)
        finally:
            for number in theirs:
                os.close(number)
        output, errors, told = _exchange(ours, given, command, timeout)
        _, *modules, code = told.split(b"\n")
        with self._turn:
            self._modules += [name for line in modules for name in json.loads(line)]
        return subprocess.CompletedProcess(list(command), int(code), output, errors)

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._asking is not None:
            self._asking.close()
            self._process.wait(timeout=60)

    def _start(self) -> None:
        self._asking, theirs = socket.socketpair()
        command = [str(self._program.with_name("python")), str(FORKING), str(theirs.fileno()), str(self._program)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()], cwd=FORKING.parent)
        theirs.close()
        self._at_start = _at_start(os.environ)


FORKED = {PROGRAM: ForkedHiml(PROGRAM)}
"""Those of this test process, by program; they are closed when the tests are through."""


def forked(program: Path) -> ForkedHiml:
    """That of *program*."""
    return FORKED.setdefault(program, ForkedHiml(program))


def _at_start(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.startswith(READ_AT_START)}


def _exchange(pipes: list[int], given: bytes, command: Sequence[str], timeout: float) -> list[bytes]:
    """Write *given* into the first of *pipes*, and read the others to their ends. All of them are closed then."""
    deadline = time.monotonic() + timeout
    texts = {number: bytearray() for number in pipes[1:]}
    with selectors.DefaultSelector() as waiting:
        waiting.register(pipes[0], selectors.EVENT_WRITE)
        for number in pipes[1:]:
            waiting.register(number, selectors.EVENT_READ)
        try:
            while waiting.get_map():
                ready = waiting.select(max(0.0, deadline - time.monotonic()))
                if not ready and time.monotonic() > deadline:
                    _kill(pipes[3], texts[pipes[3]])
                    raise subprocess.TimeoutExpired(list(command), timeout, bytes(texts[pipes[1]]), bytes(texts[pipes[2]]))
                for key, _ in ready:
                    if key.fd == pipes[0]:
                        given = given[_written(key.fd, given) :]
                        is_through = not given
                    else:
                        more = os.read(key.fd, 1 << 16)
                        texts[key.fd] += more
                        is_through = not more
                    if is_through:
                        waiting.unregister(key.fd)
                        os.close(key.fd)
        finally:
            for key in list(waiting.get_map().values()):
                os.close(key.fd)
    return [bytes(text) for text in texts.values()]


def _written(number: int, given: bytes) -> int:
    """How much of *given* the pipe took; all of it where nobody reads."""
    try:
        return os.write(number, given[: select.PIPE_BUF]) if given else 0
    except BrokenPipeError:
        return len(given)


def _kill(number: int, told: bytearray) -> None:
    """End the copy once it has said its process id, where it has said nothing more yet."""
    while not told.count(b"\n") and (more := os.read(number, 1 << 16)):
        told += more
    if told.count(b"\n") == 1:
        os.kill(int(told), signal.SIGKILL)
