"""Slides of a datastore, downloaded to the user's cache shortly before their use and deleted after it."""

from __future__ import annotations

import math
import os
import posixpath
import shutil
import threading
import uuid
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from itertools import chain
from pathlib import Path, PureWindowsPath

from himl_cli.core.blobs import BlobInfo, FileFailure, TransferResult
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, Interrupted, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.events import Event, Finished, Notice, Notify
from himl_cli.core.files import cache_of
from himl_cli.core.locks import ProcessLock, is_held
from himl_cli.core.records import dataclass
from himl_cli.core.settings import section_settings
from himl_cli.core.text import did_you_mean
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.services.transfer.plan import DownloadRequest, Filters
from himl_cli.services.transfer.upload import checked_prefix
from himl_cli.slides.query import decoded
from himl_cli.slides.slide_records import SlideUnreadable
from himl_cli.workspaces.base import BlobStore, LocalStore

VARIABLE, SECTION, KEY = "HIML_SLIDE_CACHE_GB", "montage", "cache_gb"
GB = 1_000_000_000
SPARED = GB  # bytes of disk space to leave free
# Maximum number of slides per transfer, and the fraction of the limit that it may use, unless one slide is larger. The
# files of a transfer are deleted together.
AT_ONCE, PARTS = 64, 16
# If this number of consecutive slides fails for the same general reason, himl assumes that the others would fail.
HOPELESS = 16
SECONDS, SECONDS_TO_END = 0.5, 1.0
LOCK = ".lock"
CSV = ".csv"


def cache_limit(start: Path) -> int:
    """Limit for downloaded slides, in bytes: from the environment variable, else from the settings for *start*, else 20
    GB.

    Raises BadUsage for an invalid number, and for an unknown key of the section.
    """
    settings = section_settings(start, SECTION)
    for key, setting in settings.items():
        if key != KEY:
            raise setting.wrong("is not known.", hint=did_you_mean(key, (KEY,)) or f"Keys of [{SECTION}]: {KEY}.")
    text = os.environ.get(VARIABLE, "").strip()
    if not text and KEY not in settings:
        return 20 * GB
    value = text or settings[KEY].value
    try:
        size = math.nan if isinstance(value, bool) else float(value) * GB
    except (TypeError, ValueError, OverflowError):
        size = math.nan
    if 0 <= size < math.inf:
        return round(size)
    hint = "It must be a number of gigabytes from 0, for example 50."
    if text:
        raise BadUsage(f"The environment variable {VARIABLE} cannot be '{text}'.", hint=hint)
    raise settings[KEY].wrong(f"cannot be {value!r}.", hint=hint)


@dataclass(eq=False)
class _Slide:
    """A slide with its files in the store, its number of future uses, and its number of current readers.

    `transfer` is its current or past transfer. None means that it is not on this machine. `reason` is the reason of a
    failure.
    """

    name: str
    files: Sequence[BlobInfo]
    uses: int
    readers: int = 0
    transfer: _Transfer | None = None
    is_ready: bool = False
    reason: str = ""

    @property
    def is_due(self) -> bool:
        """Whether it must be fetched at some point."""
        return self.transfer is None and not self.reason and self.uses > 0


@dataclass(eq=False)
class _Transfer:
    """*slides* that are fetched together into *folder*, and deleted together after use."""

    folder: Path
    slides: Sequence[_Slide]
    size: int
    is_over: bool = False


