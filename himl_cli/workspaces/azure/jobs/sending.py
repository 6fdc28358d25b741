"""Creating a job: once, whatever the network does, and with a clear word where it is not known whether it was
created."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import HimlError, Interrupted, NotAllowed, ServiceFailed
from himl_cli.core.processes import interruptions
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.before_creation import say_nothing_runs
from himl_cli.workspaces.azure.requests.answers import object_of
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound

log = logging.getLogger(__name__)

USER_TOKEN = "x-azureml-token"  # of the user whom a job is to act as


def create_job(
    connection: Connection, run_id: str, api_version: str, body: Mapping[str, Any], headers: Mapping[str, str]
) -> Mapping[str, Any]:
    """Create job *run_id* and give what the service says of it.

    A request is repeated where its answer was lost: its id is the job's name, of which there is never a second one. The
    service refuses the repetition then (400, the job is there), so that after any refusal, and where all tries failed,
    the job is looked for. A signal waits until it is known whether there is one. *headers* go with the request
    (`acting_as_user`).

    Raises Interrupted after one, with the id of the job; ServiceFailed, too, where it stays unknown; and as `Rest`
    does.
    """
    url = connection.arm(f"/jobs/{quote(run_id, safe='')}")
    with interruptions() as signals:
        try:
            created = _put(connection, url, run_id, {"api-version": api_version}, body, headers)
        except KeyboardInterrupt as err:
            raise Interrupted(
                f"Interrupted while job '{run_id}' was being created: it may be there.", hint=tells(run_id)
            ) from err
    with created_job(run_id):
        if signals:
            raise KeyboardInterrupt
        return created


@contextmanager
def created_job(run_id: str) -> Iterator[None]:
    """Within it job *run_id* is there, and nobody has heard of it yet. Raises Interrupted, which says its id, where
    that is interrupted."""
    try:
        yield
    except KeyboardInterrupt as err:
        raise Interrupted(
            f"Job '{run_id}' was created before the interruption, and goes on.",
            hint=f"To stop it: himl runs cancel {run_id}",
        ) from err


def _put(
    connection: Connection,
    url: str,
    run_id: str,
    query: Mapping[str, str],
    body: Mapping[str, Any],
    headers: Mapping[str, str],
) -> Mapping[str, Any]:
    try:
        return object_of(connection.rest.send("PUT", url, params=query, json=body, headers=headers).body, url, "job")
    except ServiceNotFound as err:
        say_nothing_runs(err)
        raise
    except HimlError as err:
        log.debug("creating %s failed: %s", run_id, err)
        return _looked_for(connection, url, run_id, query, err)


def _looked_for(
    connection: Connection, url: str, run_id: str, query: Mapping[str, str], trouble: HimlError
) -> Mapping[str, Any]:
    """The job, where it was created in spite of *trouble*. Raises *trouble* where it was not."""
    try:
        return connection.rest.get_object(url, "job", params=query)
    except ServiceNotFound:
        say_nothing_runs(trouble)
        raise trouble from None
    except HimlError:
        if isinstance(trouble, NotAllowed):  # what is to be done about that comes first
            trouble.hint = f"{trouble.hint} {tells(run_id)}".strip()
            raise trouble from None
        raise ServiceFailed(
            f"It is not known whether job '{run_id}' was created: {trouble}", hint=tells(run_id)
        ) from trouble


def acting_as_user(connection: Connection, body: Mapping[str, Any]) -> dict[str, str]:
    """The token that a job gets which acts as the user who sends it."""
    identity = body["properties"].get("identity") or {}
    if identity.get("identityType") != "UserIdentity":
        return {}
    return user_token(connection)


def user_token(connection: Connection) -> dict[str, str]:
    """The header with a token of who is signed in, for what acts in their name."""
    return {USER_TOKEN: connection.tokens.get(connection.address.cloud.jobs_scope)}


def tells(run_id: str) -> str:
    """Where to see whether there is a job *run_id*."""
    return f"'himl runs show {run_id}' tells whether there is such a job, 'himl runs cancel {run_id}' stops it."
