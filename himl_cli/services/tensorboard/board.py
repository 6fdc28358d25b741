"""TensorBoard as a child of this process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from himl_cli.core.errors import DiskFailed, HimlError
from himl_cli.core.processes import detached

SECONDS_TO_END = 5.0
LONGEST_RELOAD = 5
"""Seconds between TensorBoard's own looks at the disk, unless it is to look more often."""
PROXY_EXCEPTIONS = ("no_grpc_proxy", "no_proxy", "NO_PROXY")  # as gRPC reads them, the first that is there
HERE = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = {"0.0.0.0", "::"}
LOG_TAIL = 4000


class Board:
    """TensorBoard over *folder*, at *host* and *port*; what it says goes to *log*. Runs from `start` until the `with` ends."""

    def __init__(self, folder: Path, log: Path, host: str, port: int, refresh: int) -> None:
        self._folder = folder
        self._log = log
        self._host = host
        self._port = port
        self._reload = min(LONGEST_RELOAD, refresh)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        host = socket.gethostname() if self._host in EVERYWHERE else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/"

    def __enter__(self) -> Board:
        options = [
            f"--logdir={self._folder}",
            f"--host={self._host}",
            f"--port={self._port}",
            f"--reload_interval={self._reload}",
            "--reload_multifile=true",
            "--reload_multifile_inactive_secs=-1",
        ]
        try:
            with self._log.open("wb") as said:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "himl_cli.services.tensorboard.program", *options],
                    stdin=subprocess.PIPE,
                    stdout=said,
                    stderr=said,
                    env=_environment(),
                    cwd=self._log.parent,  # `-m` looks there first: nothing of the user's may be taken for TensorBoard
                    **detached(),
                )
        except OSError as err:
            raise DiskFailed(f"Cannot start TensorBoard: {err.strerror or err}.") from err
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
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
        """Whether it answers."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        try:
            with socket.create_connection((host, self._port), timeout=1):
                return True
        except OSError:
            return False

    def check(self) -> None:
        """Raises HimlError, with the last of what it said, where it has ended by itself."""
        if self._process is None or self._process.poll() is None:
            return
        with self._log.open("rb") as said:
            said.seek(max(0, os.fstat(said.fileno()).st_size - LOG_TAIL))
            lines = [line.strip() for line in said.read().decode("utf-8", "replace").splitlines() if line.strip()]
        why = lines[-1] if lines else "it said nothing"
        raise HimlError(f"TensorBoard ended with exit code {self._process.returncode}: {why}", hint="Does 'python -m tensorboard.main --version' work?")


def _environment() -> dict[str, str]:
    """This process's, with the way to TensorBoard's data server never going through a proxy."""
    beside = next((os.environ[name] for name in PROXY_EXCEPTIONS if os.environ.get(name)), "")
    return os.environ | {PROXY_EXCEPTIONS[0]: ",".join(filter(None, (beside, *HERE)))}
