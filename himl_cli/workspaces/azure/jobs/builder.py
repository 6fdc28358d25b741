"""Jobs and environments as azure-ai-ml builds them: the body of the request that it would send."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from azure.ai.ml import Input, MLClient, MpiDistribution, Output, PyTorchDistribution, command
from azure.ai.ml.entities import (
    BuildContext,
    Environment,
    JupyterLabJobService,
    ManagedIdentityConfiguration,
    SshJobService,
    TensorBoardJobService,
    UserIdentityConfiguration,
    VsCodeJobService,
)

from himl_cli.workspaces.azure.jobs.client import Composed, composed
from himl_cli.workspaces.azure.jobs.forms import SERVICE_NEEDS
from himl_cli.workspaces.azure.jobs.job_form import JobForm
from himl_cli.workspaces.azure.jobs.sdk import silenced
from himl_cli.workspaces.azure.places.address import WorkspaceAddress

_SERVICES: Mapping[str, Any] = {
    "vscode": VsCodeJobService,
    "jupyterlab": JupyterLabJobService,
    "tensorboard": TensorBoardJobService,
    "ssh": SshJobService,
}
_NAME = "himl"  # the name is in the address of the request only, which is not kept


@dataclass(frozen=True)
class Built:
    """A request's JSON body, the version of the service that it is made for, and its path below the workspace."""

    path: str
    api_version: str
    body: Mapping[str, Any]


@silenced()
def build_job(address: WorkspaceAddress, form: JobForm) -> Built:
    """The request that creates the job. Raises BadUsage where azure-ai-ml does not take it.

    It is asked to skip its validation, which is of YAML that people write (0.2 s of CPU, for its schemas warn of
    themselves); the service checks what it gets in any case.
    """
    job = _job(form)
    built = built_of(composed(address, lambda client: client.jobs.create_or_update(job, skip_validation=True)), address)
    built.body["properties"]["properties"] = dict(form.texts.properties)  # else those of the folder that we are in
    return built


@silenced()
def build_environment(address: WorkspaceAddress, image: str, conda: Mapping[str, Any] | None) -> Built:
    """The request that registers an environment without a name, under the one that azure-ai-ml gives it: the same for
    the same contents."""
    return _environment(address, Environment(image=image, conda_file=dict(conda) if conda else None))


@silenced()
def build_context_environment(
    address: WorkspaceAddress, name: str, version: str, context_url: str, dockerfile: str
) -> Built:
    """The request that registers the environment which the file *dockerfile* at *context_url* makes."""
    context = BuildContext(path=context_url, dockerfile_path=dockerfile)
    return _environment(address, Environment(name=name, version=version, build=context))


def _job(form: JobForm) -> Any:
    trial = command_job(form, name=_NAME, code=form.texts.code, environment=form.texts.environment)
    if form.shape.sweep is None:
        return trial
    from himl_cli.workspaces.azure.jobs.sweep_builder import sweep_job

    return sweep_job(trial._to_job(), form.shape.sweep, trial_seconds=form.shape.seconds)


def command_job(form: JobForm, *, name: str | None, code: str, environment: Any) -> Any:
    """azure-ai-ml's own object for the job."""
    shape, texts = form.shape, form.texts
    job = command(
        name=name,
        display_name=texts.display_name or None,
        description=texts.description or None,
        experiment_name=texts.experiment,
        tags=dict(texts.tags),
        properties=dict(texts.properties),
        command=texts.command,
        code=code,
        environment=environment,
        environment_variables=dict(texts.variables),
        compute=shape.compute or None,
        inputs={one.key: Input(type=one.type, path=texts.inputs[one.key], mode=one.mode) for one in shape.inputs},
        outputs={
            one.key: Output(type=one.type, path=texts.outputs[one.key], mode=one.mode, name=texts.assets.get(one.key))
            for one in shape.outputs
        },
        distribution=distribution_of(shape.distribution, shape.processes),
        instance_count=shape.nodes,
        instance_type=shape.instance_type or None,
        services={
            name: _SERVICES[name](**({SERVICE_NEEDS[name]: needed} if needed else {}))
            for name, needed in shape.services
        }
        or None,
        shm_size=shape.shm_size or None,
        docker_args=texts.docker_args or None,
        timeout=shape.seconds,
        identity=identity_of(shape.identity),
    )
    if shape.resource_properties:
        job.set_resources(properties=json.loads(shape.resource_properties))
    return job


def distribution_of(name: str, processes: int | None) -> Any:
    """azure-ai-ml's object for a distribution of that *name*, with so many *processes* a node; None for a plain
    process."""
    kind = {"pytorch": PyTorchDistribution, "mpi": MpiDistribution}.get(name)
    return kind(process_count_per_instance=processes or 1) if kind else None


def identity_of(name: str | None) -> Any:
    """azure-ai-ml's object for the identity of that *name*; None for a job's own token."""
    kind = {"user": UserIdentityConfiguration, "managed": ManagedIdentityConfiguration}.get(name or "")
    return kind() if kind else None


def _environment(address: WorkspaceAddress, environment: Environment) -> Built:
    def register(client: MLClient) -> object:
        return client.environments.create_or_update(environment)

    return built_of(composed(address, register), address)


def built_of(found: Composed, address: WorkspaceAddress) -> Built:
    """The request *found* as it is to be sent to the workspace at *address*."""
    parts = urlsplit(found.request.url)
    body = found.request.body
    path = parts.path[len(address.path) :] if parts.path.lower().startswith(address.path.lower()) else parts.path
    return Built(
        path, parse_qs(parts.query)["api-version"][0], json.loads(body) if isinstance(body, str | bytes) else body
    )
