"""Spans of time as jobs have them (ISO 8601, `P1DT2H3M4S`)."""

from __future__ import annotations

import re

TAKEN_FOR_SHORTEST = 60.0
"""What is less counts as 60 days, as the vendor's client has it in a remark (it sends no less)."""
LONGEST = 60 * 24 * 3600.0
_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")


def seconds_of(duration: str) -> float:
    """Raises ValueError for other forms; the service knows no fractions of a second."""
    found = _DURATION.fullmatch(duration)
    if found is None or not any(found.groups()):
        raise ValueError(f"'{duration}' is no duration")
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def limit_of(duration: str) -> float:
    """The seconds after which the service ends what has this limit."""
    seconds = seconds_of(duration)
    return seconds if seconds >= TAKEN_FOR_SHORTEST else LONGEST
