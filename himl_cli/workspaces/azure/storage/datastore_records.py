"""The workspace's records of its datastores: their locations, and the signing of requests to them.

The records come from resource manager. It accepts no run token, so in a job himl uses the workspace's datastore service
with the requests of azureml-core (`azureml/data/datastore_client.py`), which reads datastores in a job in no other way.

Requests are signed with the workspace's secret for the datastore, or with the user's own sign-in. himl never stores an
account's key, or a SAS for an account: it derives a SAS for the one container, and caches this until it expires. Links
for other people give access to one blob (`FileSigner`).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar
from urllib.parse import quote

from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.errors import BadUsage, HimlError, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.installation import ca_bundle
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import parts_of
from himl_cli.workspaces.azure.config import ApiVersion, Cloud
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import load_azure_core
from himl_cli.workspaces.azure.responses import pages, understood
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.storage.blob_responses import NO_KEYS, ROLES, parse_xml
from himl_cli.workspaces.azure.storage.signing import (
    EARLY,
    TOKEN_SECONDS,
    BearerSigner,
    ContainerEndpoint,
    Signature,
    Signer,
    is_narrow,
    sas_expiry,
)
from himl_cli.workspaces.retry import RetryPolicy, is_transient
from himl_cli.workspaces.transfer_engine.curl import CurlPool, CurlResponse
from himl_cli.workspaces.transfer_engine.scheduler import Query, ask

log = logging.getLogger(__name__)

BLOB, LAKE = "AzureBlob", "AzureDataLakeGen2"
KINDS = {
    BLOB: "blob",
    LAKE: "Azure Data Lake Gen2",
    "AzureFile": "file share",
    "AzureDataLakeGen1": "Azure Data Lake Gen1",
    "OneLake": "OneLake",
}
SAS_HOURS = 8
SECRETS = "secrets"
OWN_SIGN_IN = "your own sign-in"
_SECRET_SIGN_INS = {"AccountKey": "a signature by the account's key", "Sas": "the datastore's SAS token"}
UPDATE = "Update the datastore's credentials in the workspace."
_WAYS_OUT = {
    "AzureFile": "Copy it to a blob datastore with azcopy, or mount it in a job on the cluster.",
    "AzureDataLakeGen1": "Azure retired Gen1 in 2024. Move the data to Gen2, and register a Gen2 datastore.",
    "OneLake": "Copy the data to a blob datastore, in Fabric or with azcopy.",
}
# Names of the datastore service that differ from resource manager's.
_JOB_NAMES = {"AzureDataLake": "AzureDataLakeGen1", "ClientCredentials": "ServicePrincipal"}

_DELEGATION_FIELDS = {
    "SignedOid": "signed_oid",
    "SignedTid": "signed_tid",
    "SignedStart": "signed_start",
    "SignedExpiry": "signed_expiry",
    "SignedService": "signed_service",
    "SignedVersion": "signed_version",
    "Value": "value",
}

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class DatastoreRecord:
    """A datastore. `credentials` is the kind of its secret, which the record does not contain.

    `tenant_id`, `client_id` and `authority` are those of its service principal, if any. Raises TypeError for a field of
    another type, ValueError for a blob container that is invalid in an address.
    """

    name: str
    type: str
    account: str
    container: str
    endpoint: str
    protocol: str
    credentials: str
    is_default: bool = False
    tenant_id: str = ""
    client_id: str = ""
    authority: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not isinstance(getattr(self, field.name), bool if field.name == "is_default" else str):
                raise TypeError(f"{field.name} is none")
        parts = (self.account, self.container, self.endpoint or "-")
        if self.type in (BLOB, LAKE) and not all(re.fullmatch(r"[\w.:$-]+", part, re.ASCII) for part in parts):
            raise ValueError("account, container and endpoint make no address")

    @classmethod
    def from_arm(cls, resource: Mapping[str, Any]) -> DatastoreRecord:
        """From resource manager's form. Raises KeyError, AttributeError, TypeError or ValueError for another one."""
        found = resource["properties"]
        signs = found.get("credentials") or {}
        container = found.get("containerName") or found.get("filesystem") or found.get("fileShareName")
        return cls(
            name=str(resource["name"]),
            type=str(found["datastoreType"]),
            account=str(found.get("accountName") or ""),
            container=str(container or ""),
            endpoint=str(found.get("endpoint") or ""),
            protocol=str(found.get("protocol") or ""),
            credentials=str(signs.get("credentialsType") or "None"),
            is_default=bool(found.get("isDefault")),
            tenant_id=str(signs.get("tenantId") or ""),
            client_id=str(signs.get("clientId") or ""),
            authority=str(signs.get("authorityUrl") or ""),
        )

    @classmethod
    def from_json(cls, stored: Any) -> DatastoreRecord | None:
        try:
            return cls(**stored)
        except (TypeError, ValueError):
            return None

    @property
    def label(self) -> str:
        return f"datastore '{self.name}'"

    def url(self, cloud: Cloud) -> str:
        """Its container on the blob endpoint. Raises BadUsage for a type without one."""
        if self.type not in (BLOB, LAKE):
            what = "a file share" if self.type == "AzureFile" else KINDS.get(self.type, self.type)
            raise BadUsage(
                f"The {self.label} is {what}, which himl cannot read.",
                hint=_WAYS_OUT.get(self.type, "Register the data as a blob datastore."),
            )
        host = f"{self.account}.blob.{self.endpoint or cloud.storage_suffix}"
        # himl omits TLS only for an emulator on this machine.
        is_plain = self.protocol == "http" and host.partition(":")[0].endswith(".localhost")
        return f"{'http' if is_plain else 'https'}://{host}/{self.container}"

    def info(self, cloud: Cloud) -> DatastoreInfo:
        location, service = self.container, "blob" if self.type in (BLOB, LAKE) else "file"
        if self.account:
            location = f"https://{self.account}.{service}.{self.endpoint or cloud.storage_suffix}/{self.container}"
        return DatastoreInfo(self.name, KINDS.get(self.type, self.type), location, self.is_default)


