"""What the double knows: workspaces and what lies in them. Plain records; the route modules read and change them."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Protocol

from tests.servers.azureml.hosts import CLOUDS
from tests.servers.azureml.principals import Principal
from tests.servers.azureml.storage import Storage

Json = dict[str, Any]
ENDED = ("Completed", "Failed", "Canceled")


def now() -> datetime:
    return datetime.now(timezone.utc)


def new_id() -> str:
    return str(uuid.uuid4())


@dataclass
class Point:
    """One row of a metric: `data` maps column names to values."""

    data: Json
    step: int | None = None
    created: datetime = field(default_factory=now)
    metric_id: str = field(default_factory=new_id)


@dataclass(repr=False)
class Metric:
    """All rows of one metric of a run. `kind` is the service's `uxMetricType`; a scalar has one column, named as the metric."""

    name: str
    kind: str = "azureml.v1.scalar"
    columns: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    namespace: str | None = None
    last: tuple[int, Point] | None = None  # the last of so many points, kept for searches of many runs


@dataclass
class Output:
    """A named output of a run: a data asset that stands for a folder (or a file) of a datastore."""

    uri: str
    asset_id: str
    kind: str = "UriFolder"


@dataclass(repr=False)
class Experiment:
    name: str
    experiment_id: str = field(default_factory=new_id)
    created: datetime = field(default_factory=now)
    description: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    archived: datetime | None = None
    runs: dict[str, Run] = field(default_factory=dict)  # oldest first


@dataclass(repr=False)
class Run:
    """One run. `status` is a word of run history (`Running`, `Completed`, ...). `job` is the `properties` that PUT job sent, or None."""

    run_id: str
    experiment: Experiment
    status: str
    created: datetime
    started: datetime | None
    ended: datetime | None
    display_name: str
    user_name: str
    data_container_id: str
    number: int
    parent_id: str | None = None
    root_id: str = ""
    description: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, Output] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    children: list[str] = field(default_factory=list)
    error: Json | None = None
    hidden: bool = False
    run_type: str = "azureml.scriptrun"
    target: str | None = "cpu-cluster"
    script: str | None = None
    definition: Json | None = None
    job: Json | None = None
    revision: int = 1
    uuid: str = field(default_factory=new_id)
    indexed_status: str | None = None  # what the index, which comes later than run history, still has for its status
    attempt: int = 1  # which try at the job this is: the service starts it again when its node was taken away
    cancel_polls: int = 0  # how many more polls of a cancel answer "not yet"

    def __repr__(self) -> str:
        return f"Run({self.run_id!r}, {self.status})"

    @property
    def is_ended(self) -> bool:
        return self.status in ENDED

    def cancel(self) -> None:
        """What the service does with a cancel: a run that ended stays as it is."""
        if not self.is_ended:
            self.status, self.ended = "Canceled", now()
            self.revision += 1

    @property
    def artifact_prefix(self) -> str:
        """Where its artifacts lie in the container `azureml`; ends in `/`."""
        return f"ExperimentRun/{self.data_container_id}/"


@dataclass(repr=False)
class Datastore:
    """`kind` is the service's `datastoreType`, `credentials` its `credentialsType`."""

    name: str
    container: str
    storage: Storage
    kind: str = "AzureBlob"
    credentials: str = "AccountKey"
    is_default: bool = False
    description: str | None = None
    sas_permissions: str = "rwdlac"
    sas_seconds: float = 8 * 3600
    service_principal: Principal | None = None
    identity: str = "WorkspaceSystemAssignedIdentity"  # with which the services read it
    tags: dict[str, str] | None = None


class RunsJobs(Protocol):
    """What executes the jobs of a workspace; without it they stay in their first status."""

    def submit(self, run: Run, submitter: Principal | None) -> None:
        """Begin with the job of *run*, sent by *submitter*."""

    def cancel(self, run: Run) -> bool:
        """Ask for the end of a job; whether it is one of these."""

    def close(self) -> None:
        """End all of them."""


