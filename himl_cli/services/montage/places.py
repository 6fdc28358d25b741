"""Where slides lie: a folder of this machine, or one of a datastore whose files are brought when they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class SlidePlace(Protocol):
    """Files by name (`/` separators, relative to the place)."""

    @property
    def label(self) -> str:
        """What messages call it: `folder '/data'`, `folder 'slides' of datastore 'lab'`."""

    @property
    def is_read_twice(self) -> bool:
        """Whether a file may be asked for again at no cost, now that all are expected. If not, the layout is made
        without looking into slides before."""

    def names(self) -> Iterator[str]:
        """Every file in it and in its subfolders, sorted. Raises HimlError where it cannot be listed."""

    def has(self, name: str) -> bool:
        """Whether there is a file of that name. Raises HimlError."""

    def text(self, name: str) -> str:
        """The whole of a small UTF-8 file (a byte order mark is dropped). Raises NotFound, BadUsage where it is no
        UTF-8, DiskFailed."""

    def expect(self, names: Sequence[str]) -> None:
        """These files, and no others, will be asked for, roughly in this order: they may be brought ahead."""

    def at_hand(self, name: str) -> AbstractContextManager[Path]:
        """The file's path here, good until the context ends; may be called by several threads at once.

        A path may be given also for a file that is not there: whoever reads it says so. No call waits until another
        one's context ends, so that one thread may have several files at hand. Raises SlideUnreadable where this file
        cannot be given, with the reason; DiskFailed and others where no file can be.
        """

    def stop(self) -> None:
        """No file is wanted any more: calls of `at_hand` that wait for one raise Interrupted at once. May be called by
        any thread."""