class SlideDownloads:
    """Downloads of *slides* from *store* in a thread. *slides* maps names to files and a number of uses.

    Slides that a reader waits for come first, then the others in order, within the limit of *limit* bytes and the free
    disk space. If all fit (`are_kept`), they stay until the end. Otherwise, a notice says so, and each is deleted after
    its last use. A slide that a reader waits for may exceed the limit. *store* must not be used elsewhere meanwhile.
    Raises BadUsage for a user without a home folder, DiskFailed.
    """

    def __init__(
        self, store: BlobStore, slides: Mapping[str, tuple[Sequence[BlobInfo], int]], limit: int, notify: Notify
    ) -> None:
        top = cache_of("slides", "for slides", "Fetch them: himl datastore download PREFIX DIR. Then use DIR.")
        self._store, self._notify = store, notify
        try:
            for folder in top.iterdir():  # remove files of killed processes
                if folder.is_dir() and not is_held(top / f"{folder.name}{LOCK}"):
                    shutil.rmtree(folder, ignore_errors=True)
                    with suppress(OSError):
                        (top / f"{folder.name}{LOCK}").unlink()
            self._root = top / uuid.uuid4().hex
            self._lock_file = top / f"{self._root.name}{LOCK}"
            self._lock = ProcessLock(self._lock_file)
            self._lock.take()
            self._root.mkdir(mode=0o700)  # after taking the lock, because a folder without one is removed
            free = shutil.disk_usage(top).free - SPARED
        except OSError as err:
            raise disk_error(err, f"Cannot use himl's cache '{top}'") from err
        self._slides = {name: _Slide(name, files, uses) for name, (files, uses) in slides.items()}
        self._limit = min(limit, free)
        size = sum({blob.name: blob.size for slide in self._slides.values() for blob in slide.files}.values())
        self.are_kept = size <= self._limit
        if not self.are_kept:
            place, way_out = f"the disk of himl's cache ({_gigabytes(max(self._limit, 0))} free for them)", ""
            if limit <= free:
                place = f"the cache ({_gigabytes(limit)})"
                way_out = f" To change that, set {VARIABLE}={-(-size // GB)}, if the disk is large enough."
            notify(Notice(f"The slides ({_gigabytes(size)}) do not fit {place}. Each is deleted after use.{way_out}"))
        self._queue = deque(self._slides.values())
        self._demanded: list[_Slide] = []
        self._transfers = self._used = self._failures = 0
        self._has_any = self._is_stopped = False
        self._errors: list[BaseException] = []
        self._notices: set[str] = set()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="himl-slides", daemon=True)
        self._thread.start()

    @contextmanager
    def local_path(self, name: str) -> Iterator[Path]:
        """Path of the expected slide *name*. Raises like `SlideFolder.local_path`."""
        slide = self._slides[name]
        try:
            with self._changed:
                slide.readers += 1
                while slide.transfer is None or not slide.is_ready:
                    if self._is_stopped:
                        raise Interrupted("Interrupted.")
                    if self._errors:
                        raise self._errors[0]
                    if slide.reason:
                        raise SlideUnreadable(slide.reason)
                    if slide.transfer is None and slide not in self._demanded:
                        self._demanded.append(slide)
                        self._changed.notify_all()
                    self._changed.wait(SECONDS)
                path = slide.transfer.folder.joinpath(*name.split("/"))
            yield path
        finally:
            with self._changed:
                slide.readers -= 1
                slide.uses -= 1
                self._delete_if_used(slide.transfer)

    def stop(self) -> None:
        """Stop fetching."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Stop, wait for transfers in progress, except for a stalled service, and delete all files."""
        self.stop()
        self._thread.join(SECONDS_TO_END)
        shutil.rmtree(self._root, ignore_errors=True)
        with suppress(OSError):
            self._lock_file.unlink()
        self._lock.release()

    def _delete_if_used(self, transfer: _Transfer | None) -> None:
        """Delete the files of *transfer*, unless one of its slides is open or will be used."""
        if transfer is None or not transfer.is_over or self.are_kept:
            return
        if any(not slide.reason and (slide.readers > 0 or slide.uses > 0) for slide in transfer.slides):
            return
        self._used -= transfer.size
        shutil.rmtree(transfer.folder, ignore_errors=True)  # on Windows, a program may have a file open
        for slide in transfer.slides:
            slide.transfer, slide.is_ready = None, False
        self._changed.notify_all()

    def _work(self) -> None:
        try:
            while not self._is_stopped and not self._errors:
                with self._changed:
                    transfer = self._next_transfer()
                    if transfer is None:
                        self._changed.wait(SECONDS)
                if transfer is not None:
                    self._fetch(transfer)
        except BaseException as err:  # noqa: BLE001  # raised by the readers, which check for it every SECONDS
            self._errors.append(err)

    def _next_transfer(self) -> _Transfer | None:
        """Next transfer, of slides that readers wait for (the first even beyond the limit), then of the queue."""
        while self._queue and not self._queue[0].is_due:
            self._queue.popleft()
        room = self._limit - self._used
        slides: list[_Slide] = []
        files: dict[str, int] = {}
        for slide in chain(self._demanded, self._queue if room > 0 else ()):
            if slide in slides or not (slide.is_due or slide in self._demanded):
                continue
            together = files | {blob.name: blob.size for blob in slide.files}
            size = sum(together.values())
            is_first = not slides and (bool(self._demanded) or size <= room)
            if not is_first and (len(slides) == AT_ONCE or size > min(room, self._limit / PARTS)):
                break
            slides.append(slide)
            files = together
        if not slides:
            return None
        self._transfers += 1
        transfer = _Transfer(self._root / str(self._transfers), slides, sum(files.values()))
        self._used += transfer.size
        for slide in slides:
            slide.transfer = transfer
        self._demanded = [slide for slide in self._demanded if slide not in slides]
        return transfer

    def _fetch(self, transfer: _Transfer) -> None:
        blobs = {blob.name: blob for slide in transfer.slides for blob in slide.files}
        missing = set(blobs)

        def observe(event: Event) -> None:
            """Pass the event on. A Notice is passed on once, even if several transfers send it."""
            if self._is_stopped:
                raise CancelledError
            if isinstance(event, Notice):
                if event.text in self._notices:
                    return
                self._notices.add(event.text)
            if isinstance(event, Finished):
                with self._changed:
                    missing.discard(event.name)
                    for slide in transfer.slides:
                        slide.is_ready = slide.is_ready or missing.isdisjoint(blob.name for blob in slide.files)
                    self._changed.notify_all()
            self._notify(event)

        request = DownloadRequest(transfer.folder, overwrite=True)
        try:
            result = download(self._store, request, observe, blobs=blobs.values())
        except DiskFailed as err:
            where = f"Slides are downloaded to '{self._root}'. {VARIABLE} limits their size, in gigabytes."
            raise type(err)(str(err), hint=f"{err.hint} {where}".strip()) from err
        except HimlError as err:
            result = TransferResult(failed=tuple(FileFailure.of(name, err) for name in blobs))
        self._settle(transfer, result)

    def _settle(self, transfer: _Transfer, result: TransferResult) -> None:
        reasons = {one.name: one.cause.replace(f"it in {self._store.label}", "it").rstrip(".") for one in result.failed}
        reasons |= {one.name: f"it cannot be stored locally: {one.reason}" for one in result.refused}
        reasons |= dict.fromkeys(result.differing, "another program created a file with its path")
        # Failures that are due to the service or the connection, not to one file.
        general = [
            one
            for one in result.failed
            if one.code in (ServiceFailed.code, NotAllowed.code) and f"'{one.name}'" not in one.message
        ]
        with self._changed:
            transfer.is_over = True
            for slide in transfer.slides:
                bad = next((blob.name for blob in slide.files if blob.name in reasons), None)
                if bad is None:
                    slide.is_ready = True
                elif not slide.is_ready:
                    belongs = "" if bad == slide.name else f"its file '{bad}': "
                    slide.reason = f"{belongs}{reasons[bad]}"
            ready = sum(slide.is_ready for slide in transfer.slides)
            if ready or len(general) < len(reasons):
                self._has_any, self._failures = True, 0
            if general:
                self._failures += len(transfer.slides) - ready
                left = [slide for slide in self._queue if slide.is_due]
                if not left or self._failures >= HOPELESS:
                    self._give_up(left, general[-1])
            self._delete_if_used(transfer)
            self._changed.notify_all()

    def _give_up(self, left: Sequence[_Slide], failure: FileFailure) -> None:
        """Record the same failure for the remaining slides. If nothing succeeded, end with an error, because an image
        of failed cells would replace a good one."""
        if not self._has_any:
            count = len(self._slides)
            none = "The slide could not be fetched" if count == 1 else f"None of the {count:,} slides could be fetched"
            kind = NotAllowed if failure.code == NotAllowed.code else ServiceFailed
            self._errors.append(kind(f"{none} from {self._store.label}: {failure.message}", hint=failure.hint))
        self._demanded.clear()  # readers that wait for other slides request them again
        for slide in left:
            slide.reason = f"{failure.message} The slides before it failed like this. This one was not tried"


