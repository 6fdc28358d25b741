"""Runs that a script logged within its own: MLflow's nested runs.

Trials of a sweep, steps of a pipeline and the models of an AutoML job are children in the same way, but they are jobs
of their own, possibly hundreds; they do not count as nested.
"""

from __future__ import annotations

import logging
from itertools import chain, islice

from himl_cli.workspaces.azure.requests.threads import ask_all
from himl_cli.workspaces.azure.runs.history import RunFacts, RunHistory

log = logging.getLogger(__name__)

MOST_NESTED = 500
"""Each nested run takes requests of its own, for what is nested in it and for its metrics: beyond this, they are left
out, and that is said."""


def with_nested(history: RunHistory, run: RunFacts) -> list[str]:
    """The ids of the run and of the runs nested in it, oldest first on each level.

    A request a run, `MOST_NESTED` runs at most: the newest of each parent. A warning says it where there are more.
    """
    found = dict.fromkeys([run.id])
    parents = [] if run.starts_jobs else [run.id]
    while parents:
        left = MOST_NESTED + 1 - len(found)
        below = ask_all(lambda parent: _children(history, parent, most=left + 1), parents)  # noqa: B023
        parents = [child for children in below for child in reversed(children) if child not in found]
        if len(parents) > left:
            log.warning("run '%s' has more than %d nested runs; the others' metrics are left out", run.id, MOST_NESTED)
            return [*found, *parents[-left:]] if left else [*found]
        found |= dict.fromkeys(parents)
    return list(found)


def _children(history: RunHistory, parent: str, *, most: int) -> list[str]:
    return [child["runId"] for child in islice(chain.from_iterable(history.children(parent)), most)]
