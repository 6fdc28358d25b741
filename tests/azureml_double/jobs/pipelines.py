"""Pipeline jobs: what the service rejects, and how the double runs the rest. Each step is a separate job that starts
when its inputs are available.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.azureml_double.frame import bad_request, there
from tests.azureml_double.jobs.processes import Course, JobFailed
from tests.azureml_double.state import PIPELINE, STEP, Json, Principal, Run, Workspace, new_id, now, time_text

if TYPE_CHECKING:
    from tests.azureml_double.jobs.runner import JobRunner

LOOK = 0.02  # seconds between two checks of the steps
LOG_NAME = "logs/azureml/executionlogs.txt"
LITERALS = ("string", "integer", "number", "boolean")
MODES = {
    "ro_mount": "ReadOnlyMount",
    "rw_mount": "ReadWriteMount",
    "download": "Download",
    "upload": "Upload",
    "direct": "Direct",
    "mount": "ReadOnlyMount",
}
DISTRIBUTIONS = {"mpi": "Mpi", "pytorch": "PyTorch"}
_COMPONENT = re.compile(r"(?:azureml:)?(?:/subscriptions/.*)?/components/([^/]+)/versions/([^/]+)", re.IGNORECASE)
_BOUND = re.compile(r"\s*\$\{\{\s*parent\.(?:(inputs|outputs)\.(\w+)|jobs\.(\w+)\.outputs\.(\w+))\s*\}\}\s*")


class Binding(NamedTuple):
    """The target that an input or output is bound to: the pipeline's own (`kind` is `inputs` or `outputs`), or an
    output of the step *node* (`jobs`).
    """

    kind: str
    name: str
    node: str = ""


@dataclass(frozen=True)
class Node:
    """One step. `given` is its text in the job, with its `inputs` and `outputs`. `component` is the spec that it
    runs, with the inputs `takes` and the outputs `gives`.
    """

    name: str
    given: Json
    inputs: Json
    outputs: Json
    component: Json
    takes: Json
    gives: Json

    @property
    def waits_for(self) -> set[str]:
        bound = (binding_of(given) for given in self.inputs.values())
        return {one.node for one in bound if one is not None and one.kind == "jobs"}


def binding_of(given: Json) -> Binding | None:
    """Return the binding of a step's input or output, or None for data and literal values. Raises ServiceError if the
    binding has an unknown form.
    """
    value = given.get("value")
    if not isinstance(value, str) or "${{" not in value:
        return None
    found = _BOUND.fullmatch(value)
    if found is None:
        raise bad_request(f"'{value}' is no binding.")
    return Binding("jobs", found[4], found[3]) if found[3] else Binding(found[1], found[2])


def nodes_of(workspace: Workspace, properties: Json) -> dict[str, Node]:
    nodes = {}
    for name, given in (properties.get("jobs") or {}).items():
        if given.get("type", "command") != "command":
            raise bad_request(f"jobs.{name}: nodes of type '{given.get('type')}' are not played.")
        found = _COMPONENT.fullmatch(str(given.get("componentId") or ""))
        known = workspace.assets["components"].get(found[1], {}).get(found[2]) if found else None
        spec: Json = there(known, f"jobs.{name}: Component {given.get('componentId')} not found.")["componentSpec"]
        nodes[name] = Node(
            name,
            given,
            given.get("inputs") or {},
            given.get("outputs") or {},
            spec,
            spec.get("inputs") or {},
            spec.get("outputs") or {},
        )
    if not nodes:
        raise bad_request("A pipeline job needs 'jobs'.")
    return nodes


def check_pipeline(workspace: Workspace, properties: Json) -> None:
    nodes = nodes_of(workspace, properties)
    default = (properties.get("settings") or {}).get("default_compute") or properties.get("computeId")
    for node in nodes.values():
        compute = compute_of(properties, node.given.get("computeId") or default)
        if not compute:
            raise bad_request(f"jobs.{node.name}: there is no compute, and no default one.")
        if compute.rpartition("/")[2] != "serverless" and not runs_jobs(workspace, compute):
            raise bad_request(f"Unknown compute target '{compute}'.")
        _check_inputs(properties, nodes, node)
        _check_outputs(properties, node)
    left = dict(nodes)
    while left:
        ready = [name for name, node in left.items() if not node.waits_for & left.keys()]
        if not ready:
            raise bad_request(f"The pipeline has a cycle: {', '.join(sorted(left))}.")
        left = {name: node for name, node in left.items() if name not in ready}


def compute_of(properties: Json, given: str | None) -> str:
    """The compute target that a step names, or the value of the pipeline's input that it is bound to."""
    found = _BOUND.fullmatch((given or "").rpartition("/")[2])
    value = ((properties.get("inputs") or {}).get(found[2]) or {}).get("value") if found else given
    return str(value or "").removeprefix("azureml:")


