"""The rules of one ignore file: pathspec reads each part of a pattern, and the last pattern that fits an entry decides,
as in git.

Read otherwise than by git are, within brackets, `[:alpha:]` and its kind, backslashes, slashes and ranges that run
backwards; in patterns of more than one part `***`; and by pathspec before 1.1 an open bracket, which it takes for
itself.

No pattern makes matching long: parts are matched against parts, and within a part a `*` that another one follows never
gives back what it took.
"""

from __future__ import annotations

import codecs
import os
import re
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

from pathspec import GitIgnoreSpec, RegexPattern

ANY_FOLDERS = "**"

Part = TypeVar("Part")


def without_repeats(parts: Sequence[str]) -> tuple[str | None, ...]:
    """*parts* with None for `**`, of which none follows another; one at the end gets a `*` behind it: every file
    below."""
    made: list[str | None] = []
    for part in parts:
        if part != ANY_FOLDERS:
            made.append(part)
        elif not made or made[-1] is not None:
            made.append(None)
    return (*made, "*") if made and made[-1] is None else tuple(made)


def fits(wanted: Sequence[Part | None], parts: Sequence[str], part_fits: Callable[[Part, str], bool]) -> bool:
    """Whether *parts* are as *wanted* from the first to the last, in no more steps than the number of the one times
    that of the other.

    No None in *wanted* may follow another.
    """
    if None not in wanted and len(wanted) != len(parts):
        return False
    reached = _past_any_folders(wanted, {0})
    for part in parts:
        after = set()
        for at in reached:
            if at < len(wanted):
                one = wanted[at]
                if one is None:
                    after.add(at)
                elif part_fits(one, part):
                    after.add(at + 1)
        reached = _past_any_folders(wanted, after)
        if not reached:
            return False
    return len(wanted) in reached


def _past_any_folders(wanted: Sequence[object], reached: set[int]) -> set[int]:
    """*reached*, and the places after each None there, which may stand for no folder."""
    return reached | {at + 1 for at in reached if at < len(wanted) and wanted[at] is None}


# What GitIgnoreSpec makes of a line, under a name that depends on pathspec's version; made alone, no other engine than
# `re` reads it.
GitPattern = cast("Callable[[str], RegexPattern]", type(GitIgnoreSpec.from_lines(["*"]).patterns[0]))
# A pattern ends before a slash (which means folders only) and before spaces that no backslash protects, never amid an
# escape.
LINE = re.compile(r"(?P<sign>!?)(?P<body>(?:[^\\]|\\.)*?)(?P<slash>/?) *", re.DOTALL)
# Stands after parts of patterns and of names, which cannot hold it: else pathspec would match what lies below a folder,
# too.
END = "\0"
STAR = "[^/]*"
PARTS_KEPT = 10_000


class Rule(NamedTuple):
    """*name*: what the last part of a path has to be; without it *parts*: those that the path has to have, None being
    any number of folders."""

    name: re.Pattern[str] | None
    parts: tuple[str | None, ...]
    folders_only: bool
    excludes: bool


class IgnoreRules:
    """The rules of a file; paths are relative to the file's folder, with `/` separators."""

    def __init__(self, content: bytes) -> None:
        # Latin-1 makes each byte a character: git matches byte by byte, whatever the encoding.
        lines = content.removeprefix(codecs.BOM_UTF8).decode("latin-1").split("\n")
        self._last_first = [rule for line in reversed(lines) if (rule := _rule(line.removesuffix("\r"))) is not None]

    def __bool__(self) -> bool:
        return bool(self._last_first)

    def verdict(self, path: str, *, is_folder: bool) -> bool | None:
        """Whether the rules exclude *path* (True), include it again (False), or do not speak of it (None)."""
        parts = tuple(part + END for part in os.fsencode(path).decode("latin-1").split("/"))
        for name, wanted, folders_only, excludes in self._last_first:
            if folders_only and not is_folder:
                continue
            if name.match(parts[-1]) is not None if name is not None else fits(wanted, parts, _part_fits):
                return excludes
        return None


def read_rules(path: Path) -> IgnoreRules | None:
    """The rules in a file; None where there is none, or none that can be read."""
    try:
        return IgnoreRules(path.read_bytes()) or None
    except OSError:
        return None


def _rule(line: str) -> Rule | None:
    """The rule in one line; None for comments, blank lines and patterns that match nothing, such as an open bracket."""
    found = LINE.fullmatch(line)
    if found is None or not found["body"] or line.startswith("#"):
        return None
    body, folders_only, excludes = found["body"], bool(found["slash"]), not found["sign"]
    if "/" not in body:
        name = _part(body)
        return None if name is None else Rule(name, (), folders_only, excludes)
    return Rule(None, without_repeats(body.removeprefix("/").split("/")), folders_only, excludes)


@lru_cache(PARTS_KEPT)
def _part(text: str) -> re.Pattern[str] | None:
    """What a name that *text* means has to match, with END after it; None for a part that matches nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of `re`, about brackets within brackets
            regex = GitPattern(f"/{text}{END}").regex
            return None if regex is None else re.compile(_without_giving_back(regex.pattern), re.DOTALL)
    except (ValueError, re.error):
        return None


def _part_fits(text: str, part: str) -> bool:
    wanted = _part(text)
    return wanted is not None and wanted.match(part) is not None


def _without_giving_back(regex: str) -> str:
    """*regex*, in which a star takes as little as it can and then stands by it where another one follows, as `fnmatch`
    has it."""
    first, *stars = regex.split(STAR)
    if len(stars) < 2:
        return regex
    *amid, last = stars
    steps = [f"(?=(?P<g{number}>{STAR}?{text}))(?P=g{number})" for number, text in enumerate(amid) if text]
    return "".join([first, *steps, STAR, last])
