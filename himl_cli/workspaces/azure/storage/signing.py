"""Endpoints of storage: the names of blobs in storage and in URLs, and the signing of requests with a SAS in the URL or
a bearer token."""

from __future__ import annotations

import re
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote

from himl_cli.core.processes import register_after_fork
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import parts_of
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.responses import as_time
from himl_cli.workspaces.azure.storage.blob_responses import RIGHT_MISSING, StorageEndpoint
from himl_cli.workspaces.transfer_engine.scheduler import Signed

if TYPE_CHECKING:
    from himl_cli.workspaces.azure.connection import Tokens

VERSION_HEADER = f"x-ms-version: {ApiVersion.STORAGE}"
EARLY = 300.0  # seconds before its end when a signature is replaced
TOKEN_SECONDS = 60.0


LONGEST_BLOB_NAME = 1024  # characters, the service's limit
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
    """*name* as a URL path: UTF-8, with everything but `/` and unreserved characters percent-encoded."""
    return name if _PLAIN_NAME.fullmatch(name) else quote(name, safe="/~")


def reason_not_to_ask(name: str) -> str:
    """Why no URL can refer to exactly this name, so that himl would read or write another blob, or ""."""
    if _PLAIN_NAME.fullmatch(name) and "." not in name and name[:1] not in ("", "/") and len(name) <= MOST_PARTS:
        return ""  # for most names
    if not name or "\0" in name:
        return "it is not a name"
    if len(name) > LONGEST_BLOB_NAME:
        return f"it is longer than {LONGEST_BLOB_NAME:,} characters"
    if "\\" in name:
        return "Azure Storage treats a backslash as a slash"
    parts = name.split("/")
    if len(parts) > MOST_PARTS:
        return f"it has more than {MOST_PARTS} folders"
    if any(part.endswith(".") for part in parts):
        return "Azure Storage drops the dot at the end of a name or folder"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "it is not Unicode text"
    return ""


def reason_not_to_store(name: str) -> str:
    """Why a new blob cannot have this name, or ""."""
    if not name:
        return "it is empty"
    if "" in name.split("/"):
        return "it begins or ends with a slash, or has two in a row"
    if any(sign < " " or sign == "\x7f" for sign in name):
        return "it has a control character"
    return reason_not_to_ask(name)


def media_type(name: str) -> str:
    """The content type of the blob *name*, by which Studio shows files."""
    return _MEDIA_TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")


@dataclass(frozen=True)
class Signature:
    """`query` is appended to a URL, and `headers` to the request. `expires` is in seconds since 1970, or 0."""

    query: str = field(default="", repr=False)
    headers: tuple[str, ...] = field(default=(), repr=False)
    expires: float = 0.0
    renew_at: float = 0.0

    @classmethod
    def of_sas(cls, sas: str) -> Signature:
        """A SAS's query string. It is replaced before its expiry, a short one at half of its lifetime."""
        expires = sas_expiry(sas)
        renew_at = expires - min(EARLY, max(expires - time.time(), 0.0) / 2) if expires else 0.0
        return cls(sas.lstrip("?"), expires=expires, renew_at=renew_at)

    @classmethod
    def of_token(cls, token: str, renew_at: float = 0.0) -> Signature:
        """An access token. It is requested again after a minute at the earliest, because it may have changed."""
        return cls(headers=(f"Authorization: Bearer {token}",), renew_at=max(renew_at, time.time() + TOKEN_SECONDS))

    @property
    def is_due(self) -> bool:
        return bool(self.renew_at) and time.time() >= self.renew_at


def sas_expiry(sas: str) -> float:
    """The expiry of a SAS in seconds since 1970, or 0 if it is missing or invalid.

    Formats: https://learn.microsoft.com/rest/api/storageservices/formatting-datetime-values
    """
    found = re.search(r"(?:^|[?&])se=([^&]*)", unquote(sas))
    moment = as_time(found[1].replace(" ", "+")) if found is not None else None
    return moment.timestamp() if moment is not None else 0.0


def is_narrow(sas: str) -> bool:
    """Return whether *sas*, a query string, is for one container and permits no deletion."""
    terms = parse_qs(sas.lstrip("?"))
    return "sig" in terms and "srt" not in terms and not set("".join(terms.get("sp", ()))) & set("dxy")


class Signer(ABC):
    """A signer for one container. Thread-safe. It creates a signature once, and renews it when it expires or is
    refused."""

    sign_in: str  # its name in messages: `your own sign-in`, `the datastore's SAS token`

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._signature: Signature | None = None
        self.is_unproven = False  # the signature replaced a refused one, and has not been accepted yet
        register_after_fork(self)

    @abstractmethod
    def _make(self, refused: Signature | None, code: str) -> Signature:
        """A signature. After *refused*, which the service rejected with *code*, a new one, or that itself if none would
        help. Raises HimlError."""

    def current(self) -> Signature:
        """A new signature. Raises NotAllowed, or another HimlError of its creation."""
        signature = self._signature
        if signature is not None and not signature.is_due:
            return signature
        with self._lock:
            if self._signature is None or self._signature.is_due:
                self._signature = self._make(None, "")
            return self._signature

    def renewed(self, refused: Signature, code: str) -> bool:
        """Return whether `current` gives a newer signature than *refused*, so that a retry may help."""
        if code in RIGHT_MISSING:
            return False
        with self._lock:
            if self._signature is not refused:
                return True
            if self.is_unproven:  # this signature was new
                return False
            made = self._make(refused, code)
            if made is refused:
                return False
            self._signature, self.is_unproven = made, True
            return True

    @property
    def expires(self) -> float:
        """The expiry of the current signature in seconds since 1970, or 0 if unknown."""
        return self._signature.expires if self._signature is not None else 0.0

    def after_fork(self) -> None:
        """Replace the lock, which another thread of the parent may have held."""
        self._lock = threading.Lock()


class SasSigner(Signer):
    """Signs with a given SAS, and after its refusal like *otherwise*, if there is one."""

    def __init__(self, sas: str, otherwise: Signer | None = None) -> None:
        super().__init__()
        self.sign_in = "the SAS token"
        self._sas = sas
        self._otherwise, self._is_over = otherwise, False

    def _make(self, refused: Signature | None, code: str) -> Signature:
        if refused is None and not self._is_over:
            return Signature.of_sas(self._sas)
        if self._otherwise is None:
            return refused or Signature.of_sas(self._sas)
        old = refused if self._is_over else None
        self._is_over, self.sign_in = True, self._otherwise.sign_in
        return self._otherwise._make(old, code)


class BearerSigner(Signer):
    """Signs with access tokens for storage. *tokens* refreshes them, and is called once a minute."""

    def __init__(self, tokens: Tokens, scope: str, sign_in: str) -> None:
        super().__init__()
        self._tokens = tokens
        self._scope = scope
        self.sign_in = sign_in

    def _make(self, refused: Signature | None, code: str) -> Signature:
        if refused is None:
            return Signature.of_token(self._tokens.get(self._scope))
        return Signature.of_token(self._tokens.renew(self._scope, refused.headers[0].rpartition(" ")[2]))


class ContainerEndpoint(StorageEndpoint):
    """Blobs below *root* (empty, or ending in `/`) of the container at *url*."""

    def __init__(self, url: str, root: str, signer: Signer, label: str) -> None:
        super().__init__()
        parts = parts_of(url)
        account, _, self.container = parts.path.strip("/").rpartition("/")  # an emulator's path includes the account
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
        """One page of the blobs whose names begin with *prefix*, of the service's size or of *most* blobs. If not flat,
        only those directly in that folder."""
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
        self._signer.is_unproven = False
