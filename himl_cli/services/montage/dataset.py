"""Where slides lie: a folder of this machine, or one of a datastore whose files are downloaded when they are needed."""

from __future__ import annotations

import os
import posixpath
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path, PureWindowsPath
from typing import Protocol

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import BadUsage, DiskFailed, NotFound
from himl_cli.core.events import Notify
from himl_cli.core.files import walk_files
from himl_cli.core.montage import SlideUnreadable
from himl_cli.services.montage.slide_cache import SlideDownloads
from himl_cli.services.transfer.filters import Filters
from himl_cli.services.transfer.upload import checked_prefix
from himl_cli.workspaces.base import BlobStore, LocalStore

CSV = ".csv"


class SlideFolder(Protocol):
    """Files by name (`/` separators, relative to the folder)."""

    @property
    def label(self) -> str:
        """What messages call it: `folder '/data'`, `folder 'slides' of datastore 'lab'`."""

    @property
    def is_rereadable(self) -> bool:
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
        """These files, and no others, will be asked for, roughly in this order: they may be downloaded ahead."""

    def local_path(self, name: str) -> AbstractContextManager[Path]:
        """The file's path on this machine, good until the context ends; may be called by several threads at once.

        A path may be given also for a file that is not there: whoever reads it says so. No call waits until another
        one's context ends, so that one thread may have several files open. Raises SlideUnreadable where this file
        cannot be given, with the reason; DiskFailed and others where no file can be.
        """

    def stop(self) -> None:
        """No file is wanted any more: calls of `local_path` that wait for one raise Interrupted at once. May be called
        by any thread."""


class LocalFolder:
    """A SlideFolder of this machine. Absolute names are files anywhere on it.

    Bytes of file names that are no UTF-8 are kept as surrogates, as Python does.
    """

    is_rereadable = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.label = f"folder '{folder}'"

    def names(self) -> Iterator[str]:
        """As `SlideFolder.names`; links are followed, loops of them once. Broken links and what else is no file are
        named too; himl's workspaces (`.himl`) and bookkeeping are left out. Raises NotFound where there is no such
        folder, DiskFailed."""
        if not self.folder.is_dir():
            raise NotFound(
                f"There is no folder '{self.folder}'.", hint="Check the path; it is relative to the current folder."
            )
        try:
            for found in walk_files(str(self.folder), skip_workspaces=True, of_any_kind=True):
                yield found.name
        except OSError as err:
            raise DiskFailed(
                f"Cannot list folder '{Path(err.filename or self.folder)}': {err.strerror}.",
                hint="Let it be read, or name a folder beside or below it.",
            ) from err

    def has(self, name: str) -> bool:
        return os.path.isfile(self.folder / name)

    def text(self, name: str) -> str:
        path = self.folder / name
        try:
            return _decoded(path.read_bytes(), f"'{path}'")
        except FileNotFoundError as err:
            raise NotFound(f"There is no file '{path}'.") from err
        except OSError as err:
            raise DiskFailed(f"Cannot read '{path}': {err.strerror}.") from err

    def expect(self, names: Sequence[str]) -> None:
        """All files are on this machine."""

    def stop(self) -> None:
        """Nothing is waited for."""

    @contextmanager
    def local_path(self, name: str) -> Iterator[Path]:
        if not name:
            raise SlideUnreadable("no image is named")
        yield self.folder / name


class StoredFolder:
    """A SlideFolder of a datastore: its files are read where they lie, if that is on this machine, else downloaded.

    The store is used by one thread at a time: until files are expected by the caller's, then by that which downloads.
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
        """As `SlideFolder.text`; to be called before anything is expected. Raises what the store raises."""
        if name not in self._files:
            raise NotFound(f"There is no file '{name}' in {self.label}.")
        return _decoded(b"".join(self._store.read(self._files[name].name)), f"'{name}' in {self.label}")

    def expect(self, names: Sequence[str]) -> None:
        """As `SlideFolder.expect`, once. Raises DiskFailed where the cache cannot be used."""
        if self._is_here:
            return
        uses: Counter[str] = Counter()
        for name in names:
            with suppress(SlideUnreadable):  # said when it is asked for
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
        """No file is read any more: remove what was downloaded."""
        if self._downloads is not None:
            self._downloads.close()

    def _blob(self, name: str) -> BlobInfo:
        """The file called *name*. Raises SlideUnreadable for what is not there, and for what cannot be: only files
        below the folder are read."""
        inside = posixpath.normpath(name)
        if not name:
            raise SlideUnreadable("no image is named")
        if posixpath.isabs(name) or PureWindowsPath(name).is_absolute():
            raise SlideUnreadable(
                f"an absolute path; here they are relative to the CSV, and mean files of {self.label}"
            )
        if inside.split("/")[0] == "..":
            raise SlideUnreadable(f"it leads out of {self.label}")
        if inside not in self._files:
            raise SlideUnreadable(f"there is no such file in {self.label}")
        return self._files[inside]


def companions(name: str, names: Sequence[str]) -> Iterator[str]:
    """Those of *names*, which are sorted, that OpenSlide reads along with the slide *name*.

    Of a MIRAX slide the folder that is called as it; of a Hamamatsu `.vms` or `.vmu` the files beside it whose names
    begin with its own; of a DICOM file the others of its folder, for each may hold a level. Slides of other formats are
    one file.
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


def _decoded(data: bytes, what: str) -> str:
    if data.startswith(b"\x1f\x8b"):
        raise BadUsage(f"{what} is packed by gzip.", hint="Unpack it first.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise BadUsage(
            f"{what} is not UTF-8 text (byte {err.start}).", hint="Save it as UTF-8; Excel calls that 'CSV UTF-8'."
        ) from err


@contextmanager
def open_stored(
    store: BlobStore, dataset: str, cache_bytes: int, notify: Notify
) -> Iterator[tuple[StoredFolder, str | None]]:
    """The folder of *store* that *dataset* means, or that the CSV lies in that it means; and the name of that CSV
    there.

    What is downloaded of it takes *cache_bytes* at most. It is listed once, here. Raises NotFound for what is not
    there, BadUsage for a name that leads out of the store, and what listing it raises.
    """
    folder, csv = split_dataset(checked_prefix(dataset))
    files = _files(store, folder, csv)
    stored = StoredFolder(store, folder, files, cache_bytes, notify)
    try:
        yield stored, csv
    finally:
        stored.close()


def split_dataset(name: str) -> tuple[str, str | None]:
    """The folder that *name* means, and the name of the CSV in it, if it means one."""
    return posixpath.split(name) if name.lower().endswith(CSV) else (name, None)


def check_csv(store: BlobStore, name: str) -> None:
    """Raises NotFound, naming a near one, where *store* has no CSV called *name*, and what asking for it raises."""
    if store.stat(checked_prefix(name)) is None:
        _files(store, *split_dataset(checked_prefix(name)))


def _files(store: BlobStore, folder: str, csv: str | None) -> Mapping[str, BlobInfo]:
    """The files below *folder*, by their names from there, sorted. Raises NotFound where there are none, or no *csv*
    among them, naming a near one."""
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
