"""Delete runs with their files, after a list of what would be deleted."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress

from himl_cli.core.errors import BadUsage, HimlError, Interrupted, RunNotFound
from himl_cli.core.events import Notify, ignore
from himl_cli.core.runs import Run, RunFootprint, RunQuery, check_known, with_digits
from himl_cli.core.text import listed
from himl_cli.services.runs.lookup import parse_reference
from himl_cli.workspaces.base import CloudWorkspace, ManagedWorkspace, Workspace


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


def delete_rests(workspace: Workspace, names: Sequence[str]) -> list[str]:
    """Delete the files that an earlier deletion could not delete. Return those of *names* whose runs had such files.
    Raises DiskFailed."""
    return [name for name in names if workspace.delete_rest(parse_reference(name).run_id)]


def forget_runs(workspace: Workspace, names: Sequence[str]) -> list[str]:
    """Remove the pointers to runs on other machines, whose ids or hex digits are *names*, and return their ids. Asks no
    machine. Raises RunNotFound for the first one without a pointer, BadUsage for several runs or without names."""
    if not names:
        raise BadUsage("--pointer_only needs the ids of runs.", hint="See them: himl runs list")
    known, found = workspace.known_ids(), list[str]()
    for name in names:
        run_id = parse_reference(name).run_id
        like = with_digits(run_id, known) if run_id not in known else [run_id]
        if len(like) > 1:
            raise BadUsage(f"'{run_id}' is short for {len(like)} runs.", hint=f"Name one of them: {listed(like)}.")
        if not like or not workspace.forget(like[0]):
            raise RunNotFound(run_id, "the pointers to runs on other machines")
        found += like
    return found


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
                if isinstance(home, ManagedWorkspace):
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
