"""Endpoints of storage: the names that blobs have there and in URLs, and how requests are signed: a SAS in the URL, or
a bearer token."""

from __future__ import annotations

import re
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from himl_cli.core.processes import register_after_fork
from himl_cli.core.redaction import parts_of
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.responses import as_time
from himl_cli.workspaces.retry import PauseLog

if TYPE_CHECKING:
    from himl_cli.workspaces.azure.connection import Tokens

VERSION_HEADER = f"x-ms-version: {ApiVersion.STORAGE}"
RIGHT_MISSING = ("AuthorizationPermissionMismatch", "InsufficientAccountPermissions", "UnauthorizedBlobOverwrite")
NO_KEYS = ("KeyBasedAuthenticationNotPermitted", "PublicAccessNotPermitted")
EARLY = 300.0  # seconds before its end that a signature is replaced
TOKEN_SECONDS = 60.0


LONGEST_NAME = 1024  # characters, says the service
MOST_PARTS = 254  # between slashes
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.~/-]*")
_MEDIA_TYPES = {
    **dict.fromkeys(("txt", "log"), "text/plain"),
    **{ending: f"text/{ending}" for ending in ("csv", "html")},
    **{ending: f"application/{ending}" for ending in ("json", "yaml", "xml", "pdf")},
    **{ending: f"image/{ending}" for ending in ("png", "jpeg", "gif", "tiff")},
    "py": "text/x-python",
    "md": "text/markdown",
    "yml": "application/yaml",
    "jpg": "image/jpeg",
    "svg": "image/svg+xml",
    "tif": "image/tiff",
}


def quoted(name: str) -> str:
    """*name* as the path of a URL: UTF-8, everything but `/` and what is never special percent-encoded."""
    return name if _PLAIN_NAME.fullmatch(name) else quote(name, safe="/~")


def reason_not_to_ask(name: str) -> str:
    """Why no URL can mean exactly this name, so that another blob would be read or written; empty where one can."""
    if _PLAIN_NAME.fullmatch(name) and "." not in name and name[:1] not in ("", "/") and len(name) <= MOST_PARTS:
        return ""  # most names
    if not name or name[0] == "/" or "\0" in name:
        return "it is no name"
    if len(name) > LONGEST_NAME:
        return f"it is longer than {LONGEST_NAME:,} characters"
    if "\\" in name:
        return "Azure Storage takes a backslash for a slash"
    parts = name.split("/")
    if len(parts) > MOST_PARTS:
        return f"it has more than {MOST_PARTS} folders"
    if any(part.endswith(".") for part in parts):
        return "Azure Storage drops the dot at the end of a name or folder"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "it is no Unicode text"
    return ""


def reason_not_to_store(name: str) -> str:
    """Why no new blob may get this name; empty where it may."""
    if not name:
        return "it is empty"
    if "" in name.split("/"):
        return "it begins or ends with a slash, or has two in a row"
    if any(sign < " " or sign == "\x7f" for sign in name):
        return "it has a control character"
    return reason_not_to_ask(name)


def media_type(name: str) -> str:
    """What the blob called *name* is stored as; Studio shows files by it."""
    return _MEDIA_TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")


@dataclass(frozen=True)
class Signature:
    """`query` goes to the end of a URL, `headers` to the request; `expires` in seconds since 1970, 0 where unknown."""

    query: str = field(default="", repr=False)
    headers: tuple[str, ...] = field(default=(), repr=False)
    expires: float = 0.0
    renew_at: float = 0.0

    @classmethod
    def of_sas(cls, sas: str) -> Signature:
        """A SAS's query string; it is replaced before its own end, a short one at half its time."""
        expires = sas_expiry(sas)
        renew_at = expires - min(EARLY, max(expires - time.time(), 0.0) / 2) if expires else 0.0
        return cls(sas.lstrip("?"), expires=expires, renew_at=renew_at)

    @classmethod
    def of_token(cls, token: str, renew_at: float = 0.0) -> Signature:
        """An access token; to be asked for again in a minute at the earliest, for it may be another by then."""
        return cls(headers=(f"Authorization: Bearer {token}",), renew_at=max(renew_at, time.time() + TOKEN_SECONDS))

    @property
    def is_due(self) -> bool:
        return bool(self.renew_at) and time.time() >= self.renew_at


def sas_expiry(sas: str) -> float:
    """When a SAS ends, in seconds since 1970; 0 where it does not say, or not understandably.

    The forms: https://learn.microsoft.com/rest/api/storageservices/formatting-datetime-values
    """
    found = re.search(r"(?:^|[?&])se=([^&]*)", unquote(sas))
    moment = as_time(found[1].replace(" ", "+")) if found is not None else None
    return moment.timestamp() if moment is not None else 0.0


