"""The state of the double: principals with their permissions and tokens, and workspaces with their contents. Plain
records that the routes read and change.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import secrets
import time
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from tests.azureml_double.log import DATA_PLANE, issued

if TYPE_CHECKING:
    from tests.azureml_double.jobs.runner import JobRunner
    from tests.azureml_double.storage import Storage

Json = dict[str, Any]
ENDED = ("Completed", "Failed", "Canceled")
PIPELINE, STEP = "azureml.PipelineRun", "azureml.StepRun"  # types of runs
MODELS = ("CustomModel", "MLFlowModel", "TritonModel")  # types of outputs
_SEAL = secrets.token_bytes(32)  # the double rejects forged tokens and those of another double
_ADDED: dict[str, Json] = {
    "codes": {"provisioningState": "Succeeded"},
    "environments": {"environmentType": "UserCreated", "condaFile": None, "osType": "Linux", "image": None},
    "data": {"dataType": "uri_folder"},
    "components": {"provisioningState": "Succeeded"},
}
"""Fields that the service adds to an asset of each kind."""


def now() -> datetime:
    return datetime.now(timezone.utc)


def time_text(moment: datetime | None) -> str | None:
    """Format a time as the services do: up to seven digits of the second without trailing zeros, and the offset."""
    if moment is None:
        return None
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".") + "+00:00"


def new_id() -> str:
    return str(uuid.uuid4())


class Right(Enum):
    READ = "read"
    WRITE = "write"
    SECRETS = "listSecrets"
    STORAGE_READ = "storage read"
    STORAGE_WRITE = "storage write"


@dataclass
class Principal:
    """An application with a secret. `token_seconds` is the lifetime of its next tokens. `secret_expired` simulates an
    expired secret. `assertions` are tokens of another platform that replace the secret, each with the Unix time of
    its expiry.
    """

    tenant: str
    client_id: str
    secret: str
    rights: set[Right] = field(default_factory=lambda: set(Right))
    name: str = "himl test application"
    object_id: str = field(default_factory=lambda: secrets.token_hex(16))
    token_seconds: float = 86_399
    secret_expired: bool = False
    assertions: dict[str, float] = field(default_factory=dict)
    # Tokens made earlier are rejected, regardless of their expiry.
    revoked_before: float = 0.0
    # JSON of claims. Tokens requested without them are rejected with a challenge for the methods below.
    claims_wanted: str = ""
    claims_wanted_by: frozenset[str] = frozenset({"GET", "POST", "PATCH", "PUT", "DELETE"})
    meets_claims: bool = True  # whether the sign-in service returns a token with claims

    def __post_init__(self) -> None:
        issued("password", self.secret)

    def new_assertion(self, *, seconds: float = 300) -> str:
        assertion = issued("assertion", f"federated.{secrets.token_urlsafe(24)}.{secrets.token_urlsafe(12)}")
        self.assertions[assertion] = time.time() + seconds
        return assertion


@dataclass(frozen=True)
class Caller:
    """The owner of a request's token: a principal, or a job with a token for the workspace with the ARM id
    `run_token_scope`.
    """

    principal: Principal | None
    run_token_scope: str = ""

    def may(self, right: Right) -> bool:
        if self.principal is None:
            # Secrets are those of datastores on the data plane. Resource Manager rejects run tokens.
            return right in (Right.READ, Right.WRITE, Right.SECRETS)
        return right in self.principal.rights


class TokenRefused(Exception):
    pass


def make_token(principal: Principal, audience: str, claims_asked: str = "") -> tuple[str, float]:
    begun = int(time.time())
    who = {
        "appid": principal.client_id,
        "oid": principal.object_id,
        "sub": principal.object_id,
        "tid": principal.tenant,
        "idtyp": "app",
        "ver": "1.0",
    }
    times = {"iat": begun, "nbf": begun, "exp": int(begun + principal.token_seconds), "made": time.time()}
    met = json.loads(claims_asked or "{}").get("access_token", {})
    return _sealed(
        {"aud": audience, "iss": f"https://sts.windows.net/{principal.tenant}/", **who, **times, "met": met}
    ), principal.token_seconds


def make_run_token(workspace_path: str, run_id: str, *, seconds: float = 3600) -> tuple[str, int]:
    ends = int(time.time() + seconds)
    return _sealed(
        {
            "iss": "azureml",
            "aud": "azureml",
            "scope": workspace_path,
            "role": "Contributor",
            "runid": run_id,
            "exp": ends,
        }
    ), ends


def read_token(token: str) -> Json:
    try:
        head, body, seal = token.split(".")
        claims: Json = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except ValueError as e:
        raise TokenRefused("The access token is not a JWT.") from e
    if not hmac.compare_digest(seal, _seal(f"{head}.{body}")):
        raise TokenRefused("The access token was not issued here.")
    if claims["exp"] <= time.time():
        raise TokenRefused("The access token has expired.")
    return claims


def base64_text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _sealed(claims: Json) -> str:
    text = ".".join(base64_text(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "none"}, claims))
    return issued("token", f"{text}.{_seal(text)}")


def _seal(text: str) -> str:
    return base64_text(hmac.new(_SEAL, text.encode(), hashlib.sha256).digest())


@dataclass
class Point:
    data: Json
    step: int | None = None
    created: datetime = field(default_factory=now)
    metric_id: str = field(default_factory=new_id)


@dataclass(repr=False)
class Metric:
    """All rows of one metric of a run. `kind` is the service's `uxMetricType`. A scalar has one column, with the name
    of the metric.
    """

    name: str
    kind: str = "azureml.v1.scalar"
    columns: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    namespace: str | None = None
    # The number of rows and the last row, cached for searches of many runs.
    last: tuple[int, Point] | None = None


@dataclass
class Output:
    uri: str
    asset_id: str
    kind: str = "UriFolder"


@dataclass(repr=False)
class Experiment:
    name: str
    experiment_id: str = field(default_factory=new_id)
    created: datetime = field(default_factory=now)
    tags: dict[str, str] = field(default_factory=dict)
    archived: datetime | None = None
    runs: dict[str, Run] = field(default_factory=dict)  # oldest first


@dataclass(repr=False)
class Run:
    """One run. `status` is a status of run history (`Running`, `Completed`, ...). `job` is the `properties` of the
    PUT job request, or None.
    """

    run_id: str
    experiment: Experiment
    status: str
    created: datetime = field(default_factory=now)
    started: datetime | None = None
    ended: datetime | None = None
    display_name: str = ""  # default: its id
    user_name: str = "Ada Lovelace"
    data_container_id: str = ""  # default: derived from its id
    number: int = 0  # default: the next number of the workspace
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
    # Status in the index, which lags behind run history.
    indexed_status: str | None = None
    # Number of the attempt. The service restarts the job after its node was preempted.
    attempt: int = 1
    # The interactive services, by node and name.
    services: dict[int, dict[str, Json]] = field(default_factory=dict)
    ssh_port: int | None = None  # port of its SSH server on this machine
    # Client id of the submitter. Only the submitter can access its services.
    owner: str = ""
    cancel_polls: int = 0  # number of further polls of a cancellation that answer "not yet"

    def __post_init__(self) -> None:
        self.display_name = self.display_name or self.run_id
        self.data_container_id = self.data_container_id or f"dcid.{self.run_id}"

    def __repr__(self) -> str:
        return f"Run({self.run_id!r}, {self.status})"

    @property
    def is_ended(self) -> bool:
        return self.status in ENDED

    @property
    def nodes(self) -> int:
        return int(((self.job or {}).get("resources") or {}).get("instanceCount") or 1)

    @property
    def traits(self) -> list[str]:
        return [self.run_type, "scriptRun", "remote", "CommonRuntime"]

    @property
    def artifact_prefix(self) -> str:
        return f"ExperimentRun/{self.data_container_id}/"

    def cancel(self) -> None:
        if not self.is_ended:
            self.status, self.ended = "Canceled", now()
            self.revision += 1

    def move(self, status: str) -> None:
        if status in ("Running", "Finalizing", *ENDED) and self.started is None:
            self.started = now()
        self.status, self.ended = status, (self.ended or now()) if status in ENDED else None
        self.revision += 1


@dataclass(repr=False)
class Datastore:
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
    identity: str = "WorkspaceSystemAssignedIdentity"  # identity with which the services read it
    tags: dict[str, str] | None = None

    def new_sas(self) -> str:
        return self.storage.container_sas(self.container, permissions=self.sas_permissions, seconds=self.sas_seconds)


@dataclass(repr=False)
class Workspace:
    """One workspace and its contents. Failed look-ups return None, since the answer differs between routes."""

    subscription: str
    group: str
    name: str
    tenant: str
    location: str
    storage: Storage
    second_storage: Storage
    principal: Principal
    workspace_id: str = field(default_factory=new_id)
    created: datetime = field(default_factory=now)
    datastores: dict[str, Datastore] = field(default_factory=dict)
    experiments: dict[str, Experiment] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)  # oldest first
    computes: dict[str, Json] = field(default_factory=dict)
    assets: dict[str, dict[str, dict[str, Json]]] = field(default_factory=lambda: {kind: {} for kind in _ADDED})
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    # Runs jobs. Without it, jobs stay in their first status.
    jobs: JobRunner | None = None
    # The trees of azureml-core's snapshots, oldest first.
    snapshots: dict[str, Json] = field(default_factory=dict)
    # Whether its resource contains the tracking address, and with it the data plane.
    tells_tracking: bool = True
    # Host of its services. Empty: that of its region.
    services_host: str = ""
    # Host of the tracking address in its resource. Empty: that of the data plane.
    tracking_host: str = ""
    # Behind a private link: rejects access to its contents from outside.
    is_private: bool = False
    # Largest page of the services. Tests reduce it.
    page_size: int = 500
    refused_orders: Collection[str] = ()  # orders of runs that run history rejects with a 400
    skips_in_index: bool = False  # whether its index pages by `nextSkip`, never by a token
    hides_in_index: bool = False  # whether its index shows no run
    # The answer of `listSecrets` for a datastore with a key: a `sas` for the account if the secret must expire and
    # otherwise the key, or always a `sas` or a `key`.
    secrets: Literal["", "sas", "key"] = ""
    reaches_storage: bool = True  # otherwise its lists of artifacts are empty, as a public report says
    # Metrics that are missing from MLflow's search: logged recently, or by azureml-core.
    search_lacks: Collection[str] = ()
    # Whether MLflow's searches refuse `max_results` of 1,000 and more, as public reports say. MLflow's clients send
    # more.
    short_searches: bool = False
    # By run, metric, and device (empty: none) or NODE/DEVICE.
    resource_metrics: dict[str, dict[str, dict[str, list[float | None]]]] = field(default_factory=dict)
    bulk_history: bool = False  # whether it serves curves of several runs in one request

    @property
    def path(self) -> str:
        provider = "providers/Microsoft.MachineLearningServices/workspaces"
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}/{provider}/{self.name}"

    @property
    def data_plane_host(self) -> str:
        return self.services_host or f"{self.location}.{DATA_PLANE}"

    @property
    def default_datastore(self) -> Datastore:
        return next(one for one in self.datastores.values() if one.is_default)

    def datastore(self, name: str) -> Datastore | None:
        return next((one for one in self.datastores.values() if one.name.lower() == name.lower()), None)

    def long_uri(self, uri: str) -> str:
        short = "azureml://datastores/"
        if not uri.startswith(short):
            return uri
        return (
            f"azureml://subscriptions/{self.subscription}/resourcegroups/{self.group}/workspaces/{self.name}/"
            f"datastores/{uri.removeprefix(short)}"
        )

    def experiment(self, name: str) -> Experiment:
        return self.experiments.setdefault(name, Experiment(name))

    def experiment_by_id(self, experiment_id: str) -> Experiment | None:
        return next(
            (one for one in self.experiments.values() if one.experiment_id.lower() == experiment_id.lower()), None
        )

    def keep_run(self, run: Run) -> Run:
        self.runs[run.run_id] = run.experiment.runs[run.run_id] = run
        run.number, run.root_id = run.number or next(self.numbers), run.run_id
        parent = self.runs.get(run.parent_id or "")
        if parent is not None:
            parent.children.append(run.run_id)
            run.root_id = parent.root_id
        return run

    def forget_run(self, run: Run) -> None:
        del self.runs[run.run_id], run.experiment.runs[run.run_id]

    def start(self, run: Run, submitter: Principal | None) -> None:
        if self.jobs is not None:
            self.jobs.submit(run, submitter)

    def cancels(self, run: Run) -> bool:
        return self.jobs is not None and self.jobs.cancel(run)

    def register(self, kind: str, name: str, version: str, given: Json) -> None:
        kept: Json = {
            "description": None,
            "tags": {},
            "properties": {},
            "isArchived": False,
            "isAnonymous": False,
            **_ADDED[kind],
        }
        kept |= {key: value for key, value in given.items() if value is not None}
        kept["properties"] = {key: str(value) for key, value in (given.get("properties") or {}).items()}
        if kind == "codes":
            kept["isAnonymous"] = False  # for any request, as recorded
        if kind == "data":
            kept["dataUri"] = self.long_uri(str(kept.get("dataUri", "")))
        self.assets[kind].setdefault(name, {})[version] = kept | {"_created": time_text(now())}

    def takes_data(self, name: str, kind: str) -> bool:
        return all(version["dataType"] == kind for version in self.assets["data"].get(name, {}).values())


@dataclass(repr=False)
class Azure:
    workspaces: dict[str, Workspace] = field(default_factory=dict)  # by ARM id, in lower case
    principals: dict[str, Principal] = field(default_factory=dict)  # by client id
    # Resource Manager's token buckets: the level and its time, by client id and kind of request.
    buckets: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def keep_workspace(self, workspace: Workspace) -> None:
        self.workspaces[workspace.path.lower()] = workspace
        self.principals[workspace.principal.client_id] = workspace.principal

    def forget_workspace(self, workspace: Workspace) -> None:
        self.workspaces.pop(workspace.path.lower(), None)
        tenants = {one.tenant for one in self.workspaces.values()}
        self.principals = {
            client: one
            for client, one in self.principals.items()
            if one.tenant != workspace.tenant or one.tenant in tenants
        }

    def storage(self, account: str) -> tuple[Workspace, Storage] | None:
        pairs = (
            (workspace, storage)
            for workspace in self.workspaces.values()
            for storage in (workspace.storage, workspace.second_storage)
        )
        return next((pair for pair in pairs if pair[1].account == account), None)
