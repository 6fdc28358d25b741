"""What failures of Azure's services come to: status, code, transport failure and sign-in code as a HimlError.

Codes are those of Azure Resource Manager
(https://learn.microsoft.com/azure/azure-resource-manager/troubleshooting/common-deployment-errors), of the Azure ML
services as recorded from the real ones, and of Entra ID. Causes that are not in a table get a general sentence with the
service's own words. Storage has `storage/blob_responses.py`.
"""

from __future__ import annotations

import base64
import errno
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit
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
from himl_cli.core.installation import ca_source
from himl_cli.core.redaction import redact
from himl_cli.core.text import read_json
from himl_cli.workspaces.azure.config import WorkspaceAddress
from himl_cli.workspaces.azure.responses import Response, clock_complaint

_CLOSED = re.compile(
    r"\b(PublicNetworkAccessDisabled|AccessDeniedByNetwork|IpAuthorizationFailed"
    r"|RequestDeniedByNetwork|ForbiddenByFirewall)\b"
    r"|public (network )?access is (disabled|not enabled|not permitted)|private (endpoint|link)|not allowed by (its "
    r")?firewall",
    re.IGNORECASE,
)

# By the service's code in small letters: the error, its sentence and its hint, with the address filled in.
_BY_CODE: dict[str, tuple[type[HimlError], str, str]] = {
    code: (kind, message, hint)
    for codes, kind, message, hint in (
        (
            "subscriptionnotfound invalidsubscriptionid",
            WorkspaceNotFound,
            "The account that is signed in sees no subscription '{0.subscription_id}' ({0.source}).",
            "Check the id, and that the right account and tenant are signed in: 'az account list' shows the "
            "subscriptions there are.",
        ),
        (
            "subscriptionnotregistered missingsubscriptionregistration",
            NotAllowed,
            "The subscription '{0.subscription_id}' is not registered for Azure Machine Learning.",
            "Its owner can run: az provider register --namespace Microsoft.MachineLearningServices",
        ),
        (
            "resourcegroupnotfound",
            WorkspaceNotFound,
            "There is no resource group '{0.resource_group}' in subscription '{0.subscription_id}' ({0.source}).",
            "Check the name: 'az group list' shows those there are.",
        ),
        (
            "workspacenotfound",
            WorkspaceNotFound,
            "There is no workspace '{0.name}' in resource group '{0.resource_group}' ({0.source}).",
            "Check the name: 'az ml workspace list --resource-group {0.resource_group}' shows those there are.",
        ),
        (
            "readonlydisabledsubscription disabledsubscription",
            NotAllowed,
            "The subscription '{0.subscription_id}' is disabled.",
            "Its owner can enable it again in the Azure portal.",
        ),
    )
    for code in codes.split()
}


class ServiceNotFound(NotFound):
    """The service has no such thing: HTTP 404."""

    status = 404


class ServiceRefused(ServiceFailed):
    """The service answered with an error status that has no kind of its own."""

    def __init__(self, message: str, *, hint: str = "", status: int) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.is_lasting = 400 <= status < 500 and status not in (408, 409, 429)


def says_closed(text: str) -> bool:
    """Whether *text*, codes and message of an error or its whole body, speaks of a network that is closed to us: by a
    firewall, or a private link.

    The status tells nothing: 403 mostly, but the data plane says 401 to whoever comes from outside of a private link
    (Azure/azure-cli-extensions#6294), and resource manager 502 (MicrosoftDocs/azure-docs#90426).
    """
    return _CLOSED.search(text) is not None


def claims_of(headers: Mapping[str, str]) -> str:
    """The claims that an answer with these headers asks for, as JSON text for `get_token`; nothing where it asks for
    none.

    By a 401 with them a service says that it wants a stronger sign-in: conditional access, continuous access evaluation
    and the second factor that resource manager enforces for changes
    (https://learn.microsoft.com/entra/identity-platform/claims-challenge).
    """
    challenge = next((value for name, value in headers.items() if name.lower() == "www-authenticate"), "")
    found = dict(re.findall(r'(error|claims)="([^"]*)"', challenge))
    if found.get("error") != "insufficient_claims":
        return ""
    encoded = found.get("claims", "").translate(str.maketrans("-_", "+/"))
    try:
        text = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode()
        return text if isinstance(read_json(text), dict) else ""
    except ValueError:  # no base64, no UTF-8, no JSON
        return ""


