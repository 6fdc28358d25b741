"""The run that a script logs to: that of the process, `RUN_CONTEXT`, and one that the script starts itself."""

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
from himl_cli.core.redaction import mask_arguments
from himl_cli.core.runs import Run as RunRecord
from himl_cli.core.runs import friendly_experiment, new_run_id
from himl_cli.core.text import named
from himl_cli.services.runs.writing import store_files
from himl_cli.workspaces.base import RunRecorder


class _Context:
    """The run of this process, looked for when it is first used; importing it does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # whoever looks at the module, not at the run
            raise AttributeError(name)
        return getattr(current_run(), name)

    @property  # type: ignore[misc]  # isinstance shall see the run
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
    """The run that this process is part of: a job's on Azure ML, that of a job here, or one that keeps nothing.

    Nothing is done before it is used."""


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
    from himl_cli.services.submission.snapshot import take_snapshot

    place = get_workspace(workspace, workspace_config_path)
    if not isinstance(place.opened, RunRecorder):
        raise BadUsage(f"No run can be started in {place.opened.label}.")
    experiment = friendly_experiment(experiment_name)
    report = take_snapshot(Path(snapshot_directory)) if snapshot_directory is not None else None
    if report is not None and report.secrets:
        log_notice(Notice(f"Not stored, since they may hold secrets: {named(report.secrets)}."))
    run_id = new_run_id(experiment)
    name = Path(sys.argv[0]).name if sys.argv else ""
    words = ["python", "-c", "...", *sys.argv[1:]] if name == "-c" else [name, *sys.argv[1:]]
    # of `python -m`, while it looks for the module, and of the prompt, there is no name
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
