"""Times as the services write them."""

from __future__ import annotations

import re
from datetime import datetime, timezone

_FRACTION = re.compile(r"\.(\d+)")


def as_time(text: str | None) -> datetime | None:
    """A time of the service in UTC, which it is in where it names no zone; None for none, and for what is no time.

    It writes up to seven digits after the point, which Python 3.10 does not read.
    """
    if not text:
        return None
    six_digits = _FRACTION.sub(lambda found: f".{found[1][:6]:0<6}", text.replace("Z", "+00:00"), count=1)
    try:
        time = datetime.fromisoformat(six_digits)
    except ValueError:
        return None
    return time.astimezone(timezone.utc) if time.tzinfo else time.replace(tzinfo=timezone.utc)
