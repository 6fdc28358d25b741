"""Links by which anybody can read one file of a run for some days.

A link that is made here opens that one blob for reading and nothing else. It is signed with the account's key, which is
asked for then and kept nowhere; where that may not be read or does not count, with a key for the user's own sign-in,
which lives for a week at most. The SAS of a datastore is never given away: it opens the whole container. What is left
then is the link that the artifact service makes, if it is for this one file and ends in time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

from himl_cli.core.checkpoints import SignedLink
from himl_cli.core.errors import HimlError, NotAllowed, NotFound, ServiceFailed
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.storage.artifacts import LinkEndpoint
from himl_cli.workspaces.azure.storage.container import AzureBlobs
from himl_cli.workspaces.azure.storage.curl import CurlPool, CurlResponse
from himl_cli.workspaces.azure.storage.datastore_records import DatastoreRecord
from himl_cli.workspaces.azure.storage.datastore_signing import OWN_SIGN_IN, readable_secret
from himl_cli.workspaces.azure.storage.failures import ROLES
from himl_cli.workspaces.azure.storage.properties import quoted, reason_not_to_ask
from himl_cli.workspaces.azure.storage.scheduler import Query, ask
from himl_cli.workspaces.azure.storage.signing import (
    NO_KEYS,
    BearerSigner,
    ContainerEndpoint,
    Signature,
    Signer,
    sas_expiry,
)
from himl_cli.workspaces.retry import RetryPolicy

log = logging.getLogger(__name__)

SKEW = timedelta(minutes=15)
"""A link is good from so long ago on, for clocks that are behind the one here; one for less than some hours from a part
of its time."""
LONGEST_DELEGATION = timedelta(days=7)
"""How long the service lets a key for a sign-in live, and so every link that is signed with it."""
ROLE = (
    "Ask for the role 'Storage Blob Data Reader' on the storage account; if you have it on the container alone, for "
    "'Storage Blob Delegator' on the account."
)
_DELEGATION_FIELDS = {
    "SignedOid": "signed_oid",
    "SignedTid": "signed_tid",
    "SignedStart": "signed_start",
    "SignedExpiry": "signed_expiry",
    "SignedService": "signed_service",
    "SignedVersion": "signed_version",
    "Value": "value",
}


def link_to_artifact(
    connection: Connection,
    pool: CurlPool,
    container_id: str,
    label: str,
    name: str,
    days: float,
    find_record: Callable[[], DatastoreRecord],
) -> SignedLink:
    """A link to the artifact *name* kept under *container_id*; *find_record* gives the datastore of artifacts.

    A link that is signed here was tried: the file is there, and the service accepts the signature. Raises NotFound
    where the file is not there, NotAllowed where no link can be made, ServiceFailed.
    """
    if reason_not_to_ask(name):
        raise NotFound(f"No file '{name}' in {label}.")
    try:
        record, root = find_record(), f"ExperimentRun/{container_id}/"
        url = record.url(connection.address.cloud)
        signer = _FileSigner(connection, record, pool, url, f"{root}{name}", days)
        if AzureBlobs(url, signer, root=root, label=label, pool=pool).stat(name) is None:
            raise NotFound(f"No file '{name}' in {label}.")
        return _link(f"{url}/{quoted(root + name)}?{signer.current().query}", signer.expires)
    except NotAllowed as err:
        given = _given_by_service(connection, container_id, label, name, days)
        if given is None:
            raise
        log.debug("no link can be signed here (%s): the artifact service made one", err)
        return given


def _link(url: str, expires: float) -> SignedLink:
    return SignedLink(url, datetime.fromtimestamp(expires, timezone.utc))


def _given_by_service(
    connection: Connection, container_id: str, label: str, name: str, days: float
) -> SignedLink | None:
    """The artifact service's link, where it is no more than was asked for. Raises NotFound."""
    try:
        url = LinkEndpoint(connection, container_id, label).signed(name).url
    except NotFound:
        raise
    except HimlError as err:
        log.debug("the artifact service gives no link: %s", err)
        return None
    terms, ends = parse_qs(urlsplit(url).query), sas_expiry(urlsplit(url).query)
    is_narrow = terms.get("sp") == ["r"] and terms.get("sr") == ["b"]
    return _link(url, ends) if is_narrow and 0 < ends - time.time() <= days * 86400 else None


