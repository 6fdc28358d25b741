"""The request bodies of jobs and components, composed field by field from a JobSpec.

The fields are those that azure-ai-ml 1.35 sends, which the tests compare. Each request names the service's version of
its fields. Command jobs and sweeps have camel-case names. A pipeline's nodes are passed on to another service, which
uses snake case.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote
from uuid import UUID

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import (
    SERVERLESS,
    STEP,
    STEP_AFTER,
    USUAL_DATASTORE,
    JobSpec,
    PipelineSpec,
    StepSpec,
    is_compute_name,
)
from himl_cli.core.json_text import Spelled
from himl_cli.core.records import dataclass
from himl_cli.core.sweeps import (
    HYPERPARAMETER_NAME,
    Draw,
    EarlyStop,
    Scalar,
    SearchRange,
    SweepSpec,
    sweep_tags,
    value_text,
    variable_name,
)
from himl_cli.workspaces.azure.config import WorkspaceAddress
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.command_line import command_line
from himl_cli.workspaces.azure.jobs.data_assets import FOLDER, INPUT_MODES, OUTPUT_MODES, JobData, of_step
from himl_cli.workspaces.azure.responses import Response
from himl_cli.workspaces.azure.run_records import limit_of, limit_properties

COMMAND_VERSION = "2025-01-01-preview"
PREVIEW_VERSION = "2024-01-01-preview"  # of sweeps, pipelines and components, except for a pipeline with a parent
GIT_DIRTY = "azureml.git.dirty"
# Tags with git's state, and the properties under which Studio looks for the same.
GIT_PROPERTIES = {
    "build_source_repository": "mlflow.source.git.repoURL",
    "build_branch": "mlflow.source.git.branch",
    "build_source_id": "mlflow.source.git.commit",
    "build_source_dirty": GIT_DIRTY,
}
MODES = {"ro_mount": "ReadOnlyMount", "rw_mount": "ReadWriteMount", "download": "Download", "upload": "Upload"}
MODES |= {"direct": "Direct"}
DISTRIBUTIONS = {"pytorch": "PyTorch", "mpi": "Mpi"}
IDENTITIES = {"user": "UserIdentity", "managed": "Managed"}
# The type of each service, and the property with its value.
SERVICE_FIELDS = {
    "vscode": ("VSCode", ""),
    "jupyterlab": ("JupyterLab", ""),
    "tensorboard": ("TensorBoard", "logDir"),
    "ssh": ("SSH", "sshPublicKeys"),
}
POLICIES = {"bandit": "Bandit", "median": "MedianStopping", "truncation": "TruncationSelection"}
ANONYMOUS_COMPONENT = "azureml_anonymous"
# The prefix of an input that only makes a step wait for another one, before that step's name, and the output that it
# is bound to if the other step has none.
AFTER, DONE_OUTPUT = "himl_after_", "himl_done"


def check_names(sweep: SweepSpec) -> None:
    """Raise BadUsage for a hyperparameter name that Azure ML does not accept, and for two that are one name there."""
    known: dict[str, str] = {}
    for name in sweep.space:
        other = known.setdefault(variable_name(name), name)
        if HYPERPARAMETER_NAME.fullmatch(name) is None:
            raise BadUsage(
                f"--sweep {name}: this is not a valid name of a hyperparameter.",
                hint="Use letters, digits, _, -, / and dots, with a letter first.",
            )
        if other != name:
            raise BadUsage(
                f"--sweep {name}: on Azure ML, '{other}' and '{name}' would both be '{variable_name(name)}'.",
                hint="Rename one of them.",
            )


@dataclass(frozen=True)
class PutRequest:
    """A PUT request: its path below the workspace, the service's version, and the JSON body."""

    path: str
    api_version: str
    body: Mapping[str, Any]

    def send(self, connection: Connection) -> Response:
        url = connection.arm(quote(self.path))
        return connection.request("PUT", url, params={"api-version": self.api_version}, json=self.body)


