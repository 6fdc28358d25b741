"""The control plane's routes for jobs. A job is the run with the same name, in another format (wire documents 2.7 to
2.9). Also the jobs that the service rejects.
"""

from __future__ import annotations

import re
from typing import cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.azureml_double.frame import (
    ServiceError,
    arm_page,
    bad_request,
    below_no_workspace,
    body_of,
    caller_of,
    demand,
    not_found,
    there,
    workspace_of,
)
from tests.azureml_double.jobs.command import seconds_of, unknown_references
from tests.azureml_double.jobs.data import data_version, names_data_version
from tests.azureml_double.jobs.pipelines import check_pipeline, runs_jobs
from tests.azureml_double.jobs.records import FIRST_STATUS, job_type_of, new_job
from tests.azureml_double.jobs.sweeps import check_sweep
from tests.azureml_double.state import (
    PIPELINE,
    STEP,
    Azure,
    Caller,
    Json,
    Principal,
    Right,
    Run,
    TokenRefused,
    Workspace,
    read_token,
    time_text,
)

# Statuses that only run history has.
ARM_STATUS = {"Unapproved": "NotStarted", "Pausing": "Running"}
AUDIENCE, HEADER = "https://ml.azure.com", "x-azureml-token"
CANCELATION, DELETION = "jc", "jd"
CURATED = "AzureML-"
# The members of jobs and their parts, for the versions that clients of the tests send, from the vendor's models. The
# specification permits no others. Stable version 2024-10-01 is that of the preview of this date.
_JOB = (
    "componentId computeId description displayName experimentName identity isArchived jobType "
    "notificationSetting properties services status tags"
)
_TRIAL = "codeId command distribution environmentId environmentVariables resources"
_MEMBERS = {
    "CommandJob": f"{_JOB} {_TRIAL} inputs limits outputs parameters queueSettings",
    "SweepJob": f"{_JOB} earlyTermination inputs limits objective outputs queueSettings samplingAlgorithm searchSpace "
    "trial",
    "PipelineJob": f"{_JOB} inputs jobs outputs settings sourceJobId",
    "TrialComponent": _TRIAL,
    "JobResourceConfiguration": "dockerArgs instanceCount instanceType properties shmSize",
    "QueueSettings": "jobTier",
    "LiteralJobInput": "description jobInputType value",
    "JobInput": "description jobInputType mode uri",
    "JobOutput": "assetName description jobOutputType mode uri",
}
_OF_2024 = {
    "JobInput": "pathOnCompute",
    "JobOutput": "assetVersion autoDeleteSetting pathOnCompute",
    "QueueSettings": "priority",
}
_OF_2024 |= {
    "JobResourceConfiguration": "locations maxInstanceCount",
    "CommandJob": "autologgerSettings secretsConfiguration",
}
_OF_2024 |= {"SweepJob": "componentConfiguration resources secretsConfiguration", "PipelineJob": "secretsConfiguration"}
_OF_2025 = dict.fromkeys(("CommandJob", "SweepJob", "PipelineJob"), "parentJobName") | {
    "JobResourceConfiguration": "dockerArgsList"
}
_MORE_MEMBERS: dict[str, dict[str, str]] = {
    "2024-01-01-preview": _OF_2024,
    "2024-10-01": {},
    "2025-01-01-preview": _OF_2025,
}
_ASSETS = {"uri_folder": "UriFolder", "uri_file": "UriFile", "mltable": "MLTable", "mlflow_model": "MLFlowModel"}
_ASSETS |= {"custom_model": "CustomModel", "triton_model": "TritonModel", "literal": "Literal"}
# Limits of jobs in the specification. It has no words for them, so these are our own.
MOST_TAGS, LONGEST_TAG_NAME, LONGEST_TAG, LONGEST_DISPLAY_NAME = 50, 100, 1000, 256
PROVIDER = "Microsoft.MachineLearningServices"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9\-_]{0,254}")
_EXPERIMENT = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,255}")
_SIZE = re.compile(r"[1-9]\d*[bkmg]", re.IGNORECASE)
_ENVIRONMENT = re.compile(
    r"(?:.*/environments/([^/]+)/(versions|labels)/([^/]+)|(?:azureml:)?([^:@/]+)([:@])([^:@/]+))", re.IGNORECASE
)


def list_jobs(request: Request) -> Response:
    workspace, query = workspace_of(request), request.query_params
    view = query.get("listViewType", "ActiveOnly")
    found = [
        run
        for run in reversed(workspace.runs.values())
        if run.parent_id is None and (view == "All" or run.hidden is (view == "ArchivedOnly"))
    ]
    return arm_page(request, [job_document(workspace, run) for run in found], size=100)


