"""The double's own port, for other processes: faults to set, requests to read. Plain HTTP on the address that `HTTPS_PROXY` names.

POST   /stage/faults    {"action": "Status", "arguments": {"status": 503}, "match": "GET .*/azureml/", "times": 2}
DELETE /stage/faults
GET    /stage/requests  -> {"requests": [...], "unknown": [...]}
DELETE /stage/requests
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.faults import Faults
from tests.servers.azureml.log import RequestLog


async def add_fault(request: Request) -> Response:
    faults: Faults = request.app.state.faults
    try:
        faults.add_json(await request.json())
    except (KeyError, TypeError, ValueError) as e:
        return JSONResponse({"error": f"no such fault: {e!r}"}, 400)
    return Response(status_code=204)


async def clear_faults(request: Request) -> Response:
    request.app.state.faults.clear()
    return Response(status_code=204)


async def requests(request: Request) -> Response:
    log: RequestLog = request.app.state.log
    return JSONResponse({"requests": [seen.as_json() for seen in log.all()], "unknown": log.unknown()})


async def clear_requests(request: Request) -> Response:
    request.app.state.log.clear()
    return Response(status_code=204)


routes = [
    Route("/stage/faults", add_fault, methods=["POST"]),
    Route("/stage/faults", clear_faults, methods=["DELETE"]),
    Route("/stage/requests", requests),
    Route("/stage/requests", clear_requests, methods=["DELETE"]),
]