def _gigabytes(size: int) -> str:
    return f"{size / GB:,.1f} GB" if size >= GB or not size else f"{size / 1e6:,.1f} MB"


class StoredFolder:
    """A SlideFolder of a datastore. Files on this machine are read in place, and others are downloaded.

    One thread at a time uses the store: the caller's until files are expected, then the downloading one.
    """

    def __init__(
        self, store: BlobStore, folder: str, files: Mapping[str, BlobInfo], cache_bytes: int, notify: Notify
    ) -> None:
        self._store, self._files = store, files
        self._is_here = isinstance(store, LocalStore)
        self._cache_bytes, self._notify = cache_bytes, notify
        self._downloads: SlideDownloads | None = None
        self.label = f"folder '{folder}' of {store.label}" if folder else store.label

    @property
    def is_rereadable(self) -> bool:
        return self._is_here or (self._downloads is not None and self._downloads.are_kept)

    def names(self) -> Iterator[str]:
        return iter(self._files)

    def has(self, name: str) -> bool:
        return name in self._files

    def text(self, name: str) -> str:
        """Read a text as `SlideFolder.text`, before anything is expected. Raises what the store raises."""
        if name not in self._files:
            raise NotFound(f"There is no file '{name}' in {self.label}.")
        return decoded(b"".join(self._store.read(self._files[name].name)), f"'{name}' in {self.label}")

    def head(self, name: str) -> bytes:
        with suppress(SlideUnreadable, NotFound, DiskFailed):
            return next(self._store.read(self._blob(name).name), b"")
        return b""

    def version(self, name: str) -> str:
        with suppress(SlideUnreadable):
            blob = self._blob(name)
            return f"{blob.size} {blob.etag or blob.modified}"
        return ""

    def expect(self, names: Sequence[str]) -> None:
        """Expect slides as `SlideFolder.expect`, once. Raises DiskFailed if the cache cannot be used."""
        if self._is_here:
            return
        uses: Counter[str] = Counter()
        for name in names:
            with suppress(SlideUnreadable):  # reported when it is read
                uses[self._blob(name).name] += 1
        blobs = {blob.name: blob for blob in self._files.values()}
        stored = [*blobs]
        slides = {name: ([blobs[each] for each in (name, *companions(name, stored))], uses[name]) for name in uses}
        self._downloads = SlideDownloads(self._store, slides, self._cache_bytes, self._notify)

    @contextmanager
    def local_path(self, name: str) -> Iterator[Path]:
        blob = self._blob(name)
        if isinstance(self._store, LocalStore):
            path = self._store.path_of(blob.name)
            if path is None:
                raise SlideUnreadable(f"there is no such file in {self.label}")
            yield path
        elif self._downloads is not None:
            with self._downloads.local_path(blob.name) as path:
                yield path

    def stop(self) -> None:
        if self._downloads is not None:
            self._downloads.stop()

    def close(self) -> None:
        """Remove downloaded files, after the last read."""
        if self._downloads is not None:
            self._downloads.close()

    def _blob(self, name: str) -> BlobInfo:
        """File *name*. Raises SlideUnreadable for a missing file, and for names outside the folder."""
        inside = posixpath.normpath(name)
        if not name:
            raise SlideUnreadable("the path of its image is empty")
        if posixpath.isabs(name) or PureWindowsPath(name).is_absolute():
            raise SlideUnreadable(f"its path is absolute, but must be relative to the CSV, for a file of {self.label}")
        if inside.split("/")[0] == "..":
            raise SlideUnreadable(f"it leads out of {self.label}")
        if inside not in self._files:
            raise SlideUnreadable(f"there is no such file in {self.label}")
        return self._files[inside]