def get_job(request: Request) -> Response:
    return JSONResponse(job_document(workspace_of(request), _asked(request)))


def put_job(request: Request) -> Response:
    demand(request, Right.WRITE, "jobs/write")
    workspace, name, properties = (
        workspace_of(request),
        request.path_params["name"],
        body_of(request).get("properties", {}),
    )
    known = workspace.runs.get(name)
    if known is not None:
        # It is not known whether the service rejects a second pipeline of the same name.
        if known.run_type == PIPELINE:
            return JSONResponse(job_document(workspace, known))
        message = "A job with this name already exists. If you are trying to submit a new job, use a different name."
        raise ServiceError(400, "UserError", message, inner="JobPropertyImmutable")
    _check_members(properties, request.query_params.get("api-version", ""))
    _check_new_job(workspace, name, properties)
    there(
        workspace.runs.get(parent) if (parent := properties.get("parentJobName")) else workspace,
        f"Parent job {parent} not found.",
    )
    submitter = _submitter(request, properties.get("identity"))
    run = new_job(workspace, name, properties)
    run.owner = submitter.client_id if submitter else ""
    document = job_document(workspace, run)
    workspace.start(run, submitter)
    return JSONResponse(
        document, 201, headers={"Location": f"https://{request.headers['host']}{document['id']}?{request.url.query}"}
    )


def cancel_job(request: Request) -> Response:
    """Request a cancellation: 202 with the address of the operation, or 200 if the job has ended. Rejected for a
    step, and after the script has ended.
    """
    demand(request, Right.WRITE, "jobs/cancel/action")
    workspace, run = workspace_of(request), _asked(request)
    if run.run_type == STEP:
        raise bad_request(f"The job {run.run_id} is a step of a pipeline, and is not canceled by itself.")
    if run.status == "Finalizing":
        raise bad_request(f"The job {run.run_id} is in the state Finalizing and cannot be canceled.")
    if run.is_ended and run.run_type == PIPELINE and run.status != "Canceled":
        cause = "BadArgument/ArgumentInvalid/CancelPipelineRunInTerminalStatus"
        raise ServiceError(400, "UserError", "Cannot cancel a pipeline run that has ended.", inner=cause)
    if run.is_ended:
        return Response(status_code=200)
    run.cancel_polls = 1
    if not workspace.cancels(run):
        run.status = "CancelRequested"
    return JSONResponse(
        None, 202, headers={**_where(request, workspace, run.run_id), "x-ms-async-operation-timeout": "PT1H"}
    )


def delete_job(request: Request) -> Response:
    """Request a deletion: 202 with the address of the operation (REST, "Jobs - Delete"). The blobs stay, as observed
    after a deletion in Studio. It is not known what else the service deletes, so the double deletes nothing else.
    """
    demand(request, Right.WRITE, "jobs/delete")
    workspace, run = workspace_of(request), _asked(request)
    if not run.is_ended:
        raise bad_request(f"The job {run.run_id} is in the state {run.status} and cannot be deleted.")
    return JSONResponse(
        None, 202, headers={**_where(request, workspace, run.run_id, DELETION), "x-ms-async-operation-timeout": "PT1H"}
    )


@below_no_workspace
def operation(request: Request, azure: Azure, caller: Caller) -> Response:
    """The progress of a cancellation or a deletion: 202 until it is complete, then 200."""
    what, _, rest = request.path_params["operation"].partition(":")
    workspace_id, _, name = rest.partition(":")
    workspace = next((one for one in azure.workspaces.values() if one.workspace_id == workspace_id), None)
    if what not in (CANCELATION, DELETION) or workspace is None:
        raise not_found(f"Operation {what} not found.")
    run = workspace.runs.get(name)
    if what == DELETION:
        if run is not None:
            workspace.forget_run(run)
            return JSONResponse({}, 202, headers=_where(request, workspace, name, DELETION))
    elif run is not None:
        if run.cancel_polls > 0 or (workspace.cancels(run) and not run.is_ended):
            run.cancel_polls = max(0, run.cancel_polls - 1)
            return JSONResponse({}, 202, headers=_where(request, workspace, name))
        if run.target != "local":
            run.cancel()
    return Response(status_code=200)


