"""Why a service could not be reached, from the exceptions of requests, urllib3 and OpenSSL, in himl's own words."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies

from himl_cli.core.errors import BadUsage, HimlError, ServiceFailed
from himl_cli.core.redaction import redact
from himl_cli.workspaces.azure.requests.trust import ca_source

NOT_YET_VALID, EXPIRED = 9, 10  # OpenSSL's verify codes

NO_CERTIFICATES = {
    "NO_CERTIFICATE_OR_CRL_FOUND",
    "NO_START_LINE",
    "BAD_END_LINE",
    "BAD_BASE64_DECODE",
}  # OpenSSL's reasons


def network_error(err: BaseException, url: str) -> HimlError:
    """The error for a request that got no answer."""
    host = urlsplit(url).hostname or url
    for inner in _chain(err):
        found = _explained(inner, host)
        if found is not None:
            return found
    return ServiceFailed(f"{host} cannot be reached: {_first_line(err)}.", hint="Check the network, then try again.")


def is_network_error(err: BaseException) -> bool:
    """Whether *err* (of a sign-in, say) comes from a connection that failed."""
    plain = (ssl.SSLError, socket.gaierror, ConnectionError, TimeoutError)
    return any(
        isinstance(inner, plain) or _kind(inner) in {*_KINDS, *_BROKEN_KINDS, "ProxyError", "NewConnectionError"}
        for inner in _chain(err)
    )


def is_for_good(err: BaseException) -> bool:
    """Whether another try at once cannot help: certificates that are not trusted, a proxy that says no, a name that
    nobody has."""
    return any(_is_final(inner) for inner in _chain(err))


def _is_final(err: BaseException) -> bool:
    if isinstance(err, socket.gaierror):
        return err.errno != socket.EAI_AGAIN
    if isinstance(err, ssl.SSLError) and err.reason in NO_CERTIFICATES:
        return True
    return (
        isinstance(err, ssl.SSLCertVerificationError)
        or _kind(err) == "InvalidProxyURL"
        or "Tunnel connection failed: 4" in str(err)
    )


def is_unknown_name(err: BaseException) -> bool:
    """Whether no machine has the host's name."""
    return any(isinstance(inner, socket.gaierror) or _kind(inner) == "NameResolutionError" for inner in _chain(err))


def broke_off(err: BaseException) -> bool:
    """Whether a connection broke that had been made: what was sent may have been carried out.

    Behind a proxy urllib3 calls that a ProxyError, as if nothing had been sent yet.
    """
    return any(isinstance(inner, BROKEN) or _kind(inner) in _BROKEN_KINDS for inner in _chain(err))


def _explained(err: BaseException, host: str) -> HimlError | None:
    if isinstance(err, ssl.SSLCertVerificationError):
        return _untrusted(err, host)
    if isinstance(err, BROKEN) or _kind(err) in _BROKEN_KINDS:
        return ServiceFailed(
            f"{host} broke the connection off.", hint="Try again; if it goes on, a firewall or proxy may be in the way."
        )
    if _kind(err) == "ProxyError":
        return _proxy_failed(err, host)
    make = _KINDS.get(_kind(err))
    if make is not None:
        return ServiceFailed(make[0].format(host=host), hint=make[1])
    if isinstance(err, ssl.SSLError) and err.reason in NO_CERTIFICATES:
        return BadUsage(
            f"{ca_source()} names a file that holds no certificates.",
            hint="It has to be a file in PEM form (-----BEGIN CERTIFICATE-----).",
        )
    if isinstance(err, ssl.SSLError):
        return ServiceFailed(
            f"No secure connection to {host}: {err.reason or _first_line(err)}.",
            hint="A proxy or firewall on the way may break TLS.",
        )
    if isinstance(err, socket.gaierror):
        return ServiceFailed(_NO_NAME[0].format(host=host), hint=_NO_NAME[1])
    if isinstance(err, ConnectionRefusedError):
        return not_connected(host, errno.ECONNREFUSED)
    if isinstance(err, OSError) and err.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return not_connected(host, err.errno)
    return None


