"""What a command that met a fault has to show for itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from stress.records import Outcome

NAMED = 5
_ESCAPED = re.compile(r"Traceback \(most recent call last\)|this is a bug in himl", re.IGNORECASE)


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Verdict:
    """`why` is said of what is lost."""

    outcome: Outcome
    why: str = ""


def differences(wanted: Mapping[str, bytes], found: Mapping[str, bytes], *, is_done: bool, grows: bool = False) -> list[str]:
    """What is wrong with what stands at final names: other bytes than *wanted*, names that nobody wanted, and (*is_done*) names that lack.

    What *grows* may end early as long as it is not done.
    """
    wrong = [f"{name!r} is lacking" for name in sorted(wanted.keys() - found.keys())] if is_done else []
    for name, content in sorted(found.items()):
        if name not in wanted:
            wrong.append(f"{name!r} should not be there")
        elif content != wanted[name] and not (grows and not is_done and wanted[name].startswith(content)):
            wrong.append(_difference(name, wanted[name], content))
    return wrong


def judge(ended: Ended | None, documented: Set[int], problems: Sequence[str], *, prints_on_failure: bool = False) -> Verdict:
    """The outcome of one call (None: it did not end).

    *problems* are those of what it left: of a call that says that it is done, everything has to be there; of one that failed, what is there
    has to be right. A failure leaves stdout empty, unless the command tells there what was done (*prints_on_failure*).
    """
    if ended is None:
        return Verdict(Outcome.lost, "hangs")
    if _ESCAPED.search(ended.stderr):
        return Verdict(Outcome.lost, f"a failure that himl does not know: {last_line(ended.stderr)}")
    if ended.code not in documented:
        return Verdict(Outcome.lost, f"exit code {ended.code}, documented: {_listed(documented)}: {last_line(ended.stderr)}")
    if problems:
        return Verdict(Outcome.lost, f"exit code {ended.code}, but {'; '.join(problems[:NAMED])}")
    if ended.code == 0:
        return Verdict(Outcome.survived)
    if not ended.stderr.strip():
        return Verdict(Outcome.lost, f"exit code {ended.code} without a word")
    if ended.stdout and not prints_on_failure:
        return Verdict(Outcome.lost, f"exit code {ended.code}, and yet on stdout: {ended.stdout[:200]!r}")
    return Verdict(Outcome.reported)


def judge_again(first: Verdict, ended: Ended | None, problems: Sequence[str]) -> Verdict:
    """*first*, unless the same command with nothing in its way does not do all that it should."""
    if ended is None:
        return Verdict(Outcome.lost, "the next call hangs")
    if ended.code != 0:
        return Verdict(Outcome.lost, f"the next call: exit code {ended.code}: {last_line(ended.stderr)}")
    if problems:
        return Verdict(Outcome.lost, f"the next call: {'; '.join(problems[:NAMED])}")
    return first


def last_line(text: str) -> str:
    """What was said last, hints aside."""
    lines = [line for line in text.strip().splitlines() if not line.startswith("hint:")]
    return lines[-1][:300] if lines else "(nothing on stderr)"


def _difference(name: str, wanted: bytes, found: bytes) -> str:
    same = next((at for at, (one, other) in enumerate(zip(wanted, found, strict=False)) if one != other), min(len(wanted), len(found)))
    return f"{name!r} has {len(found):,} bytes of {len(wanted):,}, other ones from byte {same:,} on"


def _listed(codes: Set[int]) -> str:
    return ", ".join(map(str, sorted(codes)))
