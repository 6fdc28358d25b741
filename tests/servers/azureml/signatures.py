"""Signatures that say `spr=https`. Clients do speak TLS to the front, but Azurite behind it hears plain HTTP and would refuse them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote

from azure.storage.blob import generate_account_sas, generate_blob_sas, generate_container_sas

SIGNED = {"sv", "st", "se", "sr", "sp", "spr", "sig", "ss", "srt"}


@lru_cache(maxsize=4096)
def for_plain_http(account: str, key: str, path: str, query: str) -> str:
    """*query* with its signature made anew without `spr`, if it was right: made with *key* for just this. A wrong one stays as it is, for Azurite to refuse."""
    given = dict(parse_qsl(query, keep_blank_values=True))
    if given.get("spr") != "https":
        return query
    names = ("st", "se", "sp", "sr", "ss", "srt")
    terms = tuple(given.get(name, "") for name in names)
    if dict(parse_qsl(signed_by_account(account, key, path, terms, "https"))).get("sig") != given.get("sig"):
        return query
    others = [part for part in query.split("&") if part.partition("=")[0] not in SIGNED]
    return "&".join([*others, signed_by_account(account, key, path, terms, None)])


def signed_by_account(account: str, key: str, path: str, terms: tuple[str, ...], protocol: str | None) -> str:
    """A signature with the account's key for what is at *path*; *terms* are the values of `st se sp sr ss srt`, '' where one is not said."""
    start, expiry, permissions, resource, services, types = terms
    times: dict[str, Any] = {"start": start or None, "expiry": expiry, "permission": permissions, "protocol": protocol}
    container, _, name = unquote(path.lstrip("/")).partition("/")
    if services:
        return generate_account_sas(account, key, resource_types=types, services=services, **times)
    if resource == "b":
        return generate_blob_sas(account, container, name, account_key=key, **times)
    return generate_container_sas(account, container, account_key=key, **times)
