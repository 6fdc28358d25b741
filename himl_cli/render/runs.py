"""The table of runs: its columns, for people and for programs."""

from __future__ import annotations

import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import NamedTuple, Protocol

from himl_cli.core.checkpoints import FROM_RUN, PUSHED
from himl_cli.core.jobs import STEP, STEP_AFTER
from himl_cli.core.runs import (
    AUTOMATIC_TAGS,
    RECORDED_IN,
    STOPPED,
    STUDIO,
    TRIES,
    Metric,
    Run,
    RunDetails,
    RunStatus,
    SweepView,
    Texts,
    TrialView,
    own_name,
    own_tags,
)
from himl_cli.core.sweeps import (
    BEST_TRIAL,
    GOAL,
    HYPERPARAMETERS,
    MANY,
    PRIMARY_METRIC,
    REPEATED,
    STOPPED_EARLY,
    SWEPT,
    TRIAL,
    hyperparameters_of,
    value_text,
    values_text,
)
from himl_cli.render.errors import one_line
from himl_cli.render.json import float_form, utc_text
from himl_cli.render.tables import Column, aligned, as_table
from himl_cli.render.terminal import STATUS_STYLES, duration_text, folded, local_time, shown_path, styled, width


def tags_text(tags: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in tags.items())


def _seconds(run: Run) -> str:
    return "" if run.duration is None else f"{run.duration:.3f}"


NAME_RANK, EXPERIMENT_RANK = 4, 5
SWAPPED = {NAME_RANK: EXPERIMENT_RANK, EXPERIMENT_RANK: NAME_RANK}

RUN_COLUMNS = (
    Column("ID", lambda run: run.id),
    Column("EXPERIMENT", lambda run: run.experiment, rank=EXPERIMENT_RANK, least=8),
    Column("DISPLAY NAME", own_name, plain=lambda run: run.display_name, rank=NAME_RANK, least=10),
    Column("STATUS", lambda run: run.status.value, rank=1, least=9, style=lambda run: STATUS_STYLES[run.status.value]),
    Column(
        "STARTED",
        lambda run: local_time(run.started),
        plain=lambda run: utc_text(run.started) if run.started else "",
        rank=2,
        least=12,
    ),
    Column("DURATION", lambda run: duration_text(run.duration), plain=_seconds, rank=3, least=8, right=True),
    Column(
        "TAGS",
        lambda run: tags_text(own_tags(run)),
        plain=lambda run: tags_text(dict(run.tags)),
        rank=6,
        least=8,
        style=lambda run: "dim",
    ),
)

WORKSPACE_COLUMN = Column(
    "WORKSPACE",
    lambda run: _short_label(run.workspace),
    plain=lambda run: run.workspace.removeprefix("workspace "),
    rank=3,
    least=9,
)


def run_columns(runs: Sequence[Run]) -> Sequence[Column]:
    """The columns for *runs*: where they are kept is one of them (the last) once that is not the same for all.

    Where there is no room for both, the experiment goes before a display name that most runs do not have.
    """
    columns: Sequence[Column] = RUN_COLUMNS
    if 2 * sum(1 for run in runs if own_name(run)) < len(runs):
        columns = tuple(replace(column, rank=SWAPPED.get(column.rank, column.rank)) for column in columns)
    return (*columns, WORKSPACE_COLUMN) if len({run.workspace for run in runs}) > 1 else columns


def _short_label(label: str) -> str:
    """A workspace in a word or two: `local`, or `GROUP/NAME`."""
    return "local" if label.startswith("local workspace") else label.removeprefix("workspace ")


