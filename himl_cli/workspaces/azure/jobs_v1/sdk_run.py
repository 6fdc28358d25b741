"""A run as azureml-core has it, for a script that submitted itself and wants to do more with it."""

from __future__ import annotations

from typing import Any

from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs_v1.refusals import sdk_errors
from himl_cli.workspaces.azure.jobs_v1.sdk import quiet_sdk, require_sdk
from himl_cli.workspaces.azure.jobs_v1.sign_in import sdk_workspace


def sdk_run(connection: Connection, run_id: str) -> Any:
    """The `azureml.core.Run` of that id, signed in as himl is. Raises BadUsage without azureml-core, NotFound, and as
    `Rest` does."""
    require_sdk()
    with quiet_sdk(), sdk_errors(connection):
        from azureml.core import Run

        return Run.get(sdk_workspace(connection), run_id)
