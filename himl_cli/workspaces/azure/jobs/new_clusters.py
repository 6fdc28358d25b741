"""Making compute clusters: asked for by name only, since they cost money."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, Interrupted, ServiceFailed
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import ClusterSpec
from himl_cli.core.processes import terminations
from himl_cli.core.redaction import redact
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.places import api_versions
from himl_cli.workspaces.azure.requests.answers import understood
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound, ServiceRefused

log = logging.getLogger(__name__)

LONGEST_SECONDS = 20 * 60.0
"""A cluster without nodes is there within a minute; one with some waits for these."""
FIRST_LOOK, LOOK_SECONDS, GROWTH = 1.0, 5.0, 1.5
"""Seconds between two looks, at first and at most: the service does not tell how long to wait."""
IDLE = "PT2M"  # how long a node without a job is kept: the service's own choice
_NAME = re.compile(r"[A-Za-z](?!.*--)[A-Za-z0-9-]{1,22}[A-Za-z0-9]")
_WAITED_FOR = ("creating", "updating", "inprogress", "running", "accepted")


def has_cluster(connection: Connection, name: str) -> bool:
    """Whether there is a compute called *name*; one request. Raises as `Rest` does."""
    return _found(connection, name) is not None


def create_cluster(connection: Connection, spec: ClusterSpec, notify: Notify) -> None:
    """Make the cluster and wait until it can take jobs; where there is one of its name, that is said, and nothing is
    made.

    Raises BadUsage for a name or numbers that no cluster has, and for a size or nodes that the service refuses (its
    quota); NotAllowed, ServiceFailed; Interrupted after Ctrl-C, when the cluster may be there.
    """
    _check(spec)
    if _found(connection, spec.name) is not None:
        notify(Notice(f"Cluster '{spec.name}' is there already: not made again."))
        return
    notify(Notice(f"Making cluster '{spec.name}': {spec.min_nodes} to {spec.max_nodes} nodes of {spec.size}."))
    try:
        with terminations():
            _make(connection, spec)
    except KeyboardInterrupt as err:
        raise Interrupted(
            f"Interrupted while cluster '{spec.name}' was being made: it may be there.",
            hint=f"To remove it: az ml compute delete --name {spec.name}",
        ) from err
    notify(Notice(f"Cluster '{spec.name}' is ready."))


def _check(spec: ClusterSpec) -> None:
    if not _NAME.fullmatch(spec.name):
        raise BadUsage(
            f"No cluster can be called '{spec.name}'.", hint="Take 3 to 24 letters, digits and '-', a letter first."
        )
    if not re.fullmatch(r"[A-Za-z0-9_]+", spec.size):
        raise BadUsage(
            f"'{spec.size}' is no size of a virtual machine.", hint="Write it as Azure does: Standard_NC6s_v3"
        )
    if not 0 <= spec.min_nodes <= spec.max_nodes or spec.max_nodes < 1:
        raise BadUsage(
            f"A cluster cannot have {spec.min_nodes} to {spec.max_nodes} nodes.",
            hint="The lower number is 0 at least, the upper one 1.",
        )


def _found(connection: Connection, name: str) -> Mapping[str, Any] | None:
    url = _url(connection, name)
    try:
        return connection.rest.get_object(url, "compute", params={"api-version": api_versions.COMPUTES})
    except ServiceNotFound:
        return None


def _make(connection: Connection, spec: ClusterSpec) -> None:
    nodes = {"minNodeCount": spec.min_nodes, "maxNodeCount": spec.max_nodes, "nodeIdleTimeBeforeScaleDown": IDLE}
    machines = {
        "vmSize": spec.size,
        "vmPriority": "LowPriority" if spec.low_priority else "Dedicated",
        "scaleSettings": nodes,
    }
    body = {
        "location": connection.record().location,
        "properties": {"computeType": "AmlCompute", "properties": machines},
    }
    try:
        reply = connection.rest.send(
            "PUT", _url(connection, spec.name), params={"api-version": api_versions.COMPUTES}, json=body
        )
    except ServiceRefused as err:
        if err.status != 400:
            raise
        raise BadUsage(
            f"Azure ML makes no cluster '{spec.name}' of {spec.size}: {words_of(str(err))}", hint=_quota_hint(str(err))
        ) from err
    operation = reply.headers.get("azure-asyncoperation", "")
    deadline, pause = time.monotonic() + LONGEST_SECONDS, FIRST_LOOK
    while not _is_ready(connection, spec, operation):
        if time.monotonic() > deadline:
            raise ServiceFailed(
                f"Cluster '{spec.name}' is not ready after {LONGEST_SECONDS / 60:.0f} minutes.",
                hint="Studio shows what it waits for.",
            )
        time.sleep(pause)
        pause = min(LOOK_SECONDS, pause * GROWTH)


def _is_ready(connection: Connection, spec: ClusterSpec, operation: str) -> bool:
    """Whether the cluster can take jobs. Raises BadUsage where making it failed."""
    if operation:
        answer = connection.rest.get_object(operation, "operation")
        if str(answer.get("status") or "").lower() in _WAITED_FOR:
            return False
        _raise_failure(spec, str(answer.get("status") or ""), answer.get("error"))
    url = _url(connection, spec.name)
    found = connection.rest.get_object(url, "compute", params={"api-version": api_versions.COMPUTES})
    with understood(url, "the compute"):
        properties = found["properties"]
        state = str(properties.get("provisioningState") or "Succeeded")
        errors = [
            *(properties.get("provisioningErrors") or ()),
            *((properties.get("properties") or {}).get("errors") or ()),
        ]
    if state.lower() in _WAITED_FOR:
        return False
    _raise_failure(spec, state, errors[0].get("error", errors[0]) if errors else None)
    return True


def _raise_failure(spec: ClusterSpec, state: str, error: Mapping[str, Any] | None) -> None:
    if state.lower() == "succeeded" and not error:
        return
    told = error or {}
    inner = next((one for one in told.get("details") or () if isinstance(one, Mapping) and one.get("message")), told)
    words = words_of(str(inner.get("message") or told.get("message") or f"its state is {state}"))
    raise BadUsage(
        f"Azure ML makes no cluster '{spec.name}' of {spec.size}: {words}",
        hint=_quota_hint(f"{inner.get('code')} {words}"),
    )


def words_of(text: str) -> str:
    """One line of the service's own words."""
    line = redact(" ".join(text.split()))
    return line if len(line) <= 300 else f"{line[:299]}…"


def _quota_hint(text: str) -> str:
    if "quota" in text.lower():
        return "Ask for fewer nodes or another size, or have the subscription's quota raised in the Azure portal."
    return "'az ml compute list-sizes' shows the sizes of this region."


def _url(connection: Connection, name: str) -> str:
    return connection.arm(f"/computes/{quote(name, safe='')}")
