"""Faults and the requests that they apply to. Numbers are bytes of a body (counted from its end if negative), or seconds."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tests.azureml_double.log import Head


@dataclass(frozen=True)
class Status:
    """Reply with this status in place of the service. *code* and *message* are part of the body, in the plane's own form."""

    status: int
    retry_after: float | str | None = None
    code: str = "ServerBusy"
    message: str = "The server is busy."
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Page:
    text: str  # in place of the reply, as from a proxy or a captive portal
    status: int = 200
    content_type: str = "text/html"


@dataclass(frozen=True)
class Reset:
    after: int | None = None  # bytes of the reply; None: before its first byte, after processing the request


@dataclass(frozen=True)
class ResetUpload:
    after: int = 0  # bytes of the request's body; the request is not processed


@dataclass(frozen=True)
class Truncate:
    after: int  # bytes, then an orderly close, before the length in the headers


@dataclass(frozen=True)
class Stall:
    """Send nothing for *seconds* after a number of bytes of the body (None: before the status line)."""

    seconds: float
    after: int | None = None


@dataclass(frozen=True)
class Drip:
    bytes_per_second: int  # maximum speed of the body


@dataclass(frozen=True)
class Latency:
    seconds: float  # delay of the reply


@dataclass(frozen=True)
class Meanwhile:
    call: Callable[[], object]  # called after processing the request, and before the reply


@dataclass(frozen=True)
class FlipByte:
    at: int  # position of the changed byte in the reply's body


@dataclass(frozen=True)
class FlipUpload:
    at: int  # position of the changed byte in the request's body


@dataclass(frozen=True)
class WrongMd5:
    """Send a wrong MD5 of the content (`Content-MD5` and `x-ms-blob-content-md5`)."""


@dataclass(frozen=True)
class ChangeEtag:
    """Simulate another writer: a condition `If-Match` fails with 412, and without one the reply has a new ETag."""


@dataclass(frozen=True)
class ExpireSas:
    """Refuse the signature as expired (403, AuthenticationFailed)."""


@dataclass(frozen=True)
class ExpireToken:
    """Refuse the bearer token as expired: 401, in the form of each plane. Does not affect requests without such a token."""


@dataclass(frozen=True)
class WrongDate:
    seconds: float  # shift of the reply's `Date`, as if the client's clock were wrong


@dataclass(frozen=True)
class SmallPages:
    size: int  # of the pages of blob listings, which the service may choose


@dataclass(frozen=True)
class Refuse:
    status: int = 502  # to `CONNECT`, as a proxy (502, 504: the host was not found or not reached; 407: a password is wanted)


@dataclass(frozen=True)
class BadCertificate:
    kind: str = "untrusted"  # or `expired`, `early` (not valid yet), `other` (for another host)


@dataclass(frozen=True)
class BreakHandshake:
    how: str = "reset"  # or `close`, once the client has said hello; `plain`: answer in plain text, as a proxy that filters does


OnConnect = Refuse | BadCertificate | BreakHandshake
OnBody = Reset | ResetUpload | Truncate | Stall | Drip | FlipByte | FlipUpload | WrongMd5
Action = OnConnect | OnBody | Status | Page | Latency | Meanwhile | ChangeEtag | ExpireSas | ExpireToken | WrongDate | SmallPages
Kind = TypeVar("Kind", bound=Action)


@dataclass(frozen=True)
class Met:
    """The faults for one request. `done` has the names of those that affected it, since a body may end before the byte to change."""

    actions: Sequence[Action] = ()
    done: list[str] = field(default_factory=list)

    def first(self, kind: type[Kind]) -> Kind | None:
        return next((one for one in self.actions if isinstance(one, kind)), None)

    def use(self, kind: type[Kind]) -> Kind | None:
        """As `first`, and mark the fault as done."""
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
    """The active faults. Changes are thread-safe."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()

    def add(self, action: Action, match: str = "", *, times: int | None = 1, skip: int = 0) -> None:
        """Apply *action* to the next *times* requests (None: all) with a line that contains the regular expression *match*, after *skip* of them. The line is
        `METHOD host/path?query`, or `CONNECT host` for faults before a request (Refuse, BadCertificate, BreakHandshake)."""
        with self._lock:
            self._rules.append(_Rule(action, re.compile(match), times, skip))

    def only(self, action: Action, match: str = "", *, times: int | None = 1, skip: int = 0) -> None:
        """As `add`, but replace the active faults."""
        self.clear()
        self.add(action, match, times=times, skip=skip)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def meet(self, line: str, request: Head | None = None) -> Met:
        """The faults for the *request* with this line (None: for a `CONNECT`), which are counted."""
        with self._lock:
            return Met([rule.action for rule in self._rules if rule.applies(line, request)])