def _where(request: Request, workspace: Workspace, name: str, what: str = CANCELATION) -> dict[str, str]:
    """The address of the operation. There is no `Retry-After`, as recorded, so azure-ai-ml waits 30 s."""
    place = (
        f"subscriptions/{workspace.subscription}/providers/{PROVIDER}/locations/{workspace.location}/"
        "mfeOperationResults"
    )
    version = request.query_params.get("api-version", "")
    return {
        "Location": f"https://{request.headers['host']}/{place}/"
        f"{what}:{workspace.workspace_id}:{name}?api-version={version}"
    }


def _asked(request: Request) -> Run:
    name = request.path_params["name"]
    return there(workspace_of(request).runs.get(name), f"Job {name} not found.")


def _submitter(request: Request, identity: Json | None) -> Principal | None:
    """Return the submitter of the job. For the submitter's identity, the request must contain a separate token (wire
    document 1). Raises ServiceError 400 if it does not.
    """
    if (identity or {}).get("identityType") != "UserIdentity":
        return caller_of(request).principal
    try:
        claims = read_token(request.headers.get(HEADER, ""))
    except TokenRefused as e:
        raise bad_request(
            f"The job is to run with its submitter's identity, and its header {HEADER} has no good token: {e}"
        ) from e
    if claims["aud"].rstrip("/") != AUDIENCE:
        raise bad_request(f"The token in {HEADER} is for '{claims['aud']}', not for '{AUDIENCE}'.")
    return cast(Azure, request.state.azure).principals.get(claims["appid"])


def _check_members(properties: Json, version: str) -> None:
    """Reject members that the version does not have. Only the details of the error name them, as recorded."""
    if version not in _MORE_MEMBERS:
        return
    kind = f"{properties.get('jobType')}Job"
    parts: list[tuple[str, str, Json | None]] = [(kind, kind, properties)]
    for owner in (properties, properties.get("trial") or {}):
        parts.append(("JobResourceConfiguration", "JobResourceConfiguration", owner.get("resources")))
    parts += [
        (one, one, properties.get(name))
        for name, one in (("trial", "TrialComponent"), ("queueSettings", "QueueSettings"))
    ]
    for what in ("Input", "Output"):
        for given in (properties.get(f"{what.lower()}s") or {}).values():
            name = f"{_ASSETS.get(given.get(f'job{what}Type'), '')}Job{what}"
            parts.append((name, name if name in _MEMBERS else f"Job{what}", given))
    for name, known, given in parts:
        more = _MORE_MEMBERS[version].get(known, "")
        unknown = given.keys() - f"{_MEMBERS[known]} {more}".split() if given and known in _MEMBERS else set()
        if unknown:
            details = tuple(
                f"Could not find member '{member}' on object of type '{name}'." for member in sorted(unknown)
            )
            raise ServiceError(400, "RequestInvalid", "The request is invalid.", details=details)


def _check_limits(properties: Json) -> None:
    tags = properties.get("tags") or {}
    for is_wrong, message in (
        (len(tags) > MOST_TAGS, f"A job has at most {MOST_TAGS} tags, not {len(tags)}."),
        (
            any(len(key) > LONGEST_TAG_NAME or len(str(value)) > LONGEST_TAG for key, value in tags.items()),
            "A tag is too long.",
        ),
        (len(properties.get("properties") or {}) > MOST_TAGS, f"A job has at most {MOST_TAGS} properties."),
        (len(properties.get("displayName") or "") > LONGEST_DISPLAY_NAME, "The display name is too long."),
    ):
        if is_wrong:
            raise bad_request(message)


def _check_new_job(workspace: Workspace, name: str, properties: Json) -> None:
    kind = properties.get("jobType", "")
    if kind not in FIRST_STATUS:
        raise bad_request(f"The job type '{kind}' is not supported.")
    if not _NAME.fullmatch(name):
        allowed = "it has to begin with a letter or a digit and to hold letters, digits, '-' and '_' only."
        raise bad_request(f"The job name '{name}' is not valid: {allowed}")
    if properties.get("experimentName"):
        # Those of pipelines kept their blanks in 14 of 14 recordings.
        check_experiment(properties["experimentName"].replace(" ", "_" if kind == "Pipeline" else " "))
    _check_limits(properties)
    if kind == "Command":
        _check_command(properties)
    if kind == "Sweep":
        check_sweep(properties)
    if kind == "Pipeline":
        check_pipeline(workspace, properties)
    target = str(properties.get("computeId") or "")
    if target and not runs_jobs(workspace, target):
        target = target.rpartition("/")[2]
        unknown = ServiceError(
            400, "UserError", f"Unknown compute target '{target}'.", inner="BadArgument/UnknownTargetType"
        )
        raise bad_request("Compute Not Found for run ID") if kind == "Sweep" else unknown
    trial = properties.get("trial") or {}
    check_code(workspace, properties.get("codeId") or trial.get("codeId"))
    check_environment(workspace, properties.get("environmentId") or trial.get("environmentId"))
    for uri in [str(given.get("uri") or "") for given in (properties.get("inputs") or {}).values()]:
        if names_data_version(uri) and data_version(workspace, uri) is None:
            raise not_found(f"Data version {uri.rpartition('/data/')[2]} (dataContainerName:version) not found.")


