"""`himl workspace`: which workspaces are meant, and what they are."""

from __future__ import annotations

from pathlib import Path

from himl_cli.commands._group import command, group
from himl_cli.commands._options import OutputOptions, WorkspaceOptions

app = group("Show which workspace is meant, and where that was read.")


@app.callback()
def workspace() -> None:
    """Keeps `show` a command of its own: Typer would fold a single one into the group."""


@command(app, "show")
def show(where: WorkspaceOptions, talk: OutputOptions) -> None:
    """Show which workspaces are meant, and where that was read.

    Runs are looked for in all of them; data goes to the first, and comes from it. If one does not answer, what its
    configuration says is shown, and the exit code says why. -q prints the names only, without asking any workspace.

    \b
      himl workspace show
      himl workspace show --json
    """
    from himl_cli.commands._logging import start_logging
    from himl_cli.render.output import Format
    from himl_cli.render.workspace_view import workspace_view
    from himl_cli.services.workspace_facts import facts_of
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
