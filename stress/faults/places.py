"""The requests that a fault may meet, as regular expressions on their lines `METHOD host/path?query`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Place:
    """A kind of request. `body` is how many bytes its body has at least: of what is sent (`sends`), else of the answer.

    `is_first_only`: what it asks is remembered, and the next call does not ask it. A fault lets up to `among` - 1 requests go by.
    """

    name: str
    match: str
    host: str
    body: int = 100
    sends: bool = False
    is_file: bool = False
    is_first_only: bool = False
    among: int = 1

    @property
    def connect(self) -> str:
        """The regular expression of the line `CONNECT host`."""
        return f"^CONNECT {self.host}"

    def of_file(self, name: str, size: int) -> Place:
        """That of the one file whose name ends so."""
        return replace(self, match=self.match.replace(ANY, ANY + re.escape(name)), body=min(size, LEAST_RANGE))


ANY = "[^?]*"
LEAST_RANGE = 1 << 20
"""A large file comes and goes in pieces, none of them smaller than this but the last."""
SMALL = 20_000
"""Bytes that most of the files have, where any of them may be met."""
LOGIN, ARM, PLANE, BLOBS = r"login\.microsoftonline\.com", r"management\.azure\.com", r"[^/]*\.api\.azureml\.ms", r"[^/]*\.blob\.core\.windows\.net"
SIGN_IN = Place("sign_in", rf"^POST {LOGIN}/", LOGIN, is_first_only=True)
RESOURCE = Place("resource", rf"^GET {ARM}/", ARM, is_first_only=True)
KEYS = Place("keys", rf"^POST {ARM}/", ARM, is_first_only=True)
CONTROL = Place("control", rf"^\w+ {ARM}/", ARM, among=3)
JOB = Place("job", rf"^PUT {ARM}/.*/jobs/", ARM, sends=True)
SERVICE = Place("service", rf"^\w+ {PLANE}/", PLANE)
PAGES = Place("pages", rf"^\w+ {PLANE}/", PLANE, among=10)
LISTING = Place("listing", rf"^GET {BLOBS}/[^?]*\?.*comp=list", BLOBS)
FETCH = Place("fetch", rf"^GET {BLOBS}/{ANY}(\?(?!.*comp=list)|$)", BLOBS, body=SMALL, is_file=True, among=10)
PUT = Place("put", rf"^PUT {BLOBS}/{ANY}(\?(?!.*comp=blocklist)|$)", BLOBS, body=SMALL, sends=True, is_file=True, among=10)
COMMIT = Place("commit", rf"^PUT {BLOBS}/[^?]*\?.*comp=blocklist", BLOBS, sends=True)

BYTES = frozenset({FETCH.name})
SENT = frozenset({PUT.name, COMMIT.name})
STORAGE = BYTES | SENT | {LISTING.name}
DOCUMENTS = frozenset(one.name for one in (RESOURCE, KEYS, CONTROL, JOB, SERVICE, PAGES))
"""Answers of the control plane and the services, for which a token is shown."""
ANSWERS = BYTES | DOCUMENTS | {LISTING.name, SIGN_IN.name}
"""Answers that have a body worth breaking."""
