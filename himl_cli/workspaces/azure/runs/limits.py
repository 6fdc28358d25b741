"""How long a job may run: written into its properties when it is sent, so that its end can be told from a cancelation
by hand.

The service ends such a job as canceled, and the run history says neither by whom nor what the limit was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from himl_cli.core.events import Notice, Notify
from himl_cli.workspaces.azure.requests.times import as_time

MAX_SECONDS = "himl.max_run_seconds"
"""The property with the limit in whole seconds."""
SHORTEST = 60


def limit_properties(max_seconds: float | None) -> dict[str, str]:
    """The property of a job that may run for so long; none for one without a limit."""
    return {} if max_seconds is None else {MAX_SECONDS: str(limit_of(max_seconds))}


def limit_of(max_seconds: float) -> int:
    """The limit as the service takes it: whole seconds, a minute at least, for what is less it takes for 60 days."""
    return max(SHORTEST, math.ceil(max_seconds))


def say_limits(limits: Iterable[float | None], notify: Notify) -> None:
    """Tell where jobs may run for longer than was asked for, once for each limit."""
    for asked in dict.fromkeys(limits):
        if asked is not None and asked < SHORTEST:
            notify(Notice(f"--max_run_duration is a minute at least on a cluster: {SHORTEST} s, not {asked:g} s."))


def limit_reached(raw: Mapping[str, Any]) -> str:
    """That the canceled run *raw*, as the run history has it, ran for as long as it might; "" where it did not, and
    where no limit is known."""
    text = str((raw.get("properties") or {}).get(MAX_SECONDS) or "")
    started, ended = as_time(raw.get("startTimeUtc")), as_time(raw.get("endTimeUtc"))
    if not text.isdecimal() or started is None or ended is None or (ended - started).total_seconds() < int(text):
        return ""
    return f"it ran for as long as --max_run_duration let it ({int(text):,} s)"
