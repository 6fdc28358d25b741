"""Asking a workspace for everything it knows of one run."""

from __future__ import annotations

from himl_cli.core.run_details import RunDetails
from himl_cli.core.runs import Run, RunQuery
from himl_cli.workspaces.base import Workspace


def run_details(workspace: Workspace, run: Run) -> RunDetails:
    """What *run* logged, and its children in the order they were made. Raises RunNotFound when it was deleted meanwhile."""
    children = children_of(workspace, run)
    values = workspace.values(run.id)
    return RunDetails(run, workspace.parameters(run.id), values.metrics, children, values.texts)


def children_of(workspace: Workspace, run: Run) -> list[Run]:
    """The children of *run* in the order they were made."""
    return list(workspace.runs(RunQuery(parent=run.id)))[::-1]
