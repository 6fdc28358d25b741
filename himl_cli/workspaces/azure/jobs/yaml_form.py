"""A job as YAML for Azure ML's own command line (`az ml job create`), by its documented schema.

Written here and not by azure-ai-ml: what that dumps of a command job is a step of a pipeline, which it does not load
again (1.35), and importing it takes a second. That it loads what is written here, and makes the same job of it, is
tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from himl_cli.core.jobs import USUAL_DATASTORE, DataSpec, EntryKind, EnvironmentSpec, JobSpec
from himl_cli.core.redaction import MASK, mask_arguments, mask_document, mask_line
from himl_cli.workspaces.azure.jobs.code_upload import folder_for
from himl_cli.workspaces.azure.jobs.command_text import command_text
from himl_cli.workspaces.azure.jobs.data_folders import folder_path
from himl_cli.workspaces.azure.jobs.environments import conda_contents
from himl_cli.workspaces.azure.jobs.forms import INPUT_MODES, LATEST, OUTPUT_MODES, SERVICE_NEEDS
from himl_cli.workspaces.azure.jobs.job_form import JobShape, job_properties, job_tags, likely_shape
from himl_cli.workspaces.azure.jobs.registered_data import can_be_registered
from himl_cli.workspaces.azure.jobs.registered_environments import ELSEWHERE
from himl_cli.workspaces.azure.jobs.sweep_yaml import sweep_document
from himl_cli.workspaces.azure.jobs.sweeps import check_names, of_each_trial

SCHEMA = "https://azuremlschemas.azureedge.net/latest/commandJob.schema.json"
HERE = "local"  # the schema's word for a job that runs where it is sent from
ANY_IMAGE = "mcr.microsoft.com/azureml/openmpi5.0-ubuntu24.04"
"""For a job that runs here, which has no environment of its own: the schema wants one."""
_SERVICES = {"vscode": "vs_code", "jupyterlab": "jupyter_lab", "tensorboard": "tensor_board", "ssh": "ssh"}
_IDENTITIES = {"user": "user_identity", "managed": "managed"}


def job_yaml(spec: JobSpec) -> str:
    """The job as it would be sent, as far as that is known without a request: names of data and environments stay
    references.

    Credentials are masked; what the schema cannot say stands in comments. Raises BadUsage as `submit` does before its
    first request.
    """
    if spec.cluster:
        folder_for(spec.snapshot)
        if spec.sweep is not None:
            check_names(spec.sweep)
    return yaml_text(job_document(spec), [spec])


def yaml_text(document: Mapping[str, Any], jobs: Sequence[JobSpec]) -> str:
    """*document* as text, credentials masked, with comments on what it does not say of *jobs*."""
    import yaml

    text: str = yaml.safe_dump(mask_document(document), sort_keys=False, allow_unicode=True, width=1000)
    return "".join(f"# {line}\n" for line in _remarks(jobs, text)) + text


def job_document(spec: JobSpec) -> dict[str, Any]:
    """The document itself, credentials in it but for those in the command."""
    shape = likely_shape(spec)
    fields: dict[str, Any] = {
        "$schema": SCHEMA,
        "type": "command",
        "experiment_name": spec.experiment,
        "display_name": spec.display_name,
        "description": spec.description,
        "tags": job_tags(spec),
        "properties": job_properties(spec),
        "code": str(spec.snapshot.root.absolute()),
        "command": command_text(_masked(spec)),
        "environment": _environment(spec.environment),
        "environment_variables": dict(spec.env),
        "inputs": {item.key: _input(item, spec.default_datastore) for item in spec.inputs},
        "outputs": {
            item.key: _output(item, spec.default_datastore, is_of_trial=spec.sweep is not None) for item in spec.outputs
        },
        "compute": _compute(spec, shape),
        "distribution": _distribution(shape),
        "resources": {
            "instance_count": shape.nodes,
            "instance_type": shape.instance_type,
            "properties": dict(spec.resource_properties),
            "shm_size": shape.shm_size,
            "docker_args": " ".join(spec.docker_args),
        },
        "services": {
            name: _without_nothing({"type": _SERVICES[name], SERVICE_NEEDS.get(name, ""): needed})
            for name, needed in shape.services
        },
        "limits": {"timeout": shape.seconds},
        "identity": {"type": _IDENTITIES.get(shape.identity or "")},
    }
    fields = {
        name: _without_nothing(value) if name in ("resources", "limits", "identity") else value
        for name, value in fields.items()
    }
    document = _without_nothing(fields)
    if spec.sweep is None:
        return document
    is_one_by_one = spec.sweep.max_concurrent is None and not spec.cluster  # as it would run here
    return sweep_document(document, replace(spec.sweep, max_concurrent=1) if is_one_by_one else spec.sweep)


def _without_nothing(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, "", {})}


def _masked(spec: JobSpec) -> JobSpec:
    """The job with no credentials in its command."""
    entry = (
        replace(spec.entry, target=mask_line(spec.entry.target)) if spec.entry.kind is EntryKind.command else spec.entry
    )
    return replace(spec, arguments=mask_arguments(spec.arguments), entry=entry)


def _compute(spec: JobSpec, shape: JobShape) -> str:
    if not spec.cluster:
        return HERE
    return f"azureml:{shape.compute}" if shape.compute else ""


def _distribution(shape: JobShape) -> dict[str, Any]:
    return (
        {"type": shape.distribution, "process_count_per_instance": shape.processes or 1} if shape.distribution else {}
    )


def _environment(spec: EnvironmentSpec | None) -> Any:
    if spec is None:
        return {"image": ANY_IMAGE}
    if spec.name:
        if spec.name.startswith(ELSEWHERE):
            return spec.name if spec.name.startswith("azureml:") else f"azureml:{spec.name}"
        return (
            f"azureml:{spec.name}:{spec.version}"
            if spec.version not in (None, LATEST)
            else f"azureml:{spec.name}@latest"
        )
    if spec.context is not None:
        path = spec.context if isinstance(spec.context, str) else str(spec.context.root)
        return {"build": {"path": path, "dockerfile_path": spec.dockerfile}}
    return _without_nothing({"image": spec.image, "conda_file": dict(conda_contents(spec) or {})})


def _input(item: DataSpec, default_datastore: str | None) -> dict[str, str]:
    name = folder_path(item)
    if item.version not in (None, LATEST):
        path = f"azureml:{item.name}:{item.version}"
    elif item.datastore or not can_be_registered(item.name):
        path = _folder(item, name, default_datastore)
    else:
        path = f"azureml:{item.name}@latest"
    return {"type": "uri_folder", "path": path, "mode": INPUT_MODES[item.mode or "download"]}


def _output(item: DataSpec, default_datastore: str | None, *, is_of_trial: bool) -> dict[str, str]:
    path = _folder(item, folder_path(item), default_datastore)
    if is_of_trial:
        return {"type": "uri_folder", "path": of_each_trial(path), "mode": OUTPUT_MODES[item.mode or "mount"]}
    name = {"name": item.name} if can_be_registered(item.name) else {}
    return {"type": "uri_folder", "path": path, "mode": OUTPUT_MODES[item.mode or "mount"], **name}


def _folder(item: DataSpec, name: str, default_datastore: str | None) -> str:
    return f"azureml://datastores/{item.datastore or default_datastore or USUAL_DATASTORE}/paths/{name}/"


def _remarks(jobs: Sequence[JobSpec], text: str) -> Sequence[str]:
    """What the document does not say, and 'himl submit' does."""
    wheels = {wheel.name for spec in jobs if spec.environment is not None for wheel in spec.environment.wheels}
    remarks = [f"'{wheel}' is built into the image by himl submit" for wheel in sorted(wheels)]
    if MASK in text:
        remarks.append(f"values that are credentials are shown as {MASK}")
    return remarks
