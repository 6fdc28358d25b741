"""What a command that was killed has to show for itself."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from stress.faults.judge import NAMED, Ended, Verdict, last_line
from stress.kills.victims import ALL, GROUP, HIML, Struck
from stress.records import Outcome

INTERRUPTED, FAILED = 130, 1
WAITED = "waiting for it"
"""What himl says while another one has a folder."""
NOT_UP = "Fatal Python error: init_"
_ESCAPED = re.compile(r"Traceback \(most recent call last\)|Exception ignored|this is a bug in himl", re.IGNORECASE)
_OURS = re.compile(r"himl_cli/(?!__main__\.py|__init__\.py)")


def documented(struck: Sequence[Struck]) -> frozenset[int]:
    """The exit codes that these signals may lead to.

    Ctrl-C and SIGTERM: 130, or the signal's own end where himl has not begun, or is through. Of a job here whose supervisor or
    whose shim gets them: 1, for the job failed. 0 wherever the signal came too late to change anything, or to one that does not heed it.
    """
    codes: set[int] = {0}
    for each in struck:
        if each.victim not in (HIML, GROUP):
            codes.add(FAILED)
        if each.victim in (HIML, GROUP, ALL):
            codes |= {-each.number} if each.number is signal.SIGKILL else {-each.number, INTERRUPTED}
    return frozenset(codes)


def judge_first(ended: Ended | None, struck: Sequence[Struck], orphans: Sequence[str], problems: Sequence[str]) -> Verdict:
    """The outcome of the call that was killed (None: it did not end): *orphans* are its processes that should be gone, *problems* what it left wrong."""
    if ended is None:
        return Verdict(Outcome.lost, "hangs")
    is_early = any(each.number is signal.SIGINT for each in struck) and is_before_himl(ended)
    if _ESCAPED.search(ended.stderr) and not is_early:
        return Verdict(Outcome.lost, f"exit code {ended.code} with a traceback: {last_line(ended.stderr)}")
    if ended.code not in documented(struck) and not is_early:
        codes = ", ".join(map(str, sorted(documented(struck))))
        return Verdict(Outcome.lost, f"exit code {ended.code}, documented: {codes}: {last_line(ended.stderr)}")
    if orphans:
        return Verdict(Outcome.lost, f"exit code {ended.code}, but {len(orphans)} processes go on: {orphans[0][:300]}")
    if problems:
        return Verdict(Outcome.lost, f"exit code {ended.code}, but {'; '.join(problems[:NAMED])}")
    if ended.code > 0 and not ended.stderr.strip():
        return Verdict(Outcome.lost, f"exit code {ended.code} without a word")
    return Verdict(Outcome.survived if ended.code == 0 else Outcome.reported)


def judge_then(first: Verdict, ended: Ended | None, orphans: Sequence[str], problems: Sequence[str]) -> Verdict:
    """*first*, unless the same command again does not do all that it should, without having to wait for anybody."""
    if ended is None:
        return Verdict(Outcome.lost, "the next call does not end")
    if ended.code != 0:
        return Verdict(Outcome.lost, f"the next call: exit code {ended.code}: {last_line(ended.stderr)}")
    if WAITED in ended.stderr:
        return Verdict(Outcome.lost, f"the next call waits: {ended.stderr.strip()[:300]}")
    if problems:
        return Verdict(Outcome.lost, f"the next call: {'; '.join(problems[:NAMED])}")
    if orphans:
        return Verdict(Outcome.lost, f"after the next call {len(orphans)} processes go on: {orphans[0][:300]}")
    return first


def is_before_himl(ended: Ended) -> bool:
    """Whether Ctrl-C ended the interpreter while it was coming up, in its own way: what it says names no module of himl but the entry."""
    is_interpreters_end = ended.code == -signal.SIGINT or (ended.code == FAILED and NOT_UP in ended.stderr)
    return is_interpreters_end and not _OURS.search(ended.stderr)
