"""User delegation: keys that storage gives to an identity, and signatures that are made with them. Azurite knows them over its own TLS only.

The forms: https://learn.microsoft.com/rest/api/storageservices/get-user-delegation-key
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qsl, unquote
from xml.etree import ElementTree

from azure.storage.blob import UserDelegationKey, generate_blob_sas

from tests.servers.azureml.issued import issued
from tests.servers.azureml.messages import Head
from tests.servers.azureml.principals import Principal
from tests.servers.azureml.signatures import SIGNED, signed_by_account
from tests.servers.azureml.storage import DELEGATED, Storage

LONGEST = timedelta(days=7)
VERSION = "2023-11-03"
KEY_TERMS = ("skoid", "sktid", "skt", "ske", "sks", "skv")


class NoKey(Exception):
    """The key that was asked for is none that the service gives; the text says why."""


def asks_for_key(request: Head) -> bool:
    return request.first[0] == "POST" and "comp=userdelegationkey" in request.first[1]


def key_document(storage: Storage, principal: Principal, body: bytes) -> bytes:
    """The answer to a request with *body*. Raises NoKey."""
    try:
        tree = ElementTree.fromstring(body)
        start, expiry = tree.findtext("Start") or "", tree.findtext("Expiry") or ""
        begins, ends = _moment(start), _moment(expiry)
    except (ElementTree.ParseError, ValueError) as e:
        raise NoKey(f"The value for one of the XML nodes is not in the correct format: {e}") from e
    if not begins < ends <= datetime.now(timezone.utc) + LONGEST or ends < datetime.now(timezone.utc):
        raise NoKey("The time of the key is longer than seven days, or over.")
    terms = dict(zip(KEY_TERMS, (principal.object_id, principal.tenant, start, expiry, "b", VERSION), strict=True))
    tags = ("SignedOid", "SignedTid", "SignedStart", "SignedExpiry", "SignedService", "SignedVersion")
    parts = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, terms.values(), strict=True))
    return f'<?xml version="1.0" encoding="utf-8"?><UserDelegationKey>{parts}<Value>{_value(storage.key, terms)}</Value></UserDelegationKey>'.encode()


def signer_of(storage: Storage, path: str, query: str) -> str:
    """The object id of the identity by whose key *query* is signed for the blob at *path*; '' where it is not, or the key's time is over."""
    given = dict(parse_qsl(query, keep_blank_values=True))
    if not all(given.get(name) for name in KEY_TERMS) or given.get("sr") != "b" or DELEGATED.partition("&")[0] in query:
        return ""
    key = UserDelegationKey()  # type: ignore[no-untyped-call]
    key.signed_oid, key.signed_tid, key.signed_start, key.signed_expiry, key.signed_service, key.signed_version = (given[name] for name in KEY_TERMS)
    key.value = _value(storage.key, given)
    container, _, name = unquote(path.lstrip("/")).partition("/")
    terms = {"permission": given.get("sp"), "start": given.get("st") or None, "expiry": given.get("se"), "protocol": given.get("spr") or None}
    made = generate_blob_sas(storage.account, container, name, user_delegation_key=key, **terms)  # type: ignore[arg-type]
    is_right = dict(parse_qsl(made)).get("sig") == given.get("sig") and _moment(given["ske"]) > datetime.now(timezone.utc)
    return given["skoid"] if is_right else ""


def for_azurite(storage: Storage, path: str, query: str) -> str:
    """*query*, which `signer_of` found right, signed with the account's key in place of the identity's."""
    given = dict(parse_qsl(query, keep_blank_values=True))
    terms = tuple(given.get(name, "") for name in ("st", "se", "sp", "sr", "ss", "srt"))
    others = [part for part in query.split("&") if part.partition("=")[0] not in {*SIGNED, *KEY_TERMS}]
    return "&".join([*others, signed_by_account(storage.account, storage.key, path, terms, None)])


def _value(account_key: str, terms: Mapping[str, str]) -> str:
    text = "\n".join(terms[name] for name in KEY_TERMS)
    return issued("delegation key", base64.b64encode(hmac.new(base64.b64decode(account_key), text.encode(), hashlib.sha256).digest()).decode())


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
