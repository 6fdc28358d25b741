"""One look at all runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.errors import HimlError
from himl_cli.core.events import Notify
from himl_cli.services.tensorboard.feeds import RunFeed
from himl_cli.services.tensorboard.looks import Looks
from himl_cli.services.tensorboard.news import always_changing, nothing_to_show, say_left_out, say_without_files
from himl_cli.services.tensorboard.progress import Progress

LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class SyncedRun:
    """A run whose event files are here: their folder, how many there are, and how many bytes came just now."""

    run: str
    display_name: str
    folder: Path
    files: int
    new_bytes: int


def sync_once(feeds: Sequence[RunFeed], notify: Notify) -> tuple[Sequence[SyncedRun], HimlError | None]:
    """Look at each run once: those whose event files are here, in the order of *feeds*, and the first thing that went
    wrong.

    Runs without event files are named; that none has any is a NotFound. Files that changed each time they were read are
    a ServiceFailed.
    """
    first: HimlError | None = None
    progress = Progress(feeds, notify)
    looks = Looks(feeds)
    while not looks.are_through:
        ended = looks.ended(LOOK_SECONDS)
        first = first or (ended[1] if ended else None)
        progress.tell()
    synced = [
        SyncedRun(feed.run.id, feed.run.display_name, feed.folder, len(feed.files), feed.tally.here)
        for feed in feeds
        if feed.folder is not None
    ]
    say_left_out(feeds, notify)
    first = first or next((always_changing(feed) for feed in feeds if feed.is_behind), None)
    if synced and first is None:
        say_without_files([feed for feed in feeds if feed.folder is None], notify)
    return synced, first or (None if synced else nothing_to_show(feeds))
