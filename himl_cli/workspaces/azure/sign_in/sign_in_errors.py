"""Why a sign-in failed, in a few words, from what Entra ID, azure-identity and the Azure CLI say.

The AADSTS numbers are Entra ID's: https://learn.microsoft.com/entra/identity-platform/reference-error-codes
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from himl_cli.core.redaction import redact

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
