"""Handing a prepared job to a workspace."""

from __future__ import annotations

from pathlib import Path

from himl_cli.core.events import Notice, Notify
from himl_cli.core.runs import Run
from himl_cli.services.latest_run_file import FILE_NAME, write_latest_run
from himl_cli.services.run_logs import watching
from himl_cli.services.submission.request import PreparedJob
from himl_cli.workspaces.job_abilities import SubmitsJobs


def submit_job(workspace: SubmitsJobs, job: PreparedJob, cwd: Path, notify: Notify) -> Run:
    """Start the job and note it in *cwd* as the latest run. Raises what the workspace raises; nothing then runs.

    Raises Interrupted, naming the run, once there is one.
    """
    run = workspace.submit(job.spec, notify=notify)
    with watching(run.id):
        note_latest(run, cwd, notify)
    return run


def note_latest(run: Run, cwd: Path, notify: Notify) -> None:
    """Make *run* the latest one of *cwd*; *notify* hears of a folder that cannot be written to."""
    try:
        write_latest_run(cwd, run)
    except OSError as err:
        notify(Notice(f"Could not write {FILE_NAME} in '{cwd}': {err.strerror}."))
