"""Himl's kind of commands and groups: `-` and `_` alike, hi-ml's old option names, near matches, help in groups.

Everything comes from `typer` and `typer.core`; contexts and formatters are typed `Any` because Typer keeps their classes private.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from himl_cli.commands._bundles import bundled
from himl_cli.core.errors import BadUsage
from himl_cli.core.spelling import did_you_mean
from himl_cli.render.errors import ReaderGone, tells_of_gone_reader

HIML_OLD_NAMES = {
    "run_ids": "run",
    "run_recovery_ids": "run",
    "experiment_name": "experiment",
    "config_path": "config_file",
    "workspace_config_path": "config_file",
    "wait_for_completion": "wait",
    "docker_shm_size": "shm_size",
    "image_glob_pattern": "image_glob",
    "parallel": "workers",
    "files_to_download": "prefix",
}
"""hi-ml's names of options, understood everywhere and shown nowhere."""

OTHER_WORDS = {"ls": "list", "ps": "list", "status": "show"}
"""What other tools call these commands."""

NAME_COLUMN = 26
Function = TypeVar("Function", bound=Callable[..., None])


def normalized(name: str) -> str:
    """The one spelling of an option's name that the parser compares: underscores, and today's name."""
    name = name.replace("-", "_")
    return HIML_OLD_NAMES.get(name, name)


def write_sections(formatter: Any, sections: dict[str, list[tuple[str, str]]]) -> None:
    """Write definition lists under bold headings (`typer.echo` drops the bold off a terminal), all with one name column."""
    names = [name for rows in sections.values() for name, _ in rows]
    width = min(max(map(len, names), default=0), NAME_COLUMN)
    for title, rows in sections.items():
        with formatter.section(typer.style(title, bold=True)):
            formatter.write_dl([(name.ljust(width), text) for name, text in rows], col_max=NAME_COLUMN)


def parameter_sections(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """The help records of the visible parameters by `rich_help_panel`: arguments, then groups in order of appearance, then what has none."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            default = "Arguments" if parameter.param_type_name == "argument" else "Options"
            sections.setdefault(getattr(parameter, "rich_help_panel", None) or default, []).append(record)
    place = {"Arguments": 0, "Options": 2}
    return dict(sorted(sections.items(), key=lambda section: place.get(section[0], 1)))


class _NoticesGoneReader:
    """A command or group whose help ends as its result does where nobody reads it: Typer makes the exit code 1 of a closed pipe."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().make_context(*args, **extra)  # type: ignore[misc]  # of the command or group beside it
        except OSError as err:
            if tells_of_gone_reader(err):
                raise ReaderGone from err
            raise


class HimlCommand(_NoticesGoneReader, TyperCommand):
    """A command whose help stands in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_sections(formatter, parameter_sections(self, ctx))


class HimlGroup(_NoticesGoneReader, TyperGroup):
    """A noun with verbs below it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True, color=ctx.color)
            raise typer.Exit(BadUsage.exit_code)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(ctx, name) is None and self.get_command(ctx, normalized(name)) is None and not name.startswith("-") and not ctx.resilient_parsing:
            hint = (
                f"To run a script: {ctx.command_path} submit {name}"
                if name.endswith(".py") and "submit" in self.list_commands(ctx)
                else f"See '{ctx.command_path} --help'."
            )
            raise BadUsage(f"No such command '{name}'. {self._meant(ctx, name)}".strip(), hint=hint)
        return super().resolve_command(ctx, args)

    def _meant(self, ctx: Any, name: str) -> str:
        """Which command *name* may have meant: one here that is spelled alike, else one of that name in a group below."""
        verb = OTHER_WORDS.get(name, normalized(name))
        groups = {group: self.get_command(ctx, group) for group in self.list_commands(ctx)}
        below = [f"'{ctx.command_path} {group} {verb}'" for group, found in groups.items() if isinstance(found, HimlGroup) and verb in found.list_commands(ctx)]
        return did_you_mean(name, groups) or (f"Did you mean {' or '.join(below)}?" if below else "")

    def command_sections(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        """One line a visible command, by help group."""
        rows: list[tuple[str, str]] = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows.append((name, command.get_short_help_str(limit=64)))
        return {"Commands": rows}

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_sections(formatter, self.command_sections(ctx) | parameter_sections(self, ctx))


def group(help_text: str = "") -> typer.Typer:
    """An empty Typer with himl's manners: for a noun's verbs, or to hold a single command."""
    return typer.Typer(
        cls=HimlGroup, help=help_text, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, suggest_commands=False
    )


def command(app: typer.Typer, name: str, *, cls: type[HimlCommand] = HimlCommand, epilog: str | None = None) -> Callable[[Function], Function]:
    """Register a function with *app* as the command *name*; its docstring is the help, its parameters the options (and bundles)."""

    def register(function: Function) -> Function:
        app.command(name, cls=cls, epilog=epilog)(bundled(function))
        return function

    return register


def before_double_dash(tokens: Sequence[str]) -> list[str]:
    """The tokens that are himl's own: all before the first `--`."""
    tokens = list(tokens)
    return tokens[: tokens.index("--")] if "--" in tokens else tokens
