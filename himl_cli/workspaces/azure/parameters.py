"""Parameters of a run: what MLflow logged, and what the run history has."""

from __future__ import annotations

import json
from typing import Any

from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.run_records import RawRun


def read_parameters(connection: Connection, raw: RawRun) -> dict[str, str]:
    """By name; values that are not text are told as JSON. One request."""
    found = {name: _as_text(value) for name, value in (raw.get("parameters") or {}).items()}
    try:
        answer = connection.rest.get(connection.mlflow("/runs/get"), params={"run_id": raw["runId"], "run_uuid": raw["runId"]})
    except ServiceNotFound:  # MLflow does not know every kind of run
        answer = {}
    except ServiceRefused as err:  # nor take every id
        if err.status != 400:
            raise
        answer = {}
    logged = ((answer.get("run") or {}).get("data") or {}).get("params") or []
    found |= {parameter["key"]: _as_text(parameter.get("value")) for parameter in logged}
    return dict(sorted(found.items()))


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
