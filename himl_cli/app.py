"""The `himl` program: its table of commands, and the one place where failures become words and an exit code.

A command's module is imported when the command is called, so that `himl --help` loads none of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

import typer
import typer.main

from himl_cli import __version__
from himl_cli.commands._group import HimlGroup, before_double_dash, normalized
from himl_cli.core.errors import HimlError, Interrupted
from himl_cli.render.errors import ReaderGone, as_himl_error, say_error, silence_stdout
from himl_cli.render.streams import stand_in_for_closed_streams

READER_GONE_CODE = 141
"""What a shell reports of a program that a closed pipe ended (128 + SIGPIPE)."""


class Listed(NamedTuple):
    """A row of the command table: where the command's Typer object `app` is, and its line in `himl --help`."""

    module: str
    help: str
    panel: str


COMMANDS = {
    "submit": Listed("himl_cli.commands.submit", "Run a script, a module or a shell script as a job.", "Jobs and runs"),
    "runs": Listed("himl_cli.commands.runs", "List, show, follow, cancel, tag and delete runs.", "Jobs and runs"),
    "tb": Listed("himl_cli.commands.tb", "Show runs in TensorBoard, also while they go on.", "Jobs and runs"),
    "download": Listed("himl_cli.commands.download", "Download the files of runs, checked by MD5.", "Files"),
    "checkpoint": Listed("himl_cli.commands.checkpoint", "Fetch checkpoints of runs, push changed ones, make links.", "Files"),
    "datastore": Listed("himl_cli.commands.datastore", "Upload, download and list files of a datastore.", "Files"),
    "montage": Listed("himl_cli.commands.montage", "Show any number of slides in one picture.", "Files"),
    "init": Listed("himl_cli.commands.init", "Set up this folder for an Azure ML workspace, or a local one.", "Set-up"),
    "workspace": Listed("himl_cli.commands.workspace", "Show which workspace is meant, and what it is.", "Set-up"),
    "doctor": Listed("himl_cli.commands.doctor", "Check what himl needs, and say what to do about it.", "Set-up"),
}


class RootGroup(HimlGroup):
    """`himl` itself: commands from the table, and the error edge."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and cmd_name in COMMANDS:
            self.commands[cmd_name] = loaded(cmd_name)
        return self.commands.get(cmd_name)

    def command_sections(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, listed in COMMANDS.items():
            sections.setdefault(listed.panel, []).append((name, listed.help))
        return sections

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as err:
            raise Interrupted("Interrupted.") from err

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = False,  # a pattern such as --include '*.ckpt' is ours to match
        **extra: Any,
    ) -> Any:
        tokens = list(sys.argv[1:] if args is None else args)
        extra.setdefault("color", None if colour_is_allowed() else False)
        try:
            code = super().main(tokens, prog_name or "himl", complete_var, standalone_mode=False, windows_expand_args=False, **extra)
            sys.stdout.flush()
        except (ReaderGone, BrokenPipeError):
            silence_stdout()
            code = READER_GONE_CODE
        except Exception as err:
            code = say(err, before_double_dash(tokens))
        if standalone_mode:
            sys.exit(code or 0)
        return code


def loaded(name: str) -> Any:
    """The command called *name*, from its module."""
    made = typer.main.get_command(import_module(COMMANDS[name].module).app)
    made.name = name
    return made


def say(failure: Exception, tokens: Sequence[str]) -> int:
    """Print *failure* on stderr in the form that *tokens* ask for, and give the exit code.

    The tokens are read here once more because the parser may have failed before it came to `--json` or `--verbose`.
    """
    verbose = "-v" in tokens or "--verbose" in tokens
    as_json = any(token in ("--json", "--format=json") for token in tokens) or ("--format", "json") in pairwise(tokens)
    error: HimlError = as_himl_error(failure, verbose=verbose)
    say_error(error, as_json=as_json, traceback_of=failure if verbose else None)
    return error.exit_code


def colour_is_allowed() -> bool:
    """Whether the user's environment lets terminals have colour (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"himl {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=RootGroup,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    suggest_commands=False,
    no_args_is_help=True,
    context_settings={"token_normalize_func": normalized, "help_option_names": ["-h", "--help"]},
)


@app.callback()
def himl(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)] = False,
) -> None:
    """Train on Azure Machine Learning, or here, with one command-line tool.

    \b
      himl submit train.py -- --epochs 5     run a script here, recorded
      himl runs list                         what ran, and how it ended
      himl download --prefix outputs         the latest run's results
    """


def main() -> None:
    """The console script `himl`."""
    stand_in_for_closed_streams()
    typer.main.get_command(app)()
