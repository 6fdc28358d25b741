"""What azure-ai-ml would send for a job, a component, a pipeline or an environment: built by its own classes, sent to nobody."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from azure.ai.ml import Input, MLClient, MpiDistribution, Output, PyTorchDistribution, command
from azure.ai.ml import sweep as sweeps
from azure.ai.ml.entities import (
    BuildContext,
    Command,
    CommandComponent,
    CommandJobLimits,
    Environment,
    JobResourceConfiguration,
    JupyterLabJobService,
    ManagedIdentityConfiguration,
    PipelineJob,
    PipelineJobSettings,
    SshJobService,
    TensorBoardJobService,
    UserIdentityConfiguration,
    VsCodeJobService,
)
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.transport import HttpTransport

from himl_cli.core.jobs import SERVERLESS, STEP, STEP_AFTER, Draw, JobSpec, PipelineSpec, SearchRange, argument_names
from himl_cli.workspaces.azure.config import CLOUD_VARIABLE, WorkspaceAddress
from himl_cli.workspaces.azure.jobs.body import PipelineNode, PutRequest, command_line, git_properties, job_properties, job_tags, wire_values
from himl_cli.workspaces.azure.jobs.data_assets import JobData
from himl_cli.workspaces.azure.jobs.sdk import restored_variables, silenced
from himl_cli.workspaces.azure.run_records import limit_of

IDENTITIES: Mapping[str, Any] = {"user": UserIdentityConfiguration, "managed": ManagedIdentityConfiguration}
DISTRIBUTIONS: Mapping[str, Any] = {"pytorch": PyTorchDistribution, "mpi": MpiDistribution}
SERVICES: Mapping[str, Callable[[str], Any]] = {
    "vscode": lambda value: VsCodeJobService(),
    "jupyterlab": lambda value: JupyterLabJobService(),
    "tensorboard": lambda value: TensorBoardJobService(log_dir=value),
    "ssh": lambda value: SshJobService(ssh_public_keys=value),
}
POLICIES: Mapping[str, Any] = {"bandit": sweeps.BanditPolicy, "median": sweeps.MedianStoppingPolicy, "truncation": sweeps.TruncationSelectionPolicy}
DRAWS: Mapping[Draw, Any] = {
    Draw.uniform: sweeps.Uniform,
    Draw.loguniform: sweeps.LogUniform,
    Draw.normal: sweeps.Normal,
    Draw.lognormal: sweeps.LogNormal,
    Draw.randint: sweeps.Randint,
    Draw.quniform: sweeps.QUniform,
    Draw.qloguniform: sweeps.QLogUniform,
    Draw.qnormal: sweeps.QNormal,
    Draw.qlognormal: sweeps.QLogNormal,
}


class Composed(Exception):
    """A request that was composed, and not sent."""


class NobodysToken:
    """Tokens that nobody signed; azure-ai-ml looks at their audience."""

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        parts = [{"alg": "none"}, {"aud": scopes[0].removesuffix("/.default")}, {}]
        text = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
        return AccessToken(text, int(time.time()) + 600)


class Desk(HttpTransport[Any, Any]):
    """Where requests end that are not to be sent. Who only asks hears that nobody is signed in."""

    def send(self, request: Any, **options: Any) -> Any:
        if request.method == "GET":
            raise ClientAuthenticationError("nobody is asked")
        raise Composed(request)

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def composed(address: WorkspaceAddress, act: Callable[[MLClient], object]) -> Any:
    """The request that *act* makes azure-ai-ml send."""
    names = address.subscription_id, address.resource_group, address.name
    with silenced(), restored_variables(CLOUD_VARIABLE):
        client = MLClient(NobodysToken(), *names, cloud=address.cloud.name, enable_telemetry=False, transport=Desk())
        try:
            act(client)
        except Composed as found:
            return found.args[0]
    raise AssertionError("azure-ai-ml made no request")


def _put(address: WorkspaceAddress, act: Callable[[MLClient], object]) -> PutRequest:
    request = composed(address, act)
    parts = urlsplit(request.url)
    return PutRequest(parts.path.removeprefix(address.path), parse_qs(parts.query)["api-version"][0], json.loads(request.body))


def sdk_job_request(
    address: WorkspaceAddress, run_id: str, spec: JobSpec, code: str, environment: str, inputs: Mapping[str, JobData], outputs: Mapping[str, JobData]
) -> PutRequest:
    with silenced():
        job = _command(run_id, spec, code, environment, inputs, outputs)
        if spec.sweep is not None:
            job = _sweep(job._to_job(), spec)
    found = _put(address, lambda client: client.jobs.create_or_update(job, skip_validation=True))
    found.body["properties"]["properties"] = job_properties(spec)  # else those of the folder that we are in
    return found


def sdk_component_request(address: WorkspaceAddress, step: PipelineNode, code: str, environment: str) -> PutRequest:
    job = step.spec.job
    with silenced():
        component = CommandComponent(
            name="azureml_anonymous",
            version="1",
            command=step.command,
            code=code,
            environment=environment,
            inputs={key: Input(type=item.type) for key, item in step.inputs.items()},
            outputs={key: Output(type="uri_folder") for key in step.outputs},
            distribution=_distribution(job),
            is_deterministic=True,
        )
    return _put(address, lambda client: client.components.create_or_update(component, is_anonymous=True, skip_validation=True))


def sdk_pipeline_request(address: WorkspaceAddress, run_id: str, spec: PipelineSpec, steps: Sequence[tuple[PipelineNode, str]]) -> PutRequest:
    is_serverless = spec.cluster.lower() == SERVERLESS
    with silenced():
        settings = PipelineJobSettings(
            default_compute=None if is_serverless else spec.cluster or None, default_datastore=spec.default_datastore, continue_on_step_failure=False
        )
        job = PipelineJob(
            name=run_id,
            display_name=spec.display_name or run_id,
            description=spec.description or None,
            experiment_name=spec.experiment,
            tags={**spec.tags, "run_recovery_id": f"{spec.experiment}:{run_id}"},
            jobs={step.node: _node(step, component) for step, component in steps},
            settings=settings,
        )
    found = _put(address, lambda client: client.jobs.create_or_update(job, skip_validation=True))
    if is_serverless:
        found.body["properties"]["settings"]["default_compute"] = SERVERLESS
    found.body["properties"]["properties"] = git_properties(spec.tags)
    return found


def sdk_environment_request(address: WorkspaceAddress, context: Mapping[str, str] | None = None, **fields: Any) -> PutRequest:
    with silenced():
        environment = Environment(build=BuildContext(**context) if context else None, **fields)
    return _put(address, lambda client: client.environments.create_or_update(environment))


def _command(run_id: str, spec: JobSpec, code: str, environment: str, inputs: Mapping[str, JobData], outputs: Mapping[str, JobData]) -> Any:
    job = command(
        name=run_id,
        display_name=spec.display_name or run_id,
        description=spec.description or None,
        experiment_name=spec.experiment,
        tags={**job_tags(spec), "run_recovery_id": f"{spec.experiment}:{run_id}"},
        command=command_line(spec),
        code=code,
        environment=environment,
        environment_variables=dict(spec.env),
        compute=None if spec.cluster == SERVERLESS else spec.cluster,
        inputs={key: Input(type=one.type, path=one.path, mode=one.mode) for key, one in inputs.items()},
        outputs={key: Output(type="uri_folder", path=one.path, mode=one.mode, name=one.asset_name) for key, one in outputs.items()},
        distribution=_distribution(spec),
        instance_count=spec.nodes,
        instance_type=spec.instance_type or None,
        services={name: SERVICES[name](value) for name, value in spec.services.items()} or None,
        shm_size=spec.shm_size or None,
        docker_args=" ".join(spec.docker_args) or None,
        timeout=None if spec.max_seconds is None else limit_of(spec.max_seconds),
        identity=_identity(spec),
        job_tier=spec.job_tier,
    )
    if spec.resource_properties:
        job.set_resources(properties=dict(spec.resource_properties))
    return job


def _sweep(trial: Any, spec: JobSpec) -> Any:
    sweep = spec.sweep
    shared = ("name", "display_name", "description", "experiment_name", "tags", "compute", "inputs", "outputs", "identity", "queue_settings")
    assert sweep is not None
    sampling: Mapping[str, Any] = {"grid": sweeps.GridSamplingAlgorithm, "bayesian": sweeps.BayesianSamplingAlgorithm}
    stop = sweep.early_stop
    fields = {} if stop is None else {name: value for name, value in vars(stop).items() if name != "policy" and value is not None}
    return sweeps.SweepJob(
        **{name: getattr(trial, name) for name in shared},
        trial=trial,
        search_space={name: _space(one) for name, one in sweep.space.items()},
        sampling_algorithm=sweeps.RandomSamplingAlgorithm(seed=sweep.seed) if sweep.sampling == "random" else sampling[sweep.sampling](),
        objective=sweeps.Objective(goal=sweep.goal, primary_metric=sweep.primary_metric),
        limits=sweeps.SweepJobLimits(
            max_total_trials=sweep.max_trials,
            max_concurrent_trials=None if sweep.max_concurrent is None else min(sweep.max_concurrent, sweep.max_trials),
            timeout=None if sweep.max_seconds is None else limit_of(sweep.max_seconds),
            trial_timeout=None if spec.max_seconds is None else limit_of(spec.max_seconds),
        ),
        early_termination=POLICIES[stop.policy](**fields) if stop else None,
    )


def _space(space: SearchRange) -> Any:
    values = wire_values(space)
    if space.draw is Draw.choice:
        return sweeps.Choice([*values])
    return DRAWS[space.draw](**dict(zip(argument_names(space.draw), values, strict=True)))


def _node(step: PipelineNode, component: str) -> Any:
    job = step.spec.job
    node = Command(
        component=component,
        name=step.node,
        display_name=step.display_name,
        compute=None if job.cluster == SERVERLESS else job.cluster or None,
        inputs={key: Input(type=item.type, path=item.path, mode=item.mode) for key, item in step.inputs.items()},
        outputs={key: Output(type="uri_folder", path=path, mode=step.output_mode(key)) for key, path in step.outputs.items()},
        environment_variables=dict(job.env),
        tags={STEP: step.spec.key, **({STEP_AFTER: ",".join(step.spec.after)} if step.spec.after else {})},
        identity=_identity(job),
        distribution=_distribution(job),
    )
    node.resources = JobResourceConfiguration(instance_count=job.nodes, shm_size=job.shm_size or None, docker_args=" ".join(job.docker_args) or None)
    if job.max_seconds is not None:
        node.limits = CommandJobLimits(timeout=limit_of(job.max_seconds))
    return node


def _identity(spec: JobSpec) -> Any:
    return IDENTITIES[spec.identity]() if spec.identity else None


def _distribution(spec: JobSpec) -> Any:
    return DISTRIBUTIONS[spec.distribution](process_count_per_instance=spec.processes or 1) if spec.distribution else None
