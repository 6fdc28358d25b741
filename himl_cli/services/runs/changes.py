"""Change runs: cancel and tag them, one after another or at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

from himl_cli.core.errors import BadUsage, HimlError, RunNotFound
from himl_cli.core.jobs import STEP
from himl_cli.core.records import dataclass
from himl_cli.core.runs import Run, RunFootprint, check_known
from himl_cli.core.sweeps import HYPERPARAMETERS, MANY
from himl_cli.workspaces.base import Answer, Item, Workspace

CHILDREN = {"sweep": "trial", "pipeline": "step", "trial": "nested run", "step": "nested run", "": "nested run"}
"""Noun for the children of a run, by the kind of the run."""


def change_all(workspace: Workspace, change: Callable[[Item], Answer], changes: Sequence[Item]) -> list[Answer]:
    """The results of *change* for each of *changes*, in their order. An error does not stop the others. Raises the
    first one at the end."""

    def tried(one: Item) -> tuple[Answer | None, HimlError | None]:
        try:
            return change(one), None
        except HimlError as err:
            return None, err

    results = workspace.ask_all(tried, changes)
    for _, error in results:
        if error is not None:
            raise error
    return [cast("Answer", result) for result, _ in results]


@dataclass(frozen=True)
class CancelOutcome:
    """Whether the run was asked to stop. If not, it had already ended with `status`.

    `kind` is `sweep` or `pipeline`, whose children stop with it, `trial` or `step` of its `parent`, or empty for a
    single run.
    """

    id: str
    asked: bool
    status: str
    kind: str = ""
    parent: str | None = None


def cancel_runs(workspace: Workspace, runs: Sequence[Run], *, force: bool = False) -> list[CancelOutcome]:
    """Request that *runs* stop. Raises DiskFailed if a request fails, and BadUsage before any request if it is unknown
    whether one of them is in progress, unless *force*."""
    for run in runs if not force else ():
        check_known(run, "himl runs cancel")

    def cancel(run: Run) -> CancelOutcome:
        was_asked = workspace.cancel(run.id, force=force)
        return CancelOutcome(run.id, was_asked, workspace.run(run.id).status.value, kind_of(run), run.parent)

    return change_all(workspace, cancel, [*{run.id: run for run in runs}.values()])


def kind_of(run: Run) -> str:
    """`sweep`, `pipeline`, `trial` or `step`, or empty for a single run."""
    if MANY in run.tags:
        return "pipeline" if run.tags[MANY] == "pipeline" else "sweep"
    return "step" if STEP in run.tags else "trial" if HYPERPARAMETERS in run.tags and run.parent else ""


def check_tags(tags: Mapping[str, str]) -> None:
    """Raise BadUsage if *tags* is empty."""
    if not tags:
        raise BadUsage("No tag was given.", hint="A tag is KEY=VALUE, for example: himl runs tag RUN team=blue")


@contextmanager
def tags_explained() -> Iterator[None]:
    """Context that adds the syntax of a tag to the error for an unknown run, which may be a mistyped tag."""
    try:
        yield
    except RunNotFound as err:
        err.hint = f"{err.hint} A tag is KEY=VALUE."
        raise


def children_text(footprint: RunFootprint) -> str:
    """Number of child runs that are deleted with the run (`4 trials`). Empty without children."""
    count = sum(1 for each in footprint.below if each.parent == footprint.run.id)
    return f"{count} {CHILDREN[kind_of(footprint.run)]}{'s' * (count != 1)}" if count else ""
