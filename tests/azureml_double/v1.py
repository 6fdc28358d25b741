"""The data plane's routes for azureml-core and azureml-train-core.

These are datastores with their secrets in the record, a compute target, environments and private wheels, snapshots,
and the services for jobs (execution) and sweeps (HyperDrive). A submission becomes the job that Resource Manager
would have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from email import message_from_bytes
from urllib.parse import unquote, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.azureml_double.arm_resources import get_compute
from tests.azureml_double.frame import (
    ServiceError,
    body_of,
    caller_of,
    demand,
    error_document,
    page_at,
    there,
    workspace_of,
)
from tests.azureml_double.jobs.command import as_job
from tests.azureml_double.jobs.pipelines import camel
from tests.azureml_double.jobs.records import new_job
from tests.azureml_double.jobs.sweeps import check_sweep
from tests.azureml_double.state import Datastore, Json, Right, Run, Workspace, new_id, now, time_text

KINDS = {"AzureDataLakeGen1": "AzureDataLake"}
CREDENTIALS = {"AccountKey": "AccountKey", "Sas": "Sas", "ServicePrincipal": "ClientCredentials"}
ORIGIN, ARTIFACTS = "Environment", "azureml"
NO_SNAPSHOT, SNAPSHOTS = "00000000-0000-0000-0000-000000000000", "snapshots"
SAMPLINGS = {"RANDOM": "Random", "GRID": "Grid", "BayesianOptimization": "Bayesian"}


def list_datastores(request: Request) -> Response:
    workspace, query = workspace_of(request), request.query_params
    names, token = page_at(
        sorted(workspace.datastores),
        query.get("continuationToken"),
        min(int(query.get("count", "30")), workspace.page_size),
    )
    value = [_datastore_form(request, workspace.datastores[name]) for name in names]
    return JSONResponse({"value": value, "continuationToken": token, "nextLink": None})


def get_datastore(request: Request) -> Response:
    workspace, name = workspace_of(request), request.path_params.get("name")
    found = (
        workspace.default_datastore
        if name is None
        else there(workspace.datastores.get(name), f"Could not find datastore: {name}")
    )
    return JSONResponse(_datastore_form(request, found))


def _datastore_form(request: Request, datastore: Datastore) -> Json:
    workspace, storage, kind = workspace_of(request), datastore.storage, CREDENTIALS.get(datastore.credentials, "None")
    may_see = caller_of(request).may(Right.SECRETS)
    key = storage.key if may_see and kind == "AccountKey" else None
    sas = datastore.new_sas() if may_see and kind == "Sas" else None
    section: Json = {
        "accountName": storage.account,
        "containerName": datastore.container,
        "endpoint": storage.suffix.partition(".")[2],
    }
    section |= {"protocol": storage.protocol, "credentialType": kind, "credential": key or sas}
    section |= {
        "clientCredentials": _client_credentials(datastore, may_see),
        "blobCacheTimeout": None,
        "isSas": kind == "Sas",
    }
    section |= {
        "accountKey": key,
        "sasToken": sas,
        "areWorkspaceManagedIdentitiesAllowed": False,
        "subscriptionId": workspace.subscription,
    }
    section |= {"resourceGroup": workspace.group, "serviceDataAccessAuthIdentity": "None"}
    kind = KINDS.get(datastore.kind, datastore.kind)
    return {
        "name": datastore.name,
        "dataStoreType": kind,
        "hasBeenValidated": True,
        "tags": {},
        "azureStorageSection": section,
    }


def _client_credentials(datastore: Datastore, with_secrets: bool) -> Json | None:
    principal = datastore.service_principal
    if datastore.credentials != "ServicePrincipal" or principal is None:
        return None
    own = {
        "clientId": principal.client_id,
        "tenantId": principal.tenant,
        "clientSecret": principal.secret if with_secrets else None,
    }
    where = {"authorityUrl": "https://login.microsoftonline.com", "resourceUri": "https://storage.azure.com/"}
    return {
        **own,
        **where,
        "isCertAuth": False,
        **dict.fromkeys(("certificate", "thumbprint", "subscriptionId", "resourceGroup")),
    }


def get_environment(request: Request) -> Response:
    name = request.path_params["name"]
    versions = workspace_of(request).assets["environments"].get(name, {})
    version = request.path_params.get("version") or next(reversed(versions), "")
    given = there(versions.get(version), f"Environment {name} {version} was not found.")
    image, conda = given.get("image"), given.get("condaFile")
    python = {
        "interpreterPath": "python",
        "userManagedDependencies": not conda,
        "condaDependencies": {"dependencies": ["python=3.11"]} if conda else None,
    }
    docker = {"baseImage": image, "platform": {"os": "Linux", "architecture": "amd64"}}
    return JSONResponse(
        {
            "name": name,
            "version": version,
            "environmentVariables": {},
            "python": python,
            "docker": docker,
            "spark": None,
        }
    )


def make_wheels(request: Request) -> Response:
    demand(request, Right.WRITE, "environments/write")
    workspace, folder = workspace_of(request), request.path_params["folder"]
    artifacts, links, errors = dict[str, Json](), dict[str, Json](), dict[str, Json]()
    for path in [item["path"] for item in body_of(request).get("paths") or []]:
        name = f"{ORIGIN}/{folder}/{path}"
        if workspace.storage.properties(ARTIFACTS, name):
            errors[path] = error_document(
                ServiceError(409, "UserError", f"Resource Conflict: ArtifactId {name} already exists.")
            )
        else:
            artifacts[path] = {"artifactId": name, "origin": ORIGIN, "container": folder, "path": path}
            links[path] = _wheel_link(workspace, folder, path, "rcw")
    return JSONResponse({"artifacts": artifacts, "artifactContentInformation": links, "errors": errors})


def get_wheel(request: Request) -> Response:
    return JSONResponse(
        _wheel_link(workspace_of(request), request.path_params["folder"], request.path_params["path"], "r")
    )


def _wheel_link(workspace: Workspace, folder: str, path: str, permissions: str) -> Json:
    link = workspace.storage.blob_link(ARTIFACTS, f"{ORIGIN}/{folder}/{path}", permissions=permissions)
    return {"contentUri": link, "origin": ORIGIN, "container": folder, "path": path, "tags": {}}


def latest_snapshot(request: Request) -> Response:
    name, tree = next(reversed(workspace_of(request).snapshots.items()), (NO_SNAPSHOT, {}))
    return JSONResponse({"id": name, "root": tree})


def snapshot_links(request: Request) -> Response:
    """Return upload links for the files. The blobs have generated names, since azureml-core does not decode the
    escapes of a link.
    """
    demand(request, Right.WRITE, "snapshots/write")
    storage, names = workspace_of(request).storage, body_of(request).get("FileNames") or []
    storage.make_container(SNAPSHOTS)
    links = {name: storage.blob_link(SNAPSHOTS, f"uploaded/{new_id()}", permissions="rcw") for name in names}
    return JSONResponse({"fileNodes": [{"fullName": name, "blobUri": link} for name, link in links.items()]})


def make_snapshot(request: Request) -> Response:
    """Make a snapshot of the uploaded files and of those files of its parent that its tree still contains."""
    demand(request, Right.WRITE, "snapshots/write")
    workspace, name, body = workspace_of(request), request.path_params["name"], body_of(request)
    parent = body.get("ParentSnapshotId") or NO_SNAPSHOT
    uploaded = {
        node["FullName"]: unquote(urlsplit(node["BlobUri"]).path).partition(f"/{SNAPSHOTS}/")[2]
        for node in body["FileRevisionList"]["FileNodes"]
    }
    tree: Json = body["DirTreeNode"]
    for file in _files_of(tree):
        workspace.storage.put(
            SNAPSHOTS, f"{name}/{file}", workspace.storage.get(SNAPSHOTS, uploaded.get(file) or f"{parent}/{file}")
        )
    workspace.snapshots[name] = tree
    return JSONResponse(
        {"id": name, "root": tree, "tags": None, "properties": body.get("Properties"), "createdTime": time_text(now())}
    )


def _files_of(tree: Json, folder: str = "") -> Iterator[str]:
    for name, node in (tree.get("children") or {}).items():
        if node["type"] == "File":
            yield f"{folder}{name}"
        else:
            yield from _files_of(node, f"{folder}{name}/")


def _code_of(workspace: Workspace, run_id: str, definition: Json, snapshot: str) -> str:
    assert run_id
    assert run_id not in workspace.runs
    assert definition["target"] in workspace.computes
    assert snapshot in workspace.snapshots
    workspace.register("codes", snapshot, "1", {"codeUri": f"https://{workspace.storage.host}/{SNAPSHOTS}/{snapshot}/"})
    return f"{workspace.path}/codes/{snapshot}/versions/1"


def start_run(request: Request) -> Response:
    demand(request, Right.WRITE, "experiments/runs/submit/action")
    workspace, body, run_id = workspace_of(request), body_of(request), request.query_params.get("runId", "")
    definition, snapshot = body.get("Configuration") or {}, str(body.get("SnapshotId"))
    job = as_job(definition, _code_of(workspace, run_id, definition, snapshot))
    run = Run(
        run_id, workspace.experiment(request.path_params["experiment"]), "Starting", definition=definition, job=job
    )
    run.target, run.script = definition["target"], definition.get("script")
    run.properties = {"_azureml.ComputeTargetType": "amlctrain", "ContentSnapshotId": snapshot}
    workspace.start(workspace.keep_run(run), caller_of(request).principal)
    return JSONResponse({"runId": run_id})


async def start_sweep(request: Request) -> Response:
    demand(request, Right.WRITE, "experiments/runs/submit/action")
    workspace, given = workspace_of(request), await _config(request)
    run_id = request.path_params.get("run") or f"HD_{new_id()}"
    platform = given["platform_config"]["Definition"]
    definition, snapshot = platform["Overrides"], str(platform.get("SnapshotId"))
    job = _sweep_of(given, definition, _code_of(workspace, run_id, definition, snapshot), workspace)
    check_sweep({**job, "trial": {**job["trial"], "environmentId": "(in the definition)"}})
    run = new_job(
        workspace, run_id, {**job, "experimentName": request.path_params["experiment"]}, definition=definition
    )
    run.properties["ContentSnapshotId"] = snapshot
    workspace.start(run, caller_of(request).principal)
    # The service's own client requires this.
    kept: Json = given | {"platform_config": {**given["platform_config"], "ParentRunId": run_id}}
    kept |= dict.fromkeys(("created", "modified"), now().isoformat()) | dict.fromkeys(
        ("created_by_user_id", "study_id"), 0
    )
    kept |= {"all_jobs_generated": False, "cancellation_requested": False, "status": "RUNNING"}
    return JSONResponse(
        {"code": 201, "result": kept | {"experiment_id": {"id": run_id}, "hyperdrive_run_id": run_id}}, 201
    )


def cancel_sweep(request: Request) -> Response:
    demand(request, Right.WRITE, "experiments/runs/cancel/action")
    workspace, run_id = workspace_of(request), request.path_params["run"]
    run = workspace.runs[run_id]
    if not workspace.cancels(run):
        run.cancel()
    return JSONResponse({"code": 200, "result": True})


async def _config(request: Request) -> Json:
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    for part in message_from_bytes(head + await request.body()).walk():
        if part.get_param("name", header="content-disposition") == "config":
            found: Json = json.loads(part.get_payload(decode=True))  # type: ignore[arg-type]
            return found
    raise AssertionError("the form has no field 'config'")


def _sweep_of(given: Json, definition: Json, code_id: str, workspace: Workspace) -> Json:
    trial, generator, policy = as_job(definition, code_id), given["generator_config"], given["policy_config"]
    said = camel({name: value for name, value in (policy.get("properties") or {}).items() if value is not None})
    limits = {
        "maxTotalTrials": given["max_total_jobs"],
        "maxConcurrentTrials": given["max_concurrent_jobs"],
        "timeout": f"PT{given['max_duration_minutes']}M",
    }
    form: Json = {
        "jobType": "Sweep",
        "computeId": f"{workspace.path}/computes/{definition['target']}",
        "searchSpace": generator["parameter_space"],
    }
    form |= {
        "samplingAlgorithm": {
            "samplingAlgorithmType": SAMPLINGS.get(generator["name"], generator["name"]),
            **(generator.get("properties") or {}),
        }
    }
    form |= {
        "objective": {
            "goal": given["primary_metric_config"]["goal"],
            "primaryMetric": given["primary_metric_config"]["name"],
        }
    }
    form |= {"earlyTermination": None if policy["name"] == "Default" else {"policyType": policy["name"], **said}}
    form |= {"limits": {"jobLimitsType": "Sweep", **limits, "trialTimeout": (trial.get("limits") or {}).get("timeout")}}
    form |= {"inputs": trial["inputs"], "outputs": trial["outputs"]}
    return form | {
        "trial": {
            name: trial[name] for name in ("command", "codeId", "environmentVariables", "distribution", "resources")
        }
    }


routes: list[Route] = [
    Route("/datastore/datastores", list_datastores, methods=["GET"]),
    Route("/datastore/datastores/{name}", get_datastore, methods=["GET"]),
    Route("/datastore/default", get_datastore, methods=["GET"]),
    Route("/rp/computes/{name}", get_compute, methods=["GET"]),
    Route("/content/snapshots/latest/metadata", latest_snapshot, methods=["GET"]),
    Route("/content/snapshots/getblob", snapshot_links, methods=["POST"]),
    Route("/content/snapshots/{name}", make_snapshot, methods=["POST"]),
    Route("/execution/experiments/{experiment}/snapshotrun", start_run, methods=["POST"]),
    Route("/hyperdrive/experiments/{experiment}/runs", start_sweep, methods=["POST"]),
    Route("/hyperdrive/experiments/{experiment}/hdruns/{run}", start_sweep, methods=["POST"]),
    Route("/hyperdrive/experiments/{experiment}/runs/{run}/cancel", cancel_sweep, methods=["POST"]),
    Route("/environment/environments/{name}", get_environment, methods=["GET"]),
    Route("/environment/environments/{name}/versions/{version}", get_environment, methods=["GET"]),
    Route(f"/artifact/artifacts/batch/metadata/{ORIGIN}/{{folder}}", make_wheels, methods=["POST"]),
    Route(f"/artifact/artifacts/contentinfo/{ORIGIN}/{{folder}}/{{path:path}}", get_wheel, methods=["GET"]),
]
