"""Faults that tests inject, and the requests that they affect. All numbers are bytes of a body (counted from its end
if negative) or seconds.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.azureml_double.log import Head


@dataclass(frozen=True)
class Status:
    """Answer with this status in place of the service's answer. The body contains *code* and *message*, in the
    plane's own format.
    """

    status: int
    retry_after: float | str | None = None
    code: str = "ServerBusy"
    message: str = "The server is busy."
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Page:
    text: str  # body of the answer, as from a proxy or a hotel's network
    status: int = 200
    content_type: str = "text/html"


@dataclass(frozen=True)
class Reset:
    # Bytes of the answer to send first. None: before the first byte, after the request has been carried out.
    after: int | None = None


@dataclass(frozen=True)
class ResetUpload:
    # Bytes of the request's body to receive first. The request is not carried out.
    after: int = 0


@dataclass(frozen=True)
class Truncate:
    # The connection closes in order after this many bytes, fewer than the headers promised.
    after: int


@dataclass(frozen=True)
class Stall:
    """Send nothing for *seconds* after this many bytes of the body (None: before the status line)."""

    seconds: float
    after: int | None = None


@dataclass(frozen=True)
class Drip:
    bytes_per_second: int  # maximum speed of the body


@dataclass(frozen=True)
class Latency:
    seconds: float  # delay of the answer


@dataclass(frozen=True)
class Meanwhile:
    # Called after the request was carried out and before the answer starts.
    call: Callable[[], object]


@dataclass(frozen=True)
class FlipByte:
    at: int  # position of a changed byte in the answer's body


@dataclass(frozen=True)
class FlipUpload:
    at: int  # position of a changed byte in the request's body


@dataclass(frozen=True)
class WrongMd5:
    """Send a wrong MD5 of the content (`Content-MD5` and `x-ms-blob-content-md5`)."""


@dataclass(frozen=True)
class ChangeEtag:
    """Simulate a concurrent writer: a condition `If-Match` fails with 412, and an answer without one has a new ETag."""


@dataclass(frozen=True)
class ExpireSas:
    """Reject the signature as expired (403, AuthenticationFailed)."""


@dataclass(frozen=True)
class ExpireToken:
    """Reject the bearer token as expired: 401, in the format of each plane. Does not affect requests without such a
    token.
    """


@dataclass(frozen=True)
class WrongDate:
    # Offset of the answer's `Date`, as if the client's clock were wrong.
    seconds: float


@dataclass(frozen=True)
class SmallPages:
    # Size of the pages of blob listings. The service may use any size.
    size: int


@dataclass(frozen=True)
class Refuse:
    # Answer of a proxy to `CONNECT`: 502 or 504 (host not found or not reached), or 407 (password required).
    status: int = 502


@dataclass(frozen=True)
class BadCertificate:
    kind: str = "untrusted"  # or `expired`, `early` (not valid yet), `other` (for another host)


@dataclass(frozen=True)
class BreakHandshake:
    # Or `close`, after the client's hello, or `plain`, an answer in plain text like that of a filtering proxy.
    how: str = "reset"


@dataclass(frozen=True)
class Rewrite:
    """Change the JSON of the answer, as a service would that behaves in another way."""

    change: Callable[[Any], Any]


OnConnect = Refuse | BadCertificate | BreakHandshake
OnBody = Reset | ResetUpload | Truncate | Stall | Drip | FlipByte | FlipUpload | WrongMd5
Action = (
    OnConnect
    | OnBody
    | Status
    | Page
    | Latency
    | Meanwhile
    | ChangeEtag
    | ExpireSas
    | ExpireToken
    | WrongDate
    | SmallPages
    | Rewrite
)
Kind = TypeVar("Kind", bound=Action)


@dataclass(frozen=True)
class Met:
    """The faults of one request. `done` contains the names of those that had an effect, since a body may end before
    the byte to change.
    """

    actions: Sequence[Action] = ()
    done: list[str] = field(default_factory=list)

    def first(self, kind: type[Kind]) -> Kind | None:
        return next((one for one in self.actions if isinstance(one, kind)), None)

    def use(self, kind: type[Kind]) -> Kind | None:
        """Like `first`, but also record that the fault has an effect."""
        found = self.first(kind)
        if found is not None:
            self.tell(found)
        return found

    def tell(self, action: Action) -> None:
        name = type(action).__name__
        if name not in self.done:
            self.done.append(name)


@dataclass
class _Rule:
    action: Action
    match: re.Pattern[str]
    left: int | None
    skip: int

    def applies(self, line: str, request: Head | None) -> bool:
        if self.left == 0 or not self._can_meet(request) or not self.match.search(line):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.left is not None:
            self.left -= 1
        return True

    def _can_meet(self, request: Head | None) -> bool:
        if request is None or isinstance(self.action, OnConnect):
            return request is None and isinstance(self.action, OnConnect)
        if isinstance(self.action, ExpireToken):
            return request.get("authorization").lower().startswith("bearer ")
        return not isinstance(self.action, FlipUpload) or bool(request.length) or request.is_chunked


class Faults:
    """The active faults. Thread-safe."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()

    def add(self, action: Action, match: str = "", *, times: int | None = 1, skip: int = 0) -> None:
        """Apply *action* to the next *times* requests (None: all) whose line matches the regular expression *match*,
        after *skip* matches. The line is `METHOD host/path?query`. For faults before there is a request (Refuse,
        BadCertificate, BreakHandshake) it is `CONNECT host`.
        """
        with self._lock:
            self._rules.append(_Rule(action, re.compile(match), times, skip))

    def only(self, action: Action, match: str = "", *, times: int | None = 1, skip: int = 0) -> None:
        """Replace all active faults."""
        self.clear()
        self.add(action, match, times=times, skip=skip)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def meet(self, line: str, request: Head | None = None) -> Met:
        """Return the faults for the *request* with this line (None: for a `CONNECT`), and count them."""
        with self._lock:
            return Met([rule.action for rule in self._rules if rule.applies(line, request)])
