"""`himl checkpoint push`: changed checkpoints go to a run of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from himl_cli.commands._group import command
from himl_cli.commands._options import OutputOptions, WorkspaceOptions, parse_pairs
from himl_cli.commands._session import open_session
from himl_cli.core.text import non_blank

if TYPE_CHECKING:
    from himl_cli.workspaces.base import Workspace

NEW_RUN = "The new run"


def register(app: typer.Typer) -> None:
    """Let *app* have the command."""
    command(app, "push")(push)


def push(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Changed checkpoints; a folder is all files in it.", show_default=False),
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="RUN", help="The run that they come from.", rich_help_panel=NEW_RUN, show_default=False
        ),
    ],
    experiment: Annotated[
        str | None,
        typer.Option(
            "--experiment", metavar="NAME", help="Its experiment (default: that of --from).", rich_help_panel=NEW_RUN
        ),
    ] = None,
    display_name: Annotated[
        str,
        typer.Option(
            "--display_name", metavar="TEXT", help="Its name for people.", rich_help_panel=NEW_RUN, show_default=False
        ),
    ] = "",
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="K=V", help="A tag of it.", rich_help_panel=NEW_RUN)
    ] = None,
    *,
    where: WorkspaceOptions,
    talk: OutputOptions,
) -> None:
    """Upload changed checkpoints to a new run, from which jobs start.

    They go to outputs/checkpoints; files below a folder that 'himl checkpoint fetch' made keep their places. The new
    run is made where the one of --from is, unless --workspace names another workspace.

    \b
      himl checkpoint push changed --from train_1772366400_0a1b2c3d
      himl checkpoint push changed/last.ckpt --from RUN --experiment surgery
      himl submit train.py --checkpoint $(himl checkpoint push last.ckpt --from R)
    """
    from himl_cli.render.pushing import say_pushed, say_rank_does_nothing
    from himl_cli.services.checkpoints.pushing import PushRequest, push_checkpoints
    from himl_cli.services.run_reference import parse_reference
    from himl_cli.services.transfer.launch import rank_of_all

    for file in files:
        non_blank("FILE", file)
    parse_reference(non_blank("--from", source) or "")
    request = PushRequest(
        [Path(file) for file in files], source, experiment, display_name, parse_pairs("--tag", tag or ())
    )
    rank = rank_of_all(os.environ)
    if rank > 0:
        say_rank_does_nothing(talk.output(), rank)
        return
    with open_session(where, talk) as session, _all_runs(session.cwd) as others:
        is_named = where.workspace is not None or where.config_file is not None
        pushed = push_checkpoints(
            request, session.workspace, session.cwd, session.notify, elsewhere=others if is_named else None
        )
    say_pushed(session.output, pushed)


@contextmanager
def _all_runs(cwd: Path) -> Iterator[Callable[[], Workspace]]:
    """A function that opens what a command without --workspace would work with; closed at the end."""
    from himl_cli.workspaces.abilities import HoldsConnections
    from himl_cli.workspaces.open import open_runs

    opened: list[Workspace] = []

    def workspace() -> Workspace:
        opened.append(open_runs(None, None, start=cwd))
        return opened[-1]

    try:
        yield workspace
    finally:
        for each in opened:
            if isinstance(each, HoldsConnections):
                each.close()
