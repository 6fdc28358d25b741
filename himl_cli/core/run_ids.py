"""What a run's id looks like, and what the text of one says."""

from __future__ import annotations

import re
import secrets
import time

LONGEST_EXPERIMENT = 200  # in a run id: names of files end at 255 bytes, those of jobs on Azure ML too

_LEGACY = re.compile(r"(?P<two>[\w-]+)_\d+_[0-9a-f]+|(?P<one>[\w-]+)_\d+", re.ASCII)


def new_run_id(experiment: str) -> str:
    """`EXPERIMENT_<unix seconds>_<8 hex>`, short enough for a folder's name; hi-ml's form of recovery ids."""
    return f"{experiment[:LONGEST_EXPERIMENT]}_{int(time.time())}_{secrets.token_hex(4)}"


def implied_experiment(run_id: str) -> str | None:
    """The experiment in ids such as `EXPERIMENT_<digits>_<hex>` and `EXPERIMENT_<digits>`, by hi-ml's rule, which knows
    no `-`; None in others."""
    found = _LEGACY.fullmatch(run_id)
    return None if found is None else found["two"] or found["one"]
