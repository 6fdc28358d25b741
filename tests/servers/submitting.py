"""Jobs sent to the double by plain requests, for tests of what becomes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.servers.asking import ARM, VERSION, Answer, ask, token_for
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.state import Run

PUT_VERSION = "2025-01-01-preview"


def call(azure: StagedWorkspace, method: str, path: str, body: dict[str, Any] | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """One request as the workspace's principal; *path* below the workspace's resource, or a whole URL."""
    url = path if path.startswith("https://") else f"{ARM}{azure.state.path}{_with_version(path)}"
    content = None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **(headers or {})}
    return ask(azure.stage, method, url, token=token_for(azure.stage, azure.state.principal), headers=given, body=content)


def _with_version(path: str) -> str:
    if "api-version=" in path:
        return path
    return path.replace("?", f"{VERSION}&", 1) if "?" in path else path + VERSION


def put_job(azure: StagedWorkspace, command: str, *, headers: Mapping[str, str] | None = None, version: str = PUT_VERSION, **properties: Any) -> Answer:
    """What is said to `job_1`, with an environment that is there; by azure-ai-ml's *version* of the route, or another one."""
    compute = f"{azure.state.path}/computes/cpu-cluster"
    job = {"jobType": "Command", "command": command, "environmentId": azure.add_environment("training"), "experimentName": "e", "computeId": compute}
    return call(azure, "PUT", f"/jobs/job_1?api-version={version}", {"properties": {**job, **properties}}, headers)


def submit(azure: StagedWorkspace, command: str, **properties: Any) -> None:
    """Send `job_1`, which is taken."""
    answer = put_job(azure, command, **properties)
    assert answer.status == 201, answer.body


def ended(azure: StagedWorkspace, command: str, status: str = "Completed", **properties: Any) -> Run:
    """The run of a job that has come to its end."""
    submit(azure, command, **properties)
    return azure.wait_for("job_1", status)


def printed(azure: StagedWorkspace, name: str = "user_logs/std_log.txt") -> str:
    return azure.artifacts("job_1")[name].decode()
