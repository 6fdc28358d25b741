"""Where a blob lies and how a request for it is signed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from himl_cli.core.redaction import parts_of
from himl_cli.workspaces.azure.storage.blobs.names import quoted
from himl_cli.workspaces.azure.storage.blobs.place import Place
from himl_cli.workspaces.azure.storage.blobs.signing import Signature, Signer
from himl_cli.workspaces.azure.storage.blobs.wire import VERSION_HEADER
from himl_cli.workspaces.retry import PauseLog


@dataclass(frozen=True, slots=True)
class Signed:
    """A URL that may be asked, and the headers to send with it."""

    url: str = field(repr=False)
    headers: tuple[str, ...] = field(repr=False)
    signature: Signature


class Access(ABC):
    """Turns names of one store into signed URLs. Both methods raise HimlError where that cannot be done."""

    place: Place
    origin: str  # as `BlobStore.origin`

    def __init__(self) -> None:
        self.pauses = PauseLog()  # of all requests of the store

    @abstractmethod
    def signed(self, name: str, query: str = "") -> Signed:
        """The blob called *name*; *query* is what to do with it, such as `comp=block`."""

    @abstractmethod
    def renewed(self, name: str, refused: Signed, code: str) -> bool:
        """Whether `signed` gives another signature after the service turned *refused* down."""

    @abstractmethod
    def worked(self) -> None:
        """The service took what `signed` gave last."""


class ContainerAccess(Access):
    """Blobs below *root* (empty, or ending in `/`) of the container at *url*."""

    def __init__(self, url: str, root: str, signer: Signer, label: str) -> None:
        super().__init__()
        parts = parts_of(url)
        account, _, container = parts.path.strip("/").rpartition("/")  # an emulator has the account in the path
        self.root = root
        self.origin = f"{url.rstrip('/')}/{root}"
        self._quoted_root = quoted(root)
        self._url = url.rstrip("/")
        self._signer = signer
        self._place = Place(label, account or (parts.hostname or "").split(".")[0], container, parts.hostname or "")

    @property
    def place(self) -> Place:  # type: ignore[override]
        return replace(
            self._place, sign_in=self._signer.sign_in, expires=self._signer.expires, is_new=self._signer.is_unproven
        )

    def signed(self, name: str, query: str = "") -> Signed:
        return self._with(f"{self._url}/{self._quoted_root}{quoted(name)}", query)

    def listing(self, prefix: str, marker: str, most: int = 0) -> Signed:
        """One page of the blobs whose names begin with *prefix*, as long as the service likes, or *most* of them."""
        query = f"restype=container&comp=list&include=metadata&prefix={quote(self.root + prefix, safe='')}"
        query += f"&maxresults={most}" if most else ""
        return self._with(self._url, f"{query}&marker={quote(marker, safe='')}" if marker else query)

    def level(self, prefix: str) -> Signed:
        """What begins with *prefix* in that folder, not what lies deeper."""
        return self._with(
            self._url, f"restype=container&comp=list&delimiter=%2F&prefix={quote(self.root + prefix, safe='')}"
        )

    def account(self, query: str) -> Signed:
        """The account itself."""
        return self._with(self._url[: self._url.rfind("/") + 1], query)

    def _with(self, url: str, query: str) -> Signed:
        signature = self._signer.current()
        whole = f"{query}&{signature.query}" if query and signature.query else query or signature.query
        return Signed(f"{url}?{whole}" if whole else url, (*signature.headers, VERSION_HEADER), signature)

    def renewed(self, name: str, refused: Signed, code: str) -> bool:
        return self._signer.renewed(refused.signature, code)

    def worked(self) -> None:
        self._signer.worked()
