"""What was remembered of a job, and the service has lost since: noticed when it refuses the job, and made anew once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.before_creation import before_creation
from himl_cli.workspaces.azure.places import api_versions
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound, ServiceRefused

log = logging.getLogger(__name__)

Ready = TypeVar("Ready")


def is_gone(connection: Connection, id: str) -> bool:
    """Whether the service has no code, environment or component of this resource id any more."""
    try:
        connection.rest.get(
            f"{connection.address.cloud.resource_manager}{quote(id)}", params={"api-version": api_versions.ENVIRONMENTS}
        )
    except ServiceNotFound:
        return True
    return False


def create_or_renew(
    ready: Ready, create: Callable[[Ready], Mapping[str, Any]], renew: Callable[[Ready], Ready | None]
) -> tuple[Mapping[str, Any], Ready]:
    """What *create* gives for *ready*, else, where the service refuses it, for what *renew* makes of that; and which of
    the two it was.

    *renew* gives None where nothing of it was lost: then the refusal is raised.
    """
    try:
        return create(ready), ready
    except (ServiceNotFound, ServiceRefused) as err:
        if err.status not in (400, 404):
            raise
        with before_creation():
            again = renew(ready)
        if again is None:
            raise
        log.debug("the service refuses the job (%s); what was remembered of it is made anew", err)
        return create(again), again
