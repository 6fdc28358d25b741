"""Jobs of a real Slurm while `himl submit` is killed, the controller is away, or jobs are requeued:
`slurm/<command>/<fault>/NN`. Linux only.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

from stress.kills import GONE, SIGNALS, Started, judge_first
from stress.records import Case, Result
from stress.world import Ended, World, judge, judge_again
from tests.support.processes import processes_marked, stop
from tests.support.running import until, write_files
from tests.support.slurm import Programs, Slurm, running_cluster

NUMBERS = {"submit/kill": 30, "submit/away": 10, "job/requeue": 10}
LIMIT = 120.0
AWAY = 5  # the exit code where Slurm does not answer
SCRIPT = """
import sys, time
from pathlib import Path

steps = Path("outputs/steps.txt")
done = len(steps.read_text().split()) if steps.exists() else 0
print("from step", done, flush=True)
for step in range(done, int(sys.argv[1])):
    with steps.open("a") as file:
        file.write(f"{step}\\n")
    time.sleep(0.2)
"""
"""It goes on where the attempt before it ended."""
STEPS = 15
SUBMIT = ("submit", "train.py", "--cluster", "slurm:gpu", "-q")


class Project:
    """A project whose jobs a cluster runs."""

    def __init__(self, world: World, slurm: Programs, folder: Path | None = None) -> None:
        self.world, self.slurm, self.folder = world, slurm, folder or world.project
        env = world.environment()
        self.env = env | {"PATH": f"{slurm.programs}:{env.get('PATH', '/usr/bin:/bin')}"}
        write_files(self.folder, {"train.py": SCRIPT})

    def call(self, *arguments: str) -> Ended | None:
        return self.world.call(arguments, self.folder, self.env, LIMIT)

    def runs(self) -> list[dict[str, Any]]:
        if not (self.folder / ".himl").is_dir():
            return []
        found: list[dict[str, Any]] = (
            self.world.himl("runs", "list", "--num_runs", "all", "--json", cwd=self.folder, env=self.env).json() or []
        )
        return found

    def all_ended(self) -> list[dict[str, Any]]:
        until(
            lambda: all(run["status"] not in ("Queued", "Running") for run in self.runs()),
            lambda: f"all runs end: {self.runs()}",
            seconds=LIMIT,
        )
        return self.runs()

    def job_names(self) -> list[str]:
        """The names of all of Slurm's jobs, one for each array."""
        told = self.slurm("squeue", "-h", "-t", "all", "-o", "%j %F").splitlines()
        return [line.split()[0] for line in set(told)]

    def wrong(self, ids: Sequence[str]) -> list[str]:
        """What is wrong once all runs have ended: *ids* are those that himl named. Each of Slurm's jobs belongs to
        one run, and no run is half there.
        """
        runs = {run["id"]: run for run in self.all_ended()}
        jobs = self.job_names()
        wrong = [f"{len(jobs)} jobs for {len(set(jobs))} runs"] if len(set(jobs)) < len(jobs) else []
        wrong += [f"job '{name}' has no run" for name in sorted(set(jobs) - runs.keys())]
        wrong += [f"himl named run '{run}', which is not on record" for run in ids if run not in runs]
        for run in runs.values():
            # himl cancels the run of a submit that Ctrl-C or SIGTERM ends
            if run["status"] not in ("Completed", "Failed", "Canceled"):
                wrong.append(f"a run is {run['status']}")
            if run["status"] == "Completed" and run["id"] not in jobs:
                wrong.append("a completed run has no job")
            if run["status"] == "Failed" and not run["reason"]:
                wrong.append("a run failed without a reason")
        hidden = [path.name for path in (self.folder / ".himl" / "runs").glob(".*")]
        return wrong + ([f"'{hidden[0]}' is left"] if hidden else [])


@contextmanager
def cluster(world: World) -> Iterator[tuple[Project, Slurm]]:
    folder = world.folder / "slurm"
    folder.mkdir()
    with running_cluster(folder) as slurm:
        yield Project(world, slurm), slurm


def named(ended: Ended | None) -> list[str]:
    return re.findall(r"\btrain_\d{10}_[0-9a-f]{8}\b", ended.stdout) if ended else []


