"""The trials of a sweep as a table, the best one first."""

from __future__ import annotations

import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from himl_cli.core.runs import SweepView, TrialView
from himl_cli.core.sweeps import TRIAL, value_text
from himl_cli.render.aligned import aligned
from himl_cli.render.durations import duration_text
from himl_cli.render.json_form import float_form
from himl_cli.render.style import STATUS_STYLES, styled
from himl_cli.render.tables import Column, as_table

MOST_ROWS = 40
FIRST, LAST = 25, 10
"""How many are shown to a person of more trials than that; a pipe gets all."""
BEST_SHOWN = 5
BEST = "*"


def trials_view(sweep: SweepView) -> Iterator[str]:
    """A heading, a row a trial, and what they are compared by."""
    ranked = sweep.ranked
    yield ""
    yield styled(f"Trials: {counts_text(sweep.trials)}", "bold")
    yield from _for_people(sweep, ranked) if sys.stdout.isatty() else _in_full(sweep, ranked)
    yield from _below(sweep)


def counts_text(trials: Sequence[TrialView]) -> str:
    """`10 Completed, 2 Failed`."""
    counts = Counter(trial.run.status.value for trial in trials)
    return ", ".join(f"{count} {status}" for status, count in counts.most_common())


def best_lines(sweep: SweepView, most: int = BEST_SHOWN) -> Iterator[str]:
    """The *most* best trials as a table, of folds and seeds all; nothing where none has a value."""
    with_value = [trial for trial in sweep.ranked if trial.value is not None]
    shown = with_value if sweep.is_repeated else with_value[:most]
    if not shown:
        return
    yield ""
    is_part = len(shown) < len(sweep.trials)
    if sweep.is_repeated:
        heading = f"{len(shown)} of {len(sweep.trials)} runs" if is_part else f"All {len(shown)} runs"
    else:
        heading = f"The best of {len(sweep.trials)} trials" if is_part else "Trials, the best one first"
    yield styled(heading, "bold")
    yield from _for_people(sweep, shown) if sys.stdout.isatty() else _in_full(sweep, shown)
    yield from _below(sweep)


def _below(sweep: SweepView) -> Iterator[str]:
    """Mean and spread of folds and seeds; of a search why the best trial is not the one with the best value of the
    table."""
    if sweep.best and sweep.best != sweep.best_at_the_end:
        yield styled(
            f"The best value at any step is that of {_name(sweep.best, sweep.trials)}; the table has last values.",
            "dim",
        )
    values = [trial.value for trial in sweep.trials if trial.value is not None and math.isfinite(trial.value)]
    if sweep.is_repeated and values:
        spread = f", std {number_text(statistics.stdev(values))}" if len(values) > 1 else ""
        yield (
            f"{sweep.metric}: mean {number_text(statistics.fmean(values))}{spread} of {len(values)} "
            f"run{'s' * (len(values) != 1)}"
        )


def trial_columns(sweep: SweepView) -> Sequence[Column]:
    """Number, values, primary metric, status, duration."""
    names = dict.fromkeys(name for trial in sweep.trials for name in trial.hyperparameters)
    best = sweep.best
    return (
        Column("TRIAL", lambda trial: _number(trial), plain=lambda trial: trial.run.id, right=True),
        *(
            Column(name, partial(_value, name), rank=4 + place, least=5, right=_are_numbers(sweep, name))
            for place, name in enumerate(names)
        ),
        Column(sweep.metric or "METRIC", lambda trial: number_text(trial.value), rank=1, least=9, right=True),
        Column(
            "",
            lambda trial: BEST if trial.run.id == best else "",
            plain=lambda trial: "best" if trial.run.id == best else "",
            rank=1,
            least=1,
        ),
        Column(
            "STATUS",
            lambda trial: trial.run.status.value,
            rank=2,
            least=9,
            style=lambda trial: STATUS_STYLES[trial.run.status.value],
        ),
        Column("DURATION", lambda trial: duration_text(trial.run.duration), rank=3, least=8, right=True),
    )


def number_text(value: float | None) -> str:
    """A metric's value in six digits; empty where there is none."""
    if value is None:
        return ""
    form = float_form(value)
    return form if isinstance(form, str) else f"{form:.6g}"


def _for_people(sweep: SweepView, ranked: Sequence[TrialView]) -> Iterator[str]:
    left_out = ranked[FIRST:-LAST] if len(ranked) > MOST_ROWS else []
    shown = [*ranked[:FIRST], *ranked[-LAST:]] if left_out else ranked
    lines = as_table(shown, trial_columns(sweep)).split("\n")
    cut = 1 + FIRST if left_out else len(lines)
    yield from lines[:cut]
    if left_out:
        yield styled(f"… {len(left_out)} more ({counts_text(left_out)}); a pipe gets all of them …", "dim")
    yield from lines[cut:]
    number = next((trial for trial in shown if _number(trial) != trial.run.id), None)
    if number is not None:
        yield styled(f"Trial {_number(number)} is run {number.run.id}.", "dim")


def _in_full(sweep: SweepView, ranked: Sequence[TrialView]) -> Iterator[str]:
    columns = [column for column in trial_columns(sweep) if column.title or sweep.best]
    rows = [[(column.plain or column.text)(trial) for column in columns] for trial in ranked]
    numbers = [place for place, column in enumerate(columns) if column.right and place]
    yield from aligned([[column.title for column in columns], *rows], right=numbers)


def _name(run_id: str, trials: Sequence[TrialView]) -> str:
    trial = next((trial for trial in trials if trial.run.id == run_id), None)
    return (
        f"trial {_number(trial)}" if trial is not None and _number(trial) != run_id and sys.stdout.isatty() else run_id
    )


def _number(trial: TrialView) -> str:
    return trial.run.tags.get(TRIAL) or trial.run.id


def _value(name: str, trial: TrialView) -> str:
    value = trial.hyperparameters.get(name)
    return (
        ""
        if value is None
        else f"{value:.6g}"
        if isinstance(value, float) and sys.stdout.isatty()
        else value_text(value)
    )


def _are_numbers(sweep: SweepView, name: str) -> bool:
    return all(isinstance(trial.hyperparameters.get(name, 0), (int, float)) for trial in sweep.trials)
