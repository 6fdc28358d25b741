"""Which of a run's checkpoints is meant: options that commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from himl_cli.commands._bundles import Bundle

if TYPE_CHECKING:
    from himl_cli.core.checkpoints import Choice

WHICH = "Which checkpoint"


class ChoiceOptions(Bundle):
    """Which of a run's checkpoints."""

    def __init__(
        self,
        select: Annotated[
            str | None,
            typer.Option(
                "--select",
                metavar="last|best|epoch=N",
                help="Which one of a run; N as in the file's name (Lightning's begin with 0).",
                rich_help_panel=WHICH,
            ),
        ] = None,
        metric: Annotated[
            str | None,
            typer.Option(
                "--metric",
                metavar="M",
                help="The best by this metric, in the files' names or as logged.",
                rich_help_panel=WHICH,
            ),
        ] = None,
        goal: Annotated[
            str | None,
            typer.Option(
                "--goal",
                metavar="minimize|maximize",
                help="What is best; without it, told by well-known names of metrics.",
                rich_help_panel=WHICH,
            ),
        ] = None,
    ) -> None:
        self._words = (select, metric, goal)

    def choice(self) -> Choice:
        from himl_cli.services.checkpoints.choosing import choice_of

        return choice_of(*self._words)
