"""What can be made to go wrong, and for which requests. All numbers: bytes of a body, or seconds."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Any, get_args


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
class FlipByte:
    """Change one byte of the body (counted from 0; from the end when negative)."""

    at: int


@dataclass(frozen=True)
class WrongMd5:
    """Promise another MD5 than the content has (`Content-MD5` and `x-ms-blob-content-md5`)."""


@dataclass(frozen=True)
class ChangeEtag:
    """Another writer came in between: a condition `If-Match` fails with 412, and without one the answer carries a new ETag."""


@dataclass(frozen=True)
class ExpireSas:
    """Refuse the signature as one whose time is over (403, AuthenticationFailed)."""


@dataclass(frozen=True)
class WrongDate:
    """Shift the answer's `Date` by this much, as if the client's clock were off."""

    seconds: float


@dataclass(frozen=True)
class SmallPages:
    """Let blob listings come in pages of so many, as the service may at any time."""

    size: int


Action = Status | Page | Reset | ResetUpload | Truncate | Stall | Drip | Latency | FlipByte | WrongMd5 | ChangeEtag | ExpireSas | WrongDate | SmallPages
KINDS: dict[str, type[Action]] = {kind.__name__: kind for kind in get_args(Action)}


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
        """*action* meets the next *times* requests (None: all) whose line `METHOD host/path?query` holds the regular expression *match*, after *skip* such."""
        with self._lock:
            self._rules.append(_Rule(action, re.compile(match), times, skip))

    def add_json(self, document: dict[str, Any]) -> None:
        """As `add`, from `{"action": "Status", "arguments": {"status": 503}, "match": "...", "times": 2, "skip": 0}`."""
        action = KINDS[document["action"]](**document.get("arguments", {}))
        self.add(action, document.get("match", ""), times=document.get("times", 1), skip=document.get("skip", 0))

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def meet(self, line: str) -> list[Action]:
        """What happens to the request with this line; counted."""
        with self._lock:
            return [rule.action for rule in self._rules if self._applies(rule, line)]

    @staticmethod
    def _applies(rule: _Rule, line: str) -> bool:
        if rule.left == 0 or not rule.match.search(line):
            return False
        if rule.skip:
            rule.skip -= 1
            return False
        if rule.left is not None:
            rule.left -= 1
        return True
