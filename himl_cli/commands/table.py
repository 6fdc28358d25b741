"""The table of commands. Calling a command imports its module, so `himl --help` loads none of them.

Other packages add commands by the entry point group `himl.commands`: the name of the command, and its Typer app as
`MODULE:APP`. A command outside `himl_cli.commands` is a guest: nothing else imports its module, which may have these
functions:

    option_kinds()          the values of its options, by name, for completion (see `completion.NAMED`)
    check_settings(folder)  raises BadUsage for an invalid setting of its section, for `himl doctor`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any, NamedTuple

import typer.main

from himl_cli.core.errors import HimlError
from himl_cli.core.installation import entry_points_of
from himl_cli.core.text import shorten

GROUP, OTHERS, LONGEST_HELP = "himl.commands", "Other packages", 64


class CommandBroken(HimlError):
    """The module of a command of another package raises an error, or has no Typer app."""

    code = "command_broken"


class ListedCommand(NamedTuple):
    """A row of the command table: the module of the command's Typer app, and its line in `himl --help`."""

    module: str
    help: str
    panel: str


COMMANDS = {
    "submit": ListedCommand(
        "himl_cli.commands.submit", "Run a script, a module or a shell script as a job.", "Jobs and runs"
    ),
    "runs": ListedCommand(
        "himl_cli.commands.runs", "List, show, follow, cancel, tag and delete runs.", "Jobs and runs"
    ),
    "ui": ListedCommand("himl_cli.commands.web:ui_app", "Show runs in MLflow's user interface.", "Jobs and runs"),
    "tb": ListedCommand(
        "himl_cli.commands.web:tb_app", "Show runs in TensorBoard, including runs in progress.", "Jobs and runs"
    ),
    "download": ListedCommand("himl_cli.commands.download", "Download the files of runs, with MD5 checks.", "Files"),
    "checkpoint": ListedCommand("himl_cli.commands.checkpoint", "Fetch, push and share checkpoints of runs.", "Files"),
    "datastore": ListedCommand(
        "himl_cli.commands.datastore", "Upload, download and list files in a datastore.", "Files"
    ),
    "montage": ListedCommand("himl_cli.slides.montage", "Combine slides into one picture.", "Files"),
    "tiles": ListedCommand("himl_cli.slides.tiles", "Cut slides into tiles, with a CSV list.", "Files"),
    "dsa": ListedCommand("himl_cli.slides.dsa", "Upload annotations of slides to a Digital Slide Archive.", "Files"),
    "init": ListedCommand(
        "himl_cli.commands.setup:init_app", "Set up this folder for a local or Azure ML workspace.", "Set-up"
    ),
    "workspace": ListedCommand(
        "himl_cli.commands.setup:workspace_app", "Show the workspaces that himl uses.", "Set-up"
    ),
    "doctor": ListedCommand("himl_cli.commands.doctor", "Check the installation, settings and access.", "Set-up"),
    "gc": ListedCommand(
        "himl_cli.commands.setup:gc_app", "Delete files of the local workspace that no run needs.", "Set-up"
    ),
    "completion": ListedCommand(
        "himl_cli.commands.completion", "Set up tab completion in bash, zsh, fish and PowerShell.", "Set-up"
    ),
    "skill": ListedCommand(
        "himl_cli.commands.agents:skill_app", "Print or install a skill file for coding agents.", "Scripts and agents"
    ),
    "schema": ListedCommand(
        "himl_cli.commands.agents:schema_app", "Print the JSON Schema of --json documents.", "Scripts and agents"
    ),
}


def commands() -> dict[str, ListedCommand]:
    """himl's commands, then those of other packages, by the entry point group `himl.commands`. Imports none of them."""
    others = sorted(entry_points_of(GROUP).items())
    return COMMANDS | {name: _listed(point) for name, point in others if name not in COMMANDS}


def _listed(point: Any) -> ListedCommand:
    summary = " ".join((point.dist.metadata["Summary"] or "").split())
    return ListedCommand(point.value, shorten(summary or f"A command of {point.dist.name}.", LONGEST_HELP), OTHERS)


def package_of(name: str) -> str:
    """The package that has the command *name*, such as `toy-command 1.0`, or `himl`."""
    point = None if name in COMMANDS else entry_points_of(GROUP).get(name)
    return f"{point.dist.name} {point.dist.version}" if point is not None else "himl"


def loaded(name: str) -> Any:
    """Load the command *name* from its module. Raises CommandBroken if the one of another package cannot be loaded."""
    module, _, attribute = (COMMANDS.get(name) or commands()[name]).module.partition(":")
    try:
        made = typer.main.get_command(getattr(import_module(module), attribute or "app"))
    except Exception as err:
        if name in COMMANDS:
            raise
        raise CommandBroken(
            f"The command '{name}' of {package_of(name)} cannot be loaded ({type(err).__name__}: {err}).",
            hint=f"Update or uninstall the package: pip uninstall {package_of(name).partition(' ')[0]}",
        ) from err
    made.name = name
    return made


def guests(function: str) -> Iterator[Callable[..., Any]]:
    """The functions of this name in the modules of guests that can be loaded."""
    for name, listed in commands().items():
        if not listed.module.startswith("himl_cli.commands."):
            with suppress(CommandBroken):
                loaded(name)
                module = import_module(listed.module.partition(":")[0])
                if hasattr(module, function):
                    yield getattr(module, function)