@dataclass(repr=False)
class Workspace:
    """One workspace and all that lies in it. Look-ups that fail give None: what the answer is then differs from route to route."""

    subscription: str
    group: str
    name: str
    tenant: str
    location: str
    storage: Storage
    second_storage: Storage
    principal: Principal
    cloud: str = "AzureCloud"
    workspace_id: str = field(default_factory=new_id)
    created: datetime = field(default_factory=now)
    datastores: dict[str, Datastore] = field(default_factory=dict)
    experiments: dict[str, Experiment] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)  # oldest first
    computes: dict[str, Json] = field(default_factory=dict)
    assets: dict[str, dict[str, dict[str, Json]]] = field(default_factory=lambda: {kind: {} for kind in ("codes", "environments", "data", "components")})
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    jobs: RunsJobs | None = None
    snapshots: dict[str, Json] = field(default_factory=dict)  # of azureml-core: their trees, oldest first
    tells_tracking: bool = True  # whether its resource names the tracking address, and so the data plane
    services_host: str = ""  # where its services are said to be; empty: where its region's are
    tracking_host: str = ""  # that its resource names for tracking; empty: that of the data plane
    is_private: bool = False  # behind a private link: what lies in it is refused to whoever comes from outside
    page_size: int = 500  # what the services give at most on a page; tests make it small
    refused_orders: Collection[str] = ()  # orders of runs that run history answers with a 400
    skips_in_index: bool = False  # whether its index pages by `nextSkip`, and never by a token
    hides_in_index: bool = False  # whether its index shows no run
    most_history: int | None = None  # a curve asked for with more `max_results` than this is refused
    search_lacks: Collection[str] = ()  # metrics that MLflow's search does not tell: logged of late, or by azureml-core
    bulk_history: bool = False  # whether curves of several runs can be asked for at once

    def __repr__(self) -> str:
        return f"Workspace({self.name!r}, {len(self.runs)} runs)"

    @property
    def path(self) -> str:
        """The ARM id."""
        provider = "providers/Microsoft.MachineLearningServices/workspaces"
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}/{provider}/{self.name}"

    @property
    def data_plane_host(self) -> str:
        return self.services_host or f"{self.location}.{CLOUDS[self.cloud].data_plane}"

    def experiment(self, name: str) -> Experiment:
        """The experiment called *name*, made when it is not there."""
        if name not in self.experiments:
            self.experiments[name] = Experiment(name)
        return self.experiments[name]

    def experiment_by_id(self, experiment_id: str) -> Experiment | None:
        return next((one for one in self.experiments.values() if one.experiment_id.lower() == experiment_id.lower()), None)

    def keep_run(self, run: Run) -> Run:
        """Put *run* where all routes find it."""
        self.runs[run.run_id] = run
        run.experiment.runs[run.run_id] = run
        run.root_id = run.run_id
        parent = self.runs.get(run.parent_id or "")
        if parent is not None:
            parent.children.append(run.run_id)
            run.root_id = parent.root_id
        return run

    def forget_run(self, run_id: str) -> None:
        run = self.runs.pop(run_id)
        del run.experiment.runs[run_id]

    def cancels(self, run: Run) -> bool:
        """Ask for the end of *run* where it is a job that really runs; whether it is one."""
        return self.jobs is not None and self.jobs.cancel(run)

    @property
    def default_datastore(self) -> Datastore:
        return next(one for one in self.datastores.values() if one.is_default)


@dataclass(repr=False)
class Azure:
    """Everything: what one running double serves."""

    workspaces: dict[tuple[str, str, str], Workspace] = field(default_factory=dict)
    principals: dict[str, Principal] = field(default_factory=dict)  # by client id

    def keep_workspace(self, workspace: Workspace) -> Workspace:
        self.workspaces[_key(workspace.subscription, workspace.group, workspace.name)] = workspace
        self.principals[workspace.principal.client_id] = workspace.principal
        return workspace

    def forget_workspace(self, workspace: Workspace) -> None:
        """It and all that signed in for it are gone."""
        self.workspaces.pop(_key(workspace.subscription, workspace.group, workspace.name), None)
        tenants = {one.tenant for one in self.workspaces.values()}
        self.principals = {client: one for client, one in self.principals.items() if one.tenant != workspace.tenant or one.tenant in tenants}

    def workspace(self, subscription: str, group: str, name: str) -> Workspace | None:
        return self.workspaces.get(_key(subscription, group, name))

    def workspace_by_id(self, workspace_id: str) -> Workspace | None:
        return next((one for one in self.workspaces.values() if one.workspace_id == workspace_id), None)

    def in_subscription(self, subscription: str) -> list[Workspace]:
        return [one for one in self.workspaces.values() if one.subscription.lower() == subscription.lower()]

    def storage(self, account: str) -> tuple[Workspace, Storage] | None:
        """The storage account called *account* and the workspace it belongs to."""
        for workspace in self.workspaces.values():
            for storage in (workspace.storage, workspace.second_storage):
                if storage.account == account:
                    return workspace, storage
        return None


def _key(subscription: str, group: str, name: str) -> tuple[str, str, str]:
    return subscription.lower(), group.lower(), name.lower()
