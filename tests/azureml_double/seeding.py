"""Fills a workspace of the double with the data of tests and samples, and with finished sweeps, without running
jobs.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.azureml_double.frame import ServiceError, error_document
from tests.azureml_double.jobs.command import Manner, Values
from tests.azureml_double.jobs.records import AS_IT_IS, add_trial, new_job
from tests.azureml_double.jobs.runner import JobRunner
from tests.azureml_double.jobs.sweeps import Best
from tests.azureml_double.log import NODES
from tests.azureml_double.state import (
    ENDED,
    MODELS,
    Datastore,
    Metric,
    Output,
    Point,
    Principal,
    Right,
    Run,
    Workspace,
    make_run_token,
    new_id,
    now,
)
from tests.azureml_double.storage import Storage

if TYPE_CHECKING:
    from tests.azureml_double.stage import Stage


DEFAULT = "workspaceblobstore"
ARTIFACTS = "workspaceartifactstore"
Number = float | int | str


def new_workspace(stage: Stage, name: str, storage: Storage, second: Storage, **options: Any) -> StagedWorkspace:
    tenant = options.pop("tenant", None) or new_id()
    principal = Principal(tenant, new_id(), f"secret~{secrets.token_urlsafe(24)}")
    fields: dict[str, Any] = {
        "subscription": new_id(),
        "group": f"group-{uuid.uuid4().hex[:6]}",
        "location": "eastus",
        **options,
    }
    workspace = Workspace(
        name=name, tenant=tenant, storage=storage, second_storage=second, principal=principal, **fields
    )
    stage.azure.keep_workspace(workspace)
    staged = StagedWorkspace(stage, workspace)
    blobs = f"azureml-blobstore-{workspace.workspace_id}"
    staged.add_datastore(DEFAULT, container=blobs, is_default=True)
    staged.add_datastore(ARTIFACTS, container="azureml")
    staged.add_datastore("steprunlogblobstore", container="azureml")
    staged.add_datastore(
        "workspacefilestore", kind="AzureFile", container=f"azureml-filestore-{workspace.workspace_id}"
    )
    staged.add_datastore("workspaceworkingdirectory", kind="AzureFile", container="code-391ff5ac")
    staged.add_compute("cpu-cluster")
    staged.add_compute("gpu-cluster", size="STANDARD_NC6S_V3", max_nodes=2)
    return staged


@dataclass(frozen=True)
class StagedWorkspace:
    """A workspace in the double, with methods to fill it and to connect to it. `state` is the record that the routes
    serve.
    """

    stage: Stage
    state: Workspace

    @property
    def label(self) -> str:
        return f"workspace {self.state.group}/{self.state.name}"

    def environment(self, principal: Principal | None = None) -> dict[str, str]:
        """Variables for `himl` and the vendor's clients: those of the stage, and a service principal's (default: the
        workspace's own).
        """
        principal = principal or self.state.principal
        himl = {
            "HIML_TENANT_ID": principal.tenant,
            "HIML_SERVICE_PRINCIPAL_ID": principal.client_id,
            "HIML_SERVICE_PRINCIPAL_PASSWORD": principal.secret,
        }
        vendor = {
            "AZURE_TENANT_ID": principal.tenant,
            "AZURE_CLIENT_ID": principal.client_id,
            "AZURE_CLIENT_SECRET": principal.secret,
        }
        return {**self.stage.environment(), **himl, **vendor}

    def job_environment(self, run: Run, *, seconds: float = 3600) -> dict[str, str]:
        workspace, (token, ends) = self.state, make_run_token(self.state.path, run.run_id, seconds=seconds)
        base, experiment = f"https://{workspace.data_plane_host}", run.experiment
        tracking = {
            "TRACKING_URI": f"azureml://{workspace.data_plane_host}/mlflow/v1.0{workspace.path}",
            "TRACKING_TOKEN": token,
            "RUN_ID": run.run_id,
        }
        tracking |= {"EXPERIMENT_ID": experiment.experiment_id, "EXPERIMENT_NAME": experiment.name}
        arm = {
            "SUBSCRIPTION": workspace.subscription,
            "RESOURCEGROUP": workspace.group,
            "WORKSPACE_NAME": workspace.name,
            "PROJECT_NAME": experiment.name,
        }
        own = {
            "RUN_ID": run.run_id,
            "ROOT_RUN_ID": run.root_id,
            "EXPERIMENT_ID": experiment.experiment_id,
            "WORKSPACE_ID": workspace.workspace_id,
        }
        own |= {
            "WORKSPACE_SCOPE": workspace.path,
            "EXPERIMENT_SCOPE": f"{workspace.path}/experiments/{experiment.name}",
            "IDENTITY_IN_USE": "AMLToken",
        }
        own |= {
            "SERVICE_ENDPOINT": base,
            "RUN_HISTORY_SERVICE_ENDPOINT": base,
            "DISCOVERY_SERVICE_ENDPOINT": f"{base}/discovery",
        }
        own |= {
            "RUN_TOKEN": token,
            "RUN_TOKEN_EXPIRY": str(ends),
            **{f"ARM_{name}": value for name, value in arm.items()},
        }
        mlflow, azureml = (
            {f"{prefix}_{name}": value for name, value in facts.items()}
            for prefix, facts in (("MLFLOW", tracking), ("AZUREML", own))
        )
        return {**self.stage.environment(), **mlflow, **azureml}

    def identity_environment(self, principal: Principal) -> dict[str, str]:
        """The variables of the endpoint that returns the tokens of a job's managed identity."""
        endpoint = f"http://127.0.0.1:{self.stage.port}/identity/token"
        return {
            "MSI_ENDPOINT": endpoint,
            "MSI_SECRET": principal.secret,
            "DEFAULT_IDENTITY_CLIENT_ID": principal.client_id,
        }

    def write_config(self, folder: Path) -> Path:
        path = folder / "config.json"
        state = self.state
        path.write_text(
            json.dumps(
                {"subscription_id": state.subscription, "resource_group": state.group, "workspace_name": state.name},
                indent=4,
            )
        )
        return path

    def add_principal(self, rights: Iterable[Right] = tuple(Right), **fields: Any) -> Principal:
        made = {
            "tenant": self.state.tenant,
            "client_id": new_id(),
            "secret": f"secret~{secrets.token_urlsafe(24)}",
            "rights": set(rights),
        }
        principal = Principal(**(made | fields))
        self.stage.azure.principals[principal.client_id] = principal
        return principal

    def add_datastore(
        self,
        name: str,
        *,
        kind: str = "AzureBlob",
        credentials: str = "AccountKey",
        container: str = "",
        account: Storage | None = None,
        **fields: Any,
    ) -> Datastore:
        """Add a datastore. *kind*: AzureBlob, AzureDataLakeGen2, AzureFile, AzureDataLakeGen1, OneLake.
        *credentials*: AccountKey, Sas, None, ServicePrincipal. Creates its container, if the kind has one. *account*:
        default the workspace's first.
        """
        storage = account or self.state.storage
        datastore = Datastore(name, container or name.lower().replace("_", "-"), storage, kind, credentials, **fields)
        if credentials == "ServicePrincipal" and datastore.service_principal is None:
            datastore.service_principal = self.add_principal({Right.STORAGE_READ, Right.STORAGE_WRITE})
        if kind in ("AzureBlob", "AzureDataLakeGen2"):
            storage.make_container(datastore.container)
        self.state.datastores[name] = datastore
        return datastore

    def add_compute(
        self, name: str, *, size: str = "STANDARD_DS3_V2", max_nodes: int = 4, kind: str = "AmlCompute"
    ) -> None:
        self.state.computes[name] = {"size": size, "max_nodes": max_nodes, "kind": kind, "created": now()}

    def add_environment(self, name: str, version: str = "1", **properties: Any) -> str:
        self.state.register("environments", name, version, {"image": "docker.io/python:3.11", **properties})
        return f"{self.state.path}/environments/{name}/versions/{version}"

    def add_data(self, name: str, uri: str, version: str = "1", *, kind: str = "uri_folder") -> str:
        self.state.register("data", name, version, {"dataType": kind, "dataUri": uri})
        return f"{self.state.path}/data/{name}/versions/{version}"

    def add_run(
        self,
        run_id: str = "",
        experiment: str = "default",
        *,
        status: str = "Completed",
        seconds: float = 60.0,
        error: str | None = None,
        **fields: Any,
    ) -> Run:
        """Add a run below *parent*, created now or at *created*. If it has ended, it lasted *seconds*. Other *fields*
        are those of `state.Run` (tags, ...). *error* is the error message. Its artifacts are stored under its own id
        unless `data_container_id` names another container.
        """
        begun, parent = fields.pop("created", None) or now(), fields.pop("parent", None)
        is_waiting = status in ("NotStarted", "Queued", "Preparing", "Provisioning", "Starting")
        run = Run(
            run_id or f"run_{uuid.uuid4().hex[:10]}",
            self.state.experiment(experiment),
            status,
            created=begun,
            parent_id=parent,
            **fields,
        )
        run.started = None if is_waiting else begun + timedelta(seconds=5)
        run.ended = begun + timedelta(seconds=5 + seconds) if status in ENDED else None
        run.error = error_document(ServiceError(400, "UserError", error), "execution-wrapper") if error else None
        return self.state.keep_run(run)

    def add_metric(
        self,
        run: Run,
        name: str,
        values: Sequence[Number],
        *,
        steps: Sequence[int] | None = None,
        kind: str = "azureml.v1.scalar",
    ) -> Metric:
        """Add a metric with one column and a row for each of *values*. Steps count from 0 by default."""
        types: dict[type, str] = {float: "Double", int: "Int", str: "String", bool: "Bool"}
        metric = run.metrics.setdefault(
            name, Metric(name, kind, {name: types[type(values[0])] if values else "Double"})
        )
        for index, value in enumerate(values):
            at = (run.started or run.created) + timedelta(seconds=index)
            metric.points.append(Point({name: value}, step=steps[index] if steps else index, created=at))
        return metric

    def add_table(self, run: Run, name: str, rows: Sequence[Mapping[str, Number]]) -> Metric:
        """Add a metric with several columns, as `log_row` and `log_table` do."""
        metric = run.metrics.setdefault(name, Metric(name, "azureml.v1.table", dict.fromkeys(rows[0], "Double")))
        metric.points.extend(Point(dict(row), created=run.started or run.created) for row in rows)
        return metric

    def add_output(
        self,
        run: Run,
        key: str,
        files: Mapping[str, bytes],
        *,
        datastore: str = DEFAULT,
        path: str = "",
        kind: str = "UriFolder",
    ) -> Output:
        """Add a named output of *run*: a folder of a datastore (default `azureml/{run}/{key}/`) that contains
        *files*. *kind* may also be `CustomModel` and similar types.
        """
        path = path or f"azureml/{run.run_id}/{key}/"
        self.put_blobs(datastore, {f"{path}{name}": content for name, content in files.items()})
        state = self.state
        name = (
            f"models/azureml_{run.run_id}_output_mlflow_model_{key}"
            if kind in MODELS
            else f"data/azureml_{run.run_id}_output_data_{key}"
        )
        asset = f"azureml://locations/{state.location}/workspaces/{state.workspace_id}/{name}/versions/1"
        run.outputs[key] = Output(state.long_uri(f"azureml://datastores/{datastore}/paths/{path}"), asset, kind)
        return run.outputs[key]

    def run_jobs(self, **manner: Any) -> JobRunner:
        """Run the jobs submitted from now on, as `Manner(**manner)` says. They run until the runner, which is a
        context manager, closes or the workspace is deleted.
        """
        if self.state.jobs is not None:
            self.state.jobs.close()
        return JobRunner(self, Manner(**manner))

    def start_services(self, run: Run, status: str = "Running") -> None:
        """Set the *status* of the services of the run's job, each on the first node, or on all nodes if its `nodes`
        says so. Only the format of SSH addresses is public.
        """
        for name, given in ((run.job or {}).get("services") or {}).items():
            kind, is_ssh = given["jobServiceType"], given["jobServiceType"] == "SSH"
            for node in range(run.nodes if given.get("nodes") else 1):
                host = f"{hashlib.sha256(f'{run.uuid}{name}{node}'.encode()).hexdigest()[:40]}.{NODES}"
                proxy = {"ProxyEndpoint": f"wss://ssh-{host}"} if is_ssh else {}
                told = {
                    "type": kind,
                    "port": None,
                    "status": status,
                    "endpoint": None if is_ssh else f"https://{name}-{host}/<nodeIndex>",
                    "error": None,
                }
                run.services.setdefault(node, {})[name] = told | {"properties": proxy}

    def wait_for(self, run_id: str, *statuses: str, seconds: float = 60) -> Run:
        """Wait until the run has one of *statuses* (default: until it has ended), and return it. Raises
        AssertionError with its log if it ends with another status or takes longer.
        """
        wanted, deadline = statuses or ENDED, time.monotonic() + seconds
        while True:
            run = self.state.runs.get(run_id)
            if run is not None and run.status in wanted:
                return run
            if (run is not None and run.is_ended) or time.monotonic() > deadline:
                raise AssertionError(
                    f"{run_id} is {run and run.status}, not {' or '.join(wanted)}: {run and run.error}\n"
                    f"{self.logs(run_id)}"
                )
            time.sleep(0.02)

    def logs(self, run_id: str) -> str:
        run = self.state.runs.get(run_id)
        blobs = self.state.storage.list("azureml", f"{run.artifact_prefix}user_logs/") if run else ()
        return "".join(
            f"--- {blob.name}\n{self.state.storage.get('azureml', blob.name).decode(errors='replace')}\n"
            for blob in blobs
        )

    def artifacts(self, run_id: str) -> dict[str, bytes]:
        prefix, storage = self.state.runs[run_id].artifact_prefix, self.state.storage
        return {
            blob.name.removeprefix(prefix): storage.get("azureml", blob.name)
            for blob in storage.list("azureml", prefix)
        }

    def put_artifact(self, run: Run, name: str, content: bytes, **options: Any) -> None:
        """Add a file to the artifacts of *run*, e.g. `outputs/model.pt` or `user_logs/std_log.txt`, with the options
        of `Storage.put`. System logs have no MD5, as recorded.
        """
        self.state.storage.put(
            "azureml", run.artifact_prefix + name, content, **{"md5": not name.startswith("system_logs/"), **options}
        )

    def put_artifacts(self, run: Run, files: Mapping[str, bytes]) -> None:
        self.state.storage.put_all("azureml", {run.artifact_prefix + name: content for name, content in files.items()})

    def append_log(self, run: Run, text: str, *, name: str = "user_logs/std_log.txt") -> None:
        self.state.storage.append("azureml", run.artifact_prefix + name, text.encode())

    def put_blob(self, datastore: str, name: str, content: bytes, **options: Any) -> None:
        where = self.state.datastores[datastore]
        where.storage.put(where.container, name, content, **options)

    def put_blobs(self, datastore: str, files: Mapping[str, bytes]) -> None:
        where = self.state.datastores[datastore]
        where.storage.put_all(where.container, files)

    def get_blob(self, datastore: str, name: str) -> bytes:
        where = self.state.datastores[datastore]
        return where.storage.get(where.container, name)

    def blob_names(self, datastore: str, prefix: str = "") -> list[str]:
        where = self.state.datastores[datastore]
        return [blob.name for blob in where.storage.list(where.container, prefix)]

    def requests(self, pattern: str = "") -> list[str]:
        """List the lines `METHOD host/path?query -> status` of requests to all workspaces of the stage that match a
        regular expression.
        """
        return [str(seen) for seen in self.stage.log.find(pattern)]


Curves = Callable[[int, Values], Mapping[str, Sequence[Number]]]
"""The metrics of the trial with this number and these values. Each is a curve with steps that count from 0."""


def add_sweep(
    azure: StagedWorkspace,
    name: str,
    values: Sequence[Values],
    curves: Curves | None = None,
    *,
    experiment: str = "tuning",
    primary_metric: str = "accuracy",
    goal: str = "maximize",
    statuses: Mapping[int, str] | None = None,
    seconds: float = 60.0,
    manner: Manner = AS_IT_IS,
    **fields: Any,
) -> Run:
    """Add a sweep *name* with a trial `{name}_{i}` for each of *values*. Trials are Completed unless *statuses* gives
    the status of their number.

    Trials started one second apart and took *seconds*. A sweep with a running trial is Running. *fields* are those of
    the sweep (tags, ...). Of *manner* only `values_in` is used.
    """
    space = {
        key: ["choice", [sorted({one[key] for one in values}, key=str)]]
        for key in (values[0] if values else {"lr": 0.1})
    }
    most = dict.fromkeys(("maxTotalTrials", "maxConcurrentTrials"), max(1, len(values)))
    properties = {
        "jobType": "Sweep",
        "experimentName": experiment,
        "computeId": f"{azure.state.path}/computes/cpu-cluster",
        "searchSpace": space,
    }
    properties |= {
        "samplingAlgorithm": {"samplingAlgorithmType": "Grid"},
        "objective": {"goal": goal, "primaryMetric": primary_metric},
    }
    properties |= {"limits": {"jobLimitsType": "Sweep", **most, "timeout": "PT24H"}}
    properties |= {"trial": {"command": "python train.py", "environmentId": "azureml:training:1"}, **fields}
    sweep = new_job(azure.state, name, properties)
    begun = sweep.created - timedelta(seconds=seconds + len(values))
    sweep.created = sweep.started = begun
    best = Best(sweep, primary_metric, maximize=goal == "maximize")
    for index, one in enumerate(values):
        trial = add_trial(azure.state, sweep, index, one, manner)
        _set_over(trial, (statuses or {}).get(index, "Completed"), begun + timedelta(seconds=index), seconds)
        for metric, curve in (curves(index, one) if curves else {}).items():
            known = trial.metrics.setdefault(
                metric, Metric(metric, columns={metric: "String" if curve and isinstance(curve[0], str) else "Double"})
            )
            at, key = begun + timedelta(seconds=index), f"{trial.run_id}_{metric}"
            known.points += [
                Point({metric: value}, step, at + timedelta(milliseconds=step), f"{key}_{step}")
                for step, value in enumerate(curve)
            ]
        best.see(trial)
    ended = not any(status == "Running" for status in (statuses or {}).values())
    _set_over(sweep, "Completed" if ended else "Running", begun, seconds + len(values))
    sweep.tags["_aml_system_all_jobs_generated"] = json.dumps(ended)
    if ended:
        best.close()
    return sweep


def _set_over(run: Run, status: str, begun: datetime, seconds: float) -> None:
    run.created = run.started = begun
    run.status, run.ended = status, None if status == "Running" else begun + timedelta(seconds=seconds)
