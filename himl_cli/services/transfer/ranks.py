"""Let one rank of a node act while the others wait for its result, with files in himl's cache."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
from himl_cli.core.locks import ProcessLock, is_held
from himl_cli.core.processes import machine_time, process_exists
from himl_cli.core.ranks import LocalRank, local_rank
from himl_cli.services.transfer.digests import short_hash
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.workspaces.retry import Pauses

WAIT_SECONDS = 600.0
SILENT_SECONDS = 3.0
# How long a rank that starts after the end of a call waits for another call.
LATE_SECONDS = 5.0
IDLE_SECONDS = 3600.0
# Classes that replace another rank's error. Its own class may take more arguments than a message.
ERROR_KINDS = (BadUsage, NotFound, NotAllowed, ServiceFailed, IntegrityFailed, Interrupted)

_calls_with_barrier: Counter[tuple[Path, str]] = Counter()


def rank_zero_only(
    folder: Path,
    key: str,
    act: Callable[[], TransferResult],
    *,
    environment: Mapping[str, str] = os.environ,
    wait_seconds: float = WAIT_SECONDS,
    notify: Notify = ignore,
) -> TransferResult:
    """Run *act* once on this node, in local rank 0, while the other ranks wait. Return its result in each rank.

    Outside a launch of several ranks, this is `act()`. Call number n of a rank with *folder* and *key* belongs to call
    number n of rank 0. Calls that were over for all ranks before this one started belong to an earlier launch and do
    not count. Waiting ranks return rank 0's result or raise its error. They raise HimlError if rank 0 dies during
    *act*, or does not begin within *wait_seconds*. A rank that finds only a call that was over before, and no other
    within LATE_SECONDS, runs *act* itself. So do all ranks if himl's cache cannot be written.
    """
    me = local_rank(environment)
    barrier = _open_barrier(folder, key, me, notify)
    if me is None or barrier is None:
        return act()
    if me.rank == 0:
        barrier.clean_up()
    while True:
        number, is_joined = barrier.next_call(wait_seconds)
        if is_joined:
            return _as_own(barrier.wait_for(number), "died")
        # Once the call has begun, a free lock means that it has ended
        with ProcessLock(barrier.file("lock", number), mode=0o600):
            if barrier.enter(0, number):  # otherwise, another rank began it
                return barrier.carry_out(number, act)


def rank_zero_then_barrier(
    folder: Path,
    key: str,
    act: Callable[[], TransferResult],
    wait: Callable[[], None],
    *,
    notify: Notify = ignore,
) -> TransferResult:
    """Run *act* as in `rank_zero_only`, for ranks with their own barrier *wait*, which may span nodes.

    Rank 0 of each node acts and then waits at the barrier, even after a HimlError, so that no other rank hangs there.
    Then all ranks of the node return its result or raise its error. All ranks must make the same calls. A process
    without a known local rank acts for itself.
    """
    call, me = (folder.absolute(), key), local_rank(os.environ)
    _calls_with_barrier[call] += 1
    number = _calls_with_barrier[call]
    if me is not None:  # a script that began as rank 0 may have started the others, so that no process counts here
        me = me._replace(launcher=f"{platform.node()} with a barrier")
    if me is not None and me.rank > 0:
        wait()
        barrier = _open_barrier(folder, key, me, notify)
        return act() if barrier is None else _as_own(barrier.outcome(number), "left no result")
    barrier = _open_barrier(folder, key, me, notify)
    try:
        if barrier is None:
            result = act()
        else:
            barrier.clean_up()
            barrier.file("outcome", number).unlink(missing_ok=True)  # from an earlier launch with this name
            result = barrier.carry_out(number, act)
    except HimlError:
        wait()
        raise
    wait()
    return result


def _open_barrier(folder: Path, key: str, me: LocalRank | None, notify: Notify) -> RankBarrier | None:
    """Barrier of the ranks. None outside a launch, or if himl's cache cannot be written."""
    try:
        return None if me is None else RankBarrier(folder, key, me, notify)
    except (BadUsage, DiskFailed) as err:
        notify(Notice(f"Each rank of this node downloads the files itself. himl's cache cannot be used: {err}"))
        return None


def _as_own(outcome: dict[str, Any] | None, otherwise: str) -> TransferResult:
    """Return the result of rank 0 or raise its error. *otherwise* says why there is neither."""
    if outcome is None:
        raise HimlError(f"Local rank 0, which downloads the files, {otherwise}.", hint="Its log shows the reason.")
    if "result" in outcome:
        return TransferResult.from_record(outcome["result"])
    fields = outcome["error"]
    kind = next((kind for kind in ERROR_KINDS if kind.exit_code == fields["exit_code"]), HimlError)
    error = kind(fields["message"], hint=fields["hint"])
    error.code, error.exit_code = fields["code"], fields["exit_code"]
    raise error


