"""Hostile names met by the commands that fetch files, what is planted where those come, and files of other sizes than a list tells.

They need pipes and links that everybody may make: POSIX only.
"""

from __future__ import annotations

import random
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from stress.faults.judge import Ended
from stress.names.bomb_cases import bomb_cases
from stress.names.commands import COMMANDS, RUN, Command, Stage, as_event_file
from stress.names.hostile import Blob, Storage
from stress.names.judge import file_problems, is_named, is_own, judge, places_of, raw_signs
from stress.names.kinds import EVERYWHERE, KINDS, Kind
from stress.names.planted import INSIDE, PLANTS, Outside, Plant
from stress.names.tree import changes, tree_of
from stress.records import Case, Outcome, Result
from stress.world import World
from tests.support.forked_himl import PROGRAM
from tests.support.terminals import Terminal

A_CELL = 4
MORE = re.compile(r" and (\d+) more\b")
"""How many names there are beyond the first three."""
LIMIT = 120.0
"""Seconds after which a command hangs: what it does here takes two."""
BY_LINKS, IN_TERMINAL = 0.4, 0.4
"""Shares of the cases in which a run's files come by links, and in which the same is done in a terminal as well."""
SHARED = frozenset({"empty", "dots", "absolute"})
"""Kinds whose names no link can be asked for by, or that a link would mean something else by."""
PROJECT = Path("above/higher/project")
GOOD = ("plain/one.bin", "plain/two.bin")
ABOVE_ALL = (Path("/escaped"), Path("/dev/shm/escaped"), Path("/himl-escaped"))
SAID = 160
FAILED = 5
"""The exit code of `himl tb` where files could not be read: it tells the first of them, or the run whose files are other ones each time."""

Arranged = tuple[Sequence[Blob], frozenset[str], frozenset[str]]
"""Files, those that may not be there, those that have to be."""
Arrange = Callable[["Place", Command, random.Random], Arranged]


@dataclass(frozen=True)
class Place:
    """The folders of one case: below `root` lie the project, and what is nobody's business."""

    root: Path

    @property
    def project(self) -> Path:
        return self.root / PROJECT

    @property
    def outside(self) -> Outside:
        return Outside(self.root / "outside")

    def seen(self) -> dict[str, str]:
        """All that is there, and what is where names led that escaped altogether."""
        away = {str(path): "file" for path in ABOVE_ALL if path.exists()}
        return {**tree_of(self.root), **away}


def name_cases() -> list[Case]:
    """All of them, bombs included."""
    named = [(f"names/{command}/{kind.name}", _run(command, _named(kind, command), kind.codes, kind.name)) for kind in KINDS for command in kind.commands]
    planted = [
        (f"names/{command}/{name}", _run(command, _planted(plant, command), frozenset({0, 1}), name)) for name, plant, met in PLANTS for command in sorted(met)
    ]
    lied = [(f"names/{command}/size-lie", _run(command, _lying(command), frozenset({0, 1, 5, 6}), "size-lie")) for command in EVERYWHERE]
    cells = sorted([*named, *planted, *lied], key=lambda cell: cell[0])
    return [*(Case(f"{cell}/{number:02d}", run) for cell, run in cells for number in range(A_CELL)), *bomb_cases()]


def _blob(name: str, dice: random.Random) -> Blob:
    return Blob(name, dice.randbytes(dice.randint(1, 40_000)), has_md5=dice.random() < 0.7)


def _companions(command: str, dice: random.Random) -> list[Blob]:
    return [_blob(as_event_file(name) if command == "tb" else name, dice) for name in GOOD]


def _named(kind: Kind, command: str) -> Arrange:
    def arrange(place: Place, how: Command, dice: random.Random) -> Arranged:
        names = [name.replace("/OUTSIDE", str(place.outside.folder)) for name in kind.names(dice)]
        names = [as_event_file(name) if command == "tb" else name for name in names]
        blobs = [_blob(name, dice) for name in dict.fromkeys(names)]
        good = _companions(command, dice)
        return [*blobs, *good], frozenset(names) if kind.refused else frozenset(), frozenset(blob.name for blob in good)

    return arrange


def _planted(plant: Plant, command: str) -> Arrange:
    def arrange(place: Place, how: Command, dice: random.Random) -> Arranged:
        name = as_event_file(INSIDE) if command == "tb" else INSIDE
        blob, good = _blob(name, dice), _companions(command, dice)
        root = place.project / how.state
        (place.project / how.target).mkdir(parents=True)
        plant(root, (place.project / how.target / name).relative_to(root).as_posix(), place.outside, dice, blob.content)
        return [blob, *good], frozenset(), frozenset(one.name for one in good)

    return arrange


def _lying(command: str) -> Arrange:
    def arrange(place: Place, how: Command, dice: random.Random) -> Arranged:
        name = as_event_file("liar.bin") if command == "tb" else "liar.bin"
        content = dice.randbytes(dice.randint(100, 40_000))
        told = dice.choice([len(content) - 1, len(content) + 1, 1, 5 << 20, 40 << 20, 1 << 40])
        good = _companions(command, dice)
        return [Blob(name, content, told, dice.random() < 0.7), *good], frozenset(), frozenset(one.name for one in good)

    return arrange


