"""How the jobs of a workspace are run."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Manner:
    """`hold` is the status in which each job waits to be released; empty: none waits. With `whole_logs` logs are replaced as they grow, not appended to.

    `python` is what the jobs call `python`; in its folder are the programs that stand before all others.
    """

    hold: str = ""
    whole_logs: bool = False
    python: Path = field(default_factory=lambda: Path(sys.executable))