@dataclass(frozen=True)
class PipelineNode:
    """One step without its code and environment. `node` is its name for the service, and `display_name` its name for
    users, which is unique in a pipeline.

    `inputs` maps each key to its source: data, or `${{parent.jobs.NODE.outputs.KEY}}`. `outputs` are folders, or None
    if the service chooses. Some of them only keep the order, because Azure ML orders steps only by their data.
    """

    spec: StepSpec
    node: str
    display_name: str
    command: str
    inputs: Mapping[str, JobData]
    outputs: Mapping[str, str | None]

    def output_mode(self, key: str) -> str:
        modes = {item.key: item.mode for item in self.spec.job.outputs}
        return OUTPUT_MODES[modes.get(key) or "mount"]


def pipeline_nodes(spec: PipelineSpec, data: Mapping[tuple[str, str], JobData] | None = None) -> list[PipelineNode]:
    """The steps of *spec*, with *data* for their own inputs, by the keys of step and input. Without *data*, for checks
    before the first request, inputs have no path.

    Raises BadUsage for an unknown placeholder in a step's arguments.
    """
    nodes: dict[str, str] = {}  # unique names by key, of lower-case letters, digits and `_`, beginning with a letter
    for step in spec.steps:
        plain = re.sub(r"[^a-z0-9_]", "_", step.key.lower())
        name = plain = plain if plain[:1].isalpha() else f"step_{plain}"
        number = 1
        while name in nodes.values():
            number += 1
            name = f"{plain}_{number}"
        nodes[step.key] = name
    return [of_step(step.key, partial(_pipeline_node, spec, step, nodes, data)) for step in spec.steps]


def _pipeline_node(
    spec: PipelineSpec, step: StepSpec, nodes: Mapping[str, str], data: Mapping[tuple[str, str], JobData] | None
) -> PipelineNode:
    def output_of(key: str, output: str, mode: str) -> JobData:
        return JobData(f"${{{{parent.jobs.{nodes[key]}.outputs.{output}}}}}", mode)

    def awaited(step: StepSpec) -> list[str]:
        return [key for key in step.after if key not in {output.step for output in step.takes.values()}]

    inputs: dict[str, JobData] = {}
    for item in step.job.inputs:
        source, mode = step.takes.get(item.key), INPUT_MODES[item.mode or "download"]
        if source is not None:
            inputs[item.key] = output_of(source.step, source.output, mode)
        else:
            inputs[item.key] = JobData("", mode) if data is None else data[step.key, item.key]
    outputs: dict[str, str | None] = {}
    for item in step.job.outputs:
        datastore = item.datastore or step.job.default_datastore
        is_usual = not datastore or datastore == spec.default_datastore
        # Otherwise a new folder per run (`${{name}}` is the step's), below the service's default.
        folder = f"azureml://datastores/{datastore}/paths/azureml/${{{{name}}}}/{item.key}/"
        if item.name:
            folder = f"azureml://datastores/{datastore or USUAL_DATASTORE}/paths/{item.name.strip('/')}/"
        outputs[item.key] = None if is_usual and not item.name else folder
    steps = {other.key: other for other in spec.steps}
    for key in awaited(step):
        # The first output exists once the step is completed, with any contents.
        others = steps[key].job.outputs
        inputs[f"{AFTER}{nodes[key]}"] = output_of(key, others[0].key if others else DONE_OUTPUT, "direct")
    if not outputs and any(step.key in awaited(other) for other in spec.steps):
        outputs[DONE_OUTPUT] = None
    name = step.name or step.key
    if any(other.key != step.key and (other.name or other.key) == name for other in spec.steps):
        name = f"{name} ({step.key})"
    return PipelineNode(step, nodes[step.key], name, command_line(step.job), inputs, outputs)


