"""Where a URI of a job points: a folder or a blob of one of the workspace's accounts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from tests.servers.azureml.jobs.failures import DataMissing
from tests.servers.azureml.state import Datastore, Json, Workspace
from tests.servers.azureml.storage import Storage

_DATASTORE = re.compile(r"azureml://(?:subscriptions/[^/]+/resourcegroups/[^/]+/workspaces/[^/]+/)?datastores/([^/]+)/(?:paths/)?(.*)", re.IGNORECASE)
_WASBS = re.compile(r"(?:wasbs?|abfss?)://([^@/]+)@([^./]+)\.[^/]+/?(.*)", re.IGNORECASE)
_DATA_ID = re.compile(
    r"(?:(?:azureml:)?/subscriptions/.*/data/([^/]+)/versions/([^/]+)|azureml:([^:@/]+)(?::([^:@/]+)|@latest))/?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Place:
    """`path` names a blob, or a folder with or without `/` at its end; empty: the whole container."""

    storage: Storage
    container: str
    path: str

    @property
    def prefix(self) -> str:
        """What the names in the folder begin with."""
        return f"{self.path.rstrip('/')}/" if self.path.strip("/") else ""


def datastore_of(workspace: Workspace, name: str) -> Datastore | None:
    """Whatever the case of its name."""
    return next((one for one in workspace.datastores.values() if one.name.lower() == name.lower()), None)


def place_of(workspace: Workspace, uri: str) -> Place:
    """Raises DataMissing for a datastore or an account that is not the workspace's, and for other forms of a URI."""
    named = _DATASTORE.fullmatch(uri)
    if named:
        datastore = datastore_of(workspace, named[1])
        if datastore is None:
            raise DataMissing(uri)
        return Place(datastore.storage, datastore.container, unquote(named[2]))
    blobs = _WASBS.fullmatch(uri)
    if blobs:
        return Place(_account(workspace, blobs[2], uri), blobs[1], unquote(blobs[3]))
    parts = urlsplit(uri)
    if parts.scheme != "https":
        raise DataMissing(uri, "InvalidInput")
    container, _, path = unquote(parts.path).lstrip("/").partition("/")
    return Place(_account(workspace, (parts.hostname or "").partition(".")[0], uri), container, path)


def data_version(workspace: Workspace, uri: str) -> Json | None:
    """The registered version of data that *uri* names, its `properties`; None where it names none, or one that is not there."""
    found = _DATA_ID.fullmatch(uri)
    versions = workspace.assets["data"].get(found[1] or found[3], {}) if found else {}
    if not found or not versions:
        return None
    return versions.get(found[2] or found[4] or list(versions)[-1])


def names_data_version(uri: str) -> bool:
    return _DATA_ID.fullmatch(uri) is not None


def _account(workspace: Workspace, account: str, uri: str) -> Storage:
    for storage in (workspace.storage, workspace.second_storage):
        if storage.account == account:
            return storage
    raise DataMissing(uri)
