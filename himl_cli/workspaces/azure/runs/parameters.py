"""Parameters of a run: what MLflow logged, and what the run history has."""

from __future__ import annotations

import json
from typing import Any

from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.requests.answers import understood
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.runs.records import RawRun


def read_parameters(connection: Connection, raw: RawRun) -> dict[str, str]:
    """By name; values that are not text are told as JSON. One request."""
    with understood(connection.history(), "the run's list of parameters"):
        found = {name: _as_text(value) for name, value in (raw.get("parameters") or {}).items()}
    return dict(sorted((found | _logged(connection, raw["runId"])).items()))


def _logged(connection: Connection, run_id: str) -> dict[str, str]:
    """What MLflow logged; nothing of a run that it does not know."""
    url = connection.mlflow("/runs/get")
    try:
        answer = connection.rest.get_object(url, "run", params={"run_id": run_id, "run_uuid": run_id})
    except ServiceNotFound:  # MLflow does not know every kind of run
        return {}
    except ServiceRefused as err:  # nor take every id
        if err.status != 400:
            raise
        return {}
    with understood(url, "the run in it"):
        logged = (answer["run"].get("data") or {}).get("params") or []
        return {parameter["key"]: _as_text(parameter.get("value")) for parameter in logged}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
