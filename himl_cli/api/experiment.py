"""An experiment as scripts hold it: a name that runs of a workspace share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from himl_cli.core.runs import RunQuery

if TYPE_CHECKING:
    from himl_cli.api.run import Run
    from himl_cli.api.workspace import Workspace


class Experiment:
    """The runs of one name in *workspace*; that there are any is not looked up before they are asked for."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.workspace = workspace
        self.name = name

    def get_runs(self, tags: Mapping[str, str] | None = None) -> Iterator[Run]:
        """The runs that have *tags*, newest first, fetched as they are consumed."""
        return self.workspace.runs(RunQuery(self.name, tags=dict(tags or {})))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Experiment) and (self.workspace, self.name) == (other.workspace, other.name)

    def __hash__(self) -> int:
        return hash((self.workspace, self.name))

    def __repr__(self) -> str:
        return f"Experiment({self.name!r} in {self.workspace.opened.label})"
