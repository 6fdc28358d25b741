"""Bombs set off in commands that are really started, and what those have to show for themselves."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext

from stress.faults.judge import Ended
from stress.names.bombs import BOMBS, Bomb, Make
from stress.names.bounded import MEMORY, SECONDS, Bounded, run_bounded
from stress.names.commands import COMMANDS, Stage
from stress.names.judge import judge, raw_signs
from stress.names.tree import changes, tree_of
from stress.records import Case, Outcome, Result
from stress.world import World
from tests.support.running import write_files

A_CELL = 4
LONGEST_SAID = 4000
"""Signs of all that is said."""
SAID = 160


def bomb_cases() -> list[Case]:
    return [Case(f"names/bombs/{name}/{number:02d}", _run(make)) for name, make in BOMBS.items() for number in range(A_CELL)]


def _run(make: Make) -> Callable[[World, random.Random], Result]:
    def run(world: World, dice: random.Random) -> Result:
        bomb, project = make(dice), world.folder / "project"
        write_files(project, {"fit.py": b"print('fitted')\n", ".himl/x": b"", **bomb.files})
        before = tree_of(project)
        done = _set_off(world, bomb)
        wrong = bomb_problems(bomb, done) + [f"in the folder {one}" for one in changes(before, tree_of(project)) if not _is_own(one)]
        verdict = judge(done.ended, bomb.codes, wrong, is_all_there=True)
        facts: dict[str, object] = {"cpu": round(done.cpu, 1), "memory": round(done.memory)}
        if done.ended is not None and done.ended.code:
            facts["said"] = world.tidy(_first_line(done.ended))[:SAID]
        outcome = Outcome.reported if done.ended is not None and done.ended.code and verdict.outcome is not Outcome.lost else verdict.outcome
        return Result(outcome, done.ended.code if done.ended else None, done.wall, 1, None, world.tidy(verdict.why)[:1000], facts)

    return run


def _set_off(world: World, bomb: Bomb) -> Bounded:
    project = world.folder / "project"
    stage = world.lasting("names", Stage) if bomb.listing is not None else None
    if stage is not None:
        stage.staged.write_config(world.folder)
    with stage.listing(COMMANDS["datastore"], ()) if stage is not None else nullcontext() as storage:
        if storage is not None:
            storage.text = bomb.listing
            (project / ".himl" / "x").unlink()
            (project / ".himl").rmdir()
        env = stage.environment(world, by_links=False) if stage is not None else world.environment()
        return run_bounded(bomb.arguments, project, env, world.folder)


def bomb_problems(bomb: Bomb, done: Bounded) -> list[str]:
    """What is wrong with how a command took *bomb*: beyond its bounds, not in one line, or with something on stdout although it failed."""
    wrong = [f"it took {done.cpu:.1f} s"] if done.cpu > SECONDS else []
    wrong += [f"it took {done.memory:.0f} MiB"] if done.memory > MEMORY >> 20 else []
    if done.ended is None or done.ended.code == 0:
        return wrong
    lines = done.ended.stderr.splitlines()
    told = [line for line in lines if line.startswith("error: ")]
    if len(told) != 1 or any(not line.startswith(("error: ", "hint: ", "Sweep: ")) for line in lines):
        wrong.append(f"it says {len(lines)} lines: {lines[:3]}")
    if len(done.ended.stderr) > LONGEST_SAID:
        wrong.append(f"it says {len(done.ended.stderr):,} signs")
    if done.ended.stdout:
        wrong.append(f"on stdout: {done.ended.stdout[:100]!r}")
    return wrong + ([f"raw signs: {raw}"] if (raw := raw_signs(done.ended.stderr)) else [])


def _is_own(change: str) -> bool:
    """Whether the change is one to himl's own folder, or that there is none in its place."""
    return change.startswith(("'.himl", "'.amlignore"))


def _first_line(ended: Ended) -> str:
    return next(iter(ended.stderr.splitlines()), "")
