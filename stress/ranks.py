"""Eight ranks that start the same download at different times and with rank 0 in each position, and that must end
together.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from stress import apart
from stress.apart import RANKS
from stress.faults import FETCH, LISTING, SERVICE
from stress.records import Case, Outcome, Result
from stress.world import SAID, SPAWN, Ended, Verdict, World, file_differences, judge, last_line, lost
from tests.azureml_double.faults import Latency, Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.running import PROGRAM

Steps = Sequence[tuple[int, float]]
"""Ranks in the order in which they are started, each with the seconds before that."""


@dataclass
class RankEnd:
    """One rank: the times of its start and end (seconds since the epoch, 0 if it did not end) and its output. `code`
    is None if it did not end.
    """

    pid: int
    started: float
    ended: float = 0.0
    code: int | None = None
    stdout: str = ""
    stderr: str = ""


@dataclass
class Launch:
    ends: dict[int, RankEnd] = field(default_factory=dict)

    @property
    def moment(self) -> float:
        return max(end.started for end in self.ends.values())

    @property
    def seconds(self) -> float:
        """Seconds from the last start of a rank to the last end, for ranks that ended."""
        return max(0.0, max(end.ended for end in self.ends.values()) - self.moment)

    @property
    def waited(self) -> float:
        """The part of that time after the end of rank 0."""
        return min(self.seconds, max(0.0, max(end.ended for end in self.ends.values()) - self.ends[0].ended))


class Launcher:
    """A process that starts *command* as ranks, with its files in *folder*. `close` ends it and all ranks."""

    def __init__(self, folder: Path, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], reaps: bool) -> None:
        folder.mkdir()
        self._folder, self._count = folder, 0
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=apart.launch, args=(theirs, folder, [*command], cwd, dict(env), reaps))
        self._process.start()
        theirs.close()

    def launch(self, steps: Steps, limit: float, look: Callable[[Launch], None] = lambda launch: None) -> Launch:
        """Start these ranks and wait until all have ended, or until *limit* seconds after the last start. Calls
        *look* in the meantime.
        """
        self._pipe.send(steps)
        launch, number, is_done = Launch(), self._count, False
        self._count += 1
        while not is_done and not (len(launch.ends) == len(steps) and time.time() > launch.moment + limit):
            if self._pipe.poll(0.02):
                told = self._pipe.recv()
                if "pid" in told:
                    launch.ends[told["rank"]] = RankEnd(told["pid"], told["started"])
                elif "code" in told:
                    launch.ends[told["rank"]].code, launch.ends[told["rank"]].ended = told["code"], told["ended"]
                is_done = "done" in told
            look(launch)
        for rank, end in launch.ends.items():
            end.stdout, end.stderr = (
                (self._folder / f"{number}-{rank}.{kind}").read_text(errors="replace") for kind in ("out", "err")
            )
        return launch

    def close(self) -> None:
        self._pipe.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.join()


CONTAINER = "azureml"
LARGE = 9 << 20
SIZES = (0, 1, 300, 16 << 10, 100_000, 300_000, 700_000)
CHECKPOINT = "outputs/checkpoints/last.ckpt"
COMMANDS: Mapping[str, tuple[str, ...]] = {"download": ("download",), "checkpoint": ("checkpoint", "fetch")}


class Source:
    def __init__(self, world: World, command: str, dice: random.Random) -> None:
        self._world, self._command = world, command
        self.staged: StagedWorkspace = world.lasting("workspace of ranks", lambda world: world.stage.workspace())
        self._run = self.staged.add_run(f"ranks_{dice.getrandbits(48):012x}", "train")
        self.files: dict[str, bytes] = {}
        self.arguments = (*COMMANDS[command], self._run.run_id)
        self.folder = world.project / ("outputs" if command == "download" else "checkpoints") / self._run.run_id
        world.project.mkdir()
        self.staged.write_config(world.folder)
        self.change(dice)

    def change(self, dice: random.Random) -> None:
        """Change the bytes of all files, and add one file to a download each time."""
        if self._command == "checkpoint":
            self.files = {CHECKPOINT.rpartition("/")[2]: dice.randbytes(LARGE)}
            self.staged.put_artifact(self._run, CHECKPOINT, self.files["last.ckpt"])
        else:
            more = len(self.files) - len(SIZES) if self.files else 0
            sizes = {f"part_{number}.bin": size for number, size in enumerate((*SIZES, *[50_000] * more))} | {
                "large.bin": LARGE
            }
            before, self.files = self.files, {}
            for name, size in sizes.items():
                self.files[name] = dice.randbytes(size)
                while size and self.files[name] == before.get(
                    name
                ):  # one of 256 for a single byte, which himl rightly does not fetch again
                    self.files[name] = dice.randbytes(size)
            self.staged.put_artifacts(self._run, self.files)

    def problems(self, is_done: bool) -> list[str]:
        return file_differences(self.files, self.folder, is_done=is_done)

    def moved(self) -> dict[str, int]:
        """Bytes of replies per file since the log was cleared, for files with any."""
        moved: Counter[str] = Counter()
        for seen in self._world.stage.log.find(FETCH.match):
            if self._run.artifact_prefix in seen.path and seen.received:
                moved[seen.path.rpartition("/")[2]] += seen.received
        return moved

    def there(self) -> float:
        return max((seen.started + seen.seconds for seen in self._world.stage.log.find(FETCH.match)), default=0.0)

    def begun(self) -> set[str]:
        """The ranks' records of their calls: `0-1`, `outcome-1`, …"""
        return {path.name for path in self._world.home.rglob("ranks/*/*/*")}

    def close(self) -> None:
        container = self.staged.state.storage.client.get_container_client(CONTAINER)
        for blob in list(self.staged.state.storage.list(CONTAINER, self._run.artifact_prefix)):
            container.delete_blob(blob.name)


