"""The secrets of one case, and where they are found again: as they are, quoted, escaped, in base64."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable
from urllib.parse import quote, quote_plus, unquote

SHORTEST = 8
"""Bytes that a form has at least: shorter ones are found by chance."""
KIND_OF_SHAPE = "token"
_SHAPE = re.compile(rb"(?<![\w-])eyJ[\w-]{20,}\.[\w-]{20,}\.[\w-]{8,}")
"""A token by its form, whoever made it."""


class Marks:
    """Secrets by what they are (`password`, `signature`, …); safe to add to from any thread."""

    def __init__(self) -> None:
        self._forms: dict[bytes, str] = {}
        self._known: set[str] = set()
        self._guard = threading.Lock()
        self.kinds: Counter[str] = Counter()

    def add(self, kind: str, secret: str) -> None:
        """Look out for *secret* from now on. Raises ValueError for one that is too short to be told from other text."""
        if len(secret) < SHORTEST:
            raise ValueError(f"a {kind} of {len(secret)} characters is no mark")
        with self._guard:
            if secret not in self._known:
                self._known.add(secret)
                self.kinds[kind] += 1
                self._forms |= dict.fromkeys(forms_of(secret), kind)

    def __len__(self) -> int:
        return len(self._known)

    def found(self, content: bytes, but: Iterable[str] = ()) -> list[str]:
        """The kinds of those that *content* holds, without the kinds *but*."""
        with self._guard:
            forms = list(self._forms.items())
        kinds = {kind for form, kind in forms if form in content}
        if _SHAPE.search(content):
            kinds.add(KIND_OF_SHAPE)
        return sorted(kinds - set(but))


def forms_of(secret: str) -> set[bytes]:
    """What *secret* looks like in addresses, JSON, headers and text in base64, wherever it begins there."""
    plain = {secret, unquote(secret)}
    texts = set(plain)
    for one in plain:
        quoted = {quote(one, safe=""), quote(one), quote_plus(one)}
        texts |= quoted | {re.sub("%..", lambda found: found[0].lower(), text) for text in quoted}
        texts |= {json.dumps(one)[1:-1], json.dumps(one)[1:-1].replace("/", "\\/"), repr(one)[1:-1]}
    forms = {text.encode() for text in texts}
    for one in plain:
        forms |= {encoded for skipped in range(3) for encoded in _in_base64(one.encode(), skipped)}
    return {form for form in forms if len(form) >= SHORTEST}


def _in_base64(content: bytes, skipped: int) -> tuple[bytes, bytes]:
    """What stays the same of *content* in base64 where *skipped* (0 to 2) bytes of a group of three stand before it, whatever follows."""
    encoded = base64.b64encode(bytes(skipped) + content)
    begin = (0, 2, 3)[skipped]
    whole = encoded[begin : (skipped + len(content)) * 8 // 6]
    return whole, whole.replace(b"+", b"-").replace(b"/", b"_")
