"""Suggesting what a mistyped word may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

NEAR_OPTION = 0.75
"""Options share their dashes, so they must be more alike than other words."""


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """`Did you mean 'x'?`, or nothing when no known word is near."""
    near = get_close_matches(word, list(known), n=2, cutoff=cutoff)
    return f"Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
