"""One rank of a node acts; the others wait and take over how it ended."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.core.errors import BadUsage, HimlError, IntegrityFailed, Interrupted, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.file_tree import RANKS_NAME
from himl_cli.core.locks import is_held
from himl_cli.core.transfers import TransferResult
from himl_cli.services.transfer.disk import explained
from himl_cli.services.transfer.launch import LAUNCH_VARIABLES, LocalRank, local_rank
from himl_cli.services.transfer.targets import TargetFolder

if TYPE_CHECKING:
    from filelock import BaseFileLock

WAIT_SECONDS = 600.0
SILENT_SECONDS = 3.0
IDLE_SECONDS = 3600.0
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
KINDS = {kind.exit_code: kind for kind in (BadUsage, NotFound, NotAllowed, ServiceFailed, IntegrityFailed, Interrupted)}
"""What an error of another rank is raised as; its own class may ask for more than its words."""

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

    Outside a launch of several ranks, simply `act()`. Call number n of a rank with *folder* and *key* goes with call number n
    of rank 0. Waiting ranks get rank 0's result or raise its error; they raise HimlError when rank 0 died, or did not begin
    within *wait_seconds*.
    """
    me = local_rank(environment)
    if me is None:
        return act()
    meeting = _Meeting(folder, key, me)
    if me.rank == 0:
        meeting.clean_up()
        return meeting.act(act)
    return meeting.wait(wait_seconds, notify)


def rank_zero_then_barrier(
    folder: Path, key: str, act: Callable[[], TransferResult], barrier: Callable[[], None], *, environment: Mapping[str, str] = os.environ
) -> TransferResult:
    """As `rank_zero_only`, for ranks that have a *barrier* of their own, which may span nodes.

    Rank 0 of each node acts and then comes to the barrier, also when it failed with a HimlError, so that no other rank is left
    waiting there; then all ranks of the node return its result or raise its error. All ranks must make the same calls. A
    process that cannot tell its rank on the node acts for itself.
    """
    place = folder.absolute()
    _calls_with_barrier[place, key] += 1
    number, me = _calls_with_barrier[place, key], local_rank(environment)
    if me is not None and me.rank > 0:
        barrier()
        return _Meeting(folder, key, _same_for_all(me, environment)).told(number)
    result, error = TransferResult(), None
    try:
        if me is None:
            result = act()
        else:
            meeting = _Meeting(folder, key, _same_for_all(me, environment))
            meeting.clean_up()
            meeting.forget(number)
            result = meeting.tell_of(number, act)
    except HimlError as err:
        error = err
    barrier()
    if error is not None:
        raise error
    return result


def _same_for_all(me: LocalRank, environment: Mapping[str, str]) -> LocalRank:
    """*me* in a launch named without its processes: the script that began as rank 0 may itself have started the other ranks.

    A name that was used before does no harm here: an outcome is read only after rank 0 has put its own there.
    """
    known = [f"{name}={environment[name]}" for name in LAUNCH_VARIABLES if name in environment]
    return LocalRank(me.rank, _short_hash("\n".join(["barrier", platform.node(), *known])), me.variable)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


