"""URIs of data in a workspace: `azureml://datastores/D/paths/P` and its relatives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from himl_cli.core.errors import BadUsage
from himl_cli.core.workspaces import WORKSPACE_ID, WorkspaceIds
from himl_cli.workspaces.azure.places.address import WorkspaceAddress

_SHORT = re.compile(r"azureml://datastores/(?P<store>[^/]+)(?:/paths)?(?:/(?P<path>.*))?$", re.IGNORECASE | re.DOTALL)
_LONG = re.compile(
    rf"azureml://{WORKSPACE_ID}/datastores/(?P<store>[^/]+)(?:/paths)?(?:/(?P<path>.*))?$", re.IGNORECASE | re.DOTALL
)
_STORAGE = re.compile(r"(?P<account>[a-z0-9]+)\.(?:blob|dfs)\.(?P<suffix>.+)", re.IGNORECASE)


@dataclass(frozen=True)
class DataPlace:
    """A path in a datastore, or (`account` set) in a container of an account."""

    path: str
    datastore: str = ""
    account: str = ""
    container: str = ""


def data_place(uri: str, address: WorkspaceAddress) -> DataPlace:
    """What *uri* means. Raises BadUsage for one of another workspace, and for what is no storage."""
    found = _SHORT.match(uri)
    if found is not None:
        return DataPlace(found["path"] or "", datastore=found["store"])
    found = _LONG.match(uri)
    if found is not None:
        there = WorkspaceIds(found["subscription"], found["group"], found["name"])
        if not there.is_same(WorkspaceIds(address.subscription_id, address.resource_group, address.name)):
            raise BadUsage(
                f"'{uri}' lies in another workspace: {there.label}.", hint="Name that workspace with --workspace."
            )
        return DataPlace(found["path"] or "", datastore=found["store"])
    return _in_storage(uri)


def _in_storage(uri: str) -> DataPlace:
    try:
        parts = urlsplit(uri)
    except ValueError:  # brackets that are no IPv6 address
        parts = urlsplit("")
    host = _STORAGE.match(parts.hostname or "")
    if host is not None and parts.scheme in ("wasbs", "abfss") and parts.username:
        return DataPlace(unquote(parts.path.lstrip("/")), account=host["account"].lower(), container=parts.username)
    if host is not None and parts.scheme == "https":
        container, _, path = parts.path.lstrip("/").partition("/")
        return DataPlace(unquote(path), account=host["account"].lower(), container=container)
    raise BadUsage(
        f"'{uri.partition('?')[0]}' lies where himl cannot read.",
        hint="Data has to lie in a datastore of the workspace.",
    )
