"""Send each signal to each command at a random moment, and check the state that a killed command leaves. Linux only
(/proc).
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from himl_cli.workspaces.local.code_store import CodeStore
from stress.faults import Attempt, Download, Stock, Submit, Upload
from stress.killed import ALL, GROUP, HIML, NEXT_LIMIT, SHIM, SUPERVISOR, Killed, count_temporary
from stress.records import Case, Result
from stress.runs import AtOnce, Attached, Collected, CollectedAtOnce, Deleted, Staged
from stress.slides import Tiles
from stress.world import LOG_METRIC, Ended, Verdict, World, differences, drawn_until_met, judge, judge_again
from tests.support.folders import files_with
from tests.support.processes import MARK, is_sound, is_sound_file, processes_marked, stop
from tests.support.running import PROGRAM, write_files
from tests.support.web import KEY, serving_webhook


class Moving(Killed):
    """A command that moves files."""

    def __init__(self, kind: type[Attempt], world: World, dice: random.Random) -> None:
        super().__init__(world, dice)
        self._attempt = kind(world, world.lasting("stock", Stock), dice)
        self.arguments, self.close = self._attempt.arguments, self._attempt.close  # type: ignore[method-assign]
        self.env = world.environment(self._attempt.workspace)

    def first(self, ended: Ended, beside: Ended | None = None) -> list[str]:
        return self._attempt.problems(ended, is_done=ended.code == 0) + unsound(
            self.world.home, self.world.folder / "copies"
        )

    then = first

    def facts(self) -> Mapping[str, Any]:
        return {"jobs": len(self._attempt.of_first)} if isinstance(self._attempt, Sent) else {}


class Sent(Submit):
    """A submit that may be killed while the service still creates the job. `of_first` are the jobs of the killed
    call, at most one.
    """

    def set_up(self, dice: random.Random) -> None:
        super().set_up(dice)
        self._before = frozenset(self.workspace.state.runs)
        self._is_killed = False
        self.of_first: set[str] = set()

    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        assert ended is not None
        new = set(self.workspace.state.runs) - self._before - self.of_first
        if self._is_killed:
            late = new - {ended.stdout.strip()}
            self._jobs |= late
            self.of_first |= late
            wrong = super().problems(ended, is_done=is_done)
        else:
            self._is_killed = True
            self.of_first |= new
            wrong = super().problems(ended, is_done=is_done)
            if ended.code != -signal.SIGKILL and any(
                job not in ended.stdout + ended.stderr for job in self.of_first
            ):  # it could still speak
                wrong.append("there is no word about the job that was created")
        return wrong + ([f"the call that was killed made {len(self.of_first)} jobs"] if len(self.of_first) > 1 else [])


def unsound(folder: Path, scratch: Path) -> list[str]:
    """Problems that SQLite finds in the records of downloads below *folder*. Checks copies in *scratch*, since
    opening a file would repair it.
    """
    wrong = []
    for number, path in enumerate(sorted(folder.rglob("transfers/*/state.db"))):
        place = scratch / str(number)
        place.mkdir(parents=True)
        for part in path.parent.glob(f"{path.name}*"):
            shutil.copyfile(part, place / part.name)
        if not is_sound_file(place / path.name):
            wrong.append(f"'{path.relative_to(folder)}' is damaged")
    shutil.rmtree(scratch, ignore_errors=True)
    return wrong


STEPS = 20
SCRIPT = f"""{LOG_METRIC}
import fcntl
from himl_cli import Run

STEPS = {STEPS}
run = Run.get_context()
Path("outputs/checkpoints").mkdir(parents=True)


def put(name, content):
    Path(name + ".new").write_bytes(content)
    os.replace(name + ".new", name)


for step in range(STEPS):
    run.log("loss", 1 / (step + 1), step=step)
    with suppress(OSError):  # the server may be dead
        log_metric("accuracy", step / STEPS, step)
    put(f"outputs/part_{{step:02d}}.bin", bytes([step]) * 10_000)
    print("step", step, flush=True)
    time.sleep(0.04)