class Canceled(Protocol):
    """How the asking of one run to stop went."""

    @property
    def id(self) -> str: ...
    @property
    def asked(self) -> bool: ...
    @property
    def status(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def parent(self) -> str | None: ...


def cancel_text(outcome: Canceled) -> str:
    """One sentence or two: whether the run was asked to stop, and what that means for its relatives."""
    if not outcome.asked:
        return f"Run '{outcome.id}' had ended already: {outcome.status}."
    meanings = {
        "sweep": "; its trials stop with it",
        "pipeline": "; its steps stop with it",
        "trial": f"; sweep '{outcome.parent}' goes on with its other trials",
        "step": f"; what waits for it in pipeline '{outcome.parent}' does not start",
    }
    return f"Asked run '{outcome.id}' to stop{meanings.get(outcome.kind, '')}."


def deletion_text(runs: Sequence[Run], below: Mapping[str, str]) -> str:
    """What would be deleted; *below* says by id what goes with a run (`4 trials`; empty: nothing)."""
    if len(runs) == 1:
        run = runs[0]
        return (
            f"Delete run '{run.id}' with its {below[run.id]} and all their files"
            if below[run.id]
            else f"Delete run '{run.id}' with all its files"
        )
    names = ", ".join(f"{run.id} (with its {below[run.id]})" if below[run.id] else run.id for run in runs)
    return f"Delete {len(runs)} runs with all their files: {names}"


def deleted_text(run: Run, below: str) -> str:
    return f"Deleted run '{run.id}' and its {below}." if below else f"Deleted run '{run.id}'."


LONGEST_NAME = 40
"""Longer ones would break the lines of all; `runs show STEP-RUN` has them whole."""


class _Line(NamedTuple):
    name: str
    status: str
    duration: str
    run_id: str
    after: str


def is_pipeline(children: Sequence[Run]) -> bool:
    """Whether *children* are steps."""
    return any(STEP in child.tags for child in children)


def steps_view(children: Sequence[Run], below: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    """A heading and a line a step; a step that waited for several stands below the last of them, and names all."""
    lines = list(_tree(children, below, ""))
    has_after = any(line.after for line in lines)
    yield ""
    yield styled("Steps", "bold")
    yield from aligned(
        [("NAME", "STATUS", "DURATION", "ID", "WAITED FOR" if has_after else ""), *lines],
        right=(2,),
        ranks=(1, 1, 3, 2, 4),
        cut=(0, 4),
    )


def _tree(children: Sequence[Run], below: Mapping[str, Sequence[Run]], indent: str) -> Iterator[_Line]:
    keys = {child.tags.get(STEP, child.id): child for child in children}
    waits = {
        key: [each for each in child.tags.get(STEP_AFTER, "").split(",") if each in keys] for key, child in keys.items()
    }
    depths = _depths(waits)
    over = {key: max(waited, key=lambda each: depths[each]) if waited else "" for key, waited in waits.items()}
    over = {key: parent if _has_root(key, over) else "" for key, parent in over.items()}
    yield from _branch("", keys, over, waits, below, indent)


def _branch(
    root: str,
    keys: Mapping[str, Run],
    over: Mapping[str, str],
    waits: Mapping[str, Sequence[str]],
    below: Mapping[str, Sequence[Run]],
    indent: str,
) -> Iterator[_Line]:
    for key, parent in over.items():
        if parent != root:
            continue
        run = keys[key]
        after = ", ".join(_step_name(keys[each], each) for each in waits[key]) if len(waits[key]) > 1 else ""
        yield _Line(f"{indent}{_step_name(run, key)}", run.status.value, duration_text(run.duration), run.id, after)
        inside = below.get(run.id, ())
        if any(hyperparameters_of(each.tags) for each in inside):
            counts = Counter(each.status.value for each in inside)
            yield _Line(
                f"{indent}  {len(inside)} trials",
                ", ".join(f"{count} {status}" for status, count in counts.most_common()),
                "",
                "",
                "",
            )
        elif inside:
            yield from _tree(inside, below, f"{indent}  ")
        yield from _branch(key, keys, over, waits, below, f"{indent}  ")


def _step_name(run: Run, key: str) -> str:
    name = one_line(run.display_name or key)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _has_root(key: str, over: Mapping[str, str]) -> bool:
    """Whether the way up from *key* ends: tags may say that steps wait for each other in a circle."""
    for _ in over:
        key = over[key]
        if not key:
            return True
    return False


def _depths(waits: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many steps stand above each one on its longest way up; 0 for those that wait for a circle."""
    left = {key: set(waited) for key, waited in waits.items()}
    followers: dict[str, list[str]] = {key: [] for key in waits}
    for key, waited in left.items():
        for each in waited:
            followers[each].append(key)
    depths = dict.fromkeys(waits, 0)
    free = [key for key, waited in left.items() if not waited]
    for key in free:  # grows on the way
        for each in followers[key]:
            depths[each] = max(depths[each], depths[key] + 1)
            left[each].discard(key)
            if not left[each]:
                free.append(each)
    return {key: 0 if left[key] else depths[key] for key in waits}


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
        best = _trial_name(sweep.best, sweep.trials)
        yield styled(f"The best value at any step is that of {best}; the table has last values.", "dim")
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
        Column("TRIAL", lambda trial: _trial_number(trial), plain=lambda trial: trial.run.id, right=True),
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
    number = next((trial for trial in shown if _trial_number(trial) != trial.run.id), None)
    if number is not None:
        yield styled(f"Trial {_trial_number(number)} is run {number.run.id}.", "dim")


def _in_full(sweep: SweepView, ranked: Sequence[TrialView]) -> Iterator[str]:
    columns = [column for column in trial_columns(sweep) if column.title or sweep.best]
    rows = [[(column.plain or column.text)(trial) for column in columns] for trial in ranked]
    numbers = [place for place, column in enumerate(columns) if column.right and place]
    yield from aligned([[column.title for column in columns], *rows], right=numbers)


def _trial_name(run_id: str, trials: Sequence[TrialView]) -> str:
    trial = next((trial for trial in trials if trial.run.id == run_id), None)
    return (
        f"trial {_trial_number(trial)}"
        if trial is not None and _trial_number(trial) != run_id and sys.stdout.isatty()
        else run_id
    )


def _trial_number(trial: TrialView) -> str:
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


LABEL = 12
LONGEST_TEXT = 200
COPIED = ("https://", "himl submit --resume ")
"""How values begin that are never folded: they are there to be clicked, and to be copied."""
SHOWN_ELSEWHERE = (
    *("mlflow.log-model.history", RECORDED_IN, STUDIO, STOPPED, FROM_RUN, PUSHED),
    *(SWEPT, MANY, PRIMARY_METRIC, GOAL, BEST_TRIAL, HYPERPARAMETERS, TRIAL, STOPPED_EARLY, STEP, STEP_AFTER, TRIES),
)


def run_view(details: RunDetails) -> Iterator[str]:
    """The lines that show a run: facts, tags, parameters, metrics, texts, children."""
    run = details.run
    yield f"{styled(one_line(run.id), 'bold')}  {styled(run.status.value, STATUS_STYLES[run.status.value])}"
    yield from _facts(run)
    yield from _section("Tags", own_tags(run))
    yield from _section(
        "Submitted with",
        {
            name: value
            for name, value in run.tags.items()
            if name.startswith(AUTOMATIC_TAGS) and name not in SHOWN_ELSEWHERE
        },
    )
    yield from _section("Parameters", details.parameters)
    yield from _metrics(run, details.metrics)
    yield from _texts(run, details.texts)
    if details.sweep is not None:
        yield from trials_view(details.sweep)
    elif is_pipeline(details.children):
        yield from steps_view(details.children, details.below)
    else:
        yield from _children(details.children)


def _facts(run: Run) -> Iterator[str]:
    values = values_text(hyperparameters_of(run.tags))
    facts = {
        "Name": own_name(run),
        "About": run.description,
        "Experiment": run.experiment,
        "Outcome": _outcome(run),
        "To go on": f"himl submit --resume {run.id}" if _can_go_on(run) else "",
        "Started": _times(run),
        "Command": run.command,
        "Changed from" if PUSHED in run.tags else "Began with": run.tags.get(FROM_RUN, ""),
        "Sweep": run.tags.get(SWEPT, ""),
        "Best trial": "" if run.tags.get(MANY) in REPEATED else run.tags.get(BEST_TRIAL, ""),
        "Values": "" if values == run.display_name else values,
        "Parent": run.parent or "",
        "Waited for": run.tags.get(STEP_AFTER, "").replace(",", ", "),
        "Folder": shown_path(run.folder),
        "Workspace": run.workspace,
        "Recorded in": run.tags.get(RECORDED_IN, ""),
        "Not told": run.tags.get(STOPPED, ""),
        "Studio": run.url or run.tags.get(STUDIO, ""),
    }
    yield from _pairs({name: value for name, value in facts.items() if value}, label_width=LABEL)


def _outcome(run: Run) -> str:
    code = "" if run.exit_code is None else f"exit code {run.exit_code}"
    return run.reason if code and code in run.reason else ", ".join(part for part in (code, run.reason) if part)


def _can_go_on(run: Run) -> bool:
    """Whether it is a sweep or a pipeline of this machine that stopped before its end."""
    return bool(MANY in run.tags and run.folder) and run.status in (RunStatus.failed, RunStatus.canceled)


def _times(run: Run) -> str:
    """When and how long; off a terminal in UTC."""
    if run.started is None:
        return f"not yet; submitted {_time_text(run.created)}" if not run.status.is_final else ""
    if run.duration is None:
        return _time_text(run.started)
    return f"{_time_text(run.started)}, {'took' if run.ended else 'running for'} {duration_text(run.duration)}"


def _time_text(time: datetime) -> str:
    return local_time(time) if sys.stdout.isatty() else utc_text(time)


def _section(title: str, pairs: Mapping[str, str]) -> Iterator[str]:
    if pairs:
        yield ""
        yield styled(title, "bold")
        yield from _pairs(pairs, label_width=min(30, max(len(one_line(name)) for name in pairs)), indent="  ")


def _pairs(pairs: Mapping[str, str], *, label_width: int, indent: str = "") -> Iterator[str]:
    """`name  value` lines with the values below each other; on a terminal long values are folded, and below a name that
    is too long."""
    begin = len(indent) + label_width + 2
    for name, value in pairs.items():
        head = f"{indent}{one_line(name).ljust(label_width)}  "
        if not sys.stdout.isatty() or value.startswith(COPIED):
            yield f"{styled(head, 'dim')}{one_line(value)}".rstrip()
            continue
        first, *rest = [*([""] if len(head) > begin else []), *folded(one_line(value), max(20, width() - begin))] or [
            ""
        ]
        yield f"{styled(head if first else head.rstrip(), 'dim')}{first}"
        yield from (" " * begin + line for line in rest)


def _metrics(run: Run, metrics: Sequence[Metric]) -> Iterator[str]:
    """A line a metric; those of nested runs carry their run."""
    if not metrics:
        return
    nested = any(metric.run != run.id for metric in metrics)
    rows = [
        (
            one_line(metric.name),
            _value_text(metric.last.value),
            str(metric.last.step),
            str(len(metric.points)),
            metric.run if metric.run != run.id else "",
        )
        for metric in metrics
    ]
    header = ("NAME", "LAST", "STEP", "VALUES", "NESTED RUN" if nested else "")
    yield ""
    yield styled("Metrics", "bold")
    yield from aligned([header, *rows], right=(1, 2, 3), ranks=(1, 2, 3, 4, 5), cut=(0,))


def _texts(run: Run, texts: Sequence[Texts]) -> Iterator[str]:
    """The last text of each name, shortened; those of nested runs carry their run."""
    if not texts:
        return
    nested = any(each.run != run.id for each in texts)
    rows = [
        (
            one_line(each.name),
            str(each.last.step),
            str(len(each.points)),
            _short(one_line(each.last.value)),
            each.run if each.run != run.id else "",
        )
        for each in texts
    ]
    yield ""
    yield styled("Texts", "bold")
    header = ("NAME", "STEP", "VALUES", "LAST", "NESTED RUN" if nested else "")
    yield from aligned([header, *rows], right=(1, 2), ranks=(2, 3, 4, 1, 5), cut=(0, 3))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _value_text(value: float) -> str:
    form = float_form(value)
    return form if isinstance(form, str) else f"{form:.6g}"


def _children(children: Sequence[Run]) -> Iterator[str]:
    if not children:
        return
    rows = [
        (one_line(child.id), one_line(own_name(child)), child.status.value, duration_text(child.duration))
        for child in children
    ]
    yield ""
    yield styled("Children", "bold")
    yield from aligned([("ID", "NAME", "STATUS", "DURATION"), *rows], right=(3,), ranks=(0, 3, 1, 2), cut=(1,))
