"""Copy a disk at random moments of commands, as a power cut would leave it, and mount the copies:
`power/<command>/<file system>/NN`.

Needs root, loop devices, and the programs that create the file systems. Linux only.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from stress.records import Case, Outcome, Result
from stress.world import World, last_line
from tests.support.power_cuts import COMMANDS, SYSTEMS, Disk, fill, problems, results, resumable, runs

NUMBER = 3
MOMENTS, LONGEST = 12, 0.4  # per case; seconds between two
REPEATED = 2  # copies with which the command runs again
LIMIT = 120.0


def power_cases() -> Sequence[Case]:
    return [
        Case(f"power/{command}/{system}/{number:02d}", partial(cut_off, command, system))
        for system in SYSTEMS
        for command in COMMANDS
        for number in range(NUMBER)
    ]


def cut_off(command: str, system: str, world: World, dice: random.Random) -> Result:
    """Cut the power during *command* and at its end, with the cache of himl on the same disk or on another one."""
    lacking = f"needs root, loop devices and {SYSTEMS[system][0][0]}"
    if os.geteuid() != 0 or shutil.which(SYSTEMS[system][0][0]) is None:
        return Result(Outcome.not_met, None, 0.0, why=lacking)
    disk, begun, names = Disk(world.folder, system), time.monotonic(), list(COMMANDS)
    project, env, before = disk.place / "project", world.environment(), names[: names.index(command)]
    is_cached_there, pauses = dice.random() < 0.5, [dice.uniform(0, LONGEST) for _ in range(MOMENTS)]
    chosen = [dice.random() for _ in range(REPEATED)]
    env |= {"XDG_CACHE_HOME": str(disk.place / "cache")} if is_cached_there else {}

    def himl(*words: str) -> None:
        done = world.himl(*words, cwd=project, env=env, limit=LIMIT)
        assert done.code == 0, f"{words[0]}: exit code {done.code}: {last_line(done.stderr)}"

    with disk.mounted() as is_mounted:
        if not is_mounted:
            return Result(Outcome.not_met, None, 0.0, why=lacking)
        project.mkdir()
        fill(project, files=dice.randrange(200, 1000), model=dice.randrange(0, 8 << 20))
        for name in before:
            himl(*COMMANDS[name])
        os.sync()
        cuts = disk.cuts([partial(himl, *COMMANDS[command])], iter(pauses), MOMENTS - 1)
        seconds, wanted = time.monotonic() - begun, results(project)
    wrong, again = list[str](), {cuts[int(share * len(cuts))].image for share in chosen}
    for cut in cuts:
        with disk.mounted(cut.image) as is_mounted:
            wrong += [] if is_mounted else ["a copy cannot be mounted"]
            done = [*before, *[command] * cut.done]
            wrong += problems(project, done, wanted)
            if cut.image in again and not wrong:
                run_id = resumable(project)
                himl(*(("submit", "--resume", run_id, "-q") if run_id else COMMANDS[command]))
                wrong += [f"after the next call, {each}" for each in unmended(project, [*before, command], wanted)]
        cut.image.unlink()
    facts = {"moments": len(cuts), "again": len(again), "cache": "same disk" if is_cached_there else "another disk"}
    return world.result(wrong, 0, seconds, len(cuts), facts)


def unmended(project: Path, done: Sequence[str], wanted: dict[str, bytes]) -> list[str]:
    """The problems of results, if the command ran again: a run that could not be resumed may stay as it ended."""
    if done != ["submit"]:
        return problems(project, done, wanted)
    return [
        *problems(project, [], wanted),
        *(["no run is completed"] if "Completed" not in runs(project).values() else []),
    ]
