"""What a case is, what came of it, and the files that keep that: JSON lines, the first of them about the run itself.

    {"kind":"meta","part":"faults","full":true,"seed":8,...,"seconds":2100.0}
    {"kind":"case","id":"faults/download/reset/07","outcome":"survived","code":0,"seconds":1.4,"hits":2,"again":0,"why":"","facts":{}}

A file whose meta line has no `seconds` is one of a run that did not come to its end.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.core.files import write_atomic

if TYPE_CHECKING:
    from stress.world import World


class Outcome(str, Enum):
    """How a case ended: with all as it should be, with a documented exit code, badly, or without what was to go wrong."""

    survived = "survived"
    reported = "reported"
    lost = "lost"
    not_met = "not met"


@dataclass(frozen=True)
class Result:
    """What came of a case.

    `code` is the command's exit code (None: it did not end), `again` that of the same command once nothing is in its way (None: not
    called). `seconds` are those of the first call. `hits` counts what went wrong on the way. `why` is said of lost ones; `facts` are
    further values, small.
    """

    outcome: Outcome
    code: int | None
    seconds: float
    hits: int = 0
    again: int | None = None
    why: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One thing to try. `id` is `part/…/number`; all that is drawn comes from the numbers that `run` is given."""

    id: str
    run: Callable[[World, random.Random], Result]

    @property
    def cell(self) -> str:
        """The id without its number: what a sample has to have at least one of."""
        return self.id.rpartition("/")[0]


@dataclass(frozen=True)
class Record:
    """A case that has been run."""

    id: str
    result: Result

    def as_line(self) -> str:
        values = asdict(self.result) | {"outcome": self.result.outcome.value, "seconds": round(self.result.seconds, 2)}
        return _line({"kind": "case", "id": self.id, **values})


class RecordFile:
    """One part's file in *folder*, which is made where it is not there; it grows with each case, and `finish` puts it in order."""

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{meta['part']}.jsonl"
        self._meta = {"kind": "meta", **meta}
        self._records: list[Record] = []
        self.path.write_text(_line(self._meta), encoding="utf-8")

    @classmethod
    def to_go_on(cls, path: Path, commit: Mapping[str, Any]) -> RecordFile:
        """The file of a run that was ended before it was through; its `records` are kept, and the meta line tells of which *commit* the others are.

        Raises ValueError for a file that is none, or that is whole.
        """
        documents = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not documents or documents[0].get("kind") != "meta" or "seconds" in documents[0]:
            raise ValueError(f"'{path.name}' is no file of a run that was ended before it was through")
        records = [_record(document) for document in documents[1:]]
        meta = {**documents[0], "went_on": [*documents[0].get("went_on", []), {**commit, "after": len(records)}]}
        file = cls(path.parent, meta)
        for record in records:
            file.add(record)
        return file

    @property
    def records(self) -> Sequence[Record]:
        return self._records

    @property
    def seed(self) -> int:
        return int(self._meta["seed"])

    def add(self, record: Record) -> None:
        self._records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(record.as_line())

    def finish(self, seconds: float, *, full: bool) -> None:
        """Write it anew: how long it took and whether it is all of the part, then the cases by their ids."""
        write_records(self.path, {**self._meta, "seconds": round(seconds, 1), "full": full}, self._records)


def write_records(path: Path, meta: Mapping[str, Any], records: Iterable[Record]) -> None:
    """Write a part's file anew, whole or not at all: *meta*, then the cases by their ids."""
    write_atomic(path, "".join([_line(meta), *(record.as_line() for record in sorted(records, key=lambda one: one.id))]))


def read_records(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """The meta line of a part's file, and its cases. Raises ValueError for a file that is none, or not whole."""
    documents = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not documents or documents[0].get("kind") != "meta" or "seconds" not in documents[0]:
        raise ValueError(f"'{path.name}' has no meta line of a run that came to its end")
    return documents[0], [_record(document) for document in documents[1:]]


def parse_record(line: str) -> Record:
    """As `Record.as_line` gave it. Raises ValueError."""
    return _record(json.loads(line))


def lost(records: Iterable[Record]) -> Sequence[Record]:
    return [record for record in records if record.result.outcome is Outcome.lost]


def _record(document: dict[str, Any]) -> Record:
    values = {name: value for name, value in document.items() if name not in ("kind", "id", "outcome")}
    try:
        return Record(document["id"], Result(outcome=Outcome(document["outcome"]), **values))
    except (KeyError, TypeError) as e:
        raise ValueError(f"not the line of a case: {document}") from e


def _line(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