class Signer(ABC):
    """Signs for one container. Thread-safe; a signature is made once, and renewed when its time is over or it is
    refused."""

    sign_in: str  # how it signs, for messages: `your own sign-in`, `the datastore's SAS token`

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._signature: Signature | None = None
        self.is_unproven = False  # the signature was made in place of a refused one, and was not accepted yet
        register_after_fork(self)

    @abstractmethod
    def _make(self, refused: Signature | None, code: str) -> Signature:
        """A signature; a new one after *refused*, which the service turned down with *code*, or that itself where none
        would help. Raises HimlError."""

    def current(self) -> Signature:
        """What to sign with now. Raises NotAllowed, or what else keeps it from being made."""
        signature = self._signature
        if signature is not None and not signature.is_due:
            return signature
        with self._lock:
            if self._signature is None or self._signature.is_due:
                self._signature = self._make(None, "")
            return self._signature

    def renewed(self, refused: Signature, code: str) -> bool:
        """Whether `current` gives a later signature than *refused*, so that trying again may help."""
        if code in RIGHT_MISSING:
            return False
        with self._lock:
            if self._signature is not refused:
                return True
            if self.is_unproven:  # this one was new already
                return False
            made = self._make(refused, code)
            if made is refused:
                return False
            self._signature, self.is_unproven = made, True
            return True

    @property
    def expires(self) -> float:
        """When the current signature ends, in seconds since 1970; 0 where that is not known."""
        return self._signature.expires if self._signature is not None else 0.0

    def after_fork(self) -> None:
        """Another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def worked(self) -> None:
        self.is_unproven = False


class SasSigner(Signer):
    sign_in = "the SAS token"

    def __init__(self, sas: str) -> None:
        super().__init__()
        self._sas = sas

    def _make(self, refused: Signature | None, code: str) -> Signature:
        return refused or Signature.of_sas(self._sas)


class BearerSigner(Signer):
    """Signs with access tokens for storage; *tokens* refreshes them, and is asked once a minute."""

    def __init__(self, tokens: Tokens, scope: str, sign_in: str) -> None:
        super().__init__()
        self._tokens = tokens
        self._scope = scope
        self.sign_in = sign_in

    def _make(self, refused: Signature | None, code: str) -> Signature:
        if refused is None:
            return Signature.of_token(self._tokens.get(self._scope))
        return Signature.of_token(self._tokens.renew(self._scope, refused.headers[0].rpartition(" ")[2]))


@dataclass(frozen=True, slots=True)
class Signed:
    """A URL that may be requested, and the headers to send with it."""

    url: str = field(repr=False)
    headers: tuple[str, ...] = field(repr=False)
    signature: Signature


class Endpoint(ABC):
    """Where blobs lie: turns their names into signed URLs, and says what messages call it.

    `signed` and `renewed` raise HimlError where that cannot be done.
    """

    label: str  # what the user asked for
    origin: str  # as `BlobStore.origin`

    def __init__(self) -> None:
        self.account = self.container = self.host = ""
        self.sign_in, self.expires, self.is_unproven = "", 0.0, False  # of the last signature, as of `Signer`
        self.pauses = PauseLog()  # of all requests of the store

    @property
    def storage(self) -> str:
        return f"storage account '{self.account}'"

    @abstractmethod
    def signed(self, name: str, query: str = "") -> Signed:
        """The blob called *name*; *query* is what to do with it, such as `comp=block`."""

    @abstractmethod
    def renewed(self, name: str, refused: Signed, code: str) -> bool:
        """Whether `signed` gives another signature after the service turned *refused* down."""

    def worked(self) -> None:  # noqa: B027  (most have nothing to learn from it)
        """The service accepted what `signed` gave last."""


class ContainerEndpoint(Endpoint):
    """Blobs below *root* (empty, or ending in `/`) of the container at *url*."""

    def __init__(self, url: str, root: str, signer: Signer, label: str) -> None:
        super().__init__()
        parts = parts_of(url)
        account, _, self.container = parts.path.strip("/").rpartition("/")  # an emulator has the account in the path
        self.host = parts.hostname or ""
        self.account = account or self.host.split(".")[0]
        self.label = label
        self.root = root
        self.origin = f"{url.rstrip('/')}/{root}"
        self._quoted_root = quoted(root)
        self._url = url.rstrip("/")
        self._signer = signer

    def signed(self, name: str, query: str = "") -> Signed:
        return self._with(f"{self._url}/{self._quoted_root}{quoted(name)}", query)

    def listing(self, prefix: str, marker: str = "", *, most: int = 0, is_flat: bool = True) -> Signed:
        """One page of the blobs whose names begin with *prefix*, as long as the service likes, or *most* of them;
        where it is not flat, what lies in that folder and no deeper."""
        query = f"restype=container&comp=list&{'include=metadata' if is_flat else 'delimiter=%2F'}"
        query += f"&prefix={quote(self.root + prefix, safe='')}"
        query += f"&maxresults={most}" if most else ""
        return self._with(self._url, f"{query}&marker={quote(marker, safe='')}" if marker else query)

    def signed_account(self, query: str) -> Signed:
        return self._with(self._url[: self._url.rfind("/") + 1], query)

    def _with(self, url: str, query: str) -> Signed:
        signature = self._signer.current()
        self._describe()
        whole = f"{query}&{signature.query}" if query and signature.query else query or signature.query
        return Signed(f"{url}?{whole}" if whole else url, (*signature.headers, VERSION_HEADER), signature)

    def renewed(self, name: str, refused: Signed, code: str) -> bool:
        try:
            return self._signer.renewed(refused.signature, code)
        finally:
            self._describe()

    def _describe(self) -> None:
        signer = self._signer
        self.sign_in, self.expires, self.is_unproven = signer.sign_in, signer.expires, signer.is_unproven

    def worked(self) -> None:
        self._signer.worked()
