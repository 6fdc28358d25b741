"""Environments that are registered in a workspace, by name."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import NotFound
from himl_cli.core.text import did_you_mean
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.forms import LATEST
from himl_cli.workspaces.azure.places import api_versions
from himl_cli.workspaces.azure.requests.answers import resources, understood
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound

ELSEWHERE = ("azureml://", "/subscriptions/")
"""How the names of environments begin that lie in a registry or are ids already: the service looks for those itself."""
CURATED = "AzureML-"
"""How the names of Azure ML's own environments begin: no workspace has them registered, azure-ai-ml does not look for
them either."""
SHOWN_VERSIONS = 10
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


def environment_id(connection: Connection, name: str, version: str | None) -> str:
    """The resource id of version *version* (None: the latest) of environment *name*; one request.

    Raises NotFound naming those that are near, or the versions that exist.
    """
    if name.startswith(ELSEWHERE):
        return name
    if name.startswith(CURATED):
        return (
            f"azureml:{name}@latest"
            if version in (None, LATEST)
            else f"{connection.address.path}/environments/{name}/versions/{version}"
        )
    if not _NAME.fullmatch(name):  # it would mean something else in a URL
        raise _unknown(connection, name)
    url = connection.arm(f"/environments/{quote(name, safe='')}")
    try:
        if version in (None, LATEST):
            return _latest(connection, url, name)
        answer = connection.rest.get_object(
            f"{url}/versions/{quote(str(version), safe='')}",
            "environment",
            params={"api-version": api_versions.ENVIRONMENTS},
        )
    except ServiceNotFound as err:
        raise _missing(connection, url, name, version) from err
    with understood(url, "the environment"):
        return str(answer["id"])


def _latest(connection: Connection, url: str, name: str) -> str:
    answer = connection.rest.get_object(url, "environment", params={"api-version": api_versions.ENVIRONMENTS})
    with understood(url, "the environment"):
        latest = answer["properties"].get("latestVersion")
    if not latest:
        raise NotFound(
            f"The environment '{name}' has no version in {connection.address.label}.",
            hint=f"Name one: --environment {name}:VERSION",
        )
    return f"{connection.address.path}/environments/{name}/versions/{latest}"


def _missing(connection: Connection, url: str, name: str, version: str | None) -> NotFound:
    """The error for an environment that is not there, or not in this version."""
    versions = [] if version in (None, LATEST) else _names(connection, f"{url}/versions", "versions of environments")
    if not versions:
        return _unknown(connection, name)
    shown = ", ".join(versions[:SHOWN_VERSIONS]) + (", …" if len(versions) > SHOWN_VERSIONS else "")
    return NotFound(
        f"The environment '{name}' has no version '{version}' in {connection.address.label}; there are: {shown}."
    )


def _unknown(connection: Connection, name: str) -> NotFound:
    names = sorted(_names(connection, connection.arm("/environments"), "environments"))
    hint = (
        did_you_mean(name, names) or "Make it from files instead (--conda_env FILE), or see Studio for those there are."
    )
    return NotFound(f"No environment '{name}' in {connection.address.label}.", hint=hint)


def _names(connection: Connection, url: str, what: str) -> list[str]:
    def name_of(item: Any) -> str:
        with understood(url, what):
            return str(item["name"])

    try:
        return [
            name_of(item)
            for item in resources(connection.rest.get, url, what, {"api-version": api_versions.ENVIRONMENTS})
        ]
    except ServiceNotFound:
        return []
