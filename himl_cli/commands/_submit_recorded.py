"""What `himl submit --record_in azure` does once its options are read."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from himl_cli.commands._recorder import start_recorder
from himl_cli.commands.options import OutputOptions, WorkspaceOptions
from himl_cli.commands.session import For, open_session
from himl_cli.commands.submit_job import wait_here, with_checkpoint, with_inputs
from himl_cli.core.errors import Interrupted, JobFailed
from himl_cli.core.processes import interruptions
from himl_cli.render.jobs import print_prepared, print_recorded, print_sent
from himl_cli.services.recording.start import Recording, submit_recorded
from himl_cli.services.recording.waiting import wait_until_told
from himl_cli.workspaces.resolve import open_azure, recording_place

if TYPE_CHECKING:
    from himl_cli.services.submission.request import PreparedJob
    from himl_cli.workspaces.azure.address import WorkspaceAddress
    from himl_cli.workspaces.base import FolderWorkspace


def run_recorded(
    where: WorkspaceOptions, talk: OutputOptions, job: PreparedJob, address: WorkspaceAddress, *, waits: bool
) -> None:
    """Run the job on this machine, and tell it to the workspace at *address*. Ctrl-C cancels it while it is waited for.
    Raises JobFailed, Interrupted."""
    with open_session(_local_part(where), talk, For.jobs) as session:
        print_prepared(session.output, job.remarks, job.report)
        job = with_checkpoint(session, where, with_inputs(session, job))
        here = cast("FolderWorkspace", session.workspace)
        recording = Recording(recording_place(address, session.cwd), start_recorder)
        with interruptions() as interrupted:
            with closing(open_azure(address, session.cwd)) as there:
                run, twin = submit_recorded(here, there, job, session.cwd, recording, session.notify)
            print_recorded(session.output, run, twin)
            if not waits:
                print_sent(session.output, replace(run, url=twin.url), waits=False, follows=False)
                if interrupted:  # while it was started
                    here.cancel(run.id)
                    raise Interrupted(f"Run '{run.id}' is canceled.", hint=f"See how it ends: himl runs show {run.id}")
                return
            try:
                wait_here(session, run, interrupted, spec=job.spec)
            except JobFailed:
                wait_until_told(here, run, twin.workspace, session.notify, interrupted)
                raise
            if not wait_until_told(here, run, twin.workspace, session.notify, interrupted) and interrupted:
                raise Interrupted(f"Stopped waiting; run '{run.id}' has ended.", hint=f"See himl runs show {run.id}")


def _local_part(where: WorkspaceOptions) -> WorkspaceOptions:
    """The options without an Azure ML workspace that they name: that is where the job is told to, and not where it is
    kept."""
    names_azure = where.config_file or (where.workspace or "").endswith(".json")
    return WorkspaceOptions(None, None) if names_azure else where
