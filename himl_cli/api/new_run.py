"""Runs that a script starts itself, outside of a job."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from himl_cli.api.configured import get_workspace
from himl_cli.api.moving import log_notice
from himl_cli.api.run import Run
from himl_cli.core.blobs import named
from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice
from himl_cli.core.redaction import mask_arguments
from himl_cli.core.results import NewRun
from himl_cli.core.runs import new_run_id
from himl_cli.services.naming import friendly_experiment
from himl_cli.services.runs.changes import store_files
from himl_cli.services.submission.snapshot import take_snapshot
from himl_cli.workspaces.base import RunRecorder

CODE = "code"


def create_aml_run_object(
    experiment_name: str,
    run_name: str | None = None,
    workspace: object | None = None,
    workspace_config_path: str | os.PathLike[str] | None = None,
    snapshot_directory: str | os.PathLike[str] | None = None,
) -> Run:
    """Start a run in the experiment and return it: to log to, to upload files to, and to end by `complete()` or
    `fail()`.

    The workspace is found as `get_workspace` finds it, in Azure ML or here. *run_name* is what the run is called for
    people. The files of *snapshot_directory* are stored as `code/…` among the run's, without what its ignore files
    exclude and without secrets. Used in a `with` statement, the run ends with the block, as failed where that raises.
    The experiment's name is made one that Azure ML takes.

    A run kept here whose process ends without a word reads as failed; one in Azure ML stays Running, as azureml-core's
    do. Raises BadUsage for an empty name or a folder that cannot be read, and what `get_workspace` and the workspace
    raise.
    """
    place = get_workspace(workspace, workspace_config_path)
    if not isinstance(place.opened, RunRecorder):
        raise BadUsage(f"No run can be started in {place.opened.label}.")
    experiment = friendly_experiment(experiment_name)
    report = take_snapshot(Path(snapshot_directory)) if snapshot_directory is not None else None
    if report is not None and report.secrets:
        log_notice(Notice(f"Not stored, since they may hold secrets: {named(report.secrets)}."))
    run_id = new_run_id(experiment)
    command = _command(sys.argv)
    tags = {"run_recovery_id": f"{experiment}:{run_id}"}
    run = Run(place, place.opened.start_run(NewRun(run_id, experiment, run_name or "", tags=tags, command=command)))
    if report is not None and report.snapshot.files:
        try:
            store_files(run.files(), {f"{CODE}/{name}": report.snapshot.root / name for name in report.snapshot.files})
        except BaseException as err:
            run.fail(err)
            raise
    return run


def _command(words: Sequence[str]) -> str:
    """What *words*, Python's own list of a program's name and arguments, say of the program; "" where there is none.
    Secrets are masked.

    Of `python -c` and `python -m` while it looks for the module, Python keeps the option in place of a name.
    """
    name = Path(words[0]).name if words else ""
    if name in ("", "-", "-m"):
        return ""
    return shlex.join(mask_arguments(["python", "-c", "...", *words[1:]] if name == "-c" else [name, *words[1:]]))
