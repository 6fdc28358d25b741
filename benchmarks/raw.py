"""Raw figures of a benchmark: a file of JSON lines, the run first, then what each round took.

The first line is `{"kind": "meta", "bench", "started", "seconds", "command", "commit", "dirty", "machine", "versions", "peers", "missing"}`:
`peers` has the versions of what himl is compared with, `missing` why a candidate was left out. The others are rounds,
`{"kind": "round", "bench", "scenario", "candidate", "round", "wall", "cpu", "memory", "requests", "bytes"}`, in seconds and bytes, and facts,
`{"kind": "fact", "bench", "scenario", "candidate", "value"}`. A figure that was not taken is left out.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.measure import Timing
from benchmarks.spent import Spent
from tests.support.machine import machine, source, versions

FIGURES = ("wall", "cpu", "memory", "requests", "bytes")
DIGITS = 5
"""Of seconds, behind the point."""


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
    """Something that is so or not, or a count that no round changes."""

    scenario: str
    candidate: str
    value: bool | int


@dataclass
class Raw:
    """The figures of one run of a benchmark."""

    bench: str
    meta: dict[str, Any]
    rounds: list[Round] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)

    def add(self, scenario: str, candidate: str, number: int, **figures: float | None) -> None:
        """A round; *number* counts from 1, *figures* are those of `Round`."""
        given: dict[str, Any] = {name: _short(name, value) for name, value in figures.items() if value is not None}
        self.rounds.append(Round(scenario, candidate, number, **given))

    def add_spent(self, scenario: str, candidate: str, spent: Sequence[Spent]) -> None:
        """A round for each of *spent*."""
        for number, one in enumerate(spent, start=1):
            self.add(scenario, candidate, number, **asdict(one))

    def add_timings(self, scenario: str, timings: Mapping[str, Timing]) -> None:
        """A round for each time that a candidate had its turn."""
        for timing in timings.values():
            for number, seconds in enumerate(timing.seconds, start=1):
                self.add(scenario, timing.name, number, wall=seconds)

    def add_fact(self, scenario: str, candidate: str, value: bool | int) -> None:
        self.facts.append(Fact(scenario, candidate, value))

    def leave_out(self, candidate: str, why: str) -> None:
        """*candidate* cannot be had here. Said on stderr, too."""
        self.meta["missing"][candidate] = why
        print(f"{candidate} is left out: {why}", file=sys.stderr)

    def name_peers(self, **peers: str) -> None:
        """Versions of what is compared with, by name."""
        self.meta["peers"].update(peers)

    def lines(self) -> list[str]:
        """As the file has them."""
        rounds = [{"kind": "round", "bench": self.bench, **{name: value for name, value in asdict(one).items() if value is not None}} for one in self.rounds]
        facts = [{"kind": "fact", "bench": self.bench, **asdict(one)} for one in self.facts]
        return [json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in ({"kind": "meta", **self.meta}, *rounds, *facts)]


def _short(name: str, value: float) -> float:
    return round(value, DIGITS) if name in ("wall", "cpu") else int(value)


def add_option(parser: argparse.ArgumentParser) -> None:
    """`--raw FILE`."""
    parser.add_argument("--raw", type=Path, metavar="FILE", help="write every single figure there, as JSON lines")


@contextmanager
def recording(bench: str, path: Path | None) -> Iterator[Raw]:
    """Collects figures; they are written to *path* (None: nowhere) when the context ends well."""
    path = path.absolute() if path else None  # the benchmark may go to another folder
    begun, started = time.monotonic(), datetime.now(timezone.utc)
    raw = Raw(bench, _meta(bench, started))
    yield raw
    raw.meta["seconds"] = round(time.monotonic() - begun, 1)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in raw.lines()), encoding="utf-8")


def _meta(bench: str, started: datetime) -> dict[str, Any]:
    about = {"machine": machine(Path(tempfile.gettempdir())), "versions": versions(), "peers": {}, "missing": {}}
    return {"bench": bench, "started": f"{started:%Y-%m-%dT%H:%M:%SZ}", "seconds": 0.0, "command": _command(bench, sys.argv[1:]), **source(), **about}


def _command(bench: str, arguments: Sequence[str]) -> str:
    """As typed, without where the figures go: a path of this machine is of no use to others."""
    shown, is_path = [], False
    for argument in arguments:
        if argument != "--raw" and not is_path and not argument.startswith("--raw="):
            shown.append(argument)
        is_path = argument == "--raw"
    return shlex.join(["python", "-m", f"benchmarks.{bench}", *shown])


def read_raw(path: Path) -> Raw:
    """What `recording` wrote. Raises RawError."""
    try:
        meta, *others = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        bench = meta["bench"]
        if meta.pop("kind") != "meta" or not isinstance(meta["seconds"], float):
            raise RawError(f"'{path.name}' does not begin with the line of a run")
        raw = Raw(bench, meta)
        for one in others:
            values = {name: value for name, value in one.items() if name not in ("kind", "bench")}
            raw.rounds += [Round(**values)] if one["kind"] == "round" else []
            raw.facts += [Fact(**values)] if one["kind"] == "fact" else []
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise RawError(f"'{path.name}' holds no raw figures: {e}") from e
    if len(raw.rounds) + len(raw.facts) != len(others):
        raise RawError(f"'{path.name}' has lines that are neither a round nor a fact")
    return raw
