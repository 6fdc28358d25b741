"""Checks of command lines, including those in texts, with himl's real parser, without running the command."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer

from himl_cli.commands.groups import HimlGroup
from himl_cli.commands.table import COMMANDS
from himl_cli.core.errors import BadUsage
from tests.support.documents import program, shapes

FILLED = "1"
"""Stands for what is filled in: a run, a number, a file."""
COMMAND = re.compile(r"(?P<before>['`]|: |, or |See |^|)(?<![\w.-])himl (?P<words>[\w-].*)", re.DOTALL)
END = re.compile(r"[,;.] |[,;.]$|\)| - | \(|\n")
"""What ends a command that stands in no quotes."""
OPTION = re.compile(r"(?<![\w\"-])--[a-zA-Z][\w-]*")
FOREIGN = re.compile(r"\b(?:az|conda|jupyter|pip|python|squeue|srun)\b[^;',]*|(?<=--command )'[^']*'")
"""Calls of other programs."""
OF_OTHERS = {
    "--NAME",
    "--azureml",
    "--crossval_index",
    "--input_data",
    "--random_seed",
    "--nv",
    "--index-url",
    "--extra-index-url",
    "--parents",
    f"--no-{FILLED}",
}
"""Options of scripts, and of other programs in lines that himl writes."""


def complaint(line: str) -> str:
    """The parser's error for *line*, such as `himl runs list --status Failed`, and for commands in its `$(...)`, or
    ''.
    """
    inner = [said for each in re.findall(r"\$\((himl [^)]*)\)", line) if (said := complaint(each))]
    if inner:
        return inner[0]
    name, *words = shlex.split(re.sub(r"\$\([^)]*\)", "1", line), comments=True)
    words = words[: next((place for place, word in enumerate(words) if word in (">", "|", "&&")), len(words))]
    command: Any = program()
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


def commands_in(text: str, is_hint: bool) -> Iterator[tuple[str, bool]]:
    """Each `himl ...` in *text*, and whether all of it is a command, in quotes or after a colon. Otherwise prose may
    follow the command's name.
    """
    for place in [found.start() for found in re.finditer(r"(?:['`]|: |, or |See |)himl ", text)]:
        found = COMMAND.match(text, place)
        first = found["words"].split(maxsplit=1)[0] if found else ""
        if found is None or first in (FILLED, "COMMAND"):
            continue
        quote = found["before"] if found["before"] in ("'", "`") else ""
        is_command = first.strip("'`.,;") in COMMANDS or first.startswith("--")
        if quote and (is_command or quote in found["words"]):
            yield f"himl {found['words'].partition(quote)[0]}", True
        elif is_command or (is_hint and found["before"] == ": "):
            yield f"himl {END.split(found['words'], maxsplit=1)[0]}", bool(found["before"]) or (is_hint and place == 0)


def wrong_with(text: str, is_hint: bool = False) -> list[str]:
    """The parser's errors for the commands in *text*, and unknown options."""
    found = []
    for command, is_whole in commands_in(text, is_hint):
        words = re.sub(r"\bN\b", FILLED, command) if is_whole else re.sub(r"^(himl(?: \w+)?).*", r"\1 --help", command)
        found += [f"{command}: {said}"] if (said := complaint(words)) else []
    if " " in text:
        known = {
            name
            for shape in shapes().values()
            for option in shape.options
            for name in (*option.names, *option.off_names, *option.old_names)
        } | OF_OTHERS
        found += [
            option for option in OPTION.findall(FOREIGN.sub("", text.partition(" -- ")[0])) if option not in known
        ]
    return found
