"""What runs are called in TensorBoard, and the folders of their copies."""

from __future__ import annotations

import hashlib
import re

from himl_cli.core.runs import Run
from himl_cli.core.sweeps import hyperparameters_of, values_text
from himl_cli.services.transfer.names import folded

LONGEST_SHOWN = 60
LONGEST = 150
"""Signs of a whole name: below the shortest limit of a file system even where each takes several bytes, but for odd ids."""
UNPLAIN = re.compile(r"[^\w.+=-]+")


def readable_name(run: Run) -> str:
    """A trial's values, else the display name, and the id, in signs that every file system takes."""
    values = values_text(hyperparameters_of(run.tags))
    name = values or ("" if run.display_name == run.id else run.display_name)
    shown = UNPLAIN.sub("_", name).strip("._")[:LONGEST_SHOWN].rstrip("._")
    plain_id = UNPLAIN.sub("_", run.id).strip(".") or "run"
    whole = plain_id if not shown else f"{shown}-{plain_id}"
    return whole if plain_id == run.id and len(whole) <= LONGEST else _marked(whole, run)


class RunNames:
    """Readable names of the runs shown, no two alike, not even to a file system that takes capital and small letters for the same."""

    def __init__(self) -> None:
        self._taken: dict[str, str] = {}

    def of(self, run: Run) -> str:
        name = readable_name(run)
        if self._taken.setdefault(folded(name), run.id) != run.id:
            name = _marked(name, run)
            self._taken[folded(name)] = run.id
        return name


def _marked(name: str, run: Run) -> str:
    """*name* with a mark behind it that only this run has."""
    return f"{name[:LONGEST]}-{hashlib.sha256(run.id.encode()).hexdigest()[:6]}"
