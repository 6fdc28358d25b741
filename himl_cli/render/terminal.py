"""Colour and width of the terminal, durations, sizes and paths in text; imports no library."""

from __future__ import annotations

import os
import re
import shutil
import sys
from datetime import datetime
from typing import TextIO

STATUS_STYLES = {"Completed": "green", "Failed": "red", "Canceled": "yellow", "Running": "cyan", "Queued": "dim"}
_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}


def allows_colour() -> bool:
    """Whether the user's environment lets terminals have colour (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def has_colour(stream: TextIO) -> bool:
    """Whether *stream* is a terminal that shows colour and whose user wants it (https://no-color.org)."""
    if not stream.isatty() or not allows_colour():
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
    for quoted in re.findall(r"(?<!\S)\(?'[^']+'\S*|\S+", text):
        for piece in [quoted] if len(quoted) <= columns else quoted.split():
            if lines and len(lines[-1]) + 1 + len(piece) <= columns:
                lines[-1] += f" {piece}"
            else:
                lines += [piece[start : start + columns] for start in range(0, len(piece), columns)]
    return lines


def duration_text(seconds: float | None) -> str:
    """`0.4s`, `12s`, `1m 05s`, `2h 05m`, `3d 04h`; empty when unknown."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02d}h"
    if hours:
        return f"{hours}h {minute:02d}m"
    return f"{minutes}m {second:02d}s" if minutes else f"{second}s"


def local_time(time: datetime | None, now: datetime | None = None) -> str:
    """`14:05` of today, `Mar 01 14:05` of this year, else `2025-03-01`; in the local time zone, empty when unknown."""
    if time is None:
        return ""
    here = time.astimezone()
    today = (now or datetime.now().astimezone()).astimezone()
    if here.date() == today.date():
        return f"{here:%H:%M}"
    return f"{here:%b %d %H:%M}" if here.year == today.year else f"{here:%Y-%m-%d}"


def size_text(size: int) -> str:
    """`512 B`, `4.0 KB`, `1.5 MB`, in powers of 1,000."""
    if size < 1000:
        return f"{size} B"
    number, units = size / 1000, ["KB", "MB", "GB", "TB"]
    while number >= 999.95 and len(units) > 1:
        number /= 1000
        units.pop(0)
    return f"{number:.1f} {units[0]}"


def shown_path(path: str) -> str:
    """For a person the shorter of the path from here and *path* itself; off a terminal *path*. Empty stays empty."""
    if not path or not sys.stdout.isatty():
        return path
    try:
        return min(os.path.relpath(path), path, key=len)
    except ValueError:  # another drive, on Windows
        return path


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
