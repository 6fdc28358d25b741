"""What the text of a run's id says."""

from __future__ import annotations

import re

_LEGACY = re.compile(r"(?P<two>\w+)_\d+_[0-9a-f]+|(?P<one>\w+)_\d+", re.ASCII)


def implied_experiment(run_id: str) -> str | None:
    """The experiment in ids such as `EXPERIMENT_<digits>_<hex>` and `EXPERIMENT_<digits>`, by hi-ml's rule; None in others."""
    found = _LEGACY.fullmatch(run_id)
    return None if found is None else found["two"] or found["one"]