def companions(name: str, names: Sequence[str]) -> Iterator[str]:
    """Those of the sorted *names* that OpenSlide reads together with the slide *name*.

    For a MIRAX slide, this is the folder with its name. For a Hamamatsu `.vms` or `.vmu`, the files beside it whose
    names begin with its name. For a DICOM file, the others of its folder, because each may contain a level. Slides of
    other formats are single files.
    """
    stem, extension = posixpath.splitext(name)
    extension = extension.lower()
    folder = name[: name.rfind("/") + 1]
    start = {".mrxs": f"{stem}/", ".vms": stem, ".vmu": stem, ".dcm": folder}.get(extension)
    if start is None:
        return
    for index in range(bisect_left(names, start), len(names)):
        each = names[index]
        if not each.startswith(start):
            return
        is_beside = "/" not in each[len(folder) :] and (extension != ".dcm" or each.lower().endswith(".dcm"))
        if each != name and (extension == ".mrxs" or is_beside):
            yield each


@contextmanager
def open_stored(
    store: BlobStore, dataset: str, cache_bytes: int, notify: Notify
) -> Iterator[tuple[StoredFolder, str | None]]:
    """Folder of *store* that *dataset* selects, or that contains its CSV, and the name of the CSV.

    Downloads use at most *cache_bytes*. The folder is listed once, at this point. Raises NotFound for a missing path,
    BadUsage for a name that leads out of the store, and what the listing raises.
    """
    folder, csv = split_dataset(checked_prefix(dataset))
    files = _files(store, folder, csv)
    stored = StoredFolder(store, folder, files, cache_bytes, notify)
    try:
        yield stored, csv
    finally:
        stored.close()


