"""What an Azure ML workspace is, for `himl workspace show`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.errors import NotAllowed
from himl_cli.core.workspaces import WorkspaceFacts
from himl_cli.workspaces.azure.connection import Connection


def describe(connection: Connection, datastores: Callable[[], Sequence[DatastoreInfo]]) -> WorkspaceFacts:
    """Its ids, place, default datastore and page in Studio; what a job cannot find out is "". Raises what the requests
    for them raise."""
    address, record = connection.address, connection.record()
    facts = {
        "workspace_name": address.name,
        "resource_group": address.resource_group,
        "subscription_id": address.subscription_id,
        "tenant_id": record.tenant_id,
        "workspace_id": record.workspace_id,
        "location": record.location,
        "cloud": address.cloud.name,
        "storage_account": record.storage_account.rpartition("/")[2],
        "default_datastore": _default_datastore(connection, datastores),
        "studio_url": address.studio_url(tenant_id=record.tenant_id),
    }
    return WorkspaceFacts("azure", address.label, address.source, facts)


def _default_datastore(connection: Connection, datastores: Callable[[], Sequence[DatastoreInfo]]) -> str:
    try:
        return next((store.name for store in datastores() if store.is_default), "")
    except NotAllowed:
        if not connection.in_job:
            raise
        return ""
