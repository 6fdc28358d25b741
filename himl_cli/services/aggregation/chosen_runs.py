"""Which runs are put side by side: the children of a run that has some, else the runs that were selected."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.events import Notify, ignore
from himl_cli.core.runs import Run, RunSelection
from himl_cli.core.sweeps import MANY
from himl_cli.services.run_details import children_of
from himl_cli.services.run_lookup import find_runs, means_one_run
from himl_cli.workspaces.base import Workspace

PREPARATION = "_preparation"
"""What the id of a child ends with in which older sweeps of Azure ML built their environment; it logs nothing."""


@dataclass(frozen=True)
class ChosenRuns:
    """The runs in their order; `parent` is the one whose children they are, if they all are one's."""

    runs: Sequence[Run]
    parent: Run | None = None


def choose_runs(workspace: Workspace, selection: RunSelection, *, cwd: Path, notify: Notify = ignore) -> ChosenRuns:
    """The runs that *selection* puts side by side.

    A single run stands for its children (trials, folds, steps, or runs that its script nested in it), and without
    children for itself; of several runs the sweeps and pipelines do. No run comes twice. Never empty: raises what
    `find_runs` does.
    """
    found = find_runs(workspace, selection, cwd=cwd, notify=notify)
    if means_one_run(selection):
        return children_chosen(workspace, found[0])
    if selection.children:
        return ChosenRuns(in_order(found))
    standing = [each for run in found for each in (children_chosen(workspace, run).runs if MANY in run.tags else [run])]
    return ChosenRuns([*{run.id: run for run in standing}.values()])


def children_chosen(workspace: Workspace, parent: Run) -> ChosenRuns:
    """The children of *parent*, else itself."""
    children = [child for child in children_of(workspace, parent) if child.id != f"{parent.id}{PREPARATION}"]
    return ChosenRuns(in_order(children), parent) if children else ChosenRuns([parent])


def in_order(children: Sequence[Run]) -> list[Run]:
    """Trials by their numbers, parent after parent; runs without a number stay where they are."""
    numbers = [number_of(run) for run in children]
    if any(number is None for number in numbers):
        return list(children)
    parents = {parent: place for place, parent in enumerate(dict.fromkeys(run.parent for run in children))}
    return sorted(children, key=lambda run: (parents[run.parent], number_of(run) or 0))


def number_of(run: Run) -> int | None:
    """The number of a trial, which its id ends with: `PARENT_3`."""
    found = re.fullmatch(r"_(\d+)", run.id.removeprefix(run.parent)) if run.parent else None
    return int(found[1]) if found else None
