"""Run history (wire document 4): runs, their details and children, experiments, events, and a run's token. Its JSON
follows recordings of the service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.azureml_double.arm_jobs import check_experiment
from tests.azureml_double.frame import bad_request, body_of, demand, next_link, not_found, there, workspace_of
from tests.azureml_double.history_query import Page, RunQuery, experiments_matching, instant, page_of
from tests.azureml_double.jobs.command import filled
from tests.azureml_double.state import (
    ENDED,
    PIPELINE,
    STEP,
    Experiment,
    Json,
    Output,
    Right,
    Run,
    Workspace,
    make_run_token,
    now,
    time_text,
)

LOG_FOLDERS = ("user_logs/", "logs/", "azureml-logs/", "system_logs/")
FAMILIES = ("/history", "/history/experiments/{experiment}", "/history/experimentids/{experiment_id}")
STATUSES = {
    "NotStarted",
    "Unapproved",
    "Starting",
    "Provisioning",
    "Preparing",
    "Queued",
    "Running",
    "Pausing",
    "Paused",
    *ENDED,
}
STATUSES |= {"Finalizing", "CancelRequested", "NotResponding"}
EVENT = "Microsoft.MachineLearning.Run."
STATUS_EVENTS = {
    f"{EVENT}Start": "Running",
    **{f"{EVENT}{status}": status for status in ("Queued", "Completed", "Failed", "Canceled", "CancelRequested")},
}
CHANGEABLE = {
    "displayName": "display_name",
    "description": "description",
    "hidden": "hidden",
    "scriptName": "script",
    "target": "target",
}
QUIET_EVENTS = (f"{EVENT}Heartbeat", f"{EVENT}Warning", f"{EVENT}Error")
ASKED = "azureml://datastores/workspaceblobstore/paths/azureml/${{name}}/"
MECHANISMS = {"ReadWriteMount": "Mount", "ReadOnlyMount": "Mount", "EvalMount": "Mount", "EvalDownload": "Download"}
ALWAYS_NULL = (
    *(
        "token",
        "tokenExpiryTimeUtc",
        "warnings",
        "name",
        "lastStartTimeUtc",
        "currentComputeTime",
        "effectiveStartTimeUtc",
        "cancelationReason",
    ),
    *(
        "queueingInfo",
        "runDefinition",
        "jobSpecification",
        "primaryMetricName",
        "createdFrom",
        "scheduleId",
        "cancelUri",
        "completeUri",
    ),
    # Only `rundata` returns inputs and outputs.
    *("retainForLifetimeOfWorkspace", "inputs", "outputs"),
)
IN_DETAILS = (
    *(
        "runId",
        "target",
        "status",
        "startTimeUtc",
        "endTimeUtc",
        "error",
        "warnings",
        "tags",
        "properties",
        "parameters",
        "services",
    ),
    *("inputDatasets", "outputDatasets", "revision", "runTypeV2", "computeDuration", "inputs", "outputs"),
    *("runUuid", "parentRunUuid", "rootRunUuid", "dataContainerId", "description", "displayName"),
)


def run_form(workspace: Workspace, run: Run) -> Json:
    parent, root = workspace.runs.get(run.parent_id or ""), workspace.runs.get(run.root_id)
    nodes = run.nodes
    duration = _duration(run) if run.is_ended else None
    who = dict.fromkeys(("userPuId", "userIdp", "userAltSecId", "upn")) | {
        "userObjectId": workspace.principal.object_id,
        "userName": run.user_name,
    }
    who |= {"userIss": f"https://sts.windows.net/{workspace.tenant}/", "userTenantId": workspace.tenant}
    compute = dict.fromkeys(("vmSize", "instanceType", "priority", "region", "armId", "properties"))
    ids: Json = {
        "runId": run.run_id,
        "parentRunId": run.parent_id,
        "rootRunId": run.root_id,
        "experimentId": run.experiment.experiment_id,
    }
    ids |= {
        "runUuid": run.uuid,
        "parentRunUuid": parent and parent.uuid,
        "rootRunUuid": root.uuid if root else run.uuid,
        "runNumber": run.number,
    }
    form: Json = {
        **dict.fromkeys(ALWAYS_NULL),
        **ids,
        "createdUtc": time_text(run.created),
        "createdBy": who,
        "userId": who["userObjectId"],
    }
    form |= {
        "lastModifiedBy": who,
        "lastModifiedUtc": time_text(run.ended or run.started or run.created),
        "error": run.error,
    }
    form |= {"revision": run.revision, "statusRevision": run.revision, "displayName": run.display_name}
    form |= {
        "dataContainerId": run.data_container_id,
        "description": run.description,
        "hidden": run.hidden,
        "status": run.status,
    }
    form |= {
        "startTimeUtc": time_text(run.started),
        "endTimeUtc": time_text(run.ended),
        "computeDuration": duration,
        "duration": duration,
    }
    form |= {
        "currentAttemptId": run.attempt,
        "tags": run.tags,
        "properties": run.properties,
        "parameters": run.parameters,
    }
    form |= {"runType": run.run_type}
    form |= {
        "runTypeV2": {
            "orchestrator": "Execution",
            "traits": run.traits,
            "attribution": None,
            "computeType": "AmlcTrain",
        }
    }
    form |= {name: {} for name in ("actionUris", "settings", "services")}
    form |= {
        **{name: [] for name in ("inputDatasets", "outputDatasets", "uniqueChildRunComputeTargets")},
        "scriptName": run.script,
    }
    form |= {"target": run.target, "diagnosticsUri": "", "computeRequest": {"nodeCount": nodes, "gpuCount": 0}}
    return form | {
        "compute": {"target": run.target, "targetType": "amlcompute", "instanceCount": nodes, "gpuCount": 0, **compute}
    }


def _duration(run: Run) -> str | None:
    """Format a duration as .NET does: `1.02:03:04.5678900`."""
    if run.started is None:
        return None
    spent = max(timedelta(), (run.ended or now()) - run.started)
    hours, rest = divmod(spent.seconds, 3600)
    return f"{f'{spent.days}.' if spent.days else ''}{hours:02}:{rest // 60:02}:{rest % 60:02}.{spent.microseconds:06}0"


def data_form(workspace: Workspace, run: Run, wish: Mapping[str, Any]) -> Json:
    """The answer of `rundata` to *wish*. Only this route returns the assets of the outputs."""
    assets = {
        name: {"assetId": output.asset_id, "type": output.kind} for name, output in outputs_of(workspace, run).items()
    }
    told = {"inputs": None, "outputs": None} if is_without_job(run) else {"inputs": {}, "outputs": assets}
    definition = definition_of(run) if wish.get("selectRunDefinition") else None
    record = run_form(workspace, run) | told if wish.get("selectRunMetadata") else None
    return {"runMetadata": record, "runDefinition": definition, "jobSpecification": None, "systemSettings": None}


def experiment_form(experiment: Experiment) -> Json:
    form: Json = {"experimentId": experiment.experiment_id, "name": experiment.name, "description": None}
    form |= {
        "createdUtc": time_text(experiment.created),
        "tags": experiment.tags,
        "archivedTime": time_text(experiment.archived),
    }
    return form | {"retainForLifetimeOfWorkspace": False, "artifactLocation": None}


def is_without_job(run: Run) -> bool:
    """Whether a client created the run itself. Such runs, as recorded, have no inputs, outputs or definition, not
    even empty ones.
    """
    return run.target is None and not run.outputs


def outputs_of(workspace: Workspace, run: Run) -> dict[str, Output]:
    """The run's named outputs. The service adds an output called `default`, the artifacts, to all runs except
    pipelines and their steps.
    """
    if run.run_type in (PIPELINE, STEP):
        return run.outputs
    asset = (
        f"azureml://locations/{workspace.location}/workspaces/{workspace.workspace_id}/data/"
        f"azureml_{run.run_id}_output_data_default/versions/1"
    )
    artifacts = workspace.long_uri(f"azureml://datastores/workspaceartifactstore/paths/{run.artifact_prefix}")
    return {"default": Output(artifacts, asset), **run.outputs}


def definition_of(run: Run) -> Json | None:
    """The definition that a test set on the run, or else one made from its outputs. A pipeline's definition has a
    different spelling and contains no locations.
    """
    if run.definition is not None or is_without_job(run):
        return run.definition
    if run.job is not None and run.job.get("jobType") == "Command":
        return _definition_of_job(run, run.job)
    if run.run_type == PIPELINE:
        nowhere = {"Uri": None, "AssetName": None, "AssetVersion": None, "Description": None, "JobOutputType": 3}
        bound = nowhere | {
            "DatastoreId": None,
            "PathOnDatastore": None,
            "PathOnCompute": None,
            "Mode": "ReadWriteMount",
            "AssetUri": None,
        }
        outputs, bindings = (
            dict.fromkeys(run.outputs, nowhere | {"Mode": 0}),
            dict.fromkeys(run.outputs, bound | {"IsAssetJobOutput": True}),
        )
        return {
            "JobType": "Pipeline",
            "PipelineJobType": "AzureML",
            "Inputs": {},
            "Outputs": outputs,
            "InputBindings": {},
            "OutputBindings": bindings,
        }
    data = {name: _defined(run, name, output) for name, output in run.outputs.items()}
    return {
        "script": run.script,
        "command": f"python {run.script or 'train.py'}",
        "arguments": [],
        "target": run.target,
        "outputData": data,
    }


def _defined(run: Run, name: str, output: Output) -> Json:
    """The location of an output as requested, before the run existed: with a placeholder for the id, `{name}` in
    steps, `${{name}}` elsewhere.
    """
    store, _, path = output.uri.partition("/datastores/")[2].partition("/paths/")
    mark = "{name}" if run.run_type == STEP else "${{name}}"
    uri = f"azureml://datastores/{store}/paths/{path.replace(f'/{run.run_id}/', f'/{mark}/')}"
    return _output_form(name, uri, output.kind, "Mount", {"name": None})


def _output_form(
    name: str, uri: str, kind: str, mechanism: str | None, registered: Json, on_compute: str | None = None
) -> Json:
    return {
        "outputLocation": {
            "dataset": None,
            "dataPath": None,
            "uri": {"path": uri, "isFile": kind == "UriFile"},
            "type": kind,
        },
        "mechanism": mechanism,
        "additionalOptions": {
            "pathOnCompute": on_compute,
            "registrationOptions": registered,
            "uploadOptions": None,
            "mountOptions": None,
        },
        "environmentVariableName": f"AZURE_ML_OUTPUT_{name}",
    }


def _definition_of_job(run: Run, job: Json) -> Json:
    """Convert a submitted job to the older SDK's form. The command contains placeholders for data, and locations are
    as requested.
    """
    inputs, outputs = (
        job.get("inputs") or {},
        {name: given for name, given in (job.get("outputs") or {}).items() if name != "default"},
    )
    shown = {name: given.get("value") or f"DatasetConsumptionConfig:{name}" for name, given in inputs.items()}
    resources, distribution = job.get("resources") or {}, job.get("distribution") or {}
    each, kind, nodes = (
        distribution.get("processCountPerInstance") or 1,
        distribution.get("distributionType"),
        resources.get("instanceCount") or 1,
    )
    # Clients send one text or a list.
    docker = list(resources.get("dockerArgsList") or str(resources.get("dockerArgs") or "").split())
    form: Json = {
        "script": None,
        "command": filled(job["command"], run.run_id, shown, {name: f"DatasetOutputConfig:{name}" for name in outputs}),
    }
    form |= {"useAbsolutePath": False, "arguments": [], "target": run.target, "framework": "Python"}
    form |= {"communicator": "Mpi" if kind == "Mpi" else "None", "nodeCount": nodes, "instanceTypes": []}
    form |= {"environment": {"assetId": job.get("environmentId"), "name": None, "version": None}}
    form |= {"environmentVariables": job.get("environmentVariables") or {}}
    form |= {
        "docker": {
            "useDocker": True,
            "sharedVolumes": True,
            "shmSize": resources.get("shmSize") or "2g",
            "arguments": docker,
        }
    }
    form |= {"mpi": {"processCountPerNode": each if kind == "Mpi" else 1}}
    form |= {
        "pyTorch": {"communicationBackend": "nccl", "processCount": each * nodes if kind == "PyTorch" else None},
        "data": {},
    }
    data = {}
    for name, given in outputs.items():
        mechanism, kind = (
            given.get("mode") or "ReadWriteMount",
            "UriFile" if given["jobOutputType"] == "uri_file" else "UriFolder",
        )
        registered = {"name": given.get("assetName"), "version": given.get("assetVersion")}
        uri = given.get("uri") or f"{ASKED}{name}/"
        data[name] = _output_form(
            name, uri, kind, MECHANISMS.get(mechanism, given.get("mode")), registered, given.get("pathOnCompute")
        )
    return form | {"inputs": {}, "outputData": data}


def experiment_of(request: Request) -> Experiment | None:
    workspace, parts = workspace_of(request), request.path_params
    if not {"experiment", "experiment_id"} & parts.keys():
        return None
    # The vendor's MLflow plug-in sends an experiment's id in place of its name. Both are found in any case.
    name = parts.get("experiment", "")
    known = {each.lower(): one for each, one in workspace.experiments.items()}
    found = known.get(name.lower()) or workspace.experiment_by_id(name or parts["experiment_id"])
    return there(found, f"Experiment {name or parts['experiment_id']} was not found in workspace {workspace.name}.")


def run_of(request: Request) -> Run:
    """Return the run that the path names. Raises ServiceError 404, including for a run of another experiment than the
    path names.
    """
    run_id = request.path_params["run_id"]
    run, experiment = workspace_of(request).runs.get(run_id), experiment_of(request)
    if run is None or (experiment is not None and run.experiment is not experiment):
        raise not_found(f"Run {run_id} was not found.")
    return run


def changeable_run(request: Request) -> Run:
    demand(request, Right.WRITE, "experiments/runs/write")
    return run_of(request)


def new_run(
    workspace: Workspace, experiment: Experiment, run_id: str, *, parent_id: str | None = None, user: str = ""
) -> Run:
    if parent_id is not None and parent_id not in workspace.runs:
        raise not_found(f"Run {parent_id} was not found.")
    return workspace.keep_run(
        Run(
            run_id,
            experiment,
            "NotStarted",
            user_name=user or workspace.principal.name,
            parent_id=parent_id,
            target=None,
        )
    )


def _apply(run: Run, change: Mapping[str, Any]) -> None:
    """Apply a PATCH to *run*: tags are merged, and properties can only be added. Raises ServiceError 400 for fields
    that may not change.
    """
    properties = _texts(change.get("properties"))
    for name, value in properties.items():
        if run.properties.get(name, value) != value:
            raise bad_request(f"Property {name} of run {run.run_id} is immutable.")
    run.properties |= properties
    run.tags |= _texts(change.get("tags"))
    for name, attribute in CHANGEABLE.items():
        if change.get(name) is not None:
            setattr(run, attribute, change[name])
    if change.get("status") is not None:
        if change["status"] not in STATUSES:
            raise bad_request(f"'{change['status']}' is no status of a run.")
        run.move(change["status"])
    begun, ended = change.get("startTimeUtc"), change.get("endTimeUtc")
    run.started, run.ended = instant(begun) if begun else run.started, instant(ended) if ended else run.ended
    run.revision += 1


def _texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (values or {}).items() if value is not None}


def _told(request: Request, run: Run) -> Response:
    return JSONResponse(run_form(workspace_of(request), run))


def get_run(request: Request) -> Response:
    return _told(request, run_of(request))


def patch_run(request: Request) -> Response:
    demand(request, Right.WRITE, "experiments/runs/write")
    workspace, run_id, change = workspace_of(request), request.path_params["run_id"], body_of(request)
    experiment = experiment_of(request)
    if run_id not in workspace.runs and experiment is not None:
        new_run(workspace, experiment, run_id, parent_id=change.get("parentRunId"))
    run = run_of(request)
    _apply(run, change)
    return _told(request, run)


def get_details(request: Request) -> Response:
    workspace, run = workspace_of(request), run_of(request)
    names = [
        blob.name for folder in LOG_FOLDERS for blob in workspace.storage.list("azureml", run.artifact_prefix + folder)
    ]
    links = {name.removeprefix(run.artifact_prefix): workspace.storage.blob_link("azureml", name) for name in names}
    whole = run_form(workspace, run)
    details: Json = {name: whole[name] for name in IN_DETAILS} | {"createdTimeUtc": whole["createdUtc"]}
    return JSONResponse(details | {"runDefinition": definition_of(run), "jobCost": None, "logFiles": links})


def get_children(request: Request) -> Response:
    workspace, run = workspace_of(request), run_of(request)
    given = {name.lower(): value for name, value in request.query_params.items()}
    order, top = given.get("$orderby"), given.get("$top")
    asked = RunQuery(
        given.get("$filter"), order, int(top) if top and top.isdigit() else None, given.get("$continuationtoken")
    )
    children = [workspace.runs[child] for child in run.children if child in workspace.runs]
    page = page_of(children, asked, limit=workspace.page_size, refused=workspace.refused_orders)
    return JSONResponse(_page_form(workspace, page, link=next_link(request, "$continuationToken", page.token)))


def query_runs(request: Request) -> Response:
    workspace, experiment, body = workspace_of(request), experiment_of(request), body_of(request)
    runs: Iterable[Run] = experiment.runs.values() if experiment else workspace.runs.values()
    asked = RunQuery(
        body.get("filter"), body.get("orderby") or body.get("orderBy"), body.get("top"), body.get("continuationToken")
    )
    return JSONResponse(
        _page_form(workspace, page_of(list(runs), asked, limit=workspace.page_size, refused=workspace.refused_orders))
    )


def _page_form(workspace: Workspace, page: Page, *, link: str | None = None) -> Json:
    return {"value": [run_form(workspace, run) for run in page.runs], "continuationToken": page.token, "nextLink": link}


def run_data(request: Request) -> Response:
    workspace, wish = workspace_of(request), body_of(request)
    run = there(workspace.runs.get(wish.get("runId", "")), f"Run {wish.get('runId')} was not found.")
    return JSONResponse(data_form(workspace, run, wish))


def batch_run_data(request: Request) -> Response:
    workspace, done, failed = workspace_of(request), dict[str, Json](), dict[str, Json]()
    for key, wish in (body_of(request).get("requests") or {}).items():
        run_id = wish.get("runId", "")
        if run_id in workspace.runs:
            done[key] = data_form(workspace, workspace.runs[run_id], wish)
        else:
            inner = {"code": "NotFoundError", "innerError": None}
            failed[key] = {
                "error": {"code": "UserError", "message": f"Run {run_id} was not found.", "innerError": inner}
            }
    return JSONResponse({"successfulResults": done, "failedResults": failed})


def cancel_run(request: Request) -> Response:
    run = changeable_run(request)
    if run.status == "Finalizing":
        raise bad_request(f"Run {run.run_id} is in the state Finalizing and cannot be canceled.")
    if run.target == "local":
        run.status = "CancelRequested"  # nobody ends a run without a job but its process
    elif not workspace_of(request).cancels(run):
        run.cancel()
    return _told(request, run)


def delete_tags(request: Request) -> Response:
    run, names = changeable_run(request), request.state.body
    for name in names:
        run.tags.pop(name, None)
    run.revision += 1
    return _told(request, run)


def post_event(request: Request) -> Response:
    """Receive the status of a run without the service's own runtime. The error arrives before the event of the
    failure.
    """
    run, event = changeable_run(request), body_of(request)
    name, data = event.get("name", ""), event.get("data")
    told: Json = data if isinstance(data, dict) else {}
    if name in STATUS_EVENTS:
        run.move(STATUS_EVENTS[name])
    elif name not in QUIET_EVENTS:
        raise bad_request(f"Unknown event '{name}'.")
    elif isinstance(told.get("ErrorResponse"), dict):
        run.error = told["ErrorResponse"]
    return Response(status_code=200)


def get_token(request: Request) -> Response:
    token, ends = make_run_token(workspace_of(request).path, changeable_run(request).run_id)
    return JSONResponse({"token": token, "expiryTimeUtc": time_text(datetime.fromtimestamp(ends, timezone.utc))})


def get_services(request: Request) -> Response:
    """The interactive services of a run on one node, for azure-ai-ml's `show_services`."""
    node, run = request.path_params["node"], run_of(request)
    if node not in map(str, range(run.nodes)):
        raise not_found(f"Run {run.run_id} has no node {node}.")
    return JSONResponse({"instances": run.services.get(int(node), {})})


