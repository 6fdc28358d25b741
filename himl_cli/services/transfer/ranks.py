"""One rank of a node acts; the others wait and take over how it ended."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
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
from himl_cli.services.transfer.launch import LAUNCH_VARIABLES, LocalRank, local_rank
from himl_cli.services.transfer.meeting import Meeting
from himl_cli.services.transfer.rank_zero import RankZero
from himl_cli.services.transfer.state import short_hash

WAIT_SECONDS = 600.0
SILENT_SECONDS = 3.0
PATIENCE_SECONDS = 5.0
"""How long a rank that was started after a call was over waits for another one."""
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

    Outside a launch of several ranks, simply `act()`. Call number n of a rank with *folder* and *key* goes with call
    number n of rank 0; one that was over for all ranks before this one was started is of an earlier launch, and does
    not count. Waiting ranks get rank 0's result or raise its error; they raise HimlError when rank 0 died, or did not
    begin within *wait_seconds*. A rank that only finds a call that was over before, and no rank 0 that is yet to come,
    acts for itself; so do all where himl's cache cannot be written.
    """
    me = local_rank(environment)
    meeting = None if me is None else _meeting(folder, key, me, notify)
    if me is None or meeting is None:
        return act()
    if me.rank == 0:
        meeting.clean_up()
    while True:
        number, is_joined = (meeting.next_number(), False) if me.rank == 0 else _found(meeting, wait_seconds, notify)
        if is_joined:
            return _take_over(meeting, number, notify)
        with meeting.begun(number) as is_ours:
            if is_ours:
                meeting.sign(number)
                return _tell_of(meeting, number, act)


def rank_zero_then_barrier(
    folder: Path,
    key: str,
    act: Callable[[], TransferResult],
    barrier: Callable[[], None],
    *,
    environment: Mapping[str, str] = os.environ,
    notify: Notify = ignore,
) -> TransferResult:
    """As `rank_zero_only`, for ranks that have a *barrier* of their own, which may span nodes.

    Rank 0 of each node acts and then comes to the barrier, also when it failed with a HimlError, so that no other rank
    is left waiting there; then all ranks of the node return its result or raise its error. All ranks must make the same
    calls. A process that cannot tell its rank on the node acts for itself.
    """
    place = folder.absolute()
    _calls_with_barrier[place, key] += 1
    number, me = _calls_with_barrier[place, key], local_rank(environment)
    if me is not None and me.rank > 0:
        barrier()
        meeting = _meeting(folder, key, _same_for_all(me, environment), notify)
        return act() if meeting is None else _told(meeting, number)
    result, error = TransferResult(), None
    try:
        meeting = None if me is None else _meeting(folder, key, _same_for_all(me, environment), notify)
        if meeting is None:
            result = act()
        else:
            meeting.clean_up()
            meeting.forget(number)
            result = _tell_of(meeting, number, act)
    except HimlError as err:
        error = err
    barrier()
    if error is not None:
        raise error
    return result


def _meeting(folder: Path, key: str, me: LocalRank, notify: Notify) -> Meeting | None:
    """None where himl's cache cannot be written."""
    try:
        return Meeting(folder, key, me)
    except (BadUsage, DiskFailed) as err:
        notify(Notice(f"Each rank of this node fetches the files itself, since himl's cache cannot be used: {err}"))
        return None


def _same_for_all(me: LocalRank, environment: Mapping[str, str]) -> LocalRank:
    """*me* in a launch named without its processes: the script that began as rank 0 may itself have started the other
    ranks.

    A name that was used before does no harm here: an outcome is read only after rank 0 has put its own there.
    """
    known = [f"{name}={environment[name]}" for name in LAUNCH_VARIABLES if name in environment]
    return replace(me, launch=short_hash("\n".join(["barrier", platform.node(), *known])))


