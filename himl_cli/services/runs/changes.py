"""Change runs: cancel and tag them, and delete them with their files, after a list of what would be deleted."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import cast

from himl_cli.core.errors import BadUsage, HimlError, Interrupted, RunNotFound
from himl_cli.core.events import Notify, ignore
from himl_cli.core.jobs import STEP
from himl_cli.core.records import dataclass
from himl_cli.core.runs import Run, RunFootprint, RunQuery, check_known
from himl_cli.core.sweeps import HYPERPARAMETERS, MANY
from himl_cli.core.text import listed
from himl_cli.services.runs.lookup import parse_reference
from himl_cli.workspaces.base import Answer, CloudWorkspace, FolderWorkspace, Item, Workspace

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


def footprints_of(
    workspace: Workspace, runs: Sequence[Run], *, outputs: bool, force: bool = False
) -> list[RunFootprint]:
    """Files and records that are deleted with each of *runs*. *outputs* includes the data that runs on Azure ML
    registered.

    Raises BadUsage if one of them, or a child run, has not ended or (without *force*) if that is unknown, NotAllowed if
    their files may not be listed.
    """
    _check_ended(runs, force)

    def footprint(run: Run) -> RunFootprint:
        home = workspace.home_of(run.id)
        if isinstance(home, CloudWorkspace):
            found = home.footprint(run, outputs=outputs)
        else:
            found = RunFootprint(run, [*workspace.runs(RunQuery(parent=run.id, archived=None))])
        _check_ended(found.below, force)
        return found

    return workspace.ask_all(footprint, runs)


def _check_ended(runs: Iterable[Run], force: bool) -> None:
    for run in runs:
        if not run.status.is_final and not (force and run.is_unknown):
            check_known(run, "himl runs delete")
            raise BadUsage(
                f"Run '{run.id}' is {run.status.value.lower()}. Nothing was deleted.",
                hint=f"Stop it first: himl runs cancel {run.id}",
            )


def children_text(footprint: RunFootprint) -> str:
    """Number of child runs that are deleted with the run (`4 trials`). Empty without children."""
    count = sum(1 for each in footprint.below if each.parent == footprint.run.id)
    return f"{count} {CHILDREN[kind_of(footprint.run)]}{'s' * (count != 1)}" if count else ""


def delete_rests(workspace: Workspace, names: Sequence[str]) -> list[str]:
    """Delete the files that an earlier deletion could not delete. Return those of *names* whose runs had such files.
    Raises DiskFailed."""
    return [name for name in names if workspace.delete_rest(parse_reference(name).run_id)]


def delete_runs(
    workspace: Workspace, footprints: Sequence[RunFootprint], notify: Notify = ignore, *, force: bool = False
) -> list[str]:
    """Delete runs, and skip those that have been deleted with their parent. *force* as in `footprints_of`.

    Return the ids of runs that were archived instead, because their service cannot delete runs. An error does not stop
    the others. Raises the first one at the end, and Interrupted.
    """
    left, begun, archived = [each.run.id for each in footprints], list[str](), list[str]()
    errors: list[HimlError | None] = []

    def delete(each: RunFootprint) -> HimlError | None:
        run_id = each.run.id
        try:
            with suppress(RunNotFound):
                home = workspace.home_of(run_id)
                if isinstance(home, FolderWorkspace):
                    home.delete(run_id, force=force)
                elif isinstance(home, CloudWorkspace):
                    begun.append(run_id)
                    archived.extend([] if home.erase(each, notify=notify) else [run_id])
        except HimlError as err:
            return err
        left.remove(run_id)
        return None

    def hint() -> str:
        outputs = ["--outputs"] if any(each.outputs for each in footprints) else []
        return f"To continue: {shlex.join(['himl', 'runs', 'delete', *left, *outputs])}"

    below = {run.id for each in footprints for run in each.below}
    try:
        # A run below another one comes later, because the service must not change it while it deletes the other one
        for is_below in (False, True):
            errors += workspace.ask_all(delete, [each for each in footprints if (each.run.id in below) is is_below])
    except KeyboardInterrupt as err:
        if not (stopped := [run_id for run_id in begun if run_id in left]):
            raise
        runs = f"run '{stopped[0]}' may be deleted, but the run still exists."
        if len(stopped) > 1:
            runs = f"runs {listed(stopped)} may be deleted, but the runs still exist."
        raise Interrupted(f"Stopped. Some files of {runs}", hint=hint()) from err
    for error in filter(None, errors):
        if not isinstance(error, BadUsage):
            error.hint = f"{error.hint} {hint()}".strip()
        raise error
    return archived
