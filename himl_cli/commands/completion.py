"""The structure of the commands, and `himl completion`, which prints completion scripts for shells.

The type of contexts, commands and parameters is `Any` because Typer's classes for them are private. This module only
reads their public attributes.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Annotated, Any

import typer

from himl_cli.commands.groups import HIML_OLD_NAMES, PANEL_ORDER, HimlGroup, command, group, panel_of
from himl_cli.commands.options import AskingOptions, environment_variable
from himl_cli.commands.parameters import help_record
from himl_cli.commands.table import COMMANDS, CommandBroken, guests
from himl_cli.core.command_shape import CommandShape, ParameterShape
from himl_cli.core.errors import BadUsage, NeedsYes
from himl_cli.render.completions import SCRIPT_FILES, completion_script
from himl_cli.render.output import Format, Output, TableFormat

app = group()

# The beginning of a paragraph that help does not wrap.
EXAMPLES = "\b\n"
DEFAULT = re.compile(r"^(?P<help>.*?)\s*\[default: (?P<default>.*)\]$", re.DOTALL)
LONGEST_HELP = 100
FREE = (
    "ARGS COLLECTION/FOLDER FILTER GLOB GLOB,... HOST IMAGE ITEM K=V K=V,... KEY LINE M MPP N NAME NAME=SPEC NAME[:V] "
    "P PACKAGE.MODULE PIXELS POLICY PREFIX REMOTE_PREFIX SECONDS SHARE SIZE SPEC TEXT TIME URL ID ID,... [PATH] "
    "[COMMAND]..."
)
METAVARS: Mapping[str, str] = {
    **dict.fromkeys(FREE.split(), ""),
    **dict.fromkeys(("DATASET", "SLIDES"), "folders+files:.csv"),
    "DIR": "folders",
    "DIR,...": "list+folders",
    "FILE": "files",
    "FILE,...": "list+files",
    "FILE...": "files",
    "FILE.zip|DIR": "files:.zip",
    "LOCAL": "files",
    "LOCAL_DIR": "folders",
    "PATH": "files",
    "RUN": "runs",
    "[FILE]": "files:.csv,.geojson,.json",
    "[RUN]...": "list+runs",
    "[RUN]... KEY=VALUE...": "list+runs",
    "SHELL": f"choice:{','.join(SCRIPT_FILES)}",
    "SOURCE": "runs+files",
    "TARGET": "files:.py,.sh,.yml,.yaml,.json",
}
"""The kind of value for each metavar, unless NAMED has the option."""
NAMED: Mapping[str, str] = {
    "--cluster": "choice:local+clusters",
    "--config_file": "files:.json",
    "--conda_env": "list+files:.yml,.yaml",
    "--early_stop": "choice:median",  # the other policies have parentheses, which a shell interprets
    "--experiment": "experiments",
    "--level": "choice:auto",
    "--lock": "files:.toml,.lock",
    "--num_runs": "choice:all",
    "--private_wheel": "files:.whl",
    "--run": "list+runs",
    "--select": "choice:last,best",
    "--sort": "choice:started,-started,duration,-duration",
    "--workspace": "choice:local+machines+folders+files:.json",
    "himl tb --log_dir": "",  # a folder inside the runs
}
"""The kind of value for an option, or for an option of a command."""


@command(app, "completion")
def completion(
    ctx: typer.Context,
    output_opts: AskingOptions,
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell.", show_default=False)],
    install: Annotated[bool, typer.Option("--install", help="Install the script for the shell.")] = False,
) -> None:
    """Print the tab completion script of a shell.

    The script completes commands, options, values and files. It also completes run ids and experiments of the local
    workspace. With --install, himl writes it to the shell's folder for completions. himl asks before it changes the
    shell's start-up file.

    \b
      himl completion zsh --install
      himl completion bash > himl.bash
    """
    name = {"pwsh": "powershell"}.get(shell.lower(), shell.lower())
    if name not in SCRIPT_FILES:
        raise BadUsage(f"Unknown shell '{shell}'.", hint=f"Shells: {', '.join(SCRIPT_FILES)}.")
    text = completion_script(program_of(app_shape(ctx.find_root().command)), name)
    if install:
        return install_script(output_opts.output(), name, text)
    lines = text.removesuffix("\n")
    output_opts.output().result({"shell": name, "script": text}, human=lines, quiet=lines)


def app_shape(command: Any, name: str = "himl", parent: Any = None, summary: str = "", panel: str = "") -> CommandShape:
    """The structure of *command*, with its subcommands. *command* comes from `typer.main.get_command` or a context's
    `find_root().command`. *parent* is the context of its group, which lists it with the line *summary* in *panel*.

    Reads no settings or files. Omits hidden commands and options.
    """
    # Without a default_map, submit reads settings.
    ctx = command.make_context(name, [], parent=parent, resilient_parsing=True, default_map={})
    paragraphs = [part for part in (command.help or "").split("\n\n") if part.strip()]
    text = "\n\n".join(" ".join(part.split()) for part in paragraphs if not part.startswith(EXAMPLES))
    examples = "\n".join(part.removeprefix(EXAMPLES) for part in paragraphs if part.startswith(EXAMPLES))
    if summary.endswith("..."):  # Typer shortened it
        summary = command.get_short_help_str(limit=len(text))
    has_variables, ctx.auto_envvar_prefix = ctx.auto_envvar_prefix is not None, None
    shown = [(each, record) for each in command.get_params(ctx) if (record := help_record(each)) is not None]
    options = [
        _option_shape(each, ctx, record[1], panel_of(each, command), has_variables and each in command.params)
        for each, record in shown
        if each.param_type_name == "option"
    ]
    children = []
    for heading, rows in command.command_sections(ctx).items() if isinstance(command, HimlGroup) else ():
        for child, line in rows:
            with suppress(CommandBroken):
                children.append(app_shape(command.get_command(ctx, child), child, ctx, line, heading))
    return CommandShape(
        path=tuple(ctx.command_path.split()),
        usage=" ".join([ctx.command_path, *command.collect_usage_pieces(ctx)]),
        summary=summary or text.partition("\n")[0],
        panel=panel,
        text=text,
        examples=[line.strip() for line in examples.splitlines()],
        options=sorted(options, key=lambda option: PANEL_ORDER.get(option.panel, 1)),
        arguments=[
            ParameterShape(each.metavar or each.name, each.help or "", each.nargs == -1)
            for each, _ in shown
            if each.param_type_name == "argument"
        ],
        children=children,
    )


def _option_shape(option: Any, ctx: Any, help_text: str, panel: str, has_variable: bool) -> ParameterShape:
    # The names of --help are a set.
    names = tuple(sorted(option.opts, key=lambda name: not name.startswith("--")))
    found = DEFAULT.match(help_text)
    takes_value = not (option.is_flag or option.count)
    return ParameterShape(
        names=names,
        old_names=tuple(f"--{old}" for old, today in HIML_OLD_NAMES.items() if f"--{today}" in names),
        metavar=(option.metavar or "VALUE") if takes_value else "",
        help=found["help"] if found else help_text,
        panel=panel,
        takes_value=takes_value,
        repeats=option.multiple,
        default=found["default"] if found else "",
        variable=environment_variable(option.name) if has_variable else "",
        off_names=tuple(option.secondary_opts),
    )


def program_of(shape: CommandShape) -> CommandShape:
    """*shape* for completion scripts, with the kinds of options and arguments, and one-sentence helps. Raises KeyError
    for a metavar of himl without a kind. One of another package is free text."""
    named = option_kinds()
    is_own = len(shape.path) == 1 or shape.path[1] in COMMANDS
    metavar_kinds = METAVARS if is_own else defaultdict(str, METAVARS)
    options = []
    for each in shape.options:
        kind = ""
        if each.takes_value:
            keys = (f"{shape.words} {each.long_name}", each.long_name)
            key = next((key for key in keys if key in named), None)
            kind = metavar_kinds[each.metavar] if key is None else named[key]
        options.append(replace(each, kind=kind, help=first_sentence(each.help)))
    metavars = [
        (each, each.metavar if each.metavar in METAVARS else each.metavar.strip("[]")) for each in shape.arguments
    ]
    return replace(
        shape,
        summary=first_sentence(shape.text if shape.summary.endswith("..") else shape.summary),
        options=options,
        arguments=[replace(each, kind=metavar_kinds[metavar]) for each, metavar in metavars],
        children=[program_of(child) for child in shape.children],
    )


def first_sentence(text: str) -> str:
    """The first sentence of a help text without its full stop, cut to LONGEST_HELP characters."""
    sentence = re.sub(r"(?<!\.)\.$", "", re.split(r"\.\s+(?=[A-Z])", text, maxsplit=1)[0].strip())
    cut = sentence[: LONGEST_HELP - 3].rpartition(" ")[0].rstrip(",;:")
    return sentence if len(sentence) <= LONGEST_HELP else f"{cut}..."


@cache
def option_kinds() -> Mapping[str, str]:
    """The kinds of options, by name or by command and name, where the metavar is not enough. The choices are those
    that the program checks."""
    from himl_cli.core.runs import RunStatus
    from himl_cli.core.sweeps import GOALS
    from himl_cli.services.live_checks.plan import ALL_CHECKS
    from himl_cli.services.submission.request import CHOICES
    from himl_cli.services.submission.sweeps import SAMPLINGS

    return {
        **NAMED,
        **{f"--{name}": choice_of(words) for name, words in CHOICES.items()},
        "--check": f"list+{choice_of(check.name for check in ALL_CHECKS)}",
        "--format": choice_of(Format),
        **{
            f"himl {name} --format": choice_of(TableFormat)
            for name in ("runs list", "runs aggregate", "datastore list")
        },
        "--goal": choice_of(GOALS),
        "--sampling": choice_of(SAMPLINGS),
        "--status": f"list+{choice_of(RunStatus)}",
        **{name: kind for kinds_of in guests("option_kinds") for name, kind in kinds_of().items()},
    }


def choice_of(words: Iterable[str]) -> str:
    """The kind of an option with the choices *words*, which may be an enum's members."""
    return f"choice:{','.join(str(getattr(word, 'value', word)) for word in words)}"


def install_script(output: Output, shell: str, text: str) -> None:
    """Write the script to the folder of *shell*, and, if the user agrees, the line that loads it to the shell's
    start-up file. Raises DiskFailed, NotFound."""
    from himl_cli.services.completion_files import add_line, place_of, write_script

    place = place_of(shell, os.environ)
    write_script(place, text)
    files = [place.script]
    if not place.is_loaded and place.start_file is not None:
        with suppress(NeedsYes):  # without a terminal, himl adds no line
            if output.confirm(f"Add a line to '{place.start_file}' that loads the script?"):
                add_line(place)
                files.append(place.start_file)
    said = [f"Wrote '{each}'." for each in files]
    if place.is_loaded:
        said.append("Start a new shell to use it.")
    else:
        said.append(f"To load it, add this line to '{place.start_file}':\n{place.line}")
    output.result(
        {"shell": shell, "files": [str(each) for each in files], "line": "" if place.is_loaded else place.line},
        human="\n".join(said),
        quiet=map(str, files),
    )
