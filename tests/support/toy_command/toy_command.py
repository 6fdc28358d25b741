"""A command of another package, as docs/contributing/adding-a-command.md describes it."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from himl_cli import cli
from himl_cli.core.errors import NotFound

app = cli.app("Greet people.")
if mark := os.environ.get("TOY_IMPORTED"):
    Path(mark).touch()


class Tone(str, Enum):
    polite = "polite"
    loud = "loud"


@cli.command(app)
def toy(
    name: Annotated[str, typer.Argument(metavar="WHO", help="The name of a person.")],
    talk: cli.Talk,
    tone: Annotated[Tone, typer.Option(metavar="TONE", help="polite or loud.")] = Tone.polite,
) -> None:
    """Greet a person."""
    if name == "nobody":
        raise NotFound("There is no person 'nobody'.", hint="Use another name.")
    if name == "bug":
        raise AssertionError("a bug")
    talk.rows([{"name": name, "text": f"Hello {name}" + "!" * (tone is Tone.loud)}])


def option_kinds() -> dict[str, str]:
    """The values of the option, for completion."""
    return {"himl toy --tone": "choice:polite,loud"}