with open(os.environ["HIML_RUN_FOLDER"] + "/lock") as lock:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        time.sleep(60)
put("outputs/checkpoints/last.ckpt", bytes(range(256)) * 4096)
print("trained", flush=True)
"""
"""It takes a second, and a minute more where nobody looks after it: himl has to end it then."""
OUTPUTS = {f"part_{step:02d}.bin": bytes([step]) * 10_000 for step in range(STEPS)} | {
    "checkpoints/last.ckpt": bytes(range(256)) * 4096
}
LOG = "".join(f"step {step}\n" for step in range(STEPS)) + "trained\n"
METRICS = {"loss": [1 / (step + 1) for step in range(STEPS)], "accuracy": [step / STEPS for step in range(STEPS)]}
ENDED = ("Completed", "Failed", "Canceled")
FIELDS = frozenset(
    {
        "id",
        "experiment",
        "status",
        "created",
        "started",
        "ended",
        "tags",
        "command",
        "folder",
        "recovery_id",
        "exit_code",
        "reason",
    }
)
_RUN = re.compile(r"^Run (\S+) \(experiment", re.MULTILINE)


class Here(Killed):
    arguments = ("submit", "train.py")
    victims = (HIML, GROUP, SUPERVISOR, SHIM, ALL)
    overlaps = True

    def __init__(self, world: World, dice: random.Random) -> None:
        super().__init__(world, dice)
        self.cwd = world.project
        write_files(self.cwd, {"train.py": SCRIPT})
        self._first: list[dict[str, Any]] = []

    def first(self, ended: Ended, beside: Ended | None = None) -> list[str]:
        """Problems after everything has ended, including the run, if there is one. Ignores the run of the call
        *beside*.
        """
        wrong, runs = self._runs()
        other = _RUN.search(beside.stderr) if beside else None
        self._first = [run for run in runs if other is None or run["id"] != other[1]]
        if len(self._first) > 1:
            wrong.append(f"one call made {len(self._first)} runs")
        if ended.code == 0 and (self._statuses() != ["Completed"] or ended.stdout != LOG):
            wrong.append(f"the runs are {self._statuses()}, stdout has {len(ended.stdout)} characters of {len(LOG)}")
        if ended.code == 1 and "Completed" in self._statuses():
            wrong.append("the run is completed")
        return wrong + self._state()

    def then(self, ended: Ended) -> list[str]:
        wrong, runs = self._runs()
        known = {run["id"]: run for run in self._first}
        new = [run for run in runs if run["id"] not in known]
        if [run["status"] for run in new] != ["Completed"] or ended.stdout != LOG:
            wrong.append(
                f"new runs: {[run['status'] for run in new]}, stdout has {len(ended.stdout)} characters of {len(LOG)}"
            )
        wrong += [
            f"a run that was {known[run['id']]['status']} is another one"
            for run in runs
            if run["id"] in known and run != known[run["id"]]
        ]
        return wrong + self._state()

    def leftovers(self) -> int:
        """Also counts reserved disk space, and folders of runs that were never recorded."""
        recorded, runs = {run["id"] for run in self._runs()[1]}, self.cwd / ".himl" / "runs"
        folders = [path for path in runs.glob("*") if path.name not in recorded]
        return (
            len(folders)
            + len(list(runs.glob("*/reserve")))
            + sum(map(count_temporary, (self.cwd / ".himl", self.world.home, self.world.folder / "tmp")))
        )

    def facts(self) -> Mapping[str, Any]:
        return {"ended": ", ".join(self._statuses()) or "no run"}

    def _statuses(self) -> list[str]:
        return [run["status"] for run in self._first]

    def _state(self) -> list[str]:
        wrong = (
            []
            if not (self.cwd / ".himl" / "workspace.db").exists() or is_sound(self.cwd)
            else ["'workspace.db' is damaged"]
        )
        note = self.cwd / "most_recent_run.txt"
        if note.exists() and note.read_text() not in {
            f"train:{path.name}\n" for path in (self.cwd / ".himl" / "runs").iterdir()
        }:
            wrong.append(f"'{note.name}' says {note.read_text()[:200]!r}")
        return wrong

    def _runs(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Problems of the runs that himl lists, and the runs. A folder without a workspace has none."""
        if not (self.cwd / ".himl").is_dir():
            return [], []
        listed = self.world.himl(
            "runs", "list", "--num_runs", "all", "--json", cwd=self.cwd, env=self.env, limit=NEXT_LIMIT
        )
        if listed.code != 0:
            return [f"'himl runs list' ends with {listed.code}: {listed.stderr[-200:]}"], []
        runs: list[dict[str, Any]] = listed.json()
        return [text for run in runs for text in wrong_run(self.cwd / ".himl", run)], runs


