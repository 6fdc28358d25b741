"""Translation of storage's responses: into a blob's properties, or a failed request's libcurl number, status and error
code into a HimlError."""

from __future__ import annotations

import errno
import logging
import re
import time
from datetime import datetime, timezone
from urllib.parse import urlsplit
from xml.etree import ElementTree

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import BlobChanged, HimlError, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import redact
from himl_cli.workspaces.azure.responses import (
    TOLERABLE_SECONDS,
    clock_skew,
    describe_skew,
    http_time,
    md5_from,
    retry_after,
    size_from,
)
from himl_cli.workspaces.azure.service_errors import not_connected, proxy_failed
from himl_cli.workspaces.azure.storage.curl import CurlResponse, proxy_for
from himl_cli.workspaces.azure.storage.signing import NO_KEYS, RIGHT_MISSING, Endpoint
from himl_cli.workspaces.retry import Failure

log = logging.getLogger(__name__)

CHANGING_PROXY = "Check for a proxy that changes responses."
TRANSIENT = {408, 429, 500, 502, 503, 504, 509}
FEW = 3  # attempts for what is probably a wrong name or setting, and for what takes half a minute each
# libcurl's numbers: https://curl.se/libcurl/c/libcurl-errors.html
NO_PROXY_NAME, NO_HOST, NO_CONNECTION, TIMED_OUT, TLS_FAILED, BAD_CERTIFICATE, BAD_BUNDLE = 5, 6, 7, 28, 35, 60, 77
_HOPELESS = {1, 3, 4, 27, 48, 58, 59, 60, 66, 77, 80, 82, 83, 90, 91}

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


class BlobNotFound(NotFound):
    """The container exists, but not the blob."""


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


def failure_of(response: CurlResponse, endpoint: Endpoint, name: str) -> Failure:
    """The failure of a request for *name*."""
    if response.failure is not None:
        return connection_failure(response.failure, endpoint)
    status, body = response.status, response.take() if len(response.chunks) < 64 else b""
    code = response.header(b"x-ms-error-code") or error_code(body)
    request_id = response.header(b"x-ms-request-id")
    log.debug("storage answered %d %s to a request for '%s' (request id %s)", status, code, redact(name), request_id)
    if status in (401, 403):
        error = _sign_in_error(response, body, endpoint, code) or _error(status, code, endpoint, name)
        return Failure(error, code, is_refusal=True, again=_refused_again(response, endpoint, code))
    if status in TRANSIENT:
        return transient_failure(response, endpoint.storage.capitalize(), code)
    return Failure(_error(status, code, endpoint, name), code)


def transient_failure(response: CurlResponse, who: str, code: str = "") -> Failure:
    """The failure for a transient status from *who*."""
    status, wait = response.status, retry_after(lambda field: response.header(field.encode()))
    reason = f"{status} {code}".rstrip()
    if status not in (429, 503) and code != "ServerBusy":
        error = ServiceFailed(f"{who} keeps failing ({reason}).", hint="Try again later.")
    else:
        what = f"requests a wait of {wait:.0f} s" if wait is not None and wait >= 1 else "is busy, even after waiting"
        error = ServiceFailed(f"{who} {what} ({reason}).", hint="Try again later, or with fewer --workers.")
    return Failure(error, code, may_pass=True, retry_after=wait, message=f"{who} answered {status}")


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


def error_code(body: bytes) -> str:
    found = re.search(rb"<Code>([^<]*)</Code>", body)
    return found[1].decode("ascii", "replace") if found else ""


def _error(status: int, code: str, endpoint: Endpoint, name: str) -> HimlError:
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


def _sign_in_error(response: CurlResponse, body: bytes, endpoint: Endpoint, code: str) -> NotAllowed | None:
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


def _refused_again(response: CurlResponse, endpoint: Endpoint, code: str) -> NotAllowed | None:
    """The error for a new signature of *endpoint* that was refused with *code* again, or None if a retry adds no
    information."""
    if code not in _UNKNOWN_SIGN_IN or _is_over(endpoint) or _clock_off(response) is not None:
        return None
    signs = endpoint.sign_in or "the sign-in"
    return NotAllowed(
        f"{endpoint.storage.capitalize()} refuses {signs}, even after its renewal ({code}).",
        hint=next((hint for end, hint in _CHANGED.items() if signs.endswith(end)), _WHO),
    )