def read_record(connection: Connection, name: str) -> DatastoreRecord:
    """The datastore called *name*. Raises ServiceNotFound."""
    path, params = f"/datastores/{quote(name, safe='')}", {"api-version": ApiVersion.DATASTORES}
    return _by_run_token(
        connection,
        lambda: _read(connection, connection.service("datastore", path), _of_job_form),
        lambda: _read(connection, connection.arm(path), DatastoreRecord.from_arm, params),
    )


def read_default(connection: Connection) -> DatastoreRecord:
    """The default datastore. Raises ServiceNotFound, NotFound."""
    record = _by_run_token(
        connection,
        lambda: replace(_job_default(connection), is_default=True),
        lambda: next((one for one in _arm_records(connection, isDefault="true") if one.is_default), None),
    )
    if record is None:
        raise NotFound(f"The {connection.address.label} has no default datastore.", hint="Select one with --datastore.")
    return record


def read_all(connection: Connection) -> list[DatastoreRecord]:
    def from_job_service() -> list[DatastoreRecord]:
        default = _job_default(connection).name  # the list does not mark it
        url = connection.service("datastore", "/datastores")

        def ask(token: str | None) -> Any:
            return connection.get(url, params={"count": "30", **({"continuationToken": token} if token else {})}).body

        found = [resource for page in pages(ask, url, "datastores") for resource in page.items]
        with understood(url, "the datastore"):
            return [replace(one, is_default=one.name == default) for one in map(_of_job_form, found)]

    return _by_run_token(connection, from_job_service, lambda: _arm_records(connection))


