"""Translation of Azure's failures into a HimlError: HTTP statuses, error codes, transport errors and sign-in codes.

Codes are those of Azure Resource Manager
(https://learn.microsoft.com/azure/azure-resource-manager/troubleshooting/common-deployment-errors), of the Azure ML
services as recorded from the real ones, and of Entra ID. A cause that is in no table gets a general sentence with the
service's own message. `storage/blob_responses.py` covers storage.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from himl_cli.core.errors import (
    HimlError,
    NotAllowed,
    NotAllowedNow,
    NotFound,
    ServiceFailed,
    WorkspaceNotFound,
)
from himl_cli.core.json_text import read_json
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import redact
from himl_cli.workspaces.azure.config import WorkspaceAddress
from himl_cli.workspaces.azure.responses import Response, clock_complaint
from himl_cli.workspaces.retry import is_transient

_CLOSED = re.compile(
    r"\b(PublicNetworkAccessDisabled|AccessDeniedByNetwork|IpAuthorizationFailed"
    r"|RequestDeniedByNetwork|ForbiddenByFirewall)\b"
    r"|public (network )?access is (disabled|not enabled|not permitted)|private (endpoint|link)|not allowed by (its "
    r")?firewall",
    re.IGNORECASE,
)

# Error type, message and hint by the service's code in lower case. The placeholders take the workspace's address.
_BY_CODE: dict[str, tuple[type[HimlError], str, str]] = {
    code: (kind, message, hint)
    for codes, kind, message, hint in (
        (
            "subscriptionnotfound invalidsubscriptionid",
            WorkspaceNotFound,
            "The account cannot access the subscription '{0.subscription_id}' ({0.source}).",
            "Check the id, the account and the tenant. To list the account's subscriptions: az account list",
        ),
        (
            "subscriptionnotregistered missingsubscriptionregistration",
            NotAllowed,
            "The subscription '{0.subscription_id}' is not registered for Azure Machine Learning.",
            "Ask its owner to run: az provider register --namespace Microsoft.MachineLearningServices",
        ),
        (
            "resourcegroupnotfound",
            WorkspaceNotFound,
            "Resource group '{0.resource_group}' does not exist in subscription '{0.subscription_id}' ({0.source}).",
            "List the resource groups: az group list",
        ),
        (
            "workspacenotfound",
            WorkspaceNotFound,
            "Workspace '{0.name}' does not exist in resource group '{0.resource_group}' ({0.source}).",
            "List the workspaces: az ml workspace list --resource-group {0.resource_group}",
        ),
        (
            "readonlydisabledsubscription disabledsubscription",
            NotAllowed,
            "The subscription '{0.subscription_id}' is disabled.",
            "Ask its owner to enable it in the Azure portal.",
        ),
    )
    for code in codes.split()
}


class ServiceNotFound(NotFound):
    """HTTP 404: the resource does not exist."""

    status = 404


class ServiceRefused(ServiceFailed):
    """An error status without an exception class for it."""

    def __init__(self, message: str, *, hint: str = "", status: int) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.is_lasting = status != 409 and not is_transient(status)


def says_closed(text: str) -> bool:
    """Return whether *text*, an error's codes and message or a whole body, reports a closed network (firewall, private
    link).

    The status does not identify this case. It is mostly 403, but the data plane answers 401 to requests from outside a
    private link (Azure/azure-cli-extensions#6294), and resource manager 502 (MicrosoftDocs/azure-docs#90426).
    """
    return _CLOSED.search(text) is not None


def claims_of(headers: Mapping[str, str]) -> str:
    """Return the claims that a response with these headers requests, as JSON text for `get_token`, or "".

    With a 401 and claims, a service requires a stronger sign-in: for conditional access, for continuous access
    evaluation, or for the second factor that resource manager enforces for changes
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
    except ValueError:  # not base64, UTF-8 or JSON
        return ""


def refusal(response: Response, address: WorkspaceAddress, credential: str) -> HimlError:
    """The error for a status of 400 or above. *credential* names the credential in messages."""
    status, host, details = response.status, response.host, response.in_brackets
    if says_closed(" ".join([*response.codes, response.message])):
        return NotAllowedNow(
            f"The firewall of {address.label} blocks this network ({host} answered {status}).",
            hint="Use a machine or VPN inside the workspace's network, or ask its owner to allow this one.",
        )
    codes = [code.lower() for code in response.codes]
    if "invalidauthenticationtokentenant" in codes:
        return _wrong_tenant(response, address)
    is_workspace = response.path.lower() == address.path.lower()
    if "resourcenotfound" in codes:  # the workspace, or something inside it
        is_workspace |= f"workspaces/{address.name}'".lower() in response.message.lower()
    is_missing = is_workspace and (status == 404 or "resourcenotfound" in codes)
    known = next((code for code in codes if code in _BY_CODE), "workspacenotfound" if is_missing else "")
    if known:
        kind, message, hint = _BY_CODE[known]
        return kind(message.format(address), hint=hint.format(address))
    if status in (401, 403):
        return (_rejected if status == 401 else _forbidden)(response, address, credential)
    path = re.sub(re.escape(address.path), "/…", response.path, flags=re.IGNORECASE)
    if status == 404:  # for a PUT, a resource that the body refers to is missing
        what = f"refused PUT {path}: 404" if response.method == "PUT" else f"has no {path}"
        return ServiceNotFound(f"{host} {what}{details}.")
    if status == 407:
        return ServiceFailed(
            "The proxy requires a user name and a password.",
            hint="Set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT, or name the host in NO_PROXY.",
        )
    if status == 429:
        after = response.headers.get("retry-after", "")
        wait = f" for {after} s" if after.isdecimal() else f" until {after}" if after else ""
        message, hint = f"{host} accepts no more requests{wait} (429).", "Try again later."
    else:
        what, hint = ("failed at", "Try again later. ") if status >= 500 else ("refused", "")
        message = f"{host} {what} {response.method} {path}: {status}{details}."
        if response.request_id:
            hint += f"If the error persists, contact the service's support with request id {response.request_id}."
    return ServiceRefused(message, hint=hint.strip(), status=status)


def _wrong_tenant(response: Response, address: WorkspaceAddress) -> HimlError:
    found = re.search(r"match the tenant 'https://[^/']+/([\w.-]+)", response.message) or re.search(
        r'authorization_uri="https://[^/"]+/([\w.-]+)', response.headers.get("www-authenticate", "")
    )
    tenant = found[1] if found else ""
    named = f" '{tenant}'" if tenant else ""
    return NotAllowed(
        f"The token belongs to a tenant other than that of subscription '{address.subscription_id}'{named}.",
        hint=f"Sign in to that tenant: 'az login --tenant {tenant or 'TENANT'}', or set "
        f"HIML_TENANT_ID{'=' + tenant if tenant else ''}.",
    )


def _rejected(response: Response, address: WorkspaceAddress, credential: str) -> HimlError:
    clock = clock_complaint(response.headers)
    what = f"rejected the sign-in by {credential}{response.in_brackets}."
    hint = "Sign in again with 'az login', or renew the service principal's secret."
    if clock:
        what = f"rejected the sign-in. {clock}"
        hint = "Set the clock (enable its synchronisation), then try again."
    elif claims_of(response.headers):
        what = f"requires a stronger sign-in than that by {credential}{response.in_brackets}."
        hint = (
            "The tenant has a conditional access rule. Sign in with a second factor or from a trusted device, or ask "
            "the administrator."
        )
    return NotAllowedNow(f"{response.host} {what}", hint=hint)


def _forbidden(response: Response, address: WorkspaceAddress, credential: str) -> HimlError:
    denied = re.search(r"perform action '([^']+)'", response.message)
    what, when = f"is not allowed to do this: {response.host} answered 403{response.in_brackets}", ""
    if denied:
        what, when = f"lacks a role that allows '{denied[1]}'", ". A new role takes a few minutes to apply"
    return NotAllowed(
        f"{credential[:1].upper()}{credential[1:]} {what}.",
        hint=f"Ask an owner of {address.label} for the role 'AzureML Data Scientist'{when}.",
    )


@dataclass(frozen=True)
class Reason:
    """`text` completes `Azure CLI (…)`. `hint` is a specific next step, or ""."""

    text: str
    hint: str = ""


_OR_VENDORS = " (or AZURE_TENANT_ID)"
_SECRET = "HIML_SERVICE_PRINCIPAL_PASSWORD"
AADSTS = {
    code: Reason(text, hint)
    for hint, reasons in (
        (f"Set {_SECRET} to the secret's value, not its id.", {"7000215": "the client secret is wrong"}),
        (
            f"Create a secret ('az ad app credential reset --id ID', or the portal), and set {_SECRET} to it.",
            {"7000222": "the client secret has expired"},
        ),
        (
            "Check HIML_SERVICE_PRINCIPAL_ID (the application's client id) and HIML_TENANT_ID.",
            {"700016": "the application does not exist in this tenant"},
        ),
        (
            "Register the certificate with the application, or use another one.",
            {"700027": "the certificate is not registered with the application"},
        ),
        (
            "Renew the token in AZURE_FEDERATED_TOKEN_FILE. For a certificate, set this machine's clock.",
            dict.fromkeys(("700024", "500133"), "the assertion is not valid at this time"),
        ),
        (
            f"Check HIML_TENANT_ID{_OR_VENDORS}.",
            {"90002": "the tenant does not exist", "900023": "the tenant is not an id or a domain"},
        ),
        (
            "Set AZUREML_CURRENT_CLOUD to AzureUSGovernment or AzureChinaCloud.",
            {"900382": "the application belongs to another cloud"},
        ),
        (
            "Check HIML_TENANT_ID, and AZUREML_CURRENT_CLOUD for a sovereign cloud.",
            {"500011": "the tenant does not have this service"},
        ),
        (
            "Ask an administrator of the tenant to enable it.",
            {"7000112": "the application is disabled", "50057": "the user's account is disabled"},
        ),
        (
            "Sign in with another account: az login --tenant TENANT.",
            dict.fromkeys(("50020", "50034"), "the user does not exist in this tenant"),
        ),
        (
            "Sign in again: az login.",
            {
                "50126": "the user name or the password is wrong",
                "50173": "the sign-in was revoked",
                **dict.fromkeys(("70043", "700082", "700084"), "the sign-in has expired"),
                "50132": "the sign-in is no longer valid",
            },
        ),
        (
            "Sign in with a second factor: az login --tenant TENANT.",
            {
                "50076": "a second factor is required",
                "50079": "a second factor must be set up",
                "50078": "the second factor has expired",
            },
        ),
        (
            "Use a device or a network that the tenant's rules allow.",
            {
                "53003": "a conditional access rule of the tenant blocks it",
                "53000": "the tenant requires a managed device",
            },
        ),
        (
            "Ask an administrator of the tenant for consent.",
            {"65001": "the tenant has not consented to this application"},
        ),
    )
    for code, text in reasons.items()
}

STRONGER = "the service requires a stronger sign-in"
_CLAIMS_COMMAND = re.compile(
    r"(requires (?P<tool>[^)]+ or later)\): *)?(?P<command>(az login --claims-challenge|Connect-AzAccount "
    r"-ClaimsChallenge) \S.*)"
)

# Messages of MSAL, of azure-identity and of the programs that it runs.
_PHRASES = {
    "Unable to get authority configuration|invalid_tenant": AADSTS["90002"],
    "Invalid tenant id provided": AADSTS["900023"],
    "not found on path|not installed": Reason("not installed"),
    "Please run 'az login'|azd auth login|Connect-AzAccount": Reason("not signed in"),
    "subscription of .* doesn't exist": Reason("its account cannot access the workspace's subscription"),
    "Failed to invoke the Azure|timed out|timeout": Reason("timed out"),
    "Identity not found|no (managed )?identity|ManagedIdentityCredential authentication unavailable|"
    "not available, no response": Reason("this machine has none"),
}


def reason_of(err: BaseException, settings: Mapping[str, str] | None = None, file_variable: str = "") -> Reason:
    """The reason in *err*'s message. *file_variable* is the environment variable with the token source's file.

    *settings* maps a variable to the setting that the hint names in its place, for a value from elsewhere.
    """
    if isinstance(err, OSError) and err.filename and err.strerror:
        named = f" from {file_variable}" if file_variable else ""
        hint = f"Set {file_variable} to a readable file, or unset it." if file_variable else ""
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
