"""How deep values from outside may be nested."""

from __future__ import annotations

from typing import Any

DEEPEST = 100
"""Levels of lists and mappings in each other. Settings, jobs and answers have ten at most; what walks or prints them
cannot go down for ever."""


def is_too_deep(value: Any) -> bool:
    """Whether lists and dictionaries lie in each other to more than DEEPEST levels in *value*."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [each for each in level if isinstance(each, (dict, list))]
        if not level:
            return False
        level = [child for each in level for child in (each.values() if isinstance(each, dict) else each)]
    return True