A_CELL = 16  # each position of rank 0 twice
LIMIT = 170.0
SLOW = 0.4  # seconds by which answers with bytes are late where something is to happen while they come
LONGEST, SLOWEST = (
    30.0,
    120.0,
)  # seconds until all other ranks have ended once rank 0 has and all are started, and those of a whole launch
AT_ONCE = 0.02  # seconds by which the clocks that this compares may differ
ORDERS, PARTS_OF_ORDERS = math.factorial(RANKS), 240
IN_MEMORY = Path("/dev/shm")


@dataclass
class Tried:
    world: World
    source: Source
    dice: random.Random
    place: int
    facts: dict[str, object] = field(default_factory=dict)
    launchers: list[Launcher] = field(default_factory=list)

    def launcher(self) -> Launcher:
        reaps = self.dice.random() < 0.5
        self.facts.setdefault("reaps", reaps)
        place = self.world.folder / f"launcher_{len(self.launchers)}"
        command, env = [str(PROGRAM), *self.source.arguments], self.world.environment(self.source.staged)
        self.launchers.append(Launcher(place, command, cwd=self.world.project, env=env, reaps=reaps))
        return self.launchers[-1]

    def steps(self, seconds: float = 0.0, *, late: float = 0.0, first: int | None = None) -> Steps:
        """All ranks, *seconds* apart, with rank 0 at its position and *late*. The rank *first* comes before all
        others except rank 0.
        """
        others = self.dice.sample(range(1, RANKS), RANKS - 1)
        others.sort(key=lambda rank: rank != first)
        order = [*others[: self.place], 0, *others[self.place :]]
        self.facts["order"] = "".join(map(str, order))
        return [
            (rank, (seconds if number else 0.0) + (late if rank == 0 else 0.0)) for number, rank in enumerate(order)
        ]


def rank_cases() -> list[Case]:
    cells = [(way, command) for way in WAYS for command in COMMANDS]
    launched = [
        Case(f"ranks/{command}/{way}/{number:02d}", partial(_run, command, way, number % RANKS))
        for way, command in cells
        for number in range(A_CELL)
    ]
    return launched + [
        Case(f"ranks/orders/all/{number:03d}", partial(_run_orders, number)) for number in range(PARTS_OF_ORDERS)
    ]


def _run(command: str, way: str, place: int, world: World, dice: random.Random) -> Result:
    tried = Tried(world, Source(world, command, dice), dice, place, {"place": place})
    world.stage.log.clear()
    try:
        result = WAYS[way](tried)
        world.check_requests()
    finally:
        for launcher in tried.launchers:
            launcher.close()
        tried.source.close()
    return replace(result, why=world.tidy(result.why), facts={**result.facts, **tried.facts})


def _steps_of(seconds: float, late: tuple[float, float] | None, tried: Tried) -> Result:
    steps = tried.steps(seconds, late=tried.dice.uniform(*late) if late else 0.0)
    launch = tried.launcher().launch(steps, LIMIT)
    return _result(tried, launch, _whole(tried, launch), hits=1)


