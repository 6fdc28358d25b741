"""How the jobs of a workspace are run."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Manner:
    """`hold` is the status in which each job waits to be released; empty: none waits. With `whole_logs` logs are replaced as they grow, not appended to.

    Numbers of ranks have at least so many `log_digits` in the names of logs. `data_names` is how the variables of data are called: with
    the `exact` key behind the prefix, or with the key in `upper` case.

    With `prepares` a sweep has a child `{sweep}_preparation` beside its trials, as older ones do; with `fails_with_a_trial` it fails when one trial does,
    not only when the first three or all of them do.

    `python` is what the jobs call `python`; in its folder are the programs that stand before all others.
    """

    hold: str = ""
    whole_logs: bool = False
    log_digits: int = 1
    data_names: str = "exact"
    prepares: bool = False
    fails_with_a_trial: bool = False
    python: Path = field(default_factory=lambda: Path(sys.executable))
