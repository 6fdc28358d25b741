"""Storage: an account of the double with its signatures and keys, and the checks of tokens, permissions and faults
between a client and Azurite.

Azurite supports user delegation only over its own TLS, and would reject signatures with `spr=https`: clients use TLS
to the front, but Azurite behind it receives plain HTTP. The formats:
https://learn.microsoft.com/rest/api/storageservices/get-user-delegation-key
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property, lru_cache
from http.client import HTTPConnection
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from azure.core.exceptions import ResourceNotFoundError
from azure.storage import blob as vendor

from tests.azureml_double.faults import ChangeEtag, ExpireSas, Met, SmallPages
from tests.azureml_double.log import STORAGE, Head, issued, signed
from tests.azureml_double.state import Azure, Principal, Right, TokenRefused, read_token

LONGEST = timedelta(days=7)
KEY_VERSION = "2023-11-03"
KEY_TERMS = ("skoid", "sktid", "skt", "ske", "sks", "skv")
READS = {"GET", "HEAD"}
MOST_PARTS = 254
OLDEST_VERSION_FOR_TOKENS = "2017-11-09"
SIGNED = {"sv", "st", "se", "sr", "sp", "spr", "sig", "ss", "srt", *KEY_TERMS}
TERMS = ("st", "se", "sp", "sr", "ss", "srt")
NOT_PERMITTED = "This request is not authorized to perform this operation using this permission."
NOT_AUTHENTICATED = "Server failed to authenticate the request."
SEE_CHALLENGE = "Please refer to the information in the www-authenticate header."
DELEGATED = "skoid=11111111-2222-3333-4444-555555555555&sktid=66666666-7777-8888-9999-000000000000&sks=b&skv=2023-11-03"
"""The parameters that identify a user delegation signature
(https://learn.microsoft.com/rest/api/storageservices/create-user-delegation-sas).
"""


@dataclass
class Storage:
    """A storage account. `azurite` is the emulator's address, e.g. `http://127.0.0.1:10000`. `sas_seconds` is the
    lifetime of the links that the services return. If `takes_keys` is false, the account rejects its key and
    signatures made with it. If `is_open` is false, a firewall rejects every client.
    """

    account: str
    key: str
    azurite: str
    sas_seconds: float = 8 * 3600
    takes_keys: bool = True
    is_open: bool = True
    suffix: str = STORAGE
    protocol: str = "https"

    def __post_init__(self) -> None:
        issued("account key", self.key)

    @property
    def host(self) -> str:
        return f"{self.account}.{self.suffix}"

    @cached_property
    def client(self) -> vendor.BlobServiceClient:
        """The vendor's client, which bypasses the front. Its requests are neither recorded nor affected by faults."""
        # Ignore the proxy settings of this machine.
        return vendor.BlobServiceClient(f"{self.azurite}/{self.account}", credential=self.key, use_env_settings=False)

    def make_container(self, container: str) -> None:
        self._ask(("PUT", f"/{container}?restype=container", (201, 409)))

    def put(
        self, container: str, name: str, content: bytes, *, metadata: Mapping[str, str] | None = None, md5: bool = True
    ) -> None:
        settings = vendor.ContentSettings(
            content_type="application/octet-stream",
            content_md5=bytearray(hashlib.md5(content).digest()) if md5 else None,
        )
        blob = self.client.get_blob_client(container, name)
        blob.upload_blob(
            content, overwrite=True, content_settings=settings, metadata=dict(metadata) if metadata else None
        )
        if not md5:
            blob.set_http_headers(vendor.ContentSettings(content_type="application/octet-stream"))

    def put_all(self, container: str, files: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> None:
        pairs = files.items() if isinstance(files, Mapping) else files
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(self.put, container, name, content) for name, content in pairs]:
                done.result()

    def append(self, container: str, name: str, content: bytes) -> None:
        blob = self.client.get_blob_client(container, name)
        if not blob.exists():
            blob.create_append_blob()
        blob.append_block(content)

    def get(self, container: str, name: str) -> bytes:
        return self.client.get_blob_client(container, name).download_blob().readall()

    def properties(self, container: str, name: str) -> vendor.BlobProperties | None:
        try:
            return self.client.get_blob_client(container, name).get_blob_properties()
        except ResourceNotFoundError:
            return None

    def list(self, container: str, prefix: str = "") -> Iterator[vendor.BlobProperties]:
        with suppress(ResourceNotFoundError):
            yield from self.client.get_container_client(container).list_blobs(name_starts_with=prefix)

    def url(self, container: str, name: str) -> str:
        return f"https://{self.host}/{container}/{quote(name)}"

    def blob_link(self, container: str, name: str, *, permissions: str = "r", seconds: float | None = None) -> str:
        """The URL of one blob that a service returns, valid for *seconds* (default: the account's `sas_seconds`). The
        real URLs have user delegation signatures, which are valid even if the account rejects its key.
        """
        rights = vendor.BlobSasPermissions.from_string(permissions)
        times = _times(seconds or self.sas_seconds)
        signature = vendor.generate_blob_sas(
            self.account, container, name, account_key=self.key, permission=rights, **times
        )
        return signed(f"{self.url(container, name)}?{signature}&{DELEGATED}")

    def container_sas(self, container: str, *, permissions: str = "rl", seconds: float | None = None) -> str:
        rights = vendor.ContainerSasPermissions.from_string(permissions)
        return signed(
            vendor.generate_container_sas(
                self.account, container, account_key=self.key, permission=rights, **_times(seconds or self.sas_seconds)
            )
        )

    def account_sas(self) -> str:
        """The SAS that `listSecrets` returns in place of a key, with the services, types and permissions of the one
        recorded on 27 March 2026.
        """
        expiry = datetime.now(timezone.utc) + timedelta(seconds=self.sas_seconds)
        return signed(
            vendor.generate_account_sas(
                self.account, self.key, resource_types="co", permission="rcuwdl", expiry=expiry, services="bf"
            )
        )

    @cached_property
    def vouching_sas(self) -> str:
        """A SAS that the front uses in place of an identity's token that it has checked. Azurite accepts tokens only
        over TLS, and does not check permissions.
        """
        return vendor.generate_account_sas(self.account, self.key, "sco", "rwdlacutf", **_times(7 * 24 * 3600))

    def wipe(self) -> None:
        (listed,) = self._ask(("GET", "?comp=list", (200,)))
        self._ask(
            *[
                ("DELETE", f"/{container}?restype=container", (202,))
                for container in re.findall(r"<Name>(.*?)</Name>", listed)
            ]
        )

    def _ask(self, *questions: tuple[str, str, tuple[int, ...]]) -> tuple[str, ...]:
        """Send requests that every test sends several times, and return the answers. The vendor's client is ten times
        slower.
        """
        answers = []
        with closing(HTTPConnection(urlsplit(self.azurite).netloc, timeout=60)) as connection:
            for method, what, expected in questions:
                connection.request(
                    method, f"/{self.account}{what}&{self.vouching_sas}", headers={"Content-Length": "0"}
                )
                answer = connection.getresponse()
                answers.append(answer.read().decode())
                assert answer.status in expected, f"{method} {what}: {answer.status} {answers[-1]}"
        return tuple(answers)

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()


def _times(seconds: float) -> dict[str, Any]:
    at = datetime.now(timezone.utc)
    return {"start": at - timedelta(minutes=10), "expiry": at + timedelta(seconds=seconds)}


@lru_cache(maxsize=4096)
def _signed_by_account(account: str, key: str, path: str, terms: tuple[str, ...], protocol: str | None) -> str:
    """Sign *path* with the account's key. *terms* are the values of TERMS, with '' for an absent one."""
    start, expiry, permissions, resource, services, types = terms
    times: dict[str, Any] = {"start": start or None, "expiry": expiry, "permission": permissions, "protocol": protocol}
    container, _, name = unquote(path.lstrip("/")).partition("/")
    if services:
        return vendor.generate_account_sas(account, key, resource_types=types, services=services, **times)
    if resource == "b":
        return vendor.generate_blob_sas(account, container, name, account_key=key, **times)
    return vendor.generate_container_sas(account, container, account_key=key, **times)


def _for_azurite(azure: Azure, storage: Storage, path: str, query: str) -> str:
    """Sign *query* with the account's key and without `spr`, if its signature by that key or by that of an identity
    is valid. An invalid signature stays, so that Azurite rejects it. Raises StorageRefusal if the identity may not
    read.
    """
    given = dict(parse_qsl(query, keep_blank_values=True))
    terms = tuple(given.get(name, "") for name in TERMS)
    signer = _signer_of(storage, path, given)
    if signer:
        if not any(one.object_id == signer and Right.STORAGE_READ in one.rights for one in azure.principals.values()):
            raise StorageRefusal(403, "AuthorizationPermissionMismatch", NOT_PERMITTED)
    else:
        # Azurite signs only with the key.
        query = "&".join(part for part in query.split("&") if part not in DELEGATED.split("&"))
        by_key = (
            _signed_by_account(storage.account, storage.key, path, terms, "https")
            if given.get("spr") == "https"
            else ""
        )
        if not by_key or dict(parse_qsl(by_key)).get("sig") != given.get("sig"):
            return query
    others = [part for part in query.split("&") if part.partition("=")[0] not in SIGNED]
    return "&".join([*others, _signed_by_account(storage.account, storage.key, path, terms, None)])


def _signer_of(storage: Storage, path: str, given: Mapping[str, str]) -> str:
    """The object id of the identity with whose key the query *given* is signed for the blob at *path*. '' if there is
    none or the key has expired.
    """
    if not all(given.get(name) for name in KEY_TERMS) or given.get("sr") != "b" or given["skoid"] in DELEGATED:
        return ""
    key = vendor.UserDelegationKey()  # type: ignore[no-untyped-call]
    key.signed_oid, key.signed_tid, key.signed_start, key.signed_expiry, key.signed_service, key.signed_version = (
        given[name] for name in KEY_TERMS
    )
    key.value = _key_value(storage.key, given)
    container, _, name = unquote(path.lstrip("/")).partition("/")
    terms = {
        "permission": given.get("sp"),
        "start": given.get("st") or None,
        "expiry": given.get("se"),
        "protocol": given.get("spr") or None,
    }
    place = storage.account, container, name
    made = vendor.generate_blob_sas(*place, user_delegation_key=key, **terms)  # type: ignore[arg-type]
    is_right = dict(parse_qsl(made)).get("sig") == given.get("sig") and _moment(given["ske"]) > datetime.now(
        timezone.utc
    )
    return given["skoid"] if is_right else ""


def _key_value(account_key: str, terms: Mapping[str, str]) -> str:
    text = "\n".join(terms[name] for name in KEY_TERMS)
    return issued(
        "delegation key",
        base64.b64encode(hmac.new(base64.b64decode(account_key), text.encode(), hashlib.sha256).digest()).decode(),
    )


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)


