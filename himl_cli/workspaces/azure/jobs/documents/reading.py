"""A YAML file as azure-ai-ml's job, with what is to be otherwise. Import it after `sdk.load_sdk`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from azure.ai.ml import load_job
from azure.ai.ml.entities import Job, PipelineJob, PipelineJobSettings
from azure.ai.ml.exceptions import MlException
from marshmallow.exceptions import ValidationError

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import SERVERLESS, DocumentChanges
from himl_cli.workspaces.azure.jobs.documents.complaints import complaint_of
from himl_cli.workspaces.azure.jobs.sdk import silenced

EXPERIMENT = "Default"
"""The service's word for the experiment of jobs that name none."""
_HINT = (
    "Azure ML's schema of jobs: https://aka.ms/ml-cli-v2-job-command-yaml-reference (and its neighbours for sweep "
    "and pipeline)."
)


@contextmanager
def complaints_of(path: Path) -> Iterator[None]:
    """Within it, what azure-ai-ml finds wrong with the file becomes BadUsage, which names the file and the key."""
    try:
        yield
    except (MlException, ValidationError) as err:
        raise BadUsage(f"{path.name}: {complaint_of(str(err))}", hint=_HINT) from err
    except FileNotFoundError as err:
        raise BadUsage(f"{path.name}: there is no '{err.filename}'.") from err


def read_job(path: Path, changes: DocumentChanges, run_id: str) -> Any:
    """The job of the file as run *run_id*. Raises BadUsage."""
    with complaints_of(path), silenced():
        job = load_job(path, params_override=[{key: folder} for key, folder in changes.code.items()])
        _change(job, changes, run_id)
    return job


def computes_of(job: Any) -> list[str]:
    """The names of all computes that the job names, without those of Azure ML's own choice."""
    named = [getattr(job, "compute", None)]
    if isinstance(job, PipelineJob):
        named += [
            job.settings.default_compute if job.settings else None,
            *(getattr(node, "compute", None) for node in job.jobs.values()),
        ]
    texts = [
        one.removeprefix("azureml:").rpartition("/computes/")[2] or one.removeprefix("azureml:")
        for one in named
        if isinstance(one, str) and one
    ]
    return [*dict.fromkeys(text for text in texts if text.lower() != SERVERLESS)]


def _change(job: Job, changes: DocumentChanges, run_id: str) -> None:
    job.display_name = changes.display_name or job.display_name or job.name or run_id
    job.name = run_id
    job.experiment_name = changes.experiment or job.experiment_name or EXPERIMENT
    job.description = changes.description or job.description
    job.tags = {**(job.tags or {}), **changes.tags, "run_recovery_id": f"{job.experiment_name}:{run_id}"}
    if changes.cluster:
        _set_cluster(job, changes.cluster)
    if changes.env:
        for part in _parts(job):
            part.environment_variables = {**(part.environment_variables or {}), **changes.env}


def _set_cluster(job: Any, cluster: str) -> None:
    if isinstance(job, PipelineJob):
        job.settings = job.settings or PipelineJobSettings()
        job.settings.default_compute = cluster
        return
    job.compute = None if cluster.lower() == SERVERLESS else cluster


def _parts(job: Any) -> list[Any]:
    """What in the job has variables of its own."""
    candidates = [job, getattr(job, "trial", None), *(job.jobs.values() if isinstance(job, PipelineJob) else ())]
    return [one for one in candidates if hasattr(one, "environment_variables")]
