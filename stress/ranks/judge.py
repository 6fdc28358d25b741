"""What the ranks of one launch have to show for themselves, together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from stress.faults.judge import Ended, Verdict, judge, last_line
from stress.ranks.launching import Launch
from stress.records import Outcome

LONGEST = 30.0
"""Seconds within which all other ranks have to have ended once rank 0 has, and all are started."""
SLOWEST = 120.0
"""Seconds that a whole launch may take, from the start of its last rank, on a machine that has much else to do."""
AT_ONCE = 0.02
"""Seconds by which the clocks that this compares may differ."""


def judge_launch(launch: Launch, problems: Sequence[str], *, documented: AbstractSet[int] = frozenset({0}), but: AbstractSet[int] = frozenset()) -> Verdict:
    """The outcome of a launch whose ranks, *but* those that were killed, all have to end alike: one code, and after 0 one text on stdout.

    *problems* are those of what is left.
    """
    ends = {rank: end for rank, end in sorted(launch.ends.items()) if rank not in but}
    hanging = [rank for rank, end in ends.items() if end.code is None]
    if hanging:
        return Verdict(Outcome.lost, f"ranks {hanging} do not end")
    codes = {rank: end.code or 0 for rank, end in ends.items()}
    if len(set(codes.values())) > 1:
        said = "; ".join(f"{rank}: {code} ({last_line(ends[rank].stderr)[:120]})" for rank, code in codes.items())
        return Verdict(Outcome.lost, f"the ranks end with different codes: {said}")
    verdicts = [judge(Ended(codes[rank], end.stdout, end.stderr), documented, problems, prints_on_failure=True) for rank, end in ends.items()]
    worst = next((verdict for verdict in verdicts if verdict.outcome is Outcome.lost), verdicts[0])
    if worst.outcome is Outcome.survived and len({end.stdout for end in ends.values()}) > 1:
        texts = "; ".join(f"{rank}: {end.stdout[:120]!r}" for rank, end in ends.items())
        return Verdict(Outcome.lost, f"the ranks say different things: {texts}")
    if worst.outcome is not Outcome.lost and launch.waited > LONGEST:
        return Verdict(Outcome.lost, f"the last rank ended {launch.waited:.0f} s after rank 0, or after it was started")
    if worst.outcome is not Outcome.lost and launch.seconds > SLOWEST:
        return Verdict(Outcome.lost, f"the last rank ended {launch.seconds:.0f} s after it was started")
    return worst


def ended_early(launch: Launch, there: float, *, but: AbstractSet[int] = frozenset()) -> list[str]:
    """Which ranks ended well before all bytes were *there* (seconds since the epoch): they took another launch's outcome for their own."""
    return [
        f"rank {rank} ended {there - end.ended:.2f} s before all bytes were there"
        for rank, end in sorted(launch.ends.items())
        if rank not in but and end.code == 0 and end.ended < there - AT_ONCE
    ]


def moved_otherwise(wanted: Mapping[str, int], moved: Mapping[str, int]) -> list[str]:
    """What was not moved just once: *wanted* and *moved* are bytes by name."""
    names = sorted(wanted.keys() | moved.keys())
    return [f"{name!r}: {moved.get(name, 0):,} bytes were moved of {wanted.get(name, 0):,}" for name in names if moved.get(name, 0) != wanted.get(name, 0)]
