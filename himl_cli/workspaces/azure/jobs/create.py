"""Creating a job: once, whatever the network does, and with a clear word where it is not known whether it was created
or where nothing was."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, HimlError, Interrupted, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.processes import interruptions, terminations
from himl_cli.core.runs import Run, new_run_id
from himl_cli.workspaces.azure.address import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.body import PutRequest
from himl_cli.workspaces.azure.responses import as_time, object_of, understood
from himl_cli.workspaces.azure.runs.records import status_of, studio_url, user_tags
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused

log = logging.getLogger(__name__)

USER_TOKEN = "x-azureml-token"  # of the user whom a job is to act as
NOTHING_RUNS = "No job was created."


def azure_run_id(experiment: str) -> str:
    """A new run id that the service takes as a job's name: it begins with a letter or digit, and has 255 characters at
    most."""
    return new_run_id(re.sub(r"^[^A-Za-z0-9]+", "", experiment) or "job")


@contextmanager
def before_creation() -> Iterator[None]:
    """Within it nothing can start a job: an interruption raises Interrupted, any other failure stays what it is, and
    both say that nothing runs."""
    try:
        with terminations():
            yield
    except KeyboardInterrupt as err:
        raise Interrupted("Interrupted before the job was created: nothing runs.") from err
    except (BadUsage, NotFound):
        raise  # nobody expects a job of what is wrong
    except HimlError as err:
        note_nothing_runs(err)
        raise


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


def create_job(
    connection: Connection, run_id: str, request: PutRequest, headers: Mapping[str, str]
) -> Mapping[str, Any]:
    """Create job *run_id* and give what the service says of it.

    A request is repeated where its answer was lost: its id is the job's name, of which there is never a second one. The
    service refuses the repetition then (400, the job is there), so that after any refusal, and where all tries failed,
    the job is looked for. A signal waits until it is known whether there is one.

    Raises Interrupted after one, with the id of the job; ServiceFailed, too, where it stays unknown; and as `Rest`
    does.
    """
    url = connection.arm(f"/jobs/{quote(run_id, safe='')}")
    query = {"api-version": request.api_version}
    with interruptions() as signals:
        try:
            reply = connection.rest.send("PUT", url, params=query, json=request.body, headers=headers)
            created = object_of(reply.body, url, "job")
        except KeyboardInterrupt as err:
            raise Interrupted(
                f"Interrupted while job '{run_id}' was being created: it may be there.", hint=lookup_hint(run_id)
            ) from err
        except ServiceNotFound as err:
            note_nothing_runs(err)
            raise
        except HimlError as err:
            log.debug("creating %s failed: %s", run_id, err)
            created = _find_job(connection, url, run_id, query, err)
    with created_job(run_id):
        if signals:
            raise KeyboardInterrupt
        return created


def create_or_renew(create: Callable[[], Mapping[str, Any]], renew: Callable[[], bool]) -> Mapping[str, Any]:
    """What *create* gives, a second time where the service refuses the job and *renew* made anew what it has lost.

    *renew* is False where nothing was lost: then the refusal is raised.
    """
    try:
        return create()
    except (ServiceNotFound, ServiceRefused) as err:
        if err.status not in (400, 404):
            raise
        with before_creation():
            if not renew():
                raise
        log.debug("the service refuses the job (%s); what was remembered of it is made anew", err)
        return create()


def is_gone(connection: Connection, id: str) -> bool:
    """Whether the service has no code, environment or component of this resource id any more."""
    url = f"{connection.address.cloud.resource_manager}{quote(id)}"
    try:
        connection.rest.get(url, params={"api-version": ApiVersion.ENVIRONMENTS})
    except ServiceNotFound:
        return True
    return False


def created_run(
    connection: Connection, run_id: str, answer: Mapping[str, Any], tenant_id: str, *, experiment: str, command: str
) -> Run:
    """The run that *answer*, the service's on the creation of job *run_id*, tells of; *command* is shown as its
    command, credentials masked. Raises ServiceFailed, which names the job, for an answer that is not understood."""
    try:
        with understood(connection.arm("/jobs"), "the job"):
            properties = answer["properties"]
            tags = {"runId": run_id, "tags": properties.get("tags"), "properties": properties.get("properties")}
            created = as_time((answer.get("systemData") or {}).get("createdAt"))
            return Run(
                id=run_id,
                experiment=str(properties.get("experimentName") or experiment),
                status=status_of(str(properties.get("status") or "")),
                created=created or datetime.now(timezone.utc),
                display_name=str(properties.get("displayName") or ""),
                description=str(properties.get("description") or ""),
                tags=user_tags(tags),
                command=command,
                workspace=connection.address.label,
                url=studio_url(run_id, connection.address, tenant_id),
            )
    except ServiceFailed as err:
        raise ServiceFailed(f"Job '{run_id}' was created, but: {err}", hint=lookup_hint(run_id)) from err


def user_token(connection: Connection) -> dict[str, str]:
    """The header with a token of who is signed in, for what acts in their name."""
    return {USER_TOKEN: connection.tokens.get(connection.address.cloud.jobs_scope)}


def note_nothing_runs(err: HimlError) -> None:
    """Let *err* say, once, that there is no job."""
    if NOTHING_RUNS not in err.hint:
        err.hint = f"{NOTHING_RUNS} {err.hint}".strip()


def lookup_hint(run_id: str) -> str:
    """Where to see whether there is a job *run_id*."""
    return f"'himl runs show {run_id}' tells whether there is such a job, 'himl runs cancel {run_id}' stops it."


def _find_job(
    connection: Connection, url: str, run_id: str, query: Mapping[str, str], failure: HimlError
) -> Mapping[str, Any]:
    """The job, where it was created in spite of *failure*. Raises *failure* where it was not."""
    try:
        return connection.rest.get_object(url, "job", params=query)
    except ServiceNotFound:
        note_nothing_runs(failure)
        raise failure from None
    except HimlError:
        if isinstance(failure, NotAllowed):  # what is to be done about that comes first
            failure.hint = f"{failure.hint} {lookup_hint(run_id)}".strip()
            raise failure from None
        raise ServiceFailed(
            f"It is not known whether job '{run_id}' was created: {failure}", hint=lookup_hint(run_id)
        ) from failure
