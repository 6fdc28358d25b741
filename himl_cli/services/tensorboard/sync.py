"""Runs and where their event files go; one look at all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.errors import BadUsage, HimlError, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.runs import Run
from himl_cli.core.sweeps import MANY
from himl_cli.services.studio_url import workspace_in_url
from himl_cli.services.tensorboard.event_files import readable_name
from himl_cli.services.tensorboard.feeds import CopiedHere, RunFeed, ServedInPlace
from himl_cli.services.tensorboard.rounds import Round
from himl_cli.services.transfer.disk import explained
from himl_cli.workspaces.abilities import JoinsWorkspaces, ServesFiles
from himl_cli.workspaces.base import Workspace

LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class SyncedRun:
    """A run whose event files are here: their folder, how many there are, and how many bytes came just now."""

    run: str
    display_name: str
    folder: Path
    files: int
    new_bytes: int


def feeds_of(workspace: Workspace, runs: Sequence[Run], log_dir: str, copies: Path | None) -> list[RunFeed]:
    """One feed a run: served in place where the files lie on this machine, else copied below *copies* (None: himl's cache).

    Raises BadUsage for a user without a cache, DiskFailed.
    """
    homes: dict[str, Workspace] = {}
    feeds: list[RunFeed] = []
    for run in runs:
        home = homes.get(run.workspace)
        if home is None:
            home = homes[run.workspace] = workspace.home_of(run.id) if isinstance(workspace, JoinsWorkspaces) else workspace
        if isinstance(home, ServesFiles):
            feeds.append(ServedInPlace(home, home, run, log_dir))
        else:
            feeds.append(CopiedHere(home, run, log_dir, (copies or _cache(run)).absolute() / readable_name(run)))
    return feeds


def _cache(run: Run) -> Path:
    """A folder of the user's cache for the workspace of *run*."""
    import platformdirs

    try:
        root = platformdirs.user_cache_path("himl", appauthor=False) / "tensorboard"
    except RuntimeError:
        raise BadUsage("There is no folder to copy event files to: this user has no home folder.", hint="Say where with --run_logs_dir DIR.") from None
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise explained(err, f"Cannot make '{root}'") from err
    asked = workspace_in_url(run.url)  # labels leave the subscription out
    return root / hashlib.sha256(repr(asked or run.workspace).encode()).hexdigest()[:12]


def sync_once(feeds: Sequence[RunFeed], notify: Notify) -> tuple[Sequence[SyncedRun], HimlError | None]:
    """Look at each run once: those whose event files are here, in the order of *feeds*, and the first thing that went wrong.

    A run without event files is named; that none has any is a NotFound.
    """
    first: HimlError | None = None
    this = Round(feeds)
    while not this.is_through:
        ended = this.ended(LOOK_SECONDS)
        first = first or (ended[1] if ended else None)
    synced: list[SyncedRun] = []
    for feed in feeds:
        if feed.folder is not None:
            synced.append(SyncedRun(feed.run.id, feed.run.display_name, feed.folder, len(feed.files), feed.new_bytes))
        elif first is None and len(feeds) > 1:
            notify(without_files(feed))
    return synced, first or (None if synced else nothing_to_show(feeds))


def without_files(feed: RunFeed) -> Notice:
    """That a run has nothing to show, or nothing yet."""
    return Notice(f"Run '{feed.run.id}' has no event files{'' if feed.run.status.is_final else ' yet'}.")


def nothing_to_show(feeds: Sequence[RunFeed]) -> NotFound:
    """That none of the runs has event files."""
    what = f"Run '{feeds[0].run.id}' has no event files." if len(feeds) == 1 else f"None of these {len(feeds)} runs has event files."
    if any(MANY in feed.run.tags for feed in feeds):
        return NotFound(what, hint="A sweep's or a pipeline's lie with the runs below it: add --children")
    return NotFound(what, hint="Files with 'tfevents' in their names are looked for, in --log_dir first and then among all files of the run.")