class Notified(Here):
    """A job whose end is posted to a webhook: once at most, as the record has it, and its address is in no file."""

    def __init__(self, world: World, dice: random.Random) -> None:
        super().__init__(world, dice)
        self._server = ExitStack()
        self._webhook = self._server.enter_context(serving_webhook())
        self.env = {**self.env, "HIML_SUBMIT_NOTIFY": self._webhook.url}

    def first(self, ended: Ended, beside: Ended | None = None) -> list[str]:
        return super().first(ended, beside) + self._wrong_posts()

    def then(self, ended: Ended) -> list[str]:
        posted = {body["id"] for body in self._webhook.bodies} - {run["id"] for run in self._first}
        return (
            super().then(ended) + self._wrong_posts() + ([] if posted else ["the run of the next call was not posted"])
        )

    def _wrong_posts(self) -> list[str]:
        posts = [(body["id"], body["status"]) for body in self._webhook.bodies]
        runs = {run["id"]: run for run in self._runs()[1]}
        wrong = (
            [f"{len(posts)} posts of {len({run for run, _ in posts})} runs"]
            if len({run for run, _ in posts}) < len(posts)
            else []
        )
        wrong += [
            f"a run was posted as {status}, and is not on record so"
            for run, status in posts
            if run not in runs or runs[run]["status"] != status
        ]
        sent = {run for run, fields in runs.items() if fields["tags"].get("himl.notification", "").startswith("sent")}
        wrong += (
            [f"{len(sent)} runs are on record as posted, and {len(posts)} were"]
            if not sent <= {run for run, _ in posts}
            else []
        )
        return wrong + [f"the webhook's address is in '{path.name}'" for path in files_with(self.world.folder, KEY)]

    def facts(self) -> Mapping[str, Any]:
        return {**super().facts(), "posts": len(self._webhook.bodies)}

    def close(self) -> None:
        self._server.close()


def wrong_run(workspace: Path, run: Mapping[str, Any]) -> list[str]:
    wrong = [f"the record of a run lacks {sorted(FIELDS - run.keys())}"] if not run.keys() >= FIELDS else []
    if run["status"] not in ENDED:
        return [*wrong, f"a run that nothing works at is {run['status']}"]
    is_whole, folder = run["status"] == "Completed", workspace / "runs" / run["id"]
    if run["status"] == "Failed" and not run["reason"]:
        wrong.append("a run failed, and its record does not say why")
    if is_whole and (run["exit_code"], run["ended"] is None) != (0, False):
        wrong.append("a run is completed without an end or with an exit code")
    if is_whole and (folder / "code.json").exists():
        code = CodeStore(workspace).paths(folder / "code", None, run["id"])
        wrong += differences(
            {"train.py": SCRIPT.encode()}, {name: path.read_bytes() for name, path in code.items()}, is_done=True
        )
    files = folder / "code" / "outputs"
    outputs = {path.relative_to(files).as_posix(): path.read_bytes() for path in files.rglob("*") if path.is_file()}
    wrong += differences(
        OUTPUTS,
        {name: content for name, content in outputs.items() if is_whole or not name.endswith(".new")},
        is_done=is_whole,
    )
    log = folder / "user_logs" / "std_log.txt"
    if is_whole and log.read_text() != LOG:
        wrong.append(f"the log of a completed run has {log.stat().st_size} bytes of {len(LOG)}")
    for path in (folder / "job.json", folder / "plan.json"):
        try:
            json.loads(path.read_text() if path.exists() else "{}")
        except ValueError:
            wrong.append(f"'{path.name}' of a run is no JSON")
    with closing(sqlite3.connect(workspace / "workspace.db")) as database:
        logged = database.execute(
            "SELECT name, step, value FROM metrics WHERE run = ? ORDER BY name, step", (run["id"],)
        ).fetchall()
    return wrong + wrong_metrics(logged, is_whole=is_whole)


