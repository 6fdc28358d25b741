"""Every order in which eight ranks can be started: `python -m stress.ranks.orders FOLDER FIRST COUNT` runs some of them.

Ranks are forks of one process that has the imports behind it, and FOLDER lies in memory where there is such a place.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from himl_cli.core.file_tree import RANKS_NAME
from himl_cli.core.transfers import TransferResult
from himl_cli.services.transfer.ranks import rank_zero_only
from stress.ranks.launching import RANKS
from stress.records import Case, Outcome, Result
from stress.world import World
from tests.machine import ROOT

CASES = 40
ALL = math.factorial(RANKS)
IN_MEMORY = Path("/dev/shm")
LIMIT = 30.0
LONGEST = 1800.0


def order_cases() -> list[Case]:
    """All 40,320 orders, in CASES parts that are alike in size."""
    return [Case(f"ranks/orders/all/{number:02d}", _run(number)) for number in range(CASES)]


def orders(first: int, count: int) -> list[tuple[int, ...]]:
    """*count* of all orders, from number *first* on."""
    return list(itertools.islice(itertools.permutations(range(RANKS)), first, first + count))


def _run(number: int) -> Callable[[World, random.Random], Result]:
    def run(world: World, dice: random.Random) -> Result:
        begun, count = time.monotonic(), ALL // CASES
        folder = Path(tempfile.mkdtemp(prefix="himl-ranks-", dir=IN_MEMORY if IN_MEMORY.is_dir() else world.folder))
        command = [sys.executable, "-m", "stress.ranks.orders", str(folder), str(number * count), str(count)]
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


def main(folder: Path, first: int, count: int) -> None:
    """Run these orders and print `{"orders": …, "slowest": seconds, "wrong": […]}`."""
    for rank in range(RANKS):  # what is loaded by it is loaded once, and not in each fork
        _call(folder, rank, "warm")
    (folder / "acted").unlink()
    shutil.rmtree(folder / RANKS_NAME)
    gc.freeze()
    wrong, slowest, done, parent = [], 0.0, 0, os.getppid()
    for order in orders(first, count):
        if os.getppid() != parent:  # nobody asks any more
            shutil.rmtree(folder)
            return
        begun = time.monotonic()
        said = run_order(folder, order)
        slowest, done = max(slowest, time.monotonic() - begun), done + 1
        if said:
            wrong.append(f"{''.join(map(str, order))}: {said}")
    print(json.dumps({"orders": done, "slowest": round(slowest, 2), "wrong": wrong}))


def run_order(folder: Path, order: Sequence[int]) -> str:
    """Start ranks in this order, in *folder*; what is wrong with how they ended, '' where nothing is."""
    acted, token = folder / "acted", "".join(map(str, order))
    ends = [_fork(folder, rank, token) for rank in order]
    said = [_ended(*end) for end in ends]
    times = acted.read_text() if acted.exists() else ""
    shutil.rmtree(folder)
    folder.mkdir()
    if times != f"{token} 0\n":
        return f"acted: {times!r}"
    other = [f"rank {rank}: {text!r}" for rank, text in zip(order, said, strict=True) if text != token]
    return ", ".join(other)


def _fork(folder: Path, rank: int, token: str) -> tuple[int, int]:
    """A process that is *rank*, and the pipe in which it says what it got."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.close(reading)
        os.write(writing, _call(folder, rank, token).encode())
    except BaseException:  # noqa: BLE001 - a fork must not go on with what its parent does
        os.write(writing, traceback.format_exc()[-400:].encode())
    finally:
        os._exit(0)


def _call(folder: Path, rank: int, token: str) -> str:
    def act() -> TransferResult:
        with (folder / "acted").open("a") as record:
            record.write(f"{token} {rank}\n")
        return TransferResult(files=1, note=token)

    environment = {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(RANKS)}
    return rank_zero_only(folder, "key", act, environment=environment, wait_seconds=LIMIT).note


def _ended(pid: int, reading: int) -> str:
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