def asks_for_key(request: Head) -> bool:
    return request.first[0] == "POST" and "comp=userdelegationkey" in request.first[1]


def key_answer(azure: Azure, host: str, request: Head, body: bytes) -> tuple[Head, bytes]:
    """A key for signing links, for an identity that may read. Raises StorageRefusal."""
    found = azure.storage(host.partition(".")[0])
    assert found is not None
    if request.get("authorization").partition(" ")[0].lower() != "bearer":
        raise StorageRefusal(403, "AuthenticationFailed", "Only an identity gets a user delegation key.")
    principal = _check_token(azure, found[1], request)
    try:
        tree = ElementTree.fromstring(body)
        start, expiry = tree.findtext("Start") or "", tree.findtext("Expiry") or ""
        begins, ends = _moment(start), _moment(expiry)
    except (ElementTree.ParseError, ValueError) as e:
        raise StorageRefusal(
            400, "InvalidXmlNodeValue", f"The value for one of the XML nodes is not in the correct format: {e}"
        ) from e
    if not begins < ends <= datetime.now(timezone.utc) + LONGEST or ends < datetime.now(timezone.utc):
        raise StorageRefusal(400, "InvalidXmlNodeValue", "The time of the key is longer than seven days, or over.")
    values = (principal.object_id, principal.tenant, start, expiry, "b", KEY_VERSION)
    tags = ("SignedOid", "SignedTid", "SignedStart", "SignedExpiry", "SignedService", "SignedVersion")
    parts = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, values, strict=True))
    value = _key_value(found[1].key, dict(zip(KEY_TERMS, values, strict=True)))
    document = (
        f'<?xml version="1.0" encoding="utf-8"?><vendor.UserDelegationKey>{parts}<Value>{value}</Value></'
        "vendor.UserDelegationKey>"
    ).encode()
    return Head(
        ["HTTP/1.1", "200", "OK"], [("Content-Type", "application/xml"), ("Content-Length", str(len(document)))]
    ), document


