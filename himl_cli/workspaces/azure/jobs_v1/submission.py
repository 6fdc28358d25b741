"""Submitting a job by azureml-core: a ScriptRunConfig, made of what all jobs on Azure ML are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import HimlError, Interrupted
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import EnvironmentSpec, JobSpec
from himl_cli.core.processes import terminations
from himl_cli.core.runs import Run
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.before_creation import before_creation
from himl_cli.workspaces.azure.jobs.build_context import context_digest, context_files, upload_context
from himl_cli.workspaces.azure.jobs.computes import check_compute
from himl_cli.workspaces.azure.jobs.data import resolve_inputs, resolve_outputs
from himl_cli.workspaces.azure.jobs.forms import JobInput, JobOutput
from himl_cli.workspaces.azure.jobs.job_form import job_tags
from himl_cli.workspaces.azure.jobs.submission import azure_run_id
from himl_cli.workspaces.azure.jobs.submitted import run_of
from himl_cli.workspaces.azure.jobs.sweeps import outputs_for
from himl_cli.workspaces.azure.jobs_v1.data import sdk_inputs, sdk_outputs
from himl_cli.workspaces.azure.jobs_v1.environments import registered_environment, sdk_environment
from himl_cli.workspaces.azure.jobs_v1.hyperdrive import hyperdrive_config
from himl_cli.workspaces.azure.jobs_v1.refusals import sdk_errors
from himl_cli.workspaces.azure.jobs_v1.run_config import check_possible, script_run_config
from himl_cli.workspaces.azure.jobs_v1.sdk import DEPRECATED, quiet_sdk, require_sdk
from himl_cli.workspaces.azure.jobs_v1.sign_in import sdk_workspace
from himl_cli.workspaces.azure.jobs_v1.staging import staged
from himl_cli.workspaces.azure.jobs_v1.started import settled
from himl_cli.workspaces.azure.requests.kept import LONGEST_SECONDS
from himl_cli.workspaces.azure.runs.limits import limit_properties
from himl_cli.workspaces.azure.storage.datastores import Datastores

KIND = "snapshots_v1"


@dataclass(frozen=True)
class _Found:
    """What the workspace has of what a job refers to; `environment` is None for one that is made from files."""

    tenant_id: str
    inputs: Mapping[str, JobInput]
    outputs: Mapping[str, JobOutput]
    environment: Mapping[str, Any] | None


def submit_v1(connection: Connection, datastores: Datastores, spec: JobSpec, notify: Notify) -> Run:
    """Submit *spec* and give the run, by what is known here: the run history may not tell of it yet. Raises HimlError;
    nothing then runs, unless it says so.

    BadUsage comes first and without a request: azureml-core is missing, or cannot do what is asked for. Then NotFound
    for what is not there, before anything is uploaded.
    """
    require_sdk()
    check_possible(spec)
    notify(Notice(DEPRECATED))
    run_id = azure_run_id(spec.experiment)
    with before_creation():
        found = _find(connection, datastores, spec, notify)
        context = _build_context(connection, datastores, spec.environment)
    with terminations():
        with settled(connection, run_id, notify):
            for remark in _send(connection, spec, run_id, found, context):
                notify(Notice(remark))
        _describe(connection, spec, run_id, notify)
    return run_of(spec, run_id, connection, found.tenant_id)


def _find(connection: Connection, datastores: Datastores, spec: JobSpec, notify: Notify) -> _Found:
    tenant_id = connection.record().tenant_id
    check_compute(connection, spec.cluster, spec.nodes, notify)
    inputs = resolve_inputs(connection, datastores, spec.inputs, spec.default_datastore, notify)
    outputs = outputs_for(
        spec, resolve_outputs(connection, datastores, spec.outputs, spec.default_datastore, notify), notify
    )
    named = spec.environment if spec.environment is not None and spec.environment.name else None
    return _Found(
        tenant_id, inputs, outputs, registered_environment(connection, named.name, named.version) if named else None
    )


def _build_context(connection: Connection, datastores: Datastores, spec: EnvironmentSpec | None) -> str:
    """The address of what the image is built from, uploaded; empty where it is built from nothing of the user's."""
    if spec is None or spec.context is None:
        return ""
    if isinstance(spec.context, str):
        return spec.context
    files = context_files(spec)
    return upload_context(connection, datastores, files, context_digest(files))


def _send(connection: Connection, spec: JobSpec, run_id: str, found: _Found, context: str) -> list[str]:
    """Start the run, and give what is to be said of it."""
    remarks: list[str] = []
    overwrite = {one.key: one.overwrite for one in spec.outputs}
    with staged(spec.snapshot) as folder, quiet_sdk(), sdk_errors(connection):
        from azureml.core import Experiment

        workspace = sdk_workspace(connection)
        environment = sdk_environment(
            workspace, spec.environment or EnvironmentSpec(), found.environment, context, remarks
        )
        data = sdk_inputs(connection, found.inputs), sdk_outputs(found.outputs, overwrite=overwrite)
        config = script_run_config(spec, folder, environment, *data)
        experiment = Experiment(workspace, spec.experiment)
        run = (
            experiment.submit(config, run_id=run_id)
            if spec.sweep is None
            else experiment.submit(hyperdrive_config(spec.sweep, config, run_id))
        )
        snapshot_id = str(run.properties.get("ContentSnapshotId") or "")
    if _was_seen(connection, snapshot_id):
        remarks.append("Code unchanged since an earlier submit: not uploaded again.")
    return remarks


def _was_seen(connection: Connection, snapshot_id: str) -> bool:
    """Whether the last job had the same snapshot: azureml-core sends what differs from the last one, and nothing where
    nothing does."""
    key = connection.key("snapshot of the last job")
    before = connection.kept.get(KIND, key)
    connection.kept.put(KIND, key, snapshot_id, seconds=LONGEST_SECONDS)
    return bool(snapshot_id) and before == snapshot_id


def _describe(connection: Connection, spec: JobSpec, run_id: str, notify: Notify) -> None:
    """Give the run its names and tags, which a ScriptRunConfig cannot hold. The job runs by now: a failure is only
    told."""
    tags = {**job_tags(spec), "run_recovery_id": f"{spec.experiment}:{run_id}"}
    names = {"displayName": spec.display_name, "description": spec.description}
    properties = limit_properties(spec.max_seconds if spec.sweep is None else None)
    change = {
        "runId": run_id,
        "tags": tags,
        "properties": properties,
        **{name: text for name, text in names.items() if text},
    }
    try:
        connection.rest.patch(
            connection.history(f"/experiments/{quote(spec.experiment, safe='')}/runs/{quote(run_id, safe='')}"),
            json=change,
        )
    except KeyboardInterrupt as err:
        raise Interrupted(
            f"Interrupted; the job {run_id} was submitted already.", hint=f"To stop it: himl runs cancel {run_id}"
        ) from err
    except HimlError as err:
        notify(Notice(f"The job was submitted without its tags: {err}"))
