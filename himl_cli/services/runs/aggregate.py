"""Compare the metrics of many runs: select the runs, label them, compute statistics, and write CSV or Parquet files."""

from __future__ import annotations

import csv
import io
import math
import re
import shlex
import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage, DiskFailed
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.files import atomic_replacement, write_atomic
from himl_cli.core.installation import install_command
from himl_cli.core.jobs import STEP
from himl_cli.core.logged import (
    STATISTICS,
    SYSTEM,
    Aggregation,
    Child,
    RunResults,
    Series,
    Value,
    sweep_of,
    system_summary,
)
from himl_cli.core.records import dataclass
from himl_cli.core.runs import REPEATED_BY, Run, RunSelection, arguments_of, attempt_of, beside, own_name, own_tags
from himl_cli.core.sweeps import (
    MANY,
    PRIMARY_METRIC,
    TRIAL,
    Scalar,
    hyperparameters_of,
    value_text,
    values_text,
)
from himl_cli.core.text import inert
from himl_cli.services.runs.lookup import children_of, find_runs, means_one_run, results_of
from himl_cli.workspaces.base import Workspace

PREPARATION = "_preparation"
"""Suffix of the id of a child in which older Azure ML sweeps built their environment. It logs nothing."""


def choose_runs(
    workspace: Workspace, selection: RunSelection, *, cwd: Path, notify: Notify = ignore
) -> tuple[Sequence[Run], Run | None]:
    """Select the runs to compare, in order, and their common parent, if they have one.

    A single run is replaced by its children (trials, folds, steps, or nested runs), if it has any. Of several runs,
    sweeps and pipelines are replaced. No run occurs twice. The result is never empty. Raises what `find_runs` raises.

    Nested runs of earlier attempts do not count if a later attempt used their names again. *notify* receives how many
    do, and how many do not.
    """
    found = find_runs(workspace, selection, cwd=cwd, notify=notify)
    if means_one_run(selection):
        return children_chosen(workspace, found[0], notify=notify)
    if selection.children:
        return in_order(_that_count(found, notify)), None
    below = workspace.ask_all(lambda run: _children(workspace, run) if MANY in run.tags else [], found)
    standing = {run.id for run in _unarchived([*chain.from_iterable(below)], notify)}
    counted = (
        in_order([child for child in children if child.id in standing]) or [run]
        for run, children in zip(found, below, strict=True)
    )
    return [*{run.id: run for run in chain.from_iterable(counted)}.values()], None


def children_chosen(workspace: Workspace, parent: Run, *, notify: Notify = ignore) -> tuple[Sequence[Run], Run | None]:
    """Children of *parent*, and *parent*. Without children, *parent* alone, and None. If its script started them beside
    *parent*, that is the first of them."""
    children = _that_count(beside(parent, _unarchived(_children(workspace, parent), notify)), notify)
    return (in_order(children), parent) if children else ([parent], None)


def _children(workspace: Workspace, parent: Run) -> list[Run]:
    every = children_of(workspace, parent, archived=None)
    return [child for child in every if child.id != f"{parent.id}{PREPARATION}"]


def _unarchived(runs: Sequence[Run], notify: Notify) -> list[Run]:
    """*runs* without those that are archived. *notify* receives how many are."""
    for experiment, count in Counter(run.experiment for run in runs if run.is_archived).items():
        which = f"{count} archived run{'s' * (count != 1)}"
        listed = f"himl runs list --archived --experiment {shlex.quote(experiment)}"
        notify(Notice(f"Omitted {which}. To list archived runs: {listed}"))
    return [run for run in runs if not run.is_archived]