def split_dataset(name: str) -> tuple[str, str | None]:
    """Folder of *name*, and the name of the CSV in it, if *name* is a CSV."""
    return posixpath.split(name) if name.lower().endswith(CSV) else (name, None)


def check_csv(store: BlobStore, name: str) -> None:
    """Raise NotFound, with a similar name, if *store* has no CSV *name*. Raises what the request raises."""
    if store.stat(checked_prefix(name)) is None:
        _files(store, *split_dataset(checked_prefix(name)))


def _files(store: BlobStore, folder: str, csv: str | None) -> Mapping[str, BlobInfo]:
    """Files below *folder*, sorted, by their relative names. Raises NotFound if there are none, or if *csv* is not
    among them, with a similar name."""
    start = f"{folder}/" if folder else ""
    what = f"There is no folder '{folder}' with files" if csv is None else f"There is no file '{start}{csv}'"
    try:
        files = {blob.name[len(start) :]: blob for blob in Filters(start).select(store)}
    except NotFound as err:
        raise NotFound(f"{what} in {store.label}.", hint=err.hint) from err
    if not files:
        raise NotFound(f"There are no files in {store.label}.", hint="Upload some: himl datastore upload FOLDER slides")
    if csv is not None and csv not in files:
        near = get_close_matches(csv, [name for name in files if name.lower().endswith(CSV)], n=1)
        hint = f"Did you mean '{start}{near[0]}'?" if near else ""
        raise NotFound(f"{what} in {store.label}.", hint=hint)
    return files
