"""Measure how the memory and the open handles of programs that run for hours grow. Linux only (/proc), needs sshd of
OpenSSH.

A job logs eighty points a second with MLflow and an event file, here and on a machine that is reached by SSH.
Meanwhile, `himl runs list --watch` (of both workspaces), `himl tb` and `himl ui` show it, and get requests as from a
page that is open. `--minutes` is the time after the warm-up."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request

import psutil

from benchmarks.aims import LOGS
from benchmarks.blob_services import free_port
from benchmarks.measure import HIML, clean_environment, new_parser, recording
from benchmarks.raw import Raw
from benchmarks.report import soaked
from tests.support.running import until, write_files
from tests.support.ssh import running_ssh
from tests.support.tensorboard import DIRECT, WRITER
from tests.support.terminals import Terminal

MINUTES, WARM_UP = 120.0, 15.0
SAMPLE, WINDOW = 0.5, 60.0
"""Seconds between two samples, and those of which a round has the medians."""
SCRIPT = f"""{WRITER}
import mlflow

writer, step, begin = EventFileWriter("logs"), 0, time.monotonic()
while True:
    mlflow.log_metric("loss", 1 / (1 + step), step)
    write(writer, "loss", step, 1 / (1 + step))
    if step % 10 == 0:
        print("step", step, flush=True)
    step += 1
    time.sleep(max(0.0, begin + step / 80 - time.monotonic()))
