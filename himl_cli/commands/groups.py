"""Himl's kind of commands and groups: `-` and `_` alike, hi-ml's old option names, near matches, help in groups.

Everything comes from `typer` and `typer.core`; contexts and formatters are typed `Any` because Typer keeps their
classes private.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from himl_cli.commands.options import bundled
from himl_cli.core.errors import BadUsage
from himl_cli.core.text import did_you_mean
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
    "run_id": "run",
    "compute_cluster_name": "cluster",
    "crossval_count": "crossval",
}
"""hi-ml's names of options, understood everywhere and shown nowhere."""

OTHER_WORDS = {
    "ls": "list",
    "ps": "list",
    "status": "show",
    "rm": "delete",
    "remove": "delete",
    "stop": "cancel",
    "kill": "cancel",
    "log": "logs",
    "tail": "logs",
    "run": "submit",
    "runner": "submit",
    "exec": "submit",
    "tensorboard": "tb",
    "login": "doctor",
    "get": "download",
    "put": "upload",
}
"""What other tools call these commands."""

OTHER_OPTIONS = {
    "-f": ("--follow",),
    "-n": ("--num_runs",),
    "--limit": ("--num_runs",),
    "--all": ("--num_runs", "all"),
    "--latest": ("--run", "latest"),
    "-o": ("--output_dir",),
    "--output": ("--output_dir",),
    "--env": ("--env_var",),
    "-t": ("--tag",),
}
"""What other tools call these options."""

UNEXPECTED = "Got unexpected extra argument"
"""How the parser's complaint begins about one argument too many."""
SWITCHED_ON, SWITCHED_OFF = ("true", "1", "yes"), ("false", "0", "no")

NAME_COLUMN = 26
Function = TypeVar("Function", bound=Callable[..., None])


def normalized(name: str) -> str:
    """The one spelling of an option's name that the parser compares: underscores, and today's name."""
    name = name.replace("-", "_")
    return HIML_OLD_NAMES.get(name, name)


def write_sections(formatter: Any, sections: dict[str, list[tuple[str, str]]]) -> None:
    """Write definition lists under bold headings (`typer.echo` drops the bold off a terminal), all with one name
    column."""
    names = [name for rows in sections.values() for name, _ in rows]
    width = min(max(map(len, names), default=0), NAME_COLUMN)
    for title, rows in sections.items():
        with formatter.section(typer.style(title, bold=True)):
            formatter.write_dl([(name.ljust(width), text) for name, text in rows], col_max=NAME_COLUMN)