def read_secret(connection: Connection, record: DatastoreRecord) -> Mapping[str, Any]:
    """The workspace's secret for the datastore, in the fields of resource manager's `listSecrets`.

    Requests the account's key itself, because the SAS in its place opens every container of the account, with deletion.
    Raises NotAllowed, ServiceFailed.
    """
    path = f"/datastores/{quote(record.name, safe='')}"

    def from_job_service() -> Mapping[str, Any]:
        url = connection.service("datastore", path)
        answer = connection.get(url).object("datastore")
        with understood(url, "the datastore"):
            section = answer.get("azureStorageSection") or {}
            return {
                "key": section.get("accountKey"),
                "sasToken": section.get("sasToken"),
                "clientSecret": (section.get("clientCredentials") or {}).get("clientSecret"),
            }

    def from_arm() -> Mapping[str, Any]:
        url, params = connection.arm(f"{path}/listSecrets"), {"api-version": ApiVersion.DATASTORE_SECRETS}
        try:
            return connection.post(url, params=params, json={"expirableSecret": False}).object("secret")
        except ServiceRefused as err:
            if err.status != 400:
                raise
            body = {"expirableSecret": True, "expireAfterHours": 1}  # as in azure-ai-ml
            return connection.post(url, params=params, json=body).object("secret")

    return _by_run_token(connection, from_job_service, from_arm)


def readable_secret(connection: Connection, record: DatastoreRecord) -> Mapping[str, Any] | None:
    """As `read_secret`, or None without permission. Raises ServiceFailed."""
    try:
        return read_secret(connection, record)
    except (NotAllowed, ServiceRefused, ServiceNotFound) as err:
        if isinstance(err, ServiceRefused) and is_transient(err.status):
            raise  # such an error is not about permissions
        log.debug("no permission to read the secret of %s (%s); using %s", record.label, err, OWN_SIGN_IN)
        return None


def _by_run_token(connection: Connection, ask: Callable[[], Answer], otherwise: Callable[[], Answer]) -> Answer:
    """The result of *ask* with the run token. Outside a job, or after a refusal, that of *otherwise* with an identity.

    Without an identity, raises the error of *ask*.
    """
    if not connection.has_run_token:
        return otherwise()
    try:
        return ask()
    except (NotAllowed, ServiceRefused) as err:
        log.debug("the run token gives no access to datastores (%s); using the job's identity", err)
        try:
            return otherwise()
        except NotAllowed:
            raise err from None


def _arm_records(connection: Connection, **query: str) -> list[DatastoreRecord]:
    url, params = connection.arm("/datastores"), {"api-version": ApiVersion.DATASTORES, "count": "30", **query}
    found = [*connection.resources(url, "datastores", params)]
    with understood(url, "the datastore"):
        return [DatastoreRecord.from_arm(resource) for resource in found]


def _read(
    connection: Connection,
    url: str,
    parse: Callable[[Mapping[str, Any]], DatastoreRecord],
    params: Mapping[str, str] | None = None,
) -> DatastoreRecord:
    answer = connection.get(url, params=params).object("datastore")
    with understood(url, "the datastore"):
        return parse(answer)


def _job_default(connection: Connection) -> DatastoreRecord:
    return _read(connection, connection.service("datastore", "/default"), _of_job_form)


def _of_job_form(resource: Mapping[str, Any]) -> DatastoreRecord:
    section = resource.get("azureStorageSection") or {}
    kind, secret = str(resource.get("dataStoreType") or ""), str(section.get("credentialType") or "None")
    signs = {**(section.get("clientCredentials") or {}), "credentialsType": _JOB_NAMES.get(secret, secret)}
    properties = {**section, "datastoreType": _JOB_NAMES.get(kind, kind), "credentials": signs}
    return DatastoreRecord.from_arm({"name": resource.get("name") or "", "properties": properties})


def signer_for(connection: Connection, record: DatastoreRecord, *, deletes: bool = False) -> Signer:
    """The signer of requests to the container of *record*, with *deletes* including deletions. Sends no request yet."""
    if record.credentials in _SECRET_SIGN_INS:
        return _SecretSigner(connection, record, deletes=deletes)
    if record.credentials == "ServicePrincipal" and record.client_id and record.tenant_id:
        return _PrincipalSigner(connection, record)
    return BearerSigner(connection.tokens, connection.address.cloud.storage_scope, OWN_SIGN_IN)


