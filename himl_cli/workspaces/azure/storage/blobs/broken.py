"""Why a request got no whole answer, by libcurl's numbers (https://curl.se/libcurl/c/libcurl-errors.html), in himl's
own words."""

from __future__ import annotations

import errno
import logging
import re
from urllib.parse import urlsplit

from himl_cli.core.errors import HimlError, ServiceFailed
from himl_cli.core.redaction import redact
from himl_cli.workspaces.azure.requests.unreachable import not_connected, proxy_failed
from himl_cli.workspaces.azure.storage.blobs.lines import Broken
from himl_cli.workspaces.azure.storage.blobs.place import Place
from himl_cli.workspaces.azure.storage.blobs.proxies import proxy_for
from himl_cli.workspaces.retry import Failure

log = logging.getLogger(__name__)

FEW = 3  # tries of what is most likely a wrong name or setting, and of what costs half a minute each
NO_PROXY_NAME, NO_HOST, NO_CONNECTION, TIMED_OUT = 5, 6, 7, 28
TLS_FAILED, BAD_CERTIFICATE, BAD_BUNDLE = 35, 60, 77
HOPELESS = {1, 3, 4, 27, 48, 58, 59, 60, 66, 77, 80, 82, 83, 90, 91}
_ANSWERED = re.compile(r"CONNECT.*?(?:response|code) (\d{3})")
_TOLD_APART = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH)


def broken_fault(broken: Broken, place: Place) -> Failure:
    """What it comes to, and whether another try may help."""
    number, text = broken.number, redact(broken.text)
    log.debug("a request to %s broke: %d %s", place.host, number, text)
    answered = _ANSWERED.search(text)
    # A connection; of a request that gets nowhere it says "Operation too slow"
    timed_out = number == TIMED_OUT and "too slow" not in text
    if number == NO_PROXY_NAME or answered or ((number == NO_CONNECTION or timed_out) and _proxy(place)):
        return _proxy_failed(place, answered[1] if answered else "", took_long=timed_out)
    if number == NO_HOST:
        error = ServiceFailed(
            f"The name {place.host} of {place.storage} ({place.label}) is not known here (DNS).",
            hint="Is the account's name right, and this machine online? A private endpoint is found only inside its "
            "network.",
        )
        return Failure(error, may_pass=True, max_attempts=FEW)
    if number == NO_CONNECTION or timed_out:
        return _unconnected(broken, place, text, took_long=timed_out)
    if number in (BAD_BUNDLE, BAD_CERTIFICATE) or (number == TLS_FAILED and "certificate" in text.lower()):
        return Failure(_untrusted(number, place, text))
    if number == TIMED_OUT:
        what = "sent nothing for too long"
        return Failure(
            ServiceFailed(f"{place.host} {what}, {FEW} times in a row."),
            may_pass=True,
            max_attempts=FEW,
            was_slow=True,
            message=f"{place.host} {what}",
        )
    what = f"broke the connection off ({text})"
    return Failure(
        ServiceFailed(f"{place.host} {what}, also after several tries."),
        may_pass=number not in HOPELESS,
        message=f"{place.host} {what}",
    )


def _unconnected(broken: Broken, place: Place, text: str, *, took_long: bool) -> Failure:
    if took_long or broken.system in _TOLD_APART:
        error = not_connected(place.host, 0 if took_long else broken.system)
    else:
        error = ServiceFailed(
            f"No connection to {place.host} ({text}).", hint="Check the network, the proxy and the VPN, then try again."
        )
    return Failure(error, may_pass=True, is_unconnected=True, was_slow=took_long, message=str(error).removesuffix("."))


def _proxy_failed(place: Place, answered: str, *, took_long: bool) -> Failure:
    error = proxy_failed(_proxy(place), place.host, answered)
    may_pass = not answered or answered.startswith("5")
    return Failure(
        error, may_pass=may_pass, is_unconnected=True, was_slow=took_long, message=str(error).removesuffix(".")
    )


def _proxy(place: Place) -> str:
    """The proxy on the way, as `HOST:PORT`; empty where there is none."""
    parts = urlsplit(proxy_for(f"https://{place.host}", place.host))
    return parts.netloc.rpartition("@")[2] or parts.path


def _untrusted(number: int, place: Place, text: str) -> HimlError:
    if number == BAD_BUNDLE:
        return ServiceFailed(
            f"The file of certificate authorities cannot be used ({text}).",
            hint="Check REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and SSL_CERT_FILE.",
        )
    return ServiceFailed(
        f"The certificate of {place.host} is not trusted ({text}).",
        hint="Behind a proxy that inspects TLS, set REQUESTS_CA_BUNDLE to its CA file.",
    )
