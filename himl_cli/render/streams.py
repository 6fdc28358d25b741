"""Standard streams that whoever started us closed (`himl … >&-`, some schedulers)."""

from __future__ import annotations

import os
import sys


def stand_in_for_closed_streams() -> None:
    """Open the null device in their place: else the next file opened, a database say, would get a stream's number and
    its text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
