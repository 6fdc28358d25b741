"""What a process takes: memory, threads, handles. Linux only (/proc)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gauge:
    """Of the process *pid*. All raise OSError once it is gone."""

    pid: int

    @property
    def resident(self) -> float:
        """MiB that it has in memory."""
        return self._figure("VmRSS") / 1024

    @property
    def peak(self) -> float:
        """The most MiB that it had in memory."""
        return self._figure("VmHWM") / 1024

    @property
    def threads(self) -> int:
        return self._figure("Threads")

    @property
    def handles(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def command_line(self) -> str:
        return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(bytes(1), b" ").decode(errors="replace")

    def _figure(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        if found is None:  # a zombie has no memory
            raise ProcessLookupError(f"process {self.pid} has ended")
        return int(found[1])


def slope(values: list[float]) -> float:
    """By how much *values* rise from one to the next, by least squares; 0 for fewer than two."""
    count = len(values)
    if count < 2:
        return 0.0
    middle, mean = (count - 1) / 2, sum(values) / count
    return sum((place - middle) * (value - mean) for place, value in enumerate(values)) / sum((place - middle) ** 2 for place in range(count))