_NO_NAME = (
    "The name {host} is not known here (DNS).",
    "Check the network; a private workspace is known inside its own network or VPN only.",
)
BROKEN = (ConnectionResetError, BrokenPipeError)
_BROKEN_KINDS = {"RemoteDisconnected", "IncompleteRead", "IncompleteReadError"}
_KINDS = {
    "NameResolutionError": _NO_NAME,
    "InvalidProxyURL": (
        "The proxy that HTTPS_PROXY names is no URL, so {host} cannot be reached.",
        "Write it as http://HOST:PORT.",
    ),
    "ConnectTimeout": (
        "{host} took too long to accept a connection.",
        "Check the network, the proxy and the VPN, then try again.",
    ),
    "ConnectTimeoutError": (
        "{host} took too long to accept a connection.",
        "Check the network, the proxy and the VPN, then try again.",
    ),
    "ContentDecodingError": (
        "The answer of {host} came garbled.",
        "Try again; if it goes on, a proxy may be in the way.",
    ),
    "ReadTimeout": ("{host} took too long to answer.", "Try again later."),
    "ReadTimeoutError": ("{host} took too long to answer.", "Try again later."),
}


def _proxy_failed(err: BaseException, host: str) -> HimlError:
    told = " ".join(str(inner) for inner in _chain(err))
    answered = re.search(r"Tunnel connection failed: (\d{3})", told)
    return proxy_failed(_proxy(), host, answered[1] if answered else "")


def proxy_failed(proxy: str, host: str, answered: str) -> ServiceFailed:
    """The error for a *proxy* (HOST:PORT) that did not lead to *host*; *answered* is the status it gave, empty for
    none."""
    if answered == "407":
        return ServiceFailed(
            f"The proxy {proxy} wants a user and a password.", hint="Set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT."
        )
    return ServiceFailed(
        f"The proxy {proxy} did not connect to {host}{f' (it answered {answered})' if answered else ''}.",
        hint="Check HTTPS_PROXY (http://HOST:PORT), or name the host in NO_PROXY.",
    )


def not_connected(host: str, number: int) -> ServiceFailed:
    """The error for *host* where the system says *number* (an `errno`, 0 for a time that ran out) to a connection."""
    if number in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return ServiceFailed(f"There is no network route to {host}.", hint="Check the network, VPN included.")
    if number == errno.ECONNREFUSED:
        return ServiceFailed(f"{host} refuses connections.", hint="Check the network and the proxy, then try again.")
    return ServiceFailed(
        f"{host} took too long to accept a connection.",
        hint="Check the network, the proxy and the VPN, then try again.",
    )


def _proxy() -> str:
    """The proxy for https as HOST:PORT, without its user and password."""
    found = getproxies()
    parts = urlsplit(found.get("https") or found.get("all") or "")
    return f"{parts.hostname}:{parts.port}" if parts.hostname and parts.port else parts.hostname or "of this network"


def _untrusted(err: ssl.SSLCertVerificationError, host: str) -> HimlError:
    if err.verify_code in (NOT_YET_VALID, EXPIRED):
        return ServiceFailed(
            f"The certificate of {host} is {'not valid yet' if err.verify_code == NOT_YET_VALID else 'out of date'}.",
            hint="Check this machine's clock first; else whoever runs the service or the proxy has to renew it.",
        )
    return ServiceFailed(
        f"The certificate of {host} is not trusted ({err.verify_message}; authorities from {ca_source()}).",
        hint="Where a proxy inspects traffic, set REQUESTS_CA_BUNDLE to a file with your organisation's certificate "
        "authority.",
    )


def _kind(err: BaseException) -> str:
    """The name of its class; urllib3 wraps several kinds in `MaxRetryError`, which says nothing itself."""
    return type(err).__name__


def _chain(err: BaseException) -> Iterator[BaseException]:
    """*err* and all that caused it, the innermost first."""
    seen: list[BaseException] = []
    waiting: list[object] = [err]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            waiting += [
                one.__cause__,
                one.__context__,
                getattr(one, "reason", None),
                getattr(one, "inner_exception", None),
                *one.args,
            ]
    yield from sorted(seen, key=_plainness)


def _plainness(err: BaseException) -> int:
    """What tells most comes first: certificates, then a broken connection, then the proxy (whose own cause would blame
    the host)."""
    if isinstance(err, ssl.SSLCertVerificationError):
        return 0
    if isinstance(err, BROKEN) or _kind(err) in _BROKEN_KINDS:
        return 1
    return 2 if _kind(err) in ("ProxyError", "InvalidProxyURL") else 3


def _first_line(err: BaseException) -> str:
    return redact((str(err).strip().splitlines() or [type(err).__name__])[0]).rstrip(".")[:200]
