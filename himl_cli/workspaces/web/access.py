"""Where a file on the web is asked for: its address, or where that sends to."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import SplitResult, quote, unquote, urljoin, urlunsplit

from himl_cli.core.errors import BadUsage, ServiceFailed
from himl_cli.core.redaction import LOCAL_HOSTS, SAFE_IN_PATHS, identity, is_address, parts_of, shown
from himl_cli.workspaces.azure.storage.blobs.access import Access, Signed
from himl_cli.workspaces.azure.storage.blobs.signing import Signature, sas_expiry
from himl_cli.workspaces.azure.storage.blobs.wire import VERSION_HEADER
from himl_cli.workspaces.web.faults import WebPlace

AS_IT_IS = "Accept-Encoding: identity"  # the bytes that the file has, not compressed for the way
_IN_QUERIES = SAFE_IN_PATHS + "?"
_HOST = re.compile(r"[^\s%\\<>^`{|}]{1,253}")


class WebAccess(Access):
    """Requests for the file at *address*, sent where it was found last; *look* finds it anew.

    User and password of the address go to its own host only, and nothing of its query to another one.
    """

    def __init__(self, address: str, look: Callable[[], object]) -> None:
        super().__init__()
        self.address = checked(address)
        self.origin = identity(self.address)
        self._look = look
        self._own = parts_of(self.address)
        self._url = _plain(self._own)

    @property
    def place(self) -> WebPlace:  # type: ignore[override]
        query = parts_of(self._url).query
        host = parts_of(self._url).hostname or ""
        return WebPlace(shown(self.address), "", "", host, "the link", sas_expiry(query), is_signed=bool(query))

    def signed(self, name: str, query: str = "") -> Signed:
        return Signed(self._url, self._headers(), Signature())

    def renewed(self, name: str, refused: Signed, code: str) -> bool:
        """Where the address sends to may be good for some minutes only: it is asked again."""
        if refused.url == self._url:
            self.start_over()
            self._look()
        return True

    def worked(self) -> None:
        """Nothing to learn."""

    def start_over(self) -> None:
        """Ask at the address itself again."""
        self._url = _plain(self._own)

    def follow(self, location: str) -> None:
        """Ask at *location*, where the last answer sent to. Raises ServiceFailed where that is no place to go to."""
        before, target = parts_of(self._url), urljoin(self._url, location.strip())
        parts = parts_of(target)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServiceFailed(
                f"{before.hostname} sends to an address that cannot be read.", hint="Is this the address of a file?"
            )
        if parts.scheme == "http" and (before.scheme == "https" or parts.hostname not in LOCAL_HOSTS):
            raise ServiceFailed(
                f"{before.hostname} sends to {parts.hostname} by plain http, which anybody on the way could change."
            )
        self._url = _plain(parts)

    def _headers(self) -> tuple[str, ...]:
        parts = parts_of(self._url)
        headers = [AS_IT_IS]
        if ".blob." in (parts.hostname or ""):  # Azure Storage answers otherwise by the rules of its first years
            headers.append(VERSION_HEADER)
        if self._own.username and (parts.scheme, parts.hostname, parts.port) == (
            self._own.scheme,
            self._own.hostname,
            self._own.port,
        ):
            user = f"{unquote(self._own.username)}:{unquote(self._own.password or '')}"
            headers.append(f"Authorization: Basic {base64.b64encode(user.encode()).decode()}")
        return tuple(headers)


def checked(address: str) -> str:
    """*address* where it can be read. Raises BadUsage."""
    parts = parts_of(address)
    if not parts.netloc and is_address(address):  # nothing of it can be shown: what is a password is not known either
        raise BadUsage(
            "This address cannot be read: its host or its port is none.",
            hint="It reads https://HOST:PORT/PATH; ports go up to 65535.",
        )
    if not is_address(address) or not _HOST.fullmatch(parts.hostname or ""):
        raise BadUsage(
            f"'{shown(address)}' is not an address that can be read.",
            hint="It reads https://HOST/PATH, all of it in quotes.",
        )
    if parts.scheme.lower() == "http" and parts.hostname not in LOCAL_HOSTS:
        raise BadUsage(
            f"{shown(address)} is a plain http address: anybody on the way could change the file.",
            hint="Use https, or download it yourself.",
        )
    return address.strip()


def _plain(parts: SplitResult) -> str:
    """The URL to ask for: without user, password and fragment, what no URL can hold percent-encoded."""
    host = parts.hostname or ""
    if not host.isascii():
        with suppress(UnicodeError):  # it is no name that anybody could have
            host = host.encode("idna").decode()
    netloc = f"[{host}]" if ":" in host else host
    if parts.port is not None:
        netloc = f"{netloc}:{parts.port}"
    return urlunsplit(
        (
            parts.scheme.lower(),
            netloc,
            quote(parts.path or "/", safe=SAFE_IN_PATHS),
            quote(parts.query, safe=_IN_QUERIES),
            "",
        )
    )