def wait_for_metrics(request: Request) -> Response:
    """Answer at once: metrics are stored immediately."""
    run_of(request)
    return Response(status_code=200)


def _named(request: Request, right: Right = Right.READ, action: str = "read") -> Experiment:
    demand(request, right, action)
    return there(experiment_of(request), "a route without an experiment")


def get_experiment(request: Request) -> Response:
    return JSONResponse(experiment_form(_named(request)))


def create_experiment(request: Request) -> Response:
    demand(request, Right.WRITE, "experiments/write")
    check_experiment(request.path_params["experiment"])
    return JSONResponse(experiment_form(workspace_of(request).experiment(request.path_params["experiment"])))


def patch_experiment(request: Request) -> Response:
    experiment, body = _named(request, Right.WRITE, "experiments/write"), body_of(request)
    if body.get("archive") is not None:
        experiment.archived = now() if body["archive"] else None
    experiment.tags |= body.get("tags") or {}
    return JSONResponse(experiment_form(experiment))


def delete_experiment(request: Request) -> Response:
    experiment = _named(request, Right.WRITE, "experiments/delete")
    if experiment.runs:
        raise bad_request(f"Experiment {experiment.name} has runs and cannot be deleted.")
    del workspace_of(request).experiments[experiment.name]
    return Response(status_code=200)


