"""`himl submit --record_in azure`, and the process that mirrors a run of this machine to an Azure ML workspace.

The process has a session of its own: it outlives the command and the terminal. Should it be killed itself, the next
himl command in the workspace starts it anew.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from himl_cli.commands.options import OutputOptions, WorkspaceOptions
    from himl_cli.services.runs.mirror_state import MirrorFile, MirrorState
    from himl_cli.services.submission.request import PreparedJob
    from himl_cli.workspaces.azure.address import WorkspaceAddress
    from himl_cli.workspaces.base import FolderWorkspace, Workspace

log = logging.getLogger(__name__)


def run_recorded(
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    job: PreparedJob,
    address: WorkspaceAddress,
    *,
    waits: bool,
) -> None:
    """Run the job on this machine, mirrored to the workspace at *address*. Ctrl-C cancels it while it is waited for.
    Raises JobFailed, Interrupted."""
    from contextlib import closing
    from dataclasses import replace

    from himl_cli.commands.options import WorkspaceOptions
    from himl_cli.commands.session import For, open_session
    from himl_cli.commands.submit_job import wait_here, with_checkpoint, with_inputs
    from himl_cli.core.errors import Interrupted, JobFailed
    from himl_cli.core.processes import interruptions
    from himl_cli.render.job_output import print_prepared, print_run, print_sent
    from himl_cli.services.runs.mirror import submit_mirrored
    from himl_cli.services.runs.mirror_state import wait_until_mirrored
    from himl_cli.workspaces.resolve import open_azure, recording_place

    # An Azure ML workspace that the options name is the one the job is mirrored to, not the one that keeps it
    names_azure = workspace_opts.config_file or (workspace_opts.workspace or "").endswith(".json")
    opened = WorkspaceOptions() if names_azure else workspace_opts
    with open_session(opened, output_opts, For.jobs) as session:
        print_prepared(session.output, job.remarks, job.report)
        job = with_checkpoint(session, workspace_opts, with_inputs(session, job))
        source = cast("FolderWorkspace", session.workspace)
        place = recording_place(address, session.cwd)
        with interruptions() as interrupted:
            with closing(open_azure(address, session.cwd)) as target:
                run, twin = submit_mirrored(source, target, job, session.cwd, place, start_recorder, session.notify)
            print_run(session.output, run, twin=twin, url=twin.url)
            if not waits:
                print_sent(session.output, replace(run, url=twin.url), waits=False, follows=False)
                if interrupted:  # while it was started
                    source.cancel(run.id)
                    raise Interrupted(f"Run '{run.id}' is canceled.", hint=f"See how it ends: himl runs show {run.id}")
                return
            try:
                wait_here(session, run, interrupted, spec=job.spec)
            except JobFailed:
                wait_until_mirrored(source, run, twin.workspace, session.notify, interrupted)
                raise
            is_complete = wait_until_mirrored(source, run, twin.workspace, session.notify, interrupted)
            if interrupted and not is_complete:
                raise Interrupted(f"Stopped waiting; run '{run.id}' has ended.", hint=f"See himl runs show {run.id}")


def start_recorder(folder: Path, run_id: str) -> None:
    """Start the process for a run of the local workspace in *folder*. Raises DiskFailed where its log cannot be
    made."""
    import subprocess

    from himl_cli.core.errors import DiskFailed
    from himl_cli.core.processes import detached
    from himl_cli.services.runs.mirror_state import MirrorFile

    path = MirrorFile(folder, run_id).log
    try:
        with path.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(folder.absolute()), run_id],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                cwd=folder,
                **detached(),
            )
    except OSError as err:
        raise DiskFailed(f"Cannot write '{path}': {err.strerror}.") from err
    process.returncode = 0  # it outlives this process, which Popen would warn of


def resume_recordings(workspace: Workspace) -> None:
    """Go on with the mirrors of the local part of *workspace* that nobody works on; a look at one folder, mostly an
    empty one."""
    from himl_cli.core.errors import DiskFailed
    from himl_cli.services.runs.mirror_state import unfinished
    from himl_cli.workspaces.resolve import local_folder

    folder = local_folder(workspace)
    if folder is None:
        return
    try:
        for run_id in unfinished(folder):
            start_recorder(folder, run_id)
    except DiskFailed as err:
        log.debug("recordings wait: %s", err)  # whoever may write here goes on with them


def main() -> None:
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    from contextlib import suppress

    from himl_cli.commands.session import RedactingFormatter
    from himl_cli.core.errors import HimlError
    from himl_cli.services.runs.mirror import note_stopped
    from himl_cli.services.runs.mirror_state import DamagedState, MirrorFile
    from himl_cli.workspaces.resolve import open_workspace

    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(message)s"))
    logging.getLogger().handlers = [handler]
    logging.getLogger().setLevel(logging.WARNING)
    # What is away is said once, and not at each attempt
    logging.getLogger("himl_cli.workspaces.azure.requests").setLevel(logging.ERROR)
    folder, run_id = Path(sys.argv[1]), sys.argv[2]
    file = MirrorFile(folder, run_id)
    try:
        state = file.take()
        if state is not None:
            _mirror(folder, file, state)
    except DamagedState as err:
        log.warning("%s The recording ends.", err)
        why = f"{err} It is kept as '{file.set_aside().name}'."
        with suppress(HimlError):  # then the run does not say so
            note_stopped(open_workspace(str(folder), None, start=folder), run_id, why)
    except Exception:
        log.exception("the recording broke off")


def _mirror(folder: Path, file: MirrorFile, state: MirrorState) -> None:
    """Raises DamagedState."""
    from contextlib import closing

    from himl_cli.core.errors import HimlError
    from himl_cli.services.runs.mirror import Mirror
    from himl_cli.services.runs.mirror_state import DamagedState
    from himl_cli.workspaces.resolve import open_recording

    try:
        source, target = open_recording(folder, state.place)
    except KeyError as err:
        raise DamagedState(f"'{file.path}' is damaged: {err} is missing.") from err
    except HimlError as err:
        _put_off(folder, file, state, str(err))
        return
    try:
        with closing(target):
            Mirror(source, target, file, state).run()
    except Exception as err:
        log.exception("the recording broke off")
        why = str(err) if isinstance(err, HimlError) else f"himl itself failed: {type(err).__name__}: {err}"
        _put_off(folder, file, state, why)


def _put_off(folder: Path, file: MirrorFile, state: MirrorState, why: str) -> None:
    """Leave it to a later himl command: a setting may be mended, or himl itself."""
    from himl_cli.core.errors import HimlError
    from himl_cli.services.runs.mirror import put_off
    from himl_cli.workspaces.resolve import open_workspace

    try:
        put_off(open_workspace(str(folder), None, start=folder), state, why)
        if file.path.exists():  # else it was done
            file.write(state)
    except HimlError as err:
        log.debug("the state is not renewed: %s", err)
    file.release()


if __name__ == "__main__":
    main()