def _rank_0_dies(tried: Tried) -> Result:
    """Kill rank 0 some time after its start, or during the transfer. The same launcher then starts all ranks again."""
    way, seconds = tried.dice.choice(("running", "moving")), tried.dice.random()
    after = {"running": 4.0 * seconds, "moving": SLOW * seconds}[way]
    tried.world.stage.faults.add(Latency(SLOW), FETCH.match, times=None)
    blow = _Blow(
        0,
        after,
        lambda: bool(tried.world.stage.log.find(FETCH.match)) if way == "moving" else "0-1" in tried.source.begun(),
    )
    launcher = tried.launcher()
    launch = launcher.launch(tried.steps(), LIMIT, blow.look)
    tried.world.stage.faults.clear()
    was_through = any(name.startswith("outcome-") for name in tried.source.begun())
    died = "after it" if was_through else "in the middle"
    tried.facts |= {"killed": way, "after": round(after, 2), "died": died, "waited": round(launch.waited, 1)}
    if not blow.struck or launch.ends[0].code != -signal.SIGKILL:
        return _result(tried, launch, _whole(tried, launch), hits=0)
    problems = tried.source.problems(was_through)
    verdict = judge_launch(launch, problems, documented={0} if was_through else {1}, but={0})
    return _and_again(tried, launcher, _result(tried, launch, verdict, hits=1, but=0))


def _service_fails(tried: Tried) -> Result:
    """A service fails on one kind of request, temporarily or permanently. The same launcher then starts all ranks
    again.
    """
    place, times = tried.dice.choice((SERVICE, LISTING, FETCH)), tried.dice.choice((None, None, 1, 2, 3))
    tried.world.stage.faults.add(Status(503), place.match, times=times)
    launcher = tried.launcher()
    launch = launcher.launch(tried.steps(), LIMIT)
    tried.world.stage.faults.clear()
    hits = tried.world.hits()
    tried.facts |= {"met": f"503 at {place.name}, {times or 'all'}"}
    is_done = all(end.code == 0 for end in launch.ends.values())
    verdict = judge_launch(launch, tried.source.problems(is_done), documented={0, 5})
    return _and_again(tried, launcher, _result(tried, launch, verdict, hits=hits))


def _changed(tried: Tried, *, same_launcher: bool) -> Result:
    """One rank of a launch dies before it does anything. Then the source changes, and the launch is repeated."""
    victim, seconds = tried.dice.randrange(1, RANKS), tried.dice.choice((0.0, 0.05, 0.3))
    launcher, blow = tried.launcher(), _Blow(victim, 0.2 * tried.dice.random())
    first = launcher.launch(tried.steps(), LIMIT, blow.look)
    left = tried.source.begun()
    verdict = _whole(tried, first, but=victim)
    if verdict.is_lost:
        return _result(tried, first, lost(f"the first launch: {verdict.why}"), hits=0, but=victim)
    tried.facts |= {"victim": victim, "apart": seconds}
    tried.source.change(tried.dice)
    tried.world.stage.log.clear()
    tried.world.stage.faults.add(Latency(SLOW), FETCH.match, times=None)
    second = (launcher if same_launcher else tried.launcher()).launch(tried.steps(seconds, first=victim), LIMIT)
    result = _result(tried, second, _whole(tried, second), hits=1)
    is_met = (f"{victim}-1" not in left and blow.struck) or result.outcome is Outcome.lost
    return result if is_met else replace(result, outcome=Outcome.not_met)


WAYS: Mapping[str, Callable[[Tried], Result]] = {
    "rank_0_dies": _rank_0_dies,
    "service_fails": _service_fails,
    "rank_0_late": partial(_steps_of, 0.0, (2.0, 6.0)),
    "changed_same_launcher": partial(_changed, same_launcher=True),
    "changed_new_launcher": partial(_changed, same_launcher=False),
    "steps_300ms": partial(_steps_of, 0.3, None),
    "steps_50ms": partial(_steps_of, 0.05, None),
    "at_once": partial(_steps_of, 0.0, None),
}


@dataclass
class _Blow:
    """SIGKILL for one rank, *after* seconds since *since* first held (by default since its start)."""

    rank: int
    after: float
    since: Callable[[], bool] = lambda: True
    begun: float = 0.0
    struck: bool = False

    def look(self, launch: Launch) -> None:
        end = launch.ends.get(self.rank)
        if end is None or end.code is not None or self.struck:
            return
        if not self.begun and self.since():
            self.begun = time.time()
        if self.begun and time.time() >= self.begun + self.after:
            os.kill(end.pid, signal.SIGKILL)
            self.struck = True


def _whole(tried: Tried, launch: Launch, *, but: int | None = None) -> Verdict:
    """The verdict on a launch in which all ranks (*but* one) must have all bytes, with each byte transferred once."""
    source, killed = tried.source, frozenset(() if but is None else (but,))
    is_done = all(end.code == 0 for rank, end in launch.ends.items() if rank not in killed)
    problems = source.problems(is_done)
    if is_done:
        sizes = {name: len(content) for name, content in source.files.items() if content}
        problems += moved_otherwise(sizes, source.moved()) + ended_early(launch, source.there(), but=killed)
    return judge_launch(launch, problems, but=killed, there=source.there())