def _that_count(runs: Sequence[Run], notify: Notify) -> list[Run]:
    """*runs* without those that a later attempt repeated. *notify* receives those, and others of earlier attempts."""
    nested = [run for run in runs if run.parent and not {TRIAL, STEP} & run.tags.keys()]
    last = {run.parent: attempt_of(run) for run in sorted(nested, key=attempt_of)}
    repeated = [run for run in nested if REPEATED_BY in run.tags]
    earlier = [run for run in nested if REPEATED_BY not in run.tags and attempt_of(run) < last[run.parent]]
    for found, fate in (
        (repeated, "Omitted {} of earlier attempts, because later ones used their names again."),
        (earlier, "Included {} of earlier attempts, because later ones did not use their names."),
    ):
        if found:
            which = f"{len(found)} nested run{'s' * (len(found) != 1)}"
            notify(Notice(f"{fate.format(which)} To see the attempts: himl runs show {found[0].parent}"))
    return [run for run in runs if REPEATED_BY not in run.tags]


def in_order(children: Sequence[Run]) -> list[Run]:
    """Sort trials by number within each parent. Runs without a number keep their positions."""
    numbers = [number_of(run) for run in children]
    if any(number is None for number in numbers):
        return list(children)
    parents = {parent: place for place, parent in enumerate(dict.fromkeys(run.parent for run in children))}
    return sorted(children, key=lambda run: (parents[run.parent], number_of(run) or 0))


def number_of(run: Run) -> int | None:
    """Number of a trial, from the end of its id: `PARENT_3`."""
    found = re.fullmatch(r"_(\d+)", run.id.removeprefix(run.parent)) if run.parent else None
    return int(found[1]) if found else None


MOST_NAMES = 4
"""Largest number of differing tags or arguments for a label."""
Values = Mapping[str, Scalar]


def labels_of(runs: Sequence[Run], results: Sequence[RunResults], child_arg: str | None) -> list[str]:
    """A unique label per run: the value of *child_arg*, or the values in which the runs differ.

    Raises BadUsage if no run has *child_arg*.
    """
    if child_arg is not None:
        values = [value_of(child_arg, run, found) for run, found in zip(runs, results, strict=True)]
        if all(value is None for value in values):
            of_all = (values for run in runs for values in (hyperparameters_of(run.tags), own_tags(run)))
            known = [*dict.fromkeys(name for each in of_all for name in each)]
            raise BadUsage(
                f"None of the runs has a hyperparameter, tag, parameter or argument '{child_arg}'.",
                hint=f"Available: {', '.join(known[:8])}."
                if known
                else "Omit --child_arg to label the runs by their differences.",
            )
        return unique(
            [_name(run) if value is None else value_text(value) for run, value in zip(runs, values, strict=True)]
        )
    if all(STEP in run.tags for run in runs):
        return unique([_name(run) if own_name(run) else run.tags[STEP] for run in runs])
    labels = _distinguishing([hyperparameters_of(run.tags) for run in runs])
    # Scripts name nested runs. Azure ML makes up names for runs without one
    is_nested = all(TRIAL not in run.tags and run.parent and not run.url for run in runs[1:])
    if not labels and is_nested and len({own_name(run) for run in runs}) > 1:
        labels = [_name(run) for run in runs]
    for values_of_all in (
        [own_tags(run) for run in runs],
        [arguments_of(run) for run in runs],
        [found.parameters for found in results],
    ):
        labels = labels or _distinguishing(values_of_all, most=MOST_NAMES)
    if labels:
        return unique([label or _name(run) for label, run in zip(labels, runs, strict=True)])
    names = [own_name(run) for run in runs]
    if all(names) and len(set(names)) == len(runs):
        return names
    numbers = [number_of(run) for run in runs]
    if None not in numbers and len(set(numbers)) == len(runs):
        return [str(number) for number in numbers]
    return unique([run.id for run in runs])


def value_of(name: str, run: Run, results: RunResults) -> Scalar | None:
    """Value of *name* in the run: a hyperparameter, else a tag, a parameter, or an argument of its command. Leading
    dashes are ignored."""
    wanted = _plain(name)
    for values in (hyperparameters_of(run.tags), run.tags, results.parameters, arguments_of(run)):
        for key, value in values.items():
            if _plain(key) == wanted:
                return value
    return None


def unique(labels: Sequence[str]) -> list[str]:
    """Add the position to labels that occur more than once."""
    counts = Counter(labels)
    return [label if counts[label] == 1 else f"{label} [{place}]" for place, label in enumerate(labels)]


