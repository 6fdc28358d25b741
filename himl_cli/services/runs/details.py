"""Asking a workspace for everything it knows of one run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from himl_cli.core.errors import HimlError
from himl_cli.core.jobs import BEST_TRIAL, GOAL, MANY, PRIMARY_METRIC, REPEATED, SWEPT, TRIAL, hyperparameters_of
from himl_cli.core.runs import Run, RunDetails, RunQuery, RunStatus, SweepView, TrialView
from himl_cli.workspaces.base import Workspace

log = logging.getLogger(__name__)
BEST_SO_FAR = "best_child_by_primary_metric/"
"""What the names of the columns begin with of a table that Azure ML keeps for itself among the metrics of a sweep."""


def run_details(workspace: Workspace, run: Run) -> RunDetails:
    """What *run* logged, and its children in the order they were made. Raises RunNotFound when it was deleted
    meanwhile."""
    children = children_of(workspace, run)
    values = workspace.values(run.id)
    sweep = sweep_view(workspace, run, children)
    below = {} if sweep else _below(workspace, children)
    metrics = [metric for metric in values.metrics if not (sweep and metric.name.startswith(BEST_SO_FAR))]
    texts = [each for each in values.texts if not (sweep and each.name.startswith(BEST_SO_FAR))]
    return RunDetails(run, workspace.parameters(run.id), metrics, children, texts, sweep, below)


def children_of(workspace: Workspace, run: Run) -> list[Run]:
    """The children of *run* in the order they were made; trials by their numbers."""
    children = reversed(list(workspace.runs(RunQuery(parent=run.id))))
    return sorted(children, key=lambda child: int(child.tags[TRIAL]) if child.tags.get(TRIAL, "").isdecimal() else -1)


def sweep_view(workspace: Workspace, run: Run, children: Sequence[Run]) -> SweepView | None:
    """The trials of *run* with the last values of its primary metric, for a request or two in all; None where its
    *children* are no trials."""
    values = {child.id: hyperparameters_of(child.tags) for child in children}
    trials = [child for child in children if values[child.id]]
    if not trials:
        return None
    metric, goal = run.tags.get(PRIMARY_METRIC, ""), run.tags.get(GOAL, "minimize")
    found = workspace.results(trials, wanted=lambda name: name == metric, whole=False) if metric else {}
    views = []
    for child in trials:
        last = found[child.id].last.get(metric) if child.id in found else None
        if isinstance(last, bool) or not isinstance(last, (int, float)):
            last = None
        views.append(TrialView(child, values[child.id], None if last is None else float(last)))
    if run.tags.get(MANY) in REPEATED:
        return SweepView(metric, goal, views, is_repeated=True)
    view = SweepView(metric, goal, views)
    recorded = run.tags.get(BEST_TRIAL, "")
    return replace(view, best=recorded if recorded in values else view.best_at_the_end)


def sweep_outcome(workspace: Workspace, run: Run) -> SweepView | None:
    """The trials of a sweep that has ended; None for another run, and where they cannot be asked for: the run's own
    outcome is known without them."""
    if MANY not in run.tags and SWEPT not in run.tags:
        return None
    try:
        return sweep_view(workspace, run, children_of(workspace, run))
    except HimlError as err:
        log.debug("no table of trials: %s", err)
        return None


def failed_child(workspace: Workspace, run: Run) -> str:
    """The id of the first child of a failed sweep or pipeline that failed itself: its log says why. Empty for other
    runs, and where nobody can say."""
    if run.status is not RunStatus.failed or MANY not in run.tags:
        return ""
    try:
        children = children_of(workspace, run)
    except HimlError as err:
        log.debug("no children: %s", err)
        return ""
    return next((child.id for child in children if child.status is RunStatus.failed), "")


def _below(workspace: Workspace, children: Sequence[Run]) -> dict[str, Sequence[Run]]:
    """The children of those runs that are many themselves, and of theirs."""
    below: dict[str, Sequence[Run]] = {}
    for child in children:
        if MANY in child.tags:
            below[child.id] = children_of(workspace, child)
            below |= _below(workspace, below[child.id])
    return below
