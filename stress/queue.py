"""Runs of two workspaces that wait for four simulated GPUs, while their processes are killed: `queue/<number of
runs>/NN`. Linux only.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

from stress.records import Case, Result
from stress.world import World
from tests.support.running import PROGRAM, until, write_files

NUMBERS = {200: 2, 30: 4}  # cases with so many runs
SUBMITTERS, GPUS, MOST_GPUS = 8, 4, 3
RUNS_PER_KILL = 200 / 60
LIMIT = 900.0
SLACK = 2.0  # seconds from a claim to the start of its script, on a busy machine
SCRIPT = """
import fcntl, os, sys, time
begun = time.time()
place, seconds = sys.argv[1:]
gpus = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
locks = [open(os.path.join(place, "gpu_" + gpu), "a") for gpu in gpus]
try:
    for lock in locks:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    what = "begin"
except OSError:
    what = "twice"
with open(os.path.join(place, "journal"), "a") as journal:
    journal.write(f"{os.environ['AZUREML_RUN_ID']} {what} {begun} {len(gpus)}\\n")
time.sleep(float(seconds))
"""
"""Writes its start into a journal, and whether another job has one of its GPUs."""
STATES = """
from himl_cli.workspaces.local.claims import HOLD, WAIT, entries
print(*(f"{kind} of {entry.run}" for kind in (HOLD, WAIT) for entry in entries(kind)), sep="\\\\n", end="")
"""


class Lab:
    """A machine with GPUs, two workspaces, and processes that submit jobs to them."""

    def __init__(self, world: World) -> None:
        self.world, self.place = world, world.folder / "gpus"
        self.workspaces = [world.folder / name for name in ("one", "two")]
        library = world.folder / "driver" / "libnvidia-ml.so.1"
        for folder in (self.place, library.parent):
            folder.mkdir()
        source = Path(__file__).parents[1] / "tests" / "support" / "nvml.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        for folder in self.workspaces:
            write_files(folder, {"train.py": SCRIPT})
        claims = {"HIML_CLAIMS": str(world.folder / "claims")}
        self.env = {**world.environment(), **claims, "LD_LIBRARY_PATH": str(library.parent), "NVML_GPUS": str(GPUS)}

    def submit(self, jobs: list[tuple[int, int, float]]) -> list[str | None]:
        """Submit the jobs, each with its workspace, GPUs and seconds, one after another. Returns their runs, None
        where a kill ended submit.
        """
        runs = []
        for workspace, gpus, seconds in jobs:
            words = [
                "submit",
                "train.py",
                "--gpus",
                str(gpus),
                "--no_wait",
                "-q",
                "--no_system_metrics",
                "--",
                str(self.place),
                str(seconds),
            ]
            done = subprocess.run(
                [PROGRAM, *words],
                cwd=self.workspaces[workspace],
                env=self.env,
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
            )
            runs.append(done.stdout.strip() or None)
        return runs

    def kill_one(self, dice: random.Random) -> bool:
        """Kill a process of the runs or of the submitters: a supervisor, a shim, a job or himl."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(self.place.parent) in os.readlink(entry / "cwd"):
                    found.append(int(entry.name))
        with suppress(ProcessLookupError, IndexError):
            os.kill(dice.choice(sorted(found)), signal.SIGKILL)
            return True
        return False

    def records(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for folder in self.workspaces:
            listed = self.world.himl(
                "runs", "list", "--num_runs", "all", "--json", cwd=folder, env=self.env, limit=LIMIT
            )
            found |= {run["id"]: run for run in listed.json() or []}
        return found

    def journal(self) -> dict[str, list[str]]:
        return {words[0]: words[1:] for words in map(str.split, (self.place / "journal").read_text().splitlines())}


def crowd(count: int, world: World, dice: random.Random) -> Result:
    lab, begun, is_done, kills = Lab(world), time.monotonic(), Event(), 0
    jobs = [(dice.randrange(2), dice.randint(1, MOST_GPUS), round(dice.uniform(0.0, 0.5), 2)) for _ in range(count)]
    with ThreadPoolExecutor(SUBMITTERS) as pool:
        submitting = [pool.submit(lab.submit, jobs[number::SUBMITTERS]) for number in range(SUBMITTERS)]
        while kills < count / RUNS_PER_KILL and not all(each.done() for each in submitting):
            kills += lab.kill_one(dice)
            is_done.wait(dice.uniform(0.1, 1.5))
        chains = [each.result() for each in submitting]

    def open_runs() -> list[str]:
        return [run["id"] for run in lab.records().values() if run["status"] in ("Queued", "Running")]

    until(lambda: not open_runs(), lambda: f"all runs end: {open_runs()}", seconds=LIMIT)
    wrong = problems(chains, lab.records(), lab.journal(), kills)
    left = subprocess.run(
        [sys.executable, "-c", STATES], env={**os.environ, **lab.env}, capture_output=True, text=True, check=True
    ).stdout
    wrong += [f"left after the end: {line}" for line in left.splitlines()]
    return world.result(wrong, 0, time.monotonic() - begun, kills, {"runs": len(lab.records()), "kills": kills})


def problems(
    chains: list[list[str | None]],
    records: Mapping[str, Mapping[str, Any]],
    journal: Mapping[str, list[str]],
    kills: int,
) -> list[str]:
    """What is wrong with the runs of all submitters once they have ended."""
    wrong = [f"'{run}' has a GPU of another run" for run, (what, *_) in journal.items() if what == "twice"]
    named = [run for chain in chains for run in chain if run is not None]
    wrong += [f"'{run}' is not on record" for run in named if run not in records]
    lacking = sum(map(len, chains)) - [records[run]["status"] for run in named if run in records].count("Completed")
    wrong += [f"{lacking} runs did not complete after {kills} kills"] if lacking > kills else []
    wrong += [
        f"'{run}' completed, and never began"
        for run, record in records.items()
        if record["status"] == "Completed" and run not in journal
    ]
    wrong += [
        f"'{run}' failed without a reason"
        for run, record in records.items()
        if record["status"] == "Failed" and not record["reason"]
    ]
    for chain in chains:
        begun = [(run, float(journal[run][1])) for run in chain if run is not None and run in journal]
        wrong += [
            f"'{later}' began before '{run}'" for (run, at), (later, then) in pairwise(begun) if then + SLACK < at
        ]
    return wrong


def queue_cases() -> list[Case]:
    return [
        Case(f"queue/{runs}/{number:02d}", partial(crowd, runs))
        for runs, count in NUMBERS.items()
        for number in range(count)
    ]


LARGE = frozenset({f"queue/{max(NUMBERS)}"})
