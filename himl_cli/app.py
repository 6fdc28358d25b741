"""The `himl` program. Its commands come from `commands.table`."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.main

from himl_cli import __version__
from himl_cli.commands.error_handler import EdgedGroup, report_failure
from himl_cli.commands.groups import (
    before_double_dash,
    group,
    normalized,
    parameter_sections,
    write_references,
    write_sections,
)
from himl_cli.commands.options import SHARED
from himl_cli.commands.other_tools import OTHER_COMMANDS, is_target, starts_script
from himl_cli.commands.table import COMMANDS, commands, loaded, package_of
from himl_cli.core.errors import Interrupted
from himl_cli.core.text import did_you_mean
from himl_cli.render.output import stand_in_for_closed_streams

if TYPE_CHECKING:
    from himl_cli.commands.scripts import ScriptCommand

LIKE_A_COMMAND = 0.8  # "srun" is no typo of "runs"


class RootGroup(EdgedGroup):
    """The `himl` group: its commands come from the table. It reports all failures as messages, including bugs."""

    program = "himl"
    handled = (Exception,)

    def names(self) -> Iterable[str]:
        return commands()

    def load(self, name: str) -> Any:
        return loaded(name) if name in COMMANDS or name in commands() else None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as err:
            err.__dict__["himl_package"] = package_of(ctx.invoked_subcommand or "")
            raise

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--version"] if args in (["version"], ["-V"]) else args)

    def unknown_command(self, ctx: Any, args: Sequence[str]) -> tuple[str, str]:
        name, *rest = args
        near, hint = super().unknown_command(ctx, args)
        is_run = OTHER_COMMANDS.get(name) == "submit"
        starts = is_run or is_target(name) or any(map(starts_script, before_double_dash(rest)))
        is_typo = not is_run and did_you_mean(name, commands(), cutoff=LIKE_A_COMMAND)
        if hint.startswith("See ") and starts and not is_typo:
            submit: ScriptCommand = self.get_command(ctx, "submit")
            return "", submit.suggest(ctx, rest if is_run else args, "submit").to_run
        return near, hint

    def manual(self, words: Sequence[str]) -> str:
        """The page about the command of these *words*. Empty for one of another package."""
        _, *names = words
        if not names:
            return "docs/index.md"
        return f"docs/cli/{'-'.join(names)}.md" if names[0] in COMMANDS else ""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        rows = [
            (
                " ".join(filter(None, [", ".join(sorted(each.names or [f"--{name}"], key=len)), each.info["metavar"]])),
                each.info["help"],
            )
            for name, each in SHARED.items()
        ]
        write_sections(formatter, self.command_sections(ctx) | parameter_sections(self, ctx))
        write_sections(formatter, {"Options of most commands": rows})
        write_references(self, ctx, formatter)

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
    """Train on this machine, by SSH, on Slurm or on Azure ML, and get the results.

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