class RankBarrier:
    """Calls with one key that the ranks of one launch make for a folder, numbered from 1 in the order of rank 0.

        0-N         rank 0 makes call N: its last time, and the process that the launcher started as rank 0
        lock-N      held by rank 0 until the end of the call
        outcome-N   result or error
        K-N         rank K waits for call N: the same data

    Raises BadUsage for a user without a home folder, DiskFailed if the files cannot be written.
    """

    def __init__(self, folder: Path, key: str, me: LocalRank, notify: Notify) -> None:
        self._launches = cache_of("ranks", "for files that ranks share", "")
        self._launch = self._launches / short_hash("\n".join([me.launcher, *me.variables]))
        self._folder = self._launch / short_hash(f"{os.path.realpath(folder)}\n{key}")
        self._me = me
        self._notify = notify
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)

    def file(self, kind: str | int, number: int) -> Path:
        """File of call *number* with a kind: `lock`, `outcome` or a rank."""
        return self._folder / f"{kind}-{number}"

    def next_call(self, wait_seconds: float) -> tuple[int, bool]:
        """Number of the next call of rank 0, and True. Or the number of a call that this rank must make itself, and
        False. Raises HimlError if rank 0 does not begin in time."""
        me, pauses = self._me, self._pauses()
        while True:
            calls = sorted(int(path.name[2:]) for path in self._folder.glob("0-*"))
            number = calls[-1] + 1 if calls else 1
            if me.rank == 0:
                return number, False
            is_new = {call: self._was_going_on(call) for call in calls if not self.file(me.rank, call).exists()}
            joined = next((call for call in is_new if is_new[call] and self.enter(me.rank, call)), None)
            if joined is not None:
                return joined, True
            waited = next(pauses)
            if waited > min(LATE_SECONDS, wait_seconds) and not all(is_new.values()):
                self._notify(
                    Notice(f"Local rank 0 finished before local rank {me.rank} started, which acts for itself.")
                )
                return number, False
            if waited > wait_seconds:
                raise HimlError(
                    f"Local rank 0 did not begin within {waited:.0f} s, and this process is local rank {me.rank} "
                    f"({me.variable}).",
                    hint="One launcher must start all ranks of a node, and each must run the same himl commands. A "
                    f"single process needs no {me.variable}.",
                )

    def wait_for(self, number: int) -> dict[str, Any] | None:
        """Wait for the outcome of the call that this rank joined. None if rank 0 died."""
        pauses = self._pauses()
        while (outcome := self.outcome(number)) is None and is_held(self.file("lock", number)):
            next(pauses)
        outcome = outcome or self.outcome(number)  # rank 0 may have written it just before its end
        self._sign(self._me.rank, number)
        return outcome

    def _pauses(self) -> Iterator[float]:
        """Pause for growing times, and yield the seconds waited. After SILENT_SECONDS, report once what it waits
        for."""
        begun, pauses, is_reported = time.monotonic(), Pauses(0.02, 0.5), False
        while True:
            time.sleep(pauses.next())
            waited = time.monotonic() - begun
            if not is_reported and waited > SILENT_SECONDS:
                is_reported = True
                self._notify(
                    Notice(f"Local rank {self._me.rank} of this launch waits for local rank 0 to download the files.")
                )
            yield waited

    def enter(self, rank: int, number: int) -> bool:
        """Begin call *number* as *rank*. Return whether it was free."""
        with self._writing():
            try:
                self.file(rank, number).open("x").close()
            except FileExistsError:
                return False
        self._sign(rank, number)
        return True

    def carry_out(self, number: int, act: Callable[[], TransferResult]) -> TransferResult:
        """Make call *number*, and store its outcome."""
        try:
            outcome: dict[str, Any] = {"result": act().as_record()}
        except (HimlError, KeyboardInterrupt) as err:
            error = err if isinstance(err, HimlError) else Interrupted("Interrupted.")
            fields = {"message": str(error), "hint": error.hint, "code": error.code, "exit_code": error.exit_code}
            self._write_outcome(number, {"error": fields})
            raise
        self._write_outcome(number, outcome)
        return _as_own(outcome, "")  # rounded as in the other ranks, so that all report the same

    def outcome(self, number: int) -> dict[str, Any] | None:
        """Outcome of a call. None until it is written (or, on Windows, while it is being written)."""
        with suppress(OSError):
            outcome: dict[str, Any] = json.loads(self.file("outcome", number).read_text())
            return outcome
        return None

    def clean_up(self) -> None:
        """Remove files of launches that have been idle for an hour and have no running rank."""
        for launch in self._launches.iterdir():
            with suppress(OSError):  # another node may clean up at the same time
                touched = max(path.stat().st_mtime for path in (launch, *launch.rglob("*")))
                is_idle = launch != self._launch and time.time() - touched > IDLE_SECONDS
                if is_idle and not any(is_held(lock) for lock in launch.glob("*/lock-*")):
                    shutil.rmtree(launch, ignore_errors=True)

    def _sign(self, rank: int, number: int) -> None:
        """Record that this process, as *rank*, is alive at call *number*."""
        with self._writing():
            self.file(rank, number).write_text(f"{machine_time():.3f} {self._me.process}")

    def _write_outcome(self, number: int, outcome: dict[str, Any]) -> None:
        """Store the outcome atomically."""
        part = self._folder / f"outcome-{number}.part"
        with self._writing("Cannot share the result with the other ranks of this node"):
            self._folder.mkdir(parents=True, exist_ok=True)  # another launch may have removed it
            part.write_text(json.dumps(outcome))
            part.replace(self.file("outcome", number))
        self._sign(0, number)

    def _was_going_on(self, number: int) -> bool:
        """Whether call *number* was not over for all ranks when this rank started, or a process that made it still
        runs. Older calls belong to an earlier launch, because one launcher may start ranks twice."""
        if is_held(self.file("lock", number)):
            return True
        for path in self._folder.glob(f"[0-9]*-{number}"):
            with suppress(OSError, ValueError):  # removed, or incomplete
                moment, _, process = path.read_text().partition(" ")
                if float(moment) > self._me.began or (process not in self._me.ancestors and process_exists(process)):
                    return True
        return False

    @contextmanager
    def _writing(self, what: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise disk_error(err, what or f"Cannot write to himl's cache '{self._launches}'") from err
