"""How requests to a datastore are signed: by the secret that the workspace keeps for it, else by the user's own
sign-in.

The secret of an account (its key) is never kept: a SAS for the one container is made of it, and that is kept until it
ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from himl_cli.core.errors import HimlError, NotAllowed, ServiceFailed
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.places import api_versions
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.storage import job_datastores
from himl_cli.workspaces.azure.storage.blobs.refusals import NO_KEYS
from himl_cli.workspaces.azure.storage.blobs.signing import ASK_AGAIN, BearerSigner, Signature, Signer, Tokens
from himl_cli.workspaces.azure.storage.datastore_records import DatastoreRecord
from himl_cli.workspaces.azure.storage.job_datastores import by_run_token

log = logging.getLogger(__name__)

SECRETS = "secrets"
SAS_HOURS = 8
BUSY = (408, 429)
OWN_SIGN_IN = "your own sign-in"


def signer_for(connection: Connection, record: DatastoreRecord) -> Signer:
    """What signs requests to the container of *record*. Asks nothing yet."""
    if record.credentials in ("AccountKey", "Sas"):
        return _SecretSigner(connection, record)
    if record.credentials == "ServicePrincipal" and record.client_id and record.tenant_id:
        from himl_cli.workspaces.azure.storage.datastore_principal import PrincipalTokens

        tokens = PrincipalTokens(
            record,
            connection.address.cloud.authority,
            lambda: str(_secret_of(connection, record).get("clientSecret") or ""),
        )
        return BearerSigner(tokens, connection.address.cloud.storage_scope, "the datastore's service principal")
    return BearerSigner(connection.tokens, connection.address.cloud.storage_scope, OWN_SIGN_IN)


class _SecretSigner(Signer):
    """Signs with a SAS, by the datastore's secret; by the user's own sign-in where that may not be read, or keys do not
    count."""

    def __init__(self, connection: Connection, record: DatastoreRecord) -> None:
        super().__init__()
        self._connection = connection
        self._record = record
        self._own: BearerSigner | None = None
        self._over: tuple[float, HimlError] | None = None
        self._key = connection.key(f"secret {record.name.lower()} {record.account}/{record.container}")

    @property
    def sign_in(self) -> str:  # type: ignore[override]
        if self._own is not None:
            return self._own.sign_in
        return (
            "a signature by the account's key"
            if self._record.credentials == "AccountKey"
            else "the datastore's SAS token"
        )

    def _make(self, refused: Signature | None, code: str) -> Signature:
        if self._own is not None:
            return self._own_signature(refused, code)
        if refused is not None:
            self._connection.kept.forget(SECRETS, self._key)
            if code in NO_KEYS:
                return self._own_signature(None, "")
        if self._over is not None and time.time() < self._over[0]:
            raise self._over[1]
        kept = self._connection.kept.get(SECRETS, self._key)
        if isinstance(kept, str) and kept:
            return Signature.of_sas(kept)
        secret = readable_secret(self._connection, self._record)
        if secret is None:
            return self._own_signature(None, "")
        signature = Signature.of_sas(_sas_of(secret, self._record))
        if 0 < signature.expires <= time.time():
            self._over = time.time() + ASK_AGAIN, _over(self._record, signature.expires)
            raise self._over[1]
        self._connection.kept.put(SECRETS, self._key, signature.query, seconds=signature.renew_at - time.time())
        return signature

    def _own_signature(self, refused: Signature | None, code: str) -> Signature:
        tokens: Tokens = self._connection.tokens
        if self._own is None:
            self._own = BearerSigner(tokens, self._connection.address.cloud.storage_scope, OWN_SIGN_IN)
        if refused is not None:
            self._own.renewed(refused, code)
        return self._own.current()


def _over(record: DatastoreRecord, ended: float) -> NotAllowed:
    """The error for a SAS that the workspace still hands out, whose time is over."""
    when = datetime.fromtimestamp(ended, timezone.utc)
    return NotAllowed(
        f"The SAS of {record.label} ended on {when:%Y-%m-%d at %H:%M} UTC.",
        hint="Ask its owner to renew it and to update the datastore's credentials in the workspace. (Not over yet? "
        "Check this machine's clock.)",
    )


def readable_secret(
    connection: Connection, record: DatastoreRecord, *, as_it_is: bool = False
) -> Mapping[str, Any] | None:
    """What the workspace gives of the datastore's secret; None where it may not be read. Raises ServiceFailed.

    *as_it_is*: the account's key, where others may be given a SAS made of it.
    """
    try:
        return _secret_of(connection, record, as_it_is=as_it_is)
    except (NotAllowed, ServiceRefused, ServiceNotFound) as err:
        if isinstance(err, ServiceRefused) and (err.status >= 500 or err.status in BUSY):
            raise  # it says nothing of rights
        log.debug("the secret of %s may not be read (%s): going on with %s", record.label, err, OWN_SIGN_IN)
        return None


def _secret_of(connection: Connection, record: DatastoreRecord, *, as_it_is: bool = False) -> Mapping[str, Any]:
    """What the workspace gives of the datastore's secret. Raises NotAllowed, ServiceFailed."""
    return by_run_token(
        connection,
        lambda: job_datastores.secret_of(connection, record.name),
        lambda: _secret_from_arm(connection, record, as_it_is),
    )


def _secret_from_arm(connection: Connection, record: DatastoreRecord, as_it_is: bool) -> Mapping[str, Any]:
    from urllib.parse import quote

    url = connection.arm(f"/datastores/{quote(record.name, safe='')}/listSecrets")

    def ask(hours: int) -> Mapping[str, Any]:
        body = {"expirableSecret": True, "expireAfterHours": hours} if hours else {"expirableSecret": False}
        return connection.rest.post_object(
            url, "secret", params={"api-version": api_versions.DATASTORE_SECRETS}, json=body
        )

    if as_it_is:
        return ask(0)
    try:
        return ask(SAS_HOURS)
    except ServiceRefused as err:
        if err.status != 400:
            raise
        return ask(1)


def _sas_of(secret: Mapping[str, Any], record: DatastoreRecord) -> str:
    """A SAS for the container: the given one, or one made with the account's key."""
    token = str(secret.get("sasToken") or "").lstrip("?")
    if token:
        return token
    key = str(secret.get("key") or "")
    if not key:
        raise ServiceFailed(
            f"The workspace gives no secret for {record.label} that himl can use.",
            hint="Update the datastore's credentials in the workspace.",
        )
    return _made_sas(key, record)


def _made_sas(key: str, record: DatastoreRecord) -> str:
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    rights = ContainerSasPermissions(read=True, write=True, create=True, list=True)
    ends = datetime.now(timezone.utc) + timedelta(hours=SAS_HOURS)  # no start: clocks differ
    protocol = "https,http" if record.protocol == "http" else "https"
    try:
        return generate_container_sas(
            record.account, record.container, account_key=key, permission=rights, expiry=ends, protocol=protocol
        )
    except ValueError as err:  # AzureSigningError is one of them where the key is no base64
        raise HimlError(
            f"The account key of {record.label} is no key.", hint="Update the datastore's credentials in the workspace."
        ) from err
