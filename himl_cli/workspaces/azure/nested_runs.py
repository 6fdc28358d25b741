"""Runs that a script logged within its own: MLflow's nested runs.

Trials of a sweep, steps of a pipeline and the models of an AutoML job are children in the same way, but they are jobs of
their own, possibly hundreds; they do not count as nested.
"""

from __future__ import annotations

from himl_cli.workspaces.azure.history import RunFacts, RunHistory
from himl_cli.workspaces.azure.threads import ask_all


def with_nested(history: RunHistory, run: RunFacts) -> list[str]:
    """The ids of the run and of the runs nested in it, oldest first on each level; a request a run."""
    found = [run.id]
    parents = [] if run.starts_jobs else [run.id]
    while parents:
        below = ask_all(lambda parent: [child["runId"] for page in history.children(parent) for child in page], parents)
        parents = [child for children in below for child in reversed(children) if child not in found]
        found += parents
    return found
