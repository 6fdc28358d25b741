"""Answers of the services: JSON as they spell it, and each plane's own form of an error."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from starlette.responses import JSONResponse

UNKNOWN = "x-stage-unknown"  # marks an answer to a request that nobody plays; the front takes it off and fails the test


@dataclass
class ServiceError(Exception):
    """Raise it in a route. `code` is the outer code (`UserError`, `AuthorizationFailed`, ...),
    `inner` the machine-readable cause (`NotFoundError`, `BadArgument/ArgumentInvalid`).
    """

    status: int
    code: str
    message: str
    inner: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    gateway: bool = False  # answered by ARM itself, not by the service behind it


def not_found(message: str) -> ServiceError:
    return ServiceError(404, "UserError", message, inner="NotFoundError")


def bad_request(message: str) -> ServiceError:
    return ServiceError(400, "UserError", message, inner="BadArgument")


def time_text(moment: datetime | None) -> str | None:
    """As the services write times: up to seven digits of the second without trailing zeros, and the offset."""
    if moment is None:
        return None
    text = moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.rstrip("0").rstrip(".") + "+00:00"


def arm_error(error: ServiceError) -> JSONResponse:
    """ARM's form (wire document 2.1)."""
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    headers = dict(error.headers)
    if error.gateway:
        headers["x-ms-failure-cause"] = "gateway"
    else:
        headers["x-ms-response-type"] = "error"
        info: dict[str, Any] = {
            "ComponentName": "managementfrontend",
            "Correlation": {"operation": uuid.uuid4().hex, "request": uuid.uuid4().hex[:16]},
            "Environment": "master",
            "Location": "eastus",
            "Time": time_text(datetime.now(timezone.utc)),
        }
        if error.inner:
            info["InnerError"] = _nested(error.inner)
        body |= {"details": [], "additionalInfo": [{"type": kind, "info": {"value": value}} for kind, value in info.items()]}
    return JSONResponse({"error": body}, status_code=error.status, headers=headers)


def data_plane_error(error: ServiceError) -> JSONResponse:
    return JSONResponse(error_document(error), status_code=error.status, headers=error.headers)


def error_document(error: ServiceError, component: str = "") -> dict[str, Any]:
    """The form of run history, artifacts and metrics (wire document 4.6); the `error` of a failed run has it, too."""
    body: dict[str, Any] = {
        "code": error.code,
        "severity": None,
        "message": error.message,
        "messageFormat": None,
        "messageParameters": None,
        "referenceCode": None,
        "detailsUri": None,
        "target": None,
        "details": [],
        "innerError": _nested(error.inner) if error.inner else None,
        "debugInfo": None,
        "additionalInfo": None,
    }
    return {
        "error": body,
        "correlation": {"operation": uuid.uuid4().hex, "request": uuid.uuid4().hex[:16]},
        "environment": "master",
        "location": "eastus",
        "time": time_text(datetime.now(timezone.utc)),
        "componentName": component,
    }


def _nested(codes: str) -> dict[str, Any]:
    code, _, rest = codes.partition("/")
    return {"code": code, "innerError": _nested(rest) if rest else None}


MLFLOW_CODES = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_ALREADY_EXISTS",
}


def mlflow_error(error: ServiceError) -> JSONResponse:
    """The form of the MLflow routes."""
    code = MLFLOW_CODES.get(error.status, "INTERNAL_ERROR")
    return JSONResponse({"error_code": code, "message": error.message}, status_code=error.status, headers=error.headers)
