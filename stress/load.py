"""Load tests with many items, compared with few: `load/<items>/<count>/00`. Linux only (/proc)."""

from __future__ import annotations

import random
import signal
import sqlite3
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache, partial
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from himl_cli.workspaces.local.run_store import Database
from stress import apart
from stress.records import Case, Result
from stress.world import LOG_METRIC, SPAWN, Ended, Gauge, World, measured
from tests.azureml_double.seeding import ARTIFACTS, StagedWorkspace
from tests.azureml_double.state import Run
from tests.support import running, tensorboard
from tests.support.processes import is_sound, is_sound_file, processes_below
from tests.support.runs import RecordedRuns
from tests.support.tensorboard import serving as showing

LARGE = frozenset(
    f"load/{cell}" for cell in ("listing/100000", "runs/10000", "submitted/300", "writers/64", "polling/hour")
)
"""What takes minutes: only a full run has it."""
MOST, GROWTH = 150.0, 16.0  # MiB that a listing may take, and how many more one of ten times as many blobs
SECONDS = 900.0
CONNECTIONS = 4
SIZES = {"few": "few_1_aa", "many": "many_2_bb"}
COMMANDS = {
    "list": ("datastore", "list", "-q", "--datastore", ARTIFACTS),
    "plan": ("download", "--list", "-q", "--run"),
}


def load_cases() -> list[Case]:
    cells = {
        "polling/hour": partial(polled, 240),
        "polling/minutes": partial(polled, 30),
        "listing/100000": partial(listed, 10_000, 100_000),
        "listing/5000": partial(listed, 1_000, 5_000),
        "runs/10000": partial(recorded, 2_000, 10_000),
        "submitted/300": partial(submitted, 2_000, 300),
        "runs/2000": partial(recorded, 500, 2_000),
        "submitted/10": partial(submitted, 100, 10),
        "writers/64": partial(writing, 64),
        "writers/16": partial(writing, 16),
    }
    return sorted(
        (Case(f"load/{cell}/00", run) for cell, run in cells.items()), key=lambda case: case.cell not in LARGE
    )


def listed(few: int, many: int, world: World, dice: random.Random) -> Result:
    """List real blobs with `himl datastore list` and `himl download --list`: all names, in order, with memory that
    does not grow with them.
    """
    with world.stage.own_workspaces():
        staged, begun = world.stage.workspace(), time.monotonic()
        names = {size: _put(staged, SIZES[size], count, dice) for size, count in (("few", few), ("many", many))}
        facts: dict[str, object] = {"few": few, "many": many, "put_seconds": round(time.monotonic() - begun)}
        staged.write_config(world.folder)
        seconds, problems = 0.0, list[str]()
        for how, arguments in COMMANDS.items():
            peaks = []
            for size, run_id in SIZES.items():
                where = staged.state.runs[run_id].artifact_prefix if how == "list" else run_id
                out = world.folder / f"{how}_{size}.out"
                done = measured(
                    [str(running.PROGRAM), *arguments, where], out, world.folder, world.environment(staged), SECONDS
                )
                facts |= {f"{how}_{size}_mib": round(done.peak, 1), f"{how}_{size}_seconds": round(done.wall, 1)}
                problems += wrong_listing(done.ended, done.peak, names[size], how)
                peaks.append(done.peak)
                seconds += done.wall if size == "many" else 0
            problems += growth_wrong(peaks, GROWTH)
    return world.result(problems, 0, seconds, many, facts)


def wrong_listing(ended: Ended | None, peak: float, names: list[str], how: str) -> list[str]:
    what = f"{how} of {len(names):,}"
    if ended is None or ended.code != 0:
        return [f"{what} hangs" if ended is None else f"{what}: exit code {ended.code}: {ended.stderr[-300:]}"]
    wrong = [f"{what} takes {peak:.0f} MiB, over {MOST:.0f}"] if peak > MOST else []
    printed = ended.stdout.splitlines()
    if len(printed) != len(names):
        return [*wrong, f"{what} has {len(printed):,} lines"]
    strange = next((line for line, name in zip(printed, names, strict=True) if not line.endswith(name)), None)
    return wrong if strange is None else [*wrong, f"{what} has '{strange}' out of its place"]


