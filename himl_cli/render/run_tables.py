"""The table of runs: its columns, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from himl_cli.core.runs import Run, own_name, own_tags
from himl_cli.render.durations import duration_text, local_time
from himl_cli.render.json_form import utc_text
from himl_cli.render.style import STATUS_STYLES
from himl_cli.render.tables import Column


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
    lambda run: _short(run.workspace),
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


def _short(label: str) -> str:
    """A workspace in a word or two: `local`, or `GROUP/NAME`."""
    return "local" if label.startswith("local workspace") else label.removeprefix("workspace ")
