"""All parsers that are fuzzed, by their names."""

from __future__ import annotations

from functools import cache

from stress.fuzz import files, replies, slides, state, typed, wire
from stress.fuzz.target import Target


@cache
def all_targets() -> dict[str, Target]:
    found = [*typed.targets(), *files.targets(), *wire.targets(), *state.targets(), *slides.targets(), *replies.targets()]
    return {target.name: target for target in found}


def target_named(name: str) -> Target:
    return all_targets()[name]