class _Meeting:
    """A folder in the target where the ranks of one launch meet over one key."""

    def __init__(self, folder: Path, key: str, me: LocalRank) -> None:
        self._launches = TargetFolder(folder).folder / RANKS_NAME
        self._launch = self._launches / me.launch
        self._folder = self._launch / _short_hash(key)
        self._rank = me.rank
        self._variable = me.variable
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise explained(err, f"Cannot write to '{folder}'") from err

    def act(self, act: Callable[[], TransferResult]) -> TransferResult:
        """Rank 0's part: it begins once it holds the lock, so a lock that is free after that means that it ended."""
        number = 1 + sum(1 for path in self._folder.glob("0-*"))
        with self._lock(number):
            self._begin(number)
            return self.tell_of(number, act)

    def tell_of(self, number: int, act: Callable[[], TransferResult]) -> TransferResult:
        """Act, and leave word of how that ended."""
        try:
            result = act()
        except HimlError as err:
            self._tell(number, {"error": {"message": str(err), "hint": err.hint, "code": err.code, "exit_code": err.exit_code}})
            raise
        except KeyboardInterrupt:
            self._tell(number, {"error": {"message": "Interrupted.", "hint": "", "code": Interrupted.code, "exit_code": Interrupted.exit_code}})
            raise
        self._tell(number, {"result": result.as_record()})
        return result

    def forget(self, number: int) -> None:
        """Remove what an earlier launch of this name may have left."""
        (self._folder / f"outcome-{number}").unlink(missing_ok=True)

    def told(self, number: int) -> TransferResult:
        """How it ended for rank 0, which is known to have left word by now. Raises its error."""
        outcome = self._outcome(number)
        if outcome is None:
            raise HimlError("Local rank 0, which was to fetch the files, left no word of how that ended.", hint="Its own output says why.")
        return _taken_over(outcome)

    def wait(self, wait_seconds: float, notify: Notify) -> TransferResult:
        number = 1 + sum(1 for path in self._folder.glob(f"{self._rank}-*"))
        self._begin(number)
        begun, pause, is_said = time.monotonic(), FIRST_PAUSE, False
        while True:
            outcome = self._outcome(number)
            if outcome is None and (self._folder / f"0-{number}").exists() and self._is_free(number):
                outcome = self._outcome(number)  # it may have been told just before the lock was let go
                if outcome is None:
                    raise HimlError("Local rank 0, which was to fetch the files, died.", hint="Its own output says why.")
            if outcome is not None:
                return _taken_over(outcome)
            if not is_said and time.monotonic() > begun + SILENT_SECONDS:
                is_said = True
                notify(Notice(f"Local rank {self._rank} of this launch waits for local rank 0 to fetch the files."))
            if time.monotonic() > begun + wait_seconds and not (self._folder / f"0-{number}").exists():
                raise self._alone(wait_seconds)
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)

    def _alone(self, waited: float) -> HimlError:
        """What to say when no rank 0 of this launch came; one that other processes belong to may have fetched the same files."""
        said = f"Local rank 0 did not begin within {waited:.0f} s, and this process is local rank {self._rank} ({self._variable})."
        if any(path.parent.parent != self._launch for path in self._launches.glob(f"*/{self._folder.name}/0-*")):
            said += " Another launch had a local rank 0 that fetched the same files."
        hint = f"One launcher has to start all ranks of a node, and each runs the same himl commands. A process by itself needs no {self._variable}."
        return HimlError(said, hint=hint)

    def _begin(self, number: int) -> None:
        (self._folder / f"{self._rank}-{number}").touch()

    def _lock(self, number: int) -> BaseFileLock:
        from filelock import FileLock

        return FileLock(self._folder / f"lock-{number}")

    def _is_free(self, number: int) -> bool:
        return not is_held(self._folder / f"lock-{number}")

    def _tell(self, number: int, outcome: dict[str, Any]) -> None:
        """Write the outcome so that it is there whole or not at all."""
        part = self._folder / f"outcome-{number}.part"
        try:
            part.write_text(json.dumps(outcome))
            os.replace(part, self._folder / f"outcome-{number}")
        except OSError as err:
            raise explained(err, "Cannot tell the other ranks of this node how it ended") from err

    def _outcome(self, number: int) -> dict[str, Any] | None:
        try:
            outcome: dict[str, Any] = json.loads((self._folder / f"outcome-{number}").read_text())
        except OSError:  # not there yet (or, on Windows, just being put there)
            return None
        return outcome

    def clean_up(self) -> None:
        """Remove what launches left that nothing has touched for an hour, unless one of their ranks is still at work."""
        for launch in self._launches.iterdir():
            try:
                is_idle = launch != self._launch and time.time() - _last_touched(launch) > IDLE_SECONDS
                if is_idle and not any(is_held(lock) for lock in launch.glob("*/lock-*")):
                    shutil.rmtree(launch, ignore_errors=True)
            except OSError:  # another node cleans up at the same time
                continue


def _last_touched(launch: Path) -> float:
    return max((path.stat().st_mtime for path in (launch, *launch.rglob("*"))), default=0.0)


def _taken_over(outcome: dict[str, Any]) -> TransferResult:
    """Rank 0's outcome as this rank's own."""
    if "result" in outcome:
        return TransferResult.from_record(outcome["result"])
    told = outcome["error"]
    error = KINDS.get(told["exit_code"], HimlError)(told["message"], hint=told["hint"])
    error.code, error.exit_code = told["code"], told["exit_code"]
    raise error
