"""Commands and groups for himl: `-` equals `_`, old option names of hi-ml, near matches, help in sections.

Everything comes from `typer` and `typer.core`. The type of contexts and formatters is `Any` because Typer's classes
for them are private.
"""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import takewhile
from types import SimpleNamespace
from typing import Any, TypeVar

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from himl_cli.commands.options import SHARED, bundled
from himl_cli.commands.other_tools import (
    NO_COMMANDS,
    NO_OPTIONS,
    NOUNS,
    OTHER_COMMANDS,
    OTHER_OPTIONS,
    fill,
    hint_without,
    spelled,
    split_option,
)
from himl_cli.commands.parameters import convert_without_pydantic, help_record, usage_of
from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.patterns import lazy_pattern
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

NEAR_COMMAND = 0.72  # 'stage' is no 'montage'
# The beginning of the parser's message about an extra argument.
UNEXPECTED = "Got unexpected extra argument"
NAME_COLUMN = 26
ODD_DASHES = lazy_pattern(r"(?:--?|[\u2010-\u2015\u2212]{1,2}|/)(?=\w)")
"""What stands before an option: one dash as in PowerShell, a slash, or a dash that a text editor made of `--`."""
DIRECTIONS = {"asc": "", "ascending": "", "desc": "-", "descending": "-"}
OMIT = {
    "init": "For Azure ML, use --subscription_id, --resource_group and --workspace_name. For a host, --ssh HOST. "
    "For a local workspace"
}
"""Hints for an argument of commands that take none."""
# The position of headings in help. All others come between these.
PANEL_ORDER = {"Arguments": 0, "Options": 2, "Workspace": 3, "Output": 4}
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


def panel_of(parameter: Any, command: Any) -> str:
    """The heading of *parameter* in the help of *command*. `--help` is in the last one."""
    if parameter.param_type_name == "argument":
        return "Arguments"
    panels = {getattr(each, "rich_help_panel", None) for each in command.params}
    default = "Output" if parameter.name == "help" and "Output" in panels else "Options"
    return getattr(parameter, "rich_help_panel", None) or default


def is_shared(parameter: Any) -> bool:
    """Whether `himl --help` explains *parameter*: `--help`, and an option of SHARED with the text that it has there."""
    shared = SHARED.get(parameter.name)
    return parameter.name == "help" or (shared is not None and parameter.help == shared.info["help"])


def has_manual(ctx: Any) -> bool:
    """Whether the program explains the shared options, and has a manual."""
    return bool(getattr(ctx.find_root().command, "manual", None))


def write_references(command: Any, ctx: Any, formatter: Any) -> None:
    """Write the names of the shared options of *command*, and the page about it."""
    root, program = ctx.find_root().command, ctx.find_root().command_path
    formatter.write_paragraph()
    names = [min(each.opts, key=len) for each in command.get_params(ctx) if is_shared(each)]
    if command is not root:
        formatter.write_text(f"Shared options: {', '.join(names)}. See '{program} --help'.")
    if page := root.manual(ctx.command_path.split()):
        formatter.write_text(f"Manual: {page} in the repository of {program}.")


