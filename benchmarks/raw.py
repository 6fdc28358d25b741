"""Raw figures of a benchmark: a file of JSON lines, the run first, then what each round took.

The first line is `{"kind": "meta", "bench", "started", "seconds", "command", "commit", "dirty", "machine", "versions", "peers", "missing"}`:
`peers` has the versions of what himl is compared with, `missing` why a candidate was left out. The others are rounds,
`{"kind": "round", "bench", "scenario", "candidate", "round", "wall", "cpu", "memory", "requests", "bytes"}`, in seconds and bytes, and facts,
`{"kind": "fact", "bench", "scenario", "candidate", "value"}`. A figure that was not taken is left out.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FIGURES = ("wall", "cpu", "memory", "requests", "bytes")


class RawError(Exception):
    """A file that holds no raw figures, or only a part of them; the text names it."""


@dataclass(frozen=True)
class Round:
    """What one candidate took once: seconds of wall clock and of processors, bytes of memory at the peak, requests, bytes moved or made."""

    scenario: str
    candidate: str
    round: int
    wall: float | None = None
    cpu: float | None = None
    memory: int | None = None
    requests: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Fact:
    scenario: str
    candidate: str
    value: bool | int


@dataclass
class Raw:
    bench: str
    meta: dict[str, Any]
    rounds: list[Round] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)

    def add(self, scenario: str, candidate: str, number: int, **figures: float | None) -> None:
        """A round; *number* counts from 1, *figures* are those of `Round`."""
        taken = {name: value for name, value in figures.items() if value is not None}
        given: dict[str, Any] = {name: round(value, 5) if name in ("wall", "cpu") else int(value) for name, value in taken.items()}
        self.rounds.append(Round(scenario, candidate, number, **given))

    def add_fact(self, scenario: str, candidate: str, value: bool | int) -> None:
        self.facts.append(Fact(scenario, candidate, value))

    def leave_out(self, candidate: str, why: str) -> None:
        """Note, and say on stderr, that *candidate* cannot be had here."""
        self.meta["missing"][candidate] = why
        print(f"{candidate} is left out: {why}", file=sys.stderr)

    def name_peers(self, **peers: str) -> None:
        self.meta["peers"].update(peers)

    def values(self, scenario: str, candidate: str, figure: str) -> Sequence[float]:
        found = [getattr(one, figure) for one in self.rounds if (one.scenario, one.candidate) == (scenario, candidate)]
        return [value for value in found if value is not None]

    def median(self, scenario: str, candidate: str, figure: str) -> float | None:
        """Of all rounds; of memory the most. None where there is no such figure."""
        found = self.values(scenario, candidate, figure)
        if not found:
            return None
        return max(found) if figure == "memory" else statistics.median(found)

    def candidates(self, *scenarios: str) -> list[str]:
        return list(dict.fromkeys(one.candidate for scenario in scenarios for one in self.rounds if one.scenario == scenario))

    def lines(self) -> list[str]:
        others = [(kind, asdict(one)) for kind, ones in (("round", self.rounds), ("fact", self.facts)) for one in ones]
        taken = [{"kind": kind, "bench": self.bench, **{name: value for name, value in one.items() if value is not None}} for kind, one in others]
        return [json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in ({"kind": "meta", **self.meta}, *taken)]


Results = Mapping[str, Raw]
"""By benchmark."""


def read_raw(path: Path) -> Raw:
    """What `measure.recording` wrote. Raises RawError."""
    try:
        meta, *others = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if meta.pop("kind") != "meta" or not isinstance(meta["seconds"], float):
            raise RawError(f"'{path.name}' does not begin with the line of a run")
        raw = Raw(meta["bench"], meta)
        for one in others:
            kind, _ = one.pop("kind"), one.pop("bench")
            if kind not in ("round", "fact"):
                raise RawError(f"'{path.name}' has lines that are neither a round nor a fact")
            raw.rounds += [Round(**one)] if kind == "round" else []
            raw.facts += [Fact(**one)] if kind == "fact" else []
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise RawError(f"'{path.name}' holds no raw figures: {e}") from e
    return raw


def read_results(folder: Path) -> Results:
    found: dict[str, Raw] = {}
    for path in sorted(folder.glob("*.jsonl")):
        raw = read_raw(path)
        if raw.bench != path.stem:
            raise RawError(f"'{path.name}' holds the figures of '{raw.bench}'")
        raw.meta["digest"] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        found[raw.bench] = raw
    return found
