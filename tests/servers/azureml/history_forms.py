"""Records of run history as its JSON: runs, their details, experiments (wire document 4.1 and 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from tests.servers.azureml.answers import time_text
from tests.servers.azureml.run_definitions import definition_of, is_without_job, outputs_form
from tests.servers.azureml.state import Experiment, Json, Run, Workspace, now

IN_DETAILS = (
    *("runId", "target", "status", "startTimeUtc", "endTimeUtc", "error", "warnings", "tags", "properties", "parameters", "services"),
    *("inputDatasets", "outputDatasets", "revision", "runTypeV2", "computeDuration", "inputs", "outputs"),
    *("runUuid", "parentRunUuid", "rootRunUuid", "dataContainerId", "description", "displayName"),
)


def run_form(workspace: Workspace, run: Run) -> Json:
    """The whole run, every field that a recorded run has."""
    return _identity(workspace, run) | _course(run) | _content(run) | _place(run)


def _identity(workspace: Workspace, run: Run) -> Json:
    parent = workspace.runs.get(run.parent_id or "")
    root = workspace.runs.get(run.root_id)
    who = _person(workspace, run)
    return {
        "runNumber": run.number,
        "rootRunId": run.root_id,
        "createdUtc": time_text(run.created),
        "createdBy": who,
        "userId": who["userObjectId"],
        "token": None,
        "tokenExpiryTimeUtc": None,
        "error": run.error,
        "warnings": None,
        "revision": run.revision,
        "statusRevision": run.revision,
        "runUuid": run.uuid,
        "parentRunUuid": parent.uuid if parent else None,
        "rootRunUuid": root.uuid if root else run.uuid,
        "lastModifiedBy": who,
        "runId": run.run_id,
        "parentRunId": run.parent_id,
        "experimentId": run.experiment.experiment_id,
        "displayName": run.display_name,
        "name": None,
        "dataContainerId": run.data_container_id,
        "description": run.description,
        "hidden": run.hidden,
    }


def _person(workspace: Workspace, run: Run) -> Json:
    return {
        "userObjectId": workspace.principal.object_id,
        "userPuId": None,
        "userIdp": None,
        "userAltSecId": None,
        "userIss": f"https://sts.windows.net/{workspace.tenant}/",
        "userTenantId": workspace.tenant,
        "userName": run.user_name,
        "upn": None,
    }


def _course(run: Run) -> Json:
    duration = _duration(run)
    return {
        "status": run.status,
        "startTimeUtc": time_text(run.started),
        "endTimeUtc": time_text(run.ended),
        "lastStartTimeUtc": None,
        "lastModifiedUtc": time_text(run.ended or run.started or run.created),
        "currentComputeTime": None,
        "computeDuration": duration if run.is_ended else None,
        "effectiveStartTimeUtc": None,
        "duration": duration if run.is_ended else None,
        "cancelationReason": None,
        "currentAttemptId": run.attempt,
        "queueingInfo": None,
    }


def _duration(run: Run) -> str | None:
    """As .NET writes a span of time: `1.02:03:04.5678900`."""
    if run.started is None:
        return None
    spent = max(timedelta(), (run.ended or now()) - run.started)
    hours, rest = divmod(spent.seconds, 3600)
    days = f"{spent.days}." if spent.days else ""
    return f"{days}{hours:02}:{rest // 60:02}:{rest % 60:02}.{spent.microseconds:06}0"


def _content(run: Run) -> Json:
    return {
        "tags": run.tags,
        "properties": run.properties,
        "parameters": run.parameters,
        "runType": run.run_type,
        "runTypeV2": {"orchestrator": "Execution", "traits": traits_of(run), "attribution": None, "computeType": "AmlcTrain"},
        "actionUris": {},
        "settings": {},
        "services": {},
        "inputDatasets": [],
        "outputDatasets": [],
        "runDefinition": None,
        "jobSpecification": None,
        "primaryMetricName": None,
        "createdFrom": None,
        "scheduleId": None,
        "inputs": None,  # as recorded: only `rundata` tells inputs and outputs
        "outputs": None,
    }


def _place(run: Run) -> Json:
    nodes = int(((run.job or {}).get("resources") or {}).get("instanceCount") or 1)
    return {
        "scriptName": run.script,
        "target": run.target,
        "uniqueChildRunComputeTargets": [],
        "cancelUri": None,
        "completeUri": None,
        "diagnosticsUri": "",
        "computeRequest": {"nodeCount": nodes, "gpuCount": 0},
        "compute": {
            "target": run.target,
            "targetType": "amlcompute",
            "vmSize": None,
            "instanceType": None,
            "instanceCount": nodes,
            "gpuCount": 0,
            "priority": None,
            "region": None,
            "armId": None,
            "properties": None,
        },
        "retainForLifetimeOfWorkspace": None,
    }


def traits_of(run: Run) -> list[str]:
    return [run.run_type, "scriptRun", "remote", "CommonRuntime"]


def details_form(workspace: Workspace, run: Run, logs: dict[str, str]) -> Json:
    """The details; *logs* maps names of log files to signed links."""
    whole = run_form(workspace, run)
    details: dict[str, Any] = {name: whole[name] for name in IN_DETAILS}
    return details | {"createdTimeUtc": whole["createdUtc"], "runDefinition": definition_of(run), "jobCost": None, "logFiles": logs}


def data_form(workspace: Workspace, run: Run, wish: Mapping[str, Any]) -> Json:
    """What `rundata` gives for *wish*."""
    told = {"inputs": None if is_without_job(run) else {}, "outputs": outputs_form(workspace, run)}
    return {
        "runMetadata": run_form(workspace, run) | told if wish.get("selectRunMetadata") else None,
        "runDefinition": definition_of(run) if wish.get("selectRunDefinition") else None,
        "jobSpecification": None,
        "systemSettings": None,
    }


def experiment_form(workspace: Workspace, experiment: Experiment) -> Json:
    return {
        "experimentId": experiment.experiment_id,
        "name": experiment.name,
        "description": experiment.description,
        "createdUtc": time_text(experiment.created),
        "tags": experiment.tags,
        "archivedTime": time_text(experiment.archived),
        "retainForLifetimeOfWorkspace": False,
        "artifactLocation": None,
    }
