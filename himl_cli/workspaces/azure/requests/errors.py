"""What the services' refusals mean: their codes and bodies become himl's errors, with the next move.

Codes are those of Azure Resource Manager
(https://learn.microsoft.com/azure/azure-resource-manager/troubleshooting/common-deployment-errors) and of the Azure ML
services, as recorded from the real ones; see `failure.py` for the bodies that they stand in.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from himl_cli.core.errors import HimlError, NotAllowed, NotAllowedNow, NotFound, ServiceFailed, WorkspaceNotFound
from himl_cli.workspaces.azure.places.address import WorkspaceAddress
from himl_cli.workspaces.azure.requests import clock
from himl_cli.workspaces.azure.requests.closed_network import says_closed
from himl_cli.workspaces.azure.requests.failure import Failure

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


def refusal(failure: Failure, address: WorkspaceAddress, credential: str) -> HimlError:
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


def _by_code(failure: Failure, address: WorkspaceAddress) -> HimlError | None:
    for code in failure.codes:
        make = _MEANINGS.get(code.lower())
        if make is not None:
            return make(failure, address)
    if failure.status == 404 and failure.path.lower() == address.path.lower():
        return _no_workspace(failure, address)
    return None


def _no_subscription(failure: Failure, address: WorkspaceAddress) -> HimlError:
    return WorkspaceNotFound(
        f"The account that is signed in sees no subscription '{address.subscription_id}' ({address.source}).",
        hint="Check the id, and that the right account and tenant are signed in: 'az account list' shows the "
        "subscriptions there are.",
    )


def _not_registered(failure: Failure, address: WorkspaceAddress) -> HimlError:
    return NotAllowed(
        f"The subscription '{address.subscription_id}' is not registered for Azure Machine Learning.",
        hint="Its owner can run: az provider register --namespace Microsoft.MachineLearningServices",
    )


def _no_group(failure: Failure, address: WorkspaceAddress) -> HimlError:
    return WorkspaceNotFound(
        f"There is no resource group '{address.resource_group}' in subscription '{address.subscription_id}' "
        f"({address.source}).",
        hint="Check the name: 'az group list' shows those there are.",
    )


def _no_workspace(failure: Failure, address: WorkspaceAddress) -> HimlError:
    return WorkspaceNotFound(
        f"There is no workspace '{address.name}' in resource group '{address.resource_group}' ({address.source}).",
        hint=f"Check the name: 'az ml workspace list --resource-group {address.resource_group}' shows those there are.",
    )


def _resource_missing(failure: Failure, address: WorkspaceAddress) -> HimlError | None:
    """ARM's own ResourceNotFound: of the workspace, or of something in it."""
    is_workspace = (
        failure.path.lower() == address.path.lower() or f"workspaces/{address.name}'".lower() in failure.message.lower()
    )
    return _no_workspace(failure, address) if is_workspace else None


def _disabled(failure: Failure, address: WorkspaceAddress) -> HimlError:
    return NotAllowed(
        f"The subscription '{address.subscription_id}' is disabled.",
        hint="Its owner can enable it again in the Azure portal.",
    )


def _wrong_tenant(failure: Failure, address: WorkspaceAddress) -> HimlError:
    tenant = failure.tenant_wanted
    named = f" '{tenant}'" if tenant else ""
    return NotAllowed(
        f"The token is from another tenant than that of subscription '{address.subscription_id}'{named}.",
        hint=f"Sign in there: 'az login --tenant {tenant or 'TENANT'}', or set "
        f"HIML_TENANT_ID{'=' + tenant if tenant else ''}.",
    )


_MEANINGS: dict[str, Callable[[Failure, WorkspaceAddress], HimlError | None]] = {
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


def _rejected(failure: Failure, credential: str) -> HimlError:
    off = clock.complaint(failure.headers)
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


def _closed(failure: Failure, address: WorkspaceAddress) -> HimlError:
    return NotAllowedNow(
        f"The firewall of {address.label} lets nobody in from this network ({failure.host} answered {failure.status}).",
        hint="Use a machine or VPN inside the workspace's network, or ask its owner to allow this one.",
    )


def _forbidden(failure: Failure, address: WorkspaceAddress, credential: str) -> HimlError:
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


def _refused(failure: Failure, address: WorkspaceAddress) -> HimlError:
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


def _short(failure: Failure, address: WorkspaceAddress) -> str:
    """The path without the workspace's long id."""
    return re.sub(re.escape(address.path), "/…", failure.path, flags=re.IGNORECASE)
