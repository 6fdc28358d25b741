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
from himl_cli.core.processes import LocalRank, is_held, local_rank, machine_time, process_exists
from himl_cli.services.transfer.local_files import disk_error, short_hash

WAIT_SECONDS = 600.0
SILENT_SECONDS = 3.0
LATE_SECONDS = 5.0  # how long a rank that was started after a call was over waits for another one
IDLE_SECONDS = 3600.0
# What an error of another rank is raised as; its own class may ask for more than its words.
KINDS = (BadUsage, NotFound, NotAllowed, ServiceFailed, IntegrityFailed, Interrupted)

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
    """What *act* gives, done once on this node: by local rank 0, while the other ranks wait for it.

    Outside a launch of several ranks, simply `act()`. Call number n of a rank with *folder* and *key* goes with call
    number n of rank 0; one that was over for all ranks before this one was started is of an earlier launch, and does
    not count. Waiting ranks get rank 0's result or raise its error; they raise HimlError when rank 0 died while it
    acted, or did not begin within *wait_seconds*. A rank that only finds a call that was over before, and after
    LATE_SECONDS no other, acts for itself; so do all where himl's cache cannot be written.
    """
    me = local_rank(environment)
    barrier = _open_barrier(folder, key, me, notify)
    if me is None or barrier is None:
        return act()
    from filelock import FileLock

    if me.rank == 0:
        barrier.clean_up()
    while True:
        number, is_joined = barrier.next_call(wait_seconds)
        if is_joined:
            return _as_own(barrier.wait_for(number), "died")
        with FileLock(barrier.file("lock", number)):  # free after the beginning, it means the end
            if barrier.enter(0, number):  # else another rank began it
                return barrier.carry_out(number, act)


def rank_zero_then_barrier(
    folder: Path,
    key: str,
    act: Callable[[], TransferResult],
    wait: Callable[[], None],
    *,
    notify: Notify = ignore,
) -> TransferResult:
    """As `rank_zero_only`, for ranks that have a barrier of their own to *wait* at, which may span nodes.

    Rank 0 of each node acts and then comes to the barrier, also when it failed with a HimlError, so that no other rank
    is left waiting there; then all ranks of the node return its result or raise its error. All ranks must make the same
    calls. A process that does not know its rank on the node acts for itself.
    """
    call, me = (folder.absolute(), key), local_rank(os.environ)
    _calls_with_barrier[call] += 1
    number = _calls_with_barrier[call]
    if me is not None:  # the script that began as rank 0 may itself have started the others: no process counts here
        me = me._replace(launcher=f"{platform.node()} with a barrier")
    if me is not None and me.rank > 0:
        wait()
        barrier = _open_barrier(folder, key, me, notify)
        return act() if barrier is None else _as_own(barrier.outcome(number), "left no word of how that ended")
    barrier = _open_barrier(folder, key, me, notify)
    try:
        if barrier is None:
            result = act()
        else:
            barrier.clean_up()
            barrier.file("outcome", number).unlink(missing_ok=True)  # what an earlier launch of this name may have left
            result = barrier.carry_out(number, act)
    except HimlError:
        wait()
        raise
    wait()
    return result


def _open_barrier(folder: Path, key: str, me: LocalRank | None, notify: Notify) -> RankBarrier | None:
    """None outside a launch, and where himl's cache cannot be written."""
    try:
        return None if me is None else RankBarrier(folder, key, me, notify)
    except (BadUsage, DiskFailed) as err:
        notify(Notice(f"Each rank of this node fetches the files itself, since himl's cache cannot be used: {err}"))
        return None


