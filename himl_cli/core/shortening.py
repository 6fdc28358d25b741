"""Texts of any length, as messages and pictures show them."""

from __future__ import annotations

LONGEST_SHOWN = 200


def shortened(text: str, most: int = LONGEST_SHOWN) -> str:
    """*text*, its middle left out where it is longer than *most* characters."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 3
    return f"{text[: most - 1 - tail]}…{text[-tail:]}"
