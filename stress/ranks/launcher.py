"""A launcher: `python launcher.py FOLDER [reaps] -- COMMAND` starts ranks, as often as it is asked to. Linux; the standard library alone.

Each line of stdin is a launch, `[[rank, seconds before it], …]`. It answers with a line for each rank that it started and for each that has
ended, and with `{"done": true}` when all have. What rank K of launch N says goes to FOLDER/N-K.out and FOLDER/N-K.err.
With `reaps` it asks at once how a process ended, as shells do, else when all have ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

_turn = threading.Lock()


def main(folder: Path, reaps: bool, command: Sequence[str]) -> None:
    for number, line in enumerate(sys.stdin):
        steps = json.loads(line)
        threads, processes = [], []
        for rank, seconds in steps:
            time.sleep(seconds)
            processes.append(_start(folder / f"{number}-{rank}", rank, len(steps), command))
            _say({"rank": rank, "pid": processes[-1].pid, "started": time.time()})
            threads.append(threading.Thread(target=_watch, args=(rank, processes[-1], reaps)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        for process in processes:
            process.wait()
        _say({"done": True})


def _start(place: Path, rank: int, size: int, command: Sequence[str]) -> subprocess.Popen[bytes]:
    ranks = {"LOCAL_RANK": str(rank), "RANK": str(rank), "LOCAL_WORLD_SIZE": str(size), "WORLD_SIZE": str(size)}
    with place.with_suffix(".out").open("wb") as output, place.with_suffix(".err").open("wb") as errors:
        return subprocess.Popen(command, env={**os.environ, **ranks}, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)


def _watch(rank: int, process: subprocess.Popen[bytes], reaps: bool) -> None:
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    _say({"rank": rank, "code": ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status, "ended": time.time()})
    if reaps:
        process.wait()


def _say(document: object) -> None:
    with _turn:
        print(json.dumps(document), flush=True)


if __name__ == "__main__":
    at = sys.argv.index("--")
    main(Path(sys.argv[1]), "reaps" in sys.argv[2:at], sys.argv[at + 1 :])