def refusal(response: Response, address: WorkspaceAddress, credential: str) -> HimlError:
    """The error for a status of 400 and more; *credential* is what messages call the one that was used."""
    status, host, details = response.status, response.host, response.in_brackets
    if says_closed(" ".join([*response.codes, response.message])):
        return NotAllowedNow(
            f"The firewall of {address.label} lets nobody in from this network ({host} answered {status}).",
            hint="Use a machine or VPN inside the workspace's network, or ask its owner to allow this one.",
        )
    codes = [code.lower() for code in response.codes]
    if "invalidauthenticationtokentenant" in codes:
        return _wrong_tenant(response, address)
    is_workspace = response.path.lower() == address.path.lower()
    if "resourcenotfound" in codes:  # the workspace, or something in it
        is_workspace |= f"workspaces/{address.name}'".lower() in response.message.lower()
    is_missing = is_workspace and (status == 404 or "resourcenotfound" in codes)
    known = next((code for code in codes if code in _BY_CODE), "workspacenotfound" if is_missing else "")
    if known:
        kind, message, hint = _BY_CODE[known]
        return kind(message.format(address), hint=hint.format(address))
    if status in (401, 403):
        return (_rejected if status == 401 else _forbidden)(response, address, credential)
    path = re.sub(re.escape(address.path), "/…", response.path, flags=re.IGNORECASE)
    if status == 404:  # to a PUT not of what was sent, but of what it refers to
        what = f"refused PUT {path}: 404" if response.method == "PUT" else f"has no {path}"
        return ServiceNotFound(f"{host} {what}{details}.")
    if status == 407:
        return ServiceFailed(
            "The proxy wants a user and a password.",
            hint="Set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT, or name the host in NO_PROXY.",
        )
    if status == 429:
        seconds = response.headers.get("retry-after", "")
        wait = f" and asks to wait {seconds} s" if seconds else ""
        message, hint = f"{host} takes no more requests for now{wait} (429).", "Try again later."
    else:
        what, hint = ("failed at", "Try again later. ") if status >= 500 else ("refused", "")
        message = f"{host} {what} {response.method} {path}: {status}{details}."
        if response.request_id:
            hint += f"If it goes on, give the request id {response.request_id} to the service's support."
    return ServiceRefused(message, hint=hint.strip(), status=status)


def _wrong_tenant(response: Response, address: WorkspaceAddress) -> HimlError:
    found = re.search(r"match the tenant 'https://[^/']+/([\w.-]+)", response.message) or re.search(
        r'authorization_uri="https://[^/"]+/([\w.-]+)', response.headers.get("www-authenticate", "")
    )
    tenant = found[1] if found else ""
    named = f" '{tenant}'" if tenant else ""
    return NotAllowed(
        f"The token is from another tenant than that of subscription '{address.subscription_id}'{named}.",
        hint=f"Sign in there: 'az login --tenant {tenant or 'TENANT'}', or set "
        f"HIML_TENANT_ID{'=' + tenant if tenant else ''}.",
    )


def _rejected(response: Response, address: WorkspaceAddress, credential: str) -> HimlError:
    clock = clock_complaint(response.headers)
    what = f"does not accept the sign-in by {credential}{response.in_brackets}."
    hint = "Sign in again ('az login', or renew the service principal's secret)."
    if clock:
        what = f"does not accept the sign-in. {clock}"
        hint = "Set the clock (switch on its synchronisation), then try again."
    elif claims_of(response.headers):
        what = f"wants a stronger sign-in than that by {credential}{response.in_brackets}."
        hint = (
            "A conditional access rule wants more: sign in with a second factor, or from a device that the tenant "
            "trusts, or ask its administrator."
        )
    return NotAllowedNow(f"{response.host} {what}", hint=hint)


def _forbidden(response: Response, address: WorkspaceAddress, credential: str) -> HimlError:
    denied = re.search(r"perform action '([^']+)'", response.message)
    what, when = f"is not allowed to do this: {response.host} answered 403{response.in_brackets}", ""
    if denied:
        what, when = f"lacks a role that allows '{denied[1]}'", "; a new role counts after a few minutes"
    return NotAllowed(
        f"{credential[:1].upper()}{credential[1:]} {what}.",
        hint=f"Ask an owner of {address.label} for the role 'AzureML Data Scientist'{when}.",
    )


# OpenSSL's reasons for a file without certificates.
NO_CERTIFICATES = {"NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE", "BAD_END_LINE", "BAD_BASE64_DECODE"}
_BROKEN = {"ConnectionResetError", "BrokenPipeError", "RemoteDisconnected", "IncompleteRead", "IncompleteReadError"}
# By the class of an exception of requests, urllib3 or the system (urllib3 wraps several in `MaxRetryError`).
_BY_CLASS = {
    name: (message, hint)
    for names, message, hint in (
        (
            _BROKEN,
            "{host} broke the connection off.",
            "Try again; if it goes on, a firewall or proxy may be in the way.",
        ),
        (
            ("NameResolutionError", "gaierror"),
            "The name {host} is not known here (DNS).",
            "Check the network; a private workspace is known inside its own network or VPN only.",
        ),
        (
            ("InvalidProxyURL",),
            "The proxy that HTTPS_PROXY names is no URL, so {host} cannot be reached.",
            "Write it as http://HOST:PORT.",
        ),
        (
            ("ConnectTimeout", "ConnectTimeoutError"),
            "{host} took too long to accept a connection.",
            "Check the network, the proxy and the VPN, then try again.",
        ),
        (
            ("ContentDecodingError",),
            "The answer of {host} came garbled.",
            "Try again; if it goes on, a proxy may be in the way.",
        ),
        (("ReadTimeout", "ReadTimeoutError"), "{host} took too long to answer.", "Try again later."),
    )
    for name in names
}


