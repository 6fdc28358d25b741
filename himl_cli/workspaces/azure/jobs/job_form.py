"""A job as it goes to Azure ML, in two parts: its shape, which decides the form of the request, and the texts that
stand in it.

Jobs that are sent one after the other mostly have the same shape: what a request of that shape looks like is found out
once (`templates.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from himl_cli.core.jobs import SERVERLESS, JobSpec
from himl_cli.core.sweeps import GOAL, MANY, PRIMARY_METRIC, SweepSpec
from himl_cli.workspaces.azure.jobs.command_text import command_text
from himl_cli.workspaces.azure.jobs.forms import INPUT_MODES, OUTPUT_MODES, JobInput, JobOutput
from himl_cli.workspaces.azure.jobs.sweeps import outputs_for
from himl_cli.workspaces.azure.runs.limits import limit_of, limit_properties

GIT_DIRTY = "azureml.git.dirty"
GIT_PROPERTIES = {
    "build_source_repository": "mlflow.source.git.repoURL",
    "build_branch": "mlflow.source.git.branch",
    "build_source_id": "mlflow.source.git.commit",
    "build_source_dirty": GIT_DIRTY,
}
"""Tags of git's facts, and the properties under which Studio looks for the same."""


@dataclass(frozen=True)
class InputShape:
    """One input: `type` and `mode` as JobInput has them."""

    key: str
    type: str
    mode: str


@dataclass(frozen=True)
class OutputShape:
    """`is_registered`: the output becomes a version of a data asset when the job ends."""

    key: str
    type: str
    mode: str
    is_registered: bool


@dataclass(frozen=True)
class JobShape:
    """`compute` is empty for a job without one; `processes` (a node) and `distribution` as JobSpec has them; `seconds`
    None: no limit. `resource_properties` is JSON, empty for none.

    `sweep` is None for a single run; else the rest is that of each trial, the limit too.
    """

    compute: str
    nodes: int
    instance_type: str
    resource_properties: str
    services: tuple[tuple[str, str], ...]
    processes: int | None
    distribution: str
    shm_size: str
    seconds: int | None
    identity: str | None
    inputs: tuple[InputShape, ...]
    outputs: tuple[OutputShape, ...]
    has_description: bool
    has_docker_args: bool
    sweep: SweepSpec | None = None


@dataclass(frozen=True)
class JobTexts:
    """What stands in the request as it is: `code` and `environment` are resource ids, `inputs` and `outputs` paths by
    key, `assets` names by key of outputs."""

    display_name: str
    description: str
    experiment: str
    command: str
    docker_args: str
    code: str
    environment: str
    tags: Mapping[str, str]
    variables: Mapping[str, str]
    properties: Mapping[str, str]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    assets: Mapping[str, str]


@dataclass(frozen=True)
class JobForm:
    """A whole job, nothing left to look up."""

    shape: JobShape
    texts: JobTexts


def shape_of(spec: JobSpec, inputs: Mapping[str, JobInput], outputs: Mapping[str, JobOutput]) -> JobShape:
    """The shape of *spec*, whose data was found to be *inputs* and *outputs*."""
    return JobShape(
        compute="" if spec.cluster.lower() == SERVERLESS else spec.cluster,
        nodes=spec.nodes,
        instance_type=spec.instance_type,
        resource_properties=json.dumps(dict(spec.resource_properties)) if spec.resource_properties else "",
        services=tuple(spec.services.items()),
        processes=spec.processes,
        distribution=spec.distribution,
        shm_size=spec.shm_size,
        seconds=None if spec.max_seconds is None else limit_of(spec.max_seconds),
        identity=spec.identity,
        inputs=tuple(InputShape(key, item.type, item.mode) for key, item in inputs.items()),
        outputs=tuple(
            OutputShape(key, item.type, item.mode, item.asset_name is not None) for key, item in outputs.items()
        ),
        has_description=bool(spec.description),
        has_docker_args=bool(spec.docker_args),
        sweep=spec.sweep,
    )


def likely_shape(spec: JobSpec) -> JobShape:
    """The shape that *spec* mostly has: before its data were looked for."""
    inputs = {item.key: JobInput("uri_folder", "", INPUT_MODES[item.mode or "download"]) for item in spec.inputs}
    outputs = {item.key: JobOutput("", OUTPUT_MODES[item.mode or "mount"], item.name) for item in spec.outputs}
    return shape_of(spec, inputs, outputs_for(spec, outputs))


def texts_of(
    spec: JobSpec,
    run_id: str,
    code: str,
    environment: str,
    inputs: Mapping[str, JobInput],
    outputs: Mapping[str, JobOutput],
) -> JobTexts:
    """The texts of *spec* as run *run_id*. Raises BadUsage for a placeholder in its arguments that names nothing."""
    return JobTexts(
        display_name=spec.display_name or run_id,
        description=spec.description,
        experiment=spec.experiment,
        command=command_text(spec),
        docker_args=" ".join(spec.docker_args),
        code=code,
        environment=environment,
        tags={**job_tags(spec), "run_recovery_id": f"{spec.experiment}:{run_id}"},
        variables=dict(spec.env),
        properties=job_properties(spec),
        inputs={key: item.path for key, item in inputs.items()},
        outputs={key: item.path for key, item in outputs.items()},
        assets={key: item.asset_name for key, item in outputs.items() if item.asset_name is not None},
    )


def job_tags(spec: JobSpec) -> dict[str, str]:
    """The tags of *spec*; those of a sweep say how its trials are compared."""
    if spec.sweep is None:
        return dict(spec.tags)
    return {**spec.tags, MANY: spec.sweep.kind, PRIMARY_METRIC: spec.sweep.primary_metric, GOAL: spec.sweep.goal}


def job_properties(spec: JobSpec) -> dict[str, str]:
    """The facts of *spec* that go with the job beside its tags: of git, and how long it may run. A sweep as a whole has
    no limit, its trials do."""
    return {**git_properties(spec.tags), **limit_properties(spec.max_seconds if spec.sweep is None else None)}


def git_properties(tags: Mapping[str, str]) -> dict[str, str]:
    """The properties that azure-ai-ml makes of the folder it is called in; here of the snapshot's, which its tags
    tell."""
    found = {name: tags[tag] for tag, name in GIT_PROPERTIES.items() if tags.get(tag)}
    if GIT_DIRTY in found:
        found[GIT_DIRTY] = str(found[GIT_DIRTY] == "true")
    return found
