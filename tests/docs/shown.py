"""Comparing what commands print with what a document shows of it: `…` alone in a line stands for any lines.

Ids, times, durations, sizes and paths are any; numbers with a point may differ by a fifth.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.text import Text

from docs.tools.terminal import settled

ANY = "…"
NEAR = 0.2
PROMPT = "$ "
PLACES = (
    (re.compile(r"\b[A-Za-z]\w*?_\d{10}_[0-9a-f]{8}"), "ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"), "TIME"),
    (re.compile(r"\b\d\d:\d\d\b"), "CLOCK"),
    (re.compile(r"\b(?:\d+m \d\ds|\d+(?:\.\d+)? ?s)(?=[.\s]|$)"), "DURATION"),
    (re.compile(r"\b\d+(?:\.\d+)? (?:B|KB|MB)\b"), "SIZE"),
    (re.compile(r"'/[^']*'"), "PATH"),
)
NUMBER = re.compile(r"-?\d+\.\d+")


def commands_of(body: str) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines that it shows."""
    found: list[tuple[str, list[str]]] = []
    for line in body.splitlines():
        if line.startswith(PROMPT):
            found.append((line.removeprefix(PROMPT), []))
        else:
            found[-1][1].append(line)
    return found


def differences(shown: Sequence[str], screen: str) -> str:
    """What of *shown* is not on *screen* in its place; empty for nothing, and where no line is shown."""
    printed = [Text.from_ansi(line).plain for line in settled(screen)]
    wanted, got = ([_words(line) for line in lines if line.strip()] for lines in (shown, printed))
    if not wanted or _agree(wanted, got):
        return ""
    reached = [count for count in range(len(wanted)) if _agree([*wanted[:count], [ANY]], got)][-1]
    if wanted[reached] == [ANY]:
        return "more is printed than is shown"
    return f"'{' '.join(wanted[reached])}' is not printed where it is shown, or more is printed behind it"


def _agree(wanted: Sequence[Sequence[str]], got: Sequence[Sequence[str]]) -> bool:
    if not wanted:
        return not got
    if wanted[0] == [ANY]:
        return any(_agree(wanted[1:], got[count:]) for count in range(len(got) + 1))
    return bool(got) and _same(wanted[0], got[0]) and _agree(wanted[1:], got[1:])


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    return len(one) == len(other) and all(left == right or _near(left, right) for left, right in zip(one, other, strict=True))


def _near(one: str, other: str) -> bool:
    if not (NUMBER.fullmatch(one) and NUMBER.fullmatch(other)):
        return False
    return abs(float(one) - float(other)) <= NEAR * max(abs(float(one)), abs(float(other)))


def _words(line: str) -> list[str]:
    for pattern, word in PLACES:
        line = pattern.sub(word, line)
    return line.split()
