"""Events that services report during their work. Only `render` turns these into words or bars."""

from __future__ import annotations

from collections.abc import Callable

from himl_cli.core.records import dataclass


@dataclass(frozen=True)
class Planned:
    """A page of the plan: the files and bytes to transfer in addition."""

    files: int
    bytes: int


@dataclass(frozen=True)
class Moved:
    """The number of bytes of `name` that arrived."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Finished:
    """`name` is complete and checked."""

    name: str


@dataclass(frozen=True)
class Notice:
    """One sentence for the user that does not stop the work."""

    text: str


@dataclass(frozen=True)
class Starting:
    """From now on, the run that a submission starts may exist."""

    run_id: str


@dataclass(frozen=True)
class Counting:
    """The number of further items of a kind (`slides`) to process, one after another."""

    unit: str
    total: int


@dataclass(frozen=True)
class Counted:
    """One item is done."""


Event = Planned | Moved | Finished | Notice | Starting | Counting | Counted
Notify = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Ignore events, for quiet and piped output."""
