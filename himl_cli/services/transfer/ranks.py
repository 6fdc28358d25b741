"""One rank of a node acts; the others wait and take over how it ended. They meet over files in himl's cache."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from himl_cli.core.blobs import TransferResult
from himl_cli.core.errors import (
    BadUsage,
    DiskFailed,
    HimlError,
    IntegrityFailed,
    Interrupted,
    NotAllowed,
    NotFound,
    ServiceFailed,
)
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.files import cache_of
from himl_cli.core.processes import is_held
from himl_cli.services.transfer.local_files import disk_error, short_hash

# Variables that hold a process's rank on its node, the first that is set counts; beside each, the one with their
# number.
RANKS = {
    "LOCAL_RANK": "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALRANKID": "MPI_LOCALNRANKS",
    "SLURM_LOCALID": "",
}
# Variables that hold a process's rank among those of all nodes, the first that is set counts.
RANKS_OF_ALL = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
# What all ranks of one launch have alike. None is unique by itself everywhere, so all of them and the launcher's
# process count together; a shell that starts ranks twice has them alike in both launches.
LAUNCH_VARIABLES = (
    *("AZUREML_RUN_ID", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"),
    *("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
)
LONGEST_VARIABLE = 27_000  # characters of a variable for other ranks: Windows allows 32,767
WAIT_SECONDS = 600.0
SILENT_SECONDS = 3.0
LATE_SECONDS = 5.0  # how long a rank that was started after a call was over waits for another one
IDLE_SECONDS = 3600.0
PROC = Path("/proc")
# What an error of another rank is raised as; its own class may ask for more than its words.
KINDS = (BadUsage, NotFound, NotAllowed, ServiceFailed, IntegrityFailed, Interrupted)

# A process of this machine: its pid and start (a pid alone is used again), its parent's pid, when it began.
Process = tuple[str, str, float]
_calls_with_barrier: Counter[tuple[Path, str]] = Counter()


def _now() -> float:
    """On a clock that all processes of this machine share: Linux's since its start, elsewhere that of the day."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.time() if boottime is None else time.clock_gettime(boottime)


LOADED = _now()


@dataclass(frozen=True)
class LocalRank:
    """This process among those that one launcher started on this node; `launch` is the same for all of them.

    `variable` is the one that holds the rank. `began` is the moment at which the rank had been started at the latest,
    `process` the one that the launcher started as it, `ancestors` this process and those above it that are ranks: these
    by pid and start; they are unknown where there is no /proc.
    """

    rank: int
    variable: str
    launch: str
    began: float
    process: str
    ancestors: frozenset[str]


def local_rank(environment: Mapping[str, str]) -> LocalRank | None:
    """The rank in the launcher's variables; None outside a launch, and for a process that is alone on its node."""
    variable = next((name for name in RANKS if environment.get(name, "").isdecimal()), "")
    if not variable or (int(environment[variable]) == 0 and environment.get(RANKS[variable], "") == "1"):
        return None
    rank, process = int(environment[variable]), _process("self")
    ancestors: set[str] = set()
    identity, began = "", LOADED
    while process is not None and (not ancestors or _rank_of(process) is not None):
        if not ancestors or _rank_of(process) == rank:
            identity, began = process[0], process[2]
        ancestors.add(process[0])
        process = _process(process[1])
    try:
        node = (PROC / "sys/kernel/random/boot_id").read_text()  # that of containers is the same, not their name
    except OSError:
        node = platform.node()
    launch = _launch_id(node, process[0] if process else "", environment)
    return LocalRank(rank, variable, launch, began, identity, frozenset(ancestors))


def rank_of_all(environment: Mapping[str, str]) -> int:
    """This process's rank among those of all nodes, as far as the launcher says; 0 outside a launch."""
    found = next((value for name in RANKS_OF_ALL if (value := environment.get(name, "")).isdecimal()), None)
    me = local_rank(environment) if found is None else None
    return me.rank if me is not None else int(found or 0)


