"""Commands and groups for himl: `-` equals `_`, old option names of hi-ml, near matches, help in sections.

Everything comes from `typer` and `typer.core`. The type of contexts and formatters is `Any` because Typer's classes
for them are private.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from himl_cli.commands.options import bundled
from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.redaction import mask_line
from himl_cli.core.text import did_you_mean
from himl_cli.render.output import noticing_gone_reader

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
    "dsa_url": "url",
    "workspace_config": "config_file",
}
"""hi-ml's names of options, which himl accepts everywhere and shows nowhere."""

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
    "follow": "logs --follow",
    "watch": "show --watch",
    "wait": "show --watch",
    "run": "submit",
    "runner": "submit",
    "himl-runner": "submit",
    "hi-ml-runner": "submit",
    "himl-tb": "tb",
    "himl-download": "download",
    "exec": "submit",
    "tensorboard": "tb",
    "mlflow": "ui",
    "login": "doctor",
    "get": "download",
    "put": "upload",
}
"""Names of these commands in other tools, including hi-ml's. A command may have an option."""

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
    "--run_recovery_id": ("--run",),
}
"""Names of these options in other tools."""

OTHER_WAYS = {
    "--dsa_key": "Set the environment variable DSA_API_KEY. Others can read a command line.",
    "--login_only": "To test the sign-in: himl dsa list",
    "--max_slides": "To select slides by a part of their ids: --id_filter TEXT",
}
"""Hints for options of hi-ml that have no equivalent."""

# The beginning of the parser's message about an extra argument.
UNEXPECTED = "Got unexpected extra argument"
NAME_COLUMN = 26
# The position of headings in help. All others come between these.
PANEL_ORDER = {"Arguments": 0, "Options": 2}
Function = TypeVar("Function", bound=Callable[..., Any])


def normalized(name: str) -> str:
    """The spelling of an option's name that the parser compares: with underscores, and the current name."""
    name = name.replace("-", "_")
    return HIML_OLD_NAMES.get(name, name)


def write_sections(formatter: Any, sections: dict[str, list[tuple[str, str]]]) -> None:
    """Write definition lists under bold headings, with a common width of the name column.

    `typer.echo` removes the bold style if stdout is not a terminal.
    """
    names = [name for rows in sections.values() for name, _ in rows]
    width = min(max(map(len, names), default=0), NAME_COLUMN)
    for title, rows in sections.items():
        with formatter.section(typer.style(title, bold=True)):
            formatter.write_dl([(name.ljust(width), text) for name, text in rows], col_max=NAME_COLUMN)


