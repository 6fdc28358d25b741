"""Azure Monitor's metrics of a job's nodes: resource metrics of the workspace (learn.microsoft.com, "Supported metrics
for Microsoft.MachineLearningServices/workspaces"), under the names of MLflow's system metrics.

Over several nodes the service returns the mean of utilization percentages and the maximum of all others, unless each
node is requested separately. Names then contain the node, as in MLflow (`system/1/cpu_utilization_percentage`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from himl_cli.core.errors import HimlError
from himl_cli.core.logged import SYSTEM, Metric, MetricPoint
from himl_cli.core.runs import RECORDED_FROM, Run
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.responses import as_time, understood

log = logging.getLogger(__name__)

NAMES = {
    "CpuUtilizationPercentage": "cpu_utilization_percentage",
    "CpuMemoryUtilizationMegabytes": "system_memory_usage_megabytes",
    "CpuMemoryUtilizationPercentage": "system_memory_usage_percentage",
    "GpuUtilizationPercentage": "gpu_{}_utilization_percentage",
    "GpuMemoryUtilizationMegabytes": "gpu_{}_memory_usage_megabytes",
    "GpuMemoryUtilizationPercentage": "gpu_{}_memory_usage_percentage",
}
KEPT_DAYS = 93
POINTS = 400
GRAINS = {1: "PT1M", 5: "PT5M", 15: "PT15M", 30: "PT30M", 60: "PT1H", 360: "PT6H"}  # by minutes
DEVICE, NODE = "deviceid", "instanceid"
SERIES = 1000  # the service's default is ten


def read_resource_metrics(connection: Connection, run: Run, *, by_node: bool = False) -> list[Metric]:
    """The metrics of the nodes of *run*, by name, with one request. A step is a time grain of the service. None if
    there are none, the account may not read them, or Azure Monitor fails, because nothing depends on them. With
    *by_node*, several nodes are separate."""
    ended = run.ended or datetime.now(timezone.utc)
    is_kept = datetime.now(timezone.utc) - ended < timedelta(days=KEPT_DAYS)
    if run.started is None or not is_kept or RECORDED_FROM in run.tags or connection.has_run_token:
        return []
    begun = max(run.started, ended - timedelta(days=KEPT_DAYS))
    minutes = (ended - begun).total_seconds() / 60
    parameters = {
        "api-version": ApiVersion.RESOURCE_METRICS,
        "metricnames": ",".join(NAMES),
        "timespan": f"{begun:%Y-%m-%dT%H:%M:00Z}/{ended + timedelta(minutes=1):%Y-%m-%dT%H:%M:00Z}",
        "interval": next((grain for size, grain in GRAINS.items() if minutes / size <= POINTS), "PT6H"),
        "aggregation": "Average,Maximum",
        "$filter": f"RunId eq '{run.id}' and DeviceId eq '*'",
        "top": str(SERIES),
        "AutoAdjustTimegrain": "true",
        "ValidateDimensions": "false",  # otherwise DeviceId, which CPU metrics lack, would be an error
    }
    if by_node:
        parameters["$filter"] += " and InstanceId eq '*'"
    url = connection.arm("/providers/Microsoft.Insights/metrics")
    try:
        answer = connection.get(url, params=parameters).object("metrics")
        with understood(url, "a metric in it"):
            return _metrics(answer, run.id)
    except HimlError as err:
        log.debug("no metrics of the nodes: %s", err)
        return []


def _metrics(answer: Mapping[str, Any], run_id: str) -> list[Metric]:
    found: dict[tuple[str, str, str], list[MetricPoint]] = {}
    for metric in answer["value"]:
        name = NAMES[metric["name"]["value"]]
        value_of = "average" if name.endswith("utilization_percentage") else "maximum"
        for series in metric.get("timeseries") or ():
            facts = {str(each["name"]["value"]).lower(): str(each["value"]) for each in series["metadatavalues"]}
            points = [
                MetricPoint(float(point[value_of]), step, time)
                for step, point in enumerate(series["data"], 1)
                if point.get(value_of) is not None and (time := as_time(point["timeStamp"])) is not None
            ]
            if points:
                found[name, facts.get(NODE, ""), facts.get(DEVICE, "") if "{}" in name else ""] = points
    nodes = _numbers(node for _, node, _ in found)
    prefixes = {node: f"{number}/" for node, number in nodes.items()} if len(nodes) > 1 else {}
    devices = {node: _numbers(device for _, its, device in found if its == node) for _, node, _ in found}
    named = {
        SYSTEM + prefixes.get(node, "") + name.format(devices[node].get(device, "0")): points
        for (name, node, device), points in found.items()
    }
    return [Metric(name, points, run_id) for name, points in sorted(named.items())]


def _numbers(ids: Iterable[str]) -> dict[str, str]:
    """Numbers from 0 for the service's ids, in their order."""
    ordered = sorted({each for each in ids if each}, key=lambda each: (len(each), each))
    return {each: str(number) for number, each in enumerate(ordered)}
