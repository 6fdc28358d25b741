"""What a process spends: wall and processor time, and memory at its peak. Linux and macOS only."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STARTER = str(Path(__file__).with_name("run_and_wait.py"))
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Spent:
    """Seconds of wall clock and of all its processors, and bytes of resident memory at the peak, of a process and those it waited for."""

    wall: float
    cpu: float
    memory: int


def spend(command: Sequence[str], environment: Mapping[str, str]) -> Spent:
    """Run *command*. Where its last line of output is a JSON object with `wall` and `cpu`, these count instead of the whole process's.

    Raises SystemExit with what it said when it fails.
    """
    done = subprocess.run([sys.executable, "-S", STARTER, *command], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    first, _, said = done.stdout.decode(errors="replace").partition("\n")
    wall, cpu, memory, code = first.split()
    if int(code) != 0:
        sys.exit(f"{' '.join(command)}: exit code {code}\n{said[-4000:]}")
    own = _own_figures(said)
    return Spent(own.get("wall", float(wall)), own.get("cpu", float(cpu)), int(memory) * RSS_UNIT)


def _own_figures(said: str) -> dict[str, Any]:
    last = said.strip().rpartition("\n")[2]
    if not last.startswith('{"wall"'):
        return {}
    figures: dict[str, Any] = json.loads(last)
    return figures


def median(all_spent: Sequence[Spent]) -> Spent:
    """Of each figure its own median; of memory the most."""
    return Spent(statistics.median(one.wall for one in all_spent), statistics.median(one.cpu for one in all_spent), max(one.memory for one in all_spent))
