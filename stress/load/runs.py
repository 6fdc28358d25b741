"""Many local runs: found, shown, set side by side and deleted, next to few of them; and many that were really submitted."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stress.records import Outcome, Result
from stress.world import World
from tests.support.processes import is_sound, processes_below
from tests.support.running import Outcome as Ended
from tests.support.running import write_files
from tests.support.runs import RecordedRuns

TRIES = 3
DELETED, COMPARED = 20, 200
NON_LINEAR = 4.0
"""By so much more than their number may the time for many runs be that for few: beyond it, it grows faster than they do."""
AT_ONCE = 4
SECONDS_TO_END = 20.0  # of what looks after a job, once it is recorded as completed
SCRIPT = """
import json, os, urllib.request
run_id, address, token = (os.environ[f"MLFLOW_{name}"] for name in ("RUN_ID", "TRACKING_URI", "TRACKING_TOKEN"))
body = json.dumps({"run_id": run_id, "key": "loss", "value": 0.5, "timestamp": 1, "step": 0}).encode()
request = urllib.request.Request(address + "/api/2.0/mlflow/runs/log-metric", body, {"Authorization": "Bearer " + token})
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60).read()
print("trained")
"""


def recorded(few: int, many: int) -> Callable[[World, random.Random], Result]:
    """The case of *many* runs on record, by the calls that record real ones, next to *few* of them."""

    def run(world: World, dice: random.Random) -> Result:
        project = world.folder / "project"
        runs = RecordedRuns(project)
        facts: dict[str, object] = {}
        problems: list[str] = []
        ids: list[str] = []
        times: list[Mapping[str, float]] = []
        for count in (few, many):
            begun = time.monotonic()
            while len(ids) < count:
                ids.append(_record(runs, len(ids), dice))
            facts[f"seconds_to_record_{count}"] = round(time.monotonic() - begun)
            taken, wrong = _asked(world, project, ids, dice)
            times.append(taken)
            problems += wrong
        problems += non_linear(times[0], times[1], many / few)
        problems += [] if is_sound(project) else ["the database is damaged"]
        facts |= {f"{name}_ratio": round(times[1][name] / times[0][name], 2) for name in times[0]}
        facts |= {f"{name}_seconds": round(seconds, 2) for name, seconds in times[1].items()}
        total = sum(times[1].values())
        return Result(Outcome.lost if problems else Outcome.survived, 0, total, many, why=world.tidy("; ".join(problems[:5])), facts=facts)

    return run


def submitted(before: int, count: int) -> Callable[[World, random.Random], Result]:
    """The case of *count* runs that are really submitted, in a workspace that has some already."""

    def run(world: World, dice: random.Random) -> Result:
        project = world.folder / "project"
        runs = RecordedRuns(project)
        there = [_record(runs, number, dice) for number in range(before)]
        write_files(project, {"train.py": SCRIPT})
        begun = time.monotonic()

        def submit(number: int) -> Ended:
            return world.himl("submit", "train.py", "-w", "local", "-q", "--experiment", "real", cwd=project, env=world.environment())

        with ThreadPoolExecutor(AT_ONCE) as pool:
            done = list(pool.map(submit, range(count)))
        seconds = time.monotonic() - begun
        problems = [f"a submit ended with {one.code}: {one.stderr[-200:]}" for one in done if one.code != 0]
        listed = {one["id"]: one for one in _himl(world, project, "runs", "list", "--num_runs", "all", "--json").json()}
        real = {one.stdout.strip().splitlines()[-1] for one in done if one.stdout.strip()}
        problems += wrong_submissions(real, there, listed, count)
        table = _himl(world, project, "runs", "aggregate", "--experiment", "real", "--num_runs", "all", "--json").stdout
        problems += [] if table.count("0.5") >= count else [f"{table.count('0.5')} values of {count} runs are told"]
        problems += [] if is_sound(project) else ["the database is damaged"]
        ends = time.monotonic() + SECONDS_TO_END
        while processes_below(project) and time.monotonic() < ends:
            time.sleep(0.1)
        problems += ["processes are left"] if processes_below(project) else []
        facts = {"recorded_before": before, "submitted": count, "at_once": AT_ONCE, "seconds_each": round(seconds / count, 2)}
        return Result(Outcome.lost if problems else Outcome.survived, 0, seconds, count, why=world.tidy("; ".join(problems[:5])), facts=facts)

    return run


def wrong_submissions(real: set[str], there: Sequence[str], listed: Mapping[str, Mapping[str, object]], count: int) -> list[str]:
    """What is wrong where *count* runs were submitted (*real*) next to those *there*, and these are *listed*."""
    wrong = [] if len(real) == count else [f"{len(real)} ids of {count} submissions"]
    if set(listed) != real | set(there):
        wrong.append(f"{len(listed)} runs are listed, not {len(real) + len(there)}, or others")
    unfinished = sorted(run_id for run_id in real if listed.get(run_id, {}).get("status") != "Completed")
    return [*wrong, f"{len(unfinished)} are not Completed, as {unfinished[0]}"] if unfinished else wrong


def non_linear(few: Mapping[str, float], many: Mapping[str, float], growth: float) -> list[str]:
    """The commands whose seconds grow faster than the runs, which are *growth* times as many."""
    slow = [name for name in few if many[name] / few[name] > NON_LINEAR * growth]
    return [f"'{name}' takes {many[name] / few[name]:.0f} times as long for {growth:.0f} times as many runs" for name in slow]


def _record(runs: RecordedRuns, number: int, dice: random.Random) -> str:
    """One run that ended, with tags, parameters and a short curve."""
    run_id = f"train_{1_700_000_000 + number}_{number:08x}"
    runs.add(run_id, tags={"team": dice.choice("abc"), "number": str(number)}, display_name=f"run {number}")
    runs.log(run_id, [("loss", dice.random(), step, 1_772_366_400_000 + step) for step in range(5)], {"lr": str(dice.random())})
    return run_id


def _asked(world: World, project: Path, ids: list[str], dice: random.Random) -> tuple[dict[str, float], list[str]]:
    """The seconds of each command (the least of TRIES) on the runs *ids*, oldest first; what is wrong; those that were deleted are gone from *ids*."""
    one = dice.choice(ids)
    commands = {
        "list": ("runs", "list", "--num_runs", "all", "--json"),
        "show": ("runs", "show", one, "--json"),
        "latest": ("runs", "show", "latest", "--json"),
        "tagged": ("runs", "list", "--num_runs", "all", "--tags", f"number={ids.index(one)}", "--json"),
        "aggregate": ("runs", "aggregate", "--experiment", "train", "--num_runs", str(COMPARED), "--json"),
    }
    seconds: dict[str, float] = {}
    told = {}
    for name, arguments in commands.items():
        taken = []
        for _ in range(TRIES):
            begun = time.monotonic()
            told[name] = _himl(world, project, *arguments)
            taken.append(time.monotonic() - begun)
        seconds[name] = min(taken)
    wrong = wrong_answers(ids, one, {name: outcome.json() for name, outcome in told.items()})
    gone = ids[-DELETED:]
    begun = time.monotonic()
    _himl(world, project, "runs", "delete", *gone, "--yes")
    seconds["delete"] = time.monotonic() - begun
    del ids[-DELETED:]
    left = _himl(world, project, "runs", "list", "--num_runs", "all", "-q").stdout.split()
    return seconds, wrong + ([] if left == ids[::-1] else [f"{len(left)} runs are left of {len(ids)} that were not deleted"])


def wrong_answers(ids: Sequence[str], one: str, told: Mapping[str, object]) -> list[str]:
    """What is wrong with what is told of the runs *ids* (oldest first), and of the run *one* of them."""
    newest_first = list(ids[::-1])
    wrong = [] if _ids(told["list"]) == newest_first else [f"{len(_ids(told['list']))} of {len(ids)} runs are listed, or in another order"]
    wrong += [] if _ids([told["show"]]) == [one] else ["another run is shown"]
    wrong += [] if _ids([told["latest"]]) == newest_first[:1] else ["another run is shown as the latest"]
    wrong += [] if _ids(told["tagged"]) == [one] else [f"{len(_ids(told['tagged']))} runs have the tag of one"]
    compared = [run_id for run_id in newest_first[:COMPARED] if run_id in str(told["aggregate"])]
    return wrong + ([] if compared == newest_first[:COMPARED] else [f"{len(compared)} of {COMPARED} runs are side by side"])


def _ids(runs: object) -> list[str]:
    return [str(run["id"]) for run in runs] if isinstance(runs, list) else []


def _himl(world: World, project: Path, *arguments: str) -> Ended:
    """A command that has to do well. Raises AssertionError."""
    done = world.himl(*arguments, cwd=project, env=world.environment())
    assert done.code == 0, f"himl {' '.join(arguments)[:100]} ended with {done.code}: {done.stderr[-300:]}"
    return done


def run_cases() -> Iterator[tuple[str, Callable[[World, random.Random], Result]]]:
    yield "runs/10000", recorded(2_000, 10_000)
    yield "submitted/300", submitted(2_000, 300)
    yield "runs/2000", recorded(500, 2_000)
    yield "submitted/10", submitted(100, 10)
