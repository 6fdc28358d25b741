"""Which workspace keeps a run, where several are looked at together."""

from __future__ import annotations

from himl_cli.core.runs import Run
from himl_cli.workspaces.base import Workspace


class Homes:
    """Asked once for each of the workspaces behind *workspace*."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._known: dict[str, Workspace] = {}

    def of(self, run: Run) -> Workspace:
        """The workspace that keeps *run*. Raises RunNotFound."""
        home = self._known.get(run.workspace)
        if home is None:
            home = self._workspace.home_of(run.id)
            self._known[run.workspace] = home
        return home
