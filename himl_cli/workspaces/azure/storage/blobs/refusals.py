"""Why storage refuses a sign-in (401, 403), in himl's own sentences, and what may help."""

from __future__ import annotations

import time
from datetime import datetime, timezone

from himl_cli.core.errors import NotAllowed
from himl_cli.workspaces.azure.requests import clock
from himl_cli.workspaces.azure.requests.times import http_time
from himl_cli.workspaces.azure.storage.blobs.lines import Line
from himl_cli.workspaces.azure.storage.blobs.place import Place
from himl_cli.workspaces.azure.storage.blobs.wire import error_detail

UNKNOWN_SIGN_IN = ("AuthenticationFailed", "InvalidAuthenticationInfo")
RIGHT_MISSING = ("AuthorizationPermissionMismatch", "InsufficientAccountPermissions", "UnauthorizedBlobOverwrite")
NO_KEYS = ("KeyBasedAuthenticationNotPermitted", "PublicAccessNotPermitted")
NETWORK = ("AuthorizationFailure", "AuthorizationSourceIPMismatch", "IpAuthorizationFailed", "NetworkAclDenied")

ROLES = "Ask for the role 'Storage Blob Data Reader' to read, 'Storage Blob Data Contributor' to write."


def refusal(line: Line, body: bytes, place: Place, code: str) -> NotAllowed:
    """The error for an answer of 401 or 403 with the service's *code*."""
    storage = place.storage.capitalize()
    off = _clock_off(line)
    if off is not None and code in (*UNKNOWN_SIGN_IN, "AuthorizationFailure", ""):
        return NotAllowed(
            f"{storage} refuses the sign-in, and this machine's clock is {clock.said(off)} the service's.",
            hint="Set the clock (or switch network time on), and run the command again.",
        )
    if code in UNKNOWN_SIGN_IN or (code == "AuthorizationFailure" and _is_over(place)):
        return _not_valid(body, place, storage)
    if code in RIGHT_MISSING:
        signed = f" with {place.sign_in}" if place.sign_in else ""
        hint = (
            "The SAS token has to allow reading and listing, to upload also creating and writing: make another one."
            if _is_sas(place)
            else ROLES
        )
        return NotAllowed(
            f"Not allowed to do this in container '{place.container}' of {place.storage}{signed}.", hint=hint
        )
    if code in NO_KEYS:
        return NotAllowed(f"{storage} takes no account keys, and the sign-in here was not enough.", hint=ROLES)
    if code in NETWORK:
        return NotAllowed(
            f"The firewall of {place.storage} does not let this machine in, or the right to its data is missing "
            f"({code}).",
            hint="Work from a network that its rules allow, or have this machine's address added; to read, the role "
            "'Storage Blob Data Reader' is needed.",
        )
    if code == "AccountIsDisabled":
        return NotAllowed(f"{storage} is disabled.", hint="Ask whoever pays for the subscription.")
    return NotAllowed(
        f"{storage} refuses the request ({line.status} {code or 'without a reason'}).",
        hint="'himl doctor' checks what is missing.",
    )


def _not_valid(body: bytes, place: Place, storage: str) -> NotAllowed:
    hint = "Is the right account signed in, and in the tenant of the storage account? 'himl doctor' says which it is."
    if _is_sas(place) or "key" in place.sign_in:
        hint = (
            "Was the account's key changed, or the datastore's SAS token? Update the datastore's credentials "
            "in the "
            "workspace."
        )
    if _is_over(place):
        ends = datetime.fromtimestamp(place.expires, timezone.utc)
        return NotAllowed(
            f"The time of {place.sign_in} for {place.storage} is over since {ends:%Y-%m-%d %H:%M} UTC.", hint=hint
        )
    detail = error_detail(body).lower() or body.decode("utf-8", "replace").lower()
    why = "expired" if "time frame" in detail or "expired" in detail else "not valid"
    return NotAllowed(f"{storage} says that {place.sign_in or 'the sign-in'} is {why}.", hint=hint)


def refused_again(line: Line, place: Place, code: str) -> NotAllowed | None:
    """The error where what *place* signs with was got anew and refused with *code* all the same; None where that says
    nothing new."""
    if code not in UNKNOWN_SIGN_IN or _is_over(place) or _clock_off(line) is not None:
        return None
    what = place.sign_in or "the sign-in"
    told = f"{place.storage.capitalize()} refuses {what}, also when it was got anew just now ({code})."
    if "key" in place.sign_in:
        hint = (
            "The key that the workspace has of the account is probably out of date: its owner should update the "
            "datastore's credentials in the workspace."
        )
    elif _is_sas(place):
        hint = (
            "It was probably revoked, or made for another container: its owner should update the datastore's "
            "credentials in the workspace."
        )
    elif place.sign_in.endswith("link"):
        hint = (
            "Was the key of the workspace's storage account changed? Its owner should synchronise the workspace's keys."
        )
    else:
        hint = (
            "Is the right account signed in, and in the tenant of the storage account? 'himl doctor' says which it is."
        )
    return NotAllowed(told, hint=hint)


def _is_over(place: Place) -> bool:
    return 0 < place.expires < time.time()


def _is_sas(place: Place) -> bool:
    return place.sign_in.endswith("SAS token")


def _clock_off(line: Line) -> float | None:
    """Seconds that the clock here is ahead of the service's, where that matters."""
    moment = http_time(line.header(b"date"))
    if moment is None:
        return None
    off = time.time() - moment.timestamp()
    return off if abs(off) > clock.TOLERABLE_SECONDS else None