def _found(meeting: Meeting, wait_seconds: float, notify: Notify) -> tuple[int, bool]:
    """The number of rank 0's call that this one goes with, and True. False for the number of one that this rank may
    make itself: where only earlier calls are there, and nobody who is to make another.

    Raises HimlError where rank 0 is not there, and will not come.
    """
    zero, waiting, patience = RankZero(meeting.me), _Waiting(meeting.me, notify), min(PATIENCE_SECONDS, wait_seconds)
    while True:
        zero.look()
        number_of_next, number = meeting.next_number(), meeting.join()
        if number is not None:
            return number, True
        earlier = meeting.last_before()
        if earlier is not None and waiting.seconds > patience and not zero.has_begun_after(earlier):
            notify(
                Notice(f"Local rank 0 was done before local rank {meeting.me.rank} was started, which acts for itself.")
            )
            return number_of_next, False
        if zero.has_died:
            raise HimlError(
                "Local rank 0, which was to fetch the files, or its launcher ended before it began with that.",
                hint="Its own output says why.",
            )
        if zero.is_overdue or waiting.seconds > wait_seconds:
            raise _alone(meeting, waiting.seconds)
        waiting.pause()


def _take_over(meeting: Meeting, number: int, notify: Notify) -> TransferResult:
    """What rank 0 says of call *number*, once it is done. Raises its error, and HimlError where it died."""
    waiting = _Waiting(meeting.me, notify)
    while (outcome := meeting.outcome(number)) is None:
        if meeting.is_over(number):
            outcome = meeting.outcome(number)  # it may have been told just before the lock was let go
            break
        waiting.pause()
    meeting.sign(number)
    if outcome is None:
        raise HimlError("Local rank 0, which was to fetch the files, died.", hint="Its own output says why.")
    return _as_own(outcome)


def _tell_of(meeting: Meeting, number: int, act: Callable[[], TransferResult]) -> TransferResult:
    """Act, and leave word of how that ended."""
    try:
        result = act()
    except HimlError as err:
        _tell(
            meeting,
            number,
            {"error": {"message": str(err), "hint": err.hint, "code": err.code, "exit_code": err.exit_code}},
        )
        raise
    except KeyboardInterrupt:
        _tell(
            meeting,
            number,
            {
                "error": {
                    "message": "Interrupted.",
                    "hint": "",
                    "code": Interrupted.code,
                    "exit_code": Interrupted.exit_code,
                }
            },
        )
        raise
    outcome = {"result": result.as_record()}
    _tell(meeting, number, outcome)
    return _as_own(outcome)  # rounded as for the other ranks: all are to say the same


def _tell(meeting: Meeting, number: int, outcome: dict[str, Any]) -> None:
    meeting.tell(number, outcome)
    meeting.sign(number, rank=0)


def _told(meeting: Meeting, number: int) -> TransferResult:
    """How it ended for rank 0, which is known to have left word by now. Raises its error."""
    outcome = meeting.outcome(number)
    if outcome is None:
        raise HimlError(
            "Local rank 0, which was to fetch the files, left no word of how that ended.",
            hint="Its own output says why.",
        )
    return _as_own(outcome)


class _Waiting:
    """Pauses that grow; after SILENT_SECONDS it is said what *me* waits for."""

    def __init__(self, me: LocalRank, notify: Notify) -> None:
        self._me, self._notify = me, notify
        self._begun, self._pause, self._is_said = time.monotonic(), FIRST_PAUSE, False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def pause(self) -> None:
        if not self._is_said and self.seconds > SILENT_SECONDS:
            self._is_said = True
            self._notify(
                Notice(f"Local rank {self._me.rank} of this launch waits for local rank 0 to fetch the files.")
            )
        time.sleep(self._pause)
        self._pause = min(self._pause * 1.5, LONGEST_PAUSE)


def _alone(meeting: Meeting, waited: float) -> HimlError:
    """What to say when no rank 0 of this launch came; one that other processes belong to may have fetched the same
    files."""
    variable = meeting.me.variable
    said = (
        f"Local rank 0 did not begin within {waited:.0f} s, and this process is local rank {meeting.me.rank} "
        f"({variable})."
    )
    if meeting.is_known_elsewhere():
        said += " Another launch had a local rank 0 that fetched the same files."
    hint = (
        "One launcher has to start all ranks of a node, and each runs the same himl commands. A process by itself "
        f"needs no {variable}."
    )
    return HimlError(said, hint=hint)


def _as_own(outcome: dict[str, Any]) -> TransferResult:
    """Rank 0's outcome as this rank's own."""
    if "result" in outcome:
        return TransferResult.from_record(outcome["result"])
    told = outcome["error"]
    error = KINDS.get(told["exit_code"], HimlError)(told["message"], hint=told["hint"])
    error.code, error.exit_code = told["code"], told["exit_code"]
    raise error
