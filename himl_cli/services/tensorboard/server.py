"""TensorBoard as a child of this process, at a free port, over event files that keep coming."""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.processes import detached, take_time_to_end
from himl_cli.core.redaction import LOCAL_HOSTS
from himl_cli.core.text import read_json
from himl_cli.services.tensorboard.background import BackgroundCalls
from himl_cli.services.tensorboard.copies import ShownFolder
from himl_cli.services.tensorboard.poller import Poller
from himl_cli.services.tensorboard.shown_runs import SelectedRuns
from himl_cli.services.transfer.local_files import disk_error

SECONDS_TO_END = 5.0
STEP_SECONDS, STARTING_STEP_SECONDS = 0.5, 0.1
LONGEST_RELOAD = 5  # seconds between TensorBoard's own readings of the disk, unless --refresh is shorter
PROXY_EXCEPTIONS = ("no_grpc_proxy", "no_proxy", "NO_PROXY")  # as gRPC reads them, the first that is there
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
TEMPORARY = ("TMPDIR", "TEMP", "TMP")
LOG_TAIL = 4000
CHECK_SECONDS, FAILED_CHECKS, RESTARTS = 2.0, 2, 3
ANSWER_SECONDS, DATA_ANSWER_SECONDS = 1.0, 20.0
LONGEST_ANSWER = 100_000
PORTS_TRIED, LAST_PORT = 100, 65535
IS_WINDOWS = sys.platform == "win32"
TAKEN = {errno.EADDRINUSE, *([errno.EACCES] if IS_WINDOWS else [])}  # Windows: of a port that somebody has exclusively


def serve(
    runs: SelectedRuns,
    host: str,
    port: int,
    refresh: int,
    notify: Notify,
    on_url: Callable[[str], None],
    on_first_update: Callable[[], None],
) -> None:
    """Show the runs in TensorBoard and look for new ones and for new event files every *refresh* seconds, until this is
    interrupted.

    Runs are chosen while TensorBoard starts. *on_url* is called once it answers; it shows what is here while the rest
    arrives. *on_first_update* is called once all runs were updated. Raises what `SelectedRuns.start` does, HimlError
    where TensorBoard ends by itself, NotFound where no run has event files, DiskFailed.
    """
    free = free_port(host, port)
    try:
        temporary = tempfile.TemporaryDirectory(prefix="himl_tb_", ignore_cleanup_errors=True)
    except OSError as err:
        raise disk_error(err, "Cannot make a temporary folder") from err
    with temporary as name:
        shown = ShownFolder(Path(name).resolve() / "runs")
        shown.root.mkdir()
        log = shown.root.parent / "tensorboard.log"
        with TensorBoard(shown.root, log, host, free, refresh, notify) as server:
            runs.start()
            if port not in (free, 0):
                notify(Notice(f"Port {port} is taken: TensorBoard takes {free}."))
            try:
                is_loopback = ipaddress.ip_address(host).is_loopback
            except ValueError:
                is_loopback = host.lower() == "localhost"
            if not is_loopback:
                text = f"Nobody has to sign in to TensorBoard: whoever reaches {host}:{free} sees these runs."
                notify(Notice(text))
            poller = Poller(runs, shown, refresh, notify)
            try:
                _poll(poller, server, on_url, on_first_update)
            except KeyboardInterrupt:
                take_time_to_end(SECONDS_TO_END)  # a second Ctrl-C would leave TensorBoard behind
                raise


def _poll(
    poller: Poller, server: TensorBoard, on_url: Callable[[str], None], on_first_update: Callable[[], None]
) -> None:
    is_up, is_first = False, True
    while True:
        poller.step(STEP_SECONDS if is_up else STARTING_STEP_SECONDS)
        if is_first and is_up:
            poller.progress.report()
        if is_first and poller.has_updated_all:
            is_first = False
            on_first_update()
        server.check()
        if not is_up and server.is_up():
            is_up = True
            on_url(server.url)


