"""Bringing slides from a store ahead of their use, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from himl_cli.core.blobs import Failure, TransferResult
from himl_cli.core.errors import DiskFailed, HimlError, Interrupted, NotAllowed, ServiceFailed
from himl_cli.core.events import Event, Finished, Notice, Notify
from himl_cli.core.montage import SlideUnreadable
from himl_cli.services.checkpoints.chosen_files import ChosenFiles
from himl_cli.services.montage.cache_limit import VARIABLE
from himl_cli.services.montage.slide_cache import SlideCache
from himl_cli.services.montage.upcoming import Coming, State, Upcoming
from himl_cli.services.tensorboard.background import Caught
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest
from himl_cli.workspaces.base import BlobStore

HOPELESS = 16
"""So many slides in a row that failed in the same words, which name none of them, settle that the others would fail
too."""
SECONDS_TO_END = 1.0
SECONDS = 0.5


class _Stopped(Exception):
    """Nobody wants what a transfer brings."""


class Ahead:
    """Slides of *store*, brought to *cache*: those that are waited for first, then the others in their order, as far as
    there is room.

    Nobody else uses *store* meanwhile. *is_kept*: slides stay when they were used; else each makes room for others once
    it was asked for as often as it was expected.
    """

    def __init__(
        self, store: BlobStore, cache: SlideCache, slides: Sequence[Coming], notify: Notify, *, is_kept: bool
    ) -> None:
        self._store = store
        self._cache = cache
        self._notify = notify
        self._is_kept = is_kept
        self._slides = {slide.name: slide for slide in slides}
        self._of_file: dict[str, list[Coming]] = {}
        for slide in slides:
            for blob in slide.files:
                self._of_file.setdefault(blob.name, []).append(slide)
        self._upcoming = Upcoming(slides, cache.limit)
        self._changes = 0
        self._changed = threading.Condition()
        self._is_stopped = False
        self._end: BaseException | None = None
        self._alike: list[tuple[str, str]] = []
        self._is_nothing_had = True
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="himl-slides", daemon=True)
        self._thread.start()

    @contextmanager
    def at_hand(self, name: str) -> Iterator[Path]:
        """The path of the slide called *name*, one of those that were expected. Raises as `SlidePlace.at_hand`."""
        slide = self._slides[name]
        with self._changed:
            slide.holders += 1
        try:
            self._await(slide)
            yield self._cache.root.joinpath(*name.split("/"))
        finally:
            self._let_go(slide)

    def _await(self, slide: Coming) -> None:
        with self._changed:
            while slide.state is not State.here:
                if self._is_stopped:
                    raise Interrupted("Interrupted.")
                if self._end is not None:
                    raise self._end
                if slide.state is State.failed:
                    raise SlideUnreadable(slide.reason)
                if self._upcoming.demand(slide):
                    self._say_changed()
                self._changed.wait(SECONDS)

    def _let_go(self, slide: Coming) -> None:
        with self._changed:
            slide.holders -= 1
            slide.uses -= 1
            is_done = slide.state is State.here and slide.holders <= 0 and slide.uses <= 0 and not self._is_kept
            if is_done:
                self._upcoming.free(slide)
        if is_done:
            self._cache.release(slide.sizes.keys())
            with self._changed:
                self._say_changed()

    def _say_changed(self) -> None:
        self._changes += 1
        self._changed.notify_all()

    def stop(self) -> None:
        """Nothing is wanted any more."""
        with self._changed:
            self._is_stopped = True
            self._say_changed()

    def close(self) -> None:
        """Stop, and wait for what is under way; not for a service that stalls."""
        self.stop()
        self._thread.join(SECONDS_TO_END)

    def _work(self) -> None:
        with Caught(self._end_all):
            while batch := self._next():
                self._bring(batch)

    def _end_all(self, error: BaseException) -> None:
        with self._changed:
            if not isinstance(error, _Stopped):
                self._end = error
            self._say_changed()

    def _next(self) -> Sequence[Coming]:
        """The slides to bring now, once there are some and there is room for them; none when it was stopped. Raises
        DiskFailed."""
        while True:
            with self._changed:
                if self._is_stopped:
                    return ()
                seen = self._changes
                asking, is_needed = self._upcoming.without_room()
            count = self._cache.reserve([slide.sizes for slide in asking], at_any_rate=is_needed) if asking else 0
            with self._changed:
                self._upcoming.reserve(asking[:count])
                if batch := self._upcoming.batch():
                    return batch
                while self._changes == seen:
                    self._changed.wait()

    def _bring(self, batch: Sequence[Coming]) -> None:
        blobs = {blob.name: blob for slide in batch for blob in slide.files}
        try:
            result = download(
                ChosenFiles(self._store, blobs.values()), DownloadRequest(self._cache.root, overwrite=True), self._heard
            )
        except DiskFailed as err:
            hint = (
                f"{err.hint} Slides that were brought lie in '{self._cache.root}'; {VARIABLE} says how many "
                "gigabytes they may take."
            ).strip()
            raise type(err)(str(err), hint=hint) from err
        except HimlError as err:
            result = TransferResult(failed=tuple(Failure(name, str(err), err.code, err.hint) for name in blobs))
        self._settle(batch, result)

    def _heard(self, event: Event) -> None:
        """Pass it on; a Notice once, however many transfers say it."""
        if self._is_stopped:
            raise _Stopped
        if isinstance(event, Notice):
            if event.text in self._said:
                return
            self._said.add(event.text)
        if isinstance(event, Finished):
            with self._changed:
                for slide in self._of_file.get(event.name, ()):
                    slide.missing.discard(event.name)
                    if not slide.missing and slide.state is State.coming:
                        slide.state = State.here
                        self._say_changed()
        self._notify(event)

    def _settle(self, batch: Sequence[Coming], result: TransferResult) -> None:
        """The transfer has ended: what it did not fail to bring is here."""
        reasons = _reasons(result, self._store.label)
        with self._changed:
            for slide in batch:
                if slide.state is State.coming:
                    bad = next((blob.name for blob in slide.files if blob.name in reasons), None)
                    slide.state = State.here if bad is None else State.failed
                    slide.reason = (
                        ""
                        if bad is None
                        else reasons[bad]
                        if bad == slide.name
                        else f"'{bad}', which belongs to it: {reasons[bad]}"
                    )
            failed = [slide for slide in batch if slide.state is State.failed]
            any_came = len(failed) < len(batch)
            self._is_nothing_had &= not (any_came or result.refused or result.differing) and all(
                map(_is_of_service, result.failed)
            )
            if self._is_hopeless(result, any_came=any_came):
                failed += self._upcoming.give_up(
                    f"{result.failed[-1].message} So it was for the slides before it; this one was not tried"
                )
            if self._is_nothing_had and all(slide.state is State.failed for slide in self._slides.values()):
                self._end = self._nothing_came(result.failed[-1])
            self._say_changed()
        for slide in failed:
            self._cache.release(slide.sizes.keys())

    def _is_hopeless(self, result: TransferResult, *, any_came: bool) -> bool:
        """Whether it is settled by now that nothing is to be had."""
        if any_came:
            self._alike.clear()
        for failure in result.failed:
            said = (failure.code, failure.message)
            if not _is_of_service(failure) or said not in self._alike[-1:]:
                self._alike.clear()
            self._alike.append(said)
        return len(self._alike) >= HOPELESS

    def _nothing_came(self, failure: Failure) -> HimlError:
        """What ends it where no slide at all is to be had, the last *failure* standing for all."""
        kind = NotAllowed if failure.code == NotAllowed.code else ServiceFailed
        count = len(self._slides)
        none = "The slide did not come" if count == 1 else f"None of the {count:,} slides came"
        return kind(f"{none} from {self._store.label}: {failure.message}", hint=failure.hint)


def _is_of_service(failure: Failure) -> bool:
    """Whether the service, or the way to it, failed, and not this one file."""
    return failure.code in (ServiceFailed.code, NotAllowed.code) and f"'{failure.name}'" not in failure.message


def _reasons(result: TransferResult, label: str) -> Mapping[str, str]:
    """Why files did not arrive from the store called *label*, by their names."""
    failed = {
        one.name: one.message.replace(f"'{one.name}' in {label}", "it").replace(f"'{one.name}'", "it").rstrip(".")
        for one in result.failed
    }
    refused = {one.name: f"it cannot be kept here: {one.reason}" for one in result.refused}
    return failed | refused | dict.fromkeys(result.differing, "another program put a file in its place here")
