"""A job, sweep or pipeline as YAML for Azure ML's own command line (`az ml job create`), by its documented schema.

himl writes it without azure-ai-ml, which dumps a command job as a step of a pipeline that it cannot load again (1.35),
and whose import takes a second. The tests check that azure-ai-ml loads himl's YAML and creates the same job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from himl_cli.core.jobs import (
    SERVERLESS,
    USUAL_DATASTORE,
    DataSpec,
    EntryKind,
    EnvironmentSpec,
    JobSpec,
    PipelineSpec,
)
from himl_cli.core.redaction import MASK, mask_arguments, mask_document, mask_line
from himl_cli.core.sampling import make_sampler
from himl_cli.core.sweeps import Draw, SweepSpec, argument_names, values_text, variable_name
from himl_cli.workspaces.azure.jobs.assets import ELSEWHERE, conda_contents, folder_for
from himl_cli.workspaces.azure.jobs.body import (
    PipelineNode,
    check_names,
    early_stop_fields,
    git_properties,
    job_properties,
    job_tags,
    max_concurrent,
    pipeline_nodes,
    wire_values,
)
from himl_cli.workspaces.azure.jobs.command_line import command_line
from himl_cli.workspaces.azure.jobs.data_assets import (
    FILE,
    FOLDER,
    INPUT_MODES,
    LATEST,
    OUTPUT_MODES,
    can_be_registered,
    folder_path,
    is_whole_datastore,
    looks_like_file,
    of_step,
    trial_path,
)
from himl_cli.workspaces.azure.run_records import limit_of

SCHEMA = "https://azuremlschemas.azureedge.net/latest/{}Job.schema.json"
OF_TRIAL = ("code", "command", "environment", "environment_variables", "distribution", "resources")
OF_STEP = (*OF_TRIAL[:4], "compute", "distribution", "resources", "limits", "identity")
SERVICES = {  # the type of each, and the key of its value
    "vscode": ("vs_code", ""),
    "jupyterlab": ("jupyter_lab", ""),
    "tensorboard": ("tensor_board", "log_dir"),
    "ssh": ("ssh", "ssh_public_keys"),
}
IDENTITIES = {"user": "user_identity", "managed": "managed"}
POLICIES = {"bandit": "bandit", "median": "median_stopping", "truncation": "truncation_selection"}


def job_yaml(spec: JobSpec | PipelineSpec) -> str:
    """The job or pipeline as `submit` would create it, as far as this is known without a request: names of data and
    environments stay references.

    Credentials are masked, and comments contain what the schema cannot express. Raises BadUsage as `submit` does before
    its first request.
    """
    if isinstance(spec, PipelineSpec):
        return _pipeline_yaml(spec)
    if spec.cluster:
        folder_for(spec.snapshot)
        if spec.sweep is not None:
            check_names(spec.sweep)
    inputs = {item.key: _input(item, spec.default_datastore) for item in spec.inputs}
    document = _job(spec, inputs, {item.key: _output(item, spec) for item in spec.outputs})
    if spec.sweep is not None:
        is_sequential = spec.sweep.max_concurrent is None and not spec.cluster  # as in a local run
        document = _sweep(document, replace(spec.sweep, max_concurrent=1) if is_sequential else spec.sweep)
    return _text(document, [spec])


def _pipeline_yaml(spec: PipelineSpec) -> str:
    """The pipeline as `submit_pipeline` would create it, as far as this is known without a request, or the first one
    of a sweep. Credentials are masked.

    Raises BadUsage as `submit_pipeline` does before its first request.
    """
    remarks = []
    if spec.sweep is not None:
        count, values = spec.sweep.max_trials, make_sampler(spec.sweep)(0, ()) or {}
        spec = spec.trial(0, values)
        remarks = [f"the first of {count} pipelines, {values_text(values)}. The others differ in these values."]
    nodes = pipeline_nodes(spec)
    is_serverless = spec.cluster.lower() == SERVERLESS
    settings = {
        "default_compute": SERVERLESS if is_serverless else f"azureml:{spec.cluster}" if spec.cluster else "",
        "default_datastore": spec.default_datastore,
        "continue_on_step_failure": False,
    }
    document = {
        "$schema": SCHEMA.format("pipeline"),
        "type": "pipeline",
        "experiment_name": spec.experiment,
        "display_name": spec.display_name,
        "description": spec.description,
        "tags": dict(spec.tags),
        "properties": git_properties(spec.tags),
        "settings": _filled(settings),
        "jobs": {node.node: _step(spec, node) for node in nodes},
    }
    return _text(_filled(document), [step.job for step in spec.steps], remarks)


def _text(document: Mapping[str, Any], jobs: Sequence[JobSpec], remarks: Sequence[str] = ()) -> str:
    import yaml

    text: str = yaml.safe_dump(mask_document(document), sort_keys=False, allow_unicode=True, width=1000)
    names = {name for spec in jobs if spec.cluster and spec.environment for name in spec.environment.beside}
    remarks = [*remarks, *(f"'himl submit' builds '{name}' into the image" for name in sorted(names))]
    if MASK in text:
        remarks.append(f"values that are credentials are shown as {MASK}")
    return "".join(f"# {line}\n" for line in remarks) + text


def _job(spec: JobSpec, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
    compute = f"azureml:{spec.cluster}" if spec.cluster else "local"
    entry = spec.entry
    if entry.kind is EntryKind.command:
        entry = replace(entry, target=mask_line(entry.target))
    resources = {
        "instance_count": spec.nodes,
        "instance_type": spec.instance_type,
        "properties": dict(spec.resource_properties),
        "shm_size": spec.shm_size,
        "docker_args": " ".join(spec.docker_args),
    }
    distribution = {"type": spec.distribution, "process_count_per_instance": spec.processes or 1}
    return _filled(
        {
            "$schema": SCHEMA.format("command"),
            "type": "command",
            "experiment_name": spec.experiment,
            "display_name": spec.display_name,
            "description": spec.description,
            "tags": job_tags(spec),
            "properties": job_properties(spec),
            "code": str(spec.snapshot.root.absolute()),
            "command": command_line(replace(spec, arguments=mask_arguments(spec.arguments), entry=entry)),
            "environment": _environment(spec.environment if spec.cluster else None),
            "environment_variables": dict(spec.env),
            "inputs": inputs,
            "outputs": outputs,
            "compute": "" if spec.cluster.lower() == SERVERLESS else compute,
            "distribution": distribution if spec.distribution else {},
            "resources": _filled(resources),
            "services": {
                name: {"type": SERVICES[name][0]}
                | ({SERVICES[name][1]: value} if value else {})
                | ({"nodes": "all"} if spec.nodes > 1 else {})
                for name, value in spec.services.items()
            },
            "limits": {} if spec.max_seconds is None else {"timeout": limit_of(spec.max_seconds)},
            "identity": {"type": IDENTITIES[spec.identity]} if spec.identity is not None else {},
            "queue_settings": _filled({"job_tier": spec.job_tier}),
        }
    )


def _filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, "", {})}


def _environment(spec: EnvironmentSpec | None) -> Any:
    if spec is None:  # for a local job, because the schema requires one
        return {"image": "mcr.microsoft.com/azureml/openmpi5.0-ubuntu24.04"}
    if spec.name.startswith(ELSEWHERE):
        return spec.name if spec.name.startswith("azureml:") else f"azureml:{spec.name}"
    if spec.name:
        return f"azureml:{spec.name}{'@latest' if spec.version in (None, LATEST) else f':{spec.version}'}"
    if spec.context is not None:
        path = spec.context if isinstance(spec.context, str) else str(spec.context.root)
        return {"build": {"path": path, "dockerfile_path": spec.dockerfile}}
    return _filled({"image": spec.image, "conda_file": dict(conda_contents(spec) or {})})


def _input(item: DataSpec, default_datastore: str | None) -> dict[str, str]:
    if item.is_address:
        kind = FILE if looks_like_file(item.name) else FOLDER
        return {"type": kind, "path": item.name, "mode": INPUT_MODES[item.mode or "download"]}
    path = _folder(item, default_datastore)
    if item.version not in (None, LATEST):
        path = f"azureml:{item.name}:{item.version}"
    elif not item.datastore and can_be_registered(item.name):
        path = f"azureml:{item.name}@latest"
    return {"type": FOLDER, "path": path, "mode": INPUT_MODES[item.mode or "download"]}


def _output(item: DataSpec, spec: JobSpec) -> dict[str, str]:
    path, mode = _folder(item, spec.default_datastore), OUTPUT_MODES[item.mode or "mount"]
    is_named = spec.sweep is None and can_be_registered(item.name)
    path = path if spec.sweep is None else trial_path(path)
    return {"type": FOLDER, "path": path, "mode": mode} | ({"name": item.name} if is_named else {})


def _folder(item: DataSpec, default_datastore: str | None) -> str:
    datastore = item.datastore or default_datastore or USUAL_DATASTORE
    return f"azureml://datastores/{datastore}/paths/{folder_path(item)}/"


def _sweep(trial: Mapping[str, Any], sweep: SweepSpec) -> dict[str, Any]:
    """The document of a sweep, from that of its command job *trial*, whose shared part moves below `trial`."""
    limits: dict[str, Any] = {
        "max_total_trials": sweep.max_trials,
        "max_concurrent_trials": max_concurrent(sweep),
        "timeout": None if sweep.max_seconds is None else limit_of(sweep.max_seconds),
        "trial_timeout": (trial.get("limits") or {}).get("timeout"),
    }
    document = {
        **{name: value for name, value in trial.items() if name not in OF_TRIAL},
        "$schema": SCHEMA.format("sweep"),
        "type": "sweep",
        "trial": {name: trial[name] for name in OF_TRIAL if name in trial},
        "search_space": {
            variable_name(name): {"type": one.draw.value, "values": wire_values(one)}
            if one.draw is Draw.choice
            else {"type": one.draw.value, **dict(zip(argument_names(one.draw), wire_values(one), strict=True))}
            for name, one in sweep.space.items()
        },
        "sampling_algorithm": {"type": "random", "seed": sweep.seed}
        if sweep.sampling == "random" and sweep.seed is not None
        else sweep.sampling,
        "objective": {"goal": sweep.goal, "primary_metric": sweep.primary_metric},
        "limits": _filled(limits),
    }
    stop = sweep.early_stop
    if stop is not None:
        document["early_termination"] = {"type": POLICIES[stop.policy]} | early_stop_fields(stop)
    return document


def _step(spec: PipelineSpec, node: PipelineNode) -> dict[str, Any]:
    step, job = node.spec, node.spec.job
    if job.cluster:
        of_step(step.key, lambda: folder_for(job.snapshot))
    document = of_step(step.key, lambda: _job(job, {}, {}))
    inputs: dict[str, Any] = {
        key: {"type": one.type, "path": one.path, "mode": one.mode} for key, one in node.inputs.items()
    }
    for item in job.inputs:
        if item.key not in step.takes and is_whole_datastore(item):
            datastore = item.datastore or job.default_datastore or spec.default_datastore or USUAL_DATASTORE
            inputs[item.key]["path"] = f"azureml://datastores/{datastore}/paths/"
        elif item.key not in step.takes:
            inputs[item.key] = _input(item, job.default_datastore)
    outputs = {
        key: {"type": FOLDER} | ({"path": path} if path else {}) | {"mode": node.output_mode(key)}
        for key, path in node.outputs.items()
    }
    fields = {name: document[name] for name in OF_STEP if name in document}
    return _filled(
        {"type": "command", "display_name": node.display_name, **fields, "inputs": inputs, "outputs": outputs}
    )
