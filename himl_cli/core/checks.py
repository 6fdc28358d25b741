"""What `himl doctor` looks at, as records: one check, how it went, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from himl_cli.core.errors import HimlError


class CheckState(str, Enum):
    """`passed` and `failed` speak for themselves; `note` is worth knowing and no failure; `skipped` could not be looked
    at."""

    passed = "ok"
    failed = "failed"
    note = "note"
    skipped = "skipped"


@dataclass(frozen=True)
class Check:
    """One line of `himl doctor`: `name` is a stable word for scripts, `message` one sentence, `remedy` the next move of
    a failed one."""

    name: str
    state: CheckState
    message: str
    remedy: str = ""

    @classmethod
    def passed(cls, name: str, message: str) -> Check:
        return cls(name, CheckState.passed, message)

    @classmethod
    def failed(cls, name: str, message: str, remedy: str = "") -> Check:
        return cls(name, CheckState.failed, message, remedy)

    @classmethod
    def note(cls, name: str, message: str, remedy: str = "") -> Check:
        return cls(name, CheckState.note, message, remedy)

    @classmethod
    def skipped(cls, name: str, message: str) -> Check:
        return cls(name, CheckState.skipped, message)


def tried(name: str, look: Callable[[], Check], remedy: str = "") -> Check:
    """What *look* finds; an error that a user can mend is a failed check, and its hint the remedy (*remedy* where it
    has none)."""
    try:
        return look()
    except HimlError as err:
        return Check.failed(name, str(err), err.hint or remedy)
