"""The datastores of an Azure ML workspace, and what lies in them, as blob stores."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote, unquote

from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import DATASTORE_NAME, ContainerSpec
from himl_cli.core.redaction import parts_of, redact
from himl_cli.core.runs import SignedLink
from himl_cli.core.text import did_you_mean, shorten
from himl_cli.core.workspaces import WORKSPACE_ID, WorkspaceIds
from himl_cli.workspaces.azure.config import ApiVersion, WorkspaceAddress
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.storage.artifacts import RunArtifacts, link_to_artifact
from himl_cli.workspaces.azure.storage.container import AzureBlobs, SingleBlob
from himl_cli.workspaces.azure.storage.curl import CurlPool
from himl_cli.workspaces.azure.storage.datastore_records import (
    BLOB,
    DatastoreRecord,
    read_all,
    read_default,
    read_record,
    signer_for,
)
from himl_cli.workspaces.azure.storage.signing import Signer
from himl_cli.workspaces.base import BlobStore

ARTIFACT_STORE = "workspaceartifactstore"
RECORDS, RECORD_SECONDS = "datastores", 24 * 3600.0
LONGEST_NAME = 50  # of a datastore that himl names: short enough to be read in lists; the service takes 255
_URI = re.compile(
    rf"azureml://(?:{WORKSPACE_ID}/)?datastores/(?P<store>[^/]+)(?:/paths)?(?:/(?P<path>.*))?$",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class DataLocation:
    """A path in a datastore, or (`account` set) in a container of an account."""

    path: str
    datastore: str = ""
    account: str = ""
    container: str = ""


def parse_data_uri(uri: str, address: WorkspaceAddress) -> DataLocation:
    """What *uri* means: `azureml://datastores/D/paths/P` and its relatives. Raises BadUsage for one of another
    workspace, and for what is no storage."""
    found = _URI.match(uri)
    if found is not None:
        there = WorkspaceIds(found["subscription"], found["group"], found["name"])
        own = WorkspaceIds(address.subscription_id, address.resource_group, address.name)
        if found["group"] is not None and not there.is_same(own):
            raise BadUsage(
                f"'{uri}' lies in another workspace: {there.label}.", hint="Name that workspace with --workspace."
            )
        return DataLocation(found["path"] or "", datastore=found["store"])
    parts = parts_of(uri)
    host = re.match(r"(?P<account>[a-z0-9]+)\.(?:blob|dfs)\..+", parts.hostname or "", re.IGNORECASE)
    if host is not None and parts.scheme in ("wasbs", "abfss") and parts.username:
        return DataLocation(unquote(parts.path.lstrip("/")), account=host["account"].lower(), container=parts.username)
    if host is not None and parts.scheme == "https":
        container, _, path = parts.path.lstrip("/").partition("/")
        return DataLocation(unquote(path), account=host["account"].lower(), container=container)
    raise BadUsage(
        f"'{uri.partition('?')[0]}' lies where himl cannot read.",
        hint="Data has to lie in a datastore of the workspace.",
    )


class Datastores:
    """Asked for when they are needed, for they may be registered anew at any time.

    Only where artifacts lie never changes: that is kept, so that a second download of artifacts asks nothing for it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pool = CurlPool()
        self._signers: dict[DatastoreRecord, Signer] = {}

    def close(self) -> None:
        """Close all connections to storage that are not in use; a later request opens new ones."""
        self._pool.close()

    def infos(self) -> Sequence[DatastoreInfo]:
        """All datastores as they are now, the default one first, the others by name."""
        found = sorted(read_all(self._connection), key=lambda record: (not record.is_default, record.name))
        return [record.info(self._connection.address.cloud) for record in found]

    def open(self, name: str | None = None) -> BlobStore:
        """The datastore called *name*, or the default one.

        Raises NotFound naming those that exist, BadUsage for a kind that himl does not support.
        """
        return self.of_record(self.find(name))

    def find(self, name: str | None = None) -> DatastoreRecord:
        """The record of the datastore called *name*, or of the default one; of any kind. Raises NotFound naming those
        that exist."""
        if name is None:
            return read_default(self._connection)
        address, cache = self._connection.address, self._connection.kept
        key = f"{address.cloud.name} {address.path.lower()} {ARTIFACT_STORE}"
        if name == ARTIFACT_STORE and (known := DatastoreRecord.from_json(cache.get(RECORDS, key))) is not None:
            return known
        try:
            if not re.fullmatch(r"[\w-]{1,255}", name):  # it would mean something else in a URL
                raise ServiceNotFound(name)
            record = read_record(self._connection, name)
        except ServiceNotFound as err:
            names = [info.name for info in self.infos()]
            raise NotFound(
                f"No datastore '{name}' in {address.label}; there are: {', '.join(names)}.",
                hint=did_you_mean(name, names),
            ) from err
        if name == ARTIFACT_STORE:
            cache.put(RECORDS, key, asdict(record), seconds=RECORD_SECONDS)
        return record

    def of_record(self, record: DatastoreRecord) -> AzureBlobs:
        """What lies in the datastore that `find` gave. Raises BadUsage for a kind that himl does not support."""
        return self._blobs(record, "", record.label)

    def of_container(self, account: str, container: str) -> DatastoreRecord | None:
        """The datastore of this container of blobs; one with a secret before one without, None where there is none."""
        found = [
            one for one in read_all(self._connection) if one.account.lower() == account and one.container == container
        ]
        return min(found, key=lambda one: (one.credentials == "None", one.name), default=None)

    def artifacts(self, container_id: str, label: str) -> BlobStore:
        """The artifacts kept under *container_id*, the `dataContainerId` of a run. Asks nothing yet."""
        return RunArtifacts(
            self._connection,
            self._pool,
            container_id,
            label,
            lambda growing: self._blobs(self.find(ARTIFACT_STORE), f"ExperimentRun/{container_id}/", label, growing),
        )

    def artifact_link(self, container_id: str, label: str, name: str, *, days: float) -> SignedLink:
        """A link to one of the artifacts kept under *container_id*. Raises NotFound, NotAllowed, ServiceFailed."""
        return link_to_artifact(
            self._connection, self._pool, container_id, label, name, days, lambda: self.find(ARTIFACT_STORE)
        )

    def at_uri(self, uri: str, label: str, *, is_file: bool = False) -> BlobStore:
        """The folder at *uri* (`azureml://…`, or a URL of an account that a datastore is of); with *is_file*, the one
        file there.

        Raises NotFound, BadUsage for what himl cannot read.
        """
        place = parse_data_uri(uri, self._connection.address)
        record = self.find(place.datastore) if place.datastore else self.of_container(place.account, place.container)
        if record is None:
            raise NotFound(
                f"No datastore of the {self._connection.address.label} is of container '{place.container}' of account "
                f"'{place.account}'.",
                hint="Register one for it.",
            )
        folder, slash, name = place.path.rpartition("/")
        if is_file and name:
            return SingleBlob(*self._container(record), root=folder + slash, name=name, label=label, pool=self._pool)
        return self._blobs(record, f"{place.path}/" if name else place.path, label)

    def _blobs(self, record: DatastoreRecord, root: str, label: str, growing: Sequence[str] = ()) -> AzureBlobs:
        return AzureBlobs(*self._container(record), root=root, label=label, pool=self._pool, growing=growing)

    def _container(self, record: DatastoreRecord) -> tuple[str, Signer]:
        if record not in self._signers:
            self._signers[record] = signer_for(self._connection, record)
        return record.url(self._connection.address.cloud), self._signers[record]


