"""Orders in which eight ranks can be started, each run by `starting`."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stress.ranks.starting import RANKS
from stress.records import Case, Outcome, Result
from stress.world import World
from tests.support.machine import ROOT

CASES = 240
ALL = math.factorial(RANKS)
IN_MEMORY = Path("/dev/shm")
LONGEST = 1800.0


def order_cases() -> list[Case]:
    """All 40,320 orders, in CASES parts that are alike in size."""
    return [Case(f"ranks/orders/all/{number:03d}", _run(number)) for number in range(CASES)]


def _run(number: int) -> Callable[[World, random.Random], Result]:
    def run(world: World, dice: random.Random) -> Result:
        begun, count = time.monotonic(), ALL // CASES
        folder = Path(tempfile.mkdtemp(prefix="himl-ranks-", dir=IN_MEMORY if IN_MEMORY.is_dir() else world.folder))
        command = [sys.executable, "-m", "stress.ranks.starting", str(folder), str(number * count), str(count)]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=LONGEST)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        assert done.returncode == 0, done.stderr[-1000:]
        told = json.loads(done.stdout)
        why = world.tidy("; ".join(told["wrong"][:5]))
        outcome = Outcome.lost if why or told["orders"] != count else Outcome.survived
        return Result(outcome, 0, time.monotonic() - begun, told["orders"], why=why, facts={"orders": told["orders"], "slowest": told["slowest"]})

    return run
