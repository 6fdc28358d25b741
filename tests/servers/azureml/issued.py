"""Every secret that the doubles of this process make or are shown, told to whoever searches for them; nothing is kept here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl

Listener = Callable[[str, str], None]
_listeners: list[Listener] = []


def issued(kind: str, secret: str) -> str:
    """*secret* itself, once all that listen were told of it.

    *kind* says what it is: `password`, `assertion`, `account key`, `token`, `signature`, `delegation key`.
    """
    for listener in tuple(_listeners):
        listener(kind, secret)
    return secret


def signed(query: str) -> str:
    """*query* itself, once the signature in it was told."""
    if _listeners:
        for name, value in parse_qsl(query.partition("?")[2] or query):
            if name == "sig":
                issued("signature", value)
    return query


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """*listener* is called with the kind and the text of each secret, from any thread, as long as the context lasts."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