def wrong_metrics(found: Sequence[tuple[str, int, float]], *, is_whole: bool) -> list[str]:
    """Problems of rows of name, step and value, which may end early, but must not have gaps or other values."""
    wrong = []
    for name, values in METRICS.items():
        rows = [(step, value) for key, step, value in found if key == name]
        wanted = list(enumerate(values))
        if rows != wanted[: len(rows)] or (is_whole and len(rows) != len(wanted)):
            wrong.append(
                f"metric '{name}' has {len(rows)} rows of {len(wanted)}"
                + ("" if is_whole else ", other ones than were logged")
            )
    return wrong


A_CELL, A_RUN_CELL = 50, 12
A_CODE_CELL = 34  # of the commands that store, stage and delete code
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
BEYOND = 1.1  # signals come up to so many times the usual duration after the start
TWICE, WITHIN = 0.1, 0.5  # share of cases with a second signal, and the seconds within which that comes
WARM, MEASURED = 0.7, 3
LIMIT = 120.0
INTERRUPTED, FAILED = 130, 1
# What CPython prints, by exit code, when a Ctrl-C arrives while it starts. With 0, it ignores the Ctrl-C and continues.
_AT_START = {
    -signal.SIGINT: "",
    FAILED: "Fatal Python error: init_",
    0: "Failed checking if argv[0] is an import path entry",
}
_KNOWN_BY = {SUPERVISOR: "himl_cli.workspaces.local.supervisor", SHIM: "shim.py"}
GONE, JOB_GONE = (
    5.0,
    30.0,
    # seconds after which nothing of a command may be there, and of a job whose waiting himl was killed: that goes on to
    # its end
)
_OURS = re.compile(r"himl_cli/(?!__main__\.py|__init__\.py)")


ON_RUNS: Mapping[str, Callable[[World, random.Random], Killed]] = {
    "attach": Attached,
    "delete": Deleted,
    "at_once": AtOnce,
}
ON_CODE: Mapping[str, Callable[[World, random.Random], Killed]] = {
    "gc": Collected,
    "gc_at_once": CollectedAtOnce,
    "staging": Staged,
}
COMMANDS: Mapping[str, Callable[[World, random.Random], Killed]] = {
    "local": Here,
    "notify": Notified,
    "tiles": Tiles,
    "submit": partial(Moving, Sent),
    "upload": partial(Moving, Upload),
    "download": partial(Moving, Download),
    **ON_RUNS,
    **ON_CODE,
}
MOVING = frozenset({"submit", "upload", "download"})  # which begin with a cache or without


def kill_cases() -> list[Case]:
    counts = dict.fromkeys(COMMANDS, A_CELL) | dict.fromkeys(ON_RUNS, A_RUN_CELL) | dict.fromkeys(ON_CODE, A_CODE_CELL)
    cells = [(command, number, at) for command, count in counts.items() for number in SIGNALS for at in range(count)]
    return [
        Case(f"kills/{command}/{number.name}/{at:02d}", partial(_run, command, number)) for command, number, at in cells
    ]


