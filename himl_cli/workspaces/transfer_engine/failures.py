"""Requests of the transfer engine that failed: transient statuses, and libcurl's numbers."""

from __future__ import annotations

import errno
import logging
import re
from urllib.parse import urlsplit

from himl_cli.core.errors import NotFound, ServiceFailed
from himl_cli.core.redaction import redact
from himl_cli.workspaces.retry import Failure, attempts_after
from himl_cli.workspaces.transfer_engine.curl import CurlResponse, proxy_for
from himl_cli.workspaces.transfer_engine.headers import retry_after

log = logging.getLogger(__name__)

NO_CONNECTION_IN_TIME = (
    "{host} took too long to accept a connection.",
    "Check the network, the proxy and the VPN, then try again.",
)
FEW = 3  # attempts for what is probably a wrong name or setting, and for what takes half a minute each
# libcurl's numbers: https://curl.se/libcurl/c/libcurl-errors.html
NO_PROXY_NAME, NO_HOST, NO_CONNECTION, TIMED_OUT, TLS_FAILED, BAD_CERTIFICATE, BAD_BUNDLE = 5, 6, 7, 28, 35, 60, 77
_HOPELESS = {1, 3, 4, 27, 48, 58, 59, 60, 66, 77, 80, 82, 83, 90, 91}


class BlobNotFound(NotFound):
    """The container exists, but not the blob."""


def error_code(body: bytes) -> str:
    found = re.search(rb"<Code>([^<]*)</Code>", body)
    return found[1].decode("ascii", "replace") if found else ""


def transient_failure(response: CurlResponse, who: str, code: str = "") -> Failure | None:
    """The failure for a transient status from *who*, else None."""
    status, wait = response.status, retry_after(lambda field: response.header(field.encode()))
    most = attempts_after("storage", status)
    if not most:
        return None
    reason = f"{status} {code}".rstrip()
    if status not in (429, 503) and code != "ServerBusy":
        error = ServiceFailed(f"{who} keeps failing ({reason}).", hint="Try again later.")
    else:
        what = f"requests a wait of {wait:.0f} s" if wait is not None and wait >= 1 else "is busy, even after waiting"
        error = ServiceFailed(f"{who} {what} ({reason}).", hint="Try again later, or with fewer --workers.")
    message = f"{who} answered {status}"
    return Failure(error, code, may_pass=True, retry_after=wait, max_attempts=most, message=message)


def connection_failure(failure: tuple[int, str, int], host: str, owner: str = "") -> Failure:
    """The failure of a request without a complete response, from `CurlResponse`, and whether a retry may help. *owner*
    is the service to which *host* belongs."""
    number, text, os_errno = failure
    text = redact(text)
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
        of = f" of {owner}" if owner else ""
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


def proxy_failed(proxy: str, host: str, answered: str) -> ServiceFailed:
    """The error for a *proxy* (HOST:PORT) that did not connect to *host*. *answered* is its status, or ""."""
    if answered == "407":
        return ServiceFailed(
            f"The proxy {proxy} requires a user name and a password.",
            hint="Set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT.",
        )
    return ServiceFailed(
        f"The proxy {proxy} did not connect to {host}{f' (it answered {answered})' if answered else ''}.",
        hint="Check HTTPS_PROXY (http://HOST:PORT), or add the host to NO_PROXY.",
    )


def not_connected(host: str, number: int) -> ServiceFailed:
    """The error for a failed connection to *host* with the system's *number* (an `errno`, or 0 for a timeout)."""
    if number in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return ServiceFailed(f"There is no network route to {host}.", hint="Check the network, VPN included.")
    if number == errno.ECONNREFUSED:
        return ServiceFailed(f"{host} refuses connections.", hint="Check the network and the proxy, then try again.")
    message, hint = NO_CONNECTION_IN_TIME
    return ServiceFailed(message.format(host=host), hint=hint)
