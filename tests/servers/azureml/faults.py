"""What can be made to go wrong, and for which requests. All numbers: bytes of a body, or seconds."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from tests.servers.azureml.messages import Head


@dataclass(frozen=True)
class Status:
    """Answer with this status instead of what the service would say. *code* and *message* stand in the body, in the plane's own form."""

    status: int
    retry_after: float | str | None = None
    code: str = "ServerBusy"
    message: str = "The server is busy."
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Page:
    """Answer with this text instead, as a proxy or a hotel's network does."""

    text: str
    status: int = 200
    content_type: str = "text/html"


@dataclass(frozen=True)
class Reset:
    """Reset the connection: after so many bytes of the answer's body, or (None) before any byte of the answer, the request having been carried out."""

    after: int | None = None


@dataclass(frozen=True)
class ResetUpload:
    """Reset the connection after so many bytes of the request's body; nothing is carried out."""

    after: int = 0


@dataclass(frozen=True)
class Truncate:
    """Close the connection in order after so many bytes of the body; the headers promised more."""

    after: int


@dataclass(frozen=True)
class Stall:
    """Send nothing for so long, once so many bytes of the body are out (None: before the status line)."""

    seconds: float
    after: int | None = None


@dataclass(frozen=True)
class Drip:
    """Send the body no faster than this."""

    bytes_per_second: int


@dataclass(frozen=True)
class Latency:
    """Begin to answer this much later."""

    seconds: float


@dataclass(frozen=True)
class Meanwhile:
    """Call this once the request was carried out; the answer begins when it is through."""

    call: Callable[[], object]


@dataclass(frozen=True)
class FlipByte:
    """Change one byte of the body (counted from 0; from the end when negative)."""

    at: int


@dataclass(frozen=True)
class FlipUpload:
    """Change one byte of the request's body (counted from 0; from the end when negative) on its way to the service."""

    at: int


@dataclass(frozen=True)
class WrongMd5:
    """Promise another MD5 than the content has (`Content-MD5` and `x-ms-blob-content-md5`); with *always* also where there is none, as of append blobs."""

    always: bool = False


@dataclass(frozen=True)
class ChangeEtag:
    """Another writer came in between: a condition `If-Match` fails with 412, and without one the answer carries a new ETag."""


@dataclass(frozen=True)
class ExpireSas:
    """Refuse the signature as one whose time is over (403, AuthenticationFailed)."""


@dataclass(frozen=True)
class ExpireToken:
    """Refuse the bearer token as one whose time is over: 401, by each plane in its own form. Requests without such a token go by."""


@dataclass(frozen=True)
class WrongDate:
    """Shift the answer's `Date` by this much, as if the client's clock were off."""

    seconds: float


@dataclass(frozen=True)
class SmallPages:
    """Let blob listings come in pages of so many, as the service may at any time."""

    size: int


@dataclass(frozen=True)
class Refuse:
    """As a proxy: answer `CONNECT` with this status (502, 504: the host was not found or not reached; 407: a password is wanted)."""

    status: int = 502


@dataclass(frozen=True)
class BadCertificate:
    """Show another certificate: of an authority that nobody knows (`untrusted`), `expired`, not valid yet (`early`), or for another host (`other`)."""

    kind: str = "untrusted"

    def __post_init__(self) -> None:
        if self.kind not in ("untrusted", "expired", "early", "other"):
            raise ValueError(f"no such certificate: {self.kind!r}")


@dataclass(frozen=True)
class BreakHandshake:
    """Once the client has said hello: `reset` or `close` the connection, or answer in `plain` text, as a proxy that filters does."""

    how: str = "reset"

    def __post_init__(self) -> None:
        if self.how not in ("reset", "close", "plain"):
            raise ValueError(f"no such end: {self.how!r}")


OnConnect = Refuse | BadCertificate | BreakHandshake
OnRequest = (
    Status
    | Page
    | Reset
    | ResetUpload
    | Truncate
    | Stall
    | Drip
    | Latency
    | Meanwhile
    | FlipByte
    | FlipUpload
    | WrongMd5
    | ChangeEtag
    | ExpireSas
    | ExpireToken
    | WrongDate
    | SmallPages
)
Action = OnConnect | OnRequest
Kind = TypeVar("Kind", bound=Action)
KINDS: dict[str, type[Action]] = {kind.__name__: kind for kind in get_args(Action)}


@dataclass(frozen=True)
class Met:
    """The faults that one request meets. `done` has the names of those that did something to it: a body may end before the byte that was to be another."""

    actions: Sequence[Action] = ()
    done: list[str] = field(default_factory=list)

    def first(self, kind: type[Kind]) -> Kind | None:
        """The first of this *kind*, which may still come to nothing."""
        return next((one for one in self.actions if isinstance(one, kind)), None)

    def use(self, kind: type[Kind]) -> Kind | None:
        """As `first`; it does something now."""
        found = self.first(kind)
        if found is not None:
            self.tell(found)
        return found

    def tell(self, action: Action) -> None:
        """*action* did something."""
        name = type(action).__name__
        if name not in self.done:
            self.done.append(name)


@dataclass
class _Rule:
    action: Action
    match: re.Pattern[str]
    left: int | None
    skip: int


class Faults:
    """The faults in force; safe to change from any thread."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()

    def add(self, action: Action, match: str = "", *, times: int | None = 1, skip: int = 0) -> None:
        """*action* meets the next *times* requests (None: all) whose line holds the regular expression *match*, after *skip* such.

        The line is `METHOD host/path?query`; for what happens before there is a request (Refuse, BadCertificate, BreakHandshake) it is `CONNECT host`.
        """
        with self._lock:
            self._rules.append(_Rule(action, re.compile(match), times, skip))

    def add_json(self, document: dict[str, Any]) -> None:
        """As `add`, from `{"action": "Status", "arguments": {"status": 503}, "match": "...", "times": 2, "skip": 0}`."""
        action = KINDS[document["action"]](**document.get("arguments", {}))
        self.add(action, document.get("match", ""), times=document.get("times", 1), skip=document.get("skip", 0))

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def meet(self, line: str, request: Head | None = None) -> Met:
        """What happens to the *request* with this line (None: to a `CONNECT`); counted."""
        with self._lock:
            return Met([rule.action for rule in self._rules if self._applies(rule, line, request)])

    @staticmethod
    def _applies(rule: _Rule, line: str, request: Head | None) -> bool:
        if rule.left == 0 or not _can_meet(rule.action, request) or not rule.match.search(line):
            return False
        if rule.skip:
            rule.skip -= 1
            return False
        if rule.left is not None:
            rule.left -= 1
        return True


def _can_meet(action: Action, request: Head | None) -> bool:
    """Whether there is in *request* what *action* is about."""
    if request is None or isinstance(action, OnConnect):
        return request is None and isinstance(action, OnConnect)
    if isinstance(action, ExpireToken):
        return request.get("authorization").lower().startswith("bearer ")
    return not isinstance(action, FlipUpload) or bool(request.length) or request.is_chunked
