"""How much of the event files is here."""

from __future__ import annotations

from collections.abc import Sequence

from himl_cli.core.events import Finished, Moved, Notify, Planned
from himl_cli.services.tensorboard.feeds import RunFeed

WORTH_A_BAR = 4 << 20
"""Bytes: fewer are here before anybody looks."""


class Progress:
    """Tells *notify* of the bytes that the first look at each of *feeds*, which has not begun yet, is to bring, and of
    those that came."""

    def __init__(self, feeds: Sequence[RunFeed], notify: Notify) -> None:
        self._tallies = [feed.tally for feed in feeds]
        self._notify = notify
        self._planned = self._moved = self._files = 0

    def tell(self) -> None:
        """What came since this was called last."""
        awaited, here = sum(tally.awaited for tally in self._tallies), sum(tally.here for tally in self._tallies)
        if awaited < WORTH_A_BAR:
            return
        if awaited > self._planned:
            self._notify(Planned(0, awaited - self._planned))
        if here > self._moved:
            self._notify(Moved("", here - self._moved))
        files = sum(tally.files for tally in self._tallies)
        for _ in range(self._files, files):
            self._notify(Finished(""))
        self._planned, self._moved, self._files = awaited, here, files
