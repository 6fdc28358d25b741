"""TensorBoard as the child of `himl tb`: its port, its end, and what becomes of it when one of the two dies."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.support.processes import MARK, processes_marked
from tests.support.running import Himl, until, write_files
from tests.support.runs import RecordedRuns
from tests.support.tensorboard import DIRECT, NAME, event_bytes, is_closed, serving

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals of POSIX")

VALUES = [1.0, 0.5, 0.25]
RUN = "train_1_aa"
LAST = "Ctrl-C ends it.\n"
"""Said once TensorBoard is up, after its address."""


@pytest.fixture(autouse=True)
def recorded(project: Path) -> None:
    RecordedRuns(project).add(RUN, files={f"logs/{NAME}": event_bytes(VALUES)})


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """What the processes of this test have in their environment; none of them may be left."""
    own = f"{os.environ[MARK]}-{request.node.name}"
    monkeypatch.setenv(MARK, own)
    yield own
    if Path("/proc").is_dir():
        assert processes_marked(own, patience=60.0) == []


def left_in(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "tmp").iterdir()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM], ids=lambda number: number.name)
def test_however_himl_ends_nothing_is_left(himl: Himl, tmp_path: Path, mark: str, number: signal.Signals) -> None:
    """Neither TensorBoard nor its data server, nor a temporary file of any of the three."""
    with serving(himl, tmp_path, RUN) as board:
        board.shows(RUN, VALUES)
        assert left_in(tmp_path) != []
        assert board.end(number) == (0 if number == signal.SIGTERM else -number)
        until(lambda: left_in(tmp_path) == [], lambda: f"the temporary folder is empty: {left_in(tmp_path)}")


def test_a_tensorboard_that_dies_is_one_clear_error(himl: Himl, tmp_path: Path, mark: str) -> None:
    if not Path("/proc").is_dir():
        pytest.skip("finds TensorBoard by /proc")
    with serving(himl, tmp_path, RUN) as board:
        board.shows(RUN, VALUES)
        board.says(LAST)
        (tensorboard,) = (line for line in processes_marked(mark, patience=0) if "tensorboard.program" in line)
        os.kill(int(tensorboard.split()[0]), signal.SIGKILL)
        assert board.process.wait(60) == 1
        said = re.fullmatch(r"Ctrl-C ends it\.\nerror: TensorBoard was ended by SIGKILL: .*\nhint: .*\n", board.talk)
        assert said, board.talk
    assert left_in(tmp_path) == []


def test_dead_data_server_is_restarted_on_same_port(himl: Himl, tmp_path: Path, mark: str) -> None:
    """It has all that was read in memory: it is what is killed first where that runs out."""
    if not Path("/proc").is_dir():
        pytest.skip("finds the data server by /proc")
    with serving(himl, tmp_path, RUN) as board:
        board.shows(RUN, VALUES)
        board.says(LAST)
        for server in (line for line in processes_marked(mark, patience=0) if "tensorboard_data_server/bin" in line):
            os.kill(int(server.split()[0]), signal.SIGKILL)
        board.says("TensorBoard's data server ended: TensorBoard is started again.")
        until(lambda: answers(board.url), "it answers")
        board.shows(RUN, VALUES)
        assert board.end() == 0


def answers(url: str) -> bool:
    try:
        with DIRECT.open(f"{url}data/runs", timeout=60) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


@contextmanager
def taken(port: int = 0) -> Iterator[int]:
    """A port that a server has which takes connections and never answers."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        yield int(other.getsockname()[1])


HOLDS = """
import os, sys, time
if "himl_cli.services.tensorboard.program" in sys.orig_argv and "--port={port}" in sys.orig_argv:
    open({started!r}, "w").close()
    while not os.path.exists({go!r}):
        time.sleep(0.02)
"""
"""Holds up a TensorBoard that is to have this port, as a module that Python imports when it starts."""


def test_port_taken_during_start_is_reported_and_replaced(himl: Himl, tmp_path: Path, mark: str) -> None:
    with taken() as port:
        pass
    is_started, may_go_on, is_over = tmp_path / "started", tmp_path / "go on", threading.Event()
    write_files(tmp_path / "site", {"sitecustomize.py": HOLDS.format(port=port, started=str(is_started), go=str(may_go_on))})

    def take() -> None:
        """While TensorBoard starts, before it wants its port."""
        until(is_started.exists, "TensorBoard is started")
        with taken(port):
            may_go_on.touch()
            is_over.wait(240)

    other = threading.Thread(target=take)
    other.start()
    try:
        with serving(himl, tmp_path, RUN, "--port", str(port), env={"PYTHONPATH": str(tmp_path / "site")}) as board:
            assert port < board.port
            board.shows(RUN, VALUES)
            board.says(LAST)
            assert board.end() == 0
            assert board.talk == f"Port {port} is taken: TensorBoard takes {board.port}.\n{LAST}"
    finally:
        is_over.set()
        other.join()


def test_an_address_of_ipv6(himl: Himl, tmp_path: Path, mark: str) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with serving(himl, tmp_path, RUN, "--host", "::1", host="::1") as board:
        assert board.url == f"http://[::1]:{board.port}/"
        board.shows(RUN, VALUES)
        assert is_closed(board.port), "nobody is let in by another address"
        board.says(LAST)
        assert board.end() == 0
        assert board.talk == LAST


def test_with_closed_streams_and_nohup_it_goes_on(himl: Himl, tmp_path: Path, mark: str) -> None:
    """Started by a shell as a background job often is: no standard input at all, hang-ups ignored."""
    with serving(himl, tmp_path, RUN, prefix=("nohup", "sh", "-c", 'exec "$0" "$@" <&-')) as board:
        board.shows(RUN, VALUES)
        board.says(LAST)
        board.process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            board.process.wait(0.5)
        board.shows(RUN, VALUES)
        assert board.end(signal.SIGTERM) == 0
        assert board.talk == LAST


def test_unwritable_tensorboard_info_folder_is_ignored(himl: Himl, tmp_path: Path, mark: str) -> None:
    """TensorBoard notes where it runs in a folder that all users share; a file in its place cannot be written by anybody."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / ".tensorboard-info").write_text("")
    with serving(himl, tmp_path, RUN) as board:
        board.shows(RUN, VALUES)
        assert board.end() == 0


@pytest.mark.skipif(sys.platform == "darwin", reason="whoever runs this may have any port")
def test_a_port_for_administrators_is_refused(himl: Himl, require_program: Callable[[str], str]) -> None:
    without_right = (require_program("setpriv"), "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service") if os.geteuid() == 0 else ()
    outcome = himl("tb", RUN, "--port", "80", prefix=without_right)
    assert (outcome.code, outcome.stderr.splitlines()[0]) == (2, "error: Port 80 is for administrators only.")
