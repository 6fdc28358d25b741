"""A job and its workspace as azure-ai-ml shows them."""

from __future__ import annotations

from typing import Any

from himl_cli.core.errors import RunNotFound
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.sdk import load_sdk, silenced
from himl_cli.workspaces.azure.requests.errors import ServiceRefused
from himl_cli.workspaces.azure.requests.unreachable import network_error


def sdk_view(connection: Connection, run_id: str) -> tuple[Any, Any]:
    """azure-ai-ml's `Job` and `MLClient`. Raises RunNotFound, ServiceFailed."""
    load_sdk()
    from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError

    from himl_cli.workspaces.azure.jobs.client import client_for

    try:
        with silenced():
            client = client_for(connection)
            return client.jobs.get(run_id), client
    except ResourceNotFoundError as err:
        raise RunNotFound(run_id, connection.address.label) from err
    except HttpResponseError as err:
        raise ServiceRefused(
            f"azure-ai-ml cannot read job '{run_id}': {err.reason} ({err.status_code}).", status=err.status_code or 0
        ) from err
    except AzureError as err:
        raise network_error(err, connection.arm("/jobs")) from err
