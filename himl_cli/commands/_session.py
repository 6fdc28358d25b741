"""What a command works with: the workspace, an output, an observer of progress.

Imports nothing but options: `himl submit --help` loads this module too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.commands._options import OutputOptions, WorkspaceOptions

if TYPE_CHECKING:
    from himl_cli.core.events import Notify
    from himl_cli.render.output import Output
    from himl_cli.workspaces.base import SubmitsJobs, Workspace


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
def open_session(where: WorkspaceOptions, talk: OutputOptions, *, create: bool = False) -> Iterator[Session]:
    """Open the workspace that is meant; *create* makes a local one where there is none.

    Raises WorkspaceNotFound, or what the workspace raises when it cannot be read.
    """
    from himl_cli.commands._logging import start_logging
    from himl_cli.render.progress import observing
    from himl_cli.workspaces.open import open_workspace

    cwd = Path.cwd()
    start_logging(verbose=talk.verbose)
    output = talk.output()
    with observing(output) as notify:
        yield Session(open_workspace(where.workspace, where.config_file, start=cwd, create=create), output, notify, cwd)
