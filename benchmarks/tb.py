"""What `himl tb` costs, next to azureml-tensorboard and to fetching whole files again.

`start`: seconds from the command until TensorBoard serves the first scalar, and those of all runs: 20 runs on the double, nothing of them here.
`bytes`: what goes over the wire for 20 runs of which 15 have ended and 5 grow, for 40 refreshes: bodies of all answers, counted by the double.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

from benchmarks import raw
from benchmarks.blobs.himl_workspace import HimlWorkspace, himl_workspace
from benchmarks.measure import HIML, clean_environment
from benchmarks.peers import peer_python
from benchmarks.tensorboards.grown_runs import EXPERIMENT, GrownRuns
from benchmarks.tensorboards.told import told
from tests.support.clients import AZUREML_TENSORBOARD

WATCHERS = str(Path(__file__).with_name("tensorboards") / "azureml_watchers.py")
WHOLE_FILES = str(Path(__file__).with_name("tensorboards") / "whole_files.py")
ENDED, GOING_ON, REFRESHES = 15, 5, 40
SIZE, STEP = 1 << 20, 16 << 10
FIRST_SCALAR, ALL_RUNS = "until the first scalar is served", "until those of all 20 runs are"
EVENTS, ALL_BYTES = "event bytes of 40 refreshes", "all bytes of 40 refreshes"
PATIENCE = 120.0
SELECTED = ("tb", "--experiment", EXPERIMENT, "--num_runs", "all")
Way = Callable[[HimlWorkspace, GrownRuns, Path, Mapping[str, str]], None]
DIRECT = build_opener(ProxyHandler({}))
HIML_TB, AZUREML, WHOLE, ALONE = "himl tb", "azureml-tensorboard", "whole files again", "TensorBoard alone, files here"
NEW = "new bytes"


@dataclass(frozen=True)
class Traffic:
    """Bodies of answers in bytes, those of event files among them, and requests."""

    events: int
    all: int
    requests: int


def traffic(himl: HimlWorkspace) -> Traffic:
    seen, blobs = himl.staged.stage.log.all(), himl.staged.state.storage.host
    of_files = [one for one in seen if one.host == blobs and one.method == "GET" and "tfevents" in one.path]
    return Traffic(sum(one.received for one in of_files), sum(one.received for one in seen), len(seen))


def environment_of(himl: HimlWorkspace, folder: Path) -> dict[str, str]:
    return {**clean_environment(), **himl.staged.environment(), **himl.environment(), "HOME": str(folder)}


def until(is_so: Callable[[], bool], what: str, pause: float = 0.02) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            sys.exit(f"waited {PATIENCE:.0f} s in vain: {what}")
        time.sleep(pause)


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The program, ended with the context."""
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    drain = threading.Thread(target=lambda: [*(process.stderr or ())])
    drain.start()
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        drain.join()
        if process.stdin is not None:
            process.stdin.close()


def ask(port: int, path: str, **query: str) -> Any:
    try:
        with DIRECT.open(f"http://localhost:{port}/data/plugin/scalars/{path}?{urlencode(query)}", timeout=10) as answer:
            return json.load(answer)
    except (OSError, ValueError, HTTPException):
        return {}


def seconds_until_served(command: Sequence[str], environment: Mapping[str, str], port: int, runs: int) -> tuple[float, float]:
    """From the start of *command* until TensorBoard at *port* gives points of one run, and of so many."""
    start = time.perf_counter()
    with running(command, environment):
        until(lambda: any(ask(port, "scalars", run=run, tag="loss") for run in [*ask(port, "tags")][:1]), f"a scalar of {command[0]}", 0.01)
        first = time.perf_counter() - start
        until(lambda: sum("loss" in tags for tags in ask(port, "tags").values()) == runs, f"all runs of {command[0]}", 0.01)
        return first, time.perf_counter() - start


def free_port() -> int:
    with socket.socket() as anywhere:
        anywhere.bind(("localhost", 0))
        return int(anywhere.getsockname()[1])


