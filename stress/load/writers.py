"""Many processes that write to one local workspace at once: all that they wrote is there, and nobody was turned away."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from himl_cli.workspaces.local.run_store import Database
from stress.records import Outcome, Result
from stress.world import World
from tests.support.machine import ROOT
from tests.support.processes import is_sound_file
from tests.support.runs import RecordedRuns

TURNS = 200
SECONDS = 900.0


def writing(count: int) -> Callable[[World, random.Random], Result]:
    """The case of *count* processes, each with TURNS runs: recorded, logged to, tagged, ended."""

    def run(world: World, dice: random.Random) -> Result:
        path, go = world.folder / "workspace.db", world.folder / "go"
        Database(path, create=True).close()
        command = [sys.executable, "-m", "stress.load.writing", str(path)]
        processes = [
            subprocess.Popen([*command, str(number), str(TURNS), str(go)], cwd=ROOT, env=world.environment(), stdout=subprocess.PIPE, text=True)
            for number in range(count)
        ]
        try:
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            begun = time.monotonic()
            go.touch()
            with ThreadPoolExecutor(count) as pool:
                told = [json.loads(said) for said, _ in pool.map(lambda process: process.communicate(timeout=SECONDS), processes)]
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        seconds = time.monotonic() - begun
        problems = [*wrong_writers(told), *wrong_rows(path, count)]
        longest = max(one["longest"] for one in told)
        facts = {"writers": count, "runs": count * TURNS, "transactions": 4 * count * TURNS, "longest_wait": round(longest, 2), "seconds": round(seconds, 1)}
        outcome = Outcome.lost if problems else Outcome.survived
        return Result(outcome, 0, seconds, 4 * count * TURNS, why=world.tidy("; ".join(problems[:5])), facts=facts)

    return run


def wrong_writers(told: Sequence[dict[str, Any]]) -> list[str]:
    """What went wrong for those who wrote."""
    errors = [text for one in told for text in one["errors"]]
    return [f"{len(errors)} writes failed, as: {errors[0]}"] if errors else []


def wrong_rows(path: Path, count: int) -> list[str]:
    """What is wrong with the rows that *count* writers left."""
    with closing(sqlite3.connect(path)) as database:
        (runs,) = database.execute("SELECT count(*) FROM runs WHERE status = 'Completed' AND exit_code = 0 AND ended >= created").fetchone()
        (tags,) = database.execute(
            "SELECT count(*) FROM tags JOIN runs ON runs.id = run WHERE name = 'writer' AND CAST(value AS INTEGER) = CAST(substr(run, 2, 3) AS INTEGER)"
        ).fetchone()
        (points,) = database.execute("SELECT count(*) FROM metrics JOIN runs ON runs.id = run WHERE value = CAST(substr(run, 6) AS INTEGER)").fetchone()
        (all_runs,) = database.execute("SELECT count(*) FROM runs").fetchone()
    wanted, found = (count * TURNS,) * 4, (runs, tags, points, all_runs)
    wrong = [] if found == wanted else [f"runs, tags and values are {found}, not {wanted}"]
    return wrong if is_sound_file(path) else [*wrong, "the database is damaged"]


def tagging(count: int) -> Callable[[World, random.Random], Result]:
    """The case of *count* times `himl runs tag` at once, on one run."""

    def run(world: World, dice: random.Random) -> Result:
        project = world.folder / "project"
        RecordedRuns(project).add("train_1_aa")

        def tag(number: int) -> tuple[float, int, str]:
            begun = time.monotonic()
            done = world.himl("runs", "tag", "train_1_aa", f"key_{number}={number}", cwd=project, env=world.environment())
            return time.monotonic() - begun, done.code, done.stderr

        with ThreadPoolExecutor(count) as pool:
            done = list(pool.map(tag, range(count)))
        shown = world.himl("runs", "show", "train_1_aa", "--json", cwd=project, env=world.environment()).json()
        problems = wrong_tags(shown["tags"], [(code, said) for _, code, said in done])
        longest = max(seconds for seconds, _, _ in done)
        code = max(code for _, code, _ in done)
        facts = {"commands": count, "longest": round(longest, 2)}
        return Result(Outcome.lost if problems else Outcome.survived, code, longest, count, why=world.tidy("; ".join(problems[:5])), facts=facts)

    return run


def wrong_tags(tags: dict[str, str], ended: Sequence[tuple[int, str]]) -> list[str]:
    """What is wrong with *tags*, each of which one command set that ended so."""
    wrong = [f"a command ended with {code}: {said[-200:]}" for code, said in ended if code != 0]
    lacking = {f"key_{number}": str(number) for number in range(len(ended))}.items() - tags.items()
    return [*wrong, f"{len(lacking)} tags are lacking, or have other values"] if lacking else wrong


def writer_cases() -> Iterator[tuple[str, Callable[[World, random.Random], Result]]]:
    yield "writers/64", writing(64)
    yield "tags/64", tagging(64)
    yield "writers/16", writing(16)
    yield "tags/16", tagging(16)
