"""Each signal at each command, at a moment that the seed gives."""

from __future__ import annotations

import random
import re
import shutil
import signal
import statistics
import subprocess
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stress.faults.judge import Ended, last_line
from stress.kills.commands import KINDS, Killed, Moving
from stress.kills.judge import judge_first, judge_then
from stress.kills.local_run import Here
from stress.kills.victims import ALL, GROUP, HIML, Blow, Started, Struck
from stress.records import Case, Outcome, Result
from stress.world import World
from tests.support.processes import MARK, processes_marked

A_CELL = 50
"""Cases of each signal at each command: 50 are 200 a signal over the four commands, 200 are 200 a signal at each of them."""
DRAWS = 4
"""A case in which the command ended before the signal came is drawn anew so often at most, the first one included."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
COMMANDS = ("local", "submit", "upload", "download")
BEYOND = 1.1
"""Signals come up to so many times the usual duration after the start."""
TWICE, WITHIN = 0.1, 0.5
"""Share of cases with a second signal, and the seconds within which that comes."""
WARM = 0.7
MEASURED = 3
LIMIT, NEXT_LIMIT = 120.0, 60.0
GONE, JOB_GONE = 5.0, 30.0
"""Seconds after which nothing of a command may be there any more, and nothing of a job whose waiting himl was killed: that goes on to its end."""
SAID = 160
_RUN_ID = re.compile(r"\b\w+_\d{10}_[0-9a-f]{8}\b")


@dataclass(frozen=True)
class Pace:
    """How long a command takes, and the home folder that it begins with (None: an empty one)."""

    seconds: float
    memory: Path | None


def kill_cases() -> list[Case]:
    width = len(str(A_CELL - 1))
    cells = [(command, number) for command in COMMANDS for number in SIGNALS]
    return [Case(f"kills/{command}/{number.name}/{at:0{width}d}", _run(command, number)) for command, number in cells for at in range(A_CELL)]


def draw(number: signal.Signals, victims: Sequence[str], seconds: float, dice: random.Random) -> list[Blow]:
    """A signal within the life of a command that takes *seconds*, and perhaps a second one."""
    blows = [Blow(number, dice.random() * BEYOND * seconds, dice.sample(victims, len(victims)))]
    is_second, within, other = dice.random() < TWICE, dice.random() * WITHIN, dice.choice(SIGNALS)
    if is_second:
        blows.append(Blow(other, blows[0].after + within, blows[0].order))
    return blows


def made(command: str, world: World, dice: random.Random) -> Killed:
    """The command in the folder of a case."""
    return Here(world) if command == "local" else Moving(world, KINDS[command], dice, (HIML, GROUP))


def _run(command: str, number: signal.Signals) -> Callable[[World, random.Random], Result]:
    def run(world: World, dice: random.Random) -> Result:
        draws, result = 1, _tried(world, command, number, dice)
        while result.outcome is Outcome.not_met and draws < DRAWS:  # quicker than it was: what it took this time counts
            draws, result = draws + 1, _tried(world, command, number, dice, result.seconds)
        return replace(result, facts={**result.facts, "draws": draws})

    return run


def _tried(world: World, command: str, number: signal.Signals, dice: random.Random, seconds: float | None = None) -> Result:
    """One draw, within *seconds* (None: the usual duration). Raises AssertionError where the double was asked what it does not play."""
    is_warm = dice.random() < WARM
    pace = _pace(world, command, is_warm=is_warm)
    seconds = seconds or pace.seconds
    killed = made(command, world, dice)
    world.begin_with(pace.memory)
    mark = uuid.uuid4().hex
    env = {**killed.environment(), MARK: mark}
    started = Started(killed.arguments, killed.cwd, env, mark, world.folder)
    try:
        struck = [hit for blow in draw(number, killed.victims, seconds, dice) if (hit := started.strike(blow)) is not None]
        ended = started.outcome(LIMIT)
        result = _judged(world, killed, ended, struck, env, mark, started.seconds)
        unknown = world.stage.log.unknown()
        assert not unknown, f"the double was asked what it does not play: {unknown}"
    finally:
        started.end()
        killed.close()
        shutil.rmtree(killed.cwd)
    facts = {**result.facts, "of": round(seconds, 2), "signals": [hit.number.name for hit in struck]}
    if killed.remembers:
        facts["cache"] = "warm" if is_warm else "cold"
    if struck:
        facts |= {"after": round(struck[0].after, 3), "victim": struck[0].victim}
    return replace(result, facts=facts, hits=len(struck))


def _judged(world: World, killed: Killed, ended: Ended | None, struck: Sequence[Struck], env: dict[str, str], mark: str, seconds: float) -> Result:
    goes_on = ended is not None and not is_waited_for(ended, struck)
    is_beside = goes_on and killed.overlaps
    again = _again(world, killed, env) if is_beside else None
    orphans = processes_marked(mark, patience=JOB_GONE if goes_on else GONE)
    problems = killed.first(ended, again) if ended is not None and not orphans else []
    verdict = judge_first(ended, struck, orphans, problems)
    left = {"leftovers": killed.leftovers()}
    if verdict.outcome is not Outcome.lost:
        again = again if is_beside else _again(world, killed, env)
        orphans = processes_marked(mark, patience=GONE)
        problems = killed.then(again) if again is not None and again.code == 0 else []
        verdict = judge_then(verdict, again, orphans, problems)
        left["left_then"] = killed.leftovers()
    is_met = bool(struck) and not (ended is not None and ended.code == 0 and struck[0].number is signal.SIGKILL and struck[0].victim in (HIML, GROUP, ALL))
    outcome = verdict.outcome if is_met or verdict.outcome is Outcome.lost else Outcome.not_met
    facts = {**left, **killed.facts()}
    if ended is not None and ended.code > 0:
        facts["said"] = in_short(world, last_line(ended.stderr))[:SAID]
    return Result(outcome, ended.code if ended else None, seconds, 0, again.code if again else None, in_short(world, verdict.why), facts)


def in_short(world: World, text: str) -> str:
    """*text* without paths of this machine and ids of this run, those of jobs among them."""
    return _RUN_ID.sub("…", world.tidy(text))


def is_waited_for(ended: Ended, struck: Sequence[Struck]) -> bool:
    """Whether the command ended when its work had: one that died of a signal did not, nor one that a second signal told to wait no longer."""
    return ended.code >= 0 and len(struck) < 2


def _again(world: World, killed: Killed, env: dict[str, str]) -> Ended | None:
    """The same command with nothing in its way; None where that took too long."""
    try:
        outcome = world.himl(*killed.arguments, cwd=killed.cwd, env=env, limit=NEXT_LIMIT)
    except subprocess.TimeoutExpired:
        return None
    return Ended(outcome.code, outcome.stdout, outcome.stderr)


def _pace(world: World, command: str, *, is_warm: bool) -> Pace:
    """That of *command* in this world, measured when it is first asked for."""
    if command == "local":
        return world.lasting("pace of local", lambda world: Pace(_measured(world, command, None), None))
    if not is_warm:
        return world.lasting(f"pace of {command}, cold", lambda world: Pace(_measured(world, command, None), None))
    return world.lasting(f"pace of {command}, warm", lambda world: _warm_pace(world, command))


def _warm_pace(world: World, command: str) -> Pace:
    """With a home folder that remembers one call."""
    _alone(world, command, None)
    memory = world.place / "memory of kills" / command
    shutil.copytree(world.home, memory)
    return Pace(_measured(world, command, memory), memory)


def _measured(world: World, command: str, memory: Path | None) -> float:
    """The median duration in seconds."""
    return statistics.median(_alone(world, command, memory) for _ in range(MEASURED))


def _alone(world: World, command: str, memory: Path | None) -> float:
    """How long *command* takes that nobody kills. Raises AssertionError where it does not do what it should."""
    killed = made(command, world, random.Random(uuid.uuid4().hex))
    world.begin_with(memory)
    mark = uuid.uuid4().hex
    started = Started(killed.arguments, killed.cwd, {**killed.environment(), MARK: mark}, mark, world.folder)
    try:
        ended = started.outcome(LIMIT)
        seconds = started.seconds
        orphans = processes_marked(mark, patience=GONE)
        verdict = judge_first(ended, [], orphans, killed.first(ended) if ended is not None else [])
        assert verdict.outcome is Outcome.survived, f"without any signal: {verdict.why}"
        assert not killed.leftovers(), f"without any signal {killed.leftovers()} temporary files are left"
    finally:
        started.end()
        killed.close()
        shutil.rmtree(killed.cwd)
    return seconds