def growth_wrong(peaks: Sequence[float], most: float) -> list[str]:
    few, many = peaks
    return [f"for more of the same {many - few:.1f} MiB more are taken, over {most:.0f}"] if many - few > most else []


def _put(staged: StagedWorkspace, run_id: str, count: int, dice: random.Random) -> list[str]:
    run = staged.add_run(run_id, "many")
    names = [
        f"outputs/part_{number % 100:02d}/{number:07d}_{dice.randbytes(dice.randint(4, 30)).hex()}.bin"
        for number in range(count)
    ]
    container = staged.state.datastores[ARTIFACTS].container
    storage = staged.state.storage

    def put_all(names: list[str]) -> None:
        """Store small block blobs over one connection, which is several times faster than the vendor's client."""
        with closing(HTTPConnection(urlsplit(storage.azurite).netloc, timeout=60)) as connection:
            for name in names:
                path = f"/{storage.account}/{container}/{run.artifact_prefix}{name}?{storage.vouching_sas}"
                connection.request(
                    "PUT", path, name.encode()[:16], {"x-ms-blob-type": "BlockBlob", "x-ms-version": "2021-12-02"}
                )
                answer = connection.getresponse()
                said = answer.read()
                assert answer.status == 201, said[:300]

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(put_all, [names[start::CONNECTIONS] for start in range(CONNECTIONS)]))
    return sorted(names)


TRIES = 3
DELETED, COMPARED = 20, 200
NON_LINEAR = 4.0  # by so much more than their number may the time for many runs be that for few
AT_ONCE = 4
SECONDS_TO_END = 20.0  # of what looks after a job, once it is recorded as completed
SCRIPT = f'{LOG_METRIC}\nlog_metric("loss", 0.5, 0)\nprint("trained")\n'


def recorded(few: int, many: int, world: World, dice: random.Random) -> Result:
    runs = RecordedRuns(world.project)
    facts: dict[str, object] = {}
    problems: list[str] = []
    ids: list[str] = []
    times: list[Mapping[str, float]] = []
    for count in (few, many):
        begun = time.monotonic()
        while len(ids) < count:
            ids.append(_record(runs, len(ids), dice))
        facts[f"seconds_to_record_{count}"] = round(time.monotonic() - begun)
        taken, wrong = _asked(world, ids, dice)
        times.append(taken)
        problems += wrong
    ratios = {name: seconds / times[0][name] for name, seconds in times[1].items()}
    slow = {name: ratio for name, ratio in ratios.items() if ratio > NON_LINEAR * many / few}
    problems += [
        f"'{name}' takes {ratio:.0f} times as long for {many / few:.0f} times as many runs"
        for name, ratio in slow.items()
    ]
    problems += [] if is_sound(world.project) else ["the database is damaged"]
    facts |= {f"{name}_ratio": round(ratio, 2) for name, ratio in ratios.items()}
    facts |= {f"{name}_seconds": round(seconds, 2) for name, seconds in times[1].items()}
    return world.result(problems, 0, sum(times[1].values()), many, facts)


