"""What a command works with: the workspace, an output, an observer of progress.

Imports nothing but options: `himl submit --help` loads this module too.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from himl_cli.core.redaction import redact
from himl_cli.render.error_output import one_line

if TYPE_CHECKING:
    from himl_cli.commands.options import OutputOptions, WorkspaceOptions
    from himl_cli.core.events import Notify
    from himl_cli.render.output import Output
    from himl_cli.workspaces.base import JobRunner, Workspace

Opened = TypeVar("Opened", bound="Workspace | None")


class For(Enum):
    """What a command needs a workspace for; that decides which is meant where several are configured
    (`workspaces.resolve`)."""

    runs = "runs"
    data = "data"
    jobs = "jobs"
    clusters = "clusters"


class Session:
    """An opened workspace, where to print, whom to tell of progress, and the folder the command runs in."""

    def __init__(self, workspace: Workspace, output: Output, notify: Notify, cwd: Path) -> None:
        self.workspace = workspace
        self.output = output
        self.notify = notify
        self.cwd = cwd

    @property
    def jobs(self) -> JobRunner:
        """The workspace as one that runs jobs. Raises HimlError where it cannot."""
        from himl_cli.core.errors import HimlError
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
    from himl_cli.commands.recorder import resume_recordings
    from himl_cli.workspaces.resolve import open_for_jobs, open_runs, open_workspace

    cwd, names = Path.cwd(), (workspace_opts.workspace, workspace_opts.config_file)
    with output_session(output_opts) as (output, notify):
        if need in (For.jobs, For.clusters):
            workspace = open_for_jobs(*names, start=cwd, on_cluster=need is For.clusters)
        else:
            workspace = (open_runs if need is For.runs else open_workspace)(*names, start=cwd)
        if need in (For.runs, For.jobs):
            resume_recordings(workspace)
        with _close_at_end([workspace]):
            yield Session(workspace, output, notify, cwd)


@contextmanager
def output_session(output_opts: OutputOptions) -> Iterator[tuple[Output, Notify]]:
    """Where to print, and an observer of progress, for what needs no workspace; SIGTERM is as Ctrl-C within it."""
    from himl_cli.core.processes import terminations
    from himl_cli.render.progress import observing

    start_logging(verbose=output_opts.verbose)
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
    from himl_cli.core.errors import Interrupted
    from himl_cli.core.processes import take_time_to_end

    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        take_time_to_end()
        raise
    finally:
        for each in filter(None, workspaces):
            each.close()


OWN_LOGGER = "himl_cli"


class RedactingFormatter(logging.Formatter):
    """Guards every record of a handler, its traceback too: no secret is logged, whoever logs it."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class PlainFormatter(RedactingFormatter):
    """Says what himl itself logs as `himl: …`, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name.partition(".")[0] != OWN_LOGGER:
            return super().format(record)
        return f"himl: {one_line(redact(record.getMessage()))}"


class StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]  # takes one since Python 3.11
    """Writes to what `sys.stderr` is at that moment: a progress bar puts itself in its place, so that lines come above
    it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


def start_logging(*, verbose: bool) -> None:
    """Send log records to stderr: warnings of any library, and with *verbose* everything himl logs and its libraries'
    INFO."""
    handler = StderrHandler()
    handler.setFormatter(
        (RedactingFormatter if verbose else PlainFormatter)("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger(OWN_LOGGER).setLevel(logging.DEBUG if verbose else logging.WARNING)
