"""The datastores of an Azure ML workspace, and what lies in them, as blob stores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.checkpoints import SignedLink
from himl_cli.core.errors import NotFound
from himl_cli.core.text import did_you_mean
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.places import api_versions
from himl_cli.workspaces.azure.requests.answers import resources, understood
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound
from himl_cli.workspaces.azure.storage import job_datastores
from himl_cli.workspaces.azure.storage.artifacts import RunArtifacts
from himl_cli.workspaces.azure.storage.blobs.container import AzureBlobs
from himl_cli.workspaces.azure.storage.blobs.lines import Exchanger
from himl_cli.workspaces.azure.storage.blobs.one_file import OneFile
from himl_cli.workspaces.azure.storage.blobs.signing import Signer
from himl_cli.workspaces.azure.storage.datastore_records import DatastoreRecord
from himl_cli.workspaces.azure.storage.datastore_signing import signer_for
from himl_cli.workspaces.azure.storage.job_datastores import by_run_token
from himl_cli.workspaces.azure.storage.storage_uris import data_place
from himl_cli.workspaces.base import BlobStore

ARTIFACT_STORE = "workspaceartifactstore"
RECORDS = "datastores"
KEPT_SECONDS = 24 * 3600.0
_NAME = re.compile(r"[\w-]{1,255}")


class Datastores:
    """Asked for when they are needed, for they may be registered anew at any time.

    Only where artifacts lie never changes: that is kept, so that a second download of artifacts asks nothing for it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._exchanger = Exchanger()
        self._signers: dict[DatastoreRecord, Signer] = {}

    def close(self) -> None:
        """Close all connections to storage that are not in use; a later request opens new ones."""
        self._exchanger.close()

    def infos(self) -> Sequence[DatastoreInfo]:
        """All datastores as they are now, the default one first, the others by name."""
        found = [record.info(self._connection.address.cloud) for record in self._all()]
        return sorted(found, key=lambda info: (not info.is_default, info.name))

    def open(self, name: str | None = None) -> BlobStore:
        """The datastore called *name*, or the default one.

        Raises NotFound naming those that exist, BadUsage for a kind that himl does not support.
        """
        return self.of_record(self.find(name))

    def find(self, name: str | None = None) -> DatastoreRecord:
        """The record of the datastore called *name*, or of the default one; of any kind. Raises NotFound naming those
        that exist."""
        return self._record(name) if name is not None else self._default()

    def of_record(self, record: DatastoreRecord) -> AzureBlobs:
        """What lies in the datastore that `find` gave. Raises BadUsage for a kind that himl does not support."""
        return self._blobs(record, "", record.label)

    def artifacts(self, container_id: str, label: str, *, run_id: str) -> BlobStore:
        """The artifacts kept under *container_id*, the `dataContainerId` of run *run_id*. Asks nothing yet."""
        root = f"ExperimentRun/{container_id}/"
        return RunArtifacts(
            self._connection,
            self._exchanger,
            container_id,
            label,
            lambda growing: self._artifact_blobs(root, label, growing),
        )

    def artifact_link(self, container_id: str, label: str, name: str, *, days: float) -> SignedLink:
        """A link to one of the artifacts kept under *container_id*. Raises NotFound, NotAllowed, ServiceFailed."""
        from himl_cli.workspaces.azure.storage.file_links import link_to_artifact

        return link_to_artifact(
            self._connection, self._exchanger, container_id, label, name, days, lambda: self._record(ARTIFACT_STORE)
        )

    def _artifact_blobs(self, root: str, label: str, growing: Sequence[str]) -> AzureBlobs:
        return self._blobs(self._record(ARTIFACT_STORE), root, label, growing)

    def at_uri(self, uri: str, label: str, *, is_file: bool = False) -> BlobStore:
        """The folder at *uri* (`azureml://…`, or a URL of an account that a datastore is of); with *is_file*, the one
        file there.

        Raises NotFound, BadUsage for what himl cannot read.
        """
        place = data_place(uri, self._connection.address)
        record = self._record(place.datastore) if place.datastore else self._registered(place.account, place.container)
        folder, slash, name = place.path.rpartition("/")
        if is_file and name:
            return OneFile(self._blobs(record, folder + slash, label), name)
        return self._blobs(
            record, place.path if not place.path or place.path.endswith("/") else place.path + "/", label
        )

    def _blobs(self, record: DatastoreRecord, root: str, label: str, growing: Sequence[str] = ()) -> AzureBlobs:
        signer = self._signers.get(record)
        if signer is None:
            signer = self._signers[record] = signer_for(self._connection, record)
        url = record.url(self._connection.address.cloud)
        return AzureBlobs(url, signer, root=root, label=label, exchanger=self._exchanger, growing=growing)

    def _record(self, name: str) -> DatastoreRecord:
        known = self._kept() if name == ARTIFACT_STORE else None
        if known is not None:
            return known
        if not _NAME.fullmatch(name):  # it would mean something else in a URL
            raise self._unknown(name)
        try:
            record = by_run_token(
                self._connection, lambda: job_datastores.record_of(self._connection, name), lambda: self._from_arm(name)
            )
        except ServiceNotFound as err:
            raise self._unknown(name) from err
        if name == ARTIFACT_STORE:
            self._keep(record)
        return record

    def _from_arm(self, name: str) -> DatastoreRecord:
        url = self._connection.arm(f"/datastores/{quote(name, safe='')}")
        return _record_from(
            self._connection.rest.get_object(url, "datastore", params={"api-version": api_versions.DATASTORES}), url
        )

    def _default(self) -> DatastoreRecord:
        return by_run_token(
            self._connection, lambda: job_datastores.default_of(self._connection), self._default_from_arm
        )

    def _default_from_arm(self) -> DatastoreRecord:
        record = next((one for one in self._pages({"isDefault": "true"}) if one.is_default), None)
        if record is None:
            raise NotFound(
                f"The {self._connection.address.label} has no default datastore.", hint="Name one with --datastore."
            )
        return record

    def _registered(self, account: str, container: str) -> DatastoreRecord:
        """The datastore of this container; one with a secret before one without."""
        found = self.of_container(account, container)
        if found is None:
            raise NotFound(
                f"No datastore of the {self._connection.address.label} is of container '{container}' of account "
                f"'{account}'.",
                hint="Register one for it.",
            )
        return found

    def of_container(self, account: str, container: str) -> DatastoreRecord | None:
        """The datastore of this container of blobs; one with a secret before one without, None where there is none."""
        there = [one for one in self._all() if (one.account.lower(), one.container) == (account, container)]
        return min(there, key=lambda one: (one.credentials == "None", one.name), default=None)

    def _unknown(self, name: str) -> NotFound:
        names = [info.name for info in self.infos()]
        return NotFound(
            f"No datastore '{name}' in {self._connection.address.label}; there are: {', '.join(names)}.",
            hint=did_you_mean(name, names),
        )

    def _all(self) -> list[DatastoreRecord]:
        return by_run_token(
            self._connection, lambda: [*job_datastores.all_of(self._connection)], lambda: [*self._pages({})]
        )

    def _pages(self, query: dict[str, str]) -> Iterator[DatastoreRecord]:
        url = self._connection.arm("/datastores")
        for resource in resources(
            self._connection.rest.get,
            url,
            "datastores",
            {"api-version": api_versions.DATASTORES, "count": "30", **query},
        ):
            yield _record_from(resource, url)

    def _kept(self) -> DatastoreRecord | None:
        return DatastoreRecord.from_json(self._connection.kept.get(RECORDS, self._key))

    def _keep(self, record: DatastoreRecord) -> None:
        self._connection.kept.put(RECORDS, self._key, record.as_json(), seconds=KEPT_SECONDS)

    @property
    def _key(self) -> str:
        return f"{self._connection.address.cloud.name} {self._connection.address.path.lower()} {ARTIFACT_STORE}"


def _record_from(resource: Mapping[str, Any], url: str) -> DatastoreRecord:
    """The record in *resource*, an answer of *url*. Raises ServiceFailed where it is none."""
    with understood(url, "the datastore"):
        return DatastoreRecord.from_arm(resource)
