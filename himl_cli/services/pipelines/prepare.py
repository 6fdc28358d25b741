"""From a pipeline's JSON file and the options of `himl submit` to a pipeline that a workspace can run."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from himl_cli.core.containers import DATASTORE_NAME, ContainerSpec
from himl_cli.core.jobs import Entry, EntryKind, JobSpec, Snapshot
from himl_cli.core.pipelines import PipelineSpec
from himl_cli.services.git import git_facts
from himl_cli.services.interpreter import find_python
from himl_cli.services.naming import automatic_tags, choose_experiment
from himl_cli.services.pipelines.prepared import DataInput, PreparedPipeline
from himl_cli.services.pipelines.schema import PipelineFile, read_pipeline
from himl_cli.services.pipelines.steps import StepMaker
from himl_cli.services.pipelines.variables import PipelineVariables, pipeline_variables
from himl_cli.services.snapshot import ignored_remarks
from himl_cli.services.submission import SubmitRequest, command_line, parse_duration
from himl_cli.services.submission.cluster_checks import check_names, shortened
from himl_cli.services.submission.place import check_place, place_remarks, settled
from himl_cli.services.submission.quantities import check_size
from himl_cli.services.submission.target import check_options, file_remarks, target_path

COUNTING = frozenset(
    {
        *(
            "cluster",
            "create_cluster",
            "python",
            "max_run_duration",
            "shm_size",
            "docker_args",
            "identity",
            "default_datastore",
        ),
        *("ignored_folders", "include_secret"),
        *(
            "conda_env",
            "requirements",
            "environment",
            "docker_image",
            "pip_extra_index_url",
            "private_wheel",
            "env_vars",
        ),
        *("experiment", "experiment_from_branch", "display_name", "description", "tags", "build"),
    }
)
"""Options that count for a pipeline: for all of its steps, the environment's for those that name none."""
WHAT = "a pipeline file"


def prepare_pipeline(
    request: SubmitRequest, env: Mapping[str, str] | None = None, *, creates_cluster: bool = False
) -> PreparedPipeline:
    """Check all that was asked for and list the snapshots; no network, and nothing is written. Raises BadUsage naming
    the step and the key."""
    env = os.environ if env is None else env
    check_options(request, COUNTING, WHAT)
    path = target_path(request)
    variables = pipeline_variables(path.parent, request.cwd, env)
    request, remarks = _placed(request, variables)
    check_place(request)
    remarks += [*place_remarks(request), *file_remarks(request, WHAT)]
    request = settled(request)
    file = read_pipeline(path, str(request.target))
    common = _common(request, path, remarks, env)
    maker = StepMaker(file, request, common)
    steps = maker.steps()
    spec = PipelineSpec(
        experiment=common.experiment,
        steps=steps,
        display_name=request.display_name,
        description=request.description,
        tags=common.tags,
        cluster=request.on_cluster,
        default_datastore=request.default_datastore,
        command=command_line(request),
    )
    largest = max(steps, key=lambda step: step.job.nodes)
    return PreparedPipeline(
        str(request.target),
        spec,
        maker.reports,
        [*remarks, *maker.remarks, *ignored_remarks(maker.reports)],
        maker.data,
        _container(file, variables, maker.data) if request.on_cluster else None,
        variables.cluster_spec(request.on_cluster, largest.job.nodes, largest.key)
        if creates_cluster and request.on_cluster
        else None,
    )


def _placed(request: SubmitRequest, variables: PipelineVariables) -> tuple[SubmitRequest, list[str]]:
    """The request with the cluster of `.env` where no other place was named, and that this is so."""
    if request.cluster is not None or not variables.cluster:
        return request, []
    where = f"Goes to cluster '{variables.cluster}', by {variables.place_of_cluster()}; --cluster local runs it here."
    placed = replace(request, cluster=variables.cluster)
    return placed, [where] if placed.on_cluster else []


def _common(request: SubmitRequest, path: Path, remarks: list[str], env: Mapping[str, str]) -> JobSpec:
    """What all steps share, as a job that runs nothing yet. Raises BadUsage."""
    git = git_facts(path.parent)
    experiment, said_of_it = choose_experiment(
        request.experiment, path.with_suffix(".py").name, from_branch=request.experiment_from_branch, git=git
    )
    remarks += said_of_it
    automatic = automatic_tags(git, request.build, command_line(request))
    common = JobSpec(
        experiment=experiment,
        entry=Entry(EntryKind.script, ""),
        snapshot=Snapshot(path.parent, (), 0),
        python="" if request.on_cluster else find_python(request.python, env, Path(sys.prefix)),
        max_seconds=parse_duration(request.max_run_duration, "--max_run_duration")
        if request.max_run_duration
        else None,
        env=request.env_vars,
        tags={**(shortened(automatic) if request.on_cluster else automatic), **request.tags},
        display_name=request.display_name,
        description=request.description,
        default_datastore=request.default_datastore,
    )
    if not request.on_cluster:
        return common
    there = replace(
        common,
        cluster=request.on_cluster,
        shm_size=check_size("--shm_size", request.shm_size),
        docker_args=request.docker_args,
        identity=request.identity,
    )
    check_names(there, request.tags)
    return there


def _container(file: PipelineFile, variables: PipelineVariables, data: Mapping[str, DataInput]) -> ContainerSpec | None:
    """The container of `.env`, where a step reads a folder of it; called as DeepSeismic called it where it is
    registered."""
    readers = [step for step in file.steps if step.key in data and data[step.key].is_folder]
    names = [
        step.input_dataset_name
        for step in (*readers, file.steps[0])
        if DATASTORE_NAME.fullmatch(step.input_dataset_name)
    ]
    return variables.container(names[0] if names else "") if readers else None