class StorageRefusal(Exception):
    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: Sequence[tuple[str, str]] = (),
        details: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers, self.details = status, code, message, headers, details or {}


def answer_of(refusal: StorageRefusal, method: str) -> tuple[Head, bytes]:
    """The answer: XML, with the code in `x-ms-error-code`. A HEAD has only headers."""
    moment = datetime.now(timezone.utc).isoformat()
    text = f"{refusal.message}\nRequestId:{uuid.uuid4()}\nTime:{moment}"
    parts = {"Code": refusal.code, "Message": text, **refusal.details}
    elements = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in parts.items())
    body = f'\ufeff<?xml version="1.0" encoding="utf-8"?><Error>{elements}</Error>'.encode()
    if method == "HEAD":
        body = b""
    headers = [
        ("x-ms-error-code", refusal.code),
        ("x-ms-request-id", str(uuid.uuid4())),
        ("Content-Type", "application/xml"),
        *refusal.headers,
    ]
    return Head(["HTTP/1.1", str(refusal.status), refusal.code], [*headers, ("Content-Length", str(len(body)))]), body


def admitted(azure: Azure, host: str, request: Head, met: Met) -> None:
    """Change *request* into the form for Azurite. Raises StorageRefusal."""
    found = azure.storage(host.partition(".")[0])
    # The front blocks connections to other accounts.
    assert found is not None, host
    storage = found[1]
    _meet_faults(request, met)
    _name_as_the_service_does(request)
    scheme = request.get("authorization").partition(" ")[0].lower()
    if scheme == "bearer":
        _check_token(azure, storage, request)
        request.drop("authorization")
        own = parse_qs(request.first[1].partition("?")[2], keep_blank_values=True)
        added = "&".join(part for part in storage.vouching_sas.split("&") if part.partition("=")[0] not in own)
        request.first[1] += ("&" if "?" in request.first[1] else "?") + added
    elif not scheme and "sig=" not in request.first[1]:
        raise StorageRefusal(401, "NoAuthenticationInformation", f"{NOT_AUTHENTICATED} {SEE_CHALLENGE}")
    elif not storage.takes_keys and "skoid=" not in request.first[1]:
        raise StorageRefusal(
            403,
            "KeyBasedAuthenticationNotPermitted",
            "Key based authentication is not permitted on this storage account.",
        )
    elif not scheme:
        path, _, query = request.first[1].partition("?")
        request.first[1] = f"{path}?{_for_azurite(azure, storage, path, query)}"
    if not storage.is_open:
        raise StorageRefusal(403, "AuthorizationFailure", "This request is not authorized to perform this operation.")