def submitted(before: int, count: int, world: World, dice: random.Random) -> Result:
    project = world.project
    runs = RecordedRuns(project)
    there = [_record(runs, number, dice) for number in range(before)]
    running.write_files(project, {"train.py": SCRIPT})
    begun, submit = time.monotonic(), ("submit", "train.py", "-w", "local", "-q", "--experiment", "real")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = list(pool.map(lambda number: world.himl(*submit, cwd=project, env=world.environment()), range(count)))
    seconds = time.monotonic() - begun
    problems = [f"a submit ended with {one.code}: {one.stderr[-200:]}" for one in done if one.code != 0]
    listed = {one["id"]: one for one in _himl(world, "runs", "list", "--num_runs", "all", "--json").json()}
    real = {one.stdout.strip().splitlines()[-1] for one in done if one.stdout.strip()}
    problems += wrong_submissions(real, there, listed, count)
    table = _himl(world, "runs", "aggregate", "--experiment", "real", "--num_runs", "all", "--json").stdout
    problems += [] if table.count("0.5") >= count else [f"{table.count('0.5')} values of {count} runs are told"]
    problems += [] if is_sound(project) else ["the database is damaged"]
    ends = time.monotonic() + SECONDS_TO_END
    while processes_below(project) and time.monotonic() < ends:
        time.sleep(0.1)
    problems += ["processes are left"] if processes_below(project) else []
    facts = {
        "recorded_before": before,
        "submitted": count,
        "at_once": AT_ONCE,
        "seconds_each": round(seconds / count, 2),
    }
    return world.result(problems, 0, seconds, count, facts)


def wrong_submissions(
    real: set[str], there: Sequence[str], listed: Mapping[str, Mapping[str, object]], count: int
) -> list[str]:
    wrong = [] if len(real) == count else [f"{len(real)} ids of {count} submissions"]
    if set(listed) != real | set(there):
        wrong.append(f"{len(listed)} runs are listed, not {len(real) + len(there)}, or others")
    unfinished = sorted(run_id for run_id in real if listed.get(run_id, {}).get("status") != "Completed")
    return [*wrong, f"{len(unfinished)} are not Completed, as {unfinished[0]}"] if unfinished else wrong


def _record(runs: RecordedRuns, number: int, dice: random.Random) -> str:
    run_id = f"train_{1_700_000_000 + number}_{number:08x}"
    runs.add(run_id, tags={"team": dice.choice("abc"), "number": str(number)}, display_name=f"run {number}")
    runs.log(
        run_id,
        [("loss", dice.random(), step, 1_772_366_400_000 + step) for step in range(5)],
        {"lr": str(dice.random())},
    )
    return run_id


def _asked(world: World, ids: list[str], dice: random.Random) -> tuple[dict[str, float], list[str]]:
    """The seconds of each command (the minimum of TRIES) on the runs *ids*, oldest first, and problems. Removes
    deleted runs from *ids*.
    """
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
            told[name] = _himl(world, *arguments)
            taken.append(time.monotonic() - begun)
        seconds[name] = min(taken)
    wrong = wrong_answers(ids, one, {name: outcome.json() for name, outcome in told.items()})
    gone = ids[-DELETED:]
    begun = time.monotonic()
    _himl(world, "runs", "delete", *gone, "--yes")
    seconds["delete"] = time.monotonic() - begun
    del ids[-DELETED:]
    left = _himl(world, "runs", "list", "--num_runs", "all", "-q").stdout.split()
    return seconds, wrong + (
        [] if left == ids[::-1] else [f"{len(left)} runs are left of {len(ids)} that were not deleted"]
    )


def wrong_answers(ids: Sequence[str], one: str, told: Mapping[str, object]) -> list[str]:
    newest_first = list(ids[::-1])
    wrong = (
        []
        if _ids(told["list"]) == newest_first
        else [f"{len(_ids(told['list']))} of {len(ids)} runs are listed, or in another order"]
    )
    wrong += [] if _ids([told["show"]]) == [one] else ["another run is shown"]
    wrong += [] if _ids([told["latest"]]) == newest_first[:1] else ["another run is shown as the latest"]
    wrong += [] if _ids(told["tagged"]) == [one] else [f"{len(_ids(told['tagged']))} runs have the tag of one"]
    compared = [run_id for run_id in newest_first[:COMPARED] if run_id in str(told["aggregate"])]
    return wrong + (
        [] if compared == newest_first[:COMPARED] else [f"{len(compared)} of {COMPARED} runs are side by side"]
    )


def _ids(runs: object) -> list[str]:
    return [str(run["id"]) for run in runs] if isinstance(runs, list) else []