def _run(name: str, arrange: Arrange, codes: frozenset[int], kind: str) -> Callable[[World, random.Random], Result]:
    def run(world: World, dice: random.Random) -> Result:
        stage, command, place = world.lasting("names", Stage), COMMANDS[name], Place(world.folder / "case")
        place.project.mkdir(parents=True)
        place.outside.make()
        stage.staged.write_config(world.folder)
        blobs, refused, must = arrange(place, command, dice)
        by_links = command.of_run and kind not in SHARED and kind != "size-lie" and dice.random() < BY_LINKS
        served: AbstractContextManager[Storage | None] = stage.linking(world, command, blobs) if by_links else stage.listing(command, blobs)
        before = place.seen()
        with served as storage:
            env = stage.environment(world, by_links=by_links)
            begun = time.monotonic()
            ended = _call(world, command, place.project, env)
            seconds = time.monotonic() - begun
            hits = storage.lists if storage is not None else len(world.stage.log.find("/prefix/contentinfo/"))
            problems = _problems(place, command, before, blobs, refused, must, ended)
            if dice.random() < IN_TERMINAL and ended is not None:
                problems += _in_terminal(command, place.project, env, blobs)
            again = _call(world, command, place.project, env)
            problems += _problems(place, command, before, blobs, refused, must, again)
            if again is not None and ended is not None and again.code != ended.code:
                problems.append(f"the next call: exit code {again.code}")
        there = places_of(place.seen(), f"{PROJECT}/{command.target}")
        verdict = judge(ended, codes, problems, is_all_there=len(there) == len(blobs))
        outcome = verdict.outcome if hits or verdict.outcome is Outcome.lost else Outcome.not_met
        facts: dict[str, object] = {"by": "links" if by_links else "list", "files": len(blobs), "kept": len(there)}
        if ended is not None and ended.code:
            facts["said"] = _plain(world.tidy(ended.stderr.strip().splitlines()[0]))[:SAID] if ended.stderr.strip() else ""
        return Result(outcome, ended.code if ended else None, seconds, hits, again.code if again else None, _plain(world.tidy(verdict.why)), facts)

    return run


def _problems(
    place: Place, command: Command, before: dict[str, str], blobs: Sequence[Blob], refused: frozenset[str], must: frozenset[str], ended: Ended | None
) -> list[str]:
    """What is wrong with what a call left and said."""
    after, target = place.seen(), f"{PROJECT}/{command.target}"
    state = f"{PROJECT}/{command.state}"
    outside = changes(*(_outside(tree, target, state) for tree in (before, after)))
    said = f"{ended.stdout}\n{ended.stderr}" if ended else ""
    wrong = [f"outside of the target {one}" for one in outside]
    links = {path: what for path, what in before.items() if what.startswith("link") and after.get(path) == what}
    places = {path: what for path, what in places_of(after, target).items() if f"{target}/{path}" not in links}
    is_told = f"'{RUN}'" in said or any(is_named(blob.name, said) for blob in blobs)
    more = sum(map(int, MORE.findall(said)))
    is_run_told = command.arguments[0] == "tb" and ended is not None and is_told and (ended.code == FAILED or more > 0)
    counted = len(blobs) if is_run_told else more
    must = must if ended is None or ended.code in (0, 1) else frozenset()
    wrong += file_problems(blobs, places, said, refused=refused, must=must, counted=counted)
    raw = raw_signs(ended.stderr) + raw_signs(ended.stdout, but="\n\t") if ended else []
    return wrong + ([f"raw signs: {raw}"] if raw else [])


def _outside(tree: dict[str, str], target: str, state: str) -> dict[str, str]:
    """What of *tree* lies neither below *target*, nor on the way there, nor was an earlier version's own in *state*."""
    way = {target, *map(str, Path(target).parents)}
    return {path: what for path, what in tree.items() if path not in way and not path.startswith(f"{target}/") and not is_own(path, state)}


def _call(world: World, command: Command, folder: Path, env: dict[str, str]) -> Ended | None:
    try:
        outcome = world.himl(*command.arguments, cwd=folder, env=env, limit=LIMIT)
    except subprocess.TimeoutExpired:
        return None
    return Ended(outcome.code, outcome.stdout, outcome.stderr)


def _in_terminal(command: Command, folder: Path, env: dict[str, str], blobs: Sequence[Blob]) -> list[str]:
    """What is wrong with what a terminal gets of the same command, and of a list of the same files."""
    calls = [command.arguments]
    if command.arguments[0] == "datastore":
        calls += [("datastore", "list", "--datastore", command.arguments[-1], *more) for more in ((), ("-q",), ("--json",))]
    elif command.arguments[0] == "download":
        calls += [(*command.arguments, "--list", *more) for more in ((), ("-q",), ("--json",))]
    wrong = []
    for call in calls:
        terminal = Terminal([str(PROGRAM), *call], cwd=folder, env=env)
        try:
            terminal.finish(LIMIT)
        except subprocess.TimeoutExpired:
            return [f"in a terminal '{' '.join(call)}' hangs"]
        odd = [blob.name for blob in blobs if raw_signs(blob.name)]
        wrong += [f"a terminal gets {name!r} raw from '{' '.join(call)}'" for name in odd if name in terminal.screen.replace("\r\n", "\n")]
    return wrong


def _plain(text: str) -> str:
    """*text* as a record may hold it."""
    return "".join(sign if sign.isprintable() else " " for sign in text)