def ensure_datastore(connection: Connection, datastores: Datastores, spec: ContainerSpec, notify: Notify) -> str:
    """The name of the datastore that is the container; where there is none, one is registered with the account's key,
    which goes nowhere else.

    Raises BadUsage for names that no account, container or datastore has, for a missing or impossible key, and where
    the service refuses it.
    """
    if not re.fullmatch(r"[a-z0-9]{3,24}", spec.account):
        raise BadUsage(
            f"'{spec.account}' is no storage account.", hint="Its name has 3 to 24 small letters and digits."
        )
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9]|-(?=[a-z0-9])){2,62}", spec.container):
        raise BadUsage(
            f"'{spec.container}' is no container.", hint="Its name has 3 to 63 small letters, digits and '-'."
        )
    known = datastores.of_container(spec.account, spec.container)
    if known is not None:
        return known.name
    taken = {info.name.lower() for info in datastores.infos()}
    name = spec.name
    if not name or name.lower() in taken:
        name = re.sub(r"\W", "_", f"{spec.account}_{spec.container}")[:LONGEST_NAME]
    if name.lower() in taken:
        digest = hashlib.sha256(f"{spec.account}/{spec.container}".encode()).hexdigest()
        name = f"{name[: LONGEST_NAME - 9]}_{digest[:8]}"
    if not DATASTORE_NAME.fullmatch(name):
        raise BadUsage(f"No datastore can be called '{name}'.", hint="Take letters, digits and '_', 255 at most.")
    container = f"container '{spec.container}' of account '{spec.account}'"
    if not spec.key:
        raise BadUsage(
            f"No datastore of the workspace is of {container}, and there is no key to register it with.",
            hint="Set BLOB_ACCOUNT_KEY, or register it as a datastore in Studio.",
        )
    try:
        base64.b64decode(spec.key, validate=True)
    except binascii.Error:
        raise BadUsage(
            "The key of the storage account is none: it is not base64.",
            hint="Copy BLOB_ACCOUNT_KEY again from the portal's 'Access keys'.",
        ) from None
    properties: dict[str, Any] = {
        "datastoreType": BLOB,
        "accountName": spec.account,
        "containerName": spec.container,
        "endpoint": connection.address.cloud.storage_suffix,
        "protocol": "https",
        "credentials": {"credentialsType": "AccountKey", "secrets": {"secretsType": "AccountKey", "key": spec.key}},
    }
    if spec.subscription:
        properties["subscriptionId"] = spec.subscription
    url, params = connection.arm(f"/datastores/{quote(name, safe='')}"), {"api-version": ApiVersion.DATASTORES}
    try:
        connection.rest.send("PUT", url, params=params, json={"properties": properties})
    except ServiceRefused as err:
        if err.status != 400:
            raise
        words = shorten(redact(" ".join(str(err).replace(spec.key, "…").split())), 300)
        raise BadUsage(
            f"Azure ML does not take {container} as datastore '{name}': {words}",
            hint="Check BLOB_ACCOUNT_NAME, BLOB_CONTAINER_NAME and BLOB_ACCOUNT_KEY, where it is not something else "
            "that it names.",
        ) from err
    notify(Notice(f"Registered {container} as datastore '{name}'."))
    return name