def measure_start(himl: HimlWorkspace, folder: Path, rounds: int, python: Path | None, record: raw.Raw) -> None:
    """Seconds of each candidate and round; azureml-tensorboard by *python*, where there is one."""
    runs = GrownRuns(himl.staged, ENDED, GOING_ON, SIZE, STEP, REFRESHES)
    environment = {**environment_of(himl, folder), "no_grpc_proxy": "localhost"}  # the double is a proxy, and TensorBoard would not reach its own data server
    subprocess.run([HIML, *SELECTED, "--sync_only", "--run_logs_dir", str(folder / "here"), "-q"], env=environment, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (ALONE, HIML_TB, AZUREML) if python is not None or name != AZUREML}
    for number in range(rounds):
        for name in list(found)[:: -1 if number % 2 else 1]:
            port = free_port()
            command = {
                ALONE: [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder / "here"), "--port", str(port)],
                HIML_TB: [HIML, *SELECTED, "--port", str(port), "--run_logs_dir", str(folder / f"copies {number}")],
                AZUREML: [str(python), WATCHERS, "serve", str(port), *runs.names],
            }[name]
            first, last = seconds_until_served(command, environment, port, len(runs.runs))
            found[name].append((first, last))
            record.add(FIRST_SCALAR, name, number + 1, wall=first)
            record.add(ALL_RUNS, name, number + 1, wall=last)
    print(f"{len(runs.runs)} runs of {SIZE >> 10} KiB{'':24} {'first scalar, s':>16} {'of all runs, s':>16}")
    for name, seconds in found.items():
        first, last = (statistics.median(one) for one in zip(*seconds, strict=True))
        print(f"{name:41} {first:16.2f} {last:16.2f}")
    print()


def measure_bytes(himl: HimlWorkspace, folder: Path, python: Path | None, record: raw.Raw) -> None:
    """What each candidate fetches; azureml-tensorboard by *python*, where there is one."""
    ways: dict[str, Way] = {HIML_TB: himl_tb, WHOLE: whole_files}
    if python is not None:
        ways[AZUREML] = partial(azureml_tensorboard, python)
    found, there = {}, 0
    for name, way in ways.items():
        with himl.staged.stage.own_workspaces():
            own = replace(himl, staged=himl.staged.stage.workspace())
            runs = GrownRuns(own.staged, ENDED, GOING_ON, SIZE, STEP, REFRESHES)
            own.staged.stage.log.clear()
            copies = folder / name
            way(own, runs, copies, environment_of(own, folder))
            found[name], there = traffic(own), runs.bytes_there
            if bytes_below(copies) != there:
                sys.exit(f"{name} has {bytes_below(copies)} bytes of {there}")
            record.add(EVENTS, name, 1, bytes=found[name].events)
            record.add(ALL_BYTES, name, 1, bytes=found[name].all, requests=found[name].requests)
    record.add(EVENTS, NEW, 1, bytes=there)
    print(f"{ENDED} runs have ended, {GOING_ON} grow, {REFRESHES} refreshes, {there:,} new bytes")
    print(f"{'':22} {'event bytes':>14} {'x new':>7} {'all bytes':>14} {'requests':>9} {'all: times himl':>16}")
    for name, one in found.items():
        print(f"{name:22} {one.events:14,} {one.events / there:7.3f} {one.all:14,} {one.requests:9,} {one.all / found[HIML_TB].all:16.2f}")


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*tfevents*"))


def himl_tb(himl: HimlWorkspace, runs: GrownRuns, folder: Path, environment: Mapping[str, str]) -> None:
    """It looks every second; the next bytes are written once those before have come."""
    with running([HIML, *SELECTED, "--port", str(free_port()), "--refresh", "1", "--run_logs_dir", str(folder)], environment):
        for _ in range(REFRESHES):
            until(lambda: bytes_below(folder) == runs.bytes_there, "himl has all bytes")
            runs.grow()
        until(lambda: bytes_below(folder) == runs.bytes_there, "himl has all bytes")


def azureml_tensorboard(python: Path, himl: HimlWorkspace, runs: GrownRuns, folder: Path, environment: Mapping[str, str]) -> None:
    with told([str(python), WATCHERS, "refresh", str(folder), *runs.names], environment) as watchers:
        watchers.once_more()
        for _ in range(REFRESHES):
            runs.grow()
            watchers.once_more()


def whole_files(himl: HimlWorkspace, runs: GrownRuns, folder: Path, environment: Mapping[str, str]) -> None:
    storage = himl.staged.state.storage
    address = f"https://{storage.host}/azureml?{storage.container_sas('azureml')}"
    with told([sys.executable, WHOLE_FILES, address, str(folder), *(run.artifact_prefix for run in runs.runs)], environment) as fetching:
        fetching.once_more()
        for _ in range(REFRESHES):
            runs.grow()
            fetching.once_more()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["start", "bytes"])
    raw.add_option(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, raw.recording("tb", args.raw) as record:
        python = peer_python(record, AZUREML_TENSORBOARD, AZUREML, "azureml-tensorboard", "tensorboard")
        with himl_workspace(Path(name) / "double") as himl:
            if args.only != "bytes":
                measure_start(himl, Path(name), args.rounds, python, record)
            if args.only != "start":
                measure_bytes(himl, Path(name), python, record)


if __name__ == "__main__":
    main()
