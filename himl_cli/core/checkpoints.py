"""Which checkpoint of a run is meant, and links to one: plain records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from himl_cli.core.runs import Run

Goal = Literal["minimize", "maximize"]
FROM_RUN = "himl.checkpoint_from"
"""The tag of a run that began with a checkpoint of another one, or that keeps changed ones: the other run's id, with
`:` and the path for one file or `FOLDER/`; of what came from no run, `./NAME` for a path, or the address without its
query."""

PUSHED = "himl.pushed"
"""The tag of a run that only keeps checkpoints that somebody changed: no training wrote them, one after the other."""


@dataclass(frozen=True)
class Choice:
    """Which of a run's checkpoints is meant: the last, the one of `epoch`, or the best by `metric` (None: the one in
    the files' names) and `goal`."""

    kind: Literal["last", "best", "epoch"] = "last"
    epoch: int | None = None
    metric: str | None = None
    goal: Goal | None = None


@dataclass(frozen=True)
class SignedLink:
    """An address that anybody can read one file at until `expires`. It holds a secret: the signature."""

    url: str = field(repr=False)
    expires: datetime


@dataclass(frozen=True)
class LinkedCheckpoint:
    """The file `name` of `run`, and the link to it."""

    run: Run
    name: str
    link: SignedLink


@dataclass(frozen=True)
class PushedCheckpoints:
    """A run that was made of changed checkpoints, and the one that they came from.

    `names` are its files, `unchanged` those that are as they were there; `start` is what `--checkpoint` takes for a job
    that starts from them.
    """

    run: Run
    source: Run
    names: Sequence[str]
    unchanged: Sequence[str]
    start: str


@dataclass(frozen=True)
class FetchedCheckpoint:
    """A checkpoint that is here, whole: `shown` is its path (a file or a folder), relative where the request's was.

    `status` is `fetched`, `complete` (it was here already) or `local` (a path that was named). `names` are its files in
    the run or at the address, `size` their bytes in all; `unverified` counts files that the service knows no MD5 of.
    `address` has no query.
    """

    shown: str
    status: str
    names: Sequence[str] = ()
    size: int = 0
    run: Run | None = None
    address: str = ""
    epoch: int | None = None
    metric: str = ""
    value: float | None = None
    unverified: int = 0
    seconds: float = 0.0

    @property
    def path(self) -> Path:
        return Path(self.shown)
