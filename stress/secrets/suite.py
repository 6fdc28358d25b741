"""The tests of the command line as cases: each runs some of their files with the plugin that searches for secrets."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from stress.records import Case, Outcome, Result
from stress.world import World
from tests.support.machine import ROOT

TESTS, CASES = ROOT / "tests" / "commands", 8
LIMIT = 3000.0
SHOWN = 6
PASSED, FAILED = 0, 1
"""Exit codes of pytest by which its tests were run."""


def suite_cases() -> list[Case]:
    return [Case(f"secrets/suite/tests_commands/{number:02d}", _run(files)) for number, files in enumerate(shares(sorted(TESTS.glob("test_*.py")), CASES))]


def shares(files: Sequence[Path], count: int) -> list[list[Path]]:
    """*files* in *count* groups that hold about the same number of tests each."""
    groups: list[tuple[int, int, list[Path]]] = [(0, number, []) for number in range(count)]
    for tests, path in sorted(((path.read_text(encoding="utf-8").count("\ndef test_"), path) for path in files), reverse=True):
        least, number, group = min(groups)
        groups[number] = (least + tests + 1, number, [*group, path])
    return [sorted(group) for _, _, group in groups]


def _run(files: Sequence[Path]) -> Callable[[World, random.Random], Result]:
    def run(world: World, dice: random.Random) -> Result:
        report, log = world.folder / "report.json", world.folder / "said.txt"
        names = [str(path.relative_to(ROOT)) for path in files]
        temporary = ["--basetemp", str(world.folder / "t"), "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "stress.secrets.plugin", "--secrets_report", str(report), *temporary, "-q", *names]
        begun = time.monotonic()
        with log.open("wb") as said:
            done = _ended(command, said.fileno())
        seconds = time.monotonic() - begun
        if done is None:
            return Result(Outcome.lost, None, seconds, why="the tests hang")
        if done not in (PASSED, FAILED) or not report.exists():
            return Result(Outcome.lost, done, seconds, why=f"harness: pytest: {world.tidy(log.read_text(errors='replace')[-400:])}")
        found = json.loads(report.read_text(encoding="utf-8"))
        leaks = found.pop("leaks")
        why = world.tidy("; ".join(leaks[:SHOWN])) + (f" and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else "")
        is_met = found["outputs"] > 0 and found["marks"] > 0
        outcome = Outcome.lost if leaks else Outcome.survived if is_met else Outcome.not_met
        return Result(outcome, done, seconds, why=why, facts=found)

    return run


def _ended(command: Sequence[str], said: int) -> int | None:
    """The exit code of *command*; None where it took too long."""
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
