"""himl's options, formats, errors and exit codes for your own command-line tools. What tools import is in this module,
although the bundles of options and the functions that start a tool share no code.

With Typer::

    from himl_cli import cli

    app = cli.app("The losses of runs.")

    @cli.command(app)
    def losses(runs: cli.Runs, place: cli.Place, talk: cli.Talk) -> None:
        talk.rows({"run": run.id, "losses": run.get_metrics("loss").get("loss")} for run in runs.find(place))

    cli.main(app)

See own-tools.md in the documentation.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, get_args

import typer
import typer.main

from himl_cli.commands.error_handler import OF_USERS, EdgedCommand, EdgedGroup, edge, giving_up, run_at_edge
from himl_cli.commands.groups import HIML_OLD_NAMES, group
from himl_cli.commands.groups import command as himl_command
from himl_cli.commands.options import (
    OutputOptions,
    RunArgs,
    SelectionOptions,
    WorkspaceOptions,
    options_of,
    parameters_of,
)
from himl_cli.render.output import Format, Output, stand_in_for_closed_streams

if TYPE_CHECKING:
    from himl_cli.api.workspace import Run, Workspace

__all__ = [
    *("Place", "Runs", "Talk", "app", "command", "errors", "main"),
    *(
        "ChildrenOption",
        "ExperimentOption",
        "LatestRunFileOption",
        "NumRunsOption",
        "RunArguments",
        "RunOption",
        "StatusOption",
        "TagsOption",
    ),
    *("ConfigFileOption", "FormatOption", "JsonOption", "QuietOption", "VerboseOption", "WorkspaceOption", "YesOption"),
]

Function = TypeVar("Function", bound=Callable[..., None])


class _Taken(type):
    """The metaclass of the bundles below. Typer quotes a parameter type that it does not support, and the quotation
    contains the solution. Typer 0.29 asks pydantic, which supports dataclasses."""

    def __repr__(cls) -> str:
        return f"himl_cli.cli.{cls.__name__}, which needs @cli.command(app) in place of @app.command()"

    def __get_pydantic_core_schema__(cls, *_: object) -> NoReturn:
        raise RuntimeError(f"Type not supported: {cls!r}")


class Place(WorkspaceOptions, metaclass=_Taken):
    """The workspace: `-w/--workspace SPEC` and `--config_file PATH`."""

    def open(self) -> Workspace:
        """Open the selected workspace, like `himl_cli.get_workspace`, without requests.

        Raises WorkspaceNotFound if there is none, BadUsage for an invalid configuration.
        """
        from himl_cli.api.workspace import Workspace
        from himl_cli.workspaces.resolve import open_workspace

        return Workspace.of(open_workspace(self.workspace, self.config_file, start=Path.cwd()))


class Runs(SelectionOptions, metaclass=_Taken):
    """The selection of runs: `--run`, `--experiment` with `--num_runs`, `--tags` and `--status`, `--latest_run_file`,
    and `--children`."""

    def find(
        self, place: Place | None = None, named: Sequence[str] | None = None, *, explicit: bool = False
    ) -> list[Run]:
        """Find the selected runs, at least one, in *place* (default: the configured workspaces).

        *named* are positional run ids, which count as `--run`. The default is the last run submitted from the current
        folder. With *explicit*, for tools that change runs, a selection is required, and the name of an experiment is
        exact. Raises RunNotFound, NotFound, WorkspaceNotFound, BadUsage for
        contradictory options, NotAllowed and ServiceFailed.
        """
        from himl_cli.api.workspace import Run, Workspace
        from himl_cli.render.progress import Watcher
        from himl_cli.services.runs.lookup import find_runs
        from himl_cli.workspaces.resolve import open_runs

        wanted, where, start = self.selection(named, explicit=explicit), place or Place(), Path.cwd()
        workspace = Workspace.of(open_runs(where.workspace, where.config_file, start=start))
        with Watcher(Output()) as notify:
            return [Run(workspace, record) for record in find_runs(workspace.opened, wanted, cwd=start, notify=notify)]


class Talk(OutputOptions, metaclass=_Taken):
    """The output of a tool: `--format human|json|quiet`, `--json`, `-q/--quiet`, `-v/--verbose` and `--yes`. Data goes
    to stdout, messages go to stderr."""

    _keeps_logging = True

    def rows(self, records: Iterable[Mapping[str, object]], *, empty: str = "") -> None:
        """Print *records* as a table with a column per key (with tabs in a pipe), as a JSON array, or, if quiet, only
        their first values.

        Values are text, numbers, None, times, paths, and lists and mappings of these. Without records, it prints
        *empty* on stderr.
        """
        from himl_cli.render.output import first_value, row_columns

        self.output().table(records, row_columns, quiet=first_value, empty=empty)

    def result(self, data: object, *, human: str | Callable[[], str], quiet: str | Iterable[str] = ()) -> None:
        """Print one result: *human* text, *data* as a JSON document, or *quiet* lines. It only computes the selected
        format."""
        self.output().result(data, human=human, quiet=quiet)

    def notice(self, text: str) -> None:
        """Print one sentence on stderr, with secrets masked, unless quiet."""
        self.output().notice(text)

    def confirm(self, question: str) -> bool:
        """Ask on stderr. Returns True with `--yes`. Raises NeedsYes (exit code 2) without a terminal."""
        return self.output().confirm(question)


_INFO = {
    each.name: get_args(each.annotation)[1]
    for bundle in (SelectionOptions, WorkspaceOptions, OutputOptions)
    for each in parameters_of(options_of(bundle))
}

RunOption = Annotated[list[str] | None, _INFO["run"]]
ExperimentOption = Annotated[str | None, _INFO["experiment"]]
NumRunsOption = Annotated[str | None, _INFO["num_runs"]]
TagsOption = Annotated[list[str] | None, _INFO["tags"]]
StatusOption = Annotated[list[str] | None, _INFO["status"]]
LatestRunFileOption = Annotated[str | None, _INFO["latest_run_file"]]
ChildrenOption = Annotated[bool, _INFO["children"]]
WorkspaceOption = Annotated[str | None, _INFO["workspace"]]
ConfigFileOption = Annotated[str | None, _INFO["config_file"]]
FormatOption = Annotated[Format, _INFO["format"]]
JsonOption = Annotated[bool, _INFO["json"]]
QuietOption = Annotated[bool, _INFO["quiet"]]
VerboseOption = Annotated[bool, _INFO["verbose"]]
YesOption = Annotated[bool, _INFO["yes"]]
RunArguments = RunArgs  # positional run ids, for `Runs.find(place, named)`

_OLD_NAMES = {old: name for old, name in HIML_OLD_NAMES.items() if name in _INFO}


def _normalized(name: str) -> str:
    """The spelling of an option's name that a tool's parser compares: with underscores, and with the current names of
    shared options."""
    name = name.replace("-", "_")
    return _OLD_NAMES.get(name, name)


_MANNERS: dict[str, Any] = {"token_normalize_func": _normalized, "help_option_names": ["-h", "--help"]}


def app(help: str = "") -> typer.Typer:
    """Create an empty Typer app with himl's conventions: errors of one line and a hint, `-` equals `_`.

    `command` adds commands, `main` runs the app.
    """
    return group(help, EdgedGroup, context_settings=_MANNERS)


def command(app: typer.Typer, name: str | None = None) -> Callable[[Function], Function]:
    """Register a function with *app*. Its parameters may be `Runs`, `Place`, `Talk`, and all types of Typer. Its
    docstring is the help.

    The default *name* is the function's. The only command of an app is the program itself and needs no name.
    """

    def register(function: Function) -> Function:
        return himl_command(app, name or function.__name__, cls=EdgedCommand, context_settings=_MANNERS)(function)

    return register


def main(app: typer.Typer) -> NoReturn:
    """Run *app* with the process's arguments, and exit like `himl`.

    Errors of himl become one line and a hint on stderr, or an object with `--json`, and their exit code. Ctrl-C exits
    with 130. Other exceptions propagate, with their traceback.
    """
    _begin()
    program = typer.main.get_command(app)
    program.help = program.help or (app.info.help if isinstance(app.info.help, str) else None)
    sys.exit(run_at_edge(program.main, None, OF_USERS, standalone_mode=False, extra={}))


@contextmanager
def errors() -> Iterator[None]:
    """Handle errors of himl like `main`, for programs that do not use Typer."""
    _begin()
    with edge(sys.argv[1:], OF_USERS) as ending, giving_up():
        yield
    if ending.code:
        sys.exit(ending.code)


def _begin() -> None:
    """Replace closed streams, and print himl's warnings as plain lines, unless the tool has configured logging."""
    from himl_cli.render.progress import start_logging

    stand_in_for_closed_streams()
    if not logging.getLogger().handlers:
        start_logging(verbose=False)
