"""The interface of commands that are killed, and who gets the signals."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stress.world import Ended, World

HIML, GROUP, SUPERVISOR, SHIM, ALL = "himl", "group", "supervisor", "shim", "all"
"""Who gets a signal: the command's process, its process group as by a terminal, the two that look after a job here,
or everything.
"""
AT_REST = frozenset({".himl-lock", ".gitignore"})  # there as well after a call that nobody killed
NEXT_LIMIT = 60.0  # seconds of the call after the one that was killed


class Killed:
    """A command of one case. `first` returns problems once the killed call has ended completely, `then` after
    `arguments` were called again.

    `overlaps`: it may be called again while effects of the killed call continue. `first` is called after that. `codes`
    are exit codes that it may have besides those of the signals."""

    arguments: Sequence[str]
    victims: Sequence[str] = (HIML, GROUP)
    overlaps = False
    codes: frozenset[int] = frozenset()

    def __init__(self, world: World, dice: random.Random) -> None:
        self.world, self.env = world, world.environment()

    def first(self, ended: Ended, beside: Ended | None = None) -> list[str]:
        raise NotImplementedError

    def then(self, ended: Ended) -> list[str]:
        raise NotImplementedError

    def leftovers(self) -> int:
        """The number of files that only a call in progress needs."""
        return sum(map(count_temporary, (self.world.project, self.world.home, self.world.folder / "tmp")))

    def facts(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        """Free what would affect the next case."""


def count_temporary(folder: Path) -> int:
    """The number of temporary files: hidden files that must not stay, and parts."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sum(
        path.name not in AT_REST and (path.name.startswith(".") or path.name.endswith(".part")) for path in found
    )
