"""The parts that there are, and what of them is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stress.faults.cases import fault_cases
from stress.records import Case
from stress.sampling import sample


@dataclass(frozen=True)
class Part:
    """`cases` gives all of its cases, those that take longest first; a sample takes `per_cell` of each cell.

    `share` is its part of a sample's time, relative to that of the others; `at_once` is how many of its cases run at a time at most
    (None: as many as there are workers).
    """

    name: str
    title: str
    cases: Callable[[], Sequence[Case]]
    per_cell: int = 1
    share: float = 1.0
    at_once: int | None = None

    def chosen(self, seed: int, *, full: bool) -> Sequence[Case]:
        """All cases, or those of the sample."""
        cases = self.cases()
        return cases if full else sample(cases, seed, self.per_cell)


PARTS = (Part("faults", "Faults of the network and of the services", fault_cases),)


def parts_named(names: Sequence[str]) -> list[Part]:
    """Those of these names, or all. Raises ValueError for a name that there is not."""
    known = {part.name: part for part in PARTS}
    for name in names:
        if name not in known:
            raise ValueError(f"There is no part '{name}'; there are: {', '.join(known)}.")
    return [part for part in PARTS if not names or part.name in names]


def cases_by_id() -> dict[str, Case]:
    return {case.id: case for part in PARTS for case in part.cases()}


def seconds_for(part: Part, left: Sequence[Part], seconds: float) -> float:
    """What *part*, the first of those *left*, may take of the *seconds* that they have together."""
    return seconds * part.share / sum(one.share for one in left)