def _distinguishing(all_values: Sequence[Values], *, most: int | None = None) -> list[str]:
    """Labels from the values that differ between the runs, or from the value alone if one name differs. Empty if
    nothing differs, or more than *most* names do."""
    if len(all_values) < 2:
        return [values_text(values) for values in all_values if values and most is None]
    names = [*dict.fromkeys(name for values in all_values for name in values)]
    differing = [name for name in names if len({repr(values.get(name)) for values in all_values}) > 1]
    if not differing or (most is not None and len(differing) > most):
        return []
    if len(differing) == 1:
        return [value_text(value) if (value := values.get(differing[0])) is not None else "" for values in all_values]
    return [values_text({name: values[name] for name in differing if name in values}) for values in all_values]


def _name(run: Run) -> str:
    return own_name(run) or run.id


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def aggregate(
    workspace: Workspace,
    runs: Sequence[Run],
    *,
    child_arg: str | None = None,
    globs: Sequence[str] = (),
    whole: bool = False,
    parent: Run | None = None,
) -> Aggregation:
    """Collect the metrics of *runs* that match one of *globs* (see `matching`), and all their points if *whole*. Trials
    are those of *parent*.

    For system metrics, `last` is the `system_summary`, because the last sample says little about a run. Folds are
    sorted by number, and other runs keep their order. Raises BadUsage if no run has *child_arg*, HimlError for a
    workspace that cannot read many runs.
    """
    wanted = matching(globs)
    plain = results_of(workspace, runs, wanted=lambda name: wanted(name) and not name.startswith(SYSTEM), whole=whole)
    results = {**plain}
    if any(glob.startswith(SYSTEM) for glob in globs):
        for run_id, series in _system_metrics(workspace, runs, wanted).items():
            last = {name: system_summary(name, one.steps, one.values) for name, one in series.items()}
            results[run_id] = results[run_id].filled(RunResults(last, series if whole else {}))
    if child_arg is not None:
        ordered = _by_fold(runs, [value_of(child_arg, run, results[run.id]) for run in runs])
    else:
        values = [hyperparameters_of(run.tags) for run in runs]
        # A single hyperparameter may number the runs, such as the fold or the seed.
        names = {name for each in values for name in each}
        ordered = _by_fold(runs, [each.get(min(names)) for each in values]) if len(names) == 1 else list(runs)
    labels = labels_of(ordered, [results[run.id] for run in ordered], child_arg)
    children = [
        Child(run, label, hyperparameters_of(run.tags), results[run.id])
        for run, label in zip(ordered, labels, strict=True)
    ]
    primary, sweep = parent.tags.get(PRIMARY_METRIC) if parent is not None else None, None
    if parent is not None and primary:
        others = {} if wanted(primary) else results_of(workspace, runs, wanted=primary.__eq__, whole=False)
        sweep = sweep_of(parent, runs, lambda *_, **__: others or results)
    return Aggregation(sorted({name for child in children for name in child.results.last}), children, sweep)


def _system_metrics(
    workspace: Workspace, runs: Sequence[Run], wanted: Callable[[str], bool]
) -> dict[str, Mapping[str, Series]]:
    """Points of system metrics by run and name: those that the run logged, else the workspace's own."""
    logged = workspace.results(runs, wanted=lambda name: wanted(name) and name.startswith(SYSTEM), whole=True)
    found = {run.id: logged[run.id].series for run in runs}
    for run_id, metrics in workspace.system_metrics([run for run in runs if not found[run.id]]).items():
        rows = {one.name: [(p.step, p.value, p.time.timestamp()) for p in one.points] for one in metrics}
        found[run_id] = {name: Series.of(points) for name, points in rows.items() if wanted(name)}
    return found


def matching(globs: Sequence[str]) -> Callable[[str], bool]:
    """Function that checks whether a name matches one of *globs*, with case. Without globs, it accepts every name.
    Names with prefix `system/` match only globs with that prefix."""
    return lambda name: any(
        (name == glob or fnmatchcase(name, glob)) and name.startswith(SYSTEM) <= glob.startswith(SYSTEM)
        for glob in globs or ("*",)
    )


