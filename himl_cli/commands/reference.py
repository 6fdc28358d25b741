"""The shape of the program, read from its commands.

Contexts, commands and parameters are typed `Any` because Typer keeps their classes private; only their public
attributes are read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from himl_cli.commands.groups import HIML_OLD_NAMES, HimlGroup
from himl_cli.core.command_shape import ArgumentShape, CommandShape, OptionShape
from himl_cli.core.jobs import environment_variable

EXAMPLES = "\b\n"
"""How a paragraph begins whose lines help leaves as they are."""
DEFAULT = re.compile(r"^(?P<help>.*?)\s*\[default: (?P<default>.*)\]$", re.DOTALL)


def app_shape(root: Any, name: str = "himl") -> CommandShape:
    """The shape of *root*, a command or a group as `typer.main.get_command` and a context's `find_root().command` give
    it, and of all below.

    Reads neither settings nor files; hidden commands and options are left out.
    """
    return _command_shape(root, name, None, "", "")


def _command_shape(command: Any, name: str, parent: Any, summary: str, panel: str) -> CommandShape:
    ctx = command.make_context(
        name, [], parent=parent, resilient_parsing=True, default_map={}
    )  # without a default_map, submit reads settings
    text, examples = _texts(command.help or "")
    if summary.endswith("..."):  # cut to fit into a line
        summary = command.get_short_help_str(limit=len(text))
    options, arguments = _parameters(command, ctx)
    children: list[CommandShape] = []
    if isinstance(command, HimlGroup):
        for heading, rows in command.command_sections(ctx).items():
            children += [
                _command_shape(command.get_command(ctx, child), child, ctx, line, heading) for child, line in rows
            ]
    return CommandShape(
        path=tuple(ctx.command_path.split()),
        usage=" ".join([ctx.command_path, *command.collect_usage_pieces(ctx)]),
        summary=summary or text.partition("\n")[0],
        panel=panel,
        text=text,
        examples=examples,
        options=options,
        arguments=arguments,
        children=children,
    )


def _texts(help_text: str) -> tuple[str, Sequence[str]]:
    """The paragraphs of a help text, a line each, and the lines of its examples."""
    paragraphs = [part for part in help_text.split("\n\n") if part.strip()]
    prose = [" ".join(part.split()) for part in paragraphs if not part.startswith(EXAMPLES)]
    lines = [
        line.strip()
        for part in paragraphs
        if part.startswith(EXAMPLES)
        for line in part.removeprefix(EXAMPLES).splitlines()
    ]
    return "\n\n".join(prose), lines


def _parameters(command: Any, ctx: Any) -> tuple[Sequence[OptionShape], Sequence[ArgumentShape]]:
    """The visible options, those without a panel last, as help has them; and the arguments."""
    has_variables = ctx.auto_envvar_prefix is not None
    ctx.auto_envvar_prefix = None  # else the help of each option names its variable
    options: list[OptionShape] = []
    arguments: list[ArgumentShape] = []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        if parameter.param_type_name == "argument":
            metavar = parameter.make_metavar(ctx=ctx)
            arguments.append(
                ArgumentShape(
                    metavar=metavar,
                    help=parameter.help or "",
                    repeats=parameter.nargs == -1,
                    required=parameter.required,
                )
            )
        else:
            set_by = environment_variable(parameter.name) if has_variables and parameter in command.params else ""
            options.append(_option_shape(parameter, ctx, record[1], set_by))
    return sorted(options, key=lambda option: {"Arguments": 0, "Options": 2}.get(option.panel, 1)), arguments


def _option_shape(option: Any, ctx: Any, help_text: str, variable: str) -> OptionShape:
    names = tuple(sorted(option.opts, key=lambda name: not name.startswith("--")))  # those of --help are a set
    found = DEFAULT.match(help_text)
    takes_value = not (option.is_flag or option.count)
    return OptionShape(
        names=names,
        old_names=tuple(f"--{old}" for old, today in HIML_OLD_NAMES.items() if f"--{today}" in names),
        metavar=option.make_metavar(ctx=ctx) if takes_value else "",
        help=found["help"] if found else help_text,
        panel=getattr(option, "rich_help_panel", None) or "Options",
        takes_value=takes_value,
        repeats=option.multiple,
        default=found["default"] if found else "",
        variable=variable,
        off_names=tuple(option.secondary_opts),
    )