def network_error(err: BaseException, url: str) -> HimlError:
    """The error for a request that got no answer, from the exceptions of requests, urllib3 and OpenSSL."""
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
    return ServiceFailed(f"{host} cannot be reached: {_first_line(err)}.", hint="Check the network, then try again.")


def _tls_error(err: ssl.SSLError, host: str) -> HimlError:
    if not isinstance(err, ssl.SSLCertVerificationError):
        if err.reason in NO_CERTIFICATES:
            return BadUsage(
                f"{ca_source()} names a file that holds no certificates.",
                hint="It has to be a file in PEM form (-----BEGIN CERTIFICATE-----).",
            )
        return ServiceFailed(
            f"No secure connection to {host}: {err.reason or _first_line(err)}.",
            hint="A proxy or firewall on the way may break TLS.",
        )
    when = {9: "not valid yet", 10: "out of date"}.get(err.verify_code)  # by OpenSSL's codes
    if when:
        return ServiceFailed(
            f"The certificate of {host} is {when}.",
            hint="Check this machine's clock first; else whoever runs the service or the proxy has to renew it.",
        )
    return ServiceFailed(
        f"The certificate of {host} is not trusted ({err.verify_message}; authorities from {ca_source()}).",
        hint="Where a proxy inspects traffic, set REQUESTS_CA_BUNDLE to a file with your organisation's certificate "
        "authority.",
    )


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
    message, hint = _BY_CLASS["ConnectTimeout"]
    return ServiceFailed(message.format(host=host), hint=hint)


def is_network_error(err: BaseException) -> bool:
    """Whether *err* (of a sign-in, say) comes from a connection that failed."""
    plain, kinds = (ssl.SSLError, ConnectionError, TimeoutError), {*_BY_CLASS, "ProxyError", "NewConnectionError"}
    return any(isinstance(inner, plain) or type(inner).__name__ in kinds for inner in causes_of(err))


def is_unknown_host(err: BaseException) -> bool:
    """Whether no machine has the host's name, which a network that is down does not tell."""
    return any(isinstance(inner, socket.gaierror) and inner.errno != socket.EAI_AGAIN for inner in causes_of(err))


def is_permanent(err: BaseException) -> bool:
    """Whether another attempt at once cannot help: certificates that are not trusted, a proxy that says no, a name that
    nobody has."""
    return is_unknown_host(err) or any(
        (isinstance(inner, ssl.SSLError) and inner.reason in NO_CERTIFICATES)
        or isinstance(inner, ssl.SSLCertVerificationError)
        or type(inner).__name__ == "InvalidProxyURL"
        or "Tunnel connection failed: 4" in str(inner)
        for inner in causes_of(err)
    )


def is_disconnect(err: BaseException) -> bool:
    """Whether a connection broke that had been made: what was sent may have been carried out.

    Behind a proxy urllib3 calls that a ProxyError, as if nothing had been sent yet.
    """
    return any(type(inner).__name__ in _BROKEN for inner in causes_of(err))


def causes_of(err: BaseException) -> list[BaseException]:
    """*err* and all that caused it, what tells most first: certificates, then a broken connection, then the proxy
    (whose own cause would blame the host)."""
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


@dataclass(frozen=True)
class Reason:
    """`text` completes `Azure CLI (…)`; `hint` is the next move where there is a special one."""

    text: str
    hint: str = ""


