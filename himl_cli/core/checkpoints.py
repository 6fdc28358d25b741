"""Which checkpoint of a run is meant, and links to one: plain records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Goal = Literal["minimize", "maximize"]
FROM_RUN = "himl.checkpoint_from"
"""The tag of a run that began with a checkpoint of another one, or that keeps changed ones: the other run's id, for one file with `:` and its path."""


@dataclass(frozen=True)
class Choice:
    """Which of a run's checkpoints is meant: the last, the one of `epoch`, or the best by `metric` (None: the one in the files' names) and `goal`."""

    kind: Literal["last", "best", "epoch"] = "last"
    epoch: int | None = None
    metric: str | None = None
    goal: Goal | None = None


@dataclass(frozen=True)
class SignedLink:
    """An address that anybody can read one file at until `expires`. It holds a secret: the signature."""

    url: str
    expires: datetime