def check_experiment(name: str) -> None:
    if not _EXPERIMENT.fullmatch(name):
        rule = "start with a letter or a number, and can only contain letters, numbers, underscores, and dashes"
        raise bad_request(f"Experiment name must be 1-256 characters, {rule}: '{name}'.")


def check_code(workspace: Workspace, code: str | None) -> None:
    name, _, version = (code or "").rpartition("/codes/")[2].partition("/versions/")
    if code and version not in workspace.assets["codes"].get(name, {}):
        raise not_found(f"Code version {code} not found.")


def check_environment(workspace: Workspace, environment: str | None) -> None:
    """Check that the environment exists. Curated environments and those of a registry always do. Others must be
    registered.
    """
    if not environment or environment.startswith("azureml://registries/"):
        return
    found = _ENVIRONMENT.fullmatch(environment)
    if found is None:
        raise bad_request(f"'{environment}' is no environment.")
    name, version = found[1] or found[4], found[3] or found[6]
    is_label = (found[2] or found[5]) in ("labels", "@")
    known = workspace.assets["environments"].get(name, {})
    if not (name.startswith(CURATED) or version in known or (is_label and version == "latest" and known)):
        asked = ("", version) if is_label else (version, "")
        raise not_found(f"No environment exists for name: {name}, version: {asked[0]}, label: {asked[1]}")


def _check_command(properties: Json) -> None:
    if not (properties.get("command") and properties.get("environmentId")):
        raise bad_request("A command job needs 'command' and 'environmentId'.")
    unknown = unknown_references(properties)
    if unknown:
        raise bad_request(f"The command refers to {', '.join(unknown)}, which the job does not have.")
    shm_size = (properties.get("resources") or {}).get("shmSize")
    if shm_size is not None and not _SIZE.fullmatch(shm_size):
        raise bad_request(f"resources.shmSize: '{shm_size}' is no number with a unit of b, k, m or g.")
    timeout = (properties.get("limits") or {}).get("timeout")
    try:
        seconds_of("PT0S" if timeout is None else timeout)
    except ValueError as e:
        raise bad_request(f"limits.timeout: {e}.") from e


def job_document(workspace: Workspace, run: Run) -> Json:
    """The resource. A step of a pipeline has no `properties`, as in the service."""
    system = {"createdAt": time_text(run.created), "createdBy": run.user_name, "createdByType": "User"}
    document: Json = {
        "id": f"{workspace.path}/jobs/{run.run_id}",
        "name": run.run_id,
        "type": f"{PROVIDER}/workspaces/jobs",
        "systemData": system,
    }
    if run.run_type == STEP:
        return document
    job, kind = run.job or {}, job_type_of(run)
    modes = {True: {}, False: {"mode": "ReadOnlyMount"}}
    inputs = {
        name: {"description": None, **modes[given.get("jobInputType") == "literal"], **given}
        for name, given in (job.get("inputs") or {}).items()
    }
    common: Json = {
        "description": run.description,
        "tags": run.tags,
        "properties": run.properties,
        "displayName": run.display_name,
    }
    common |= {"status": ARM_STATUS.get(run.status, run.status), "experimentName": run.experiment.name}
    common |= {
        "services": _services(workspace, run, kind),
        "computeId": f"{workspace.path}/computes/{run.target}" if run.target else None,
    }
    common |= {
        "isArchived": run.hidden,
        "identity": job.get("identity"),
        "componentId": None,
        "notificationSetting": None,
        "jobType": kind,
    }
    common |= {"inputs": inputs, "outputs": _outputs(run)}
    training = f"{workspace.path}/environments/training/versions/1"
    if kind == "Sweep":
        return document | {"properties": common | _sweep(job, training)}
    if kind == "Pipeline":
        return document | {
            "properties": common
            | {"jobs": job.get("jobs") or {}, "settings": job.get("settings") or {}, "sourceJobId": None}
        }
    nulls = dict.fromkeys(("maxInstanceCount", "instanceType", "locations", "properties", "dockerArgs"))
    common |= {
        "resources": {**nulls, "instanceCount": 1, "shmSize": "2g", **(job.get("resources") or {})},
        "codeId": job.get("codeId"),
    }
    common |= {
        "command": job.get("command") or f"python {run.script or 'train.py'}",
        "environmentId": job.get("environmentId") or training,
    }
    common |= {"distribution": job.get("distribution"), "autologgerSettings": None, "limits": job.get("limits")}
    common |= {"environmentVariables": job.get("environmentVariables") or {}, "parameters": {}}
    return document | {
        "properties": common | {"queueSettings": job.get("queueSettings") or {"jobTier": "Standard", "priority": None}}
    }


