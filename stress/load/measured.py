"""Programs that are run on their own, with the memory that they took. Linux only (/proc)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stress.gauges import Gauge

LOOK = 0.01
SECONDS = 900.0


@dataclass(frozen=True)
class Measured:
    """How a program ended. `peak` is the most MiB of memory it had (VmHWM), as it was seen shortly before its end."""

    code: int
    seconds: float
    peak: float
    stderr: str


def measured(command: Sequence[str], out: Path, cwd: Path, env: Mapping[str, str]) -> Measured:
    """Run *command*; what it prints goes to *out*. Raises TimeoutExpired."""
    begun, peak = time.monotonic(), 0.0
    errors = out.with_suffix(".err")
    with out.open("wb") as printed, errors.open("wb") as said:
        process = subprocess.Popen(command, cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=printed, stderr=said)
        try:
            while process.poll() is None:
                with suppress(OSError):  # it ended meanwhile
                    peak = max(peak, Gauge(process.pid).peak)
                if time.monotonic() - begun > SECONDS:
                    raise subprocess.TimeoutExpired(command, SECONDS)
                time.sleep(LOOK)
        finally:
            process.kill()
            process.wait()
    return Measured(process.returncode, time.monotonic() - begun, peak, errors.read_text("utf-8", "replace"))


def growth_wrong(few: float, many: float, most: float) -> list[str]:
    """What is wrong with a program that took *few* MiB for little, and *many* for much of the same: it may take *most* more."""
    return [f"for more of the same {many - few:.1f} MiB more are taken, over {most:.0f}"] if many - few > most else []