def parameter_sections(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """The help records of the visible parameters by `rich_help_panel`: arguments, then groups in order of appearance,
    then what has none."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            default = "Arguments" if parameter.param_type_name == "argument" else "Options"
            sections.setdefault(getattr(parameter, "rich_help_panel", None) or default, []).append(record)
    place = {"Arguments": 0, "Options": 2}
    return dict(sorted(sections.items(), key=lambda section: place.get(section[0], 1)))


class _NoticesGoneReader:
    """A command or group whose help ends as its result does where nobody reads it: Typer makes the exit code 1 of a
    closed pipe."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().make_context(*args, **extra)  # type: ignore[misc]  # of the command or group beside it
        except OSError as err:
            if tells_of_gone_reader(err):
                raise ReaderGone from err
            raise


class HimlCommand(_NoticesGoneReader, TyperCommand):
    """A command whose help stands in groups."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            rest: list[str] = super().parse_args(ctx, [*self._with_plain_switches(ctx, args)])
        except typer.TyperException as err:
            option = getattr(err, "option_name", None) or ""
            hint = self._hint_for_other(ctx, args, option) or self._hint_for_extra(ctx, args, err.format_message())
            if hint:
                raise BadUsage(f"No such option '{option}'." if option else err.format_message(), hint=hint) from err
            raise
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_sections(formatter, parameter_sections(self, ctx))

    def _with_plain_switches(self, ctx: Any, args: Sequence[str]) -> Iterator[str]:
        """*args* with `--wait` for `--wait=True` and `--no_wait` or nothing for `--wait=False`, as hi-ml's programs
        take their switches."""
        switches = {
            name: parameter
            for parameter in self.get_params(ctx)
            for name in parameter.opts
            if getattr(parameter, "is_flag", False)
        }
        own = before_double_dash(args)
        for token in own:
            option, equals, value = token.partition("=")
            switch = switches.get(f"--{normalized(option[2:])}") if equals else None
            if switch is None or value.lower() in SWITCHED_ON:
                yield token if switch is None else option
            elif value.lower() in SWITCHED_OFF:
                yield from switch.secondary_opts[:1]
            else:
                raise BadUsage(f"{option} takes no value, got '{value}'.", hint=f"{option} alone switches it on.")
        yield from args[len(own) :]

    def _hint_for_other(self, ctx: Any, args: Sequence[str], option: str) -> str:
        """The command line with our words for *option*, which other tools have."""
        from himl_cli.core.redaction import mask_line

        words = OTHER_OPTIONS.get(option, ())
        names = {name: parameter for parameter in self.get_params(ctx) for name in parameter.opts}
        place = next((place for place, word in enumerate(args) if word.partition("=")[0] == option), -1)
        if (
            place < 0
            or not words
            or words[0] not in names
            or "--" in args[:place]
            or (words[1:] == ("all",) and not self._is_list(ctx))
        ):
            return ""
        _, equals, value = args[place].partition("=")
        shown = [*args[:place], *words, *([value] if equals else []), *args[place + 1 :]]
        return mask_line(f"The same here: {ctx.command_path} {shlex.join(shown)}")

    def _is_list(self, ctx: Any) -> bool:
        """Whether the command lists runs: it filters them, and takes no argument."""
        kinds = {
            name: parameter.param_type_name
            for parameter in self.get_params(ctx)
            for name in (*parameter.opts, parameter.param_type_name)
        }
        return "--num_runs" in kinds and "argument" not in kinds

    def _hint_for_extra(self, ctx: Any, args: Sequence[str], message: str) -> str:
        """What to type for one argument too many: it belongs to the list before it, or names an experiment."""
        from himl_cli.core.redaction import mask_line

        found = re.match(rf"{UNEXPECTED}\S* \((\S+?)\)?(\s|$)", message)
        if found is None or found[1] not in args:
            return ""
        place = args.index(found[1])
        before = args[max(0, place - 2) : place]
        option = before[-1].partition("=")[0] if before and before[-1].startswith("--") else before[0] if before else ""
        names = {name: parameter for parameter in self.get_params(ctx) for name in parameter.opts}
        listed = names.get(f"--{normalized(option[2:])}")
        if getattr(listed, "multiple", False):
            if "=" in (getattr(listed, "metavar", "") or "").lstrip("[") and "=" not in before[-1]:
                return mask_line(
                    f"Join them: {ctx.command_path} "
                    f"{shlex.join([*args[: place - 1], f'{before[-1]}={args[place]}', *args[place + 1 :]])}"
                )
            more = list(takewhile(lambda word: not word.startswith("-"), args[place:]))
            words = [*args[:place], *(word for each in more for word in (option, each)), *args[place + len(more) :]]
            return mask_line(f"Repeat the option: {ctx.command_path} {shlex.join(words)}")
        if not self._is_list(ctx):
            return ""
        words = [*args[:place], "--num_runs" if args[place].isdecimal() else "--experiment", *args[place:]]
        return mask_line(f"The newest runs, or those of an experiment: {ctx.command_path} {shlex.join(words)}")


class HimlGroup(_NoticesGoneReader, TyperGroup):
    """A noun with verbs below it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[:1] == ["help"] and self.get_command(ctx, "help") is None:
            args = [*args[1:], "--help"]
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True, color=ctx.color)
            raise typer.Exit(BadUsage.exit_code)
        try:
            rest: list[str] = super().parse_args(ctx, [*args])
        except typer.TyperException as err:
            option = getattr(err, "option_name", None) or ""
            hint = self._hint_for_early(ctx, args, option)
            if hint:
                raise BadUsage(f"No such option '{option}'.", hint=hint) from err
            raise
        return rest

    def _hint_for_early(self, ctx: Any, args: Sequence[str], option: str) -> str:
        """The command line with the options that stand before the command's name behind it, for a command that takes
        *option*."""
        own = before_double_dash(args)
        place = next((place for place, word in enumerate(own) if word in self.list_commands(ctx)), 0)
        command: Any = self
        words = own[place:]
        while isinstance(command, HimlGroup) and words:
            command, words = command.get_command(ctx, words[0]), words[1:]
        taken = [
            normalized(name.lstrip("-"))
            for parameter in (command.get_params(ctx) if place and command else ())
            for name in parameter.opts
        ]
        if normalized(option.lstrip("-")) not in taken:
            return ""
        from himl_cli.core.redaction import mask_line

        return mask_line(
            f"Options stand behind the command: {ctx.command_path} "
            f"{shlex.join([*own[place:], *own[:place], *args[len(own) :]])}"
        )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if (
            self.get_command(ctx, name) is None
            and self.get_command(ctx, normalized(name)) is None
            and not name.startswith("-")
            and not ctx.resilient_parsing
        ):
            raise BadUsage(
                f"No such command '{name}'. {self._meant(ctx, name)}".strip(), hint=self.hint_for_unknown(ctx, args)
            )
        return super().resolve_command(ctx, args)

    def hint_for_unknown(self, ctx: Any, args: list[str]) -> str:
        """Where to go on from *args*, which name no command."""
        return f"See '{ctx.command_path} --help'."

    def _meant(self, ctx: Any, name: str) -> str:
        """Which command *name* may have meant: one here that is spelled alike or that others call so, else one of that
        name in a group below."""
        name = name.lower()
        verb = OTHER_WORDS.get(name, normalized(name))
        groups = {group: self.get_command(ctx, group) for group in self.list_commands(ctx)}
        if verb in groups:
            return f"Did you mean '{verb}'?"
        elsewhere = ctx.find_root()
        if ctx is not elsewhere and verb in elsewhere.command.list_commands(elsewhere):
            return f"Did you mean '{elsewhere.command_path} {verb}'?"
        below = [
            f"'{ctx.command_path} {group} {verb}'"
            for group, found in groups.items()
            if isinstance(found, HimlGroup) and verb in found.list_commands(ctx)
        ]
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
        cls=HimlGroup,
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        suggest_commands=False,
    )


def command(
    app: typer.Typer, name: str, *, cls: type[HimlCommand] = HimlCommand, epilog: str | None = None
) -> Callable[[Function], Function]:
    """Register a function with *app* as the command *name*; its docstring is the help, its parameters the options (and
    bundles)."""

    def register(function: Function) -> Function:
        app.command(name, cls=cls, epilog=epilog)(bundled(function))
        return function

    return register


def before_double_dash(tokens: Sequence[str]) -> list[str]:
    """The tokens that are himl's own: all before the first `--`."""
    tokens = list(tokens)
    return tokens[: tokens.index("--")] if "--" in tokens else tokens
