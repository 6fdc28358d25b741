"""`himl montage` that is stopped in the middle, that runs in a terminal, and whose reader leaves."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.folders import files_below
from tests.support.montages import left_in, rows_of
from tests.support.running import Himl, write_files
from tests.support.slides import slide_picture, write_tiff
from tests.support.terminals import Terminal

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and terminals of POSIX")

LONG = ("montage", "long.csv", "--width", "60000", "--workers", "2")


@pytest.fixture
def long(project: Path) -> Path:
    """A CSV whose montage takes long: one slide, many times."""
    write_tiff(project / "slide.tiff", slide_picture(1, (800, 600)), levels=2)
    write_files(project, {"long.csv": "image,slide_id\n" + "".join(f"slide.tiff,s{number}\n" for number in range(150))})
    return project


@contextmanager
def started(himl: Himl, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A himl that is killed at the end, if it is still there."""
    with himl.start(*arguments) as process:
        try:
            yield process
        finally:
            process.kill()


def bytes_of(path: Path) -> int:
    """0 where it is gone by now."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def in_the_middle(process: subprocess.Popen[bytes], folder: Path, least: int = 200_000) -> None:
    """Until some of the picture is written; fails the test if it is complete before that."""
    deadline = time.monotonic() + 60
    while not any(bytes_of(path) > least for path in files_below(folder) if path.name.startswith("montage.") and ".himl" in str(path)):
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_nothing_is_left(himl: Himl, long: Path, number: signal.Signals) -> None:
    before = left_in(long)
    with started(himl, *LONG) as process:
        in_the_middle(process, long)
        process.send_signal(number)
        output, errors = process.communicate(timeout=100)
    assert (process.returncode, output, errors.splitlines()[1:]) == (130, b"", [b"error: Interrupted."]), "after the remark on the width"
    assert left_in(long) == before
    assert not (long / "outputs").exists()


@posix
def test_interrupted_montage_leaves_earlier_files_unchanged(himl: Himl, long: Path) -> None:
    himl.ok("montage", "long.csv", "--width", "1000", "--image_format", "png,dzi")
    earlier = {name: (long / name).read_bytes() for name in left_in(long)}
    with started(himl, *LONG, "--image_format", "png,jpg,dzi") as process:
        in_the_middle(process, long / "outputs")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=100)
    assert process.returncode == 130
    assert {name: (long / name).read_bytes() for name in left_in(long)} == earlier


@posix
def test_what_a_killed_one_left_goes_with_the_next(himl: Himl, long: Path) -> None:
    with started(himl, *LONG) as process:
        in_the_middle(process, long / "outputs")
    assert not list((long / "outputs").glob("montage*")), "nothing half-written has the name of a montage"
    himl.ok("montage", "long.csv", "--width", "1000", "--image_format", "png")
    assert left_in(long / "outputs") == ["montage.csv", "montage.png"]


@posix
@pytest.mark.parametrize("columns", [60, 200])
def test_a_terminal_shows_a_bar_in_one_line_and_then_the_files(himl: Himl, long: Path, columns: int) -> None:
    terminal = Terminal([str(himl.program), *LONG[:3], "3000"], cwd=long, columns=columns)
    assert terminal.finish() == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.screen).replace("\r", "\n")
    lines = [line for line in plain.splitlines() if line.strip()]
    drawn = [line for line in lines if re.match(r"[\d,]+/150 slides", line.strip())]
    assert any("slides/s" in line and "ETA 00:" in line for line in drawn)
    assert max(map(len, drawn)) <= columns
    assert [line.split()[0] for line in lines[-4:-1]] == [f"outputs/montage.{suffix}" for suffix in ("png", "jpg", "csv")]
    assert lines[-1].startswith("150 slides in ")
    assert len(rows_of(long / "outputs")) == 150


@posix
def test_closed_stdout_pipe_is_no_error_and_montage_is_written(himl: Himl, long: Path) -> None:
    done = subprocess.run(["sh", "-c", f"'{himl.program}' {' '.join(LONG[:3])} 500 -q | true"], cwd=long, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "montage.png" in left_in(long / "outputs")
