"""The run that a script logs to: the run of the process (`RUN_CONTEXT`), or one that the script starts."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.api.transfer import log_notice
from himl_cli.api.workspace import Run, current_run, get_workspace
from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice
from himl_cli.core.jobs import secrets_text
from himl_cli.core.redaction import mask_arguments
from himl_cli.core.runs import Run as RunRecord
from himl_cli.core.runs import friendly_experiment, new_run_id
from himl_cli.services.runs.writing import store_files
from himl_cli.workspaces.base import RunRecorder


class _Context:
    """The run of this process, determined at its first use. Importing it does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # inspection of the module, not of the run
            raise AttributeError(name)
        return getattr(current_run(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(current_run(), name, value)

    @property  # type: ignore[misc]  # for isinstance
    def __class__(self) -> Any:
        return type(current_run())

    def __enter__(self) -> Any:
        return current_run().__enter__()

    def __exit__(self, *what: Any) -> None:
        current_run().__exit__(*what)

    def __eq__(self, other: object) -> bool:
        return current_run() == (current_run() if isinstance(other, _Context) else other)

    def __hash__(self) -> int:
        return hash(current_run())

    def __repr__(self) -> str:
        return repr(current_run())


if TYPE_CHECKING:
    RUN_CONTEXT: Run
else:
    RUN_CONTEXT = _Context()
    """The run of this process, in a job on Azure ML or a local one. Otherwise, a run that saves nothing.

    It does nothing before its first use."""


def create_aml_run_object(
    experiment_name: str,
    run_name: str | None = None,
    workspace: object | None = None,
    workspace_config_path: str | os.PathLike[str] | None = None,
    snapshot_directory: str | os.PathLike[str] | None = None,
) -> Run:
    """Start a run in the experiment, and return it. You can log to it and upload files, and end it with `complete()` or
    `fail()`.

    himl finds the workspace like `get_workspace`, in Azure ML or local. *run_name* is the display name. himl saves the
    files of *snapshot_directory* (None or an empty text: none) as `code/…`, without ignored files and secrets. In a
    `with` statement, the run ends with the block, as failed if the block raises. himl replaces characters that Azure ML
    does not accept in the experiment's name.

    If the process of a local run ends without ending the run, its status is Failed. A run in Azure ML stays Running,
    like azureml-core's. Raises BadUsage for an empty name or an unreadable folder, and errors of `get_workspace` and
    the workspace.
    """
    from himl_cli.services.submission.snapshot import ignored_remarks, take_snapshot

    place = get_workspace(workspace, workspace_config_path)
    if not isinstance(place.opened, RunRecorder):
        raise BadUsage(f"himl cannot start a run in {place.opened.label}.")
    experiment = friendly_experiment(experiment_name)
    report = take_snapshot(Path(snapshot_directory)) if snapshot_directory not in (None, "") else None
    if report is not None and report.secrets:
        log_notice(Notice(secrets_text(report.secrets, "The run's code lacks them.")))
    for text in ignored_remarks([report]) if report is not None else ():
        log_notice(Notice(text))
    run_id = new_run_id(experiment)
    name = Path(sys.argv[0]).name if sys.argv else ""
    words = ["python", "-c", "...", *sys.argv[1:]] if name == "-c" else [name, *sys.argv[1:]]
    # `python -m`, while it searches the module, and the prompt have no name.
    command = "" if name in ("", "-", "-m") else shlex.join(mask_arguments(words))
    tags = {"run_recovery_id": f"{experiment}:{run_id}"}
    new = RunRecord(run_id, experiment, display_name=run_name or "", tags=tags, command=command)
    run = Run(place, place.opened.start_run(new))
    if report is not None and report.snapshot.files:
        try:
            store_files(run.files(), {f"code/{name}": report.snapshot.root / name for name in report.snapshot.files})
        except BaseException as err:
            run.fail(err)
            raise
    return run
