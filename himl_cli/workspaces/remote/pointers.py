"""Pointers of a local workspace to runs on other machines that were submitted from here.

The file `pointers/RUN.json` in the workspace's folder names the machine, and has the run as it was last seen. Without
such files, no command looks for runs elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from himl_cli.core.documents import from_document, to_document
from himl_cli.core.files import write_atomic
from himl_cli.core.records import dataclass
from himl_cli.core.runs import DOUBT, Run, is_run_id
from himl_cli.workspaces.local import POINTERS

# How long a submission may take until its run exists, in seconds. A pointer without a run is then of no use
LONGEST_SUBMISSION = 86_400


@dataclass(frozen=True)
class RunPointer:
    """A *run* in the workspace *place* (`ssh:HOST[:FOLDER]`) as it was at the time *seen* in seconds since 1970, 0 for
    a run that may not have been recorded there."""

    place: str
    run: Run
    seen: float = 0.0

    def unreachable(self, host: str) -> Run:
        """The run as last seen, of which nothing newer is known. Whether it is in progress is then unknown."""
        if self.run.status.is_final:
            return self.run
        seen = datetime.fromtimestamp(self.seen, timezone.utc)
        when = f"last saw the run on {seen:%Y-%m-%d %H:%M} UTC" if self.seen else "has not seen the run there"
        return replace(self.run, reason=f"{DOUBT}himl cannot reach '{host}', and {when}")


class Pointers:
    """The pointers of the local workspace in the folder *workspace*. Those of other users do not count, since their
    machines are not for this user."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self._folder = workspace / POINTERS

    def _path(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.json"

    def ids(self) -> Sequence[str]:
        """The ids of the runs, the one that was submitted last first."""
        names: list[str] = []
        with suppress(OSError):
            names = [each.name[:-5] for each in os.scandir(self._folder) if each.name.endswith(".json")]
        return sorted((each for each in names if not each.startswith(".")), key=_submitted, reverse=True)

    def get(self, run_id: str) -> RunPointer | None:
        """The pointer to the run. None without a readable one of this user."""
        if not is_run_id(run_id):
            return None
        with suppress(AttributeError, KeyError, OSError, TypeError, ValueError):
            path = self._path(run_id)
            if sys.platform == "win32" or path.stat().st_uid == os.geteuid():
                found = from_document(RunPointer, json.loads(path.read_text("utf-8")))
                return found if found.run.id == run_id else None
        return None

    def all(self) -> Sequence[RunPointer]:
        """All pointers, that to the newest run first."""
        found = filter(None, map(self.get, self.ids()))
        return sorted(found, key=lambda each: (each.run.created, each.run.id), reverse=True)

    def put(self, place: str, run: Run, *, is_seen: bool) -> None:
        """Store a pointer to the *run*, which *is_seen* there at present. Raises OSError."""
        known = self.get(run.id)
        if known is not None and known.seen and not is_seen:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        pointer = RunPointer(place, run, time.time() if is_seen else 0.0)
        write_atomic(self._path(run.id), json.dumps(to_document(pointer)))

    def remove(self, run_id: str) -> bool:
        """Remove the pointer of this user, if there is one. Return whether there was. Raises OSError."""
        if self.get(run_id) is None:
            return False
        with suppress(FileNotFoundError):
            self._path(run_id).unlink()
        return True

    def missed(self, pointer: RunPointer) -> None:
        """Remove the *pointer* to a run that is not there, unless its submission may go on."""
        if pointer.seen or time.time() - pointer.run.created.timestamp() > LONGEST_SUBMISSION:
            with suppress(OSError):  # the folder may be read-only
                self.remove(pointer.run.id)


def _submitted(run_id: str) -> tuple[int, str]:
    """The time in an id of himl, and the id."""
    found = re.search(r"_(\d{9,})_[0-9a-f]+$", run_id)
    return int(found[1]) if found else 0, run_id