def job_request(
    address: WorkspaceAddress,
    run_id: str,
    spec: JobSpec,
    code: str,
    environment: str,
    inputs: Mapping[str, JobData],
    outputs: Mapping[str, JobData],
) -> PutRequest:
    """The request that creates *spec* as job *run_id*, with the resource ids of its code and environment, and its data
    by key. Raises BadUsage for an unknown placeholder."""
    resources = {
        "instanceCount": spec.nodes,
        "instanceType": spec.instance_type,
        "properties": dict(spec.resource_properties),
        "shmSize": spec.shm_size,
        "dockerArgs": " ".join(spec.docker_args),
    }
    properties: dict[str, Any] = {
        "displayName": spec.display_name or run_id,
        "experimentName": spec.experiment,
        "isArchived": False,
        "tags": {**job_tags(spec), "run_recovery_id": f"{spec.experiment}:{run_id}"},
        "properties": job_properties(spec),
        "inputs": {
            key: {"jobInputType": one.type, "uri": one.path, "mode": MODES[one.mode]} for key, one in inputs.items()
        },
        "outputs": {
            key: {"jobOutputType": FOLDER, "uri": one.path, "mode": MODES[one.mode]}
            | ({"assetName": one.asset_name} if one.asset_name is not None else {})
            for key, one in outputs.items()
        },
        "resources": {name: value for name, value in resources.items() if value not in (None, "")},
    }
    trial: dict[str, Any] = {
        "command": command_line(spec),
        "codeId": code,
        "environmentId": environment,
        "environmentVariables": dict(spec.env),
    }
    if spec.description:
        properties["description"] = spec.description
    if spec.cluster.lower() != SERVERLESS:
        properties["computeId"] = _compute_id(address, spec.cluster)
    if spec.identity is not None:
        properties["identity"] = {"identityType": IDENTITIES[spec.identity]}
    if spec.job_tier is not None:
        properties["queueSettings"] = {"jobTier": spec.job_tier.capitalize()}
    if spec.distribution:
        trial["distribution"] = {
            "distributionType": DISTRIBUTIONS[spec.distribution],
            "processCountPerInstance": spec.processes or 1,
        }
    seconds = None if spec.max_seconds is None else iso_duration(limit_of(spec.max_seconds))
    if spec.sweep is not None:
        properties |= _sweep(spec.sweep, seconds)
        properties["trial"] = trial | {"resources": properties["resources"]}
        return PutRequest(f"/jobs/{run_id}", PREVIEW_VERSION, {"properties": properties})
    properties |= {"jobType": "Command", **trial}
    if seconds is not None:
        properties["limits"] = {"jobLimitsType": "Command", "timeout": seconds}
    if spec.services:
        # Otherwise only the first node has them.
        everywhere = {"nodes": {"nodesValueType": "All"}} if spec.nodes > 1 else {}
        properties["services"] = {
            name: {"jobServiceType": SERVICE_FIELDS[name][0], **everywhere}
            | ({"properties": {SERVICE_FIELDS[name][1]: value}} if value else {})
            for name, value in spec.services.items()
        }
    return PutRequest(f"/jobs/{run_id}", COMMAND_VERSION, {"properties": properties})


def _sweep(sweep: SweepSpec, trial_seconds: str | None) -> dict[str, Any]:
    limits: dict[str, Any] = {"jobLimitsType": "Sweep", "maxTotalTrials": sweep.max_trials}
    if sweep.max_concurrent is not None:
        limits["maxConcurrentTrials"] = max_concurrent(sweep)
    if sweep.max_seconds is not None:
        limits["timeout"] = iso_duration(limit_of(sweep.max_seconds))
    if trial_seconds is not None:
        limits["trialTimeout"] = trial_seconds
    sampling: dict[str, Any] = {"samplingAlgorithmType": sweep.sampling.capitalize()}
    if sweep.sampling == "random" and sweep.seed is not None:
        sampling["seed"] = sweep.seed
    found = {
        "jobType": "Sweep",
        "limits": limits,
        "objective": {"goal": sweep.goal, "primaryMetric": sweep.primary_metric},
        "samplingAlgorithm": sampling,
        "searchSpace": {variable_name(name): search_space(one) for name, one in sweep.space.items()},
    }
    stop = sweep.early_stop
    if stop is not None:
        policy: dict[str, Any] = {
            "policyType": POLICIES[stop.policy],
            "evaluationInterval": stop.evaluation_interval,
            "delayEvaluation": stop.delay_evaluation,
        }
        if stop.policy == "bandit":
            policy |= {"slackFactor": stop.slack_factor or 0, "slackAmount": stop.slack_amount or 0}
        if stop.policy == "truncation":
            policy["truncationPercentage"] = stop.truncation_percentage or 0
        found["earlyTermination"] = policy
    return found