def parameter_sections(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """The help records of visible parameters by `rich_help_panel`: arguments, panels in order of appearance, then
    parameters without a panel."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            default = "Arguments" if parameter.param_type_name == "argument" else "Options"
            sections.setdefault(getattr(parameter, "rich_help_panel", None) or default, []).append(record)
    return dict(sorted(sections.items(), key=lambda section: PANEL_ORDER.get(section[0], 1)))


class _RaisesReaderGone:
    """A command or group whose help handles a closed pipe like its results do. Typer would exit with code 1."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with noticing_gone_reader():
            return super().make_context(*args, **extra)  # type: ignore[misc]  # of the sibling base class


class HimlCommand(_RaisesReaderGone, TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return list(super().parse_args(ctx, [*self._with_plain_switches(ctx, args)]))
        except typer.TyperException as err:
            option, message = _as_typed(args, getattr(err, "option_name", None) or ""), err.format_message()
            if option:
                err.option_name = option  # type: ignore[attr-defined]  # for messages
            hint = self._hint_for_other(ctx, args, option) or self._hint_for_extra(ctx, args, message)
            if hint:
                raise BadUsage(f"No such option '{option}'." if option else message, hint=hint) from err
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_sections(formatter, parameter_sections(self, ctx))

    def _by_name(self, ctx: Any) -> dict[str, Any]:
        return {name: parameter for parameter in self.get_params(ctx) for name in parameter.opts}

    def _with_plain_switches(self, ctx: Any, args: Sequence[str]) -> Iterator[str]:
        """Replace hi-ml's switches in *args*: `--wait=True` becomes `--wait`, `--wait=False` becomes `--no_wait`
        or nothing."""
        parameters, own = self._by_name(ctx), before_double_dash(args)
        for token in own:
            option, equals, value = token.partition("=")
            switch = parameters.get(f"--{normalized(option[2:])}") if equals else None
            if switch is None or not getattr(switch, "is_flag", False):
                yield token
            elif value.lower() in ("true", "1", "yes"):
                yield option
            elif value.lower() in ("false", "0", "no"):
                yield from switch.secondary_opts[:1]
            else:
                raise BadUsage(f"{option} takes no value, but got '{value}'.", hint=f"Write {option} alone.")
        yield from args[len(own) :]

    def _hint_for_other(self, ctx: Any, args: Sequence[str], option: str) -> str:
        """The command line with himl's words for *option* of another tool."""
        name = option.replace("-", "_").replace("__", "--", 1) if option.startswith("--") else option
        words = OTHER_OPTIONS.get(name, ())
        index = next((index for index, word in enumerate(args) if word.partition("=")[0] == option), -1)
        is_known = words and words[0] in self._by_name(ctx) and (words[1:] != ("all",) or self._lists_runs(ctx))
        if index < 0 or not is_known or "--" in args[:index]:
            return OTHER_WAYS.get(name, "")
        _, equals, value = args[index].partition("=")
        line = [*args[:index], *words, *([value] if equals else []), *args[index + 1 :]]
        return mask_line(f"In himl: {ctx.command_path} {shlex.join(line)}")

    def _lists_runs(self, ctx: Any) -> bool:
        is_filtered = any("--num_runs" in each.opts for each in self.get_params(ctx))
        return is_filtered and all(each.param_type_name != "argument" for each in self.get_params(ctx))

    def _hint_for_extra(self, ctx: Any, args: Sequence[str], message: str) -> str:
        """The command line for an extra argument that belongs to the list before it, or names an experiment."""
        found = re.match(rf"{UNEXPECTED}\S* \((\S+?)\)?(\s|$)", message)
        if found is None or found[1] not in args:
            return ""
        index = args.index(found[1])
        before, rest = ["", "", *args[:index]][-2:], args[index + 1 :]
        option = (before[1] if before[1].startswith("--") else before[0] or before[1]).partition("=")[0]
        listed = self._by_name(ctx).get(f"--{normalized(option[2:])}")
        if getattr(listed, "multiple", False):
            if "=" in (getattr(listed, "metavar", "") or "").lstrip("[") and "=" not in before[1]:
                what, words = "Join the words with '='", [*args[: index - 1], f"{before[1]}={args[index]}", *rest]
            else:
                more = list(takewhile(lambda word: not word.startswith("-"), args[index:]))
                repeated = [word for each in more for word in (option, each)]
                what, words = "Repeat the option", [*args[:index], *repeated, *args[index + len(more) :]]
        elif self._lists_runs(ctx) and re.search(r"^latest$|_\d{10}_[0-9a-f]{8}", found[1]):
            return f"For one run: himl runs show {shlex.quote(found[1])}"
        elif self._lists_runs(ctx):
            what = "For the newest runs, or those of an experiment"
            words = [*args[:index], "--num_runs" if args[index].isdecimal() else "--experiment", *args[index:]]
        else:
            return ""
        return mask_line(f"{what}: {ctx.command_path} {shlex.join(words)}")


class HimlGroup(_RaisesReaderGone, TyperGroup):
    """A command with subcommands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[:1] == ["help"] and self.get_command(ctx, "help") is None:
            args = [*args[1:], "--help"]
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True, color=ctx.color)
            raise typer.Exit(BadUsage.exit_code)
        try:
            return list(super().parse_args(ctx, [*args]))
        except typer.TyperException as err:
            option = getattr(err, "option_name", None) or ""
            hint = self._hint_for_early(ctx, args, option)
            if hint:
                raise BadUsage(f"No such option '{option}'.", hint=hint) from err
            raise

    def _hint_for_early(self, ctx: Any, args: Sequence[str], option: str) -> str:
        """The command line with the options moved behind the command's name, if the command takes *option*."""
        own = before_double_dash(args)
        index = next((index for index, word in enumerate(own) if word in self.list_commands(ctx)), 0)
        command: Any = self
        words = own[index:]
        while isinstance(command, HimlGroup) and words:
            command, words = command.get_command(ctx, words[0]), words[1:]
        parameters = command.get_params(ctx) if index and command else ()
        taken = [normalized(name.lstrip("-")) for parameter in parameters for name in parameter.opts]
        if normalized(option.lstrip("-")) not in taken:
            return ""
        line = shlex.join([*own[index:], *own[:index], *args[len(own) :]])
        return mask_line(f"Write options after the command: {ctx.command_path} {line}")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        is_known = self.get_command(ctx, name) is not None or self.get_command(ctx, normalized(name)) is not None
        if not is_known and not name.startswith("-") and not ctx.resilient_parsing:
            near = self._near_command(ctx, name.lower())
            raise BadUsage(f"No such command '{name}'. {near}".strip(), hint=self.hint_for_unknown(ctx, args))
        return super().resolve_command(ctx, args)

    def hint_for_unknown(self, ctx: Any, args: list[str]) -> str:
        """The same call with himl's name for the command, if its parser accepts that."""
        words = [*OTHER_WORDS.get(args[0].lower(), "").split(), *args[1:]]
        is_other = args[0].lower() in OTHER_WORDS and not {"-h", "--help"} & {*words}
        found = self.get_command(ctx, words[0]) if is_other else None
        if found is not None:
            with suppress(BadUsage, typer.TyperException):
                found.make_context(words[0], words[1:], parent=ctx)
                return mask_line(f"In himl: {ctx.command_path} {shlex.join(words)}")
        return f"See '{ctx.command_path} --help'."

    def _near_command(self, ctx: Any, name: str) -> str:
        """Suggest a command for *name*: one in this group with a similar name or this name in other tools, or one of
        this name in a subgroup."""
        words, root = OTHER_WORDS.get(name, normalized(name)), ctx.find_root()
        verb, _, option = words.partition(" ")

        def is_fitting(group: Any) -> bool:
            found = group.get_command(ctx, verb)
            return found is not None and option in ["", *(name for each in found.params for name in each.opts)]

        if is_fitting(self):
            return f"Did you mean '{words}'?"
        if is_fitting(root.command):
            return f"Did you mean '{root.command_path} {words}'?"
        groups = dict.fromkeys(self.list_commands(ctx))
        for group in groups:
            with suppress(HimlError):  # a broken one of another package
                groups[group] = self.get_command(ctx, group)
        below = [
            f"'{ctx.command_path} {group} {words}'"
            for group, found in groups.items()
            if isinstance(found, HimlGroup) and is_fitting(found)
        ]
        return did_you_mean(name, groups) or (f"Did you mean {' or '.join(below)}?" if below else "")

    def command_sections(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        shown = {name: each for name, each in commands.items() if each is not None and not each.hidden}
        return {"Commands": [(name, each.get_short_help_str(limit=64)) for name, each in shown.items()]}

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_sections(formatter, self.command_sections(ctx) | parameter_sections(self, ctx))


def group(help_text: str = "", cls: type[HimlGroup] = HimlGroup, **settings: Any) -> typer.Typer:
    """An empty Typer app with himl's conventions, for subcommands or a single command."""
    settings |= {"help": help_text} if help_text else {}
    return typer.Typer(
        cls=cls,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        suggest_commands=False,
        **settings,
    )


def command(
    app: typer.Typer, name: str, *, cls: type[HimlCommand] = HimlCommand, **settings: Any
) -> Callable[[Function], Function]:
    """Register a function with *app* as the command *name*. Its docstring is the help, its parameters are the options
    and bundles."""

    def register(function: Function) -> Function:
        app.command(name, cls=cls, **settings)(bundled(function))
        return function

    return register


def _as_typed(args: Sequence[str], option: str) -> str:
    """The parser's *option* in the spelling of the command line."""
    typed = (word.partition("=")[0] for word in before_double_dash(args) if word.startswith("--"))
    return next((name for name in typed if f"--{normalized(name[2:])}" == option), option)


def before_double_dash(tokens: Sequence[str]) -> list[str]:
    """himl's own tokens: all before the first `--`."""
    return list(takewhile(lambda token: token != "--", tokens))
