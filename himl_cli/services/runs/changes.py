"""Stop, tag and delete runs, and store files among those of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import BadUsage, HimlError, RunNotFound
from himl_cli.core.jobs import HYPERPARAMETERS, MANY, STEP
from himl_cli.core.runs import Run, RunQuery
from himl_cli.workspaces.base import BlobStore, FolderWorkspace, Workspace

CHILDREN = {"sweep": "trial", "pipeline": "step", "trial": "nested run", "step": "nested run", "": "nested run"}
"""What the children of a run are called, by what it is itself."""


@dataclass(frozen=True)
class CancelOutcome:
    """Whether the run was asked to stop; where not, it had ended with `status` before.

    `kind` is what the run is among many: `sweep` or `pipeline`, whose children stop with it, or `trial` or `step` of
    its `parent`; empty for a run by itself.
    """

    id: str
    asked: bool
    status: str
    kind: str = ""
    parent: str | None = None


def cancel_runs(workspace: Workspace, runs: Sequence[Run]) -> list[CancelOutcome]:
    """Ask every one of *runs* to stop. Raises DiskFailed where one cannot be asked."""
    asked = [(run, workspace.cancel(run.id)) for run in {run.id: run for run in runs}.values()]
    return [
        CancelOutcome(run.id, was_asked, workspace.run(run.id).status.value, kind_of(run), run.parent)
        for run, was_asked in asked
    ]


def kind_of(run: Run) -> str:
    """`sweep`, `pipeline`, `trial`, `step`; empty for a run by itself."""
    if MANY in run.tags:
        return "pipeline" if run.tags[MANY] == "pipeline" else "sweep"
    return "step" if STEP in run.tags else "trial" if HYPERPARAMETERS in run.tags and run.parent else ""


def check_tags(tags: Mapping[str, str]) -> None:
    """Raises BadUsage where there are none."""
    if not tags:
        raise BadUsage("No tag was given.", hint="A tag is KEY=VALUE, for example: himl runs tag RUN team=blue")


@contextmanager
def tags_explained() -> Iterator[None]:
    """Within it, the error about an unknown run says how a tag is written: what was taken for a run may have been meant
    as one."""
    try:
        yield
    except RunNotFound as err:
        err.hint = f"{err.hint} A tag is KEY=VALUE."
        raise


def check_deletable(workspace: Workspace, runs: Sequence[Run]) -> None:
    """Raises BadUsage while one of *runs* is running, HimlError where one cannot be deleted."""
    for run in runs:
        home = workspace.home_of(run.id)
        if not isinstance(home, FolderWorkspace):
            raise HimlError(
                f"Run '{run.id}' is in {home.label}, whose runs cannot be deleted.",
                hint="Only runs of a local workspace can; nothing was deleted.",
            )
    active = [run for run in runs if not run.status.is_final]
    if active:
        raise BadUsage(
            f"Run '{active[0].id}' is {active[0].status.value.lower()}; nothing was deleted.",
            hint=f"Stop it first: himl runs cancel {active[0].id}",
        )


def runs_below(workspace: Workspace, runs: Sequence[Run]) -> dict[str, str]:
    """How many children go with each of *runs*, in words (`4 trials`), by its id; empty for a run that has none."""
    counts = {run.id: sum(1 for _ in workspace.runs(RunQuery(parent=run.id))) for run in runs}
    return {
        run.id: f"{counts[run.id]} {CHILDREN[kind_of(run)]}{'s' * (counts[run.id] != 1)}" if counts[run.id] else ""
        for run in runs
    }


def delete_runs(workspace: Workspace, runs: Sequence[Run]) -> None:
    """Delete every one of *runs*; one that went already, as a child goes with its parent, is passed over."""
    for run in runs:
        with suppress(RunNotFound):
            home = workspace.home_of(run.id)
            if isinstance(home, FolderWorkspace):
                home.delete(run.id)


def store_files(store: BlobStore, files: Mapping[str, Path]) -> None:
    """Store *files* by the names that they get, replacing what has these names.

    Raises BadUsage for one that is not there before any is stored; once all were tried, the first error, naming how
    many failed.
    """
    requests = []
    for name, path in files.items():
        if not path.is_file():
            raise BadUsage(f"There is no file '{path}' to upload.")
        requests.append(StoreRequest(path, name, os.path.getsize(path)))
    sink = _Outcome()
    store.store(iter(requests), sink, workers=8)
    if len(sink.errors) > 1:
        text = f"{sink.errors[0]} ({len(sink.errors)} of {len(requests)} files could not be stored)"
        sink.errors[0].args = (text,)
    if sink.errors:
        raise sink.errors[0]


class _Outcome:
    """Hears of the files; keeps what went wrong."""

    def __init__(self) -> None:
        self.errors: list[HimlError] = []

    def advance(self, request: StoreRequest, amount: int) -> None:
        """Nobody watches."""

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        """It is there."""

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        self.errors.append(error)
