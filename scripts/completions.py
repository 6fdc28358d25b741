"""The scripts in `completions/`, as `himl completion` prints them, for `scripts/generate`."""

from __future__ import annotations

from functools import cache

import typer.main

from himl_cli.app import app
from himl_cli.commands.completion import app_shape, program_of
from himl_cli.core.command_shape import CommandShape
from himl_cli.render.completions import SCRIPT_FILES, completion_script


@cache
def shape() -> CommandShape:
    return app_shape(typer.main.get_command(app))


@cache
def program() -> CommandShape:
    return program_of(shape())


def scripts() -> dict[str, str]:
    """The text of each script by its file name."""
    return {name: completion_script(program(), shell) for shell, name in SCRIPT_FILES.items()}
