"""Filling a workspace of the double: what tests and the samples put there."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers.azureml.answers import ServiceError, error_document
from tests.servers.azureml.arm_assets import register_version
from tests.servers.azureml.hosts import CLOUDS
from tests.servers.azureml.jobs.manner import Manner
from tests.servers.azureml.jobs.runner import JobRunner
from tests.servers.azureml.principals import Principal, Right, make_run_token
from tests.servers.azureml.run_definitions import MODELS
from tests.servers.azureml.state import ENDED, Datastore, Metric, Output, Point, Run, Workspace, new_id, now
from tests.servers.azureml.storage import Storage

if TYPE_CHECKING:
    from tests.servers.azureml.stage import Stage

DEFAULT = "workspaceblobstore"
ARTIFACTS = "workspaceartifactstore"
Number = float | int | str


def new_workspace(stage: Stage, name: str, storage: Storage, second: Storage, **options: Any) -> StagedWorkspace:
    """A workspace as the service makes one: five datastores, two computes, a principal with all rights."""
    tenant = options.pop("tenant", None) or new_id()
    principal = Principal(tenant, new_id(), f"secret~{secrets.token_urlsafe(24)}")
    fields: dict[str, Any] = {"subscription": new_id(), "group": f"group-{uuid.uuid4().hex[:6]}", "location": "eastus", **options}
    workspace = Workspace(name=name, tenant=tenant, storage=storage, second_storage=second, principal=principal, **fields)
    stage.azure.keep_workspace(workspace)
    storage.suffix = second.suffix = CLOUDS[workspace.cloud].blob
    staged = StagedWorkspace(stage, workspace)
    blobs = f"azureml-blobstore-{workspace.workspace_id}"
    staged.add_datastore(DEFAULT, container=blobs, is_default=True)
    staged.add_datastore(ARTIFACTS, container="azureml")
    staged.add_datastore("steprunlogblobstore", container="azureml")
    staged.add_datastore("workspacefilestore", kind="AzureFile", container=f"azureml-filestore-{workspace.workspace_id}")
    staged.add_datastore("workspaceworkingdirectory", kind="AzureFile", container="code-391ff5ac")
    staged.add_compute("cpu-cluster")
    staged.add_compute("gpu-cluster", size="STANDARD_NC6S_V3", max_nodes=2)
    return staged


@dataclass(frozen=True)
class StagedWorkspace:
    """A workspace in the double, with what a test needs to fill it and to reach it. `state` is the record that the routes serve."""

    stage: Stage
    state: Workspace

    @property
    def label(self) -> str:
        return f"workspace {self.state.group}/{self.state.name}"

    def environment(self, principal: Principal | None = None) -> dict[str, str]:
        """Variables for `himl` and the vendor's clients: the stage's, and a service principal's (default: the workspace's own)."""
        principal = principal or self.state.principal
        himl = {"HIML_TENANT_ID": principal.tenant, "HIML_SERVICE_PRINCIPAL_ID": principal.client_id, "HIML_SERVICE_PRINCIPAL_PASSWORD": principal.secret}
        vendor = {"AZURE_TENANT_ID": principal.tenant, "AZURE_CLIENT_ID": principal.client_id, "AZURE_CLIENT_SECRET": principal.secret}
        return {**self.stage.environment(), **himl, **vendor, "AZUREML_CURRENT_CLOUD": self.state.cloud}

    def job_environment(self, run: Run, *, seconds: float = 3600) -> dict[str, str]:
        """What a job sees of itself: its run token and the addresses, no service principal (wire document 7)."""
        workspace, (token, ends) = self.state, make_run_token(self.state.path, run.run_id, seconds=seconds)
        base = f"https://{workspace.data_plane_host}"
        tracking = {"MLFLOW_TRACKING_URI": f"azureml://{workspace.data_plane_host}/mlflow/v1.0{workspace.path}", "MLFLOW_TRACKING_TOKEN": token}
        return {
            **self.stage.environment(),
            **tracking,
            "MLFLOW_RUN_ID": run.run_id,
            "MLFLOW_EXPERIMENT_ID": run.experiment.experiment_id,
            "MLFLOW_EXPERIMENT_NAME": run.experiment.name,
            "AZUREML_RUN_ID": run.run_id,
            "AZUREML_ROOT_RUN_ID": run.root_id,
            "AZUREML_ARM_SUBSCRIPTION": workspace.subscription,
            "AZUREML_ARM_RESOURCEGROUP": workspace.group,
            "AZUREML_ARM_WORKSPACE_NAME": workspace.name,
            "AZUREML_ARM_PROJECT_NAME": run.experiment.name,
            "AZUREML_EXPERIMENT_ID": run.experiment.experiment_id,
            "AZUREML_WORKSPACE_ID": workspace.workspace_id,
            "AZUREML_WORKSPACE_SCOPE": workspace.path,
            "AZUREML_EXPERIMENT_SCOPE": f"{workspace.path}/experiments/{run.experiment.name}",
            "AZUREML_SERVICE_ENDPOINT": base,
            "AZUREML_RUN_HISTORY_SERVICE_ENDPOINT": base,
            "AZUREML_DISCOVERY_SERVICE_ENDPOINT": f"{base}/discovery",
            "AZUREML_RUN_TOKEN": token,
            "AZUREML_RUN_TOKEN_EXPIRY": str(ends),
            "AZUREML_IDENTITY_IN_USE": "AMLToken",
        }

    def identity_environment(self, principal: Principal) -> dict[str, str]:
        """The endpoint that gives a job's managed identity its tokens, as Azure ML sets it."""
        return {
            "MSI_ENDPOINT": f"http://127.0.0.1:{self.stage.port}/identity/token",
            "MSI_SECRET": principal.secret,
            "DEFAULT_IDENTITY_CLIENT_ID": principal.client_id,
        }

    def write_config(self, folder: Path) -> Path:
        """The `config.json` that the portal gives for download."""
        path = folder / "config.json"
        state = self.state
        path.write_text(json.dumps({"subscription_id": state.subscription, "resource_group": state.group, "workspace_name": state.name}, indent=4))
        return path

    def add_principal(self, rights: Iterable[Right] = tuple(Right), **fields: Any) -> Principal:
        """Another application that may sign in, of the same tenant unless *fields* say otherwise."""
        principal = Principal(
            **{"tenant": self.state.tenant, "client_id": new_id(), "secret": f"secret~{secrets.token_urlsafe(24)}", "rights": set(rights), **fields}
        )
        self.stage.azure.principals[principal.client_id] = principal
        return principal

    def add_datastore(
        self, name: str, *, kind: str = "AzureBlob", credentials: str = "AccountKey", container: str = "", account: Storage | None = None, **fields: Any
    ) -> Datastore:
        """*kind*: AzureBlob, AzureDataLakeGen2, AzureFile, AzureDataLakeGen1, OneLake; *credentials*: AccountKey, Sas, None, ServicePrincipal.

        Its container is made, except for kinds that have none. *account*: default the workspace's first.
        """
        storage = account or self.state.storage
        datastore = Datastore(name, container or name.lower().replace("_", "-"), storage, kind, credentials, **fields)
        if credentials == "ServicePrincipal" and datastore.service_principal is None:
            datastore.service_principal = self.add_principal({Right.STORAGE_READ, Right.STORAGE_WRITE})
        if kind in ("AzureBlob", "AzureDataLakeGen2"):
            storage.make_container(datastore.container)
        self.state.datastores[name] = datastore
        return datastore

    def add_compute(self, name: str, *, size: str = "STANDARD_DS3_V2", max_nodes: int = 4, kind: str = "AmlCompute") -> None:
        self.state.computes[name] = {"size": size, "max_nodes": max_nodes, "kind": kind, "created": now()}

    def add_environment(self, name: str, version: str = "1", **properties: Any) -> str:
        """Register an environment; its ARM id. *properties* as PUT has them (default: an image)."""
        register_version(self.state, "environments", name, version, {"image": "docker.io/python:3.11", **properties})
        return f"{self.state.path}/environments/{name}/versions/{version}"

    def add_data(self, name: str, uri: str, version: str = "1", *, kind: str = "uri_folder") -> str:
        """Register data that lies at *uri*; its ARM id."""
        register_version(self.state, "data", name, version, {"dataType": kind, "dataUri": uri})
        return f"{self.state.path}/data/{name}/versions/{version}"

    def add_run(
        self,
        run_id: str = "",
        experiment: str = "default",
        *,
        status: str = "Completed",
        parent: str | None = None,
        created: datetime | None = None,
        seconds: float = 60.0,
        display_name: str = "",
        error: str | None = None,
        **fields: Any,
    ) -> Run:
        """A run, made now unless *created* says when; one that ended took *seconds*. *fields* are those of `state.Run` (tags, properties, parameters, ...).

        *error* is the text of what went wrong. Its artifacts lie under its own id unless `data_container_id` names another container.
        """
        run_id = run_id or f"run_{uuid.uuid4().hex[:10]}"
        begun = created or now()
        started = None if status in ("NotStarted", "Queued", "Preparing", "Provisioning", "Starting") else begun + timedelta(seconds=5)
        run = Run(
            run_id=run_id,
            experiment=self.state.experiment(experiment),
            status=status,
            created=begun,
            started=started,
            ended=begun + timedelta(seconds=5 + seconds) if status in ENDED else None,
            display_name=display_name or run_id,
            user_name=fields.pop("user_name", "Ada Lovelace"),
            data_container_id=fields.pop("data_container_id", f"dcid.{run_id}"),
            number=next(self.state.numbers),
            parent_id=parent,
            error=error_document(ServiceError(400, "UserError", error), "execution-wrapper") if error else None,
            **fields,
        )
        return self.state.keep_run(run)

    def add_metric(self, run: Run, name: str, values: Sequence[Number], *, steps: Sequence[int] | None = None, kind: str = "azureml.v1.scalar") -> Metric:
        """A metric with one column, a row for each of *values*; steps count from 0 unless given."""
        types: dict[type, str] = {float: "Double", int: "Int", str: "String", bool: "Bool"}
        metric = run.metrics.setdefault(name, Metric(name, kind, {name: types[type(values[0])] if values else "Double"}))
        for index, value in enumerate(values):
            at = (run.started or run.created) + timedelta(seconds=index)
            metric.points.append(Point({name: value}, step=steps[index] if steps else index, created=at))
        return metric

    def add_table(self, run: Run, name: str, rows: Sequence[Mapping[str, Number]]) -> Metric:
        """A metric of several columns, as `log_row` and `log_table` leave it."""
        metric = run.metrics.setdefault(name, Metric(name, "azureml.v1.table", dict.fromkeys(rows[0], "Double")))
        metric.points.extend(Point(dict(row), created=run.started or run.created) for row in rows)
        return metric

    def add_output(self, run: Run, key: str, files: Mapping[str, bytes], *, datastore: str = DEFAULT, path: str = "", kind: str = "UriFolder") -> Output:
        """A named output of *run*: a folder of a datastore (default `azureml/{run}/{key}/`) with *files* in it. *kind*: also `CustomModel` and the like."""
        path = path or f"azureml/{run.run_id}/{key}/"
        self.put_blobs(datastore, {f"{path}{name}": content for name, content in files.items()})
        state = self.state
        where = f"subscriptions/{state.subscription}/resourcegroups/{state.group}/workspaces/{state.name}/datastores/{datastore}/paths/{path}"
        name = f"models/azureml_{run.run_id}_output_mlflow_model_{key}" if kind in MODELS else f"data/azureml_{run.run_id}_output_data_{key}"
        asset = f"azureml://locations/{state.location}/workspaces/{state.workspace_id}/{name}/versions/1"
        run.outputs[key] = Output(f"azureml://{where}", asset, kind)
        return run.outputs[key]

    def run_jobs(self, *, hold: bool | str = False, **manner: Any) -> JobRunner:
        """Let jobs that are submitted from now on really run, until the runner is closed (it is a context) or the workspace is gone.

        *hold*: each job waits in the status Queued (or in the one named) until `release`. *manner*: as in `Manner`.
        """
        if self.state.jobs is not None:
            self.state.jobs.close()
        return JobRunner(self, Manner("Queued" if hold is True else hold or "", **manner))

    def wait_for(self, run_id: str, *statuses: str, seconds: float = 60) -> Run:
        """The run once it is in one of *statuses* (default: once it has ended). An AssertionError tells its log where it ends otherwise, or takes longer."""
        wanted, deadline = statuses or ENDED, time.monotonic() + seconds
        while True:
            run = self.state.runs.get(run_id)
            if run is not None and run.status in wanted:
                return run
            if (run is not None and run.is_ended) or time.monotonic() > deadline:
                raise AssertionError(f"{run_id} is {run and run.status}, not {' or '.join(wanted)}: {run and run.error}\n{self.logs(run_id)}")
            time.sleep(0.02)

    def logs(self, run_id: str) -> str:
        """All of a run's user logs."""
        run = self.state.runs.get(run_id)
        blobs = self.state.storage.list("azureml", f"{run.artifact_prefix}user_logs/") if run else ()
        return "".join(f"--- {blob.name}\n{self.state.storage.get('azureml', blob.name).decode(errors='replace')}\n" for blob in blobs)

    def artifacts(self, run_id: str) -> dict[str, bytes]:
        """A run's files by name."""
        prefix, storage = self.state.runs[run_id].artifact_prefix, self.state.storage
        return {blob.name.removeprefix(prefix): storage.get("azureml", blob.name) for blob in storage.list("azureml", prefix)}

    def put_artifact(self, run: Run, name: str, content: bytes, **options: Any) -> None:
        """A file among *run*'s artifacts, e.g. `outputs/model.pt` or `user_logs/std_log.txt`; options as `Storage.put` has them.

        Logs of the system have no MD5, as recorded.
        """
        self.state.storage.put("azureml", run.artifact_prefix + name, content, **{"md5": not name.startswith("system_logs/"), **options})

    def put_artifacts(self, run: Run, files: Mapping[str, bytes]) -> None:
        self.state.storage.put_all("azureml", {run.artifact_prefix + name: content for name, content in files.items()})

    def append_log(self, run: Run, text: str, *, name: str = "user_logs/std_log.txt") -> None:
        """Let a log grow, as that of a running job does (an append blob)."""
        self.state.storage.append("azureml", run.artifact_prefix + name, text.encode())

    def put_blob(self, datastore: str, name: str, content: bytes, **options: Any) -> None:
        """A blob of a datastore; options as `Storage.put` has them (metadata, md5)."""
        where = self.state.datastores[datastore]
        where.storage.put(where.container, name, content, **options)

    def put_blobs(self, datastore: str, files: Mapping[str, bytes]) -> None:
        where = self.state.datastores[datastore]
        where.storage.put_all(where.container, files)

    def get_blob(self, datastore: str, name: str) -> bytes:
        """Raises azure.core.exceptions.ResourceNotFoundError."""
        where = self.state.datastores[datastore]
        return where.storage.get(where.container, name)

    def blob_names(self, datastore: str, prefix: str = "") -> list[str]:
        where = self.state.datastores[datastore]
        return [blob.name for blob in where.storage.list(where.container, prefix)]

    def requests(self, pattern: str = "") -> list[str]:
        """Lines `METHOD host/path?query -> status` of what has been asked (all workspaces of the stage), by a regular expression."""
        return [str(seen) for seen in self.stage.log.find(pattern)]
