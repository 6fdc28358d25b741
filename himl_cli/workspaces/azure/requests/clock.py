"""How far this machine's clock is from the service's, as its `Date` headers tell."""

from __future__ import annotations

import time
from collections.abc import Mapping

from himl_cli.workspaces.azure.requests.times import http_time

TOLERABLE_SECONDS = 300
"""Entra ID and storage accept five minutes; beyond that tokens and signatures are refused."""


def ahead_of(headers: Mapping[str, str]) -> float | None:
    """Seconds that this clock is ahead of the sender's (negative: behind), to about a second; None without a `Date`."""
    theirs = http_time(next((value for name, value in headers.items() if name.lower() == "date"), ""))
    return time.time() - theirs.timestamp() if theirs is not None else None


def said(seconds: float) -> str:
    """`12 minutes ahead of`, `3 hours behind`: to be followed by whose."""
    amount = abs(seconds)
    size, unit = next(
        (size, unit)
        for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
        if amount >= size or size == 1
    )
    count = round(amount / size)
    return f"{count} {unit}{'' if count == 1 else 's'} {'ahead of' if seconds > 0 else 'behind'}"


def complaint(headers: Mapping[str, str]) -> str:
    """A sentence about this clock where it is so far off that the service refuses what we send; else nothing."""
    seconds = ahead_of(headers)
    if seconds is None or abs(seconds) <= TOLERABLE_SECONDS:
        return ""
    return f"This machine's clock is {said(seconds)} the service's."