def _and_again(tried: Tried, launcher: Launcher, result: Result) -> Result:
    if result.outcome is Outcome.lost:
        return result
    launch = launcher.launch(tried.steps(), LIMIT)
    verdict = judge_launch(launch, tried.source.problems(True))
    again = launch.ends[0].code
    if verdict.is_lost:
        return replace(result, outcome=verdict.outcome, again=again, why=f"the next launch: {verdict.why}")
    return replace(result, again=again)


def _result(tried: Tried, launch: Launch, verdict: Verdict, *, hits: int, but: int | None = None) -> Result:
    ends: Sequence[int] = [rank for rank in launch.ends if rank != but]
    codes = {launch.ends[rank].code for rank in ends}
    code = codes.pop() if len(codes) == 1 else None
    facts: dict[str, object] = {
        "requests": len(tried.world.stage.log.all()),
        "bytes": sum(tried.source.moved().values()),
    }
    if code:
        facts["said"] = sorted({tried.world.tidy(last_line(launch.ends[rank].stderr))[:SAID] for rank in ends})[:3]
    outcome = verdict.outcome if hits or verdict.is_lost else Outcome.not_met
    return Result(outcome, code, launch.seconds, hits, why=verdict.why, facts=facts)


def judge_launch(
    launch: Launch,
    problems: Sequence[str],
    *,
    documented: Set[int] = frozenset({0}),
    but: Set[int] = frozenset(),
    there: float = math.inf,
) -> Verdict:
    """The verdict on a launch whose ranks, *but* killed ones, must all end with the same code, and after 0 with the
    same stdout.

    A rank that started when all bytes were *there* (seconds since the epoch) may check the files itself, so its stdout
    may differ."""
    ends = {rank: end for rank, end in sorted(launch.ends.items()) if rank not in but}
    if hanging := [rank for rank, end in ends.items() if end.code is None]:
        return lost(f"ranks {hanging} do not end")
    codes = {rank: end.code or 0 for rank, end in ends.items()}
    if len(set(codes.values())) > 1:
        said = "; ".join(f"{rank}: {code} ({last_line(ends[rank].stderr)[:120]})" for rank, code in codes.items())
        return lost(f"the ranks end with different codes: {said}")
    verdicts = [
        judge(Ended(codes[rank], end.stdout, end.stderr), documented, problems, prints=True)
        for rank, end in ends.items()
    ]
    worst = next((verdict for verdict in verdicts if verdict.is_lost), verdicts[0])
    if worst.outcome is Outcome.survived and len({end.stdout for end in ends.values() if end.started < there}) > 1:
        texts = "; ".join(f"{rank}: {end.stdout[:120]!r}" for rank, end in ends.items())
        return lost(f"the ranks say different things: {texts}")
    if not worst.is_lost and launch.waited > LONGEST:
        return lost(f"the last rank ended {launch.waited:.0f} s after rank 0, or after it was started")
    if not worst.is_lost and launch.seconds > SLOWEST:
        return lost(f"the last rank ended {launch.seconds:.0f} s after it was started")
    return worst


def ended_early(launch: Launch, there: float, *, but: Set[int] = frozenset()) -> list[str]:
    """Ranks that ended successfully before all bytes were *there* (seconds since the epoch), because they used the
    outcome of another launch.
    """
    return [
        f"rank {rank} ended {there - end.ended:.2f} s before all bytes were there"
        for rank, end in sorted(launch.ends.items())
        if rank not in but and end.code == 0 and end.ended < there - AT_ONCE
    ]


def moved_otherwise(wanted: Mapping[str, int], moved: Mapping[str, int]) -> list[str]:
    pairs = [(name, moved.get(name, 0), wanted.get(name, 0)) for name in sorted(wanted.keys() | moved.keys())]
    return [f"{name!r}: {found:,} bytes were moved of {size:,}" for name, found, size in pairs if found != size]


def _run_orders(number: int, world: World, dice: random.Random) -> Result:
    begun, count = time.monotonic(), ORDERS // PARTS_OF_ORDERS
    folder = Path(tempfile.mkdtemp(prefix="himl-ranks-", dir=IN_MEMORY if IN_MEMORY.is_dir() else world.folder))
    try:
        with SPAWN.Pool(1) as pool:
            done, slowest, wrong = pool.apply_async(apart.start_ranks, (folder, number * count, count)).get(1800)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    problems = wrong + ([] if done == count else [f"{done} orders were run, not {count}"])
    return world.result(problems, 0, time.monotonic() - begun, done, {"orders": done, "slowest": round(slowest, 2)})
