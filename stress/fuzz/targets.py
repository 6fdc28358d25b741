"""All parsers that are fuzzed, by their names."""

from __future__ import annotations

from functools import cache

from stress.fuzz import databases, environment_files, job_files, list_files, replies, setting_files, slides, state, tracking, typed, wire
from stress.fuzz.target import Target


@cache
def all_targets() -> dict[str, Target]:
    found = [
        *typed.targets(),
        *setting_files.targets(),
        *job_files.targets(),
        *environment_files.targets(),
        *list_files.targets(),
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
