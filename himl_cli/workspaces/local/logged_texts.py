"""Texts that programs logged, read from where `written_values` keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from himl_cli.core.results import LoggedKind
from himl_cli.core.runs import TextPoint, Texts
from himl_cli.core.text import read_json

NO_NUMBERS = ("NaN", "Infinity", "-Infinity")
"""How numbers that JSON has no word for stand in the files."""
COUNTED = (LoggedKind.list.value, LoggedKind.table.value)


def read_texts(artifacts: Path, run_id: str) -> Iterator[Texts]:
    """The texts of the run whose files lie in *artifacts*, by name, in the order logged; of tables `NAME/COLUMN`. Rows
    of lists and tables are counted.

    A line that is no record (somebody else's file, one cut off by a full disk) is passed over.
    """
    for path in sorted((artifacts / "logged").glob("*.jsonl")):
        yield from _texts_of(path, unquote(path.stem), run_id)


def _moment(text: str) -> datetime:
    """One without a time zone is of UTC, as ours are. Raises ValueError, TypeError."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)


def _texts_of(path: Path, name: str, run_id: str) -> Iterator[Texts]:
    points: dict[str, list[TextPoint]] = {}
    counted = 0
    for line in path.read_bytes().splitlines():
        try:
            found: Any = read_json(line)
            kind, values, time = found["kind"], dict(found["values"]), _moment(found["time"])
            step = counted if kind in COUNTED else int(found.get("step") or 0)
        except (ValueError, TypeError, KeyError, OverflowError):
            continue
        counted += 1
        if kind == LoggedKind.image.value:
            continue  # a file of the run
        for column, value in values.items():
            if isinstance(value, str):
                points.setdefault(f"{name}/{column}" if kind == LoggedKind.table.value else name, []).append(
                    TextPoint(value, step, time)
                )
    for called, texts in points.items():
        if not all(text.value in NO_NUMBERS for text in texts):
            yield Texts(called, sorted(texts, key=lambda point: (point.step, point.time)), run_id)