def _by_fold(runs: Sequence[Run], values: Sequence[object]) -> list[Run]:
    """Sort runs by *values* if these are 0, 1, 2… or 1, 2, 3…. Otherwise, keep the order."""
    numbers = [
        int(value)
        for value in values
        if isinstance(value, (int, str)) and not isinstance(value, bool) and str(value).isdecimal()
    ]
    if sorted(numbers) not in (list(range(len(runs))), list(range(1, len(runs) + 1))):
        return list(runs)
    return [run for _, run in sorted(zip(numbers, runs, strict=True), key=lambda pair: pair[0])]


@dataclass(frozen=True)
class Statistics:
    """Statistics of the last values of *count* runs. `std` is the sample's (n - 1), None for one value. Without values,
    all but `count` are None."""

    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    median: float | None
    count: int


def statistics_of(aggregation: Aggregation) -> dict[str, Statistics]:
    """Statistics by metric. Runs without a value, with a text or with NaN do not count. Infinities do."""
    found: dict[str, Statistics] = {}
    for name in aggregation.metrics:
        values = numbers(child.results.last.get(name) for child in aggregation.children)
        if not values:
            found[name] = Statistics(None, None, None, None, None, 0)
            continue
        mean = statistics.mean(values)
        std = _std(values, mean) if len(values) > 1 else None
        low, high = statistics.median_low(values), statistics.median_high(values)
        median = (low + high) / 2
        if math.isinf(median) and math.isfinite(low) and math.isfinite(high):
            median = low / 2 + high / 2
        found[name] = Statistics(mean, std, min(values), max(values), median, len(values))
    return found


def numbers(values: Iterable[Value]) -> list[float]:
    """The numbers among *values*, without NaN."""
    return [
        float(value)
        for value in values
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    ]


def _std(values: Sequence[float], mean: float) -> float:
    """Standard deviation, scaled to avoid overflow and underflow of squares. NaN if a value is infinite."""
    if not math.isfinite(mean):
        return math.nan
    scale = max(abs(value - mean) for value in values)
    if scale == 0 or not math.isfinite(scale):
        return scale
    return scale * math.sqrt(math.fsum(((value - mean) / scale) ** 2 for value in values) / (len(values) - 1))


POINTS_AT_ONCE = 500_000


def check_file(option: str, path: Path) -> None:
    """Raise BadUsage if *path*, the value of *option*, cannot be a file. Called before anything is read."""
    if path.is_dir():
        raise BadUsage(f"{option} '{path}' is a folder.", hint="Give the path of a file.")
    if not path.absolute().parent.is_dir():
        raise BadUsage(
            f"{option}: there is no folder '{path.absolute().parent}'.", hint="Create it, or give another path."
        )


def check_parquet() -> None:
    """Raise BadUsage if pyarrow is not installed. Does not import it."""
    if find_spec("pyarrow") is None:
        raise BadUsage(
            "--output_parquet needs pyarrow, which is not installed.", hint=f"Install it: {install_command('parquet')}"
        )


