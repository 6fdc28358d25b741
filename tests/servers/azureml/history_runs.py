"""Finding the run that a request of the data plane is about, and changing it as the service does."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from starlette.requests import Request

from tests.servers.azureml.answers import bad_request, not_found
from tests.servers.azureml.frame import demand, workspace_of
from tests.servers.azureml.principals import Right
from tests.servers.azureml.queries import BadFilter, instant
from tests.servers.azureml.state import ENDED, Experiment, Run, Workspace, now

STATUSES = {
    *("NotStarted", "Unapproved", "Starting", "Provisioning", "Preparing", "Queued", "Running", "Pausing", "Paused"),
    *("Finalizing", "CancelRequested", "NotResponding", *ENDED),
}
FAMILIES = ("/history", "/history/experiments/{experiment}", "/history/experimentids/{experiment_id}")


def list_body_of(request: Request) -> list[Any]:
    """A body that is a JSON list. Raises ServiceError 400 where it is something else."""
    items: object = request.state.body
    if not isinstance(items, list):
        raise bad_request("The body has to be a list.")
    return items


def experiment_of(request: Request) -> Experiment | None:
    """The experiment that the path names, by name or by id; None where it names none. Raises ServiceError 404."""
    workspace, parts = workspace_of(request), request.path_params
    if "experiment" in parts:
        name = parts["experiment"]  # the vendor's MLflow plug-in puts the id of an experiment where its name belongs
        found = workspace.experiments.get(name) or workspace.experiment_by_id(name)
        if found is None:
            raise not_found(f"Experiment {name} was not found in workspace {workspace.name}.")
        return found
    if "experiment_id" in parts:
        found = workspace.experiment_by_id(parts["experiment_id"])
        if found is None:
            raise not_found(f"Experiment with id {parts['experiment_id']} was not found.")
        return found
    return None


def run_of(request: Request) -> Run:
    """The run that the path names. Raises ServiceError 404, also where it is not of the experiment that the path names."""
    run_id = request.path_params["run_id"]
    run = workspace_of(request).runs.get(run_id)
    experiment = experiment_of(request)
    if run is None or (experiment is not None and run.experiment is not experiment):
        raise not_found(f"Run {run_id} was not found.")
    return run


def changeable_run(request: Request) -> Run:
    """The run that the path names, for a caller who may change it. Raises ServiceError 403, 404."""
    demand(request, Right.WRITE, "experiments/runs/write")
    return run_of(request)


def new_run(workspace: Workspace, experiment: Experiment, run_id: str, *, parent_id: str | None = None, user: str = "") -> Run:
    """A run that a client makes itself, without a job. Raises ServiceError 404 for an unknown parent."""
    if parent_id is not None and parent_id not in workspace.runs:
        raise not_found(f"Run {parent_id} was not found.")
    run = Run(
        run_id=run_id,
        experiment=experiment,
        status="NotStarted",
        created=now(),
        started=None,
        ended=None,
        display_name=run_id,
        user_name=user or workspace.principal.name,
        data_container_id=f"dcid.{run_id}",
        number=next(workspace.numbers),
        parent_id=parent_id,
        target=None,
    )
    return workspace.keep_run(run)


def apply(run: Run, change: Mapping[str, Any]) -> None:
    """Change *run* as PATCH does: tags are merged, properties only added. Raises ServiceError 400 for what may not change."""
    properties = _texts(change.get("properties"))
    for name, value in properties.items():
        if run.properties.get(name, value) != value:
            raise bad_request(f"Property {name} of run {run.run_id} is immutable.")
    run.properties |= properties
    run.tags |= _texts(change.get("tags"))
    for name, attribute in {"displayName": "display_name", "description": "description", "hidden": "hidden", "scriptName": "script"}.items():
        if change.get(name) is not None:
            setattr(run, attribute, change[name])
    if change.get("target") is not None:
        run.target = change["target"]
    if change.get("status") is not None:
        move(run, change["status"])
    run.started = _time(change.get("startTimeUtc")) or run.started
    run.ended = _time(change.get("endTimeUtc")) or run.ended
    run.revision += 1


def move(run: Run, status: str) -> None:
    """Put the run into *status* and note when it began and ended. Raises ServiceError 400 for a word that is no status."""
    if status not in STATUSES:
        raise bad_request(f"'{status}' is no status of a run.")
    if status in ("Running", "Finalizing", *ENDED) and run.started is None:
        run.started = now()
    run.status, run.ended = status, (run.ended or now()) if status in ENDED else None
    run.revision += 1


def _texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (values or {}).items() if value is not None}


def _time(text: str | None) -> datetime | None:
    try:
        return instant(text) if text else None
    except BadFilter as error:
        raise bad_request(f"'{text}' is no time.") from error
