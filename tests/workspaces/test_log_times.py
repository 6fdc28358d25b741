"""Positions in logs by the time at which they were written."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

from himl_cli.workspaces.local.log_times import LOG_TIMES, LogTimes, log_position
from himl_cli.workspaces.local.run_folder import RECORD, RunFolder

MAIN = "user_logs/std_log.txt"


def test_positions_of_a_log_never_come_after_what_was_written_since(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "train_1")
    folder.user_logs.mkdir(parents=True)
    log = folder.user_logs / "std_log.txt"
    first = begin = datetime.now(timezone.utc)
    assert log_position(folder, MAIN, begin) is None
    for attempt in (1, 2):
        folder.write(RECORD, {"tries": attempt})
        log.write_text("")
        times, moments = LogTimes(folder, [log], attempt, gap=0), dict[int, datetime]()
        for number in range(1, 4):
            with log.open("a") as stream:
                stream.write("line\n" * attempt)
            times.note()
            time.sleep(0.002)
            moments[attempt * 5 * number] = datetime.now(timezone.utc)
            time.sleep(0.002)
            times.note()  # an unchanged size is not noted again
        with (folder.path / LOG_TIMES).open("a") as stream:
            stream.write(f"{attempt} std_log.txt 17")  # killed while it wrote
            stream.write("\n")
        first = moments.get(5, begin) if attempt == 1 else first
        assert {size: log_position(folder, MAIN, moment) for size, moment in moments.items()} == {
            size: size for size in moments
        }
        assert log_position(folder, MAIN, begin) == 0
    assert log_position(folder, "user_logs/try_1/std_log.txt", first) == 5
    assert len((folder.path / LOG_TIMES).read_text().splitlines()) == 2 * (1 + 3 + 1)
    for name in ("logs/own.txt", "user_logs/std_log_process_1.txt", "user_logs/try_3/std_log.txt"):
        assert log_position(folder, name, begin) is None


def test_a_rewritten_log_and_a_clock_that_was_set_back_omit_nothing(tmp_path: Path) -> None:
    folder, at = RunFolder(tmp_path / "train_1"), datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    folder.path.mkdir()
    folder.write(RECORD, {"tries": 1})
    notes = {"rewritten": ([(0, 0), (10, 50), (20, 8), (30, 90)], {15: 8, 25: 8, 35: 90})}
    notes["set back"] = [(0, 0), (100, 50), (20, 60), (200, 70)], {50: 0, 150: 60, 250: 70}
    for sizes, expected in notes.values():
        lines = [f"1 std_log.txt {int(at.timestamp() * 1000) + seconds * 1000} {size}\n" for seconds, size in sizes]
        (folder.path / LOG_TIMES).write_text("".join(lines))
        found = {seconds: log_position(folder, MAIN, at + timedelta(seconds=seconds)) for seconds in expected}
        assert found == expected
