"""Keys that storage gives to whoever signs in, to sign links with that open no more than their owner may read."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from xml.etree import ElementTree

from himl_cli.core.errors import ServiceFailed
from himl_cli.workspaces.azure.storage.blobs.access import ContainerAccess
from himl_cli.workspaces.azure.storage.blobs.asking import Pending, Question
from himl_cli.workspaces.azure.storage.blobs.lines import Exchanger, Line
from himl_cli.workspaces.azure.storage.blobs.signing import Signer
from himl_cli.workspaces.retry import RetryPolicy

LONGEST = timedelta(days=7)
"""How long the service lets such a key live, and so every link that is signed with it."""
NAME = "the key to sign links with"
_FIELDS = {
    "SignedOid": "signed_oid",
    "SignedTid": "signed_tid",
    "SignedStart": "signed_start",
    "SignedExpiry": "signed_expiry",
    "SignedService": "signed_service",
    "SignedVersion": "signed_version",
    "Value": "value",
}


def delegation_key(url: str, signer: Signer, exchanger: Exchanger, starts: datetime, ends: datetime) -> Any:
    """The vendor's `UserDelegationKey` of the account whose container is at *url*, for the identity that *signer* signs
    in.

    Raises NotAllowed, ServiceFailed.
    """
    access = ContainerAccess(url, "", signer, "the storage account")
    question = Question(
        NAME,
        access,
        RetryPolicy(),
        _key_in,
        method="POST",
        headers=("Content-Type: application/xml",),
        body=f"<KeyInfo><Start>{_text(starts)}</Start><Expiry>{_text(ends)}</Expiry></KeyInfo>".encode(),
        signed=lambda: access.account("restype=service&comp=userdelegationkey"),
    )
    return Pending(question, exchanger).wait()


def _key_in(line: Line) -> Any:
    from azure.storage.blob import UserDelegationKey

    key = UserDelegationKey()  # type: ignore[no-untyped-call]
    try:
        tree = ElementTree.fromstring(line.take())
    except ElementTree.ParseError as err:
        raise ServiceFailed(
            "Storage sent something else than a key to sign links with.", hint="Is a proxy or a log-in page in between?"
        ) from err
    for tag, name in _FIELDS.items():
        value = tree.findtext(tag)
        if not value:
            raise ServiceFailed(f"The key to sign links with that storage sent has no {tag}.")
        setattr(key, name, value)
    return key


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
