"""The matrix: each fault met by each command, by numbers that the seed gives."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from stress.faults.commands import COMMANDS, Attempt, Weighted
from stress.faults.faults import FAULTS, Fault
from stress.faults.judge import Ended, Verdict, judge, judge_again, last_line
from stress.faults.places import Place
from stress.faults.stock import Stock
from stress.records import Case, Outcome, Result
from stress.world import World
from tests.servers.azureml.faults import Action

A_CELL = 20
DRAWS = 4
"""A fault that no request met is drawn anew so often at most, the first one included."""
WARM, PASSING, OF_ONE_FILE = 0.7, 0.6, 0.5
"""Shares of cases: where himl remembers an earlier call, where the fault passes, where it meets one file rather than any."""
CONNECTIONS = 3
"""So many are made to a storage account at least; to other hosts it is one."""
SAID = 160


@dataclass(frozen=True)
class Drawn:
    """What goes wrong: *action* at *times* requests (None: all) that *match*, once *skip* such have gone by."""

    action: Action
    match: str
    times: int | None
    skip: int
    text: str
    is_warm: bool


def fault_cases() -> list[Case]:
    """All of them, the faults that take long first."""
    cells = [(fault, command) for fault in FAULTS for command in COMMANDS if command not in fault.lacks]
    return [Case(f"faults/{command}/{fault.name}/{number:02d}", _run(fault, command)) for fault, command in cells for number in range(A_CELL)]


def draw(fault: Fault, places: Weighted, files: Mapping[str, bytes], dice: random.Random) -> Drawn:
    """One way for *fault* to meet a command that makes requests at *places*, and that moves *files*."""
    is_warm = dice.random() < WARM
    fitting = [(place, weight) for place, weight in places if fault.where(place) and not (is_warm and place.is_first_only)]
    if not fitting:  # what it could meet is asked by a first call only
        is_warm, fitting = False, [(place, weight) for place, weight in places if fault.where(place)]
    (place,) = dice.choices([one for one, _ in fitting], [weight for _, weight in fitting])
    which = ""
    if place.is_file and not fault.on_connect and dice.random() < OF_ONE_FILE:
        which = dice.choice(sorted(files))
        place = place.of_file(which, len(files[which]))
    action = fault.make(dice, place)
    times = dice.randint(1, 3) if dice.random() < PASSING else None
    skip = 0 if which else dice.randrange(_among(fault, place))
    where = f"{'connections for ' if fault.on_connect else ''}{place.name}{' of ' if which else ''}{which}"
    text = f"{in_short(action)} at {where}, {times or 'all'} after {skip}"
    return Drawn(action, place.connect if fault.on_connect else place.match, times, skip, text, is_warm)


def _among(fault: Fault, place: Place) -> int:
    """Of how many requests, or connections, at *place* one is drawn."""
    if fault.on_connect:
        return CONNECTIONS if place.is_file else 1
    return place.among


def in_short(action: Action) -> str:
    """*action* with those of its values that are not the usual ones, texts aside."""
    values = [getattr(action, field.name) for field in fields(action) if getattr(action, field.name) != field.default and field.name != "message"]
    return f"{type(action).__name__}({', '.join(map(str, values))})"


def _run(fault: Fault, command: str) -> Callable[[World, random.Random], Result]:
    def run(world: World, dice: random.Random) -> Result:
        stock = world.lasting("stock", Stock)
        memory = world.lasting(f"memory of {command}", lambda world: _first_call(world, stock, command))
        draws, result = 1, _tried(world, stock, memory, fault, command, dice)
        while result.outcome is Outcome.not_met and draws < DRAWS:
            shutil.rmtree(world.folder / "project")
            draws, result = draws + 1, _tried(world, stock, memory, fault, command, dice)
        return replace(result, facts={**result.facts, "draws": draws})

    return run


def _tried(world: World, stock: Stock, memory: Path, fault: Fault, command: str, dice: random.Random) -> Result:
    """One draw. Raises AssertionError where the double was asked what it does not play."""
    attempt = COMMANDS[command](world, stock, dice)
    drawn = draw(fault, attempt.places, attempt.files, dice)
    world.begin_with(memory if drawn.is_warm else None)
    world.stage.clear()
    world.stage.faults.add(drawn.action, drawn.match, times=drawn.times, skip=drawn.skip)
    try:
        begun = time.monotonic()
        ended = call(world, attempt)
        seconds = time.monotonic() - begun
        world.stage.faults.clear()
        hits = sum(len(seen.faults) for seen in world.stage.log.all())
        verdict = _judged(attempt, ended, fault.documented(command) if hits else frozenset({0}))
        again = None
        if verdict.outcome is not Outcome.lost:
            again = call(world, attempt)
            verdict = judge_again(verdict, again, attempt.problems(again, is_done=True))
        unknown = world.stage.log.unknown()
        assert not unknown, f"the double was asked what it does not play: {unknown}"
    finally:
        attempt.close()
    outcome = verdict.outcome if hits or verdict.outcome is Outcome.lost else Outcome.not_met
    facts = {"met": drawn.text, "cache": "warm" if drawn.is_warm else "cold"}
    if ended is not None and ended.code:
        facts["said"] = world.tidy(last_line(ended.stderr))[:SAID]
    return Result(outcome, ended.code if ended else None, seconds, hits, again.code if again else None, world.tidy(verdict.why), facts)


def _judged(attempt: Attempt, ended: Ended | None, documented: frozenset[int]) -> Verdict:
    problems = attempt.problems(ended, is_done=ended is not None and ended.code == 0)
    return judge(ended, documented, problems, prints_on_failure=attempt.prints_on_failure)


def call(world: World, attempt: Attempt) -> Ended | None:
    """The command of *attempt*; None where it was ended for its time."""
    try:
        outcome = world.himl(*attempt.arguments, cwd=attempt.cwd, env=world.environment(attempt.workspace))
    except subprocess.TimeoutExpired:
        return None
    return Ended(outcome.code, outcome.stdout, outcome.stderr)


def _first_call(world: World, stock: Stock, command: str) -> Path:
    """A home folder that remembers one call without any fault. Raises AssertionError where that does not do all that it should."""
    attempt = COMMANDS[command](world, stock, random.Random(command))
    ended = call(world, attempt)
    verdict = _judged(attempt, ended, frozenset({0}))
    attempt.close()
    assert verdict.outcome is Outcome.survived, f"without any fault: {verdict.why}"
    kept = world.place / "memory" / command
    shutil.copytree(world.home, kept)
    shutil.rmtree(attempt.cwd)
    return kept