"""
API = "ajax-api/2.0/mlflow"
AGENT, SUPERVISOR = "himl_cli.remote", "himl_cli.workspaces.local.supervisor"


@dataclass(frozen=True)
class Watched:
    """Processes by the name under which their figures are recorded, and the requests that a page sends, as address
    and JSON body.
    """

    processes: Mapping[str, psutil.Process]
    requests: Sequence[tuple[str, Any]]

    def ask(self) -> None:
        for address, body in self.requests:
            asked(address, body)


def asked(address: str, body: Any = None) -> Any:
    """The JSON of the answer, None if there is none."""
    request = Request(
        address, None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with suppress(OSError, ValueError), DIRECT.open(request, timeout=60) as answer:
        return json.load(answer)
    return None


@contextmanager
def running(folder: Path) -> Iterator[Watched]:
    """Start the jobs and the programs. They end with the context."""
    with ExitStack() as stack:
        (folder / "server").mkdir()
        box = stack.enter_context(running_ssh(folder / "server"))
        project, home = folder / "project", folder / "home"
        home.mkdir()
        write_files(project, {"train.py": SCRIPT})
        box.set(project)
        sockets = stack.enter_context(tempfile.TemporaryDirectory(prefix="t"))
        path = f"{box.programs}{os.pathsep}{os.environ['PATH']}"
        env = clean_environment() | {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": sockets,
            "PATH": path,
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

        def himl(*words: str) -> str:
            return subprocess.run(
                [HIML, *words], cwd=project, env=env, check=True, stdout=subprocess.PIPE, text=True
            ).stdout.strip()

        run = himl("submit", "train.py", "--no_wait", "-q")
        stack.callback(himl, "runs", "cancel", run)
        there = himl("submit", "train.py", "--cluster", "ssh:box", "-q")
        stack.callback(himl, "runs", "cancel", there, "-w", "ssh:box")
        watches = {"runs list --watch": (), "runs list --watch, by SSH": ("-w", "ssh:box")}
        found = {
            name: started(stack, ("runs", "list", "--watch", *more), project, env) for name, more in watches.items()
        }
        tb, ui = free_port(), free_port()
        found["himl tb"] = started(stack, ("tb", run, "--no_token", "--port", str(tb)), project, env)
        found["himl ui"] = started(stack, ("ui", "--no_token", "--port", str(ui), "-w", "local"), project, env)
        until(lambda: asked(f"http://localhost:{tb}/data/plugin/scalars/tags"), "himl tb has scalars")
        until(lambda: asked(f"http://localhost:{ui}/{API}/runs/get?run_id={run}"), "himl ui shows the run")
        for place, name in ((project, "here"), (box.home, "by SSH")):
            found[f"supervisor, {name}"] = only(place, SUPERVISOR)
            found[f"script, {name}"] = only(place, "train.py", SUPERVISOR)
        found["agent, by SSH"] = only(box.home, AGENT)
        found |= {f"server of {name}": child for name in ("himl tb", "himl ui") for child in found[name].children()[:1]}
        for child in found["server of himl tb"].children()[:1]:
            found["data server of TensorBoard"] = child
        history = {"run_ids": run, "metric_key": "loss", "max_results": 320}
        (shown,) = asked(f"http://localhost:{tb}/data/plugin/scalars/tags")
        scalars = {"run": shown, "tag": "loss"}
        yield Watched(
            found,
            (
                (
                    f"http://localhost:{ui}/{API}/runs/search",
                    {"experiment_ids": [experiment["experiment_id"] for experiment in experiments(ui)]},
                ),
                (f"http://localhost:{ui}/{API}/runs/get?run_id={run}", None),
                (f"http://localhost:{ui}/{API}/metrics/get-history-bulk-interval?{urlencode(history)}", None),
                (f"http://localhost:{tb}/data/plugin/scalars/tags", None),
                (f"http://localhost:{tb}/data/plugin/scalars/scalars?{urlencode(scalars)}", None),
            ),
        )


def experiments(port: int) -> Sequence[Mapping[str, str]]:
    found: Mapping[str, Sequence[Mapping[str, str]]] = (
        asked(f"http://localhost:{port}/{API}/experiments/search?max_results=100") or {}
    )
    return found.get("experiments", ())


def started(stack: ExitStack, words: Sequence[str], folder: Path, env: Mapping[str, str]) -> psutil.Process:
    """A command of himl in a terminal, which Ctrl-C ends."""
    terminal = Terminal([HIML, *words], cwd=folder, env=env)
    stack.callback(terminal.finish)
    stack.callback(terminal.interrupt)
    return psutil.Process(terminal.pid)


def only(folder: Path, word: str, without: str = " ") -> psutil.Process:
    """The process below *folder* whose command line has *word*, and not *without*."""
    found = list[psutil.Process]()

    def look() -> bool:
        found.clear()
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                command = process.cmdline()
                is_it = any(one.endswith(word) for one in command) and without not in command
                if is_it and process.cwd().startswith(str(folder)) and "ssh" not in process.name():
                    found.append(process)
        return bool(found)

    until(look, f"a process '{word}' runs below {folder}")
    return found[0]


def measure(watched: Watched, minutes: float, record: Raw) -> None:
    """Record, for each process and minute after the warm-up, the medians of its resident memory, of that without files
    and shared memory, which the kernel drops when memory is short, and of its number of open handles."""
    begin, number = time.monotonic(), 0
    warm = begin + min(WARM_UP, minutes / 4) * 60
    end = warm + minutes * 60
    while (now := time.monotonic()) < end:
        samples = defaultdict[str, list[tuple[int, int, int]]](list)
        while time.monotonic() < now + WINDOW:
            watched.ask()
            for name, process in watched.processes.items():
                used = process.memory_info()
                samples[name].append((used.rss, used.rss - used.shared, process.num_fds()))
            time.sleep(SAMPLE)
        if now < warm:
            continue
        number += 1
        for name, taken in samples.items():
            memory, own, handles = (statistics.median(column) for column in zip(*taken, strict=True))
            record.add(LOGS, name, number, wall=time.monotonic() - begin, memory=memory, bytes=own, operations=handles)
        if number % 10 == 1:
            print(
                number,
                {name: round(taken[-1][0] / 1e6, 1) for name, taken in samples.items()},
                file=sys.stderr,
                flush=True,
            )


if __name__ == "__main__":
    parser = new_parser(__doc__, 1)
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"time after the warm-up (default: {MINUTES:g})")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="himl-soak-", ignore_cleanup_errors=True) as place,
        recording("soak", args.raw) as record,
    ):
        with running(Path(place)) as watched:
            measure(watched, args.minutes, record)
        print(soaked(record), end="\n\n")
