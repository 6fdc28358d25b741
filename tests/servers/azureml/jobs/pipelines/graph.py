"""A pipeline job taken apart: nodes, the components that they run, and whose outputs they wait for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.servers.azureml.answers import bad_request, not_found
from tests.servers.azureml.state import Json, Workspace

_COMPONENT = re.compile(r"(?:azureml:)?(?:/subscriptions/.*)?/components/([^/]+)/versions/([^/]+)", re.IGNORECASE)
_BOUND = re.compile(r"\s*\$\{\{\s*parent\.(?:(inputs|outputs)\.(\w+)|jobs\.(\w+)\.outputs\.(\w+))\s*\}\}\s*")
LITERALS = ("string", "integer", "number", "boolean")


@dataclass(frozen=True)
class Binding:
    """What an input or an output is bound to: the pipeline's own (`kind`: `inputs` or `outputs`), or (`jobs`) an output of *node*."""

    kind: str
    name: str
    node: str = ""


@dataclass(frozen=True)
class Node:
    """One step: `given` as it stands in the job, `component` the spec of what it runs."""

    name: str
    given: Json
    component: Json

    @property
    def inputs(self) -> Json:
        return self.given.get("inputs") or {}

    @property
    def waits_for(self) -> set[str]:
        """The nodes whose outputs it reads."""
        bound = (binding_of(given) for given in self.inputs.values())
        return {one.node for one in bound if one is not None and one.kind == "jobs"}


def binding_of(given: Json) -> Binding | None:
    """What an input or output of a node is bound to; None for data and values of its own. Raises ServiceError for a binding of no form that there is."""
    value = given.get("value")
    if not isinstance(value, str) or "${{" not in value:
        return None
    found = _BOUND.fullmatch(value)
    if found is None:
        raise bad_request(f"'{value}' is no binding.")
    return Binding("jobs", found[4], found[3]) if found[3] else Binding(found[1], found[2])


def nodes_of(workspace: Workspace, properties: Json) -> dict[str, Node]:
    """The nodes of the job with these *properties*. Raises ServiceError 400, 404 for what is no pipeline."""
    jobs = properties.get("jobs") or {}
    if not jobs:
        raise bad_request("A pipeline job needs 'jobs'.")
    return {name: Node(name, given, _component(workspace, name, given)) for name, given in jobs.items()}


def check_pipeline(workspace: Workspace, properties: Json) -> None:
    """Raises ServiceError for a component or compute that is not there, a binding that names nothing, inputs that are missing, and a cycle."""
    nodes = nodes_of(workspace, properties)
    default = (properties.get("settings") or {}).get("default_compute") or properties.get("computeId")
    for node in nodes.values():
        _check_compute(workspace, node, default)
        _check_inputs(properties, nodes, node)
        _check_outputs(properties, node)
    list(in_order(nodes))


def in_order(nodes: dict[str, Node]) -> Iterator[Node]:
    """The nodes, each after those that it waits for. Raises ServiceError 400 for a cycle."""
    left = dict(nodes)
    while left:
        ready = [node for node in left.values() if not node.waits_for & left.keys()]
        if not ready:
            raise bad_request(f"The pipeline has a cycle: {', '.join(sorted(left))}.")
        for node in ready:
            del left[node.name]
            yield node


def _component(workspace: Workspace, name: str, given: Json) -> Json:
    if given.get("type", "command") != "command":
        raise bad_request(f"jobs.{name}: nodes of type '{given.get('type')}' are not played.")
    found = _COMPONENT.fullmatch(str(given.get("componentId") or ""))
    known = workspace.assets["components"].get(found[1], {}).get(found[2]) if found else None
    if known is None:
        raise not_found(f"jobs.{name}: Component {given.get('componentId')} not found.")
    spec: Json = known["componentSpec"]
    return spec


def _check_compute(workspace: Workspace, node: Node, default: str | None) -> None:
    compute = str(node.given.get("computeId") or default or "").rpartition("/")[2]
    if not compute:
        raise bad_request(f"jobs.{node.name}: there is no compute, and no default one.")
    if compute != "serverless" and compute not in workspace.computes:
        raise bad_request(f"Unknown compute target '{compute}'.")


def _check_inputs(properties: Json, nodes: dict[str, Node], node: Node) -> None:
    known = node.component.get("inputs") or {}
    for name, given in node.inputs.items():
        if name not in known:
            raise bad_request(f"jobs.{node.name}.inputs.{name}: the component has no such input.")
        bound = binding_of(given)
        if bound is not None and not _is_there(properties, nodes, bound):
            raise bad_request(f"jobs.{node.name}.inputs.{name}: {given['value']} names nothing.")
    missing = [name for name, wanted in known.items() if name not in node.inputs and not wanted.get("optional") and wanted.get("default") is None]
    if missing:
        raise bad_request(f"jobs.{node.name}: the inputs {', '.join(missing)} are missing.")


def _is_there(properties: Json, nodes: dict[str, Node], bound: Binding) -> bool:
    if bound.kind == "jobs":
        return bound.node in nodes and bound.name in (nodes[bound.node].component.get("outputs") or {})
    return bound.name in (properties.get(bound.kind) or {})


def _check_outputs(properties: Json, node: Node) -> None:
    for name, given in (node.given.get("outputs") or {}).items():
        if name not in (node.component.get("outputs") or {}):
            raise bad_request(f"jobs.{node.name}.outputs.{name}: the component has no such output.")
        bound = binding_of(given)
        if bound is not None and (bound.kind != "outputs" or bound.name not in (properties.get("outputs") or {})):
            raise bad_request(f"jobs.{node.name}.outputs.{name}: {given['value']} names nothing.")
