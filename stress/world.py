"""Where a case runs: a double of Azure ML with its Azurite, a himl with its imports behind it, and a folder, home and cache of the case's own."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage, running_stage
from tests.support.forked_himl import PROGRAM, ForkedHiml
from tests.support.running import Himl, Outcome

PASSED_ON = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "COMSPEC", "PATHEXT")
"""The variables of this machine that a case may see."""
FIXED = {"COLUMNS": "80", "LINES": "24", "NO_COLOR": "1", "TZ": "UTC", "GIT_CONFIG_NOSYSTEM": "1", "PYTHONDONTWRITEBYTECODE": "1"}
CACHES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "APPDATA", "LOCALAPPDATA")
LIMIT = 400.0
"""Seconds after which a command counts as one that hangs: twice what the longest series of tries takes."""
_IDS = re.compile(r"(…/)?case_[0-9a-f]{8}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|himl[0-9a-f]{8}\d{3}|(group|ws)-[0-9a-f]{6,8}")

Kept = TypeVar("Kept")


class World:
    """What `running_world` makes. `folder` is the running case's own, empty when it begins; `stage` is shared by the cases, one at a time."""

    def __init__(self, stage: Stage, place: Path, himl: ForkedHiml) -> None:
        self.stage = stage
        self.place = place
        self.folder = place
        self._himl = himl
        self._kept: dict[str, Any] = {}

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """For one case: no faults, no requests seen, a folder of its own that is gone afterwards."""
        self.folder = self.place / f"case_{uuid.uuid4().hex[:8]}"
        self.stage.clear()
        for folder in (self.home, self.folder / "tmp"):
            folder.mkdir(parents=True)
        try:
            yield
        finally:
            self.stage.clear()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = self.place

    def lasting(self, name: str, make: Callable[[World], Kept]) -> Kept:
        """What *make* gave when it was first asked for *name*; it is shared by all cases of this world."""
        if name not in self._kept:
            self._kept[name] = make(self)
        kept: Kept = self._kept[name]
        return kept

    @property
    def home(self) -> Path:
        """The case's home folder, in which all caches lie."""
        return self.folder / "home"

    def begin_with(self, memory: Path | None) -> None:
        """Give the case the home folder *memory*, or an empty one."""
        shutil.rmtree(self.home)
        if memory is not None:
            shutil.copytree(memory, self.home)
        else:
            self.home.mkdir()

    def environment(self, staged: StagedWorkspace | None = None) -> dict[str, str]:
        """What a command of this case sees, the way to the double included; with *staged*, who signs in."""
        homes = {name: str(self.home) for name in ("HOME", "USERPROFILE")} | {name: str(self.home / name.lower()) for name in CACHES}
        temporary = {name: str(self.folder / "tmp") for name in ("TMPDIR", "TEMP", "TMP")}
        return {**FIXED, **homes, **temporary, **(staged.environment() if staged else self.stage.environment())}

    def himl(self, *arguments: str | Path, cwd: Path, env: Mapping[str, str], limit: float = LIMIT) -> Outcome:
        """Run the program. Raises subprocess.TimeoutExpired after *limit* seconds."""
        return Himl(PROGRAM, cwd, self._himl)(*arguments, env=env, timeout=limit)

    def tidy(self, text: str) -> str:
        """*text* without paths of this machine and ids of this run."""
        for path, short in ((self.place, "…"), (Path(__file__).parent.parent, "himl")):
            text = text.replace(str(path), short)
        return _IDS.sub("…", text)


def leave_only_ours() -> None:
    """Let this process forget the variables of this machine that might reach a command."""
    for name in set(os.environ) - set(PASSED_ON):
        del os.environ[name]
    os.environ.update({name: value for name, value in FIXED.items() if name.startswith("PYTHON")})


@contextmanager
def running_world(place: Path) -> Iterator[World]:
    """A world below *place*, as long as the context lasts. Raises AzuriteFailed."""
    with ExitStack() as stack:
        (place / "stage").mkdir(parents=True)
        himl = ForkedHiml(PROGRAM)
        stack.callback(himl.close)
        yield World(stack.enter_context(running_stage(place / "stage")), place, himl)
