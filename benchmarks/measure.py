"""Whole-process timings, side by side: candidates take turns, so that a slow minute of the machine hits all alike."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HIML = str(Path(sys.executable).with_name("himl.exe" if sys.platform == "win32" else "himl"))


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate over all rounds."""

    name: str
    seconds: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def clean_environment() -> dict[str, str]:
    """The environment without settings that change what is measured: himl's, and one that has Python compile our modules each time anew."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HIML_") and name != "PYTHONDONTWRITEBYTECODE"}


def time_command(command: Sequence[str], folder: Path) -> float:
    """Seconds that *command* takes in *folder*, output discarded. Raises SystemExit with what it said when it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr.decode(errors='replace')}")
    return seconds


def take_turns(candidates: Mapping[str, Sequence[str]], *, rounds: int, folder: Path) -> dict[str, Timing]:
    """Run every candidate once unmeasured, then *rounds* times in turns, every other round backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for command in candidates.values():
        time_command(command, folder)
    for number in range(rounds):
        for name in list(candidates)[:: -1 if number % 2 else 1]:
            seconds[name].append(time_command(candidates[name], folder))
    return {name: Timing(name, values) for name, values in seconds.items()}


def print_timings(timings: Mapping[str, Timing], *, baseline: str) -> None:
    """A row a candidate: median and extremes in milliseconds, and the median as a multiple of the baseline's."""
    unit = timings[baseline].median
    width = max(map(len, timings))
    print(f"{'':{width}}  {'median':>9} {'min':>9} {'max':>9}  ratio")
    for timing in timings.values():
        figures = " ".join(f"{value * 1000:6.0f} ms" for value in (timing.median, min(timing.seconds), max(timing.seconds)))
        print(f"{timing.name:{width}}  {figures}  {timing.median / unit:5.2f}")