def runs_jobs(workspace: Workspace, compute: str) -> bool:
    """Whether a name or an id is that of a compute target: of the workspace, or of a virtual cluster anywhere."""
    return "/virtualclusters/" in compute.lower() or compute.rpartition("/")[2] in workspace.computes


def _check_inputs(properties: Json, nodes: dict[str, Node], node: Node) -> None:
    known = node.takes
    for name, given in node.inputs.items():
        if name not in known:
            raise bad_request(f"jobs.{node.name}.inputs.{name}: the component has no such input.")
        bound = binding_of(given)
        if bound is None:
            continue
        of_nodes = {one: nodes[one].gives for one in nodes}
        if bound.name not in (
            of_nodes.get(bound.node, {}) if bound.kind == "jobs" else properties.get(bound.kind) or {}
        ):
            raise bad_request(f"jobs.{node.name}.inputs.{name}: {given['value']} names nothing.")
    missing = [
        name
        for name, wanted in known.items()
        if name not in node.inputs and not wanted.get("optional") and wanted.get("default") is None
    ]
    if missing:
        raise bad_request(f"jobs.{node.name}: the inputs {', '.join(missing)} are missing.")


def _check_outputs(properties: Json, node: Node) -> None:
    for name, given in node.outputs.items():
        if name not in node.gives:
            raise bad_request(f"jobs.{node.name}.outputs.{name}: the component has no such output.")
        bound = binding_of(given)
        if bound is not None and (bound.kind != "outputs" or bound.name not in (properties.get("outputs") or {})):
            raise bad_request(f"jobs.{node.name}.outputs.{name}: {given['value']} names nothing.")


