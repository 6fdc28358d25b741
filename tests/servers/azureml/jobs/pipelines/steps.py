"""The command job that a step of a pipeline is, once what it waits for is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.servers.azureml.jobs.pipelines.graph import LITERALS, Node, binding_of
from tests.servers.azureml.state import Json, Run, Workspace

MODES = {"ro_mount": "ReadOnlyMount", "rw_mount": "ReadWriteMount", "download": "Download", "upload": "Upload", "direct": "Direct", "mount": "ReadOnlyMount"}
DISTRIBUTIONS = {"mpi": "Mpi", "pytorch": "PyTorch", "tensorflow": "TensorFlow"}
_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]")
_INPUT = re.compile(r"\$\{\{\s*inputs\.(\w+)\s*\}\}")


def job_of(workspace: Workspace, pipeline: Run, node: Node, ended: Mapping[str, Run]) -> Json:
    """The job of *node* as PUT would have it, apart from the places of outputs that are named by its run; *ended* are the runs of the nodes before it."""
    given, component = node.given, node.component
    job = pipeline.job or {}
    inputs = {name: one for name in component.get("inputs") or {} if (one := _input(pipeline, node, name, ended)) is not None}
    found: Json = {
        "jobType": "Command",
        "experimentName": pipeline.experiment.name,
        "componentId": given["componentId"],
        "command": _command(component["command"], inputs),
        "codeId": _id(component.get("code")),
        "environmentId": _id(component.get("environment")),
        "computeId": given.get("computeId") or job.get("computeId") or (job.get("settings") or {}).get("default_compute"),
        "environmentVariables": given.get("environment_variables") or component.get("environment_variables") or {},
        "inputs": inputs,
        "outputs": {name: _output(pipeline, node, name) for name in component.get("outputs") or {}},
        "distribution": _distribution(given.get("distribution") or component.get("distribution")),
        "resources": _camel({**(component.get("resources") or {}), **(given.get("resources") or {})}),
        "limits": _camel(given.get("limits") or {}) or None,
        "identity": _camel(given.get("identity") or {}) or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def default_place(workspace: Workspace, pipeline: Run, run_id: str, name: str) -> str:
    """Where an output goes that names no place."""
    settings = (pipeline.job or {}).get("settings") or {}
    datastore = str(settings.get("default_datastore") or "").rpartition("/")[2] or workspace.default_datastore.name
    return f"azureml://datastores/{datastore}/paths/azureml/{run_id}/{name}/"


def _command(text: str, inputs: Json) -> str:
    """The command, without the parts `$[[…]]` whose inputs are not given."""

    def kept(found: re.Match[str]) -> str:
        return found[1] if all(name in inputs for name in _INPUT.findall(found[1])) else ""

    return _OPTIONAL.sub(kept, text)


def _input(pipeline: Run, node: Node, name: str, ended: Mapping[str, Run]) -> Json | None:
    """One input as a command job has it; None for an optional one that is not given."""
    wanted, given = (node.component.get("inputs") or {})[name], node.inputs.get(name)
    kind = str(wanted.get("type") or "uri_folder")
    mode = MODES.get(str(wanted.get("mode") or ""), wanted.get("mode"))
    if given is None:
        value = wanted.get("default")
        return None if value is None else {"jobInputType": "literal", "value": str(value)}
    mode = given.get("mode") or mode
    bound = binding_of(given)
    if bound is None:
        found = _camel(given)
    elif bound.kind == "inputs":
        found = dict((pipeline.job or {})["inputs"][bound.name])
    else:
        found = {"jobInputType": kind, "uri": ended[bound.node].outputs[bound.name].uri}
    if kind in LITERALS or found.get("jobInputType") == "literal":
        return {"jobInputType": "literal", "value": str(found.get("value"))}
    return {**found, **({"mode": mode} if mode else {})}


def _output(pipeline: Run, node: Node, name: str) -> Json:
    """One output as a command job has it; the pipeline's own place where it is bound to that."""
    wanted, given = (node.component.get("outputs") or {})[name], dict((node.given.get("outputs") or {}).get(name) or {})
    bound = binding_of(given) if given else None
    if bound is not None:
        given = dict((pipeline.job or {})["outputs"][bound.name])
        if not given.get("uri"):
            given["uri"] = f"azureml://datastores/workspaceblobstore/paths/azureml/{pipeline.run_id}/{bound.name}/"
    found = _camel(given)
    asset = found.pop("name", None) or found.get("assetName")
    mode = found.get("mode") or MODES.get(str(wanted.get("mode") or ""), "ReadWriteMount")
    return {"jobOutputType": str(wanted.get("type") or "uri_folder"), **found, "mode": mode, **({"assetName": asset} if asset else {})}


def _distribution(given: Json | None) -> Json | None:
    if not given:
        return None
    kind = str(given.get("distribution_type") or given.get("type") or "")
    return {"distributionType": DISTRIBUTIONS.get(kind.lower(), kind), "processCountPerInstance": given.get("process_count_per_instance")}


def _camel(given: Mapping[str, Any]) -> Json:
    """Names within nodes are written in small letters with `_`; those of jobs are not."""
    return {re.sub(r"_(\w)", lambda found: found[1].upper(), name): value for name, value in given.items()}


def _id(text: str | None) -> str | None:
    return text.removeprefix("azureml:") if text and text.startswith("azureml:/") else text
