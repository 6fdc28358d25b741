"""What services report while they work. Only `render` turns these into words or bars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Planned:
    """A page of the plan is known: so many more files and bytes will move."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Moved:
    """So many bytes of `name` arrived."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Finished:
    """`name` is complete and checked."""

    name: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know that does not stop the work; one sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class Counting:
    """So many more things of a kind (`slides`) will be done, one after another."""

    unit: str
    total: int


@dataclass(frozen=True, slots=True)
class Counted:
    """One of them is done."""


Event = Planned | Moved | Finished | Notice | Counting | Counted
Notify = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer of quiet and piped runs."""
