"""The index of a workspace, from which Studio's own lists come: runs of all experiments by filters, order and pages.

No document tells it. The shapes are those that public clients send and read: the vendor's promptflow
(`POST {data plane}/index/v1.0{workspace}/entities`), and others through Studio's address. Every name that a filter may
have is listed here: a client that makes one up is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import bad_request, time_text
from tests.servers.azureml.frame import workspace_of
from tests.servers.azureml.paging import name_in, token_after
from tests.servers.azureml.state import Json, Run, Workspace

LARGEST_PAGE = 100
CREATED = "properties/creationContext/createdTime"
TAGS = "annotations/tags/"
FIELDS: Mapping[str, Callable[[Run], object]] = {
    "type": lambda run: "runs",
    "annotations/archived": lambda run: run.hidden,
    "annotations/status": lambda run: run.indexed_status or run.status,
    "annotations/displayName": lambda run: run.display_name,
    "properties/parentRunId": lambda run: run.parent_id,
    "properties/experimentName": lambda run: run.experiment.name,
    "properties/experimentId": lambda run: run.experiment.experiment_id,
    "properties/runId": lambda run: run.run_id,
    "properties/runType": lambda run: run.run_type,
}


def entities(request: Request) -> Response:
    """Runs only: other kinds of entities are not played."""
    workspace = workspace_of(request)
    asked: dict[str, Any] = request.state.body
    filters = asked.get("filters") or []
    if not any(one.get("field") == "type" and one.get("values") == ["runs"] for one in filters):
        raise bad_request("Only entities of the type 'runs' are played.")
    size = asked.get("pageSize") or LARGEST_PAGE
    if not 1 <= size <= LARGEST_PAGE:
        raise bad_request(f"The page size {size} is not between 1 and {LARGEST_PAGE}.")
    runs = [] if workspace.hides_in_index else _ordered(workspace, asked.get("order") or [])
    skip = asked.get("skip")
    start = int(name_in(asked["continuationToken"])) if asked.get("continuationToken") else skip or 0
    page, end = _page(runs, filters, start, min(size, workspace.page_size))
    behind = end if end < len(runs) else None
    by_skip = workspace.skips_in_index or skip is not None
    more = {"nextSkip": behind if by_skip else None, "continuationToken": token_after(str(behind)) if behind and not by_skip else None}
    return JSONResponse({"totalCount": None, "value": [_entity(workspace, run) for run in page], **more})


def _page(runs: Sequence[Run], filters: Sequence[Mapping[str, Any]], start: int, size: int) -> tuple[list[Run], int]:
    """The next *size* runs that match, and the place behind the last of them."""
    found: list[Run] = []
    for place in range(start, len(runs)):
        if len(found) == size:
            return found, place
        if all(_meets(runs[place], one) for one in filters):
            found.append(runs[place])
    return found, len(runs)


def _ordered(workspace: Workspace, order: Sequence[Mapping[str, str]]) -> list[Run]:
    if [one.get("field") for one in order] not in ([], [CREATED]):
        raise bad_request(f"Only an order by {CREATED} is played.")
    downward = not order or order[0].get("direction", "Asc").lower() == "desc"
    return sorted(workspace.runs.values(), key=lambda run: (run.created, run.number), reverse=downward)


def _meets(run: Run, condition: Mapping[str, Any]) -> bool:
    field, operator, values = condition.get("field", ""), condition.get("operator"), condition.get("values")
    if not isinstance(values, list) or operator not in ("eq", "ne", "contains"):
        raise bad_request(f"The filter {condition} is not understood.")
    if field.startswith(TAGS):
        found: object = run.tags.get(field[len(TAGS) :])
    elif field in FIELDS:
        found = FIELDS[field](run)
    else:
        raise bad_request(f"There is no field '{field}'.")
    if operator == "contains":
        return any(str(value) in str(found) for value in values)
    return any(_same(found, value) for value in values) is (operator == "eq")


def _same(found: object, value: object) -> bool:
    if isinstance(found, bool):
        return str(value).lower() == str(found).lower()
    return found is value or (isinstance(found, str) and found == value)


def _entity(workspace: Workspace, run: Run) -> Json:
    place = f"azureml://location/{workspace.location}/workspaceId/{workspace.workspace_id}/type/runs/objectId/{run.run_id}"
    return {
        "entityId": place,
        "entityResourceName": workspace.name,
        "kind": "Unversioned",
        "annotations": {
            "archived": run.hidden,
            "tags": run.tags,
            "displayName": run.display_name,
            "description": run.description,
            "status": run.indexed_status or run.status,
            "error": run.error,
            "effectiveStartTimeUtc": time_text(run.started),
        },
        "properties": {
            "runId": run.run_id,
            "runNumber": run.number,
            "runType": run.run_type,
            "experimentName": run.experiment.name,
            "experimentId": run.experiment.experiment_id,
            "parentRunId": run.parent_id,
            "rootRunId": run.root_id,
            "dataContainerId": run.data_container_id,
            "startTime": time_text(run.started),
            "endTime": time_text(run.ended),
            "userProperties": run.properties,
            "creationContext": {"createdTime": time_text(run.created), "createdBy": {"userName": run.user_name}},
        },
    }


routes = [Route("/index/entities", entities, methods=["POST"])]
