"""Words that users type: an empty one is refused, and of a mistyped one is suggested what it may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from himl_cli.core.errors import BadUsage

NEAR_OPTION = 0.75
"""Options share their dashes, so they must be more alike than other words."""


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """`Did you mean 'x'?`, or nothing when no known word is near."""
    near = get_close_matches(word, list(known), n=2, cutoff=cutoff)
    return f"Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def filled(option: str, value: str | None) -> str | None:
    """*value*, unless it is blank: an unset shell variable must not silently select something else."""
    if value is not None and not value.strip():
        raise BadUsage(f"{option} got an empty value.", hint="Is a shell variable unset?")
    return value
