"""Measure `himl tb`, next to azureml-tensorboard and a client that fetches whole files each time.

`start`: seconds from the command until TensorBoard serves the first scalar, and those of all 20 runs on the double,
without local copies. `bytes`: the traffic of 40 refreshes with 15 ended and 5 growing runs, as the bodies of all
answers, counted by the double."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil

from benchmarks.blob_services import free_port
from benchmarks.measure import HIML, PROGRAMS, HimlWorkspace, himl_workspace, new_parser, peer_python, recording, turns
from benchmarks.raw import Raw
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.state import Run
from tests.support.clients import AZUREML_TENSORBOARD
from tests.support.running import until
from tests.support.tensorboard import DIRECT, NAME, event_bytes

ENDED, GROWING, REFRESHES = 15, 5, 40
SIZE, STEP = 1 << 20, 16 << 10
FIRST_SCALAR, ALL_RUNS = "until the first scalar is served", "until the scalars of all 20 runs are served"
EVENTS, ALL_BYTES = "event bytes of 40 refreshes", "all bytes of 40 refreshes"
HIML_TB, AZUREML, WHOLE, ALONE = (
    "himl tb",
    "azureml-tensorboard",
    "whole files each time",
    "TensorBoard alone, local files",
)
SELECTED = [HIML, "tb", "--experiment", "train", "--num_runs", "all"]


class GrownRuns:
    """Runs whose file `logs/NAME` has SIZE bytes. Each `grow` adds STEP bytes to those in progress."""

    def __init__(self, staged: StagedWorkspace) -> None:
        self._staged, self._size, most = staged, 0, SIZE + STEP * REFRESHES
        # The file has one point of `loss` after another.
        self._all = event_bytes([1 / (1 + 0.001 * step) for step in range(1 + most // 40)])
        assert len(self._all) >= most
        self.runs: list[Run] = []
        for number in range(ENDED + GROWING):
            status = "Completed" if number < ENDED else "Running"
            run = staged.add_run(f"train_{number}_{number:02x}", "train", status=status, display_name=f"lr {number}")
            staged.put_artifacts(run, {"user_logs/std_log.txt": b"epoch 1\n" * 100, "outputs/model.pt": b"m" * 1000})
            if number < ENDED:
                staged.put_artifact(run, f"logs/{NAME}", self._all[:SIZE])
            self.runs.append(run)
        self.names = [run.run_id for run in self.runs]
        self.grow(SIZE)

    @property
    def bytes_there(self) -> int:
        """Size of all event files, the minimum that a client must fetch to show them."""
        return ENDED * SIZE + GROWING * self._size

    def grow(self, step: int = STEP) -> None:
        for run in self.runs[ENDED:]:
            self._staged.state.storage.append(
                "azureml", f"{run.artifact_prefix}logs/{NAME}", self._all[self._size : self._size + step]
            )
        self._size += step


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            below = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait()
            for each in below:  # azureml-tensorboard leaves its TensorBoard
                with suppress(psutil.NoSuchProcess):
                    each.kill()


def seconds_until_served(
    command: Sequence[str], environment: Mapping[str, str], port: int, runs: int
) -> tuple[float, float]:
    """Return the seconds from the start of *command* until TensorBoard at *port* serves points of one run, and of
    all *runs* runs.
    """

    def ask(path: str, **query: str) -> Any:
        try:
            with DIRECT.open(
                f"http://localhost:{port}/data/plugin/scalars/{path}?{urlencode(query)}", timeout=10
            ) as answer:
                return json.load(answer)
        except (OSError, ValueError, HTTPException):
            return {}

    start = time.perf_counter()
    with running(command, environment):
        until(
            lambda: any(ask("scalars", run=run, tag="loss") for run in [*ask("tags")][:1]), f"a scalar of {command[0]}"
        )
        first = time.perf_counter() - start
        until(lambda: sum("loss" in tags for tags in ask("tags").values()) == runs, f"all runs of {command[0]}")
        return first, time.perf_counter() - start


def measure_start(himl: HimlWorkspace, folder: Path, rounds: int, python: str, record: Raw) -> None:
    """Record the seconds of each candidate and round. azureml-tensorboard runs with *python*, unless that is empty."""
    runs, copies = GrownRuns(himl.staged), str(folder / "copies")
    # The double is a proxy, through which TensorBoard could not reach its data server.
    environment = himl.environment(HOME=str(folder), no_grpc_proxy="localhost")
    subprocess.run(
        [*SELECTED, "--sync_only", "--run_logs_dir", copies, "-q"],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    commands = {
        ALONE: [sys.executable, "-m", "tensorboard.main", "--logdir", copies, "--port"],
        HIML_TB: [*SELECTED, "--no_token", "--port"],
        **({AZUREML: [python, PROGRAMS, "serve"]} if python else {}),
    }
    for number, name in turns(commands, rounds):
        port, more = (
            free_port(),
            {HIML_TB: ["--run_logs_dir", str(folder / f"copies {number}")], AZUREML: runs.names}.get(name, []),
        )
        first, last = seconds_until_served([*commands[name], str(port), *more], environment, port, len(runs.runs))
        record.add(FIRST_SCALAR, name, number, wall=first)
        record.add(ALL_RUNS, name, number, wall=last)


def measure_bytes(himl: HimlWorkspace, folder: Path, python: str, record: Raw) -> None:
    """Record the bytes that each candidate fetches. azureml-tensorboard runs with *python*, unless that is empty."""
    there = 0
    for name in (HIML_TB, WHOLE, *([AZUREML] if python else [])):
        with himl.staged.stage.own_workspaces():
            own = replace(himl, staged=himl.staged.stage.workspace())
            runs, copies, storage = GrownRuns(own.staged), folder / name, own.staged.state.storage
            own.staged.stage.log.clear()
            environment = own.environment(HOME=str(folder))
            if name == HIML_TB:
                follow(runs, copies, environment)
            elif name == AZUREML:
                refresh([python, PROGRAMS, "watch", str(copies), *runs.names], runs, environment)
            else:
                address = f"https://{storage.host}/azureml?{storage.container_sas('azureml')}"
                refresh(
                    [
                        sys.executable,
                        PROGRAMS,
                        "whole_files",
                        address,
                        str(copies),
                        *(run.artifact_prefix for run in runs.runs),
                    ],
                    runs,
                    environment,
                )
            there, seen = runs.bytes_there, own.staged.stage.log.all()
            if bytes_below(copies) != there:
                sys.exit(f"{name} has {bytes_below(copies)} of {there} bytes.")
            of_files = [
                one.received
                for one in seen
                if one.host == storage.host and one.method == "GET" and "tfevents" in one.path
            ]
            record.add(EVENTS, name, 1, bytes=sum(of_files))
            record.add(ALL_BYTES, name, 1, bytes=sum(one.received for one in seen), requests=len(seen))
    record.add(EVENTS, "new bytes", 1, bytes=there)


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*tfevents*"))


def follow(runs: GrownRuns, folder: Path, environment: Mapping[str, str]) -> None:
    """Run `himl tb` with a refresh every second, and write the next bytes when the previous ones have arrived."""
    with running([*SELECTED, "--port", str(free_port()), "--refresh", "1", "--run_logs_dir", str(folder)], environment):
        for number in range(REFRESHES + 1):
            if number > 0:
                runs.grow()
            until(lambda: bytes_below(folder) == runs.bytes_there, "himl has all bytes")


def refresh(command: Sequence[str], runs: GrownRuns, environment: Mapping[str, str]) -> None:
    """Run a program that prints a line when it is ready, and after each refresh, which a line on its standard input
    requests.
    """
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for number in range(REFRESHES + 2):
                if not process.stdout.readline():
                    sys.exit(f"{process.args!r} ended with exit code {process.wait()}")
                if number > REFRESHES:
                    break
                if number > 0:
                    runs.grow()
                process.stdin.write("go\n")
                process.stdin.flush()
        finally:
            process.kill()


if __name__ == "__main__":
    args = new_parser(__doc__, 5).parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        himl_workspace(Path(name, "double")) as himl,
        recording("tb", args.raw) as record,
    ):
        python = peer_python(record, AZUREML_TENSORBOARD, AZUREML, "azureml-tensorboard", "tensorboard")
        measure_start(himl, Path(name), args.rounds, python, record)
        measure_bytes(himl, Path(name), python, record)
