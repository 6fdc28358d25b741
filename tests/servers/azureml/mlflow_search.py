"""MLflow's searches, evaluated by MLflow's own library: its grammar and its order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import bad_request
from tests.servers.azureml.frame import body_of, workspace_of
from tests.servers.azureml.mlflow_forms import experiment_form, last_values, milliseconds, run_form, status_of, tags_of
from tests.servers.azureml.mlflow_routes import experiment_with_id
from tests.servers.azureml.paging import name_in, token_after
from tests.servers.azureml.state import Run, Workspace

if TYPE_CHECKING:
    from mlflow import entities

_BELOW = re.compile(r"\s*tags\.(?:mlflow\.(parent|root)RunId|[`\"]mlflow\.(parent|root)RunId[`\"])\s*=\s*'([^'\"]*)'\s*")
"""The filters that ask for the children of a run, or for all below it: answered without MLflow, which costs every test process a second."""
_TAG = re.compile(r"^\s*tags?\.(`[^`]*`|\"[^\"]*\"|\S+?)\s*(!=|I?LIKE\b)", re.IGNORECASE)
_AND = re.compile(r"\s+AND\s+", re.IGNORECASE)
VIEWS = {"ACTIVE_ONLY": (False,), "DELETED_ONLY": (True,), "ALL": (False, True)}


def search_runs(request: Request) -> Response:
    workspace, body = workspace_of(request), body_of(request)
    shown = VIEWS.get(str(body.get("run_view_type") or "ACTIVE_ONLY").upper(), (False,))
    experiments = [experiment_with_id(request, one) for one in body.get("experiment_ids") or []]
    runs = [run for experiment in experiments for run in list(experiment.runs.values()) if run.hidden in shown]
    ordered = _searched(runs, body.get("filter") or "", body.get("order_by") or [])
    return JSONResponse(_page(workspace, ordered, body))


def _searched(runs: list[Run], text: str, order: list[str]) -> Sequence[Run]:
    """The runs that match, in the order asked for; without wishes newest first, without making 100,000 records for that."""
    newest_first = sorted(runs, key=lambda run: (milliseconds(run.started or run.created), run.run_id), reverse=True)
    _refuse_what_the_service_does(text, order)
    above = _BELOW.fullmatch(text)
    if not order and above:
        is_parent = "parent" in above.groups()
        return [run for run in newest_first if (run.parent_id if is_parent else run.root_id) == above[3]]
    if not order and not text:
        return newest_first
    from mlflow.exceptions import MlflowException
    from mlflow.utils.search_utils import SearchUtils

    try:
        found = SearchUtils.filter(_as_entities(newest_first), text)
        ordered = SearchUtils.sort(found, order) if order else found
    except MlflowException as error:
        raise bad_request(error.message) from error
    by_id = {run.run_id: run for run in runs}
    return [by_id[run.info.run_id] for run in ordered]


def _refuse_what_the_service_does(text: str, order: Sequence[str]) -> None:
    """Of what MLflow's own library takes: of tags the service compares by `=` alone, and orders by attributes alone (its documentation)."""
    for part in _AND.split(text):
        if found := _TAG.match(part):
            raise bad_request(f"Operator '{found[2].upper()}' not supported for key type 'Tag'.")
    for one in order:
        if re.match(r"\s*(metrics?|params?|parameters?|tags?)\.", one):
            raise bad_request(f"Runs cannot be ordered by '{one}'.")


def _as_entities(runs: Iterable[Run]) -> list[entities.Run]:
    from mlflow.entities import Metric, Param, RunData, RunInfo, RunTag
    from mlflow.entities import Run as MlflowRun

    made = []
    for run in runs:
        begun, ended = milliseconds(run.started or run.created), milliseconds(run.ended) if run.ended else None
        info = RunInfo(run.run_id, run.experiment.experiment_id, run.user_name, status_of(run), begun, ended, "active", "", run.display_name)
        last = [Metric(name, float(point.data[name]), 0, point.step or 0) for name, point in last_values(run).items()]
        params = [Param(name, value) for name, value in run.parameters.items()]
        made.append(MlflowRun(info, RunData(last, params, [RunTag(name, value) for name, value in tags_of(run).items()])))
    return made


def _page(workspace: Workspace, runs: Sequence[Run], body: dict[str, Any]) -> dict[str, Any]:
    begin = int(name_in(body["page_token"])) if body.get("page_token") else 0
    end = begin + min(int(body.get("max_results") or workspace.page_size), workspace.page_size)
    page: dict[str, Any] = {"runs": [run_form(workspace, run, without=workspace.search_lacks) for run in runs[begin:end]]}
    return page | ({"next_page_token": token_after(str(end))} if end < len(runs) else {})


def search_experiments(request: Request) -> Response:
    from mlflow.entities import Experiment, ExperimentTag
    from mlflow.exceptions import MlflowException
    from mlflow.utils.search_utils import SearchExperimentsUtils

    workspace, body = workspace_of(request), body_of(request)
    shown = VIEWS.get(str(body.get("view_type") or "ACTIVE_ONLY").upper(), (False,))
    known = {one.experiment_id: one for one in list(workspace.experiments.values()) if bool(one.archived) in shown}
    entities = [
        Experiment(one.experiment_id, one.name, "", "active", [ExperimentTag(*pair) for pair in one.tags.items()], milliseconds(one.created), 0)
        for one in known.values()
    ]
    try:
        found = SearchExperimentsUtils.filter(entities, body.get("filter") or "")
        ordered = SearchExperimentsUtils.sort(found, body.get("order_by") or [])
    except MlflowException as error:
        raise bad_request(error.message) from error
    return JSONResponse({"experiments": [experiment_form(workspace, known[one.experiment_id]) for one in ordered]})


def search_models(request: Request) -> Response:
    """None: MLflow 3 asks whenever it lists a folder of artifacts, and fails where the route is missing. What the service answers is not known."""
    for one in body_of(request).get("experiment_ids") or []:
        experiment_with_id(request, one)
    return JSONResponse({"models": []})


routes: list[Route] = [
    Route("/mlflow/api/2.0/mlflow/logged-models/search", search_models, methods=["POST"]),
    Route("/mlflow/api/2.0/mlflow/runs/search", search_runs, methods=["POST"]),
    Route("/mlflow/api/2.0/mlflow/experiments/search", search_experiments, methods=["POST"]),
]
