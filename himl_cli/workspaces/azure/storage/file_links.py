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

from himl_cli.core.checkpoints import SignedLink
from himl_cli.core.errors import HimlError, NotAllowed, NotFound
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.storage.artifact_links import LinkAccess
from himl_cli.workspaces.azure.storage.blobs.container import AzureBlobs
from himl_cli.workspaces.azure.storage.blobs.lines import Exchanger
from himl_cli.workspaces.azure.storage.blobs.names import can_be_asked_for, quoted
from himl_cli.workspaces.azure.storage.blobs.refusals import NO_KEYS, ROLES
from himl_cli.workspaces.azure.storage.blobs.signing import BearerSigner, Signature, Signer, sas_expiry
from himl_cli.workspaces.azure.storage.datastore_records import DatastoreRecord
from himl_cli.workspaces.azure.storage.datastore_signing import OWN_SIGN_IN, readable_secret
from himl_cli.workspaces.azure.storage.user_delegation import LONGEST, delegation_key

log = logging.getLogger(__name__)

SKEW = timedelta(minutes=15)
"""A link is good from so long ago on, for clocks that are behind the one here; one for less than some hours from a part
of its time."""
ROLE = (
    "Ask for the role 'Storage Blob Data Reader' on the storage account; if you have it on the container "
    "alone, for "
    "'Storage Blob Delegator' on the account."
)


def link_to_artifact(
    connection: Connection,
    exchanger: Exchanger,
    container_id: str,
    label: str,
    name: str,
    days: float,
    find_record: Callable[[], DatastoreRecord],
) -> SignedLink:
    """A link to the artifact *name* kept under *container_id*; *find_record* gives the datastore of artifacts.

    Raises NotFound where the file is not there, NotAllowed where no link can be made, ServiceFailed.
    """
    if not can_be_asked_for(name):
        raise NotFound(f"No file '{name}' in {label}.")
    try:
        return _signed_here(connection, exchanger, find_record(), f"ExperimentRun/{container_id}/", name, label, days)
    except NotAllowed as err:
        given = _given_by_service(connection, container_id, label, name, days)
        if given is None:
            raise
        log.debug("no link can be signed here (%s): the artifact service made one", err)
        return given


def _signed_here(
    connection: Connection, exchanger: Exchanger, record: DatastoreRecord, root: str, name: str, label: str, days: float
) -> SignedLink:
    """The link, once it was tried: the file is there, and the service takes the signature."""
    url = record.url(connection.address.cloud)
    signer = _FileSigner(connection, record, exchanger, url, f"{root}{name}", days)
    if AzureBlobs(url, signer, root=root, label=label, exchanger=exchanger).stat(name) is None:
        raise NotFound(f"No file '{name}' in {label}.")
    signature = signer.current()
    return SignedLink(
        f"{url}/{quoted(root + name)}?{signature.query}", datetime.fromtimestamp(signature.expires, timezone.utc)
    )


class _FileSigner(Signer):
    """Signs for the one *blob*, for reading it."""

    def __init__(
        self, connection: Connection, record: DatastoreRecord, exchanger: Exchanger, url: str, blob: str, days: float
    ) -> None:
        super().__init__()
        self.sign_in = OWN_SIGN_IN
        self._connection = connection
        self._record = record
        self._exchanger = exchanger
        self._url = url
        self._blob = blob
        lasts = timedelta(days=days)
        self._starts = datetime.now(timezone.utc) - min(SKEW, lasts / 10)
        # An account may refuse what lasts longer than its policy says, counted from the start
        self._ends = self._starts + lasts

    def _make(self, refused: Signature | None, code: str) -> Signature:
        if refused is not None:
            return self._by_own_sign_in() if code in NO_KEYS and self.sign_in != OWN_SIGN_IN else refused
        key = self._account_key()
        if not key:
            return self._by_own_sign_in()
        self.sign_in = "a signature by the account's key"
        try:
            return self._signed_by(self._ends, account_key=key)
        except ValueError as err:  # no base64
            raise HimlError(
                f"The account key of {self._record.label} is no key.",
                hint="Update the datastore's credentials in the workspace.",
            ) from err

    def _account_key(self) -> str:
        """Empty where there is none to be had."""
        if self._record.credentials != "AccountKey":
            return ""
        return str((readable_secret(self._connection, self._record, as_it_is=True) or {}).get("key") or "")

    def _by_own_sign_in(self) -> Signature:
        self.sign_in = OWN_SIGN_IN
        ends = min(self._ends, self._starts + LONGEST)
        bearer = BearerSigner(self._connection.tokens, self._connection.address.cloud.storage_scope, OWN_SIGN_IN)
        try:
            key = delegation_key(self._url, bearer, self._exchanger, self._starts, ends)
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

    def _signed_by(self, ends: datetime, **key: Any) -> Signature:
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        protocol = "https,http" if self._url.startswith("http:") else "https"
        terms: dict[str, Any] = {
            "permission": BlobSasPermissions(read=True),
            "start": self._starts,
            "expiry": ends,
            "protocol": protocol,
        }
        sas = generate_blob_sas(self._record.account, self._record.container, self._blob, **terms, **key)
        return Signature(query=sas, expires=sas_expiry(sas))


def _given_by_service(
    connection: Connection, container_id: str, label: str, name: str, days: float
) -> SignedLink | None:
    """The artifact service's link, where it is no more than was asked for. Raises NotFound."""
    try:
        url = LinkAccess(connection, container_id, label).signed(name).url
    except NotFound:
        raise
    except HimlError as err:
        log.debug("the artifact service gives no link: %s", err)
        return None
    terms, ends = parse_qs(urlsplit(url).query), sas_expiry(urlsplit(url).query)
    is_narrow = terms.get("sp") == ["r"] and terms.get("sr") == ["b"]
    if not is_narrow or not 0 < ends - time.time() <= days * 86400:
        return None
    return SignedLink(url, datetime.fromtimestamp(ends, timezone.utc))