def rank_zero_only(
    folder: Path,
    key: str,
    act: Callable[[], TransferResult],
    *,
    environment: Mapping[str, str] = os.environ,
    wait_seconds: float = WAIT_SECONDS,
    notify: Notify = ignore,
) -> TransferResult:
    """What *act* gives, done once on this node: by local rank 0, while the other ranks wait for it.

    Outside a launch of several ranks, simply `act()`. Call number n of a rank with *folder* and *key* goes with call
    number n of rank 0; one that was over for all ranks before this one was started is of an earlier launch, and does
    not count. Waiting ranks get rank 0's result or raise its error; they raise HimlError when rank 0 died while it
    acted, or did not begin within *wait_seconds*. A rank that only finds a call that was over before, and after
    LATE_SECONDS no other, acts for itself; so do all where himl's cache cannot be written.
    """
    me = local_rank(environment)
    barrier = _barrier(folder, key, me, notify)
    if me is None or barrier is None:
        return act()
    from filelock import FileLock

    if me.rank == 0:
        barrier.clean_up()
    while True:
        pauses, number = _pauses(me, notify), barrier.next_number()
        while me.rank > 0:
            number, calls = barrier.next_number(), barrier.calls()  # in this order: rank 0 may begin in between
            joined = next((call for call, is_new in calls if is_new and barrier.enter(me.rank, call)), None)
            if joined is not None:
                pauses = _pauses(me, notify)
                while (outcome := barrier.outcome(joined)) is None and is_held(barrier.lock(joined)):
                    next(pauses)
                outcome = outcome or barrier.outcome(joined)  # it may have been written just before the end
                barrier.sign(me.rank, joined)
                return _as_own(outcome, "died")
            waited = next(pauses)
            if waited > min(LATE_SECONDS, wait_seconds) and any(not is_new for _, is_new in calls):
                text = f"Local rank 0 was done before local rank {me.rank} was started, which acts for itself."
                notify(Notice(text))
                break
            if waited > wait_seconds:
                raise HimlError(
                    f"Local rank 0 did not begin within {waited:.0f} s, and this process is local rank {me.rank} "
                    f"({me.variable}).",
                    hint="One launcher has to start all ranks of a node, and each runs the same himl commands. A "
                    f"process by itself needs no {me.variable}.",
                )
        with FileLock(barrier.lock(number)):  # free after the beginning, it means the end
            if barrier.enter(0, number):  # else another rank began it
                return _act(barrier, number, act)


def rank_zero_then_barrier(
    folder: Path,
    key: str,
    act: Callable[[], TransferResult],
    wait: Callable[[], None],
    *,
    environment: Mapping[str, str] = os.environ,
    notify: Notify = ignore,
) -> TransferResult:
    """As `rank_zero_only`, for ranks that have a barrier of their own to *wait* at, which may span nodes.

    Rank 0 of each node acts and then comes to the barrier, also when it failed with a HimlError, so that no other rank
    is left waiting there; then all ranks of the node return its result or raise its error. All ranks must make the same
    calls. A process that does not know its rank on the node acts for itself.
    """
    call = (folder.absolute(), key)
    _calls_with_barrier[call] += 1
    number, me = _calls_with_barrier[call], local_rank(environment)
    if me is not None:  # the script that began as rank 0 may itself have started the others: no process counts here
        me = replace(me, launch=_launch_id("barrier", platform.node(), environment))
    if me is not None and me.rank > 0:
        wait()
        barrier = _barrier(folder, key, me, notify)
        return act() if barrier is None else _as_own(barrier.outcome(number), "left no word of how that ended")
    barrier = _barrier(folder, key, me, notify)
    try:
        if barrier is None:
            result = act()
        else:
            barrier.clean_up()
            barrier.outcome_file(number).unlink(missing_ok=True)  # what an earlier launch of this name may have left
            result = _act(barrier, number, act)
    except HimlError:
        wait()
        raise
    wait()
    return result


def _barrier(folder: Path, key: str, me: LocalRank | None, notify: Notify) -> RankBarrier | None:
    """None outside a launch, and where himl's cache cannot be written."""
    try:
        return None if me is None else RankBarrier(folder, key, me)
    except (BadUsage, DiskFailed) as err:
        notify(Notice(f"Each rank of this node fetches the files itself, since himl's cache cannot be used: {err}"))
        return None


def _pauses(me: LocalRank, notify: Notify) -> Iterator[float]:
    """Pauses that grow, each time giving the seconds waited; says once, after SILENT_SECONDS, what *me* waits for."""
    begun, pause, is_reported = time.monotonic(), 0.02, False
    while True:
        time.sleep(pause)
        waited = time.monotonic() - begun
        if not is_reported and waited > SILENT_SECONDS:
            is_reported = True
            notify(Notice(f"Local rank {me.rank} of this launch waits for local rank 0 to fetch the files."))
        pause = min(pause * 1.5, 0.5)
        yield waited


def _act(barrier: RankBarrier, number: int, act: Callable[[], TransferResult]) -> TransferResult:
    try:
        outcome = {"result": act().as_record()}
    except (HimlError, KeyboardInterrupt) as err:
        error = err if isinstance(err, HimlError) else Interrupted("Interrupted.")
        fields = {"message": str(error), "hint": error.hint, "code": error.code, "exit_code": error.exit_code}
        barrier.write_outcome(number, {"error": fields})
        raise
    barrier.write_outcome(number, outcome)
    return _as_own(outcome, "")  # rounded as for the other ranks: all are to say the same


def _as_own(outcome: dict[str, Any] | None, otherwise: str) -> TransferResult:
    """Rank 0's outcome as this rank's own, result or error."""
    if outcome is None:
        what = f"Local rank 0, which was to fetch the files, {otherwise}."
        raise HimlError(what, hint="Its own output says why.")
    if "result" in outcome:
        return TransferResult.from_record(outcome["result"])
    fields = outcome["error"]
    kind = next((kind for kind in KINDS if kind.exit_code == fields["exit_code"]), HimlError)
    error = kind(fields["message"], hint=fields["hint"])
    error.code, error.exit_code = fields["code"], fields["exit_code"]
    raise error


