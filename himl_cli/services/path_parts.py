"""Matching a path's parts against those of a pattern in which `**` is any number of folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

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
