"""The run of a script that is part of no job: nothing is kept, the log tells what would have been."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.api.recording import Recording, reason_of
from himl_cli.api.resolve import get_workspace
from himl_cli.api.transfer import log_notice
from himl_cli.api.workspace import Experiment, Run, Workspace
from himl_cli.core.blobs import named
from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice
from himl_cli.core.redaction import mask_arguments
from himl_cli.core.results import Logged, LoggedKind, NewRun, RunEnd
from himl_cli.core.runs import Run as Record
from himl_cli.core.runs import new_run_id
from himl_cli.services.naming import friendly_experiment
from himl_cli.services.runs.changes import store_files
from himl_cli.workspaces.base import RunRecorder

log = logging.getLogger(__name__)


class OfflineRun(Recording):
    """Takes what a run takes and tells it to Python's logging, at level INFO. `get_metrics` gives it back; nothing is
    sent and nothing written.

    It has no `experiment`, which is how azureml-core's users tell such a run.
    """

    def __init__(self) -> None:
        self.id = f"OfflineRun_{uuid.uuid4()}"
        self.status = "Running"
        self.tags: dict[str, str] = {}
        self._logged: dict[str, list[Logged]] = {}

    def get_status(self) -> str:
        """Running, or Completed or Failed once `complete` or `fail` was called."""
        return self.status

    def get_tags(self) -> dict[str, str]:
        """The tags that were set; a copy."""
        return dict(self.tags)

    def get_metrics(self, name: str | None = None, recursive: bool = False) -> dict[str, Any]:
        """What was logged, by name: a value, or a list where there are several; a table as a dictionary of columns."""
        return {metric: _value(entries) for metric, entries in self._logged.items() if name in (None, metric)}

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set *tags*, their values as texts; others stay as they are."""
        self.tags.update({key: str(value) for key, value in tags.items()})
        log.info("No run to tag with %s.", dict(tags))

    def flush(self, timeout_seconds: int = 300) -> None:
        """Nothing is waiting."""

    def complete(self) -> None:
        """Take the status Completed."""
        self.status = "Completed"

    def fail(self, error_details: str | BaseException | None = None, error_code: str | None = None) -> None:
        """Take the status Failed, and tell the log why, as a warning."""
        self.status = "Failed"
        log.warning("Failed, and no run to record it: %s", reason_of(error_details, error_code))

    def __repr__(self) -> str:
        return f"OfflineRun({self.id!r})"

    def _keep(self, entry: Logged) -> None:
        self._logged.setdefault(entry.name, []).append(entry)
        log.info("No run to log to: %s '%s' %s", entry.kind.value, entry.name, _value([entry]))

    def _store_files(self, files: Mapping[str, Path]) -> None:
        log.info("No run to upload to: %s", ", ".join(files))


def _value(entries: list[Logged]) -> Any:
    rows = [row.values for entry in entries for row in entry.rows]
    if entries[0].kind is LoggedKind.table:
        columns = [*dict.fromkeys(column for row in rows for column in row)]
        return {
            column: rows[0].get(column) if len(rows) == 1 else [row.get(column) for row in rows] for column in columns
        }
    found = [value for row in rows for value in row.values()]
    return found[0] if len(found) == 1 else found


_lock = threading.Lock()
_current: list[Run | OfflineRun] = []


class JobRun(Run):
    """The run of the job that this process is part of. What is known of it is asked for when it is wanted; logging
    needs none of it."""

    def __init__(self, workspace: Workspace, run_id: str, experiment: str) -> None:
        self._found_in = workspace
        self._id = run_id
        self._experiment = experiment

    @property
    def id(self) -> str:
        return self._id

    @property
    def experiment(self) -> Experiment:
        return Experiment(self.workspace, self._experiment or self.record.experiment)

    @cached_property
    def record(self) -> Record:  # type: ignore[override]
        return self._found_in.opened.run(self._id)

    def _end(self, end: RunEnd) -> None:
        """Only send what is left: how a job ends is recorded when its script does."""
        self._writer.flush()


def current_run(allow_offline: bool = True) -> Run | OfflineRun:
    """The run that this process is part of, always the same object; outside of a job one that keeps nothing. Makes no
    request.

    A job that himl runs here comes first: it may have been started within one on Azure ML. Raises BadUsage outside of a
    job where *allow_offline* is False.
    """
    with _lock:
        if not _current:
            _current.append(_found())
    run = _current[0]
    if not allow_offline and isinstance(run, OfflineRun):
        raise BadUsage(
            "This process is part of no job, so there is no run to write to.",
            hint="Start it with himl submit, or make a run: create_aml_run_object",
        )
    return run


def _found() -> Run | OfflineRun:
    from himl_cli.workspaces.resolve import open_azure, own_azure, own_local_run

    experiment = os.environ.get("AZUREML_ARM_PROJECT_NAME", "")
    here = own_local_run()
    if here is not None:
        return JobRun(Workspace.of(here[0]), here[1], experiment)
    address = own_azure(Path.cwd())
    if address is not None:
        return JobRun(Workspace.of(open_azure(address, Path.cwd())), os.environ["AZUREML_RUN_ID"], experiment)
    return OfflineRun()


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
    from himl_cli.services.submission.snapshot import take_snapshot

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
