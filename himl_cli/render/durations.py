"""Times, durations and sizes in words."""

from __future__ import annotations

from datetime import datetime


def duration_text(seconds: float | None) -> str:
    """`0.4s`, `12s`, `1m 05s`, `2h 05m`, `3d 04h`; empty when unknown."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


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
