"""How the services say that they let nobody in from here: a firewall, or a private link.

The status tells nothing: 403 mostly, but the data plane says 401 to whoever comes from outside of a private link
(Azure/azure-cli-extensions#6294), and resource manager 502 (MicrosoftDocs/azure-docs#90426).
"""

from __future__ import annotations

import base64
import errno
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from himl_cli.core.errors import (
    BadUsage,
    HimlError,
    NotAllowed,
    NotAllowedNow,
    NotFound,
    ServiceFailed,
    WorkspaceNotFound,
)
from himl_cli.core.redaction import redact
from himl_cli.core.text import read_json
from himl_cli.workspaces.azure import responses
from himl_cli.workspaces.azure.address import WorkspaceAddress
from himl_cli.workspaces.azure.tls import ca_source

_SIGNS = re.compile(
    r"\b(PublicNetworkAccessDisabled|AccessDeniedByNetwork|IpAuthorizationFailed"
    r"|RequestDeniedByNetwork|ForbiddenByFirewall)\b"
    r"|public (network )?access is (disabled|not enabled|not permitted)|private (endpoint|link)|not allowed by (its "
    r")?firewall",
    re.IGNORECASE,
)


def says_closed(text: str) -> bool:
    """Whether *text*, codes and message of an error or its whole body, speaks of a network that is closed to us."""
    return _SIGNS.search(text) is not None


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


_PARAMETER = re.compile(r'(?P<name>error|claims)="(?P<value>[^"]*)"')


def claims_of(headers: Mapping[str, str]) -> str:
    """The claims that an answer with these headers asks for, as JSON text for `get_token`; nothing where it asks for
    none."""
    challenge = next((value for name, value in headers.items() if name.lower() == "www-authenticate"), "")
    found = {parameter["name"]: parameter["value"] for parameter in _PARAMETER.finditer(challenge)}
    if found.get("error") != "insufficient_claims":
        return ""
    encoded = found.get("claims", "").translate(str.maketrans("-_", "+/"))
    try:
        text = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode()
        return text if isinstance(read_json(text), dict) else ""
    except ValueError:  # no base64, no UTF-8, no JSON
        return ""


LONGEST_MESSAGE = 200  # of the service's own words that are shown
LONGEST_READ = 20_000


@dataclass(frozen=True)
class ErrorResponse:
    """`url` without its query; `body` as JSON where it was, else as text; `headers` have lower-case names.

    Bodies: resource manager's `{"error": {code, message, additionalInfo: [{type: InnerError, …}]}}`; the Azure ML
    services' `{"error": {code, message, innerError: {code, innerError}}, "correlation": …}`; MLflow's `{error_code,
    message}`.
    """

    method: str
    url: str
    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or self.url

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.url).path)

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """All error codes, the innermost first."""
        return tuple(reversed(list(_codes(self._error))))

    @property
    def code(self) -> str:
        """The innermost error code, or nothing."""
        return self.codes[0] if self.codes else ""

    @cached_property
    def message(self) -> str:
        """What the service says, redacted, no more of it than LONGEST_READ; HTML pages count as silence."""
        text = self._error.get("message") if isinstance(self.body, Mapping) else self.body
        return redact(text[:LONGEST_READ]) if isinstance(text, str) and not text.lstrip().startswith("<") else ""

    @property
    def in_brackets(self) -> str:
        """` (CODE: first line of the message)`, as much of it as there is."""
        line = (self.message.strip().splitlines() or [""])[0].rstrip(". ")
        line = line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}…"
        told = ": ".join(filter(None, [self.code, line]))
        return f" ({told})" if told else ""

    @property
    def retry_after(self) -> str:
        """Seconds, or a date, as the service wrote them."""
        return self.headers.get("retry-after", "")

    @property
    def request_id(self) -> str:
        """The id under which the service logged the request; the Azure ML services tell it in the body only."""
        correlation = self.body.get("correlation") if isinstance(self.body, Mapping) else None
        told = correlation.get("request") if isinstance(correlation, Mapping) else None
        in_body = redact(told) if isinstance(told, str) else ""
        return self.headers.get("x-ms-request-id") or self.headers.get("x-ms-correlation-request-id") or in_body

    @property
    def claims(self) -> str:
        """The claims that the service wants a token to have and this one lacks; mostly nothing."""
        return claims_of(self.headers)

    @property
    def tenant_wanted(self) -> str:
        """The tenant that the message (`must match the tenant 'https://sts…/TENANT/'`) or the challenge names, or
        nothing."""
        in_message = re.search(r"match the tenant 'https://[^/']+/([\w.-]+)", self.message)
        found = in_message or re.search(
            r'authorization_uri="https://[^/"]+/([\w.-]+)', self.headers.get("www-authenticate", "")
        )
        return found[1] if found else ""

    @property
    def _error(self) -> Mapping[str, Any]:
        if not isinstance(self.body, Mapping):
            return {}
        inner = self.body.get("error")
        return inner if isinstance(inner, Mapping) else self.body


