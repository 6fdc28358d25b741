"""Asking a run to stop."""

from __future__ import annotations

from urllib.parse import quote

from himl_cli.core.errors import HimlError
from himl_cli.core.runs import RunStatus
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.places import api_versions
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.runs.history import RunHistory
from himl_cli.workspaces.azure.runs.records import RawRun
from himl_cli.workspaces.azure.runs.states import status_of

STOPPING, ENDING = "cancelrequested", "finalizing"


def ask_to_cancel(connection: Connection, history: RunHistory, run_id: str) -> bool:
    """Ask the run, which had not ended a moment ago, to stop; nobody waits for it. False where it has ended meanwhile.

    Resource manager stops jobs of every kind. What it does not know or refuses (a run that was logged from anywhere),
    and any run inside a job, where there is no resource manager, is left to the run history.

    Raises HimlError for a run whose command has ended and that is being wound up: the service refuses to stop one.
    """
    quoted = quote(run_id, safe="")
    if not connection.in_job:
        try:
            reply = connection.rest.send(
                "POST", connection.arm(f"/jobs/{quoted}/cancel"), params={"api-version": api_versions.JOBS}
            )
        except (ServiceNotFound, ServiceRefused) as err:
            _raise_passing(err)
        else:
            return reply.status == 202 or not _ended_otherwise(history.get(run_id))
    raw = history.get(run_id)
    if _is_settled(raw):
        return not _ended_otherwise(raw)
    try:
        connection.rest.send(
            "POST", connection.history(f"/experimentids/{quote(raw['experimentId'], safe='')}/runs/{quoted}/cancel")
        )
    except ServiceRefused as err:
        _raise_passing(err)
        raw = history.get(run_id)
        if not _is_settled(raw):
            raise
        return not _ended_otherwise(raw)
    return True


def _raise_passing(err: ServiceNotFound | ServiceRefused) -> None:
    """Raise *err* where it is about the service, not about the run."""
    if err.status >= 500 or err.status == 429:
        raise err


def _is_settled(raw: RawRun) -> bool:
    """Whether the run has ended, or was asked to stop, so that there is nothing left to ask for. Raises HimlError where
    it cannot be stopped."""
    state = str(raw.get("status") or "")
    if state.lower() == ENDING:
        raise HimlError(
            f"Run '{raw['runId']}' is in its last state, {state}: its command has ended, and Azure ML does not stop it "
            "any more.",
            hint=f"It ends by itself; 'himl runs show {raw['runId']}' tells when.",
        )
    return state.lower() == STOPPING or status_of(state).is_final


def _ended_otherwise(raw: RawRun) -> bool:
    """Whether the run ended by itself rather than by being stopped."""
    status = status_of(raw.get("status") or "")
    return status.is_final and status is not RunStatus.canceled
