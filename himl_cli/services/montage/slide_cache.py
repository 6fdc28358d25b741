"""Slides of a datastore, downloaded to the user's cache a few ahead of their use, and deleted after it."""

from __future__ import annotations

import math
import os
import shutil
import threading
import uuid
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from posixpath import dirname, splitext

from himl_cli.core.blobs import BlobInfo, Failure, TransferResult
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, Interrupted, NotAllowed, ServiceFailed
from himl_cli.core.events import Event, Finished, Notice, Notify
from himl_cli.core.files import cache_of
from himl_cli.core.montage import SlideUnreadable
from himl_cli.core.processes import ProcessLock, is_held
from himl_cli.core.settings import section_settings
from himl_cli.core.text import did_you_mean
from himl_cli.services.checkpoints.fetch import ChosenFiles
from himl_cli.services.tensorboard.background import Caught
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.services.transfer.plan import DownloadRequest
from himl_cli.workspaces.base import BlobStore

VARIABLE, SECTION, KEY = "HIML_SLIDE_CACHE_GB", "montage", "cache_gb"
DEFAULT_GB = 20
GB = 1_000_000_000
SPARED = 1_000_000_000
"""Bytes of the disk that are left to others."""
AT_ONCE, BYTES_AT_ONCE = 64, 2_000_000_000
"""Slides that one transfer fetches at most: enough that its end does not count, and few enough that the first are not
waited for long; and their bytes, so that room which gets free is soon used again."""
PARTS = 16
"""Room is used again once this part of the limit got free, so that transfers do not fetch a single slide."""
HOPELESS = 16
"""So many slides in a row that failed for a reason that names none of them settle that the others would fail too."""
SECONDS, SECONDS_TO_END = 0.5, 1.0
LOCK = ".lock"
MIRAX, HAMAMATSU, DICOM = ".mrxs", (".vms", ".vmu"), ".dcm"


