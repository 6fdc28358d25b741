"""The server of a local job, met in several ways: `endpoint/<way>/<tracked or submitted>/<number>`. Linux only (/proc)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from himl_cli.workspaces.local.tracking.tracking_server import Limits
from stress.endpoint.attacks import ATTACKS, SHOWN, Met
from stress.endpoint.requests import INTRUDER
from stress.endpoint.targets import TARGETS, Kept, Target
from stress.endpoint.watch import Watch
from stress.records import Case, Outcome, Result
from stress.world import World
from tests.support.processes import is_sound_file

NUMBERS = {("requests", "tracked"): 30}
"""How many cases a cell has, if not one."""
THREADS = Limits().most + 24
GROWTH = 64.0
"""MiB of memory above those at first."""
WAIT = 60.0
"""Seconds that the job's own client may wait at most: half of its patience."""
TALK = 64 << 10
"""Bytes that the job's logs may have in the end."""
SECONDS_TO_SETTLE = 20.0


def endpoint_cases() -> list[Case]:
    """All of them."""
    cells = [(way, target) for way in ATTACKS for target in TARGETS]
    return [Case(f"endpoint/{way}/{target}/{number:02d}", _run(way, target)) for way, target in cells for number in range(NUMBERS.get((way, target), 1))]


def _run(way: str, kind: str) -> Callable[[World, random.Random], Result]:
    def run(world: World, dice: random.Random) -> Result:
        with many_handles(), TARGETS[kind](world) as target:
            begun = time.monotonic()
            with Watch(target) as watch:
                met = ATTACKS[way](target, dice)
            seconds = time.monotonic() - begun
            settled = _settled(target)
            leaks, peak, talk = target.leaks(), target.gauge.peak, target.talk()
        kept = target.kept()
        problems = [*met.problems, *leaks, *wrong_record(kept, len(watch.waits), met.tags, is_submitted=kind == "submitted"), *wrong_figures(watch, talk)]
        problems += [] if is_sound_file(target.database) else ["the database is damaged"]
        problems += [] if settled else ["handles of connections that are gone are still held"]
        outcome = Outcome.lost if problems else Outcome.survived
        why = world.tidy("; ".join(problems[:SHOWN]) + (f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""))
        facts = _facts(met, watch, peak, talk)
        return Result(outcome, 0, seconds, met.sent, why=why, facts=facts)

    return run


def wrong_record(kept: Kept, steps: int, tags: frozenset[str], *, is_submitted: bool) -> list[str]:
    """What the record of the job lacks of what its own client logged (*steps* of them, and *tags*), or has of what others tried."""
    wrong = []
    if list(kept.steps) != list(range(steps)):
        wrong.append(f"{len(kept.steps)} of the {steps} steps of the job's own client are on record, or others")
    strange = sorted(name for name in (*kept.metrics, *kept.tags) if name.startswith(INTRUDER))
    wrong += [f"on record are {len(strange)} values of strangers, as '{strange[0]}'"] if strange else []
    if (lacking := tags - kept.tags.keys()) or (others := {name for name in kept.tags if name.startswith("right_")} - tags):
        wrong.append(f"of the tags that were let in {len(lacking)} are lacking, {len(others) if not lacking else 0} are there that were not")
    if kept.runs != 1:
        wrong.append(f"{kept.runs} runs are on record")
    expected = "Completed" if is_submitted else "Running"
    wrong += [] if kept.status == expected else [f"the job is {kept.status}, not {expected}"]
    wrong += ["the last value of the job is lacking"] if is_submitted and "last" not in kept.metrics else []
    return wrong


def wrong_figures(watch: Watch, talk: int) -> list[str]:
    """What the server took that it should not take, and what the job's own client met."""
    wrong = list(watch.troubles)
    if watch.threads > THREADS:
        wrong.append(f"{watch.threads} threads more than at first, over {THREADS}")
    if watch.handles > THREADS:
        wrong.append(f"{watch.handles} handles more than at first, over {THREADS}")
    if watch.growth > GROWTH:
        wrong.append(f"{watch.growth:.0f} MiB more than at first, over {GROWTH:.0f}")
    if max(watch.waits, default=0.0) > WAIT:
        wrong.append(f"the job's own client waited {max(watch.waits):.0f} s, over {WAIT:.0f}")
    if talk > TALK:
        wrong.append(f"the job's logs have {talk:,} bytes")
    return wrong


def _facts(met: Met, watch: Watch, peak: float, talk: int) -> dict[str, object]:
    figures = {"threads": watch.threads, "handles": watch.handles, "growth_mib": round(watch.growth, 1), "peak_mib": round(peak, 1), "log_bytes": talk}
    own = {"own_requests": len(watch.waits), "own_longest_wait": round(max(watch.waits, default=0.0), 2)}
    return {"sent": met.sent, **met.facts, **figures, **own}


def _settled(target: Target) -> bool:
    """Whether the server lets go of the connections that are gone: few handles and threads are left soon."""
    deadline = time.monotonic() + SECONDS_TO_SETTLE
    while target.gauge.threads > 24 or target.gauge.handles > 48:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


@contextmanager
def many_handles() -> Iterator[None]:
    """Let this process open as many connections as the machine allows it."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
