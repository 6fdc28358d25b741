"""What the workspace says of its datastores: where they lie, how they are signed in to, and their secrets.

Resource manager tells it. It takes no run token: in a job the workspace's datastore service does, by the requests of
azureml-core (`azureml/data/datastore_client.py`), which reads datastores in a job in no other way.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar
from urllib.parse import quote

from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.errors import BadUsage, NotAllowed, NotFound, ServiceFailed
from himl_cli.workspaces.azure.address import ApiVersion, Cloud
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.responses import resources, understood
from himl_cli.workspaces.azure.service_errors import ServiceRefused

log = logging.getLogger(__name__)

BLOB, LAKE = "AzureBlob", "AzureDataLakeGen2"
KINDS = {
    BLOB: "blob",
    LAKE: "Azure Data Lake Gen2",
    "AzureFile": "file share",
    "AzureDataLakeGen1": "Azure Data Lake Gen1",
    "OneLake": "OneLake",
}
SAS_HOURS = 8
MOST_PAGES = 1000
_PART = re.compile(r"[\w.:$-]+", re.ASCII)
_WAYS_OUT = {
    "AzureFile": "Copy it to a blob datastore with azcopy, or mount it in a job on the cluster.",
    "AzureDataLakeGen1": "Azure retired Gen1 in 2024: move the data to Gen2 and register that.",
    "OneLake": "Copy what you need to a blob datastore, in Fabric or with azcopy.",
}
# Where the datastore service's names differ from resource manager's
_JOB_NAMES = {"AzureDataLake": "AzureDataLakeGen1", "ClientCredentials": "ServicePrincipal"}

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class DatastoreRecord:
    """A datastore; `credentials` is the kind of its secret, which is not in here.

    `tenant_id`, `client_id` and `authority` are those of its service principal, where it has one.
    """

    name: str
    kind: str
    account: str
    container: str
    endpoint: str
    protocol: str
    credentials: str
    is_default: bool = False
    tenant_id: str = ""
    client_id: str = ""
    authority: str = ""

    @classmethod
    def from_arm(cls, resource: Mapping[str, Any]) -> DatastoreRecord:
        """Out of resource manager's form. Raises KeyError, AttributeError, TypeError, ValueError where it is none."""
        found = resource["properties"]
        signs = found.get("credentials") or {}
        container = found.get("containerName") or found.get("filesystem") or found.get("fileShareName")
        record = cls(
            name=str(resource["name"]),
            kind=str(found["datastoreType"]),
            account=str(found.get("accountName") or ""),
            container=str(container or ""),
            endpoint=str(found.get("endpoint") or ""),
            protocol=str(found.get("protocol") or ""),
            credentials=str(signs.get("credentialsType") or "None"),
            is_default=bool(found.get("isDefault")),
            tenant_id=str(signs.get("tenantId") or ""),
            client_id=str(signs.get("clientId") or ""),
            authority=str(signs.get("authorityUrl") or ""),
        )
        record.check()
        return record

    @classmethod
    def from_job_service(cls, resource: Mapping[str, Any]) -> DatastoreRecord:
        """Out of the datastore service's form."""
        section = resource.get("azureStorageSection") or {}
        client = section.get("clientCredentials") or {}
        kind, credentials = str(resource.get("dataStoreType") or ""), str(section.get("credentialType") or "None")
        return cls(
            name=str(resource.get("name") or ""),
            kind=_JOB_NAMES.get(kind, kind),
            account=str(section.get("accountName") or ""),
            container=str(section.get("containerName") or ""),
            endpoint=str(section.get("endpoint") or ""),
            protocol=str(section.get("protocol") or ""),
            credentials=_JOB_NAMES.get(credentials, credentials),
            tenant_id=str(client.get("tenantId") or ""),
            client_id=str(client.get("clientId") or ""),
            authority=str(client.get("authorityUrl") or ""),
        )

    @classmethod
    def from_json(cls, kept: Any) -> DatastoreRecord | None:
        """What `as_json` gave; None for anything else."""
        try:
            found = cls(**kept)
            found.check()
        except (TypeError, ValueError):
            return None
        return found

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def check(self) -> None:
        """Raises TypeError where a field is of another type, ValueError where its container of blobs cannot be part of
        an address."""
        for field in fields(self):
            if not isinstance(getattr(self, field.name), bool if field.name == "is_default" else str):
                raise TypeError(f"{field.name} is none")
        parts = (self.account, self.container, self.endpoint or "-")
        if self.kind in (BLOB, LAKE) and not all(_PART.fullmatch(part) for part in parts):
            raise ValueError("account, container and endpoint make no address")

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"datastore '{self.name}'"

    def url(self, cloud: Cloud) -> str:
        """Its container on the blob endpoint. Raises BadUsage for a kind that has none."""
        if self.kind not in (BLOB, LAKE):
            what = "a file share" if self.kind == "AzureFile" else KINDS.get(self.kind, self.kind)
            raise BadUsage(
                f"The {self.label} is {what}, which himl does not support.",
                hint=_WAYS_OUT.get(self.kind, "Register the data as a blob datastore."),
            )
        host = f"{self.account}.blob.{self.endpoint or cloud.storage_suffix}"
        # Only an emulator on this machine is spoken to without TLS
        is_plain = self.protocol == "http" and host.partition(":")[0].endswith(".localhost")
        return f"{'http' if is_plain else 'https'}://{host}/{self.container}"

    def info(self, cloud: Cloud) -> DatastoreInfo:
        """For lists of datastores, of every kind."""
        service = "blob" if self.kind in (BLOB, LAKE) else "file"
        host = f"{self.account}.{service}.{self.endpoint or cloud.storage_suffix}"
        location = f"https://{host}/{self.container}" if self.account else self.container
        return DatastoreInfo(self.name, KINDS.get(self.kind, self.kind), location, self.is_default)


