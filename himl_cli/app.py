"""The `himl` program. Its commands come from `commands.table`."""

from __future__ import annotations

import gc
import shlex
import signal
import sys
from typing import Annotated, Any

import typer
import typer.main

from himl_cli import __version__
from himl_cli.commands.error_handler import EdgedGroup, report_failure
from himl_cli.commands.groups import OTHER_WORDS, before_double_dash, group, normalized
from himl_cli.commands.table import COMMANDS, commands, loaded, package_of
from himl_cli.core.errors import Interrupted
from himl_cli.render.output import stand_in_for_closed_streams


class RootGroup(EdgedGroup):
    """The `himl` group: its commands come from the table. It reports all failures as messages, including bugs."""

    program = "himl"
    handled = (Exception,)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(commands())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and (cmd_name in COMMANDS or cmd_name in commands()):
            self.commands[cmd_name] = loaded(cmd_name)
        return self.commands.get(cmd_name)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as err:
            err.__dict__["himl_package"] = package_of(ctx.invoked_subcommand or "")
            raise

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
        for name, listed in commands().items():
            sections.setdefault(listed.panel, []).append((name, listed.help))
        return sections


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