def _as_own(outcome: dict[str, Any] | None, otherwise: str) -> TransferResult:
    """Rank 0's outcome as this rank's own, result or error."""
    if outcome is None:
        raise HimlError(f"Local rank 0, which was to fetch the files, {otherwise}.", hint="Its own output says why.")
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

    def __init__(self, folder: Path, key: str, me: LocalRank, notify: Notify) -> None:
        self._launches = cache_of("ranks", "to meet other ranks in", "")
        self._launch = self._launches / short_hash("\n".join([me.launcher, *me.variables]))
        self._folder = self._launch / short_hash(f"{os.path.realpath(folder)}\n{key}")
        self._me = me
        self._notify = notify
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)

    def file(self, kind: str | int, number: int) -> Path:
        """That of call *number*, of the kind `lock`, `outcome` or a rank."""
        return self._folder / f"{kind}-{number}"

    def next_call(self, wait_seconds: float) -> tuple[int, bool]:
        """The call of rank 0 that this rank goes along with from here on, and True; or the number of one that it has to
        make itself, and False. Raises HimlError where rank 0 does not begin in time."""
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
                    Notice(f"Local rank 0 was done before local rank {me.rank} was started, which acts for itself.")
                )
                return number, False
            if waited > wait_seconds:
                raise HimlError(
                    f"Local rank 0 did not begin within {waited:.0f} s, and this process is local rank {me.rank} "
                    f"({me.variable}).",
                    hint="One launcher has to start all ranks of a node, and each runs the same himl commands. A "
                    f"process by itself needs no {me.variable}.",
                )

    def wait_for(self, number: int) -> dict[str, Any] | None:
        """How the call that this rank joined ended; None where rank 0 died."""
        pauses = self._pauses()
        while (outcome := self.outcome(number)) is None and is_held(self.file("lock", number)):
            next(pauses)
        outcome = outcome or self.outcome(number)  # it may have been written just before the end
        self._sign(self._me.rank, number)
        return outcome

    def _pauses(self) -> Iterator[float]:
        """Pauses that grow, each time giving the seconds waited; says once, after SILENT_SECONDS, what is waited
        for."""
        begun, pause, is_reported = time.monotonic(), 0.02, False
        while True:
            time.sleep(pause)
            waited = time.monotonic() - begun
            if not is_reported and waited > SILENT_SECONDS:
                is_reported = True
                self._notify(
                    Notice(f"Local rank {self._me.rank} of this launch waits for local rank 0 to fetch the files.")
                )
            pause = min(pause * 1.5, 0.5)
            yield waited

    def enter(self, rank: int, number: int) -> bool:
        """Whether call *number* was free for *rank*, which makes it from here on."""
        with self._writing():
            try:
                self.file(rank, number).open("x").close()
            except FileExistsError:
                return False
        self._sign(rank, number)
        return True

    def carry_out(self, number: int, act: Callable[[], TransferResult]) -> TransferResult:
        """Make call *number*, and leave word of how it ended."""
        try:
            outcome: dict[str, Any] = {"result": act().as_record()}
        except (HimlError, KeyboardInterrupt) as err:
            error = err if isinstance(err, HimlError) else Interrupted("Interrupted.")
            fields = {"message": str(error), "hint": error.hint, "code": error.code, "exit_code": error.exit_code}
            self._write_outcome(number, {"error": fields})
            raise
        self._write_outcome(number, outcome)
        return _as_own(outcome, "")  # rounded as for the other ranks: all are to say the same

    def outcome(self, number: int) -> dict[str, Any] | None:
        """None as long as none was written (or, on Windows, is just being written)."""
        with suppress(OSError):
            outcome: dict[str, Any] = json.loads(self.file("outcome", number).read_text())
            return outcome
        return None

    def clean_up(self) -> None:
        """Remove what launches left that nothing has touched for an hour, unless one of their ranks is still at
        work."""
        for launch in self._launches.iterdir():
            with suppress(OSError):  # another node cleans up at the same time
                touched = max(path.stat().st_mtime for path in (launch, *launch.rglob("*")))
                is_idle = launch != self._launch and time.time() - touched > IDLE_SECONDS
                if is_idle and not any(is_held(lock) for lock in launch.glob("*/lock-*")):
                    shutil.rmtree(launch, ignore_errors=True)

    def _sign(self, rank: int, number: int) -> None:
        """Say that this process, as *rank*, is still there at call *number*."""
        with self._writing():
            self.file(rank, number).write_text(f"{machine_time():.3f} {self._me.process}")

    def _write_outcome(self, number: int, outcome: dict[str, Any]) -> None:
        """So that it is there whole or not at all."""
        part = self._folder / f"outcome-{number}.part"
        with self._writing("Cannot tell the other ranks of this node how it ended"):
            self._folder.mkdir(parents=True, exist_ok=True)  # another launch may have cleaned it up
            part.write_text(json.dumps(outcome))
            part.replace(self.file("outcome", number))
        self._sign(0, number)

    def _was_going_on(self, number: int) -> bool:
        """Whether call *number* was not over for all when this rank was started, or the launcher still has to do with
        one that made it: what was over before is of an earlier launch, since one launcher may start ranks twice."""
        if is_held(self.file("lock", number)):
            return True
        for path in self._folder.glob(f"[0-9]*-{number}"):
            with suppress(OSError, ValueError):  # removed, or just being written
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
