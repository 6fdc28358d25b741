"""`himl submit` as a function, for scripts and notebooks that use the run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.text import quoted_choice

if TYPE_CHECKING:
    from himl_cli.api.workspace import Run


def submit(
    target: str | os.PathLike[str] | None = None,
    arguments: Sequence[object] = (),
    *,
    wait: bool = False,
    **options: Any,
) -> Run:
    """Submit a job like `himl submit`, and return its run. *target* is a script, a pipeline's `.json` or a job's
    `.yml`.

    *arguments* are for the script. *options* are the options of `himl submit` by name: text and numbers, True for a
    switch, a list for a repeatable option, a mapping for K=V (`sweep={"lr": [0.1, 0.01]}`). Settings files and
    environment variables apply. With *wait*, the function returns after the end of the run. It prints the log of a
    local run, or with `follow=True`, to stdout. Messages of `himl submit` go to stderr.

    Raises BadUsage for invalid arguments, JobFailed if it waited and the run did not complete, Interrupted for Ctrl-C,
    and errors of the workspace.
    """
    import typer.main

    from himl_cli.api.workspace import Run, Workspace
    from himl_cli.commands import submit as command
    from himl_cli.commands.error_handler import as_himl_error
    from himl_cli.commands.options import OutputOptions, WorkspaceOptions, options_of
    from himl_cli.commands.submit_options import SubmitOptions
    from himl_cli.render.output import Output
    from himl_cli.workspaces.resolve import open_runs

    class Talk(Output):
        def result(self, *_: object, **__: object) -> None:
            """Print nothing. The caller gets the result."""

    class TalkOptions(OutputOptions):
        make_output, _keeps_logging = Talk, True

    program: Any = typer.main.get_command(command.app)
    names = {each.name: each.opts[0] for each in program.params}
    words = [] if target is None else [os.fspath(target)]
    for name, value in {"wait": wait, **options}.items():
        words += _words(names.get(name, f"--{name}"), value)
    try:
        context = program.make_context("himl submit", [*words, "--", *map(str, arguments)])
        kinds: tuple[Any, ...] = (SubmitOptions, WorkspaceOptions, TalkOptions)
        asked, place, talk = (kind(**{name: context.params[name] for name in options_of(kind)}) for kind in kinds)
        if asked.dry_run or asked.show_settings:
            raise BadUsage("submit() does not support dry_run and show_settings.", hint="Use himl submit.")
        with context:
            record = command.submit(context, asked, place, talk, context.params["target"])
    except typer.TyperException as err:
        raise as_himl_error(err) from err
    return Run(Workspace.of(open_runs(*place.names, start=Path.cwd())), record)


def _words(option: str, value: Any) -> Iterator[str]:
    """*option* with *value* as words of a command line."""
    if value is None or isinstance(value, bool):
        yield from [option] if value else ["--no_wait"] if option == "--wait" else []
        return
    if isinstance(value, Mapping):
        pairs = {
            key: [quoted_choice(one, str(one)) if option == "--sweep" else str(one) for one in each]
            if isinstance(each, (list, tuple))
            else [str(each)]
            for key, each in value.items()
        }
        value = [f"{key}={','.join(each)}" for key, each in pairs.items()]
    for each in value if isinstance(value, (list, tuple)) else [value]:
        yield from [f"{option}={each}"] if option.startswith("--") else [option, str(each)]
