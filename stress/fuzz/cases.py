"""The cases of fuzzing: each parser with so many examples, drawn by numbers that the seed gives.

For Linux, as `trying.py` is.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

from stress.fuzz import names
from stress.fuzz.answers import answer_cases
from stress.fuzz.tried import Tried
from stress.records import Case, Outcome, Result
from stress.world import World

A_TARGET, EXAMPLES = 8, 250
"""Cases of each target, and examples of each case."""
PATIENCE = 900.0
"""Seconds for a case; its examples have bounds of their own, in processor time."""
SECONDS_TO_END = 10.0
IMPORTED = ("stress.plan", "stress.fuzz.trying", "stress.fuzz.warm")


def fuzz_cases() -> list[Case]:
    """Those of whole commands, then those of all parsers."""
    return [*answer_cases(), *(Case(f"fuzz/{target}/{number:02d}", _run(target)) for target in names.TARGETS for number in range(A_TARGET))]


def _run(target: str) -> Callable[[World, random.Random], Result]:
    def run(world: World, dice: random.Random) -> Result:
        begun = time.monotonic()
        code, tried = _tried(world, target, dice.getrandbits(64))
        seconds = time.monotonic() - begun
        return Result(_outcome(tried), code, seconds, tried.refused, why=world.tidy(tried.why), facts={"examples": tried.examples})

    return run


def _outcome(tried: Tried) -> Outcome:
    if tried.why:
        return Outcome.lost
    if not tried.is_met:
        return Outcome.not_met
    return Outcome.reported if tried.refused else Outcome.survived


def _tried(world: World, target: str, seed: int) -> tuple[int | None, Tried]:
    """How the process that tried the examples ended, and what came of them."""
    context = world.lasting("forks", _forks)
    folder = world.folder / "tmp"
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_try, args=(theirs, target, seed, EXAMPLES, folder))
    process.start()
    theirs.close()
    try:
        if not ours.poll(PATIENCE):
            return None, Tried(0, 0, f"hangs with {_current(folder)}")
        tried: Tried = ours.recv()
        process.join(SECONDS_TO_END)
        return process.exitcode, tried
    except EOFError:
        process.join(SECONDS_TO_END)
        return process.exitcode, Tried(0, 0, f"the process ended with {process.exitcode} at {_current(folder)}")
    finally:
        ours.close()
        process.kill()
        process.join()


def _try(*arguments: object) -> None:
    from stress.fuzz import trying

    trying.main(*arguments)  # type: ignore[arg-type]


def _forks(world: World) -> ForkServerContext:
    """Processes of it begin with the imports behind them, and with the files that Hypothesis keeps in the world's folder."""
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(world.place / "hypothesis")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


def _current(folder: Path) -> str:
    """The example that was being tried."""
    try:
        return (folder / "current").read_text(encoding="utf-8")
    except OSError:
        return "no example yet"
