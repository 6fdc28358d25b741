"""`himl completion`: the script that makes a shell complete himl's command lines."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import OutputOptions
from himl_cli.core.command_shape import CommandShape, OptionShape
from himl_cli.core.errors import BadUsage, NeedsYes
from himl_cli.render.completions import FILES, Offered, Program, Verb
from himl_cli.render.output import Output

app = group()


@command(app, "completion")
def completion(
    ctx: typer.Context,
    talk: OutputOptions,
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell.", show_default=False)],
    install: Annotated[bool, typer.Option("--install", help="Put the script where the shell finds it.")] = False,
) -> None:
    """Print the script that completes himl's command lines by Tab.

    Commands, options, choices, files; run ids and experiments of the local workspace. With --install, it goes where the
    shell looks for it; where the shell's start-up file needs a line for that, himl asks before adding it.

    \b
      himl completion zsh --install
      himl completion bash > himl.bash
    """
    from himl_cli.commands.reference import app_shape
    from himl_cli.render.completions import completion_script

    name = checked_shell(shell)
    text = completion_script(program_of(app_shape(ctx.find_root().command)), name)
    if install:
        install_script(talk.output(), name, text)
    else:
        talk.output().result(
            {"shell": name, "script": text}, human=text.removesuffix("\n"), quiet=text.removesuffix("\n")
        )


LONGEST_HELP = 100
SLIDES = "folders+files:.csv"
FREE = (
    *(
        "ARGS",
        "GLOB",
        "GLOB,...",
        "HOST",
        "IMAGE",
        "K=V",
        "K=V,...",
        "KEY",
        "LINE",
        "M",
        "N",
        "NAME",
        "NAME=SPEC",
        "NAME[:V]",
        "P",
        "PACKAGE.MODULE",
        "PIXELS",
    ),
    *("POLICY", "PREFIX", "REMOTE_PREFIX", "SECONDS", "SIZE", "SPEC", "TEXT", "TIME", "URL", "ID", "ID,..."),
)
"""Metavars of free text."""
METAVARS: Mapping[str, str] = {
    **dict.fromkeys(FREE, ""),
    "DATASET": SLIDES,
    "DIR": "folders",
    "DIR,...": "list+folders",
    "FILE": "files",
    "FILE,...": "list+files",
    "FILE...": "files",
    "LOCAL": "files",
    "LOCAL_DIR": "folders",
    "PATH": "files",
    "RUN": "runs",
    "[RUN]...": "list+runs",
    "[RUN]... KEY=VALUE...": "list+runs",
    "SHELL": f"choice:{','.join(FILES)}",
    "SOURCE": "runs+files",
    "TARGET": "files:.py,.sh,.yml,.yaml,.json",
}
"""What an option or argument of such a metavar takes, where no name says more."""
NAMED: Mapping[str, str] = {
    "--cluster": "choice:local",
    "--config_file": "files:.json",
    "--conda_env": "list+files:.yml,.yaml",
    "--early_stop": "choice:median",  # the one that needs no parentheses, which a shell would read
    "--experiment": "experiments",
    "--level": "choice:auto",
    "--num_runs": "choice:all",
    "--private_wheel": "files:.whl",
    "--run": "list+runs",
    "--select": "choice:last,best",
    "--workspace": "choice:local+folders+files:.json",
    "himl tb --log_dir": "",  # a folder inside the runs
}
"""What such an option takes, or such a command's."""


def program_of(shape: CommandShape) -> Program:
    """What the completion scripts know of *shape*. Raises KeyError for a metavar that has no kind yet."""
    old_names = {
        old: option.long_name for command in shape.walk() for option in command.options for old in option.old_names
    }
    return Program(_verb(shape), sorted(old_names.items()))


def _verb(shape: CommandShape) -> Verb:
    return Verb(
        words=shape.words,
        help=first_sentence(shape.text if shape.summary.endswith("..") else shape.summary),
        options=[_offered(option, shape.words) for option in shape.options],
        kinds=[_argument_kind(argument.metavar) for argument in shape.arguments],
        repeats=bool(shape.arguments) and shape.arguments[-1].repeats,
        children=[_verb(child) for child in shape.children],
    )


