"""A job as the service stores it: its code and its environment."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from himl_cli.core.installed import RunEnvironment
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.responses import understood

Properties = Mapping[str, Any]


def job_properties(connection: Connection, run_id: str, parent_of: Callable[[str], str | None]) -> Properties:
    """The properties of the job, with those of each trial of a sweep. A trial without a job of its own, and a nested
    run, have those of their parent, which *parent_of* returns. Empty for a run without a job."""
    url = connection.arm(f"/jobs/{quote(run_id, safe='')}")
    job = connection.find_object(url, "job", params={"api-version": ApiVersion.JOBS}) or {}
    with understood(url, "the job"):
        found: Properties = {**(job.get("properties") or {})}
        found = {**found, **(found.get("trial") or {})}
    if not found.get("codeId") and not found.get("environmentId") and (parent := parent_of(run_id)):
        return job_properties(connection, parent, lambda _: None)
    return found


def code_uri(connection: Connection, properties: Properties) -> str | None:
    """The address of the code of a job, with a request. None for a job without registered code."""
    record = _record(connection, str(properties.get("codeId") or ""), "codes", "code version", ApiVersion.CODES)
    return None if record is None else str(record["codeUri"])


def environment_of(connection: Connection, properties: Properties) -> RunEnvironment | None:
    """The environment of a job, with a request unless it is one of a registry. None for a run without a job."""
    identity = str(properties.get("environmentId") or "")
    if not identity:
        return None
    record = _record(connection, identity, "environments", "environment", ApiVersion.ENVIRONMENTS) or {}
    named = re.search(r"/environments/([^/]+)/(?:versions|labels)/([^/]+)$", identity)
    resources, build = properties.get("resources") or {}, record.get("build") or {}
    machine = {
        "compute": str(properties.get("computeId") or "").rpartition("/")[2],
        "instance_type": str(resources.get("instanceType") or ""),
        "nodes": str(resources.get("instanceCount") or ""),
    }
    return RunEnvironment(
        problem="Azure ML stores the files of an environment, not its packages",
        machine={name: value for name, value in machine.items() if value},
        name=f"{named[1]}:{named[2]}" if named else identity,
        image=str(record.get("image") or build.get("contextUri") or ""),
        conda=str(record.get("condaFile") or ""),
    )


def _record(connection: Connection, identity: str, kind: str, what: str, version: str) -> Properties | None:
    """The properties of the version of an asset of the workspace, by its resource id. None for another asset, and for
    one that is gone."""
    found = re.search(rf"^/subscriptions/.*/{kind}/([^/]+)/versions/([^/]+)$", identity)
    if found is None:
        return None
    url = connection.arm(f"/{kind}/{quote(found[1], safe='')}/versions/{quote(found[2], safe='')}")
    answer = connection.find_object(url, what, params={"api-version": version})
    with understood(url, f"the {what}"):
        return None if answer is None else answer["properties"]