def _is_over(endpoint: Endpoint) -> bool:
    return 0 < endpoint.expires < time.time()


def _clock_off(response: CurlResponse) -> float | None:
    """Seconds by which this clock is ahead of the service's, if the difference matters."""
    off = clock_skew({"date": response.header(b"date")}) or 0.0
    return off if abs(off) > TOLERABLE_SECONDS else None


def connection_failure(failure: tuple[int, str, int], endpoint: Endpoint) -> Failure:
    """The failure of a request without a complete response, from `CurlResponse`, and whether a retry may help."""
    number, text, os_errno = failure
    text, host = redact(text), endpoint.host
    log.debug("a request to %s broke: %d %s", host, number, text)
    proxy_status = re.search(r"CONNECT.*?(?:response|code) (\d{3})", text)
    # A connection timeout. For a stalled request libcurl reports "Operation too slow".
    is_late = number == TIMED_OUT and "too slow" not in text
    proxy = urlsplit(proxy_for(f"https://{host}", host))
    proxy_name = proxy.netloc.rpartition("@")[2] or proxy.path
    is_unconnected = number == NO_CONNECTION or is_late
    if number == NO_PROXY_NAME or proxy_status or is_unconnected:
        status = proxy_status[1] if proxy_status else ""
        if not is_unconnected or proxy_status or proxy_name:
            error = proxy_failed(proxy_name, host, status)
        elif is_late or os_errno in (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH):
            error = not_connected(host, 0 if is_late else os_errno)
        else:
            error = ServiceFailed(
                f"No connection to {host} ({text}).", hint="Check the network, the proxy and the VPN, then try again."
            )
        message, may_pass = str(error).removesuffix("."), not status or status.startswith("5")
        return Failure(error, may_pass=may_pass, is_unconnected=True, was_slow=is_late, message=message)
    if number == NO_HOST:
        of = f" of {endpoint.storage} ({endpoint.label})" if endpoint.account else ""
        error = ServiceFailed(
            f"This machine cannot resolve the host name {host}{of} (DNS).",
            hint="Check the name and the network. The host of a private endpoint resolves only inside its network.",
        )
        return Failure(error, may_pass=True, max_attempts=FEW)
    if number == BAD_BUNDLE:
        return Failure(
            ServiceFailed(
                f"The certificate authorities cannot be loaded ({text}).",
                hint="Check REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and SSL_CERT_FILE.",
            )
        )
    if number == BAD_CERTIFICATE or (number == TLS_FAILED and "certificate" in text.lower()):
        return Failure(
            ServiceFailed(
                f"The certificate of {host} is not trusted ({text}).",
                hint="If a proxy inspects TLS, set REQUESTS_CA_BUNDLE to its CA file.",
            )
        )
    if number == TIMED_OUT:
        what = f"{host} sent no data for too long"
        error = ServiceFailed(f"{what}, {FEW} times in a row.")
        return Failure(error, may_pass=True, max_attempts=FEW, message=what, was_slow=True)
    what = f"{host} closed the connection ({text})"
    return Failure(ServiceFailed(f"{what}, after several retries."), may_pass=number not in _HOPELESS, message=what)


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


def etag_of(response: CurlResponse) -> str:
    """The ETag without quotes, as in lists."""
    return response.header(b"etag").strip('"')


def whole_md5(response: CurlResponse) -> bytes | None:
    """MD5 of the whole blob, from the response to a GET. For a range, Content-MD5 is that of the range."""
    text = response.header(b"x-ms-blob-content-md5")
    return md5_from(text or (response.header(b"content-md5") if response.status == 200 else ""))


def stored_blob(response: CurlResponse, request: StoreRequest, md5: bytes) -> BlobInfo:
    return BlobInfo(request.name, request.size, etag_of(response), md5, http_time(response.header(b"last-modified")))
