"""Functions that run in separate processes. Each has its own imports, since some are measured and some fork."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Barrier

RANKS = 8
LIMIT = 30.0


def write(path: Path, number: int, count: int, all_there: Barrier) -> tuple[float, float, list[str]]:
    """Write *count* runs to a local workspace, as one of many concurrent processes. Returns the total seconds, the
    longest step, and errors.
    """
    from himl_cli.core.errors import HimlError
    from himl_cli.core.runs import Run, RunStatus
    from himl_cli.workspaces.local.metric_store import MetricStore
    from himl_cli.workspaces.local.run_store import Database, RunStore

    database = Database(path)
    store, metrics = RunStore(database), MetricStore(database)
    longest, errors = 0.0, []
    all_there.wait()
    started = time.monotonic()
    for turn in range(count):
        run_id = f"w{number:03d}_{turn:04d}"
        for step in (
            partial(store.add, Run(run_id, "writers", RunStatus.running)),
            partial(metrics.log, run_id, [("loss", float(turn), 0, 1)]),
            partial(store.tag, run_id, {"writer": str(number)}),
            partial(store.end, run_id, RunStatus.completed, exit_code=0),
        ):
            begun = time.monotonic()
            try:
                step()
            except HimlError as e:
                errors.append(str(e))
            longest = max(longest, time.monotonic() - begun)
    seconds = time.monotonic() - started
    database.close()
    return seconds, longest, errors


def serve(answers: Connection, folder: Path) -> None:
    """A tracked job. Sends its port and token, and serves until the connection closes. Its output goes to `said.log`
    in *folder*.
    """
    import logging

    from tests.workspaces.tracking.tracked_job import tracked_job

    with (folder / "said.log").open("wb") as said:
        os.dup2(said.fileno(), sys.stderr.fileno())
    logging.basicConfig(level=logging.DEBUG)
    with tracked_job(folder / "runs") as job, suppress(EOFError):
        answers.send((job.server.port, job.secret))
        answers.recv()


def orders(first: int, count: int) -> list[tuple[int, ...]]:
    return list(itertools.islice(itertools.permutations(range(RANKS)), first, first + count))


def start_ranks(folder: Path, first: int, count: int) -> tuple[int, float, list[str]]:
    """Start eight ranks in each of these orders. Returns the number of orders, the seconds of the slowest, and errors.

    Ranks are forks of this process, which has few imports loaded, since most of the time goes into forking a large
    process. The folder is in memory if possible."""
    os.environ["XDG_CACHE_HOME"] = str(folder)
    for rank in range(RANKS):  # loads modules once, and not in each fork
        _call(folder, rank, "warm")
    (folder / "acted").unlink()
    shutil.rmtree(folder / "himl")
    gc.freeze()
    wrong, slowest, done = [], 0.0, 0
    for order in orders(first, count):
        begun = time.monotonic()
        said = run_order(folder, order)
        slowest, done = max(slowest, time.monotonic() - begun), done + 1
        if said:
            wrong.append(f"{''.join(map(str, order))}: {said}")
    return done, slowest, wrong


def run_order(folder: Path, order: Sequence[int]) -> str:
    acted, token = folder / "acted", "".join(map(str, order))
    pids = [_fork(folder, rank, token) for rank in order]
    for pid in pids:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    # none before all are done: a rank that starts after rank 0 has ended and is forgotten acts for itself, as is
    # documented
    for pid in pids:
        os.waitpid(pid, 0)
    times = acted.read_text() if acted.exists() else ""
    said = {rank: (folder / f"said_{rank}").read_text() for rank in order}
    shutil.rmtree(folder)
    folder.mkdir()
    if times != f"{token} 0\n":
        return f"acted: {times!r}"
    return ", ".join(f"rank {rank}: {text!r}" for rank, text in said.items() if text != token)


def _fork(folder: Path, rank: int, token: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    said = folder / f"said_{rank}"
    try:
        said.write_text(_call(folder, rank, token))
    except BaseException:  # noqa: BLE001 - a fork must not go on with what its parent does
        said.write_text(traceback.format_exc()[-400:])
    finally:
        os._exit(0)


def _call(folder: Path, rank: int, token: str) -> str:
    from himl_cli.core.blobs import TransferResult
    from himl_cli.services.transfer.ranks import rank_zero_only

    def act() -> TransferResult:
        with (folder / "acted").open("a") as record:
            record.write(f"{token} {rank}\n")
        return TransferResult(files=1, note=token)

    environment = {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(RANKS)}
    return rank_zero_only(folder, "key", act, environment=environment, wait_seconds=LIMIT).note


def launch(
    asked: Connection, folder: Path, command: Sequence[str], cwd: Path, env: Mapping[str, str], reaps: bool
) -> None:
    """Start ranks of *command* for each request `[(rank, seconds before it), …]`, and report the start and end of each.

    The output of rank K of launch N goes to N-K.out and N-K.err. With *reaps*, it reaps a process at once, as shells
    do, else after all have ended."""
    turn = threading.Lock()

    def tell(**document: object) -> None:
        with turn:
            asked.send(document)

    def watch(rank: int, process: subprocess.Popen[bytes]) -> None:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        tell(rank=rank, code=ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status, ended=time.time())
        if reaps:
            process.wait()

    os.setsid()
    for number in itertools.count():
        steps = asked.recv()
        threads, processes = [], []
        for rank, seconds in steps:
            time.sleep(seconds)
            size, place = str(len(steps)), folder / f"{number}-{rank}"
            ranks = {"LOCAL_RANK": str(rank), "RANK": str(rank), "LOCAL_WORLD_SIZE": size, "WORLD_SIZE": size}
            with place.with_suffix(".out").open("wb") as output, place.with_suffix(".err").open("wb") as errors:
                whole = {**os.environ, **env, **ranks}
                null = subprocess.DEVNULL
                processes.append(
                    subprocess.Popen(command, cwd=cwd, env=whole, stdin=null, stdout=output, stderr=errors)
                )
            tell(rank=rank, pid=processes[-1].pid, started=time.time())
            threads.append(threading.Thread(target=watch, args=(rank, processes[-1])))
            threads[-1].start()
        for thread in threads:
            thread.join()
        for process in processes:
            process.wait()
        tell(done=True)