def draw(number: signal.Signals, seconds: float, dice: random.Random) -> list[tuple[signal.Signals, float]]:
    """One signal or two, with the seconds before each."""
    after, is_second, within, other = (
        dice.random() * BEYOND * seconds,
        dice.random() < TWICE,
        dice.random() * WITHIN,
        dice.choice(SIGNALS),
    )
    return [(number, after), (other, after + within)] if is_second else [(number, after)]


def _run(command: str, number: signal.Signals, world: World, dice: random.Random) -> Result:
    return drawn_until_met(partial(_tried, world, command, number, dice))


@contextmanager
def _started(world: World, command: str, memory: Path | None, dice: random.Random) -> Iterator[tuple[Killed, Started]]:
    world.begin_with(memory)
    killed = COMMANDS[command](world, dice)
    started = Started(killed.arguments, world.project, killed.env, world.folder)
    try:
        yield killed, started
    finally:
        stop(processes_marked(started.mark, patience=0.0))
        started.ended_within(NEXT_LIMIT)
        killed.close()
        shutil.rmtree(world.project)


def _tried(
    world: World, command: str, number: signal.Signals, dice: random.Random, seconds: float | None = None
) -> Result:
    is_warm = dice.random() < WARM
    usual, memory = _pace(world, command, is_warm=is_warm)
    seconds = seconds or usual  # where the command ended before the signal came, it was quicker than usual
    with _started(world, command, memory, dice) as (killed, started):
        order = dice.sample(killed.victims, len(killed.victims))
        struck = [
            hit
            for sent, after in draw(number, seconds, dice)
            if (hit := started.strike(sent, after, order)) is not None
        ]
        ended = started.outcome()
        result = _judged(world, killed, ended, struck, started)
        world.check_requests()
    facts = {**result.facts, "of": round(seconds, 2), "signals": [hit.number.name for hit in struck]}
    if command in MOVING:
        facts["cache"] = "warm" if is_warm else "cold"
    if struck:
        facts |= {"after": round(struck[0].after, 3), "victim": struck[0].victim}
    return replace(result, facts=facts, hits=len(struck))


def _judged(world: World, killed: Killed, ended: Ended | None, struck: Sequence[Struck], started: Started) -> Result:
    seconds, goes_on = started.seconds, ended is not None and (ended.code < 0 or len(struck) > 1)

    def call_again() -> Ended | None:
        return world.call(killed.arguments, world.project, started.env, NEXT_LIMIT)

    is_beside = goes_on and killed.overlaps
    again = call_again() if is_beside else None
    orphans = processes_marked(started.mark, patience=JOB_GONE if goes_on else GONE)
    problems = killed.first(ended, again) if ended is not None and not orphans else []
    verdict = judge_first(ended, struck, orphans, problems, killed.codes)
    facts: dict[str, object] = {"leftovers": killed.leftovers()}
    if not verdict.is_lost:
        again = again if is_beside else call_again()
        orphans = processes_marked(started.mark, patience=GONE)
        problems = killed.then(again) if again is not None and again.code == 0 else []
        verdict = judge_again(verdict, again, problems, orphans)
        facts["left_then"] = killed.leftovers()
    is_met = bool(struck) and not (
        ended is not None
        and ended.code == 0
        and struck[0].number is signal.SIGKILL
        and struck[0].victim in (HIML, GROUP, ALL)
    )
    return world.told(verdict, ended, seconds, len(struck) if is_met else 0, again, **facts, **killed.facts())


def _pace(world: World, command: str, *, is_warm: bool) -> tuple[float, Path | None]:
    """The duration of *command* in this world in seconds, measured once, and its initial home folder (None: an empty
    one).
    """

    def measure(world: World) -> tuple[float, Path | None]:
        memory = None
        if is_warm and command in MOVING:
            _alone(world, command, None)
            memory = world.place / "memory of kills" / command
            shutil.copytree(world.home, memory)
        return statistics.median(_alone(world, command, memory) for _ in range(MEASURED)), memory

    return world.lasting(f"pace of {command}, {'warm' if is_warm and command != 'local' else 'cold'}", measure)


