"""What storage's responses say: the properties of a blob, or of a failed request libcurl's number, the status and the
service's code as a HimlError."""

from __future__ import annotations

import errno
import logging
import re
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from urllib.parse import urlsplit

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import BlobChanged, HimlError, NotAllowed, NotFound, ServiceFailed
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

CHANGING_PROXY = "Is a proxy in between that changes answers?"
TRANSIENT = {408, 429, 500, 502, 503, 504, 509}
FEW = 3  # attempts at what is most likely a wrong name or setting, and at what costs half a minute each
# libcurl's numbers: https://curl.se/libcurl/c/libcurl-errors.html
NO_PROXY_NAME, NO_HOST, NO_CONNECTION, TIMED_OUT, TLS_FAILED, BAD_CERTIFICATE, BAD_BUNDLE = 5, 6, 7, 28, 35, 60, 77
_HOPELESS = {1, 3, 4, 27, 48, 58, 59, 60, 66, 77, 80, 82, 83, 90, 91}

_UNKNOWN_SIGN_IN = ("AuthenticationFailed", "InvalidAuthenticationInfo")

ROLES = "Ask for the role 'Storage Blob Data Reader' to read, 'Storage Blob Data Contributor' to write."
_WHO = "Is the right account signed in, and in the tenant of the storage account? 'himl doctor' says which it is."
_CREDENTIALS = (
    "Was the account's key changed, or the datastore's SAS token? Update the datastore's credentials in the workspace."
)
_UPDATE = "its owner should update the datastore's credentials in the workspace."
# By the end of what signs; other ones are sign-ins
_CHANGED = {
    "link": "Was the key of the workspace's storage account changed? Its owner should synchronise the workspace's "
    "keys.",
    "key": f"The key that the workspace has of the account is probably out of date: {_UPDATE}",
    "SAS token": f"It was probably revoked, or made for another container: {_UPDATE}",
}


class BlocksUnsupported(ServiceFailed):
    """This blob is not made of blocks; it can be replaced whole only."""


class BlobNotFound(NotFound):
    """The container is there, the blob is not."""


# Error, message and hint by the service's code, or where it is not here, by the status
_BY_CODE: dict[str, tuple[type[HimlError], str, str]] = {
    "BlobArchived": (
        ServiceFailed,
        "{blob} lies in the archive tier.",
        "Set its access tier to Hot or Cool first; that takes hours.",
    ),
    "BlobImmutableDueToPolicy": (
        NotAllowed,
        "{blob} is protected by an immutability policy.",
        "Store it under another name.",
    ),
    "BlobOperationNotSupported": (
        BlocksUnsupported,
        "{blob} was made by a program that uses the lake's own interface (dfs): it cannot be replaced in blocks.",
        "Delete it there first.",
    ),
    "InvalidBlobType": (
        ServiceFailed,
        "{blob} is of another kind (an append or page blob).",
        "Delete it there, or use another name.",
    ),
    "InvalidBlockList": (
        ServiceFailed,
        "The parts of {blob} are not all there: another program is writing it too.",
        "Run the command again when nothing else writes it.",
    ),
    "LeaseIdMissing": (ServiceFailed, "{blob} is locked by a lease.", "Whoever holds the lease has to release it."),
    **dict.fromkeys(
        ("ContainerNotFound", "ContainerBeingDeleted", "FilesystemNotFound", "ResourceNotFound"),
        (
            NotFound,
            "{Storage} has no container '{container}' ({label}).",
            "Was it deleted, or the datastore registered with a wrong name?",
        ),
    ),
    **dict.fromkeys(
        RIGHT_MISSING,
        (NotAllowed, "Not allowed to do this in container '{container}' of {storage}{with_sign_in}.", ROLES),
    ),
    **dict.fromkeys(
        NO_KEYS, (NotAllowed, "{Storage} takes no account keys, and the sign-in here was not enough.", ROLES)
    ),
    **dict.fromkeys(
        ("AuthorizationFailure", "AuthorizationSourceIPMismatch", "IpAuthorizationFailed", "NetworkAclDenied"),
        (
            NotAllowed,
            "The firewall of {storage} does not let this machine in, or the right to its data is missing ({code}).",
            "Work from a network that its rules allow, or have this machine's address added; to read, the role "
            "'Storage Blob Data Reader' is needed.",
        ),
    ),
    "401": (NotAllowed, "{Storage} refuses the request ({reason}).", "'himl doctor' checks what is missing."),
    "403": (NotAllowed, "{Storage} refuses the request ({reason}).", "'himl doctor' checks what is missing."),
    "404": (BlobNotFound, "No file {blob}.", ""),
    "412": (
        BlobChanged,
        "'{name}' changed while it was read.",
        "Run the command again when nothing writes to it.",
    ),
    "416": (BlobChanged, "'{name}' is shorter than it was listed.", ""),
    "3xx": (
        ServiceFailed,
        "{host} sends requests elsewhere (HTTP {status}); that is not Azure Storage.",
        "Is a proxy or a log-in page in between?",
    ),
}


def failure_of(response: CurlResponse, endpoint: Endpoint, name: str) -> Failure:
    """The failure of a request for *name* that did not end with what was asked for."""
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
    """The failure for a status that may pass; *who* sent it."""
    status, wait = response.status, retry_after(lambda field: response.header(field.encode()))
    reason = f"{status} {code}".rstrip()
    if status not in (429, 503) and code != "ServerBusy":
        error = ServiceFailed(f"{who} keeps failing ({reason}).", hint="Try again later.")
    else:
        what = f"asks to wait {wait:.0f} s" if wait is not None and wait >= 1 else "is too busy, also after waiting"
        error = ServiceFailed(f"{who} {what} ({reason}).", hint="Try again later, or with fewer --workers.")
    return Failure(error, code, may_pass=True, retry_after=wait, message=f"{who} answered {status}")


