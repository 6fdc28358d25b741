"""The metric service: names, curves, samples of curves, and writing (wire document 6.1)."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import bad_request, error_document, not_found
from tests.servers.azureml.frame import body_of, workspace_of
from tests.servers.azureml.history_runs import changeable_run, run_of
from tests.servers.azureml.metric_forms import fits, keep, listed, with_points
from tests.servers.azureml.paging import name_in, token_after
from tests.servers.azureml.state import Json, Metric, Point

MOST_IN_A_SAMPLE = 100
MOST_IN_A_BATCH = 50


def list_metrics(request: Request) -> Response:
    run = run_of(request)
    names, token = _page(request, sorted(run.metrics))
    return JSONResponse(_paged([listed(run.metrics[name]) for name in names], token))


def full_metric(request: Request) -> Response:
    """All rows of one metric, page by page."""
    run = run_of(request)
    metric = _asked(request)
    places, token = _page(request, [str(place) for place in range(len(metric.points))])
    whole = with_points(run, metric, [metric.points[int(place)] for place in places])
    return JSONResponse(whole | {"continuationToken": token, "nextLink": None})


def sample_metric(request: Request) -> Response:
    """Rows of one metric at even distances, the first and the last among them."""
    run = run_of(request)
    metric = _asked(request)
    shown = _sampled(metric.points)
    extra = {"numValuesLogged": len(metric.points), "isPartialResult": False, "derivedLabelValues": None}
    return JSONResponse(with_points(run, metric, shown) | extra)


def write_metrics(request: Request) -> Response:
    """Keep what comes, 50 forms at most; of a metric whose type is another than before an error is told among `errors`."""
    run, documents = changeable_run(request), body_of(request).get("values") or []
    if len(documents) > MOST_IN_A_BATCH:
        raise bad_request(f"A batch holds {MOST_IN_A_BATCH} metrics at most, not {len(documents)}.")
    errors: list[Json] = []
    for document in documents:
        if fits(run, document):
            keep(run, document)
        else:
            errors.append(_refusal(document))
    return JSONResponse({"errors": errors})


def _refusal(document: Json) -> Json:
    error = bad_request(f"Metric {document['name']} is of another type.")
    return {"metric": {"name": document["name"]}, "errorResponse": error_document(error)}


def _asked(request: Request) -> Metric:
    name = body_of(request).get("metricName", "")
    metric = run_of(request).metrics.get(name)
    if metric is None:
        raise not_found(f"Metric {name} of run {request.path_params['run_id']} was not found.")
    return metric


def _sampled(points: Sequence[Point]) -> list[Point]:
    if len(points) <= MOST_IN_A_SAMPLE:
        return list(points)
    last = len(points) - 1
    return [points[round(place * last / (MOST_IN_A_SAMPLE - 1))] for place in range(MOST_IN_A_SAMPLE)]


def _page(request: Request, items: Sequence[str]) -> tuple[Sequence[str], str | None]:
    """The items of this page and the token of the next one."""
    token, size = body_of(request).get("continuationToken"), workspace_of(request).page_size
    begin = int(name_in(token)) if token else 0
    end = begin + size
    return items[begin:end], token_after(str(end)) if end < len(items) else None


def _paged(value: list[Json], token: str | None) -> Json:
    return {"value": value, "continuationToken": token, "nextLink": None}


routes: list[Route] = [
    Route("/metric/runs/{run_id}/list", list_metrics, methods=["POST"]),
    Route("/metric/runs/{run_id}/full", full_metric, methods=["POST"]),
    Route("/metric/runs/{run_id}/sample", sample_metric, methods=["POST"]),
    Route("/metric/runs/{run_id}/batch", write_metrics, methods=["POST"]),
]
