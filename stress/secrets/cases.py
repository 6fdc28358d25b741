"""Every command by every way that it can be given a secret, without a fault and with each of six: what it leaves is searched."""

from __future__ import annotations

import random
import re
import subprocess
import time
from collections.abc import Callable, Mapping

from stress.faults.judge import last_line
from stress.records import Case, Outcome, Result
from stress.secrets.channels import CHANNELS, Channel
from stress.secrets.commands import COMMANDS, Command
from stress.secrets.lab import Lab
from stress.secrets.marks import Marks
from stress.secrets.searching import Search
from stress.secrets.suite import suite_cases
from stress.world import World
from tests.servers.azureml.faults import Action, ExpireSas, Reset, Status
from tests.servers.azureml.issued import listening
from tests.support.running import Outcome as Left

PASSING = 0.5
"""Share of the cases whose fault passes after a few requests."""
DOCUMENTED = frozenset(range(7))
BUG = re.compile(r"[Tt]his is a bug in himl")
FORMS = ("--verbose", "--json")
EXPIRED = "signature expired"
FAULTS: Mapping[str, tuple[Action, str]] = {
    "refused": (Status(403, code="AuthorizationFailure"), ""),
    "rejected": (Status(401, code="InvalidAuthenticationToken"), "api.azureml.ms|management"),
    "busy": (Status(429, retry_after=0), ""),
    "broken": (Status(500), ""),
    EXPIRED: (ExpireSas(), "comp=list|outputs|sig="),
    "reset": (Reset(), "api.azureml.ms|blob|management"),
}
WAYS = ("", *FAULTS)
SHOWN, SAID = 6, 160


def secret_cases() -> list[Case]:
    """The tests of the command line, then the table of commands and channels."""
    return [*suite_cases(), *table_cases()]


def table_cases() -> list[Case]:
    """Those of each command and channel: number 2 n is the n-th way (0: no fault) at `--verbose`, 2 n + 1 the same at `--json`."""
    return [
        Case(f"secrets/{command.name}/{channel}/{number:02d}", _run(command, CHANNELS[channel], way, form))
        for command in COMMANDS
        for channel in command.channels
        for number, (way, form) in enumerate((way, form) for way in WAYS for form in FORMS)
        if not way or (command.meets_faults and (command.signs or way != EXPIRED))
    ]


def _run(command: Command, channel: Channel, way: str, form: str) -> Callable[[World, random.Random], Result]:
    def run(world: World, dice: random.Random) -> Result:
        marks = Marks()
        with listening(marks.add), world.stage.own_workspaces():
            lab = Lab(world, world.stage.workspace(), marks)
            try:
                command.set_up(lab)
                channel.set_up(lab)
                return _judged(lab, command, channel, way, form, dice)
            finally:
                lab.close()

    return run


def _judged(lab: Lab, command: Command, channel: Channel, way: str, form: str, dice: random.Random) -> Result:
    """Call the command and judge it. Raises AssertionError where the double was asked what it does not play."""
    stage = lab.world.stage
    stage.clear()
    if way:
        action, match = FAULTS[way]
        stage.faults.add(action, match, times=dice.randint(1, 3) if dice.random() < PASSING else None)
    begun = time.monotonic()
    try:
        left, seconds, search = lab.run([form], command.call)
    except subprocess.TimeoutExpired:
        return Result(Outcome.lost, None, time.monotonic() - begun, why="hangs")
    hits = sum(len(seen.faults) for seen in stage.log.all())
    unknown = stage.log.unknown()
    assert not unknown, f"the double was asked what it does not play: {unknown}"
    is_met = hits > 0 if way else all(lab.marks.kinds[kind] for kind in channel.kinds)
    outcome, why = verdict(left, search, DOCUMENTED if way else command.codes, is_met=is_met)
    facts = {"form": form, "way": way or "none", "marks": len(lab.marks), "files": search.files, "processes": search.processes}
    if search.passed_over:
        facts["passed_over"] = search.passed_over
    if left.code:
        facts["said"] = lab.world.tidy(last_line(left.stderr))[:SAID]
    return Result(outcome, left.code, seconds, hits, None, lab.world.tidy(why), facts)


def verdict(left: Left, search: Search, codes: frozenset[int], *, is_met: bool) -> tuple[Outcome, str]:
    """How a call ended that left *left* and of which *search* found what leaked; *is_met*: the secret, or the fault, was there."""
    if search.leaks:
        leaks = sorted(set(search.leaks))
        return Outcome.lost, "; ".join(leaks[:SHOWN]) + (f" and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else "")
    if BUG.search(left.stderr):
        return Outcome.lost, f"a failure that himl does not know: {last_line(left.stderr)}"
    if left.code not in codes:
        return Outcome.lost, f"exit code {left.code}, documented: {', '.join(map(str, sorted(codes)))}: {last_line(left.stderr)}"
    if not is_met:
        return Outcome.not_met, ""
    return (Outcome.survived if left.code == 0 else Outcome.reported), ""