def _himl(world: World, *arguments: str) -> running.Outcome:
    done = world.himl(*arguments, cwd=world.project, env=world.environment())
    assert done.code == 0, f"himl {' '.join(arguments)[:100]} ended with {done.code}: {done.stderr[-300:]}"
    return done


TURNS = 200  # runs of each writer


def writing(count: int, world: World, dice: random.Random) -> Result:
    path = world.folder / "workspace.db"
    Database(path, create=True).close()
    with SPAWN.Manager() as manager, SPAWN.Pool(count) as pool:
        all_there = manager.Barrier(count)
        told = pool.starmap_async(
            apart.write, [(path, number, TURNS, all_there) for number in range(count)], chunksize=1
        ).get(SECONDS)
    seconds, longest = (max(values) for values in list(zip(*told, strict=True))[:2])
    errors = [text for *_, wrong in told for text in wrong]
    problems = ([f"{len(errors)} writes failed, as: {errors[0]}"] if errors else []) + wrong_rows(path, count)
    facts = {
        "writers": count,
        "runs": count * TURNS,
        "transactions": 4 * count * TURNS,
        "longest_wait": round(longest, 2),
        "seconds": round(seconds, 1),
    }
    return world.result(problems, 0, seconds, 4 * count * TURNS, facts)


def wrong_rows(path: Path, count: int) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        (runs,) = database.execute(
            "SELECT count(*) FROM runs WHERE status = 'Completed' AND exit_code = 0 AND ended >= created"
        ).fetchone()
        (tags,) = database.execute(
            "SELECT count(*) FROM tags JOIN runs ON runs.id = run WHERE name = 'writer' AND CAST(value AS "
            "INTEGER) = CAST(substr(run, 2, 3) AS INTEGER)"
        ).fetchone()
        (points,) = database.execute(
            "SELECT count(*) FROM metrics JOIN runs ON runs.id = run WHERE value = CAST(substr(run, 6) AS INTEGER)"
        ).fetchone()
        (all_runs,) = database.execute("SELECT count(*) FROM runs").fetchone()
    wanted, found = (count * TURNS,) * 4, (runs, tags, points, all_runs)
    wrong = [] if found == wanted else [f"runs, tags and values are {found}, not {wanted}"]
    return wrong if is_sound_file(path) else [*wrong, "the database is damaged"]


RUNS, GROWING, BEGINS_WITH = 20, 5, 20
EACH, SETTLED = (
    10,
    0.25,
)  # figures are read each so many looks; this share of them, the first, is left out of what they must not rise by
MEMORY, HANDLES = 8.0, 3.0  # MiB, and open handles, by which they may rise over the looks that count
PER_LOOK = 10.0  # seconds after which a look that has not come counts as one that will not
LISTING = r"^GET [^/]*\.blob\.core\.windows\.net/.*comp=list.*"


class Figures:
    def __init__(self, memory: Sequence[float] = (), handles: Sequence[float] = ()) -> None:
        self.memory, self.handles = list(memory), list(handles)

    def read(self, gauge: Gauge) -> None:
        self.memory.append(gauge.resident)
        self.handles.append(float(gauge.handles))

    def wrong(self) -> list[str]:
        rises = [(rise(values), most) for values, most in ((self.memory, MEMORY), (self.handles, HANDLES))]
        return [
            f"{what} rise by {by:.1f}, over {most:.0f}"
            for what, (by, most) in zip(("MiB", "handles"), rises, strict=True)
            if by > most
        ]


def rise(values: Sequence[float]) -> float:
    """The rise from the first to the last value by least squares, without a share of first values."""
    values = values[int(len(values) * SETTLED) :]
    return statistics.linear_regression(range(len(values)), values).slope * (len(values) - 1)


