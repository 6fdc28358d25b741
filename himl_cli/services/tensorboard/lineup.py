"""The feeds of the runs that a selection means."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.errors import RunNotFound
from himl_cli.core.runs import Run
from himl_cli.services.runs.lookup import workspace_in_url
from himl_cli.services.tensorboard.chosen import ChosenRuns
from himl_cli.services.tensorboard.feeds import CopiedHere, RunFeed, ServedInPlace
from himl_cli.services.tensorboard.names import RunNames, lasting_name
from himl_cli.services.user_cache import cache_of
from himl_cli.workspaces.base import FolderWorkspace


@dataclass(frozen=True)
class Change:
    """What `Lineup.change` found: runs as they are now, those that are gone and why, and feeds of runs that are new."""

    runs: dict[str, Run]
    gone: dict[str, RunNotFound]
    joined: list[RunFeed]


class Lineup:
    """One feed a run: served in place where the files lie on this machine, else copied below *copies*, by readable
    names, or to himl's cache (None), by ids.

    `feeds` are those there are; `change` may be called in another thread than the one that looks at them, which then
    calls `take`.
    """

    def __init__(self, chosen: ChosenRuns, log_dir: str, copies: Path | None) -> None:
        self._chosen = chosen
        self._log_dir = log_dir
        self._copies = copies
        self._names = RunNames()
        self.feeds: list[RunFeed] = []

    @property
    def may_grow(self) -> bool:
        """Whether other runs can still join."""
        return self._chosen.may_grow

    def begin(self) -> None:
        """Choose the runs. Raises what `find_runs` does, BadUsage for a user without a cache, DiskFailed."""
        self.feeds = [self._feed_of(run) for run in self._chosen.first()]

    def change(self, wanted: Collection[str]) -> Change:
        """Which runs are new, and the states of those *wanted*. Raises HimlError; the next time goes on."""
        renewed = self._chosen.again(wanted)
        known = {feed.run.id for feed in self.feeds}
        joined = [self._feed_of(run) for run in renewed.runs.values() if run.id not in known]
        return Change(renewed.runs, renewed.gone, joined)

    def take(self, change: Change) -> None:
        """Let the feeds know."""
        for feed in self.feeds:
            feed.run = change.runs.get(feed.run.id, feed.run)
        self.feeds += change.joined

    def _feed_of(self, run: Run) -> RunFeed:
        home, name = self._chosen.homes.of(run), self._names.of(run)
        if isinstance(home, FolderWorkspace):
            return ServedInPlace(home.run_files(run.id), home, run, name, self._log_dir)
        folder = _cache(run) / lasting_name(run) if self._copies is None else self._copies / name
        return CopiedHere(home, run, name, self._log_dir, folder.absolute())


def _cache(run: Run) -> Path:
    """A folder of the user's cache for the workspace of *run*."""
    root = cache_of("tensorboard", "to copy event files to", "Say where with --run_logs_dir DIR.")
    asked = workspace_in_url(run.url)  # labels leave the subscription out
    return root / hashlib.sha256(repr(asked or run.workspace).encode()).hexdigest()[:12]
