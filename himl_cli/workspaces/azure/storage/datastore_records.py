"""What the workspace says of a datastore: where it lies and how it is signed in to."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.errors import BadUsage
from himl_cli.workspaces.azure.places.clouds import Cloud

BLOB, LAKE = "AzureBlob", "AzureDataLakeGen2"
KINDS = {
    BLOB: "blob",
    LAKE: "Azure Data Lake Gen2",
    "AzureFile": "file share",
    "AzureDataLakeGen1": "Azure Data Lake Gen1",
    "OneLake": "OneLake",
}
_PART = re.compile(r"[\w.:$-]+", re.ASCII)
_WAYS_OUT = {
    "AzureFile": "Copy it to a blob datastore with azcopy, or mount it in a job on the cluster.",
    "AzureDataLakeGen1": "Azure retired Gen1 in 2024: move the data to Gen2 and register that.",
    "OneLake": "Copy what you need to a blob datastore, in Fabric or with azcopy.",
}


@dataclass(frozen=True)
class DatastoreRecord:
    """A datastore as resource manager describes it; `credentials` is the kind of its secret, which is not in here.

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
        """Out of the resource that GET and list give. Raises KeyError, AttributeError, TypeError, ValueError where it
        is none."""
        properties = resource["properties"]
        signs = properties.get("credentials") or {}
        found = cls(
            name=str(resource["name"]),
            kind=str(properties["datastoreType"]),
            account=str(properties.get("accountName") or ""),
            container=str(
                properties.get("containerName") or properties.get("filesystem") or properties.get("fileShareName") or ""
            ),
            endpoint=str(properties.get("endpoint") or ""),
            protocol=str(properties.get("protocol") or ""),
            credentials=str(signs.get("credentialsType") or "None"),
            is_default=bool(properties.get("isDefault")),
            tenant_id=str(signs.get("tenantId") or ""),
            client_id=str(signs.get("clientId") or ""),
            authority=str(signs.get("authorityUrl") or ""),
        )
        found.check_place()
        return found

    @classmethod
    def from_json(cls, kept: Any) -> DatastoreRecord | None:
        """What `as_json` gave; None for anything else."""
        try:
            found = cls(**kept)
            found.check_place()
        except (TypeError, ValueError):
            return None
        return found

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def check_place(self) -> None:
        """Raises TypeError where a field is of another type, ValueError where its container of blobs cannot be part of
        an address."""
        for field in fields(self):
            if not isinstance(getattr(self, field.name), bool if field.name == "is_default" else str):
                raise TypeError(f"{field.name} is none")
        if self.kind in (BLOB, LAKE) and not (
            _PART.fullmatch(self.account) and _PART.fullmatch(self.container) and _PART.fullmatch(self.endpoint or "-")
        ):
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
        return f"{'http' if self.protocol == 'http' and _is_here(host) else 'https'}://{host}/{self.container}"

    def info(self, cloud: Cloud) -> DatastoreInfo:
        """For lists of datastores, of every kind."""
        service = "blob" if self.kind in (BLOB, LAKE) else "file"
        location = (
            f"https://{self.account}.{service}.{self.endpoint or cloud.storage_suffix}/{self.container}"
            if self.account
            else self.container
        )
        return DatastoreInfo(self.name, KINDS.get(self.kind, self.kind), location, self.is_default)


def _is_here(host: str) -> bool:
    """Whether *host* is this machine: only an emulator there is spoken to without TLS."""
    name = host.partition(":")[0]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
