"""Translation of storage's responses: into a blob's properties, or a failed request's libcurl number, status and error
code into a HimlError."""

from __future__ import annotations

import logging
import re
import time
from datetime import datetime, timezone
from xml.etree import ElementTree

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import BlobChanged, HimlError, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import redact
from himl_cli.workspaces.azure.responses import TOLERABLE_SECONDS, clock_skew, describe_skew
from himl_cli.workspaces.retry import Failure
from himl_cli.workspaces.transfer_engine.curl import CurlResponse
from himl_cli.workspaces.transfer_engine.failures import BlobNotFound, connection_failure, error_code, transient_failure
from himl_cli.workspaces.transfer_engine.headers import etag_of, http_time, md5_from, size_from
from himl_cli.workspaces.transfer_engine.scheduler import Endpoint

log = logging.getLogger(__name__)

CHANGING_PROXY = "Check for a proxy that changes responses."
RIGHT_MISSING = ("AuthorizationPermissionMismatch", "InsufficientAccountPermissions", "UnauthorizedBlobOverwrite")
NO_KEYS = ("KeyBasedAuthenticationNotPermitted", "PublicAccessNotPermitted")
_UNKNOWN_SIGN_IN = ("AuthenticationFailed", "InvalidAuthenticationInfo")

ROLES = "Ask for the role 'Storage Blob Data Reader' to read, 'Storage Blob Data Contributor' to write."
_WHO = "Check that you are signed in to the storage account's tenant with the right account: himl doctor"
_CREDENTIALS = "If the account's key or the datastore's SAS token changed, update the datastore's credentials."
_UPDATE = "Its owner should update the datastore's credentials in the workspace."
# By the end of the name of the signing method. All others are sign-ins.
_CHANGED = {
    "link": "The key of the workspace's storage account may have changed. Its owner should synchronise the workspace's "
    "keys.",
    "key": f"The workspace's key of the account is probably outdated. {_UPDATE}",
    "SAS token": f"It was probably revoked, or is for another container. {_UPDATE}",
}


class BlocksUnsupported(ServiceFailed):
    """The blob does not consist of blocks, so it can only be replaced as a whole."""


# Error type, message and hint by the service's code, or else by the status.
_CHECK = "Check the state of the storage account and of the file in the portal."
_BY_CODE: dict[str, tuple[type[HimlError], str, str]] = {
    "BlobArchived": (
        ServiceFailed,
        "{blob} is in the archive tier.",
        "Set its access tier to Hot or Cool, which takes hours.",
    ),
    "BlobImmutableDueToPolicy": (
        NotAllowed,
        "{blob} is protected by an immutability policy.",
        "Store it under another name.",
    ),
    "BlobOperationNotSupported": (
        BlocksUnsupported,
        "A program created {blob} through the lake's own interface (dfs), so himl cannot replace it in blocks.",
        "Delete it first.",
    ),
    "InvalidBlobType": (
        ServiceFailed,
        "{blob} is of another type (an append or page blob).",
        "Delete it, or use another name.",
    ),
    "InvalidBlockList": (
        ServiceFailed,
        "Parts of {blob} are missing, because another program is writing it.",
        "Run the command again when no other program writes it.",
    ),
    "LeaseIdMissing": (ServiceFailed, "{blob} is locked by a lease.", "The lease's owner must release it."),
    **dict.fromkeys(
        ("ContainerNotFound", "ContainerBeingDeleted", "FilesystemNotFound", "ResourceNotFound"),
        (
            NotFound,
            "{Storage} has no container '{container}' ({label}).",
            "Check whether it was deleted, or the datastore has a wrong container.",
        ),
    ),
    **dict.fromkeys(
        RIGHT_MISSING,
        (NotAllowed, "You may not do this in container '{container}' of {storage}{with_sign_in}.", ROLES),
    ),
    **dict.fromkeys(NO_KEYS, (NotAllowed, "{Storage} accepts no account keys, and your sign-in lacks a role.", ROLES)),
    **dict.fromkeys(
        ("AuthorizationFailure", "AuthorizationSourceIPMismatch", "IpAuthorizationFailed", "NetworkAclDenied"),
        (
            NotAllowed,
            "The firewall of {storage} blocks this machine, or you lack a role for its data ({code}).",
            "Use a network that its rules allow, or have this machine's address added. To read, you need the role "
            "'Storage Blob Data Reader'.",
        ),
    ),
    "401": (NotAllowed, "{Storage} refuses the request ({reason}).", "Check the sign-in and the roles: himl doctor"),
    "403": (NotAllowed, "{Storage} refuses the request ({reason}).", "Check the sign-in and the roles: himl doctor"),
    "404": (BlobNotFound, "No file {blob}.", ""),
    "412": (
        BlobChanged,
        "'{name}' changed during the transfer.",
        "Run the command again when no program writes to it.",
    ),
    "416": (BlobChanged, "'{name}' is shorter than listed.", ""),
    "3xx": (
        ServiceFailed,
        "{host} redirects requests (HTTP {status}), so it is not Azure Storage.",
        "Check for a proxy or a sign-in page of this network.",
    ),
}


class StorageEndpoint(Endpoint):
    """A container of Azure Storage, or links to its blobs."""

    def __init__(self) -> None:
        super().__init__()
        self.account = self.container = self.sign_in = ""

    @property
    def storage(self) -> str:
        return f"storage account '{self.account}'"

    def failure(self, response: CurlResponse, name: str) -> Failure:
        if response.failure is not None:
            return connection_failure(response.failure, self.host, f"{self.storage} ({self.label})")
        status, body = response.status, response.take() if len(response.chunks) < 64 else b""
        code = response.header(b"x-ms-error-code") or error_code(body)
        request_id = response.header(b"x-ms-request-id")
        log.debug(
            "storage answered %d %s to a request for '%s' (request id %s)", status, code, redact(name), request_id
        )
        if status in (401, 403):
            error = _sign_in_error(response, body, self, code) or _error(status, code, self, name)
            return Failure(error, code, is_refusal=True, again=_refused_again(response, self, code))
        transient = transient_failure(response, self.storage.capitalize(), code)
        return transient or Failure(_error(status, code, self, name), code)


