"""What a command works with: the workspace, an output, an observer of progress.

Imports nothing but options: `himl submit --help` loads this module too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.commands._options import OutputOptions, WorkspaceOptions

if TYPE_CHECKING:
    from himl_cli.core.events import Notify
    from himl_cli.render.output import Output
    from himl_cli.workspaces.base import SubmitsJobs, Workspace


class For(Enum):
    """What a command needs a workspace for; that decides which is meant where several are configured (`workspaces.open`)."""

    runs = "runs"
    data = "data"
    jobs = "jobs"


class Session:
    """An opened workspace, where to print, whom to tell of progress, and the folder the command runs in."""

    def __init__(self, workspace: Workspace, output: Output, notify: Notify, cwd: Path) -> None:
        self.workspace = workspace
        self.output = output
        self.notify = notify
        self.cwd = cwd

    @property
    def jobs(self) -> SubmitsJobs:
        """The workspace as one that runs jobs. Raises HimlError where it cannot."""
        from himl_cli.core.errors import HimlError
        from himl_cli.workspaces.base import SubmitsJobs

        if not isinstance(self.workspace, SubmitsJobs):
            raise HimlError(f"{self.workspace.label} does not run jobs.")
        return self.workspace


@contextmanager
def open_session(where: WorkspaceOptions, talk: OutputOptions, need: For = For.runs) -> Iterator[Session]:
    """Open the workspace that is meant for what the command needs, and close it; one for jobs is made where there is none.

    Raises WorkspaceNotFound, or what the workspace raises when it cannot be read.
    """
    from himl_cli.commands._logging import start_logging
    from himl_cli.core.interruptions import terminations
    from himl_cli.render.progress import observing
    from himl_cli.workspaces.base import HoldsConnections
    from himl_cli.workspaces.open import open_for_jobs, open_runs, open_workspace

    cwd = Path.cwd()
    start_logging(verbose=talk.verbose)
    output = talk.output()
    opener = {For.runs: open_runs, For.data: open_workspace, For.jobs: open_for_jobs}[need]
    with terminations(), observing(output) as notify:
        workspace = opener(where.workspace, where.config_file, start=cwd)
        try:
            yield Session(workspace, output, notify, cwd)
        finally:
            if isinstance(workspace, HoldsConnections):
                workspace.close()
