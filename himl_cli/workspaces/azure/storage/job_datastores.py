"""Datastores in an Azure ML job, by its run token: the workspace's datastore service tells records and secrets.

Resource manager, which tells them elsewhere, takes no run token. The requests are those of azureml-core
(`azureml/data/datastore_client.py`), which reads datastores in a job in no other way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote

from himl_cli.core.errors import NotAllowed, ServiceFailed
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.requests.errors import ServiceRefused
from himl_cli.workspaces.azure.storage.datastore_records import DatastoreRecord

log = logging.getLogger(__name__)

MOST_PAGES = 1000
_KINDS = {"AzureDataLake": "AzureDataLakeGen1"}  # where its names differ from resource manager's
_CREDENTIALS = {"ClientCredentials": "ServicePrincipal"}
Answer = TypeVar("Answer")


def by_run_token(connection: Connection, ask: Callable[[], Answer], otherwise: Callable[[], Answer]) -> Answer:
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


def record_of(connection: Connection, name: str) -> DatastoreRecord:
    """The datastore called *name*. Raises ServiceNotFound."""
    return _record(_one(connection, name))


def default_of(connection: Connection) -> DatastoreRecord:
    """The default datastore. Raises ServiceNotFound."""
    return replace(_record(connection.rest.get_object(connection.datastore("/default"), "datastore")), is_default=True)


def all_of(connection: Connection) -> Iterator[DatastoreRecord]:
    """All datastores, page by page; which one is the default is asked apart. Raises ServiceFailed for a list of more
    than MOST_PAGES pages."""
    default = default_of(connection).name
    token = ""
    for _ in range(MOST_PAGES):
        params = {"count": "30", **({"continuationToken": token} if token else {})}
        answer = connection.rest.get_object(connection.datastore("/datastores"), "list of datastores", params=params)
        for resource in answer.get("value") or []:
            record = _record(resource)
            yield replace(record, is_default=record.name == default)
        token = str(answer.get("continuationToken") or "")
        if not token:
            return
    raise ServiceFailed("The list of datastores does not end.", hint="Try again later.")


def secret_of(connection: Connection, name: str) -> Mapping[str, Any]:
    """The secret of the datastore called *name*, in the fields of resource manager's `listSecrets`; empty where it has
    none."""
    section = _section(_one(connection, name))
    client = section.get("clientCredentials") or {}
    fields = {
        "key": section.get("accountKey"),
        "sasToken": section.get("sasToken"),
        "clientSecret": client.get("clientSecret"),
    }
    return {field: value for field, value in fields.items() if value}


def _one(connection: Connection, name: str) -> Mapping[str, Any]:
    return connection.rest.get_object(connection.datastore(f"/datastores/{quote(name, safe='')}"), "datastore")


def _section(resource: Mapping[str, Any]) -> Mapping[str, Any]:
    return resource.get("azureStorageSection") or {}


def _record(resource: Mapping[str, Any]) -> DatastoreRecord:
    section = _section(resource)
    client = section.get("clientCredentials") or {}
    kind, credentials = str(resource.get("dataStoreType") or ""), str(section.get("credentialType") or "None")
    return DatastoreRecord(
        name=str(resource.get("name") or ""),
        kind=_KINDS.get(kind, kind),
        account=str(section.get("accountName") or ""),
        container=str(section.get("containerName") or ""),
        endpoint=str(section.get("endpoint") or ""),
        protocol=str(section.get("protocol") or ""),
        credentials=_CREDENTIALS.get(credentials, credentials),
        tenant_id=str(client.get("tenantId") or ""),
        client_id=str(client.get("clientId") or ""),
        authority=str(client.get("authorityUrl") or ""),
    )
