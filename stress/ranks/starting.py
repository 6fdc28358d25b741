"""Runs orders in which eight ranks start: `python -m stress.ranks.starting FOLDER FIRST COUNT`.

Ranks are forks of this process, which has the imports behind it and few of them: forking a large one takes most of the time. FOLDER lies in memory where
there is such a place.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from himl_cli.core.blobs import TransferResult
from himl_cli.services.transfer.ranks import rank_zero_only

RANKS = 8
LIMIT = 30.0


def orders(first: int, count: int) -> list[tuple[int, ...]]:
    """*count* of the orders that there are, from number *first* on."""
    return list(itertools.islice(itertools.permutations(range(RANKS)), first, first + count))


def main(folder: Path, first: int, count: int) -> None:
    """Run these orders and print `{"orders": …, "slowest": seconds, "wrong": […]}`."""
    os.environ["XDG_CACHE_HOME"] = str(folder)
    for rank in range(RANKS):  # what is loaded by it is loaded once, and not in each fork
        _call(folder, rank, "warm")
    (folder / "acted").unlink()
    shutil.rmtree(folder / "himl")
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
    pids, pipes = zip(*[_fork(folder, rank, token) for rank in order], strict=True)
    said = [_read(pipe) for pipe in pipes]
    for pid in pids:  # none before all are done: a rank that starts after rank 0 has ended and is forgotten acts for itself, as is documented
        os.waitpid(pid, 0)
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


def _read(pipe: int) -> str:
    with os.fdopen(pipe) as file:
        return file.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
