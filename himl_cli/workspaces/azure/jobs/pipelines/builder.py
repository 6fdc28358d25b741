"""Pipelines as azure-ai-ml builds them: the requests that it would send.

Each pipeline is built anew, for no two are of one shape; that is a second and more, beside the upload where there is
one. A step's component (what it runs) and the job (who reads whose output) are built apart, so that a component which
is known is not sent again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from azure.ai.ml import Input, Output
from azure.ai.ml.entities import (
    Command,
    CommandComponent,
    CommandJobLimits,
    JobResourceConfiguration,
    PipelineJob,
    PipelineJobSettings,
)

from himl_cli.core.jobs import SERVERLESS, STEP, STEP_AFTER, PipelineSpec
from himl_cli.workspaces.azure.jobs.builder import Built, built_of, distribution_of, identity_of
from himl_cli.workspaces.azure.jobs.client import composed
from himl_cli.workspaces.azure.jobs.job_form import git_properties
from himl_cli.workspaces.azure.jobs.pipelines.forms import FOLDER, StepForm
from himl_cli.workspaces.azure.jobs.sdk import silenced
from himl_cli.workspaces.azure.places.address import WorkspaceAddress

ANONYMOUS = "azureml_anonymous"


@silenced()
def build_component(address: WorkspaceAddress, step: StepForm, code: str, environment: str) -> Built:
    """The request that registers what the step runs, under the name and version that azure-ai-ml gives to its contents.

    It takes inputs and outputs by their keys only: steps that run the same on other data are one component.
    """
    job = step.spec.job
    component = CommandComponent(
        name=ANONYMOUS,
        version="1",
        command=step.command,
        code=code,
        environment=environment,
        inputs={key: Input(type=item.type) for key, item in step.inputs.items()},
        outputs={key: Output(type=FOLDER) for key in step.outputs},
        distribution=distribution_of(job.distribution, job.processes),
        is_deterministic=True,
    )
    request = composed(
        address, lambda client: client.components.create_or_update(component, is_anonymous=True, skip_validation=True)
    )
    return built_of(request, address)


@silenced()
def build_pipeline(
    address: WorkspaceAddress,
    spec: PipelineSpec,
    run_id: str,
    tags: Mapping[str, str],
    steps: Sequence[tuple[StepForm, str]],
) -> Built:
    """The request that creates the pipeline as job *run_id*; *steps* go with the ids of their components."""
    properties = git_properties(spec.tags)
    job = PipelineJob(
        name=run_id,
        display_name=spec.display_name or run_id,
        description=spec.description or None,
        experiment_name=spec.experiment,
        tags=dict(tags),
        jobs={step.node: _node(step, component) for step, component in steps},
        settings=PipelineJobSettings(
            default_compute=None if spec.cluster.lower() == SERVERLESS else spec.cluster or None,
            default_datastore=spec.default_datastore,
            continue_on_step_failure=False,
        ),
    )
    built = built_of(composed(address, lambda client: client.jobs.create_or_update(job, skip_validation=True)), address)
    settings = built.body["properties"]["settings"]
    if spec.cluster.lower() == SERVERLESS:
        settings["default_compute"] = SERVERLESS
    built.body["properties"]["properties"] = properties  # else those of the folder that we are in
    return built


def _node(step: StepForm, component: str) -> Any:
    job = step.spec.job
    node = Command(
        component=component,
        name=step.node,
        display_name=step.shown,
        compute=step.compute or None,
        inputs={key: Input(type=item.type, path=item.path, mode=item.mode) for key, item in step.inputs.items()},
        outputs={
            key: Output(type=FOLDER, path=place, mode=step.output_mode(key)) for key, place in step.outputs.items()
        },
        environment_variables=dict(job.env),
        tags={STEP: step.spec.key, **({STEP_AFTER: ",".join(step.spec.after)} if step.spec.after else {})},
        identity=identity_of(job.identity),
        distribution=distribution_of(job.distribution, job.processes),
    )
    node.resources = JobResourceConfiguration(
        instance_count=job.nodes, shm_size=job.shm_size or None, docker_args=" ".join(job.docker_args) or None
    )
    if step.seconds is not None:
        node.limits = CommandJobLimits(timeout=step.seconds)
    return node
