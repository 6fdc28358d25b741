"""How requests to a datastore are signed: by the secret that the workspace keeps for it, else by the user's own
sign-in.

The secret of an account (its key) is never kept: a SAS for the one container is made of it, and that is kept until it
ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from himl_cli.core.errors import HimlError, NotAllowed, ServiceFailed
from himl_cli.core.redaction import parts_of
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.storage.datastore_records import SAS_HOURS, DatastoreRecord, read_secret
from himl_cli.workspaces.azure.storage.signing import (
    EARLY,
    NO_KEYS,
    TOKEN_SECONDS,
    BearerSigner,
    Signature,
    Signer,
    Tokens,
)

log = logging.getLogger(__name__)

SECRETS = "secrets"
BUSY = (408, 429)
OWN_SIGN_IN = "your own sign-in"
UPDATE = "Update the datastore's credentials in the workspace."


def signer_for(connection: Connection, record: DatastoreRecord) -> Signer:
    """What signs requests to the container of *record*. Asks nothing yet."""
    if record.credentials in ("AccountKey", "Sas"):
        return _SecretSigner(connection, record)
    if record.credentials == "ServicePrincipal" and record.client_id and record.tenant_id:
        tokens: Tokens = _PrincipalTokens(connection, record)
        return BearerSigner(tokens, connection.address.cloud.storage_scope, "the datastore's service principal")
    return BearerSigner(connection.tokens, connection.address.cloud.storage_scope, OWN_SIGN_IN)


def readable_secret(
    connection: Connection, record: DatastoreRecord, *, as_it_is: bool = False
) -> Mapping[str, Any] | None:
    """As `read_secret`; None where it may not be read. Raises ServiceFailed."""
    try:
        return read_secret(connection, record, as_it_is=as_it_is)
    except (NotAllowed, ServiceRefused, ServiceNotFound) as err:
        if isinstance(err, ServiceRefused) and (err.status >= 500 or err.status in BUSY):
            raise  # it says nothing of rights
        log.debug("the secret of %s may not be read (%s): going on with %s", record.label, err, OWN_SIGN_IN)
        return None


class _SecretSigner(Signer):
    """Signs with a SAS, by the datastore's secret; by the user's own sign-in where that may not be read, or keys do not
    count."""

    def __init__(self, connection: Connection, record: DatastoreRecord) -> None:
        super().__init__()
        self._connection = connection
        self._record = record
        self._own: BearerSigner | None = None
        self._over: tuple[float, HimlError] | None = None  # the error to raise until then
        self._key = connection.key(f"secret {record.name.lower()} {record.account}/{record.container}")

    @property
    def sign_in(self) -> str:  # type: ignore[override]
        if self._own is not None:
            return self._own.sign_in
        is_key = self._record.credentials == "AccountKey"
        return "a signature by the account's key" if is_key else "the datastore's SAS token"

    def _make(self, refused: Signature | None, code: str) -> Signature:
        if self._own is not None:
            return self._own_signature(refused, code)
        cache = self._connection.kept
        if refused is not None:
            cache.forget(SECRETS, self._key)
            if code in NO_KEYS:
                return self._own_signature(None, "")
        if self._over is not None and time.time() < self._over[0]:
            raise self._over[1]
        kept = cache.get(SECRETS, self._key)
        if isinstance(kept, str) and kept:
            return Signature.of_sas(kept)
        secret = readable_secret(self._connection, self._record)
        if secret is None:
            return self._own_signature(None, "")
        signature = Signature.of_sas(_container_sas(secret, self._record))
        if 0 < signature.expires <= time.time():  # the workspace still hands it out
            ended = datetime.fromtimestamp(signature.expires, timezone.utc)
            error = NotAllowed(
                f"The SAS of {self._record.label} ended on {ended:%Y-%m-%d at %H:%M} UTC.",
                hint="Ask its owner to renew it and to update the datastore's credentials in the workspace. (Not over "
                "yet? Check this machine's clock.)",
            )
            self._over = time.time() + TOKEN_SECONDS, error
            raise error
        cache.put(SECRETS, self._key, signature.query, seconds=signature.renew_at - time.time())
        return signature

    def _own_signature(self, refused: Signature | None, code: str) -> Signature:
        if self._own is None:
            scope = self._connection.address.cloud.storage_scope
            self._own = BearerSigner(self._connection.tokens, scope, OWN_SIGN_IN)
        if refused is not None:
            self._own.renewed(refused, code)
        return self._own.current()


def _container_sas(secret: Mapping[str, Any], record: DatastoreRecord) -> str:
    """A SAS for the container: the given one, or one made with the account's key."""
    token, key = str(secret.get("sasToken") or "").lstrip("?"), str(secret.get("key") or "")
    if token:
        return token
    if not key:
        raise ServiceFailed(f"The workspace gives no secret for {record.label} that himl can use.", hint=UPDATE)
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    try:
        return generate_container_sas(
            record.account,
            record.container,
            account_key=key,
            permission=ContainerSasPermissions(read=True, write=True, create=True, list=True),
            expiry=datetime.now(timezone.utc) + timedelta(hours=SAS_HOURS),  # no start: clocks differ
            protocol="https,http" if record.protocol == "http" else "https",
        )
    except ValueError as err:  # AzureSigningError is one of them where the key is no base64
        raise HimlError(f"The account key of {record.label} is no key.", hint=UPDATE) from err


class _PrincipalTokens:
    """Tokens of the service principal that a datastore is registered with: held in memory only."""

    def __init__(self, connection: Connection, record: DatastoreRecord) -> None:
        self._connection = connection
        self._record = record
        self._lock = threading.Lock()
        self._token = ""
        self._expires = 0.0

    def get(self, scope: str) -> str:
        """A token. Raises NotAllowed where the principal cannot sign in, ServiceFailed."""
        with self._lock:
            if time.time() > self._expires - EARLY:
                self._fetch(scope)
            return self._token

    def renew(self, scope: str, rejected: str) -> str:
        """Another token than *rejected*. Raises as `get`."""
        with self._lock:
            if self._token == rejected:
                self._fetch(scope)
            return self._token

    def _fetch(self, scope: str) -> None:
        from azure.core.exceptions import AzureError, ClientAuthenticationError
        from azure.identity import ClientSecretCredential

        from himl_cli.workspaces.azure.tls import ca_bundle

        record = self._record
        secret = str(read_secret(self._connection, record).get("clientSecret") or "")
        if not secret:
            raise NotAllowed(f"The workspace gives no secret of the service principal of {record.label}.")
        parts = parts_of(record.authority)  # some hold the tenant too, as their path
        is_named = parts.scheme == "https" and parts.netloc
        authority = f"https://{parts.netloc}" if is_named else self._connection.address.cloud.authority
        try:
            credential = ClientSecretCredential(
                record.tenant_id, record.client_id, secret, authority=authority, connection_verify=ca_bundle()
            )
        except ValueError as err:  # azure-identity's, for malformed ids
            raise NotAllowed(
                f"The service principal of {record.label} cannot sign in: its tenant '{record.tenant_id}' is no id and "
                "no domain.",
                hint=UPDATE,
            ) from err
        try:
            token = credential.get_token(scope)
        except ClientAuthenticationError as err:
            raise NotAllowed(
                f"The service principal of {record.label} ({record.client_id}) cannot sign in.",
                hint=f"Has its secret expired? {UPDATE}",
            ) from err
        except AzureError as err:
            raise ServiceFailed(
                f"The sign-in of {record.label}'s service principal failed: {type(err).__name__}."
            ) from err
        finally:
            credential.close()
        self._token, self._expires = token.token, float(token.expires_on)
