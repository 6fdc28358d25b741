"""A list of runs that is read again and again, as far down as it matters."""

from __future__ import annotations

from collections.abc import Collection, Container
from dataclasses import replace
from datetime import datetime

from himl_cli.core.runs import Run, RunQuery
from himl_cli.workspaces.base import Workspace

SPARE = 10
"""Runs asked for beyond those that mattered the last time: new ones then cost no second request."""


class RunList:
    """The runs of *query*, newest first."""

    def __init__(self, workspace: Workspace, query: RunQuery) -> None:
        self._workspace = workspace
        self._query = query
        self._depth: int | None = None

    def read(
        self,
        wanted: Collection[str],
        known: Container[str],
        *,
        down_to: datetime | None = None,
        deepest: int | None = None,
    ) -> list[Run]:
        """The runs that are new since those *known*, and on to the last of *wanted*; with *down_to* none that was made
        before that.

        Not more than *deepest* are read. A run of *wanted* that does not come is not in the list (any more), or deeper
        in it.
        """
        limits = (deepest,) if self._depth is None else (self._depth + SPARE, deepest)
        for limit in limits:
            found = self._read(limit, set(wanted), known, down_to, is_last=limit == deepest)
            if found is not None:
                self._depth = len(found)
                return found
        raise AssertionError("the last limit is taken as it is")

    def _read(
        self, limit: int | None, missing: set[str], known: Container[str], down_to: datetime | None, *, is_last: bool
    ) -> list[Run] | None:
        """None where *limit* ended it too early, unless it *is_last*."""
        found: list[Run] = []
        for run in self._workspace.runs(replace(self._query, limit=limit)):
            if down_to is not None and run.created < down_to:
                return found
            found.append(run)
            missing.discard(run.id)
            if not missing and run.id in known:
                return found
        return found if is_last or limit is None or len(found) < limit else None
