"""The `himl` program and its table of commands.

Calling a command imports its module, so `himl --help` loads none of them.
"""

from __future__ import annotations

import gc
import shlex
import signal
import sys
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
import typer.main

from himl_cli import __version__
from himl_cli.commands.error_handler import EdgedGroup, report_failure
from himl_cli.commands.groups import OTHER_WORDS, before_double_dash, group, normalized
from himl_cli.core.errors import Interrupted
from himl_cli.render.output import stand_in_for_closed_streams


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
    "download": ListedCommand(
        "himl_cli.commands.files:download_app", "Download the files of runs, with MD5 checks.", "Files"
    ),
    "checkpoint": ListedCommand("himl_cli.commands.checkpoint", "Fetch, push and share checkpoints of runs.", "Files"),
    "datastore": ListedCommand(
        "himl_cli.commands.files:datastore_app", "Upload, download and list files in a datastore.", "Files"
    ),
    "montage": ListedCommand("himl_cli.commands.montage", "Combine slides into one picture.", "Files"),
    "tiles": ListedCommand("himl_cli.commands.tiles", "Cut slides into tiles, with a CSV list.", "Files"),
    "dsa": ListedCommand("himl_cli.commands.dsa", "Upload annotations of slides to a Digital Slide Archive.", "Files"),
    "init": ListedCommand(
        "himl_cli.commands.setup:init_app", "Set up this folder for a local or Azure ML workspace.", "Set-up"
    ),
    "workspace": ListedCommand(
        "himl_cli.commands.setup:workspace_app", "Show the workspaces that himl uses.", "Set-up"
    ),
    "doctor": ListedCommand(
        "himl_cli.commands.setup:doctor_app", "Check the installation, settings and access.", "Set-up"
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


class RootGroup(EdgedGroup):
    """The `himl` group: its commands come from the table. It reports all failures as messages, including bugs."""

    program = "himl"
    handled = (Exception,)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and cmd_name in COMMANDS:
            self.commands[cmd_name] = loaded(cmd_name)
        return self.commands.get(cmd_name)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--version"] if args in (["version"], ["-V"]) else args)

    def hint_for_unknown(self, ctx: Any, args: list[str]) -> str:
        from himl_cli.commands.scripts import ScriptCommand, is_target

        name, *rest = args
        if OTHER_WORDS.get(name) == "submit" or is_target(name):
            if rest[:1] and rest[0] in self.get_command(ctx, "runs").list_commands(ctx):
                return f"For runs: {ctx.command_path} runs {shlex.join(rest)}"
            submit: ScriptCommand = self.get_command(ctx, "submit")
            return f"To run a script: {submit.suggest(ctx, args if is_target(name) else rest, 'submit')[0]}"
        return super().hint_for_unknown(ctx, args)

    def command_sections(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, listed in COMMANDS.items():
            sections.setdefault(listed.panel, []).append((name, listed.help))
        return sections


def loaded(name: str) -> Any:
    """Load the command *name* from its module."""
    module, _, attribute = COMMANDS[name].module.partition(":")
    made = typer.main.get_command(getattr(import_module(module), attribute or "app"))
    made.name = name
    return made


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"himl {__version__}")
        raise typer.Exit


app = group(cls=RootGroup, context_settings={"token_normalize_func": normalized, "help_option_names": ["-h", "--help"]})


@app.callback()
def himl(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Train on this machine, on Azure ML or on Slurm, and get the results.

    \b
      himl submit train.py -- --epochs 5     run a script on this machine
      himl runs list                         list runs with their status
      himl download --prefix outputs         download the latest run's outputs
    """


def main() -> None:
    """Run himl. Handle Ctrl-C even just before or after the error handler."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        stand_in_for_closed_streams()
        typer.main.get_command(app)()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.exit(report_failure(Interrupted("Interrupted."), before_double_dash(sys.argv[1:])))
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        gc.freeze()  # skips the garbage collection at exit, a tenth of the time of a short command