def killed(world: World, dice: random.Random) -> Result:
    with cluster(world) as (at, _):
        return killed_submit(at, dice)


def killed_submit(at: Project, dice: random.Random, *options: str) -> Result:
    """`himl submit` gets a signal: it leaves one run or none, and the next call makes one more."""
    begun = time.monotonic()
    usual = at.call(*SUBMIT, *options, "--", "1")
    assert usual is not None, "a submit that nobody kills hangs"
    assert usual.code == 0, usual.stderr
    seconds, number = time.monotonic() - begun, dice.choice(SIGNALS)
    many = ("--crossval", "2") if dice.random() < 0.5 else ()
    command = (*SUBMIT, *options, *many, "--", "1")
    started = Started(command, at.folder, at.env, at.world.folder)
    try:
        struck = started.strike(number, dice.uniform(0.2, 1.1) * seconds, dice.sample(("himl", "group"), 2))
        ended = started.outcome()
    finally:
        stop(processes_marked(started.mark, patience=0.0))
    first = named(usual)
    verdict = judge_first(
        ended, [struck] if struck else [], processes_marked(started.mark, patience=GONE), at.wrong(first + named(ended))
    )
    again = at.call(*command)
    verdict = judge_again(verdict, again, at.wrong(first + named(ended) + named(again)))
    return at.world.told(
        verdict, ended, started.seconds, int(struck is not None), again, signal=number.name, runs=len(at.runs())
    )


def away(world: World, dice: random.Random) -> Result:
    """The controller goes away around a submit, and comes back: what was sent runs to its end."""
    with cluster(world) as (at, slurm):
        until_away = Timer(dice.uniform(0.0, 0.8), slurm.stop_controller)
        begun = time.monotonic()
        until_away.start()
        try:
            ended = at.call(*SUBMIT, "--", "1")
            seconds = time.monotonic() - begun
        finally:
            until_away.join()
            slurm.start_controller()
        verdict = judge(ended, {0, AWAY}, at.wrong(named(ended)))
        again = at.call(*SUBMIT, "--", "1")
        verdict = judge_again(verdict, again, at.wrong(named(ended) + named(again)))
        return world.told(verdict, ended, seconds, 1, again, runs=len(at.runs()))


def requeued(world: World, dice: random.Random) -> Result:
    """Slurm starts a job again: it is one run with one attempt more, whose script finds the files of the attempt
    before.
    """
    with cluster(world) as (at, _):
        begun, times = time.monotonic(), dice.randrange(1, 3)
        ended = at.call(*SUBMIT, "--", str(STEPS))
        (run_id,) = named(ended)
        job = at.runs()[0]["tags"]["himl.slurm_job"]
        steps = world.project / ".himl" / "runs" / run_id / "code" / "outputs" / "steps.txt"

        def count() -> int:
            return len(steps.read_text().split()) if steps.exists() else 0

        for _ in range(times):
            before = min(STEPS - 1, count() + 1 + dice.randrange(STEPS // 3))
            until(
                lambda before=before: at.slurm.start_requeued(run_id) and count() >= before,  # type: ignore[misc]
                "the job takes some steps",
            )
            at.slurm("scontrol", "requeue", job, may_fail=True)  # it may have ended
        until(
            lambda: at.slurm.start_requeued(run_id) and at.runs()[0]["status"] not in ("Queued", "Running"),
            lambda: f"the run ends: {at.runs()}",
        )
        wrong = at.wrong([run_id])
        (run,) = at.runs()
        wrong += [] if run["status"] == "Completed" else [f"the run is {run['status']}: {run['reason']}"]
        wrong += [] if count() == STEPS else [f"{count()} steps of {STEPS}"]
        again = at.call(*SUBMIT, "--", "1")
        verdict = judge_again(judge(ended, {0}, wrong, prints=True), again, at.wrong(named(again)))
        return world.told(verdict, ended, time.monotonic() - begun, times, again, requeued=times)


TRIED: Mapping[str, Callable[[World, random.Random], Result]] = {
    "submit/kill": killed,
    "submit/away": away,
    "job/requeue": requeued,
}


def slurm_cases() -> list[Case]:
    return [
        Case(f"slurm/{cell}/{number:02d}", TRIED[cell]) for cell, count in NUMBERS.items() for number in range(count)
    ]
