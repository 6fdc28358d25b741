"""`himl init`: what a project needs to find its workspace."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import OutputOptions, WorkspaceOptions

init_app = group()

WORKSPACE = "Azure ML workspace"


@command(init_app, "init")
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
    from himl_cli.commands.session import start_logging
    from himl_cli.render.setup import say_set_up
    from himl_cli.services.setup import SetUpRequest, set_up
    from himl_cli.workspaces import setting_up as workspaces

    start_logging(verbose=talk.verbose)
    given = {"subscription_id": subscription_id, "resource_group": resource_group, "workspace_name": workspace_name}
    ids = {key: value for key, value in given.items() if value is not None}
    folder = Path.cwd()
    say_set_up(talk.output(), set_up(SetUpRequest(folder, source, ids, local), workspaces), folder)


workspace_app = group("Show which workspace is meant, and where that was read.")


@workspace_app.callback()
def workspace() -> None:
    """Keeps `show` a command of its own: Typer would fold a single one into the group."""


@command(workspace_app, "show")
def show(where: WorkspaceOptions, talk: OutputOptions) -> None:
    """Show which workspaces are meant, and where that was read.

    Runs are looked for in all of them; data goes to the first, and comes from it. If one does not answer, what its
    configuration says is shown, and the exit code says why. -q prints the names only, without asking any workspace.

    \b
      himl workspace show
      himl workspace show --json
    """
    from himl_cli.commands.session import start_logging
    from himl_cli.render.output import Format
    from himl_cli.render.setup import workspace_view
    from himl_cli.services.doctor import facts_of
    from himl_cli.workspaces.meant import search_remarks
    from himl_cli.workspaces.open import open_each

    start_logging(verbose=talk.verbose)
    output = talk.output()
    found = open_each(where.workspace, where.config_file, start=Path.cwd())
    for remark in search_remarks(where.workspace, where.config_file, start=Path.cwd()):
        output.notice(remark)
    told = facts_of(found, ask=output.format is not Format.quiet)
    facts = [each.facts for each in told]
    output.result(
        facts,
        human=lambda: "\n\n".join("\n".join(workspace_view(each)) for each in facts),
        quiet=[each.label for each in facts],
    )
    silent = [(each.facts.label, each.error) for each in told if each.error is not None]
    for label, error in silent[1:]:
        output.notice(f"warning: {label}: {error}")
    if silent:
        raise silent[0][1]


doctor_app = group()


@command(doctor_app, "doctor")
def doctor(where: WorkspaceOptions, talk: OutputOptions) -> None:
    """Check what himl needs, a line each with what to do about it.

    Python and packages; settings; which workspaces are meant, and why; signing in to Azure, the workspace, its
    default datastore, the clock. Exit code 1 where something is not in order. -q prints the names of what is not.

    \b
      himl doctor
      himl doctor --config_file other/config.json --json
    """
    from himl_cli.commands.session import start_logging
    from himl_cli.render.setup import say_checks
    from himl_cli.services.doctor import checkup, verdict
    from himl_cli.workspaces.meant import search_remarks
    from himl_cli.workspaces.open import open_each

    start_logging(verbose=talk.verbose)
    find = partial(open_each, where.workspace, where.config_file, start=Path.cwd())
    remarks = partial(search_remarks, where.workspace, where.config_file, start=Path.cwd())
    checks = say_checks(talk.output(), checkup(find, remarks, partial(_settings_in_force, Path.cwd())))
    problem = verdict(checks)
    if problem is not None:
        raise problem


def _settings_in_force(start: Path) -> Sequence[str]:
    """Where settings stand that count for *start*. Raises BadUsage for those that a command could not use."""
    from himl_cli.commands.settings import places_of_settings
    from himl_cli.commands.submit import app as submit
    from himl_cli.services.montage.cache_limit import cache_limit
    from himl_cli.workspaces.open import check_azure_settings

    places = places_of_settings(typer.main.get_command(submit), start, os.environ)
    check_azure_settings(start)
    cache_limit(start)
    return places
