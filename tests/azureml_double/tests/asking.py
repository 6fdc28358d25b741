"""Plain requests to the double through its proxy, by the standard library, so that tests control each request
exactly.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.azureml_double.state import Principal, Run

ARM = "https://management.azure.com"
# Resource Manager's routes require a version.
VERSION = "?api-version=2025-01-01-preview"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    stage: Stage,
    method: str,
    url: str,
    *,
    token: str = "",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """Send one request on a separate connection. Header names of the answer are in lower case. Raises the exceptions
    of http.client.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPSConnection(
        "127.0.0.1", stage.port, context=ssl.create_default_context(cafile=str(stage.ca_file)), timeout=60
    )
    connection.set_tunnel(parts.hostname or "", 443)
    given = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
    try:
        connection.request(method, f"{parts.path}{'?' if parts.query else ''}{parts.query}", body=body, headers=given)
        reply = connection.getresponse()
        return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())
    finally:
        connection.close()


def token_for(stage: Stage, principal: Principal, resource: str = ARM) -> str:
    form = {
        "grant_type": "client_credentials",
        "client_id": principal.client_id,
        "client_secret": principal.secret,
        "scope": f"{resource}/.default",
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    url = f"https://login.microsoftonline.com/{principal.tenant}/oauth2/v2.0/token"
    return str(ask(stage, "POST", url, headers=headers, body=urlencode(form).encode()).json["access_token"])


def call(
    azure: StagedWorkspace,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request as the workspace's principal. *path* is relative to the workspace's resource, or a complete
    URL.
    """
    url = (
        path
        if path.startswith("https://")
        else f"{ARM}{azure.state.path}{path}{'' if 'api-version=' in path else VERSION}"
    )
    content = None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **(headers or {})}
    return ask(
        azure.stage, method, url, token=token_for(azure.stage, azure.state.principal), headers=given, body=content
    )


def data_plane(
    azure: StagedWorkspace, method: str, service: str, path: str, body: dict[str, Any] | None = None
) -> Answer:
    return call(azure, method, f"https://{azure.state.data_plane_host}/{service}{azure.state.path}{path}", body)


def put_job(
    azure: StagedWorkspace,
    kind: str,
    name: str = "job_1",
    *,
    headers: Mapping[str, str] | None = None,
    version: str = VERSION,
    **more: Any,
) -> Answer:
    """Submit a job to an existing cluster."""
    job = {"jobType": kind, "experimentName": "e", "computeId": f"{azure.state.path}/computes/cpu-cluster", **more}
    return call(azure, "PUT", f"/jobs/{name}{version}", {"properties": job}, headers)


def put_command(azure: StagedWorkspace, command: str, **more: Any) -> Answer:
    return put_job(azure, "Command", **{"command": command, "environmentId": azure.add_environment("training"), **more})


def put_sweep(azure: StagedWorkspace, command: str, *rates: float, **more: Any) -> Answer:
    """Submit a sweep of *command*: a grid of `lr`, one trial at a time, unless *more* says otherwise."""
    trial = {"command": command, "environmentId": azure.add_environment("training")}
    sweep = {
        "trial": {**trial, **more.pop("trial", {})},
        "searchSpace": {"lr": ["choice", [rates or (0.1, 0.2, 0.3, 0.4)]]},
        "samplingAlgorithm": {"samplingAlgorithmType": "Grid"},
        "objective": {"goal": "maximize", "primaryMetric": "accuracy"},
        "limits": limits(20, 1, timeout="PT1H"),
    }
    return put_job(azure, "Sweep", **{**sweep, **more})


def ended(azure: StagedWorkspace, answer: Answer, status: str = "Completed") -> Run:
    """Wait for the end of an accepted job, and return its run."""
    assert answer.status == 201, answer.body
    return azure.wait_for(answer.json["name"], status)


def printed(azure: StagedWorkspace, run: Run, name: str = "user_logs/std_log.txt") -> str:
    return azure.artifacts(run.run_id)[name].decode()


def limits(total: int, concurrent: int, **more: str) -> dict[str, Any]:
    return {"jobLimitsType": "Sweep", "maxTotalTrials": total, "maxConcurrentTrials": concurrent, **more}


def trials(azure: StagedWorkspace, sweep: str = "job_1") -> list[Run]:
    """The trials of *sweep*, in order of their numbers."""
    return [azure.state.runs[name] for name in azure.state.runs[sweep].children]