def parse_xml(content: bytes) -> ElementTree.Element:
    """The root of a document in UTF-8. Raises ValueError for invalid XML, and for a document type, since older parsers
    expand its entities without a limit."""
    if b"<!DOCTYPE" in content or b"\0" in content:  # the latter is in each document in UTF-16
        raise ValueError("it has a document type, or is not UTF-8")
    parser = ElementTree.XMLParser(encoding="utf-8")  # noqa: S314 - without a document type, there are no entities
    try:
        return ElementTree.fromstring(content, parser)  # noqa: S314
    except ElementTree.ParseError as err:
        raise ValueError(str(err)) from err


def _error(status: int, code: str, endpoint: StorageEndpoint, name: str) -> HimlError:
    fallback = ServiceFailed, "{Storage} refused the request for '{name}' ({reason}).", _CHECK
    kind, message, hint = _BY_CODE.get(code) or _BY_CODE.get("3xx" if 300 <= status < 400 else f"{status}") or fallback
    if code in RIGHT_MISSING and endpoint.sign_in.endswith("SAS token"):
        hint = "A SAS token needs permission to read and list, for uploads to create and write, and to delete files."
    message = message.format(
        blob=f"'{name}' in {endpoint.label}",
        name=name,
        label=endpoint.label,
        host=endpoint.host,
        container=endpoint.container,
        storage=endpoint.storage,
        Storage=endpoint.storage.capitalize(),
        with_sign_in=f" with {endpoint.sign_in}" if endpoint.sign_in else "",
        status=status,
        code=code,
        reason=f"{status} {code or 'without a reason'}",
    )
    return kind(message, hint=hint)


def _sign_in_error(response: CurlResponse, body: bytes, endpoint: StorageEndpoint, code: str) -> NotAllowed | None:
    storage, off = endpoint.storage.capitalize(), _clock_off(response)
    if off is not None and code in (*_UNKNOWN_SIGN_IN, "AuthorizationFailure", ""):
        return NotAllowed(
            f"{storage} refuses the sign-in, and this machine's clock is {describe_skew(off)} the service's.",
            hint="Set the clock (or enable its synchronisation), and run the command again.",
        )
    if code not in _UNKNOWN_SIGN_IN and not (code == "AuthorizationFailure" and _is_over(endpoint)):
        return None
    hint = _CREDENTIALS if endpoint.sign_in.endswith("SAS token") or "key" in endpoint.sign_in else _WHO
    if _is_over(endpoint):
        ends = datetime.fromtimestamp(endpoint.expires, timezone.utc)
        message = f"{storage} refuses {endpoint.sign_in}, which expired on {ends:%Y-%m-%d %H:%M} UTC."
        return NotAllowed(message, hint=hint)
    found = re.search(rb"<AuthenticationErrorDetail>([^<]*)</AuthenticationErrorDetail>", body)
    detail = (found[1] if found else body).decode("utf-8", "replace").lower()
    why = "expired" if "time frame" in detail or "expired" in detail else "not valid"
    return NotAllowed(f"{storage} reports that {endpoint.sign_in or 'the sign-in'} is {why}.", hint=hint)


def _refused_again(response: CurlResponse, endpoint: StorageEndpoint, code: str) -> NotAllowed | None:
    """The error for a new signature of *endpoint* that was refused with *code* again, or None if a retry adds no
    information."""
    if code not in _UNKNOWN_SIGN_IN or _is_over(endpoint) or _clock_off(response) is not None:
        return None
    signs = endpoint.sign_in or "the sign-in"
    return NotAllowed(
        f"{endpoint.storage.capitalize()} refuses {signs}, even after its renewal ({code}).",
        hint=next((hint for end, hint in _CHANGED.items() if signs.endswith(end)), _WHO),
    )


def _is_over(endpoint: StorageEndpoint) -> bool:
    return 0 < endpoint.expires < time.time()


def _clock_off(response: CurlResponse) -> float | None:
    """Seconds by which this clock is ahead of the service's, if the difference matters."""
    off = clock_skew({"date": response.header(b"date")}) or 0.0
    return off if abs(off) > TOLERABLE_SECONDS else None


@dataclass(frozen=True)
class Properties:
    """The properties from a HEAD: the blob, whether it is an append blob, and its creation time."""

    blob: BlobInfo
    is_append_blob: bool
    is_directory: bool
    created: datetime | None


def properties_of(response: CurlResponse, name: str) -> Properties:
    """The properties in the response to a HEAD for *name*. Raises ServiceFailed without a size."""
    size = size_from(response.header(b"content-length"))
    if size is None:
        raise ServiceFailed(f"Storage returned no size of '{name}'.", hint=CHANGING_PROXY)
    modified = http_time(response.header(b"last-modified"))
    is_folder = response.header(b"x-ms-meta-hdi_isfolder").lower() == "true"
    return Properties(
        BlobInfo(name, size, etag_of(response), md5_from(response.header(b"content-md5")), modified),
        response.header(b"x-ms-blob-type") == "AppendBlob",
        is_folder or response.header(b"x-ms-resource-type") == "directory",
        http_time(response.header(b"x-ms-creation-time")),
    )


def stored_blob(response: CurlResponse, request: StoreRequest, md5: bytes) -> BlobInfo:
    return BlobInfo(request.name, request.size, etag_of(response), md5, http_time(response.header(b"last-modified")))