class GrowingRuns:
    """RUNS runs with one event file each. Each `grow` adds a record to those of the first GROWING runs."""

    def __init__(self, staged: StagedWorkspace, most: int) -> None:
        self._staged, self.most, self.count = staged, most, BEGINS_WITH
        self.ids = [f"curve_{number}_{number:02x}" for number in range(RUNS)]
        self._runs = [
            staged.add_run(run_id, "curves", status="Running" if number < GROWING else "Completed")
            for number, run_id in enumerate(self.ids)
        ]
        self._append(self._runs, _events(BEGINS_WITH))

    def grow(self) -> None:
        if self.count < self.most:
            self.count += 1
            self._append(self._runs[:GROWING], _events(self.count)[len(_events(self.count - 1)) :])

    def _append(self, runs: Sequence[Run], piece: bytes) -> None:
        for run in runs:
            self._staged.state.storage.append("azureml", f"{run.artifact_prefix}logs/{tensorboard.NAME}", piece)

    def wrong_copies(self, folder: Path) -> list[str]:
        """Problems of the copies after time for one more check. The latest records may still be in transit."""
        end = time.monotonic() + PER_LOOK
        while (
            wrong := [run_id for number, run_id in enumerate(self.ids) if not self._is_copied(folder, number)]
        ) and time.monotonic() < end:
            time.sleep(0.1)
        return [f"the copies of {len(wrong)} runs are not what these have, as of {wrong[0]}"] if wrong else []

    def _is_copied(self, folder: Path, number: int) -> bool:
        copies = [
            path.read_bytes()
            for path in folder.rglob("*tfevents*")
            if self.ids[number] in str(path.relative_to(folder))
        ]
        return copies == [_events(self.count if number < GROWING else BEGINS_WITH)]


@cache
def _events(count: int) -> bytes:
    return tensorboard.event_bytes([step / 4 for step in range(count)])


def polled(looks: int, world: World, dice: random.Random) -> Result:
    with world.stage.own_workspaces():
        staged = world.stage.workspace()
        return _polled(world, GrowingRuns(staged, BEGINS_WITH + looks), staged, looks)


def _polled(world: World, runs: GrowingRuns, staged: StagedWorkspace, looks: int) -> Result:
    project = world.project
    project.mkdir()
    staged.write_config(world.folder)
    copies, figures = project / "copies", Figures()
    env = {**world.environment(staged), "HIML_NO_CACHE": ""}
    begun = time.monotonic()
    with showing(
        running.Himl(running.PROGRAM, project), world.folder, *runs.ids, "--run_logs_dir", str(copies), env=env
    ) as board:
        seen = _looked(world, runs, board, looks, figures)
        shown = next(name for name in board.ask("data/runs") or [runs.ids[0]] if runs.ids[0] in name)
        board.shows(shown, [step / 4 for step in range(runs.count)])
        problems = runs.wrong_copies(copies)
        code = board.end(signal.SIGINT)
    seconds = time.monotonic() - begun
    problems += figures.wrong()
    problems += [f"{seen} looks came, not {looks}"] if seen < looks else []
    problems += [f"it ended with {code}"] if code != 0 else []
    facts = {
        "looks": seen,
        "runs": RUNS,
        "growing": GROWING,
        "memory_first_mib": round(figures.memory[0], 1),
        "memory_last_mib": round(figures.memory[-1], 1),
    }
    facts |= {"memory_rise_mib": round(rise(figures.memory), 2), "handles_rise": round(rise(figures.handles), 2)}
    facts |= {"handles_first": figures.handles[0], "handles_last": figures.handles[-1]}
    return world.result(problems, code, seconds, seen, facts)


def _looked(world: World, runs: GrowingRuns, board: tensorboard.Board, looks: int, figures: Figures) -> int:
    gauge, seen, last = Gauge(board.process.pid), 0, time.monotonic()
    figures.read(gauge)
    while seen < looks and time.monotonic() - last < PER_LOOK and board.process.poll() is None:
        time.sleep(0.1)
        if len(world.stage.log.find(LISTING)) < GROWING:
            continue
        world.stage.log.clear()
        seen, last = seen + 1, time.monotonic()
        runs.grow()
        if seen % EACH == 0:
            figures.read(gauge)
    return seen
