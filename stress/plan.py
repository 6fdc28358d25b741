"""The parts that there are, and what of them is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stress.endpoint.cases import endpoint_cases
from stress.faults.cases import fault_cases
from stress.fuzz.cases import fuzz_cases
from stress.kills.cases import kill_cases
from stress.load.cases import LARGE, load_cases
from stress.names.cases import name_cases
from stress.ranks.cases import rank_cases
from stress.records import Case
from stress.sampling import sample
from stress.secrets.cases import secret_cases


@dataclass(frozen=True)
class Part:
    """`cases` gives all of its cases, those that take longest first; a sample takes `per_cell` of each cell but those that are `large`.

    `share` is its part of a sample's time, relative to that of the others; `at_once` is how many of its cases run at a time at most
    (None: as many as there are workers).
    """

    name: str
    title: str
    cases: Callable[[], Sequence[Case]]
    per_cell: int = 1
    share: float = 1.0
    at_once: int | None = None
    large: frozenset[str] = frozenset()

    def chosen(self, seed: int, *, full: bool) -> Sequence[Case]:
        """All cases, or those of the sample."""
        cases = self.cases()
        return cases if full else sample([case for case in cases if case.cell not in self.large], seed, self.per_cell)


PARTS = (
    Part("faults", "Faults of the network and of the services", fault_cases),
    Part("kills", "Killed at a random moment", kill_cases, per_cell=4, share=0.5, at_once=4),
    Part("ranks", "Ranks of a launch", rank_cases, share=0.5, at_once=2),
    Part("names", "Names, links and documents that somebody else made", name_cases, share=0.5),
    Part("secrets", "Secrets", secret_cases, share=0.5),
    Part("fuzz", "Garbage in place of what comes from outside", fuzz_cases, share=0.5),
    Part("endpoint", "The server of a local job", endpoint_cases, share=0.5, at_once=2),
    Part("load", "Many blobs, runs, writers and looks", load_cases, share=1.0, at_once=1, large=LARGE),
)


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
