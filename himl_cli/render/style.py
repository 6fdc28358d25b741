"""Colour and width of the terminal, without a library: for the few bold words that need no table."""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import TextIO

STATUS_STYLES = {"Completed": "green", "Failed": "red", "Canceled": "yellow", "Running": "cyan", "Queued": "dim"}
_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}
_PIECES = re.compile(r"(?<!\S)\(?'[^']+'\S*|\S+")


def has_colour(stream: TextIO) -> bool:
    """Whether *stream* is a terminal that shows colour and whose user wants it (https://no-color.org)."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.platform != "win32" or bool(
        {"WT_SESSION", "TERM", "ANSICON"} & set(os.environ)
    )  # older Windows consoles print the codes


def styled(text: str, style: str) -> str:
    """*text* in *style* (a name of `_CODES`) where stdout has colour."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if text and has_colour(sys.stdout) else text


def width() -> int:
    """Columns of the terminal, 80 where that is unknown."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def folded(text: str, columns: int) -> list[str]:
    """*text* in lines of at most *columns*, broken at spaces, but not within quotes where a line has room for these:
    such words are there to be copied.

    A word that no line has room for begins on a line of its own and is cut.
    """
    lines: list[str] = []
    for quoted in _PIECES.findall(text):
        for piece in [quoted] if len(quoted) <= columns else quoted.split():
            if lines and len(lines[-1]) + 1 + len(piece) <= columns:
                lines[-1] += f" {piece}"
            else:
                lines += [piece[start : start + columns] for start in range(0, len(piece), columns)]
    return lines
