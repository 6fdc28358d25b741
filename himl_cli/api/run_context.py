"""The run that a script is part of, wherever it runs."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.api.experiment import Experiment
from himl_cli.api.offline_run import OfflineRun
from himl_cli.api.run import Run
from himl_cli.api.workspace import Workspace
from himl_cli.core.errors import BadUsage
from himl_cli.core.results import RunEnd
from himl_cli.core.runs import Run as Record

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
