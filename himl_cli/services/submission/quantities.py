"""Durations and sizes as they are typed."""

from __future__ import annotations

import re

from himl_cli.core.errors import BadUsage

DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
SECONDS_IN = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SIZE = re.compile(r"0*[1-9]\d*[bkmg]", re.IGNORECASE)


def parse_duration(text: str, option: str = "") -> float:
    """Seconds of `30s`, `30m`, `2h` or `1.5d`. Raises BadUsage, which begins with the *option* that it was given for."""
    found = DURATION.fullmatch(text.strip())
    if found is None or float(found[1]) == 0:
        raise BadUsage(f"{option} '{text}' is no duration.".strip(), hint="Write a number and a unit: 30s, 30m, 2h or 1.5d.")
    return float(found[1]) * SECONDS_IN[found[2]]


def check_size(option: str, text: str) -> str:
    """*text*, which is to be a size as Docker takes it: a whole number and b, k, m or g. Raises BadUsage naming *option*."""
    if not SIZE.fullmatch(text.strip()):
        raise BadUsage(f"{option} '{text}' is no size.", hint="Write a whole number and a unit: 512m or 100g.")
    return text.strip().lower()
