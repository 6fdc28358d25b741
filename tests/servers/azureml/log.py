"""The requests that the double has seen, for tests to count and to look at."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.servers.azureml.issued import signed

_SECRET = re.compile(r"(?i)\b(sig|client_secret|client_assertion)=[^&]*")


@dataclass
class Seen:
    """One request. `sent` and `received` count bytes of the bodies as the client saw them; `query` has its signatures masked; `status` 0: no answer."""

    method: str
    host: str
    path: str
    query: str
    headers: dict[str, str]
    sent: int = 0
    status: int = 0
    received: int = 0
    started: float = field(default_factory=time.time)
    seconds: float = 0.0
    unknown: str = ""  # why nobody answers such a request
    faults: list[str] = field(default_factory=list)
    body: bytes = b""  # of what is put to a service other than storage

    def __str__(self) -> str:
        return f"{self.method} {self.host}{self.path}{'?' if self.query else ''}{self.query} -> {self.status}"

    def as_json(self) -> dict[str, Any]:
        fields = asdict(self)
        del fields["body"]
        return fields


def masked(query: str) -> str:
    return _SECRET.sub(r"\1=***", signed(query))


class RequestLog:
    """All requests since the last `clear`; safe to read from any thread."""

    def __init__(self) -> None:
        self._seen: list[Seen] = []
        self._expected: list[str] = []
        self._lock = threading.Lock()

    def note(self, seen: Seen) -> None:
        with self._lock:
            self._seen.append(seen)

    def clear(self) -> None:
        with self._lock:
            self._seen.clear()
            self._expected.clear()

    def all(self) -> list[Seen]:
        with self._lock:
            return list(self._seen)

    def find(self, pattern: str = "", where: Callable[[Seen], bool] = lambda seen: True) -> list[Seen]:
        """Requests whose line (`METHOD host/path?query -> status`) holds the regular expression *pattern*, in order."""
        return [seen for seen in self.all() if re.search(pattern, str(seen)) and where(seen)]

    def expect_unknown(self, pattern: str) -> None:
        """Requests like this are asked on purpose though nobody answers them: they do not fail this test."""
        with self._lock:
            self._expected.append(pattern)

    def unknown(self) -> list[str]:
        """What was asked that nobody plays, and answers of the double that are its own failures."""
        with self._lock:
            expected = list(self._expected)
        return [f"{seen} ({seen.unknown})" for seen in self.all() if seen.unknown and not any(re.search(one, str(seen)) for one in expected)]
