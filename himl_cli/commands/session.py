"""The context of a command: the workspace, the output, and an observer of progress.

Functions import services, because help loads this module.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from himl_cli.core.errors import HimlError, Interrupted

if TYPE_CHECKING:
    from himl_cli.commands.options import OutputOptions, WorkspaceOptions
    from himl_cli.core.events import Notify
    from himl_cli.render.output import Output
    from himl_cli.workspaces.base import JobTaker, Workspace

Opened = TypeVar("Opened", bound="Workspace | None")


For = Enum("For", ["runs", "data", "jobs", "clusters"])
"""Why a command needs a workspace. `workspaces.resolve` uses it to choose among several configured workspaces."""


class Session(NamedTuple):
    """An open workspace, the output, an observer of progress, and the current folder."""

    workspace: Workspace
    output: Output
    notify: Notify
    cwd: Path

    @property
    def taker(self) -> JobTaker:
        """The workspace, if it can run jobs. Raises HimlError otherwise."""
        from himl_cli.workspaces.base import JobTaker

        if not isinstance(self.workspace, JobTaker):
            raise HimlError(f"{self.workspace.label} cannot run jobs.")
        return self.workspace


@contextmanager
def open_session(
    workspace_opts: WorkspaceOptions, output_opts: OutputOptions, need: For = For.runs
) -> Iterator[Session]:
    """Open the workspace for the command, and close it at the end. For jobs, create a local one if there is none.

    Raises WorkspaceNotFound, or the error of an unreadable workspace.
    """
    from himl_cli.services.runs.mirror_state import MIRRORS_FOLDER
    from himl_cli.workspaces.resolve import local_folder, open_for_jobs, open_runs, open_workspace

    cwd, names = Path.cwd(), workspace_opts.names
    with output_session(output_opts) as (output, notify), _hints_that_name(workspace_opts, output):
        if need in (For.jobs, For.clusters):
            workspace = open_for_jobs(*names, start=cwd, on_azure=need is For.clusters)
        else:
            workspace = (open_runs if need is For.runs else open_workspace)(*names, start=cwd)
        with _close_at_end([workspace]):
            if need in (For.runs, For.jobs):
                folder = local_folder(workspace)
                with suppress(OSError):  # a user with access to the folder resumes them
                    if folder is not None and any((folder / MIRRORS_FOLDER).glob("*.json")):
                        from himl_cli.commands.mirror_process import resume_mirrors

                        resume_mirrors(folder)
            yield Session(workspace, output, notify, cwd)


@contextmanager
def _hints_that_name(options: WorkspaceOptions, output: Output) -> Iterator[None]:
    """Have the commands in hints and notices name the workspace of *options*, if they find no run of it otherwise: it
    is on another machine, in another folder, or that of a configuration file."""
    if options.config_file is not None:
        place = f"--config_file {shlex.quote(options.config_file)}"
    elif options.workspace is not None and _is_elsewhere(options.workspace):
        place = f"-w {shlex.quote(options.workspace)}"
    else:
        yield
        return
    commands = r"himl (runs \w+|download|tb|ui|checkpoint \w+|submit(?= --(from|resume)\b))(?!.* (-w|--config_file) )"
    name = partial(re.compile(commands).sub, lambda found: f"{found[0]} {place}")
    output.reworded = name
    try:
        yield
    except HimlError as err:
        err.hint = name(err.hint)
        raise


def _is_elsewhere(workspace: str) -> bool:
    """Whether commands find another workspace without *workspace*: it is on another machine, another folder than the
    nearest one, or a configuration file."""
    from himl_cli.core.files import is_same_place, named_folder
    from himl_cli.core.settings import nearest_local
    from himl_cli.workspaces.remote.address import is_remote

    if is_remote(workspace) or workspace.endswith(".json"):
        return True
    if workspace == "local":
        return False
    found = nearest_local(Path.cwd())
    return found is None or not is_same_place(found, named_folder(workspace))


@contextmanager
def output_session(output_opts: OutputOptions) -> Iterator[tuple[Output, Notify]]:
    """Yield the output and an observer of progress, for commands without a workspace. SIGTERM acts like Ctrl-C."""
    from himl_cli.core.signals import terminations
    from himl_cli.render.progress import Watcher

    output = output_opts.output()
    with terminations(), Watcher(output) as notify, _close_at_end([]):
        yield output, notify


@contextmanager
def lazy_workspace(opener: Callable[[], Opened]) -> Iterator[Callable[[], Opened]]:
    """Yield a function that opens a workspace when it is first called, and close the workspace at the end."""
    opened: list[Opened] = []

    def workspace() -> Opened:
        if not opened:
            opened.append(opener())
        return opened[0]

    with _close_at_end(opened):
        yield workspace


@contextmanager
def _close_at_end(workspaces: Sequence[Workspace | None]) -> Iterator[None]:
    """Close the *workspaces* at the end, even after Ctrl-C."""
    from himl_cli.core.signals import take_time_to_end

    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        take_time_to_end()
        raise
    finally:
        for each in filter(None, workspaces):
            each.close()
