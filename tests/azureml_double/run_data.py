"""The data of runs: artifacts, by the artifact service and by run history (wire document 5), metrics (6.1), and the
locations of named outputs (4.1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.azureml_double.frame import (
    bad_request,
    body_of,
    demand,
    error_document,
    name_in,
    next_link,
    page_at,
    there,
    token_after,
    workspace_of,
)
from tests.azureml_double.history import FAMILIES, changeable_run, outputs_of, run_of
from tests.azureml_double.history_query import instant
from tests.azureml_double.state import MODELS, Json, Metric, Point, Right, Run, Workspace, new_id, now, time_text

CONTAINER, ORIGIN = "azureml", "ExperimentRun"
MOST_ARTIFACTS_AT_ONCE, MOST_IN_A_BATCH = 100, 50
MOST_ROWS, LONGEST_TEXT = 250, 255  # of a metric in a batch; of the name or the value of a column (documented)
KIND, SCALAR = "uxMetricType", "azureml.v1.scalar"
NUMBERS = {"double", "float", "int", "none"}


def _blob_name(container: str, path: str) -> str:
    return f"{ORIGIN}/{container}/{path}"


def _record(container: str, path: str) -> Json:
    nulls = dict.fromkeys(("etag", "createdTime", "dataPath"))
    return {
        "artifactId": _blob_name(container, path),
        "origin": ORIGIN,
        "container": container,
        "path": path,
        "tags": {},
        **nulls,
    }


def _link(workspace: Workspace, container: str, path: str, permissions: str) -> Json:
    link = workspace.storage.blob_link(CONTAINER, _blob_name(container, path), permissions=permissions)
    return {"contentUri": link, "origin": ORIGIN, "container": container, "path": path, "tags": {}}


def _where(request: Request) -> tuple[str, str]:
    """Return the requested container and path. Older clients put an artifact's path into the URL, newer ones into
    `?path=`.
    """
    container = request.path_params.get("container") or run_of(request).data_container_id
    return container, request.path_params.get("path") or request.query_params.get("path", "")


def list_artifacts(request: Request) -> Response:
    """List a page of artifacts whose paths start with a prefix, as records or (`contentinfo`) with links to read
    them, and the link to the next page. The list is empty if the workspace cannot access its storage.
    """
    (container, prefix), token = _where(request), request.query_params.get("continuationToken")
    workspace, last = workspace_of(request), name_in(token) if token else ""
    blobs = workspace.storage.list(CONTAINER, _blob_name(container, re.sub("//+", "/", prefix)))
    shown = list(
        islice(
            (blob for blob in blobs if blob.name > last), workspace.page_size + 1 if workspace.reaches_storage else 0
        )
    )
    token = token_after(shown[-2].name) if len(shown) > workspace.page_size else None
    value = []
    for blob in shown[: workspace.page_size]:
        path = blob.name.removeprefix(_blob_name(container, ""))
        record = _record(container, path) | {"createdTime": time_text(blob.creation_time)}
        value.append(_link(workspace, container, path, "r") if "/prefix/" in request.url.path else record)
    return JSONResponse(
        {"value": value, "continuationToken": token, "nextLink": next_link(request, "continuationToken", token)}
    )


def content_info(request: Request) -> Response:
    workspace, (container, path) = workspace_of(request), _where(request)
    there(
        workspace.storage.properties(CONTAINER, _blob_name(container, path)) if path else None,
        f"Artifact {_blob_name(container, path)} was not found.",
    )
    return JSONResponse(_link(workspace, container, path, "r"))


def write_link(request: Request) -> Response:
    demand(request, Right.WRITE, "experiments/artifacts/write")
    return JSONResponse(_link(workspace_of(request), *_where(request), "rcw"))


def make_artifacts(request: Request) -> Response:
    demand(request, Right.WRITE, "experiments/artifacts/write")
    container, paths = _where(request)[0], [item["path"] for item in body_of(request).get("paths") or []]
    if not 1 <= len(paths) <= MOST_ARTIFACTS_AT_ONCE:
        raise bad_request(f"Between 1 and {MOST_ARTIFACTS_AT_ONCE} artifacts are made at once, not {len(paths)}.")
    links = {path: _link(workspace_of(request), container, path, "rcw") for path in paths}
    return JSONResponse(
        {
            "artifacts": {path: _record(container, path) for path in paths},
            "artifactContentInformation": links,
            "errors": {},
        }
    )


def list_metrics(request: Request) -> Response:
    run = run_of(request)
    names, token = page_at(
        sorted(run.metrics), body_of(request).get("continuationToken"), workspace_of(request).page_size
    )
    value = []
    for metric in (run.metrics[name] for name in names):
        key = {"namespace": metric.namespace, "name": metric.name, "labels": None, "columnNames": None}
        value.append({"metricKey": key, "columns": _columns(metric), "properties": {KIND: metric.kind}})
    return JSONResponse({"value": value, "continuationToken": token, "nextLink": None})


def full_metric(request: Request) -> Response:
    run, name = run_of(request), body_of(request).get("metricName", "")
    metric = there(run.metrics.get(name), f"Metric {name} of run {run.run_id} was not found.")
    points, token = page_at(metric.points, body_of(request).get("continuationToken"), workspace_of(request).page_size)
    value = []
    for point in points:
        value.append(
            {
                "metricId": point.metric_id,
                "createdUtc": time_text(point.created),
                "step": point.step,
                "data": _data(point),
            }
        )
    head = {
        "dataContainerId": run.data_container_id,
        "name": metric.name,
        "columns": _columns(metric),
        "properties": {KIND: metric.kind},
    }
    nulls = dict.fromkeys(("standardSchemaId", "dataLocation", "nextLink"))
    return JSONResponse({**head, **nulls, "namespace": metric.namespace, "value": value, "continuationToken": token})


def last_values(request: Request) -> Response:
    """Return each metric with its last row. The form of the answer is our guess, made like that of `full`."""
    run = run_of(request)
    value = [
        {"name": one.name, "columns": _columns(one), "value": [{"data": _data(one.points[-1])}]}
        for one in run.metrics.values()
        if one.points
    ]
    return JSONResponse({"value": value, "continuationToken": None, "nextLink": None})


def _data(point: Point) -> Json:
    return {column: number_text(one) if isinstance(one, float) else one for column, one in point.data.items()}


def _columns(metric: Metric) -> dict[str, str]:
    return metric.columns or {metric.name: "Double"}


def number_text(value: float) -> float | str:
    """Return *value*, or `NaN`, `Infinity` or `-Infinity`, for which JSON has no number."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def write_metrics(request: Request) -> Response:
    """Store the metrics, at most 50. A metric of another type than before, or with too long a text, is reported in
    `errors`.
    """
    run, documents = changeable_run(request), body_of(request).get("values") or []
    if len(documents) > MOST_IN_A_BATCH:
        raise bad_request(f"A batch holds {MOST_IN_A_BATCH} metrics at most, not {len(documents)}.")
    errors: list[Json] = []
    for document in documents:
        rows = document.get("value") or []
        if len(rows) > MOST_ROWS:
            raise bad_request(f"A metric has {MOST_ROWS} rows in a batch at most, not {len(rows)}.")
        texts = [
            text for row in rows for item in (row.get("data") or {}).items() for text in item if isinstance(text, str)
        ]
        problem = "" if _fits(run, document) else "is of another type"
        if max(map(len, texts), default=0) > LONGEST_TEXT:
            problem = f"has a text of more than {LONGEST_TEXT} characters"
        if not problem:
            _keep(run, document)
        else:
            error = bad_request(f"Metric {document['name']} {problem}.")
            errors.append({"metric": {"name": document["name"]}, "errorResponse": error_document(error)})
    return JSONResponse({"errors": errors})


