"""Computes that jobs are for: whether there is one, and whether it can take the job; clusters made on request."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, Interrupted, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.jobs import SERVERLESS, ClusterSpec
from himl_cli.core.processes import terminations
from himl_cli.core.text import did_you_mean
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.responses import one_line, understood
from himl_cli.workspaces.azure.service_errors import ServiceRefused

# Kinds of computes that run no command jobs, as sentences name them.
NO_JOBS = {
    "Databricks": "Databricks",
    "DataFactory": "a Data Factory",
    "DataLakeAnalytics": "Data Lake Analytics",
    "HDInsight": "HDInsight",
    "SynapseSpark": "a Spark pool",
}
# A cluster without nodes is there within a minute; one with some waits for these.
CLUSTER_SECONDS = 20 * 60.0
_COMPUTES = {"api-version": ApiVersion.COMPUTES}


def check_compute(connection: Connection, name: str, nodes: int = 1, notify: Notify = ignore) -> None:
    """Look at the compute that a job of so many *nodes* is for; one request, none for `serverless`.

    *notify* hears of one whose last change failed: the service takes jobs for it.

    Raises NotFound naming those that exist, BadUsage for one that runs no such job, and as `HttpClient` does.
    """
    if name.lower() == SERVERLESS:
        return
    found: Mapping[str, Any] | None = None
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):  # others would mean something else in a URL
        found = connection.rest.find_object(_compute_url(connection, name), "compute", params=_COMPUTES)
    if found is None:
        computes = connection.rest.resources(connection.arm("/computes"), "computes", _COMPUTES)
        names = sorted(str(item.get("name")) for item in computes)
        others = f"there are: {', '.join(names)}" if names else "it has none"
        raise NotFound(f"No compute '{name}' in {connection.address.label}; {others}.", hint=did_you_mean(name, names))
    with understood(_compute_url(connection, name), "the compute"):
        properties = found["properties"]
        kind, state = str(properties["computeType"]), properties.get("provisioningState")
        settings = (properties.get("properties") or {}).get("scaleSettings") or {}
        most = 1 if kind == "ComputeInstance" else settings.get("maxNodeCount")  # None: that is not told
        if kind in NO_JOBS:
            raise BadUsage(
                f"The compute '{name}' is {NO_JOBS[kind]}, which runs no such jobs.",
                hint="Name a compute cluster with --cluster.",
            )
        if state in ("Deleting", "Canceled"):
            raise BadUsage(
                f"The compute '{name}' cannot be used: its state is {state}.",
                hint="Name another one with --cluster, or ask the workspace's owner.",
            )
        if most is not None and nodes > int(most):
            raise BadUsage(
                f"--num_nodes {nodes}: the compute '{name}' has {most} node{'s' * (int(most) != 1)} at most.",
                hint="Ask for fewer, or name a larger one with --cluster.",
            )
        if state == "Failed":
            errors = [one.get("error") or one for one in properties.get("provisioningErrors") or ()]
            words = next((one_line(str(error["message"])) for error in errors if error.get("message")), "")
            reason = f": {words.rstrip('.')}" if words else ""
            notify(
                Notice(
                    f"The compute '{name}' is in state Failed{reason}. The job is sent all the same, and may wait "
                    "there."
                )
            )


def has_cluster(connection: Connection, name: str) -> bool:
    return connection.rest.find_object(_compute_url(connection, name), "compute", params=_COMPUTES) is not None


def create_cluster(connection: Connection, spec: ClusterSpec, notify: Notify) -> None:
    """Make the cluster and wait until it can take jobs; where there is one of its name, that is said, and nothing is
    made.

    Raises BadUsage for a name or numbers that no cluster has, and for a size or nodes that the service refuses (its
    quota); NotAllowed, ServiceFailed; Interrupted after Ctrl-C, when the cluster may be there.
    """
    name, size, nodes = spec.name, spec.size, f"{spec.min_nodes} to {spec.max_nodes} nodes"
    for is_right, text, hint in (
        (
            re.fullmatch(r"[A-Za-z](?!.*--)[A-Za-z0-9-]{1,22}[A-Za-z0-9]", name),
            f"No cluster can be called '{name}'.",
            "Take 3 to 24 letters, digits and '-', a letter first.",
        ),
        (
            re.fullmatch(r"[A-Za-z0-9_]+", size),
            f"'{size}' is no size of a virtual machine.",
            "Write it as Azure does: Standard_NC6s_v3",
        ),
        (
            0 <= spec.min_nodes <= spec.max_nodes >= 1,
            f"A cluster cannot have {nodes}.",
            "The lower number is 0 at least, the upper one 1.",
        ),
    ):
        if not is_right:
            raise BadUsage(text, hint=hint)
    if has_cluster(connection, name):
        notify(Notice(f"Cluster '{name}' is there already: not made again."))
        return
    notify(Notice(f"Making cluster '{name}': {nodes} of {size}."))
    try:
        with terminations():
            operation = _request_cluster(connection, spec)
            deadline, pause = time.monotonic() + CLUSTER_SECONDS, 1.0
            while not _is_ready(connection, spec, operation):
                if time.monotonic() > deadline:
                    raise ServiceFailed(
                        f"Cluster '{name}' is not ready after {CLUSTER_SECONDS / 60:.0f} minutes.",
                        hint="Studio shows what it waits for.",
                    )
                time.sleep(pause)
                pause = min(5.0, pause * 1.5)  # the service does not tell how long to wait
    except KeyboardInterrupt as err:
        raise Interrupted(
            f"Interrupted while cluster '{name}' was being made: it may be there.",
            hint=f"To remove it: az ml compute delete --name {name}",
        ) from err
    notify(Notice(f"Cluster '{name}' is ready."))


def _request_cluster(connection: Connection, spec: ClusterSpec) -> str:
    idle = "PT2M"  # how long a node without a job is kept: the service's own choice
    nodes = {"minNodeCount": spec.min_nodes, "maxNodeCount": spec.max_nodes, "nodeIdleTimeBeforeScaleDown": idle}
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
        reply = connection.rest.send("PUT", _compute_url(connection, spec.name), params=_COMPUTES, json=body)
    except ServiceRefused as err:
        if err.status != 400:
            raise
        raise _no_cluster(spec, str(err)) from err
    return reply.headers.get("azure-asyncoperation", "")


def _is_ready(connection: Connection, spec: ClusterSpec, operation: str) -> bool:
    if operation:
        answer = connection.rest.get_object(operation, "operation")
        with understood(operation, "the operation"):
            if not _has_succeeded(spec, str(answer.get("status") or ""), answer.get("error")):
                return False
    url = _compute_url(connection, spec.name)
    found = connection.rest.get_object(url, "compute", params=_COMPUTES)
    with understood(url, "the compute"):
        properties = found["properties"]
        state = str(properties.get("provisioningState") or "Succeeded")
        below = properties.get("properties") or {}
        errors = [*(properties.get("provisioningErrors") or ()), *(below.get("errors") or ())]
        return _has_succeeded(spec, state, errors[0].get("error", errors[0]) if errors else None)


def _has_succeeded(spec: ClusterSpec, state: str, error: Mapping[str, Any] | None) -> bool:
    if state.lower() in ("creating", "updating", "inprogress", "running", "accepted"):
        return False
    outer = error or {}
    if state.lower() == "succeeded" and not outer:
        return True
    inner = next((one for one in outer.get("details") or () if isinstance(one, Mapping) and one.get("message")), outer)
    words = inner.get("message") or outer.get("message") or f"its state is {state}"
    raise _no_cluster(spec, str(words), str(inner.get("code")))


def _no_cluster(spec: ClusterSpec, words: str, code: str = "") -> BadUsage:
    hint = "'az ml compute list-sizes' shows the sizes of this region."
    if "quota" in f"{code} {words}".lower():
        hint = "Ask for fewer nodes or another size, or have the subscription's quota raised in the Azure portal."
    return BadUsage(f"Azure ML makes no cluster '{spec.name}' of {spec.size}: {one_line(words)}", hint=hint)


def _compute_url(connection: Connection, name: str) -> str:
    return connection.arm(f"/computes/{quote(name, safe='')}")
