"""What runs are called in TensorBoard, and the folders of their copies."""

from __future__ import annotations

import hashlib
import re

from himl_cli.core.runs import Run
from himl_cli.core.sweeps import hyperparameters_of, values_text
from himl_cli.services.tensorboard.growing_copy import first_name
from himl_cli.services.transfer.names import folded

LONGEST_SHOWN = 60
LONGEST = 150
"""Signs of a whole name: below the shortest limit of a file system even where each takes several bytes, but for odd
ids."""
UNPLAIN = re.compile(r"[^\w.+=-]+")


def readable_name(run: Run) -> str:
    """A trial's values, else the display name, and the id, in signs that every file system takes."""
    values = values_text(hyperparameters_of(run.tags))
    name = values or ("" if run.display_name == run.id else run.display_name)
    shown = UNPLAIN.sub("_", name).strip("._")[:LONGEST_SHOWN].rstrip("._")
    plain_id = _plain(run.id)
    whole = plain_id if not shown else f"{shown}-{plain_id}"
    return whole if plain_id == run.id and len(whole) <= LONGEST else _marked(whole, run)


def lasting_name(run: Run) -> str:
    """A folder's name that depends on the run's id alone, and that no other run's is, also where capital and small
    letters are the same."""
    plain_id = _plain(run.id)
    return plain_id if plain_id == run.id == folded(run.id) and len(plain_id) <= LONGEST else _marked(plain_id, run)


class RunNames:
    """Readable names of the runs shown, no two alike, not even to a file system that takes capital and small letters
    for the same."""

    def __init__(self) -> None:
        self._taken: dict[str, str] = {}

    def of(self, run: Run) -> str:
        name = readable_name(run)
        if self._taken.setdefault(folded(name), run.id) != run.id:
            name = _marked(name, run)
            self._taken[folded(name)] = run.id
        return name


class CopyNames:
    """What the copies of one run's event files are called: as the originals, but no two alike where capital and small
    letters are the same."""

    def __init__(self) -> None:
        self._taken: dict[str, str] = {}

    def of(self, name: str) -> str:
        """For the first of names that are alike *name* itself; for another one with a mark at the first part that
        differs."""
        holder = self._taken.setdefault(folded(name), name)
        parts = name.split("/")
        if holder != name:
            at = next(
                at for at, (part, other) in enumerate(zip(parts, holder.split("/"), strict=True)) if part != other
            )
            parts[at] = f"{parts[at]}.himl-{_digest(name)}"
        elif first_name(name) != name:  # called as himl calls what came after a file
            parts[-1] = f"{parts[-1]}.himl-{_digest(name)}"
        return "/".join(parts)


def _plain(run_id: str) -> str:
    return UNPLAIN.sub("_", run_id).strip(".") or "run"


def _marked(name: str, run: Run) -> str:
    """*name* with a mark behind it that only this run has."""
    return f"{name[:LONGEST]}-{_digest(run.id)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
