"""What many runs logged, as files for other programs: CSV with a column a run, Parquet with a row a point."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage, DiskFailed
from himl_cli.core.files import atomic_replacement, write_atomic
from himl_cli.core.installing import install_command
from himl_cli.core.results import STATISTICS, Aggregation, Child, Value
from himl_cli.services.aggregation.statistics import Statistics

POINTS_AT_ONCE = 500_000
Points = tuple[str, str, Sequence[int], Sequence[float] | None, Sequence[float | None], Sequence[str | None] | None]
"""Metric, kind, and for each point its step, time, value and text."""


def check_file(option: str, path: Path) -> None:
    """Raises BadUsage where *path*, the value of *option*, cannot become a file: it is looked at before anything is
    read."""
    if path.is_dir():
        raise BadUsage(f"{option} '{path}' is a folder.", hint="Name a file.")
    if not path.absolute().parent.is_dir():
        raise BadUsage(
            f"{option} '{path}': there is no folder '{path.absolute().parent}'.", hint="Make it first, or name another."
        )


def check_parquet() -> None:
    """Raises BadUsage where pyarrow is not installed. Imports nothing of it."""
    if find_spec("pyarrow") is None:
        raise BadUsage(
            "--output_parquet needs pyarrow, which is not installed.", hint=f"Install it: {install_command('parquet')}"
        )


def write_csv(aggregation: Aggregation, statistics: Mapping[str, Statistics] | None, path: Path) -> None:
    """A row a metric: the statistics, then the last value of each run, nothing where it has none. In place of what is
    at *path*, whole or not at all.

    Numbers are written in full; what is no number stands as `NaN`, `Infinity` and `-Infinity`. Raises DiskFailed.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["metric", *(STATISTICS if statistics is not None else ()), *(child.label for child in aggregation.children)]
    )
    for name in aggregation.metrics:
        told = [getattr(statistics[name], each) for each in STATISTICS] if statistics is not None else []
        writer.writerow(
            [name, *map(cell, told), *(cell(child.results.last.get(name)) for child in aggregation.children)]
        )
    try:
        write_atomic(path.absolute(), text.getvalue())
    except OSError as err:
        raise DiskFailed(f"Cannot write '{path}': {err.strerror or err}.") from err


def cell(value: Value) -> str:
    """A value as programs read it: numbers in full."""
    if value is None:
        return ""
    if isinstance(value, float):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))
    return str(value)


def write_parquet(aggregation: Aggregation, path: Path) -> None:
    """A row a point of every series, table, list, text and image: `run, label, metric, kind, step, time, value, text`.

    In place of what is at *path*, whole or not at all. Raises BadUsage where pyarrow is not installed, DiskFailed.
    """
    check_parquet()
    try:
        with atomic_replacement(path.absolute()) as temporary:
            _write_rows(aggregation, temporary)
    except OSError as err:
        raise DiskFailed(f"Cannot write '{path}': {err.strerror or err}.") from err


def _write_rows(aggregation: Aggregation, path: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    word = pa.dictionary(pa.int32(), pa.string())
    times, numbers = pa.timestamp("ms", tz="UTC"), pa.float64()
    fields = [
        ("run", word),
        ("label", word),
        ("metric", word),
        ("kind", word),
        ("step", pa.int64()),
        ("time", times),
        ("value", numbers),
        ("text", pa.string()),
    ]
    schema = pa.schema(fields)
    with pq.ParquetWriter(path, schema) as writer:
        rows = _Rows(schema)
        for child in aggregation.children:
            for points in _points_of(child):
                rows.add(child, points)
            if rows.count >= POINTS_AT_ONCE:
                writer.write_table(rows.table())
                rows = _Rows(schema)
        writer.write_table(rows.table())


def _points_of(child: Child) -> Iterator[Points]:
    results = child.results
    for name, series in results.series.items():
        yield name, "scalar", series.steps, series.times, series.values, None
    for name, texts in results.texts.items():
        yield (
            name,
            "text",
            [one.step for one in texts],
            [one.time.timestamp() for one in texts],
            [None] * len(texts),
            [one.value for one in texts],
        )
    for name, columns in results.tables.items():
        for column, values in columns.items():
            yield f"{name}/{column}", "table", range(len(values)), None, *_split(values)
    for kind, of_kind in (("list", results.lists), ("image", results.images)):
        for name, items in of_kind.items():
            yield name, kind, range(len(items)), None, *_split(items)


def _split(values: Sequence[Value]) -> tuple[Sequence[float | None], Sequence[str | None]]:
    """Numbers, and texts, each with None where there is the other."""
    numbers = [float(value) if isinstance(value, (int, float)) else None for value in values]
    return numbers, [value if isinstance(value, str) else None for value in values]


class _Rows:
    """Columns of the table as they grow; words are kept once, and their numbers."""

    def __init__(self, schema: Any) -> None:
        self.count = 0
        self._schema = schema
        self._words: dict[str, dict[str, int]] = {name: {} for name in ("run", "label", "metric", "kind")}
        self._numbers = {name: array("i") for name in self._words}
        self._steps = array("q")
        self._columns: dict[str, list[Any]] = {"time": [], "value": [], "text": []}

    def add(self, child: Child, points: Points) -> None:
        import pyarrow as pa

        metric, kind, steps, times, values, texts = points
        count = len(steps)
        for name, word in (("run", child.run.id), ("label", child.label), ("metric", metric), ("kind", kind)):
            number = self._words[name].setdefault(word, len(self._words[name]))
            self._numbers[name].extend(array("i", [number]) * count)
        self._steps.extend(steps)
        types = {name: self._schema.field(name).type for name in self._columns}
        moments = None if times is None else array("q", [round(time * 1000) for time in times])
        self._columns["time"].append(
            pa.nulls(count, types["time"]) if moments is None else _numbers(moments, types["time"])
        )
        self._columns["value"].append(
            _numbers(values, types["value"]) if isinstance(values, array) else pa.array(values, types["value"])
        )
        self._columns["text"].append(
            pa.nulls(count, types["text"]) if texts is None else pa.array(texts, types["text"])
        )
        self.count += count

    def table(self) -> Any:
        import pyarrow as pa

        words = [
            pa.DictionaryArray.from_arrays(
                _numbers(self._numbers[name], pa.int32()), pa.array(list(known), pa.string())
            )
            for name, known in self._words.items()
        ]
        others = [pa.chunked_array(chunks, self._schema.field(name).type) for name, chunks in self._columns.items()]
        return pa.Table.from_arrays([*words, _numbers(self._steps, pa.int64()), *others], schema=self._schema)


def _numbers(values: array[Any], kind: Any) -> Any:
    """An array of pyarrow over the same memory."""
    import pyarrow as pa

    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
