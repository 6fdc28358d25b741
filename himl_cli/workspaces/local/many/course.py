"""The log of a run with many children: how it went, a line for everything that happened."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from himl_cli.core.runs import FAILED_RANK, Run

TAIL_BYTES = 16 * 1024
LONGEST_LINE = 200


class Course:
    """Writes `user_logs/std_log.txt`. A disk that is full must not end the whole: then lines are missing."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def say(self, line: str) -> None:
        try:
            with self._log.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(f"{datetime.now():%Y-%m-%dT%H:%M:%S} {line}\n")
        except OSError:
            pass


def told_end(run: Run) -> str:
    """How a run ended, in words: `failed after 3.2 s: exit code 3`."""
    after = "" if run.duration is None else f" after {told_seconds(run.duration)}"
    why = f": {run.reason}" if run.reason and run.reason != run.status.value.lower() else ""
    return f"{run.status.value.lower()}{after}{why}"


def told_seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def last_lines(folder: Path, reason: str, count: int) -> list[str]:
    """The last lines of a run's output that are not empty, as far as they can be read; of several ranks, those of the
    one that *reason* names."""
    rank = FAILED_RANK.match(reason)
    log = folder / "user_logs" / (f"std_log_process_{rank[1]}.txt" if rank else "std_log.txt")
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    return [line[:LONGEST_LINE] for line in text.splitlines() if line.strip()][-count:]
