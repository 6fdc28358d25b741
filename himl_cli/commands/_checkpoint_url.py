"""`himl checkpoint url`: a link to one checkpoint, for somebody who does not sign in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from himl_cli.commands._checkpoint_options import ChoiceOptions
from himl_cli.commands._group import HimlCommand, command, normalized
from himl_cli.commands._options import OutputOptions, WorkspaceOptions
from himl_cli.commands._session import open_session


def register(app: typer.Typer) -> None:
    """Let *app* have the command."""
    command(app, "url", cls=_Url)(url)


class _Url(HimlCommand):
    """Takes SOURCE by hi-ml's `--run_id` too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for place, word in enumerate(args):
            option, equals, value = word.partition("=")
            if option.startswith("--") and normalized(option[2:]) == "run":
                return super().parse_args(ctx, [*args[:place], *([value] if equals else []), *args[place + 1 :]])
        return super().parse_args(ctx, args)


def url(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="RUN or RUN:PATH, as for fetch.", show_default=False)],
    expiry_days: Annotated[
        float,
        typer.Option(
            "--expiry_days",
            metavar="N",
            help="How long the link is good, up to 365; 0.5 is half a day.  [default: 10]",
            show_default=False,
        ),
    ] = 10.0,
    *,
    choice: ChoiceOptions,
    where: WorkspaceOptions,
    talk: OutputOptions,
) -> None:
    """Print a link by which anybody can read a checkpoint.

    The link is to one file of a run on Azure ML, for reading only, and holds its own signature: whoever gets it needs
    no account.

    \b
      himl checkpoint url train_1772366400_0a1b2c3d
      himl checkpoint url train_1772366400_0a1b2c3d:best.ckpt --expiry_days 2
      himl submit train.py --checkpoint "$(himl checkpoint url RUN -q)"
    """
    from himl_cli.render.linking import say_linked
    from himl_cli.services.checkpoints.linking import check_days, check_is_of_run, link_checkpoint

    check_days(expiry_days)
    check_is_of_run(source, Path.cwd())
    wanted = choice.choice()
    with open_session(where, talk) as session:
        linked = link_checkpoint(source, session.workspace, session.cwd, choice=wanted, days=expiry_days)
    say_linked(session.output, linked, expiry_days)
