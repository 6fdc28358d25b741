"""Slides that are wanted from a store, and which of them come next."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from himl_cli.core.blobs import BlobInfo

AT_ONCE = 64
"""Slides that one transfer brings: enough that its end does not count, and few enough that the first are not waited for
long."""
BYTES_AT_ONCE = 2_000_000_000
"""No more than that, so that room which gets free is soon used again."""
PARTS = 16
"""Room is looked for once this part of the limit got free: looking goes through the whole cache."""


class State(Enum):
    """Of a slide that is wanted; one that is `away` was used, or there is no room for it yet."""

    away = "away"
    reserved = "reserved"
    coming = "coming"
    here = "here"
    failed = "failed"


@dataclass(eq=False)
class Coming:
    """A slide that is wanted: its name and its files in the store, how often it will be asked for yet, and how often it
    is at hand now.

    `missing` are those of its files that have not arrived; `reason` says why it failed.
    """

    name: str
    files: Sequence[BlobInfo]
    uses: int = 0
    holders: int = 0
    state: State = State.away
    reason: str = ""
    missing: set[str] = field(default_factory=set)

    @property
    def sizes(self) -> Mapping[str, int]:
        """Of its files, in bytes, by name."""
        return {blob.name: blob.size for blob in self.files}

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.files)


class Upcoming:
    """The order in which *slides* come to a cache of *limit* bytes: what is waited for first. Not for several
    threads."""

    def __init__(self, slides: Sequence[Coming], limit: int) -> None:
        self._left = deque(slides)
        self._limit = limit
        self._demanded: list[Coming] = []
        self._reserved: deque[Coming] = deque()
        self._freed: int | None = None

    def demand(self, slide: Coming) -> bool:
        """Somebody waits for it; whether that was not known."""
        if slide.state is State.reserved and self._reserved[0] is not slide:
            self._reserved.remove(slide)
            self._reserved.appendleft(slide)
        if slide.state is not State.away or slide in self._demanded:
            return False
        self._demanded.append(slide)
        return True

    def free(self, slide: Coming) -> None:
        """It is not used any more, and makes room for others."""
        slide.state = State.away
        self._freed = (self._freed or 0) + slide.size

    def without_room(self) -> tuple[Sequence[Coming], bool]:
        """Those that room is to be looked for now, and whether the first one must have it."""
        asking = [*self._demanded]
        if not self._reserved and (self._freed is None or self._freed >= self._limit / PARTS):
            self._freed = 0
            asking += [
                slide
                for slide in self._left
                if slide.state is State.away and slide.uses > 0 and slide not in self._demanded
            ]
        return asking, bool(self._demanded)

    def reserve(self, slides: Sequence[Coming]) -> None:
        """There is room for *slides*."""
        for slide in slides:
            slide.state = State.reserved
        hurried = [slide for slide in slides if slide in self._demanded]
        self._demanded = [slide for slide in self._demanded if slide not in hurried]
        self._reserved.extendleft(reversed(hurried))
        self._reserved.extend(slide for slide in slides if slide not in hurried)
        if slides:
            self._left = deque(slide for slide in self._left if slide.state is State.away and slide.uses > 0)

    def batch(self) -> Sequence[Coming]:
        """Those that come now, in one transfer."""
        batch: list[Coming] = []
        size = 0
        while self._reserved and len(batch) < AT_ONCE:
            size += self._reserved[0].size
            if batch and size > BYTES_AT_ONCE:
                break
            batch.append(self._reserved.popleft())
        for slide in batch:
            slide.state = State.coming
            slide.missing = {blob.name for blob in slide.files}
        return batch

    def give_up(self, reason: str) -> Sequence[Coming]:
        """None of the others come any more; gives those that room was reserved for."""
        reserved = [*self._reserved]
        for slide in (*reserved, *self._left, *self._demanded):
            slide.state, slide.reason = State.failed, reason
        self._reserved.clear()
        self._left.clear()
        self._demanded.clear()
        return reserved