def _offered(option: OptionShape, command: str) -> Offered:
    names = sorted((*option.names, *option.off_names), key=lambda name: not name.startswith("--"))
    kind = _option_kind(option, command) if option.takes_value else None
    return Offered(names, kind, option.repeats, first_sentence(option.help))


def first_sentence(text: str) -> str:
    """The first sentence of a help text without its stop, at most LONGEST_HELP characters."""
    sentence = re.sub(r"(?<!\.)\.$", "", re.split(r"\.\s+(?=[A-Z])", text, maxsplit=1)[0].strip())
    return (
        sentence
        if len(sentence) <= LONGEST_HELP
        else f"{sentence[: LONGEST_HELP - 3].rpartition(' ')[0].rstrip(',;:')}..."
    )


def _argument_kind(metavar: str) -> str:
    return METAVARS[metavar] if metavar in METAVARS else METAVARS[metavar.strip("[]")]


def _option_kind(option: OptionShape, command: str) -> str:
    named = option_kinds()
    own = f"{command} {option.long_name}"
    return (
        named[own]
        if own in named
        else named[option.long_name]
        if option.long_name in named
        else METAVARS[option.metavar]
    )


@cache
def option_kinds() -> Mapping[str, str]:
    """What options take whose metavar does not say it, by name, or by command and name. The choices are those that the
    program checks."""
    from himl_cli.core.montage import Backend, ImageFormat, LayoutStyle
    from himl_cli.core.runs import RunStatus
    from himl_cli.core.sweeps import GOALS
    from himl_cli.render.output import Format
    from himl_cli.services.submission.request import CHOICES
    from himl_cli.services.submission.search_space import SAMPLINGS

    return {
        **NAMED,
        **{f"--{name}": _choice(words) for name, words in CHOICES.items()},
        "--backend": _choice(Backend),
        "--format": _choice(Format),
        "--goal": _choice(GOALS),
        "--image_format": f"list+{_choice(ImageFormat)}",
        "--layout": _choice(LayoutStyle),
        "--sampling": _choice(SAMPLINGS),
        "--status": f"list+{_choice(RunStatus)}",
    }


def _choice(words: Iterable[str]) -> str:
    """The kind of one of *words*, which may be an enum's members."""
    return f"choice:{','.join(str(getattr(word, 'value', word)) for word in words)}"


def checked_shell(name: str) -> str:
    """The shell called *name*, in any case; `pwsh` is PowerShell. Raises BadUsage."""
    wanted = {"pwsh": "powershell"}.get(name.lower(), name.lower())
    if wanted not in FILES:
        raise BadUsage(f"There is no completion for '{name}'.", hint=f"Shells: {', '.join(FILES)}.")
    return wanted


AGAIN = "It works in shells that are started from here on."


def install_script(output: Output, shell: str, text: str) -> None:
    """Put the script where *shell* finds it, and after a yes the line into the shell's own file that loads it. Raises
    DiskFailed, NotFound."""
    from himl_cli.services.completion_files import add_line, place_of, write_script

    place = place_of(shell, os.environ)
    write_script(place, text)
    files = [place.script]
    if not place.is_loaded and place.start_file is not None and _may_add(output, place.start_file):
        add_line(place)
        files.append(place.start_file)
    said = [f"Wrote '{each}'." for each in files]
    said.append(AGAIN if place.is_loaded else f"To load it, add this line to '{place.start_file}':\n{place.line}")
    left = "" if place.is_loaded else place.line
    output.result(
        {"shell": shell, "files": [str(each) for each in files], "line": left},
        human="\n".join(said),
        quiet=map(str, files),
    )


def _may_add(output: Output, path: Path) -> bool:
    """Whether the user wants a line in the file at *path*; where nobody can be asked, no."""
    try:
        return output.confirm(f"Add a line to '{path}' that loads it?")
    except NeedsYes:
        return False
