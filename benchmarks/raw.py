"""Raw figures of a benchmark, as a file of JSON lines: one line about the execution, then one line per round and fact.

The first line is `{"kind": "meta", "bench", "started", "seconds", "starts", "command", "commit", "dirty", "machine",
"versions", "peers", "missing"}`: `starts` has the seconds of a start of Python before and after the benchmark, `peers`
the versions of the tools that himl is compared with, `missing` the reasons for omitted candidates. The other lines are
rounds, `{"kind": "round", "bench", "scenario", "candidate", "round", "wall", "cpu", "memory", "requests", "bytes",
"operations"}`, in seconds and bytes, and facts, `{"kind": "fact", "bench", "scenario", "candidate", "value"}`. Figures
that were not measured are omitted."""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FIGURES = ("wall", "cpu", "memory", "requests", "bytes", "operations")


@dataclass
class Raw:
    """Raw figures of one benchmark. `rounds` and `facts` are the lines of these kinds."""

    bench: str
    meta: dict[str, Any]
    rounds: list[dict[str, Any]] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)

    def add(self, scenario: str, candidate: str, number: int, **figures: float) -> None:
        """Add the figures of a round. *number* counts from 1."""
        given = {name: round(value, 5) if name in ("wall", "cpu") else int(value) for name, value in figures.items()}
        self.rounds.append({"scenario": scenario, "candidate": candidate, "round": number, **given})

    def add_fact(self, scenario: str, candidate: str, value: bool | int) -> None:
        self.facts.append({"scenario": scenario, "candidate": candidate, "value": value})

    def leave_out(self, candidate: str, why: str) -> None:
        """Record, and print to stderr, the reason why *candidate* is not available on this machine."""
        self.meta["missing"][candidate] = why
        print(f"Omitting {candidate}: {why}", file=sys.stderr)

    def name_peers(self, **peers: str) -> None:
        self.meta["peers"].update(peers)

    def rounds_of(self, scenario: str, candidate: str) -> list[dict[str, Any]]:
        return [one for one in self.rounds if (one["scenario"], one["candidate"]) == (scenario, candidate)]

    def values(self, scenario: str, candidate: str, figure: str) -> Sequence[float]:
        return [one[figure] for one in self.rounds_of(scenario, candidate) if figure in one]

    def median(self, scenario: str, candidate: str, figure: str) -> float | None:
        """Return the median of all rounds, or the maximum for memory. None if the figure is missing."""
        found = self.values(scenario, candidate, figure)
        return (max if figure == "memory" else statistics.median)(found) if found else None

    def growth(self, scenario: str, candidate: str, figure: str) -> tuple[float, float]:
        """Return the growth of *figure* per hour by least squares over the times of the rounds, and twice its standard
        error."""
        times, values = (self.values(scenario, candidate, name) for name in ("wall", figure))
        per_second, start = statistics.linear_regression(times, values)
        middle = statistics.fmean(times)
        rest = sum((value - start - per_second * at) ** 2 for at, value in zip(times, values, strict=True))
        error = (rest / max(1, len(times) - 2) / sum((at - middle) ** 2 for at in times)) ** 0.5
        return per_second * 3600, 2 * error * 3600

    def fact(self, scenario: str, candidate: str) -> bool | int | None:
        found = {(one["scenario"], one["candidate"]): one["value"] for one in self.facts}
        return found.get((scenario, candidate))

    def candidates(self, *scenarios: str) -> list[str]:
        """Return the candidates that have rounds or facts of *scenarios*."""
        lines = [*self.rounds, *self.facts]
        return list(
            dict.fromkeys(one["candidate"] for scenario in scenarios for one in lines if one["scenario"] == scenario)
        )

    def lines(self) -> list[str]:
        others = [
            {"kind": kind, "bench": self.bench, **one}
            for kind, ones in (("round", self.rounds), ("fact", self.facts))
            for one in ones
        ]
        return [
            json.dumps(one, ensure_ascii=False, separators=(",", ":"))
            for one in ({"kind": "meta", **self.meta}, *others)
        ]


Results = Mapping[str, Raw]
"""Raw figures by the name of the benchmark."""


def read_results(folder: Path) -> Results:
    """Read the files that `measure.recording` wrote to *folder*."""
    found: dict[str, Raw] = {}
    for path in sorted(folder.glob("*.jsonl")):
        meta, *others = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        meta["digest"] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        rounds, facts = ([one for one in others if one["kind"] == kind] for kind in ("round", "fact"))
        found[path.stem] = Raw(meta["bench"], meta, rounds, facts)
    return found
