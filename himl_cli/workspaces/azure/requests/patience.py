"""How long requests to the services are tried."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """At most so many `tries`, `connect_tries` where no connection comes about; no try begins later than `total`
    seconds after the first.

    A try ends after `read` seconds without a byte. Waits double from `first` seconds on.
    A service that asks for more than `longest_asked` seconds gets no further request.
    """

    tries: int = 5
    connect_tries: int = 3
    first: float = 0.5
    longest_asked: float = 60.0
    total: float = 180.0
    read: float = 60.0
