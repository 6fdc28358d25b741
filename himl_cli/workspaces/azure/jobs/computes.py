"""Compute targets of jobs: whether one exists and can run the job, and the creation of clusters."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, Interrupted, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.jobs import ClusterSpec, is_compute_name
from himl_cli.core.signals import terminations
from himl_cli.core.text import did_you_mean
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.responses import one_line, understood
from himl_cli.workspaces.azure.service_errors import ServiceRefused
from himl_cli.workspaces.retry import Pauses

# Kinds of compute targets that run no command jobs, with their names for messages.
NO_JOBS = {
    "Databricks": "Databricks",
    "DataFactory": "a Data Factory",
    "DataLakeAnalytics": "Data Lake Analytics",
    "HDInsight": "HDInsight",
    "SynapseSpark": "a Spark pool",
}
# A cluster without nodes is ready within a minute. One with nodes waits for them.
CLUSTER_SECONDS = 20 * 60.0
_COMPUTES = {"api-version": ApiVersion.COMPUTES}


def check_compute(connection: Connection, name: str, nodes: int = 1, notify: Notify = ignore) -> None:
    """Check the compute target of a job of *nodes* nodes, with one request, or none for what is no name of one.

    Reports a target whose last change failed to *notify*, because the service accepts jobs for it.

    Raises NotFound naming the existing targets, BadUsage for one that cannot run the job, and as `Connection`.
    """
    above, _, last = name.rpartition("/")
    name = last if above.lower() == f"{connection.address.path}/computes".lower() else name
    if not is_compute_name(name):
        return
    found: Mapping[str, Any] | None = None
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):  # any other name would change the URL
        found = connection.find_object(_compute_url(connection, name), "compute", params=_COMPUTES)
    if found is None:
        computes = connection.resources(connection.arm("/computes"), "computes", _COMPUTES)
        names = sorted(str(item.get("name")) for item in computes)
        others = f"It has {', '.join(names)}." if names else "It has none."
        raise NotFound(
            f"Unknown compute target '{name}' in {connection.address.label}. {others}", hint=did_you_mean(name, names)
        )
    with understood(_compute_url(connection, name), "the compute"):
        properties = found["properties"]
        kind, state = str(properties["computeType"]), properties.get("provisioningState")
        settings = (properties.get("properties") or {}).get("scaleSettings") or {}
        most = 1 if kind == "ComputeInstance" else settings.get("maxNodeCount")  # None if unknown
        if kind in NO_JOBS:
            raise BadUsage(
                f"The compute target '{name}' is {NO_JOBS[kind]}, which cannot run himl's jobs.",
                hint="Use a compute cluster: --cluster NAME",
            )
        if state in ("Deleting", "Canceled"):
            raise BadUsage(
                f"The compute target '{name}' is unusable: its state is {state}.",
                hint="Use another one with --cluster, or ask the workspace's owner.",
            )
        if most is not None and nodes > int(most):
            raise BadUsage(
                f"--num_nodes {nodes}: the compute target '{name}' has at most {most} node{'s' * (int(most) != 1)}.",
                hint="Use fewer nodes, or a larger compute target with --cluster.",
            )
        if state == "Failed":
            errors = [one.get("error") or one for one in properties.get("provisioningErrors") or ()]
            words = next((one_line(str(error["message"])) for error in errors if error.get("message")), "")
            reason = f": {words.rstrip('.')}" if words else ""
            notify(
                Notice(
                    f"The compute target '{name}' is in state Failed{reason}. himl submits the job, which may wait in "
                    "the queue."
                )
            )


def has_cluster(connection: Connection, name: str) -> bool:
    return connection.find_object(_compute_url(connection, name), "compute", params=_COMPUTES) is not None


def create_cluster(connection: Connection, spec: ClusterSpec, notify: Notify) -> None:
    """Create the cluster and wait until it accepts jobs. If it exists, report this and create nothing.

    Raises BadUsage for an invalid name or number of nodes, and for a size or number that the service refuses (because
    of its quota). Raises NotAllowed, ServiceFailed, and after Ctrl-C Interrupted, when the cluster may exist.
    """
    name, size, nodes = spec.name, spec.size, f"{spec.min_nodes} to {spec.max_nodes} nodes"
    for is_right, text, hint in (
        (
            re.fullmatch(r"[A-Za-z](?!.*--)[A-Za-z0-9-]{1,22}[A-Za-z0-9]", name),
            f"The cluster name '{name}' is invalid.",
            "Use 3 to 24 letters, digits and '-', beginning with a letter.",
        ),
        (
            re.fullmatch(r"[A-Za-z0-9_]+", size),
            f"'{size}' is not a virtual machine size.",
            "Use an Azure name, such as Standard_NC6s_v3.",
        ),
        (
            0 <= spec.min_nodes <= spec.max_nodes >= 1,
            f"A cluster cannot have {nodes}.",
            "The lower number must be at least 0, and the upper one at least 1.",
        ),
    ):
        if not is_right:
            raise BadUsage(text, hint=hint)
    if has_cluster(connection, name):
        notify(Notice(f"Cluster '{name}' already exists."))
        return
    notify(Notice(f"Creating cluster '{name}': {nodes} of {size}."))
    try:
        with terminations():
            operation = _request_cluster(connection, spec)
            # The service gives no interval
            deadline, pauses = time.monotonic() + CLUSTER_SECONDS, Pauses(1.0, 5.0)
            while not _is_ready(connection, spec, operation):
                if time.monotonic() > deadline:
                    raise ServiceFailed(
                        f"Cluster '{name}' is not ready after {CLUSTER_SECONDS / 60:.0f} minutes.",
                        hint="See its status in Studio.",
                    )
                time.sleep(pauses.next())
    except KeyboardInterrupt as err:
        raise Interrupted(
            f"Interrupted during the creation of cluster '{name}', which may exist.",
            hint=f"To delete it: az ml compute delete --name {name}",
        ) from err
    notify(Notice(f"Cluster '{name}' is ready."))


def _request_cluster(connection: Connection, spec: ClusterSpec) -> str:
    idle = "PT2M"  # the idle time before a node is released, as in the service's default
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
        reply = connection.request("PUT", _compute_url(connection, spec.name), params=_COMPUTES, json=body)
    except ServiceRefused as err:
        if err.status != 400:
            raise
        raise _no_cluster(spec, str(err)) from err
    return reply.headers.get("azure-asyncoperation", "")


def _is_ready(connection: Connection, spec: ClusterSpec, operation: str) -> bool:
    if operation:
        answer = connection.get(operation).object("operation")
        with understood(operation, "the operation"):
            if not _has_succeeded(spec, str(answer.get("status") or ""), answer.get("error")):
                return False
    url = _compute_url(connection, spec.name)
    found = connection.get(url, params=_COMPUTES).object("compute")
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
    hint = "List the sizes of this region: az ml compute list-sizes"
    if "quota" in f"{code} {words}".lower():
        hint = "Use fewer nodes or another size, or request a higher quota in the Azure portal."
    return BadUsage(f"Azure ML cannot create cluster '{spec.name}' of {spec.size}: {one_line(words)}", hint=hint)


def _compute_url(connection: Connection, name: str) -> str:
    return connection.arm(f"/computes/{quote(name, safe='')}")
