"""The real parser of himl on a command line, without a call of the command."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from typing import Any

import typer
import typer.main

from himl_cli.app import app
from himl_cli.commands.groups import HimlGroup
from himl_cli.core.errors import BadUsage


def complaint(line: str) -> str:
    """What the parser says against *line*, `himl runs list --status Failed`, and commands in its `$(...)`; empty where it takes them."""
    inner = [said for each in re.findall(r"\$\((himl [^)]*)\)", line) if (said := complaint(each))]
    if inner:
        return inner[0]
    name, *words = shlex.split(re.sub(r"\$\([^)]*\)", "1", line), comments=True)
    words = words[: next((place for place, word in enumerate(words) if word in (">", "|", "&&")), len(words))]
    command: Any = typer.main.get_command(app)
    ctx: Any = None
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            while isinstance(command, HimlGroup) and words and not words[0].startswith("-"):
                ctx = command.make_context(name, [], parent=ctx, resilient_parsing=True)
                ctx.resilient_parsing = False
                name, command, words = command.resolve_command(ctx, words)
            command.make_context(name, words, parent=ctx)
    except typer.Exit as end:  # of --help, or a group without a verb
        return "" if end.exit_code == 0 else f"'{line}' lacks a command"
    except BadUsage as err:
        return str(err)
    except typer.TyperException as err:
        return err.format_message()
    return ""