_OR_VENDORS = " (or AZURE_TENANT_ID)"
_SECRET = "HIML_SERVICE_PRINCIPAL_PASSWORD"
AADSTS = {
    code: Reason(text, hint)
    for hint, reasons in (
        (f"Set {_SECRET} to the secret's value, not to its id.", {"7000215": "the client secret is wrong"}),
        (
            f"Make a new secret ('az ad app credential reset --id ID', or the portal), and set it as {_SECRET}.",
            {"7000222": "the client secret has expired"},
        ),
        (
            "Check HIML_SERVICE_PRINCIPAL_ID (the application's client id) and HIML_TENANT_ID.",
            {"700016": "no such application in this tenant"},
        ),
        (
            "Register the certificate with the application, or use another.",
            {"700027": "the certificate is not one of the application's"},
        ),
        (
            "Renew the token that AZURE_FEDERATED_TOKEN_FILE names; with a certificate, set this machine's clock.",
            dict.fromkeys(("700024", "500133"), "the assertion is not valid at this time"),
        ),
        (
            f"Check HIML_TENANT_ID{_OR_VENDORS}.",
            {"90002": "no such tenant", "900023": "the tenant is no id and no domain"},
        ),
        (
            "Set AZUREML_CURRENT_CLOUD (AzureUSGovernment, AzureChinaCloud).",
            {"900382": "the application belongs to another cloud"},
        ),
        (
            "Check HIML_TENANT_ID, and AZUREML_CURRENT_CLOUD for a sovereign cloud.",
            {"500011": "the tenant does not know this service"},
        ),
        (
            "Ask an administrator of the tenant to enable it.",
            {"7000112": "the application is disabled", "50057": "the user's account is disabled"},
        ),
        (
            "Sign in with another account: az login --tenant TENANT.",
            dict.fromkeys(("50020", "50034"), "the user is not known in this tenant"),
        ),
        (
            "Sign in again: az login.",
            {
                "50126": "user name or password are wrong",
                "50173": "the sign-in was revoked",
                **dict.fromkeys(("70043", "700082", "700084"), "the sign-in has expired"),
                "50132": "the sign-in is no longer valid",
            },
        ),
        (
            "Sign in again with 'az login --tenant TENANT', which asks for the second factor.",
            {
                "50076": "a second factor is required",
                "50079": "a second factor has to be set up",
                "50078": "the second factor has expired",
            },
        ),
        (
            "Use a device or a network that the tenant's rules allow.",
            {
                "53003": "a conditional access rule of the tenant blocks it",
                "53000": "the tenant wants a managed device",
            },
        ),
        (
            "Ask an administrator of the tenant for consent.",
            {"65001": "the tenant has not consented to this application"},
        ),
    )
    for code, text in reasons.items()
}

STRONGER = "the service wants a stronger sign-in"
_CLAIMS_COMMAND = re.compile(
    r"(requires (?P<tool>[^)]+ or later)\): *)?(?P<command>(az login --claims-challenge|Connect-AzAccount "
    r"-ClaimsChallenge) \S.*)"
)

_PHRASES = {  # of MSAL, of azure-identity and of the programs that it runs
    "Unable to get authority configuration|invalid_tenant": AADSTS["90002"],
    "Invalid tenant id provided": AADSTS["900023"],
    "not found on path|not installed": Reason("not installed"),
    "Please run 'az login'|azd auth login|Connect-AzAccount": Reason("not signed in"),
    "subscription of .* doesn't exist": Reason("its account does not see the workspace's subscription"),
    "Failed to invoke the Azure|timed out|timeout": Reason("no answer in time"),
    "Identity not found|no (managed )?identity|ManagedIdentityCredential authentication unavailable|"
    "not available, no response": Reason("this machine has none"),
}


def reason_of(err: BaseException, settings: Mapping[str, str] | None = None, file_variable: str = "") -> Reason:
    """The reason in *err*'s message; *file_variable* is what names the file that the source of tokens reads.

    *settings* has what the hint should name in place of a variable, where that was set elsewhere.
    """
    if isinstance(err, OSError) and err.filename and err.strerror:
        named = f", which {file_variable} names" if file_variable else ""
        hint = f"Let {file_variable} name a file that can be read, or unset it." if file_variable else ""
        return Reason(f"cannot read '{err.filename}'{named}: {err.strerror}", hint)
    message = redact(str(err))
    number, command = re.search(r"AADSTS(\d+)", message), _CLAIMS_COMMAND.search(message)
    if number:
        text = f"{number[0]}: {_first_sentence(message.partition(number[0])[2])}"
        reason = AADSTS.get(number[1]) or Reason(text.rstrip(": "))
    elif command:
        tool = f" (with {command['tool']})" if command["tool"] else ""
        reason = Reason(STRONGER, f"Run: {command['command'].rstrip('. ')}{tool}")
    else:
        known = (reason for phrase, reason in _PHRASES.items() if re.search(phrase, message, re.IGNORECASE))
        reason = next(known, None) or Reason(_first_sentence(message) or type(err).__name__)
    hint = reason.hint
    for variable, place in (settings or {}).items():
        hint = hint.replace(f"{variable}{_OR_VENDORS}", place).replace(variable, place)
    return Reason(reason.text, hint)


def _first_sentence(text: str) -> str:
    line = next((line.strip() for line in text.strip(": \n").splitlines() if line.strip()), "")
    line = re.sub(r"^(ERROR|Authentication failed):\s*", "", line.partition(" Trace ID:")[0]).rstrip(". ")
    return line if len(line) <= 160 else f"{line[:160]}…"