def error_code(body: bytes) -> str:
    found = re.search(rb"<Code>([^<]*)</Code>", body)
    return found[1].decode("ascii", "replace") if found else ""


def _error(status: int, code: str, endpoint: Endpoint, name: str) -> HimlError:
    fallback = ServiceFailed, "{Storage} refused the request for '{name}' ({reason}).", ""
    kind, message, hint = _BY_CODE.get(code) or _BY_CODE.get("3xx" if 300 <= status < 400 else f"{status}") or fallback
    if code in RIGHT_MISSING and endpoint.sign_in.endswith("SAS token"):
        hint = "The SAS token has to allow reading and listing, to upload creating and writing, to delete deleting."
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
            hint="Set the clock (or switch network time on), and run the command again.",
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
    return NotAllowed(f"{storage} says that {endpoint.sign_in or 'the sign-in'} is {why}.", hint=hint)


def _refused_again(response: CurlResponse, endpoint: Endpoint, code: str) -> NotAllowed | None:
    """The error where what *endpoint* signs with was got anew and refused with *code* all the same; None where that
    says nothing new."""
    if code not in _UNKNOWN_SIGN_IN or _is_over(endpoint) or _clock_off(response) is not None:
        return None
    signs = endpoint.sign_in or "the sign-in"
    return NotAllowed(
        f"{endpoint.storage.capitalize()} refuses {signs}, also when it was got anew just now ({code}).",
        hint=next((hint for end, hint in _CHANGED.items() if signs.endswith(end)), _WHO),
    )


def _is_over(endpoint: Endpoint) -> bool:
    return 0 < endpoint.expires < time.time()


def _clock_off(response: CurlResponse) -> float | None:
    """Seconds that the clock here is ahead of the service's, where that matters."""
    off = clock_skew({"date": response.header(b"date")}) or 0.0
    return off if abs(off) > TOLERABLE_SECONDS else None


def connection_failure(failure: tuple[int, str, int], endpoint: Endpoint) -> Failure:
    """The failure of a request that got no whole response, as `CurlResponse` has it, and whether another attempt may
    help."""
    number, text, os_errno = failure
    text, host = redact(text), endpoint.host
    log.debug("a request to %s broke: %d %s", host, number, text)
    proxy_status = re.search(r"CONNECT.*?(?:response|code) (\d{3})", text)
    # No connection in time; of a request that gets nowhere libcurl says "Operation too slow"
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
            f"The name {host}{of} is not known here (DNS).",
            hint="Is the name right, and this machine online? A private endpoint is found only inside its network.",
        )
        return Failure(error, may_pass=True, max_attempts=FEW)
    if number == BAD_BUNDLE:
        return Failure(
            ServiceFailed(
                f"The file of certificate authorities cannot be used ({text}).",
                hint="Check REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and SSL_CERT_FILE.",
            )
        )
    if number == BAD_CERTIFICATE or (number == TLS_FAILED and "certificate" in text.lower()):
        return Failure(
            ServiceFailed(
                f"The certificate of {host} is not trusted ({text}).",
                hint="Behind a proxy that inspects TLS, set REQUESTS_CA_BUNDLE to its CA file.",
            )
        )
    if number == TIMED_OUT:
        what = f"{host} sent nothing for too long"
        error = ServiceFailed(f"{what}, {FEW} times in a row.")
        return Failure(error, may_pass=True, max_attempts=FEW, message=what, was_slow=True)
    what = f"{host} broke the connection off ({text})"
    return Failure(ServiceFailed(f"{what}, also after several tries."), may_pass=number not in _HOPELESS, message=what)


@dataclass(frozen=True, slots=True)
class Properties:
    """What a HEAD tells: the blob, whether it is only ever appended to, and since when it is there."""

    blob: BlobInfo
    is_append_blob: bool
    is_directory: bool
    created: datetime | None


def properties_of(response: CurlResponse, name: str) -> Properties:
    """Out of the response to a HEAD for *name*. Raises ServiceFailed for one that does not tell the size."""
    size = size_from(response.header(b"content-length"))
    if size is None:
        raise ServiceFailed(f"Storage does not tell how large '{name}' is.", hint=CHANGING_PROXY)
    modified = http_time(response.header(b"last-modified"))
    is_folder = response.header(b"x-ms-meta-hdi_isfolder").lower() == "true"
    return Properties(
        BlobInfo(name, size, etag_of(response), md5_from(response.header(b"content-md5")), modified),
        response.header(b"x-ms-blob-type") == "AppendBlob",
        is_folder or response.header(b"x-ms-resource-type") == "directory",
        http_time(response.header(b"x-ms-creation-time")),
    )


def etag_of(response: CurlResponse) -> str:
    """The ETag without quotes, as lists have it."""
    return response.header(b"etag").strip('"')


def whole_md5(response: CurlResponse) -> bytes | None:
    """MD5 of the whole blob, as the response to a GET tells it: of a range, Content-MD5 would be that of the range."""
    text = response.header(b"x-ms-blob-content-md5")
    return md5_from(text or (response.header(b"content-md5") if response.status == 200 else ""))


def stored_blob(response: CurlResponse, request: StoreRequest, md5: bytes) -> BlobInfo:
    return BlobInfo(request.name, request.size, etag_of(response), md5, http_time(response.header(b"last-modified")))