class RankBarrier:
    """The calls with one key that the ranks of one launch make for a folder, numbered from 1 as rank 0 makes them.

        0-N         rank 0 makes call N: when it was last there, and what process the launcher started as rank 0
        lock-N      held by rank 0 until it is done
        outcome-N   how that ended
        K-N         rank K goes along: the same of it

    Raises BadUsage for a user without a home, DiskFailed where the files cannot be written.
    """

    def __init__(self, folder: Path, key: str, me: LocalRank) -> None:
        self._launches = cache_of("ranks", "to meet other ranks in", "")
        self._folder = self._launches / me.launch / short_hash(f"{os.path.realpath(folder)}\n{key}")
        self._me = me
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)

    def lock(self, number: int) -> Path:
        return self._folder / f"lock-{number}"

    def outcome_file(self, number: int) -> Path:
        return self._folder / f"outcome-{number}"

    def next_number(self) -> int:
        return max(self._numbers(), default=0) + 1

    def calls(self) -> list[tuple[int, bool]]:
        """Those of rank 0 that this rank has not made yet, each with whether somebody was still at it when this rank
        was started: what was over before is of an earlier launch, since one launcher may start ranks twice."""
        rank = self._me.rank
        made = {path.name for path in self._folder.glob(f"{rank}-*")}
        return [(call, self._was_going_on(call)) for call in self._numbers() if f"{rank}-{call}" not in made]

    def enter(self, rank: int, number: int) -> bool:
        """Whether call *number* was free for *rank*, which makes it from here on."""
        with self._writing():
            try:
                (self._folder / f"{rank}-{number}").open("x").close()
            except FileExistsError:
                return False
        self.sign(rank, number)
        return True

    def sign(self, rank: int, number: int) -> None:
        """Say that this process, as *rank*, is still there at call *number*."""
        with self._writing():
            (self._folder / f"{rank}-{number}").write_text(f"{_now():.3f} {self._me.process}")

    def write_outcome(self, number: int, outcome: dict[str, Any]) -> None:
        """So that it is there whole or not at all."""
        part = self._folder / f"outcome-{number}.part"
        with self._writing("Cannot tell the other ranks of this node how it ended"):
            self._folder.mkdir(parents=True, exist_ok=True)  # another launch may have cleaned it up
            part.write_text(json.dumps(outcome))
            part.replace(self.outcome_file(number))
        self.sign(0, number)

    def outcome(self, number: int) -> dict[str, Any] | None:
        """None as long as none was written (or, on Windows, is just being written)."""
        with suppress(OSError):
            outcome: dict[str, Any] = json.loads(self.outcome_file(number).read_text())
            return outcome
        return None

    def clean_up(self) -> None:
        """Remove what launches left that nothing has touched for an hour, unless one of their ranks is still at
        work."""
        for launch in self._launches.iterdir():
            with suppress(OSError):  # another node cleans up at the same time
                touched = max(path.stat().st_mtime for path in (launch, *launch.rglob("*")))
                is_idle = launch != self._folder.parent and time.time() - touched > IDLE_SECONDS
                if is_idle and not any(is_held(lock) for lock in launch.glob("*/lock-*")):
                    shutil.rmtree(launch, ignore_errors=True)

    def _numbers(self) -> list[int]:
        return sorted(int(path.name[2:]) for path in self._folder.glob("0-*"))

    def _was_going_on(self, number: int) -> bool:
        """Whether call *number* was not over for all when this rank was started, or the launcher still has to do with
        one that made it."""
        if is_held(self.lock(number)):
            return True
        for path in self._folder.glob(f"[0-9]*-{number}"):
            with suppress(OSError, ValueError):  # removed, or just being written
                moment, _, identity = path.read_text().partition(" ")
                if float(moment) > self._me.began:
                    return True
                process = _process(identity.partition("@")[0]) if identity else None
                if process and process[0] == identity and identity not in self._me.ancestors:
                    return True
        return False

    @contextmanager
    def _writing(self, what: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise disk_error(err, what or f"Cannot write to himl's cache '{self._launches}'") from err


def _process(pid: str) -> Process | None:
    """None where there is none (any more, not even one that its parent has not asked how it ended), or no /proc."""
    try:
        text = (PROC / pid / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # after the name: state, parent, …, start in ticks as the twentieth
    if len(fields) < 20:
        return None
    began = (int(fields[19]) + 1) / os.sysconf("SC_CLK_TCK")
    return f"{text.partition(' ')[0]}@{fields[19]}", fields[1], began


def _rank_of(process: Process) -> int | None:
    """The local rank that *process* was started as, by any launcher: scripts hand their rank on under another one's
    name. None for one that is no rank, or somebody else's; -1 where a variable is there without a number."""
    try:
        entries = (PROC / process[0].partition("@")[0] / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    variables = dict(entry.decode(errors="surrogateescape").partition("=")[::2] for entry in entries)
    known = [variables[name] for name in RANKS if name in variables]
    return next((int(value) for value in known if value.isdecimal()), -1 if known else None)


def _launch_id(node: str, launcher: str, environment: Mapping[str, str]) -> str:
    known = [f"{name}={environment[name]}" for name in LAUNCH_VARIABLES if name in environment]
    return short_hash("\n".join([node, launcher, *known]))
