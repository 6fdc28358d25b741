"""What a command works with: the workspace, an output, an observer of progress.

Services are imported in the functions: help loads this module too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from himl_cli.core.errors import HimlError, Interrupted

if TYPE_CHECKING:
    from himl_cli.commands.options import OutputOptions, WorkspaceOptions
    from himl_cli.core.events import Notify
    from himl_cli.render.output import Output
    from himl_cli.workspaces.base import JobRunner, Workspace

Opened = TypeVar("Opened", bound="Workspace | None")


For = Enum("For", ["runs", "data", "jobs", "clusters"])
"""What a command needs a workspace for; that decides which is meant where several are configured
(`workspaces.resolve`)."""


class Session(NamedTuple):
    """An opened workspace, where to print, whom to tell of progress, and the folder the command runs in."""

    workspace: Workspace
    output: Output
    notify: Notify
    cwd: Path

    @property
    def jobs(self) -> JobRunner:
        """The workspace as one that runs jobs. Raises HimlError where it cannot."""
        from himl_cli.workspaces.base import JobRunner

        if not isinstance(self.workspace, JobRunner):
            raise HimlError(f"{self.workspace.label} does not run jobs.")
        return self.workspace


@contextmanager
def open_session(
    workspace_opts: WorkspaceOptions, output_opts: OutputOptions, need: For = For.runs
) -> Iterator[Session]:
    """Open the workspace that is meant for what the command needs, and close it; one for jobs is made where there is
    none.

    Raises WorkspaceNotFound, or what the workspace raises when it cannot be read.
    """
    from himl_cli.services.runs.mirror_state import FOLDER
    from himl_cli.workspaces.resolve import local_folder, open_for_jobs, open_runs, open_workspace

    cwd, names = Path.cwd(), workspace_opts.names
    with output_session(output_opts) as (output, notify):
        if need in (For.jobs, For.clusters):
            workspace = open_for_jobs(*names, start=cwd, on_cluster=need is For.clusters)
        else:
            workspace = (open_runs if need is For.runs else open_workspace)(*names, start=cwd)
        with _close_at_end([workspace]):
            if need in (For.runs, For.jobs):
                folder = local_folder(workspace)
                with suppress(OSError):  # whoever may look there goes on with them
                    if folder is not None and any((folder / FOLDER).glob("*.json")):
                        from himl_cli.commands.recorder import resume_recordings

                        resume_recordings(folder)
            yield Session(workspace, output, notify, cwd)


@contextmanager
def output_session(output_opts: OutputOptions) -> Iterator[tuple[Output, Notify]]:
    """Where to print, and an observer of progress, for what needs no workspace; SIGTERM is as Ctrl-C within it."""
    from himl_cli.core.processes import terminations
    from himl_cli.render.progress import observing

    output = output_opts.output()
    with terminations(), observing(output) as notify, _close_at_end([]):
        yield output, notify


@contextmanager
def lazy_workspace(opener: Callable[[], Opened]) -> Iterator[Callable[[], Opened]]:
    """A function that opens a workspace when it is first called, for commands that mostly do without; closed at the
    end."""
    opened: list[Opened] = []

    def workspace() -> Opened:
        if not opened:
            opened.append(opener())
        return opened[0]

    with _close_at_end(opened):
        yield workspace


@contextmanager
def _close_at_end(workspaces: Sequence[Workspace | None]) -> Iterator[None]:
    """Close what is in *workspaces* by then; after Ctrl-C there is time for that."""
    from himl_cli.core.processes import take_time_to_end

    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        take_time_to_end()
        raise
    finally:
        for each in filter(None, workspaces):
            each.close()
