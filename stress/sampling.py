"""Which cases a sample takes, and the numbers that each case draws from: both follow from the seed alone."""

from __future__ import annotations

import random
from collections.abc import Sequence

from stress.records import Case


def dice_for(seed: int, case_id: str) -> random.Random:
    """The numbers of one case: the same whichever other cases run, in whatever order."""
    return random.Random(f"{seed}/{case_id}")


def sample(cases: Sequence[Case], seed: int, per_cell: int) -> list[Case]:
    """*per_cell* cases of each cell (all of one that has fewer), in the order of *cases*."""
    cells: dict[str, list[Case]] = {}
    for case in cases:
        cells.setdefault(case.cell, []).append(case)
    taken = {one.id for cell, alike in cells.items() for one in random.Random(f"{seed}/{cell}").sample(alike, min(per_cell, len(alike)))}
    return [case for case in cases if case.id in taken]
