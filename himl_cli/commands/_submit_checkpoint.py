"""What `--checkpoint SOURCE` adds to a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from himl_cli.commands._options import WorkspaceOptions
from himl_cli.commands._session import Session
from himl_cli.core.errors import BadUsage, NotFound, WorkspaceNotFound
from himl_cli.render.progress import observing

if TYPE_CHECKING:
    from himl_cli.services.submission.request import PreparedJob
    from himl_cli.workspaces.base import Workspace


def with_checkpoint_there(session: Session, where: WorkspaceOptions, job: PreparedJob) -> PreparedJob:
    """The same for a job on a cluster, which reads the checkpoint from the workspace's storage."""
    if job.checkpoint is None:
        return job
    if job.spec.sdk == "v1":
        raise BadUsage("--checkpoint does not go with --sdk v1.", hint="Leave one of them out.")
    from himl_cli.services.checkpoints.referring import refer_to_checkpoint
    from himl_cli.workspaces.open import open_address

    with _runs(session, where, job.checkpoint) as runs, observing(session.output) as notify:
        return replace(
            job,
            spec=refer_to_checkpoint(
                job.checkpoint, runs, session.workspace, job.spec, session.cwd, notify, open_address
            ),
        )


def with_checkpoint(session: Session, where: WorkspaceOptions, job: PreparedJob) -> PreparedJob:
    """The job with the files of its checkpoint, which are brought to this machine where they are a run's or at an
    address. Raises NotFound, BadUsage."""
    if job.checkpoint is None:
        return job
    if job.spec.in_place:
        raise BadUsage(
            "--checkpoint does not go with --in_place: it would write into your project.", hint="Leave one of them out."
        )
    from himl_cli.services.checkpoints.bringing import bring_checkpoint
    from himl_cli.workspaces.open import open_address

    with _runs(session, where, job.checkpoint) as runs, observing(session.output) as notify:
        brought = bring_checkpoint(job.checkpoint, runs, session.cwd, notify, open_address)
    return replace(job, spec=replace(job.spec, brought=brought.files, tags={**job.spec.tags, **brought.tags}))


@contextmanager
def _runs(session: Session, where: WorkspaceOptions, source: str) -> Iterator[Workspace]:
    """All runs that may be meant, here and on Azure ML."""
    from himl_cli.workspaces.abilities import HoldsConnections
    from himl_cli.workspaces.open import open_runs

    try:
        workspace = open_runs(where.workspace, where.config_file, start=session.cwd)
    except WorkspaceNotFound:  # the job is the first of its workspace
        try:
            yield session.workspace
        except WorkspaceNotFound:
            raise NotFound(
                f"There is no file '{source}', and no run yet.",
                hint="Name a file, or the config.json of the run's workspace.",
            ) from None
        return
    try:
        yield workspace
    finally:
        if isinstance(workspace, HoldsConnections):
            workspace.close()