def _fits(run: Run, document: Mapping[str, Any]) -> bool:
    """Whether the types of a metric match those of its earlier rows. All numeric types match each other."""
    metric = run.metrics.get(document.get("name") or "")
    if metric is None:
        return True
    before, kinds = _columns(metric), document.get("columns") or {metric.name: "Double"}
    pairs = [(kind.lower(), before.get(name, kind).lower()) for name, kind in kinds.items()]
    return all(one == other or {one, other} <= NUMBERS for one, other in pairs)


def _keep(run: Run, document: Mapping[str, Any]) -> None:
    name = document.get("name")
    assert name
    columns = document.get("columns") or {name: "Double"}
    points = [_point(row, columns) for row in document.get("value") or []]
    kind = (document.get("properties") or {}).get(KIND, SCALAR)
    metric = run.metrics.setdefault(name, Metric(name, kind, dict(columns), namespace=document.get("namespace")))
    metric.columns |= columns
    kept = {point.metric_id for point in metric.points}
    # Skip rows that were sent again.
    metric.points += [point for point in points if point.metric_id not in kept]
    run.revision += 1


def _point(row: Mapping[str, Any], columns: Mapping[str, str]) -> Point:
    created = instant(row["createdUtc"]) if row.get("createdUtc") else now()
    data = dict(row.get("data") or {})
    for name, value in data.items():
        if columns[name].lower() in ("double", "float") and isinstance(value, (int, float, str)):
            data[name] = float(value)
    return Point(data, row.get("step"), created, row.get("metricId") or new_id())


