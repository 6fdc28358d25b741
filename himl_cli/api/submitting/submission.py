"""Sending the script that runs to Azure ML, and ending the process unless that is not wanted."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from himl_cli.api.submitting.asked import Asked
from himl_cli.api.submitting.dataset_config import DatasetConfig
from himl_cli.api.submitting.meant import meant_workspace
from himl_cli.api.submitting.request import request_of
from himl_cli.api.submitting.words import in_words_of_arguments
from himl_cli.core.errors import BadUsage, Interrupted
from himl_cli.core.runs import Run
from himl_cli.core.workspaces import HOW_TO_CONFIGURE
from himl_cli.render.jobs import print_ended, print_prepared, print_sent
from himl_cli.render.output import Output
from himl_cli.render.progress import observing
from himl_cli.services.runs.details import sweep_outcome
from himl_cli.services.runs.logs import watching
from himl_cli.services.submission.prepare import prepare_job, submit_job
from himl_cli.services.submission.request import PreparedJob
from himl_cli.services.submission.wait import (
    follow_to_end,
    last_lines_of_failed_rank,
    last_lines_of_failure,
    raise_unless_completed,
    wait_for_end,
)
from himl_cli.services.transfer.ranks import local_rank
from himl_cli.workspaces.base import JobRunner, Workspace
from himl_cli.workspaces.resolve import require_sdk_v1, sdk_run, sdk_view


def submit(
    asked: Asked, inputs: Sequence[DatasetConfig], outputs: Sequence[DatasetConfig], flag: str, default_image: str
) -> Any:
    """Submit what was asked for, say where it is, wait where that is wanted, and end the process with code 0, or give
    the SDK's job or run.

    Raises HimlError where that fails; nothing is sent then, or the message says what was.
    """
    me = local_rank(os.environ)
    if me is not None and me.rank > 0:
        sys.exit(0)  # a launcher started the script several times; its first rank submits it
    output = Output()
    with in_words_of_arguments():
        request = request_of(asked, inputs, outputs, flag, default_image)
        if asked.strictly_aml_v1:
            require_sdk_v1()
        workspace = meant_workspace(asked)
        if workspace is None:
            raise BadUsage(
                "No Azure ML workspace is given, and none is configured.",
                hint=f"{HOW_TO_CONFIGURE} Or pass workspace_config_file.",
            )
        try:
            run = _submit(asked, workspace, prepare_job(request), output)
            if not asked.exit_on_completion:
                return sdk_run(workspace, run.id) if asked.strictly_aml_v1 else sdk_view(workspace, run.id)[0]
        except Interrupted as err:
            output.notice(f"{err} {err.hint}".strip())
            sys.exit(err.exit_code)
        finally:
            if asked.exit_on_completion:  # else a run of azureml-core goes on using it
                workspace.close()
    sys.exit(0)


def _submit(asked: Asked, workspace: Workspace, job: PreparedJob, output: Output) -> Run:
    if not isinstance(workspace, JobRunner):
        raise BadUsage(f"{workspace.label} runs no jobs.")
    print_prepared(output, job.remarks, job.report)
    follows = asked.wait_for_completion and asked.wait_for_completion_show_output
    with observing(output) as notify:
        run = submit_job(workspace, job, Path.cwd(), notify)
    with watching(run.id):
        print_sent(output, run, waits=asked.wait_for_completion, follows=follows)
        _call_after_submission(asked, workspace, run)
        if asked.wait_for_completion:
            _wait(workspace, run, output, follows=follows, trials=job.spec.sweep.max_trials if job.spec.sweep else 0)
    return run


def _call_after_submission(asked: Asked, workspace: Workspace, run: Run) -> None:
    """Give the user's function what the SDK that was chosen has for the run."""
    if asked.after_submission is None:
        return
    if asked.strictly_aml_v1:
        asked.after_submission(sdk_run(workspace, run.id))
    else:
        job, client = sdk_view(workspace, run.id)
        asked.after_submission(job, asked.ml_client if asked.ml_client is not None else client)


def _wait(workspace: Workspace, run: Run, output: Output, *, follows: bool, trials: int) -> None:
    """Wait until the run has ended, its log shown as it grows, or where it failed its last lines, and of a sweep the
    best *trials*. Raises JobFailed."""
    with observing(output) as notify:
        ended = (
            follow_to_end(workspace, run.id, output.stream, notify)
            if follows
            else wait_for_end(workspace, run.id, notify, trials)
        )
    output.end_line()
    unseen = last_lines_of_failed_rank if follows else last_lines_of_failure
    sweep = sweep_outcome(workspace, ended)
    print_ended(output, ended, unseen(workspace, ended), sweep)
    raise_unless_completed(ended, sweep=sweep)
