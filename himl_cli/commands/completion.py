"""`himl completion`: the script that makes a shell complete himl's command lines."""

from __future__ import annotations

from typing import Annotated

import typer

from himl_cli.commands._group import command, group
from himl_cli.commands._options import OutputOptions

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
    from himl_cli.commands._completing import checked_shell, program_of
    from himl_cli.commands._shape import app_shape
    from himl_cli.render.completions.scripts import completion_script

    name = checked_shell(shell)
    text = completion_script(program_of(app_shape(ctx.find_root().command)), name)
    if install:
        from himl_cli.commands._completion_install import install_script

        install_script(talk.output(), name, text)
    else:
        talk.output().result(
            {"shell": name, "script": text}, human=text.removesuffix("\n"), quiet=text.removesuffix("\n")
        )