def keep_number(run: Run, name: str, value: float, *, step: int, created: datetime) -> None:
    metric = run.metrics.setdefault(name, Metric(name, SCALAR, {name: "Double"}))
    metric.points.append(Point({name: value}, step, created))
    run.revision += 1


def resolve_outputs(request: Request) -> Response:
    """Return the outputs for the assets in the body. Unknown assets are omitted, and each service (data, models)
    returns only its own assets.
    """
    workspace, found = workspace_of(request), dict[str, Json]()
    is_of_models = "/modelregistry/" in request.url.path
    for asset_id in body_of(request).get("values") or []:
        runs = [
            run
            for run in list(workspace.runs.values())
            if run.outputs or f"azureml_{run.run_id}_output_data_" in asset_id
        ]
        output = next(
            (output for run in runs for output in outputs_of(workspace, run).values() if output.asset_id == asset_id),
            None,
        )
        if output is not None and (output.kind in MODELS) is is_of_models:
            place = {"path": output.uri} if is_of_models else {"uri": output.uri, "legacyDatasetType": None}
            found[asset_id] = {**place, "type": output.kind}
    return JSONResponse({"values": found})


_SERVICE, _IN_CONTAINER = "/artifact/artifacts", f"{ORIGIN}/{{container}}"
routes: list[Route] = [
    Route(f"{_SERVICE}/contentinfo/{_IN_CONTAINER}/{{path:path}}", content_info, methods=["GET"]),
    Route(f"{_SERVICE}/prefix/contentinfo/{_IN_CONTAINER}/{{path:path}}", list_artifacts, methods=["GET"]),
    Route(f"{_SERVICE}/write/{_IN_CONTAINER}/{{path:path}}", write_link, methods=["GET"]),
    Route(f"{_SERVICE}/batch/metadata/{_IN_CONTAINER}", make_artifacts, methods=["POST"]),
    Route(f"{_SERVICE}/{_IN_CONTAINER}", list_artifacts, methods=["GET"]),
    Route("/metric/runs/{run_id}/list", list_metrics, methods=["POST"]),
    Route("/metric/runs/{run_id}/full", full_metric, methods=["POST"]),
    Route("/metric/runs/{run_id}/lastvalues", last_values, methods=["POST"]),
    Route("/metric/runs/{run_id}/batch", write_metrics, methods=["POST"]),
    Route("/data/dataversion/batchGetResolvedUris", resolve_outputs, methods=["POST"]),
    Route("/modelregistry/models/batchGetResolvedUris", resolve_outputs, methods=["POST"]),
]
for _family in FAMILIES[1:]:
    _below = f"{_family}/runs/{{run_id}}/artifacts"
    routes += [
        Route(_below, list_artifacts, methods=["GET"]),
        Route(f"{_below}/contentinfo", content_info, methods=["GET"]),
        Route(f"{_below}/prefix/contentinfo", list_artifacts, methods=["GET"]),
        Route(f"{_below}/batch/metadata", make_artifacts, methods=["POST"]),
    ]
