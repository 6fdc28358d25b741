"""Real blobs, listed by `himl datastore list` and by `himl download --list`: all names, in order, and memory that does not grow with them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

from stress.load.measured import Measured, growth_wrong, measured
from stress.records import Outcome, Result
from stress.world import World
from tests.servers.azureml.seeding import ARTIFACTS, StagedWorkspace
from tests.servers.azureml.storage import Storage
from tests.support.forked_himl import PROGRAM

MOST, GROWTH = 150.0, 16.0
"""MiB that a listing may take, and how many more for ten times as many blobs."""
CONNECTIONS = 4
RUNS = {"few": "few_1_aa", "many": "many_2_bb"}
COMMANDS = {"list": ("datastore", "list", "-q", "--datastore", ARTIFACTS), "plan": ("download", "--list", "-q", "--run")}


def listed(few: int, many: int) -> Callable[[World, random.Random], Result]:
    """The case of so many blobs, next to that of few."""

    def run(world: World, dice: random.Random) -> Result:
        staged = world.stage.workspace()
        sizes = {"few": few, "many": many}
        try:
            begun = time.monotonic()
            names = {size: _put(staged, run_id, sizes[size], dice) for size, run_id in RUNS.items()}
            facts: dict[str, object] = {"few": few, "many": many, "put_seconds": round(time.monotonic() - begun)}
            staged.write_config(world.folder)
            seconds, code, problems = 0.0, 0, []
            for how in COMMANDS:
                done = {size: _called(world, staged, how, size) for size in RUNS}
                for size, one in done.items():
                    facts |= {f"{how}_{size}_mib": round(one.peak, 1), f"{how}_{size}_seconds": round(one.seconds, 1)}
                    problems += wrong_listing(one, (world.folder / f"{how}_{size}.out").read_text().splitlines(), names[size], how)
                problems += growth_wrong(done["few"].peak, done["many"].peak, GROWTH)
                seconds, code = seconds + done["many"].seconds, code or done["many"].code
        finally:
            staged.state.storage.wipe()
        return Result(Outcome.lost if problems else Outcome.survived, code, seconds, many, why=world.tidy("; ".join(problems[:5])), facts=facts)

    return run


def wrong_listing(done: Measured, printed: list[str], names: list[str], how: str) -> list[str]:
    """What is wrong with the listing of *names* (sorted), of which each line names one at its end."""
    if done.code != 0:
        return [f"{how} of {len(names):,}: exit code {done.code}: {done.stderr[-300:]}"]
    wrong = [f"{how} of {len(names):,} takes {done.peak:.0f} MiB, over {MOST:.0f}"] if done.peak > MOST else []
    if len(printed) != len(names):
        return [*wrong, f"{how} of {len(names):,} has {len(printed):,} lines"]
    strange = next((line for line, name in zip(printed, names, strict=True) if not line.endswith(name)), None)
    return wrong if strange is None else [*wrong, f"{how} of {len(names):,} has '{strange}' out of its place"]


def _called(world: World, staged: StagedWorkspace, how: str, size: str) -> Measured:
    where = staged.state.runs[RUNS[size]].artifact_prefix if how == "list" else RUNS[size]
    return measured([str(PROGRAM), *COMMANDS[how], where], world.folder / f"{how}_{size}.out", world.folder, world.environment(staged))


def _put(staged: StagedWorkspace, run_id: str, count: int, dice: random.Random) -> list[str]:
    """Make a run with *count* artifacts; their names, sorted."""
    run = staged.add_run(run_id, "many")
    names = [f"outputs/part_{number % 100:02d}/{number:07d}_{dice.randbytes(dice.randint(4, 30)).hex()}.bin" for number in range(count)]
    container = staged.state.datastores[ARTIFACTS].container
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for done in [pool.submit(_put_all, staged.state.storage, container, run.artifact_prefix, names[start::CONNECTIONS]) for start in range(CONNECTIONS)]:
            done.result()
    return sorted(names)


def _put_all(storage: Storage, container: str, prefix: str, names: list[str]) -> None:
    """Small block blobs over one connection: the vendor's client takes a multiple of the time for each."""
    with closing(HTTPConnection(urlsplit(storage.azurite).netloc, timeout=60)) as connection:
        for name in names:
            content = name.encode()[:16]
            path = f"/{storage.account}/{container}/{prefix}{name}?{storage.vouching_sas}"
            connection.request("PUT", path, content, {"x-ms-blob-type": "BlockBlob", "x-ms-version": "2021-12-02"})
            answer = connection.getresponse()
            said = answer.read()
            assert answer.status == 201, said[:300]


def listing_cases() -> Iterator[tuple[str, Callable[[World, random.Random], Result]]]:
    yield "listing/100000", listed(10_000, 100_000)
    yield "listing/5000", listed(1_000, 5_000)