class _SecretSigner(BearerSigner):
    """Signs with a SAS from the datastore's secret, or with the user's own sign-in if the secret is unreadable or the
    account accepts no keys. A SAS that permits deletion, or is for a whole account, is not cached on disk."""

    def __init__(self, connection: Connection, record: DatastoreRecord, *, deletes: bool) -> None:
        super().__init__(
            connection.tokens, connection.address.cloud.storage_scope, _SECRET_SIGN_INS[record.credentials]
        )
        self._connection = connection
        self._record = record
        self._deletes = deletes
        self._over: tuple[float, HimlError] | None = None  # an error, and until when to raise it
        self._key = connection.key(f"secret {record.name.lower()} {record.account}/{record.container}")

    def _make(self, refused: Signature | None, code: str) -> Signature:
        if self.sign_in == OWN_SIGN_IN:
            return super()._make(refused, code)
        cache, secret = self._connection.kept, None
        if refused is not None:
            cache.forget(SECRETS, self._key)
        if code not in NO_KEYS:
            if self._over is not None and time.time() < self._over[0]:
                raise self._over[1]
            sas = None if self._deletes else cache.get(SECRETS, self._key)
            if isinstance(sas, str) and is_narrow(sas):
                return Signature.of_sas(sas)
            secret = readable_secret(self._connection, self._record)
        if secret is None:
            self.sign_in = OWN_SIGN_IN
            return super()._make(None, "")
        signature = Signature.of_sas(_container_sas(secret, self._record, deletes=self._deletes))
        if 0 < signature.expires <= time.time():  # the workspace returned an expired SAS
            ended = datetime.fromtimestamp(signature.expires, timezone.utc)
            error = NotAllowed(
                f"The SAS of {self._record.label} expired on {ended:%Y-%m-%d at %H:%M} UTC.",
                hint="Ask its owner to renew it and to update the datastore's credentials in the workspace. If this "
                "time is in the future, check this machine's clock.",
            )
            self._over = time.time() + TOKEN_SECONDS, error
            raise error
        if is_narrow(signature.query):
            cache.put(SECRETS, self._key, signature.query, seconds=signature.renew_at - time.time())
        return signature


def _container_sas(secret: Mapping[str, Any], record: DatastoreRecord, *, deletes: bool) -> str:
    token, key = str(secret.get("sasToken") or "").lstrip("?"), str(secret.get("key") or "")
    if token:
        return token
    if not key:
        raise ServiceFailed(f"The workspace returned no usable secret for {record.label}.", hint=UPDATE)
    load_azure_core()
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    try:
        return generate_container_sas(
            record.account,
            record.container,
            account_key=key,
            permission=ContainerSasPermissions(read=True, write=True, create=True, list=True, delete=deletes),
            expiry=datetime.now(timezone.utc) + timedelta(hours=SAS_HOURS),  # no start, because clocks differ
            protocol="https,http" if record.protocol == "http" else "https",
        )
    except ValueError as err:  # includes AzureSigningError, for a key that is not base64
        raise HimlError(f"The account key of {record.label} is not valid.", hint=UPDATE) from err


class _PrincipalSigner(Signer):
    """Signs with tokens of a datastore's service principal, which stay in memory."""

    sign_in = "the datastore's service principal"

    def __init__(self, connection: Connection, record: DatastoreRecord) -> None:
        super().__init__()
        self._connection = connection
        self._record = record

    def _make(self, refused: Signature | None, code: str) -> Signature:
        load_azure_core()
        from azure.core.exceptions import AzureError, ClientAuthenticationError
        from azure.identity import ClientSecretCredential

        record, cloud = self._record, self._connection.address.cloud
        secret = str(read_secret(self._connection, record).get("clientSecret") or "")
        if not secret:
            raise NotAllowed(f"The workspace returned no secret of the service principal of {record.label}.")
        parts = parts_of(record.authority)  # some have the tenant as their path
        authority = f"https://{parts.netloc}" if parts.scheme == "https" and parts.netloc else cloud.authority
        try:
            with ClientSecretCredential(
                record.tenant_id, record.client_id, secret, authority=authority, connection_verify=ca_bundle()
            ) as credential:
                token = credential.get_token(cloud.storage_scope)
        except ValueError as err:  # azure-identity's, for malformed ids
            raise NotAllowed(
                f"The service principal of {record.label} cannot sign in: its tenant '{record.tenant_id}' is not an id "
                "or a domain.",
                hint=UPDATE,
            ) from err
        except ClientAuthenticationError as err:
            raise NotAllowed(
                f"The service principal of {record.label} ({record.client_id}) cannot sign in.",
                hint=f"Check whether its secret expired. {UPDATE}",
            ) from err
        except AzureError as err:
            raise ServiceFailed(
                f"The sign-in of {record.label}'s service principal failed: {type(err).__name__}."
            ) from err
        return Signature.of_token(token.token, float(token.expires_on) - EARLY)


