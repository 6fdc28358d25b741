"""Everything that `written_values` kept in files of a run, as what it was: tables, lists, texts, names of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from himl_cli.core.results import LoggedKind, Value
from himl_cli.core.runs import TextPoint
from himl_cli.core.text import read_json
from himl_cli.workspaces.local.logged_texts import NO_NUMBERS

SUFFIX = ".jsonl"


@dataclass(frozen=True)
class LoggedFiles:
    """By name: of tables the columns, lists that hold more than numbers, texts by step, images; `last` of all of them,
    of tables `NAME/COLUMN`."""

    last: dict[str, Value] = field(default_factory=dict)
    tables: dict[str, dict[str, Sequence[Value]]] = field(default_factory=dict)
    lists: dict[str, Sequence[Value]] = field(default_factory=dict)
    texts: dict[str, Sequence[TextPoint]] = field(default_factory=dict)
    images: dict[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Line:
    kind: str
    values: dict[str, Value]
    step: int
    time: datetime


def read_logged_files(artifacts: Path, wanted: Callable[[str], bool]) -> LoggedFiles:
    """What the files of the run whose artifacts lie in *artifacts* hold under names that are wanted; of a table its own
    name or one of a column will do."""
    found = LoggedFiles()
    for name, path in _files(artifacts / "logged"):
        lines = list(_lines(path))
        tables = [line for line in lines if line.kind == LoggedKind.table.value]
        columns = [*dict.fromkeys(column for line in tables for column in line.values)]
        if wanted(name) or any(wanted(f"{name}/{column}") for column in columns):
            _add(
                found,
                name,
                lines,
                {column: _column([line.values.get(column) for line in tables]) for column in columns},
            )
    return found


def _add(found: LoggedFiles, name: str, lines: Sequence[_Line], columns: dict[str, Sequence[Value]]) -> None:
    if columns:
        found.tables[name] = columns
        found.last.update(
            {f"{name}/{column}": value for column, values in columns.items() if (value := _last(values)) is not None}
        )
    of_kind = {kind: [line for line in lines if line.kind == kind.value] for kind in LoggedKind}
    at_once = _column([line.values.get(name) for line in of_kind[LoggedKind.list]])
    if at_once:
        found.lists[name] = at_once
        found.last[name] = _last(at_once)
    said = [
        TextPoint(value, line.step, line.time)
        for line in of_kind[LoggedKind.scalar]
        if isinstance(value := line.values.get(name), str)
    ]
    if said:
        found.texts[name] = sorted(said, key=lambda point: (point.step, point.time))
        found.last[name] = found.texts[name][-1].value
    images = [value for line in of_kind[LoggedKind.image] if isinstance(value := line.values.get(name), str)]
    if images:
        found.images[name] = images
        found.last[name] = images[-1]


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each file of *folder* and the name of what it holds, sorted; most runs have no such folder."""
    try:
        names = sorted(os.listdir(folder))
    except (OSError, ValueError):
        return
    yield from ((unquote(name.removesuffix(SUFFIX)), folder / name) for name in names if name.endswith(SUFFIX))


def _lines(path: Path) -> Iterator[_Line]:
    """A line that is no record (somebody else's file, one cut off by a full disk) is passed over."""
    for line in path.read_bytes().splitlines():
        try:
            told: Any = read_json(line)
            yield _Line(
                str(told["kind"]),
                dict(told["values"]),
                int(told.get("step") or 0),
                datetime.fromisoformat(told["time"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            continue


def _column(values: Sequence[Value]) -> Sequence[Value]:
    """*values* as they were logged: numbers that JSON has no word for are numbers again, unless there are texts beside
    them."""
    if any(isinstance(value, str) and value not in NO_NUMBERS for value in values):
        return list(values)
    return [float(value) if isinstance(value, str) else value for value in values]


def _last(values: Sequence[Value]) -> Value:
    return next((value for value in reversed(values) if value is not None), None)
