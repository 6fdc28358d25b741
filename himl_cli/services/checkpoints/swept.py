"""Checkpoints of a sweep: they are its trials', and of those the best one is known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from himl_cli.core.errors import NotFound
from himl_cli.core.runs import Run
from himl_cli.core.sweeps import BEST_TRIAL, MANY, REPEATED
from himl_cli.services.checkpoints.names import FOLDER
from himl_cli.services.runs.details import children_of, sweep_view
from himl_cli.workspaces.base import Workspace

LOOKED_AT = 5
"""So many children are looked into for one that has a checkpoint."""


def best_trial_of(run: Run, workspace: Workspace) -> Run | None:
    """The best trial of a sweep; None for a run that is none. Raises NotFound where there is no best one, or not
    yet."""
    if MANY not in run.tags or run.tags[MANY] == "pipeline":
        return None
    if run.tags[MANY] in REPEATED:
        raise NotFound(
            f"Run '{run.id}' repeats one training, and none of its runs is the best.", hint=_children(run, workspace)
        )
    best = run.tags.get(BEST_TRIAL)
    if not best:
        view = sweep_view(workspace, run, children_of(workspace, run))
        best = view.best if view is not None else None
    if not best:
        raise NotFound(
            f"Sweep '{run.id}' has no best trial{'' if run.status.is_final else ' yet'}.",
            hint=_children(run, workspace),
        )
    return workspace.run(best)


@contextmanager
def explaining_parents(run: Run, workspace: Workspace) -> Iterator[None]:
    """Within it, the error that a run of many has no checkpoint (NotFound) is raised as one whose hint names the run
    that has one."""
    try:
        yield
    except NotFound as err:
        if MANY not in run.tags:
            raise
        best = run.tags.get(BEST_TRIAL)
        told = (
            f"Name its best trial, himl checkpoint fetch {best}, or add --select best."
            if best
            else _children(run, workspace)
        )
        raise NotFound(f"Run '{run.id}' has no such checkpoint of its own; those below it may.", hint=told) from err


def _children(run: Run, workspace: Workspace) -> str:
    children = [child.id for child in children_of(workspace, run)]
    kept = next((child for child in children[:LOOKED_AT] if any(workspace.run_files(child).list(f"{FOLDER}/"))), "")
    way = (
        f"Name one of its runs, as in 'himl checkpoint fetch {kept}'"
        if kept
        else f"None of its first {LOOKED_AT} runs kept files in {FOLDER}"
    )
    return f"{way}; 'himl runs show {run.id}' lists them."
