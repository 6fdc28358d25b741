"""One run in full, for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

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
    Texts,
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
    values_text,
)
from himl_cli.render.aligned import aligned
from himl_cli.render.durations import duration_text, local_time
from himl_cli.render.errors import one_line
from himl_cli.render.json_form import float_form, utc_text
from himl_cli.render.places import shown_path
from himl_cli.render.steps_view import is_pipeline, steps_view
from himl_cli.render.style import STATUS_STYLES, folded, styled, width
from himl_cli.render.trials_view import trials_view

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
            _number(metric.last.value),
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


def _number(value: float) -> str:
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
