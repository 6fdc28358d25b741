"""`himl doctor`: what himl needs, looked at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import typer.main

from himl_cli.commands._group import command, group
from himl_cli.commands._options import OutputOptions, WorkspaceOptions

app = group()


@command(app, "doctor")
def doctor(where: WorkspaceOptions, talk: OutputOptions) -> None:
    """Check what himl needs, a line each with what to do about it.

    Python and packages; settings; which workspaces are meant, and why; signing in to Azure, the workspace, its
    default datastore, the clock. Exit code 1 where something is not in order. -q prints the names of what is not.

    \b
      himl doctor
      himl doctor --config_file other/config.json --json
    """
    from himl_cli.commands._logging import start_logging
    from himl_cli.render.checks import say_checks
    from himl_cli.services.doctor.checkup import checkup, verdict
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
    from himl_cli.commands._settings import places_of_settings
    from himl_cli.commands.submit import app as submit
    from himl_cli.services.montage.cache_limit import cache_limit
    from himl_cli.workspaces.open import check_azure_settings

    places = places_of_settings(typer.main.get_command(submit), start, os.environ)
    check_azure_settings(start)
    cache_limit(start)
    return places