class TensorBoard:
    """TensorBoard over *folder*, at *host* and *port*; its output goes to *log*. Runs within the `with`.

    The folder of *log* is its own: it is where TensorBoard puts temporary files, and gone if whoever started this is
    killed.
    """

    def __init__(self, folder: Path, log: Path, host: str, port: int, refresh: int, notify: Notify = ignore) -> None:
        self._folder = folder
        self._log = log
        self._host = host
        self._address = ANY_ADDRESS.get(host, host)
        self._port = port
        self._reload = min(LONGEST_RELOAD, refresh)
        self._notify = notify
        self._process: subprocess.Popen[bytes] | None = None
        self._was_up = False
        self._checks: BackgroundCalls[int, bool] = BackgroundCalls(lambda port: _has_lost_data(self._address, port))
        self._check_at = 0.0
        self._failed_checks = 0
        self._restarts = 0

    @property
    def url(self) -> str:
        host = socket.gethostname() if self._host in ANY_ADDRESS else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/"

    def __enter__(self) -> TensorBoard:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def is_up(self) -> bool:
        """Whether it answers: it, and not another server that took the port first."""
        self._was_up = self._was_up or serves(self._folder, self._address, self._port)
        return self._was_up

    def check(self) -> None:
        """See that it runs; where somebody took its port while it started, it is started again at the next one.

        Raises HimlError, with the last line of its output, where it has ended by itself.
        """
        if self._process is None:
            return
        if self._process.poll() is None:
            if self._was_up:
                self._check_data_server()
            return
        if not self._was_up and not _is_free(self._host, self._port):
            taken, self._port = self._port, free_port(self._host, self._port)
            self._notify(Notice(f"Port {taken} is taken: TensorBoard takes {self._port}."))
            self._start()
            return
        code = self._process.returncode
        ending = f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}"
        with suppress(ValueError):
            ending = f"was ended by {signal.Signals(-code).name}"
        lines: list[str] = []
        with suppress(OSError), self._log.open("rb") as output:
            output.seek(max(0, os.fstat(output.fileno()).st_size - LOG_TAIL))
            lines = output.read().decode("utf-8", "replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        raise HimlError(f"TensorBoard {ending}: {last}", hint="Does 'python -m tensorboard.main --version' work?")

    def _check_data_server(self) -> None:
        """Restart TensorBoard where its data server, which has all that was read in memory, is gone: then it answers,
        several times, that it cannot read. Raises HimlError where that was done too often."""
        checked = self._checks.next(0)
        if checked is not None:
            self._check_at = time.monotonic() + CHECK_SECONDS
            self._failed_checks = self._failed_checks + 1 if checked[1] is True else 0
        elif not self._checks.pending and time.monotonic() >= self._check_at:
            self._checks.add(self._port)
        if self._failed_checks < FAILED_CHECKS or self._process is None:
            return
        if self._restarts == RESTARTS:
            raise HimlError(
                f"TensorBoard's data server ended {RESTARTS + 1} times.",
                hint="Is the memory full? Show fewer runs.",
            )
        self._restarts += 1
        self._failed_checks = 0
        self._notify(Notice("TensorBoard's data server ended: TensorBoard is started again."))
        self._process.kill()  # before its pipe closes: at that it takes the folder with all that is shown with it
        self._process.wait()
        self._end()
        self._start()

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
        # The way to TensorBoard's data server never goes through a proxy. Where the temporary files of all users lie,
        # TensorBoard fails over a folder that another user left
        exceptions = next((os.environ[name] for name in PROXY_EXCEPTIONS if os.environ.get(name)), "")
        environment = os.environ | dict.fromkeys(TEMPORARY, str(own))
        environment[PROXY_EXCEPTIONS[0]] = ",".join(filter(None, (exceptions, *LOCAL_HOSTS)))
        try:
            with self._log.open("wb") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "himl_cli.services.tensorboard.program", str(own), *options],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    cwd=own,  # `-m` looks there first: nothing of the user's may be taken for TensorBoard
                    **detached(),
                )
        except OSError as err:
            raise DiskFailed(f"Cannot start TensorBoard: {err.strerror or err}.") from err

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


def _get(host: str, port: int, path: str, seconds: float) -> tuple[int, bytes]:
    """The status and content of an answer from this machine; no proxy is asked. Raises OSError, HTTPException,
    ValueError."""
    connection = HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read(LONGEST_ANSWER)
    finally:
        connection.close()


def serves(folder: Path, host: str, port: int) -> bool:
    """Whether a TensorBoard over *folder* answers at *host* and *port*."""
    try:
        answer: Any = read_json(_get(host, port, "/data/environment", ANSWER_SECONDS)[1])
    except (OSError, HTTPException, ValueError):
        return False
    return isinstance(answer, dict) and answer.get("data_location") == str(folder)


def _has_lost_data(host: str, port: int) -> bool:
    """Whether a TensorBoard answers, but only that it cannot read anything, as where its data server was killed."""
    try:
        return _get(host, port, "/data/runs", DATA_ANSWER_SECONDS)[0] >= HTTPStatus.INTERNAL_SERVER_ERROR
    except (OSError, HTTPException, ValueError):
        return False


def free_port(host: str, first: int) -> int:
    """*first*, or the next port that is free at *host*; any free one for 0.

    Raises BadUsage for a host that is not this machine and for a port that only an administrator may take, HimlError
    where all are taken.
    """
    if first == 0:
        with socket.socket() as anywhere:
            anywhere.bind(("", 0))
            return int(anywhere.getsockname()[1])
    last = min(first + PORTS_TRIED - 1, LAST_PORT)
    port = next((port for port in range(first, last + 1) if _is_free(host, port)), None)
    if port is None:
        raise HimlError(f"The ports {first} to {last} are all taken.", hint="Name another one with --port.")
    return port


def _is_free(host: str, port: int) -> bool:
    """Whether the port is free at all addresses of *host*: `localhost` may be two, and a browser takes either. Raises
    BadUsage as `free_port` does."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as err:
        raise BadUsage(
            f"There is no host '{host}': {err.strerror or err}.",
            hint="--host takes a name or an address of this machine.",
        ) from err
    usable = 0
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                if not IS_WINDOWS:  # an ended server's port may be had again at once
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen(1)
        except OSError as err:
            if err.errno in TAKEN:
                return False
            if err.errno == errno.EACCES:
                raise BadUsage(
                    f"Port {port} is for administrators only.", hint="Take one from 1024 on, as --port 6006."
                ) from err
        else:
            usable += 1
    if not usable:
        raise BadUsage(
            f"'{host}' is not an address of this machine.",
            hint="Leave --host out, or give 0.0.0.0 for all its addresses.",
        )
    return True
