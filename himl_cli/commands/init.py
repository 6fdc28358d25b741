"""`himl init`: what a project needs to find its workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from himl_cli.commands._group import command, group
from himl_cli.commands._options import OutputOptions

app = group()

WORKSPACE = "Azure ML workspace"


@command(app, "init")
def init(
    *,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="Settings to take over (see above).", rich_help_panel=WORKSPACE),
    ] = None,
    subscription_id: Annotated[
        str | None, typer.Option("--subscription_id", metavar="ID", help="Its subscription.", rich_help_panel=WORKSPACE)
    ] = None,
    resource_group: Annotated[
        str | None,
        typer.Option("--resource_group", metavar="NAME", help="Its resource group.", rich_help_panel=WORKSPACE),
    ] = None,
    workspace_name: Annotated[
        str | None, typer.Option("--workspace_name", metavar="NAME", help="Its name.", rich_help_panel=WORKSPACE)
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Make a local workspace, .himl, in this folder.")] = False,
    talk: OutputOptions,
) -> None:
    """Set up this folder for an Azure ML workspace, or with a local one.

    Writes config.json for the workspace named by the options below, or by HIML_SUBSCRIPTION_ID, HIML_RESOURCE_GROUP and
    HIML_WORKSPACE_NAME. --from takes over a config.json of the portal, InnerEye's settings.yml (with the private
    file beside it) or DeepSeismic's .env: settings go to himl.toml, who signs in to himl.private.toml. Where nothing
    names a workspace, a local one is made. No file that exists is changed.

    \b
      himl init
      himl init --from InnerEye/settings.yml
      himl init --subscription_id ID --resource_group RG --workspace_name WS
    """
    from himl_cli.commands._logging import start_logging
    from himl_cli.render.set_up_view import say_set_up
    from himl_cli.services.set_up import SetUpRequest, set_up
    from himl_cli.workspaces import setting_up as workspaces

    start_logging(verbose=talk.verbose)
    given = {"subscription_id": subscription_id, "resource_group": resource_group, "workspace_name": workspace_name}
    ids = {key: value for key, value in given.items() if value is not None}
    folder = Path.cwd()
    say_set_up(talk.output(), set_up(SetUpRequest(folder, source, ids, local), workspaces), folder)
