"""TensorBoard as a child of this process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from himl_cli.core.errors import DiskFailed, HimlError
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.processes import detached
from himl_cli.core.redaction import LOCAL_HOSTS
from himl_cli.services.tensorboard.answers import has_lost_its_data, serves
from himl_cli.services.tensorboard.aside import Aside
from himl_cli.services.tensorboard.ports import free_port, is_free

SECONDS_TO_END = 5.0
LONGEST_RELOAD = 5
"""Seconds between TensorBoard's own looks at the disk, unless it is to look more often."""
PROXY_EXCEPTIONS = ("no_grpc_proxy", "no_proxy", "NO_PROXY")  # as gRPC reads them, the first that is there
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
TEMPORARY = ("TMPDIR", "TEMP", "TMP")
LOG_TAIL = 4000
SECONDS_BETWEEN_LOOKS, FAILURES, RESTARTS = 2.0, 2, 3


class Board:
    """TensorBoard over *folder*, at *host* and *port*; what it says goes to *log*. Runs within the `with`.

    The folder of *log* is its own: it is where TensorBoard puts temporary files, and gone if whoever started this is
    killed.
    """

    def __init__(self, folder: Path, log: Path, host: str, port: int, refresh: int, notify: Notify = ignore) -> None:
        self._folder = folder
        self._log = log
        self._host = host
        self._port = port
        self._reload = min(LONGEST_RELOAD, refresh)
        self._notify = notify
        self._process: subprocess.Popen[bytes] | None = None
        self._was_up = False
        self._is_lost: Aside[bool] | None = None
        self._ask_at = 0.0
        self._failed_in_a_row = 0
        self._restarts = 0

    @property
    def url(self) -> str:
        host = socket.gethostname() if self._host in EVERYWHERE else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/"

    def __enter__(self) -> Board:
        self._start()
        return self

    def _start(self) -> None:
        options = [
            f"--logdir={self._folder}",
            f"--host={self._host}",
            f"--port={self._port}",
            f"--reload_interval={self._reload}",
            "--reload_multifile=true",
            "--reload_multifile_inactive_secs=-1",
        ]
        own = self._log.parent
        try:
            with self._log.open("wb") as said:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "himl_cli.services.tensorboard.program", str(own), *options],
                    stdin=subprocess.PIPE,
                    stdout=said,
                    stderr=said,
                    env=_environment(own),
                    cwd=own,  # `-m` looks there first: nothing of the user's may be taken for TensorBoard
                    **detached(),
                )
        except OSError as err:
            raise DiskFailed(f"Cannot start TensorBoard: {err.strerror or err}.") from err

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        try:
            with suppress(OSError):
                if process.stdin is not None:
                    process.stdin.close()
            process.wait(SECONDS_TO_END)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            process.wait()

    def is_up(self) -> bool:
        """Whether it answers: it, and not another server that took the port first."""
        self._was_up = self._was_up or serves(self._folder, EVERYWHERE.get(self._host, self._host), self._port)
        return self._was_up

    def check(self) -> None:
        """See that it runs; where somebody took its port while it came up, it is started again at the next one.

        Raises HimlError, with the last of what it said, where it has ended by itself.
        """
        if self._process is None:
            return
        if self._process.poll() is None:
            if self._was_up and self._has_lost_its_data():
                self._start_again()
            return
        if not self._was_up and not is_free(self._host, self._port):
            taken, self._port = self._port, free_port(self._host, self._port)
            self._notify(Notice(f"Port {taken} is taken: TensorBoard takes {self._port}."))
            self._start()
            return
        raise HimlError(
            f"TensorBoard {_ending(self._process.returncode)}: {self._last_words()}",
            hint="Does 'python -m tensorboard.main --version' work?",
        )

    def _has_lost_its_data(self) -> bool:
        """Whether its data server, which has all that was read in memory, is gone: it answers, several times, that it
        cannot read."""
        answer = self._is_lost.poll() if self._is_lost is not None else None
        if answer is not None:
            self._is_lost, self._ask_at = None, time.monotonic() + SECONDS_BETWEEN_LOOKS
            self._failed_in_a_row = self._failed_in_a_row + 1 if answer is True else 0
        elif self._is_lost is None and time.monotonic() >= self._ask_at:
            host, port = EVERYWHERE.get(self._host, self._host), self._port
            self._is_lost = Aside(lambda: has_lost_its_data(host, port))
        return self._failed_in_a_row >= FAILURES

    def _start_again(self) -> None:
        """At the same port. Raises HimlError where that was done too often."""
        if self._restarts == RESTARTS:
            raise HimlError(
                f"TensorBoard's data server ended {RESTARTS + 1} times.",
                hint="Is the memory full? Show fewer runs.",
            )
        self._restarts += 1
        self._failed_in_a_row = 0
        self._notify(Notice("TensorBoard's data server ended: TensorBoard is started again."))
        if self._process is not None:
            self._process.kill()  # before its pipe closes: at that it takes the folder with all that is shown with it
            self._process.wait()
            self._end()
        self._start()

    def _last_words(self) -> str:
        try:
            with self._log.open("rb") as said:
                said.seek(max(0, os.fstat(said.fileno()).st_size - LOG_TAIL))
                lines = [line.strip() for line in said.read().decode("utf-8", "replace").splitlines() if line.strip()]
        except OSError:
            lines = []
        return lines[-1] if lines else "it said nothing"


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _environment(own: Path) -> dict[str, str]:
    """This process's, with the way to TensorBoard's data server never going through a proxy, and temporary files in
    *own*.

    Where those of all users lie, TensorBoard fails over a folder that another user's left.
    """
    beside = next((os.environ[name] for name in PROXY_EXCEPTIONS if os.environ.get(name)), "")
    return (
        os.environ
        | {PROXY_EXCEPTIONS[0]: ",".join(filter(None, (beside, *LOCAL_HOSTS)))}
        | dict.fromkeys(TEMPORARY, str(own))
    )