def _alone(world: World, command: str, memory: Path | None) -> float:
    """The duration of *command* without a signal. Raises AssertionError if it fails."""
    with _started(world, command, memory, random.Random(uuid.uuid4().hex)) as (killed, started):
        ended = started.outcome()
        seconds = started.seconds
        orphans = processes_marked(started.mark, patience=GONE)
        verdict = judge_first(ended, [], orphans, killed.first(ended) if ended is not None else [], killed.codes)
        assert not verdict.is_lost, f"without any signal: {verdict.why}"
        assert not killed.leftovers(), f"without any signal {killed.leftovers()} temporary files are left"
    return seconds


@dataclass(frozen=True)
class Struck:
    number: signal.Signals
    victim: str
    after: float


class Started:
    """`himl` with *arguments* in a separate session, with its streams in files in *place*. All its processes have
    `mark` in their environment.
    """

    def __init__(self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], place: Path) -> None:
        self.mark = uuid.uuid4().hex
        self.env = {**env, MARK: self.mark}
        self._said = [place / "stdout", place / "stderr"]
        with self._said[0].open("wb") as stdout, self._said[1].open("wb") as stderr:
            self._begun = time.monotonic()
            command = [str(PROGRAM), *arguments]
            streams = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": stderr}
            self._process = subprocess.Popen(
                command, cwd=cwd, env=os.environ | self.env, start_new_session=True, **streams
            )  # type: ignore[call-overload]

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def strike(self, number: signal.Signals, after: float, order: Sequence[str]) -> Struck | None:
        """Send signal *number*, *after* seconds, to the first process in *order* that exists then."""
        if self.ended_within(after - self.seconds):
            return None
        for victim in order:
            struck, moment = None, self.seconds
            for send, pid in self._processes(victim):
                with suppress(ProcessLookupError):
                    send(pid, number)
                    struck = Struck(number, victim, moment)
            if struck is not None:
                return struck
        return None

    def ended_within(self, seconds: float) -> bool:
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return False
        return True

    def outcome(self) -> Ended | None:
        if not self.ended_within(LIMIT):
            return None
        return Ended(
            self._process.returncode,
            *(path.read_text(encoding="utf-8", errors="backslashreplace") for path in self._said),
        )

    def _processes(self, victim: str) -> list[tuple[Callable[[int, int], None], int]]:
        if victim == HIML:
            return [(os.kill, self._process.pid)]
        if victim == GROUP:
            return [(os.killpg, self._process.pid)]
        marked = processes_marked(self.mark, patience=0.0)
        return [(os.kill, int(line.split()[0])) for line in marked if victim == ALL or _KNOWN_BY[victim] in line]


def documented(struck: Sequence[Struck]) -> frozenset[int]:
    """Documented exit codes. Ctrl-C and SIGTERM give 130, or death by the signal before himl starts or after it ends.
    If the supervisor or a shim of a local job gets them, the job fails with 1. A signal that comes too late, or to a
    process that ignores it, gives 0."""
    codes: set[int] = {0}
    for each in struck:
        if each.victim not in (HIML, GROUP):
            codes.add(FAILED)
        if each.victim in (HIML, GROUP, ALL):
            codes |= {-each.number} if each.number is signal.SIGKILL else {-each.number, INTERRUPTED}
    return frozenset(codes)


def judge_first(
    ended: Ended | None,
    struck: Sequence[Struck],
    orphans: Sequence[str],
    problems: Sequence[str],
    codes: frozenset[int] = frozenset(),
) -> Verdict:
    """The verdict on the killed call. A Ctrl-C during the start may end the interpreter with a traceback that names
    only the entry module of himl. The interpreter may also print a traceback and continue."""
    is_early = (
        ended is not None
        and ended.code in _AT_START
        and _AT_START[ended.code] in ended.stderr
        and not _OURS.search(ended.stderr)
        and any(each.number is signal.SIGINT for each in struck)
    )
    return judge(ended, documented(struck) | codes, problems, prints=True, orphans=orphans, is_before_himl=is_early)
