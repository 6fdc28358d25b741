"""What stands between a client and Azurite: whose token may do what, faults of a storage service, and its form of an error."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

from tests.servers.azureml.delegation import NoKey, asks_for_key, for_azurite, key_document, signer_of
from tests.servers.azureml.faults import ChangeEtag, ExpireSas, ExpireToken, Met, SmallPages, Status
from tests.servers.azureml.messages import Head
from tests.servers.azureml.principals import Principal, Right, TokenRefused, make_run_token, read_token
from tests.servers.azureml.signatures import for_plain_http
from tests.servers.azureml.state import Azure
from tests.servers.azureml.storage import DELEGATED, Storage

READS = {"GET", "HEAD"}
MOST_PARTS = 254
OLDEST_VERSION_FOR_TOKENS = "2017-11-09"


class StorageRefusal(Exception):
    """The storage service says no. Codes and texts are the service's own; *details* are elements beside `Code` and `Message`."""

    def __init__(self, status: int, code: str, message: str, headers: Sequence[tuple[str, str]] = (), details: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers, self.details = status, code, message, headers, details or {}


def refusal_of(action: Status) -> StorageRefusal:
    return StorageRefusal(action.status, action.code, action.message, action.headers)


def answer_of(refusal: StorageRefusal, method: str) -> tuple[Head, bytes]:
    """The answer: XML, and the code in `x-ms-error-code`; a HEAD has headers only."""
    moment = datetime.now(timezone.utc).isoformat()
    text = f"{refusal.message}\nRequestId:{uuid.uuid4()}\nTime:{moment}"
    parts = {"Code": refusal.code, "Message": text, **refusal.details}
    elements = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in parts.items())
    body = f'\ufeff<?xml version="1.0" encoding="utf-8"?><Error>{elements}</Error>'.encode()
    if method == "HEAD":
        body = b""
    headers = [("x-ms-error-code", refusal.code), ("x-ms-request-id", str(uuid.uuid4())), ("Content-Type", "application/xml"), *refusal.headers]
    return Head(["HTTP/1.1", str(refusal.status), refusal.code], [*headers, ("Content-Length", str(len(body)))]), body


def with_token_of_the_past(request: Head, met: Met) -> None:
    """Let *request* carry a token that has expired, where a fault wants that: whoever reads it refuses it in its own way."""
    if met.use(ExpireToken):
        request.set("Authorization", f"Bearer {make_run_token('', '', seconds=-1)[0]}")


def admitted(azure: Azure, host: str, request: Head, met: Met) -> Head:
    """*request* as Azurite is to see it. Raises StorageRefusal."""
    account = host.partition(".")[0]
    found = azure.storage(account)
    assert found is not None, account  # the front lets no connection to other accounts come this far
    _, storage = found
    _meet_faults(request, met)
    _name_as_the_service_does(request)
    scheme = request.get("authorization").partition(" ")[0].lower()
    if scheme == "bearer":
        _check_token(azure, storage, request)
        request.drop("authorization")
        _extend(request, storage.vouching_sas)
    elif not scheme and "sig=" not in request.first[1]:
        raise StorageRefusal(
            401, "NoAuthenticationInformation", "Server failed to authenticate the request. Please refer to the information in the www-authenticate header."
        )
    elif not storage.takes_keys and "skoid=" not in request.first[1]:
        raise StorageRefusal(403, "KeyBasedAuthenticationNotPermitted", "Key based authentication is not permitted on this storage account.")
    elif not scheme:
        path, _, query = request.first[1].partition("?")
        query = _by_account_key(azure, storage, path, query)
        query = "&".join(part for part in query.split("&") if part not in DELEGATED.split("&"))  # Azurite signs with the key only
        request.first[1] = f"{path}?{for_plain_http(account, storage.key, path, query)}"
    if not storage.is_open:
        raise StorageRefusal(403, "AuthorizationFailure", "This request is not authorized to perform this operation.")
    return request