def _codes(error: Any) -> Iterator[str]:
    """Codes from the outermost to the innermost."""
    if not isinstance(error, Mapping):
        return
    code = error.get("code") or error.get("error_code")
    if isinstance(code, str) and code:
        yield code
    extras = error.get("additionalInfo")
    for extra in extras if isinstance(extras, list) else ():
        if isinstance(extra, Mapping) and extra.get("type") == "InnerError" and isinstance(extra.get("info"), Mapping):
            yield from _codes(extra["info"].get("value"))
    yield from _codes(error.get("innerError") or error.get("innererror"))


DENIED_ACTION = re.compile(r"perform action '(?P<action>[^']+)'")


class ServiceNotFound(NotFound):
    """The service has no such thing: HTTP 404. `service_code` is its innermost error code."""

    def __init__(self, message: str, *, hint: str = "", service_code: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = 404
        self.service_code = service_code


class ServiceRefused(ServiceFailed):
    """The service answered with an error status that has no kind of its own."""

    def __init__(self, message: str, *, hint: str = "", status: int, service_code: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.service_code = service_code
        self.is_lasting = 400 <= status < 500 and status not in (408, 409, 429)


def refusal(failure: ErrorResponse, address: WorkspaceAddress, credential: str) -> HimlError:
    """The error for a status of 400 and more; *credential* is what messages call the one that was used."""
    if says_closed(" ".join([*failure.codes, failure.message])):
        return _closed(failure, address)
    special = _by_code(failure, address)
    if special is not None:
        return special
    if failure.status == 401:
        return _rejected(failure, credential)
    if failure.status == 403:
        return _forbidden(failure, address, credential)
    if failure.status == 404 and failure.method == "PUT":  # not of what was sent, but of what it refers to
        refused = f"{failure.host} refused PUT {_short(failure, address)}: 404{failure.in_brackets}."
        return ServiceNotFound(refused, service_code=failure.code)
    if failure.status == 404:
        return ServiceNotFound(
            f"{failure.host} has no {_short(failure, address)}{failure.in_brackets}.", service_code=failure.code
        )
    if failure.status == 407:
        return ServiceFailed(
            "The proxy wants a user and a password.",
            hint="Set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT, or name the host in NO_PROXY.",
        )
    if failure.status == 429:
        wait = f" and asks to wait {failure.retry_after} s" if failure.retry_after else ""
        return ServiceRefused(
            f"{failure.host} takes no more requests for now{wait} (429).",
            hint="Try again later.",
            status=429,
            service_code=failure.code,
        )
    return _refused(failure, address)


def _by_code(failure: ErrorResponse, address: WorkspaceAddress) -> HimlError | None:
    for code in failure.codes:
        make = _MEANINGS.get(code.lower())
        if make is not None:
            return make(failure, address)
    if failure.status == 404 and failure.path.lower() == address.path.lower():
        return _no_workspace(failure, address)
    return None


def _no_subscription(failure: ErrorResponse, address: WorkspaceAddress) -> HimlError:
    return WorkspaceNotFound(
        f"The account that is signed in sees no subscription '{address.subscription_id}' ({address.source}).",
        hint="Check the id, and that the right account and tenant are signed in: 'az account list' shows the "
        "subscriptions there are.",
    )


def _not_registered(failure: ErrorResponse, address: WorkspaceAddress) -> HimlError:
    return NotAllowed(
        f"The subscription '{address.subscription_id}' is not registered for Azure Machine Learning.",
        hint="Its owner can run: az provider register --namespace Microsoft.MachineLearningServices",
    )


def _no_group(failure: ErrorResponse, address: WorkspaceAddress) -> HimlError:
    return WorkspaceNotFound(
        f"There is no resource group '{address.resource_group}' in subscription '{address.subscription_id}' "
        f"({address.source}).",
        hint="Check the name: 'az group list' shows those there are.",
    )


def _no_workspace(failure: ErrorResponse, address: WorkspaceAddress) -> HimlError:
    return WorkspaceNotFound(
        f"There is no workspace '{address.name}' in resource group '{address.resource_group}' ({address.source}).",
        hint=f"Check the name: 'az ml workspace list --resource-group {address.resource_group}' shows those there are.",
    )


def _resource_missing(failure: ErrorResponse, address: WorkspaceAddress) -> HimlError | None:
    """ARM's own ResourceNotFound: of the workspace, or of something in it."""
    is_workspace = (
        failure.path.lower() == address.path.lower() or f"workspaces/{address.name}'".lower() in failure.message.lower()
    )
    return _no_workspace(failure, address) if is_workspace else None


def _disabled(failure: ErrorResponse, address: WorkspaceAddress) -> HimlError:
    return NotAllowed(
        f"The subscription '{address.subscription_id}' is disabled.",
        hint="Its owner can enable it again in the Azure portal.",
    )


def _wrong_tenant(failure: ErrorResponse, address: WorkspaceAddress) -> HimlError:
    tenant = failure.tenant_wanted
    named = f" '{tenant}'" if tenant else ""
    return NotAllowed(
        f"The token is from another tenant than that of subscription '{address.subscription_id}'{named}.",
        hint=f"Sign in there: 'az login --tenant {tenant or 'TENANT'}', or set "
        f"HIML_TENANT_ID{'=' + tenant if tenant else ''}.",
    )


_MEANINGS: dict[str, Callable[[ErrorResponse, WorkspaceAddress], HimlError | None]] = {
    "subscriptionnotfound": _no_subscription,
    "invalidsubscriptionid": _no_subscription,
    "subscriptionnotregistered": _not_registered,
    "missingsubscriptionregistration": _not_registered,
    "resourcegroupnotfound": _no_group,
    "resourcenotfound": _resource_missing,
    "workspacenotfound": _no_workspace,
    "invalidauthenticationtokentenant": _wrong_tenant,
    "readonlydisabledsubscription": _disabled,
    "disabledsubscription": _disabled,
}


def _rejected(failure: ErrorResponse, credential: str) -> HimlError:
    off = responses.clock_complaint(failure.headers)
    if off:
        return NotAllowedNow(
            f"{failure.host} does not accept the sign-in. {off}",
            hint="Set the clock (switch on its synchronisation), then try again.",
        )
    if failure.claims:
        return NotAllowedNow(
            f"{failure.host} wants a stronger sign-in than that by {credential}{failure.in_brackets}.",
            hint="A conditional access rule wants more: sign in with a second factor, or from a device that the tenant "
            "trusts, or ask its administrator.",
        )
    return NotAllowedNow(
        f"{failure.host} does not accept the sign-in by {credential}{failure.in_brackets}.",
        hint="Sign in again ('az login', or renew the service principal's secret).",
    )


def _closed(failure: ErrorResponse, address: WorkspaceAddress) -> HimlError:
    return NotAllowedNow(
        f"The firewall of {address.label} lets nobody in from this network ({failure.host} answered {failure.status}).",
        hint="Use a machine or VPN inside the workspace's network, or ask its owner to allow this one.",
    )


def _forbidden(failure: ErrorResponse, address: WorkspaceAddress, credential: str) -> HimlError:
    denied = DENIED_ACTION.search(failure.message)
    if denied:
        return NotAllowed(
            f"{_capital(credential)} lacks a role that allows '{denied['action']}'.",
            hint=f"Ask an owner of {address.label} for the role 'AzureML Data Scientist'; a new role counts after a "
            "few minutes.",
        )
    return NotAllowed(
        f"{_capital(credential)} is not allowed to do this: {failure.host} answered 403{failure.in_brackets}.",
        hint=f"Ask an owner of {address.label} for the role 'AzureML Data Scientist'.",
    )


def _refused(failure: ErrorResponse, address: WorkspaceAddress) -> HimlError:
    hint = (
        f"If it goes on, give the request id {failure.request_id} to the service's support."
        if failure.request_id
        else ""
    )
    if failure.status >= 500:
        what, hint = "failed at", f"Try again later. {hint}".strip()
    else:
        what = "refused"
    return ServiceRefused(
        f"{failure.host} {what} {failure.method} {_short(failure, address)}: {failure.status}{failure.in_brackets}.",
        hint=hint,
        status=failure.status,
        service_code=failure.code,
    )


def _capital(text: str) -> str:
    """*text* as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def _short(failure: ErrorResponse, address: WorkspaceAddress) -> str:
    """The path without the workspace's long id."""
    return re.sub(re.escape(address.path), "/…", failure.path, flags=re.IGNORECASE)


LONGEST_REASON = 160


@dataclass(frozen=True)
class Reason:
    """`text` completes `Azure CLI (…)`; `hint` is the next move where there is a special one."""

    text: str
    hint: str = ""


_RENEW_SECRET = (
    "Make a new secret ('az ad app credential reset --id ID', or the portal), and set it as "
    "HIML_SERVICE_PRINCIPAL_PASSWORD."
)
_LOG_IN_AGAIN = "Sign in again: az login."
_CHECK_IDS = "Check HIML_SERVICE_PRINCIPAL_ID (the application's client id) and HIML_TENANT_ID."
_MULTI_FACTOR = "Sign in again with 'az login --tenant TENANT', which asks for the second factor."
_RENEW = "Renew the token that AZURE_FEDERATED_TOKEN_FILE names; with a certificate, set this machine's clock."

AADSTS = {
    "7000215": Reason(
        "the client secret is wrong", "Set HIML_SERVICE_PRINCIPAL_PASSWORD to the secret's value, not to its id."
    ),
    "7000222": Reason("the client secret has expired", _RENEW_SECRET),
    "700016": Reason("no such application in this tenant", _CHECK_IDS),
    "700027": Reason(
        "the certificate is not one of the application's",
        "Register the certificate with the application, or use another.",
    ),
    "700024": Reason("the assertion is not valid at this time", _RENEW),
    "500133": Reason("the assertion is not valid at this time", _RENEW),
    "90002": Reason("no such tenant", "Check HIML_TENANT_ID (or AZURE_TENANT_ID)."),
    "900023": Reason("the tenant is no id and no domain", "Check HIML_TENANT_ID (or AZURE_TENANT_ID)."),
    "900382": Reason(
        "the application belongs to another cloud", "Set AZUREML_CURRENT_CLOUD (AzureUSGovernment, AzureChinaCloud)."
    ),
    "500011": Reason(
        "the tenant does not know this service",
        "Check HIML_TENANT_ID, and AZUREML_CURRENT_CLOUD for a sovereign cloud.",
    ),
    "7000112": Reason("the application is disabled", "Ask an administrator of the tenant to enable it."),
    "50020": Reason("the user is not known in this tenant", "Sign in with another account: az login --tenant TENANT."),
    "50034": Reason("the user is not known in this tenant", "Sign in with another account: az login --tenant TENANT."),
    "50057": Reason("the user's account is disabled", "Ask an administrator of the tenant to enable it."),
    "50126": Reason("user name or password are wrong", _LOG_IN_AGAIN),
    "50076": Reason("a second factor is required", _MULTI_FACTOR),
    "50079": Reason("a second factor has to be set up", _MULTI_FACTOR),
    "50078": Reason("the second factor has expired", _MULTI_FACTOR),
    "50173": Reason("the sign-in was revoked", _LOG_IN_AGAIN),
    "70043": Reason("the sign-in has expired", _LOG_IN_AGAIN),
    "700082": Reason("the sign-in has expired", _LOG_IN_AGAIN),
    "700084": Reason("the sign-in has expired", _LOG_IN_AGAIN),
    "50132": Reason("the sign-in is no longer valid", _LOG_IN_AGAIN),
    "53003": Reason(
        "a conditional access rule of the tenant blocks it", "Use a device or a network that the tenant's rules allow."
    ),
    "53000": Reason("the tenant wants a managed device", "Use a device or a network that the tenant's rules allow."),
    "65001": Reason(
        "the tenant has not consented to this application", "Ask an administrator of the tenant for consent."
    ),
}

_OR_VENDORS = " (or AZURE_TENANT_ID)"
_NO_TENANT = Reason("no such tenant", "Check HIML_TENANT_ID (or AZURE_TENANT_ID).")

STRONGER = "the service wants a stronger sign-in"
_CLAIMS_COMMAND = re.compile(
    r"(requires (?P<tool>[^)]+ or later)\): *)?(?P<command>(az login --claims-challenge|Connect-AzAccount "
    r"-ClaimsChallenge) \S.*)"
)

_PHRASES = (
    (
        re.compile(r"Unable to get authority configuration|invalid_tenant", re.IGNORECASE),
        _NO_TENANT,
    ),  # MSAL, for AADSTS90002
    (
        re.compile(r"Invalid tenant id provided", re.IGNORECASE),
        Reason("the tenant is no id and no domain", _NO_TENANT.hint),
    ),  # azure-identity
    (re.compile(r"CLI not found on path|not found on path|not installed", re.IGNORECASE), Reason("not installed")),
    (re.compile(r"Please run 'az login'|azd auth login|Connect-AzAccount", re.IGNORECASE), Reason("not signed in")),
    (
        re.compile(r"subscription of .* doesn't exist", re.IGNORECASE),
        Reason("its account does not see the workspace's subscription"),
    ),
    (re.compile(r"Failed to invoke the Azure|timed out|timeout", re.IGNORECASE), Reason("no answer in time")),
    (
        re.compile(
            r"Identity not found|no (managed )?identity|ManagedIdentityCredential authentication unavailable|not "
            r"available, no response",
            re.IGNORECASE,
        ),
        Reason("this machine has none"),
    ),
)


def reason_of(err: BaseException, settings: Mapping[str, str] | None = None, file_variable: str = "") -> Reason:
    """The reason in *err*'s message; *file_variable* is what names the file that the source of tokens reads.

    *settings* has what the hint should name in place of a variable, where that was set elsewhere.
    """
    if isinstance(err, OSError) and err.filename and err.strerror:
        return _unreadable(err, file_variable)
    reason = _reason_of(err)
    return Reason(reason.text, _with_places(reason.hint, settings or {}))


def _unreadable(err: OSError, variable: str) -> Reason:
    named = f", which {variable} names" if variable else ""
    hint = f"Let {variable} name a file that can be read, or unset it." if variable else ""
    return Reason(f"cannot read '{err.filename}'{named}: {err.strerror}", hint)


def _with_places(hint: str, settings: Mapping[str, str]) -> str:
    for variable, place in settings.items():
        hint = hint.replace(f"{variable}{_OR_VENDORS}", place).replace(variable, place)
    return hint


def _reason_of(err: BaseException) -> Reason:
    message = redact(str(err))
    number = re.search(r"AADSTS(\d+)", message)
    if number:
        known = AADSTS.get(number[1])
        return known or Reason(f"AADSTS{number[1]}: {_first_sentence(message.partition(number[0])[2])}".rstrip(": "))
    command = _CLAIMS_COMMAND.search(message)
    if command:
        return Reason(
            STRONGER,
            f"Run: {command['command'].rstrip('. ')}" + (f" (with {command['tool']})" if command["tool"] else ""),
        )
    for phrase, reason in _PHRASES:
        if phrase.search(message):
            return reason
    return Reason(_first_sentence(message) or type(err).__name__)


def _first_sentence(text: str) -> str:
    line = next((line.strip() for line in text.strip(": \n").splitlines() if line.strip()), "")
    line = line.partition(" Trace ID:")[0]
    line = re.sub(r"^(ERROR|Authentication failed):\s*", "", line).rstrip(". ")
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}…"