def query_experiments(request: Request) -> Response:
    view = (request.query_params.get("viewType") or body_of(request).get("viewType") or "ActiveOnly").lower()
    found = experiments_matching(list(workspace_of(request).experiments.values()), body_of(request).get("filter"))
    wanted = [one for one in found if view in ("all", "archivedonly" if one.archived else "activeonly")]
    return JSONResponse(
        {"value": [experiment_form(one) for one in wanted], "continuationToken": None, "nextLink": None}
    )


def _in_families(
    rest: str, handler: Callable[[Request], Response], method: str = "GET", families: tuple[str, ...] = FAMILIES
) -> list[Route]:
    return [Route(f"{family}{rest}", handler, methods=[method]) for family in families]


routes: list[Route] = [
    *_in_families("/runs/{run_id}", get_run),
    *_in_families("/runs/{run_id}", patch_run, "PATCH"),
    *_in_families("/runs/{run_id}/details", get_details),
    *_in_families("/runs/{run_id}/children", get_children),
    *_in_families("/runs/{run_id}/cancel", cancel_run, "POST", FAMILIES[1:]),
    *_in_families("/runs/{run_id}/tags", delete_tags, "DELETE"),
    *_in_families("/runs:query", query_runs, "POST", FAMILIES[1:]),
    Route("/history/rundata", run_data, methods=["POST"]),
    Route("/history/batchrundata", batch_run_data, methods=["POST"]),
    Route("/history/experiments/{experiment}", get_experiment, methods=["GET"]),
    Route("/history/experiments/{experiment}", create_experiment, methods=["POST"]),
    Route("/history/experimentids/{experiment_id}", get_experiment, methods=["GET"]),
    Route("/history/experimentids/{experiment_id}", patch_experiment, methods=["PATCH"]),
    Route("/history/experimentids/{experiment_id}", delete_experiment, methods=["DELETE"]),
    Route("/history/experiments:query", query_experiments, methods=["POST"]),
    *_in_families("/runs/{run_id}/events", post_event, "POST"),
    *_in_families("/runs/{run_id}/token", get_token),
    *_in_families("/runs/{run_id}/metricsingest/wait", wait_for_metrics),
    *_in_families("/runs/{run_id}/serviceinstances/{node}", get_services, families=FAMILIES[:1]),
]
