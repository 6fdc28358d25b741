"""The commands that are killed: what each has to leave, whenever that happens. What is moved is that of the faults."""

from __future__ import annotations

import random
import shutil
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stress.faults.commands import Attempt, Download, Submit, Upload
from stress.faults.judge import Ended
from stress.faults.stock import Stock
from stress.world import World
from tests.support.processes import is_sound_file

AT_REST = frozenset({".himl-lock", ".gitignore"})
"""Names that begin with a dot and are there as well after a call that nobody killed."""


class Killed(ABC):
    """One command of one case. `first` is asked what is wrong once it has ended and nothing of it goes on, `then` after the same command again."""

    overlaps = False
    """Whether the same command may be called again while what a dead call has begun goes on; `first` is asked after that then."""
    victims: Sequence[str]
    remembers = True
    """Whether a call is another one where himl has an earlier one's sign-in and answers."""

    @property
    @abstractmethod
    def arguments(self) -> Sequence[str]: ...

    @property
    @abstractmethod
    def cwd(self) -> Path: ...

    @abstractmethod
    def environment(self) -> dict[str, str]: ...

    @abstractmethod
    def first(self, ended: Ended, beside: Ended | None = None) -> list[str]: ...

    @abstractmethod
    def then(self, ended: Ended) -> list[str]: ...

    @abstractmethod
    def leftovers(self) -> int:
        """How many files lie there that only a call under way needs."""

    def facts(self) -> Mapping[str, Any]:
        """What else is worth counting, after both calls."""
        return {}

    def close(self) -> None:  # noqa: B027 - most leave nothing
        """Take away what would hinder the next case."""


class Moving(Killed):
    """A command that moves files: *kind* says which, and what has to be there."""

    def __init__(self, world: World, kind: Callable[[World, Stock, random.Random], Attempt], dice: random.Random, victims: Sequence[str]) -> None:
        self.world, self.victims = world, victims
        self._attempt = kind(world, world.lasting("stock", Stock), dice)

    @property
    def arguments(self) -> Sequence[str]:
        return self._attempt.arguments

    @property
    def cwd(self) -> Path:
        return self._attempt.cwd

    def environment(self) -> dict[str, str]:
        return self.world.environment(self._attempt.workspace)

    def first(self, ended: Ended, beside: Ended | None = None) -> list[str]:
        return self._attempt.problems(ended, is_done=ended.code == 0) + unsound(self.world.home, self.world.folder / "copies")

    def then(self, ended: Ended) -> list[str]:
        return self._attempt.problems(ended, is_done=True) + unsound(self.world.home, self.world.folder / "copies")

    def leftovers(self) -> int:
        return sum(map(count_temporary, (self.cwd, self.world.home, self.world.folder / "tmp")))

    def facts(self) -> Mapping[str, Any]:
        return {"jobs": len(self._attempt.of_first)} if isinstance(self._attempt, Sent) else {}

    def close(self) -> None:
        self._attempt.close()


class Sent(Submit):
    """A submit of which the service may still be making the job when it is dead. `of_first` are the jobs of the call that was killed: one at most."""

    def __init__(self, world: World, stock: Stock, dice: random.Random) -> None:
        super().__init__(world, stock, dice)
        self._before = frozenset(self.workspace.state.runs)
        self._is_killed = False
        self.of_first: set[str] = set()

    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        assert ended is not None
        new = set(self.workspace.state.runs) - self._before - self.of_first
        if self._is_killed:
            late = new - {ended.stdout.strip()}
            self._jobs |= late
            self.of_first |= late
            wrong = super().problems(ended, is_done=is_done)
        else:
            self._is_killed = True
            self.of_first |= new
            wrong = super().problems(ended, is_done=is_done) + self._untold(ended)
        return wrong + ([f"the call that was killed made {len(self.of_first)} jobs"] if len(self.of_first) > 1 else [])

    def _untold(self, ended: Ended) -> list[str]:
        """Jobs of which a call that could still speak has not said the id. One that dies of SIGTERM or SIGINT in their own way is through with speaking."""
        said = ended.stdout + ended.stderr
        is_untold = ended.code != -signal.SIGKILL and any(job not in said for job in self.of_first)
        return ["there is no word about the job that was created"] if is_untold else []


KINDS: Mapping[str, type[Attempt]] = {"download": Download, "upload": Upload, "submit": Sent}


def unsound(folder: Path, scratch: Path) -> list[str]:
    """What SQLite finds wrong with what downloads remember below *folder*. It looks at copies in *scratch*: opening a file would repair it."""
    wrong = []
    for number, path in enumerate(sorted(folder.rglob("transfers/*/state.db"))):
        place = scratch / str(number)
        place.mkdir(parents=True)
        for part in path.parent.glob(f"{path.name}*"):
            shutil.copyfile(part, place / part.name)
        if not is_sound_file(place / path.name):
            wrong.append(f"'{path.relative_to(folder)}' is damaged")
    shutil.rmtree(scratch, ignore_errors=True)
    return wrong


def count_temporary(folder: Path) -> int:
    """Files below *folder* that are to get another name or to be gone: hidden ones that do not stay, and parts."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sum(path.name not in AT_REST and (path.name.startswith(".") or path.name.endswith(".part")) for path in found)
