"""From the `properties` of a job that was submitted to its record, and to the job that runs."""

from __future__ import annotations

from tests.servers.azureml.jobs.sweeps.record import properties_of_sweep, tags_of_sweep
from tests.servers.azureml.principals import Principal
from tests.servers.azureml.state import Json, Run, Workspace, new_id, now

FIRST_STATUS = {"Command": "Starting", "Sweep": "Running", "Pipeline": "NotStarted", "AutoML": "NotStarted"}
RUN_TYPES = {"Command": "azureml.scriptrun", "Sweep": "hyperdrive", "Pipeline": "azureml.PipelineRun", "AutoML": "automl"}


def new_job(workspace: Workspace, name: str, properties: Json, *, definition: Json | None = None) -> Run:
    """The record of a job that is taken, by its `jobType`; nobody has started it yet. *definition*: azureml-core's, where that sent it."""
    kind = properties["jobType"]
    run = Run(
        run_id=name,
        experiment=workspace.experiment(properties.get("experimentName") or "Default"),
        status=FIRST_STATUS[kind],
        created=now(),
        started=None,
        ended=None,
        display_name=properties.get("displayName") or name,
        user_name="Ada Lovelace",
        data_container_id=f"dcid.{name}",
        number=next(workspace.numbers),
        description=properties.get("description"),
        tags=dict(properties.get("tags") or {}),
        properties={**(properties.get("properties") or {}), **({"ContentSnapshotId": new_id()} if _has_code(properties) else {})},
        target=(properties.get("computeId") or "").rpartition("/")[2] or None,
        run_type=RUN_TYPES[kind],
        script=(definition or {}).get("script"),
        definition=definition,
        job=properties,
    )
    if kind == "Sweep":
        run.started = run.created
        run.tags |= tags_of_sweep(workspace, run)
        run.properties |= properties_of_sweep(run)
    return workspace.keep_run(run)


def start(workspace: Workspace, run: Run, submitter: Principal | None) -> None:
    """Let it run where jobs run at all; else it stays in its first status."""
    if workspace.jobs is not None:
        workspace.jobs.submit(run, submitter)


def _has_code(properties: Json) -> bool:
    return bool(properties.get("codeId") or (properties.get("trial") or {}).get("codeId"))