def _services(workspace: Workspace, run: Run, kind: str) -> Json:
    where = f"/subscriptions/{workspace.subscription}/resourcegroups/{workspace.group}/workspaces/{workspace.name}"
    nothing = dict.fromkeys(("port", "status", "errorMessage", "properties", "nodes"))
    tracking = f"azureml://{workspace.data_plane_host}/mlflow/v1.0{workspace.path}?"
    studio = f"https://ml.azure.com/runs/{run.run_id}?wsid={where}"
    services: Json = {"Studio": {"jobServiceType": "Studio", "endpoint": studio, **nothing}}
    if kind != "Sweep":
        services["Tracking"] = {"jobServiceType": "Tracking", "endpoint": tracking, **nothing}
    for name, given in ((run.job or {}).get("services") or {}).items():
        told = run.services.get(0, {}).get(name, {})
        services[name] = {**nothing, "endpoint": told.get("endpoint"), "status": told.get("status"), **given}
    return services


def _outputs(run: Run) -> Json:
    nothing = {
        "description": None,
        "assetName": None,
        "assetVersion": None,
        "mode": "ReadWriteMount",
        "jobOutputType": "uri_folder",
    }
    default = f"azureml://datastores/workspaceartifactstore/ExperimentRun/{run.data_container_id}"
    given = {name: {**nothing, **output} for name, output in ((run.job or {}).get("outputs") or {}).items()}
    named = {
        name: {**nothing, **given.get(name, {}), "uri": output.uri}
        for name, output in run.outputs.items()
        if name != "default"
    }
    return {**given, **named, "default": {**nothing, "uri": default}}


def _sweep(job: Json, environment: str) -> Json:
    trial = {"codeId": None, "environmentId": environment, "command": "python train.py --lr ${{search_space.lr}}"}
    objective = job.get("objective") or {"goal": "maximize", "primaryMetric": "accuracy"}
    sampling = job.get("samplingAlgorithm") or {"samplingAlgorithmType": "Random"}
    defaults = (
        {"seed": None, "logbase": None, "rule": "Random"} if sampling["samplingAlgorithmType"] == "Random" else {}
    )
    seeded = {"maxTotalTrials": 3, "maxConcurrentTrials": 1, "timeout": "PT2H"}
    limits = dict.fromkeys(("maxTotalTrials", "maxConcurrentTrials", "timeout", "trialTimeout"))
    given = job.get("trial") or {}
    resources = {
        "instanceCount": 1,
        **dict.fromkeys(("instanceType", "locations", "properties", "dockerArgs")),
        **(given.get("resources") or {}),
    }
    form: Json = {
        "searchSpace": job.get("searchSpace") or {"lr": ["choice", [[0.1, 0.01, 0.001]]]},
        "samplingAlgorithm": {**defaults, **sampling},
    }
    form |= {"objective": {**objective, "goal": str(objective["goal"]).capitalize()}}
    form |= {
        "limits": {"jobLimitsType": "Sweep", **limits, **(job.get("limits") or seeded)},
        "earlyTermination": job.get("earlyTermination"),
    }
    form |= {"trial": {**trial, "environmentVariables": {}, "distribution": None, **given, "resources": resources}}
    return form | {"queueSettings": job.get("queueSettings")}


routes: list[Route] = [
    Route("/jobs", list_jobs),
    Route("/jobs/{name}", get_job),
    Route("/jobs/{name}", put_job, methods=["PUT"]),
    Route("/jobs/{name}", delete_job, methods=["DELETE"]),
    Route("/jobs/{name}/cancel", cancel_job, methods=["POST"]),
]
open_routes = [
    Route(
        f"/subscriptions/{{subscription}}/providers/{PROVIDER}/locations/{{location}}/mfeOperationResults/"
        "{operation}",
        operation,
    )
]