def _name_as_the_service_does(request: Head) -> None:
    """Rename blobs as the service does: it drops dots at the end of a path segment and converts backslashes to
    slashes, while Azurite keeps both. Rejects names with control characters, and names of more than 254 segments.
    """
    path, mark, query = request.first[1].partition("?")
    _, container, *parts = unquote(path).replace("\\", "/").split("/")
    if not parts:
        return
    if any(sign < " " or sign == "\x7f" for part in parts for sign in part):
        raise StorageRefusal(400, "InvalidUri", "The requested URI does not represent any resource on the server.")
    if len(parts) > MOST_PARTS:
        raise StorageRefusal(400, "InvalidInput", "One of the request inputs is not valid.")
    named = [part.rstrip(".") for part in parts]
    if named != parts or "\\" in unquote(path):
        request.first[1] = f"/{container}/{quote('/'.join(named), safe='/~')}{mark}{query}"


def _meet_faults(request: Head, met: Met) -> None:
    if met.use(ExpireSas):
        message = (
            f"{NOT_AUTHENTICATED} Make sure the value of Authorization header is formed correctly including the "
            "signature."
        )
        detail = {"AuthenticationErrorDetail": "Signature not valid in the specified time frame"}
        raise StorageRefusal(403, "AuthenticationFailed", message, details=detail)
    if request.get("if-match") and met.use(ChangeEtag):
        raise StorageRefusal(
            412, "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met."
        )
    pages = met.use(SmallPages) if "comp=list" in request.first[1] else None
    if pages:
        path, _, query = request.first[1].partition("?")
        kept = [part for part in query.split("&") if not part.startswith("maxresults=")]
        request.first[1] = f"{path}?{'&'.join(kept)}&maxresults={pages.size}"


def _check_token(azure: Azure, storage: Storage, request: Head) -> Principal:
    workspace, _ = azure.storage(storage.account) or (None, None)
    assert workspace is not None
    login = f"https://login.microsoftonline.com/{workspace.tenant}/oauth2/authorize"
    challenge = [("WWW-Authenticate", f"Bearer authorization_uri={login} resource_id=https://storage.azure.com")]
    try:
        claims = read_token(request.get("authorization").partition(" ")[2])
    except TokenRefused as e:
        detail = "Lifetime validation failed. The token is expired." if "expired" in str(e) else str(e)
        raise StorageRefusal(
            401,
            "InvalidAuthenticationInfo",
            f"{NOT_AUTHENTICATED} {SEE_CHALLENGE}",
            challenge,
            {"AuthenticationErrorDetail": detail},
        ) from e
    principal = azure.principals.get(claims.get("appid", ""))
    good_audience = claims["aud"].rstrip("/") in ("https://storage.azure.com", f"https://{storage.host}")
    if (
        principal is None
        or not good_audience
        or principal.tenant != workspace.tenant
        or claims["made"] < principal.revoked_before
    ):
        raise StorageRefusal(
            401, "InvalidAuthenticationInfo", f"{NOT_AUTHENTICATED} Issuer or audience validation failed.", challenge
        )
    if request.get("x-ms-version") < OLDEST_VERSION_FOR_TOKENS:
        raise StorageRefusal(
            403,
            "AuthenticationFailed",
            f"{NOT_AUTHENTICATED} Authentication scheme Bearer is not supported in this version.",
        )
    right = Right.STORAGE_READ if request.first[0] in READS or asks_for_key(request) else Right.STORAGE_WRITE
    if right not in principal.rights:
        raise StorageRefusal(403, "AuthorizationPermissionMismatch", NOT_PERMITTED)
    return principal
