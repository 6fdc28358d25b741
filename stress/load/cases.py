"""Many of everything: `load/<of what>/<how many>/00`. Linux only (/proc)."""

from __future__ import annotations

from itertools import chain

from stress.load.listing import listing_cases
from stress.load.polling import polling_cases
from stress.load.runs import run_cases
from stress.load.synthetic import synthetic_cases
from stress.load.writers import writer_cases
from stress.records import Case

LARGE = frozenset(f"load/{cell}" for cell in ("listing/100000", "synthetic/1000000", "runs/10000", "submitted/300", "writers/64", "tags/64", "polling/hour"))
"""What takes minutes: only a full run has it."""


def load_cases() -> list[Case]:
    """All of them, those that take longest first."""
    made = chain(polling_cases(), listing_cases(), run_cases(), synthetic_cases(), writer_cases())
    cases = [Case(f"load/{cell}/00", run) for cell, run in made]
    return sorted(cases, key=lambda case: case.cell not in LARGE)