class _FileSigner(Signer):
    """Signs for the one *blob*, for reading it."""

    def __init__(
        self, connection: Connection, record: DatastoreRecord, pool: CurlPool, url: str, blob: str, days: float
    ) -> None:
        super().__init__()
        self.sign_in = OWN_SIGN_IN
        self._connection = connection
        self._record = record
        self._pool = pool
        self._url = url
        self._blob = blob
        lasts = timedelta(days=days)
        # An account may refuse what lasts longer than its policy says, counted from the start
        self._starts = datetime.now(timezone.utc) - min(SKEW, lasts / 10)
        self._ends = self._starts + lasts

    def _make(self, refused: Signature | None, code: str) -> Signature:
        if refused is not None:
            return self._by_own_sign_in() if code in NO_KEYS and self.sign_in != OWN_SIGN_IN else refused
        key = ""
        if self._record.credentials == "AccountKey":
            key = str((readable_secret(self._connection, self._record, as_it_is=True) or {}).get("key") or "")
        if not key:
            return self._by_own_sign_in()
        self.sign_in = "a signature by the account's key"
        try:
            return self._signed_by(self._ends, account_key=key)
        except ValueError as err:  # no base64
            hint = "Update the datastore's credentials in the workspace."
            raise HimlError(f"The account key of {self._record.label} is no key.", hint=hint) from err

    def _by_own_sign_in(self) -> Signature:
        self.sign_in = OWN_SIGN_IN
        ends = min(self._ends, self._starts + LONGEST_DELEGATION)
        try:
            key = self._delegation_key(ends)
        except NotAllowed as err:
            if err.hint == ROLES:
                err.hint = ROLE
            if self._record.credentials != "Sas":
                raise
            raise NotAllowed(
                f"The SAS of {self._record.label} is not given away: it opens all of its container. {err}",
                hint=err.hint,
            ) from err
        return self._signed_by(ends, user_delegation_key=key)

    def _delegation_key(self, ends: datetime) -> Any:
        """The vendor's `UserDelegationKey` of the account for the user's sign-in. Raises NotAllowed, ServiceFailed."""
        signer = BearerSigner(self._connection.tokens, self._connection.address.cloud.storage_scope, OWN_SIGN_IN)
        endpoint = ContainerEndpoint(self._url, "", signer, "the storage account")
        start, expiry = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (self._starts, ends))
        query = Query(
            "the key to sign links with",
            endpoint,
            RetryPolicy(),
            _delegation_key_in,
            "Content-Type: application/xml",
            signed=lambda: endpoint.signed_account("restype=service&comp=userdelegationkey"),
            method="POST",
            body=f"<KeyInfo><Start>{start}</Start><Expiry>{expiry}</Expiry></KeyInfo>".encode(),
        )
        return ask(query, self._pool)

    def _signed_by(self, ends: datetime, **key: Any) -> Signature:
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        sas = generate_blob_sas(
            self._record.account,
            self._record.container,
            self._blob,
            permission=BlobSasPermissions(read=True),
            start=self._starts,
            expiry=ends,
            protocol="https,http" if self._url.startswith("http:") else "https",
            **key,
        )
        return Signature(query=sas, expires=sas_expiry(sas))


def _delegation_key_in(response: CurlResponse) -> Any:
    from azure.storage.blob import UserDelegationKey

    key = UserDelegationKey()  # type: ignore[no-untyped-call]
    try:
        tree = ElementTree.fromstring(response.take())
    except ElementTree.ParseError as err:
        raise ServiceFailed(
            "Storage sent something else than a key to sign links with.", hint="Is a proxy or a log-in page in between?"
        ) from err
    for tag, name in _DELEGATION_FIELDS.items():
        value = tree.findtext(tag)
        if not value:
            raise ServiceFailed(f"The key to sign links with that storage sent has no {tag}.")
        setattr(key, name, value)
    return key
