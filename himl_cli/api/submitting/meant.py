"""The Azure ML workspace that a call of `submit_to_azure_if_needed` means."""

from __future__ import annotations

from himl_cli.api.configured import get_workspace
from himl_cli.api.errors import NoWorkspace
from himl_cli.api.submitting.asked import Asked
from himl_cli.workspaces.base import Workspace


def meant_workspace(asked: Asked) -> Workspace | None:
    """The workspace that is given, named or configured, opened without a request; None where there is none in Azure ML.

    Raises ConfigNotFound for a config file that is not there, BadUsage for one that cannot be used, TypeError for what
    is no workspace.
    """
    given = asked.aml_workspace if asked.aml_workspace is not None else asked.ml_client
    try:
        workspace = get_workspace(given, asked.workspace_config_file)
    except NoWorkspace:
        return None
    return workspace.opened if workspace.is_in_azure else None