def parameter_sections(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """The help records of visible parameters by `rich_help_panel`: arguments, panels in order of appearance, then
    parameters without a panel. Without those that the program's help explains."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in sorted(command.get_params(ctx), key=lambda each: each.param_type_name != "argument"):
        record = help_record(parameter)
        if record is not None and not (ctx.parent and has_manual(ctx) and is_shared(parameter)):
            sections.setdefault(panel_of(parameter, command), []).append(record)
    return dict(sorted(sections.items(), key=lambda section: PANEL_ORDER.get(section[0], 1)))


class _Base:
    """A command or group that converts values without pydantic, and whose help handles a closed pipe like its results
    do. Typer would exit with code 1."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        convert_without_pydantic(self.params)  # type: ignore[attr-defined]  # of the sibling base class

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        convert_without_pydantic(filter(None, [option]))
        return option

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with noticing_gone_reader():
            return super().make_context(*args, **extra)  # type: ignore[misc]  # of the sibling base class


def usage_message(failure: Any) -> str:
    """The parser's *failure* in himl's words: with the name of the option or argument, and the value."""
    message, parameter = failure.format_message(), getattr(failure, "param", None)
    if parameter is not None:
        names = sorted(parameter.opts, key=len)
        name = names[-1] if names[-1].startswith("-") else parameter.metavar or parameter.name
        if hasattr(failure, "param_type"):
            return f"{name} is missing: {parameter.help}" if parameter.help else f"{name} is missing."
        wrong = failure.message.rstrip(".")
        if found := re.fullmatch(r"(.*) is not a valid (?:int|integer|float)( range)?", wrong):
            return f"{name} needs a number, not {found[1]}."
        if found := re.fullmatch(r"(.*) is not one of (.*)", wrong):
            *first, last = found[2].replace("'", "").split(", ")
            return f"{name} must be {', '.join(first)} or {last}, not {found[1]}."
        return f"{name}: {wrong}."
    if found := re.fullmatch(r"Option '(.+)' requires an argument\.", message):
        metavars = [each.metavar for each in failure.ctx.command.params if found[1] in each.opts and each.metavar]
        return f"{found[1]} needs a value{''.join(f': {found[1]} {each}' for each in metavars)}."
    if found := re.fullmatch(r"Option '(.+)' does not take a value\.", message):
        return f"{found[1]} takes no value."
    if found := re.fullmatch(rf"{UNEXPECTED}\S* \((.*)\)", message, re.DOTALL):
        return f"Unexpected argument{'s' * (' ' in found[1])} '{found[1]}'."
    return str(message)


def help_for(failure: Any) -> str:
    """The help of the option whose value is missing or invalid. An empty text for another *failure*."""
    context, name = getattr(failure, "ctx", None), getattr(failure, "option_name", None) or ""
    parameter = getattr(failure, "param", None)
    if parameter is None and context is not None and not hasattr(failure, "possibilities"):
        parameter = next((each for each in context.command.params if name and name in each.opts), None)
    if parameter is None or parameter.param_type_name != "option" or hasattr(failure, "param_type"):
        return ""
    record = help_record(parameter)
    return f"{record[0]}: {' '.join(record[1].split())}" if record else ""


class HimlCommand(_Base, TyperCommand):
    may_omit_words = True
    """Whether a hint may omit a word that the parser does not expect."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            has_values = any("=" in word for word in args)
            return list(super().parse_args(ctx, [*self._with_plain_switches(ctx, args)] if has_values else [*args]))
        except typer.TyperException as err:
            option = _as_typed(args, getattr(err, "option_name", None) or "")
            if option:
                err.option_name = option  # type: ignore[attr-defined]  # for messages
            err.ctx = ctx  # type: ignore[attr-defined]  # for messages
            is_unknown = hasattr(err, "possibilities")
            hint = self._hint_for_other(ctx, args, option) if is_unknown else self._hint_for_extra(ctx, args, err)
            if hint:
                raise BadUsage(f"No such option '{option}'." if is_unknown else usage_message(err), hint=hint) from err
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = (usage_of(each) for each in self.get_params(ctx) if each.param_type_name == "argument")
        return ["[OPTIONS]", *arguments]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_sections(formatter, parameter_sections(self, ctx))
        if ctx.parent and has_manual(ctx):
            write_references(self, ctx, formatter)

    def by_name(self, ctx: Any) -> dict[str, Any]:
        return {name: each for each in self.get_params(ctx) for name in (*each.opts, *each.secondary_opts)}

    def _with_plain_switches(self, ctx: Any, args: Sequence[str]) -> Iterator[str]:
        """Replace hi-ml's switches in *args*: `--wait=True` becomes `--wait`, `--wait=False` becomes `--no_wait`
        or nothing."""
        parameters, own = self.by_name(ctx), before_double_dash(args)
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

    def words_for(self, ctx: Any, option: str) -> str:
        """himl's words for *option* of another tool, if this command takes them. Otherwise an empty text."""
        known = self.by_name(ctx)
        if count := re.fullmatch(r"-(\d+)", option):
            name = "--tail" if "--tail" in known else "--num_runs" if self._lists_runs(ctx) else ""
            return f"{name} {count[1]}" if name else ""
        if (own := f"--{normalized(ODD_DASHES.sub('', option).lower())}") in known and ODD_DASHES.match(option):
            return own
        for words in OTHER_OPTIONS.get(spelled(option), ()) if option not in known else ():
            if words.split()[0] in known and (not words.startswith("--num_runs") or self._lists_runs(ctx)):
                return words
        return ""

    def accepts(self, ctx: Any, words: Sequence[str]) -> bool:
        """Whether the parser accepts *words*."""
        if {"-h", "--help"} & {*words}:
            return False
        with suppress(BadUsage, typer.TyperException):
            self.make_context(ctx.info_name, [*words], parent=ctx.parent)
            return True
        return False

    def _hint_for_other(self, ctx: Any, args: Sequence[str], option: str) -> str:
        """The command line with himl's words for options of other tools, such as *option*, or a hint for it."""
        known = self.by_name(ctx)
        if line := self.in_himls_words(ctx, args):
            return mask_line(f"In himl: {ctx.command_path} {shlex.join(line)}")
        if option in ("-a", "--all") and "--num_runs" in known:
            return f"For all runs of an experiment: {ctx.command_path} --experiment NAME --num_runs all"
        text = hint_without(spelled(option), ctx.info_name)
        return text if "himl " in text or {*re.findall(r"--\w+", text)} <= {*known} else ""

    def in_himls_words(self, ctx: Any, args: Sequence[str]) -> list[str]:
        """*args* with himl's words for options of other tools. Empty if there are none, or the parser rejects them."""
        known, own, line = self.by_name(ctx), deque(before_double_dash(args)), list[str]()
        while own:
            own.extendleft(reversed(split_option(own.popleft(), known)))
            token = own.popleft()
            words = self.words_for(ctx, token.partition("=")[0])
            line += fill(words, token.partition("=")[2], own, metavar_of(known, words)) if words else [token]
        is_other = line != before_double_dash(args) and self.accepts(ctx, line)
        return [*line, *args[len(before_double_dash(args)) :]] if is_other else []

    def _lists_runs(self, ctx: Any) -> bool:
        is_filtered = any("--num_runs" in each.opts for each in self.get_params(ctx))
        return is_filtered and all(each.param_type_name != "argument" for each in self.get_params(ctx))

    def _hint_for_extra(self, ctx: Any, args: Sequence[str], failure: typer.TyperException) -> str:
        """The command line for an extra argument that belongs to the option before it, or names an experiment."""
        found = re.match(rf"{UNEXPECTED}\S* \((\S+?)\)?(\s|$)", failure.format_message())
        if found is None or found[1] not in args:
            return ""
        if line := self.in_himls_words(ctx, args):
            return mask_line(f"In himl: {ctx.command_path} {shlex.join(line)}")
        index = args.index(found[1])
        if "--" in args[:index] and self.accepts(ctx, line := [word for word in args if word != "--"]):
            return mask_line(f"Omit --: {ctx.command_path} {shlex.join(line)}")
        more = list(takewhile(lambda word: not word.startswith("-"), args[index:]))
        before, rest = ["", "", *args[:index]][-2:], args[index + len(more) :]
        option = (before[1] if before[1].startswith("--") else before[0] or before[1]).partition("=")[0]
        listed = self.by_name(ctx).get(option, self.by_name(ctx).get(f"--{normalized(option[2:])}"))
        metavar = str(getattr(listed, "metavar", "") or "").lstrip("[")
        has_key, is_pair = "=" in before[1].removeprefix(f"{option}="), "=" in metavar
        switches = {name: each for name, each in self.by_name(ctx).items() if each.param_type_name == "option"}
        flags = [name for name, each in switches.items() if each.is_flag]
        if near := get_close_matches(f"--{normalized(found[1])}", flags, n=1, cutoff=0.9):
            line = [*args[:index], near[0], *args[index + 1 :]]
            return mask_line(f"It is an option: {ctx.command_path} {shlex.join(line)}")
        if found[1].isdecimal() and "--port" in switches:
            line = [*args[:index], "--port", *args[index:]]
            return mask_line(f"For a port: {ctx.command_path} {shlex.join(line)}")
        if option == "--sort" and more[0].lower() in DIRECTIONS:
            line = [*args[: index - 1], DIRECTIONS[more[0].lower()] + before[1], *rest]
            return mask_line(f"In himl: {ctx.command_path} {shlex.join(line)}")
        if before[1] == "-v" and ":" in more[0] and "--input" in self.by_name(ctx):
            return NO_OPTIONS["--volume"]
        if is_pair and not has_key:
            separator = "," if metavar.endswith("=SPEC") else " "
            value = separator.join(word.strip(",") for word in more if word != "=").removeprefix("=")
            what = "Join the words with '='"
            words = [*args[: index - 1], f"{before[1].rstrip(':=')}={value}", *rest]
        elif metavar in ("TEXT", "LINE") or (is_pair and "=" not in more[0]):
            is_list = metavar.endswith("=SPEC")
            values = [word.strip(",") for word in (before[1], *more)] if is_list else [before[1], *more]
            what = "Write the values without spaces" if is_list else "Quote the value"
            words = [*args[: index - 1], ("," if is_list else " ").join(filter(None, values)), *rest]
        elif getattr(listed, "multiple", False):
            what, words = (
                "Repeat the option",
                [*args[:index], *(word for each in more for word in (option, each)), *rest],
            )
        elif before[1] == "--best" and "--metrics" in switches:
            what, words = "Name the metric", [*args[:index], "--metrics", ",".join(more), *rest]
        elif self._lists_runs(ctx) and re.search(r"^latest$|_\d{10}_[0-9a-f]{8}", found[1]):
            return f"For one run: himl runs show {shlex.quote(found[1])}"
        elif self._lists_runs(ctx):
            what = "For the newest runs, or those of an experiment"
            words = [*args[:index], "--num_runs" if args[index].isdecimal() else "--experiment", *args[index:]]
        elif self.may_omit_words and self.accepts(ctx, [*args[:index], *rest]):
            what, words = OMIT.get(ctx.info_name, "Omit it"), [*args[:index], *rest]
        else:
            return ""
        return mask_line(f"{what}: {ctx.command_path} {shlex.join(words)}".strip())


class HimlGroup(_Base, TyperGroup):
    """A command with subcommands."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*dict.fromkeys([*self.names(), *super().list_commands(ctx)])]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and (made := self.load(cmd_name)) is not None:
            self.commands[cmd_name] = made
        return self.commands.get(cmd_name)

    def names(self) -> Iterable[str]:
        """The names of the commands that `load` makes."""
        return ()

    def load(self, name: str) -> Any:
        """Make the command *name*, which Typer has not made. None for an unknown name."""
        return None

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
            near, hint = self.unknown_command(ctx, args)
            raise BadUsage(f"No such command '{name}'. {near}".strip(), hint=hint)
        return super().resolve_command(ctx, args)

    def unknown_command(self, ctx: Any, args: Sequence[str]) -> tuple[str, str]:
        """What the unknown command of *args* may mean, and a hint: the same call in himl's words, if its parser accepts
        that, else the help of the likely command."""
        root, (name, *rest) = ctx.find_root(), args
        name, below = name.lower(), ctx.command_path.split()[1:]
        key = " ".join([*below, name])
        if hint := NO_COMMANDS.get(key) or (NO_COMMANDS.get(name) if below[:1] == ["runs"] else ""):
            return "", hint
        meant = ""
        for words in self._equivalents(ctx, below, name, rest):
            command, line = _parsed(root, words)
            if meant and command.split()[:2] != meant.split()[:2]:
                continue
            if command and line is not None:
                return "", mask_line(f"In himl: {line}")
            meant = meant or command
        if meant:
            return f"Did you mean '{meant}'?", f"See '{meant} --help'."
        names = self.list_commands(ctx)
        near = (
            get_close_matches(name, names, n=2, cutoff=NEAR_COMMAND)
            or get_close_matches(name, [each for each in names if len(each) == len(name)], n=2)
            or [each for each in names if len(name) > 3 and each.startswith(name)]
        )
        _, line = _parsed(root, [*below, *near, *rest]) if len(near) == 1 else ("", None)
        hint = mask_line(f"Try: {line}") if line else f"See '{ctx.command_path} --help'."
        return did_you_mean(name, near), hint

    def _equivalents(self, ctx: Any, below: Sequence[str], name: str, rest: list[str]) -> Iterator[list[str]]:
        """The commands of himl that *name* with *rest*, in the group *below*, may mean, the likeliest first."""
        root, other = ctx.find_root(), OTHER_COMMANDS.get(name, name).split()
        if below:
            yield [*OTHER_COMMANDS.get(" ".join([*below, name]), "").split(), *rest]
        elif rest[:1] and rest[0] in NOUNS and name not in NOUNS:
            verb = [("show" if rest[1:] else "list")] if name == "get" else other
            yield ["runs", *verb, *rest[1:]]
        elif name == root.command_path:
            yield rest
        elif name in NOUNS:
            verb = OTHER_COMMANDS.get(rest[0], rest[0]).split() if rest else ["list"]
            yield from ([*group, *verb, *rest[1:]] for group in (["runs"], []))
        others = [
            each
            for each in root.command.list_commands(root)
            if isinstance(_command_of(root.command, root, each), HimlGroup)
        ]
        is_of_root = below[:1] == ["runs"] or name in root.command.list_commands(root)
        groups = [[*below], *([[]] * is_of_root)] if below else [[], ["runs"], *([each] for each in others)]
        yield from ([*group, *verb, *rest] for group in groups for verb in dict.fromkeys([(name,), (*other,)]))

    def command_sections(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        shown = {name: each for name, each in commands.items() if each is not None and not each.hidden}
        return {"Commands": [(name, each.get_short_help_str(limit=64)) for name, each in shown.items()]}

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_sections(formatter, self.command_sections(ctx) | parameter_sections(self, ctx))
        if has_manual(ctx):
            write_references(self, ctx, formatter)


def metavar_of(known: Mapping[str, Any], words: str) -> str:
    """The value of the first of *words*, an option among *known*, in help. Empty for a switch."""
    option = known[words.split()[0]]
    return "" if option.is_flag else str(option.metavar or "VALUE")


def _parsed(root: Any, words: list[str]) -> tuple[str, str | None]:
    """The command that *words* name, and the whole line if its parser accepts it. An empty text if it is none."""
    command, rest = root.command, words
    while isinstance(command, HimlGroup) and rest:
        command, rest = _command_of(command, root, rest[0]), rest[1:]
    if not isinstance(command, HimlCommand):
        return "", None
    name = f"{root.command_path} {shlex.join(words[: len(words) - len(rest)])}"
    info_name = words[-len(rest) - 1]
    if not command.accepts(SimpleNamespace(info_name=info_name, parent=root), rest):
        ctx = command.make_context(info_name, [], parent=root, resilient_parsing=True)
        rest = command.in_himls_words(ctx, rest)
        return name, f"{name} {shlex.join(rest)}" if rest else None
    return name, f"{root.command_path} {shlex.join(words)}"


def _command_of(group: HimlGroup, ctx: Any, name: str) -> Any:
    """The command *name* of *group*. None if there is none, or another package's cannot be loaded."""
    with suppress(HimlError):
        return group.get_command(ctx, name)
    return None


class _Subcommands(HimlGroup):
    """Makes a command when it is called or listed, because Typer takes a millisecond for each."""

    makers: dict[str, Callable[[], Any]]

    def names(self) -> Iterable[str]:
        return self.makers

    def load(self, name: str) -> Any:
        return self.makers[name]() if name in self.makers else None


def subcommands(help_text: str) -> typer.Typer:
    """An empty Typer app for several subcommands."""
    return group(help_text, type("Subcommands", (_Subcommands,), {"makers": {}}), callback=lambda: None)


def group(help_text: str = "", cls: type[HimlGroup] = HimlGroup, **settings: Any) -> typer.Typer:
    """An empty Typer app with himl's conventions. With one command, it is that command."""
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
        def add_to(place: typer.Typer) -> typer.Typer:
            place.command(name, cls=cls, **settings)(bundled(function))
            return place

        makers = getattr(app.info.cls, "makers", None)
        if makers is None:
            add_to(app)
        else:
            makers[name] = lambda: typer.main.get_command(add_to(group()))
        return function

    return register


def _as_typed(args: Sequence[str], option: str) -> str:
    """The parser's *option* in the spelling of the command line."""
    typed = (word.partition("=")[0] for word in before_double_dash(args) if word.startswith("--"))
    return next((name for name in typed if f"--{normalized(name[2:])}" == option), option)


def before_double_dash(tokens: Sequence[str]) -> list[str]:
    """himl's own tokens: all before the first `--`."""
    return list(takewhile(lambda token: token != "--", tokens))
