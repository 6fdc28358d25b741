"""A pipeline as YAML for Azure ML's own command line: each step as a command job within it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from himl_cli.core.jobs import SERVERLESS, USUAL_DATASTORE, DataSpec, PipelineSpec
from himl_cli.workspaces.azure.jobs.code_upload import folder_for
from himl_cli.workspaces.azure.jobs.forms import INPUT_MODES
from himl_cli.workspaces.azure.jobs.job_form import git_properties
from himl_cli.workspaces.azure.jobs.pipelines.data import is_whole_datastore, placeholder_inputs
from himl_cli.workspaces.azure.jobs.pipelines.forms import FOLDER, StepForm, of_step, step_forms
from himl_cli.workspaces.azure.jobs.yaml_form import job_document, yaml_text

SCHEMA = "https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json"
OF_STEP = (
    "code",
    "command",
    "environment",
    "environment_variables",
    "compute",
    "distribution",
    "resources",
    "limits",
    "identity",
)


def pipeline_yaml(spec: PipelineSpec) -> str:
    """The pipeline as it would be sent, as far as that is known without a request. Credentials are masked.

    Raises BadUsage as `submit_pipeline` does before its first request.
    """
    forms = step_forms(spec, placeholder_inputs(spec))
    settings = {
        "default_compute": _default_compute(spec),
        "default_datastore": spec.default_datastore,
        "continue_on_step_failure": False,
    }
    document = {
        "$schema": SCHEMA,
        "type": "pipeline",
        "experiment_name": spec.experiment,
        "display_name": spec.display_name,
        "description": spec.description,
        "tags": dict(spec.tags),
        "properties": git_properties(spec.tags),
        "settings": {name: value for name, value in settings.items() if value not in (None, "")},
        "jobs": {form.node: _step(spec, form) for form in forms},
    }
    return yaml_text(
        {name: value for name, value in document.items() if value not in ("", {})}, [step.job for step in spec.steps]
    )


def _default_compute(spec: PipelineSpec) -> str:
    return SERVERLESS if spec.cluster.lower() == SERVERLESS else f"azureml:{spec.cluster}" if spec.cluster else ""


def _step(spec: PipelineSpec, form: StepForm) -> dict[str, Any]:
    step, job = form.spec, form.spec.job
    if job.cluster:
        of_step(step.key, lambda: folder_for(job.snapshot))
    # data of their own: what is bound to other steps has no name that would count
    named = replace(job, inputs=[_named(item) for item in job.inputs], outputs=[_named(item) for item in job.outputs])
    document = of_step(step.key, lambda: job_document(named))
    inputs = {item.key: _input(spec, form, item, document["inputs"][item.key]) for item in job.inputs}
    inputs |= {
        key: {"type": item.type, "path": item.path, "mode": item.mode}
        for key, item in form.inputs.items()
        if key not in inputs
    }
    outputs = {key: _output(form, key) for key in form.outputs}
    found: dict[str, Any] = {
        "type": "command",
        "display_name": form.shown,
        **{name: document[name] for name in OF_STEP if name in document},
    }
    return found | ({"inputs": inputs} if inputs else {}) | ({"outputs": outputs} if outputs else {})


def _named(item: DataSpec) -> DataSpec:
    return replace(item, name=item.name if item.name.strip("/.") else item.key)


def _input(spec: PipelineSpec, form: StepForm, item: DataSpec, own: Mapping[str, str]) -> Mapping[str, str]:
    mode = INPUT_MODES[item.mode or "download"]
    if item.key in form.spec.takes:
        return {"type": FOLDER, "path": form.inputs[item.key].path, "mode": mode}
    if is_whole_datastore(item):
        datastore = item.datastore or form.spec.job.default_datastore or spec.default_datastore or USUAL_DATASTORE
        return {"type": FOLDER, "path": f"azureml://datastores/{datastore}/paths/", "mode": mode}
    return own


def _output(form: StepForm, key: str) -> dict[str, str]:
    place = form.outputs[key]
    return {"type": FOLDER, **({"path": place} if place else {}), "mode": form.output_mode(key)}