def key_answer(azure: Azure, host: str, request: Head, body: bytes) -> tuple[Head, bytes]:
    """A key to sign links with, for whoever may read. Raises StorageRefusal."""
    found = azure.storage(host.partition(".")[0])
    assert found is not None
    if request.get("authorization").partition(" ")[0].lower() != "bearer":
        raise StorageRefusal(403, "AuthenticationFailed", "Only an identity gets a user delegation key.")
    principal = _check_token(azure, found[1], request)
    try:
        document = key_document(found[1], principal, body)
    except NoKey as e:
        raise StorageRefusal(400, "InvalidXmlNodeValue", str(e)) from e
    return Head(["HTTP/1.1", "200", "OK"], [("Content-Type", "application/xml"), ("Content-Length", str(len(document)))]), document


def _by_account_key(azure: Azure, storage: Storage, path: str, query: str) -> str:
    """*query* as Azurite takes it, where an identity's key signed it. Raises StorageRefusal where that identity may not read."""
    signer = signer_of(storage, path, query)
    if not signer:
        return query
    principal = next((one for one in azure.principals.values() if one.object_id == signer), None)
    if principal is None or Right.STORAGE_READ not in principal.rights:
        raise StorageRefusal(403, "AuthorizationPermissionMismatch", "This request is not authorized to perform this operation using this permission.")
    return for_azurite(storage, path, query)


def _name_as_the_service_does(request: Head) -> None:
    """Blob names are not what was sent: dots at the end of a part are dropped, a backslash is a slash. Azurite keeps both.

    Names with control characters and those of more than 254 parts are refused.
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
        message = "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly including the signature."
        detail = {"AuthenticationErrorDetail": "Signature not valid in the specified time frame"}
        raise StorageRefusal(403, "AuthenticationFailed", message, details=detail)
    if request.get("if-match") and met.use(ChangeEtag):
        raise StorageRefusal(412, "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met.")
    pages = met.use(SmallPages) if "comp=list" in request.first[1] else None
    if pages:
        path, _, query = request.first[1].partition("?")
        kept = [part for part in query.split("&") if not part.startswith("maxresults=")]
        request.first[1] = f"{path}?{'&'.join(kept)}&maxresults={pages.size}"


def _check_token(azure: Azure, storage: Storage, request: Head) -> Principal:
    """As the service does: a token for storage, of the account's tenant, whose principal has the data role."""
    workspace, _ = azure.storage(storage.account) or (None, None)
    assert workspace is not None
    login = f"https://login.microsoftonline.com/{workspace.tenant}/oauth2/authorize"
    challenge = [("WWW-Authenticate", f"Bearer authorization_uri={login} resource_id=https://storage.azure.com")]
    try:
        claims = read_token(request.get("authorization").partition(" ")[2])
    except TokenRefused as e:
        message = "Server failed to authenticate the request. Please refer to the information in the www-authenticate header."
        detail = "Lifetime validation failed. The token is expired." if "expired" in str(e) else str(e)
        raise StorageRefusal(401, "InvalidAuthenticationInfo", message, challenge, {"AuthenticationErrorDetail": detail}) from e
    principal = azure.principals.get(claims.get("appid", ""))
    good_audience = claims["aud"].rstrip("/") in ("https://storage.azure.com", f"https://{storage.host}")
    if principal is None or not good_audience or principal.tenant != workspace.tenant or claims["made"] < principal.revoked_before:
        raise StorageRefusal(401, "InvalidAuthenticationInfo", "Server failed to authenticate the request. Issuer or audience validation failed.", challenge)
    if request.get("x-ms-version") < OLDEST_VERSION_FOR_TOKENS:
        raise StorageRefusal(
            403, "AuthenticationFailed", "Server failed to authenticate the request. Authentication scheme Bearer is not supported in this version."
        )
    right = Right.STORAGE_READ if request.first[0] in READS or asks_for_key(request) else Right.STORAGE_WRITE
    if right not in principal.rights:
        raise StorageRefusal(403, "AuthorizationPermissionMismatch", "This request is not authorized to perform this operation using this permission.")
    return principal


def _extend(request: Head, query: str) -> None:
    """Add *query* to the request's own, without a parameter twice."""
    own = parse_qs(request.first[1].partition("?")[2], keep_blank_values=True)
    added = "&".join(part for part in query.split("&") if part.partition("=")[0] not in own)
    request.first[1] += ("&" if "?" in request.first[1] else "?") + added
