"""Tokens of the service principal that a datastore is registered with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from himl_cli.core.errors import NotAllowed, ServiceFailed
from himl_cli.core.redaction import parts_of
from himl_cli.workspaces.azure.storage.datastore_records import DatastoreRecord

EARLY = 300.0


class PrincipalTokens:
    """As `Tokens` of the signing: held in memory only, got with the secret that *read_secret* gives."""

    def __init__(self, record: DatastoreRecord, authority: str, read_secret: Callable[[], str]) -> None:
        """*authority* is where the cloud signs in, for records that do not say it."""
        self._record = record
        self._authority = _place_of(record.authority) or authority
        self._read_secret = read_secret
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

        secret = self._read_secret()
        if not secret:
            raise NotAllowed(f"The workspace gives no secret of the service principal of {self._record.label}.")
        try:
            credential = self._credential(secret)
        except ValueError as err:  # azure-identity's, for malformed ids
            raise NotAllowed(
                f"The service principal of {self._record.label} cannot sign in: its tenant '{self._record.tenant_id}' "
                "is no id and no domain.",
                hint="Update the datastore's credentials in the workspace.",
            ) from err
        try:
            token = credential.get_token(scope)
        except ClientAuthenticationError as err:
            raise NotAllowed(
                f"The service principal of {self._record.label} ({self._record.client_id}) cannot sign in.",
                hint="Has its secret expired? Update the datastore's credentials in the workspace.",
            ) from err
        except AzureError as err:
            raise ServiceFailed(
                f"The sign-in of {self._record.label}'s service principal failed: {type(err).__name__}."
            ) from err
        finally:
            credential.close()
        self._token, self._expires = token.token, float(token.expires_on)

    def _credential(self, secret: str) -> Any:
        from azure.identity import ClientSecretCredential

        from himl_cli.workspaces.azure.requests.trust import ca_bundle

        return ClientSecretCredential(
            self._record.tenant_id,
            self._record.client_id,
            secret,
            authority=self._authority,
            connection_verify=ca_bundle(),
        )


def _place_of(authority: str) -> str:
    """An authority's URL without a path: some hold the tenant too."""
    parts = parts_of(authority)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme == "https" and parts.netloc else ""
