"""The records of a pipeline's steps, as recorded from the service (wire document 4.1)."""

from __future__ import annotations

import uuid

from tests.servers.azureml.jobs.pipelines.graph import Node
from tests.servers.azureml.state import Json, Run, Workspace, new_id, now

STEP = "azureml.StepRun"


def step_record(workspace: Workspace, pipeline: Run, node: Node, job: Json, earlier: Run | None) -> Run:
    """A new run of the *node*, whose job is *job*; the results of the run *earlier* are taken for its own."""
    run_id, node_id = str(uuid.uuid4()), uuid.uuid4().hex[:8]
    return Run(
        run_id=run_id,
        experiment=pipeline.experiment,
        status="NotStarted",
        created=now(),
        started=None,
        ended=None,
        display_name=node.given.get("display_name") or node.name,
        user_name=pipeline.user_name,
        data_container_id=earlier.data_container_id if earlier else f"dcid.{run_id}",
        number=next(workspace.numbers),
        parent_id=pipeline.run_id,
        tags={"azureml.nodeid": node_id, "azureml.pipeline": pipeline.run_id},
        properties={**_properties(pipeline, node, node_id), **(_reused(earlier) if earlier else {})},
        target=(job.get("computeId") or "").rpartition("/")[2] or None,
        run_type=STEP,
        job=job,
    )


def earlier_step(workspace: Workspace, pipeline: Run, node: Node, job: Json) -> Run | None:
    """A step that ran the same on the same: its results are taken, unless the component or the pipeline says otherwise."""
    if not node.component.get("is_deterministic", True) or ((pipeline.job or {}).get("settings") or {}).get("force_rerun"):
        return None
    done = [one for one in workspace.runs.values() if one.run_type == STEP and one.status == "Completed" and "azureml.isreused" not in one.properties]
    return next((one for one in done if one.job == job), None)


def _properties(pipeline: Run, node: Node, node_id: str) -> dict[str, str]:
    name, _, version = str(node.given["componentId"]).rpartition("/components/")[2].partition("/versions/")
    return {
        "azureml.runsource": STEP,
        "azureml.nodeid": node_id,
        "ContentSnapshotId": new_id(),
        "StepType": "PythonScriptStep",
        "ComputeTargetType": "AmlCompute",
        "azureml.moduleid": version,
        "azureml.moduleName": name,
        "azureml.moduleVersion": str(node.component.get("version") or "1"),
        "azureml.pipeline": pipeline.run_id,
        "azureml.pipelinerunid": pipeline.run_id,
        "azureml.DevPlatv2": "true",
        "azureml.pipelineComponent": "masterescloud",
        "_azureml.ComputeTargetType": "amlctrain",
    }


def _reused(earlier: Run) -> dict[str, str]:
    pipeline = str(earlier.parent_id)
    return {
        "azureml.isreused": "true",
        "azureml.reusedrunid": earlier.run_id,
        "azureml.reusednodeid": earlier.properties["azureml.nodeid"],
        "azureml.reusedpipeline": pipeline,
        "azureml.reusedpipelinerunid": pipeline,
    }
