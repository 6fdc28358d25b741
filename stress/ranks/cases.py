"""The cases of ranks: what comes between the starts of eight of them, with rank 0 at each place among them."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stress.faults.judge import Verdict, last_line
from stress.faults.places import FETCH, LISTING, SERVICE
from stress.ranks.judge import ended_early, judge_launch, moved_otherwise
from stress.ranks.launching import Launch, Launcher, Steps
from stress.ranks.orders import order_cases
from stress.ranks.source import COMMANDS, Source
from stress.ranks.starting import RANKS
from stress.records import Case, Outcome, Result
from stress.world import World
from tests.servers.azureml.faults import Latency, Status
from tests.support.forked_himl import PROGRAM

A_CELL = 16
"""Each place of rank 0 twice."""
LIMIT = 170.0
SLOW = 0.4
"""Seconds by which answers with bytes are late where something is to happen while they come."""
SAID = 160


@dataclass
class Tried:
    """One case on its way: where it runs, and what of it is to be told."""

    world: World
    source: Source
    dice: random.Random
    place: int
    facts: dict[str, object] = field(default_factory=dict)
    launchers: list[Launcher] = field(default_factory=list)

    def launcher(self) -> Launcher:
        """Another launcher of the same command."""
        reaps = self.dice.random() < 0.5
        self.facts.setdefault("reaps", reaps)
        place = self.world.folder / f"launcher_{len(self.launchers)}"
        command, env = [str(PROGRAM), *self.source.arguments], self.world.environment(self.source.staged)
        self.launchers.append(Launcher(place, command, cwd=self.source.cwd, env=env, reaps=reaps))
        return self.launchers[-1]

    def steps(self, seconds: float = 0.0, *, late: float = 0.0, first: int | None = None) -> Steps:
        """All ranks, *seconds* apart, with rank 0 at its place and *late*; the rank *first* before all others but rank 0."""
        others = self.dice.sample(range(1, RANKS), RANKS - 1)
        others.sort(key=lambda rank: rank != first)
        order = [*others[: self.place], 0, *others[self.place :]]
        self.facts["order"] = "".join(map(str, order))
        return [(rank, (seconds if number else 0.0) + (late if rank == 0 else 0.0)) for number, rank in enumerate(order)]


def rank_cases() -> list[Case]:
    """All of them, those whose ranks may wait long first."""
    cells = [(way, command) for way in WAYS for command in COMMANDS]
    launched = [Case(f"ranks/{command}/{way}/{number:02d}", _run(command, way, number % RANKS)) for way, command in cells for number in range(A_CELL)]
    return launched + order_cases()


def _run(command: str, way: str, place: int) -> Callable[[World, random.Random], Result]:
    def run(world: World, dice: random.Random) -> Result:
        tried = Tried(world, Source(world, command, dice), dice, place, {"place": place})
        world.stage.log.clear()
        try:
            result = WAYS[way](tried)
            unknown = world.stage.log.unknown()
            assert not unknown, f"the double was asked what it does not play: {unknown}"
        finally:
            for launcher in tried.launchers:
                launcher.close()
            tried.source.close()
        return replace(result, why=world.tidy(result.why), facts={**result.facts, **tried.facts})

    return run


def _steps_of(seconds: float, late: tuple[float, float] | None = None) -> Callable[[Tried], Result]:
    """Ranks that are started *seconds* apart, with rank 0 *late* by so much: nothing goes wrong."""

    def run(tried: Tried) -> Result:
        steps = tried.steps(seconds, late=tried.dice.uniform(*late) if late else 0.0)
        launch = tried.launcher().launch(steps, LIMIT)
        return _result(tried, launch, _whole(tried, launch), hits=1)

    return run


def _rank_0_dies(tried: Tried) -> Result:
    """Rank 0 is killed: some time after it began, or while bytes come. The same launcher then starts all ranks again."""
    way, seconds = tried.dice.choice(("running", "moving")), tried.dice.random()
    after = {"running": 4.0 * seconds, "moving": SLOW * seconds}[way]
    tried.world.stage.faults.add(Latency(SLOW), FETCH.match, times=None)
    blow = _Blow(0, after, tried.source.is_moving if way == "moving" else lambda: "0-1" in tried.source.begun())
    launcher = tried.launcher()
    launch = launcher.launch(tried.steps(), LIMIT, blow.look)
    tried.world.stage.faults.clear()
    was_through = any(name.startswith("outcome-") for name in tried.source.begun())
    died = "after it" if was_through else "in the middle"
    tried.facts |= {"killed": way, "after": round(after, 2), "died": died, "waited": round(launch.waited, 1)}
    if not blow.struck or launch.ends[0].code != -signal.SIGKILL:
        return _result(tried, launch, _whole(tried, launch), hits=0)
    problems = tried.source.problems(is_done=was_through)
    verdict = judge_launch(launch, problems, documented={0} if was_through else {1}, but={0})
    return _and_again(tried, launcher, _result(tried, launch, verdict, hits=1, but=0))


def _service_fails(tried: Tried) -> Result:
    """A service is out of order at one kind of request, for a moment or for good. The same launcher then starts all ranks again."""
    place, times = tried.dice.choice((SERVICE, LISTING, FETCH)), tried.dice.choice((None, None, 1, 2, 3))
    tried.world.stage.faults.add(Status(503), place.match, times=times)
    launcher = tried.launcher()
    launch = launcher.launch(tried.steps(), LIMIT)
    tried.world.stage.faults.clear()
    hits = sum(len(seen.faults) for seen in tried.world.stage.log.all())
    tried.facts |= {"met": f"503 at {place.name}, {times or 'all'}"}
    is_done = all(end.code == 0 for end in launch.ends.values())
    verdict = judge_launch(launch, tried.source.problems(is_done=is_done), documented={0, 5})
    return _and_again(tried, launcher, _result(tried, launch, verdict, hits=hits))


def _changed(same_launcher: bool) -> Callable[[Tried], Result]:
    """A launch in which one rank dies before it comes to anything; then the source is changed, and the same is launched again."""

    def run(tried: Tried) -> Result:
        victim, seconds = tried.dice.randrange(1, RANKS), tried.dice.choice((0.0, 0.05, 0.3))
        launcher, blow = tried.launcher(), _Blow(victim, 0.2 * tried.dice.random())
        first = launcher.launch(tried.steps(), LIMIT, blow.look)
        left = tried.source.begun()
        verdict = _whole(tried, first, but=victim)
        if verdict.outcome is Outcome.lost:
            return _result(tried, first, Verdict(Outcome.lost, f"the first launch: {verdict.why}"), hits=0, but=victim)
        tried.facts |= {"victim": victim, "apart": seconds}
        tried.source.change(tried.dice)
        tried.world.stage.log.clear()
        tried.world.stage.faults.add(Latency(SLOW), FETCH.match, times=None)
        second = (launcher if same_launcher else tried.launcher()).launch(tried.steps(seconds, first=victim), LIMIT)
        result = _result(tried, second, _whole(tried, second), hits=1)
        return result if f"{victim}-1" not in left and blow.struck else replace(result, outcome=_unless_lost(result, Outcome.not_met))

    return run


WAYS: Mapping[str, Callable[[Tried], Result]] = {
    "rank_0_dies": _rank_0_dies,
    "service_fails": _service_fails,
    "rank_0_late": _steps_of(0.0, (2.0, 6.0)),
    "changed_same_launcher": _changed(same_launcher=True),
    "changed_new_launcher": _changed(same_launcher=False),
    "steps_300ms": _steps_of(0.3),
    "steps_50ms": _steps_of(0.05),
    "at_once": _steps_of(0.0),
}


class _Blow:
    """SIGKILL for one rank, *after* so many seconds since *since* first held (by itself: since its start)."""

    def __init__(self, rank: int, after: float, since: Callable[[], bool] = lambda: True) -> None:
        self._rank, self._after, self._since = rank, after, since
        self._begun = 0.0
        self.struck = False

    def look(self, launch: Launch) -> None:
        end = launch.ends.get(self._rank)
        if end is None or end.code is not None or self.struck:
            return
        if not self._begun and self._since():
            self._begun = time.time()
        if self._begun and time.time() >= self._begun + self._after:
            os.kill(end.pid, signal.SIGKILL)
            self.struck = True


def _whole(tried: Tried, launch: Launch, *, but: int | None = None) -> Verdict:
    """That of a launch in which all ranks (*but* one) have to have all bytes, of which each was moved once."""
    source, killed = tried.source, frozenset(() if but is None else (but,))
    is_done = all(end.code == 0 for rank, end in launch.ends.items() if rank not in killed)
    problems = source.problems(is_done=is_done)
    if is_done:
        problems += moved_otherwise(source.sizes, source.moved()) + ended_early(launch, source.there(), but=killed)
    return judge_launch(launch, problems, but=killed)


def _and_again(tried: Tried, launcher: Launcher, result: Result) -> Result:
    """*result*, unless the same launcher does not get everything when it starts all ranks again."""
    if result.outcome is Outcome.lost:
        return result
    launch = launcher.launch(tried.steps(), LIMIT)
    verdict = judge_launch(launch, tried.source.problems(is_done=True))
    again = launch.ends[0].code
    if verdict.outcome is Outcome.lost:
        return replace(result, outcome=verdict.outcome, again=again, why=f"the next launch: {verdict.why}")
    return replace(result, again=again)


def _result(tried: Tried, launch: Launch, verdict: Verdict, *, hits: int, but: int | None = None) -> Result:
    ends: Sequence[int] = [rank for rank in launch.ends if rank != but]
    codes = {launch.ends[rank].code for rank in ends}
    code = codes.pop() if len(codes) == 1 else None
    facts: dict[str, object] = {"requests": len(tried.world.stage.log.all()), "bytes": sum(tried.source.moved().values())}
    if code:
        facts["said"] = sorted({tried.world.tidy(last_line(launch.ends[rank].stderr))[:SAID] for rank in ends})[:3]
    outcome = verdict.outcome if hits else _unless_lost(verdict, Outcome.not_met)
    return Result(outcome, code, launch.seconds, hits, why=verdict.why, facts=facts)


def _unless_lost(told: Verdict | Result, outcome: Outcome) -> Outcome:
    return Outcome.lost if told.outcome is Outcome.lost else outcome
