"""Runs as text: their table, one run in full with its metrics, trials or steps, and the outcome of changes."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from himl_cli.core.jobs import STEP, STEP_AFTER
from himl_cli.core.logged import (
    SYSTEM,
    ListedRuns,
    Metric,
    RunDetails,
    RunDiff,
    RunResults,
    SweepView,
    TrialView,
    Value,
    given_of,
    machine_use,
    system_summary,
)
from himl_cli.core.patterns import lazy_pattern
from himl_cli.core.runs import (
    ATTEMPT_ENDS,
    ATTEMPTS,
    AUTOMATIC_TAGS,
    BESIDE,
    BROUGHT,
    FROM_RUN,
    GPUS,
    LAST_ATTEMPT,
    MLFLOW_ADDRESS,
    NEW_CODE,
    NOTE,
    PUSHED,
    RECORDED_IN,
    REPEATED_BY,
    REPEATS,
    STOPPED,
    STUDIO,
    SUBMITTED_TAGS,
    OutputFootprint,
    Run,
    RunFootprint,
    RunStatus,
    attempts_of,
    beside,
    own_name,
    own_tags,
    queued_in,
    run_form,
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
    TRIALS,
    best_trial_of,
    hyperparameters_of,
    short_text,
    value_text,
    values_text,
)
from himl_cli.core.text import utc_text
from himl_cli.core.webhook import NOTIFICATION
from himl_cli.render.forms import extended_form, json_form, number_text
from himl_cli.render.output import (
    STATUS_STYLES,
    Column,
    Output,
    aligned,
    as_table,
    cut_end,
    duration_text,
    folded,
    local_time,
    one_line,
    shown_path,
    size_text,
    styled,
    width,
)


def _tags_text(tags: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in tags.items())


def _status_text(run: Run) -> str:
    return run.status.value if run.status.is_final else f"{run.status.value} ({run.reason})"


SWAPPED = {4: 5, 5: 4}  # the ranks of the display name and of the experiment

RUN_COLUMNS = (
    Column("ID", lambda run: run.id),
    Column("EXPERIMENT", lambda run: run.experiment, rank=5, least=8),
    Column("DISPLAY NAME", own_name, plain=lambda run: run.display_name, rank=4, least=10),
    Column(
        "STATUS",
        lambda run: _status_text(run) if run.reason else run.status.value,
        plain=lambda run: _status_text(run) if run.reason and run.is_unknown else run.status.value,
        rank=1,
        least=9,
        style=lambda run: STATUS_STYLES[run.status.value],
    ),
    Column(
        "STARTED",
        lambda run: local_time(run.started),
        plain=lambda run: utc_text(run.started) if run.started else "",
        rank=2,
        least=12,
    ),
    Column(
        "DURATION",
        lambda run: duration_text(run.duration),
        plain=lambda run: "" if run.duration is None else f"{run.duration:.3f}",
        rank=3,
        least=8,
        right=True,
    ),
    Column(
        "TAGS",
        lambda run: _tags_text(own_tags(run)),
        rank=6,
        least=8,
        style=lambda run: "dim",
    ),
)

TRIAL_COLUMN = Column(  # whose values those of a sweep are
    "TRIAL",
    lambda run: best_trial_of(run.tags).removeprefix(f"{run.id}_"),
    plain=lambda run: best_trial_of(run.tags),
    rank=1,
    least=5,
    right=True,
)

WORKSPACE_COLUMN = Column(
    "WORKSPACE",
    lambda run: "local" if run.workspace.startswith("local workspace") else run.workspace.removeprefix("workspace "),
    plain=lambda run: run.workspace.removeprefix("workspace "),
    rank=3,
    least=9,
)

SERVICE_COLUMNS = (
    Column("NAME", lambda each: each.name, rank=1, least=8),
    Column("TYPE", lambda each: each.type, rank=2, least=6),
    Column(
        "STATUS",
        lambda each: each.status,
        rank=3,
        least=7,
        style=lambda each: "red" if each.is_failed else "green",
    ),
    Column("ADDRESS", lambda each: each.url or each.proxy),
)


def run_columns(runs: Sequence[Run], listed: ListedRuns | None = None) -> Sequence[Column]:
    """The columns for *runs*, including those of *listed* (before the tags), and the workspace (last) if it is not the
    same for all.

    If most runs have no display name, the experiment column takes precedence in a narrow terminal.
    """
    columns: Sequence[Column] = RUN_COLUMNS
    if 2 * sum(1 for run in runs if own_name(run)) < len(runs):
        columns = tuple(column._replace(rank=SWAPPED.get(column.rank, column.rank)) for column in columns)
    if listed is not None:
        columns = (Column("ID", lambda run: listed.short_ids.get(run.id, run.id), lambda run: run.id), *columns[1:])
        metrics = [_metric_column(listed, name, rank) for rank, name in enumerate(listed.metrics, 1)]
        sizes = [_size_column(listed.sizes)] if listed.sizes else []
        columns = (*columns[:-1], *sizes, *_given_columns(runs, listed), *metrics, columns[-1])
        if (metrics or listed.has_parameters) and any(best_trial_of(run.tags) for run in runs):
            columns = (*columns[:-1], TRIAL_COLUMN, columns[-1])
    return (*columns, WORKSPACE_COLUMN) if len({run.workspace for run in runs}) > 1 else columns


def _given_columns(runs: Sequence[Run], listed: ListedRuns) -> Sequence[Column]:
    """The parameters and arguments in which *runs* differ, in one column, or in one each."""
    given = {run.id: given_of(run, listed.results.get(run.id)) for run in runs}
    names = dict.fromkeys(name for values in given.values() for name in values)
    differing = [name for name in names if len({values.get(name) for values in given.values()}) > 1]
    if listed.has_parameters:
        return [
            Column(name, partial(_given, given, name), rank=2 + rank, is_name=True)
            for rank, name in enumerate(differing)
        ]

    def text(run: Run) -> str:
        return values_text({name: value for name, value in given[run.id].items() if name in differing})

    return [Column("ARGUMENTS", text, rank=2, least=12)] if differing else []


def _size_column(sizes: Mapping[str, int]) -> Column:
    return Column(
        "SIZE", lambda run: size_text(sizes[run.id]), plain=lambda run: str(sizes[run.id]), rank=1, right=True
    )


def _given(given: Mapping[str, Mapping[str, str]], name: str, run: Run) -> str:
    return given[run.id].get(name, "")


def _metric_column(listed: ListedRuns, name: str, rank: int) -> Column:
    def value(run: Run) -> float | None:
        found = listed.results.get(run.id, RunResults()).last.get(name)
        return found if isinstance(found, (int, float)) else None

    def is_best(run: Run) -> bool:
        return name in listed.best and value(run) == listed.best[name]

    return Column(
        name,
        lambda run: "*" * is_best(run) + number_text(value(run)),
        plain=lambda run: "" if value(run) is None else str(json_form(value(run))),
        rank=rank,
        right=True,
        style=lambda run: "bold green" if is_best(run) else "",
        is_name=True,
    )


def listed_form(listed: ListedRuns, run: Run) -> dict[str, Any]:
    """A run of a list as JSON, with the values that have columns."""
    form, results = run_form(run), listed.results.get(run.id, RunResults())
    metrics = {name: json_form(results.last[name]) for name in listed.metrics if name in results.last}
    if listed.metrics:
        form["metrics"] = metrics
    if (metrics or listed.has_parameters) and (trial := best_trial_of(run.tags)):
        form["best_trial"] = trial
    if listed.has_parameters:
        form["parameters"] = given_of(run, results)
    if listed.sizes:
        form["size"] = listed.sizes[run.id]
    return form


def diff_view(diff: RunDiff, *, has_text: bool) -> Iterator[str]:
    """The differences as tables with a column for each run, and the changed files or, with *has_text*, their diffs."""
    yield styled(f"{one_line(diff.first)} -> {one_line(diff.second)}", "bold")
    parts = {"Run": diff.facts, "Arguments": diff.arguments, "Parameters": diff.parameters}
    parts |= {"Metrics": diff.metrics, "Tags": diff.tags, "Environment": diff.environment, "Packages": diff.packages}
    for title, values in parts.items():
        rows = [(one_line(name), *map(one_line, _pair_texts(pair))) for name, pair in values.items()]
        yield from _table(title, ("NAME", "FIRST", "SECOND"), rows, ranks=(1, 2, 3), cut=(0, 1, 2))
    if diff.code:
        yield from ("", styled("Code", "bold"))
    for change in diff.code or ():
        if not has_text or not change.diff:
            yield f"  {change.change:<8} {one_line(change.name)}"
        for line in change.diff.split("\n") if change.diff else ():
            style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
            yield styled(shown_line(line), style) if style else shown_line(line)
    if not diff.code and not any(parts.values()):
        yield "No differences." if diff.code is not None else "No differences except perhaps in the code."


def _pair_texts(pair: Sequence[Value]) -> Sequence[str]:
    """Two values as texts, for a terminal with as many digits as distinguish the numbers."""
    texts = ["" if value is None else value_text(value) for value in pair]
    short = [number_text(value) if isinstance(value, float) else text for value, text in zip(pair, texts, strict=True)]
    return short if sys.stdout.isatty() and len({*short}) == len({*texts}) else texts


def shown_line(line: str) -> str:
    """*line* of a file with a space for each control character except tabs."""
    return "".join(sign if sign.isprintable() or sign == "\t" else " " for sign in line)


def cancel_text(outcome: Any) -> str:
    """Report the cancellation of a run and its effect on related runs. *outcome* is that of `cancel_runs`."""
    if not outcome.asked:
        return f"Run '{outcome.id}' had already ended: {outcome.status}."
    meanings = {
        "sweep": " Its trials stop with it.",
        "pipeline": " Its steps stop with it.",
        "trial": f" Sweep '{outcome.parent}' continues with its other trials.",
        "step": f" Steps of pipeline '{outcome.parent}' that wait for it do not start.",
    }
    return f"Requested cancellation of run '{outcome.id}'.{meanings.get(outcome.kind, '')}"


def deletion_question(footprints: Sequence[RunFootprint], children: Sequence[str]) -> str:
    """The question before runs are deleted. *children* has their child runs (`4 trials`, empty for none)."""
    if len(footprints) == 1:
        files = f"its {children[0]} and all their files" if children[0] else "all its files"
        return f"Delete run '{footprints[0].run.id}' with {files}?"
    pairs = zip(footprints, children, strict=True)
    names = ", ".join(f"{each.run.id} (with its {also})" if also else each.run.id for each, also in pairs)
    return f"Delete {len(footprints)} runs with all their files: {names}?"


def deletion_list(footprint: RunFootprint, *, outputs: bool) -> Iterator[str]:
    """The files and outputs that are deleted with a run on Azure ML, one per line. *outputs*: whether the user included
    its outputs. Nothing for a local run."""
    if not footprint.is_counted:
        return
    count = len(footprint.below)
    below = f" and its {'child run' if count == 1 else f'{count} child runs'}" if count else ""
    where = f", in {' and '.join(footprint.places)}" if footprint.places else ""
    yield f"Run '{footprint.run.id}'{below}: {_files_text(footprint)}{where}."
    for each in footprint.outputs:
        what = f"Output '{each.key}' of run '{each.run}', {each.asset}"
        yield f"{what}, is not deleted: {each.kept}." if each.kept else f"{what}: {_files_text(each)}, in {each.place}."
    if not outputs:
        yield "himl keeps data that the run registered as outputs. To delete it, add --outputs."


def deletion_text(footprint: RunFootprint, children: str, *, is_archived: bool) -> str:
    """Report a deletion. *is_archived*: Azure ML only archived the run itself."""
    run, also = f"run '{footprint.run.id}'", f" and its {children}" if children else ""
    if not footprint.is_counted:
        return f"Deleted {run}{also}."
    going = [each for each in footprint.outputs if not each.kept]
    outputs = "".join(f"; output '{each.key}': {_files_text(each)}" for each in going)
    if is_archived:
        return (
            f"Deleted the files of {run}{also}, {_files_text(footprint)}{outputs}. "
            "Azure ML archived the run instead of deleting it."
        )
    return f"Deleted {run}{also}: {_files_text(footprint)}{outputs}."


def deletion_form(footprints: Sequence[RunFootprint], archived: Sequence[str]) -> dict[str, Any]:
    """The JSON document: the named runs, and the counted files of those on Azure ML."""
    form: dict[str, Any] = {"deleted": [each.run.id for each in footprints]}
    there = [each for each in footprints if each.is_counted]
    if not there:
        return form
    outputs = [each for footprint in there for each in footprint.outputs]
    return form | {
        "archived": archived,
        "below": [run.id for each in there for run in each.below],
        "files": sum(each.files for each in there),
        "bytes": sum(each.size for each in there),
        "places": [*dict.fromkeys(place for each in there for place in each.places)],
        "outputs": [
            {"run": each.run, "key": each.key, "asset": each.asset, "uri": each.uri, "place": each.place}
            | {"files": each.files, "bytes": each.size, "kept": each.kept}
            for each in outputs
        ],
    }


def _files_text(counted: RunFootprint | OutputFootprint) -> str:
    return f"{counted.files:,} file{'s' * (counted.files != 1)}, {size_text(counted.size)}"


def steps_view(children: Sequence[Run], below: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    """A heading and one line per step. A step that waited for several is below the last of them, and names all."""
    rows = list(_tree(children, below, ""))
    header = ("NAME", "STATUS", "DURATION", "ID", "WAITED FOR" if any(row[-1] for row in rows) else "")
    yield from _table("Steps", header, rows, right=(2,), ranks=(1, 1, 3, 2, 4), cut=(0, 4))


def _tree(children: Sequence[Run], below: Mapping[str, Sequence[Run]], indent: str) -> Iterator[Sequence[str]]:
    steps = {child.tags.get(STEP, child.id): child for child in children}
    tags = {key: child.tags.get(STEP_AFTER, "") for key, child in steps.items()}
    waits = {key: [each for each in names.split(",") if each in steps] for key, names in tags.items()}
    # Shorten names that would break all lines. `runs show STEP-RUN` has the full name
    names = {key: cut_end(one_line(run.display_name or key), 40) for key, run in steps.items()}
    # The length of the longest path up, without steps that wait for each other in a circle
    depths: dict[str, int] = {}
    ready = [key for key in steps if not waits[key]]
    while ready:
        depths |= {key: 1 + max((depths[each] for each in waits[key]), default=0) for key in ready}
        ready = [key for key in steps if key not in depths and all(each in depths for each in waits[key])]
    last = {key: max(waited, key=lambda each: depths.get(each, 0)) for key, waited in waits.items() if waited}
    parents = {key: parent for key, parent in last.items() if parent in depths}

    def branch(root: str | None, indent: str) -> Iterator[Sequence[str]]:
        for key, run in steps.items():
            if parents.get(key) != root:
                continue
            after = ", ".join(names[each] for each in waits[key]) if len(waits[key]) > 1 else ""
            yield f"{indent}{names[key]}", run.status.value, duration_text(run.duration), run.id, after
            inside = below.get(run.id, ())
            if any(hyperparameters_of(each.tags) for each in inside):
                yield f"{indent}  {len(inside)} trials", _counts(inside), "", "", ""
            elif inside:
                yield from _tree(inside, below, f"{indent}  ")
            yield from branch(key, f"{indent}  ")

    yield from branch(None, indent)


MOST_ROWS, FIRST, LAST = 40, 25, 10
"""The number of trials above which a terminal shows only the first and the last ones. A pipe gets all."""


def _counts(runs: Iterable[Run]) -> str:
    """The number of runs by status, such as `10 Completed, 2 Failed`."""
    return ", ".join(f"{count} {status}" for status, count in Counter(run.status.value for run in runs).most_common())


def trials_view(sweep: SweepView) -> Iterator[str]:
    yield from ("", styled(f"Trials: {_counts(trial.run for trial in sweep.trials)}", "bold"))
    yield from _trial_rows(sweep, sweep.ranked)


def best_lines(sweep: SweepView, most: int = 5) -> Iterator[str]:
    """A table of the *most* best trials, or of all folds or seeds. Without values, the complaint of *sweep*."""
    with_value = [trial for trial in sweep.ranked if trial.value is not None]
    shown = with_value if sweep.is_repeated else with_value[:most]
    if not shown:
        yield from [sweep.complaint] * bool(sweep.complaint)
        return
    is_part = len(shown) < len(sweep.trials)
    if sweep.is_repeated:
        heading = f"{len(shown)} of {len(sweep.trials)} runs" if is_part else f"All {len(shown)} runs"
    else:
        heading = f"The best of {len(sweep.trials)} trials" if is_part else "Trials, the best one first"
    yield from ("", styled(heading, "bold"))
    yield from _trial_rows(sweep, shown)


def _trial_rows(sweep: SweepView, ranked: Sequence[TrialView]) -> Iterator[str]:
    """One row per trial. Folds and seeds also get a mean and a standard deviation. A search gets a note if the best
    trial is not the one with the best value in the table."""
    numbers = {trial.run.id: trial.run.tags.get(TRIAL) or trial.run.id for trial in sweep.trials}
    columns = _trial_columns(sweep, numbers)
    if sys.stdout.isatty():
        yield from _for_people(ranked, columns, numbers)
    else:
        named = [column for column in columns if column.title or sweep.best]
        rows = [[(column.plain or column.text)(trial) for column in named] for trial in ranked]
        right = [place for place, column in enumerate(named) if column.right and place]
        yield from aligned([[column.title for column in named], *rows], right=right)
    if sweep.complaint:
        yield styled(f"{sweep.complaint} To rank by another one: --primary_metric NAME", "dim")
    if sweep.missing:
        yield styled(f"The recorded best trial, {sweep.missing}, is archived or deleted.", "dim")
    elif sweep.best and sweep.best != sweep.best_at_the_end:
        number = numbers.get(sweep.best, sweep.best)
        best = f"trial {number}" if number != sweep.best and sys.stdout.isatty() else sweep.best
        yield styled(f"The best trial, by its best value at any step, is {best}. The table shows last values.", "dim")
    values = [trial.value for trial in sweep.trials if trial.value is not None and math.isfinite(trial.value)]
    if sweep.is_repeated and values:
        import statistics

        spread = f", std {number_text(statistics.stdev(values))}" if len(values) > 1 else ""
        mean, runs = number_text(statistics.fmean(values)), f"{len(values)} run{'s' * (len(values) != 1)}"
        yield f"{sweep.metric}: mean {mean}{spread} of {runs}"


def _trial_columns(sweep: SweepView, numbers: Mapping[str, str]) -> Sequence[Column]:
    names = dict.fromkeys(name for trial in sweep.trials for name in trial.hyperparameters)
    values = {name: [trial.hyperparameters.get(name, 0) for trial in sweep.trials] for name in names}
    numeric = [name for name in names if all(isinstance(value, (int, float)) for value in values[name])]
    return (
        Column("TRIAL", lambda trial: numbers[trial.run.id], plain=lambda trial: trial.run.id, right=True),
        *(
            Column(name, partial(_value, name), rank=4 + place, least=5, right=name in numeric)
            for place, name in enumerate(names)
        ),
        Column(sweep.metric or "METRIC", lambda trial: number_text(trial.value), rank=1, least=9, right=True),
        Column(
            "",
            lambda trial: "*" if trial.run.id == sweep.best else "",
            plain=lambda trial: "best" if trial.run.id == sweep.best else "",
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


def _for_people(ranked: Sequence[TrialView], columns: Sequence[Column], numbers: Mapping[str, str]) -> Iterator[str]:
    left_out = ranked[FIRST:-LAST] if len(ranked) > MOST_ROWS else []
    shown = [*ranked[:FIRST], *ranked[-LAST:]] if left_out else ranked
    lines = as_table(shown, columns).split("\n")
    if left_out:
        counts = _counts(trial.run for trial in left_out)
        lines.insert(1 + FIRST, styled(f"… {len(left_out)} more ({counts}). A pipe gets all of them …", "dim"))
    yield from lines
    example = next((trial.run.id for trial in shown if numbers[trial.run.id] != trial.run.id), None)
    if example is not None:
        yield styled(f"Trial {numbers[example]} is run {example}.", "dim")


def _value(name: str, trial: TrialView) -> str:
    value = trial.hyperparameters.get(name)
    if value is None:
        return ""
    return short_text(value) if sys.stdout.isatty() else value_text(value)


SHOWN_ELSEWHERE = (
    *(
        "mlflow.log-model.history",
        "mlflow.user",
        MLFLOW_ADDRESS,
        NOTIFICATION,
        RECORDED_IN,
        STUDIO,
        STOPPED,
        GPUS,
        FROM_RUN,
        BROUGHT,
        PUSHED,
    ),
    *(SWEPT, MANY, PRIMARY_METRIC, GOAL, BEST_TRIAL, HYPERPARAMETERS, TRIAL, STOPPED_EARLY, STEP, STEP_AFTER),
    *(TRIALS, ATTEMPT_ENDS, LAST_ATTEMPT, ATTEMPTS, REPEATED_BY, BESIDE, NOTE, NEW_CODE, REPEATS),
)


_MACHINE = lazy_pattern(SYSTEM + r"(cpu|system|gpu_\d+)_(utilization_percentage|memory_usage_megabytes)")


def print_runs(
    output: Output, details: Sequence[RunDetails], *, is_one: bool, machine: bool, environment: bool
) -> None:
    """Print runs in full, as one document if it *is_one*, and notices on what they lack of the *machine* and the
    *environment* that the user asked for."""
    for each in details:
        if machine and not machine_use(each.metrics):
            output.notice(f"Run '{each.run.id}' has no metrics of its machine.")
        if environment and each.environment is None:
            output.notice(f"Run '{each.run.id}' has no record of its environment.")
    forms = [extended_form(each, machine=machine) for each in details]
    output.result(
        forms[0] if is_one else forms,
        human=lambda: "\n\n\n".join("\n".join(run_view(each, machine=machine)) for each in details),
        quiet=[each.run.id for each in details],
    )


def run_view(details: RunDetails, *, machine: bool = False) -> Iterator[str]:
    """The lines that show a run: facts, tags, parameters, metrics, texts, children, and with *machine* a table of its
    use of the machine."""
    run = details.run
    yield f"{styled(one_line(run.id), 'bold')}  {styled(run.status.value, STATUS_STYLES[run.status.value])}"
    facts = _facts(run) | {"Machine": machine_text(details.metrics)}
    if facts["Best trial"] and details.sweep is not None:
        facts["Best trial"] = details.sweep.best
    elif facts["Best trial"] and not details.children:
        facts["Best trial"] += ", which is archived or deleted"
    yield from _pairs({name: value for name, value in facts.items() if value}, label_width=12)
    automatic = {name: value for name, value in run.tags.items() if name.startswith(AUTOMATIC_TAGS)}
    submitted = {name: value for name, value in automatic.items() if name.startswith(SUBMITTED_TAGS)}
    system = {name: automatic[name] for name in automatic if name not in (*submitted, *SHOWN_ELSEWHERE)}
    sections = {
        "Tags": own_tags(run),
        "System tags": system,
        "Submitted with": submitted,
        "Parameters": details.parameters,
    }
    for title, pairs in sections.items():
        if pairs:
            yield from ("", styled(title, "bold"))
            yield from _pairs(pairs, label_width=min(30, max(len(one_line(name)) for name in pairs)), indent="  ")
    yield from _environment_view(details)
    yield from _attempts_view(run)
    if machine:
        yield from _machine_view(details)
    nested = _nested_names(details)
    metrics = [
        (
            one_line(each.name),
            number_text(each.last.value),
            str(each.last.step),
            "" if each.count is None else str(each.count),
            nested.get(each.run, each.run),
        )
        for each in details.metrics
        if not (each.name.startswith(SYSTEM) and (machine or sys.stdout.isatty()))
    ]
    header = ("NAME", "LAST", "STEP", "VALUES", "NESTED RUN" if any(row[-1] for row in metrics) else "")
    yield from _table("Metrics", header, metrics, right=(1, 2, 3), ranks=(1, 2, 3, 4, 5), cut=(0,))
    texts = [
        (
            one_line(each.name),
            str(each.last.step),
            str(each.count),
            cut_end(one_line(each.last.value), 200),
            nested.get(each.run, each.run),
        )
        for each in details.texts
    ]
    header = ("NAME", "STEP", "VALUES", "LAST", "NESTED RUN" if any(row[-1] for row in texts) else "")
    yield from _table("Texts", header, texts, right=(1, 2), ranks=(2, 3, 4, 1, 5), cut=(0, 3))
    if details.sweep is not None:
        yield from trials_view(details.sweep)
    elif any(STEP in child.tags for child in details.children):
        yield from steps_view(details.children, details.below)
    else:
        yield from _children_view(details)
    name, lines = details.log
    if lines:
        yield from ("", styled(f"The last lines of {one_line(name)}", "bold"), *(f"  {line}" for line in lines))


def _children_view(details: RunDetails) -> Iterator[str]:
    """The nested runs. Those of earlier attempts that a later one repeated are in a separate table."""
    has_attempts = any(LAST_ATTEMPT in child.tags for child in details.children)
    titles = ("ID", "NAME", "STATUS", "DURATION", "ATTEMPT" if has_attempts else "")
    parts: dict[bool, list[Run]] = {False: [], True: []}
    for child in beside(details.run, details.children):
        parts[REPEATED_BY in child.tags].append(child)
    for title, children in zip(("Children", "Repeated by a later attempt"), parts.values(), strict=True):
        rows = [
            (
                *(one_line(each.id), one_line(own_name(each)), each.status.value, duration_text(each.duration)),
                each.tags.get(LAST_ATTEMPT, "1") if has_attempts and each is not details.run else "",
            )
            for each in children
        ]
        yield from _table(title, titles, rows, right=(3, 4), ranks=(0, 3, 1, 2, 4), cut=(1,))


def _environment_view(details: RunDetails) -> Iterator[str]:
    """What the run ran on: facts, packages, and the changes of its code."""
    found = details.environment
    if found is None:
        return
    facts = {"python": " ".join(filter(None, (found.version, found.python))), "environment": found.name}
    facts |= {"image": found.image, **found.machine, "packages": found.problem and f"unknown: {found.problem}"}
    sections = {"Environment": {name: value for name, value in facts.items() if value}, "Packages": found.packages}
    for title, pairs in sections.items():
        if pairs:
            yield from ("", styled(title, "bold"))
            yield from _pairs(pairs, label_width=min(30, max(map(len, pairs))), indent="  ")
    for title, text in {"Conda file": found.conda, "Changes of the code": found.changes}.items():
        if text:
            yield from ("", styled(title, "bold"), *map(shown_line, text.rstrip("\n").split("\n")))


def _attempts_view(run: Run) -> Iterator[str]:
    rows = [
        (
            *(str(number), _time_text(each.started) if each.started else "", duration_text(each.duration)),
            one_line(each.outcome),
        )
        for number, each in enumerate(attempts_of(run), 1)
    ]
    titles = ("NUMBER", "STARTED", "DURATION", "OUTCOME")
    yield from _table("Attempts", titles, rows, right=(0, 2), ranks=(0, 2, 1, 3), cut=(3,))


def _nested_names(details: RunDetails) -> dict[str, str]:
    """The names of nested runs by id, if no other one has the name. Empty for the run itself."""
    ids: dict[str, list[str]] = {}
    for child in details.children:
        if REPEATED_BY not in child.tags:
            ids.setdefault(own_name(child) or child.id, []).append(child.id)
    return {found[0]: one_line(name) for name, found in ids.items() if len(found) == 1} | {details.run.id: ""}


def _machine_view(details: RunDetails) -> Iterator[str]:
    uses = machine_use(details.metrics)
    names = _nested_names(details)
    nested = [names.get(each.run, each.run) for each in uses]
    rows = [
        (one_line(each.metric), each.node, *map(number_text, (each.mean, each.peak, each.last)), str(each.count), run)
        for each, run in zip(uses, nested, strict=True)
    ]
    node = "NODE" if any(each.node for each in uses) else ""
    header = ("NAME", node, "MEAN", "PEAK", "LAST", "VALUES", "NESTED RUN" if any(nested) else "")
    yield from _table("Machine", header, rows, right=(2, 3, 4, 5), ranks=(0, 1, 2, 2, 3, 4, 5), cut=(0,))


def machine_text(metrics: Iterable[Metric]) -> str:
    """A summary of MLflow's system metrics in one line: mean and peak of the CPU's utilization, peak memory, and the
    same of each GPU. The first metric of each name counts. Empty if there are none."""
    found: dict[str, dict[str, Metric]] = {}
    for metric in metrics:
        if (name := _MACHINE.fullmatch(metric.name)) and any(math.isfinite(point.value) for point in metric.points):
            found.setdefault(name[1].replace("system", "cpu"), {}).setdefault(name[2], metric)
    parts = []
    for device, facts in sorted(found.items(), key=lambda item: int(item[0][4:] or -1)):
        words = []
        for metric in facts.values():
            values = [point.value for point in metric.points]
            summary = system_summary(metric.name, [point.step for point in metric.points], values)
            if metric.name.endswith("megabytes"):
                words.append(f"peak memory {size_text(round(min(summary, 1e12) * 1e6))}")
            else:
                words.insert(0, f"{summary:.0f}% (peak {max(filter(math.isfinite, values)):.0f}%)")
        parts.append(f"{device.upper().replace('_', ' ')} {', '.join(words)}")
    return "; ".join(parts)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], **layout: Any) -> Iterator[str]:
    if rows:
        yield from ("", styled(title, "bold"))
        yield from aligned([header, *rows], **layout)


def _facts(run: Run) -> dict[str, str]:
    """Names and values of facts. Empty values are not shown."""
    values, tags = values_text(hyperparameters_of(run.tags)), run.tags
    code = "" if run.exit_code is None else f"exit code {run.exit_code}"
    reason = run.reason.removeprefix("waits for ")
    outcome = reason if code and code in reason else ", ".join(part for part in (code, reason) if part)
    # A local sweep or pipeline that stopped before its end
    can_resume = MANY in tags and run.folder and run.status in (RunStatus.failed, RunStatus.canceled)
    if run.started is None:
        started = "" if run.status.is_final else f"not yet, submitted {_time_text(run.created)}"
    else:
        took = f", {'took' if run.ended else 'running for'} {duration_text(run.duration)}"
        started = _time_text(run.started) + ("" if run.duration is None or run.is_unknown else took)
    queue = queued_in(tags)
    return {
        "Name": own_name(run),
        "Description": run.description,
        "Experiment": run.experiment,
        "Archived": f"yes; to restore it: himl runs restore {run.id}" if run.is_archived else "",
        "Outcome" if run.status.is_final else "In progress" if run.is_unknown else "Waits for": outcome,
        "To resume": f"himl submit --resume {run.id}" if can_resume and "--max_failures" not in run.reason else "",
        "Started": started,
        "Attempts": f"{tags[LAST_ATTEMPT]}; log of the first: himl runs logs {run.id} --try 1"
        if LAST_ATTEMPT in tags
        else "",
        "New code": tags.get(NEW_CODE, ""),
        "Repeats": tags.get(REPEATS, ""),
        "Command": run.command,
        "Changed from" if PUSHED in tags else "Started from": tags.get(FROM_RUN, ""),
        **({queue[0].capitalize(): f"job {queue[1]}"} if queue and queue[1] else {}),
        "GPUs": tags.get(GPUS, ""),
        "Sweep": tags.get(SWEPT, ""),
        "Best trial": "" if tags.get(MANY) in REPEATED else tags.get(BEST_TRIAL, ""),
        "Values": "" if values == run.display_name else values,
        "Parent": run.parent or "",
        "Waited for": tags.get(STEP_AFTER, "").replace(",", ", "),
        "Folder": shown_path(run.folder),
        "Workspace": run.workspace,
        "Recorded in": tags.get(RECORDED_IN, ""),
        "MLflow": f"runs at '{tags[MLFLOW_ADDRESS]}', not in himl" if MLFLOW_ADDRESS in tags else "",
        "Notified": tags.get(NOTIFICATION, ""),
        "Not recorded": tags.get(STOPPED, ""),
        "Studio": run.url or tags.get(STUDIO, ""),
    }


def _time_text(time: datetime) -> str:
    return local_time(time) if sys.stdout.isatty() else utc_text(time)


def _pairs(pairs: Mapping[str, str], *, label_width: int, indent: str = "") -> Iterator[str]:
    """`name  value` lines with aligned values. A terminal folds long values, and puts them below a name that is too
    long."""
    begin = len(indent) + label_width + 2
    for name, value in pairs.items():
        head = f"{indent}{one_line(name).ljust(label_width)}  "
        # Links must be clickable, and commands must be easy to copy
        if not sys.stdout.isatty() or value.startswith(("https://", "himl submit --resume ")):
            yield f"{styled(head, 'dim')}{one_line(value)}".rstrip()
            continue
        lines = folded(one_line(value), max(20, width() - begin))
        first, *rest = [*([""] if len(head) > begin else []), *lines] or [""]
        yield f"{styled(head if first else head.rstrip(), 'dim')}{first}"
        yield from (" " * begin + line for line in rest)
