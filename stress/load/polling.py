"""`himl tb` that looks again and again: an hour of looks at the usual pace takes no more memory and no more handles at its end."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from stress.gauges import Gauge, slope
from stress.records import Outcome, Result
from stress.world import World
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.forked_himl import PROGRAM
from tests.support.running import Himl
from tests.support.tensorboard import NAME, Board, event_bytes, serving

RUNS, GROWING = 20, 5
EACH, SETTLED = 10, 0.25
"""Figures are read each so many looks; this share of them, the first, is left out of what they must not rise by."""
MEMORY, HANDLES = 8.0, 3.0
"""MiB, and open handles, by which they may rise over the looks that count."""
PER_LOOK = 10.0
"""Seconds after which a look that has not come counts as one that will not."""
BEGINS_WITH = 20
LISTING = r"^GET [^/]*\.blob\.core\.windows\.net/.*comp=list.*"


@dataclass
class Figures:
    """What was read, one of each at a time."""

    memory: list[float] = field(default_factory=list)
    handles: list[float] = field(default_factory=list)

    def read(self, gauge: Gauge) -> None:
        self.memory.append(gauge.resident)
        self.handles.append(float(gauge.handles))

    def rises(self) -> tuple[float, float]:
        """By how many MiB and handles they rise over all readings but the first ones."""
        memory, handles = ([*values[int(len(values) * SETTLED) :]] for values in (self.memory, self.handles))
        return slope(memory) * (len(memory) - 1), slope(handles) * (len(handles) - 1)


class GrowingRuns:
    """RUNS runs with an event file each; those of the first GROWING get one more record with each `grow`."""

    def __init__(self, staged: StagedWorkspace, most: int) -> None:
        self._staged, self.most = staged, most
        self._whole = event_bytes([step / 4 for step in range(most)])
        self._ends = list(accumulate(_record_lengths(self._whole)))
        self.ids = [f"curve_{number}_{number:02x}" for number in range(RUNS)]
        self._runs = [staged.add_run(run_id, "curves", status="Running" if number < GROWING else "Completed") for number, run_id in enumerate(self.ids)]
        self.count = BEGINS_WITH
        for run in self._runs:
            staged.state.storage.append("azureml", f"{run.artifact_prefix}logs/{NAME}", self._whole[: self._ends[self.count - 1]])

    def grow(self) -> None:
        """By one record; not beyond *most*."""
        if self.count < self.most:
            piece = self._whole[self._ends[self.count - 1] : self._ends[self.count]]
            self.count += 1
            for run in self._runs[:GROWING]:
                self._staged.state.storage.append("azureml", f"{run.artifact_prefix}logs/{NAME}", piece)

    def content(self, number: int) -> bytes:
        """What the event file of a run has."""
        return self._whole[: self._ends[(self.count if number < GROWING else BEGINS_WITH) - 1]]

    @property
    def values(self) -> list[float]:
        return [step / 4 for step in range(self.count)]


def polled(looks: int) -> Callable[[World, random.Random], Result]:
    """The case of so many looks."""

    def run(world: World, dice: random.Random) -> Result:
        staged = world.stage.workspace()
        try:
            return _polled(world, GrowingRuns(staged, BEGINS_WITH + looks), staged, looks)
        finally:
            staged.state.storage.wipe()

    return run


def _polled(world: World, runs: GrowingRuns, staged: StagedWorkspace, looks: int) -> Result:
    project = world.folder / "project"
    project.mkdir()
    staged.write_config(world.folder)
    copies, figures = project / "copies", Figures()
    env = {**world.environment(staged), "HIML_NO_CACHE": ""}
    begun = time.monotonic()
    with serving(Himl(PROGRAM, project), world.folder, *runs.ids, "--run_logs_dir", str(copies), env=env) as board:
        seen = _looked(world, runs, board, looks, figures)
        board.shows(_shown(board, runs.ids[0]), runs.values)
        problems = _settled(copies, runs)
        code = board.end(signal.SIGINT)
    seconds = time.monotonic() - begun
    memory, handles = figures.rises()
    problems += wrong_rises(memory, handles)
    problems += [f"{seen} looks came, not {looks}"] if seen < looks else []
    problems += [f"it ended with {code}"] if code != 0 else []
    facts = {"looks": seen, "runs": RUNS, "growing": GROWING, "memory_first_mib": round(figures.memory[0], 1), "memory_last_mib": round(figures.memory[-1], 1)}
    facts |= {"memory_rise_mib": round(memory, 2), "handles_rise": round(handles, 2), "handles_first": figures.handles[0], "handles_last": figures.handles[-1]}
    return Result(Outcome.lost if problems else Outcome.survived, code, seconds, seen, why=world.tidy("; ".join(problems[:5])), facts=facts)


def _looked(world: World, runs: GrowingRuns, board: Board, looks: int, figures: Figures) -> int:
    """Let runs grow with each look, and read figures; how many looks there were."""
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


def wrong_rises(memory: float, handles: float) -> list[str]:
    """What is wrong where memory (MiB) and handles rose by so much."""
    wrong = [f"memory rises by {memory:.1f} MiB, over {MEMORY:.0f}"] if memory > MEMORY else []
    return [*wrong, f"handles rise by {handles:.1f}, over {HANDLES:.0f}"] if handles > HANDLES else wrong


def _settled(folder: Path, runs: GrowingRuns) -> list[str]:
    """Which copies are still not what the runs have when there was time for one more look: what came last may be on its way."""
    end = time.monotonic() + PER_LOOK
    while (wrong := wrong_copies(folder, runs)) and time.monotonic() < end:
        time.sleep(0.1)
    return wrong


def wrong_copies(folder: Path, runs: GrowingRuns) -> list[str]:
    """Which copies are not what the runs have."""
    found = {run_id: [path.read_bytes() for path in folder.rglob("*tfevents*") if run_id in str(path.relative_to(folder))] for run_id in runs.ids}
    wrong = [run_id for number, run_id in enumerate(runs.ids) if found[run_id] != [runs.content(number)]]
    return [f"the copies of {len(wrong)} runs are not what these have, as of {wrong[0]}"] if wrong else []


def _shown(board: Board, run_id: str) -> str:
    """The name that TensorBoard has for a run."""
    names: Sequence[str] = board.ask("data/runs") or []
    return next((name for name in names if run_id in name), run_id)


def _record_lengths(content: bytes) -> Iterator[int]:
    """Of the records of an event file: eight bytes for the length of what they hold, and two sums of four bytes."""
    place = 0
    while place < len(content):
        length = 16 + int.from_bytes(content[place : place + 8], "little")
        place += length
        yield length


def polling_cases() -> Iterator[tuple[str, Callable[[World, random.Random], Result]]]:
    yield "polling/hour", polled(240)
    yield "polling/minutes", polled(30)