def component_request(step: PipelineNode, code: str, environment: str) -> PutRequest:
    """The request that registers the component of *step*, under azure-ai-ml's name and version for its contents.

    It contains only the keys of inputs and outputs, so steps that run the same on other data share one component.
    """
    job = step.spec.job
    contents: dict[str, Any] = {
        "type": "command",
        "command": step.command,
        "code": _reference(code),
        "environment": _reference(environment),
        "is_deterministic": True,
    }
    if step.inputs:
        contents["inputs"] = {key: {"type": one.type} for key, one in step.inputs.items()}
    if step.outputs:
        contents["outputs"] = {key: {"type": FOLDER} for key in step.outputs}
    if job.distribution:
        contents["distribution"] = {"type": job.distribution, "process_count_per_instance": job.processes or 1}
    version = UUID(hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:32])
    body = {
        "componentSpec": contents | {"name": ANONYMOUS_COMPONENT, "version": "1", "_source": "CLASS"},
        "isAnonymous": True,
        "isArchived": False,
        "properties": {},
        "tags": {},
    }
    return PutRequest(f"/components/{ANONYMOUS_COMPONENT}/versions/{version}", PREVIEW_VERSION, {"properties": body})


def pipeline_request(
    address: WorkspaceAddress,
    run_id: str,
    spec: PipelineSpec,
    steps: Sequence[tuple[PipelineNode, str]],
    parent: str = "",
) -> PutRequest:
    """The request that creates the pipeline as job *run_id*, as a child of run *parent* if given. *steps* have the ids
    of their components."""
    settings: dict[str, Any] = {"continue_on_step_failure": False, "_source": "CLASS"}
    if spec.cluster:
        is_serverless = spec.cluster.lower() == SERVERLESS
        settings["default_compute"] = SERVERLESS if is_serverless else _compute_id(address, spec.cluster)
    if spec.default_datastore:
        settings["default_datastore"] = f"{address.path}/datastores/{spec.default_datastore}"
    properties: dict[str, Any] = {
        "jobType": "Pipeline",
        "displayName": spec.display_name or run_id,
        "experimentName": spec.experiment,
        "isArchived": False,
        "tags": {**spec.tags, "run_recovery_id": f"{spec.experiment}:{run_id}"},
        "properties": git_properties(spec.tags),
        "inputs": {},
        "outputs": {},
        "jobs": {step.node: _node(address, step, component) for step, component in steps},
        "settings": settings,
    }
    if spec.description:
        properties["description"] = spec.description
    if parent:
        properties["parentJobName"] = parent
    # The older version does not support parents.
    return PutRequest(f"/jobs/{run_id}", COMMAND_VERSION if parent else PREVIEW_VERSION, {"properties": properties})