def read_record(connection: Connection, name: str) -> DatastoreRecord:
    """The datastore called *name*. Raises ServiceNotFound."""

    def from_arm() -> DatastoreRecord:
        url, params = connection.arm(f"/datastores/{quote(name, safe='')}"), {"api-version": ApiVersion.DATASTORES}
        with understood(url, "the datastore"):
            return DatastoreRecord.from_arm(connection.rest.get_object(url, "datastore", params=params))

    return _by_run_token(
        connection, lambda: DatastoreRecord.from_job_service(_job_resource(connection, name)), from_arm
    )


def read_default(connection: Connection) -> DatastoreRecord:
    """The default datastore. Raises ServiceNotFound, NotFound."""

    def from_arm() -> DatastoreRecord:
        record = next((one for one in _arm_records(connection, isDefault="true") if one.is_default), None)
        if record is None:
            raise NotFound(
                f"The {connection.address.label} has no default datastore.", hint="Name one with --datastore."
            )
        return record

    return _by_run_token(connection, lambda: _job_default(connection), from_arm)


def read_all(connection: Connection) -> list[DatastoreRecord]:
    """All datastores as they are now."""
    return _by_run_token(connection, lambda: [*_job_records(connection)], lambda: [*_arm_records(connection)])


def read_secret(connection: Connection, record: DatastoreRecord, *, as_it_is: bool = False) -> Mapping[str, Any]:
    """What the workspace gives of the datastore's secret, in the fields of resource manager's `listSecrets`.

    *as_it_is*: the account's key, where others may be given a SAS made of it. Raises NotAllowed, ServiceFailed.
    """

    def from_job_service() -> Mapping[str, Any]:
        section = _job_resource(connection, record.name).get("azureStorageSection") or {}
        secrets = {
            "key": section.get("accountKey"),
            "sasToken": section.get("sasToken"),
            "clientSecret": (section.get("clientCredentials") or {}).get("clientSecret"),
        }
        return {field: value for field, value in secrets.items() if value}

    def from_arm(hours: int = 0 if as_it_is else SAS_HOURS) -> Mapping[str, Any]:
        url = connection.arm(f"/datastores/{quote(record.name, safe='')}/listSecrets")
        body = {"expirableSecret": True, "expireAfterHours": hours} if hours else {"expirableSecret": False}
        try:
            return connection.rest.post_object(
                url, "secret", params={"api-version": ApiVersion.DATASTORE_SECRETS}, json=body
            )
        except ServiceRefused as err:
            if err.status != 400 or hours <= 1:
                raise
            return from_arm(1)

    return _by_run_token(connection, from_job_service, from_arm)


def _by_run_token(connection: Connection, ask: Callable[[], Answer], otherwise: Callable[[], Answer]) -> Answer:
    """What *ask* gets with the run token; *otherwise*, by an identity, outside a job or where the run token is refused.

    Raises what *ask* raised where there is no identity either.
    """
    if not connection.has_run_token:
        return otherwise()
    try:
        return ask()
    except (NotAllowed, ServiceRefused) as err:
        log.debug("the run token opens no datastores (%s): going on with the job's identity", err)
        try:
            return otherwise()
        except NotAllowed:
            raise err from None


def _arm_records(connection: Connection, **query: str) -> Iterator[DatastoreRecord]:
    url = connection.arm("/datastores")
    params = {"api-version": ApiVersion.DATASTORES, "count": "30", **query}
    for resource in resources(connection.rest.get, url, "datastores", params):
        with understood(url, "the datastore"):
            record = DatastoreRecord.from_arm(resource)
        yield record


def _job_resource(connection: Connection, name: str) -> Mapping[str, Any]:
    return connection.rest.get_object(
        connection.service("datastore", f"/datastores/{quote(name, safe='')}"), "datastore"
    )


def _job_default(connection: Connection) -> DatastoreRecord:
    resource = connection.rest.get_object(connection.service("datastore", "/default"), "datastore")
    return replace(DatastoreRecord.from_job_service(resource), is_default=True)


def _job_records(connection: Connection) -> Iterator[DatastoreRecord]:
    """All datastores, page by page; which one is the default is asked apart."""
    default = _job_default(connection).name
    token = ""
    for _ in range(MOST_PAGES):
        params = {"count": "30", **({"continuationToken": token} if token else {})}
        answer = connection.rest.get_object(
            connection.service("datastore", "/datastores"), "list of datastores", params=params
        )
        for resource in answer.get("value") or []:
            record = DatastoreRecord.from_job_service(resource)
            yield replace(record, is_default=record.name == default)
        token = str(answer.get("continuationToken") or "")
        if not token:
            return
    raise ServiceFailed("The list of datastores does not end.", hint="Try again later.")