class FileSigner(Signer):
    """Signs a link for other people, with read access to one blob for at most *days*.

    It signs with the account's key, which it requests for this and stores nowhere. If the key is unreadable or the
    account accepts none, it signs with a key for the user's own sign-in, which is valid for at most a week. himl never
    gives away a datastore's SAS, because this gives access to the whole container.
    """

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
        # The link is valid from the past on, for machines whose clocks are behind. The interval is short, because an
        # account's policy may limit the lifetime, which counts from the start.
        self._starts = datetime.now(timezone.utc) - min(timedelta(minutes=15), lasts / 10)
        self._ends = self._starts + lasts

    def _make(self, refused: Signature | None, code: str) -> Signature:
        if refused is not None:
            return self._by_own_sign_in() if code in NO_KEYS and self.sign_in != OWN_SIGN_IN else refused
        is_key = self._record.credentials == "AccountKey"
        secret = readable_secret(self._connection, self._record) if is_key else None
        key = str((secret or {}).get("key") or "")
        if not key:
            return self._by_own_sign_in()
        self.sign_in = "a signature by the account's key"
        try:
            return self._signed(self._ends, account_key=key)
        except ValueError as err:  # not base64
            raise HimlError(f"The account key of {self._record.label} is not valid.", hint=UPDATE) from err

    def _by_own_sign_in(self) -> Signature:
        self.sign_in = OWN_SIGN_IN
        ends = min(self._ends, self._starts + timedelta(days=7))  # the service's limit for such a key
        signer = BearerSigner(self._connection.tokens, self._connection.address.cloud.storage_scope, OWN_SIGN_IN)
        endpoint = ContainerEndpoint(self._url, "", signer, "the storage account")
        start, expiry = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (self._starts, ends))
        query = Query(
            "the key to sign links with",
            endpoint,
            RetryPolicy(),
            _delegation_key_in,
            "Content-Type: application/xml",
            sign=lambda: endpoint.signed_account("restype=service&comp=userdelegationkey"),
            method="POST",
            content=f"<KeyInfo><Start>{start}</Start><Expiry>{expiry}</Expiry></KeyInfo>".encode(),
        )
        try:
            key = ask(query, self._pool)
        except NotAllowed as err:
            if err.hint == ROLES:
                err.hint = (
                    "Ask for the role 'Storage Blob Data Reader' on the storage account. If you have it on only the "
                    "container, ask for 'Storage Blob Delegator' on the account."
                )
            if self._record.credentials != "Sas":
                raise
            raise NotAllowed(
                f"himl does not share the SAS of {self._record.label}, which covers its whole container. {err}",
                hint=err.hint,
            ) from err
        return self._signed(ends, user_delegation_key=key)

    def _signed(self, ends: datetime, **key: Any) -> Signature:
        load_azure_core()
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
    load_azure_core()
    from azure.storage.blob import UserDelegationKey

    key = UserDelegationKey()  # type: ignore[no-untyped-call]
    try:
        tree = parse_xml(response.take())
    except ValueError as err:
        raise ServiceFailed(
            "Storage returned no key for signing links.", hint="Check for a proxy or a sign-in page of this network."
        ) from err
    for tag, name in _DELEGATION_FIELDS.items():
        value = tree.findtext(tag)
        if not value:
            raise ServiceFailed(f"Storage's key for signing links has no {tag}.")
        setattr(key, name, value)
    return key