def cache_limit(start: Path, environ: Mapping[str, str] | None = None) -> int:
    """Bytes that downloaded slides may take: the variable's, else those of the settings that count for *start*, else 20
    GB.

    Raises BadUsage for a value that is no such number, and for a key of the section that is not known.
    """
    wanted = "It takes a number of gigabytes from 0, such as 50."
    settings = section_settings(start, SECTION)
    for key, setting in settings.items():
        if key != KEY:
            raise setting.wrong("is not known.", hint=did_you_mean(key, (KEY,)) or f"Keys of [{SECTION}]: {KEY}.")
    text = (os.environ if environ is None else environ).get(VARIABLE, "").strip()
    if text:
        size = _bytes_of(text)
        if size is None:
            raise BadUsage(f"The variable {VARIABLE} cannot be '{text}'.", hint=wanted)
        return size
    if KEY not in settings:
        return DEFAULT_GB * GB
    value = settings[KEY].value
    size = _bytes_of(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if size is None:
        raise settings[KEY].wrong(f"cannot be {value!r}.", hint=wanted)
    return size


def _bytes_of(gigabytes: str | float) -> int | None:
    """None for what is no size, or more than a float holds."""
    try:
        size = float(gigabytes) * GB
        return round(size) if math.isfinite(size) and size >= 0 else None
    except (ValueError, OverflowError):
        return None


def companions(name: str, names: Sequence[str]) -> Iterator[str]:
    """Those of *names*, which are sorted, that OpenSlide reads along with the slide *name*.

    Of a MIRAX slide the folder that is called as it; of a Hamamatsu `.vms` or `.vmu` the files beside it whose names
    begin with its own; of a DICOM file the others of its folder, for each may hold a level. Slides of other formats are
    one file.
    """
    stem, extension = splitext(name)
    extension = extension.lower()
    folder = f"{dirname(name)}/" if "/" in name else ""
    if extension == MIRAX:
        start = f"{stem}/"
    elif extension in HAMAMATSU or extension == DICOM:
        start = folder if extension == DICOM else stem
    else:
        return
    for place in range(bisect_left(names, start), len(names)):
        each = names[place]
        if not each.startswith(start):
            return
        is_beside = "/" not in each[len(folder) :] and (extension != DICOM or each.lower().endswith(DICOM))
        if each != name and (extension == MIRAX or is_beside):
            yield each


class _State(Enum):
    waiting = "waiting"  # or used and deleted
    coming = "coming"
    ready = "ready"
    failed = "failed"


@dataclass(eq=False)
class _Slide:
    """A slide and its files in the store; how often it will be asked for yet, and by how many readers it is open now.
    `folder` is that of the transfer that fetched it, together with `beside`."""

    name: str
    files: Sequence[BlobInfo]
    uses: int
    readers: int = 0
    state: _State = _State.waiting
    reason: str = ""
    folder: Path = Path()
    beside: Sequence[_Slide] = ()

    def path(self, name: str) -> Path:
        return self.folder.joinpath(*name.split("/"))


class _Stopped(Exception):
    """Nobody wants what a transfer fetches."""


class SlideDownloads:
    """*slides* of *store*, each its files and how often it will be asked for, by name: fetched by a thread of its own,
    those that are waited for first, then the others in their order, as far as *limit* bytes and the disk go.

    They stay to the end where all fit (`are_kept`), which else is said; then each is deleted once it was asked for as
    often as it was expected. What is waited for is fetched beyond the limit if it must. Nobody else uses *store*
    meanwhile. Raises BadUsage for a user without a home, DiskFailed.
    """

    def __init__(
        self, store: BlobStore, slides: Mapping[str, tuple[Sequence[BlobInfo], int]], limit: int, notify: Notify
    ) -> None:
        top = cache_of("slides", "to keep slides in", "Fetch them with 'himl datastore download', and name the folder.")
        self._store, self._notify = store, notify
        try:
            _remove_abandoned(top)
            self._root = top / uuid.uuid4().hex
            self._lock = ProcessLock(top / f"{self._root.name}{LOCK}")
            self._lock.take()
            self._root.mkdir(mode=0o700)  # after the lock: a folder without a holder is that of a himl that died
            free = shutil.disk_usage(top).free - SPARED
        except OSError as err:
            raise disk_error(err, f"Cannot use himl's cache '{top}'") from err
        self._slides = {name: _Slide(name, files, uses) for name, (files, uses) in slides.items()}
        self._limit = min(limit, free)
        size = sum({blob.name: blob.size for slide in self._slides.values() for blob in slide.files}.values())
        self.are_kept = size <= self._limit
        if not self.are_kept:
            notify(Notice(_excess(size, self._limit, is_set=limit <= free)))
        self._queue = deque(self._slides.values())
        self._demanded: list[_Slide] = []
        self._transfers = self._used = self._failures = 0
        self._has_any = self._is_stopped = False
        self._error: BaseException | None = None
        self._notices: set[str] = set()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="himl-slides", daemon=True)
        self._thread.start()

    @contextmanager
    def local_path(self, name: str) -> Iterator[Path]:
        """The path of the slide called *name*, one of those that were expected. Raises as `SlideFolder.local_path`."""
        slide = self._slides[name]
        with self._changed:
            slide.readers += 1
        try:
            self._wait_for(slide)
            yield slide.path(name)
        finally:
            with self._changed:
                slide.readers -= 1
                slide.uses -= 1
                if slide.state is _State.ready and not self.are_kept and slide.readers <= 0 and slide.uses <= 0:
                    self._delete(slide, _State.waiting)
                    self._changed.notify_all()

    def stop(self) -> None:
        """Nothing is wanted any more."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Stop, wait for what is under way, not for a service that stalls, and delete all."""
        self.stop()
        self._thread.join(SECONDS_TO_END)
        shutil.rmtree(self._root, ignore_errors=True)
        with suppress(OSError):
            self._root.with_name(f"{self._root.name}{LOCK}").unlink()
        self._lock.release()

    def _wait_for(self, slide: _Slide) -> None:
        with self._changed:
            while slide.state is not _State.ready:
                if self._is_stopped:
                    raise Interrupted("Interrupted.")
                if self._error is not None:
                    raise self._error
                if slide.state is _State.failed:
                    raise SlideUnreadable(slide.reason)
                if slide.state is _State.waiting and slide not in self._demanded:
                    self._demanded.append(slide)
                    self._changed.notify_all()
                self._changed.wait(SECONDS)

    def _delete(self, slide: _Slide, state: _State) -> None:
        """Remove its files that no other slide of its transfer needs; it is in *state* then."""
        slide.state = state
        needed = {
            blob.name
            for other in slide.beside
            if other.folder == slide.folder and other.state in (_State.coming, _State.ready)
            for blob in other.files
        }
        for blob in slide.files:
            if blob.name not in needed:
                self._used -= blob.size
                with suppress(OSError):  # it did not arrive, or a program has it open (on Windows)
                    slide.path(blob.name).unlink()

    def _work(self) -> None:
        with Caught(self._end_with):
            while batch := self._next_batch():
                self._fetch(batch)

    def _end_with(self, error: BaseException) -> None:
        with self._changed:
            self._error = None if isinstance(error, _Stopped) else error
            self._changed.notify_all()

    def _next_batch(self) -> Sequence[_Slide]:
        """What comes next in one transfer, once there is something; nothing when it is stopped."""
        with self._changed:
            while not self._is_stopped and self._error is None:
                if batch := self._batch():
                    return batch
                self._changed.wait()
            return ()

    def _batch(self) -> Sequence[_Slide]:
        while self._queue and (self._queue[0].state is not _State.waiting or self._queue[0].uses <= 0):
            self._queue.popleft()
        room = self._limit - self._used
        candidates = [*self._demanded]
        if room >= self._limit / PARTS:
            candidates += [
                slide
                for slide in self._queue
                if slide.state is _State.waiting and slide.uses > 0 and slide not in self._demanded
            ]
        batch: list[_Slide] = []
        files: dict[str, int] = {}
        for slide in candidates:
            together = files | {blob.name: blob.size for blob in slide.files}
            is_urgent = not batch and bool(self._demanded)
            if len(batch) == AT_ONCE or (sum(together.values()) > min(room, BYTES_AT_ONCE) and not is_urgent):
                break
            batch.append(slide)
            files = together
        self._transfers += 1
        self._used += sum(files.values())
        for slide in batch:
            slide.state, slide.folder, slide.beside = _State.coming, self._root / str(self._transfers), batch
        self._demanded = [slide for slide in self._demanded if slide not in batch]
        return batch

    def _fetch(self, batch: Sequence[_Slide]) -> None:
        blobs = {blob.name: blob for slide in batch for blob in slide.files}
        missing = set(blobs)

        def observe(event: Event) -> None:
            """Pass it on; a Notice once, however many transfers say it."""
            if self._is_stopped:
                raise _Stopped
            if isinstance(event, Notice):
                if event.text in self._notices:
                    return
                self._notices.add(event.text)
            if isinstance(event, Finished):
                with self._changed:
                    missing.discard(event.name)
                    for slide in batch:
                        if slide.state is _State.coming and missing.isdisjoint(blob.name for blob in slide.files):
                            slide.state = _State.ready
                    self._changed.notify_all()
            self._notify(event)

        request = DownloadRequest(batch[0].folder, overwrite=True)
        try:
            result = download(ChosenFiles(self._store, blobs.values()), request, observe)
        except DiskFailed as err:
            where = f"Slides are downloaded to '{self._root}'; {VARIABLE} says how many gigabytes they may take."
            raise type(err)(str(err), hint=f"{err.hint} {where}".strip()) from err
        except HimlError as err:
            result = TransferResult(failed=tuple(Failure(name, str(err), err.code, err.hint) for name in blobs))
        self._settle(batch, result)

    def _settle(self, batch: Sequence[_Slide], result: TransferResult) -> None:
        """The transfer has ended: what it did not fail to fetch is ready."""
        label = self._store.label
        reasons = {
            one.name: one.message.replace(f"'{one.name}' in {label}", "it").replace(f"'{one.name}'", "it").rstrip(".")
            for one in result.failed
        }
        reasons |= {one.name: f"it cannot be kept here: {one.reason}" for one in result.refused}
        reasons |= dict.fromkeys(result.differing, "another program put a file in its place here")
        with self._changed:
            failed = 0
            for slide in batch:
                bad = next((blob.name for blob in slide.files if blob.name in reasons), None)
                if slide.state is _State.coming and bad is None:
                    slide.state = _State.ready
                elif slide.state is _State.coming and bad is not None:
                    belongs = "" if bad == slide.name else f"'{bad}', which belongs to it: "
                    slide.reason = f"{belongs}{reasons[bad]}"
                    self._delete(slide, _State.failed)
                    failed += 1
            if failed < len(batch) or len(result.failed) < len(reasons) or not all(map(_is_general, result.failed)):
                self._has_any, self._failures = True, 0
            if general := [failure for failure in result.failed if _is_general(failure)]:
                self._failures += failed
                self._give_up(general[-1])
            self._changed.notify_all()

    def _give_up(self, failure: Failure) -> None:
        """End, or let the other slides fail, where enough of them failed as this one."""
        left = [slide for slide in self._slides.values() if slide.state is _State.waiting and slide.uses > 0]
        if left and self._failures < HOPELESS:
            return
        if not self._has_any:  # a picture of failed cells would take the place of a good one
            count = len(self._slides)
            none = "The slide did not come" if count == 1 else f"None of the {count:,} slides came"
            kind = NotAllowed if failure.code == NotAllowed.code else ServiceFailed
            self._error = kind(f"{none} from {self._store.label}: {failure.message}", hint=failure.hint)
        for slide in left:
            slide.state = _State.failed
            slide.reason = f"{failure.message} So it was for the slides before it; this one was not tried"


