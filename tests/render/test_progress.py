"""Bars of things that are counted, alone and beside those of files, in real terminals."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from himl_cli.render.bars import rate
from tests.support.terminals import Terminal

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")

COUNTING = """
import threading, time
from himl_cli.core.events import Counted, Counting, Finished, Moved, Notice, Planned
from himl_cli.render.output import Format, Output
from himl_cli.render.progress import observing
with observing(Output(Format.{format})) as notify:
    notify(Counting("slides", 2000))
    notify(Counting("slides", 345))
    {extra}
    for _ in range(37):
        notify(Counted())
        time.sleep(0.02)
    notify(Notice("\\x1b[31mred \\nlevel 7 is missing"))
    time.sleep(0.3)
print("done")
"""
FILES = 'notify(Planned(1, 2_000_000)); notify(Moved("a", 2_000_000)); notify(Finished("a"))'


def drawn(screen: str) -> list[str]:
    """The lines that a terminal showed at any time, without the codes that move about in it."""
    return [line.strip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).replace("\r", "\n").splitlines() if line.strip()]


def shown(tmp_path: Path, columns: int, format: str = "human", extra: str = "pass") -> Terminal:
    terminal = Terminal([sys.executable, "-c", COUNTING.format(format=format, extra=extra)], cwd=tmp_path, columns=columns)
    assert terminal.finish() == 0
    return terminal


@posix
@pytest.mark.parametrize(("columns", "has_bar"), [(40, False), (60, True), (80, True), (200, True)])
def test_things_are_counted_with_their_rate_and_the_time_left(tmp_path: Path, columns: int, has_bar: bool) -> None:
    lines = drawn(shown(tmp_path, columns).screen)
    counted = [line for line in lines if "slides" in line]
    assert re.fullmatch(r"37/2,345 slides\s+[━╸╺ ]*\s*\d[\d.]* slides/s\s+ETA \d+:\d\d(:\d\d)?", counted[-1])
    assert any("━" in line for line in counted) is has_bar
    assert max(map(len, counted)) <= columns
    assert lines[-1] == "done"


@posix
def test_bar_is_wiped_at_end_and_notice_stays_as_clean_line(tmp_path: Path) -> None:
    screen = shown(tmp_path, 80).screen
    assert "[31mred level 7 is missing\n" in screen
    assert "\x1b[31m" not in screen
    assert screen.endswith("\x1b[2Kdone\n"), "the line of the bar is wiped before anything else is printed"


@posix
def test_files_that_move_have_a_line_of_their_own(tmp_path: Path) -> None:
    lines = drawn(shown(tmp_path, 80, extra=FILES).screen)
    assert any(line.startswith("1 file ") and "2.0/2.0 MB" in line and "slides" not in line for line in lines)
    assert any(line.startswith("37/2,345 slides") for line in lines)


@posix
@pytest.mark.parametrize("format", ["json", "quiet"])
def test_nothing_is_drawn_for_programs(tmp_path: Path, format: str) -> None:
    assert "slides" not in shown(tmp_path, 80, format).screen


def test_nothing_is_drawn_in_a_pipe() -> None:
    done = subprocess.run([sys.executable, "-c", COUNTING.format(format="human", extra=FILES)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "[31mred level 7 is missing\n")


THREADS = """
import threading
from himl_cli.core.events import Counted, Counting
from himl_cli.render.output import Output
from himl_cli.render.progress import observing
with observing(Output()) as notify:
    threads = [threading.Thread(target=lambda: [notify(Counting("slides", 1000)), *(notify(Counted()) for _ in range(1000))]) for _ in range(8)]
    for each in threads: each.start()
    for each in threads: each.join()
    import time; time.sleep(0.3)
"""


@posix
def test_threads_count_together(tmp_path: Path) -> None:
    terminal = Terminal([sys.executable, "-c", THREADS], cwd=tmp_path)
    assert terminal.finish() == 0
    assert "8,000/8,000 slides" in terminal.screen


LATE = """
import threading, time
from himl_cli.core.events import Counted, Counting, Notice
from himl_cli.render.output import Output
from himl_cli.render.progress import observing
may_stop = threading.Event()
def count():
    while not may_stop.is_set():
        notify(Counting("slides", 10)), notify(Counted())
with observing(Output()) as notify:
    thread = threading.Thread(target=count)
    thread.start()
    time.sleep(0.2)
time.sleep(0.2)
may_stop.set()
thread.join()
notify(Notice("late"))
print("done")
"""


@posix
def test_late_thread_draws_nothing_after_end_of_bar(tmp_path: Path) -> None:
    terminal = Terminal([sys.executable, "-c", LATE], cwd=tmp_path)
    assert terminal.finish() == 0
    assert terminal.screen.count("\x1b[?25l") == terminal.screen.count("\x1b[?25h") == 1, "the cursor is shown again"
    assert terminal.screen.rpartition("\x1b[?25h")[2].endswith("\x1b[2Klate\ndone\n")


@pytest.mark.parametrize(("number", "text"), [(0.0312, "0.031"), (0.932, "0.93"), (3.44, "3.4"), (9.94, "9.9"), (9.96, "10"), (99.7, "100"), (1240.3, "1,240")])
def test_rates_have_two_digits(number: float, text: str) -> None:
    assert rate(number) == text
