"""Containers that a workspace is told of: found among its datastores, else registered with the account's key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import DATASTORE_NAME, ContainerSpec
from himl_cli.core.redaction import redact
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.places import api_versions
from himl_cli.workspaces.azure.requests.errors import ServiceRefused
from himl_cli.workspaces.azure.storage.datastore_records import BLOB
from himl_cli.workspaces.azure.storage.datastores import Datastores

LONGEST_NAME = 50  # short enough to be read in lists; the service takes 255
LONGEST_WORDS = 300
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER = re.compile(r"[a-z0-9](?:[a-z0-9]|-(?=[a-z0-9])){2,62}")


def ensure_datastore(connection: Connection, datastores: Datastores, spec: ContainerSpec, notify: Notify) -> str:
    """The name of the datastore that is the container; where there is none, one is registered with the account's key,
    which goes nowhere else.

    Raises BadUsage for names that no account, container or datastore has, for a missing or impossible key, and where
    the service refuses it.
    """
    if not _ACCOUNT.fullmatch(spec.account):
        raise BadUsage(
            f"'{spec.account}' is no storage account.", hint="Its name has 3 to 24 small letters and digits."
        )
    if not _CONTAINER.fullmatch(spec.container):
        raise BadUsage(
            f"'{spec.container}' is no container.", hint="Its name has 3 to 63 small letters, digits and '-'."
        )
    known = datastores.of_container(spec.account, spec.container)
    if known is not None:
        return known.name
    taken = {info.name.lower() for info in datastores.infos()}
    name = spec.name if spec.name and spec.name.lower() not in taken else _new_name(spec, taken)
    _register(connection, spec, name)
    notify(Notice(f"Registered container '{spec.container}' of account '{spec.account}' as datastore '{name}'."))
    return name


def _register(connection: Connection, spec: ContainerSpec, name: str) -> None:
    if not DATASTORE_NAME.fullmatch(name):
        raise BadUsage(f"No datastore can be called '{name}'.", hint="Take letters, digits and '_', 255 at most.")
    _check_key(spec)
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
    url = connection.arm(f"/datastores/{quote(name, safe='')}")
    try:
        connection.rest.send(
            "PUT", url, params={"api-version": api_versions.DATASTORES}, json={"properties": properties}
        )
    except ServiceRefused as err:
        if err.status != 400:
            raise
        raise BadUsage(
            f"Azure ML does not take container '{spec.container}' of account '{spec.account}' as datastore '{name}': "
            f"{_words(err, spec.key)}",
            hint="Check BLOB_ACCOUNT_NAME, BLOB_CONTAINER_NAME and BLOB_ACCOUNT_KEY, where it is not something else "
            "that it names.",
        ) from err


def _words(err: ServiceRefused, key: str) -> str:
    """One line of the service's own words, without the key."""
    line = redact(" ".join(str(err).replace(key, "…").split()))
    return line if len(line) <= LONGEST_WORDS else f"{line[: LONGEST_WORDS - 1]}…"


def _check_key(spec: ContainerSpec) -> None:
    if not spec.key:
        raise BadUsage(
            f"No datastore of the workspace is of container '{spec.container}' of account '{spec.account}', and there "
            "is no key to register it with.",
            hint="Set BLOB_ACCOUNT_KEY, or register it as a datastore in Studio.",
        )
    try:
        base64.b64decode(spec.key, validate=True)
    except binascii.Error:
        hint = "Copy BLOB_ACCOUNT_KEY again from the portal's 'Access keys'."
        raise BadUsage("The key of the storage account is none: it is not base64.", hint=hint) from None


def _new_name(spec: ContainerSpec, taken: set[str]) -> str:
    """A name for the datastore that says which container it is."""
    name = re.sub(r"\W", "_", f"{spec.account}_{spec.container}")[:LONGEST_NAME]
    if name.lower() not in taken:
        return name
    return f"{name[: LONGEST_NAME - 9]}_{hashlib.sha256(f'{spec.account}/{spec.container}'.encode()).hexdigest()[:8]}"
