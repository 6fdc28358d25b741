"""All parsers that are fuzzed, by their names."""

from __future__ import annotations

from functools import cache

from stress.fuzz import databases, files, replies, slides, state, tracking, typed, wire
from stress.fuzz.target import Target


@cache
def all_targets() -> dict[str, Target]:
    found = [
        *typed.targets(),
        *files.targets(),
        *wire.targets(),
        *databases.targets(),
        *state.targets(),
        *tracking.targets(),
        *slides.targets(),
        *replies.targets(),
    ]
    return {target.name: target for target in found}


def target_named(name: str) -> Target:
    return all_targets()[name]