def _node(address: WorkspaceAddress, step: PipelineNode, component: str) -> dict[str, Any]:
    job, spec = step.spec.job, step.spec
    resources = {
        "instance_count": job.nodes,
        "instance_type": job.instance_type,
        "shm_size": job.shm_size,
        "docker_args": " ".join(job.docker_args),
    }
    fields: dict[str, Any] = {
        "_source": "REMOTE.WORKSPACE.COMPONENT",
        "type": "command",
        "name": step.node,
        "display_name": step.display_name,
        "componentId": component,
        "tags": {STEP: spec.key} | ({STEP_AFTER: ",".join(spec.after)} if spec.after else {}),
        "resources": {name: value for name, value in resources.items() if value},
        "inputs": {
            key: {"job_input_type": "literal", "value": one.path, "mode": MODES[one.mode]}  # another node's output
            if one.path.startswith("${{")
            else {"job_input_type": one.type, "uri": one.path, "mode": MODES[one.mode]}
            for key, one in step.inputs.items()
        },
        "outputs": {
            key: {"job_output_type": FOLDER, "mode": MODES[step.output_mode(key)]} | ({"uri": uri} if uri else {})
            for key, uri in step.outputs.items()
        },
        "environment_variables": dict(job.env),
    }
    if job.cluster and job.cluster.lower() != SERVERLESS:
        fields["computeId"] = _compute_id(address, job.cluster)
    if job.identity is not None:
        fields["identity"] = {"identity_type": IDENTITIES[job.identity]}
    if job.distribution:
        fields["distribution"] = {
            "distribution_type": DISTRIBUTIONS[job.distribution],
            "process_count_per_instance": job.processes or 1,
        }
    if job.max_seconds is not None:
        fields["limits"] = {"job_limits_type": "Command", "timeout": iso_duration(limit_of(job.max_seconds))}
    return {name: value for name, value in fields.items() if value != {}}


def _compute_id(address: WorkspaceAddress, name: str) -> str:
    return f"{address.path}/computes/{name}" if is_compute_name(name) else name


def _reference(id: str) -> str:
    return f"azureml:{id}" if id.startswith("/") else id


def job_tags(spec: JobSpec) -> dict[str, str]:
    """The tags of *spec*. Those of a sweep include its primary metric."""
    return {**spec.tags, **(sweep_tags(spec.sweep) if spec.sweep else {})}


def job_properties(spec: JobSpec) -> dict[str, str]:
    """The properties of *spec* beside its tags: git's state, and the time limit. A sweep as a whole has no limit, but
    its trials do."""
    return {**git_properties(spec.tags), **limit_properties(spec.max_seconds if spec.sweep is None else None)}


def git_properties(tags: Mapping[str, str]) -> dict[str, str]:
    """The properties that azure-ai-ml derives from the current folder, here from the snapshot's tags."""
    found = {name: tags[tag] for tag, name in GIT_PROPERTIES.items() if tags.get(tag)}
    if GIT_DIRTY in found:
        found[GIT_DIRTY] = str(found[GIT_DIRTY] == "true")
    return found


def wire_values(space: SearchRange) -> list[Scalar]:
    """The values in the service's form: numbers stay numbers, and Booleans, which it does not support, become texts
    as in Python. If Python spells one of the choices differently, all of them become texts."""
    as_texts = space.draw is Draw.choice and any(isinstance(value, Spelled) for value in space.values)
    return [value_text(value) if isinstance(value, bool) or as_texts else value for value in space.values]


def search_space(space: SearchRange) -> list[Any]:
    values = wire_values(space)
    return [space.draw.value, [values] if space.draw is Draw.choice else values]


def max_concurrent(sweep: SweepSpec) -> int | None:
    """The number of concurrent trials, or None for all of them, because the service allows more without a number."""
    return None if sweep.max_concurrent is None else min(sweep.max_concurrent, sweep.max_trials)


def early_stop_fields(stop: EarlyStop) -> dict[str, int | float]:
    return {name: value for name, value in vars(stop).items() if name != "policy" and value is not None}


def iso_duration(seconds: int) -> str:
    """*seconds*, at least one, in ISO 8601: `P1DT1H30M`."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    time = "".join(f"{count}{unit}" for count, unit in ((hour, "H"), (minute, "M"), (second, "S")) if count)
    return f"P{f'{days}D' if days else ''}{f'T{time}' if time else ''}"
