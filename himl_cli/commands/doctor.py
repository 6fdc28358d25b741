"""`himl doctor`: what himl needs, looked at."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from himl_cli.commands._group import command, group
from himl_cli.commands._options import OutputOptions, WorkspaceOptions

app = group()


@command(app, "doctor")
def doctor(where: WorkspaceOptions, talk: OutputOptions) -> None:
    """Check what himl needs, a line each with what to do about it.

    Python and packages; which workspaces are meant, and why; signing in to Azure, the workspace, its default
    datastore, the clock. Exit code 1 where something is not in order. -q prints the names of what is not.

    \b
      himl doctor
      himl doctor --config_file other/config.json --json
    """
    from himl_cli.commands._logging import start_logging
    from himl_cli.render.checks import say_checks
    from himl_cli.services.doctor.checkup import checkup, verdict
    from himl_cli.workspaces.open import open_each, search_remarks

    start_logging(verbose=talk.verbose)
    find = partial(open_each, where.workspace, where.config_file, start=Path.cwd())
    remarks = partial(search_remarks, where.workspace, where.config_file, start=Path.cwd())
    checks = say_checks(talk.output(), checkup(find, remarks))
    problem = verdict(checks)
    if problem is not None:
        raise problem