def _is_general(failure: Failure) -> bool:
    """Whether the service, or the way to it, failed, and not this one file."""
    return failure.code in (ServiceFailed.code, NotAllowed.code) and f"'{failure.name}'" not in failure.message


def _remove_abandoned(top: Path) -> None:
    """Remove what runs of himl left that were killed, or were of a version that kept slides."""
    for folder in top.iterdir():
        lock = top / f"{folder.name}{LOCK}"
        if folder.is_dir() and not is_held(lock):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                lock.unlink()


def _excess(size: int, room: int, *, is_set: bool) -> str:
    """That *size* bytes of slides are more than the *room* for them, which the user set or the disk has, and what
    follows from it."""
    place = (
        f"the cache ({_in_gb(room)})" if is_set else f"the disk of himl's cache ({_in_gb(max(room, 0))} free for them)"
    )
    way_out = f" {VARIABLE}={-(-size // GB)} changes that, where the disk has room." if is_set else ""
    return (
        f"The slides ({_in_gb(size)}) do not fit {place}: each is read once, and cells of --layout fit are 4:3, "
        f"whatever the slides' shapes.{way_out}"
    )


def _in_gb(size: int) -> str:
    return f"{size / GB:,.1f} GB" if size >= GB or not size else f"{size / 1e6:,.1f} MB"
