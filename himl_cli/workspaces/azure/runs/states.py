"""The service's states of a run, and ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from himl_cli.core.runs import RunStatus

_OF_HISTORY = {
    RunStatus.queued: ("NotStarted", "Unapproved", "Starting", "Preparing", "Queued", "Paused"),
    RunStatus.running: ("Running", "Finalizing", "CancelRequested", "Pausing"),
    RunStatus.completed: ("Completed",),
    RunStatus.failed: ("Failed",),
    RunStatus.canceled: ("Canceled",),
}
"""The states that the run history's own client names; the run history is asked for no others, which it might refuse."""
_OF_JOBS = {RunStatus.queued: ("Provisioning", "Waiting"), RunStatus.running: ("NotResponding", "Unknown")}
_STATUSES = {
    state.lower(): status for states in (_OF_HISTORY, _OF_JOBS) for status, names in states.items() for state in names
}

LOCAL_TARGET = "local"
"""Where runs are said to be that have no job."""


def may_begin(raw: Mapping[str, Any]) -> bool:
    """Whether *raw*, as the run history gives it, is a run without a job that was made and never began: the moment
    between was cut short."""
    return (raw.get("status") or "").lower() == "notstarted" and raw.get("target") == LOCAL_TARGET


def status_of(state: str) -> RunStatus:
    """What *state* is to us. One that we do not know counts as running: the ends of a run are all known."""
    return _STATUSES.get(state.lower(), RunStatus.running)


def states_of(statuses: Iterable[RunStatus]) -> list[str]:
    """All states that are one of *statuses* to us."""
    return [state for status in statuses for state in (*_OF_HISTORY[status], *_OF_JOBS.get(status, ()))]


def history_condition(statuses: Iterable[RunStatus]) -> str:
    """The condition by which the run history picks runs that are one of *statuses*; "" for all of them.

    Runs that have not ended are picked by what they are not, so that a state without a name here is not missed.
    """
    wanted = set(statuses)
    if not wanted or wanted == set(RunStatus):
        return ""
    if all(status.is_final for status in wanted):
        return " or ".join(
            f"Status eq {state}" for status in RunStatus if status in wanted for state in _OF_HISTORY[status]
        )
    return " and ".join(
        f"Status ne {state}" for status in RunStatus if status not in wanted for state in _OF_HISTORY[status]
    )
