"""How the control plane shows a run as a job (wire document 2.7 to 2.9)."""

from __future__ import annotations

from tests.servers.azureml.answers import time_text
from tests.servers.azureml.state import Json, Run, Workspace

ARM_STATUS = {"Unapproved": "NotStarted", "Pausing": "Running"}  # words that only run history has
_TYPES = {"hyperdrive": "Sweep", "azureml.PipelineRun": "Pipeline", "automl": "AutoML"}
_STEP = "azureml.StepRun"


def job_type_of(run: Run) -> str:
    return str((run.job or {}).get("jobType") or _TYPES.get(run.run_type, "Command"))


def job_document(workspace: Workspace, run: Run) -> Json:
    """The resource. A step of a pipeline comes without `properties`: so the service has it."""
    path, kind = f"{workspace.path}/jobs/{run.run_id}", "Microsoft.MachineLearningServices/workspaces/jobs"
    system = {"createdAt": time_text(run.created), "createdBy": run.user_name, "createdByType": "User"}
    document: Json = {"id": path, "name": run.run_id, "type": kind, "systemData": system}
    return document if run.run_type == _STEP else document | {"properties": _properties(workspace, run)}


def _properties(workspace: Workspace, run: Run) -> Json:
    common: Json = {
        "description": run.description,
        "tags": run.tags,
        "properties": run.properties,
        "displayName": run.display_name,
        "status": ARM_STATUS.get(run.status, run.status),
        "experimentName": run.experiment.name,
        "services": _services(workspace, run),
        "computeId": f"{workspace.path}/computes/{run.target}" if run.target else None,
        "isArchived": run.hidden,
        "identity": (run.job or {}).get("identity"),
        "componentId": None,
        "notificationSetting": None,
        "jobType": job_type_of(run),
        "inputs": {name: _input(given) for name, given in ((run.job or {}).get("inputs") or {}).items()},
        "outputs": _outputs(run),
    }
    own = {"Sweep": _sweep, "Pipeline": _pipeline}.get(job_type_of(run), _command)
    return common | own(workspace, run)


def _services(workspace: Workspace, run: Run) -> Json:
    where = f"/subscriptions/{workspace.subscription}/resourcegroups/{workspace.group}/workspaces/{workspace.name}"
    nothing = {"port": None, "status": None, "errorMessage": None, "properties": None, "nodes": None}
    tracking = f"azureml://{workspace.data_plane_host}/mlflow/v1.0{workspace.path}?"
    studio = f"https://ml.azure.com/runs/{run.run_id}?wsid={where}"
    services: Json = {"Studio": {"jobServiceType": "Studio", "endpoint": studio, **nothing}}
    if job_type_of(run) != "Sweep":
        services["Tracking"] = {"jobServiceType": "Tracking", "endpoint": tracking, **nothing}
    return services


def _input(given: Json) -> Json:
    """As it was sent, with the service's own mode where it named none."""
    return {"description": None, **({} if given.get("jobInputType") == "literal" else {"mode": "ReadOnlyMount"}), **given}


def _outputs(run: Run) -> Json:
    nothing = {"description": None, "assetName": None, "assetVersion": None, "mode": "ReadWriteMount", "jobOutputType": "uri_folder"}
    default = f"azureml://datastores/workspaceartifactstore/ExperimentRun/{run.data_container_id}"
    given = {name: {**nothing, **output} for name, output in ((run.job or {}).get("outputs") or {}).items()}
    named = {name: {**nothing, **given.get(name, {}), "uri": output.uri} for name, output in run.outputs.items() if name != "default"}
    return {**given, **named, "default": {**nothing, "uri": default}}


def _command(workspace: Workspace, run: Run) -> Json:
    job = run.job or {}
    resources = {"instanceCount": 1, "maxInstanceCount": None, "instanceType": None, "locations": None, "properties": None, "shmSize": "2g", "dockerArgs": None}
    return {
        "resources": {**resources, **(job.get("resources") or {})},
        "codeId": job.get("codeId"),
        "command": job.get("command") or f"python {run.script or 'train.py'}",
        "environmentId": job.get("environmentId") or f"{workspace.path}/environments/training/versions/1",
        "distribution": job.get("distribution"),
        "autologgerSettings": None,
        "limits": job.get("limits"),
        "environmentVariables": job.get("environmentVariables") or {},
        "parameters": {},
        "queueSettings": job.get("queueSettings") or {"jobTier": "Standard", "priority": None},
    }


def _sweep(workspace: Workspace, run: Run) -> Json:
    job = run.job or {}
    trial = {"codeId": None, "environmentId": f"{workspace.path}/environments/training/versions/1", "command": "python train.py --lr ${{search_space.lr}}"}
    objective = job.get("objective") or {"goal": "maximize", "primaryMetric": "accuracy"}
    sampling = job.get("samplingAlgorithm") or {"samplingAlgorithmType": "Random"}
    defaults = {"seed": None, "logbase": None, "rule": "Random"} if sampling["samplingAlgorithmType"] == "Random" else {}
    seeded = {"maxTotalTrials": 3, "maxConcurrentTrials": 1, "timeout": "PT2H"}
    limits = {"jobLimitsType": "Sweep", "maxTotalTrials": None, "maxConcurrentTrials": None, "timeout": None, "trialTimeout": None}
    given = job.get("trial") or {}
    resources = {"instanceCount": 1, "instanceType": None, "locations": None, "properties": None, "dockerArgs": None, **(given.get("resources") or {})}
    return {
        "searchSpace": job.get("searchSpace") or {"lr": ["choice", [[0.1, 0.01, 0.001]]]},
        "samplingAlgorithm": {**defaults, **sampling},
        "objective": {**objective, "goal": str(objective["goal"]).capitalize()},
        "limits": {**limits, **(job.get("limits") or seeded)},
        "earlyTermination": job.get("earlyTermination"),
        "trial": {**trial, "environmentVariables": {}, "distribution": None, **given, "resources": resources},
        "queueSettings": job.get("queueSettings"),
    }


def _pipeline(workspace: Workspace, run: Run) -> Json:
    job = run.job or {}
    return {"jobs": job.get("jobs") or {}, "settings": job.get("settings") or {}, "sourceJobId": None}