def write_csv(aggregation: Aggregation, statistics: Mapping[str, Statistics] | None, path: Path) -> None:
    """Write one row per metric to *path* as CSV: the statistics, then the last value of each run, or an empty cell.

    Numbers have full precision. The others are `NaN`, `Infinity` and `-Infinity`. A text that a spreadsheet would
    calculate begins with a quote. The file is replaced atomically. Raises DiskFailed.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    labels = (inert(child.label) for child in aggregation.children)
    writer.writerow(["metric", *(STATISTICS if statistics is not None else ()), *labels])
    for name in aggregation.metrics:
        told = [getattr(statistics[name], each) for each in STATISTICS] if statistics is not None else []
        last = (cell(child.results.last.get(name)) for child in aggregation.children)
        writer.writerow([inert(name), *map(cell, told), *map(inert, last)])
    try:
        write_atomic(path.absolute(), text.getvalue())
    except OSError as err:
        raise DiskFailed(f"Cannot write '{path}': {err.strerror or err}.") from err


def cell(value: Value) -> str:
    """Machine-readable text of a value, with full precision."""
    if value is None:
        return ""
    if isinstance(value, float):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))
    return str(value)


def write_parquet(aggregation: Aggregation, path: Path) -> None:
    """Write one row per point of each metric: `run, label, metric, kind, step, time, value, text`.

    Metrics are series, tables, lists, texts and images. The file at *path* is replaced atomically. Raises BadUsage if
    pyarrow is not installed, DiskFailed.
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
    types = {
        "run": word,
        "label": word,
        "metric": word,
        "kind": word,
        "step": pa.int64(),
        "time": pa.timestamp("ms", tz="UTC"),
        "value": pa.float64(),
        "text": pa.string(),
    }
    schema = pa.schema(types)
    with pq.ParquetWriter(path, schema) as writer:

        def write(rows: list[tuple[Any, ...]]) -> None:
            counts = [len(row[4]) for row in rows]
            columns = []
            for kind, column in zip(types.values(), zip(*rows, strict=True), strict=True):
                form = _words if kind is word else _numbers_or_texts
                columns.append(form(column, counts, kind))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))

        rows: list[tuple[Any, ...]] = []
        count = 0
        for child in aggregation.children:
            for points in _points_of(child):
                rows.append((child.run.id, child.label, *points))
                count += len(points[2])
            if count >= POINTS_AT_ONCE:
                write(rows)
                rows, count = [], 0
        if rows:
            write(rows)


def _words(texts: Sequence[str], counts: Sequence[int], kind: Any) -> Any:
    """A pyarrow dictionary array that repeats each of *texts* as often as *counts* says."""
    import pyarrow as pa

    known: dict[str, int] = {}
    numbers = array("i")
    for text, count in zip(texts, counts, strict=True):
        numbers.extend(array("i", [known.setdefault(text, len(known))]) * count)
    return pa.DictionaryArray.from_arrays(_over(numbers, kind.index_type), pa.array(list(known), kind.value_type))


def _numbers_or_texts(parts: Sequence[Any], counts: Sequence[int], kind: Any) -> Any:
    """A pyarrow array of *parts*. Each None becomes as many nulls as *counts* says."""
    import pyarrow as pa

    arrays = []
    for part, count in zip(parts, counts, strict=True):
        if part is None:
            arrays.append(pa.nulls(count, kind))
        else:
            arrays.append(_over(part, kind) if isinstance(part, array) else pa.array(part, kind))
    return pa.chunked_array(arrays, kind)


def _over(numbers: array[Any], kind: Any) -> Any:
    """A pyarrow array that shares the memory of *numbers*."""
    import pyarrow as pa

    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])


def _points_of(child: Child) -> Iterator[tuple[Any, ...]]:
    """Yield metric, kind, steps, times (milliseconds since 1970, or None), values, and texts (or None)."""
    results = child.results
    for name, series in results.series.items():
        yield name, "scalar", series.steps, _milliseconds(series.times), series.values, None
    for name, texts in results.texts.items():
        yield (
            name,
            "text",
            [one.step for one in texts],
            _milliseconds(one.time.timestamp() for one in texts),
            [None] * len(texts),
            [one.value for one in texts],
        )
    for name, columns in results.tables.items():
        for column, values in columns.items():
            yield f"{name}/{column}", "table", range(len(values)), None, *_split(values)
    for kind, of_kind in (("list", results.lists), ("image", results.images)):
        for name, items in of_kind.items():
            yield name, kind, range(len(items)), None, *_split(items)


def _milliseconds(seconds: Iterable[float]) -> array[int]:
    return array("q", [round(time * 1000) for time in seconds])


def _split(values: Sequence[Value]) -> tuple[Sequence[float | None], Sequence[str | None]]:
    """Numbers and texts, each with None in place of the other."""
    numbers = [float(value) if isinstance(value, (int, float)) else None for value in values]
    return numbers, [value if isinstance(value, str) else None for value in values]
