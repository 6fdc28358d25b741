"""Requests to Azure without a complete answer, as errors: names, connections, proxies, certificates and time limits."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from urllib.parse import urlsplit
from urllib.request import getproxies

from himl_cli.core.errors import (
    BadUsage,
    HimlError,
    ServiceFailed,
)
from himl_cli.core.installation import ca_source
from himl_cli.core.redaction import redact
from himl_cli.workspaces.transfer_engine.failures import NO_CONNECTION_IN_TIME, not_connected, proxy_failed

# OpenSSL's reasons for a file without certificates.
NO_CERTIFICATES = {"NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE", "BAD_END_LINE", "BAD_BASE64_DECODE"}
_BROKEN = {"ConnectionResetError", "BrokenPipeError", "RemoteDisconnected", "IncompleteRead", "IncompleteReadError"}
# By exception class of requests, urllib3 or the system. urllib3 wraps several of them in `MaxRetryError`.
_BY_CLASS = {
    name: (message, hint)
    for names, message, hint in (
        (
            _BROKEN,
            "{host} closed the connection.",
            "Try again. If the error persists, check the firewall and the proxy.",
        ),
        (
            ("NameResolutionError", "gaierror"),
            "This machine cannot resolve the host name {host} (DNS).",
            "Check the network. The host of a private workspace resolves only inside its network or VPN.",
        ),
        (
            ("InvalidProxyURL",),
            "HTTPS_PROXY is not a URL, so himl cannot reach {host}.",
            "Set it to http://HOST:PORT.",
        ),
        (
            ("ConnectTimeout", "ConnectTimeoutError"),
            *NO_CONNECTION_IN_TIME,
        ),
        (
            ("ContentDecodingError",),
            "The response of {host} is corrupted.",
            "Try again. If the error persists, check the proxy.",
        ),
        (("ReadTimeout", "ReadTimeoutError"), "{host} took too long to answer.", "Try again later."),
    )
    for name in names
}


def network_error(err: BaseException, url: str) -> HimlError:
    """The error for a request without a response, from an exception of requests, urllib3 or OpenSSL."""
    host, causes = urlsplit(url).hostname or url, causes_of(err)
    for inner in causes:
        kind = type(inner).__name__
        if isinstance(inner, ssl.SSLError):
            return _tls_error(inner, host)
        if kind == "ProxyError":
            answered = re.search(r"Tunnel connection failed: (\d{3})", " ".join(map(str, causes)))
            found = getproxies()
            proxy = urlsplit(found.get("https") or found.get("all") or "")
            shown = f"{proxy.hostname}:{proxy.port}" if proxy.port else proxy.hostname or "of this network"
            return proxy_failed(shown, host, answered[1] if answered else "")
        if kind in _BY_CLASS:
            message, hint = _BY_CLASS[kind]
            return ServiceFailed(message.format(host=host), hint=hint)
        if isinstance(inner, OSError) and inner.errno in (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH):
            return not_connected(host, inner.errno)
    return ServiceFailed(f"himl cannot reach {host}: {_first_line(err)}.", hint="Check the network, then try again.")


def _tls_error(err: ssl.SSLError, host: str) -> HimlError:
    if not isinstance(err, ssl.SSLCertVerificationError):
        if err.reason in NO_CERTIFICATES:
            return BadUsage(
                f"The file of {ca_source()} contains no certificates.",
                hint="Use a file in PEM format (-----BEGIN CERTIFICATE-----).",
            )
        return ServiceFailed(
            f"No secure connection to {host}: {err.reason or _first_line(err)}.",
            hint="Check the proxy and the firewall, which may interrupt TLS.",
        )
    when = {9: "not valid yet", 10: "expired"}.get(err.verify_code)  # by OpenSSL's codes
    if when:
        return ServiceFailed(
            f"The certificate of {host} is {when}.",
            hint="Check this machine's clock, or ask the owner of the service or the proxy to renew it.",
        )
    return ServiceFailed(
        f"The certificate of {host} is not trusted ({err.verify_message}; authorities from {ca_source()}).",
        hint="If a proxy inspects traffic, set REQUESTS_CA_BUNDLE to a file with your organisation's certificate "
        "authority.",
    )


def is_network_error(err: BaseException) -> bool:
    """Return whether *err*, such as a failed sign-in, comes from a failed connection."""
    plain, kinds = (ssl.SSLError, ConnectionError, TimeoutError), {*_BY_CLASS, "ProxyError", "NewConnectionError"}
    return any(isinstance(inner, plain) or type(inner).__name__ in kinds for inner in causes_of(err))


def is_unknown_host(err: BaseException) -> bool:
    """Return whether DNS has no such host name. A network failure does not count."""
    return any(isinstance(inner, socket.gaierror) and inner.errno != socket.EAI_AGAIN for inner in causes_of(err))


def is_permanent(err: BaseException) -> bool:
    """Return whether a retry cannot help: an untrusted certificate, a refusing proxy, an unknown host name."""
    return is_unknown_host(err) or any(
        (isinstance(inner, ssl.SSLError) and inner.reason in NO_CERTIFICATES)
        or isinstance(inner, ssl.SSLCertVerificationError)
        or type(inner).__name__ == "InvalidProxyURL"
        or "Tunnel connection failed: 4" in str(inner)
        for inner in causes_of(err)
    )


def is_disconnect(err: BaseException) -> bool:
    """Return whether an established connection broke or was silent, so that the service may have carried out the
    request.

    Behind a proxy, urllib3 reports this as a ProxyError, as if it had sent nothing yet.
    """
    return any(type(inner).__name__ in {*_BROKEN, "ProtocolError", "ReadTimeoutError"} for inner in causes_of(err))


def causes_of(err: BaseException) -> list[BaseException]:
    """*err* and all of its causes, the most specific first: certificates, a broken connection, then the proxy, whose
    own cause would blame the host."""
    seen: list[BaseException] = []
    waiting: list[object] = [err]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            wrapped = (getattr(one, name, None) for name in ("__cause__", "__context__", "reason", "inner_exception"))
            waiting += [*wrapped, *one.args]

    def rank(one: BaseException) -> int:
        kind = type(one).__name__
        if isinstance(one, ssl.SSLCertVerificationError):
            return 0
        if kind in _BROKEN:
            return 1
        return 2 if kind in ("ProxyError", "InvalidProxyURL") else 3

    return sorted(seen, key=rank)


def _first_line(err: BaseException) -> str:
    return redact((str(err).strip().splitlines() or [type(err).__name__])[0]).rstrip(".")[:200]
