"""Cases, their results, and the files of results: JSON lines, gzipped in one file. The first line of each part
describes its run.

A part in progress has a file `PART.jsonl` next to it.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from himl_cli.core.files import atomic_replacement

if TYPE_CHECKING:
    from stress.world import World

PACKED = "results.jsonl.gz"


class Outcome(str, Enum):
    """The outcome of a case: correct, a documented exit code, lost, or not met, since the fault did not occur."""

    survived = "survived"
    reported = "reported"
    lost = "lost"
    not_met = "not met"


SHOWN = (Outcome.survived, Outcome.reported, Outcome.lost)


@dataclass(frozen=True)
class Result:
    """The result of a case.

    `code` is the command's exit code (None: it did not end), `again` that of the same command without the fault (None:
    not called). `seconds` is the time of the first call. `hits` counts the faults that occurred. `why` is the reason of
    a loss. `facts` are other small values."""

    outcome: Outcome
    code: int | None
    seconds: float
    hits: int = 0
    again: int | None = None
    why: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One case. `id` is `part/…/number`. All random choices use the generator that `run` gets."""

    id: str
    run: Callable[[World, random.Random], Result]

    @property
    def cell(self) -> str:
        """The id without its number. A sample has at least one case per cell."""
        return self.id.rpartition("/")[0]


@dataclass(frozen=True)
class Record:
    id: str
    result: Result

    def as_line(self) -> str:
        values = asdict(self.result) | {"outcome": self.result.outcome.value, "seconds": round(self.result.seconds, 2)}
        return _line({"kind": "case", "id": self.id, **values})

    @property
    def is_lost(self) -> bool:
        return self.result.outcome is Outcome.lost


class PartResults(NamedTuple):
    meta: dict[str, Any]
    records: list[Record]


class RecordFile:
    """The file of a part in progress in *folder*, which has each record as soon as its case has ended."""

    def __init__(self, folder: Path, meta: Mapping[str, Any], records: Iterable[Record] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{meta['part']}.jsonl"
        self.meta, self.records = {"kind": "meta", **meta}, list(records)
        self.path.write_text(
            "".join([_line(self.meta), *(record.as_line() for record in self.records)]), encoding="utf-8"
        )

    @classmethod
    def to_go_on(cls, folder: Path, part: str, commit: Mapping[str, Any], planned: Iterable[str] = ()) -> RecordFile:
        """The file of a run that was interrupted, or that lacks cases of *planned*. Of a complete one, without the
        cases that it lost.

        Its meta line names the *commit* of the other cases: `"went_on": [{"after": …, "commit": …, "dirty": …}]` or
        `"mended": {ID: {"why": …, "commit": …, "dirty": …}}`, where the first reason stays.
        """
        path = folder / f"{part}.jsonl"
        if path.exists():
            ((meta, records),) = _parts(path.read_text(encoding="utf-8"))
            return cls(folder, went_on(meta, len(records), commit), records)
        meta, records = read_parts(folder)[part]
        known: dict[str, Any] = meta.get("mended", {})
        again = {one.id: {"why": known.get(one.id, {}).get("why", one.result.why), **commit} for one in lost(records)}
        if set(planned) - {one.id for one in records}:
            meta = went_on(meta, len(records), commit)
        return cls(folder, {**meta, "mended": {**known, **again}}, [one for one in records if not one.is_lost])

    def add(self, record: Record) -> None:
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(record.as_line())

    def finish(self, seconds: float, *, full: bool) -> Path:
        packed = write_part(self.path.parent, {"seconds": round(seconds, 1), **self.meta, "full": full}, self.records)
        self.path.unlink()
        return packed


def went_on(meta: Mapping[str, Any], after: int, commit: Mapping[str, Any]) -> dict[str, Any]:
    """*meta* of a run that continues on *commit* after so many cases. Its seconds will be those of the last part."""
    rest = {name: value for name, value in meta.items() if name != "seconds"}
    return {**rest, "went_on": [*meta.get("went_on", []), {**commit, "after": after}]}


def write_part(folder: Path, meta: dict[str, Any], records: Iterable[Record]) -> Path:
    parts = {
        **(read_parts(folder) if (folder / PACKED).exists() else {}),
        meta["part"]: ({"kind": "meta", **meta}, sorted(records, key=lambda one: one.id)),
    }
    lines = [
        line
        for _, (about, cases) in sorted(parts.items())
        for line in (_line(about), *(case.as_line() for case in cases))
    ]
    with atomic_replacement(folder / PACKED) as temporary:
        Path(temporary).write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    return folder / PACKED


def read_parts(folder: Path) -> dict[str, PartResults]:
    """The meta lines and cases of finished parts in *folder* by name. Raises ValueError if there are none."""
    if not (folder / PACKED).exists():
        raise ValueError(f"There are no raw results in '{folder.name}': 'scripts/stress --full' makes them.")
    return {part.meta["part"]: part for part in _parts(gzip.decompress((folder / PACKED).read_bytes()).decode())}


def parse_record(document: dict[str, Any]) -> Record:
    values = {name: value for name, value in document.items() if name not in ("kind", "id", "outcome")}
    return Record(document["id"], Result(outcome=Outcome(document["outcome"]), **values))


def lost(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.is_lost]


def _parts(text: str) -> list[PartResults]:
    parts: list[PartResults] = []
    for document in map(json.loads, text.splitlines()):
        if document.get("kind") == "meta":
            parts.append(PartResults(document, []))
        else:
            parts[-1].records.append(parse_record(document))
    return parts


def _line(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
