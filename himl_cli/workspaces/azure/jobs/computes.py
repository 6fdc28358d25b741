"""Whether a job may be sent to a compute: it is there, it is in order, it is large enough."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.jobs import SERVERLESS
from himl_cli.core.text import did_you_mean
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.new_clusters import words_of
from himl_cli.workspaces.azure.places import api_versions
from himl_cli.workspaces.azure.requests.answers import resources, understood
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound

BROKEN_STATES = ("Deleting", "Canceled")
NO_JOBS = {
    "Databricks": "Databricks",
    "DataFactory": "a Data Factory",
    "DataLakeAnalytics": "Data Lake Analytics",
    "HDInsight": "HDInsight",
    "SynapseSpark": "a Spark pool",
}
"""Kinds of computes that run no command jobs, as sentences name them."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def check_compute(connection: Connection, name: str, nodes: int = 1, notify: Notify = ignore) -> None:
    """Look at the compute that a job of so many *nodes* is for; one request, none for `serverless`.

    *notify* hears of one whose last change failed: the service takes jobs for it.

    Raises NotFound naming those that exist, BadUsage for one that runs no such job, and as `Rest` does.
    """
    if name.lower() == SERVERLESS:
        return
    if not _NAME.fullmatch(name):  # it would mean something else in a URL
        raise _unknown(connection, name)
    url = connection.arm(f"/computes/{quote(name, safe='')}")
    try:
        found = connection.rest.get_object(url, "compute", params={"api-version": api_versions.COMPUTES})
    except ServiceNotFound as err:
        raise _unknown(connection, name) from err
    with understood(url, "the compute"):
        _check(name, found["properties"], nodes)
        if found["properties"].get("provisioningState") == "Failed":
            notify(
                Notice(
                    f"The compute '{name}' is in state Failed{_told(found['properties'])}. The job is sent all the "
                    "same, and may wait there."
                )
            )


def _told(properties: Mapping[str, Any]) -> str:
    """`: ` and the service's own words for what failed, without a full stop; nothing where it says none."""
    errors = [one.get("error") or one for one in properties.get("provisioningErrors") or ()]
    words = next((words_of(str(error["message"])) for error in errors if error.get("message")), "")
    return f": {words.rstrip('.')}" if words else ""


def _check(name: str, properties: Mapping[str, Any], nodes: int) -> None:
    kind, state = str(properties["computeType"]), properties.get("provisioningState")
    if kind in NO_JOBS:
        raise BadUsage(
            f"The compute '{name}' is {NO_JOBS[kind]}, which runs no such jobs.",
            hint="Name a compute cluster with --cluster.",
        )
    if state in BROKEN_STATES:
        raise BadUsage(
            f"The compute '{name}' cannot be used: its state is {state}.",
            hint="Name another one with --cluster, or ask the workspace's owner.",
        )
    most = _most_nodes(kind, properties.get("properties") or {})
    if most is not None and nodes > most:
        raise BadUsage(
            f"--num_nodes {nodes}: the compute '{name}' has {most} node{'s' * (most != 1)} at most.",
            hint="Ask for fewer, or name a larger one with --cluster.",
        )


def _most_nodes(kind: str, own: Mapping[str, Any]) -> int | None:
    """To how many nodes it grows; None where that is not told."""
    if kind == "ComputeInstance":
        return 1
    most = (own.get("scaleSettings") or {}).get("maxNodeCount")
    return int(most) if most is not None else None


def _unknown(connection: Connection, name: str) -> NotFound:
    found = resources(
        connection.rest.get, connection.arm("/computes"), "computes", {"api-version": api_versions.COMPUTES}
    )
    names = sorted(str(item.get("name")) for item in found)
    there = f"there are: {', '.join(names)}" if names else "it has none"
    return NotFound(f"No compute '{name}' in {connection.address.label}; {there}.", hint=did_you_mean(name, names))