def step_job(pipeline: Run, node: Node, ended: Mapping[str, Run]) -> Json:
    given, component, job = node.given, node.component, pipeline.job or {}
    inputs = {name: one for name in node.takes if (one := _input(job, node, name, ended)) is not None}
    spread = given.get("distribution") or component.get("distribution") or {}
    kind, each = (
        str(spread.get("distribution_type") or spread.get("type") or ""),
        spread.get("process_count_per_instance"),
    )
    distribution = (
        {"distributionType": DISTRIBUTIONS.get(kind.lower(), kind), "processCountPerInstance": each} if spread else None
    )
    found: Json = {
        "jobType": "Command",
        "experimentName": pipeline.experiment.name,
        "componentId": given["componentId"],
    }
    found |= {"command": component["command"], "codeId": bare_id(component.get("code"))}
    found |= {"environmentId": bare_id(component.get("environment"))}
    default = job.get("computeId") or (job.get("settings") or {}).get("default_compute")
    found |= {"computeId": compute_of(job, given.get("computeId") or default)}
    found |= {
        "environmentVariables": given.get("environment_variables") or component.get("environment_variables") or {},
        "inputs": inputs,
    }
    found |= {"outputs": {name: _output(pipeline, node, name) for name in node.gives}}
    found |= {"distribution": distribution}
    found |= {"resources": camel({**(component.get("resources") or {}), **(given.get("resources") or {})})}
    found |= {
        "limits": camel(given.get("limits") or {}) or None,
        "identity": camel(given.get("identity") or {}) or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _input(job: Json, node: Node, name: str, ended: Mapping[str, Run]) -> Json | None:
    wanted, given = node.takes[name], node.inputs.get(name)
    kind = str(wanted.get("type") or "uri_folder")
    if given is None:
        value = wanted.get("default")
        return None if value is None else {"jobInputType": "literal", "value": str(value)}
    mode = given.get("mode") or MODES.get(str(wanted.get("mode") or ""), wanted.get("mode"))
    bound = binding_of(given)
    if bound is None:
        found = camel(given)
    elif bound.kind == "inputs":
        found = dict(job["inputs"][bound.name])
    else:
        found = {"jobInputType": kind, "uri": ended[bound.node].outputs[bound.name].uri}
    if kind in LITERALS or found.get("jobInputType") == "literal":
        return {"jobInputType": "literal", "value": str(found.get("value"))}
    return {**found, **({"mode": mode} if mode else {})}


def _output(pipeline: Run, node: Node, name: str) -> Json:
    wanted, given = node.gives[name], dict(node.outputs.get(name) or {})
    bound = binding_of(given) if given else None
    if bound is not None:
        given = dict((pipeline.job or {})["outputs"][bound.name])
        given["uri"] = (
            given.get("uri") or f"azureml://datastores/workspaceblobstore/paths/azureml/{pipeline.run_id}/{bound.name}/"
        )
    found = camel(given)
    asset = found.pop("name", None) or found.get("assetName")
    mode = found.get("mode") or MODES.get(str(wanted.get("mode") or ""), "ReadWriteMount")
    return {
        "jobOutputType": str(wanted.get("type") or "uri_folder"),
        **found,
        "mode": mode,
        **({"assetName": asset} if asset else {}),
    }


def camel(given: Mapping[str, Any]) -> Json:
    """Convert a name from the snake case used within nodes to the camel case used for jobs."""
    return {re.sub(r"_(\w)", lambda found: found[1].upper(), name): value for name, value in given.items()}


def bare_id(text: str | None) -> str | None:
    return (
        text.removeprefix("azureml:")
        if text and text.startswith(("azureml:/subscriptions/", "azureml:azureml:"))
        else text
    )


class PipelineCourse(Course):
    def __init__(self, runner: JobRunner, run: Run, submitter: Principal | None) -> None:
        super().__init__(runner.staged, run, submitter)
        self._runner, self._settings = runner, self._job.get("settings") or {}
        self._continues = bool(self._settings.get("continue_on_step_failure"))
        self._steps: dict[str, Run] = {}
        facts = {"DevPlatv2": "true", "runsource": PIPELINE, "parameters": "{}", "pipelineComponent": "pipelinerun"}
        facts |= {"continue_on_step_failure": str(self._continues)}
        run.properties |= {
            "runSource": "MFE",
            "runType": "HTTP",
            **{f"azureml.{name}": value for name, value in facts.items()},
        }

    def cancel(self) -> None:
        super().cancel()
        for step in list(self._steps.values()):
            self._runner.cancel(step)

    def _go(self) -> None:
        nodes = nodes_of(self._workspace, self._job)
        self._move("Preparing")
        self._move("Running")
        while not self._canceled.is_set():
            if not self._continues and any(
                step.is_ended and step.status != "Completed" for step in self._steps.values()
            ):
                break
            for node in self._ready(nodes):
                self._start(node)
            if all(step.is_ended for step in self._steps.values()) and not self._ready(nodes):
                break
            time.sleep(LOOK)
        # Cancel the steps that are running. The others never start.
        for step in self._steps.values():
            if not step.is_ended:
                self._runner.cancel(step)
        while not all(step.is_ended for step in self._steps.values()):
            time.sleep(LOOK)
        self._finish(nodes)

    def _ready(self, nodes: dict[str, Node]) -> list[Node]:
        done = {name for name, step in self._steps.items() if step.status == "Completed"}
        return [node for node in nodes.values() if node.name not in self._steps and node.waits_for <= done]

    def _finish(self, nodes: dict[str, Node]) -> None:
        for step in self._steps.values():
            self._say(f"Completing processing run id {step.run_id}.")
        self._say("Finishing experiment: no runs left and nothing to schedule.")
        unlucky = [step.display_name for step in self._steps.values() if step.status != "Completed"]
        if self._canceled.is_set():
            self._end("Canceled")
        elif unlucky:
            text = (
                f"Pipeline has failed child jobs. Failed nodes: {', '.join(unlucky)}. For more details and "
                "logs, please go to the job detail page."
            )
            self._end("Failed", JobFailed(text, "PipelineFailed"))
        else:
            # The pipeline's outputs are the outputs of the steps that are bound to them.
            for node in nodes.values():
                for name, given in node.outputs.items():
                    bound = str(given.get("value") or "").removeprefix("${{parent.outputs.").removesuffix("}}")
                    if bound in (self._job.get("outputs") or {}):
                        self._run.outputs[bound] = self._steps[node.name].outputs[name]
            self._end("Completed")

    def _start(self, node: Node) -> None:
        job = step_job(self._run, node, self._steps)
        store = (
            str(self._settings.get("default_datastore") or "").rpartition("/")[2]
            or self._workspace.default_datastore.name
        )
        for name, given in job["outputs"].items():
            place = given.get("uri") or f"azureml://datastores/{store}/paths/azureml/${{{{name}}}}/{name}/"
            given["uri"] = place.replace("${{output_name}}", name)
        step = self._steps[node.name] = self._record(node, job)
        self._say(f"Submitting 1 runs, first five are: {step.tags['azureml.nodeid']}:{step.run_id}")
        self._runner.submit(step, self._submitter)
        if self._canceled.is_set():
            self._runner.cancel(step)

    def _record(self, node: Node, job: Json) -> Run:
        """Make a run of *node*, as recorded (wire document 4.1)."""
        node_id, pipeline = uuid.uuid4().hex[:8], self._run.run_id
        step = Run(
            new_id(),
            self._run.experiment,
            "NotStarted",
            user_name=self._run.user_name,
            parent_id=pipeline,
            run_type=STEP,
            job=job,
        )
        step.display_name, step.target = (
            node.given.get("display_name") or node.name,
            (job.get("computeId") or "").rpartition("/")[2] or None,
        )
        step.tags = {"azureml.nodeid": node_id, "azureml.pipeline": pipeline}
        name, _, version = str(node.given["componentId"]).rpartition("/components/")[2].partition("/versions/")
        facts = {
            "runsource": STEP,
            "nodeid": node_id,
            "moduleid": version,
            "moduleName": name,
            "moduleVersion": str(node.component.get("version") or "1"),
        }
        facts |= {
            "pipeline": pipeline,
            "pipelinerunid": pipeline,
            "DevPlatv2": "true",
            "pipelineComponent": "masterescloud",
        }
        step.properties = {f"azureml.{key}": value for key, value in facts.items()} | {
            "ContentSnapshotId": new_id(),
            "StepType": "PythonScriptStep",
        }
        step.properties |= {"ComputeTargetType": "AmlCompute", "_azureml.ComputeTargetType": "amlctrain"}
        return self._workspace.keep_run(step)

    def _move(self, status: str) -> None:
        with self._turn:
            if not self._canceled.is_set():
                self._run.move(status)

    def _say(self, text: str) -> None:
        self._workspace.storage.append(
            "azureml", self._run.artifact_prefix + LOG_NAME, f"[{time_text(now())}] {text}\n".encode()
        )
